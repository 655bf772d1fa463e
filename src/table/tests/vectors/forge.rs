//! Makes files with faults behind a right signature.

use std::ops::Range;

use serde_json::json;

use super::bad::basic_file;
use super::good::keys;
use super::*;
use crate::core::Digest;
use crate::table::layout::Section;

/// Adds the order of the group to a scalar.
pub(super) fn add_group_order(scalar: &mut [u8]) {
    const L: [u8; 16] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde,
        0x14,
    ];
    let mut carry = 0u16;
    for (at, byte) in scalar.iter_mut().enumerate() {
        let l = if at == 31 { 0x10 } else { L.get(at).copied().unwrap_or(0) };
        let sum = u16::from(*byte) + u16::from(l) + carry;
        (*byte, carry) = (sum as u8, sum >> 8);
    }
}

/// In format 1.
pub(super) fn table_file_v1(
    specs: &[crate::core::KeySpec],
    issue: Issue,
    signers: &[&Signer],
) -> Vec<u8> {
    sealed(body_in(TableFormat::V1, specs).into_table(issue).unwrap(), signers)
}

pub(super) fn body_bytes() -> Vec<u8> {
    let file = basic_file();
    let body_bytes = body_in(TableFormat::V1, &keys()).bytes() as usize;
    file[file.len() - body_bytes..].to_vec()
}

/// Where a section lies in a body.
pub(super) fn range(body: &[u8], section: Section) -> Range<usize> {
    let length = |at: usize| u64::from_le_bytes(body[8 * at..8 * at + 8].try_into().unwrap());
    let mut start = 128;
    for at in 0..section as usize {
        start += (length(at) as usize).next_multiple_of(64);
    }
    start..start + length(section as usize) as usize
}

/// good/basic.kgt with changes, with its hash and length corrected and a new signature.
pub(super) fn forged(manifest: impl Fn(&mut Value), body: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    reforged(basic_file(), manifest, body)
}

pub(super) fn reforged(
    file: Vec<u8>,
    edit: impl Fn(&mut Value),
    change: impl Fn(&mut Vec<u8>),
) -> Vec<u8> {
    let envelope = envelope::Envelope::parse(&file).unwrap();
    let mut manifest: Value = serde_json::from_slice(envelope.manifest).unwrap();
    let mut body = file[envelope.body_at..].to_vec();
    change(&mut body);
    manifest["body_bytes"] = json!(body.len());
    manifest["body_sha256"] = json!(BodyHash(Digest::of(&body).0));
    edit(&mut manifest);
    let text = serde_json::to_vec(&manifest).unwrap();
    signed(&envelope::Envelope::message_of(envelope.format, &text), &body)
}

pub(super) fn signed(message: &[u8], body: &[u8]) -> Vec<u8> {
    let one = Signer::new(1);
    let entry = envelope::SignatureEntry { key: *one.key.as_bytes(), signature: one.sign(message) };
    [envelope::Envelope::head_of(message, &[entry]).as_slice(), body].concat()
}
