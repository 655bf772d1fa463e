//! User tokens and JWK Sets: claims and headers behind a right signature, and bytes as they come.

#![cfg_attr(fuzzing, no_main)]

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use keygate::core::{ClaimReading, Now, TokenFault, TokenOnward};
use keygate::token::verify::Issuers;
use keygate::token::{IssuerRules, JwkSet, TokenAlgorithm, Unverified};
#[cfg(fuzzing)]
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

const NOW: u64 = 1_800_000_000;
const HEADER: &str = r#"{"alg":"EdDSA","kid":"ed"}"#;
const CLAIMS: &str =
    r#"{"iss":"https://idp.example/","aud":"orders","sub":"u","org":"acme","exp":1800000060}"#;

struct OneIssuer {
    rules: IssuerRules,
    keys: JwkSet,
    signer: Ed25519KeyPair,
}

static ISSUER: LazyLock<OneIssuer> = LazyLock::new(|| {
    let signer = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("a seed");
    let x = b64(signer.public_key().as_ref());
    let set = format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","kid":"ed","x":"{x}"}}]}}"#);
    let keys = JwkSet::parse(set.as_bytes(), &TokenAlgorithm::ALL).expect("a set");
    let rules = IssuerRules {
        issuer: "https://idp.example/".into(),
        audiences: vec!["orders".into()],
        algorithms: TokenAlgorithm::ALL.to_vec(),
        types: Vec::new(),
        max_life: Duration::from_secs(3600),
        reading: Arc::new(ClaimReading {
            org_claim: "org".into(),
            permissions_claim: Some("scope".into()),
            ..ClaimReading::default()
        }),
        onward: TokenOnward::Remove,
        limit: None,
    };
    OneIssuer { rules, keys, signer }
});

impl Issuers for OneIssuer {
    fn rules(&self, issuer: &str) -> Option<&IssuerRules> {
        Some(&self.rules).filter(|rules| *rules.issuer == *issuer)
    }

    fn keys(&self, _: &str) -> Option<&JwkSet> {
        Some(&self.keys)
    }
}

fn b64(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

fn signed(header: &[u8], claims: &[u8]) -> String {
    let message = format!("{}.{}", b64(header), b64(claims));
    let signature = ISSUER.signer.sign(message.as_bytes());
    format!("{message}.{}", b64(signature.as_ref()))
}

fn judge(token: &[u8]) -> Result<(), TokenFault> {
    let now = Now { unix_ms: NOW * 1000, mono_ns: 0 };
    let unverified = Unverified::read(token, &*ISSUER, now).map_err(|unread| unread.fault)?;
    let token = unverified.verify()?;
    assert!(
        token.expires() > NOW
            && !token.subject().is_empty()
            && token.permissions().joined().is_empty()
    );
    Ok(())
}

fuzz_target!(|data: &[u8]| {
    let Some((kind, data)) = data.split_first() else { return };
    match kind % 4 {
        0 => {
            if judge(signed(HEADER.as_bytes(), data).as_bytes()).is_ok() {
                // Another reader of the same claims agrees.
                let claims: Value = serde_json::from_slice(data).expect("JSON");
                assert_eq!(claims["iss"], "https://idp.example/");
                let exp = claims["exp"].as_f64().expect("a number");
                // A life of at most an hour, in whole seconds, and `iat` up to ten ahead.
                assert!(exp > NOW as f64 && exp < (NOW + 3611) as f64, "{exp}");
                let list = claims["aud"].as_array().cloned();
                let aud = list.unwrap_or_else(|| vec![claims["aud"].clone()]);
                assert!(aud.contains(&"orders".into()));
                assert!(claims["org"].is_string() && claims["sub"].is_string());
            }
        }
        1 => {
            if judge(signed(data, CLAIMS.as_bytes()).as_bytes()).is_ok() {
                let header: Value = serde_json::from_slice(data).expect("JSON");
                assert_eq!(header["alg"], "EdDSA");
                assert!(header.get("kid").is_none_or(|kid| kid.is_null() || kid == "ed"));
                assert!(header.get("crit").is_none() && header.get("b64").is_none());
            }
        }
        2 => {
            let genuine = signed(HEADER.as_bytes(), CLAIMS.as_bytes());
            if judge(data).is_ok() {
                assert_eq!(data, genuine.as_bytes(), "forged");
            }
        }
        _ => {
            if let Ok(found) = JwkSet::parse(data, &TokenAlgorithm::ALL) {
                let set: Value = serde_json::from_slice(data).expect("JSON");
                let keys = set["keys"].as_array().expect("a list");
                // Nothing that everybody can sign with counts.
                let is_public = |key: &&Value| key["kty"] != "oct" && key.get("d").is_none();
                assert!(found.len() <= keys.iter().filter(is_public).count());
            }
        }
    }
});
