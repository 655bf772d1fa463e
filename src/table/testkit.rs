//! Signers, keys and files for tests of this room and of those above it. Imports core only.

#[cfg(test)]
use std::collections::BTreeMap;
#[cfg(test)]
use std::io::{Cursor, Read, Seek};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};

use super::write::{BodyBuilder, BuiltBody, Draft, InMemory, PatchDraft};
use super::*;
use crate::core::{
    Digest, Environment, Grant, KeyId, KeyKind, KeySpec, KeyStatus, Limit, LimitSet, NamedLimit,
    NetworkSet, OrgId, Permission, PermissionSet, PolicyName,
};

pub(crate) const AUDIENCE: &str = "test";

/// A signer derived from a number.
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

/// The `n`th key: active, single, with the permission to read.
pub(crate) fn spec(n: u32) -> KeySpec {
    KeySpec {
        id: KeyId::parse(&format!("key_{n:08}")).unwrap(),
        org: OrgId::parse(&format!("org-{}", n % 3)).unwrap(),
        name: format!("Key {n}").into(),
        digest: Digest::of(&n.to_le_bytes()),
        public_id: None,
        expires: None,
        grant: grant(),
        owner: None,
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
        limits: LimitSet::default(),
        sunset: None,
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

/// In the newest format.
pub(crate) fn body(specs: &[KeySpec]) -> BuiltBody<Cursor<Vec<u8>>> {
    body_in(TableFormat::NEWEST, specs)
}

pub(crate) fn body_in(format: TableFormat, specs: &[KeySpec]) -> BuiltBody<Cursor<Vec<u8>>> {
    let mut builder = BodyBuilder::new(InMemory, 1 << 20);
    builder.set_format(format);
    specs.iter().for_each(|spec| builder.push(spec).unwrap());
    builder.finish().unwrap()
}

/// The file of a draft, signed by each signer.
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

/// A table of this format, with limits of orgs, signed by signer 1.
pub(crate) fn table_in(
    format: TableFormat,
    serial: u64,
    specs: &[KeySpec],
    orgs: &BTreeMap<OrgId, LimitSet>,
) -> Table {
    let signer = Signer::new(1);
    let mut builder = BodyBuilder::new(InMemory, 1 << 20);
    builder.set_format(format);
    specs.iter().for_each(|spec| builder.push(spec).unwrap());
    orgs.iter().for_each(|(org, limits)| builder.org_limits(org, limits).unwrap());
    let draft = builder.finish().unwrap().into_table(issue(serial, &[&signer])).unwrap();
    Table::open(sealed(draft, &[&signer]), &signer.trust(), &Bounds::default()).unwrap()
}

/// A limit as a registry names it.
pub(crate) fn named(policy: &str, limit: &str) -> NamedLimit {
    NamedLimit { policy: PolicyName::parse(policy).unwrap(), limit: Limit::parse(limit).unwrap() }
}

/// A patch signed by signer 1.
pub(crate) fn patch(draft: PatchDraft, issue: Issue) -> Patch {
    let signer = Signer::new(1);
    let file = sealed(draft.build(issue).unwrap(), &[&signer]);
    Patch::open(file, &signer.trust(), &Bounds::default()).unwrap()
}
