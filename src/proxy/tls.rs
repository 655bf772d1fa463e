//! TLS on both sides, with certificates, keys and authorities that are read again from disk while
//! connections live. rustls with aws-lc-rs; nothing else in the crate names either for TLS.
//! Imports core, config and clock.
//!
//! Every set of files is read once into memory, checked as a whole, and put in force as one
//! value; on any fault the one in force stays. [`Watcher`] does that on the control thread.

mod client;
mod files;
mod names;
mod server;
mod subject;
#[cfg(test)]
mod tests;
mod watch;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;

pub use self::client::ClientTls;
pub use self::server::ServerTls;
pub use self::subject::{ClientCertificateError, client_subject};
pub use self::watch::{Certificate, Event, Outcome, Reloadable, Watcher};

/// Why files were not put in force. The operator is at fault; no message has bytes of a file.
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
    #[error("{}: not valid before {from}\nhint: check this machine's clock", path.display())]
    NotYetValid { path: PathBuf, from: String },
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
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

/// The one cryptography that both sides use.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

// === impl TlsError ===

impl TlsError {
    /// A fault that no file is to blame for.
    fn setup(error: impl std::fmt::Display) -> Self {
        Self::Setup(error.to_string())
    }
}
