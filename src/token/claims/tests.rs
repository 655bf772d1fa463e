//! Which claims hold, by row, and what they mean.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::*;
use crate::core::{
    KnownOrgs, Permission, PermissionSet, SignerPrint, TokenOnward, UserToken, VerifiedToken,
};
use crate::token::TokenAlgorithm;

const NOW: u64 = 1_800_000_000;

fn rules() -> IssuerRules {
    let permission = |word| Permission::parse(word).unwrap();
    IssuerRules {
        issuer: "https://idp.example/".into(),
        audiences: vec!["orders".into(), "orders-api".into()],
        algorithms: TokenAlgorithm::ALL.to_vec(),
        types: Vec::new(),
        max_life: Duration::from_secs(3600),
        reading: Arc::new(ClaimReading {
            org_claim: "org_id".into(),
            orgs: KnownOrgs::Any,
            permissions_claim: Some("scope".into()),
            permissions: BTreeMap::from([
                ("orders:read".into(), vec![permission("read")]),
                ("admin".into(), vec![permission("*")]),
                ("both".into(), vec![permission("read"), permission("send")]),
            ]),
        }),
        onward: TokenOnward::Remove,
        limit: None,
    }
}

fn permissions_of(meaning: ClaimsMeaning) -> PermissionSet {
    let ClaimsMeaning { subject, org, words, expires, issued, audiences } = meaning;
    let rules = rules();
    let said = VerifiedToken {
        issuer: rules.issuer,
        subject,
        org,
        words,
        expires,
        issued,
        audiences,
        typ: "".into(),
        algorithm: "ES256",
        signed_by: SignerPrint(1),
        onward: TokenOnward::Remove,
        limit: None,
    };
    UserToken::verified(said, &rules.reading).permissions().clone()
}

fn good() -> Value {
    json!({
        "iss": "https://idp.example/",
        "aud": "orders",
        "sub": "user-7",
        "exp": NOW + 60,
        "org_id": "acme",
        "scope": "orders:read unknown",
    })
}

fn check(claims: &Value) -> Result<ClaimsMeaning, TokenFault> {
    let now = Now { unix_ms: NOW * 1000 + 999, mono_ns: 0 };
    Claims::parse(claims.to_string().as_bytes())?.check(&rules(), now)
}

/// The good claims with some of them changed; `null` removes one.
fn with(changes: Value) -> Result<ClaimsMeaning, TokenFault> {
    let (mut claims, Value::Object(changes)) = (good(), changes) else { panic!() };
    let members = claims.as_object_mut().unwrap();
    for (name, value) in changes {
        match value {
            Value::Null => members.remove(&name),
            value => members.insert(name, value),
        };
    }
    check(&claims)
}

#[test]
fn what_holds_has_a_meaning() {
    let meaning = check(&good()).unwrap();
    assert_eq!((&*meaning.subject, &*meaning.org), ("user-7", "acme"));
    assert_eq!(permissions_of(meaning).joined(), "read");
    assert_eq!(check(&good()).unwrap().expires, NOW + 60);
}

#[test]
fn what_does_not_hold_is_refused() {
    use TokenFault::*;
    for (name, changes, want) in [
        ("no exp", json!({"exp": null}), Claims),
        ("exp as text", json!({"exp": (NOW + 60).to_string()}), Claims),
        ("exp as list", json!({"exp": [NOW + 60]}), Claims),
        ("exp below zero", json!({"exp": -1}), Claims),
        ("exp beyond all", json!({"exp": 1e300}), Claims),
        ("exp just now", json!({"exp": NOW}), Expired),
        ("exp a second ago", json!({"exp": NOW - 1}), Expired),
        ("nbf as text", json!({"nbf": "0"}), Claims),
        ("nbf ahead", json!({"nbf": NOW + 11}), NotYetValid),
        ("iat as text", json!({"iat": "0"}), Claims),
        ("iat ahead", json!({"iat": NOW + 11}), NotYetValid),
        ("too long by iat", json!({"iat": NOW - 3541}), Lifetime),
        ("too long without iat", json!({"exp": NOW + 3601}), Lifetime),
        ("no iss", json!({"iss": null}), Issuer),
        ("iss as list", json!({"iss": ["https://idp.example/"]}), Issuer),
        ("iss without its slash", json!({"iss": "https://idp.example"}), Issuer),
        ("no aud", json!({"aud": null}), Audience),
        ("another aud", json!({"aud": "billing"}), Audience),
        ("aud of other type", json!({"aud": {"orders": true}}), Audience),
        ("aud with a number in it", json!({"aud": ["orders", 1]}), Audience),
        ("no aud in the list", json!({"aud": []}), Audience),
        ("aud in another case", json!({"aud": "Orders"}), Audience),
        ("no sub", json!({"sub": null}), Claims),
        ("empty sub", json!({"sub": ""}), Claims),
        ("sub as number", json!({"sub": 7}), Claims),
        ("sub with a line end", json!({"sub": "a\r\nx-org-id: b"}), Claims),
        ("long sub", json!({"sub": "x".repeat(256)}), Claims),
        ("no org", json!({"org_id": null}), Org),
        ("org as list", json!({"org_id": ["acme"]}), Org),
        ("org that is none", json!({"org_id": "a b"}), Org),
        ("org with a line end", json!({"org_id": "a\nb"}), Org),
        ("scope as number", json!({"scope": 1}), Claims),
        ("scope with a number in it", json!({"scope": ["read", 1]}), Claims),
    ] {
        assert_eq!(with(changes).map(|_| ()), Err(want), "{name}");
    }
}

#[test]
fn what_is_near_the_edge_holds() {
    for (name, changes) in [
        ("aud in a list", json!({"aud": ["billing", "orders-api"]})),
        ("nbf just ahead", json!({"nbf": NOW + 10})),
        ("iat just ahead", json!({"iat": NOW + 10})),
        ("as long as allowed", json!({"iat": NOW - 3540})),
        ("exp with a fraction", json!({"exp": NOW as f64 + 60.5})),
        ("long sub", json!({"sub": "x".repeat(255)})),
    ] {
        assert!(with(changes).is_ok(), "{name}");
    }
}

#[test]
fn only_the_map_gives_permissions() {
    let joined = |scope| {
        let meaning = with(json!({"scope": scope})).unwrap();
        permissions_of(meaning).joined().to_owned()
    };
    assert_eq!(joined(json!("read send *")), "", "words stand for nothing by themselves");
    assert_eq!(joined(json!("both orders:read")), "read send");
    assert_eq!(joined(json!(["both", "nothing"])), "read send");
    assert_eq!(joined(json!(["admin orders:read"])), "", "one text of a list is one word");
    assert_eq!(joined(json!("admin")), "*");
    assert_eq!(joined(json!("")), "");
    assert_eq!(joined(Value::Null), "");
}

#[test]
fn a_claim_is_there_once() {
    for text in [r#"{"exp":1,"exp":2}"#, "[]", "", "{", r#""x""#] {
        assert_eq!(
            Claims::parse(text.as_bytes()).map(|_| ()),
            Err(TokenFault::Malformed),
            "{text}"
        );
    }
}
