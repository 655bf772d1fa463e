//! Puts a right head before any body: written from docs/table-format.md, not with the crate's writer.

#![allow(dead_code, reason = "each target needs its part")]

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use keygate::table::{Base, Bounds, PublicKey, Trust};
use serde_json::{Value, json};

pub const AUDIENCE: &str = "test";

pub fn bounds() -> Bounds {
    Bounds { max_bytes: 1 << 20 }
}

pub fn trust() -> Trust {
    Trust::new([public_key()], 1, AUDIENCE).expect("one signer")
}

pub fn pair() -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[1; 32]).expect("a seed")
}

pub fn public_key() -> PublicKey {
    let raw = pair().public_key().as_ref().try_into().expect("32 bytes");
    PublicKey::from_raw(raw).expect("an ordinary key")
}

/// The version of the format that the input is read as: its last bit, of a byte in front.
pub fn format(input: &[u8]) -> (u8, &[u8]) {
    match input.split_first() {
        Some((first, rest)) => (1 + (first & 1), rest),
        None => (1, input),
    }
}

/// A file with this manifest and body, signed.
pub fn file(format: u8, manifest: &[u8], body: &[u8]) -> Vec<u8> {
    let mut file = b"keygate".to_vec();
    file.push(format);
    file.extend((manifest.len() as u32).to_le_bytes());
    file.extend(manifest);
    let signature = pair().sign(&file);
    file.extend(1u32.to_le_bytes());
    file.extend(pair().public_key().as_ref());
    file.extend(signature.as_ref());
    file.resize(file.len().next_multiple_of(64), 0);
    file.extend(body);
    file
}

/// A manifest that fits the body, as far as the body can be counted.
pub fn manifest(format: u8, serial: u64, base: Option<Base>, body: &[u8]) -> Value {
    let hash = digest(&SHA256, body);
    let hex: String = hash.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    let section = |at: usize| {
        let field = body.get(8 * at..8 * at + 8)?;
        usize::try_from(u64::from_le_bytes(field.try_into().ok()?)).ok()
    };
    let records = section(0).unwrap_or(0);
    let mut manifest = json!({
        "format": format,
        "kind": if base.is_some() { "patch" } else { "table" },
        "serial": serial,
        "includes_through": serial,
        "issued_at_ms": 1_000_000,
        "audience": AUDIENCE,
        "signers": [public_key().id()],
        "keys": records / 64,
        "active": active(body).unwrap_or(0),
        "body_bytes": body.len(),
        "body_sha256": hex,
        "acknowledge": ["empty", "shrink"],
    });
    if let Some(base) = base {
        manifest["base"] = json!(base);
        manifest["removed"] = json!(section(7).unwrap_or(0) / 64);
    }
    manifest
}

/// Records whose grant is active.
fn active(body: &[u8]) -> Option<u64> {
    let length = |at: usize| -> Option<usize> {
        u64::from_le_bytes(body.get(8 * at..8 * at + 8)?.try_into().ok()?).try_into().ok()
    };
    let padded = |at: usize| length(at)?.checked_next_multiple_of(64);
    let records = body.get(128..128usize.checked_add(length(0)?)?)?;
    let grants_at = 128usize.checked_add(padded(0)?)?.checked_add(padded(1)?)?;
    let grants = body.get(grants_at..grants_at.checked_add(length(2)?)?)?;
    let mut active = 0;
    for record in records.chunks_exact(64) {
        let grant = u32::from_le_bytes(record[52..56].try_into().ok()?) as usize;
        if *grants.get(grant.checked_mul(40)?)? == 1 {
            active += 1;
        }
    }
    Some(active)
}
