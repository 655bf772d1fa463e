{{/* The name of this chart in labels. */}}
{{- define "keygate.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* What every object's name begins with: the release, and the chart where the release does not say it. */}}
{{- define "keygate.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 48 | trimSuffix "-" }}
{{- else }}
{{- $name := include "keygate.name" . }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 48 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 48 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "keygate.injector" -}}
{{ include "keygate.fullname" . }}-injector
{{- end }}

{{- define "keygate.distributor" -}}
{{ include "keygate.fullname" . }}-distributor
{{- end }}

{{/* Labels of every object. Call with (dict "root" $ "component" "injector"). */}}
{{- define "keygate.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: keygate
{{ include "keygate.selectorLabels" . }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Labels that select the pods of one part; a Deployment never changes them. */}}
{{- define "keygate.selectorLabels" -}}
app.kubernetes.io/name: {{ include "keygate.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* repository@digest, or repository:tag; the tag is the programs' version where none is set.
     Call with (dict "image" .Values.image "root" $). */}}
{{- define "keygate.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ default .root.Chart.AppVersion .image.tag }}
{{- end -}}
{{- end }}

{{- define "keygate.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{ default (include "keygate.injector" .) .Values.serviceAccount.name }}
{{- else -}}
{{ default "default" .Values.serviceAccount.name }}
{{- end -}}
{{- end }}

{{/* What "restricted" asks of a pod, and of a container. */}}
{{- define "keygate.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "keygate.securityContext" -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
readOnlyRootFilesystem: true
runAsNonRoot: true
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* Namespaces in which nothing is injected or required: those that the cluster needs to start, and the
     one of the injector, whose own pods would wait for it. */}}
{{- define "keygate.excludedNamespaces" -}}
{{- concat (list "kube-node-lease" "kube-public" "kube-system" .Release.Namespace) .Values.injector.excludeNamespaces | uniq | sortAlpha | toJson }}
{{- end }}

{{/* Not empty: pods without the sidecar are refused where the namespace demands it, and not only told of. */}}
{{- define "keygate.denies" -}}
{{- if and .Values.require.enabled (has "Deny" .Values.require.actions) }}true{{ end -}}
{{- end }}

{{/* One requirement on keygate.dev/rev, on the object whose keygate.dev/inject counts. */}}
{{- define "keygate.ofRevision" -}}
{{- if .Values.revision -}}
- key: keygate.dev/rev
  operator: In
  values: [{{ .Values.revision | quote }}]
{{- else -}}
- key: keygate.dev/rev
  operator: DoesNotExist
{{- end -}}
{{- end }}

{{/* The Secret with certificate and key, or with the CA in mode selfManaged. */}}
{{- define "keygate.certificateSecret" -}}
{{- if eq .Values.certs.mode "provided" -}}
{{ required "certs.provided.secretName: the Secret with tls.crt and tls.key" .Values.certs.provided.secretName }}
{{- else if eq .Values.certs.mode "certManager" -}}
{{ include "keygate.injector" . }}-tls
{{- else -}}
{{ include "keygate.injector" . }}-ca
{{- end -}}
{{- end }}

{{/* One webhook: of namespaces or of single pods, by path. Without caBundle in mode selfManaged: the
     injector writes it, and an upgrade of the chart leaves what the chart does not state. */}}
{{- define "keygate.webhook" -}}
{{- $ := .root -}}
{{- $demands := eq .path "/mutate/require" -}}
- name: {{ .name }}.{{ ternary "require" "inject" $demands }}.keygate.dev
  admissionReviewVersions: [v1]
  clientConfig:
    {{- if eq $.Values.certs.mode "provided" }}
    caBundle: {{ required "certs.provided.caBundle: the CA of the certificate, PEM" $.Values.certs.provided.caBundle | b64enc }}
    {{- end }}
    service:
      name: {{ include "keygate.injector" $ }}
      namespace: {{ $.Release.Namespace }}
      path: {{ .path }}
      port: 443
  failurePolicy: {{ $.Values.injector.failurePolicy }}
  matchPolicy: Equivalent
  reinvocationPolicy: IfNeeded
  sideEffects: None
  timeoutSeconds: {{ $.Values.injector.timeoutSeconds }}
  rules:
    - apiGroups: [""]
      apiVersions: [v1]
      operations: [CREATE] # a pod's containers cannot be changed later
      resources: [pods]
      scope: Namespaced
  namespaceSelector:
    matchExpressions:
      - key: kubernetes.io/metadata.name
        operator: NotIn
        values: {{ include "keygate.excludedNamespaces" $ }}
      {{- if eq .name "namespace" }}
      - key: keygate.dev/inject
        operator: In
        values: ["true"]
      {{- include "keygate.ofRevision" $ | nindent 6 }}
      {{- else }}
      - key: keygate.dev/inject
        operator: DoesNotExist
      {{- end }}
      {{- if include "keygate.denies" $ }}
      - key: keygate.dev/require
        operator: {{ ternary "In" "NotIn" $demands }}
        values: ["true"]
      {{- end }}
  objectSelector:
    matchExpressions:
      - key: keygate.dev/inject
        {{- if eq .name "namespace" }}
        operator: NotIn
        values: ["false"]
        {{- else }}
        operator: In
        values: ["true"]
      {{- include "keygate.ofRevision" $ | nindent 6 }}
        {{- end }}
  {{- if $.Values.injector.matchConditions }}
  matchConditions:
    - name: not-a-mirror-pod
      expression: '!(has(object.metadata.annotations) && "kubernetes.io/config.mirror" in object.metadata.annotations)'
    - name: not-injected-before
      expression: >-
        !(has(object.spec.initContainers) && object.spec.initContainers.exists(c, c.name == "keygate"))
        && !object.spec.containers.exists(c, c.name == "keygate")
  {{- end }}
{{- end }}

{{/* One node or zone that is gone leaves a replica. */}}
{{- define "keygate.spread" -}}
{{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
- topologyKey: {{ . }}
  maxSkew: 1
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "keygate.selectorLabels" $ | nindent 6 }}
{{- end }}
{{- end }}
