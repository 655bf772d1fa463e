//! The signer itself: opens what it is asked to sign, judges it, notes it on the disk, and signs. One
//! thing at a time. Imports the rules, the ledger, signers and table.

use std::collections::HashMap;
use std::io::Cursor;
use std::path::PathBuf;
use std::sync::Arc;

use super::super::signer::signs::{SigningReason, SigningRefusal};
use super::super::signer::{Signer, table_key};
use super::active::{ActiveCourse, CountedSpans, CountedTable};
use super::allowance::{Allowance, AllowedPass};
use super::checkpoint::checkpoint_message;
use super::ledger::SignerLedger;
use super::numbers::MOST_AT_ONCE;
use super::patches::SignedPatches;
use super::rules::{
    AllowedPart, CheckpointVerdict, CountedFile, NeededWord, RECOVERY_REMEDY, SignedMark,
    SigningRules, SigningVerdict,
};
use super::wire::AskedCheckpoint;
use crate::manage::error::{Error, Result};
use crate::table::write::Draft;
use crate::table::{
    Base, Bounds, Buffer, FileKind, KeySet, Manifest, Patch, PublicKey, Table, Trust,
};

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

/// A key with what it has signed.
#[derive(Debug)]
pub struct SigningKeeper {
    terms: KeeperTerms,
    public: PublicKey,
    ledger: SignerLedger,
    /// The tables that the last patches were over: of each audience one, and one more while another
    /// takes its place.
    open: Vec<HeldTable>,
    /// By audience.
    patches: HashMap<Box<str>, SignedPatches>,
}

/// A table, and how many of its keys are active when.
#[derive(Debug)]
struct HeldTable {
    table: Arc<Table>,
    counted: CountedTable,
}

/// A signature, and what it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MadeSignature {
    pub bytes: [u8; 64],
    /// One line for the log.
    pub told: String,
}

/// A file whose body was read, and what it comes to.
enum OpenedFile {
    Table(Arc<Table>),
    Patch(Arc<Patch>),
}

// === impl SigningKeeper ===

impl SigningKeeper {
    /// # Errors
    ///
    /// A ledger that cannot be used.
    pub fn open(terms: KeeperTerms) -> Result<Self> {
        let public = table_key(terms.signer.public())?;
        let ledger = SignerLedger::open(&terms.state)?;
        Ok(Self { terms, public, ledger, open: Vec::new(), patches: HashMap::new() })
    }

    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// Serial of the last signature for an audience.
    pub fn serial(&self, audience: &str) -> u64 {
        self.ledger.mark(audience).serial()
    }

    // --- tables and patches

