//! One HTTP/1.1 connection to the upstream. hyper reads and writes it, but for [`short`] exchanges,
//! which need no codec that can do everything.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::Version;
use hyper::client::conn::http1::{Connection, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::task::coop::unconstrained;

use super::connect::Connector;
use super::outcome::{Content, Failure, Head};
use super::sending::{Sending, Stopped};
use super::short::{self, Answer};
use crate::clock::Clock;
use crate::core::Reason;
use crate::proxy::body::RequestBody;
use crate::proxy::net::buffers::Buffers;
use crate::proxy::net::io::{ClientAddr, Io, Moments};
use crate::proxy::net::pipe::Pipes;
use crate::proxy::outbound::UpstreamRequest;
use crate::proxy::patience::{Patience, go_on};
use crate::proxy::streams::Stream;

/// A connection, between two requests or with the one that holds it.
#[derive(Debug)]
pub(super) struct Http1 {
    reader: Reader,
    /// A body that is still being written to a bare connection. One that was not written whole stays:
    /// such a connection serves no other request.
    sending: Option<Box<Sending>>,
    pub(super) moments: Rc<Moments>,
    clock: Clock,
    /// When it was last given back; 0: never.
    pub(super) idle_at: u64,
    preserve_case: bool,
    /// Bytes to make room for when a short exchange begins.
    room: usize,
    /// The last exchange was none that could do without hyper.
    hyper_reads: bool,
    /// The service has answered with HTTP/1.0. hyper would write the next request as HTTP/1.0 too,
    /// and leave out a body of unknown length or an upgrade: the connection serves no other.
    is_http10: bool,
}

/// Who reads and writes it.
#[derive(Debug)]
enum Reader {
    /// We, [short exchanges](short).
    Bare(Io),
    Hyper(Box<Hyper>),
    /// It has failed.
    Nobody,
}

#[derive(Debug)]
struct Hyper {
    sender: SendRequest<RequestBody>,
    conn: Connection<TokioIo<Io>, RequestBody>,
    ended: Ended,
}

/// Whether hyper is done with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    No,
    /// Closed, or switched to another protocol.
    Cleanly,
    Broken,
}

// === impl Http1 ===

impl Http1 {
    pub(super) async fn open(connector: &Connector, client: &ClientAddr) -> Result<Self, Reason> {
        let io = connector.connect(client).await?;
        Ok(Self {
            moments: Rc::clone(io.moments()),
            reader: Reader::Bare(io),
            sending: None,
            clock: connector.clock().clone(),
            idle_at: 0,
            preserve_case: connector.preserve_case(),
            room: 0,
            hyper_reads: false,
            is_http10: false,
        })
    }

    /// Whether a short exchange can go over it as it is.
    pub(super) fn is_bare(&self) -> bool {
        matches!(self.reader, Reader::Bare(_))
    }

    pub(super) async fn send(
        &mut self,
        outbound: &mut UpstreamRequest,
        stream: &Stream,
        patience: &Patience,
        buffers: &Buffers,
        pipes: &Rc<Pipes>,
    ) -> Result<(Head, Content), Failure> {
        let reused = self.idle_at != 0;
        let mut repeats = false;
        if let Reader::Bare(io) = &mut self.reader
            && let Some((request, coming)) = outbound.begin()
        {
            self.sending = coming.map(|upload| Box::new(Sending::new(upload, pipes)));
            let around = short::Around { stream, patience, buffers, clock: &self.clock };
            let (sending, room) = (&mut self.sending, &mut self.room);
            match short::exchange(io, request, sending, reused, room, &around).await {
                Ok(Answer::Plain(head, content)) => return Ok((Head::Raw(head), content)),
                Ok(Answer::Other(read)) => {
                    // What is left of the body is hyper's as well.
                    let rest = match &mut self.sending {
                        None => Ok(None),
                        Some(sending) => sending.take_rest(),
                    };
                    let Ok(rest) = rest else {
                        self.reader = Reader::Nobody;
                        return Err(Failure::of(Reason::UpstreamClosed));
                    };
                    if rest.is_some() {
                        self.sending = None;
                    }
                    io.repeat(read, rest.is_some());
                    outbound.rest_of_body(rest);
                    repeats = true;
                }
                Err(failure) => {
                    self.reader = Reader::Nobody;
                    if failure.unsent
                        && let Some(mut sending) = self.sending.take()
                        && let Ok(Some(whole)) = sending.take_rest()
                    {
                        outbound.put_back_body(whole);
                    }
                    return Err(failure);
                }
            }
        }
        // Boxed: what is rare must not make every request's future larger.
        Box::pin(self.send_by_hyper(outbound, stream, patience, repeats)).await
    }

