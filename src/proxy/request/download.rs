//! An answer's body on its way to the client, with everything that has to live as long: the
//! upstream connection, the place in the registry, the record. The body is never buffered as a
//! whole: keygate holds one frame at a time.

mod duplex;

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use self::duplex::Duplex;
pub(super) use self::duplex::send_rest;
use super::grpc::grpc_trailers;
use super::record::RequestRecord;
use super::rewrite::answer;
use crate::core::Reason;
use crate::proxy::answer_deadline::AnswerDeadline;
use crate::proxy::body::{BodyError, UploadProgress};
use crate::proxy::http1::answer_body::AnswerBody;
use crate::proxy::http1::chunks::ChunkForm;
use crate::proxy::streams::{RequestEnd, Stream, StreamRef};
use crate::proxy::upstream::PooledConnection;

/// A response body on its way to the client.
#[derive(Debug)]
pub(crate) enum ResponseBody {
    Empty,
    Full(Bytes),
    /// A complete body whose head does not give its length.
    Unmeasured(Bytes),
    /// The same in chunks, which are sent to the client unchanged.
    Chunks(Bytes),
    Stream(Box<Download>),
    /// The request is not over yet.
    Duplex(Duplex),
}

/// A response body that the upstream is still sending. Holds the upstream connection, so that one
/// task drives both, and the request's place in the registry.
#[derive(Debug)]
pub(crate) struct Download {
    /// Arrived with the head. Passed on first.
    pub(crate) first: Option<Bytes>,
    pub(crate) rest: RemainingBody,
    pub(crate) pooled: Option<PooledConnection>,
    pub(crate) stream: Stream,
    pub(crate) upload: Option<Rc<UploadProgress>>,
    pub(crate) record: RequestRecord,
    /// gRPC: a stream that ends early ends with trailers, not with a reset.
    pub(crate) grpc: bool,
    /// Other streams share the client's connection, so only this body can show that the client does
    /// not read it.
    pub(crate) http2: bool,
    pub(crate) idle_ns: Option<u64>,
    /// When the upstream has been silent for too long. `u64::MAX` while nothing waits for it.
    pub(crate) silent_ns: u64,
    /// The deadline of the upload, when the answer arrived before the upload's end.
    pub(crate) answer_deadline: Option<AnswerDeadline>,
    /// It was that upload that took too long.
    pub(crate) stalled: bool,
    /// When the whole request must be over.
    pub(crate) total_ns: u64,
    /// Another task sends the rest of the request, and drives the connection to do so.
    pub(crate) is_duplex: bool,
    /// The end of the body was read.
    pub(crate) is_over: bool,
    /// Bytes uploaded, as of the last check.
    pub(crate) uploaded: u64,
}

/// What is still to come of a response body.
#[derive(Debug)]
pub(crate) enum RemainingBody {
    /// [`PooledConnection::poll_body`] reads it.
    Own(AnswerBody),
    Hyper(Incoming),
    /// The whole body was read. Its head does not give its length.
    Trailers(Option<Box<HeaderMap>>),
}

/// The most that is handed on at a time. An HTTP/2 client that takes one byte can leave the rest
/// with us.
const PIECE: usize = 64 * 1024;

fn next_piece(bytes: &mut Bytes) -> Bytes {
    bytes.split_to(bytes.len().min(PIECE))
}

// === impl ResponseBody ===

impl ResponseBody {
    /// Runs `look` on what has arrived but was not handed on.
    fn with_first<T>(&mut self, look: impl FnOnce(&mut Bytes) -> T) -> Option<T> {
        match self {
            Self::Empty => None,
            Self::Full(bytes) | Self::Unmeasured(bytes) | Self::Chunks(bytes) => Some(look(bytes)),
            Self::Stream(download) => download.first.as_mut().map(look),
            Self::Duplex(duplex) => duplex.with_answer(|d| d.first.as_mut().map(look)).flatten(),
        }
    }

