//! Plain HTTP/1.1 with a client, without hyper: a head of which every part has one meaning, and no
//! body or one of declared length. Most requests are like that. For them, a codec that can do
//! everything costs more than all that keygate does (docs/performance.md). Anything less simple
//! goes to hyper with every byte that was read, unless hyper could only refuse it: this file
//! refuses it then. What may pass is decided elsewhere, in the same way for both
//! ([`service::handle`]).

mod answer;
mod read;
mod refused;

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use self::answer::AnswerFraming;
use self::read::{AnswerAbort, Read, poll_abort};
pub(super) use self::refused::refuse;
use crate::core::Reason;
use crate::proxy::body::{ClientBody, Wire};
use crate::proxy::future_size::is_at_most;
use crate::proxy::http1::answer_write::Writer;
use crate::proxy::http1::request_read::{Parsed, PlainRequest, parse};
use crate::proxy::http1::request_refuse::{
    ForHyper, HeadBounds, HyperHead, Judged, RefusedHead, judge, unfinished,
};
use crate::proxy::net::buffers::BUFFER;
use crate::proxy::net::io::{CutReason, Io};
use crate::proxy::request::admit::IncomingRequest;
use crate::proxy::request::connection::ClientConnection;
use crate::proxy::request::record::RequestRecord;
use crate::proxy::request::reply::Reply;
use crate::proxy::request::service::{self, HeldAnswer};
use crate::proxy::worker::Worker;

/// The largest future of a request that is read here, in bytes. It is part of its connection's
/// future.
const REQUEST_BYTES: usize = 3072;

/// Why our reader's turn ends.
pub(super) enum TurnEnd {
    /// The connection has served its last request.
    Done(Io),
    Cut(Io, CutReason),
    /// The next request is for hyper.
    Hyper(Io, ForHyper),
    Refused(Io, Box<RefusedHead>),
    /// The connection is gone.
    Nothing,
}

/// Answers requests for as long as they are plain.
pub(super) async fn converse(
    worker: &Rc<Worker>,
    io: Io,
    client: &Rc<ClientConnection>,
) -> TurnEnd {
    let wire = Wire::new(io);
    let mut read = Read::new(&worker.buffers);
    let end = answer_all(worker, &wire, client, &mut read).await;
    match (wire.into_io(), end) {
        (Some(mut io), PlainEnd::Done) => {
            // Nobody will answer it, but whoever ends the connection has to know about it.
            read.answered();
            io.put_back(read.take());
            TurnEnd::Done(io)
        }
        (Some(io), PlainEnd::Cut(cut)) => TurnEnd::Cut(io, cut),
        (Some(io), PlainEnd::Refused(refused)) => TurnEnd::Refused(io, refused),
        (Some(io), PlainEnd::Hyper(head)) => TurnEnd::Hyper(io, head.hand_over(read.take())),
        // An upgraded or aborted answer took the connection with it.
        (None, _) => TurnEnd::Nothing,
    }
}

/// Why no further request is read here: [`TurnEnd`] without the connection.
enum PlainEnd {
    /// The client has finished, or keygate has.
    Done,
    Cut(CutReason),
    /// The head of the next request was read, and is for hyper.
    Hyper(Box<HyperHead>),
    Refused(Box<RefusedHead>),
}

async fn answer_all(
    worker: &Rc<Worker>,
    wire: &Rc<Wire>,
    client: &Rc<ClientConnection>,
    read: &mut Read<'_>,
) -> PlainEnd {
    loop {
        if read.holds_more() {
            client.activity.head_begins();
        }
        let asked = match poll_fn(|cx| poll_request(worker, client, wire, read, cx)).await {
            Ok(asked) => asked,
            Err(PlainEnd::Cut(CutReason::Header)) if read.holds_more() => {
                let late = unfinished(&read.bytes, Reason::HeaderTimeout);
                return PlainEnd::Refused(Box::new(late));
            }
            Err(end) => return end,
        };
        let PlainRequest { head, body, left, closes } = asked;
        let body = match left {
            0 => ClientBody::Whole(body),
            left => ClientBody::Plain(wire.body(body, left)),
        };
        let record = RequestRecord::begin(worker, &client.activity, &head, client.address.ip());
        let incoming = IncomingRequest { head, body, connect: None, writer: Writer::Plain };
        let mut held = None;
        let mut answer = pin!(service::handle(worker, client, incoming, record, &mut held));
        is_at_most::<REQUEST_BYTES, _>(&*answer);
        // Not a `match`: its operand would be a part of this future while it waits.
        let answered = if let Some(refusal) = held.as_deref_mut().and_then(HeldAnswer::refusal) {
            Ok(refusal)
        } else {
            poll_fn(|cx| {
                if let Poll::Ready(cut) = client.activity.poll_cut(cx) {
                    return Poll::Ready(Err(AnswerAbort::Cut(cut)));
                }
                let polled = match (answer.as_mut().as_pin_mut(), &mut held) {
                    (Some(answer), _) => answer.poll(cx),
                    (None, Some(held)) => Pin::new(&mut **held).poll(cx),
                    (None, None) => Poll::Pending,
                };
                if let Poll::Ready(reply) = polled {
                    return Poll::Ready(Ok(reply));
                }
                poll_abort(worker, client, wire, read, cx).map(Err)
            })
            .await
        };
        let (mut lines, body, rest) = match answered {
            Err(abort) => return abort.end(),
            Ok(Reply::Lines(lines, body)) => {
                let rest = AnswerFraming::of(lines.status, &body);
                (lines, body, rest)
            }
            Ok(Reply::Http(response)) => match answer::to_lines(response) {
                Some(answer) => answer,
                None => return PlainEnd::Done,
            },
        };
        read.answered();
        // If the request body was not read to its end, close: the bytes after it must not be parsed
        // as a request.
        lines.closes |= closes || worker.draining.get() || wire.owes_body();
        let closes = lines.closes;
        let head = answer::finish(worker, client, lines, rest);
        match answer::send(worker, client, wire, read, head, body, rest).await {
            Ok(()) => client.activity.is_answering.set(false),
            Err(abort) => return abort.end(),
        }
        if let Err(abort) = poll_fn(|cx| poll_rest_sent(wire, client, cx)).await {
            return abort.end();
        }
        if closes {
            return PlainEnd::Done;
        }
    }
}

