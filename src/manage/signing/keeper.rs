//! The signer itself: opens what it is asked to sign, judges it, notes it on the disk, and signs.
//! One request at a time. Imports the rules, the ledger, signers and table.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::super::signer::signs::{SigningReason, SigningRefusal};
use super::super::signer::{Signer, table_key};
use super::active::{CountedSpans, CountedTable};
use super::allowance::{Allowance, AllowedPass};
use super::checkpoint::checkpoint_message;
use super::ended::{JournalLines, day_of};
use super::ends::{IndexedTable, KeysBefore};
use super::ledger::SignerLedger;
use super::meant::{FileEnds, MeantKeys, SignedLately};
use super::opened::{OpenedFile, opened};
use super::rules::{
    CheckpointVerdict, CountedFile, NeededWord, RECOVERY_REMEDY, SignedMark, SigningRules,
    SigningVerdict,
};
use super::wire::AskedCheckpoint;
use crate::manage::error::{Error, Result};
use crate::table::{Base, Bounds, Buffer, Manifest, Patch, PublicKey, Table};

/// What a signer works with.
#[derive(Debug)]
pub struct KeeperTerms {
    pub signer: Signer,
    pub state: PathBuf,
    pub rules: Vec<SigningRules>,
    /// Whether it signs ends of an audit log as well.
    pub checkpoints: bool,
    /// Longest file.
    pub max_bytes: u64,
}

/// A key together with what it has signed.
#[derive(Debug)]
pub struct SigningKeeper {
    terms: KeeperTerms,
    public: PublicKey,
    ledger: SignerLedger,
    /// For each audience, the newest table and the one that the last patch was over.
    open: Vec<HeldTable>,
    /// By audience.
    lately: HashMap<Box<str>, SignedLately>,
}

/// A table, and how many of its keys are active at which time.
#[derive(Debug)]
struct HeldTable {
    indexed: IndexedTable,
    counted: CountedTable,
}

/// A signature, and what it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MadeSignature {
    pub bytes: [u8; 64],
    /// One line for the log.
    pub told: String,
}

/// A file to be signed, and what was signed before it.
struct AskedFile {
    /// The bytes to be signed.
    message: Vec<u8>,
    file: OpenedFile,
    mark: SignedMark,
    leads_back: bool,
}

// === impl SigningKeeper ===

impl SigningKeeper {
    /// # Errors
    ///
    /// A ledger that cannot be used.
    pub fn open(terms: KeeperTerms) -> Result<Self> {
        let public = table_key(terms.signer.public())?;
        let ledger = SignerLedger::open(&terms.state)?;
        Ok(Self { terms, public, ledger, open: Vec::new(), lately: HashMap::new() })
    }

    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// Serial of the last signature for an audience.
    pub fn serial(&self, audience: &str) -> u64 {
        self.ledger.mark(audience).serial()
    }

    /// How many tables are in memory.
    #[cfg(test)]
    pub(super) fn open_tables(&self) -> usize {
        self.open.len()
    }

    // --- tables and patches

    /// Signs a table or patch.
    ///
    /// # Errors
    ///
    /// Why not. Nothing has changed in that case.
    pub fn sign_file(
        &mut self,
        file: Buffer,
        now_ms: u64,
    ) -> std::result::Result<MadeSignature, SigningRefusal> {
        let (message, file) = opened(file, self.terms.max_bytes)?;
        let manifest = file.manifest();
        let audience: Box<str> = manifest.audience.clone();
        let rules = self.terms.rules.iter().find(|rules| rules.audience == audience);
        let rules = rules.cloned().ok_or_else(|| {
            let why = format!("nothing is signed here for the audience {audience:?}");
            SigningRefusal::new(SigningReason::Audience, why)
        })?;
        let mark = self.ledger.mark(&audience);
        if mark.is_again(&rules, manifest, self.public.id(), now_ms)? {
            return self.signed(&message, told(manifest, " again"));
        }
        let lately = self.lately(&audience, &mark, now_ms).map_err(unavailable)?;
        let leads_back = mark.leads_back(manifest);
        // If somebody allows that, nothing signed earlier counts any more.
        let (mut lately, before) = match leads_back {
            true => (SignedLately::default(), Some(lately)),
            false => (lately, None),
        };
        let asked = AskedFile { message, file, mark, leads_back };
        let made = self.judge_and_sign(asked, &rules, &mut lately, now_ms);
        let kept = match &made {
            Ok(_) => Some(lately),
            // If the write failed, read the state from the disk again.
            Err(refusal) if refusal.reason == SigningReason::Unavailable => None,
            Err(_) => before.or(Some(lately)),
        };
        if let Some(kept) = kept {
            self.lately.insert(audience, kept);
        }
        made
    }

