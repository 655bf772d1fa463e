//! An answer's body as hyper takes it. Over HTTP/2, a client's windows decide how much of it stays
//! here, and for how long. Whatever stays is counted, has its time, and ends with its request.
//!
//! hyper asks for a piece, waits until the client's window has room for one byte, and passes the
//! piece to h2. With the last piece it releases the stream, and then nobody could reset it any
//! more. So each piece is passed on without its last byte, which follows separately: hyper releases
//! the stream when the window has room for that byte, and so for everything before it.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};

use super::download::ResponseBody;
use crate::proxy::body::BodyError;
use crate::proxy::memory::holding::UnsentAnswers;
use crate::proxy::streams::{Stream, StreamRef};
use crate::proxy::worker::Worker;

#[derive(Debug)]
pub(crate) struct CountedBody {
    body: ResponseBody,
    /// `None`: HTTP/1, where one piece is written before the next is requested, or nothing to take.
    awaited: Option<AwaitedBody>,
}

/// Who takes an answer.
pub(crate) enum TakenBy {
    Http1,
    Http2 {
        worker: Rc<Worker>,
        /// `None`: nothing counts what the connection holds.
        unsent: Option<Arc<UnsentAnswers>>,
    },
}

/// A body that waits for the windows of its client.
#[derive(Debug)]
struct AwaitedBody {
    worker: Rc<Worker>,
    unsent: Option<Arc<UnsentAnswers>>,
    which: StreamRef,
    /// For keygate's own answer, whose request is not in the registry.
    own: Option<Stream>,
    /// The last byte of the previous piece. Copied, because it must not keep that piece's memory.
    last: Option<Bytes>,
}

/// A part of an answer as the client gets it.
#[derive(Debug)]
pub(crate) struct AnswerPiece {
    bytes: Bytes,
    /// The stream whose time starts again when the client takes some of it.
    awaited: Option<(Rc<Worker>, StreamRef)>,
}

// === impl CountedBody ===

impl CountedBody {
    pub(crate) fn new(mut body: ResponseBody, taken_by: TakenBy) -> Self {
        let TakenBy::Http2 { worker, unsent } = taken_by else {
            return Self { body, awaited: None };
        };
        if body.is_end_stream() {
            return Self { body, awaited: None };
        }
        if let Some(unsent) = &unsent
            && body.holds_some()
        {
            body.count_held(|bytes| unsent.count(bytes));
        }
        let mut own = None;
        let mut which = body.stream();
        if which.is_none() {
            // The body of a refusal obeys no key: it only has its time.
            let snapshot = worker.shared.store.load();
            let stream = worker.streams.register(None, &snapshot.settings, 0);
            which = stream.reference();
            own = Some(stream);
        }
        let awaited = which.map(|which| AwaitedBody { worker, unsent, which, own, last: None });
        Self { body, awaited }
    }
}

impl Body for CountedBody {
    type Data = AnswerPiece;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<AnswerPiece>, BodyError>>> {
        let Self { body, awaited } = &mut *self;
        let Some(awaited) = awaited else {
            let polled = Pin::new(body).poll_frame(cx);
            return polled.map(|frame| frame.map(|f| f.map(|f| f.map_data(AnswerPiece::new))));
        };
        if let Some(last) = awaited.take_last() {
            return Poll::Ready(Some(Ok(Frame::data(AnswerPiece::new(last)))));
        }
        if awaited.own.as_ref().is_some_and(|own| own.poll_end(cx).is_some()) {
            return Poll::Ready(Some(Err(BodyError::Ended)));
        }
        let is_counted = body.holds_some();
        let polled = Pin::new(body).poll_frame(cx);
        polled.map(|frame| {
            frame.map(|f| {
                f.map(|f| {
                    f.map_data(|piece| {
                        awaited.cut(if is_counted { piece } else { awaited.count(piece) })
                    })
                })
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        let waits = self.awaited.as_ref().is_some_and(|awaited| awaited.last.is_some());
        !waits && self.body.is_end_stream()
    }

    /// The size before anything was requested: hyper does not need any other.
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

// === impl AwaitedBody ===

impl AwaitedBody {
    /// Also `None` if the request has to end: then the waiting byte is not forwarded.
    fn take_last(&mut self) -> Option<Bytes> {
        let last = self.last.take()?;
        self.worker.streams.end_of(self.which).is_none().then_some(last)
    }

    fn count(&self, piece: Bytes) -> Bytes {
        match &self.unsent {
            Some(unsent) => unsent.count(piece),
            None => piece,
        }
    }

    /// Cuts off the last byte.
    fn cut(&mut self, mut piece: Bytes) -> AnswerPiece {
        let Some(but_one) = piece.len().checked_sub(1) else { return AnswerPiece::new(piece) };
        self.worker.streams.offer(self.which);
        if but_one > 0 {
            self.last = piece.get(but_one..).map(Bytes::copy_from_slice);
            piece.truncate(but_one);
        }
        AnswerPiece { bytes: piece, awaited: Some((Rc::clone(&self.worker), self.which)) }
    }
}

impl Drop for AwaitedBody {
    fn drop(&mut self) {
        // Its record is closed already.
        if self.own.as_ref().is_some_and(|own| own.ended().is_some()) {
            self.worker.cells.request_aborted();
        }
    }
}

// === impl AnswerPiece ===

impl AnswerPiece {
    fn new(bytes: Bytes) -> Self {
        Self { bytes, awaited: None }
    }

    fn takes_some(&self) {
        if let Some((worker, which)) = &self.awaited {
            worker.streams.takes_some(*which);
        }
    }
}

impl Buf for AnswerPiece {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        self.takes_some();
    }

    fn copy_to_bytes(&mut self, count: usize) -> Bytes {
        self.takes_some();
        self.bytes.copy_to_bytes(count)
    }
}
