//! Plain HTTP/1.1 with a client, without hyper: a head of which every part has one meaning, no body or
//! one of declared length. Most requests are such, and for them a codec that can do everything costs
//! more than all that keygate does (docs/performance.md). Whatever is not as simple as that is handed
//! to hyper with every byte that was read. What may pass is decided elsewhere, for both alike
//! ([`service::handle`]).

mod answer;
#[cfg(test)]
mod tests;

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes};
use http::{Extensions, Method, Uri, Version};
use tokio::io::AsyncReadExt;

use self::answer::Rest;
use super::serve::Client;
use crate::proxy::body::{ClientBody, Coming, Wire};
use crate::proxy::http1::head::{Fields, Head};
use crate::proxy::net::buffers::{BUFFER, Buffers};
use crate::proxy::net::io::{Cut, Io};
use crate::proxy::request::record::RequestRecord;
use crate::proxy::request::rewrite::answer::{Reply, Writer};
use crate::proxy::request::service;
use crate::proxy::worker::Worker;

/// Why this is over.
pub(super) enum Ended {
    /// The connection is through.
    Done(Io),
    Cut(Io, Cut),
    /// The rest is for hyper.
    Hyper(Io),
    /// Nothing is left of it.
    Gone,
}

/// Fields of a head that is read here.
const FIELDS: usize = 64;
/// Bytes of a body that is.
const LONGEST_BODY: usize = usize::MAX / 4;

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
pub(super) async fn converse(worker: &Rc<Worker>, io: Io, client: &Rc<Client>) -> Ended {
    let wire = Wire::new(io);
    let over = answer_all(worker, &wire, client).await;
    match (wire.into_io(), over) {
        (Some(io), Over::Done) => Ended::Done(io),
        (Some(io), Over::Cut(cut)) => Ended::Cut(io, cut),
        (Some(mut io), Over::Hyper(read)) => {
            io.put_back(read);
            Ended::Hyper(io)
        }
        // Whoever else had it has lost it with the answer.
        (None, _) => Ended::Gone,
    }
}

/// As [`Ended`], without the connection.
enum Over {
    Done,
    Cut(Cut),
    /// With what was read for it.
    Hyper(Bytes),
}

async fn answer_all(worker: &Rc<Worker>, wire: &Rc<Wire>, client: &Rc<Client>) -> Over {
    let mut read = Read { bytes: Vec::new(), used: 0, looked_at: 0, buffers: &worker.buffers };
    loop {
        let asked = match poll_fn(|cx| poll_request(worker, client, wire, &mut read, cx)).await {
            Ok(asked) => asked,
            Err(Next::Cut(cut)) => return Over::Cut(cut),
            Err(Next::End) => return Over::Done,
            Err(Next::Other) => return Over::Hyper(read.take()),
        };
        let Asked { head, body, left, closes } = asked;
        let body = match left {
            0 => ClientBody::Whole(body),
            left => ClientBody::Coming(Coming::Plain(wire.body(body, left))),
        };
        let record = RequestRecord::begin(worker, &client.moments, &head, client.address.ip());
        let answered = {
            let mut answer = pin!(service::handle(
                Rc::clone(worker),
                Rc::clone(client),
                (head, body, None),
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
                poll_gone(worker, client, wire, &mut read, cx).map(Err)
            })
            .await
        };
        let (mut lines, body, rest) = match answered {
            Err(gone) => return gone.end(),
            Ok(Reply::Lines(lines, body)) => {
                let rest = Rest::of(lines.status, &body);
                (lines, body, rest)
            }
            Ok(Reply::Http(response)) => match answer::to_lines(response) {
                Some(answer) => answer,
                None => return Over::Done,
            },
        };
        read.answered();
        // A body that is not wanted whole is not looked for the next request behind it.
        lines.closes |= closes || worker.draining.get() || wire.owes_body();
        let closes = lines.closes;
        let head = answer::finish(worker, client, lines, rest);
        match answer::send(worker, client, wire, &mut read, head, body, rest).await {
            Ok(()) if closes => return Over::Done,
            Ok(()) => {}
            Err(gone) => return gone.end(),
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
    fn poll_more(&mut self, wire: &Wire, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.bytes.capacity() == 0 {
            self.bytes = self.buffers.take();
        }
        let room = BUFFER.saturating_sub(self.bytes.len());
        let mut io = wire.io();
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

/// A request.
struct Asked {
    head: Head,
    /// What of the body is here.
    body: Bytes,
    /// Bytes of it that are to come.
    left: u64,
    /// Its answer is the last.
    closes: bool,
}

fn poll_request(
    worker: &Worker,
    client: &Client,
    wire: &Wire,
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
        match ready!(read.poll_more(wire, cx)) {
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
    /// And how much of it is here.
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
/// keep it. The rules for all others are hyper's, and for HEAD as well.
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
            // Trailers may be wanted.
            2 if name.eq_ignore_ascii_case(b"te") => return None,
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
    // No body is longer, and what comes behind it can be counted.
    let declared = declared.unwrap_or(0);
    if declared > LONGEST_BODY {
        return None;
    }
    let behind = read.get(head_length..)?;
    let body = behind.get(..declared).unwrap_or(behind);
    let (here, left) = (body.len(), (declared - body.len()) as u64);
    let body = Bytes::copy_from_slice(body);
    let (version, extensions) = (Version::HTTP_11, Extensions::new());
    let head = Head { method, uri, version, fields, extensions };
    Some(Parsed::Asked(Asked { head, body, left, closes }, head_length + here))
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
    fn end(self) -> Over {
        match self {
            Self::Broken => Over::Done,
            Self::Cut(cut) => Over::Cut(cut),
        }
    }
}

/// Whether the client is gone, while its answer is waited for or written. (That it has only closed
/// its sending side shows in [`crate::proxy::net::io::Moments`].) Reads ahead no more than once.
fn poll_gone(
    worker: &Worker,
    client: &Client,
    wire: &Wire,
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
    if wire.is_broken() {
        return Poll::Ready(Gone::Broken);
    }
    // With the answer all here, what comes is the next request: its time has not begun. Before the
    // body's end it is the body.
    if client.moments.running.get() > 0
        && !wire.owes_body()
        && read.ahead().is_empty()
        && read.bytes.len() < BUFFER
        && let Poll::Ready(Err(_)) = read.poll_more(wire, cx)
    {
        return Poll::Ready(Gone::Broken);
    }
    Poll::Pending
}
