//! Forged, odd and foreign tokens.

use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
};
use serde_json::{Value, json};

use super::*;
use crate::core::{ClaimReading, TokenOnward};

const NOW: Now = Now { unix_ms: 1_800_000_000_000, mono_ns: 0 };

/// One issuer with an Edwards and a P-256 key.
struct OneIssuer {
    rules: IssuerRules,
    keys: Option<JwkSet>,
    ed: Ed25519KeyPair,
    ec: EcdsaKeyPair,
}

impl Issuers for OneIssuer {
    fn rules(&self, issuer: &str) -> Option<&IssuerRules> {
        Some(&self.rules).filter(|rules| *rules.issuer == *issuer)
    }

    fn keys(&self, _: &str) -> Option<&JwkSet> {
        self.keys.as_ref()
    }
}

fn b64(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

impl OneIssuer {
    fn new() -> Self {
        let ed = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
        let ec = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let point = &ec.public_key().as_ref()[1..];
        let set = json!({"keys": [
            {"kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": b64(ed.public_key())},
            {"kty": "EC", "crv": "P-256", "kid": "ec", "x": b64(&point[..32]), "y": b64(&point[32..])},
        ]});
        let keys = JwkSet::parse(set.to_string().as_bytes(), &TokenAlgorithm::ALL).unwrap();
        let rules = IssuerRules {
            issuer: "https://idp.example/".into(),
            audiences: vec!["orders".into()],
            algorithms: vec![TokenAlgorithm::EdDsa, TokenAlgorithm::Es256],
            types: Vec::new(),
            max_life: Duration::from_secs(3600),
            reading: Arc::new(ClaimReading { org_claim: "org".into(), ..ClaimReading::default() }),
            onward: TokenOnward::Remove,
            limit: None,
        };
        Self { rules, keys: Some(keys), ed, ec }
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        self.sign_text(&header.to_string(), &claims.to_string())
    }

    fn sign_text(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", b64(header), b64(claims));
        let signature = match header.contains("ES256") {
            true => {
                self.ec.sign(&SystemRandom::new(), message.as_bytes()).unwrap().as_ref().to_vec()
            }
            false => self.ed.sign(message.as_bytes()).as_ref().to_vec(),
        };
        format!("{message}.{}", b64(signature))
    }

    fn judge(&self, token: &str) -> Result<Arc<UserToken>, TokenFault> {
        let unverified = Unverified::read(token.as_bytes(), self, NOW).map_err(|u| u.fault)?;
        unverified.verify()
    }
}

fn claims() -> Value {
    json!({
        "iss": "https://idp.example/", "aud": "orders", "sub": "u", "org": "acme",
        "exp": NOW.unix_secs() + 60,
    })
}

#[test]
fn a_good_token_says_who_it_is() {
    let issuer = OneIssuer::new();
    for header in [
        json!({"alg": "EdDSA", "kid": "ed"}),
        json!({"alg": "EdDSA"}),
        json!({"alg": "ES256", "kid": "ec", "typ": "JWT"}),
    ] {
        let token = issuer.judge(&issuer.sign(&header, &claims())).unwrap();
        assert_eq!((token.subject(), token.org()), ("u", "acme"), "{header}");
    }
}

#[test]
fn a_header_cannot_choose_how_it_is_judged() {
    use TokenFault::*;
    let issuer = OneIssuer::new();
    let other = Ed25519KeyPair::from_seed_unchecked(&[8; 32]).unwrap();
    let own = json!({"kty": "OKP", "crv": "Ed25519", "x": b64(other.public_key())});
    for (name, header, want) in [
        ("none", json!({"alg": "none"}), Algorithm),
        ("None", json!({"alg": "None"}), Algorithm),
        ("HMAC", json!({"alg": "HS256", "kid": "ec"}), Algorithm),
        ("not configured", json!({"alg": "ES384", "kid": "ec"}), Algorithm),
        ("not the key's", json!({"alg": "ES256", "kid": "ed"}), Algorithm),
        ("no alg", json!({"kid": "ed"}), Malformed),
        ("alg of another type", json!({"alg": ["EdDSA"]}), Malformed),
        ("unknown kid", json!({"alg": "EdDSA", "kid": "x"}), KeyUnknown),
        ("kid of another type", json!({"alg": "EdDSA", "kid": 1}), Malformed),
        ("crit", json!({"alg": "EdDSA", "crit": ["exp"], "exp": 1}), Critical),
        ("empty crit", json!({"alg": "EdDSA", "crit": []}), Critical),
        ("crit of another type", json!({"alg": "EdDSA", "crit": null}), Critical),
        ("b64", json!({"alg": "EdDSA", "b64": false}), Critical),
    ] {
        assert_eq!(issuer.judge(&issuer.sign(&header, &claims())).err(), Some(want), "{name}");
    }
    // A key, or the address of one, in the header changes nothing.
    for (name, header) in [
        ("jwk", json!({"alg": "EdDSA", "kid": "ed", "jwk": own})),
        ("jku", json!({"alg": "EdDSA", "kid": "ed", "jku": "https://evil.example/"})),
        ("x5u", json!({"alg": "EdDSA", "kid": "ed", "x5u": "https://evil.example/"})),
    ] {
        let message = format!("{}.{}", b64(header.to_string()), b64(claims().to_string()));
        let forged = format!("{message}.{}", b64(other.sign(message.as_bytes())));
        assert_eq!(issuer.judge(&forged).err(), Some(Signature), "{name}");
        assert!(issuer.judge(&issuer.sign(&header, &claims())).is_ok(), "{name}");
    }
}

#[test]
fn hmac_with_the_public_key_is_no_signature() {
    let issuer = OneIssuer::new();
    let message = r#"{"alg":"HS256","kid":"ed"}"#;
    let message = format!("{}.{}", b64(message), b64(claims().to_string()));
    let key =
        aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, issuer.ed.public_key().as_ref());
    let tag = aws_lc_rs::hmac::sign(&key, message.as_bytes());
    let forged = format!("{message}.{}", b64(tag));
    assert_eq!(issuer.judge(&forged).err(), Some(TokenFault::Algorithm));
}

