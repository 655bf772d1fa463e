//! One request and its answer over an HTTP/1.1 connection. The request is bytes already. This file
//! reads only the head of the answer, with the bytes that arrived after it.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes, BytesMut};
use http::StatusCode;
use http_body::Frame;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::task::coop::unconstrained;

use super::outcome::{AnswerContent, Failure, WholeChunks};
use super::sending::{Sending, Stopped};
use crate::clock::Clock;
use crate::core::Reason;
use crate::proxy::answer_deadline::{AnswerDeadline, go_on};
use crate::proxy::body::BodyError;
use crate::proxy::http1::answer_body::AnswerBody;
use crate::proxy::http1::answer_read::{
    AnswerHead, FieldRoom, FoundHead, LONGEST_HEAD, RequestMethod, find_head,
};
use crate::proxy::http1::chunks::{ChunkForm, KeptBody};
use crate::proxy::net::buffers::{BUFFER, Buffers};
use crate::proxy::net::io::Io;
use crate::proxy::streams::Stream;

/// The answer.
pub(super) struct Answered {
    pub(super) head: AnswerHead,
    pub(super) content: AnswerContent,
    /// Interim answers (1xx) before it, which are not forwarded.
    pub(super) interim: u32,
}

/// What the connection has learnt from earlier answers.
#[derive(Debug)]
pub(super) struct Learnt {
    /// Bytes that the last answer needed, so that the next one like it takes one read.
    room: usize,
    /// Size of the next read of a body of unknown length.
    piece: usize,
    /// Space for the fields of the next answer.
    pub(super) fields: FieldRoom,
    /// Another request may follow: the upstream keeps the connection open, and has sent nothing
    /// that it was not asked for.
    pub(super) keeps_alive: bool,
}

/// A request on its way.
pub(super) struct WrittenRequest<'a> {
    /// The head, and as much of the body as has arrived.
    pub(super) bytes: &'a [u8],
    /// The answer has no body, whatever its head says.
    pub(super) is_head: bool,
    /// How a chunked answer is kept.
    pub(super) chunks: ChunkForm,
    /// The connection was used before, so it may be closed by now.
    pub(super) is_reused: bool,
}

/// What surrounds the exchange of a request.
pub(super) struct ExchangeContext<'a> {
    pub(super) stream: &'a Stream,
    pub(super) answer_deadline: &'a AnswerDeadline,
    pub(super) buffers: &'a Buffers,
    pub(super) clock: &'a Clock,
}

/// The most bytes of one read. Larger reads save the system calls that dominate a large answer.
const LARGEST_READ: usize = 256 * 1024;
/// First read of a body of unknown length. Doubled while reads fill it.
const FIRST_READ: usize = 16 * 1024;
/// The most interim answers before a final one. Services send one or two.
const MOST_INTERIM: u32 = 100;
/// Data that fills less than this fraction of its buffer is copied, so that a trickle of small
/// pieces does not hold large buffers.
const WORTH_KEEPING: usize = 4;

/// Sends `request` and then `sending`, and reads the answer's head. An answer may arrive before the
/// body was sent completely: the rest must then be sent while the answer is read.
pub(super) async fn exchange(
    io: &mut Io,
    request: &WrittenRequest<'_>,
    sending: &mut Option<Box<Sending>>,
    learnt: &mut Learnt,
    around: &ExchangeContext<'_>,
) -> Result<Answered, Failure> {
    let ExchangeContext { stream, answer_deadline, clock, .. } = *around;
    let mut unsent = request.bytes;
    let mut is_flushed = false;
    let asked = if request.is_head { RequestMethod::Head } else { RequestMethod::Other };
    let mut reader = HeadReader { read: Vec::new(), interim: 0, asked };
    poll_fn(|cx| {
        if let Some(end) = stream.poll_end(cx)
            && let Err(reason) = go_on(end, stream, answer_deadline, clock, cx)
        {
            return Poll::Ready(Err(Failure::of(reason)));
        }
        while !unsent.is_empty() {
            match ready!(Pin::new(&mut *io).poll_write(cx, unsent)) {
                Ok(0) | Err(_) if unsent.len() == request.bytes.len() => {
                    let stale = request.is_reused;
                    let closed = Failure::of(Reason::UpstreamClosed);
                    return Poll::Ready(Err(Failure { unsent: true, stale, ..closed }));
                }
                // The upstream takes no more. Its answer may say why.
                Ok(0) | Err(_) => (unsent, is_flushed) = (&[], true),
                Ok(count) => unsent = unsent.get(count..).unwrap_or_default(),
            }
        }
        if let Some(body) = sending {
            match body.poll(io, cx) {
                Poll::Ready(Ok(())) => *sending = None,
                Poll::Ready(Err(Stopped::Client)) => {
                    return Poll::Ready(Err(Failure::of(Reason::UpstreamClosed)));
                }
                // The same as above.
                Poll::Ready(Err(Stopped::Upstream)) | Poll::Pending => {}
            }
        } else if !is_flushed {
            // A failure shows again when the answer is read.
            let _ = ready!(Pin::new(&mut *io).poll_flush(cx));
        }
        is_flushed = true;
        let read = ready!(reader.poll_head(io, learnt, around.buffers, cx));
        Poll::Ready(match read {
            Ok(head) => take_apart(head, request.chunks, learnt),
            Err(HeadError::Bad) => Err(Failure::of(Reason::UpstreamBadResponse)),
            Err(HeadError::Closed { is_begun }) => {
                let stale = request.is_reused && !is_begun;
                Err(Failure { stale, ..Failure::of(Reason::UpstreamClosed) })
            }
        })
    })
    .await
}

