//! What a patch forbids outlives the patch: its removals and restrictions stay in force over every
//! table whose publisher did not know of it. A key may then do only what both allow.
//! Imports core only.
//!
//! What patches say against a key is looked up by its id and by its secret. A secret under another
//! id is the same caller (two registries may have imported it separately). It is compared with a
//! record when a look-up reaches the record: so a patch costs its own size, whatever the size of
//! the table.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, OnceLock};

use super::body::FoundRecord;
use super::file::Patch;
use crate::core::{
    Digest, Environment, Grant, KeyId, KeyStatus, NetworkSet, Permission, PermissionSet,
};

/// Everything that patches say against keys.
#[derive(Debug, Default)]
pub(crate) struct Hold {
    removed: HashSet<Digest, BuildHasherDefault<First8>>,
    /// The id under which a secret is stated; several ids if patches disagree.
    stated: HashMap<Digest, Vec<KeyId>, BuildHasherDefault<First8>>,
    keys: HashMap<KeyId, Against>,
}

/// What is left of one record.
#[derive(Clone, Copy, Debug)]
pub(crate) enum HeldVerdict<'h> {
    Free,
    Removed,
    Restricted { grant: &'h Grant, expires: Option<u64> },
}

/// Everything that patches say against one key.
#[derive(Debug, Default)]
struct Against {
    whole: bool,
    stated: Vec<(Grant, Option<u64>)>,
    met: Met,
}

/// The records of one key that look-ups have reached, one or two of them, as a list that grows
/// without a lock.
#[derive(Debug, Default)]
struct Met(OnceLock<Box<(Left, Self)>>);

/// What is left of a record's grant.
#[derive(Debug)]
struct Left {
    digest: Digest,
    /// `None`: all of it.
    allowed: Option<(Grant, Option<u64>)>,
}

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

// === impl Hold ===

impl Hold {
    pub(crate) fn of(patches: &[Arc<Patch>]) -> Self {
        let mut hold = Self::default();
        for body in patches.iter().map(|patch| patch.body()) {
            for removal in body.removals() {
                hold.removed.insert(Digest(removal.digest));
                if removal.whole == 1 {
                    hold.keys.entry(KeyId::from_checked(removal.id)).or_default().whole = true;
                }
            }
            for found in body.iter() {
                let view = found.view();
                let ids = hold.stated.entry(found.digest()).or_default();
                if !ids.contains(&view.id) {
                    ids.push(view.id);
                }
                let against = hold.keys.entry(view.id).or_default();
                against.stated.push((view.grant.clone(), view.expires));
            }
        }
        hold
    }

    /// Every secret that is removed or stated, each once.
    pub(crate) fn digests(&self) -> impl Iterator<Item = &Digest> {
        let unremoved = self.stated.keys().filter(|digest| !self.removed.contains(*digest));
        self.removed.iter().chain(unremoved)
    }

    /// Names of the policies that it states limits for.
    pub(crate) fn policies(&self) -> impl Iterator<Item = &str> {
        let stated = self.keys.values().flat_map(|against| &against.stated);
        stated.flat_map(|(grant, _)| grant.limits.iter()).map(|named| named.policy.as_str())
    }

    /// What is left of a record in force.
    pub(crate) fn against(&self, found: FoundRecord<'_>) -> HeldVerdict<'_> {
        let (digest, id) = (found.digest(), found.id());
        if self.removed.contains(&digest) {
            return HeldVerdict::Removed;
        }
        let namesakes =
            self.stated.get(&digest).into_iter().flatten().filter(|other| **other != id);
        let ids = std::iter::once(&id).chain(namesakes);
        let mut all = ids.filter_map(|id| self.keys.get(id)).peekable();
        let Some(first) = all.peek().copied() else { return HeldVerdict::Free };
        if all.clone().any(|against| against.whole) {
            return HeldVerdict::Removed;
        }
        match first.met.left(found, all.flat_map(|against| &against.stated)) {
            None => HeldVerdict::Free,
            Some((grant, expires)) => HeldVerdict::Restricted { grant, expires: *expires },
        }
    }
}

// === impl Met ===

impl Met {
    fn left<'s>(
        &self,
        found: FoundRecord<'_>,
        stated: impl Iterator<Item = &'s (Grant, Option<u64>)>,
    ) -> Option<&(Grant, Option<u64>)> {
        let digest = found.digest();
        let (mut at, mut stated) = (self, Some(stated));
        loop {
            // Only the end of the list is made, so this runs once.
            let mut make = || Left::of(found, stated.take().into_iter().flatten());
            let (left, next) = &**at.0.get_or_init(|| Box::new((make(), Self::default())));
            if left.digest == digest {
                return left.allowed.as_ref();
            }
            at = next;
        }
    }
}

// === impl Left ===

impl Left {
    fn of<'s>(
        found: FoundRecord<'_>,
        stated: impl Iterator<Item = &'s (Grant, Option<u64>)>,
    ) -> Self {
        let view = found.view();
        let mut grant = view.grant.clone();
        let mut expires = view.expires;
        for (stated, until) in stated {
            match meet(&grant, stated) {
                Some(both) => grant = both,
                // Both together allow nothing: refuse it like a disabled key.
                None => grant.status = grant.status.max(KeyStatus::Disabled),
            }
            expires = earlier(expires, *until);
        }
        let is_all = grant == *view.grant && expires == view.expires;
        Self { digest: found.digest(), allowed: (!is_all).then_some((grant, expires)) }
    }
}

/// The grant that allows what both allow. `None`: they have nothing in common.
fn meet(a: &Grant, b: &Grant) -> Option<Grant> {
    if a.kind != b.kind {
        return None;
    }
    Some(Grant {
        // Each status is stricter than the ones before it; a canary stays one.
        status: a.status.max(b.status),
        kind: a.kind,
        environment: common_environment(a.environment, b.environment)?,
        not_before: a.not_before.max(b.not_before),
        permissions: common_permissions(&a.permissions, &b.permissions),
        networks: common_networks(&a.networks, &b.networks)?,
        limits: a.limits.meet(&b.limits),
        // It forbids nothing: callers keep the date that they know.
        sunset: earlier(a.sunset, b.sunset),
    })
}

/// Whether an address is in both.
pub(super) fn have_common_networks(a: &NetworkSet, b: &NetworkSet) -> bool {
    common_networks(a, b).is_some()
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

fn earlier(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, other) => one.or(other),
    }
}
