//! One HTTP/1.1 connection to the upstream. It is ours, or hyper's from its first byte if a request
//! needs more than a response ([`round_trip`] says what that is).

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::Version;
use http_body::Frame;
use hyper::client::conn::http1::{Connection, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::task::coop::unconstrained;

use super::connect::Connector;
use super::outcome::{AnswerContent, AnswerHeadSource, Failure};
use super::resources::ExchangeResources;
use super::round_trip::{self, Learnt};
use super::sending::{Sending, Stopped};
use crate::clock::Clock;
use crate::core::Reason;
use crate::proxy::answer_deadline::{AnswerDeadline, go_on};
use crate::proxy::body::{BodyError, RequestBody, UploadProgress};
use crate::proxy::http1::answer_body::AnswerBody;
use crate::proxy::http1::answer_read::FieldRoom;
use crate::proxy::http1::answer_read::{LONGEST_HEAD, MOST_FIELDS};
use crate::proxy::net::io::{ClientAddr, Io};
use crate::proxy::outbound::{ConnectionNeeds, Sendable, UpstreamRequest};
use crate::proxy::streams::Stream;

/// A connection, between two requests or with the one that holds it.
#[derive(Debug)]
pub(super) struct Http1 {
    reader: Reader,
    /// The body that this connection is still writing without hyper. If it was not written
    /// completely, it stays here: such a connection serves no other request.
    sending: Option<Box<Sending>>,
    clock: Clock,
    /// When it was last given back. 0: never.
    pub(super) idle_at: u64,
    learnt: Learnt,
}

/// Who reads and writes the connection.
#[derive(Debug)]
enum Reader {
    /// keygate does, in [`round_trip`].
    Own(Io),
    Hyper(Box<Hyper>),
    /// The connection has failed.
    Nobody,
}

#[derive(Debug)]
struct Hyper {
    sender: SendRequest<RequestBody>,
    conn: Connection<TokioIo<Io>, RequestBody>,
    ended: HyperEnd,
    /// The service has answered with HTTP/1.0. hyper would also write the next request as HTTP/1.0,
    /// and leave out a body of unknown length or an upgrade. So the connection serves no other
    /// request.
    is_http10: bool,
}

/// Whether hyper is done with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HyperEnd {
    No,
    /// Closed, or switched to another protocol.
    Cleanly,
    Broken,
}

// === impl Http1 ===

impl Http1 {
    pub(super) async fn open(
        connector: &Connector,
        client: &ClientAddr,
        needs: ConnectionNeeds,
    ) -> Result<Self, Reason> {
        let io = connector.connect(client).await?;
        let reader = match needs {
            ConnectionNeeds::Response => Reader::Own(io),
            ConnectionNeeds::Hyper => Reader::Hyper(Box::new(Hyper::open(io, connector).await?)),
        };
        Ok(Self {
            reader,
            sending: None,
            clock: connector.clock().clone(),
            idle_at: 0,
            learnt: Learnt::new(),
        })
    }

    /// Whether it can serve a request with these needs.
    pub(super) fn meets(&self, needs: ConnectionNeeds) -> bool {
        match needs {
            ConnectionNeeds::Response => matches!(self.reader, Reader::Own(_)),
            ConnectionNeeds::Hyper => matches!(self.reader, Reader::Hyper(_)),
        }
    }