    /// Signs a table or patch.
    ///
    /// # Errors
    ///
    /// Why not. Nothing has changed then.
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
        let before = mark.clone();
        let (active, course) = match &file {
            OpenedFile::Table(table) => self.active_in(&mark, table, now_ms)?,
            OpenedFile::Patch(patch) => self.active_with(&mark, patch, now_ms)?,
        };
        let counted = CountedFile { manifest, active: &course };
        let mut by = String::new();
        let mark = match mark.judge(&rules, counted, self.public.id(), now_ms)? {
            SigningVerdict::Again => {
                return self.signed(&message, told(manifest, active, " again"));
            }
            SigningVerdict::New(mark) => mark,
            SigningVerdict::IfAllowed { mark, needed } => {
                by = self.allowed(&audience, needed, now_ms)?;
                mark
            }
        };
        if let OpenedFile::Table(table) = &file {
            self.ledger.keep_table(table).map_err(unavailable)?;
        }
        self.ledger.note(&audience, mark).map_err(unavailable)?;
        let made = self.signed(&message, told(manifest, active, &by));
        let most_bytes = self.terms.max_bytes;
        if before.leads_back(file.manifest()) {
            let anew = SignedPatches::since(file.manifest().serial);
            self.patches.insert(audience.clone(), anew);
        }
        let patches = self.patches_of(&audience, &before);
        match file {
            OpenedFile::Table(table) => {
                patches.forget(table.manifest().includes_through);
                self.hold(&audience, table, now_ms);
            }
            OpenedFile::Patch(patch) => patches.note(patch, most_bytes),
        }
        self.ledger.forget_tables(&audience);
        made
    }

    /// Takes a word for each; who has said them, for the log.
    fn allowed(
        &self,
        audience: &str,
        mut needed: Vec<NeededWord>,
        now_ms: u64,
    ) -> std::result::Result<String, SigningRefusal> {
        let parts: Vec<_> = needed.iter().map(|word| word.what).collect();
        let lets = |part: usize, pass: &AllowedPass| match (parts.get(part), pass) {
            (Some(AllowedPart::Fall { active }), AllowedPass::Fall { audience: of, least }) => {
                **of == *audience && least <= active
            }
            (Some(AllowedPart::Serial { serial }), AllowedPass::Serial { audience: of, from }) => {
                let most = from.saturating_add(MOST_AT_ONCE);
                **of == *audience && (*from..=most).contains(serial)
            }
            _ => false,
        };
        let state = &self.terms.state;
        match Allowance::take(state, now_ms, parts.len(), lets).map_err(unavailable)? {
            Ok(words) => Ok(as_allowed(&words)),
            // The first that nobody has said.
            Err(missing) => Err(needed.swap_remove(missing).refusal),
        }
    }

    /// Active keys of this table, by itself and with what sidecars may hold over it: the lower of the two.
    fn active_in(
        &mut self,
        mark: &SignedMark,
        table: &Arc<Table>,
        now_ms: u64,
    ) -> std::result::Result<(u64, ActiveCourse), SigningRefusal> {
        let alone = CountedSpans::of(table.active_spans(), now_ms);
        let manifest = table.manifest();
        let includes = manifest.includes_through;
        if mark.leads_back(manifest) {
            // Where that is allowed, what was signed before counts no more.
            return Ok((alone.now(), alone.course()));
        }
        let held = self.patches_of(&manifest.audience, mark).over(includes).map_err(|since| {
            let why = format!(
                "the table has every change through {includes}, and this signer knows nothing of \
                 what was signed up to {since}: a table that is made now has it"
            );
            SigningRefusal::new(SigningReason::Serial, why)
        })?;
        if held.is_empty() {
            return Ok((alone.now(), alone.course()));
        }
        let set = KeySet::new(Arc::clone(table), None, &held, None);
        let held = CountedSpans::of(set.active_spans(), now_ms);
        Ok((alone.now().min(held.now()), alone.course().lower(&held.course())))
    }

    fn patches_of(&mut self, audience: &str, mark: &SignedMark) -> &mut SignedPatches {
        let known = self.patches.entry(audience.into());
        known.or_insert_with(|| SignedPatches::since(mark.serial()))
    }

    /// Active keys where this patch is in force, and where it is only held: the lower of the two. A
    /// sidecar that has a newer table than the patch's heeds what the patch ends.
    fn active_with(
        &mut self,
        mark: &SignedMark,
        patch: &Arc<Patch>,
        now_ms: u64,
    ) -> std::result::Result<(u64, ActiveCourse), SigningRefusal> {
        let manifest = patch.manifest();
        let unknown = |base: Base| {
            let why = format!(
                "the patch is over the table of serial {}, which was not signed here lately",
                base.serial
            );
            SigningRefusal::new(SigningReason::Base, why)
        };
        // A manifest of a patch states its base, or it was not opened.
        let Some(base) = manifest.base else {
            return Err(SigningRefusal::new(SigningReason::File, "a patch without a base"));
        };
        let newest = mark.table().filter(|table| table.serial > base.serial);
        let table = match mark.knows(base) {
            true => self.table(&manifest.audience, base, now_ms),
            false => None,
        };
        let (table, counted) = table.ok_or_else(|| unknown(base))?;
        let over = counted.with_patch(&table, patch);
        let Some(newest) = newest else { return Ok((over.now(), over.course())) };
        let newer = self.table(&manifest.audience, newest, now_ms);
        let (table, _) = newer.ok_or_else(|| unknown(newest))?;
        let held = KeySet::new(table, None, &[Arc::clone(patch)], None);
        let held = CountedSpans::of(held.active_spans(), now_ms);
        Ok((over.now().min(held.now()), over.course().lower(&held.course())))
    }

    fn table(
        &mut self,
        audience: &str,
        base: Base,
        now_ms: u64,
    ) -> Option<(Arc<Table>, CountedSpans)> {
        let is_it = |held: &HeldTable| {
            let manifest = held.table.manifest();
            *manifest.audience == *audience && manifest.as_base() == base
        };
        if !self.open.iter().any(is_it) {
            let bounds = Bounds { max_bytes: self.terms.max_bytes };
            let table = self.ledger.table(audience, base, &bounds)?;
            self.hold(audience, table, now_ms);
        }
        let held = self.open.iter_mut().find(|held| is_it(held))?;
        Some((Arc::clone(&held.table), held.counted.at(&held.table, now_ms)))
    }

    /// Keeps a table in memory, in the place of all others of its audience.
    fn hold(&mut self, audience: &str, table: Arc<Table>, now_ms: u64) {
        self.open.retain(|held| *held.table.manifest().audience != *audience);
        let counted = CountedTable::of(&table, now_ms);
        self.open.push(HeldTable { table, counted });
    }

    // --- the audit log

    /// Signs an end of the audit log.
    ///
    /// # Errors
    ///
    /// Why not. Nothing has changed then.
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

    /// Whether an audit log that was restored would be signed now. Nothing changes by the question.
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

