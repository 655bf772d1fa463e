//! Envoy's filter in a whole configuration, and lists that only resemble it.

use super::super::ImportFormat;
use super::super::tests::read;

const FILTER: &str = "
http_filters:
- name: envoy.filters.http.api_key_auth
  typed_config:
    \"@type\": type.googleapis.com/envoy.extensions.filters.http.api_key_auth.v3.ApiKeyAuth
    credentials:
    - key: one_key_0123456789
      client: one_client
    key_sources: [{ header: x-api-key }]
";

#[test]
fn a_filter_that_refuses_stops() {
    let cases = [
        ("- name: envoy.filters.http.router", ""),
        ("- name: envoy.filters.http.cors", ""),
        ("- name: envoy.filters.http.rbac", "envoy.filters.http.rbac"),
        ("- name: our.own", "our.own"),
        (
            "- {name: envoy.filters.http.router, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC}}",
            "envoy.filters.http.router",
        ),
        (
            "- {name: by-path, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.composite.v3.Composite}}",
            "by-path",
        ),
        ("- name: envoy.filters.http.ip_tagging", ""),
        ("- {name: envoy.filters.http.rbac, disabled: true}", ""),
        (
            "- {name: named-freely, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}",
            "",
        ),
        (
            "routes:\n- typed_per_filter_config:\n    a: {\"@type\": x.ApiKeyAuthPerRoute, allowed_clients: [one_client]}",
            "allowed_clients",
        ),
    ];
    for (rest, wider) in cases {
        let read = read(ImportFormat::Envoy, &format!("{FILTER}{rest}\n"));
        assert_eq!((read.keys.len(), read.keys[0].line), (1, 7), "{rest}");
        assert_eq!(read.wider.join(" "), wider, "{rest}");
    }
}

#[test]
fn other_lists_of_credentials_are_none() {
    let cases = [
        ("another filter", FILTER.replace("ApiKeyAuth", "Other")),
        ("another name", FILTER.replace("credentials:", "accounts:")),
        ("switched off", FILTER.replace("  typed_config", "  disabled: true\n  typed_config")),
    ];
    for (name, text) in cases {
        let read = read(ImportFormat::Envoy, &text);
        assert!(read.keys.is_empty(), "{name}");
        assert_eq!(read.lost.len() + read.faults.len(), 1, "{name}: told once");
    }
}

#[test]
fn filters_of_another_shape_or_layer_stop() {
    let key = "credentials: [{key: one_key_0123456789, client: one}]\n";
    for (rest, wider) in [
        ("http_filters: {name: envoy.filters.http.rbac}", "http_filters"),
        ("http_filters: rbac", "http_filters"),
        (
            "filter_chains: [{filters: [{name: envoy.filters.network.rbac}]}]",
            "envoy.filters.network.rbac",
        ),
        ("filter_chains: [{filters: [{name: envoy.filters.network.http_connection_manager}]}]", ""),
    ] {
        let read = read(ImportFormat::Envoy, &format!("{key}{rest}\n"));
        assert_eq!(read.wider.join(" "), wider, "{rest}");
    }
}