    pub(super) async fn send(
        &mut self,
        outbound: &mut UpstreamRequest,
        stream: &Stream,
        answer_deadline: &AnswerDeadline,
        resources: &ExchangeResources,
    ) -> Result<(AnswerHeadSource, AnswerContent), Failure> {
        let is_reused = self.idle_at != 0;
        let io = match &mut self.reader {
            Reader::Own(io) => io,
            Reader::Hyper(hyper) => {
                // Boxed: a rare path must not make every request's future larger.
                let sent = hyper.send(outbound, stream, answer_deadline, &self.clock, resources);
                return Box::pin(sent)
                    .await
                    .map_err(|failure| Failure { stale: is_reused && failure.stale, ..failure });
            }
            Reader::Nobody => return Err(Failure::of(Reason::UpstreamClosed)),
        };
        let Some(Sendable { bytes, is_head, chunks, coming }) = outbound.begin() else {
            return Err(Failure::of(Reason::UpstreamClosed));
        };
        self.sending = coming.map(|upload| Box::new(Sending::new(upload, &resources.pipes)));
        let buffers = &resources.buffers;
        let around =
            round_trip::ExchangeContext { stream, answer_deadline, buffers, clock: &self.clock };
        let request = round_trip::WrittenRequest { bytes, is_head, chunks, is_reused };
        let sent =
            round_trip::exchange(io, &request, &mut self.sending, &mut self.learnt, &around).await;
        match sent {
            Ok(answered) => {
                for _ in 0..answered.interim {
                    resources.meter.informational();
                }
                Ok((AnswerHeadSource::Own(answered.head), answered.content))
            }
            Err(failure) => {
                self.reader = Reader::Nobody;
                if failure.unsent
                    && let Some(upload) = self.sending.take().and_then(|s| s.into_unsent())
                {
                    outbound.put_back_body(upload);
                }
                Err(failure)
            }
        }
    }