// === impl OpenedFile ===

impl OpenedFile {
    fn manifest(&self) -> &Manifest {
        match self {
            Self::Table(table) => table.manifest(),
            Self::Patch(patch) => patch.manifest(),
        }
    }
}

/// Reads the whole file, and the bytes of it that are signed. Every count of the manifest was held
/// against the body.
fn opened(
    file: Buffer,
    max_bytes: u64,
) -> std::result::Result<(Vec<u8>, OpenedFile), SigningRefusal> {
    // One line: what follows is a remedy for whoever published it.
    let odd = |why: String| {
        SigningRefusal::new(SigningReason::File, why.lines().next().unwrap_or_default())
    };
    let stated = Manifest::unverified(&file).map_err(|e| odd(e.to_string()))?;
    let draft = Draft::read(Cursor::new(&*file)).map_err(|e| odd(e.to_string()))?;
    let message = draft.message().to_vec();
    let (trust, bounds) = (Trust::for_inspection(), Bounds { max_bytes });
    let opened = match stated.kind {
        FileKind::Table => {
            Table::open(file, &trust, &bounds).map(|table| OpenedFile::Table(Arc::new(table)))
        }
        FileKind::Patch => {
            Patch::open(file, &trust, &bounds).map(|patch| OpenedFile::Patch(Arc::new(patch)))
        }
    };
    Ok((message, opened.map_err(|e| odd(e.to_string()))?))
}

fn is_recovery(_: usize, pass: &AllowedPass) -> bool {
    *pass == AllowedPass::Recovery
}

fn as_allowed(words: &[Allowance]) -> String {
    let mut by: Vec<&str> = words.iter().map(|word| word.by.as_str()).collect();
    by.dedup();
    format!(", as {} has allowed", by.join(" and "))
}

fn told(manifest: &Manifest, active: u64, how: &str) -> String {
    let Manifest { kind, serial, audience, .. } = manifest;
    format!("signed the {kind} of serial {serial} for {audience}, {active} keys active{how}")
}

/// What is wrong with the host is for its own log: whoever asks learns no paths.
fn unavailable(error: Error) -> SigningRefusal {
    let text = error.to_string();
    super::super::output::warn(&text);
    SigningRefusal::new(SigningReason::Unavailable, "the signer cannot note what it signs")
}
