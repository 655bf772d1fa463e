//! `admin verify-audit`: compares the audit log with itself, and with everything outside the
//! database that knows how it once ended.

use std::path::PathBuf;

use serde_json::json;

use super::super::checkpoints::{JudgedCheckpoints, KeptCheckpoints, judged};
use super::super::config::AdminToml;
use super::super::publish::high_water::HighWaterFile;
use super::super::store::{AuditHead, Store};
use super::fault::of_store;
use super::{OpenState, open_as_it_is};
use crate::exit::Exit;
use crate::manage::error::{Error, Result};
use crate::manage::output::count;
use crate::manage::session::Session;
use crate::manage::signer::{load_public, table_key};
use crate::table::PublicKey;

#[derive(Debug, Default, clap::Args)]
pub(super) struct VerifyAudit {
    /// Copy of the checkpoints that was kept elsewhere; repeatable [default: those of this service]
    #[arg(long = "checkpoints", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Public key of a former signer, PEM or `ed25519:BASE64`; repeatable. Those of the configuration
    /// count anyway
    #[arg(long = "trusted-signer", value_name = "KEY")]
    trusted: Vec<String>,
}

/// The result for a log.
pub(super) struct VerifiedAudit {
    head: AuditHead,
    checkpoints: JudgedCheckpoints,
    /// Lines of files that are not checkpoints.
    unread: u64,
    /// One line for each.
    pub(super) faults: Vec<String>,
}

// === impl VerifyAudit ===

impl VerifyAudit {
    pub(super) async fn run(self, config: AdminToml, session: &mut Session) -> Result<()> {
        let OpenState { config, store } = open_as_it_is(config, session)?;
        let verified = self.verify(&config, &*store).await?;
        let VerifiedAudit { head, checkpoints, unread, faults } = &verified;
        let last = checkpoints.ends.iter().map(|end| end.seq).max().unwrap_or_default();
        if session.output.json {
            let lost: Vec<_> =
                checkpoints.lost.iter().map(|(kept, last)| json!([kept + 1, last])).collect();
            let answer = json!({"lines": head.seq, "hash": head.hash.to_string(),
                "checkpoints": checkpoints.ends.len(), "signed_through": last, "lost": lost,
                "faults": faults});
            session.output.json_line(&answer)?;
            return refuse(faults);
        }
        for (kept, last) in &checkpoints.lost {
            let (from, to) = (kept + 1, last);
            let note =
                format!("lines {from} to {to} were lost with a restored backup, says the signer");
            session.output.note(&note);
        }
        if *unread > 0 {
            let lines = count(*unread, "line");
            session.output.note(&format!("{lines} of the checkpoints cannot be read"));
        }
        if faults.is_empty() {
            let lines = count(head.seq, "line");
            let signed = match last {
                0 => "none of them signed yet".to_owned(),
                last => format!("signed through line {last}"),
            };
            session.output.line(&format!("{lines}, the last with hash {}; {signed}", head.hash))?;
        }
        refuse(faults)
    }

    pub(super) async fn verify(
        &self,
        config: &AdminToml,
        store: &dyn Store,
    ) -> Result<VerifiedAudit> {
        let trusted = self.trusted(config)?;
        let head = store.audit_head().await.map_err(of_store)?;
        let own = std::slice::from_ref(&config.checkpoints);
        let files = if self.files.is_empty() { own } else { &self.files };
        let mut all = JudgedCheckpoints::default();
        let mut unread = 0;
        for path in files {
            let kept = match path.exists() || self.files.is_empty() {
                true => KeptCheckpoints::read(path)?,
                false => return Err(Error::read(path)(std::io::ErrorKind::NotFound.into())),
            };
            unread += kept.unread;
            let JudgedCheckpoints { ends, lost, faults } =
                judged(store, kept, &trusted).await.map_err(of_store)?;
            all.ends.extend(ends);
            all.lost.extend(lost);
            all.faults.extend(faults);
        }
        all.faults.dedup();
        let mut noted = all.ends.clone();
        noted.extend([head, HighWaterFile::open(&config.state)?.audit()]);
        let faults = store.verify_audit(noted).await.map_err(of_store)?;
        let mut faults: Vec<_> = faults.iter().map(ToString::to_string).collect();
        faults.extend(all.faults.iter().cloned());
        Ok(VerifiedAudit { head, checkpoints: all, unread, faults })
    }

    fn trusted(&self, config: &AdminToml) -> Result<Vec<PublicKey>> {
        let named = self.trusted.iter().map(|text| table_key(&load_public(text)?));
        let mut keys: Vec<PublicKey> = named.collect::<Result<_>>()?;
        // A signer that is away vouches for nothing. What it has signed then counts as a fault,
        // with its name.
        keys.extend(config.signers().filter_map(|signer| signer.public().ok()));
        Ok(keys)
    }
}

pub(super) fn refuse(faults: &[String]) -> Result<()> {
    if faults.is_empty() {
        return Ok(());
    }
    let shown: Vec<_> = faults.iter().map(|fault| format!("\n  {fault}")).collect();
    let message = format!(
        "the audit log is not as it was written:{}\nhint: compare it with a backup and with copies of \
         the checkpoints that were kept elsewhere. What a former signer has signed counts with \
         --trusted-signer KEY. A backup that was restored, and whose recovery nobody has signed, is \
         signed by `admin recover --sign-audit`. After a move to another database, put the file of \
         `audit.checkpoints` aside: it is evidence of the former log",
        shown.concat()
    );
    Err(Error::Added { message, exit: Exit::Data })
}