    /// The form of its data frames.
    pub(crate) fn form(&self) -> ChunkForm {
        match self {
            Self::Empty | Self::Full(_) | Self::Unmeasured(_) => ChunkForm::Data,
            Self::Chunks(_) => ChunkForm::Chunks,
            Self::Stream(download) => download.rest.form(),
            Self::Duplex(duplex) => duplex.with_answer(|d| d.rest.form()).unwrap_or_default(),
        }
    }

    /// Whether keygate holds bytes of it.
    pub(super) fn holds_some(&mut self) -> bool {
        self.with_first(|first| !first.is_empty()).unwrap_or_default()
    }

    /// Replaces the bytes that keygate holds by the same bytes, counted.
    pub(super) fn count_held(&mut self, count: impl FnOnce(Bytes) -> Bytes) {
        self.with_first(|first| *first = count(std::mem::take(first)));
    }

    /// The request that it answers. `None`: it is keygate's own answer, or the request has ended.
    pub(super) fn stream(&mut self) -> Option<StreamRef> {
        match self {
            Self::Empty | Self::Full(_) | Self::Unmeasured(_) | Self::Chunks(_) => None,
            Self::Stream(download) => download.stream.reference(),
            Self::Duplex(duplex) => duplex.with_answer(|d| d.stream.reference()).flatten(),
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => {
                let piece = next_piece(bytes);
                if bytes.is_empty() {
                    *self = Self::Empty;
                }
                Poll::Ready(Some(Ok(Frame::data(piece))))
            }
            Self::Unmeasured(bytes) | Self::Chunks(bytes) if bytes.is_empty() => Poll::Ready(None),
            // No chunk in it can be mistaken for another.
            Self::Chunks(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Unmeasured(bytes) => Poll::Ready(Some(Ok(Frame::data(next_piece(bytes))))),
            Self::Stream(download) => download.poll_frame(cx),
            Self::Duplex(duplex) => duplex.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_empty(),
            // hyper would say that its length is 0.
            Self::Unmeasured(_) | Self::Chunks(_) => false,
            Self::Stream(download) => download.is_end_stream(),
            Self::Duplex(duplex) => duplex.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Unmeasured(_) | Self::Chunks(_) => SizeHint::default(),
            Self::Stream(download) => download.size_hint(),
            Self::Duplex(duplex) => duplex.size_hint(),
        }
    }
}

// === impl Download ===

impl Download {
    /// As handed to its writer.
    pub(crate) fn into_body(self) -> ResponseBody {
        match self.is_duplex {
            true => ResponseBody::Duplex(Duplex::new(self)),
            false => ResponseBody::Stream(Box::new(self)),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let hint = self.rest.size_hint();
        match (&self.first, hint.exact()) {
            (Some(first), Some(rest)) => SizeHint::with_exact(first.len() as u64 + rest),
            _ => hint,
        }
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(end) = self.poll_end(cx) {
            return Poll::Ready(self.end(end));
        }
        if let Some(first) = &mut self.first {
            let piece = match self.rest.form() {
                ChunkForm::Data => next_piece(first),
                // Needed to count its data.
                ChunkForm::Chunks => std::mem::take(first),
            };
            if first.is_empty() {
                self.first = None;
            }
            self.came(piece.len());
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        let mut frame = self.poll_rest(cx);
        if frame.is_pending()
            && !self.is_duplex
            && let Some(pooled) = &mut self.pooled
            && pooled.drive(cx)
        {
            frame = self.poll_rest(cx);
        }
        match &frame {
            Poll::Pending => self.waits(),
            Poll::Ready(Some(Ok(frame))) => self.came(frame.data_ref().map_or(0, Bytes::len)),
            Poll::Ready(Some(Err(_))) => self.broke(),
            Poll::Ready(None) => self.ends(),
        }
        if let Poll::Ready(Some(Ok(frame))) = &mut frame
            && let Some(trailers) = frame.trailers_mut()
        {
            answer::clean_trailers(trailers, &self.record.worker().shared.store.load().settings);
        }
        self.let_go_of_upstream();
        frame
    }

    /// Why it has to end now.
    fn poll_end(&mut self, cx: &Context<'_>) -> Option<RequestEnd> {
        match self.stream.poll_end(cx) {
            Some(RequestEnd::Deadline) if self.may_go_on() => self.stream.poll_end(cx),
            end => end,
        }
    }

    /// Starts to wait for the upstream: everything that had arrived is written.
    fn waits(&mut self) {
        // The upload's time does not run while the client has an answer to read, because the client
        // may read that first.
        if self.answer_deadline.is_some() || self.idle_ns.is_some() {
            let now_ns = self.record.now_ns();
            if let Some(idle) = self.idle_ns
                && self.silent_ns == u64::MAX
            {
                self.silent_ns = now_ns.saturating_add(idle);
            }
            let limit = self.limit(now_ns);
            self.stream.set_deadline(limit);
        }
    }

    /// A piece of the body goes to the client, or trailers, which count as no bytes.
    fn came(&mut self, bytes: usize) {
        self.record.bytes_out += self.rest.data_in(bytes);
        // `timeouts.write` limits how long the client may take to read it.
        if self.idle_ns.is_some() || self.answer_deadline.is_some() {
            self.silent_ns = u64::MAX;
            self.stream.set_deadline(self.total_ns);
        }
    }

    fn broke(&mut self) {
        self.pooled = None;
        let closed = Reason::UpstreamClosed;
        match self
            .answer_deadline
            .as_ref()
            .map_or(closed, |answer_deadline| answer_deadline.blame(closed))
        {
            Reason::UpstreamClosed => self.record.upstream_broke(),
            // It broke off because its request ended.
            reason => self.record.ended_early(reason),
        }
    }

    fn ends(&mut self) {
        self.is_over = true;
        // The rest of the request may still be sent.
        if !self.is_duplex {
            self.finish();
        }
    }

    /// The next deadline: for the upstream's silence, for the whole request, or for an upload that
    /// continues during the answer. One that has passed is no later than `now_ns`.
    fn limit(&mut self, now_ns: u64) -> u64 {
        let upload = self.answer_deadline.as_ref().map_or(Ok(u64::MAX), |p| p.of_upload(now_ns));
        self.stalled = upload.is_err();
        upload.unwrap_or(now_ns).min(self.silent_ns).min(self.total_ns)
    }

    /// A deadline has passed. By now another one may apply.
    fn may_go_on(&mut self) -> bool {
        let now_ns = self.record.now_ns();
        let limit = self.limit(now_ns);
        if limit > now_ns {
            self.stream.set_deadline(limit);
        }
        limit > now_ns
    }

    /// An HTTP/2 client may leave an answer with keygate for a long time. Once the whole answer was
    /// read, it must not keep the connection from other requests. Over HTTP/1, the last byte
    /// releases it.
    pub(super) fn let_go_of_upstream(&mut self) {
        if !self.http2 || self.is_duplex || self.pooled.is_none() {
            return;
        }
        if let RemainingBody::Own(body) = &mut self.rest
            && body.is_over()
            && body.has_trailers()
        {
            // Broken trailers are reported when they are due.
            let Ok(trailers) = body.take_trailers() else { return };
            self.rest = RemainingBody::Trailers(trailers.map(Box::new));
            self.finish();
        } else if self.rest.is_end_stream() {
            self.finish();
        }
    }

    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let most = if self.http2 { PIECE as u64 } else { u64::MAX };
        match (&mut self.rest, &mut self.pooled) {
            (RemainingBody::Own(body), Some(pooled)) => pooled.poll_body(body, most, cx),
            (RemainingBody::Own(body), None) if body.is_over() => Poll::Ready(None),
            (RemainingBody::Own(_), None) => Poll::Ready(Some(Err(BodyError::Ended))),
            (RemainingBody::Trailers(trailers), _) => {
                Poll::Ready(trailers.take().map(|trailers| Ok(Frame::trailers(*trailers))))
            }
            (RemainingBody::Hyper(incoming), pooled) => {
                // If the upstream connection is our own, only our own `PooledConnection::drive` feeds the
                // channel inside. So no other wake-up is needed, unless another task drives the
                // connection.
                let driven = pooled.as_ref().is_some_and(PooledConnection::is_driven);
                let noop = &mut Context::from_waker(Waker::noop());
                let cx = if driven && !self.is_duplex { noop } else { cx };
                match ready!(Pin::new(&mut *incoming).poll_frame(cx)) {
                    // hyper shows a stream that the service has reset with NO_ERROR as one that has
                    // ended.
                    None if !driven && !incoming.is_end_stream() => {
                        let cut = io::Error::from(io::ErrorKind::UnexpectedEof);
                        Poll::Ready(Some(Err(cut.into())))
                    }
                    frame => Poll::Ready(frame.map(|frame| frame.map_err(BodyError::from))),
                }
            }
        }
    }

    /// The key or the time of this response has run out: keygate reads nothing more from the
    /// upstream and hands nothing more to the client.
    fn end(&mut self, end: RequestEnd) -> Option<Result<Frame<Bytes>, BodyError>> {
        self.pooled = None;
        if let Some(upload) = &self.upload {
            upload.stop();
        }
        let reason = self.note_end(end);
        if !self.grpc {
            return Some(Err(BodyError::Ended));
        }
        if !self.record.take_final_trailers() {
            return None;
        }
        Some(Ok(Frame::trailers(grpc_trailers(reason))))
    }

    /// For the record: why it did not end on its own.
    fn note_end(&mut self, end: RequestEnd) -> Reason {
        let reason = match end {
            RequestEnd::Deadline if self.stalled => Reason::BodyTimeout,
            RequestEnd::Deadline => Reason::UpstreamTimeout,
            RequestEnd::Key(reason) => reason,
            RequestEnd::Write => {
                self.record.client_gone();
                return Reason::UpstreamTimeout;
            }
        };
        self.record.ended_early(reason);
        reason
    }

    fn finish(&mut self) {
        if let Some(pooled) = self.pooled.take() {
            pooled.give_back(self.record.now_ns());
        }
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        // Over HTTP/2 the answer may be complete although the client has not taken it.
        if self.http2 && !self.is_over {
            match self.stream.ended() {
                Some(end) => {
                    self.note_end(end);
                }
                None if self.first.is_some() => self.record.client_gone(),
                None => {}
            }
        }
        // hyper drops a body of known length after its last byte, without asking for the end.
        if self.is_over || self.rest.is_end_stream() {
            self.finish();
            // Once its response is over, a request no longer obeys the registry, so its upload must
            // not continue.
            if let Some(upload) = &self.upload {
                upload.stop();
            }
            return;
        }
        if self.pooled.is_some() {
            match self.stream.ended() {
                // The client does not read, so nothing polled the body any more.
                Some(end) => {
                    self.note_end(end);
                }
                None => self.record.client_gone(),
            }
        }
        if let Some(upload) = &self.upload {
            upload.abandon();
        }
    }
}

// === impl RemainingBody ===

impl RemainingBody {
    fn form(&self) -> ChunkForm {
        match self {
            Self::Own(body) => body.form(),
            Self::Hyper(_) | Self::Trailers(_) => ChunkForm::Data,
        }
    }

    /// Bytes of data in the piece of `length` bytes that was read last.
    fn data_in(&mut self, length: usize) -> u64 {
        match self {
            Self::Own(body) => body.data_in(length),
            Self::Hyper(_) | Self::Trailers(_) => length as u64,
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(body) => body.is_over() && !body.has_trailers(),
            Self::Hyper(incoming) => incoming.is_end_stream(),
            Self::Trailers(trailers) => trailers.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(body) => body.left().map_or_else(SizeHint::new, SizeHint::with_exact),
            Self::Hyper(incoming) => incoming.size_hint(),
            Self::Trailers(_) => SizeHint::new(),
        }
    }
}