#[test]
fn one_token_has_one_reading() {
    use TokenFault::*;
    let issuer = OneIssuer::new();
    let good = issuer.sign(&json!({"alg": "EdDSA", "kid": "ed"}), &claims());
    let twice = r#"{"alg":"EdDSA","kid":"x","kid":"ed"}"#;
    let two_exp = claims().to_string().replacen('{', r#"{"exp":1,"#, 1);
    let (message, signature) = good.rsplit_once('.').unwrap();
    let header = r#"{"alg":"EdDSA"}"#;
    for (name, token, want) in [
        ("two kids", issuer.sign_text(twice, &claims().to_string()), Malformed),
        ("two exps", issuer.sign_text(header, &two_exp), Malformed),
        ("two parts", message.to_owned(), Malformed),
        ("four parts", format!("{good}.x"), Malformed),
        ("padding", format!("{good}="), Malformed),
        ("no signature", format!("{message}."), Signature),
        ("half a signature", format!("{message}.{}", &signature[..40]), Signature),
        ("a signature with more behind it", format!("{good}AAAA"), Signature),
        ("no JSON", issuer.sign_text(header, "x"), Malformed),
        ("a list", issuer.sign_text(header, "[]"), Malformed),
        ("9 KiB", issuer.sign_text(header, &format!("{}{}", claims(), " ".repeat(9 * 1024))), Size),
    ] {
        assert_eq!(issuer.judge(&token).err(), Some(want), "{name}");
    }
    assert!(issuer.judge(&good).is_ok());
    // The last character of a signature has unused bits, so there is another spelling.
    let mut bytes = good.clone().into_bytes();
    let last = bytes.last_mut().unwrap();
    *last = if *last == b'A' { b'B' } else { *last + 1 };
    let other = String::from_utf8(bytes).unwrap();
    assert_eq!(issuer.judge(&other).err(), Some(Signature));
}

#[test]
fn typ_counts_where_it_is_configured() {
    let mut issuer = OneIssuer::new();
    issuer.rules.types = vec!["at+jwt".into()];
    for (typ, want) in [
        (json!("at+jwt"), None),
        (json!("application/AT+JWT"), None),
        (json!("JWT"), Some(TokenFault::Type)),
        (Value::Null, Some(TokenFault::Type)),
    ] {
        let token = issuer.sign(&json!({"alg": "EdDSA", "typ": typ}), &claims());
        assert_eq!(issuer.judge(&token).err(), want, "{typ}");
    }
    let without = issuer.sign(&json!({"alg": "EdDSA"}), &claims());
    assert_eq!(issuer.judge(&without).err(), Some(TokenFault::Type));
}

#[test]
fn without_keys_nothing_is_taken() {
    let mut issuer = OneIssuer::new();
    let token = issuer.sign(&json!({"alg": "EdDSA"}), &claims());
    issuer.keys = None;
    assert_eq!(issuer.judge(&token).err(), Some(TokenFault::KeysMissing));
}

#[test]
fn the_form_of_a_token() {
    for (text, want) in [
        ("a.b.c", true),
        ("a.b.", true),
        ("a.b", false),
        (".b.c", false),
        ("a..c", false),
        ("a.b.c.d", false),
        ("a.b.c.d.e", false),
        ("a.b.c=", false),
        ("wa_0123", false),
        ("", false),
    ] {
        assert_eq!(looks_like_token(text.as_bytes()), want, "{text}");
    }
}

/// Tokens of PyJWT, jose (npm) and Go's standard library, with their keys: made by the programs
/// next to them.
#[test]
fn tokens_of_other_libraries() {
    let text = include_str!("../../../tests/data/tokens/vectors.json");
    let vectors: Value = serde_json::from_str(text).unwrap();
    let mut seen = 0;
    for maker in vectors.as_array().unwrap() {
        let mut issuer = OneIssuer::new();
        let set = maker["jwks"].to_string();
        issuer.keys = Some(JwkSet::parse(set.as_bytes(), &TokenAlgorithm::ALL).unwrap());
        issuer.rules.algorithms = TokenAlgorithm::ALL.to_vec();
        issuer.rules.max_life = Duration::from_secs(u64::MAX);
        for vector in maker["tokens"].as_array().unwrap() {
            let name = format!("{} {}", maker["made_by"], vector["name"]);
            let judged = issuer.judge(vector["token"].as_str().unwrap());
            let got = judged.map_or_else(TokenFault::as_str, |_| "accepted");
            assert_eq!(got, vector["result"].as_str().unwrap(), "{name}");
            seen += 1;
        }
    }
    assert!(seen >= 30, "{seen}");
}

/// Later rules put the same questions to a verified token as a request with it would.
#[test]
fn rules_that_change_are_asked_again() {
    use TokenFault::*;
    let issuer = OneIssuer::new();
    let mut claims = claims();
    claims["aud"] = json!(["orders", "billing", "two\nlines"]);
    claims["iat"] = json!(NOW.unix_secs());
    let header = json!({"alg": "EdDSA", "kid": "ed", "typ": "application/AT+JWT"});
    let token = issuer.judge(&issuer.sign(&header, &claims)).unwrap();
    type Change = fn(&mut IssuerRules);
    let changes: [(&str, Change, Result<(), TokenFault>); 9] = [
        ("nothing", |_| {}, Ok(())),
        ("another of its audiences", |r| r.audiences = vec!["billing".into()], Ok(())),
        ("no audience of its own", |r| r.audiences = vec!["other".into()], Err(Audience)),
        ("half of an audience", |r| r.audiences = vec!["lines".into()], Err(Audience)),
        ("other algorithms", |r| r.algorithms = vec![TokenAlgorithm::Es256], Err(Algorithm)),
        ("its type", |r| r.types = vec!["at+jwt".into()], Ok(())),
        ("another type", |r| r.types = vec!["jwt".into()], Err(Type)),
        ("as long a life", |r| r.max_life = Duration::from_secs(60), Ok(())),
        ("a shorter life", |r| r.max_life = Duration::from_secs(59), Err(Lifetime)),
    ];
    for (name, change, want) in changes {
        let mut rules = issuer.rules.clone();
        change(&mut rules);
        assert_eq!(rules.take(token.said(), NOW), want, "{name}");
    }
    let later = Now { unix_ms: NOW.unix_ms + 60_000, ..NOW };
    assert_eq!(issuer.rules.take(token.said(), later), Err(Expired));
}

/// The words of the permission claim are kept, so that another map gives other permissions.
#[test]
fn claims_are_read_again_by_another_map() {
    let mut issuer = OneIssuer::new();
    let reading = |claim: Option<&str>, permission: &str| {
        let permission = crate::core::Permission::parse(permission).unwrap();
        Arc::new(ClaimReading {
            org_claim: "org".into(),
            permissions_claim: claim.map(Into::into),
            permissions: [("orders:read".into(), vec![permission])].into(),
            ..ClaimReading::default()
        })
    };
    issuer.rules.reading = reading(Some("scope"), "read");
    let mut claims = claims();
    claims["scope"] = json!("orders:read other");
    let token = issuer.judge(&issuer.sign(&json!({"alg": "EdDSA"}), &claims)).unwrap();
    assert!(Arc::ptr_eq(&token, &token.read_again(&issuer.rules.reading).unwrap()));
    let joined = |reading| token.read_again(&reading).map(|t| t.permissions().joined().to_owned());
    assert_eq!(joined(reading(Some("scope"), "read")), Ok("read".to_owned()));
    assert_eq!(joined(reading(Some("scope"), "send")), Ok("send".to_owned()));
    assert_eq!(joined(reading(None, "send")), Ok(String::new()), "no permission is for sure");
    assert_eq!(joined(reading(Some("roles"), "read")), Err(TokenFault::Claims), "not kept");
    let other = ClaimReading { org_claim: "tenant".into(), ..ClaimReading::default() };
    assert_eq!(joined(Arc::new(other)), Err(TokenFault::Claims), "not kept");
}
