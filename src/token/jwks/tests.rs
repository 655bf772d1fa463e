//! Which sets are accepted, and which of their keys.

use serde_json::json;

use super::*;

fn b64(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

fn ec(changes: Value) -> Value {
    let mut key = json!({
        "kty": "EC", "crv": "P-256", "kid": "a", "x": b64(&[1; 32]), "y": b64(&[2; 32]),
    });
    for (name, value) in changes.as_object().unwrap() {
        key.as_object_mut().unwrap().insert(name.clone(), value.clone());
    }
    key
}

fn parse(keys: &[Value]) -> Result<JwkSet, JwksError> {
    JwkSet::parse(json!({ "keys": keys }).to_string().as_bytes(), &TokenAlgorithm::ALL)
}

#[test]
fn what_is_no_public_set_is_refused_whole() {
    for (name, keys, want) in [
        (
            "two of a name",
            vec![ec(json!({})), ec(json!({"x": b64(&[9; 32])}))],
            JwksError::SameKid("a".into()),
        ),
        ("no object", vec![json!(1)], JwksError::NotASet),
        (
            "too many",
            (0..65).map(|n| ec(json!({ "kid": n.to_string() }))).collect(),
            JwksError::TooMany,
        ),
    ] {
        assert_eq!(parse(&keys).map(|_| ()), Err(want), "{name}");
    }
    for text in ["", "{}", "[]", r#"{"keys":{}}"#, r#"{"keys":[],"keys":[]}"#] {
        let parsed = JwkSet::parse(text.as_bytes(), &TokenAlgorithm::ALL);
        assert_eq!(parsed.map(|_| ()), Err(JwksError::NotASet), "{text}");
    }
    let long = vec![b' '; LONGEST_SET + 1];
    assert_eq!(JwkSet::parse(&long, &TokenAlgorithm::ALL).map(|_| ()), Err(JwksError::TooLong));
}

/// A key that contradicts itself is useless; the others are fine.
#[test]
fn what_is_for_something_else_is_passed_over() {
    let rsa =
        |bytes: usize| json!({"kty": "RSA", "kid": "r", "e": "AQAB", "n": b64(&vec![0xff; bytes])});
    for (name, key) in [
        ("for encryption", ec(json!({"use": "enc"}))),
        ("use of another type", ec(json!({"use": ["sig"]}))),
        ("not to verify", ec(json!({"key_ops": ["sign"]}))),
        ("alg of another curve", ec(json!({"alg": "ES384"}))),
        ("alg of another kind", ec(json!({"alg": "RS256"}))),
        ("symmetric alg", ec(json!({"alg": "HS256"}))),
        ("curve of another width", ec(json!({"crv": "P-384"}))),
        ("a curve that is not taken", ec(json!({"crv": "secp256k1"}))),
        ("Edwards curve with EC", ec(json!({"crv": "Ed25519"}))),
        ("short coordinate", ec(json!({"x": b64(&[1; 31])}))),
        ("padded coordinate", ec(json!({"x": format!("{}=", b64(&[1; 32]))}))),
        ("kid of another type", ec(json!({"kid": 1}))),
        ("OKP with another curve", json!({"kty": "OKP", "crv": "X25519", "x": b64(&[1; 32])})),
        ("short OKP", json!({"kty": "OKP", "crv": "Ed25519", "x": b64(&[1; 31])})),
        ("RSA of 1024 bits", rsa(128)),
        ("RSA of 16384 bits", rsa(2048)),
        ("no kind", json!({"kid": "x"})),
        ("unknown kind", json!({"kty": "AKP", "alg": "ML-DSA-44", "pub": "AA"})),
    ] {
        let alone = parse(std::slice::from_ref(&key)).unwrap();
        assert_eq!((alone.len(), alone.ignored.len()), (0, 1), "{name}");
        let set = parse(&[key, ec(json!({"kid": "good"}))]).unwrap();
        assert_eq!((set.len(), set.ignored.len()), (1, 1), "{name}");
    }
}

#[test]
fn a_key_is_found_by_name_or_by_being_the_only_one() {
    let es256 = TokenAlgorithm::Es256;
    let one = parse(&[ec(json!({}))]).unwrap();
    assert!(one.signer(Some("a"), es256).is_ok());
    assert!(one.signer(None, es256).is_ok());
    assert_eq!(one.signer(Some("b"), es256), Err(TokenFault::KeyUnknown));
    assert_eq!(one.signer(Some(""), es256), Err(TokenFault::KeyUnknown));
    assert_eq!(one.signer(Some("a"), TokenAlgorithm::Es384), Err(TokenFault::Algorithm));
    let two = parse(&[ec(json!({})), ec(json!({"kid": "b", "x": b64(&[9; 32])}))]).unwrap();
    assert!(two.signer(Some("b"), es256).is_ok());
    assert_eq!(two.signer(None, es256), Err(TokenFault::KeyUnknown));
    assert_ne!(two.signer(Some("a"), es256), two.signer(Some("b"), es256));
}

#[test]
fn an_algorithm_that_is_not_configured_has_no_key() {
    let set = json!({"keys": [ec(json!({}))]}).to_string();
    assert!(JwkSet::parse(set.as_bytes(), &[TokenAlgorithm::EdDsa]).unwrap().is_empty());
}

#[test]
fn the_same_set_is_the_same() {
    let (one, again) = (parse(&[ec(json!({}))]).unwrap(), parse(&[ec(json!({}))]).unwrap());
    assert!(one.is_same(&again));
    assert!(!one.is_same(&parse(&[ec(json!({"kid": "b"}))]).unwrap()));
    assert!(!one.is_same(&parse(&[ec(json!({"y": b64(&[7; 32])}))]).unwrap()));
}

/// Every reader of the set can sign with such a key: no entry for it counts, under whatever name.
#[test]
fn keys_that_leak_are_left_out() {
    let good = || ec(json!({"kid": "good", "x": b64(&[9; 32])}));
    let private = |name: &str| ec(json!({ name: b64(&[3; 32]) }));
    for leak in [
        private("d"),
        private("p"),
        private("k"),
        private("priv"),
        ec(json!({"d": 1, "use": "enc"})),
        ec(json!({"d": 1, "kid": "another name"})),
        json!({"kty": "EC", "kid": "a", "d": "AA"}),
        json!({"kty": "oct", "kid": "a", "k": "c2VjcmV0"}),
        json!({"kty": "oct", "kid": "a"}),
    ] {
        for keys in
            [vec![ec(json!({})), leak.clone(), good()], vec![leak.clone(), good(), ec(json!({}))]]
        {
            let set = parse(&keys).unwrap();
            assert_eq!((set.len(), set.leaked), (1, 1), "{leak}");
            assert!(set.signer(Some("good"), TokenAlgorithm::Es256).is_ok(), "{leak}");
        }
    }
    assert!(parse(&[]).unwrap().is_empty());
}
