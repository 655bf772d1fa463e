//! Plain HTTP/1.1 with a client, without hyper: a head of which every part has one meaning, a body
//! that is here whole or none, an answer of known length. Most requests are such, and for them a codec
//! that can do everything costs more than all that keygate does (docs/performance.md). Whatever is not
//! as simple as that is handed to hyper with every byte that was read, and with the answer if it
//! has been judged already. What may pass is decided elsewhere, for both alike ([`service::handle`]).

#[cfg(test)]
mod tests;

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes};
use http::{Extensions, Method, Response, StatusCode, Uri, Version, header};
use hyper::body::Body;
use tokio::io::{AsyncReadExt, AsyncWrite};

use super::Client;
use crate::proxy::body::{ClientBody, ResponseBody};
use crate::proxy::buffers::{BUFFER, Buffers};
use crate::proxy::head::{Fields, Head};
use crate::proxy::io::{Cut, Io};
use crate::proxy::record::RequestRecord;
use crate::proxy::rewrite::answer::{Lines, Reply, Writer};
use crate::proxy::service;
use crate::proxy::worker::Worker;

/// Why this is over.
pub(super) enum Ended {
    /// The connection is through.
    Done(Io),
    Cut(Io, Cut),
    /// The rest is for hyper, and the answer to the request that it will read first, if there is one.
    Hyper(Io, Option<Box<Response<ResponseBody>>>),
}

/// Fields of a head that is read here.
const FIELDS: usize = 64;

/// What was read of the client and not answered yet.
struct Read<'w> {
    /// Without capacity between two requests: an idle connection holds no buffer.
    bytes: Vec<u8>,
    /// Bytes of the request that is being answered.
    used: usize,
    /// Bytes in which no whole head was found.
    looked_at: usize,
    buffers: &'w Buffers,
}

/// Answers requests for as long as they are plain.
pub(super) async fn converse(worker: &Rc<Worker>, mut io: Io, client: &Rc<Client>) -> Ended {
    let mut read = Read { bytes: Vec::new(), used: 0, looked_at: 0, buffers: &worker.buffers };
    loop {
        let asked = match poll_fn(|cx| poll_request(worker, client, &mut io, &mut read, cx)).await {
            Ok(asked) => asked,
            Err(Next::Cut(cut)) => return Ended::Cut(io, cut),
            Err(Next::End) => return Ended::Done(io),
            Err(Next::Other) => {
                io.put_back(read.take());
                return Ended::Hyper(io, None);
            }
        };
        let Asked { head, body, closes } = asked;
        let record = RequestRecord::begin(worker, &client.moments, &head, client.address.ip());
        let answered = {
            let mut answer = pin!(service::handle(
                Rc::clone(worker),
                Rc::clone(client),
                (head, ClientBody::Whole(body), None),
                Writer::Plain,
                record,
            ));
            poll_fn(|cx| {
                if let Some(cut) = client.moments.cut.get() {
                    return Poll::Ready(Err(Gone::Cut(cut)));
                }
                if let Poll::Ready(response) = answer.as_mut().poll(cx) {
                    return Poll::Ready(Ok(response));
                }
                poll_gone(worker, client, &mut io, &mut read, cx).map(Err)
            })
            .await
        };
        let (mut lines, body, length) = match answered {
            Err(gone) => return gone.end(io),
            Ok(Reply::Lines(lines, body)) => match body.size_hint().exact() {
                Some(length) => (lines, body, length),
                // Of what is read as plain every length is known.
                None => return Ended::Done(io),
            },
            Ok(Reply::Http(response)) => match to_lines(response) {
                Ok(plain) => plain,
                Err(response) => {
                    // A client that has said its last waits for this one still.
                    client.moments.answer_due.set(true);
                    io.put_back(read.take());
                    return Ended::Hyper(io, Some(response));
                }
            },
        };
        read.answered();
        lines.closes |= closes || worker.draining.get();
        let closes = lines.closes;
        let head = finish(worker, client, lines, length);
        match send(worker, client, &mut io, &mut read, head, body, length).await {
            Ok(()) if closes => return Ended::Done(io),
            Ok(()) => {}
            Err(gone) => return gone.end(io),
        }
    }
}

// === impl Read ===

