//! `keygatectl table attach-signature`: for keys in an HSM or a KMS, and for tables that need
//! several signers.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::super::error::{Error, Result};
use super::super::files;
use super::super::publish::compare::MeantArgs;
use super::super::publish::head::head;
use super::super::publish::target::{self, Destination, PublishOrigin};
use super::super::registry::Registry;
use super::super::session::Session;
use super::super::signer::{Signer, load_public, table_key};
use crate::table::Manifest;
use crate::table::write::Draft;
use crate::wording::count::count;

#[derive(Debug, clap::Args)]
pub struct AttachSignature {
    /// Table or patch, built with --unsigned or signed by others already
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The 64 bytes of an Ed25519 signature over the message, as `openssl pkeyutl -sign -rawin`
    /// writes them
    #[arg(
        long,
        value_name = "FILE",
        requires = "signer_public",
        required_unless_present = "signer"
    )]
    pub signature: Option<PathBuf>,
    /// Whose signature it is: PEM or `ed25519:BASE64`
    #[arg(long, value_name = "KEY")]
    pub signer_public: Option<String>,
    /// Sign with this private key
    #[arg(long, value_name = "FILE", conflicts_with = "signature")]
    pub signer: Option<PathBuf>,
    /// Where to write [default: FILE itself]
    #[arg(long, short, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Table that a patch applies to [default: the one with that serial beside it]
    #[arg(long, value_name = "FILE")]
    pub base: Option<PathBuf>,
    #[command(flatten)]
    pub meant: MeantArgs,
}

// === impl AttachSignature ===

impl AttachSignature {
    pub fn run(self, session: &mut Session) -> Result<()> {
        let path = &self.file;
        let file = File::open(path).map_err(Error::read(path))?;
        let mut draft = Draft::read(file).map_err(|e| Error::seal(path, e))?;
        let (key, signature) = match (&self.signer, &self.signature, &self.signer_public) {
            (Some(private), _, _) => {
                let signer = Signer::load(private)?;
                let signature = signer.sign(draft.message()).ok_or(Error::Random)?;
                (*signer.public(), signature)
            }
            (None, Some(signature), Some(public)) => {
                let bytes = files::read(signature, 4096)?;
                let signature = bytes.try_into().map_err(|bytes: Vec<u8>| Error::Signer {
                    path: signature.clone(),
                    why: format!(
                        "holds {}; an Ed25519 signature has 64\n\
                         hint: `openssl pkeyutl -sign -rawin` writes it",
                        count(bytes.len() as u64, "byte")
                    ),
                })?;
                (load_public(public)?, signature)
            }
            _ => {
                return Err(Error::Missing {
                    what: "the signature",
                    hint: "give --signature with --signer-public, or --signer",
                });
            }
        };
        draft.attach(&table_key(&key)?, &signature).map_err(|e| Error::seal(path, e))?;
        let out = self.out.as_deref().unwrap_or(path);
        let registry = made_by(draft.manifest(), session);
        let base = self.base_of(draft.manifest(), out, registry.as_ref())?;
        let source = match &registry {
            Some(registry) => PublishOrigin::Draft { registry, draft: path },
            None => PublishOrigin::ForeignDraft,
        };
        let meant = self.meant.acknowledged();
        let place = Destination { out, base: base.as_deref(), source, meant: &meant };
        let published = target::write(&mut draft, &place, session)?;
        session.output.note(&format!("signed by {}", key.id()));
        published.answer(session)
    }

    /// The patch's table, if the patch is about to replace another one.
    fn base_of(
        &self,
        manifest: &Manifest,
        out: &Path,
        registry: Option<&Registry>,
    ) -> Result<Option<PathBuf>> {
        let Some(base) = manifest.base else { return Ok(None) };
        if let Some(given) = &self.base {
            return Ok(Some(given.clone()));
        }
        let own = registry.and_then(|registry| {
            registry.settings.publish.table.as_ref().map(|path| registry.relative(path))
        });
        let found = own.into_iter().chain(files::siblings(out, "kgt")?);
        let is_base = |path: &PathBuf| head(path).is_ok_and(|head| head.as_base() == base);
        let found = found.into_iter().find(is_base);
        match found {
            None if out.exists() => Err(Error::Missing {
                what: "the table that the patch is over",
                hint: "give --base: the patch would replace another one, and is compared with it",
            }),
            found => Ok(found),
        }
    }
}

/// The available registry, if it has made this file.
fn made_by(manifest: &Manifest, session: &Session) -> Option<Registry> {
    let registry = Registry::open(&session.registry).ok()?;
    let knows = registry.settings.published.iter().any(|artefact| artefact.is(manifest));
    knows.then_some(registry)
}
