//! What is signed, how it is verified, and what it says.

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use serde_json::{Value, json};

use super::assertion::{AssertionBinding, Assertions, BoundRequest};
use super::credential::{FixedCredential, NoToken, UpstreamTokens};
use super::template::{ClaimSlot, ClaimsTemplate};
use super::*;
use crate::core::{
    Environment, Grant, KeyId, KeyKind, KeyStatus, KeyView, LimitSet, NetworkSet, OwnerView,
    Permission, PermissionSet,
};

/// RFC 8037 appendix A.1, as PKCS#8.
const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\n\
                       MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n\
                       -----END PRIVATE KEY-----\n";

const NOW: Now = Now { unix_ms: 1_800_000_000_700, mono_ns: 5_000_000_000 };

fn grant(words: &[&str], environment: Option<Environment>) -> Grant {
    Grant {
        status: KeyStatus::Active,
        kind: KeyKind::Single,
        environment,
        not_before: None,
        permissions: PermissionSet::new(words.iter().map(|w| Permission::parse(w).unwrap())),
        networks: NetworkSet::default(),
        limits: LimitSet::default(),
        sunset: None,
    }
}

fn key(grant: &Grant) -> KeyView<'_> {
    let id = KeyId::parse("key_abc").unwrap();
    KeyView { id, org: "acme", name: "", expires: None, grant, uses: None }
}

fn parts(token: &str) -> [Vec<u8>; 3] {
    let parts: Vec<_> =
        token.split('.').map(|part| BASE64_URL_SAFE_NO_PAD.decode(part).unwrap()).collect();
    parts.try_into().unwrap()
}

fn claims(token: &str) -> Value {
    serde_json::from_slice(&parts(token)[1]).unwrap()
}

fn assertions(binding: AssertionBinding) -> Assertions {
    Assertions {
        field: http::HeaderName::from_static("x-identity-assertion"),
        issuer: "keygate".into(),
        audience: "orders".into(),
        life: 60,
        binding,
        key: TokenKey::from_pem(PRIVATE.as_bytes(), None).unwrap().remove(0),
        also_published: Vec::new(),
    }
}

/// RFC 8037 appendix A.2 and A.3.
#[test]
fn the_public_part_and_its_thumbprint() {
    let key = TokenKey::from_pem(PRIVATE.as_bytes(), None).unwrap().remove(0);
    let set: Value = serde_json::from_str(&jwk_set(&[key.public().unwrap()])).unwrap();
    assert_eq!(
        set,
        json!({ "keys": [{
            "kty": "OKP",
            "crv": "Ed25519",
            "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
            "kid": "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k",
            "use": "sig",
            "alg": "EdDSA",
        }] })
    );
}

#[test]
fn an_assertion_says_who_calls_and_is_verified_by_the_public_key() {
    let grant = grant(&["send", "read"], Some(Environment::Live));
    let assertions = assertions(AssertionBinding::Key);
    let token = assertions.mint(&key(&grant), &assertions.audience, None, NOW).unwrap();
    assert_eq!(token.renew_ns, NOW.mono_ns + 30_000_000_000, "half of its life");
    let [head, _, signature] = parts(&token.text);
    let head: Value = serde_json::from_slice(&head).unwrap();
    let kid = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k";
    assert_eq!(head, json!({ "alg": "EdDSA", "kid": kid, "typ": "JWT" }));
    assert_eq!(
        claims(&token.text),
        json!({
            "iss": "keygate", "aud": "orders", "sub": "key_abc", "org": "acme",
            "scope": "read send", "env": "live", "iat": 1_800_000_000, "exp": 1_800_000_060,
        })
    );
    let (signed, _) = token.text.rsplit_once('.').unwrap();
    let public = *assertions.key.public().unwrap().as_bytes();
    UnparsedPublicKey::new(&ED25519, public).verify(signed.as_bytes(), &signature).unwrap();
    let bound = BoundRequest { method: "GET", path: "/v1/a%20b", request_id: "r-\"1" };
    let token = assertions.mint(&key(&grant), &assertions.audience, Some(bound), NOW).unwrap();
    let said = claims(&token.text);
    assert_eq!((&said["method"], &said["path"]), (&json!("GET"), &json!("/v1/a%20b")));
    assert_eq!(said["request_id"], "r-\"1");
}

/// A token never outlives its key.
#[test]
fn a_token_ends_with_its_key() {
    let grant = grant(&[], None);
    let key = KeyView { expires: Some(NOW.unix_secs() + 10), ..key(&grant) };
    let token = assertions(AssertionBinding::Key).mint(&key, "orders", None, NOW).unwrap();
    let said = claims(&token.text);
    assert_eq!(said["exp"], NOW.unix_secs() + 10);
    assert_eq!(token.renew_ns, NOW.mono_ns + 5_000_000_000);
    assert_eq!(said["scope"], "");
    assert!(said.get("env").is_none());
}