impl Read<'_> {
    /// What is behind the request that is being answered.
    fn ahead(&self) -> &[u8] {
        self.bytes.get(self.used..).unwrap_or_default()
    }

    /// Everything, for another reader.
    fn take(&mut self) -> Bytes {
        self.used = 0;
        std::mem::take(&mut self.bytes).into()
    }

    fn answered(&mut self) {
        let used = std::mem::take(&mut self.used);
        self.looked_at = 0;
        self.bytes.drain(..used.min(self.bytes.len()));
        self.let_go();
    }

    fn let_go(&mut self) {
        if self.bytes.is_empty() {
            self.buffers.give_back(std::mem::take(&mut self.bytes));
        }
    }

    /// Whether a head may have ended since it was last looked for: else a client that sends byte by byte
    /// would have us read the same again and again.
    fn may_be_whole(&self) -> bool {
        let fresh = self.bytes.get(self.looked_at..).unwrap_or_default();
        self.looked_at == 0 || fresh.contains(&b'\n')
    }

    /// Reads more behind what is there. Not called without room for it.
    fn poll_more(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.bytes.capacity() == 0 {
            self.bytes = self.buffers.take();
        }
        let room = BUFFER.saturating_sub(self.bytes.len());
        let result = pin!(io.read_buf(&mut (&mut self.bytes).limit(room))).poll(cx);
        self.let_go();
        result
    }
}

impl Drop for Read<'_> {
    fn drop(&mut self) {
        self.buffers.give_back(std::mem::take(&mut self.bytes));
    }
}

// --- the request ---

/// What comes instead of a plain request.
enum Next {
    Cut(Cut),
    /// The client is done, or we are.
    End,
    Other,
}

/// A whole request.
struct Asked {
    head: Head,
    body: Bytes,
    /// Its answer is the last.
    closes: bool,
}

fn poll_request(
    worker: &Worker,
    client: &Client,
    io: &mut Io,
    read: &mut Read<'_>,
    cx: &mut Context<'_>,
) -> Poll<Result<Asked, Next>> {
    client.moments.watch(cx);
    if let Some(cut) = client.moments.cut.get() {
        return Poll::Ready(Err(Next::Cut(cut)));
    }
    let most = BUFFER.min(worker.shared.caps.head_bytes);
    loop {
        if !read.bytes.is_empty() {
            let parsed =
                if read.may_be_whole() { parse(&read.bytes, most) } else { Parsed::Partial };
            match parsed {
                Parsed::Asked(asked, length) => {
                    read.used = length;
                    return Poll::Ready(Ok(asked));
                }
                Parsed::Partial if read.bytes.len() < most => read.looked_at = read.bytes.len(),
                Parsed::Partial | Parsed::Other => return Poll::Ready(Err(Next::Other)),
            }
        }
        if worker.draining.get() {
            let next = if read.bytes.is_empty() { Next::End } else { Next::Other };
            return Poll::Ready(Err(next));
        }
        match ready!(read.poll_more(io, cx)) {
            Ok(0) if read.bytes.is_empty() => return Poll::Ready(Err(Next::End)),
            // It ends in the middle of a head, which hyper knows how to take.
            Ok(0) => return Poll::Ready(Err(Next::Other)),
            Ok(_) => {}
            Err(_) => return Poll::Ready(Err(Next::End)),
        }
    }
}

#[expect(clippy::large_enum_variant, reason = "moved once")]
enum Parsed {
    /// And how long it is in all.
    Asked(Asked, usize),
    Partial,
    Other,
}

/// `most`: bytes that a head may have.
fn parse(read: &[u8], most: usize) -> Parsed {
    let mut fields = [const { std::mem::MaybeUninit::uninit() }; FIELDS];
    let mut head = httparse::Request::new(&mut []);
    match head.parse_with_uninit_headers(read, &mut fields) {
        Ok(httparse::Status::Complete(length)) if length > most => Parsed::Other,
        Ok(httparse::Status::Complete(length)) => {
            build(read, length, &head).unwrap_or(Parsed::Other)
        }
        Ok(httparse::Status::Partial) => Parsed::Partial,
        Err(_) => Parsed::Other,
    }
}

