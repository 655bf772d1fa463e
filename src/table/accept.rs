//! Which tables and patches are put in force, in whatever order they arrive. Pure: a function of
//! what was accepted before ([`Ledger`]), what arrives, and the clock's reading.
//! Imports core only.
//!
//! A verified patch that nothing in force includes yet is on a shelf. The newest one made over the
//! table in force is the patch in force; the removals and restrictions of all the others apply as
//! well. So a revocation that has once arrived stays in force, whoever publishes next and in
//! whatever order files arrive. It ends only when something that claims to include it is in force,
//! or on the shelf in its place (see `table::cumulative`).

use std::cmp::Ordering;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};

use super::cumulative::without_replaced;
use super::file::{Bounds, Patch, PatchContent, Table};
use super::keyset::KeySet;
use super::manifest::{Acknowledge, Base, Manifest};
use super::refusal::Refusal;
use super::trust::{PublicKey, Trust};
use crate::core::Now;

/// Most patches on the shelf. A publisher who knows of the others needs one place, or two while its
/// base is on the way, however often it publishes. More are needed by publishers who do not know of
/// one another, or who leave out of a patch what the one before it stated.
const SHELF: usize = 8;

/// What the configuration says about acceptance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AcceptRules {
    /// No serial below this is accepted, whatever the ledger says.
    pub min_serial: u64,
    /// Share of the active keys that may go in one step without acknowledgement.
    pub shrink_brake: f64,
    /// Seconds after the expiry of the table in force; from then on nothing is admitted. `None`:
    /// the table stays in force.
    pub refuse_after: Option<u64>,
}

/// What has been accepted: the content of the state file. It survives a restart, so that a restart
/// neither opens a way back nor causes an outage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// The table last put in force, by serial and hash.
    table: Option<Base>,
    /// Its `includes_through`.
    table_includes: u64,
    /// The patch with the highest serial.
    patch: Option<Base>,
    /// The highest `includes_through` of anything that was in force.
    floor: u64,
    /// Active keys in force.
    active: Option<u64>,
    /// The files of the patches on the shelf.
    shelf: Vec<Vec<u8>>,
}

/// [`Ledger`] as text.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LedgerText {
    version: u8,
    table: Option<Base>,
    table_includes: u64,
    patch: Option<Base>,
    floor: u64,
    active: Option<u64>,
    shelf: Vec<String>,
}

/// The state file is not one that keygate wrote.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a state file of keygate: {why}")]
pub struct LedgerError {
    why: Box<str>,
}

/// The outcome of an offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AcceptOutcome {
    /// A patch waits for its base. Its removals and restrictions are already in force.
    Held,
    /// A patch that the table in force includes. Nothing changed.
    Included,
    InForce,
    /// Refused as a patch, for this reason. But it is genuine and nothing in force includes it, so
    /// its removals and restrictions are in force.
    Restricted(Refusal),
    /// It is already in force, or on the shelf.
    Unchanged,
}

/// The one place that decides what is in force.
#[derive(Clone, Debug)]
pub struct Acceptance {
    rules: AcceptRules,
    ledger: Ledger,
    table: Option<Arc<Table>>,
    /// By ascending serial; none of them included by what is in force.
    shelf: Vec<Arc<Patch>>,
    current: Option<Arc<KeySet>>,
}

// === impl AcceptRules ===

impl Default for AcceptRules {
    fn default() -> Self {
        Self { min_serial: 0, shrink_brake: 0.5, refuse_after: None }
    }
}

// === impl AcceptRules ===

impl AcceptRules {
    /// Refuses a sudden loss of active keys that the manifest does not acknowledge. `before` and
    /// `after`: active records in force, patches included.
    pub fn brake(&self, manifest: &Manifest, before: u64, after: u64) -> Result<(), Refusal> {
        let empty = manifest.acknowledges(Acknowledge::Empty);
        if after == 0 {
            return if empty { Ok(()) } else { Err(Refusal::Empty) };
        }
        let least = before as f64 * (1.0 - self.shrink_brake);
        if (after as f64) < least && !manifest.acknowledges(Acknowledge::Shrink) {
            return Err(Refusal::Shrink { before, after });
        }
        Ok(())
    }
}

// === impl Acceptance ===

impl Acceptance {
    pub fn new(rules: AcceptRules) -> Self {
        Self { rules, ledger: Ledger::default(), table: None, shelf: Vec::new(), current: None }
    }

    /// Continues from a ledger. Patches on its shelf are verified again; the second part lists
    /// those that are dropped because they are no longer valid.
    pub fn restore(
        rules: AcceptRules,
        mut ledger: Ledger,
        trust: &Trust,
        bounds: &Bounds,
    ) -> (Self, Vec<Refusal>) {
        let mut dropped = Vec::new();
        let mut shelf = Vec::new();
        for file in std::mem::take(&mut ledger.shelf) {
            match Patch::open(file, trust, bounds) {
                Ok(patch) => shelf.push(Arc::new(patch)),
                Err(refusal) => dropped.push(refusal),
            }
        }
        shelf.sort_by_key(|patch| patch.serial());
        (Self { rules, ledger, table: None, shelf, current: None }, dropped)
    }

