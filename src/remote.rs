//! Servers that keygate itself asks or posts to: who is trusted as one, and the credential for them
//! (`[table.http]`). Imports `config`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use http::HeaderValue;
use ureq::config::ConfigBuilder;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig};
use ureq::typestate::AgentScope;
use zeroize::Zeroizing;

use crate::config::UrlOptions;

const CONNECT: Duration = Duration::from_secs(5);

/// A file of `[table.http]` is of no use. Says nothing of what it holds.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the configured credential file {}: {source}", .path.display())]
pub struct RemoteFileError {
    path: PathBuf,
    source: io::Error,
}

/// What all connections to such servers have in common; the caller adds time-outs and redirects.
/// An answer of any status is an answer.
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
        // An environment variable must not decide where keys come from, nor who learns of their use.
        .proxy(None)
        .user_agent(concat!("keygate/", env!("CARGO_PKG_VERSION")))
        .timeout_connect(Some(CONNECT)))
}

/// The value of `Authorization`; `None`: no credential is configured. Read anew each time, since
/// the file may be rotated. Never logged.
pub fn authorization(options: &UrlOptions) -> Result<Option<HeaderValue>, RemoteFileError> {
    let (path, scheme) = match (&options.bearer_file, &options.basic_file) {
        (Some(path), _) => (path, "Bearer "),
        (None, Some(path)) => (path, "Basic "),
        (None, None) => return Ok(None),
    };
    let text = std::fs::read_to_string(path).map(Zeroizing::new).map_err(failed(path))?;
    let credential = match scheme {
        "Basic " => Zeroizing::new(base64::prelude::BASE64_STANDARD.encode(text.trim())),
        _ => Zeroizing::new(text.trim().to_owned()),
    };
    let mut value = HeaderValue::try_from(&*Zeroizing::new([scheme, &credential].concat()))
        .map_err(|_| failed(path)(invalid("it holds bytes that no header can have")))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

fn roots(path: &Path) -> Result<RootCerts, RemoteFileError> {
    let pem = std::fs::read(path).map_err(failed(path))?;
    let certificates: Vec<Certificate<'static>> = ureq::tls::parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    match certificates.is_empty() {
        true => Err(failed(path)(invalid("it holds no certificate"))),
        false => Ok(RootCerts::from(certificates)),
    }
}

fn failed(path: &Path) -> impl Fn(io::Error) -> RemoteFileError {
    move |source| RemoteFileError { path: path.to_owned(), source }
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
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
        }
        let ca = UrlOptions { ca: write("e", "hunter2"), ..none };
        let error = agent("https://a/", &ca).err().map(|error| error.to_string()).unwrap();
        assert!(error.ends_with("/e: it holds no certificate"), "{error}");
    }
}
