//! The document: the checked-in one is the served one, nothing is removed from it, and every answer
//! is declared in it.

use axum::http::Method;
use serde_json::Value;

use crate::registrar::api;
use crate::registrar::serve::tests::Told;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");

/// If it is set, the test writes the document again. It refuses to remove anything.
const WRITE: &str = "KEYGATE_WRITE_OPENAPI";

/// Checks that the document has this answer of the operation.
pub(in super::super) fn declares(method: &Method, path: &str, told: &Told) {
    let document = api::openapi();
    let path = path.split('?').next().unwrap();
    let parts: Vec<_> = path.split('/').collect();
    let paths = document["paths"].as_object().unwrap();
    let fits = |pattern: &&String| {
        let pattern: Vec<_> = pattern.split('/').collect();
        pattern.len() == parts.len()
            && pattern.iter().zip(&parts).all(|(p, part)| p == part || p.starts_with('{'))
    };
    let Some(pattern) = paths.keys().find(fits) else {
        assert_eq!(told.status, 404, "{path}: {told:?}");
        return;
    };
    let Some(operation) = paths[pattern].get(method.as_str().to_lowercase()) else {
        assert_eq!(told.status, 405, "{method} {path}: {told:?}");
        return;
    };
    let status = told.status.as_u16().to_string();
    let mut response = &operation["responses"][&status];
    if let Some(place) = response["$ref"].as_str() {
        response = document.pointer(place.strip_prefix('#').unwrap()).unwrap();
    }
    assert!(response.is_object(), "{method} {pattern}: {status} is not declared: {told:?}");
    let Some(kind) = told.fields.get("content-type") else {
        assert!(told.body.is_empty(), "{told:?}");
        return;
    };
    let kind = kind.to_str().unwrap();
    let schema = &response["content"][kind]["schema"];
    assert!(schema.is_object(), "{method} {pattern}: {status} {kind} is not declared");
    if kind == "application/problem+json" {
        let code = told.code();
        let codes = document["components"]["schemas"]["ProblemCode"].to_string();
        assert!(codes.contains(&format!("\"{code}\"")), "{code} is not in {codes}");
    }
    if let Some(name) = schema["$ref"].as_str().and_then(|r| r.rsplit('/').next()) {
        has_members(document, name, &told.json());
    }
}

/// Every required member is present, and every present member is in the schema.
fn has_members(document: &Value, name: &str, found: &Value) {
    let schema = &document["components"]["schemas"][name];
    let Some(properties) = schema["properties"].as_object() else { return };
    for required in schema["required"].as_array().into_iter().flatten() {
        assert!(!found[required.as_str().unwrap()].is_null(), "{name}: {required} in {found}");
    }
    for member in found.as_object().unwrap().keys() {
        assert!(properties.contains_key(member), "{name}: {member} is not declared");
    }
}

/// Places of `old` that are missing or different in `new`.
fn removed(place: &str, old: &Value, new: &Value, found: &mut Vec<String>) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            for (name, old) in old {
                let place = format!("{place}/{}", name.replace('/', "~1"));
                match new.get(name) {
                    Some(new) => removed(&place, old, new, found),
                    None if is_prose(name) => {}
                    None => found.push(place),
                }
            }
        }
        // A request that needs more than before, or an answer that holds less, breaks callers.
        (Value::Array(old), Value::Array(new)) if place.ends_with("/required") => {
            let is_body = ["KeyCreation", "KeyPatch", "KeyRotation", "MemberAssignment"]
                .iter()
                .any(|body| place.contains(body));
            let (less, more) = if is_body { (new, old) } else { (old, new) };
            for word in less.iter().filter(|word| !more.contains(word)) {
                found.push(format!("{place}: {word}"));
            }
        }
        (Value::Array(old), Value::Array(new)) if place.ends_with("/parameters") => {
            for old in old {
                let same = |new: &&Value| new["name"] == old["name"] && new["in"] == old["in"];
                match new.iter().find(same) {
                    Some(new) => {
                        let place = format!("{place}/{}", old["name"]);
                        removed(&place, &old["schema"], &new["schema"], found);
                    }
                    None => found.push(format!("{place}: {}", old["name"])),
                }
            }
        }
        (Value::Array(old), Value::Array(new)) => {
            for item in old.iter().filter(|item| !new.contains(item)) {
                found.push(format!("{place}: {item}"));
            }
        }
        (old, new) if old != new && !is_prose(place.rsplit('/').next().unwrap()) => {
            found.push(format!("{place}: {old} became {new}"));
        }
        _ => {}
    }
}

fn is_prose(name: &str) -> bool {
    matches!(name, "description" | "summary" | "title" | "example" | "tags")
}

#[test]
fn the_document_is_current_and_nothing_is_taken_out() {
    let served = api::openapi();
    let text = format!("{}\n", serde_json::to_string_pretty(served).unwrap());
    let checked_in = std::fs::read_to_string(FILE).unwrap_or_else(|_| "{}".to_owned());
    let old: Value = serde_json::from_str(&checked_in).unwrap();
    let mut gone = Vec::new();
    removed("", &old, served, &mut gone);
    assert!(gone.is_empty(), "v1 grows only; callers rely on\n{}", gone.join("\n"));
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(FILE, &text).unwrap();
        return;
    }
    assert!(text == checked_in, "docs/openapi.json is not current\nhint: {WRITE}=1 writes it anew");
}

#[test]
fn a_removal_is_found() {
    let old = api::openapi();
    let finds = |change: &dyn Fn(&mut Value), want: &str| {
        let mut new = old.clone();
        change(&mut new);
        let mut found = Vec::new();
        removed("", old, &new, &mut found);
        assert!(found.iter().any(|place| place.contains(want)), "{want}: {found:?}");
    };
    finds(&|new| drop(new["paths"].as_object_mut().unwrap().remove("/v1/whoami")), "whoami");
    let list = "/v1/orgs/{org}/keys";
    finds(&|new| drop(new["paths"][list].as_object_mut().unwrap().remove("post")), "post");
    let parameters = |new: &mut Value| new["paths"][list]["get"]["parameters"].take();
    finds(&|new| drop(parameters(new)), "parameters");
    let schema = |name: &'static str| {
        move |new: &mut Value| {
            let schema = &mut new["components"]["schemas"][name];
            schema["properties"].as_object_mut().unwrap().remove("name");
        }
    };
    finds(&schema("KeyDocument"), "KeyDocument/properties/name");
    let require = |new: &mut Value| {
        let required = &mut new["components"]["schemas"]["KeyCreation"]["required"];
        required.as_array_mut().unwrap().push("note".into());
    };
    finds(&require, "note");
    let codes = |new: &mut Value| {
        new["components"]["schemas"]["ProblemCode"] = serde_json::json!({"type": "string"});
    };
    finds(&codes, "ProblemCode");
    let mut same = Vec::new();
    removed("", old, old, &mut same);
    assert_eq!(same, Vec::<String>::new());
}
