//! Secrets of every gateway, and Secrets that belong to none.

use super::super::ImportFormat;
use super::super::tests::{Read, read, read_keys_in, secret};

/// A Secret with a name, lines of its own, and entries.
fn of(name: &str, lines: &str, entries: &[(&str, &str)]) -> String {
    let entries: String = entries.iter().map(|(k, v)| format!("  {k}: \"{v}\"\n")).collect();
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata:\n  name: {name}\n{lines}stringData:\n{entries}---\n"
    )
}

const KEY: &str = "hR7tYw2kQp9LmX4vZc8N";
const KIC: &str = "  labels: {konghq.com/credential: key-auth}\n";
const AUTHORINO: &str = "  labels: {authorino.kuadrant.io/managed-by: authorino}\n";
const NGINX: &str = "type: nginx.org/apikey\n";

fn clients(read: &Read) -> Vec<&str> {
    read.keys.iter().map(|key| key.client.as_str()).collect()
}

#[test]
fn each_gateway_s_secret_is_read_as_it_reads_it() {
    let cases: [(&str, String, &[&str]); 9] = [
        ("kong, label", of("billing", KIC, &[("key", KEY)]), &["billing"]),
        (
            "kong, entry",
            of("billing", "", &[("kongCredType", "key-auth"), ("key", KEY)]),
            &["billing"],
        ),
        (
            "kong, with its consumer",
            of("billing-secret", KIC, &[("key", KEY)])
                + "kind: KongConsumer\nmetadata: {name: c}\nusername: Billing\ncredentials: [billing-secret]\n",
            &["Billing"],
        ),
        ("authorino", of("billing", AUTHORINO, &[("api_key", KEY), ("note", "x")]), &["billing"]),
        (
            "nginx",
            of("keys", NGINX, &[("one", KEY), ("two", "second-key-0123456789")]),
            &["one", "two"],
        ),
        (
            "envoy gateway",
            of("keys", "", &[("one", KEY)])
                + "kind: SecurityPolicy\nmetadata: {name: p}\nspec:\n  targetRefs: []\n  apiKeyAuth: {credentialRefs: [{name: keys}]}\n",
            &["one"],
        ),
        (
            "authorino, by selector",
            of("billing", "  labels: {app: talker}\n", &[("api_key", KEY)])
                + "kind: AuthConfig\nmetadata: {name: a}\nspec: {authentication: {k: {apiKey: {selector: {matchLabels: {app: talker}}}}}}\n",
            &["billing"],
        ),
        (
            "authorino, another entry",
            of("billing", AUTHORINO.trim_end(), &[("old", KEY)])
                .replace("authorino}", "authorino, app: x}\n")
                .replace("}\n\n", "}\n")
                .replace("x}stringData", "x}\nstringData")
                + "kind: AuthPolicy\nmetadata: {name: a}\nspec: {rules: {authentication: {k: {apiKey: {keySelectors: [old], selector: {matchExpressions: [{key: app, operator: In, values: [x]}]}}}}}}\n",
            &["billing"],
        ),
        (
            "a list",
            format!(
                "kind: List\nitems:\n- kind: Secret\n  type: nginx.org/apikey\n  metadata: {{name: a}}\n  data: {{one: {}}}\n",
                "aFI3dFl3MmtRcDlMbVg0dlpjOE4K"
            ),
            &["one"],
        ),
    ];
    for (name, text, want) in cases {
        let read = read(ImportFormat::Kubernetes, &text);
        assert_eq!(clients(&read), want, "{name}: {:?} {:?}", read.lost, read.faults);
        assert_eq!(secret(&read.keys[0]), KEY.as_bytes(), "{name}: the line end is cut off");
        assert!(read.wider.is_empty(), "{name}: {:?}", read.wider);
    }
}

