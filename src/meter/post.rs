//! `usage.post_url`: what changed is posted to a service that collects usage records.
//! Imports `config`.
//!
//! Counts are since the start, so a post that fails costs nothing but time: the next one begins
//! where the last one that was taken ended.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, header};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig};
use zeroize::Zeroizing;

use super::book::UseBook;
use super::pages::UsePages;
use crate::config::UrlOptions;

/// Bytes of one post, except that a line is never cut.
const POST: usize = 256 << 10;

const CONNECT: Duration = Duration::from_secs(5);

/// For one post with its answer.
const WHOLE: Duration =
    if cfg!(test) { Duration::from_millis(500) } else { Duration::from_secs(10) };

/// Why a post was not taken. Never says what was sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum PostError {
    #[error("{path} cannot be used: {why}")]
    Credential { path: PathBuf, why: String },
    #[error("the server answered {0}")]
    Status(u16),
    #[error("{0}")]
    Transport(String),
}

/// One collector.
pub(super) struct UsagePoster {
    url: Box<str>,
    options: UrlOptions,
    /// Where the next record begins: with the last one that was taken.
    since: u32,
}

// === impl UsagePoster ===

impl UsagePoster {
    /// `options`: those of the table, for its authority and its credential.
    pub(super) fn new(url: &str, options: &UrlOptions) -> Self {
        Self { url: url.into(), options: options.clone(), since: 0 }
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Posts what changed since the last post that was taken, in as many posts as it takes.
    pub(super) fn post(&mut self, book: &Arc<UseBook>) -> Result<(), PostError> {
        let agent = self.agent()?;
        let authorization = self.authorization()?;
        let mut pages = UsePages::new(book, self.since);
        let mut head = Vec::new();
        let mut more = pages.next_page(&mut head);
        let (mut body, mut sent) = (head.clone(), 0);
        while more {
            more = pages.next_page(&mut body);
            while body.len() > POST {
                let lines = body.get(..POST).unwrap_or_default();
                let end = lines.iter().rposition(|b| *b == b'\n').unwrap_or_default() + 1;
                // The head is shorter than that, so there is a line behind it.
                let rest = body.split_off(end.max(head.len()));
                send(&agent, &self.url, authorization.as_ref(), &body)?;
                sent += 1;
                body = [head.as_slice(), &rest].concat();
            }
        }
        // One at least: it says that nothing else was used.
        if sent == 0 || body.len() > head.len() {
            send(&agent, &self.url, authorization.as_ref(), &body)?;
        }
        self.since = pages.now();
        Ok(())
    }

    fn agent(&self) -> Result<ureq::Agent, PostError> {
        let roots = match &self.options.ca {
            Some(path) => self.roots(path.clone())?,
            None => RootCerts::WebPki,
        };
        let tls = TlsConfig::builder()
            .root_certs(roots)
            .unversioned_rustls_crypto_provider(Arc::new(
                rustls::crypto::aws_lc_rs::default_provider(),
            ))
            .build();
        Ok(ureq::Agent::config_builder()
            .tls_config(tls)
            .https_only(self.url.starts_with("https:"))
            .http_status_as_error(false)
            // The credential is for this server alone.
            .max_redirects(0)
            .proxy(None)
            .user_agent(concat!("keygate/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(CONNECT))
            .timeout_global(Some(WHOLE))
            .build()
            .new_agent())
    }

    fn roots(&self, path: PathBuf) -> Result<RootCerts, PostError> {
        let failed = |why: String| PostError::Credential { path: path.clone(), why };
        let pem = std::fs::read(&path).map_err(|error| failed(error.to_string()))?;
        let certificates: Vec<Certificate<'static>> = ureq::tls::parse_pem(&pem)
            .filter_map(|item| match item {
                Ok(PemItem::Certificate(certificate)) => Some(certificate),
                _ => None,
            })
            .collect();
        match certificates.is_empty() {
            true => Err(failed("it holds no certificate".to_owned())),
            false => Ok(RootCerts::from(certificates)),
        }
    }

    /// Read anew each time: the file may be rotated. Never logged.
    fn authorization(&self) -> Result<Option<HeaderValue>, PostError> {
        let (path, scheme) = match (&self.options.bearer_file, &self.options.basic_file) {
            (Some(path), _) => (path, "Bearer "),
            (None, Some(path)) => (path, "Basic "),
            (None, None) => return Ok(None),
        };
        let failed = |why: String| PostError::Credential { path: path.clone(), why };
        let text = std::fs::read_to_string(path).map(Zeroizing::new);
        let text = text.map_err(|error| failed(error.to_string()))?;
        let credential = match scheme {
            "Basic " => {
                use base64::Engine as _;
                Zeroizing::new(base64::prelude::BASE64_STANDARD.encode(text.trim()))
            }
            _ => Zeroizing::new(text.trim().to_owned()),
        };
        let mut value = HeaderValue::try_from(&*Zeroizing::new([scheme, &credential].concat()))
            .map_err(|_| failed("it holds bytes that no header can have".to_owned()))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

fn send(
    agent: &ureq::Agent,
    url: &str,
    authorization: Option<&HeaderValue>,
    body: &[u8],
) -> Result<(), PostError> {
    let mut request = agent.post(url).header(header::CONTENT_TYPE, "application/x-ndjson");
    if let Some(value) = authorization {
        request = request.header(header::AUTHORIZATION, value);
    }
    // The library's messages name hosts and addresses, never a header.
    let answer = request.send(body).map_err(|error| PostError::Transport(error.to_string()))?;
    match answer.status() {
        status if status.is_success() => Ok(()),
        status => Err(PostError::Status(status.as_u16())),
    }
}
