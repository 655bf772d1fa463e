//! The signer itself: opens what it is asked to sign, judges it, notes it on the disk, and signs. One
//! thing at a time. Imports the rules, the ledger, signers and table.

use std::io::Cursor;
use std::path::PathBuf;
use std::sync::Arc;

use super::super::signer::signs::{SigningReason, SigningRefusal};
use super::super::signer::{Signer, table_key};
use super::allowance::{Allowance, AllowedPass};
use super::checkpoint::checkpoint_message;
use super::ledger::SignerLedger;
use super::rules::{CountedFile, SignedMark, SigningRules, SigningVerdict};
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
    open: Vec<Arc<Table>>,
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
        Ok(Self { terms, public, ledger, open: Vec::new() })
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
        let active = match &file {
            OpenedFile::Table(table) => table.counts().active,
            OpenedFile::Patch(patch) => self.active_with(&mark, patch)?,
        };
        let counted = CountedFile { manifest, active };
        let mut by = String::new();
        let mark = match mark.judge(&rules, counted, self.public.id(), now_ms)? {
            SigningVerdict::Again => {
                return self.signed(&message, told(manifest, active, " again"));
            }
            SigningVerdict::New(mark) => mark,
            SigningVerdict::IfAllowed { mark, refusal } => {
                let allowance = self.allowance(now_ms, |pass| {
                    matches!(pass, AllowedPass::Fall { audience: of, least }
                        if **of == *audience && *least <= active)
                })?;
                by = format!(", as {} has allowed", allowance.ok_or(refusal)?.by);
                mark
            }
        };
        if let OpenedFile::Table(table) = &file {
            self.ledger.keep_table(table).map_err(unavailable)?;
        }
        self.ledger.note(&audience, mark).map_err(unavailable)?;
        let made = self.signed(&message, told(manifest, active, &by));
        if let OpenedFile::Table(table) = file {
            self.hold(&audience, table);
        }
        self.ledger.forget_tables(&audience);
        made
    }

    /// Active keys where this patch is in force, and where it is only held: the lower of the two. A
    /// sidecar that has a newer table than the patch's heeds what the patch ends.
    fn active_with(
        &mut self,
        mark: &SignedMark,
        patch: &Arc<Patch>,
    ) -> std::result::Result<u64, SigningRefusal> {
        let manifest = patch.manifest();
        let unknown = |base: Base| {
            let why = format!(
                "the patch is over the table of serial {}, which was not signed here lately",
                base.serial
            );
            SigningRefusal::new(SigningReason::Base, why)
        };
        // A manifest of a patch states its base, or it was not opened.
        let Some(base) = manifest.base else { return Ok(0) };
        let newest = mark.table().filter(|table| table.serial > base.serial);
        let table = match mark.knows(base) {
            true => self.table(&manifest.audience, base),
            false => None,
        };
        let table = table.ok_or_else(|| unknown(base))?;
        let over = KeySet::new(table, Some(Arc::clone(patch)), &[], None).counts().active;
        let Some(newest) = newest else { return Ok(over) };
        let table = self.table(&manifest.audience, newest).ok_or_else(|| unknown(newest))?;
        let held = KeySet::new(table, None, &[Arc::clone(patch)], None).counts().active;
        Ok(over.min(held))
    }

    fn table(&mut self, audience: &str, base: Base) -> Option<Arc<Table>> {
        let is_it = |table: &&Arc<Table>| {
            let manifest = table.manifest();
            *manifest.audience == *audience && manifest.as_base() == base
        };
        if let Some(table) = self.open.iter().find(is_it) {
            return Some(Arc::clone(table));
        }
        let bounds = Bounds { max_bytes: self.terms.max_bytes };
        let table = self.ledger.table(audience, base, &bounds)?;
        self.hold(audience, Arc::clone(&table));
        Some(table)
    }

    /// Keeps a table in memory, in the place of all others of its audience.
    fn hold(&mut self, audience: &str, table: Arc<Table>) {
        self.open.retain(|held| *held.manifest().audience != *audience);
        self.open.push(table);
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
        if !self.terms.checkpoints {
            let why = "audit logs are not signed here (checkpoints = false)";
            return Err(SigningRefusal::new(SigningReason::Checkpoint, why));
        }
        let mut by = String::new();
        if let Some(mark) = self.ledger.audit().judge(asked)? {
            if let Some(from) = asked.recovered_from {
                let refusal = SigningRefusal::new(
                    SigningReason::Checkpoint,
                    format!(
                        "the audit log would go on from line {from} of a backup; `keygatectl signer \
                         allow --recovery` on the signer's host lets it pass once"
                    ),
                );
                let allowance = self.allowance(now_ms, |pass| *pass == AllowedPass::Recovery)?;
                by = format!(", as {} has allowed", allowance.ok_or(refusal)?.by);
            }
            self.ledger.note_audit(mark).map_err(unavailable)?;
        }
        let message = checkpoint_message(asked.seq, &asked.hash, asked.recovered_from);
        self.signed(&message, format!("signed line {} of the audit log{by}", asked.seq))
    }

    fn allowance(
        &self,
        now_ms: u64,
        wanted: impl Fn(&AllowedPass) -> bool,
    ) -> std::result::Result<Option<Allowance>, SigningRefusal> {
        Allowance::take(&self.terms.state, now_ms, wanted).map_err(unavailable)
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
