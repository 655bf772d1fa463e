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
use super::patches::{SidecarState, SignedPatches};
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

/// What a file comes to where everything that was signed is in force, and what sidecars may have in its
/// place.
struct MeantKeys {
    /// Of a patch over another table than the newest: with that table.
    alone: Option<CountedSpans>,
    counted: CountedSpans,
    table: Arc<Table>,
    patch: Option<Arc<Patch>>,
    states: Vec<(Base, Vec<SidecarState>)>,
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
        let meant = match &file {
            OpenedFile::Table(table) => self.meant_by_table(&mark, table, now_ms)?,
            OpenedFile::Patch(patch) => self.meant_by_patch(&mark, patch, now_ms)?,
        };
        let course = self.least_active(&mark, &rules, manifest, &meant)?;
        let active = meant.counted.now();
        let counted = CountedFile { manifest, active: &course, meant: &meant.course() };
        let mut by = String::new();
        let mut mark = match mark.judge(&rules, counted, self.public.id(), now_ms)? {
            SigningVerdict::Again => {
                return self.signed(&message, told(manifest, active, " again"));
            }
            SigningVerdict::New(mark) => mark,
            SigningVerdict::IfAllowed { mark, needed } => {
                by = self.allowed(&audience, needed, now_ms)?;
                mark
            }
        };
        let patches = self.kept_with(&mark, &file);
        match &file {
            OpenedFile::Table(table) => self.ledger.keep_table(table),
            OpenedFile::Patch(patch) => self.ledger.keep_patch(patch),
        }
        .map_err(unavailable)?;
        mark.patches = Some(patches.list());
        self.ledger.note(&audience, mark).map_err(unavailable)?;
        let made = self.signed(&message, told(manifest, active, &by));
        if let OpenedFile::Table(table) = file {
            self.hold(&audience, table, now_ms);
        }
        self.ledger.forget_files(&audience);
        self.patches.insert(audience, patches);
        made
    }

    /// The patches that sidecars may have once this file is signed.
    fn kept_with(&self, mark: &SignedMark, file: &OpenedFile) -> SignedPatches {
        let known = self.patches.get(&*file.manifest().audience);
        let list = mark.patches.clone().or_else(|| Some(known?.list())).unwrap_or_default();
        let mut patches = SignedPatches::of(&list, |serial| known?.get(serial));
        if let OpenedFile::Patch(patch) = file {
            patches.note(Arc::clone(patch), self.terms.max_bytes);
        }
        patches.forget(|base| mark.knows(base), mark.least_includes());
        patches
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

    /// What a table that is in force everywhere would come to.
    fn meant_by_table(
        &mut self,
        mark: &SignedMark,
        table: &Arc<Table>,
        now_ms: u64,
    ) -> std::result::Result<MeantKeys, SigningRefusal> {
        let manifest = table.manifest();
        let (base, includes) = (manifest.as_base(), manifest.includes_through);
        let mut states = Vec::new();
        // Where it is allowed that it leads back, what was signed before counts no more.
        if !mark.leads_back(manifest) {
            let patches = self.patches_of(&manifest.audience, mark);
            if !patches.knows(includes) {
                let why = format!(
                    "the table has every change through {includes}, and this signer knows nothing of \
                     what was signed up to {}: a table that is made now has it",
                    patches.unknown()
                );
                return Err(SigningRefusal::new(SigningReason::Stale, why));
            }
            states = vec![(base, patches.states(base, includes))];
        }
        let counted = CountedSpans::of(table.active_spans(), now_ms);
        let table = Arc::clone(table);
        Ok(MeantKeys { alone: None, counted, table, patch: None, states })
    }

    /// What a patch that is in force everywhere would come to.
    fn meant_by_patch(
        &mut self,
        mark: &SignedMark,
        patch: &Arc<Patch>,
        now_ms: u64,
    ) -> std::result::Result<MeantKeys, SigningRefusal> {
        let manifest = patch.manifest();
        let unknown = |base: Base| {
            let why = format!(
                "the patch is over the table of serial {}, which was not signed here lately",
                base.serial
            );
            SigningRefusal::new(SigningReason::Base, why)
        };
        // A manifest of a patch states its base, or it was not opened.
        let (Some(base), Some(newest)) = (manifest.base, mark.table()) else {
            return Err(unknown(manifest.base.unwrap_or_else(|| manifest.as_base())));
        };
        let table = match mark.knows(base) {
            true => self.table(&manifest.audience, base, now_ms),
            false => None,
        };
        let (table, counted) = table.ok_or_else(|| unknown(base))?;
        let over = counted.with_patch(&table, patch);
        let patches = self.patches_of(&manifest.audience, mark);
        let mut with_it = SignedPatches::of(&patches.list(), |serial| patches.get(serial));
        let before = patches.newest_over(newest).cloned();
        with_it.note(Arc::clone(patch), u64::MAX);
        let mut states = Vec::new();
        for kept in mark.tables() {
            match with_it.knows(kept.includes) {
                true => states.push((kept.base(), with_it.states(kept.base(), kept.includes))),
                // Nothing can be said of sidecars with an older one.
                false if kept.base() != newest => {}
                false => return Err(unknown(newest)),
            }
        }
        if base == newest {
            let patch = Some(Arc::clone(patch));
            return Ok(MeantKeys { alone: None, counted: over, table, patch, states });
        }
        let newer = self.table(&manifest.audience, newest, now_ms);
        let (table, counted) = newer.ok_or_else(|| unknown(newest))?;
        let counted = match &before {
            Some(before) => counted.with_patch(&table, before),
            None => counted,
        };
        Ok(MeantKeys { alone: Some(over), counted, table, patch: before, states })
    }

    /// Active keys of those that should be, where a sidecar refuses most of them: whoever has the service
    /// decides what sidecars get of what was signed.
    fn least_active(
        &mut self,
        mark: &SignedMark,
        rules: &SigningRules,
        manifest: &Manifest,
        meant: &MeantKeys,
    ) -> std::result::Result<ActiveCourse, SigningRefusal> {
        let mut least = meant.course();
        for (base, states) in &meant.states {
            for state in states {
                let is_meant = state.held.is_empty()
                    && meant.table.manifest().as_base() == *base
                    && state.in_force.as_ref().map(|patch| patch.serial()) == meant.patch_serial();
                // Most patches are short, and then nobody has to look at all the keys.
                let bound = meant.counted.course().less(state.most_refused());
                if is_meant || !mark.is_fall(rules, manifest, &bound) {
                    continue;
                }
                let table = match meant.table.manifest().as_base() == *base {
                    true => Arc::clone(&meant.table),
                    false => {
                        let table = self.table(&manifest.audience, *base, meant.counted.now_ms());
                        let why = "a table that was signed lately is gone from `state`";
                        table.ok_or_else(|| SigningRefusal::new(SigningReason::Base, why))?.0
                    }
                };
                let theirs = KeySet::new(table, state.in_force.clone(), &state.held, None);
                least = least.lower(&meant.counted_in(&theirs).course());
            }
        }
        Ok(least)
    }

    fn patches_of(&mut self, audience: &str, mark: &SignedMark) -> &SignedPatches {
        let Self { patches, ledger, terms, .. } = self;
        patches.entry(audience.into()).or_insert_with(|| {
            let Some(list) = &mark.patches else { return SignedPatches::since(mark.serial()) };
            let bounds = Bounds { max_bytes: terms.max_bytes };
            SignedPatches::of(list, |serial| ledger.patch(audience, serial, &bounds))
        })
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

// === impl MeantKeys ===

impl MeantKeys {
    fn course(&self) -> ActiveCourse {
        let course = self.counted.course();
        match &self.alone {
            Some(alone) => course.lower(&alone.course()),
            None => course,
        }
    }

    fn patch_serial(&self) -> Option<u64> {
        self.patch.as_ref().map(|patch| patch.serial())
    }

    /// Those of the keys that a sidecar takes, or does not know: it gets those.
    fn counted_in(&self, theirs: &KeySet) -> CountedSpans {
        let meant = KeySet::new(Arc::clone(&self.table), self.patch.clone(), &[], None);
        let mut counted = self.counted.clone();
        for (span, left) in meant.less_active_in(theirs) {
            counted.add(&span, -1);
            counted.add(&left, 1);
        }
        counted
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