    fn judge_and_sign(
        &mut self,
        asked: AskedFile,
        rules: &SigningRules,
        lately: &mut SignedLately,
        now_ms: u64,
    ) -> std::result::Result<MadeSignature, SigningRefusal> {
        let AskedFile { message, file, mark, leads_back } = asked;
        let manifest = file.manifest();
        let meant = match &file {
            OpenedFile::Table(table) => self.meant_by_table(&mark, lately, table, now_ms)?,
            OpenedFile::Patch(patch) => self.meant_by_patch(&mark, lately, patch, now_ms)?,
        };
        let (counted, today) = (meant.meant(), day_of(now_ms));
        let lasting = meant.lasting(lately, today);
        let file_counted = CountedFile {
            manifest,
            meant: &counted.course(),
            lasting: &lasting.all,
            unheld: &lasting.unheld,
            lost: mark.table().filter(|_| matches!(meant.ends, FileEnds::Unknown)),
        };
        let (mut mark, needed) = match mark.judge(rules, file_counted, now_ms)? {
            SigningVerdict::New(mark) => (mark, Vec::new()),
            SigningVerdict::IfAllowed { mark, needed } => (mark, needed),
        };
        let audience = &*rules.audience;
        self.refuse_unallowed(audience, &needed, now_ms)?;
        let JournalLines(lines) = lately.note_ends(&meant, today);
        self.ledger.keep_ends(audience, today, &lines).map_err(unavailable)?;
        match &file {
            OpenedFile::Table(table) => {
                lately.held.forget(manifest.includes_through);
                self.ledger.keep_table(table)
            }
            OpenedFile::Patch(patch) => {
                lately.take(patch);
                self.ledger.keep_patch(patch)
            }
        }
        .map_err(unavailable)?;
        lately.forget_patches(|base| mark.knows(base));
        mark.patches = lately.patches.iter().map(|patch| patch.serial()).collect();
        // Only now: a disk that takes no writes has most likely shown that above, and no allowance is
        // used up.
        let by = self.take_words(audience, &needed, now_ms)?;
        self.ledger.note(audience, mark).map_err(unavailable)?;
        if leads_back {
            // Not earlier: an end counts for as long as the file that made it may be in force.
            self.ledger.only_ends(audience, today, &lines).map_err(unavailable)?;
        }
        let active = counted.now();
        let made = self.signed(&message, told(manifest, &format!(", {active} keys active{by}")));
        if let OpenedFile::Table(table) = file {
            self.open.retain(|held| *held.indexed.table.manifest().audience != *audience);
            self.hold(table, now_ms);
        }
        self.ledger.forget_files(audience, today);
        made
    }

    /// Refuses what needs an allowance and has none. Allowances stay.
    fn refuse_unallowed(
        &self,
        audience: &str,
        needed: &[NeededWord],
        now_ms: u64,
    ) -> std::result::Result<(), SigningRefusal> {
        let is_allowed = |word: &&NeededWord| {
            let state = &self.terms.state;
            Allowance::is_given(state, now_ms, |pass| pass.lets(audience, word.what))
        };
        match needed.iter().find(|word| !is_allowed(word)) {
            Some(word) => Err(word.refusal.clone()),
            None => Ok(()),
        }
    }

    /// Takes an allowance for each part, and returns who gave them, for the log.
    fn take_words(
        &self,
        audience: &str,
        needed: &[NeededWord],
        now_ms: u64,
    ) -> std::result::Result<String, SigningRefusal> {
        if needed.is_empty() {
            return Ok(String::new());
        }
        let lets = |part: usize, pass: &AllowedPass| {
            needed.get(part).is_some_and(|word| pass.lets(audience, word.what))
        };
        match Allowance::take(&self.terms.state, now_ms, needed.len(), lets).map_err(unavailable)? {
            Ok(words) => Ok(as_allowed(&words)),
            // Somebody withdrew it at this very moment. The reason makes the next file read the
            // state from the disk again.
            Err(_) => {
                let why = "what was allowed was withdrawn meanwhile";
                Err(SigningRefusal::new(SigningReason::Unavailable, why))
            }
        }
    }

    /// What was signed recently, read from the disk if it is not in memory.
    fn lately(&mut self, audience: &str, mark: &SignedMark, now_ms: u64) -> Result<SignedLately> {
        if let Some(lately) = self.lately.remove(audience) {
            return Ok(lately);
        }
        let mut lately = SignedLately::since(mark.serial());
        let bounds = Bounds { max_bytes: self.terms.max_bytes };
        for serial in &mark.patches {
            match self.ledger.patch(audience, *serial, &bounds) {
                Some(patch) => lately.patches.push(patch),
                None => lately.lost = lately.lost.max(*serial),
            }
        }
        let SignedLately { ended, .. } = &mut lately;
        self.ledger.ends(audience, day_of(now_ms), |day, line| ended.read(day, line))?;
        Ok(lately)
    }