/// The request of which `head` is the head, if it leaves nothing to decide: HTTP/1.1, no transfer
/// coding, expectation or upgrade, at most one length, and no more of `Connection` than whether to
/// keep it. The rules for all others are hyper's, and for HEAD as well. So is a body that does not
/// come with its head, at least not all of it: it is passed on as it comes.
fn build(read: &[u8], head_length: usize, head: &httparse::Request<'_, '_>) -> Option<Parsed> {
    let method = Method::from_bytes(head.method?.as_bytes()).ok()?;
    if head.version != Some(1) || matches!(method, Method::CONNECT | Method::HEAD) {
        return None;
    }
    let uri = Uri::try_from(head.path?).ok()?;
    let mut declared = None;
    let mut closes = false;
    let mut fields = Fields::with_capacity(head_length, head.headers.len());
    for field in &*head.headers {
        let (name, value) = (field.name.as_bytes(), field.value);
        match name.len() {
            6 if name.eq_ignore_ascii_case(b"expect") => return None,
            7 if name.eq_ignore_ascii_case(b"upgrade") => return None,
            10 if name.eq_ignore_ascii_case(b"connection") => {
                if value.eq_ignore_ascii_case(b"close") {
                    closes = true;
                } else if !value.eq_ignore_ascii_case(b"keep-alive") {
                    return None;
                }
            }
            14 if name.eq_ignore_ascii_case(b"content-length")
                && declared.replace(length_of(value)?).is_some() =>
            {
                return None;
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => return None,
            _ => {}
        }
        fields.push_folded(name, value);
    }
    let length = head_length.checked_add(declared.unwrap_or(0))?;
    let body = Bytes::copy_from_slice(read.get(head_length..length)?);
    let (version, extensions) = (Version::HTTP_11, Extensions::new());
    let head = Head { method, uri, version, fields, extensions };
    Some(Parsed::Asked(Asked { head, body, closes }, length))
}

fn length_of(value: &[u8]) -> Option<usize> {
    let digits = Some(value).filter(|v| v.iter().all(u8::is_ascii_digit))?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

// --- meanwhile ---

/// Why an answer is wanted no more.
enum Gone {
    /// The client has reset the connection, or the answer broke off.
    Broken,
    Cut(Cut),
}

impl Gone {
    fn end(self, io: Io) -> Ended {
        match self {
            Self::Broken => Ended::Done(io),
            Self::Cut(cut) => Ended::Cut(io, cut),
        }
    }
}

/// Whether the client is gone, while its answer is waited for or written. (That it has only closed
/// its sending side shows in [`crate::proxy::io::Moments`].) Reads ahead no more than once.
fn poll_gone(
    worker: &Worker,
    client: &Client,
    io: &mut Io,
    read: &mut Read<'_>,
    cx: &mut Context<'_>,
) -> Poll<Gone> {
    client.moments.watch(cx);
    if let Some(cut) = client.moments.cut.get() {
        return Poll::Ready(Gone::Cut(cut));
    }
    // A body that nobody polls cannot see that its key has ended.
    if let Some(running) = client.running.get()
        && worker.streams.is_abandoned(running)
    {
        return Poll::Ready(Gone::Cut(Cut::Key));
    }
    // With the answer all here, what comes is the next request: its time has not begun.
    if client.moments.running.get() > 0
        && read.ahead().is_empty()
        && read.bytes.len() < BUFFER
        && let Poll::Ready(Err(_)) = read.poll_more(io, cx)
    {
        return Poll::Ready(Gone::Broken);
    }
    Poll::Pending
}

// --- the answer ---

/// An answer of hyper's, if it leaves nothing to decide, and how long its body is.
fn to_lines(
    response: Response<ResponseBody>,
) -> Result<(Lines, ResponseBody, u64), Box<Response<ResponseBody>>> {
    let status = response.status();
    let has_own_rules = status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        || status.canonical_reason().is_none()
        || response.extensions().get::<hyper::ext::ReasonPhrase>().is_some();
    let Some(length) = response.body().size_hint().exact().filter(|_| !has_own_rules) else {
        return Err(Box::new(response));
    };
    let (head, body) = response.into_parts();
    let fields: usize = head.headers.iter().map(|(n, v)| n.as_str().len() + v.len() + 4).sum();
    let mut lines = Lines::new(status, fields + OWN_LINES);
    for (name, value) in &head.headers {
        match *name {
            header::CONNECTION => lines.closes = true,
            header::CONTENT_LENGTH => {}
            _ => {
                lines.is_dated |= name == header::DATE;
                lines.put(name.as_str().as_bytes(), value.as_bytes());
            }
        }
    }
    Ok((lines, body, length))
}

/// Writes an answer.
async fn send(
    worker: &Worker,
    client: &Client,
    io: &mut Io,
    read: &mut Read<'_>,
    head: Vec<u8>,
    body: ResponseBody,
    length: u64,
) -> Result<(), Gone> {
    let mut body = pin!(body);
    let mut piece = Bytes::new();
    let mut left = length;
    let mut sent = 0;
    poll_fn(|cx| {
        loop {
            loop {
                let head = head.get(sent..).unwrap_or_default();
                if head.is_empty() && piece.is_empty() {
                    break;
                }
                // With the beginning of the body, if that is there.
                if !head.is_empty()
                    && piece.is_empty()
                    && left > 0
                    && let Poll::Ready(next) = poll_piece(&mut body, &mut left, cx)
                {
                    match next {
                        Ok(bytes) => piece = bytes,
                        Err(gone) => return Poll::Ready(Err(gone)),
                    }
                }
                let pieces = [io::IoSlice::new(head), io::IoSlice::new(&piece)];
                let written = match (head.is_empty(), piece.is_empty()) {
                    (true, _) => Pin::new(&mut *io).poll_write(cx, &piece),
                    (_, true) => Pin::new(&mut *io).poll_write(cx, head),
                    _ => Pin::new(&mut *io).poll_write_vectored(cx, &pieces),
                };
                let written = match written {
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(Gone::Broken)),
                    Poll::Ready(Ok(count)) => count,
                    Poll::Pending => return poll_gone(worker, client, io, read, cx).map(Err),
                };
                let of_head = written.min(head.len());
                sent += of_head;
                piece.advance(written - of_head);
            }
            if left == 0 {
                break;
            }
            match poll_piece(&mut body, &mut left, cx) {
                Poll::Ready(Ok(bytes)) => piece = bytes,
                Poll::Ready(Err(gone)) => return Poll::Ready(Err(gone)),
                // What was written must not wait for what is to come.
                Poll::Pending => match Pin::new(&mut *io).poll_flush(cx) {
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(Gone::Broken)),
                    _ => return poll_gone(worker, client, io, read, cx).map(Err),
                },
            }
        }
        match Pin::new(&mut *io).poll_flush(cx) {
            Poll::Ready(Ok(())) => Poll::Ready(Ok(())),
            Poll::Ready(Err(_)) => Poll::Ready(Err(Gone::Broken)),
            Poll::Pending => poll_gone(worker, client, io, read, cx).map(Err),
        }
    })
    .await
}

