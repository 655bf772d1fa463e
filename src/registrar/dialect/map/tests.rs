//! Skeletons: what products' pages print, byte for byte; texts that are not skeletons; what
//! requests say.

use super::super::super::store::{AudienceName, LastUse, Uid};
use super::super::code::DialectMessages;
use super::*;
use crate::manage::registry::entry::RawEntry;
use crate::manage::time::{When, instant};

const UID: &str = "0b0e8b0a-6a3a-4c56-9a3d-3f1c2a8f6f10";

fn row(json: &str, last_use: Option<&str>) -> KeyRow {
    let entry: RawEntry<'_> = serde_json::from_str(json).unwrap();
    KeyRow {
        audience: AudienceName::parse("product").unwrap(),
        uid: Uid::parse(UID).unwrap(),
        entry: entry.parse().unwrap(),
        version: 1,
        changed: 1,
        changed_ms: 0,
        last_use: last_use
            .map(|at| LastUse { at_ms: instant(at).unwrap() * 1000 + 999, network: "".into() }),
    }
}

fn whatomate(more: &str) -> String {
    format!(
        r#"{{"id":"key_integration","org":"acme","name":"Production Integration",
            "key_prefix":"a1b2c3d4","digest":"sha256:{}","created":"2024-01-01T00:00:00Z"{more}}}"#,
        "0".repeat(64)
    )
}

fn now() -> u64 {
    instant("2024-06-01T00:00:00Z").unwrap()
}

/// What a page prints, without the white space of its layout.
fn printed(page: &str) -> String {
    let mut inside = false;
    page.chars()
        .filter(|c| {
            inside ^= *c == '"';
            inside || !c.is_whitespace()
        })
        .collect()
}

fn list(frame: &str, key: &str, rows: &[KeyRow]) -> String {
    let frame = Skeleton::parse(frame, SkeletonUse::List).unwrap();
    let key = Skeleton::parse(key, SkeletonUse::Key).unwrap();
    let ListFrame { head, tail } = frame.of_list(&OrgId::parse("acme").unwrap());
    let keys: Vec<_> =
        rows.iter().map(|row| key.of_key(KeyValues { row, secret: None, now: now() })).collect();
    format!("{head}{}{tail}", keys.join(","))
}