#[test]
fn no_other_secret_is_ever_a_key() {
    let typed = |kind: &str| format!("type: {kind}\n");
    let cases = [
        (
            "service account",
            of("s", &typed("kubernetes.io/service-account-token"), &[("token", KEY)]),
        ),
        (
            "registry",
            of("s", &typed("kubernetes.io/dockerconfigjson"), &[(".dockerconfigjson", KEY)]),
        ),
        ("tls", of("s", &typed("kubernetes.io/tls"), &[("tls.key", KEY)])),
        ("password", of("s", &typed("kubernetes.io/basic-auth"), &[("password", KEY)])),
        ("ssh", of("s", &typed("kubernetes.io/ssh-auth"), &[("ssh-privatekey", KEY)])),
        ("bootstrap", of("s", &typed("bootstrap.kubernetes.io/token"), &[("token-secret", KEY)])),
        ("helm", of("s", &typed("helm.sh/release.v1"), &[("release", KEY)])),
        ("unknown type", of("s", &typed("example.com/thing"), &[("key", KEY)])),
        ("database", of("s", "", &[("username", "app"), ("password", KEY)])),
        ("database in capitals", of("s", "type: Opaque\n", &[("POSTGRES_PASSWORD", KEY)])),
        ("an entry `key`", of("s", "", &[("key", KEY)])),
        ("an entry `api_key`", of("s", "", &[("api_key", KEY)])),
        ("kong's basic", of("s", &KIC.replace("key-auth", "basic-auth"), &[("password", KEY)])),
        ("kong's jwt", of("s", "", &[("kongCredType", "jwt"), ("key", KEY), ("secret", KEY)])),
        (
            "a labelled token",
            of("s", &format!("{KIC}type: kubernetes.io/service-account-token\n"), &[("key", KEY)]),
        ),
        ("authorino without entry", of("s", AUTHORINO, &[("password", KEY)])),
        (
            "of another policy",
            of("s", "", &[("one", KEY)])
                + "kind: SecurityPolicy\nmetadata: {name: p}\nspec: {apiKeyAuth: {credentialRefs: [{name: keys}]}}\n",
        ),
        (
            "not selected",
            of("s", AUTHORINO, &[("api_key", KEY)])
                + "kind: AuthConfig\nmetadata: {name: a}\nspec: {authentication: {k: {apiKey: {selector: {matchLabels: {app: talker}}}}}}\n",
        ),
        (
            "of no consumer",
            of("s", KIC, &[("key", KEY)])
                + "kind: KongConsumer\nmetadata: {name: c}\nusername: c\n",
        ),
    ];
    for (name, text) in cases {
        let read = read(ImportFormat::Kubernetes, &text);
        assert!(read.keys.is_empty(), "{name}");
        assert!(!read.lost.is_empty(), "{name}: told");
        let told = [read.lost.join("\n"), read.faults.join("\n")].concat();
        assert!(!told.contains("accept-short") && !told.contains(KEY), "{name}: {told}");
    }
}

#[test]
fn a_map_of_clients_is_named_by_hand() {
    let text = of("clients", "", &[("one", KEY), ("two", "${TWO}")]);
    let read = read_keys_in(ImportFormat::Kubernetes, text.as_bytes(), &["clients".to_owned()]);
    assert_eq!(clients(&read), ["one", "two"], "the placeholder is refused with its line later");
    assert_eq!(read.keys[0].line, 6);
}

#[test]
fn kong_s_plugins_hold_for_its_secrets() {
    let secret = of("k", KIC, &[("key", KEY)]);
    let consumer = "kind: KongConsumer\nusername: erp\ncredentials: [k, g]\nmetadata:\n  name: erp\n  annotations: {konghq.com/plugins: 'near, slow'}\n---\n";
    let near = "kind: KongPlugin\nmetadata: {name: near}\nplugin: ip-restriction\nconfig: {allow: [10.0.0.0/8]}\n---\n";
    let slow = "kind: KongPlugin\nmetadata: {name: slow}\nplugin: rate-limiting\nconfig: {minute: 5}\n---\n";
    let group = of("g", "  labels: {konghq.com/credential: acl}\n", &[("group", "read")]);
    let all = read(ImportFormat::Kubernetes, &[&secret, consumer, near, slow, &group].concat());
    assert_eq!(all.keys(), ["erp 10.0.0.0/8 5/min read"], "{:?} {:?}", all.lost, all.faults);
    let without = read(ImportFormat::Kubernetes, &[&secret, consumer, near, &group].concat());
    assert_eq!(without.wider, ["slow:erp"]);
    let hidden =
        slow.replace("config: {minute: 5}", "configFrom: {secretKeyRef: {name: x, key: y}}");
    let hidden =
        read(ImportFormat::Kubernetes, &[&secret, consumer, near, &hidden, &group].concat());
    assert_eq!(hidden.wider, ["rate-limiting:erp"]);
}

