//! `keygatectl table attach-signature`: for keys that live in an HSM or a KMS, and for tables that
//! need several signers.

use std::fs::File;
use std::path::PathBuf;

use super::super::error::{Error, Result};
use super::super::files;
use super::super::publish;
use super::super::session::Session;
use super::super::signer::{Signer, load_public, table_key};
use crate::table::write::Draft;

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
    /// Sign here and now with this private key
    #[arg(long, value_name = "FILE", conflicts_with = "signature")]
    pub signer: Option<PathBuf>,
    /// Where to write [default: FILE itself]
    #[arg(long, short, value_name = "FILE")]
    pub out: Option<PathBuf>,
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
                        "holds {} bytes; an Ed25519 signature has 64\n\
                         hint: `openssl pkeyutl -sign -rawin` writes it",
                        bytes.len()
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
        let published = publish::write(&mut draft, out, session)?;
        session.output.note(&format!("signed by {}", key.id()));
        published.answer(session)
    }
}
