//! The meet of two states of one key: what both of them admit, and never more than either. Pure. If
//! no key can express that, the key is disabled, and people settle it. Imports core and this room's
//! words.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::super::registry::entry::{Previous, RegistryEntry};
use super::losses::{Baseline, ThreeWayKey};
use crate::core::{Digest, Environment, KeySpec, KeyStatus, Permission, PermissionSet};

/// How long the second of two secrets lasts if two publishers each made one for the same pair.
const OVERLAP: u64 = 7 * 24 * 3600;

/// A key that both sides have, reduced to what both admit.
#[derive(Debug)]
pub struct Met {
    pub entry: RegistryEntry,
    /// What people have to settle, in words about the key.
    pub open: BTreeSet<&'static str>,
}

/// One secret about to enter the merged key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct KeptSecret {
    digest: Digest,
    /// Unix seconds.
    end: Option<u64>,
    /// Made by one of the two since the base, and so newer than a secret that the base has.
    is_new: bool,
    is_ours: bool,
}

/// Ours, without whatever `key.theirs` does not admit. `now` in Unix seconds.
pub fn meet(ours: &RegistryEntry, key: &ThreeWayKey, now: u64) -> Met {
    let mut met = Met { entry: ours.clone(), open: BTreeSet::new() };
    if ours.status.is_final() {
        return met;
    }
    if key.theirs.is_empty() {
        if !matches!(&key.base, Baseline::Known(base) if base.is_empty()) {
            met.disable("is not there, and is disabled here");
        }
        return met;
    }
    for theirs in &key.theirs {
        met.restrict(theirs);
    }
    if !met.entry.status.is_final() {
        met.secrets(key, now);
    }
    met
}

/// Ours, a successor that theirs does not know, minus what theirs has removed from `replaced`, the
/// key that it replaced: its callers are the same. The successor of a key that has ended there is
/// disabled, because theirs may have meant only the old secret.
pub fn meet_successor(ours: &RegistryEntry, replaced: &ThreeWayKey) -> Met {
    let mut met = Met { entry: ours.clone(), open: BTreeSet::new() };
    if ours.status.is_final() {
        return met;
    }
    if replaced.theirs.is_empty() {
        met.disable("replaced a key that is not there, and is disabled here");
        return met;
    }
    for theirs in &replaced.theirs {
        let mut theirs = theirs.clone();
        if theirs.grant.status.is_final() {
            met.disable("replaced a key that has ended there, and is disabled here");
            theirs.grant.status = KeyStatus::Disabled;
        }
        met.restrict(&theirs);
    }
    met.entry.expires = earlier(met.entry.expires, end_of(&replaced.theirs));
    if met.entry != *ours {
        met.open.insert("takes over what is said there of the key that it replaced");
    }
    met
}

// === impl Met ===

impl Met {
    fn disable(&mut self, why: &'static str) {
        self.entry.status = self.entry.status.max(KeyStatus::Disabled);
        self.open.insert(why);
    }

    fn restrict(&mut self, theirs: &KeySpec) {
        let grant = &theirs.grant;
        let entry = &mut self.entry;
        entry.status = entry.status.max(grant.status);
        entry.not_before = entry.not_before.max(grant.not_before);
        entry.permissions = permissions(&entry.permissions, &grant.permissions);
        entry.set_limits_in_force(entry.limits_in_force().meet(&grant.limits));
        let sunset = earlier(entry.sunset, grant.sunset);
        if sunset != grant.sunset {
            self.open.insert("has another sunset there; the earlier one, of here, stays");
        }
        entry.sunset = sunset;
        let nets: Vec<IpNet> = grant.networks.iter().copied().collect();
        match networks(&entry.networks, &nets) {
            Some(both) => entry.networks = both,
            None => self.disable("has other networks there, and no address is in both"),
        }
        match environment(self.entry.environment, grant.environment) {
            Some(one) => self.entry.environment = one,
            None => self.disable("is for another environment there"),
        }
        if theirs.org != self.entry.org {
            self.disable("belongs to another organization there");
        }
        if theirs.owner != self.entry.owner {
            self.disable("belongs to somebody else there");
        }
        if (theirs.grant.kind, &theirs.public_id) != (self.entry.kind(), &self.entry.public_id) {
            self.disable("has another public id there");
        }
    }

