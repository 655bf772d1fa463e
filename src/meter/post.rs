//! `usage.post_url`: what changed is posted to a service that collects usage records.
//! Imports `config` and `remote`.
//!
//! Counts are since the start, so a post that fails costs nothing but time: the next one begins
//! where the last one that was taken ended.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, header};

use super::book::UseBook;
use super::pages::UsePages;
use crate::config::UrlOptions;
use crate::remote::{self, RemoteFileError};

/// Bytes of one post, except that a line is never cut.
const POST: usize = 256 << 10;

/// For one post with its answer.
const WHOLE: Duration =
    if cfg!(test) { Duration::from_millis(500) } else { Duration::from_secs(10) };

/// Why a post was not taken. Never says what was sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum PostError {
    #[error(transparent)]
    Credential(#[from] RemoteFileError),
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
        let agent = remote::agent(&self.url, &self.options)?
            // The credential is for this server alone.
            .max_redirects(0)
            .timeout_global(Some(WHOLE))
            .build()
            .new_agent();
        let authorization = remote::authorization(&self.options)?;
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
        self.since = pages.next_since();
        Ok(())
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
