//! Signed ends of the audit log, in a file outside the database, in the log and in the database.
//! Somebody who rewrites the whole database, with a chain of its own, cannot sign for it. The
//! signer of the tables signs each hour and each thousand lines.

mod statement;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use self::statement::{JudgedCheckpoints, SignedCheckpoint};
use super::app::App;
use super::config::AdminToml;
use super::store::{AuditHead, AuditQuery, Checkpoint, Store, StoreError};
use crate::manage::error::Error;
use crate::manage::files;
use crate::manage::signing::source::SignerSource;
use crate::manage::signing::wire::AskedCheckpoint;
use crate::table::PublicKey;

/// No line that we have written is longer than this.
const LONGEST_LINE: usize = 4096;

/// How often to check whether one is due.
const LOOK: Duration = Duration::from_secs(5);

/// Lines without a checkpoint are signed after this long.
const EVERY_MS: u64 = 3_600_000;

/// Or after this many lines.
const EVERY_LINES: u64 = 1000;

/// Why no checkpoint was made. The next check tries again.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointFault {
    /// A signature over the log as it is would make it appear true.
    #[error(
        "line {0} of the audit log is not the one that was signed: `keygatectl admin verify-audit` says \
         more. After a recovery that nobody has signed `keygatectl admin recover --sign-audit` has it \
         signed; after a move to another database the file of `audit.checkpoints` is put aside as \
         evidence of the former log, and the service restarted"
    )]
    OtherLog(u64),
    #[error("{0}")]
    File(String),
    #[error("the signer does not sign: {0}")]
    Signer(String),
    #[error("{0}")]
    Store(#[from] StoreError),
}

/// The checkpoints in a file.
#[derive(Debug, Default)]
pub struct KeptCheckpoints {
    pub all: Vec<SignedCheckpoint>,
    /// Lines that a crash has cut off, or that somebody else has written.
    pub unread: u64,
}

/// Signed lines that the log no longer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LostLines {
    /// The last signed line that the log has; 0: none.
    pub kept: u64,
    /// The last line that was signed.
    pub signed: u64,
}

/// Signs the end of the log when a checkpoint is due.
#[derive(Debug)]
pub struct CheckpointKeeper {
    signer: SignerSource,
    path: PathBuf,
    last: Option<SignedCheckpoint>,
}

// === impl KeptCheckpoints ===

impl KeptCheckpoints {
    /// Reads a file. If it does not exist, there are none.
    ///
    /// # Errors
    ///
    /// A file that cannot be read.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let file = match File::open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            opened => opened.map_err(Error::read(path))?,
        };
        let mut kept = Self::default();
        for line in BufReader::new(file).split(b'\n') {
            let line = line.map_err(Error::read(path))?;
            match SignedCheckpoint::of_line(line.get(..LONGEST_LINE).unwrap_or(&line)) {
                Some(checkpoint) => kept.all.push(checkpoint),
                None if line.is_empty() => {}
                None => kept.unread += 1,
            }
        }
        Ok(kept)
    }
}

// === impl CheckpointKeeper ===

impl CheckpointKeeper {
    /// `None`: no audience has a signer here.
    ///
    /// # Errors
    ///
    /// A file that cannot be read.
    pub fn of(settings: &AdminToml) -> Result<Option<Self>, Error> {
        let Some(signer) = settings.signers().next().cloned() else { return Ok(None) };
        let path = settings.checkpoints.clone();
        let last = KeptCheckpoints::read(&path)?.all.pop();
        Ok(Some(Self { signer, path, last }))
    }

    /// How many lines no checkpoint covers.
    fn unsigned(&self, head: AuditHead) -> u64 {
        head.seq.saturating_sub(self.last.as_ref().map_or(0, |last| last.head.seq))
    }

    fn is_due(&self, head: AuditHead, now_ms: u64) -> bool {
        let since = self.last.as_ref().map_or(0, |last| last.at_ms);
        let unsigned = self.unsigned(head);
        unsigned >= EVERY_LINES || (unsigned > 0 && now_ms.saturating_sub(since) >= EVERY_MS)
    }

    /// Signs the end of the log, if a checkpoint is due and the log still has what was signed
    /// before. Returns what it has signed, and how many lines are unsigned afterwards.
    ///
    /// # Errors
    ///
    /// See [`CheckpointFault`].
    pub async fn look(
        &mut self,
        store: &dyn Store,
        now_ms: u64,
    ) -> Result<(Option<AuditHead>, u64), CheckpointFault> {
        let head = store.audit_head().await?;
        self.refuse_other_log(store, head).await?;
        if !self.is_due(head, now_ms) {
            return Ok((None, self.unsigned(head)));
        }
        let signed = self.sign(head, None, now_ms).await?;
        let SignedCheckpoint { signer, signature, at_ms, .. } = signed;
        store.put_checkpoint(Checkpoint { head, signer, signature, at_ms }).await?;
        Ok((Some(head), 0))
    }

    /// Signs that the log was restored from a backup whose last line was `kept`, and ends at `head`
    /// now.
    ///
    /// # Errors
    ///
    /// See [`CheckpointFault`].
    pub async fn recovered(
        &mut self,
        head: AuditHead,
        kept: u64,
        now_ms: u64,
    ) -> Result<(), CheckpointFault> {
        self.sign(head, Some(kept), now_ms).await.map(drop)
    }

