//! One exchange with the upstream: connection, request, head of the response, and another try where
//! that is safe.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use hyper::body::{Body, Incoming};

use super::record::RequestRecord;
use super::rewrite::UpstreamRequest;
use crate::core::{Now, Reason};
use crate::proxy::body::{Progress, UploadState};
use crate::proxy::net::io::ClientAddr;
use crate::proxy::streams::Stream;
use crate::proxy::upstream::{Content, Head, Lease};
use crate::proxy::worker::Worker;

/// How long the head of a response may take. While the client still uploads, its progress counts.
#[derive(Debug)]
pub(crate) struct Patience {
    upload: Option<Rc<Progress>>,
    /// A gRPC stream may be silent for as long as it likes.
    silent_upload: bool,
    body_ns: u64,
    /// Bytes per second that an upload must keep up with.
    body_rate: u64,
    first_byte_ns: u64,
    /// When the whole request must be over.
    total_ns: u64,
    sent_ns: std::cell::Cell<u64>,
}

/// Connections tried for one request, at most: an upstream that closes each one at once must not
/// be hammered.
const MOST_TRIES: usize = 4;

/// Sends the request and waits for the head of the response.
///
/// hyper hands back what it has not begun to send: that is sent again whatever it is. What may
/// have reached the upstream is repeated only if it has no body, and the upstream has said that it
/// did nothing with it (GOAWAY, REFUSED_STREAM), or it is idempotent and the connection was a
/// kept-alive one (hyperium/hyper#2136: the upstream closed it at the same moment).
pub(crate) async fn send(
    worker: &Rc<Worker>,
    mut request: UpstreamRequest,
    stream: &Stream,
    patience: &Patience,
    client: &ClientAddr,
    record: &mut RequestRecord,
) -> Result<(Head, Content, Lease), Reason> {
    let mut fresh = false;
    for _ in 0..MOST_TRIES {
        let (before, short) = (record.last_ns(), request.is_short());
        let mut lease = worker.upstream.lease(fresh, short, before, client).await?;
        let now = lease.begun_ns;
        record.sent_upstream(now);
        stream.set_deadline(patience.begin(now));
        let failure = match lease.send(&mut request, stream, patience).await {
            Ok((head, content)) => {
                for _ in 0..lease.take_interim() {
                    worker.cells.upstream_informational();
                }
                return Ok((head, content, lease));
            }
            Err(failure) => failure,
        };
        let nothing_done = failure.unprocessed || failure.stale && request.is_idempotent();
        if !(failure.unsent || nothing_done && request.is_repeatable()) {
            return Err(patience.blame(failure.reason));
        }
        worker.cells.upstream_retried();
        fresh = true;
    }
    Err(Reason::UpstreamClosed)
}

/// What has come of a short body with the head.
pub(crate) fn first_frame(incoming: &mut Incoming, length: u64) -> Option<Bytes> {
    if length > WHOLE {
        return None;
    }
    let mut cx = Context::from_waker(Waker::noop());
    match Pin::new(&mut *incoming).poll_frame(&mut cx) {
        Poll::Ready(Some(Ok(frame))) => frame.into_data().ok(),
        _ => None,
    }
}

/// Bodies up to this length are looked for in what came with the head.
const WHOLE: u64 = 8 * 1024;

// === impl Patience ===

impl Patience {
    pub(crate) fn new(
        worker: &Worker,
        upload: Option<Rc<Progress>>,
        silent_upload: bool,
        started: Now,
    ) -> Self {
        let timeouts = &worker.shared.timeouts;
        let total_ns = timeouts
            .total
            .map_or(u64::MAX, |total| started.mono_ns.saturating_add(total.as_nanos() as u64));
        Self {
            upload,
            silent_upload,
            body_ns: timeouts.body.as_nanos() as u64,
            body_rate: worker.shared.caps.body_rate,
            first_byte_ns: timeouts.first_byte.as_nanos() as u64,
            total_ns,
            sent_ns: std::cell::Cell::new(0),
        }
    }

    /// The first moment to look again.
    fn begin(&self, now_ns: u64) -> u64 {
        self.sent_ns.set(now_ns);
        self.next_look(now_ns)
    }

    /// Nobody says when an upload is through: from then the time of the first byte counts.
    fn next_look(&self, now_ns: u64) -> u64 {
        let open = self.upload.as_ref().is_some_and(|u| u.is_open());
        let soon = if open { now_ns.saturating_add(self.first_byte_ns) } else { u64::MAX };
        self.limit().min(soon)
    }

    /// A deadline has passed: until when to go on, or why not.
    pub(crate) fn extend(&self, now_ns: u64) -> Result<u64, Reason> {
        if self.limit() > now_ns && !self.drips(now_ns) {
            return Ok(self.next_look(now_ns));
        }
        let waits_for_client =
            self.upload.as_ref().is_some_and(|u| u.state.get() == UploadState::Waiting);
        Err(if waits_for_client { Reason::BodyTimeout } else { Reason::UpstreamTimeout })
    }

    /// While the answer runs: until when the client may send nothing of its body.
    ///
    /// # Errors
    /// It has been silent for too long.
    pub(crate) fn of_upload(&self, now_ns: u64) -> Result<u64, Reason> {
        let open = self.upload.as_ref().filter(|u| u.is_open() && !self.silent_upload);
        let Some(upload) = open else { return Ok(u64::MAX) };
        // The upstream does not take what is there: not the client's fault.
        if upload.state.get() != UploadState::Waiting {
            return Ok(now_ns.saturating_add(self.body_ns));
        }
        let limit = upload.at_ns.get().max(self.sent_ns.get()).saturating_add(self.body_ns);
        if limit > now_ns && !self.drips(now_ns) { Ok(limit) } else { Err(Reason::BodyTimeout) }
    }

    /// A body that moves, but only so much as to keep the connection (slow POST). It has as long to
    /// begin as it may be silent.
    fn drips(&self, now_ns: u64) -> bool {
        let Some(upload) = self.upload.as_ref().filter(|_| !self.silent_upload) else {
            return false;
        };
        let elapsed = now_ns.saturating_sub(self.sent_ns.get());
        let (began, elapsed) = (elapsed >= self.body_ns, u128::from(elapsed));
        began
            && upload.state.get() == UploadState::Waiting
            && u128::from(upload.bytes.get()) * 1_000_000_000 < u128::from(self.body_rate) * elapsed
    }

    fn limit(&self) -> u64 {
        let sent = self.sent_ns.get();
        let phase = match &self.upload {
            Some(upload) if upload.is_open() && self.silent_upload => u64::MAX,
            Some(upload) if upload.is_open() => {
                upload.at_ns.get().max(sent).saturating_add(self.body_ns)
            }
            Some(upload) => upload.at_ns.get().max(sent).saturating_add(self.first_byte_ns),
            None => sent.saturating_add(self.first_byte_ns),
        };
        phase.min(self.total_ns)
    }

    /// An upload that failed on the client's side looks to hyper like a broken connection.
    fn blame(&self, reason: Reason) -> Reason {
        match self.upload.as_ref().map(|u| u.state.get()) {
            Some(UploadState::Failed) => Reason::BadFraming,
            Some(UploadState::TooLarge) => Reason::BodyTooLarge,
            _ => reason,
        }
    }
}
