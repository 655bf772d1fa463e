//! The keys in force: a table, the patch over it, and the restrictions of patches that neither of
//! them includes yet. Imports core only.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

use super::body::{Counts, FoundRecord};
use super::entry::{KeyEntry, OrgLimits};
use super::file::{Patch, Table};
use super::hold::{HeldVerdict, Hold};
use super::use_block::UseBlock;
use crate::core::format::KeyFormats;
use crate::core::{
    Digest, KeyId, KeyKind, KeyLookup, KeyStatus, KeyView, LimitSet, OwnerView, PairLookup,
};

/// What a snapshot holds for look-ups. Made when something is put in force, never per request.
#[derive(Debug)]
pub struct KeySet {
    table: Arc<Table>,
    patch: Option<Arc<Patch>>,
    hold: Option<Hold>,
    held_patches: usize,
    refuse_from: Option<u64>,
    counts: Counts,
    /// Limits of orgs that held patches lower.
    held_orgs: BTreeMap<Box<str>, LimitSet>,
    /// Whether any org may have a limit: most tables have none, and then requests skip the look-up.
    has_org_limits: bool,
}

// === impl KeySet ===

impl KeySet {
    /// `patch` must have been made over `table`, otherwise it is left out. `held` are patches
    /// whose removals and restrictions stay in force although they are not `patch`. Nothing is
    /// admitted from `refuse_from` (Unix seconds) on.
    pub fn new(
        table: Arc<Table>,
        patch: Option<Arc<Patch>>,
        held: &[Arc<Patch>],
        refuse_from: Option<u64>,
    ) -> Self {
        let patch = patch.filter(|patch| patch.is_over(&table));
        let mut counts = table.counts();
        if let Some(patch) = patch.as_deref().map(Patch::body) {
            let replaced = patch.iter().map(|found| found.record.digest);
            for digest in replaced.chain(patch.removals().iter().map(|r| r.digest)) {
                if let Some(old) = table.body().find(&digest) {
                    counts.take(old);
                }
            }
            patch.iter().for_each(|found| counts.give(found.view().grant.status, found.kind()));
        }
        let hold = (!held.is_empty()).then(|| Hold::of(held));
        let held_orgs = BTreeMap::new();
        let held_patches = held.len();
        let mut set = Self {
            table,
            patch,
            hold,
            held_patches,
            refuse_from,
            counts,
            held_orgs,
            has_org_limits: false,
        };
        for stated in held.iter().flat_map(|patch| patch.org_limits()) {
            // Combined with what is in force, and with what earlier held patches have left.
            let limits = set.org_limits(stated.org).meet(stated.limits);
            set.held_orgs.insert(stated.org.into(), limits);
        }
        for digest in set.hold.iter().flat_map(Hold::digests) {
            if let Some(found) = set.patched(digest) {
                match set.verdict(found) {
                    HeldVerdict::Free => {}
                    HeldVerdict::Removed => counts.take(found),
                    HeldVerdict::Restricted { grant, .. } => {
                        counts.take(found);
                        counts.give(grant.status, grant.kind);
                    }
                }
            }
        }
        set.counts = counts;
        let has_org_limits = set.iter_org_limits().next().is_some();
        set.has_org_limits = has_org_limits;
        set
    }

    pub fn table(&self) -> &Arc<Table> {
        &self.table
    }

    pub fn patch(&self) -> Option<&Arc<Patch>> {
        self.patch.as_ref()
    }

    /// The forms of secrets in force: a patch carries those of the registry at its time.
    pub fn formats(&self) -> &KeyFormats {
        self.patch.as_ref().map_or(self.table.formats(), |patch| patch.body().formats())
    }

    /// Serial of the table.
    pub fn serial(&self) -> u64 {
        self.table.serial()
    }

    /// Serial of the patch in force over it.
    pub fn patch_serial(&self) -> Option<u64> {
        self.patch.as_ref().map(|patch| patch.serial())
    }

    /// How many patches restrict keys without being in force as a patch.
    pub fn held_patches(&self) -> usize {
        self.held_patches
    }

