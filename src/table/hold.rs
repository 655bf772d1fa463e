//! What a patch forbids outlives the patch: its removals and restrictions stay in force over every
//! table whose publisher did not know of it. A key may then do only what both allow.
//! Imports core only.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use super::file::Patch;
use super::keyset::KeySet;
use crate::core::{
    Digest, Environment, Grant, KeyId, Limit, NetworkSet, Permission, PermissionSet, Status,
};

/// What became of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    Removed,
    Restricted { grant: Grant, expires: Option<u64> },
}

/// Everything that patches say against one key.
#[derive(Default)]
struct Against<'p> {
    whole: bool,
    stated: Vec<(&'p Grant, Option<u64>)>,
}

/// Digests are uniform already: their first bytes are a good hash.
pub(crate) type ByDigest = BuildHasherDefault<First8>;

#[derive(Default)]
pub(crate) struct First8(u64);

// === impl First8 ===

impl Hasher for First8 {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 = u64::from_le_bytes(*first);
        }
    }

    fn write_usize(&mut self, _: usize) {
        // The length of the array, always 32.
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// The records of `set` that `patches` forbid or restrict. Walks the whole table once.
pub(crate) fn restrict(set: &KeySet, patches: &[Arc<Patch>]) -> HashMap<Digest, Held, ByDigest> {
    let mut digests: HashSet<[u8; 32]> = HashSet::new();
    let mut keys: HashMap<KeyId, Against<'_>> = HashMap::new();
    for body in patches.iter().map(|patch| patch.body()) {
        for removal in body.removals() {
            digests.insert(removal.digest);
            if removal.whole == 1 {
                keys.entry(KeyId::from_checked(removal.id)).or_default().whole = true;
            }
        }
        for found in body.iter() {
            let view = found.view();
            keys.entry(view.id).or_default().stated.push((view.grant, view.expires));
        }
    }
    let mut out = HashMap::default();
    for found in set.raw_iter() {
        let held = if digests.contains(&found.record.digest) {
            Held::Removed
        } else {
            match keys.get(&found.id()) {
                None => continue,
                Some(against) if against.whole => Held::Removed,
                Some(against) => {
                    let view = found.view();
                    let mut grant = view.grant.clone();
                    let mut expires = view.expires;
                    for (stated, until) in &against.stated {
                        match meet(&grant, stated) {
                            Some(both) => grant = both,
                            // Nothing is allowed by both: refused as disabled would be.
                            None => grant.status = grant.status.max(Status::Disabled),
                        }
                        expires = earlier(expires, *until);
                    }
                    if grant == *view.grant && expires == view.expires {
                        continue;
                    }
                    Held::Restricted { grant, expires }
                }
            }
        };
        out.insert(found.digest(), held);
    }
    out
}

/// The grant that allows what both allow. `None`: they have nothing in common.
fn meet(a: &Grant, b: &Grant) -> Option<Grant> {
    if a.kind != b.kind {
        return None;
    }
    Some(Grant {
        // Revoked is stricter than disabled is stricter than active.
        status: a.status.max(b.status),
        kind: a.kind,
        environment: common_environment(a.environment, b.environment)?,
        not_before: a.not_before.max(b.not_before),
        permissions: common_permissions(&a.permissions, &b.permissions),
        networks: common_networks(&a.networks, &b.networks)?,
        limit: slower(a.limit, b.limit),
    })
}

fn common_environment(
    a: Option<Environment>,
    b: Option<Environment>,
) -> Option<Option<Environment>> {
    match (a, b) {
        (None, one) | (one, None) => Some(one),
        (Some(a), Some(b)) => (a == b).then_some(Some(a)),
    }
}

fn common_permissions(a: &PermissionSet, b: &PermissionSet) -> PermissionSet {
    let of = |from: &PermissionSet, other: &PermissionSet| -> Vec<Permission> {
        from.iter().filter(|word| other.holds(word)).cloned().collect()
    };
    PermissionSet::new([of(a, b), of(b, a)].concat())
}

/// `None`: each names networks, and no address is in both.
fn common_networks(a: &NetworkSet, b: &NetworkSet) -> Option<NetworkSet> {
    if a.is_empty() {
        return Some(b.clone());
    }
    if b.is_empty() {
        return Some(a.clone());
    }
    // Two networks are disjoint, or one lies in the other.
    let inside = |from: &NetworkSet, other: &NetworkSet| -> Vec<_> {
        from.iter().filter(|net| other.iter().any(|o| o.contains(*net))).copied().collect()
    };
    let common = NetworkSet::new([inside(a, b), inside(b, a)].concat());
    (!common.is_empty()).then_some(common)
}

/// The limit with the lower steady rate.
fn slower(a: Option<Limit>, b: Option<Limit>) -> Option<Limit> {
    let (Some(a), Some(b)) = (a, b) else {
        return a.or(b);
    };
    let cross = |one: Limit, other: Limit| u128::from(one.count()) * other.window().as_millis();
    Some(if cross(a, b) <= cross(b, a) { a } else { b })
}

fn earlier(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, other) => one.or(other),
    }
}
