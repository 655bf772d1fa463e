//! What a publication states that does not follow from its keys: audience, signers, expiry; and
//! where it is assembled. Imports the registry, signers and table.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

use super::super::error::{Error, Result};
use super::super::files;
use super::super::registry::Registry;
use super::super::session::Session;
use super::super::signer::{self, Signer, sign_all};
use super::super::time;
use crate::table::write::{Draft, Spool};
use crate::table::{Acknowledge, Issue, PublicKey, TableFormat};

/// Default bound on what a build holds in memory.
pub const MEMORY: usize = 256 << 20;

/// What a manifest states that does not follow from the keys.
#[derive(Debug)]
pub struct Terms {
    pub audience: Box<str>,
    pub signers: Vec<Signer>,
    /// Signers who may sign later; their private keys are not available here.
    pub named: Vec<PublicKey>,
    pub expires_at: Option<u64>,
    pub acknowledge: Vec<Acknowledge>,
    pub memory: usize,
    /// The version to write; `None`: a table's is the registry's, a patch's that of its base.
    pub format: Option<TableFormat>,
    /// Another file that receives the bytes to sign.
    pub message: Option<PathBuf>,
}

/// Who signs, now or later.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct SigningArgs {
    /// Private key that signs; repeatable [default: `signer` of the registry's [publish]]
    #[arg(long = "signer", value_name = "FILE", conflicts_with = "unsigned")]
    pub signers: Vec<PathBuf>,
    /// Do not sign; another program does, and `keygatectl table attach-signature` adds its
    /// signature
    #[arg(long)]
    pub unsigned: bool,
    /// Public key of a signer whose signature follows: PEM or `ed25519:BASE64`; repeatable
    #[arg(long = "signer-public", value_name = "KEY")]
    pub named: Vec<String>,
    /// Also write the bytes to sign into this file
    #[arg(long, value_name = "FILE")]
    pub message: Option<PathBuf>,
}

/// Temporary files in the directory of the target: on its disk, and unnamed, so that a crash leaves
/// nothing behind.
#[derive(Debug)]
pub struct Spill {
    directory: PathBuf,
}

// === impl Spill ===

impl Spill {
    pub fn beside(target: &Path) -> Self {
        Self { directory: files::directory(target).to_owned() }
    }
}

impl Spool for Spill {
    type File = File;

    fn fresh(&mut self) -> io::Result<File> {
        tempfile::tempfile_in(&self.directory)
    }
}

// === impl SigningArgs ===

impl SigningArgs {
    /// Refuses a publication that nobody could ever sign.
    pub fn check(&self) -> Result<()> {
        match self.unsigned && self.named.is_empty() {
            true => Err(Error::Missing {
                what: "who will sign",
                hint: "give --signer-public with the signer's public key: the manifest names it",
            }),
            false => Ok(()),
        }
    }

    /// The available signers. Without a registry they have to be given.
    pub fn signers(&self, registry: Option<&Registry>) -> Result<Vec<Signer>> {
        let paths = match (self.unsigned, registry) {
            (true, _) => Vec::new(),
            (false, Some(registry)) => signer_paths(registry, &self.signers)?,
            (false, None) if self.signers.is_empty() => {
                return Err(Error::Missing {
                    what: "the signer",
                    hint: "give --signer FILE, or --unsigned",
                });
            }
            (false, None) => self.signers.clone(),
        };
        paths.iter().map(|path| Signer::load(path)).collect()
    }

    /// Everybody who may sign: `signers`, and those whose signatures follow.
    pub fn named(&self, signers: &[Signer]) -> Result<Vec<PublicKey>> {
        let later = self.named.iter().map(|text| signer::table_key(&signer::load_public(text)?));
        let here = signers.iter().map(|signer| signer::table_key(signer.public()));
        let mut named: Vec<_> = later.chain(here).collect::<Result<_>>()?;
        named.sort_unstable();
        named.dedup();
        Ok(named)
    }
}

/// Those given, or the registry's own.
fn signer_paths(registry: &Registry, given: &[PathBuf]) -> Result<Vec<PathBuf>> {
    match (given, &registry.settings.publish.signer) {
        ([], Some(path)) => Ok(vec![registry.relative(path)]),
        ([], None) => Err(Error::Missing {
            what: "the signer",
            hint: "give --signer FILE, or set `signer` under [publish] in the registry; \
                   `keygatectl signer new` makes one",
        }),
        (given, _) => Ok(given.to_vec()),
    }
}

// === impl Terms ===

impl Terms {
    /// From the registry's settings; options take precedence.
    pub fn of(registry: &Registry, signers: &[PathBuf], session: &Session) -> Result<Self> {
        let paths = signer_paths(registry, signers)?;
        let signers = paths.iter().map(|path| Signer::load(path)).collect::<Result<_>>()?;
        Self::signed_by(registry, signers, session)
    }

    /// The same, signed by the available signers, if any.
    pub fn signed_by(registry: &Registry, signers: Vec<Signer>, session: &Session) -> Result<Self> {
        let publish = &registry.settings.publish;
        let expires_at = match publish.life {
            Some(life) => time::When::In(life).resolve(session.now()).map_err(|e| {
                Error::setting(&registry.path, format!("publish.life: {e}"), "shorten it")
            })?,
            None => None,
        };
        Ok(Self {
            audience: audience(registry)?,
            named: signers.iter().map(|s| signer::table_key(s.public())).collect::<Result<_>>()?,
            signers,
            expires_at,
            acknowledge: Vec::new(),
            memory: MEMORY,
            format: None,
            message: None,
        })
    }

    /// The signers who sign it now.
    pub fn signing(&self) -> Result<Vec<PublicKey>> {
        let mut keys: Vec<_> = self
            .signers
            .iter()
            .map(|signer| signer::table_key(signer.public()))
            .collect::<Result<_>>()?;
        keys.sort_unstable();
        keys.dedup();
        Ok(keys)
    }

    /// `purpose` is added to what options acknowledge.
    pub fn issue(&self, serial: u64, purpose: &[Acknowledge], session: &Session) -> Issue {
        let mut acknowledge = self.acknowledge.clone();
        acknowledge.extend(purpose.iter().filter(|meant| !self.acknowledge.contains(meant)));
        Issue {
            serial,
            // The registry holds every change that was ever published from it.
            includes_through: serial,
            issued_at_ms: session.clock.now().unix_ms,
            expires_at: self.expires_at,
            audience: self.audience.clone(),
            signers: self.named.iter().map(PublicKey::id).collect(),
            acknowledge,
        }
    }

    /// Signs with every available signer, and writes the bytes to sign to the requested file.
    pub fn sign<F>(&self, draft: &mut Draft<F>, path: &Path) -> Result<()>
    where
        F: Read + Seek,
    {
        sign_all(draft, &self.signers, path)?;
        match &self.message {
            Some(message) => files::replace(message, draft.message()),
            None => Ok(()),
        }
    }
}

fn audience(registry: &Registry) -> Result<Box<str>> {
    registry.settings.audience.clone().ok_or(Error::Missing {
        what: "the audience",
        hint: "give --audience, or set `audience` in the registry to the name that the sidecars' \
               configuration has as well",
    })
}
