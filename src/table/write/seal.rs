//! A file about to be signed. The signature is made elsewhere: by the signer's key, by `openssl
//! pkeyutl -sign -rawin`, by an HSM. Imports core only.

use std::io::{self, Read, Seek, SeekFrom, Write};

use aws_lc_rs::digest::{Context, SHA256};

use super::build::BuiltBody;
use crate::table::envelope::{Envelope, MAX_MANIFEST, MAX_SIGNATURES, SignatureEntry};
use crate::table::file_kind::FileKind;
use crate::table::format::TableFormat;
use crate::table::manifest::{Base, BodyHash, Issue, Manifest};
use crate::table::refusal::Refusal;
use crate::table::signer_id::SignerId;
use crate::table::trust::PublicKey;

/// A table or patch whose content is fixed and that can still be signed.
#[derive(Debug)]
pub struct Draft<F> {
    manifest: Manifest,
    message: Vec<u8>,
    signatures: Vec<SignatureEntry>,
    body: F,
    body_at: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum SealError {
    #[error("cannot read or write the file: {0}")]
    Io(#[from] io::Error),
    #[error(
        "{signer} is not among the signers that the manifest names\n\
         hint: name it with `--signer` when building"
    )]
    NotNamed { signer: SignerId },
    #[error("{0}")]
    Refused(#[from] Refusal),
}

// === impl BuiltBody ===

impl<F> BuiltBody<F> {
    /// Records in it.
    pub fn keys(&self) -> u64 {
        self.counts.keys
    }

    pub fn active(&self) -> u64 {
        self.counts.active
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn format(&self) -> TableFormat {
        self.format
    }

    pub fn sha256(&self) -> BodyHash {
        self.sha256
    }

    /// Makes it a table, with its manifest.
    pub fn into_table(self, issue: Issue) -> Result<Draft<F>, Refusal> {
        self.into_draft(FileKind::Table, None, issue)
    }

    /// Makes it a patch over `base`, with its manifest.
    pub(crate) fn into_patch(self, base: Base, issue: Issue) -> Result<Draft<F>, Refusal> {
        self.into_draft(FileKind::Patch, Some(base), issue)
    }

    fn into_draft(
        self,
        kind: FileKind,
        base: Option<Base>,
        issue: Issue,
    ) -> Result<Draft<F>, Refusal> {
        let manifest = Manifest {
            format: self.format.number(),
            kind,
            serial: issue.serial,
            includes_through: issue.includes_through,
            issued_at_ms: issue.issued_at_ms,
            expires_at: issue.expires_at,
            audience: issue.audience,
            signers: issue.signers,
            keys: self.counts.keys,
            active: self.counts.active,
            removed: self.removed,
            base,
            body_bytes: self.bytes,
            body_sha256: self.sha256,
            acknowledge: issue.acknowledge,
        };
        let bad = |why: String| Refusal::Manifest { why: why.into() };
        let text = serde_json::to_vec(&manifest).map_err(|e| bad(e.to_string()))?;
        if text.len() > MAX_MANIFEST {
            return Err(bad(format!("{} bytes, at most {MAX_MANIFEST} are allowed", text.len())));
        }
        // A file that readers would refuse is not worth a signature.
        let message = Envelope::message_of(self.format, &text);
        let manifest = Manifest::parse(&Envelope::parse(&Envelope::head_of(&message, &[]))?)?;
        Ok(Draft { manifest, message, signatures: Vec::new(), body: self.file, body_at: 0 })
    }
}

// === impl Draft ===

impl<F: Read + Seek> Draft<F> {
    /// A file that was written before, signed or not. Its body is checked against its manifest, so
    /// that nobody is asked to sign a file that readers will refuse.
    pub fn read(mut file: F) -> Result<Self, SealError> {
        file.seek(SeekFrom::Start(0))?;
        let bound = 16 + MAX_MANIFEST + MAX_SIGNATURES * size_of::<SignatureEntry>() + 64;
        let mut head = Vec::with_capacity(bound);
        (&mut file).take(bound as u64).read_to_end(&mut head)?;
        let envelope = Envelope::parse(&head)?;
        let manifest = Manifest::parse(&envelope)?;
        let mut draft = Self {
            manifest,
            message: envelope.message.to_vec(),
            signatures: envelope.signatures.to_vec(),
            body_at: envelope.body_at as u64,
            body: file,
        };
        draft.check_body()?;
        Ok(draft)
    }

    /// Writes the file: head, then body.
    pub fn write(&mut self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(&Envelope::head_of(&self.message, &self.signatures))?;
        self.body.seek(SeekFrom::Start(self.body_at))?;
        io::copy(&mut self.body, out)?;
        out.flush()
    }

    fn check_body(&mut self) -> Result<(), SealError> {
        self.body.seek(SeekFrom::Start(self.body_at))?;
        let mut hash = Context::new(&SHA256);
        let mut buffer = vec![0u8; 1 << 16];
        let mut bytes = 0u64;
        loop {
            let read = self.body.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            hash.update(buffer.get(..read).unwrap_or_default());
            bytes += read as u64;
        }
        let stated = self.manifest.body_bytes;
        if bytes != stated {
            return Err(SealError::Refused(match stated.checked_sub(bytes) {
                Some(missing) => Refusal::Truncated { found: bytes, missing: Some(missing) },
                None => Refusal::Trailing { extra: bytes - stated },
            }));
        }
        if hash.finish().as_ref() != self.manifest.body_sha256.0 {
            return Err(SealError::Refused(Refusal::BodyHash));
        }
        Ok(())
    }
}

impl<F> Draft<F> {
    /// The bytes to sign, with plain Ed25519.
    pub fn message(&self) -> &[u8] {
        &self.message
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Bytes of the file as it would be written now.
    pub fn file_bytes(&self) -> u64 {
        let head = Envelope::head_of(&self.message, &self.signatures).len() as u64;
        head.saturating_add(self.manifest.body_bytes)
    }

    /// Who has signed it so far.
    pub fn signed_by(&self) -> impl Iterator<Item = [u8; 32]> {
        self.signatures.iter().map(|entry| entry.key)
    }

    /// Adds a signature over [`Draft::message`], or replaces the one by the same key.
    pub fn attach(&mut self, key: &PublicKey, signature: &[u8; 64]) -> Result<(), SealError> {
        if !self.manifest.signers.contains(&key.id()) {
            return Err(SealError::NotNamed { signer: key.id() });
        }
        if !key.verify(&self.message, signature) {
            return Err(SealError::Refused(Refusal::BadSignature { signer: key.id() }));
        }
        self.signatures.retain(|entry| entry.key != *key.as_bytes());
        if self.signatures.len() == MAX_SIGNATURES {
            let (what, of) = ("count of signatures", "file");
            return Err(SealError::Refused(Refusal::OutOfRange { what, of, index: 17 }));
        }
        self.signatures.push(SignatureEntry { key: *key.as_bytes(), signature: *signature });
        self.signatures.sort_unstable_by_key(|entry| entry.key);
        Ok(())
    }
}
