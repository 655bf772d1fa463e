//! Certificate, key and authority files: read once, bounded, checked before use.

use std::io::Read;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys, RootCertStore};
use zeroize::Zeroizing;

use super::concern::{self, TlsConcern};
use super::dates::Validity;
use super::error::TlsError;
use super::pem;
use crate::config::{CertificateFiles, open_regular};
use crate::core::Now;

const MAX_FILE: u64 = 1 << 20;
/// How many times to read until two readings agree, so that files in the middle of being replaced
/// are not a mix of old and new.
const READINGS: usize = 3;

/// The content of several files at one moment. Wiped on drop, because some of them are keys.
pub(super) struct Bundle(Vec<(PathBuf, Zeroizing<Vec<u8>>)>);

/// SHA-256 over files and their lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fingerprint([u8; 32]);

/// A certificate with its key, checked against each other and against the clock.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) certified: CertifiedKey,
    pub(super) path: PathBuf,
    pub(super) validity: Validity,
}

/// The authorities of a file that are valid now.
#[derive(Debug)]
pub(super) struct Authorities {
    pub(super) store: RootCertStore,
    /// Parts of the file that are left out.
    pub(super) concerns: Vec<TlsConcern>,
}

// === impl Bundle ===

impl Bundle {
    /// Reads all files, and again if they changed meanwhile.
    pub(super) fn read<'a>(
        paths: impl IntoIterator<Item = &'a Path> + Clone,
    ) -> Result<Self, TlsError> {
        let mut bundle = Self::read_once(paths.clone())?;
        for _ in 1..READINGS {
            let again = Self::read_once(paths.clone())?;
            let settled = again.fingerprint() == bundle.fingerprint();
            bundle = again;
            if settled {
                break;
            }
        }
        Ok(bundle)
    }

    fn read_once<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Result<Self, TlsError> {
        let read = |path: &Path| Ok((path.to_owned(), read_bounded(path)?));
        paths.into_iter().map(read).collect::<Result<_, _>>().map(Self)
    }

    pub(super) fn fingerprint(&self) -> Fingerprint {
        let mut context = digest::Context::new(&digest::SHA256);
        for (_, bytes) in &self.0 {
            context.update(&(bytes.len() as u64).to_le_bytes());
            context.update(bytes);
        }
        Fingerprint::from(context)
    }

    /// The fingerprint of one file. `None`: it is not part of the bundle.
    pub(super) fn fingerprint_of(&self, path: &Path) -> Option<Fingerprint> {
        let bytes = self.bytes(path).ok()?;
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(bytes);
        Some(Fingerprint::from(context))
    }

    /// The certificate chain and key of `files`. The caller checks the dates.
    pub(super) fn identity(
        &self,
        files: &CertificateFiles,
        provider: &CryptoProvider,
    ) -> Result<Identity, TlsError> {
        let chain = self.certificates(&files.chain)?;
        let first = chain.first().ok_or_else(|| TlsError::NoCertificate(files.chain.clone()))?;
        let validity =
            Validity::of(first).ok_or_else(|| TlsError::BadCertificate(files.chain.clone()))?;
        let rest = chain.clone();
        let certified = CertifiedKey::from_der(chain, self.key(&files.key)?, provider);
        let certified = certified.map_err(|error| match error {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                self.mismatch(files, &rest, provider)
            }
            Error::InvalidCertificate(_) => TlsError::BadCertificate(files.chain.clone()),
            // Its text must not be shown: it is about key bytes.
            _ => TlsError::BadKey(files.key.clone()),
        })?;
        Ok(Identity { certified, path: files.chain.clone(), validity })
    }

    /// The authorities in `path`, all of them usable. Verification does not check the dates of an
    /// authority again, so one whose dates are not valid is left out. If none is left, that is an
    /// error.
    pub(super) fn roots(&self, path: &Path, now: Now) -> Result<Authorities, TlsError> {
        let mut all = Authorities { store: RootCertStore::empty(), concerns: Vec::new() };
        let certificates = self.certificates(path)?;
        let count = certificates.len();
        let mut left_out = Ok(());
        for (at, certificate) in certificates.into_iter().enumerate() {
            let bad = || TlsError::BadCertificate(path.to_owned());
            let dates = Validity::of(&certificate).ok_or_else(bad)?;
            if dates.includes(now) {
                all.store.add(certificate).map_err(|_| bad())?;
            } else {
                left_out = dates.check(path, now);
                all.concerns.push(concern::of_authority(path, at, count, dates, now));
            }
        }
        if all.store.is_empty() { left_out.map(|()| all) } else { Ok(all) }
    }

    /// Properties of the certificate chain and key of `files` that are allowed, but seldom
    /// intended.
    pub(super) fn concerns(&self, files: &CertificateFiles, now: Now) -> Vec<TlsConcern> {
        let mut concerns = Vec::new();
        if let Ok(chain) = self.certificates(&files.chain) {
            concern::of_chain(&files.chain, &chain, now, &mut concerns);
        }
        concern::of_key(&files.key, &mut concerns);
        concerns
    }

    /// Why the first certificate does not match the key: another one of the chain may.
    fn mismatch(
        &self,
        files: &CertificateFiles,
        chain: &[CertificateDer<'static>],
        provider: &CryptoProvider,
    ) -> TlsError {
        let fits = |one: &CertificateDer<'static>| {
            let key = self.key(&files.key).ok()?;
            CertifiedKey::from_der(vec![one.clone()], key, provider).ok()
        };
        let found = chain.iter().position(|one| fits(one).is_some());
        let (path, key) = (files.chain.clone(), files.key.clone());
        match found {
            Some(at) => TlsError::Reversed { chain: path, key, number: at + 1, count: chain.len() },
            None => TlsError::KeyMismatch { chain: path, key },
        }
    }

    /// At least one.
    fn certificates(&self, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let bytes = self.bytes(path)?;
        pem::check_encoding(path, bytes, pem::PemKind::Certificate)?;
        let certificates = CertificateDer::pem_slice_iter(bytes)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| TlsError::BadCertificate(path.to_owned()))?;
        if certificates.is_empty() {
            return Err(pem::explain(path, bytes, pem::PemKind::Certificate));
        }
        Ok(certificates)
    }

    fn key(&self, path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
        use rustls::pki_types::pem::Error::NoItemsFound;
        let bytes = self.bytes(path)?;
        pem::check_encoding(path, bytes, pem::PemKind::Key)?;
        if pem::is_encrypted(bytes) {
            return Err(TlsError::EncryptedKey(path.to_owned()));
        }
        PrivateKeyDer::from_pem_slice(bytes).map_err(|error| match error {
            NoItemsFound => pem::explain(path, bytes, pem::PemKind::Key),
            _ => TlsError::BadKey(path.to_owned()),
        })
    }

    fn bytes(&self, path: &Path) -> Result<&[u8], TlsError> {
        let found = self.0.iter().find(|(known, _)| known == path);
        found
            .map(|(_, bytes)| bytes.as_slice())
            .ok_or_else(|| TlsError::setup("a configured file was not read"))
    }
}

/// Opens the file once. A file that grows meanwhile is refused, not truncated.
fn read_bounded(path: &Path) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    let fault = |source| TlsError::Read { path: path.to_owned(), source };
    let file = open_regular(path).map_err(fault)?;
    let length = file.metadata().map_err(fault)?.len();
    if length > MAX_FILE {
        return Err(TlsError::TooLarge(path.to_owned()));
    }
    // Space for all of it: a growing buffer leaves copies of a key behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(length as usize + 1));
    file.take(length + 1).read_to_end(&mut bytes).map_err(fault)?;
    if bytes.len() as u64 > length {
        return Err(fault(std::io::Error::other("it changed while it was read")));
    }
    Ok(bytes)
}

// === impl Fingerprint ===

impl From<digest::Context> for Fingerprint {
    fn from(context: digest::Context) -> Self {
        let mut bytes = [0; 32];
        for (to, from) in bytes.iter_mut().zip(context.finish().as_ref()) {
            *to = *from;
        }
        Self(bytes)
    }
}
