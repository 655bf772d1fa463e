//! `keygatectl table verify`: each fault has an exit code of its own.

use std::path::PathBuf;

use serde_json::json;

use super::super::error::{Error, Result};
use super::super::files;
use super::super::output::count;
use super::super::publish;
use super::super::session::Session;
use super::super::signer::{load_public, table_key};
use super::super::time;
use crate::table::manifest::Kind;
use crate::table::{Bounds, Manifest, Patch, PublicKey, Refusal, Table, Trust};

#[derive(Debug, clap::Args)]
pub struct Verify {
    /// Table or patch
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Public key that is trusted: PEM or `ed25519:BASE64`; repeatable
    #[arg(long = "signer", value_name = "KEY", required_unless_present = "any_signer")]
    pub signers: Vec<String>,
    /// How many of them must have signed
    #[arg(long, value_name = "K", default_value_t = 1)]
    pub required: usize,
    /// Trust whoever signed: finds damage, not forgery
    #[arg(long, conflicts_with_all = ["signers", "required"])]
    pub any_signer: bool,
    /// Name of the deployment
    #[arg(long, value_name = "NAME", required_unless_present = "any_signer")]
    pub audience: Option<String>,
    /// The table that a patch must be over
    #[arg(long, value_name = "FILE")]
    pub base: Option<PathBuf>,
    /// Refuse a serial below this
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
                Error::refused(&path, Refusal::TooLarge { bytes, limit: self.max_bytes })
            }
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
        let kind = publish::head(path)?.kind;
        let (manifest, signed_by) = match kind {
            Kind::Table => {
                let table = Table::open(file, &trust, &bounds).map_err(refused)?;
                (table.manifest().clone(), table.signed_by().to_vec())
            }
            Kind::Patch => {
                let patch = Patch::open(file, &trust, &bounds).map_err(refused)?;
                if let Some(base) = &self.base {
                    let table = Table::open(files::read(base, self.max_bytes)?, &trust, &bounds)
                        .map_err(|e| Error::refused(base, e))?;
                    if !patch.is_over(&table) {
                        let serial = patch.manifest().base.map_or(0, |base| base.serial);
                        let why = "the one given with --base is another";
                        return Err(refused(Refusal::Base { base: serial, why }));
                    }
                }
                (patch.manifest().clone(), patch.signed_by().to_vec())
            }
        };
        if manifest.serial < self.min_serial {
            let (serial, floor) = (manifest.serial, self.min_serial);
            return Err(refused(Refusal::Rollback { serial, floor }));
        }
        if let Some(at) = manifest.expires_at
            && at <= session.now()
        {
            return Err(refused(Refusal::Expired { at }));
        }
        Ok((manifest, signed_by))
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