    /// What is in force; `None` until a table was accepted.
    pub fn current(&self) -> Option<&Arc<KeySet>> {
        self.current.as_ref()
    }

    /// Verified patches that nothing in force includes, by ascending serial.
    pub fn shelf(&self) -> &[Arc<Patch>] {
        &self.shelf
    }

    /// What to keep across a restart. Changes with every offer that is accepted.
    pub fn ledger(&self) -> Ledger {
        let shelf = self.shelf.iter().map(|patch| patch.file().to_vec()).collect();
        Ledger { shelf, ..self.ledger.clone() }
    }

    /// Serial of the newest patch whose base has not arrived yet.
    pub fn awaiting(&self) -> Option<u64> {
        let table = self.table.as_ref().map_or(0, |table| table.serial());
        let waits = |patch: &&Arc<Patch>| base_serial(patch.manifest()) > table;
        self.shelf.iter().rev().find(waits).map(|patch| patch.serial())
    }

    /// Puts changed rules in force. What was accepted stays.
    pub fn set_rules(&mut self, rules: AcceptRules) {
        self.rules = rules;
        self.settle();
    }

    /// Checks what is in force against changed trust, and drops what is no longer signed by enough
    /// trusted signers. A dropped table takes its serials out of the ledger with it: its signer may
    /// have burnt them. The result lists what was dropped, and why.
    pub fn set_trust(&mut self, trust: &Trust) -> Vec<(Base, Refusal)> {
        let mut dropped = Vec::new();
        if let Some(table) = &self.table
            && let Err(refusal) = trust.accepts(table.signed_by())
        {
            dropped.push((table.manifest().as_base(), refusal));
            self.table = None;
            self.ledger = Ledger::default();
        }
        self.shelf.retain(|patch| match trust.accepts(patch.signed_by()) {
            Ok(()) => true,
            Err(refusal) => {
                if self.ledger.patch == Some(patch.manifest().as_base()) {
                    self.ledger.patch = None;
                }
                dropped.push((patch.manifest().as_base(), refusal));
                false
            }
        });
        if !dropped.is_empty() {
            self.settle();
        }
        dropped
    }

    /// Offers a verified table. A draft that nobody has signed is refused, whoever opened it.
    pub fn offer_table(&mut self, table: Arc<Table>, now: Now) -> Result<AcceptOutcome, Refusal> {
        refuse_draft(table.signed_by())?;
        let manifest = table.manifest();
        let known = self.ledger.table == Some(manifest.as_base());
        if known && self.table.is_some() {
            return Ok(AcceptOutcome::Unchanged);
        }
        let serial = manifest.serial;
        if serial < self.rules.min_serial {
            return Err(Refusal::Rollback { serial, floor: self.rules.min_serial });
        }
        if !known {
            self.check_table(&table, now)?;
        }
        self.ledger.table = Some(manifest.as_base());
        self.ledger.table_includes = manifest.includes_through;
        self.table = Some(table);
        self.settle();
        Ok(AcceptOutcome::InForce)
    }

    /// Offers a verified patch. Drafts are refused as with [`Self::offer_table`].
    pub fn offer_patch(&mut self, patch: Arc<Patch>, now: Now) -> Result<AcceptOutcome, Refusal> {
        refuse_draft(patch.signed_by())?;
        let manifest = patch.manifest();
        let this = manifest.as_base();
        let serial = manifest.serial;
        if self.shelf.iter().any(|shelved| shelved.manifest().as_base() == this) {
            return Ok(AcceptOutcome::Unchanged);
        }
        if self.table.as_ref().is_some_and(|t| serial <= t.manifest().includes_through) {
            return Ok(AcceptOutcome::Included);
        }
        let known = self.ledger.patch == Some(this);
        if serial < self.rules.min_serial {
            return Err(Refusal::Rollback { serial, floor: self.rules.min_serial });
        }
        if !known {
            self.check_patch(manifest, now)?;
        }
        let refusal = self.unfit(&patch);
        let mut next = self.clone();
        if self.ledger.patch.is_none_or(|last| last.serial < serial) {
            next.ledger.patch = Some(this);
        }
        next.shelf.push(patch.clone());
        next.shelf.sort_by_key(|shelved| shelved.serial());
        next.settle();
        let is_it = |shelved: &Arc<Patch>| Arc::ptr_eq(shelved, &patch);
        if !next.shelf.iter().any(is_it) {
            // The table in force includes it: it has nothing to add, not even a restriction.
            return Err(refusal.unwrap_or(Refusal::Rollback { serial, floor: self.floor() }));
        }
        if next.shelf.len() > SHELF {
            return Err(Refusal::HoldFull { held: self.shelf.len() });
        }
        let in_force = next.current.as_ref().and_then(|set| set.patch()).is_some_and(is_it);
        let after = next.current.as_ref().map(|set| set.counts().active);
        if let (Some(before), Some(after)) = (self.ledger.active, after) {
            self.rules.brake(manifest, before, after)?;
        }
        *self = next;
        Ok(match refusal {
            _ if in_force => AcceptOutcome::InForce,
            Some(refusal) => AcceptOutcome::Restricted(refusal),
            None => AcceptOutcome::Held,
        })
    }