    /// What a table amounts to once it is in force everywhere.
    fn meant_by_table(
        &mut self,
        mark: &SignedMark,
        lately: &SignedLately,
        table: &Arc<Table>,
        now_ms: u64,
    ) -> std::result::Result<MeantKeys, SigningRefusal> {
        let manifest = table.manifest();
        let unknown = lately.lost.max(lately.held.unknown());
        if manifest.includes_through < unknown {
            let why = format!(
                "the table has every change through {}, and this signer does not know all that was \
                 signed up to {unknown}: a table that is made now has it",
                manifest.includes_through
            );
            return Err(SigningRefusal::new(SigningReason::Stale, why));
        }
        let counted = CountedSpans::of(table.active_spans(), now_ms);
        let audience = &manifest.audience;
        let held = lately.held.ends_of(table, now_ms);
        self.keep_open(audience, mark.table().as_slice());
        let ends = match mark.table() {
            _ if mark.leads_back(manifest) => FileEnds::Known(Vec::new()),
            Some(newest) if !self.reopen(audience, newest, now_ms) => {
                let path = self.ledger.table_path(audience, newest);
                let text = format!(
                    "{}: is not there, or not the table of serial {} that was signed for {audience}: what \
                     the next one ends cannot be told",
                    path.display(),
                    newest.serial
                );
                super::super::output::warn(&text);
                FileEnds::Unknown
            }
            newest => {
                let before = self.in_force(audience, newest, lately, now_ms);
                FileEnds::Known(before.ends_of_table(table))
            }
        };
        Ok(MeantKeys { counted, table: Arc::clone(table), patch: None, ends, held })
    }

    /// What a patch amounts to once it is in force everywhere.
    fn meant_by_patch(
        &mut self,
        mark: &SignedMark,
        lately: &SignedLately,
        patch: &Arc<Patch>,
        now_ms: u64,
    ) -> std::result::Result<MeantKeys, SigningRefusal> {
        let manifest = patch.manifest();
        let audience = &manifest.audience;
        let unknown = |base: Base| {
            let why = format!(
                "the patch is over the table of serial {}, which was not signed here lately",
                base.serial
            );
            SigningRefusal::new(SigningReason::Base, why)
        };
        // Opening a patch checks that its manifest states a base.
        let base = manifest.base.unwrap_or_else(|| manifest.as_base());
        let newest = mark.table().filter(|_| mark.knows(base) && lately.lost == 0);
        let newest = newest.ok_or_else(|| unknown(base))?;
        self.keep_open(audience, &[base, newest]);
        for table in [base, newest] {
            if !self.reopen(audience, table, now_ms) {
                return Err(unknown(table));
            }
        }
        let in_force = match base == newest {
            true => Some(patch),
            false => lately.over(newest),
        };
        let (table, counted) =
            self.counted(audience, newest, now_ms).ok_or_else(|| unknown(newest))?;
        let (over, _) = self.counted(audience, base, now_ms).ok_or_else(|| unknown(base))?;
        let counted = match in_force {
            Some(in_force) => counted.with_patch(&table, in_force),
            None => counted,
        };
        let before = self.in_force(audience, [base, newest], lately, now_ms);
        let ends = FileEnds::Known(before.ends_of_patch(patch, &over));
        // It has every change that was signed.
        let held = Vec::new();
        Ok(MeantKeys { counted, table, patch: in_force.cloned(), ends, held })
    }

