//! An answer on its way to a client that is read without hyper.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::{Response, StatusCode, header};
use hyper::body::Body;
use tokio::io::AsyncWrite;

use super::read::{AnswerAbort, Read, poll_abort};
use crate::proxy::body::{BodyError, Wire};
use crate::proxy::http1::answer_write::AnswerLines;
use crate::proxy::http1::chunks::{
    BODY_END, CHUNK_AND_BODY_END, CHUNK_END, ChunkForm, put_chunk_size,
};
use crate::proxy::request::connection::ClientConnection;
use crate::proxy::request::download::ResponseBody;
use crate::proxy::worker::Worker;

/// How the rest of an answer's body is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AnswerFraming {
    /// The number of bytes still to come.
    Counted(u64),
    /// The length is unknown: each piece states its own (RFC 9112 section 7.1).
    Chunks,
    /// The same, but the pieces are chunks already.
    ReadyChunks,
    /// Its status says that it has none.
    None,
}

impl AnswerFraming {
    pub(super) fn of(status: StatusCode, body: &ResponseBody) -> Self {
        match (status, body.size_hint().exact()) {
            (StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED, _) => Self::None,
            (_, Some(length)) => Self::Counted(length),
            (_, None) if body.form() == ChunkForm::Chunks => Self::ReadyChunks,
            (_, None) => Self::Chunks,
        }
    }

    fn is_chunked(self) -> bool {
        matches!(self, Self::Chunks | Self::ReadyChunks)
    }

    fn is_over(self) -> bool {
        matches!(self, Self::Counted(0) | Self::None)
    }
}

/// An answer in hyper's form, written as lines. `None` for a 1xx: no plain request asks for one.
pub(super) fn to_lines(
    response: Response<ResponseBody>,
) -> Option<(AnswerLines, ResponseBody, AnswerFraming)> {
    let status = response.status();
    if status.is_informational() {
        return None;
    }
    let rest = AnswerFraming::of(status, response.body());
    let (head, body) = response.into_parts();
    let fields: usize = head.headers.iter().map(|(n, v)| n.as_str().len() + v.len() + 4).sum();
    let phrase = head.extensions.get::<hyper::ext::ReasonPhrase>().map(AsRef::as_ref);
    let mut lines = AnswerLines::new(status, phrase, fields + OWN_LINES);
    for (name, value) in &head.headers {
        match *name {
            header::CONNECTION => lines.closes = true,
            // The length of the answer that the client already has (RFC 9110 section 8.6).
            header::CONTENT_LENGTH if status != StatusCode::NOT_MODIFIED => {}
            header::TRANSFER_ENCODING => {}
            _ => {
                lines.is_dated |= name == header::DATE;
                lines.put(name.as_str().as_bytes(), value.as_bytes());
            }
        }
    }
    Some((lines, body, rest))
}

/// Writes an answer.
pub(super) async fn send(
    worker: &Worker,
    client: &ClientConnection,
    wire: &Wire,
    read: &mut Read<'_>,
    mut head: Vec<u8>,
    mut body: ResponseBody,
    mut rest: AnswerFraming,
) -> Result<(), AnswerAbort> {
    // In one piece where the space after the head allows it, which mostly happens for a refusal.
    if let (ResponseBody::Full(bytes), AnswerFraming::Counted(_)) = (&body, rest)
        && bytes.len() <= head.capacity() - head.len()
    {
        head.extend_from_slice(bytes);
        (body, rest) = (ResponseBody::Empty, AnswerFraming::None);
    }
    let (piece, tail) = (Bytes::new(), &[][..]);
    let mut answer =
        OutgoingAnswer { text: head, sent: 0, piece, tail, ahead: None, looks_ahead: false, rest };
    let mut body = pin!(body);
    poll_fn(|cx| match answer.poll_send(wire, &mut body, cx) {
        Poll::Pending => poll_abort(worker, client, wire, read, cx).map(Err),
        ready => ready,
    })
    .await
}

/// An answer that is being written.
struct OutgoingAnswer {
    /// The head, and the line that gives the length of the next piece.
    text: Vec<u8>,
    /// Bytes of `text` that were written.
    sent: usize,
    /// The part of the body that is not written yet.
    piece: Bytes,
    /// Written after the piece.
    tail: &'static [u8],
    /// The bytes that follow, if keygate has looked ahead.
    ahead: Option<Option<Result<Bytes, BodyError>>>,
    /// The bytes that follow were not there yet. After looking ahead once, keygate asks again until
    /// they are, even while the client takes nothing. Otherwise the client's time would count as
    /// the service's.
    looks_ahead: bool,
    rest: AnswerFraming,
}

impl OutgoingAnswer {
    fn poll_send(
        &mut self,
        wire: &Wire,
        body: &mut Pin<&mut ResponseBody>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), AnswerAbort>> {
        loop {
            ready!(self.poll_written(wire, body, cx))?;
            if self.rest.is_over() {
                break;
            }
            if let Poll::Ready(next) = self.poll_piece(body, cx) {
                next?;
                continue;
            }
            // Bytes that were written must not wait for those to come.
            return match Pin::new(&mut *wire.io()).poll_flush(cx) {
                Poll::Ready(Err(_)) => Poll::Ready(Err(AnswerAbort::Broken)),
                _ => Poll::Pending,
            };
        }
        Pin::new(&mut *wire.io()).poll_flush(cx).map_err(|_| AnswerAbort::Broken)
    }