    /// Why a genuine patch cannot come into force as a patch, neither now nor later.
    fn unfit(&self, patch: &Patch) -> Option<Refusal> {
        let manifest = patch.manifest();
        let serial = manifest.serial;
        if let Some(last) = self.ledger.patch.filter(|last| serial < last.serial) {
            return Some(Refusal::Rollback { serial, floor: last.serial });
        }
        let table = self.table.as_deref()?;
        if patch.is_over(table) {
            let includes_through = manifest.includes_through;
            let floor = table.manifest().includes_through;
            // Its publisher compared the table with an older registry: what the table had lost
            // since then would come back as an addition.
            return (includes_through < floor)
                .then_some(Refusal::Stale { includes_through, floor });
        }
        let base = base_serial(manifest);
        let why = match base.cmp(&table.serial()) {
            Ordering::Greater => return None,
            Ordering::Equal => "the table in force has that serial and another content",
            Ordering::Less => "a later table is in force",
        };
        Some(Refusal::Base { base, why })
    }

    fn check_table(&self, table: &Table, now: Now) -> Result<(), Refusal> {
        let manifest = table.manifest();
        let serial = manifest.serial;
        let last = self.ledger.table.map_or(0, |last| last.serial);
        let patch = self.ledger.patch.map(|patch| patch.serial);
        if serial == last || Some(serial) == patch {
            return Err(Refusal::EqualSerial { serial });
        }
        if serial < last || serial <= self.ledger.floor {
            return Err(Refusal::Rollback { serial, floor: self.floor() });
        }
        let includes_through = manifest.includes_through;
        if includes_through < self.ledger.table_includes {
            let floor = self.ledger.table_includes;
            return Err(Refusal::Stale { includes_through, floor });
        }
        fresh(manifest, now)?;
        let active = table.counts().active;
        self.rules.brake(manifest, self.ledger.active.unwrap_or(0), active)
    }

    /// For a patch that was not accepted before.
    fn check_patch(&self, manifest: &Manifest, now: Now) -> Result<(), Refusal> {
        let serial = manifest.serial;
        let same = |last: Option<Base>| last.is_some_and(|last| last.serial == serial);
        if same(self.ledger.table) || same(self.ledger.patch) {
            return Err(Refusal::EqualSerial { serial });
        }
        fresh(manifest, now)
    }

    /// Removes included and replaced patches from the shelf, and makes the key set in force from the
    /// rest.
    fn settle(&mut self) {
        without_replaced(&mut self.shelf, |patch| Some(patch.stated()));
        let Some(table) = self.table.clone() else {
            self.current = None;
            return;
        };
        let includes = table.manifest().includes_through;
        self.shelf.retain(|patch| patch.serial() > includes);
        let fits = |patch: &&Arc<Patch>| {
            patch.is_over(&table) && patch.manifest().includes_through >= includes
        };
        let patch = self.shelf.iter().rev().find(fits).cloned();
        if let Some(patch) = &patch {
            let includes = patch.manifest().includes_through;
            self.shelf.retain(|p| p.serial() > includes || Arc::ptr_eq(p, patch));
            self.ledger.floor = self.ledger.floor.max(includes);
        }
        self.ledger.floor = self.ledger.floor.max(includes);
        let held: Vec<_> = self
            .shelf
            .iter()
            .filter(|p| patch.as_ref().is_none_or(|patch| !Arc::ptr_eq(p, patch)))
            .cloned()
            .collect();
        let expires = table.manifest().expires_at;
        let refuse_from =
            self.rules.refuse_after.and_then(|grace| Some(expires?.saturating_add(grace)));
        let set = KeySet::new(table, patch, &held, refuse_from);
        self.ledger.active = Some(set.counts().active);
        self.current = Some(Arc::new(set));
    }

    fn floor(&self) -> u64 {
        let last = self.ledger.table.map_or(0, |last| last.serial);
        self.ledger.floor.max(last).max(self.rules.min_serial)
    }
}

