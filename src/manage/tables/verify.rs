//! `keygatectl table verify`: each fault has its own exit code.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::json;

use super::super::error::{Error, Result};
use super::super::files;
use super::super::output::count;
use super::super::publish::head::head;
use super::super::session::Session;
use super::super::signer::{load_public, table_key};
use super::super::time;
use crate::core::Now;
use crate::table::FileKind;
use crate::table::{
    AcceptOutcome, AcceptRules, Acceptance, Bounds, Manifest, Patch, PublicKey, Refusal, Table,
    Trust,
};

/// The file that is in force may have expired since.
const BEFORE: Now = Now { unix_ms: 0, mono_ns: 0 };

#[derive(Debug, clap::Args)]
pub struct Verify {
    /// Table or patch
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Trusted public key: PEM or `ed25519:BASE64`; repeatable
    #[arg(long = "signer", value_name = "KEY", required_unless_present = "any_signer")]
    pub signers: Vec<String>,
    /// Number of them that must have signed
    #[arg(long, value_name = "K", default_value_t = 1)]
    pub required: usize,
    /// Trust whoever signed: finds damage, not forgery
    #[arg(long, conflicts_with_all = ["signers", "required"])]
    pub any_signer: bool,
    /// Name of the deployment
    #[arg(long, value_name = "NAME", required_unless_present = "any_signer")]
    pub audience: Option<String>,
    /// Table in force before FILE; a patch must apply to it
    #[arg(long, visible_alias = "base", value_name = "TABLE")]
    pub after: Option<PathBuf>,
    /// Lowest serial to accept
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub min_serial: u64,
    /// Refuse a larger file
    #[arg(long, value_name = "BYTES", default_value_t = Bounds::default().max_bytes)]
    pub max_bytes: u64,
}

// === impl Verify ===

impl Verify {
    pub fn run(self, session: &mut Session) -> Result<()> {
        let path = &self.file;
        let (manifest, signed_by) = self.verify(session).map_err(|e| match e {
            Error::TooLarge { path, .. } => {
                let bytes = std::fs::metadata(&path).map_or(0, |m| m.len());
                let refusal = Refusal::TooLarge { bytes, limit: self.max_bytes };
                Error::NotVerified { path, refusal }
            }
            Error::Refused { path, refusal } => Error::NotVerified { path, refusal },
            e => e,
        })?;
        let signers: Vec<_> = signed_by.iter().map(|key| key.id().to_string()).collect();
        if session.output.json {
            return session.output.json(&json!({
                "file": path.display().to_string(),
                "kind": manifest.kind.to_string(),
                "serial": manifest.serial,
                "audience": manifest.audience,
                "signed_by": signers,
                "signer_trusted": !self.any_signer,
                "keys": manifest.keys,
                "expires": manifest.expires_at.map(time::show),
            }));
        }
        let trusted = if self.any_signer { ", whose trust was not checked" } else { "" };
        session.output.line(&format!(
            "{}: a good {} of serial {} for {}, {}, signed by {}{trusted}",
            path.display(),
            manifest.kind,
            manifest.serial,
            manifest.audience,
            count(manifest.keys, "record"),
            signers.join(", ")
        ))
    }

    fn verify(&self, session: &Session) -> Result<(Manifest, Vec<PublicKey>)> {
        let path = &self.file;
        let refused = |e| Error::refused(path, e);
        let trust = self.trust()?;
        let bounds = Bounds { max_bytes: self.max_bytes };
        let file = files::read(path, self.max_bytes)?;
        let now = Now { unix_ms: session.now().saturating_mul(1000), mono_ns: 0 };
        // The same rules, in the same order, as in a sidecar.
        let mut desk = Acceptance::new(AcceptRules::default());
        if let Some(after) = &self.after {
            let before = files::read(after, self.max_bytes)?;
            Table::open(before, &trust, &bounds)
                .and_then(|table| desk.offer_table(Arc::new(table), BEFORE))
                .map_err(|e| Error::refused(after, e))?;
        }
        desk.set_rules(AcceptRules { min_serial: self.min_serial, ..AcceptRules::default() });
        match self.wanted()? {
            FileKind::Table => {
                let table = Arc::new(Table::open(file, &trust, &bounds).map_err(refused)?);
                desk.offer_table(Arc::clone(&table), now).map_err(refused)?;
                Ok((table.manifest().clone(), table.signed_by().to_vec()))
            }
            FileKind::Patch => {
                let patch = Arc::new(Patch::open(file, &trust, &bounds).map_err(refused)?);
                match desk.offer_patch(Arc::clone(&patch), now).map_err(refused)? {
                    AcceptOutcome::Restricted(refusal) => Err(refused(refusal)),
                    // With --after it has to fit now, not once another table has arrived.
                    AcceptOutcome::Held if self.after.is_some() => {
                        let serial = patch.manifest().base.map_or(0, |base| base.serial);
                        let why = "the one given with --after is older";
                        Err(refused(Refusal::Base { base: serial, why }))
                    }
                    _ => Ok((patch.manifest().clone(), patch.signed_by().to_vec())),
                }
            }
        }
    }

    /// The file's extension says what a sidecar takes it for; otherwise the file's own statement
    /// counts.
    fn wanted(&self) -> Result<FileKind> {
        match self.file.extension().and_then(|e| e.to_str()) {
            Some("kgt") => Ok(FileKind::Table),
            Some("kgp") => Ok(FileKind::Patch),
            _ => Ok(head(&self.file)?.kind),
        }
    }

    fn trust(&self) -> Result<Trust> {
        if self.any_signer {
            return Ok(Trust::for_inspection());
        }
        let keys: Vec<_> = self
            .signers
            .iter()
            .map(|text| load_public(text).and_then(|key| table_key(&key)))
            .collect::<Result<_>>()?;
        Trust::new(keys, self.required, self.audience.as_deref().unwrap_or_default())
            .map_err(|e| Error::argument("--signer", e))
    }
}