    /// The lines that were signed but that the present log lost, because a backup cut it. `None`:
    /// the last signed line exists.
    ///
    /// # Errors
    ///
    /// See [`CheckpointFault`].
    pub async fn lost(&self, store: &dyn Store) -> Result<Option<LostLines>, CheckpointFault> {
        let Some(last) = &self.last else { return Ok(None) };
        let head = store.audit_head().await?;
        if has_line(store, last.head, head).await? {
            return Ok(None);
        }
        let signed = KeptCheckpoints::read(&self.path).map_err(in_file)?.all;
        let mut kept = 0;
        for checkpoint in signed.iter().rev() {
            if has_line(store, checkpoint.head, head).await? {
                kept = checkpoint.head.seq;
                break;
            }
        }
        Ok(Some(LostLines { kept, signed: last.head.seq }))
    }

    /// Checks whether the signer would sign a recovery, before anything changes.
    ///
    /// # Errors
    ///
    /// Why it would refuse.
    pub async fn would_recover(&self) -> Result<(), CheckpointFault> {
        let signer = self.signer.clone();
        let asking = tokio::task::spawn_blocking(move || signer.would_recover());
        let answer = asking.await.map_err(|e| CheckpointFault::Signer(e.to_string()))?;
        answer.map_err(|e| CheckpointFault::Signer(e.to_string()))
    }

    /// Refuses to sign a log without the line that was signed before: the signature would vouch for
    /// it.
    async fn refuse_other_log(
        &mut self,
        store: &dyn Store,
        head: AuditHead,
    ) -> Result<(), CheckpointFault> {
        let Some(last) = &self.last else { return Ok(()) };
        if has_line(store, last.head, head).await? {
            return Ok(());
        }
        // A recovery by another process has settled it.
        let kept = KeptCheckpoints::read(&self.path).map_err(in_file)?;
        self.last = kept.all.into_iter().next_back();
        match &self.last {
            Some(last) if !has_line(store, last.head, head).await? => {
                Err(CheckpointFault::OtherLog(last.head.seq))
            }
            _ => Ok(()),
        }
    }

    async fn sign(
        &mut self,
        head: AuditHead,
        recovered_from: Option<u64>,
        at_ms: u64,
    ) -> Result<SignedCheckpoint, CheckpointFault> {
        let (signer, path) = (self.signer.clone(), self.path.clone());
        let signing = tokio::task::spawn_blocking(move || {
            let public = signer.public().map_err(CheckpointFault::Signer)?;
            let AuditHead { seq, hash } = head;
            let asked = AskedCheckpoint { seq, hash: hash.0, recovered_from };
            let signature = signer.sign_checkpoint(asked);
            let signature = signature.map_err(|e| CheckpointFault::Signer(e.to_string()))?.to_vec();
            let signer = public.id().to_string().into();
            let signed = SignedCheckpoint { head, recovered_from, at_ms, signer, signature };
            if !signed.is_signed_by(&[public]) {
                let why = "its signature is not one of its public key";
                return Err(CheckpointFault::Signer(why.to_owned()));
            }
            files::append_line(&path, &signed.to_line()).map_err(in_file)?;
            Ok(signed)
        });
        let signed = signing.await.map_err(|e| CheckpointFault::File(e.to_string()))??;
        self.last = Some(signed.clone());
        Ok(signed)
    }
}

/// Whether the log, which ends at `head`, has this line.
async fn has_line(store: &dyn Store, line: AuditHead, head: AuditHead) -> Result<bool, StoreError> {
    if line.seq == 0 || line == head {
        return Ok(true);
    }
    let query = AuditQuery { before: Some(line.seq + 1), limit: 1, ..AuditQuery::default() };
    Ok(store.audit(query).await?.lines.first().is_some_and(|there| there.head() == line))
}

fn in_file(error: Error) -> CheckpointFault {
    CheckpointFault::File(error.to_string())
}

/// All checkpoints of the log, from a file and from the database itself, judged by the keys in
/// `trusted` alone.
///
/// # Errors
///
/// A database that does not answer.
pub async fn judged(
    store: &dyn Store,
    kept: KeptCheckpoints,
    trusted: &[PublicKey],
) -> Result<JudgedCheckpoints, StoreError> {
    let mut judged = JudgedCheckpoints::of(kept.all, trusted);
    let stored = store.checkpoints().await?.into_iter().map(SignedCheckpoint::from);
    let stored = JudgedCheckpoints::of(stored, trusted);
    judged.ends.extend(stored.ends);
    judged.faults.extend(stored.faults);
    judged.faults.dedup();
    Ok(judged)
}

/// Runs until the service ends.
pub async fn run(app: App, mut keeper: CheckpointKeeper) {
    let mut told: Option<String> = None;
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        match keeper.look(&*app.store, app.clock.now().unix_ms).await {
            Ok((signed, unsigned)) => {
                if let (Some(head), Some(last)) = (signed, &keeper.last) {
                    let checkpoint = last.to_line();
                    tracing::info!(seq = head.seq, checkpoint, "the audit log was signed");
                }
                app.metrics.audit_unsigned(unsigned);
                told = None;
            }
            Err(fault) => {
                app.metrics.checkpoint_failed();
                let error = fault.to_string();
                if told.as_ref() != Some(&error) {
                    tracing::error!(error, "the audit log was not signed; trying again");
                    told = Some(error);
                }
            }
        }
    }
}