/// Reads until a final head is complete.
struct HeadReader {
    read: Vec<u8>,
    interim: u32,
    asked: RequestMethod,
}

/// A head that is not an interim one.
struct FinalHead {
    found: FoundHead,
    /// Everything that was read, from the head's first byte on.
    read: Vec<u8>,
    /// Heads that arrived before it.
    interim: u32,
}

enum HeadError {
    /// The upstream closed the connection.
    Closed {
        /// The upstream had begun to answer.
        is_begun: bool,
    },
    Bad,
}

impl HeadReader {
    /// The head, and everything that was read.
    fn poll_head(
        &mut self,
        io: &mut Io,
        learnt: &mut Learnt,
        buffers: &Buffers,
        cx: &mut Context<'_>,
    ) -> Poll<Result<FinalHead, HeadError>> {
        loop {
            if self.read.capacity() == 0 {
                // While keygate waits for an answer, it holds no buffer for it.
                let room = learnt.room;
                self.read = if room > BUFFER { Vec::with_capacity(room) } else { buffers.take() };
            } else if self.read.len() == self.read.capacity() {
                self.read.reserve(self.read.len().min(LONGEST_HEAD));
            }
            let left = self.read.capacity() - self.read.len();
            let result = poll_read(io, &mut (&mut self.read).limit(left), cx);
            if self.read.is_empty() {
                buffers.give_back(std::mem::take(&mut self.read));
            }
            let is_begun = !self.read.is_empty() || self.interim > 0;
            match ready!(result) {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Poll::Ready(Err(HeadError::Closed { is_begun })),
            }
            // Interim heads are removed together. One by one, a burst of them would be moved again
            // and again.
            let mut begin = 0;
            while let Some(unread) = self.read.get(begin..).filter(|unread| !unread.is_empty()) {
                match find_head(unread, self.asked, &mut learnt.fields) {
                    Ok(None) => break,
                    // keygate did not ask for another protocol here.
                    Ok(Some(found)) if found.status == StatusCode::SWITCHING_PROTOCOLS => {
                        return Poll::Ready(Err(HeadError::Bad));
                    }
                    Ok(Some(found)) if found.status.is_informational() => {
                        self.interim += 1;
                        if self.interim > MOST_INTERIM {
                            return Poll::Ready(Err(HeadError::Bad));
                        }
                        begin += found.length;
                    }
                    Ok(Some(found)) => {
                        self.read.drain(..begin);
                        let (read, interim) = (std::mem::take(&mut self.read), self.interim);
                        return Poll::Ready(Ok(FinalHead { found, read, interim }));
                    }
                    Err(_) => return Poll::Ready(Err(HeadError::Bad)),
                }
            }
            self.read.drain(..begin);
        }
    }
}

