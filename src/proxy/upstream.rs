//! A worker's side of one upstream: its own connections, never shared with another thread.
//!
//! The task of the request that holds an HTTP/1.1 connection drives it; the connection has no task
//! of its own. So the two sockets of one request share one wake-up, and keygate reads only what is
//! polled. Only an upload that continues during its answer has a second task
//! (`request::download::duplex`).

mod connect;
mod http1;
mod http2;
mod http2_body;
mod outcome;
mod resources;
mod round_trip;
mod sending;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use tokio::sync::oneshot;

pub(crate) use self::connect::Connector;
use self::http1::Http1;
use self::http2::Http2;
pub(crate) use self::outcome::{AnswerContent, AnswerHeadSource, Failure, WholeChunks};
pub(crate) use self::resources::ExchangeResources;
use super::streams::Stream;
use crate::config::{ConnectionReuse, UpstreamConfig, UpstreamProtocol};
use crate::core::Reason;
use crate::proxy::answer_deadline::AnswerDeadline;
use crate::proxy::body::{BodyError, UploadProgress};
use crate::proxy::http1::answer_body::AnswerBody;
use crate::proxy::http1::answer_read::AnswerHead;
use crate::proxy::net::io::{ClientAddr, Io};
use crate::proxy::outbound::{ConnectionNeeds, UpstreamRequest};

/// The pool of one worker and one upstream.
#[derive(Debug)]
pub(crate) struct UpstreamPool {
    connector: Connector,
    resources: ExchangeResources,
    /// Kept-alive HTTP/1.1 connections, the most recently used last.
    #[expect(
        clippy::vec_box,
        reason = "a pooled connection moves the box, not the half kilobyte in it"
    )]
    idle: RefCell<Vec<Box<Http1>>>,
    /// The HTTP/2 connections; streams share them.
    shared: RefCell<Vec<Http2>>,
    /// Requests that hold or open a connection.
    active: Cell<usize>,
    most_active: usize,
    waiting: RefCell<VecDeque<oneshot::Sender<Slot>>>,
    most_waiting: usize,
    idle_ns: u64,
    queue: Duration,
    /// Connections that carry one client's PROXY header are not shared. Neither is any other if the
    /// configuration says so.
    keep_alive: bool,
}

/// Whether a used connection is acceptable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reuse {
    IfPossible,
    /// The upstream had closed the last kept one.
    Never,
}

/// A connection held by one request.
#[derive(Debug)]
pub(crate) struct PooledConnection {
    conn: Held,
    /// Since when it is held, not counting the time in the queue or the time to open it.
    pub(crate) begun_ns: u64,
    pool: Rc<UpstreamPool>,
    _slot: Slot,
}

#[derive(Debug)]
enum Held {
    Http1(Box<Http1>),
    Http2(Http2),
}

/// One of `most_active`. Dropping it passes it to the next waiter. It is sent as a value: if the
/// waiter has just gone, it returns. Otherwise the upstream would lose a connection permanently.
#[derive(Debug)]
struct Slot(Option<Rc<UpstreamPool>>);

// === impl UpstreamPool ===

impl UpstreamPool {
    pub(crate) fn new(
        connector: Connector,
        config: &UpstreamConfig,
        timeouts: &crate::config::Timeouts,
        workers: usize,
        resources: ExchangeResources,
    ) -> Rc<Self> {
        let share = |all: usize| all.div_ceil(workers.max(1)).max(1);
        Rc::new(Self {
            connector,
            resources,
            idle: RefCell::default(),
            shared: RefCell::default(),
            active: Cell::new(0),
            most_active: share(config.max_connections),
            waiting: RefCell::default(),
            most_waiting: share(config.max_queue),
            idle_ns: timeouts.upstream_idle.as_nanos() as u64,
            queue: timeouts.queue,
            keep_alive: !config.send_proxy && config.reuse == ConnectionReuse::Always,
        })
    }

