//! Signers, keys and files for tests of this room and of those above it. Imports core only.

#[cfg(test)]
use std::io::{Cursor, Read, Seek};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};

use super::write::{BodyBuilder, BuiltBody, Draft, InMemory, PatchDraft};
use super::*;
use crate::core::{
    Digest, Environment, Grant, KeyId, KeyKind, KeySpec, KeyStatus, NetworkSet, OrgId, Permission,
    PermissionSet,
};

pub(crate) const AUDIENCE: &str = "test";

/// A signer made of a number.
pub(crate) struct Signer {
    pair: Ed25519KeyPair,
    pub(crate) key: PublicKey,
}

impl Signer {
    pub(crate) fn new(seed: u8) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
        let raw = pair.public_key().as_ref().try_into().unwrap();
        Self { pair, key: PublicKey::from_raw(raw).unwrap() }
    }

    pub(crate) fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.pair.sign(message).as_ref().try_into().unwrap()
    }

    pub(crate) fn trust(&self) -> Trust {
        Trust::new([self.key], 1, AUDIENCE).unwrap()
    }
}

/// The `n`th key: active, single, may read.
pub(crate) fn spec(n: u32) -> KeySpec {
    KeySpec {
        id: KeyId::parse(&format!("key_{n:08}")).unwrap(),
        org: OrgId::parse(&format!("org-{}", n % 3)).unwrap(),
        name: format!("Key {n}").into(),
        digest: Digest::of(&n.to_le_bytes()),
        public_id: None,
        expires: None,
        grant: grant(),
    }
}

/// The `n`th key as a pair.
pub(crate) fn pair_spec(n: u32) -> KeySpec {
    let mut spec = spec(n);
    spec.public_id = Some(format!("pub-{n}").into());
    spec.grant.kind = KeyKind::Pair;
    spec
}

pub(crate) fn grant() -> Grant {
    Grant {
        status: KeyStatus::Active,
        kind: KeyKind::Single,
        environment: Some(Environment::Live),
        not_before: None,
        permissions: permissions(&["read"]),
        networks: NetworkSet::default(),
        limit: None,
    }
}

pub(crate) fn permissions(words: &[&str]) -> PermissionSet {
    PermissionSet::new(words.iter().map(|w| Permission::parse(w).unwrap()))
}

/// What a publisher that knows of everything states.
pub(crate) fn issue(serial: u64, signers: &[&Signer]) -> Issue {
    Issue {
        serial,
        includes_through: serial,
        issued_at_ms: 1_000_000,
        expires_at: None,
        audience: AUDIENCE.into(),
        signers: signers.iter().map(|s| s.key.id()).collect(),
        acknowledge: Vec::new(),
    }
}

pub(crate) fn body(specs: &[KeySpec]) -> BuiltBody<Cursor<Vec<u8>>> {
    let mut builder = BodyBuilder::new(InMemory, 1 << 20);
    specs.iter().for_each(|spec| builder.push(spec).unwrap());
    builder.finish().unwrap()
}

/// The file of a draft, signed by each.
pub(crate) fn sealed<F: Read + Seek>(mut draft: Draft<F>, signers: &[&Signer]) -> Vec<u8> {
    for signer in signers {
        let signature = signer.sign(draft.message());
        draft.attach(&signer.key, &signature).unwrap();
    }
    let mut file = Vec::new();
    draft.write(&mut file).unwrap();
    file
}

pub(crate) fn table_file(specs: &[KeySpec], issue: Issue, signers: &[&Signer]) -> Vec<u8> {
    sealed(body(specs).into_table(issue).unwrap(), signers)
}

/// A table signed by signer 1.
pub(crate) fn table(serial: u64, specs: &[KeySpec]) -> Table {
    let signer = Signer::new(1);
    let file = table_file(specs, issue(serial, &[&signer]), &[&signer]);
    Table::open(file, &signer.trust(), &Bounds::default()).unwrap()
}

/// A patch signed by signer 1.
pub(crate) fn patch(draft: PatchDraft, issue: Issue) -> Patch {
    let signer = Signer::new(1);
    let file = sealed(draft.build(issue).unwrap(), &[&signer]);
    Patch::open(file, &signer.trust(), &Bounds::default()).unwrap()
}
