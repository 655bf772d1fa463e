//! `usage.post_url`: changes are posted to a service that collects usage records. Imports `config`
//! and `remote`.
//!
//! Counts are since the start, so a failed post costs only time: the next one begins where the last
//! accepted one ended.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, header};

use super::book::UseBook;
use super::pages::UsePages;
use crate::config::UrlOptions;
use crate::remote::{self, RemoteFileError};
use crate::usage::record::RecordPart;

/// Bytes of one post. A line is never split.
const POST: usize = 256 << 10;

/// For one post with its answer.
const WHOLE: Duration =
    if cfg!(test) { Duration::from_millis(500) } else { Duration::from_secs(10) };

/// Why a post was not accepted. Never shows what was sent.
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
    /// Where the next record begins: with the last one that was accepted.
    since: u32,
}

// === impl UsagePoster ===

impl UsagePoster {
    /// `options`: those of the table, with its authority and its credential.
    pub(super) fn new(url: &str, options: &UrlOptions) -> Self {
        Self { url: url.into(), options: options.clone(), since: 0 }
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Posts what has changed since the last accepted post, in as many posts as necessary.
    pub(super) fn post(&mut self, book: &Arc<UseBook>) -> Result<(), PostError> {
        let config = remote::agent(&self.url, &self.options)?
            // The credential is for this server alone.
            .max_redirects(0)
            .timeout_global(Some(WHOLE))
            .build();
        let agent = remote::open(config);
        let authorization = remote::authorization(&self.options)?;
        let mut pages = UsePages::new(book, self.since);
        let send = |head: &[u8], lines: &[u8]| {
            send(&agent, &self.url, authorization.as_ref(), &[head, lines].concat())
        };
        let head = pages.head(RecordPart::More);
        // A head is much shorter than a post, so there is space for lines after it.
        let room = POST.saturating_sub(head.len());
        let (mut lines, mut more) = (Vec::new(), true);
        while more {
            more = pages.next_lines(&mut lines);
            while lines.len() > room {
                let part = lines.get(..room).unwrap_or_default();
                let end = part.iter().rposition(|b| *b == b'\n').map_or(lines.len(), |at| at + 1);
                let rest = lines.split_off(end);
                send(&head, &lines)?;
                lines = rest;
            }
        }
        // This states that nothing else was used, now that all other posts are stored.
        send(&pages.head(RecordPart::Last), &lines)?;
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
