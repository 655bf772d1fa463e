//! Patches of the 22 recorded reviews, for each steering, as checked in.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::{injected, patched, restricted_faults, undone, without_empty};
use crate::inject::pod::outcome::InjectOutcome;
use crate::inject::pod::settings::{InjectorSettings, Steering};
use crate::inject::pod::{InjectContext, inject};

const STEERINGS: [Steering; 3] = [Steering::Move, Steering::Unique, Steering::Takeover];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/k8s").join(name)
}

/// Names and pods.
fn reviews() -> Vec<(String, Value)> {
    let mut reviews: Vec<_> = fs::read_dir(folder("admission-reviews"))
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let review: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, review["request"]["object"].clone())
        })
        .collect();
    reviews.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(reviews.len(), 22);
    reviews
}

fn settings(steering: Steering) -> InjectorSettings {
    InjectorSettings {
        steering,
        image: "example.test/keygate:1".into(),
        upstream_port_env: Some("PORT".into()),
        ..InjectorSettings::default()
    }
}

/// The patch, or the word for why there is none.
fn result(pod: &Value, steering: Steering) -> Value {
    match inject(pod, &InjectContext::default(), &settings(steering)) {
        InjectOutcome::Patch(injection) => {
            json!({"steered": injection.steered, "warnings": injection.warnings, "patch": injection.patch})
        }
        InjectOutcome::Skip(reason) => json!({"skip": reason.word()}),
        InjectOutcome::Deny(denial) => json!({"deny": denial.message}),
    }
}

/// `KEYGATE_WRITE_GOLDEN=1` writes the files again.
#[test]
fn recorded_reviews_have_their_patches() {
    let writes = std::env::var_os("KEYGATE_WRITE_GOLDEN").is_some();
    let mut wrong = Vec::new();
    for (name, pod) in reviews() {
        let got: BTreeMap<_, _> =
            STEERINGS.iter().map(|steering| (steering.word(), result(&pod, *steering))).collect();
        let mut text = serde_json::to_string_pretty(&got).unwrap();
        text.push('\n');
        let file = folder("golden").join(format!("{name}.json"));
        if writes {
            fs::write(&file, &text).unwrap();
        }
        if fs::read_to_string(&file).unwrap_or_default() != text {
            wrong.push(name);
        }
    }
    assert!(wrong.is_empty(), "KEYGATE_WRITE_GOLDEN=1 writes them anew: {wrong:?}");
}

/// A typo in a field's name would be lost here, as the API server loses it.
#[test]
fn what_comes_out_is_a_pod_to_the_api_server() {
    let mut seen = 0;
    for (name, pod) in reviews() {
        for steering in STEERINGS {
            let outcome = inject(&pod, &InjectContext::default(), &settings(steering));
            let InjectOutcome::Patch(injection) = outcome else { continue };
            let after = patched(&pod, &injection.patch);
            let read: Pod = serde_json::from_value(after.clone()).unwrap();
            let written = serde_json::to_value(&read).unwrap();
            assert_eq!(lost(&after, &written, ""), Vec::<String>::new(), "{name} {steering:?}");
            assert_eq!(without_empty(&undone(&after)), without_empty(&pod), "{name} {steering:?}");
            seen += 1;
        }
    }
    assert!(seen > 45, "{seen}");
}

/// Places of `before` that `after` does not have.
fn lost(before: &Value, after: &Value, place: &str) -> Vec<String> {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => before
            .iter()
            // The client writes times and numbers its own way, and no field that is null.
            .filter(|(name, value)| !value.is_null() && *name != "managedFields")
            .flat_map(|(name, value)| {
                let place = format!("{place}/{name}");
                match after.get(name) {
                    Some(after) => lost(value, after, &place),
                    None => vec![place],
                }
            })
            .collect(),
        (Value::Array(before), Value::Array(after)) if before.len() == after.len() => before
            .iter()
            .zip(after)
            .enumerate()
            .flat_map(|(at, (before, after))| lost(before, after, &format!("{place}/{at}")))
            .collect(),
        _ if before == after => Vec::new(),
        _ => vec![place.to_owned()],
    }
}

#[test]
fn a_restricted_pod_stays_one() {
    let (_, pod) = reviews().into_iter().find(|(name, _)| name == "deploy-restricted").unwrap();
    assert_eq!(restricted_faults(&pod), Vec::<String>::new());
    for steering in STEERINGS {
        for native_sidecar in [true, false] {
            let settings = InjectorSettings { native_sidecar, ..settings(steering) };
            let (_, after) = injected(&pod, &settings);
            assert_eq!(restricted_faults(&after), Vec::<String>::new(), "{steering:?}");
        }
    }
}