#[test]
fn whatomates_list_is_the_one_of_its_page() {
    let page = r#"
{
"status": "success",
"data": [
{
"id": "uuid",
"name": "Production Integration",
"key_prefix": "a1b2c3d4",
"last_used_at": "2024-01-15T10:30:00Z",
"expires_at": "2025-12-31T23:59:59Z",
"is_active": true,
"created_at": "2024-01-01T00:00:00Z"
}
]
}"#;
    let frame = r#"{"status":"success","data":["$keys"]}"#;
    let key = r#"{"id":"$uid","name":"$name","key_prefix":"$start:8","last_used_at":"$last_used?","expires_at":"$expires?","is_active":"$active","created_at":"$created"}"#;
    let entry = whatomate(r#","expires":"2025-12-31T23:59:59Z""#);
    let used = row(&entry, Some("2024-01-15T10:30:00Z"));
    assert_eq!(list(frame, key, &[used]), printed(page).replace("\"uuid\"", &format!("\"{UID}\"")));
    // Its service leaves null members out, and so does this.
    let fresh = row(&whatomate(r#","status":"disabled""#), None);
    let want = format!(
        r#"{{"status":"success","data":[{{"id":"{UID}","name":"Production Integration","key_prefix":"a1b2c3d4","is_active":false,"created_at":"2024-01-01T00:00:00Z"}}]}}"#
    );
    assert_eq!(list(frame, key, &[fresh]), want);
    assert_eq!(list(frame, key, &[]), r#"{"status":"success","data":[]}"#);
}

#[test]
fn whatomates_new_key_is_the_one_of_its_page() {
    let page = r#"
{
"status": "success",
"data": {
"id": "uuid",
"name": "Production Integration",
"key": "whm_a1b2c3d4e5f6g7h8i9j0k1l2m3n4o5p6",
"key_prefix": "a1b2c3d4",
"expires_at": "2025-12-31T23:59:59Z",
"created_at": "2024-01-01T00:00:00Z"
}
}"#;
    let answer = r#"{"status":"success","data":{"id":"$uid","name":"$name","key":"$secret","key_prefix":"$start:8","expires_at":"$expires?","created_at":"$created"}}"#;
    let answer = Skeleton::parse(answer, SkeletonUse::NewKey).unwrap();
    let row = row(&whatomate(r#","expires":"2025-12-31T23:59:59Z""#), None);
    let secret = Some("whm_a1b2c3d4e5f6g7h8i9j0k1l2m3n4o5p6");
    let told = answer.of_key(KeyValues { row: &row, secret, now: now() });
    assert_eq!(told, printed(page).replace("\"uuid\"", &format!("\"{UID}\"")));
}

#[test]
fn weshapes_list_is_the_one_of_its_page() {
    let page = r#"
{
  "apiKeys": [
    {
      "id": "key_abc123",
      "name": "Production Key",
      "createdAt": "2026-01-15T10:00:00Z",
      "lastUsed": "2026-03-12T09:30:00Z"
    },
    {
      "id": "key_def456",
      "name": "Development Key",
      "createdAt": "2026-02-01T14:00:00Z",
      "lastUsed": "2026-03-10T16:45:00Z"
    }
  ]
}"#;
    let entry = |id: &str, name: &str, created: &str| {
        format!(
            r#"{{"id":"{id}","org":"acme","name":"{name}","created":"{created}",
                "digest":"sha256:{}"}}"#,
            "0".repeat(64)
        )
    };
    let rows = [
        row(
            &entry("key_abc123", "Production Key", "2026-01-15T10:00:00Z"),
            Some("2026-03-12T09:30:00Z"),
        ),
        row(
            &entry("key_def456", "Development Key", "2026-02-01T14:00:00Z"),
            Some("2026-03-10T16:45:00Z"),
        ),
    ];
    let key = r#"{"id":"$id","name":"$name","createdAt":"$created","lastUsed":"$last_used"}"#;
    assert_eq!(list(r#"{"apiKeys":["$keys"]}"#, key, &rows), printed(page));
    let fresh = row(&entry("key_abc123", "Production Key", "2026-01-15T10:00:00Z"), None);
    let want = r#"{"apiKeys":[{"id":"key_abc123","name":"Production Key","createdAt":"2026-01-15T10:00:00Z","lastUsed":null}]}"#;
    assert_eq!(list(r#"{"apiKeys":["$keys"]}"#, key, &[fresh]), want);
}

#[test]
fn errors_are_those_of_the_pages() {
    let page = r#"
{
  "error": "Unauthorized",
  "errorMessage": "Invalid API key provided"
}"#;
    let error = r#"{"error":"$error","errorMessage":"$message"}"#;
    let error = Skeleton::parse(error, SkeletonUse::Error).unwrap();
    let code = DialectCode::Unauthenticated;
    let message = "Invalid API key provided";
    let values = ErrorValues { code, message, request_id: "r-1" };
    assert_eq!(error.of_error(values), printed(page));
    let coded = Skeleton::parse(
        r#"{"c":"$code","m":"$message","r":"$refusal","id":"$request_id"}"#,
        SkeletonUse::Error,
    )
    .unwrap();
    let told = coded.of_error(ErrorValues { message: "a \"quote\"\n", ..values });
    assert_eq!(told, r#"{"c":"unauthenticated","m":"a \"quote\"\n","r":"invalid_key","id":"r-1"}"#);
}

/// A skeleton's own bytes stay, whatever they are.
#[test]
fn order_and_bytes_are_kept() {
    let row = row(&whatomate(""), None);
    let told = |text: &str| {
        let skeleton = Skeleton::parse(text, SkeletonUse::Key).unwrap();
        skeleton.of_key(KeyValues { row: &row, secret: None, now: now() })
    };
    let plain = "{ \"z\" : 1.50e3 ,\n\t\"a\":[ ] , \"\\u00e9\":\"\\/ é $$\", \"n\": [ null,true ], \"o\":{ } }";
    assert_eq!(told(plain), plain.replace("\"\\/ é $$\"", "\"/ é $\""));
    assert_eq!(told("{ \"a\": \"\\/\" }"), "{ \"a\": \"\\/\" }");
    assert_eq!(told(r#"{"a":"$expires?"}"#), "{}");
    assert_eq!(told(r#"{ "a":"$expires?", "b":1 }"#), r#"{ "b":1 }"#);
    assert_eq!(told(r#"{ "b":1, "a":"$expires?" }"#), r#"{ "b":1}"#);
    assert_eq!(told(r#"["$expires","$start:2","$permissions"]"#), r#"[null,"a1",[]]"#);
    assert_eq!(told("\"$name\""), "\"Production Integration\"");
}

#[test]
fn each_slot_has_its_value() {
    let row = row(
        &whatomate(
            r#","expires":"2025-12-31T23:59:59Z","permissions":["read","send"],
               "networks":["203.0.113.0/24","192.0.2.7"],"environment":"test",
               "public_id":"12345-abcde""#,
        ),
        Some("2024-01-15T10:30:00Z"),
    );
    let told = |slot: &str| {
        let skeleton = Skeleton::parse(&format!("\"${slot}\""), SkeletonUse::NewKey).unwrap();
        skeleton.of_key(KeyValues { row: &row, secret: Some("whm_x"), now: now() })
    };
    let cases = [
        ("id", r#""key_integration""#),
        ("uid", r#""0b0e8b0a-6a3a-4c56-9a3d-3f1c2a8f6f10""#),
        ("name", r#""Production Integration""#),
        ("start", r#""a1b2c3d4""#),
        ("start:4", r#""a1b2""#),
        ("secret", r#""whm_x""#),
        ("public_id", r#""12345-abcde""#),
        ("created", r#""2024-01-01T00:00:00Z""#),
        ("created:unix", "1704067200"),
        ("created:unix-ms", "1704067200000"),
        ("last_used:unix-ms", "1705314600999"),
        ("last_used", r#""2024-01-15T10:30:00Z""#),
        ("expires:rfc3339", r#""2025-12-31T23:59:59Z""#),
        ("active", "true"),
        ("state", r#""active""#),
        ("permissions", r#"["read","send"]"#),
        ("networks", r#"["203.0.113.0/24","192.0.2.7"]"#),
        ("environment", r#""test""#),
        ("org", r#""acme""#),
    ];
    for (slot, want) in cases {
        assert_eq!(told(slot), want, "{slot}");
    }
}

#[test]
fn what_is_no_skeleton() {
    let fault = |text: &str, used| Skeleton::parse(text, used).unwrap_err().to_string();
    let cases = [
        (r#"{"a":"$nme"}"#, SkeletonUse::Key, "`$nme` is no slot"),
        (r#"{"a":"$"}"#, SkeletonUse::Key, "`$` is no slot"),
        (r#"{"a":"$secret"}"#, SkeletonUse::Key, "`$secret` has no source here"),
        (r#"{"a":["$keys"]}"#, SkeletonUse::Key, "`$keys` has no source here"),
        (r#"{"a":["$keys"],"b":"$name"}"#, SkeletonUse::List, "`$name` has no source here"),
        (r#"{"a":"$id"}"#, SkeletonUse::Error, "`$id` has no source here"),
        (r#"{"a":"$message"}"#, SkeletonUse::NewKey, "`$message` has no source here"),
        (r#"{"a":"key $name"}"#, SkeletonUse::Key, "has a `$` inside"),
        (r#"{"a":"$id$name"}"#, SkeletonUse::Key, "has a `$` inside"),
        (r#"{"$id":1}"#, SkeletonUse::Key, "is a name"),
        (r#"{"a":"$name!"}"#, SkeletonUse::Key, "has `!`"),
        (r#"{"a":"$start:17"}"#, SkeletonUse::Key, "in another form"),
        (r#"{"a":"$start:0"}"#, SkeletonUse::Key, "in another form"),
        (r#"{"a":"$name:8"}"#, SkeletonUse::Key, "in another form"),
        (r#"{"a":"$created:iso"}"#, SkeletonUse::Key, "in another form"),
        (r#"{"a":1,"a":2}"#, SkeletonUse::Key, "has `a` twice"),
        (r#"{"a":{"b":1,"b":"$id"}}"#, SkeletonUse::Key, "has `b` twice"),
        ("{", SkeletonUse::Key, "is no JSON"),
        (r#"{"a":$id}"#, SkeletonUse::Key, "is no JSON"),
        ("", SkeletonUse::Key, "is no JSON"),
        ("{} {}", SkeletonUse::Key, "is no JSON"),
        ("[]", SkeletonUse::List, "has no [\"$keys\"]"),
        ("\"$keys\"", SkeletonUse::List, "has no [\"$keys\"]"),
        (r#"{"a":["$keys"],"b":["$keys"]}"#, SkeletonUse::List, "has no [\"$keys\"]"),
        (r#"{"a":["$keys",1]}"#, SkeletonUse::List, "not the only item"),
        (r#"{"a":"$keys"}"#, SkeletonUse::List, "not the only item"),
    ];
    for (text, used, want) in cases {
        let told = fault(text, used);
        assert!(told.contains(want), "{text}: {told}");
        assert!(!Skeleton::parse(text, used).unwrap_err().hint().is_empty(), "{text}");
    }
    let request = |text: &str| {
        RequestSkeleton::parse(text, SkeletonUse::RequestForNew).unwrap_err().to_string()
    };
    for (text, want) in [
        (r#"{"a":"$id"}"#, "`$id` has no source here"),
        (r#"{"a":"$secret"}"#, "`$secret` has no source here"),
        (r#"{"a":"$name","b":"$name"}"#, "has `$name` twice"),
        (r#"{"a":"text"}"#, "`text` is no slot"),
        (r#"{"a":1}"#, "`1` is no slot"),
        (r#"{"a":["$name"]}"#, "is no slot"),
        (r#"["$name"]"#, "is no JSON object"),
        (r#"{"$name":"$name"}"#, "is a name"),
    ] {
        assert!(request(text).contains(want), "{text}: {}", request(text));
    }
}

#[test]
fn what_requests_say() {
    let skeleton = r#"{"name":"$name!","expires_at":"$expires?","grant":{"words":"$permissions","from":"$networks"},"env":"$environment"}"#;
    let skeleton = RequestSkeleton::parse(skeleton, SkeletonUse::RequestForNew).unwrap();
    let full = br#" {"unknown":{"x":[1]},"name":"CI","expires_at":"2025-12-31T23:59:59.000+01:00",
        "grant":{"words":["read","*"],"from":["192.0.2.7"]},"env":"live"} "#;
    let asked = skeleton.read(full).unwrap();
    assert_eq!(asked.name.as_deref(), Some("CI"));
    assert_eq!(asked.expires, Some(When::At(instant("2025-12-31T22:59:59Z").unwrap())));
    let words: Vec<_> = asked.permissions.unwrap().iter().map(|w| w.as_str().to_owned()).collect();
    assert_eq!(words, ["read", "*"]);
    assert_eq!(asked.networks.unwrap().len(), 1);
    assert_eq!(asked.environment, Some(Some(crate::core::Environment::Live)));
    // Nothing but the name.
    for body in [
        r#"{"name":"CI"}"#,
        r#"{"name":"CI","grant":null}"#,
        r#"{"name":"CI","grant":"no object"}"#,
    ] {
        let asked = skeleton.read(body.as_bytes()).unwrap();
        assert_eq!(asked, AskedKey { name: Some("CI".into()), ..AskedKey::default() }, "{body}");
    }
    // `null` and an empty text say that there is no value.
    for body in [r#"{"name":"CI","expires_at":null}"#, r#"{"name":"CI","expires_at":""}"#] {
        assert_eq!(skeleton.read(body.as_bytes()).unwrap().expires, Some(When::Never), "{body}");
    }
    let refused = |body: &str| skeleton.read(body.as_bytes()).unwrap_err();
    let cases = [
        ("{", DialectCode::BadBody),
        ("[]", DialectCode::BadBody),
        ("", DialectCode::NameMissing),
        ("{}", DialectCode::NameMissing),
        (r#"{"name":""}"#, DialectCode::NameMissing),
        (r#"{"name":null}"#, DialectCode::NameMissing),
        (r#"{"name":7}"#, DialectCode::BadName),
        (r#"{"name":"CI","expires_at":"tomorrow"}"#, DialectCode::BadExpiry),
        (r#"{"name":"CI","expires_at":"2025-12-31"}"#, DialectCode::BadExpiry),
        (r#"{"name":"CI","expires_at":1767225599}"#, DialectCode::BadExpiry),
        (r#"{"name":"CI","grant":{"words":"read"}}"#, DialectCode::BadPermissions),
        (r#"{"name":"CI","grant":{"words":["a b"]}}"#, DialectCode::BadPermissions),
        (r#"{"name":"CI","grant":{"words":[1]}}"#, DialectCode::BadPermissions),
        (r#"{"name":"CI","grant":{"from":["here"]}}"#, DialectCode::BadNetworks),
        (r#"{"name":"CI","env":"prod"}"#, DialectCode::BadEnvironment),
        (r#"{"name":"CI","env":1}"#, DialectCode::BadEnvironment),
    ];
    for (body, code) in cases {
        assert_eq!(refused(body).code, code, "{body}");
    }
    let messages = DialectMessages::default();
    assert!(messages.of(&refused(r#"{"name":"CI","env":"prod"}"#)).ends_with("not prod"));
    let unix = RequestSkeleton::parse(r#"{"e":"$expires:unix-ms"}"#, SkeletonUse::RequestForChange);
    let asked = unix.unwrap().read(br#"{"e":1767225599000}"#).unwrap();
    assert_eq!(asked.expires, Some(When::At(1_767_225_599)));
    // An empty list counts as a list. A required list that is missing does not.
    let set = r#"{"permissions":"$permissions!"}"#;
    let set = RequestSkeleton::parse(set, SkeletonUse::RequestForChange).unwrap();
    assert_eq!(set.read(br#"{"permissions":[]}"#).unwrap().permissions, Some(Vec::new()));
    for body in ["", "{}", r#"{"permissions":null}"#] {
        let code = set.read(body.as_bytes()).unwrap_err().code;
        assert_eq!(code, DialectCode::BadPermissions, "{body}");
    }
}
