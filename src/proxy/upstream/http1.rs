//! One HTTP/1.1 connection to the upstream.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{Connection, SendRequest};
use hyper_util::rt::TokioIo;

use super::{Connector, Failure};
use crate::clock::Clock;
use crate::core::Reason;
use crate::proxy::body::RequestBody;
use crate::proxy::exchange::Patience;
use crate::proxy::io::{ClientAddr, Io, Moments};
use crate::proxy::streams::Stream;

#[derive(Debug)]
pub(super) struct Http1 {
    sender: SendRequest<RequestBody>,
    /// `None` once it has ended.
    conn: Option<Connection<TokioIo<Io>, RequestBody>>,
    pub(super) moments: Rc<Moments>,
    clock: Clock,
    /// When it was last given back; 0: never.
    pub(super) idle_at: u64,
    /// hyper is done with it: closed, or switched to another protocol.
    ended: bool,
}

// === impl Http1 ===

impl Http1 {
    pub(super) async fn open(connector: &Connector, client: &ClientAddr) -> Result<Self, Reason> {
        let io = connector.connect(client).await?;
        let moments = Rc::clone(io.moments());
        let mut builder = hyper::client::conn::http1::Builder::new();
        builder
            .preserve_header_case(connector.preserve_case())
            .max_headers(MAX_RESPONSE_HEADERS)
            .max_buf_size(MAX_RESPONSE_BUFFER);
        let (sender, conn) =
            builder.handshake(TokioIo::new(io)).await.map_err(|_| Reason::UpstreamConnect)?;
        Ok(Self {
            sender,
            conn: Some(conn),
            moments,
            clock: connector.clock().clone(),
            idle_at: 0,
            ended: false,
        })
    }

    pub(super) async fn send(
        &mut self,
        request: Request<RequestBody>,
        stream: &Stream,
        patience: &Patience,
    ) -> Result<Response<Incoming>, Failure> {
        let reused = self.idle_at != 0;
        self.moments.look_for_interim.set(true);
        let mut reply = pin!(self.sender.try_send_request(request));
        let conn = &mut self.conn;
        let ended = &mut self.ended;
        let clock = &self.clock;
        poll_fn(|cx| {
            if let Some(end) = stream.poll_end(cx)
                && let Err(reason) = super::go_on(end, stream, patience, clock, cx)
            {
                return Poll::Ready(Err(Failure::of(reason)));
            }
            let done = drive(conn, ended, cx);
            // Only `drive` can complete the reply, so nobody else needs to wake us for it.
            match reply.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Ok(response)) => Poll::Ready(Ok(response)),
                Poll::Ready(Err(mut error)) => {
                    let unsent = error.take_message().map(Box::new);
                    let reason = classify(error.error());
                    let stale = reused && reason == Reason::UpstreamClosed;
                    Poll::Ready(Err(Failure { reason, unsent, unprocessed: false, stale }))
                }
                Poll::Pending if done => Poll::Ready(Err(Failure {
                    reason: Reason::UpstreamClosed,
                    unsent: None,
                    unprocessed: false,
                    stale: reused,
                })),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    pub(super) fn drive(&mut self, cx: &mut Context<'_>) {
        drive(&mut self.conn, &mut self.ended, cx);
    }

    /// Looks whether the upstream has closed it while it was idle.
    pub(super) fn is_usable(&mut self) -> bool {
        self.drive(&mut Context::from_waker(Waker::noop()));
        !self.ended && self.sender.is_ready()
    }

    /// Lets hyper finish with a response of which the last byte was read.
    pub(super) fn settle(&mut self) -> bool {
        !self.ended && (self.sender.is_ready() || self.is_usable())
    }

    pub(super) fn into_upgraded(self) -> Option<(Io, Bytes)> {
        let parts = self.conn.filter(|_| self.ended)?.into_parts();
        Some((parts.io.into_inner(), parts.read_buf))
    }
}

/// Most fields of a response head; more is a bad response.
const MAX_RESPONSE_HEADERS: usize = 256;
/// Most bytes that are read ahead from the upstream, and of a response head.
const MAX_RESPONSE_BUFFER: usize = 256 * 1024;

/// Returns true when the connection has ended. It is kept for
/// its stream if it ended with a protocol switch.
fn drive(
    slot: &mut Option<Connection<TokioIo<Io>, RequestBody>>,
    ended: &mut bool,
    cx: &mut Context<'_>,
) -> bool {
    let Some(conn) = slot else { return true };
    if *ended {
        return true;
    }
    match conn.poll_without_shutdown(cx) {
        Poll::Pending => false,
        Poll::Ready(Ok(())) => {
            *ended = true;
            true
        }
        Poll::Ready(Err(_)) => {
            *slot = None;
            *ended = true;
            true
        }
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