    /// Records by the state of their key, including the patch and restrictions. It does not count
    /// the effect of a held patch on secrets that the patch does not name.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Bytes that table and patch hold in memory.
    pub fn resident_bytes(&self) -> usize {
        self.table.resident_bytes() + self.patch.as_ref().map_or(0, |p| p.body().resident())
    }

    /// The limits in force of an org; empty if it has none.
    pub fn org_limits(&self, org: &str) -> &LimitSet {
        static NONE: LazyLock<LimitSet> = LazyLock::new(LimitSet::default);
        if let Some(held) = self.held_orgs.get(org) {
            return held;
        }
        let patched = self.patch.as_deref().and_then(|patch| patch.body().limits_of_org(org));
        patched.or_else(|| self.table.body().limits_of_org(org)).unwrap_or(&NONE)
    }

    /// The limits in force of every org that has any, in the order of their names.
    pub fn iter_org_limits(&self) -> impl Iterator<Item = OrgLimits<'_>> {
        let over = self.patch.as_deref().map(Patch::body);
        let stated =
            self.table.body().org_limits().chain(over.into_iter().flat_map(|p| p.org_limits()));
        let orgs: BTreeSet<&str> =
            stated.map(|s| s.org).chain(self.held_orgs.keys().map(|org| &**org)).collect();
        let found = orgs.into_iter().map(|org| OrgLimits { org, limits: self.org_limits(org) });
        found.filter(|found| !found.limits.is_empty())
    }

    /// Names of all policies that table, patch and held patches state a limit for.
    pub fn policies(&self) -> BTreeSet<&str> {
        let over = self.patch.as_deref().map(Patch::body);
        let stated =
            self.table.body().policies().chain(over.into_iter().flat_map(|p| p.policies()));
        let held = self.held_orgs.values().flat_map(LimitSet::iter).map(|n| n.policy.as_str());
        let held_keys = self.hold.iter().flat_map(Hold::policies);
        stated.chain(held).chain(held_keys).collect()
    }

    /// Where uses of these keys are counted: the patch, and the table. A table's counts continue
    /// under every patch over it.
    pub fn use_blocks(&self) -> impl Iterator<Item = UseBlock> {
        let patch = self.patch.clone().map(UseBlock::Patch);
        patch.into_iter().chain([UseBlock::Table(Arc::clone(&self.table))])
    }

    /// Every key in force: the table's, ordered by digest, then the patch's.
    pub fn iter(&self) -> impl Iterator<Item = KeyEntry<'_>> {
        self.raw_iter().filter_map(|found| self.entry(found))
    }

    /// The key with this id; a pair in rotation has two entries. Walks the whole table.
    pub fn find_id(&self, id: KeyId) -> impl Iterator<Item = KeyEntry<'_>> {
        self.raw_iter().filter(move |found| found.id() == id).filter_map(|found| self.entry(found))
    }

    /// The key with this digest, of whichever kind, as `inspect` sees it.
    pub fn find_digest(&self, digest: &Digest) -> Option<KeyEntry<'_>> {
        self.entry(self.patched(digest)?)
    }

    /// Records in force before restrictions.
    pub(crate) fn raw_iter(&self) -> impl Iterator<Item = FoundRecord<'_>> {
        let over = self.patch.as_deref().map(Patch::body);
        let body = self.table.body();
        let kept = body.iter().filter(|found| !self.patch_states(&found.record.digest));
        kept.chain(over.into_iter().flat_map(|p| p.iter()))
    }

    /// Whether the patch has a record or a removal of this digest, so that the table's does not count.
    fn patch_states(&self, digest: &[u8; 32]) -> bool {
        let patch = self.patch.as_deref().map(Patch::body);
        patch.is_some_and(|patch| patch.find(digest).is_some() || patch.removal(digest).is_some())
    }

    /// The record with the patch laid over the table: the patch's record or removal if it has one,
    /// else the table's. Restrictions of held patches are applied later ([`KeySet::verdict`]).
    fn patched(&self, digest: &Digest) -> Option<FoundRecord<'_>> {
        if let Some(patch) = self.patch.as_deref().map(Patch::body) {
            if let Some(found) = patch.find(&digest.0) {
                return Some(found);
            }
            if patch.removal(&digest.0).is_some() {
                return None;
            }
        }
        self.table.body().find(&digest.0)
    }

    /// The view in force of a record.
    fn view<'k>(&'k self, found: FoundRecord<'k>) -> Option<KeyView<'k>> {
        match self.verdict(found) {
            HeldVerdict::Free => Some(found.view()),
            HeldVerdict::Removed => None,
            HeldVerdict::Restricted { grant, expires } => {
                Some(KeyView { grant, expires, ..found.view() })
            }
        }
    }

    /// What the patches on the shelf leave of a record.
    fn verdict(&self, found: FoundRecord<'_>) -> HeldVerdict<'_> {
        self.hold.as_ref().map_or(HeldVerdict::Free, |hold| hold.against(found))
    }

    fn entry<'k>(&'k self, found: FoundRecord<'k>) -> Option<KeyEntry<'k>> {
        Some(KeyEntry {
            view: self.view(found)?,
            digest: found.digest(),
            public_id: found.public_id(),
            owner: found.owner(),
        })
    }
}