/// How far this machine's clock is behind the publisher's. The file is not refused for that,
/// because a slow clock would then be an outage, but expiry and not-before are judged by it.
pub fn clock_behind_ms(manifest: &Manifest, now: Now) -> Option<u64> {
    manifest.issued_at_ms.checked_sub(now.unix_ms).filter(|behind| *behind > 0)
}

/// [`Trust::for_inspection`] opens unsigned files as well. Such a file must not come into force.
fn refuse_draft(signed_by: &[PublicKey]) -> Result<(), Refusal> {
    match signed_by {
        [] => Err(Refusal::Unsigned),
        _ => Ok(()),
    }
}

fn fresh(manifest: &Manifest, now: Now) -> Result<(), Refusal> {
    match manifest.expires_at {
        Some(at) if now.unix_secs() >= at => Err(Refusal::Expired { at }),
        _ => Ok(()),
    }
}

fn base_serial(manifest: &Manifest) -> u64 {
    manifest.base.map_or(0, |base| base.serial)
}

// === impl Ledger ===

impl Ledger {
    pub fn parse(text: &str) -> Result<Self, LedgerError> {
        let bad = |why: &str| LedgerError { why: why.into() };
        let text: LedgerText = serde_json::from_str(text).map_err(|e| bad(&e.to_string()))?;
        if text.version != 1 {
            return Err(bad("its version is not 1"));
        }
        let shelf = text.shelf.iter().map(|file| BASE64_STANDARD.decode(file));
        let shelf: Result<_, _> = shelf.collect();
        Ok(Self {
            table: text.table,
            table_includes: text.table_includes,
            patch: text.patch,
            floor: text.floor,
            active: text.active,
            shelf: shelf.map_err(|_| bad("a patch is not base64"))?,
        })
    }

    /// The text that [`Ledger::parse`] reads: one line of JSON.
    pub fn to_text(&self) -> String {
        let text = LedgerText {
            version: 1,
            table: self.table,
            table_includes: self.table_includes,
            patch: self.patch,
            floor: self.floor,
            active: self.active,
            shelf: self.shelf.iter().map(|file| BASE64_STANDARD.encode(file)).collect(),
        };
        // Numbers, hex and base64: it contains nothing that JSON could not hold.
        let mut line = serde_json::to_string(&text).unwrap_or_default();
        line.push('\n');
        line
    }

    /// What neither of two processes that share a state file may forget: the higher serials of
    /// both, and every patch of either that neither the later table includes nor another patch
    /// replaces.
    pub fn raised_by(&self, other: &Self) -> Self {
        let serial = |base: Option<Base>| base.map_or(0, |base| base.serial);
        let later = if serial(other.table) > serial(self.table) { other } else { self };
        let newer = if serial(other.patch) > serial(self.patch) { other } else { self };
        let mut shelf = self.shelf.clone();
        shelf.extend(other.shelf.iter().filter(|file| !self.shelf.contains(file)).cloned());
        shelf.retain(|file| {
            Manifest::unverified(file).is_ok_and(|patch| patch.serial > later.table_includes)
        });
        // Their signatures are verified when they are read again.
        let mut parsed: Vec<_> =
            shelf.into_iter().map(|file| (PatchContent::unverified(&file), file)).collect();
        without_replaced(&mut parsed, |(content, _)| content.as_ref().map(PatchContent::stated));
        let shelf = parsed.into_iter().map(|(_, file)| file).collect();
        Self {
            table: later.table,
            table_includes: later.table_includes,
            patch: newer.patch,
            floor: self.floor.max(other.floor),
            active: later.active,
            shelf,
        }
    }

    /// Whether nothing is forgotten if `self` is remembered in place of `other`: its serials are as
    /// high, and each patch of `other` is there, is included or has been replaced.
    pub fn covers(&self, other: &Self) -> bool {
        if self.table_serial() < other.table_serial()
            || self.patch_serial() < other.patch_serial()
            || self.floor < other.floor
        {
            return false;
        }
        let includes = self.includes();
        let mut both = self.raised_by(other).shelf.into_iter();
        both.all(|file| {
            self.shelf.contains(&file)
                || Manifest::unverified(&file).is_ok_and(|it| it.serial <= includes)
        })
    }

    /// What the table and the patch in force over it include: see [`Acceptance::settle`].
    fn includes(&self) -> u64 {
        let shelf = self.shelf.iter().filter_map(|file| Manifest::unverified(file).ok());
        let fits = shelf
            .filter(|it| it.base == self.table && it.includes_through >= self.table_includes)
            .max_by_key(|it| it.serial);
        fits.map_or(self.table_includes, |it| it.includes_through)
    }

    /// Serial of the table that was last in force.
    pub fn table_serial(&self) -> Option<u64> {
        self.table.map(|table| table.serial)
    }

    /// Highest serial of a patch that was accepted.
    pub fn patch_serial(&self) -> Option<u64> {
        self.patch.map(|patch| patch.serial)
    }
}