    /// A connection for one request.
    pub(crate) async fn checkout(
        self: &Rc<Self>,
        needs: ConnectionNeeds,
        reuse: Reuse,
        now_ns: u64,
        client: &ClientAddr,
    ) -> Result<PooledConnection, Reason> {
        let at_once = self.active.get() < self.most_active;
        let slot = self.slot().await?;
        let clock = || self.connector.clock().now().mono_ns;
        let now_ns = if at_once { now_ns } else { clock() };
        let kept = match self.connector.protocol() {
            UpstreamProtocol::Http1 if reuse == Reuse::IfPossible => self.take_idle(now_ns, needs),
            UpstreamProtocol::Http1 | UpstreamProtocol::Http2 => None,
        };
        let pool = Rc::clone(self);
        if let Some(conn) = kept {
            self.resources.meter.reused();
            return Ok(PooledConnection {
                conn: Held::Http1(conn),
                begun_ns: now_ns,
                pool,
                _slot: slot,
            });
        }
        // Boxed: this rare path must not make every request's future larger.
        let conn = match self.connector.protocol() {
            UpstreamProtocol::Http1 => {
                let opened = Http1::open(&self.connector, client, needs);
                Held::Http1(Box::new(Box::pin(opened).await?))
            }
            UpstreamProtocol::Http2 => Held::Http2(Box::pin(self.http2(client)).await?),
        };
        Ok(PooledConnection { conn, begun_ns: clock(), pool, _slot: slot })
    }

    /// The most recent kept-alive connection that meets the `needs` and is neither too old nor
    /// closed by the upstream.
    fn take_idle(&self, now_ns: u64, needs: ConnectionNeeds) -> Option<Box<Http1>> {
        let mut idle = self.idle.borrow_mut();
        loop {
            let at = idle.iter().rposition(|conn| conn.meets(needs))?;
            let mut conn = idle.remove(at);
            if now_ns.saturating_sub(conn.idle_at) < self.idle_ns && conn.is_usable() {
                return Some(conn);
            }
        }
    }

    async fn http2(&self, client: &ClientAddr) -> Result<Http2, Reason> {
        // One that has failed is no longer usable.
        if self.keep_alive {
            let mut shared = self.shared.borrow_mut();
            shared.retain(Http2::is_usable);
            // The one with the fewest streams. A second is opened only when the first is full.
            if let Some(conn) = shared.iter().filter(|c| c.has_room()).min_by_key(|c| c.streams()) {
                self.resources.meter.reused();
                return Ok(conn.share());
            }
        }
        let conn = Http2::open(&self.connector, client).await?;
        if self.keep_alive {
            self.shared.borrow_mut().push(conn.share());
        }
        Ok(conn)
    }

    /// One of the connections that the upstream may have. Waits its turn when all are taken.
    async fn slot(self: &Rc<Self>) -> Result<Slot, Reason> {
        if self.active.get() < self.most_active {
            self.active.set(self.active.get() + 1);
            return Ok(Slot(Some(Rc::clone(self))));
        }
        let (mine, turn) = oneshot::channel();
        {
            let mut waiting = self.waiting.borrow_mut();
            waiting.retain(|w| !w.is_closed());
            if waiting.len() >= self.most_waiting {
                return Err(Reason::Overloaded);
            }
            waiting.push_back(mine);
        }
        match Box::pin(tokio::time::timeout(self.queue, turn)).await {
            // It was handed over, so it is counted already.
            Ok(Ok(slot)) => Ok(slot),
            Ok(Err(_)) | Err(_) => Err(Reason::Overloaded),
        }
    }

    /// Drops kept-alive connections that are too old or were closed meanwhile. Called a few times a
    /// second while there are any.
    pub(crate) fn sweep(&self, now_ns: u64) {
        self.idle.borrow_mut().retain_mut(|conn| {
            now_ns.saturating_sub(conn.idle_at) < self.idle_ns && conn.is_usable()
        });
        self.shared.borrow_mut().retain(|c| c.keep(now_ns, self.idle_ns));
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let Some(mut pool) = self.0.take() else { return };
        loop {
            // Do not borrow while sending: a slot that returns is dropped here.
            let next = pool.waiting.borrow_mut().pop_front();
            let Some(next) = next else { break };
            match next.send(Self(Some(pool))) {
                Ok(()) => return,
                Err(mut back) => match back.0.take() {
                    Some(again) => pool = again,
                    None => return,
                },
            }
        }
        pool.active.set(pool.active.get().saturating_sub(1));
    }
}

