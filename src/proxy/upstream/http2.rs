//! One HTTP/2 connection to the upstream, shared by the requests of a worker.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioIo, TokioTimer};

use super::connect::Connector;
use super::http2_body::{Http2Body, Http2Executor};
use super::outcome::{AnswerContent, AnswerHeadSource, Failure};
use crate::clock::Clock;
use crate::core::Reason;
use crate::proxy::answer_deadline::{AnswerDeadline, go_on};
use crate::proxy::body::UploadProgress;
use crate::proxy::net::io::ClientAddr;
use crate::proxy::outbound::UpstreamRequest;
use crate::proxy::streams::Stream;

/// A handle. Each request has [one of its own](Http2::share).
#[derive(Debug)]
pub(crate) struct Http2 {
    sender: SendRequest<Http2Body>,
    shared: Rc<Http2State>,
    /// The upload of the request. It ends with this handle.
    upload: Option<Rc<UploadProgress>>,
}

#[derive(Debug)]
struct Http2State {
    closed: Cell<bool>,
    idle_at: Cell<u64>,
    connection: tokio::task::AbortHandle,
    executor: Http2Executor,
    clock: Clock,
}

/// The most streams on one connection before a second is opened. Servers commonly allow 100 to 128.
/// hyper queues streams beyond the peer's own limit.
const MOST_STREAMS: usize = 100;

// === impl Http2 ===

impl Http2 {
    pub(super) async fn open(connector: &Connector, client: &ClientAddr) -> Result<Self, Reason> {
        let io = connector.connect(client).await?;
        let executor = Http2Executor::default();
        let (sender, connection) = hyper::client::conn::http2::Builder::new(executor.clone())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(64 * 1024)
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(10))
            .handshake(TokioIo::new(io))
            .await
            .map_err(|_| Reason::UpstreamConnect)?;
        let task = tokio::task::spawn_local(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "upstream HTTP/2 connection ended");
            }
        });
        let shared = Rc::new(Http2State {
            closed: Cell::new(false),
            idle_at: Cell::new(0),
            connection: task.abort_handle(),
            executor,
            clock: connector.clock().clone(),
        });
        Ok(Self { sender, shared, upload: None })
    }

    /// The same connection, for another request.
    pub(super) fn share(&self) -> Self {
        Self { sender: self.sender.clone(), shared: Rc::clone(&self.shared), upload: None }
    }

    pub(super) async fn send(
        &mut self,
        outbound: &mut UpstreamRequest,
        stream: &Stream,
        answer_deadline: &AnswerDeadline,
    ) -> Result<(AnswerHeadSource, AnswerContent), Failure> {
        // `SendRequest` is ready when the handshake is done. A closed connection shows here.
        if poll_fn(|cx| self.sender.poll_ready(cx)).await.is_err() {
            self.shared.closed.set(true);
            return Err(Failure { unsent: true, ..Failure::of(Reason::UpstreamClosed) });
        }
        let Some(request) = outbound.take_http() else {
            return Err(Failure::of(Reason::UpstreamClosed));
        };
        self.upload = request.body().progress();
        let request = request.map(|body| Http2Body::new(body, &self.shared.executor));
        let clock = &self.shared.clock;
        let mut reply = pin!(self.sender.try_send_request(request));
        poll_fn(|cx| {
            if let Some(end) = stream.poll_end(cx)
                && let Err(reason) = go_on(end, stream, answer_deadline, clock, cx)
            {
                return Poll::Ready(Err(Failure::of(reason)));
            }
            reply.as_mut().poll(cx).map(|result| {
                result.map(AnswerHeadSource::of).map_err(|mut error| {
                    let unprocessed = is_unprocessed(error.error());
                    if unprocessed == Some(Unprocessed::Goaway) {
                        self.shared.closed.set(true);
                    }
                    Failure {
                        reason: Reason::UpstreamClosed,
                        unprocessed: unprocessed.is_some(),
                        unsent: error
                            .take_message()
                            .map(|request| outbound.put_back(request.map(Http2Body::into_inner)))
                            .is_some(),
                        stale: false,
                    }
                })
            })
        })
        .await
    }

    /// Whether hyper still has some of the request to send.
    pub(super) fn is_sending(&self) -> bool {
        self.upload.as_ref().is_some_and(|upload| upload.is_with_hyper())
    }

    pub(super) fn is_usable(&self) -> bool {
        !self.shared.closed.get() && !self.sender.is_closed()
    }

    pub(super) fn has_room(&self) -> bool {
        self.streams() < MOST_STREAMS
    }

    /// Requests that hold this connection. The pool itself also holds it once.
    pub(super) fn streams(&self) -> usize {
        Rc::strong_count(&self.shared).saturating_sub(1)
    }

    /// Whether the pool should keep it: usable, and in use or not idle for too long.
    pub(super) fn keep(&self, now_ns: u64, idle_ns: u64) -> bool {
        if self.streams() > 0 {
            self.shared.idle_at.set(0);
        } else if self.shared.idle_at.get() == 0 {
            self.shared.idle_at.set(now_ns.max(1));
        }
        let idle_at = self.shared.idle_at.get();
        self.is_usable() && (idle_at == 0 || now_ns.saturating_sub(idle_at) < idle_ns.max(IDLE_NS))
    }
}

impl Drop for Http2 {
    fn drop(&mut self) {
        if let Some(upload) = self.upload.take() {
            upload.end_with_hyper();
        }
    }
}

impl Drop for Http2State {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// An HTTP/2 connection is expensive to open and announces its end (GOAWAY), so it may idle longer.
const IDLE_NS: u64 = 60_000_000_000;
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// How the upstream has declared that it did not process a request (RFC 9113 section 8.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unprocessed {
    /// Its stream is newer than the last one that a graceful GOAWAY keeps alive.
    Goaway,
    Refused,
}

fn is_unprocessed(error: &hyper::Error) -> Option<Unprocessed> {
    let cause = std::error::Error::source(error)?.downcast_ref::<h2::Error>()?;
    match cause.reason() {
        _ if !cause.is_remote() => None,
        Some(h2::Reason::REFUSED_STREAM) => Some(Unprocessed::Refused),
        Some(h2::Reason::NO_ERROR) if cause.is_go_away() => Some(Unprocessed::Goaway),
        _ => None,
    }
}
