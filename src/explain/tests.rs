//! Answers about keys in place of a table.

use std::path::Path;

use super::*;
use crate::config::{Config, ThisHost};
use crate::core::{
    Environment, Grant, KeyId, KeyStatus, Limit, LimitSet, NamedLimit, NetworkSet, Permission,
    PermissionSet, PolicyName,
};

const CONFIG: &str = concat!(
    "environment = \"live\"\n",
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/minimal.toml")),
    r#"[[credentials]]
source = "bearer"
prefixes = ["wa_"]
[[routes]]
id = "items"
path = "/items/{id}"
methods = ["GET"]
permissions = ["read"]
[[routes]]
id = "send"
path = "/send"
permissions = ["send"]
profile = "envelope"
[[routes]]
id = "both"
path = "/both"
access = "key-or-pass"
[[routes]]
id = "watch"
path = "/watch"
permissions = ["send"]
[observe]
routes = ["watch"]
"#
);

struct One {
    grant: Grant,
    expires: Option<u64>,
    refuse_from: Option<u64>,
}

impl One {
    fn view(&self) -> KeyView<'_> {
        KeyView {
            id: KeyId::parse("key_abc").unwrap(),
            org: "acme",
            name: "Büro",
            expires: self.expires,
            grant: &self.grant,
            uses: None,
        }
    }
}

impl KeyLookup for One {
    fn plausible(&self, _: &[u8]) -> bool {
        true
    }

    fn single(&self, digest: &Digest) -> Option<KeyView<'_>> {
        (*digest == Digest::of(b"wa_good")).then(|| self.view())
    }

    fn pair(&self, _: &[u8], _: &Digest) -> PairLookup<'_> {
        PairLookup::UnknownId
    }

    fn any(&self, digest: &Digest) -> Option<KeyView<'_>> {
        self.single(digest)
    }

    fn owner(&self, _: &Digest) -> Option<OwnerView<'_>> {
        None
    }

    fn knows_org(&self, _: &str) -> bool {
        true
    }

    fn org_limits(&self, _: &str) -> Option<&LimitSet> {
        None
    }

    fn refuse_from(&self) -> Option<u64> {
        self.refuse_from
    }
}

fn keys() -> One {
    let grant = Grant {
        status: KeyStatus::Active,
        kind: KeyKind::Single,
        environment: Some(Environment::Live),
        not_before: None,
        permissions: PermissionSet::new([Permission::parse("read").unwrap()]),
        networks: NetworkSet::default(),
        limits: LimitSet::of_key(Limit::parse("600/min").ok()),
        sunset: None,
    };
    One { grant, expires: Some(2_000), refuse_from: None }
}

fn ask(keys: Option<&One>, method: Method, target: &str, credential: Credential<'_>) -> Explained {
    let config = Config::parse(&ThisHost, Path::new("keygate.toml"), CONFIG).unwrap();
    let at = Now { unix_ms: 1_000_000, mono_ns: 0 };
    let client = "203.0.113.9".parse().unwrap();
    let ask = Ask { method: &method, target, client, credential, source: None, at };
    explain(&config.settings, keys, &ask)
}

#[test]
fn admitted_with_the_fields_that_are_sent() {
    let keys = keys();
    let answer = ask(Some(&keys), Method::GET, "/items/7?x=1", Credential::Single(b"wa_good"));
    assert_eq!(
        answer.to_string(),
        "verdict   admitted\n\
         rule      items (GET /items/{id}): key with read\n\
         key       key_abc \"Büro\" of acme, active, live, may read, expires \
         1970-01-01T00:33:20Z, 600/min\n\
         charges   1 under per-key, 600/min of the key, by the table\n\
         carrier   bearer\n\
         client    203.0.113.9\n\
         at        1970-01-01T00:16:40Z\n\
         \n\
         to the service\n  \
         x-org-id: acme\n  \
         x-key-id: key_abc\n  \
         x-key-name: B%C3%BCro\n  \
         x-permissions: read\n  \
         x-environment: live\n"
    );
}

#[test]
fn the_limits_that_a_request_would_be_charged_under_are_named() {
    let mut keys = keys();
    let limit = |policy, text| NamedLimit {
        policy: PolicyName::parse(policy).unwrap(),
        limit: Limit::parse(text).unwrap(),
    };
    let ask_now = |keys: &One| {
        ask(Some(keys), Method::GET, "/items/7", Credential::Single(b"wa_good")).to_string()
    };
    keys.grant.limits = LimitSet::new([limit("per-key", "600/min")]);
    let text = ask_now(&keys);
    assert!(text.contains(", 600/min\n"), "{text}");
    assert!(
        text.contains("\ncharges   1 under per-key, 600/min of the key, by the table\ncarrier "),
        "{text}"
    );
    let both = [limit("per-key", "600/min burst 50"), limit("search", "2/s")];
    keys.grant.limits = LimitSet::new(both);
    let text = ask_now(&keys);
    assert!(text.contains(", 600/min burst 50, search 2/s\n"), "{text}");
    let wanted = "charges   1 under per-key, 600/min burst 50 of the key, by the table\n          \
                  1 under search, 2/s of the key, by the table\n";
    assert!(text.contains(wanted), "{text}");
    keys.grant.limits = LimitSet::default();
    assert!(!ask_now(&keys).contains("charges"));
}

