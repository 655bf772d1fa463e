//! Values: described line by line, checked by a schema that refuses anything unknown.

use std::fs;

use serde_json::{Map, Value, json};

use super::rendered::{chart, job, releases, render, yaml};

fn defaults() -> Value {
    yaml(&chart().join("values.yaml")).remove(0)
}

fn schema() -> Value {
    serde_json::from_str(&fs::read_to_string(chart().join("values.schema.json")).unwrap()).unwrap()
}

/// Every place where a value may have fields of its own.
fn places(value: &Value, at: &[String], found: &mut Vec<Vec<String>>) {
    if let Value::Object(fields) = value {
        found.push(at.to_vec());
        for (name, value) in fields {
            places(value, &[at, std::slice::from_ref(name)].concat(), found);
        }
    }
}

fn at<'v>(value: &'v mut Value, place: &[String]) -> &'v mut Map<String, Value> {
    let found = place.iter().fold(value, |value, name| {
        value.as_object_mut().unwrap().entry(name.clone()).or_insert_with(|| json!({}))
    });
    found.as_object_mut().unwrap()
}

/// Maps whose keys are the user's.
const FREE: [&str; 12] = [
    "annotations",
    "commonLabels",
    "labels",
    "limits",
    "matchLabels",
    "nodeSelector",
    "patches",
    "podAnnotations",
    "podLabels",
    "requests",
    "tables",
    "affinity",
];

#[test]
fn an_unknown_key_is_refused_wherever_it_stands() {
    let mut all = Vec::new();
    places(&defaults(), &[], &mut all);
    all.retain(|place| !place.iter().any(|name| FREE.contains(&&**name)));
    assert!(all.len() > 20, "{all:?}");
    let jobs: Vec<_> = all
        .iter()
        .map(|place| {
            let mut values = json!({"table": {"url": "https://keys.example/t"}});
            at(&mut values, place).insert("unheardOf".into(), json!(1));
            job("keygate", &values)
        })
        .collect();
    let Some(answers) = render(&jobs) else { return };
    for (place, answer) in all.iter().zip(answers) {
        let said = answer.err().unwrap_or_else(|| panic!("{place:?} takes anything"));
        assert!(said.contains("'unheardOf' not allowed"), "{place:?}: {said}");
    }
}

#[test]
fn a_value_that_cannot_be_is_refused_with_its_place() {
    let url = "https://keys.example/t";
    let signer = "ed25519:Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=";
    let cases = [
        (json!({}), "table.url: the URL of the tables"),
        (json!({"table": {"url": "keys.kgt"}}), "/table/url"),
        (json!({"table": {"url": url, "trustedSigners": ["signer.pub"]}}), "/table/trustedSigners"),
        (json!({"table": {"url": url, "size": "much"}}), "/table/size"),
        (json!({"sidecar": {"mode": "bypass"}}), "/sidecar/mode"),
        (json!({"sidecar": {"steering": "iptables"}}), "/sidecar/steering"),
        (json!({"sidecar": {"portName": "longer-than-a-port"}}), "/sidecar/portName"),
        (json!({"sidecar": {"ports": {"authed": 80}}}), "/sidecar/ports/authed"),
        (json!({"image": {"digest": "sha256:1"}}), "/image/digest"),
        (json!({"certs": {"mode": "helm"}}), "/certs/mode"),
        (json!({"table": {"url": url}, "certs": {"mode": "provided"}}), "certs.provided."),
        (json!({"injector": {"failurePolicy": "Open"}}), "/injector/failurePolicy"),
        (json!({"injector": {"timeoutSeconds": 60}}), "/injector/timeoutSeconds"),
        (json!({"require": {"actions": []}}), "/require/actions"),
        (
            json!({"distributor": {"enabled": true, "internalTrafficPolicy": "Local"}, "table": {"url": url}}),
            "distributor.internalTrafficPolicy: Local needs distributor.kind: DaemonSet",
        ),
        (
            json!({"distributor": {"enabled": true, "open": false, "origin": {"tables": {"a": url}}}}),
            "distributor.fleets: the tokens",
        ),
        (
            json!({"distributor": {"enabled": true, "trustedSigners": [signer]}}),
            "distributor.origin: the URL and audiences",
        ),
    ];
    let jobs: Vec<_> = cases.iter().map(|(values, _)| job("keygate", values)).collect();
    let Some(answers) = render(&jobs) else { return };
    for ((values, want), answer) in cases.iter().zip(answers) {
        let said = answer.err().unwrap_or_else(|| panic!("{values} is taken"));
        assert!(said.contains(want), "{values}: {said}");
    }
}

