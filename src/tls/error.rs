//! Why files were not put in force.

use std::io;
use std::path::{Path, PathBuf};

use crate::wording::shell::quoted_path;

/// Why files were not put in force. The operator is at fault. No message contains bytes of a file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error(
        "{}: holds something that is no certificate\nhint: `openssl x509 -noout -text -in` \
         says more about it",
        .0.display()
    )]
    BadCertificate(PathBuf),
    #[error(
        "{}: is not a private key that can be used\nhint: an unencrypted PKCS#8, PKCS#1 or SEC1 \
         key in PEM; RSA of at least 2048 bits, ECDSA P-256, P-384 or P-521, or Ed25519",
        .0.display()
    )]
    BadKey(PathBuf),
    #[error(
        "{}: begins with a byte order mark\nhint: save it as ASCII or as UTF-8 without BOM; readers of \
         PEM skip the first block behind one",
        .0.display()
    )]
    ByteOrderMark(PathBuf),
    #[error(
        "{}: is DER, not PEM\nhint: `openssl {tool} -inform DER -in {} -out {}`, and \
         name that file",
        path.display(), quoted_path(.path), beside(.path, ".pem")
    )]
    Der { path: PathBuf, tool: &'static str },
    #[error(
        "{}: is encrypted with a passphrase, which keygate has nowhere to read\nhint: `openssl pkey \
         -in {} -out {}` decrypts it; let nobody but keygate read the result",
        .0.display(), quoted_path(.0), beside(.0, ".clear")
    )]
    EncryptedKey(PathBuf),
    #[error(
        "{}: expired at {at}\nhint: renew the certificate; it is loaded without a restart",
        path.display()
    )]
    Expired { path: PathBuf, at: String },
    #[error(
        "{}: is not the key of the first certificate in {}\nhint: the chain begins with the \
         certificate of this key, its issuers follow",
        key.display(),
        chain.display()
    )]
    KeyMismatch { chain: PathBuf, key: PathBuf },
    #[error(
        "{}: has no certificate\nhint: PEM, each between `-----BEGIN CERTIFICATE-----` and its end",
        .0.display()
    )]
    NoCertificate(PathBuf),
    #[error(
        "{}: has no private key\nhint: PEM, between `-----BEGIN PRIVATE KEY-----` and its end; a \
         key with a passphrase must be decrypted first",
        .0.display()
    )]
    NoKey(PathBuf),
    #[error(
        "{}: holds {found}, no {wanted}\nhint: {hint}",
        path.display()
    )]
    Other { path: PathBuf, found: &'static str, wanted: &'static str, hint: &'static str },
    #[error("{}: not valid before {from}\nhint: check this machine's clock", path.display())]
    NotYetValid { path: PathBuf, from: String },
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "{}: is in reverse order: the certificate of the key in {} is number {number} of {count}\nhint: \
         put the certificate of the key first, then the one that issued it, and so on; the root may \
         be left out",
        chain.display(), key.display()
    )]
    Reversed { chain: PathBuf, key: PathBuf, number: usize, count: usize },
    #[error(
        "`{0}` is not a name that a certificate can be checked against\nhint: set `server_name`"
    )]
    ServerName(Box<str>),
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
    #[error("{}: is larger than 1 MiB", .0.display())]
    TooLarge(PathBuf),
    #[error(
        "the upstream did not agree to HTTP/2 by ALPN\nhint: set `protocol = \"http1\"` or \
         enable h2 there"
    )]
    UpstreamWithoutHttp2,
}

// === impl TlsError ===

impl TlsError {
    /// The file to blame, if there is one. If a chain and a key do not match, that is the chain if
    /// its order is wrong, otherwise the key.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::BadCertificate(path)
            | Self::BadKey(path)
            | Self::ByteOrderMark(path)
            | Self::Der { path, .. }
            | Self::EncryptedKey(path)
            | Self::Expired { path, .. }
            | Self::KeyMismatch { key: path, .. }
            | Self::NoCertificate(path)
            | Self::NoKey(path)
            | Self::NotYetValid { path, .. }
            | Self::Other { path, .. }
            | Self::Read { path, .. }
            | Self::Reversed { chain: path, .. }
            | Self::TooLarge(path) => Some(path),
            Self::ServerName(_) | Self::Setup(_) | Self::UpstreamWithoutHttp2 => None,
        }
    }

    /// A fault that is not caused by a file.
    pub(super) fn setup(error: impl std::fmt::Display) -> Self {
        Self::Setup(error.to_string())
    }
}

/// The path with an ending, quoted for a shell.
fn beside(path: &Path, ending: &str) -> String {
    let mut path = path.as_os_str().to_owned();
    path.push(ending);
    quoted_path(Path::new(&path))
}