#[test]
fn policies_that_refuse_requests_stop() {
    let nginx = of("keys", NGINX, &[("one", KEY)]);
    let authorino = of("billing", AUTHORINO, &[("api_key", KEY)]);
    let config = "kind: AuthConfig\nmetadata: {name: a}\nspec:\n  authentication: {k: {apiKey: {selector: {matchExpressions: [{key: authorino.kuadrant.io/managed-by, operator: Exists}]}}}}\n";
    let cases = [
        (
            nginx.clone()
                + "kind: Policy\nmetadata: {name: p}\nspec: {accessControl: {allow: [10.0.0.0/8]}}\n",
            "accessControl:p",
        ),
        (
            authorino.clone() + config + "  authorization: {x: {opa: {rego: allow}}}\n",
            "authorization:a",
        ),
        (authorino + "kind: RateLimitPolicy\nmetadata: {name: r}\n", "RateLimitPolicy:r"),
        (
            of("keys", "", &[("one", KEY)])
                + "kind: SecurityPolicy\nmetadata: {name: p}\nspec: {authorization: {defaultAction: Deny}, apiKeyAuth: {credentialRefs: [{name: keys}]}}\n",
            "authorization:p",
        ),
    ];
    for (text, want) in cases {
        let read = read(ImportFormat::Kubernetes, &text);
        assert_eq!((read.keys.len(), read.wider), (1, vec![want.to_owned()]), "{want}");
    }
}

#[test]
fn a_name_is_of_one_namespace() {
    let secret = |namespace: &str, entry: &str| {
        of("keys", &format!("  namespace: {namespace}\n"), &[(entry, KEY)])
    };
    let two = secret("gw", "client")
        + &secret("payments", "stripe").replace(KEY, "live-0123456789abcdef");
    let read = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        read_keys_in(ImportFormat::Kubernetes, two.as_bytes(), &names)
    };
    let both = read(&["keys"]);
    assert!(
        both.keys.is_empty() && both.faults[0].contains("gw/keys, payments/keys"),
        "{:?}",
        both.faults
    );
    assert_eq!(clients(&read(&["gw/keys"])), ["client"]);
    assert_eq!(clients(&read(&["gw/keys", "payments/keys"])), ["client", "stripe"]);
    assert!(read(&["other/keys"]).faults[0].contains("no Secret here has this name"));
    let hint = read(&[]).lost.join(" ");
    assert!(hint.contains("--keys-in gw/keys"), "{hint}");
}

#[test]
fn what_a_kong_secret_or_consumer_says_in_another_shape_stops() {
    let ttl = of("billing", KIC, &[("key", KEY), ("ttl", "1h")]);
    let told = read(ImportFormat::Kubernetes, &ttl);
    assert!(told.keys.is_empty() && told.faults[0].contains("`ttl`"), "{:?}", told.faults);
    let grouped = of("billing", KIC, &[("key", KEY)])
        + "kind: KongConsumer\nmetadata: {name: c}\nusername: Billing\ncredentials: [billing]\nconsumerGroups: gold\n";
    assert_eq!(read(ImportFormat::Kubernetes, &grouped).wider, ["consumerGroups:c"]);
    let plugin = |namespace: &str, networks: &str| {
        format!(
            "kind: KongPlugin\nmetadata: {{name: ip, namespace: {namespace}}}\nplugin: ip-restriction\nconfig: {{allow: [{networks}]}}\n---\n"
        )
    };
    let text = of("billing", &format!("  namespace: a\n{KIC}"), &[("key", KEY)])
        + &plugin("b", "0.0.0.0/0")
        + &plugin("a", "10.0.0.0/8")
        + "kind: KongConsumer\nmetadata: {name: c, namespace: a, annotations: {konghq.com/plugins: ip}}\nusername: Billing\ncredentials: [billing]\n";
    assert_eq!(read(ImportFormat::Kubernetes, &text).keys(), ["Billing 10.0.0.0/8 - -"]);
}
