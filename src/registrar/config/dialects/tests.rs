//! What `[[dialect]]` may contain, that every fault has its line and a remedy, and what is built
//! in.

use std::path::Path;

use super::super::super::dialect::code::DialectError;
use super::super::AdminToml;
use super::*;
use crate::config::{ConfigError, ThisHost};

const HEAD: &str = r#"state = "state"
[listen]
address = "127.0.0.1:9920"
[[audiences]]
name = "shop"
[[audiences.permissions]]
word = "read"
sentence = "Read messages"
[[audiences.permissions]]
word = "*"
sentence = "Everything"
"#;

const OWN: &str = r#"[[dialect]]
name = "shop"
error = '{"message":"$message"}'
messages = { name_missing = "Name is required" }
[[dialect.operation]]
does = "list"
on = ["GET /api/keys", "GET /of/{org}/keys"]
answer = '["$keys"]'
key = '{"id":"$id"}'
[[dialect.operation]]
does = "create"
on = "POST /api/keys"
grants = ["read"]
request = '{"name":"$name!"}'
answer = '{"key":"$secret"}'
status = 201
[[dialect.operation]]
does = "rotate"
on = "POST /api/keys/{id}/rotate"
answer = '{"key":"$secret"}'
overlap = "1h"
[[dialect.operation]]
does = "update"
on = "PATCH /api/keys/{id}"
request = '{"until":"$expires"}'
answer = '{"until":"$expires"}'
"#;

fn load(text: &str) -> Result<AdminToml, ConfigError> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("admin.toml");
    std::fs::write(&file, format!("{HEAD}{text}")).unwrap();
    AdminToml::load(&ThisHost, &file)
}