/// Separates head and body. A short body is copied, so that its buffer can be used again. A long
/// one is not.
fn take_apart(head: FinalHead, form: ChunkForm, learnt: &mut Learnt) -> Result<Answered, Failure> {
    let FinalHead { found, mut read, interim } = head;
    let mut body = AnswerBody::new(found.body, form);
    let all = body.left().and_then(|left| usize::try_from(left).ok());
    let needed = all.map_or(read.len(), |all| found.length.saturating_add(all));
    learnt.room = needed.saturating_add(1).next_power_of_two().min(LARGEST_READ);
    // No line of the body began earlier, so none needs space.
    let behind = read.len().saturating_sub(found.length);
    let KeptBody { kept, used } =
        body.read(&mut read, found.length).map_err(|_| Failure::of(Reason::UpstreamBadResponse))?;
    let is_clean = used == behind;
    learnt.keeps_alive = found.keeps_alive && is_clean;
    learnt.piece = FIRST_READ;
    let (head, first) = if read.capacity() > BUFFER {
        let read = Bytes::from(read);
        let head = Vec::from(read.get(..found.length).unwrap_or_default());
        (found.with(head), read.slice(kept))
    } else {
        let first = Bytes::copy_from_slice(read.get(kept).unwrap_or_default());
        (found.with(read), first)
    };
    let content = match body {
        body if !body.is_over() || body.has_trailers() => AnswerContent::Coming { first, body },
        AnswerBody::Chunked(mut chunks) => {
            let (form, data) = (chunks.form(), chunks.take_data_length());
            AnswerContent::WholeChunked(WholeChunks { bytes: first, form, data })
        }
        _ => AnswerContent::Whole(first),
    };
    Ok(Answered { head, content, interim })
}

fn poll_read(io: &mut Io, into: &mut impl BufMut, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    pin!(io.read_buf(into)).poll(cx)
}

/// The next piece of `body`, of at most `most` bytes, without a single byte that belongs to
/// something else, or its trailers. `None`: it has ended.
///
/// # Errors
/// The connection broke or ended too early, or the chunks are invalid.
pub(super) fn poll_body(
    io: &mut Io,
    body: &mut AnswerBody,
    learnt: &mut Learnt,
    most: u64,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
    while !body.is_over() {
        let wanted = body.left().unwrap_or(learnt.piece as u64).min(most);
        let wanted = usize::try_from(wanted).unwrap_or(LARGEST_READ).min(LARGEST_READ);
        let room = body.room();
        let mut read = BytesMut::with_capacity(room + wanted);
        read.put_bytes(0, room);
        let mut read = read.limit(wanted);
        let count = match ready!(poll_read(io, &mut read, cx)) {
            Ok(count) => count,
            Err(error) => return Poll::Ready(Some(Err(error.into()))),
        };
        if count == 0 {
            match body.close() {
                Ok(()) => break,
                Err(error) => {
                    let error = io::Error::new(io::ErrorKind::UnexpectedEof, error);
                    return Poll::Ready(Some(Err(error.into())));
                }
            }
        }
        if count == wanted {
            learnt.piece = wanted.saturating_mul(2).min(LARGEST_READ);
        }
        let mut read = read.into_inner();
        let KeptBody { kept, used } = match body.read(&mut read, room) {
            Ok(found) => found,
            Err(error) => return Poll::Ready(Some(Err(error.into()))),
        };
        learnt.keeps_alive &= used == count;
        if !kept.is_empty() {
            let bytes = if kept.len() < wanted / WORTH_KEEPING {
                Bytes::copy_from_slice(read.get(kept).unwrap_or_default())
            } else {
                read.freeze().slice(kept)
            };
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
    }
    let trailers = body.take_trailers().map_err(BodyError::from).transpose();
    Poll::Ready(trailers.map(|trailers| trailers.map(Frame::trailers)))
}

/// Whether the upstream has neither closed the connection nor sent something unasked while it was
/// idle.
pub(super) fn is_quiet(io: &mut Io) -> bool {
    let mut cx = Context::from_waker(std::task::Waker::noop());
    // A task that has used up its turn would find every connection quiet.
    pin!(unconstrained(poll_fn(|cx| poll_noise(io, cx)))).poll(&mut cx).is_pending()
}

/// Ready once the upstream has closed the connection or sent something unasked.
pub(super) fn poll_noise(io: &mut Io, cx: &mut Context<'_>) -> Poll<()> {
    let mut byte = [0];
    Pin::new(io).poll_read(cx, &mut ReadBuf::new(&mut byte)).map(|_| ())
}

// === impl Learnt ===

impl Learnt {
    pub(super) fn new() -> Self {
        Self { room: 0, piece: FIRST_READ, fields: FieldRoom::default(), keeps_alive: false }
    }
}
