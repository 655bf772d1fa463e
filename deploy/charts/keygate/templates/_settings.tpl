{{/* The injector's settings: what `keygatectl inject --config` and `keygatectl webhook --config` read. */}}
{{- define "keygate.settings" -}}
{{- $sidecar := omit .Values.sidecar "image" "upstreamPortEnv" "resources" -}}
{{- $resources := omit .Values.sidecar.resources "memory" -}}
{{- with .Values.sidecar.resources.memory }}{{ $_ := set $resources "memory" . }}{{ end -}}
{{- with .Values.sidecar.upstreamPortEnv }}{{ $_ := set $sidecar "upstreamPortEnv" . }}{{ end -}}
{{- $settings := dict
      "revision" (default "default" .Values.revision)
      "image" (include "keygate.image" (dict "image" .Values.sidecar.image "root" $))
      "imagePullPolicy" .Values.sidecar.image.pullPolicy
      "resources" $resources
      "table" (include "keygate.table" . | fromYaml) -}}
{{- mergeOverwrite (deepCopy $sidecar) $settings | toYaml }}
{{- end }}

{{/* The table of this release's distributor where no URL is given. */}}
{{- define "keygate.table" -}}
{{- $table := deepCopy .Values.table -}}
{{- if and .Values.injector.enabled (not $table.url) -}}
{{- if not .Values.distributor.enabled -}}
{{- fail "table.url: the URL of the tables, or distributor.enabled: true" -}}
{{- end -}}
{{- $tls := .Values.distributor.tlsSecret -}}
{{- $base := printf "%s://%s.%s.svc:9930/artefacts/{table}" (ternary "https" "http" (ne $tls "")) (include "keygate.distributor" .) .Release.Namespace -}}
{{- $_ := set $table "url" (printf "%s/table.kgt" $base) -}}
{{- $_ := set $table "patchUrl" (printf "%s/patch.kgp" $base) -}}
{{- end -}}
{{- toYaml $table }}
{{- end }}