    /// Whether more of the answer may have arrived now.
    pub(super) fn drive(&mut self, cx: &mut Context<'_>) -> bool {
        match &mut self.reader {
            Reader::Hyper(hyper) => {
                drive(&mut hyper.conn, &mut hyper.ended, cx);
                true
            }
            Reader::Own(io) => {
                let sending = self.sending.as_mut().map(|sending| sending.poll(io, cx));
                match sending {
                    Some(Poll::Ready(Ok(()))) => self.sending = None,
                    Some(Poll::Ready(Err(Stopped::Client))) => {
                        // Without the rest of its request, the answer cannot be trusted: from now
                        // on, reads fail.
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

    /// What the next answer can be read into.
    pub(super) fn recycle(&mut self, room: FieldRoom) {
        self.learnt.fields = room;
    }

    pub(super) fn is_sending(&self) -> bool {
        self.sending.as_ref().is_some_and(|sending| sending.is_going_on())
    }

    /// Whether the rest of the request can still be sent, now that its answer has ended.
    pub(super) fn may_go_on(&self, upload: &UploadProgress) -> bool {
        match &self.reader {
            Reader::Own(_) => self.is_sending() && self.learnt.keeps_alive,
            Reader::Hyper(hyper) => {
                upload.is_open() && hyper.ended == HyperEnd::No && !hyper.is_http10
            }
            Reader::Nobody => false,
        }
    }

    /// Sends the rest of a request whose answer has ended. Ready: everything was sent, or nothing
    /// more can be.
    pub(super) fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.drive(cx);
        let is_sending = self.is_sending();
        match &mut self.reader {
            Reader::Own(io) if is_sending => {
                ready!(round_trip::poll_noise(io, cx));
                // The upstream sent something that keygate did not ask for.
                self.learnt.keeps_alive = false;
                Poll::Ready(())
            }
            Reader::Hyper(hyper) if hyper.ended == HyperEnd::No => {
                hyper.sender.poll_ready(cx).map(|_| ())
            }
            Reader::Own(_) | Reader::Hyper(_) | Reader::Nobody => Poll::Ready(()),
        }
    }

    /// The next piece of an answer that we read. `None`: it has ended.
    pub(super) fn poll_body(
        &mut self,
        body: &mut AnswerBody,
        most: u64,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.reader {
            Reader::Own(io) => round_trip::poll_body(io, body, &mut self.learnt, most, cx),
            Reader::Hyper(_) | Reader::Nobody => Poll::Ready(Some(Err(BodyError::Ended))),
        }
    }

    /// Whether it can still be used: the upstream has not closed it while it was idle.
    pub(super) fn is_usable(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        let driven = pin!(unconstrained(poll_fn(|cx| {
            self.drive(cx);
            Poll::Ready(())
        })))
        .poll(&mut cx);
        debug_assert!(driven.is_ready());
        match &mut self.reader {
            Reader::Own(io) => round_trip::is_quiet(io),
            Reader::Hyper(hyper) => hyper.ended == HyperEnd::No && hyper.sender.is_ready(),
            Reader::Nobody => false,
        }
    }

    /// Whether it may serve another request, now that the last byte of an answer was read.
    pub(super) fn is_settled(&mut self) -> bool {
        match &self.reader {
            Reader::Own(_) => self.sending.is_none() && self.learnt.keeps_alive,
            Reader::Hyper(hyper) if hyper.is_http10 => false,
            Reader::Hyper(hyper) => {
                (hyper.ended == HyperEnd::No && hyper.sender.is_ready()) || self.is_usable()
            }
            Reader::Nobody => false,
        }
    }

    pub(super) fn into_upgraded(self) -> Option<(Io, Bytes)> {
        let Reader::Hyper(hyper) = self.reader else { return None };
        let Hyper { conn, ended, .. } = *hyper;
        let parts = (ended == HyperEnd::Cleanly).then(|| conn.into_parts())?;
        Some((parts.io.into_inner(), parts.read_buf))
    }
}

// === impl Hyper ===

impl Hyper {
    async fn open(io: Io, connector: &Connector) -> Result<Self, Reason> {
        let mut builder = hyper::client::conn::http1::Builder::new();
        builder
            .preserve_header_case(connector.preserve_case())
            .max_headers(MOST_FIELDS)
            .max_buf_size(LONGEST_HEAD);
        let (sender, conn) =
            builder.handshake(TokioIo::new(io)).await.map_err(|_| Reason::UpstreamConnect)?;
        Ok(Self { sender, conn, ended: HyperEnd::No, is_http10: false })
    }

    async fn send(
        &mut self,
        outbound: &mut UpstreamRequest,
        stream: &Stream,
        answer_deadline: &AnswerDeadline,
        clock: &Clock,
        resources: &ExchangeResources,
    ) -> Result<(AnswerHeadSource, AnswerContent), Failure> {
        let Some(mut request) = outbound.take_http() else {
            return Err(Failure::of(Reason::UpstreamClosed));
        };
        let meter = resources.meter.clone();
        hyper::ext::on_informational(&mut request, move |_| meter.informational());
        let Self { sender, conn, ended, is_http10 } = self;
        let mut reply = pin!(sender.try_send_request(request));
        // With a budget, a task that has used up its turn would find the channel empty although it
        // is not, and nothing would wake the task for it.
        unconstrained(poll_fn(|cx| {
            if let Some(end) = stream.poll_end(cx)
                && let Err(reason) = go_on(end, stream, answer_deadline, clock, cx)
            {
                return Poll::Ready(Err(Failure::of(reason)));
            }
            drive(conn, ended, cx);
            // Only `drive` can complete the reply, so no other wake-up is needed.
            match reply.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Ok(response)) => {
                    *is_http10 = response.version() < Version::HTTP_11;
                    Poll::Ready(Ok(AnswerHeadSource::of(response)))
                }
                Poll::Ready(Err(mut error)) => {
                    let unsent = error.take_message().map(|m| outbound.put_back(m)).is_some();
                    let reason = classify(error.error());
                    let stale = reason == Reason::UpstreamClosed;
                    Poll::Ready(Err(Failure { unsent, stale, ..Failure::of(reason) }))
                }
                Poll::Pending if *ended != HyperEnd::No => {
                    let closed = Failure::of(Reason::UpstreamClosed);
                    Poll::Ready(Err(Failure { stale: true, ..closed }))
                }
                Poll::Pending => Poll::Pending,
            }
        }))
        .await
    }
}

/// Drives it, unless hyper is done with it. A connection that ended with a protocol switch is kept
/// for its stream.
fn drive(
    conn: &mut Connection<TokioIo<Io>, RequestBody>,
    ended: &mut HyperEnd,
    cx: &mut Context<'_>,
) {
    if *ended == HyperEnd::No {
        *ended = match conn.poll_without_shutdown(cx) {
            Poll::Pending => HyperEnd::No,
            Poll::Ready(Ok(())) => HyperEnd::Cleanly,
            Poll::Ready(Err(_)) => HyperEnd::Broken,
        };
    }
}

/// The reason to give the client for a failed exchange.
fn classify(error: &hyper::Error) -> Reason {
    if error.is_parse() || error.is_parse_too_large() {
        Reason::UpstreamBadResponse
    } else {
        Reason::UpstreamClosed
    }
}