    /// Writes what it holds.
    fn poll_written(
        &mut self,
        wire: &Wire,
        body: &mut Pin<&mut ResponseBody>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), AnswerAbort>> {
        loop {
            let is_bodiless = self.piece.is_empty() && self.tail.is_empty();
            if self.sent == self.text.len() && is_bodiless {
                return Poll::Ready(Ok(()));
            }
            // Together with the beginning of the body, if that is there.
            if is_bodiless
                && !self.rest.is_over()
                && let Poll::Ready(next) = self.poll_piece(body, cx)
            {
                next?;
            }
            let text = self.text.get(self.sent..).unwrap_or_default();
            let pieces = [text, &*self.piece, self.tail].map(io::IoSlice::new);
            let mut io = wire.io();
            let io = Pin::new(&mut *io);
            let written = match (text.is_empty(), self.piece.is_empty(), self.tail.is_empty()) {
                (true, false, true) => io.poll_write(cx, &self.piece),
                (false, true, true) => io.poll_write(cx, text),
                _ => io.poll_write_vectored(cx, &pieces),
            };
            match written {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(AnswerAbort::Broken)),
                Poll::Ready(Ok(count)) => self.wrote(count),
                Poll::Pending => {
                    if self.looks_ahead {
                        self.look_ahead(body, cx);
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    fn wrote(&mut self, count: usize) {
        let of_text = count.min(self.text.len() - self.sent);
        self.sent += of_text;
        if self.sent == self.text.len() {
            self.text.clear();
            self.sent = 0;
        }
        let of_piece = (count - of_text).min(self.piece.len());
        self.piece.advance(of_piece);
        self.tail = self.tail.get(count - of_text - of_piece..).unwrap_or_default();
    }

    /// Takes the next bytes of the body.
    fn poll_piece(
        &mut self,
        body: &mut Pin<&mut ResponseBody>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), AnswerAbort>> {
        self.looks_ahead = false;
        let next = match self.ahead.take() {
            Some(next) => next,
            None => ready!(poll_data(body, cx)),
        };
        let bytes = match next {
            Some(Ok(bytes)) => bytes,
            None if self.rest.is_chunked() => {
                self.text.extend_from_slice(BODY_END);
                self.end(body);
                return Poll::Ready(Ok(()));
            }
            // A body that ends early contradicts the length that was promised.
            Some(Err(_)) | None => return Poll::Ready(Err(AnswerAbort::Broken)),
        };
        self.took(bytes.len(), body)?;
        if self.rest.is_chunked() {
            let mut end = BODY_END;
            if self.rest == AnswerFraming::Chunks {
                put_chunk_size(&mut self.text, bytes.len());
                (self.tail, end) = (CHUNK_END, CHUNK_AND_BODY_END);
            }
            // Send the end with it, if it is known.
            self.look_ahead(body, cx);
            if matches!(self.ahead, Some(None)) {
                self.ahead = None;
                self.tail = end;
                self.end(body);
            }
        }
        self.piece = bytes;
        Poll::Ready(Ok(()))
    }

    fn look_ahead(&mut self, body: &mut Pin<&mut ResponseBody>, cx: &mut Context<'_>) {
        let next = poll_data(body, cx);
        self.looks_ahead = next.is_pending();
        if let Poll::Ready(next) = next {
            self.ahead = Some(next);
        }
    }

    fn end(&mut self, body: &mut Pin<&mut ResponseBody>) {
        self.rest = AnswerFraming::None;
        body.set(ResponseBody::Empty);
    }

    /// The given number of body bytes has been taken.
    fn took(&mut self, count: usize, body: &mut Pin<&mut ResponseBody>) -> Result<(), AnswerAbort> {
        if let AnswerFraming::Counted(left) = &mut self.rest {
            // Nor may it continue past its end.
            *left = left.checked_sub(count as u64).ok_or(AnswerAbort::Broken)?;
            if *left == 0 {
                self.end(body);
            }
        }
        Ok(())
    }
}

/// The next bytes of a body, never empty. hyper serves those who want trailers.
fn poll_data(
    body: &mut Pin<&mut ResponseBody>,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Bytes, BodyError>>> {
    loop {
        let data = match ready!(body.as_mut().poll_frame(cx)) {
            None => None,
            Some(Err(error)) => Some(Err(error)),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(bytes) if !bytes.is_empty() => Some(Ok(bytes)),
                _ => continue,
            },
        };
        return Poll::Ready(data);
    }
}

/// Writes the lines that only the writer knows.
pub(super) fn finish(
    worker: &Worker,
    client: &ClientConnection,
    lines: AnswerLines,
    rest: AnswerFraming,
) -> Vec<u8> {
    let AnswerLines { mut text, is_dated, closes, .. } = lines;
    match rest {
        AnswerFraming::Counted(length) => {
            text.extend_from_slice(b"content-length: ");
            text.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
            text.extend_from_slice(b"\r\n");
        }
        AnswerFraming::Chunks | AnswerFraming::ReadyChunks => {
            text.extend_from_slice(b"transfer-encoding: chunked\r\n")
        }
        // RFC 9110 section 8.6: if the status says that there is no body, the answer gives no
        // length.
        AnswerFraming::None => {}
    }
    if closes {
        text.extend_from_slice(b"connection: close\r\n");
    }
    if !is_dated {
        // RFC 9110 section 6.6.1: whoever forwards an answer without a date adds one.
        text.extend_from_slice(b"date: ");
        text.extend_from_slice(&worker.date(answered_at(worker, client)));
        text.extend_from_slice(b"\r\n");
    }
    text.extend_from_slice(b"\r\n");
    text
}

/// Unix seconds. The clock was read during an earlier request.
fn answered_at(worker: &Worker, client: &ClientConnection) -> u64 {
    let activity = &client.activity;
    match activity.running.get() {
        0 => worker.clock.at(activity.idle_at.get()).unix_secs(),
        _ => worker.clock.now().unix_secs(),
    }
}

/// Space for status line, length, date and `Connection`.
const OWN_LINES: usize = 160;