/// No object of the schema accepts any key, and the schema and values.yaml have the same keys.
#[test]
fn the_schema_is_closed_and_has_every_value() {
    let schema = schema();
    let mut open = Vec::new();
    closed(&schema, "", &mut open);
    assert_eq!(open, ["/properties/global"]);
    compare(&defaults(), &schema, &schema, "");
}

fn closed(schema: &Value, place: &str, open: &mut Vec<String>) {
    match schema {
        Value::Object(fields) => {
            if fields.get("type") == Some(&json!("object")) {
                match fields.get("additionalProperties") {
                    Some(Value::Bool(false)) => {}
                    Some(Value::Object(of)) if of.contains_key("type") => {}
                    _ => open.push(place.to_owned()),
                }
            }
            for (name, value) in fields {
                closed(value, &format!("{place}/{name}"), open);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| closed(item, place, open)),
        _ => {}
    }
}

fn compare(value: &Value, schema: &Value, root: &Value, place: &str) {
    let schema = match schema["$ref"].as_str() {
        Some(name) => &root["definitions"][name.rsplit('/').next().unwrap()],
        None => schema,
    };
    let Some(properties) = schema["properties"].as_object() else { return };
    let Some(fields) = value.as_object() else { return };
    for (name, schema) in properties {
        let given = fields.get(name);
        let is_optional = name == "global" || fields.is_empty() || place.ends_with("resources");
        // What only Kubernetes reads has no default here.
        assert!(given.is_some() || is_optional, "values.yaml has no {place}/{name}");
        if let Some(given) = given {
            compare(given, schema, root, &format!("{place}/{name}"));
        }
    }
    for name in fields.keys() {
        assert!(properties.contains_key(name), "the schema has no {place}/{name}");
    }
}

/// A comment is above each key of values.yaml, or above the first one of a list or map that belongs
/// to the user.
#[test]
fn every_value_is_described() {
    let text = fs::read_to_string(chart().join("values.yaml")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let mut bare = Vec::new();
    let mut block = None;
    for (index, line) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        if block.is_some_and(|block| indent > block || line.is_empty()) {
            continue;
        }
        block = line.trim_end().ends_with('|').then_some(indent);
        let Some((name, _)) = line.trim().split_once(':') else { continue };
        let is_key = !line.trim_start().starts_with(['#', '-']) && !name.contains(' ');
        let above = index.checked_sub(1).and_then(|above| lines.get(above)).unwrap_or(&"");
        let is_described = above.trim_start().starts_with('#');
        // The inside of a resource list or a peer is Kubernetes' own. A group's keys describe it.
        let is_inside = ["requests", "limits", "cpu", "memory", "matchLabels", "namespaceSelector"];
        let opens_a_group = line.trim_end().ends_with(':');
        if is_key
            && !is_described
            && !opens_a_group
            && !is_inside.contains(&name)
            && name != "enabled"
        {
            bare.push(line.trim().to_owned());
        }
    }
    assert_eq!(bare, ["grafana_dashboard: \"1\"", "kubernetes.io/metadata.name: monitoring"]);
}

/// What Helm prints after an installation explains the next steps, and warns about what is open.
#[test]
fn notes_say_what_to_do_next() {
    let Some(releases) = releases() else { return };
    for release in releases {
        let (name, notes) = (&release.name, &release.notes);
        assert!(!notes.contains("<no value>") && !notes.contains("map["), "{name}: {notes}");
        let injects = release.values["injector"]["enabled"] != false;
        assert_eq!(notes.contains("keygate.dev/inject=true"), injects, "{name}: {notes}");
        let revision = release.values["revision"].as_str();
        assert_eq!(notes.contains("keygate.dev/rev=canary"), revision.is_some(), "{name}: {notes}");
        let is_open = release.values["injector"]["failurePolicy"] == "Ignore";
        assert_eq!(notes.contains("WARNING"), is_open, "{name}: {notes}");
        let serves = release.values["distributor"]["enabled"] == true;
        assert_eq!(notes.contains("/artefacts/AUDIENCE/table.kgt"), serves, "{name}: {notes}");
    }
}