fn tokens(claims: &str) -> UpstreamTokens {
    let key = TokenKey::hs256(b"0123456789abcdef0123456789abcdef", None);
    let claims = ClaimsTemplate::parse(claims).unwrap();
    UpstreamTokens { key, claims, life: 120, scheme: "Bearer " }
}

#[test]
fn claims_are_literals_and_whole_values() {
    let grant = grant(&["send", "read"], None);
    let key = key(&grant);
    let owner = OwnerView { subject: "u-\"1\"", email: "kim@example.com", role: "admin" };
    let text = r#"{
        "user_id": "$owner.subject", "email": "$owner.email", "role": "$owner.role",
        "organization_id": "$org", "permissions": "$permissions",
        "price": "$$5", "n": [1, -2, 2.5, true, null, {"org": "$org"}],
        "iat": "$iat", "exp": "$exp"
    }"#;
    let tokens = tokens(text);
    let token = tokens.mint(&key, Some(owner), NOW).unwrap();
    let text = token.text.strip_prefix("Bearer ").unwrap();
    assert_eq!(
        claims(text),
        json!({
            "user_id": "u-\"1\"", "email": "kim@example.com", "role": "admin",
            "organization_id": "acme", "permissions": ["read", "send"],
            "price": "$5", "n": [1, -2, 2.5, true, null, {"org": "acme"}],
            "iat": 1_800_000_000, "exp": 1_800_000_120,
        })
    );
    let [head, _, signature] = parts(text);
    let head: Value = serde_json::from_slice(&head).unwrap();
    assert_eq!(head, json!({ "alg": "HS256", "typ": "JWT" }));
    let secret = hmac::Key::new(hmac::HMAC_SHA256, b"0123456789abcdef0123456789abcdef");
    let (signed, _) = text.rsplit_once('.').unwrap();
    hmac::verify(&secret, signed.as_bytes(), &signature).unwrap();
}

#[test]
fn no_token_without_a_claim() {
    let grant = grant(&[], None);
    let key = key(&grant);
    let owner = |email, role| Some(OwnerView { subject: "u-1", email, role });
    let missing = |claims: &str, owner| tokens(claims).mint(&key, owner, NOW).err();
    let all = r#"{"a":"$owner.subject","b":"$owner.email","c":"$owner.role","exp":"$exp"}"#;
    assert_eq!(missing(all, None), Some(NoToken::Missing(ClaimSlot::OwnerSubject)));
    assert_eq!(missing(all, owner("", "admin")), Some(NoToken::Missing(ClaimSlot::OwnerEmail)));
    assert_eq!(missing(all, owner("a@b", "")), Some(NoToken::Missing(ClaimSlot::OwnerRole)));
    assert_eq!(missing(all, owner("a@b", "admin")), None);
    // An empty permission list is a value too, and an org is always there.
    let others = r#"{"a":"$org","b":"$permissions","exp":"$exp"}"#;
    assert_eq!(missing(others, None), None);
}

#[test]
fn files_that_hold_no_signing_key() {
    let pem = |text: &str| TokenKey::from_pem(text.as_bytes(), None).map(|keys| keys.len());
    assert_eq!(pem(PRIVATE), Ok(1));
    assert_eq!(pem(&PRIVATE.repeat(2)), Ok(2));
    assert_eq!(pem(&PRIVATE.repeat(3)), Err(TokenKeyError::TooMany));
    assert_eq!(pem(&format!("text before\n{PRIVATE}text behind")), Ok(1));
    for text in ["", "secret", "-----BEGIN PRIVATE KEY-----", &PRIVATE.replace("MC4C", "M~4C")] {
        assert_eq!(pem(text), Err(TokenKeyError::NotPem), "{text}");
    }
    assert_eq!(pem(&PRIVATE.replace("PRIVATE", "PUBLIC")), Err(TokenKeyError::Public));
    let encrypted = PRIVATE.replace("PRIVATE", "ENCRYPTED PRIVATE");
    assert_eq!(pem(&encrypted), Err(TokenKeyError::NotPem));
    assert_eq!(pem(&PRIVATE.replace("MC4C", "MC4D")), Err(TokenKeyError::NotEd25519));
}

/// Neither key nor credential nor token prints itself.
#[test]
fn nothing_is_shown() {
    let fixed = FixedCredential::of(b"  Bearer s3cret-s3cret \n").unwrap();
    assert_eq!(fixed.as_str(), "Bearer s3cret-s3cret");
    let grant = grant(&[], None);
    let token = assertions(AssertionBinding::Key).mint(&key(&grant), "orders", None, NOW).unwrap();
    let tokens = tokens(r#"{"exp":"$exp"}"#);
    let shown = format!("{fixed:?} {tokens:?} {token:?} {:?}", assertions(AssertionBinding::Key));
    assert!(!shown.contains("s3cret") && !shown.contains("01234567") && !shown.contains("eyJ"));
    for bad in [&b""[..], b" \n", b"two\nlines", b"caf\xc3\xa9", b"nul\0", &[b'a'; 4097]] {
        assert!(FixedCredential::of(bad).is_none(), "{bad:?}");
    }
}