/// The next bytes of a body of which `left` are to come.
fn poll_piece(
    body: &mut Pin<&mut ResponseBody>,
    left: &mut u64,
    cx: &mut Context<'_>,
) -> Poll<Result<Bytes, Gone>> {
    loop {
        // One that ends early, or goes on, says another length than was promised.
        let Some(Ok(frame)) = ready!(body.as_mut().poll_frame(cx)) else {
            return Poll::Ready(Err(Gone::Broken));
        };
        let Ok(bytes) = frame.into_data() else { continue };
        match left.checked_sub(bytes.len() as u64) {
            Some(rest) => *left = rest,
            None => return Poll::Ready(Err(Gone::Broken)),
        }
        if *left == 0 {
            body.set(ResponseBody::Empty);
        }
        if !bytes.is_empty() || *left == 0 {
            return Poll::Ready(Ok(bytes));
        }
    }
}

/// The lines that are the writer's own.
fn finish(worker: &Worker, client: &Client, lines: Lines, length: u64) -> Vec<u8> {
    let Lines { status, mut text, is_dated, closes, .. } = lines;
    // RFC 9110 section 8.6: an answer that has no body by its status says no length.
    if status != StatusCode::NO_CONTENT {
        text.extend_from_slice(b"content-length: ");
        text.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
        text.extend_from_slice(b"\r\n");
    }
    if closes {
        text.extend_from_slice(b"connection: close\r\n");
    }
    if !is_dated {
        // RFC 9110 section 6.6.1: who forwards an answer without a date gives it one.
        text.extend_from_slice(b"date: ");
        text.extend_from_slice(&worker.date(answered_at(worker, client)));
        text.extend_from_slice(b"\r\n");
    }
    text.extend_from_slice(b"\r\n");
    text
}

/// Unix seconds. The clock was read when a request that is over was.
fn answered_at(worker: &Worker, client: &Client) -> u64 {
    let moments = &client.moments;
    match moments.running.get() {
        0 => worker.clock.at(moments.idle_at.get()).unix_secs(),
        _ => worker.clock.now().unix_secs(),
    }
}

/// Room for status line, length, date and `Connection`.
const OWN_LINES: usize = 160;
