//! Servers that keygate itself fetches from or posts to: which ones it trusts, and the credential
//! for them (`[table.http]`). Imports `config`.

mod resolver;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use http::HeaderValue;
use ureq::Agent;
use ureq::config::{Config, ConfigBuilder};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig};
use ureq::typestate::AgentScope;
use ureq::unversioned::transport::DefaultConnector;
use zeroize::Zeroizing;

use self::resolver::BoundedResolver;

use crate::config::{UrlOptions, read_secret};

const CONNECT: Duration = Duration::from_secs(5);

/// A file with settings for a server is unusable. Reveals nothing of its contents.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the {purpose} in {}: {source}\nhint: {}", .path.display(), self.hint())]
pub struct RemoteFileError {
    purpose: RemoteFilePurpose,
    path: PathBuf,
    source: io::Error,
}

/// The purpose of such a file.
#[derive(Clone, Copy, Debug)]
enum RemoteFilePurpose {
    /// `ca`: the authorities that vouch for the server.
    Authorities,
    /// `bearer_file`, `basic_file`.
    Credential,
}

/// The common settings of all connections to such servers. The caller adds time-outs and redirects,
/// and makes an agent of it ([`open`]). An answer with any status is a success.
pub fn agent(
    url: &str,
    options: &UrlOptions,
) -> Result<ConfigBuilder<AgentScope>, RemoteFileError> {
    let tls = TlsConfig::builder()
        .root_certs(match &options.ca {
            Some(path) => roots(path)?,
            None => RootCerts::WebPki,
        })
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .build();
    Ok(ureq::Agent::config_builder()
        .tls_config(tls)
        .https_only(url.starts_with("https:"))
        .http_status_as_error(false)
        // An environment variable must not decide where keys are from, nor who learns of their use.
        .proxy(None)
        .user_agent(concat!("keygate/", env!("CARGO_PKG_VERSION")))
        .timeout_connect(Some(CONNECT)))
}

/// An agent with these settings.
pub fn open(config: Config) -> Agent {
    Agent::with_parts(config, DefaultConnector::new(), BoundedResolver)
}

/// The value of `Authorization`. `None`: no credential is configured. Read again each time, because
/// the file may be rotated. Never logged.
pub fn authorization(options: &UrlOptions) -> Result<Option<HeaderValue>, RemoteFileError> {
    let (path, scheme) = match (&options.bearer_file, &options.basic_file) {
        (Some(path), _) => (path, "Bearer "),
        (None, Some(path)) => (path, "Basic "),
        (None, None) => return Ok(None),
    };
    let failed = failed(RemoteFilePurpose::Credential, path);
    let text = credential_text(path)?;
    let credential = match scheme {
        "Basic " => Zeroizing::new(base64::prelude::BASE64_STANDARD.encode(text.trim())),
        _ => Zeroizing::new(text.trim().to_owned()),
    };
    let mut value = HeaderValue::try_from(&*Zeroizing::new([scheme, &credential].concat()))
        .map_err(|_| failed(invalid("it holds bytes that no header can have")))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

/// The text of a file with a credential.
pub fn credential_text(path: &Path) -> Result<Zeroizing<String>, RemoteFileError> {
    let failed = failed(RemoteFilePurpose::Credential, path);
    let bytes = read_secret(path).map_err(&failed)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| failed(invalid("it is no text")))?;
    Ok(Zeroizing::new(text.to_owned()))
}

fn roots(path: &Path) -> Result<RootCerts, RemoteFileError> {
    let failed = failed(RemoteFilePurpose::Authorities, path);
    let pem = read_secret(path).map_err(&failed)?;
    let certificates: Vec<Certificate<'static>> = ureq::tls::parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    match certificates.is_empty() {
        true => Err(failed(invalid("it holds no certificate"))),
        false => Ok(RootCerts::from(certificates)),
    }
}

fn failed(purpose: RemoteFilePurpose, path: &Path) -> impl Fn(io::Error) -> RemoteFileError {
    move |source| RemoteFileError { purpose, path: path.to_owned(), source }
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

// === impl RemoteFileError ===

impl RemoteFileError {
    fn hint(&self) -> &'static str {
        match (self.source.kind(), self.purpose) {
            (io::ErrorKind::InvalidData, RemoteFilePurpose::Authorities) => {
                "it has to be PEM: `-----BEGIN CERTIFICATE-----` begins the certificate of each \
                 authority"
            }
            (io::ErrorKind::InvalidData, RemoteFilePurpose::Credential) => {
                "it has to hold the credential alone, in one line"
            }
            (io::ErrorKind::NotFound, RemoteFilePurpose::Authorities) => "put the file there",
            (io::ErrorKind::NotFound, RemoteFilePurpose::Credential) => {
                "put the file there; it is read anew whenever the server is asked"
            }
            (io::ErrorKind::PermissionDenied, _) => {
                "the user that runs keygate needs to read it, and to enter every directory above it"
            }
            _ => "it has to be a regular file on a disk that is well",
        }
    }
}

// === impl RemoteFilePurpose ===

impl fmt::Display for RemoteFilePurpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Authorities => "certificate authorities",
            Self::Credential => "credential",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_of_no_use_are_named_and_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            Some(path)
        };
        let none = UrlOptions::default();
        assert_eq!(authorization(&none).unwrap(), None);
        let bearer = UrlOptions { bearer_file: write("a", " to.ken \n"), ..none.clone() };
        assert_eq!(authorization(&bearer).unwrap().unwrap(), "Bearer to.ken");
        let basic = UrlOptions { basic_file: write("b", "user:pass\n"), ..none.clone() };
        let value = authorization(&basic).unwrap().unwrap();
        assert_eq!(value, "Basic dXNlcjpwYXNz");
        assert!(value.is_sensitive());
        for (options, name) in [
            (UrlOptions { bearer_file: write("c", "hunter2\nhunter2"), ..none.clone() }, "c"),
            (UrlOptions { basic_file: Some(folder.path().join("d")), ..none.clone() }, "d"),
        ] {
            let error = authorization(&options).unwrap_err().to_string();
            assert!(error.contains(&format!("/{name}: ")) && !error.contains("hunter2"), "{error}");
            assert!(error.starts_with("cannot use the credential in "), "{error}");
            assert!(error.contains("\nhint: "), "{error}");
        }
        let pipe = folder.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).unwrap();
        for (ca, want) in [
            (write("e", "hunter2"), "/e: it holds no certificate\nhint: it has to be PEM"),
            (Some(folder.path().join("f")), "\nhint: put the file there"),
            (Some(pipe), "/pipe: it is no regular file\nhint: it has to be a regular file"),
        ] {
            let ca = UrlOptions { ca, ..none.clone() };
            let error = agent("https://a/", &ca).err().map(|error| error.to_string()).unwrap();
            assert!(error.starts_with("cannot use the certificate authorities in /"), "{error}");
            assert!(error.contains(want) && !error.contains("hunter2"), "{error}");
        }
    }
}