    /// The secrets of both, without those that either has ended.
    fn secrets(&mut self, key: &ThreeWayKey, now: u64) {
        let mut kept = self.kept(key);
        // Newest first. Of two new ones, ours comes first; of two old ones, the one that lasts.
        kept.sort_by_key(|secret| {
            let end = secret.end.unwrap_or(u64::MAX);
            std::cmp::Reverse((secret.is_new, end, secret.is_ours))
        });
        let entry = &mut self.entry;
        let is_pair = entry.public_id.is_some();
        let Some(first) = kept.first().copied() else {
            return self.disable("has no secret that both copies still have");
        };
        if kept.len() > 1 && !is_pair {
            return self.disable("has another secret there");
        }
        if first.digest != entry.digest {
            entry.key_prefix = "".into();
        }
        entry.digest = first.digest;
        entry.expires = first.end;
        entry.previous = kept.get(1).map(|second| Previous {
            digest: second.digest,
            expires: second.end.unwrap_or(now.saturating_add(OVERLAP)),
        });
        if kept.iter().filter(|secret| secret.is_new).count() > 1 {
            self.open.insert("was rotated by both: the secret made there ends in seven days");
        }
        if kept.len() > 2 {
            self.open.insert("was rotated by both: the secret before ends now");
        }
    }

    fn kept(&mut self, key: &ThreeWayKey) -> Vec<KeptSecret> {
        let base = match &key.base {
            Baseline::Known(base) if !base.is_empty() => Some(base),
            _ => None,
        };
        let was = |digest: Digest| base.map(|b| b.iter().any(|spec| spec.digest == digest));
        let is_own = |spec: &&KeySpec| spec.id == key.id;
        let has_own = key.theirs.iter().any(|spec| is_own(&spec));
        let mut kept = Vec::new();
        let own: Vec<KeySpec> = self.entry.specs().collect();
        // A rotation passes the key's end on to the new secret. So an end that one side has set
        // also applies to a secret that only the other side has.
        let (our_end, their_end) = (end_of(&own), end_of(key.theirs.iter().filter(is_own)));
        for ours in &own {
            let there = key.theirs.iter().find(|spec| spec.digest == ours.digest);
            let end = earlier(ours.expires, there.map_or(their_end, |there| there.expires));
            // Not there: either made here since, or ended there. If that cannot be determined, it
            // counts as ended.
            if there.is_some() || !has_own || was(ours.digest) == Some(false) {
                let is_new = was(ours.digest) == Some(false);
                kept.push(KeptSecret { digest: ours.digest, end, is_new, is_ours: true });
            }
        }
        for theirs in key.theirs.iter().filter(is_own) {
            if own.iter().any(|ours| ours.digest == theirs.digest) {
                continue;
            }
            if was(theirs.digest) == Some(false) {
                let (digest, end) = (theirs.digest, earlier(theirs.expires, our_end));
                kept.push(KeptSecret { digest, end, is_new: true, is_ours: false });
            } else {
                self.open.insert("has a secret there that this copy has ended, or never had");
            }
        }
        kept
    }
}

/// When a key ends, in Unix seconds: with its longest secret, which in a rotation is the current
/// one.
fn end_of<'s>(specs: impl IntoIterator<Item = &'s KeySpec>) -> Option<u64> {
    specs.into_iter().map(|spec| spec.expires).max_by_key(|end| end.unwrap_or(u64::MAX)).flatten()
}

/// The first of two instants, where `None` is never.
fn earlier(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    one.into_iter().chain(other).min()
}

/// Words that both hold, in our order.
fn permissions(ours: &[Permission], theirs: &PermissionSet) -> Vec<Permission> {
    let own = PermissionSet::new(ours.iter().cloned());
    let both = ours.iter().filter(|word| theirs.holds(word));
    // Our `*` may include words that theirs names.
    let covered = theirs.iter().filter(|word| own.holds(word) && !ours.contains(word));
    both.chain(covered).cloned().collect()
}

/// Addresses in both; empty lists mean everywhere. `None`: no address is in both.
fn networks(ours: &[IpNet], theirs: &[IpNet]) -> Option<Vec<IpNet>> {
    let (mine, other) = match (ours, theirs) {
        (all, []) | ([], all) => return Some(all.to_vec()),
        lists => lists,
    };
    // Two networks are disjoint, or one lies in the other.
    let inside = |a: &[IpNet], b: &[IpNet]| -> Vec<IpNet> {
        a.iter().filter(|net| b.iter().any(|around| around.contains(*net))).copied().collect()
    };
    let mut both = inside(mine, other);
    let more = inside(other, mine);
    both.extend(more.into_iter().filter(|net| !mine.contains(net)));
    (!both.is_empty()).then_some(both)
}

/// The environment of a key that fits both. `None`: no environment does. Naming one for a key that
/// had none narrows the key, although deployments that require one admit it from then on.
fn environment(
    ours: Option<Environment>,
    theirs: Option<Environment>,
) -> Option<Option<Environment>> {
    match (ours, theirs) {
        (one, other) if one == other => Some(one),
        (None, narrow) | (narrow, None) => Some(narrow),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
