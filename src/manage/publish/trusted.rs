//! Whose files a registry takes keys from. Otherwise anybody who can write where tables are could
//! put keys of their own there, and the next publication would sign them. Imports the registry,
//! signers and table.

use std::path::Path;

use super::super::error::{Error, Result};
use super::super::registry::Registry;
use super::super::registry::published::BuiltFile;
use super::super::signer::{Signer, load_public, table_key};
use super::head::signed_by;
use crate::table::{Manifest, PublicKey, Trust};

/// Where `signer new` puts a signer.
const DEFAULT_SIGNER: &str = "signer.pem";

#[derive(Clone, Debug, Default, clap::Args)]
pub struct TrustedArgs {
    /// Signer whose files may be merged: PEM or `ed25519:BASE64`; repeatable [default: those at
    /// hand: each --signer and the registry's, else `signer.pem` beside the registry]
    #[arg(long = "trusted-signer", value_name = "KEY")]
    pub trusted: Vec<String>,
}

/// Signers whose files are taken in.
#[derive(Clone, Debug)]
pub struct TrustedSigners {
    keys: Vec<PublicKey>,
}

/// The signers required for files read in one place.
#[derive(Clone, Debug, Default)]
pub struct DemandedSignatures {
    /// `None`: anybody may; the files are compared, not taken in.
    signers: Option<TrustedSigners>,
    /// What the registry has published itself, recognized by its hash.
    own: Vec<BuiltFile>,
}

// === impl TrustedArgs ===

impl TrustedArgs {
    /// The named signers, else those whose keys are available; `signing` sign the next publication.
    pub fn signers(&self, registry: &Registry, signing: &[PublicKey]) -> Result<TrustedSigners> {
        let mut keys = match self.trusted.is_empty() {
            true => at_hand(registry, signing),
            false => {
                let named = self.trusted.iter().map(|text| table_key(&load_public(text)?));
                named.collect::<Result<_>>()?
            }
        };
        keys.sort_unstable();
        keys.dedup();
        Ok(TrustedSigners { keys })
    }
}

fn at_hand(registry: &Registry, signing: &[PublicKey]) -> Vec<PublicKey> {
    // A missing key vouches for nothing.
    let load = |path: &Path| table_key(Signer::load(path).ok()?.public()).ok();
    let own = registry.settings.publish.signer.as_deref();
    let own = own.and_then(|path| load(&registry.relative(path)));
    let keys: Vec<PublicKey> = signing.iter().copied().chain(own).collect();
    match keys.is_empty() && registry.settings.publish.signer.is_none() {
        true => load(&registry.path.with_file_name(DEFAULT_SIGNER)).into_iter().collect(),
        false => keys,
    }
}

// === impl TrustedSigners ===

impl TrustedSigners {
    fn refuse_strangers(&self, path: &Path) -> Result<()> {
        let signed_by = signed_by(path)?;
        if signed_by.iter().any(|key| self.keys.contains(key)) {
            return Ok(());
        }
        let list = |keys: &[PublicKey]| {
            let ids: Vec<_> = keys.iter().map(|key| key.id().to_string()).collect();
            ids.join(", ")
        };
        let who = match signed_by.is_empty() {
            true => "carries no valid signature".to_owned(),
            false => format!("is signed by {}", list(&signed_by)),
        };
        let trusted = match self.keys.is_empty() {
            true => "no signer is known here".to_owned(),
            false => format!("only {} counts here", list(&self.keys)),
        };
        let why = format!(
            "{who}, and {trusted}; nothing was taken from it\n\
             hint: if you know who published it, name that signer's public key with \
             --trusted-signer KEY. Otherwise somebody else can write there: docs/recipes.md, \"A \
             signer was compromised\""
        );
        Err(Error::Signer { path: path.to_owned(), why })
    }

    fn trust(&self, audience: &str) -> Option<Trust> {
        Trust::new(self.keys.iter().copied(), 1, audience).ok()
    }
}

// === impl DemandedSignatures ===

impl DemandedSignatures {
    /// `signers` must have signed everything that is not in `own`.
    pub fn of(signers: &TrustedSigners, own: &[BuiltFile]) -> Self {
        Self { signers: Some(signers.clone()), own: own.to_vec() }
    }

    /// Refuses a file that none of them has signed.
    pub fn refuse_strangers(&self, path: &Path, manifest: &Manifest) -> Result<()> {
        match &self.signers {
            Some(signers) if !self.is_own(manifest) => signers.refuse_strangers(path),
            _ => Ok(()),
        }
    }

    /// The trust for opening a file whose bytes are already read: it may have changed since.
    pub fn trust(&self, file: &[u8]) -> Trust {
        let manifest = Manifest::unverified(file).ok();
        let own = manifest.as_ref().is_none_or(|manifest| self.is_own(manifest));
        let trust = match (&self.signers, &manifest) {
            (Some(signers), Some(manifest)) if !own => signers.trust(&manifest.audience),
            _ => None,
        };
        trust.unwrap_or_else(Trust::for_inspection)
    }

    fn is_own(&self, manifest: &Manifest) -> bool {
        self.own.iter().any(|artefact| artefact.is(manifest))
    }
}