    /// What sidecars may have in force of open tables and of patches.
    fn in_force<'f>(
        &'f self,
        audience: &str,
        tables: impl IntoIterator<Item = Base>,
        lately: &'f SignedLately,
        now_ms: u64,
    ) -> KeysBefore<'f> {
        let mut tables: Vec<_> = tables.into_iter().collect();
        tables.dedup();
        let held = tables.iter().filter_map(|base| self.held(audience, *base));
        let tables = held.map(|held| &held.indexed).collect();
        KeysBefore { tables, patches: &lately.patches, now_ms }
    }

    fn held(&self, audience: &str, base: Base) -> Option<&HeldTable> {
        self.open.iter().find(|held| held.is(audience, base))
    }

    /// Drops all other tables of this audience from memory.
    fn keep_open(&mut self, audience: &str, tables: &[Base]) {
        self.open.retain(|held| {
            let manifest = held.indexed.table.manifest();
            *manifest.audience != *audience || tables.contains(&manifest.as_base())
        });
    }

    /// Whether a table that was signed is open now. Opens it if possible.
    fn reopen(&mut self, audience: &str, base: Base, now_ms: u64) -> bool {
        if self.held(audience, base).is_some() {
            return true;
        }
        let bounds = Bounds { max_bytes: self.terms.max_bytes };
        let table = self.ledger.table(audience, base, &bounds);
        table.map(|table| self.hold(table, now_ms)).is_some()
    }

    fn counted(
        &mut self,
        audience: &str,
        base: Base,
        now_ms: u64,
    ) -> Option<(Arc<Table>, CountedSpans)> {
        let held = self.open.iter_mut().find(|held| held.is(audience, base))?;
        let table = Arc::clone(&held.indexed.table);
        let counted = held.counted.at(&table, now_ms);
        Some((table, counted))
    }

    /// Keeps a table in memory.
    fn hold(&mut self, table: Arc<Table>, now_ms: u64) {
        let counted = CountedTable::of(&table, now_ms);
        self.open.push(HeldTable { indexed: IndexedTable::new(table), counted });
    }

    // --- the audit log

    /// Signs an end of the audit log.
    ///
    /// # Errors
    ///
    /// Why not. Nothing has changed in that case.
    pub fn sign_checkpoint(
        &mut self,
        asked: AskedCheckpoint,
        now_ms: u64,
    ) -> std::result::Result<MadeSignature, SigningRefusal> {
        self.refuse_checkpoints()?;
        let mut by = String::new();
        let mark = match self.ledger.audit().judge(asked, now_ms)? {
            CheckpointVerdict::Again => None,
            CheckpointVerdict::New(mark) => Some(mark),
            CheckpointVerdict::IfAllowed { mark, refusal } => {
                let taken = Allowance::take(&self.terms.state, now_ms, 1, is_recovery);
                let words = taken.map_err(unavailable)?.map_err(|_| refusal)?;
                by = as_allowed(&words);
                Some(mark)
            }
        };
        if let Some(mark) = mark {
            self.ledger.note_audit(mark).map_err(unavailable)?;
        }
        let message = checkpoint_message(asked.seq, &asked.hash, asked.recovered_from);
        self.signed(&message, format!("signed line {} of the audit log{by}", asked.seq))
    }

    /// Whether a restored audit log would be signed now. The question changes nothing.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn would_recover(&self, now_ms: u64) -> std::result::Result<(), SigningRefusal> {
        self.refuse_checkpoints()?;
        if Allowance::is_given(&self.terms.state, now_ms, |pass| is_recovery(0, pass)) {
            return Ok(());
        }
        let why = format!("the audit log would go on from a backup; {RECOVERY_REMEDY}");
        Err(SigningRefusal::new(SigningReason::Checkpoint, why))
    }

    fn refuse_checkpoints(&self) -> std::result::Result<(), SigningRefusal> {
        if self.terms.checkpoints {
            return Ok(());
        }
        let why = "audit logs are not signed here (checkpoints = false)";
        Err(SigningRefusal::new(SigningReason::Checkpoint, why))
    }

    fn signed(
        &self,
        message: &[u8],
        told: String,
    ) -> std::result::Result<MadeSignature, SigningRefusal> {
        let signature = self.terms.signer.sign(message);
        let bytes = signature.ok_or_else(|| {
            SigningRefusal::new(SigningReason::Unavailable, "the key does not sign")
        })?;
        Ok(MadeSignature { bytes, told })
    }
}

// A directory that cannot be read does not count as one without journals.

impl HeldTable {
    fn is(&self, audience: &str, base: Base) -> bool {
        let manifest = self.indexed.table.manifest();
        *manifest.audience == *audience && manifest.as_base() == base
    }
}

fn is_recovery(_: usize, pass: &AllowedPass) -> bool {
    *pass == AllowedPass::Recovery
}

fn as_allowed(words: &[Allowance]) -> String {
    let mut by: Vec<&str> = words.iter().map(|word| word.by.as_str()).collect();
    by.dedup();
    format!(", as {} has allowed", by.join(" and "))
}

fn told(manifest: &Manifest, how: &str) -> String {
    let Manifest { kind, serial, audience, .. } = manifest;
    format!("signed the {kind} of serial {serial} for {audience}{how}")
}

/// As when a predecessor was just told to stop.
fn unavailable(error: Error) -> SigningRefusal {
    let text = error.to_string();
    super::super::output::warn(&text);
    SigningRefusal::new(SigningReason::Unavailable, "the signer cannot note what it signs")
}
