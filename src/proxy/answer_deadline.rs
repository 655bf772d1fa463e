//! The deadlines of one exchange with the upstream: how long its answer may take, and how slow the
//! upload may be.

use std::rc::Rc;
use std::task::Context;

use crate::clock::Clock;
use crate::config::{Caps, Timeouts};
use crate::core::{Now, Reason};
use crate::proxy::body::{UploadProgress, UploadState};
use crate::proxy::streams::{RequestEnd, Stream};

/// How long the head of a response may take. While the client still uploads, its progress counts.
#[derive(Debug)]
pub(crate) struct AnswerDeadline {
    upload: Option<Rc<UploadProgress>>,
    pace: UploadPace,
    body_ns: u64,
    /// Bytes per second that an upload must keep up with.
    body_rate: u64,
    first_byte_ns: u64,
    /// When the whole request must be over.
    total_ns: u64,
    sent_ns: std::cell::Cell<u64>,
}

/// Whether an upload must make progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UploadPace {
    /// It must keep up with the configured rate.
    Steady,
    /// A gRPC stream may be silent for as long as it likes.
    Any,
}

/// A request was asked to end while it waits for its response. Its deadline may have moved, because
/// the client still uploads.
pub(crate) fn go_on(
    end: RequestEnd,
    stream: &Stream,
    answer_deadline: &AnswerDeadline,
    clock: &Clock,
    cx: &Context<'_>,
) -> Result<(), Reason> {
    let reason = match end {
        RequestEnd::Key(reason) => reason,
        // Nothing is offered to the client before there is an answer.
        RequestEnd::Write => Reason::UpstreamTimeout,
        RequestEnd::Deadline => match answer_deadline.extend(clock.now().mono_ns) {
            Ok(until) => {
                stream.set_deadline(until);
                // Asks to be woken at the new deadline.
                stream.poll_end(cx);
                return Ok(());
            }
            Err(reason) => reason,
        },
    };
    Err(reason)
}

// === impl AnswerDeadline ===

impl AnswerDeadline {
    pub(crate) fn new(
        timeouts: &Timeouts,
        caps: &Caps,
        upload: Option<Rc<UploadProgress>>,
        pace: UploadPace,
        started: Now,
    ) -> Self {
        let total_ns = timeouts
            .total
            .map_or(u64::MAX, |total| started.mono_ns.saturating_add(total.as_nanos() as u64));
        Self {
            upload,
            pace,
            body_ns: timeouts.body.as_nanos() as u64,
            body_rate: caps.body_rate,
            first_byte_ns: timeouts.first_byte.as_nanos() as u64,
            total_ns,
            sent_ns: std::cell::Cell::new(0),
        }
    }

    /// The first moment to check again.
    pub(crate) fn begin(&self, now_ns: u64) -> u64 {
        self.sent_ns.set(now_ns);
        self.next_look(now_ns)
    }

    /// Nothing signals that an upload is complete, although from that moment on the time-out for
    /// the first byte counts.
    fn next_look(&self, now_ns: u64) -> u64 {
        let open = self.upload.as_ref().is_some_and(|u| u.is_open());
        let soon = if open { now_ns.saturating_add(self.first_byte_ns) } else { u64::MAX };
        self.limit().min(soon)
    }

    /// A deadline has passed. Returns until when to continue, or why not.
    pub(crate) fn extend(&self, now_ns: u64) -> Result<u64, Reason> {
        if self.limit() > now_ns && !self.drips(now_ns) {
            return Ok(self.next_look(now_ns));
        }
        let waits_for_client =
            self.upload.as_ref().is_some_and(|u| u.state.get() == UploadState::Waiting);
        Err(if waits_for_client { Reason::BodyTimeout } else { Reason::UpstreamTimeout })
    }

    /// While the answer runs: until when the client may stay silent in the middle of its body.
    ///
    /// # Errors
    /// The client has been silent for too long.
    pub(crate) fn of_upload(&self, now_ns: u64) -> Result<u64, Reason> {
        let open = self.upload.as_ref().filter(|u| u.is_open() && self.pace == UploadPace::Steady);
        let Some(upload) = open else { return Ok(u64::MAX) };
        // The upstream does not take the bytes that are there, which is not the client's fault.
        if upload.state.get() != UploadState::Waiting {
            return Ok(now_ns.saturating_add(self.body_ns));
        }
        let limit = upload.at_ns.get().max(self.sent_ns.get()).saturating_add(self.body_ns);
        if limit > now_ns && !self.drips(now_ns) { Ok(limit) } else { Err(Reason::BodyTimeout) }
    }

    /// After the end of the answer: until when the client may stay silent. `None`: it has been
    /// silent or slow for too long.
    pub(crate) fn of_rest(&self, now_ns: u64) -> Option<u64> {
        let upload = self.upload.as_ref()?;
        let limit = upload.at_ns.get().max(self.sent_ns.get()).saturating_add(self.body_ns);
        let limit = limit.min(self.total_ns);
        (limit > now_ns && !self.drips(now_ns)).then_some(limit)
    }

    /// Whether a body moves only just enough to keep the connection (slow POST). It may take as
    /// long to begin as it may be silent.
    fn drips(&self, now_ns: u64) -> bool {
        let Some(upload) = self.upload.as_ref().filter(|_| self.pace == UploadPace::Steady) else {
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
            Some(upload) if upload.is_open() && self.pace == UploadPace::Any => u64::MAX,
            Some(upload) if upload.is_open() => {
                upload.at_ns.get().max(sent).saturating_add(self.body_ns)
            }
            Some(upload) => upload.at_ns.get().max(sent).saturating_add(self.first_byte_ns),
            None => sent.saturating_add(self.first_byte_ns),
        };
        phase.min(self.total_ns)
    }

    /// To hyper, an upload that failed on the client's side looks like a broken connection.
    pub(crate) fn blame(&self, reason: Reason) -> Reason {
        match self.upload.as_ref().map(|u| u.state.get()) {
            Some(UploadState::Failed) => Reason::BadFraming,
            Some(UploadState::TooLarge) => Reason::BodyTooLarge,
            _ => reason,
        }
    }
}