#[test]
fn a_dialect_of_ones_own_is_read() {
    let config = load(OWN).unwrap();
    let [dialect] = config.dialects.as_slice() else { panic!("{:?}", config.dialects) };
    assert_eq!((&*dialect.name, dialect.audience.as_str()), ("shop", "shop"));
    let [list, create, rotate, update] = dialect.operations.as_slice() else {
        panic!("{:?}", dialect.operations)
    };
    let patterns: Vec<_> = list.routes.iter().map(ToString::to_string).collect();
    assert_eq!(patterns, ["GET /api/keys", "GET /of/{org}/keys"]);
    assert_eq!(list.routes[1].words("/of/acme/keys").org, Some("acme"));
    assert_eq!((create.status, create.grants.len()), (201, 1));
    assert_eq!(rotate.overlap, Duration::from_secs(3600));
    assert_eq!(rotate.routes[0].words("/api/keys/key_1/rotate").key, Some("key_1"));
    assert_eq!(update.verb, DialectVerb::Update);
    let missing = DialectError::of(DialectCode::NameMissing);
    assert_eq!(dialect.refuse(&missing, "r-1"), r#"{"message":"Name is required"}"#);
}

#[test]
fn every_fault_has_its_line_and_a_remedy() {
    let cases = [
        ("name = \"shop\"\n", "", "dialect[0].name: is missing"),
        (
            "name = \"shop\"\n",
            "name = \"shop\"\naudience = \"ship\"\n",
            ":14:1: dialect[0].audience: ",
        ),
        ("error = '{\"message\":\"$message\"}'\n", "", "dialect[0].error: is missing"),
        ("\"$message\"", "\"$name\"", ":14:1: dialect[0].error: `$name` has no source here"),
        ("name_missing =", "nameless =", ":15:14: dialect[0].messages.nameless: "),
        (
            "does = \"list\"",
            "does = \"lists\"",
            ":17:1: dialect[0].operation[0].does: must be one of",
        ),
        ("does = \"list\"\n", "", "dialect[0].operation[0].does: is missing"),
        ("\"GET /api/keys\"", "\"POST /api/keys\"", "on[0]: `POST` cannot list"),
        ("\"GET /api/keys\"", "\"FETCH /api/keys\"", "on[0]: `FETCH` cannot list"),
        ("\"POST /api/keys\"", "\"GET /api/keys\"", "`GET` cannot create"),
        ("\"GET /api/keys\"", "\"/api/keys\"", "is not a method and a path"),
        ("\"GET /api/keys\"", "\"GET /api//keys\"", "is not a method and a path"),
        ("\"GET /api/keys\"", "\"GET /api/k%20\"", "is not a method and a path"),
        ("\"GET /api/keys\"", "\"GET /{org}\"", "is not a method and a path"),
        ("\"GET /api/keys\"", "\"GET /api/{id}\"", "is about no single key"),
        ("\"GET /api/keys\"", "\"GET /api/{company}\"", "`{company}` is no parameter"),
        ("\"GET /api/keys\"", "\"GET /v1/keys\"", "`/v1` is of the service itself"),
        ("\"GET /api/keys\"", "\"GET /keys/all\"", "`/keys` is of the service itself"),
        ("{id}/rotate", "rotate", "has no {id}"),
        ("{id}/rotate", "{id}/{id}", "`{id}` is there twice"),
        ("\"POST /api/keys/{id}/rotate\"", "\"POST /api/keys\"", "has no {id}"),
        (
            "\"PATCH /api/keys/{id}\"",
            "\"POST /api/keys/{id}/rotate\"",
            ":35:1: dialect[0].operation[3].on: `POST /api/keys/{id}/rotate` is answered already",
        ),
        ("/of/{org}/keys", "/api/keys", ":18:1: dialect[0].operation[0].on: `GET /api/keys` is"),
        ("\"GET /api/keys\"", "\"GET /\"", "on[0]: `/` is of the service itself"),
        (
            "'[\"$keys\"]'",
            "'[\"$kies\"]'",
            ":19:1: dialect[0].operation[0].answer: `$kies` is no slot",
        ),
        ("'[\"$keys\"]'", "'[]'", "has no [\"$keys\"]"),
        ("key = '{\"id\":\"$id\"}'\n", "", "operation[0].key: is missing"),
        ("'{\"id\":\"$id\"}'", "'{\"id\":\"$secret\"}'", "`$secret` has no source here"),
        ("[\"read\"]", "[\"write\"]", "grant `write`"),
        ("status = 201", "status = 404", "status: must be 200 to 299"),
        ("status = 201", "state = 201", "operation[1].state: unknown key"),
        ("status = 201", "key = '{}'", "operation[1].key: is for lists"),
        ("overlap = \"1h\"", "grants = [\"read\"]", "operation[2].grants: is for new keys"),
        ("overlap = \"1h\"", "overlap = \"1 hour ago\"", "operation[2].overlap: "),
        ("request = '{\"until\":\"$expires\"}'\n", "", "operation[3].request: is missing"),
        (
            "'{\"until\":\"$expires\"}'\nanswer",
            "'{}'\nanswer",
            "operation[3].request: changes nothing",
        ),
    ];
    for (from, to, want) in cases {
        assert!(OWN.contains(from), "{from}");
        let text = load(&OWN.replacen(from, to, 1)).unwrap_err().to_string();
        assert!(text.contains(want), "{to}: {text}");
        assert!(text.contains("\nhint: ") || text.contains("must be 200"), "{to}: {text}");
        let is_told = want.contains("unknown key") || !text.contains("unknown key");
        assert!(is_told, "{to}: {text}");
    }
    let text = load("[[dialect]]\nname = \"whatsomate\"\n").unwrap_err().to_string();
    assert!(text.contains("built in are weshape, whatomate"), "{text}");
    let two = format!("{OWN}{OWN}");
    let text = load(&two).unwrap_err().to_string();
    let want = ":44:1: dialect[1].operation[0].on: the path of `GET /api/keys` is answered by \
                dialect `shop` already";
    assert!(text.contains(want), "{text}");
    let two = "[[dialect]]\nname = \"weshape\"\n".repeat(2);
    let text = load(&two).unwrap_err().to_string();
    assert!(text.contains(":15:1: dialect[1].name: the path of `GET /"), "{text}");
    let second = "[[audiences]]\nname = \"other\"\n";
    let text = load(&format!("{second}{OWN}")).unwrap_err().to_string();
    assert!(text.contains("dialect[0].audience: is missing"), "{text}");
}

/// Another method on the path of another dialect, whatever either calls its parameters.
#[test]
fn a_path_is_of_one_dialect() {
    let other = |on: &str| {
        format!(
            "{OWN}[[dialect]]\nname = \"other\"\nerror = '{{}}'\n[[dialect.operation]]\n\
             does = \"revoke\"\non = \"{on}\"\nanswer = '{{}}'\n"
        )
    };
    for on in ["DELETE /api/keys/{id}", "DELETE /api/keys/{id}/rotate", "DELETE /of/{id}/keys"] {
        let text = load(&other(on)).unwrap_err().to_string();
        let want = format!("dialect[1].operation[0].on: the path of `{on}` is answered by dialect");
        assert!(text.contains(&want) && text.contains("\nhint: one dialect"), "{on}: {text}");
    }
    for on in ["DELETE /api/{id}", "DELETE /api/{org}/{id}", "DELETE /of/{org}/keys/{id}"] {
        assert_eq!(load(&other(on)).unwrap().dialects.len(), 2, "{on}");
    }
}

#[test]
fn what_is_built_in_has_no_faults_and_can_be_reworded() {
    for name in built_in::names() {
        let text = built_in(name).unwrap();
        let read = read_toml(&ThisHost, Path::new("built-in.toml"), text, |root| {
            let section = root.sections("dialect").into_iter().next()?;
            assert_eq!(section.text("name").unwrap().text, name);
            Some(parts(&section).operations.len())
        });
        let count = read.unwrap_or_else(|e| panic!("{e}")).value;
        assert_eq!(count, text.matches("[[dialect.operation]]").count(), "{name}");
        let config = load(&format!("[[dialect]]\nname = \"{name}\"\n")).unwrap();
        assert_eq!(config.dialects[0].operations.len(), count);
        // The same text makes the same dialect, and docs/dialects.md shows it.
        assert_eq!(load(text).unwrap().dialects, config.dialects);
        let page = include_str!("../../../../docs/dialects.md");
        assert!(page.contains(text.trim()), "{name}");
    }
    let own = "[[dialect]]\nname = \"whatomate\"\nmessages = { no_such_key = \"Nichts da\" }\n";
    let config = load(own).unwrap();
    let missing = DialectError::of(DialectCode::NameMissing);
    let unknown = DialectError::of(DialectCode::NoSuchKey);
    let told = |error| config.dialects[0].refuse(error, "r-1");
    assert_eq!(told(&missing), r#"{"status":"error","message":"Name is required","data":null}"#);
    assert_eq!(told(&unknown), r#"{"status":"error","message":"Nichts da","data":null}"#);
}

/// docs/dialects.md has every slot and every error, and no others.
#[test]
fn the_page_has_every_slot_and_every_error() {
    let page = include_str!("../../../../docs/dialects.md");
    let told: std::collections::BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(word, _)| word)
        .collect();
    let slots = SlotKind::ALL.map(|kind| format!("${}", kind.as_str()));
    let codes = DialectCode::ALL.map(|code| code.as_str().to_owned());
    let verbs = DialectVerb::ALL.map(|verb| verb.as_str().to_owned());
    let all = slots.iter().chain(&codes).chain(&verbs).map(String::as_str);
    assert_eq!(told, all.collect());
}