// === impl PooledConnection ===

impl PooledConnection {
    /// Sends one request and waits for the head of its response.
    ///
    /// # Errors
    /// [`Failure`] when the connection broke, `stream` was ended, or the response is not HTTP.
    pub(crate) async fn send(
        &mut self,
        outbound: &mut UpstreamRequest,
        stream: &Stream,
        answer_deadline: &AnswerDeadline,
    ) -> Result<(AnswerHeadSource, AnswerContent), Failure> {
        match &mut self.conn {
            Held::Http1(conn) => {
                conn.send(outbound, stream, answer_deadline, &self.pool.resources).await
            }
            Held::Http2(conn) => Box::pin(conn.send(outbound, stream, answer_deadline)).await,
        }
    }

    /// Returns the space that the head was read into, so that it can be used again.
    pub(crate) fn recycle(&mut self, head: AnswerHead) {
        let (bytes, room) = head.recycle();
        self.pool.resources.buffers.give_back(bytes);
        if let (Held::Http1(conn), Some(room)) = (&mut self.conn, room) {
            conn.recycle(room);
        }
    }

    /// Drives the connection: reads what has arrived, writes what waits. Returns whether more of
    /// the answer may have arrived.
    pub(crate) fn drive(&mut self, cx: &mut Context<'_>) -> bool {
        match &mut self.conn {
            Held::Http1(conn) => conn.drive(cx),
            Held::Http2(_) => false,
        }
    }

    /// The next piece of a body that is [coming](AnswerContent::Coming), of at most `most` bytes,
    /// or its trailers. `None`: it has ended.
    pub(crate) fn poll_body(
        &mut self,
        body: &mut AnswerBody,
        most: u64,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.conn {
            Held::Http1(conn) => conn.poll_body(body, most, cx),
            Held::Http2(_) => Poll::Ready(Some(Err(BodyError::Ended))),
        }
    }

    /// Whether part of the request waits to be written. Unknown for what hyper writes over HTTP/1.
    pub(crate) fn is_sending(&self) -> bool {
        match &self.conn {
            Held::Http1(conn) => conn.is_sending(),
            Held::Http2(conn) => conn.is_sending(),
        }
    }

    /// Whether the rest of the request can still be sent, now that its answer has ended.
    pub(crate) fn may_go_on(&self, upload: &UploadProgress) -> bool {
        match &self.conn {
            Held::Http1(conn) => conn.may_go_on(upload),
            Held::Http2(conn) => upload.is_open() || conn.is_sending(),
        }
    }

    /// Sends the rest of a request whose answer has ended. Ready: everything was sent, or nothing
    /// more can be.
    pub(crate) fn poll_sent(&mut self, upload: &UploadProgress, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.conn {
            Held::Http1(conn) => conn.poll_sent(cx),
            // One of hyper's tasks sends it.
            Held::Http2(conn) if upload.is_open() || conn.is_sending() => {
                upload.look_on(cx);
                Poll::Pending
            }
            Held::Http2(_) => Poll::Ready(()),
        }
    }

    /// Whether this request's task is the one that drives the connection.
    pub(crate) fn is_driven(&self) -> bool {
        matches!(self.conn, Held::Http1(_))
    }

    /// The response was read to its end: keeps the connection if it can serve another request.
    pub(crate) fn give_back(self, now_ns: u64) {
        if let Held::Http1(mut conn) = self.conn
            && self.pool.keep_alive
            && conn.is_settled()
        {
            conn.idle_at = now_ns.max(1);
            self.pool.idle.borrow_mut().push(conn);
        }
    }

    /// After a 101: the raw stream, and what was read from it beyond the head.
    pub(crate) fn into_upgraded(self) -> Option<(Io, Bytes)> {
        match self.conn {
            Held::Http1(conn) => conn.into_upgraded(),
            Held::Http2(_) => None,
        }
    }
}