    async fn send_by_hyper(
        &mut self,
        outbound: &mut UpstreamRequest,
        stream: &Stream,
        patience: &Patience,
        repeats: bool,
    ) -> Result<(Head, Content), Failure> {
        let reused = self.idle_at != 0;
        self.hyper_reads = repeats || !outbound.is_short();
        let Some(request) = outbound.take_http() else {
            return Err(Failure::of(Reason::UpstreamClosed));
        };
        if !repeats {
            self.moments.look_for_interim.set(true);
        }
        let clock = self.clock.clone();
        let hyper = match self.hyper().await {
            Ok(hyper) => hyper,
            Err(reason) => {
                outbound.put_back(request);
                return Err(Failure { unsent: !repeats, ..Failure::of(reason) });
            }
        };
        let Hyper { sender, conn, ended } = &mut **hyper;
        let mut version = Version::HTTP_11;
        let mut reply = pin!(sender.try_send_request(request));
        let mut drives = if repeats { 2 } else { 1 };
        // With a budget, a task that has used up its turn would take what is there for not there,
        // and nobody would wake it for the channel.
        let result = unconstrained(poll_fn(|cx| {
            if let Some(end) = stream.poll_end(cx)
                && let Err(reason) = go_on(end, stream, patience, &clock, cx)
            {
                return Poll::Ready(Err(Failure::of(reason)));
            }
            // What was read before hyper came can be read only after the request was written.
            for _ in 0..std::mem::replace(&mut drives, 1) {
                drive(conn, ended, cx);
            }
            // Only `drive` can complete the reply, so nobody else needs to wake us for it.
            match reply.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Ok(response)) => {
                    version = response.version();
                    Poll::Ready(Ok(Head::of(response)))
                }
                Poll::Ready(Err(mut error)) => {
                    let unsent = error.take_message().map(|m| outbound.put_back(m)).is_some();
                    let unsent = unsent && !repeats;
                    let reason = classify(error.error());
                    let stale = reused && reason == Reason::UpstreamClosed;
                    Poll::Ready(Err(Failure { unsent, stale, ..Failure::of(reason) }))
                }
                Poll::Pending if *ended != Ended::No => {
                    let closed = Failure::of(Reason::UpstreamClosed);
                    Poll::Ready(Err(Failure { stale: reused, ..closed }))
                }
                Poll::Pending => Poll::Pending,
            }
        }))
        .await;
        self.is_http10 = version < Version::HTTP_11;
        result
    }

    /// Makes hyper its reader.
    async fn hyper(&mut self) -> Result<&mut Box<Hyper>, Reason> {
        if let Reader::Bare(_) = self.reader
            && let Reader::Bare(io) = std::mem::replace(&mut self.reader, Reader::Nobody)
        {
            let mut builder = hyper::client::conn::http1::Builder::new();
            builder
                .preserve_header_case(self.preserve_case)
                .max_headers(MAX_RESPONSE_HEADERS)
                .max_buf_size(MAX_RESPONSE_BUFFER);
            let (sender, conn) =
                builder.handshake(TokioIo::new(io)).await.map_err(|_| Reason::UpstreamConnect)?;
            self.reader = Reader::Hyper(Box::new(Hyper { sender, conn, ended: Ended::No }));
        }
        match &mut self.reader {
            Reader::Hyper(hyper) => Ok(hyper),
            Reader::Bare(_) | Reader::Nobody => Err(Reason::UpstreamClosed),
        }
    }

    /// Whether there may be more of the answer now.
    pub(super) fn drive(&mut self, cx: &mut Context<'_>) -> bool {
        match &mut self.reader {
            Reader::Hyper(hyper) => {
                drive(&mut hyper.conn, &mut hyper.ended, cx);
                true
            }
            Reader::Bare(io) => {
                let sending = self.sending.as_mut().map(|sending| sending.poll(io, cx));
                match sending {
                    Some(Poll::Ready(Ok(()))) => self.sending = None,
                    Some(Poll::Ready(Err(Stopped::Client))) => {
                        // Without the rest of its request nobody can say what the answer is worth.
                        // Who reads on is told.
                        self.reader = Reader::Nobody;
                        return true;
                    }
                    Some(Poll::Ready(Err(Stopped::Upstream)) | Poll::Pending) | None => {}
                }
                false
            }
            Reader::Nobody => false,
        }
    }

    /// The next bytes of an answer that hyper does not read.
    pub(super) fn poll_body(&mut self, left: u64, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        match &mut self.reader {
            Reader::Bare(io) => short::poll_body(io, left, cx),
            Reader::Hyper(_) | Reader::Nobody => {
                Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
            }
        }
    }

    /// Looks whether the upstream has closed it while it was idle.
    pub(super) fn is_usable(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        let driven = pin!(unconstrained(poll_fn(|cx| {
            self.drive(cx);
            Poll::Ready(())
        })))
        .poll(&mut cx);
        debug_assert!(driven.is_ready());
        match &mut self.reader {
            Reader::Bare(io) => short::is_quiet(io),
            Reader::Hyper(hyper) => hyper.ended == Ended::No && hyper.sender.is_ready(),
            Reader::Nobody => false,
        }
    }

    /// Lets hyper finish with a response of which the last byte was read. If that came `whole` with
    /// its head, and no more of hyper was needed, the next exchange may do without it.
    pub(super) fn settle(&mut self, whole: bool) -> bool {
        let ready = match &self.reader {
            _ if self.sending.is_some() || self.is_http10 => false,
            Reader::Bare(_) => true,
            Reader::Hyper(hyper) => {
                (hyper.ended == Ended::No && hyper.sender.is_ready()) || self.is_usable()
            }
            Reader::Nobody => false,
        };
        if ready
            && whole
            && !self.hyper_reads
            && matches!(self.reader, Reader::Hyper(_))
            && let Reader::Hyper(hyper) = std::mem::replace(&mut self.reader, Reader::Nobody)
        {
            let parts = hyper.conn.into_parts();
            if !parts.read_buf.is_empty() {
                return false;
            }
            self.reader = Reader::Bare(parts.io.into_inner());
        }
        ready
    }

    pub(super) fn into_upgraded(self) -> Option<(Io, Bytes)> {
        let Reader::Hyper(hyper) = self.reader else { return None };
        let Hyper { conn, ended, .. } = *hyper;
        let parts = (ended == Ended::Cleanly).then(|| conn.into_parts())?;
        Some((parts.io.into_inner(), parts.read_buf))
    }
}

/// Most fields of a response head; more is a bad response.
const MAX_RESPONSE_HEADERS: usize = 256;
/// Most bytes that are read ahead from the upstream, and of a response head.
const MAX_RESPONSE_BUFFER: usize = 256 * 1024;

/// Moves it on, unless hyper is done with it. One that ended with a protocol switch is kept for its
/// stream.
fn drive(conn: &mut Connection<TokioIo<Io>, RequestBody>, ended: &mut Ended, cx: &mut Context<'_>) {
    if *ended == Ended::No {
        *ended = match conn.poll_without_shutdown(cx) {
            Poll::Pending => Ended::No,
            Poll::Ready(Ok(())) => Ended::Cleanly,
            Poll::Ready(Err(_)) => Ended::Broken,
        };
    }
}

/// What the client is told about a failed exchange.
fn classify(error: &hyper::Error) -> Reason {
    if error.is_parse() || error.is_parse_too_large() {
        Reason::UpstreamBadResponse
    } else {
        Reason::UpstreamClosed
    }
}
