//! The Ed25519 key that signs tables and patches, as `openssl` writes and reads it.

pub mod signs;

use std::io::{Read, Seek};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use zeroize::Zeroizing;

use super::error::{Error, Result};
use super::files;
use super::output::{self, Output};
use crate::core::{SignerError, SignerKey};
use crate::table::PublicKey;
use crate::table::write::Draft;
use crate::wording::shell::quoted_path;

/// A PEM key is about 120 bytes; a larger file is not a key.
const MAX_PEM: u64 = 64 * 1024;

/// A private key, held for one command. Never prints itself.
pub struct Signer {
    pair: Ed25519KeyPair,
    public: SignerKey,
}

// === impl Signer ===

impl Signer {
    /// PKCS#8 PEM, from `signer new` or from `openssl genpkey -algorithm ed25519`.
    pub fn load(path: &Path) -> Result<Self> {
        let pem = Zeroizing::new(files::read(path, MAX_PEM)?);
        if pem.trim_ascii().is_empty() {
            let hint = "`keygatectl signer new --out FILE` makes a signer";
            return Err(bad(path, format!("is empty\nhint: {hint}")));
        }
        let Ok(der) = PrivatePkcs8KeyDer::from_pem_slice(&pem) else {
            return Err(bad(
                path,
                if std::str::from_utf8(&pem).is_ok_and(|t| SignerKey::from_pem(t).is_ok()) {
                    "is a public key; a signer is the private one\n\
                 hint: give the file that `keygatectl signer new` wrote"
                } else {
                    "holds no PKCS#8 private key in PEM (`-----BEGIN PRIVATE KEY-----`)\n\
                 hint: `keygatectl signer new` or `openssl genpkey -algorithm ed25519` makes one"
                },
            ));
        };
        warn_if_readable(path);
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der()).ok();
        pair.and_then(Self::of)
            .ok_or_else(|| bad(path, "is not an Ed25519 key; keygate signs with Ed25519 only"))
    }

    fn of(pair: Ed25519KeyPair) -> Option<Self> {
        let raw = pair.public_key().as_ref().try_into().ok()?;
        let public = SignerKey::from_bytes(raw).ok()?;
        Some(Self { pair, public })
    }

    pub fn public(&self) -> &SignerKey {
        &self.public
    }

    pub fn sign(&self, message: &[u8]) -> Option<[u8; 64]> {
        self.pair.try_sign(message).ok()?.as_ref().try_into().ok()
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signer({})", self.public.id())
    }
}

/// The public key from a PEM file that holds it or its private key, or from the key itself as
/// `ed25519:BASE64`, the way a configuration may name a trusted signer.
pub fn load_public(text: &str) -> Result<SignerKey> {
    if text.starts_with("ed25519:") {
        return SignerKey::from_inline(text).map_err(|e| Error::argument("signer", e));
    }
    let path = Path::new(text);
    let pem = Zeroizing::new(files::read(path, MAX_PEM)?);
    if pem.trim_ascii().is_empty() {
        let name = quoted_path(path);
        let hint = format!("`keygatectl signer show SIGNER.pem > {name}` writes the public key");
        return Err(bad(path, format!("is empty\nhint: {hint}")));
    }
    match std::str::from_utf8(&pem).map_err(|_| SignerError::Syntax).and_then(SignerKey::from_pem) {
        Ok(keys) => match keys.as_slice() {
            [key] => Ok(*key),
            _ => Err(bad(path, "holds several public keys\nhint: give one file per signer")),
        },
        Err(SignerError::Private) => Signer::load(path).map(|signer| signer.public),
        Err(e) => Err(bad(path, e)),
    }
}

fn bad(path: &Path, why: impl ToString) -> Error {
    Error::Signer { path: path.to_owned(), why: why.to_string() }
}

/// The key itself on one line, as a configuration takes it.
pub fn inline(key: &SignerKey) -> String {
    format!("ed25519:{}", STANDARD.encode(key.as_bytes()))
}