impl KeyLookup for KeySet {
    fn plausible(&self, secret: &[u8]) -> bool {
        self.formats().plausible(secret)
    }

    fn single(&self, digest: &Digest) -> Option<KeyView<'_>> {
        self.any(digest).filter(|view| view.grant.kind == KeyKind::Single)
    }

    fn pair(&self, id: &[u8], secret: &Digest) -> PairLookup<'_> {
        let over = self.patch.as_deref().map(Patch::body);
        let patched = over.into_iter().flat_map(|p| p.find_pair(id));
        let body = self.table.body();
        let kept = body.find_pair(id).filter(|found| !self.patch_states(&found.record.digest));
        let (mut right, mut wrong) = (None, None);
        for found in patched.chain(kept) {
            let matches = secret.matches(&found.digest());
            let Some(view) = self.view(found) else { continue };
            match matches {
                true => right = Some(view),
                false => wrong = Some(view),
            }
        }
        match (right, wrong) {
            (Some(view), _) => PairLookup::Found(view),
            (None, Some(view)) => PairLookup::WrongSecret(view),
            (None, None) => {
                // Takes as long as with a known id.
                std::hint::black_box(secret.matches(&Digest([0; 32])));
                PairLookup::UnknownId
            }
        }
    }

    fn any(&self, digest: &Digest) -> Option<KeyView<'_>> {
        self.view(self.patched(digest)?)
    }

    fn owner(&self, digest: &Digest) -> Option<OwnerView<'_>> {
        self.patched(digest)?.owner()
    }

    fn knows_org(&self, org: &str) -> bool {
        let patched = self.patch.as_deref().is_some_and(|patch| patch.body().has_org(org));
        patched || self.table.body().has_org(org)
    }

    #[inline]
    fn org_limits(&self, org: &str) -> Option<&LimitSet> {
        if !self.has_org_limits {
            return None;
        }
        Some(Self::org_limits(self, org)).filter(|limits| !limits.is_empty())
    }

    fn refuse_from(&self) -> Option<u64> {
        self.refuse_from
    }
}

// === impl Counts ===

impl Counts {
    fn give(&mut self, status: KeyStatus, kind: KeyKind) {
        self.keys += 1;
        self.add(status, kind, 1);
    }

    fn take(&mut self, found: FoundRecord<'_>) {
        let mut one = Self::default();
        one.give(found.view().grant.status, found.kind());
        self.keys = self.keys.saturating_sub(1);
        self.active = self.active.saturating_sub(one.active);
        self.disabled = self.disabled.saturating_sub(one.disabled);
        self.revoked = self.revoked.saturating_sub(one.revoked);
        self.canary = self.canary.saturating_sub(one.canary);
        self.pairs = self.pairs.saturating_sub(one.pairs);
    }
}