/// Waits, after the end of the answer, for the rest of a body that still goes to the service.
fn poll_rest_sent(
    wire: &Wire,
    client: &ClientConnection,
    cx: &Context<'_>,
) -> Poll<Result<(), AnswerAbort>> {
    if !wire.owes_body() || client.activity.running.get() == 0 {
        return Poll::Ready(Ok(()));
    }
    if let Poll::Ready(cut) = client.activity.poll_cut(cx) {
        return Poll::Ready(Err(AnswerAbort::Cut(cut)));
    }
    if wire.is_broken() {
        return Poll::Ready(Err(AnswerAbort::Broken));
    }
    Poll::Pending
}

// === impl AnswerAbort ===

impl AnswerAbort {
    fn end(self) -> PlainEnd {
        match self {
            Self::Broken => PlainEnd::Done,
            Self::Cut(cut) => PlainEnd::Cut(cut),
        }
    }
}

/// Number of fields that hyper accepts in any head.
pub(super) const HYPER_HEADERS: usize = 100;

fn poll_request(
    worker: &Worker,
    client: &ClientConnection,
    wire: &Wire,
    read: &mut Read<'_>,
    cx: &mut Context<'_>,
) -> Poll<Result<PlainRequest, PlainEnd>> {
    if let Poll::Ready(cut) = client.activity.poll_cut(cx) {
        return Poll::Ready(Err(PlainEnd::Cut(cut)));
    }
    let caps = &worker.shared.caps;
    // hyper accepts this many fields whatever the limit. `request::facts` then counts them.
    let bounds = HeadBounds { bytes: caps.head_bytes, fields: caps.headers.max(HYPER_HEADERS) };
    let most = BUFFER.min(bounds.bytes);
    loop {
        if !read.bytes.is_empty() && (read.may_be_whole() || read.bytes.len() >= bounds.bytes) {
            // Only hyper knows how a client spelt the names of its fields.
            let parsed = match worker.keeps_case {
                true => Parsed::Other,
                false => parse(&read.bytes, most),
            };
            match parsed {
                Parsed::Asked(asked, length) => {
                    read.used = length;
                    return Poll::Ready(Ok(asked));
                }
                Parsed::Partial if read.bytes.len() < most => {}
                Parsed::Partial | Parsed::Other => match judge(&read.bytes, bounds) {
                    Judged::Partial => {}
                    Judged::Servable(head) => return Poll::Ready(Err(PlainEnd::Hyper(head))),
                    Judged::Refused(refused) => {
                        return Poll::Ready(Err(PlainEnd::Refused(refused)));
                    }
                },
            }
            read.looked_at = read.bytes.len();
        }
        // A long head needs more space than a buffer has.
        let room = match read.bytes.len() {
            0..BUFFER => BUFFER,
            _ => bounds.bytes,
        };
        // A head that has begun is still served or refused.
        if worker.draining.get() && read.bytes.is_empty() {
            return Poll::Ready(Err(PlainEnd::Done));
        }
        match ready!(read.poll_more(wire, room, cx)) {
            // Some clients send empty lines after a body.
            Ok(0) if read.bytes.iter().all(|b| matches!(b, b'\r' | b'\n')) => {
                return Poll::Ready(Err(PlainEnd::Done));
            }
            Ok(0) => {
                let cut = unfinished(&read.bytes, Reason::BadHeader);
                return Poll::Ready(Err(PlainEnd::Refused(Box::new(cut))));
            }
            Ok(_) => {}
            Err(_) => return Poll::Ready(Err(PlainEnd::Done)),
        }
    }
}