/// `signer new`.
pub fn new(out: &Path, public_out: Option<&Path>, output: &mut Output) -> Result<()> {
    let pkcs8 =
        Ed25519KeyPair::generate_pkcs8v1(&SystemRandom::new()).map_err(|_| Error::Random)?;
    let pem = Zeroizing::new(format!(
        "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
        Zeroizing::new(STANDARD.encode(pkcs8.as_ref())).as_str()
    ));
    let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8.as_ref());
    let signer = pair.ok().and_then(Signer::of).ok_or(Error::Random)?;
    let hint = "give another --out; a signer is never overwritten";
    let public_hint = "give another --public-out; no signer was made";
    if let Some(path) = public_out
        && std::fs::symlink_metadata(path).is_ok()
    {
        return Err(Error::Exists { path: path.to_owned(), hint: public_hint });
    }
    files::create_new(out, 0o600, pem.as_bytes(), hint)?;
    if let Some(path) = public_out {
        let public = signer.public.to_pem();
        files::create_new(path, 0o644, public.as_bytes(), public_hint).inspect_err(|_| {
            // Half a signer would only block the next try.
            std::fs::remove_file(out).ok();
        })?;
    }
    let shown = show_public(&signer.public, Some(out), output).and_then(|()| output.flush());
    if let Err(Error::Write { source, .. }) = &shown
        && source.kind() != std::io::ErrorKind::BrokenPipe
    {
        // The command has failed, so it leaves no key behind that somebody could mistake for one
        // from a later try.
        for path in std::iter::once(out).chain(public_out) {
            std::fs::remove_file(path).ok();
        }
    }
    shown
}

/// `signer show`.
pub fn show(path: &str, output: &mut Output) -> Result<()> {
    show_public(&load_public(path)?, None, output)
}

/// The same key as a type of the table room.
pub fn table_key(key: &SignerKey) -> Result<PublicKey> {
    PublicKey::from_raw(*key.as_bytes()).map_err(|e| Error::argument("signer", e))
}

/// Signs a draft with each of `signers`. `place` is what errors name.
///
/// # Errors
///
/// [`Error::Signer`]: a signer whom the manifest does not name.
pub fn sign_all<F>(draft: &mut Draft<F>, signers: &[Signer], place: &Path) -> Result<()>
where
    F: Read + Seek,
{
    for signer in signers {
        let signature = signer.sign(draft.message()).ok_or(Error::Random)?;
        let attached = draft.attach(&table_key(signer.public())?, &signature);
        attached.map_err(|e| Error::seal(place, e))?;
    }
    Ok(())
}

fn show_public(public: &SignerKey, private: Option<&Path>, output: &mut Output) -> Result<()> {
    if output.json {
        return output.json(&serde_json::json!({
            "id": public.id(),
            "public_key": inline(public),
            "public_key_pem": public.to_pem(),
            "private_key_file": private.map(PathBuf::from),
        }));
    }
    if let Some(path) = private {
        output.note(&format!(
            "wrote the private key to {} (mode 0600); keep it secret",
            path.display()
        ));
    }
    output.note(&format!("signer id {}", public.id()));
    output.note(&format!("in a configuration: trusted_signers = [\"{}\"]", inline(public)));
    output.text(&public.to_pem())
}

fn warn_if_readable(path: &Path) {
    let mode = std::fs::metadata(path).map_or(0, |m| m.permissions().mode());
    if mode & 0o077 != 0 {
        output::warn(&format!(
            "others can read {}\nhint: `chmod 600 {}`",
            path.display(),
            quoted_path(path)
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;

    #[test]
    fn a_new_signer_can_be_loaded_and_public_forms_agree() {
        let dir = tempfile::tempdir().unwrap();
        let (private, public) = (dir.path().join("signer.pem"), dir.path().join("signer.pub.pem"));
        new(&private, Some(&public), &mut Output::sink()).unwrap();
        let signer = Signer::load(&private).unwrap();
        for form in [private.to_str().unwrap(), public.to_str().unwrap(), &inline(signer.public())]
        {
            assert_eq!(load_public(form).unwrap(), *signer.public(), "{form}");
        }
        assert_eq!(std::fs::metadata(&private).unwrap().permissions().mode() & 0o777, 0o600);
        let again = new(&private, None, &mut Output::sink()).unwrap_err();
        assert_eq!(again.exit(), Exit::CannotCreate.code());
        let wrong = Signer::load(&public).unwrap_err();
        assert!(wrong.to_string().contains("is a public key"), "{wrong}");
        assert_eq!(format!("{signer:?}"), format!("Signer({})", signer.public().id()));
    }

    #[test]
    fn other_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.pem");
        std::fs::write(&path, "hello").unwrap();
        assert_eq!(Signer::load(&path).unwrap_err().exit(), Exit::Data.code());
        assert_eq!(
            Signer::load(&dir.path().join("none.pem")).unwrap_err().exit(),
            Exit::NoInput.code()
        );
        assert_eq!(load_public("ed25519:AAAA").unwrap_err().exit(), Exit::Usage.code());
    }
}