#[test]
fn a_key_named_by_id_is_judged_like_its_holder() {
    let keys = keys();
    let named = |target| {
        ask(Some(&keys), Method::GET, target, Credential::Key { view: keys.view(), owner: None })
    };
    assert_eq!(named("/items/7").verdict, "admitted");
    let refused = named("/send");
    assert_eq!((refused.verdict, refused.reason), ("rejected", Some("permission")));
    assert_eq!(
        refused.refusal.unwrap().body,
        concat!(
            r#"{"status":"error","message":"API key lacks required permissions: send","#,
            r#""code":"insufficient_permission","request_id":"REQUEST-ID"}"#
        )
    );
    let disabled =
        One { grant: Grant { status: KeyStatus::Disabled, ..keys.grant.clone() }, ..keys };
    let answer = ask(
        Some(&disabled),
        Method::GET,
        "/items/7",
        Credential::Key { view: disabled.view(), owner: None },
    );
    assert_eq!(answer.reason, Some("disabled"));
    assert_eq!(answer.refusal.unwrap().code, "invalid_key");
}

#[test]
fn every_other_verdict() {
    let keys = keys();
    let cases = [
        ("GET", "/items/7", Credential::Nothing, "rejected", Some("missing")),
        ("GET", "/items/7", Credential::Single(b"wa_other"), "rejected", Some("unknown")),
        ("GET", "/items/7", Credential::Single(b"eyJ.user"), "rejected", Some("foreign")),
        ("GET", "/both", Credential::Single(b"eyJ.user"), "passed", None),
        ("GET", "/both", Credential::Nothing, "passed", None),
        ("GET", "/watch", Credential::Nothing, "observed", Some("missing")),
        ("POST", "/items/7", Credential::Single(b"wa_good"), "rejected", Some("method")),
        ("GET", "/nowhere", Credential::Single(b"wa_good"), "rejected", Some("route")),
        ("GET", "/a/../items/7", Credential::Single(b"wa_good"), "rejected", Some("bad_path")),
        ("GET", "/items/%2F", Credential::Single(b"wa_good"), "rejected", Some("bad_path")),
        ("GET", "/items/<7>", Credential::Single(b"wa_good"), "rejected", Some("bad_target")),
        ("GET", "/items/7?a#b", Credential::Single(b"wa_good"), "rejected", Some("bad_target")),
        ("GET", "/items/7?q=\"<x>\"", Credential::Nothing, "rejected", Some("missing")),
    ];
    for (method, target, credential, verdict, reason) in cases {
        let answer = ask(Some(&keys), method.parse().unwrap(), target, credential);
        assert_eq!((answer.verdict, answer.reason), (verdict, reason), "{method} {target}");
    }
    let answer = ask(Some(&keys), Method::GET, "/both", Credential::Nothing);
    assert_eq!(answer.headers, [("x-anonymous".to_owned(), "true".to_owned())]);
    let none = ask(None, Method::GET, "/both", Credential::Nothing);
    assert_eq!(none.reason, Some("no_table"));
    let expired = One { refuse_from: Some(900), ..keys };
    let answer = ask(
        Some(&expired),
        Method::GET,
        "/items/7",
        Credential::Key { view: expired.view(), owner: None },
    );
    assert_eq!(answer.reason, Some("no_table"));
}

#[test]
fn json_for_programs() {
    let keys = keys();
    let answer = ask(Some(&keys), Method::GET, "/send", Credential::Single(b"wa_good"));
    let json = serde_json::to_value(&answer).unwrap();
    assert_eq!(json["reason"], "permission");
    assert_eq!(json["rule"]["permissions"][0], "send");
    assert_eq!(json["key"]["expires"], "1970-01-01T00:33:20Z");
    assert_eq!(json["refusal"]["status"], 403);
}

#[test]
fn ownership_depends_on_the_carrier() {
    let keys = keys();
    let text = CONFIG.to_owned() + "[[credentials]]\nsource = \"header\"\nname = \"x-api-key\"\n";
    let config = Config::parse(&ThisHost, Path::new("keygate.toml"), &text).unwrap();
    let reason = |source| {
        let ask = Ask {
            method: &Method::GET,
            target: "/items/7",
            client: "203.0.113.9".parse().unwrap(),
            credential: Credential::Single(b"eyJ.user"),
            source,
            at: Now { unix_ms: 1_000_000, mono_ns: 0 },
        };
        let answer = explain(&config.settings, Some(&keys), &ask);
        (answer.source, answer.reason.unwrap())
    };
    assert_eq!(reason(None), (Some("bearer"), "foreign"));
    assert_eq!(reason(Some("bearer")), (Some("bearer"), "foreign"));
    assert_eq!(reason(Some("header")), (Some("header"), "unknown"));
    assert_eq!(reason(Some("query")), (None, "missing"));
}
