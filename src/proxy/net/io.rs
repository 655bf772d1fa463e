//! One I/O wrapper around every socket, client or upstream: byte counts, the activity that
//! deadlines are measured from, and reset. It runs no timer of its own. [`super::connections`]
//! checks the activity of all connections of a worker a few times a second, so that the fast path
//! never touches a timer.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::buffers::BUFFER;
use super::transport::{Plain, Transport, hand_out};
use crate::clock::Clock;
use crate::config::Timeouts;
use crate::proxy::memory::holding::{Holding, InUse};
use crate::telemetry::{Shortage, UpstreamMeter};

/// A transport with bytes that were read ahead. It reports to [`Activity`].
pub(crate) struct Io {
    pub(super) transport: Transport,
    /// Read before the protocol was known. Returned first.
    ahead: Bytes,
    pub(super) activity: Rc<Activity>,
}

/// When each event happened on one connection, in nanoseconds of the process's clock. 0: it has not
/// happened.
#[derive(Debug)]
pub(crate) struct Activity {
    clock: Clock,
    /// When the first byte of an incomplete head arrived.
    pub(crate) head_at: Cell<u64>,
    /// Since when no request runs.
    pub(crate) idle_at: Cell<u64>,
    /// Since when the peer takes no bytes.
    pub(crate) blocked_at: Cell<u64>,
    /// The peer has closed its sending side.
    pub(crate) half_closed_at: Cell<u64>,
    /// Requests that run now.
    pub(crate) running: Cell<u32>,
    /// The writer of an answer may still have its last bytes in a buffer.
    pub(crate) is_answering: Cell<bool>,
    /// A request body whose end was not read.
    pub(crate) body_open: Cell<bool>,
    pub(crate) bytes_in: Cell<u64>,
    pub(crate) bytes_out: Cell<u64>,
    /// HTTP/2 or a tunnel: bytes between requests are not the start of a head, and reads report the
    /// peer's end immediately.
    pub(crate) raw: Cell<bool>,
    /// Why the connection has to end now. Set from outside.
    pub(crate) cut: Cell<Option<CutReason>>,
    waker: RefCell<Option<Waker>>,
    /// Notified when an upstream connection has gone. `None` on the client side.
    counted: Option<UpstreamMeter>,
    /// Bytes that had been read when the incomplete head began.
    head_from: Cell<u64>,
    /// What the connection holds of the memory budget. `None` on the upstream's side.
    holding: Option<Holding>,
}

/// Why a connection was ended before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CutReason {
    /// The drain deadline passed.
    Drain,
    /// The peer closed its sending side and the answer took too long.
    HalfClosed,
    /// The head of a request took too long.
    Header,
    /// No request for too long. The normal end of a kept-alive connection.
    Idle,
    /// The key of a running stream ended.
    Key,
    /// The memory budget has no room for it.
    Memory,
    /// The peer does not read.
    Write,
}

impl CutReason {
    /// The word in logs and metrics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::HalfClosed => "half_closed",
            Self::Header => "header_timeout",
            Self::Idle => "idle_timeout",
            Self::Key => "key_ended",
            Self::Memory => "memory",
            Self::Write => "write_timeout",
        }
    }
}

/// Pieces of up to this many bytes in all are written as one.
const JOINED: usize = 1024;

// === impl Activity ===

impl Activity {
    /// As [`Activity::holding`], without a part in the memory budget.
    #[cfg(test)]
    pub(crate) fn new(clock: Clock) -> Rc<Self> {
        Self::with(clock, None, None)
    }

    /// A connection that was just accepted: its first head is under way.
    pub(crate) fn holding(clock: Clock, holding: Holding) -> Rc<Self> {
        Self::with(clock, None, Some(holding))
    }

    /// A connection to the upstream, counted while it is open.
    pub(crate) fn counted(clock: Clock, meter: UpstreamMeter) -> Rc<Self> {
        meter.connection_opened();
        Self::with(clock, Some(meter), None)
    }

    fn with(clock: Clock, counted: Option<UpstreamMeter>, holding: Option<Holding>) -> Rc<Self> {
        let now = clock.now().mono_ns.max(1);
        Rc::new(Self {
            clock,
            head_at: Cell::new(now),
            idle_at: Cell::new(now),
            blocked_at: Cell::new(0),
            half_closed_at: Cell::new(0),
            running: Cell::new(0),
            is_answering: Cell::new(false),
            body_open: Cell::new(false),
            bytes_in: Cell::new(0),
            bytes_out: Cell::new(0),
            raw: Cell::new(false),
            cut: Cell::new(None),
            waker: RefCell::new(None),
            counted,
            head_from: Cell::new(0),
            holding,
        })
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Which deadline has passed, if any.
    pub(crate) fn overdue(&self, now_ns: u64, timeouts: &Timeouts) -> Option<CutReason> {
        let over = |since: u64, limit: std::time::Duration| {
            since != 0 && now_ns.saturating_sub(since) as u128 > limit.as_nanos()
        };
        if over(self.blocked_at.get(), timeouts.write) {
            return Some(CutReason::Write);
        }
        if self.running.get() > 0 {
            // A client that does not take bytes yet is still there.
            let silent =
                self.blocked_at.get() == 0 && over(self.half_closed_at.get(), timeouts.half_closed);
            return silent.then_some(CutReason::HalfClosed);
        }
        if over(self.head_at.get(), timeouts.header) {
            return Some(CutReason::Header);
        }
        over(self.idle_at.get(), timeouts.idle).then_some(CutReason::Idle)
    }

    /// Ends the connection as soon as its task runs, and wakes the task.
    pub(crate) fn cut(&self, why: CutReason) {
        if self.cut.get().is_none() {
            self.cut.set(Some(why));
        }
        self.wake();
    }

    pub(crate) fn wake(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    /// Its part in the memory budget.
    pub(crate) fn held(&self) -> Option<&Holding> {
        self.holding.as_ref()
    }

    fn in_use(&self) -> InUse {
        let running = u64::from(self.running.get());
        InUse {
            head: self.open_head(),
            running,
            is_uploading: running > 0 && self.body_open.get(),
            is_blocked: self.blocked_at.get() != 0,
        }
    }

    fn open_head(&self) -> u64 {
        // After a refusal, the bytes read are the rest of a body, and are dropped.
        let is_body = self.running.get() > 0 || self.body_open.get();
        if self.raw.get() || is_body || self.head_at.get() == 0 {
            return 0;
        }
        self.bytes_in.get().saturating_sub(self.head_from.get())
    }

    /// Books what the connection holds now. Returns it in bytes.
    pub(crate) fn settle(&self) -> u64 {
        self.holding.as_ref().map_or(0, |holding| holding.settle(self.in_use()))
    }

    /// It may hold much more than a moment ago. It ends if its address has more than its part.
    pub(crate) fn grow(&self) {
        if let Some(holding) = &self.holding
            && holding.grows(self.in_use())
        {
            self.give_way(Shortage::Address);
        }
    }

    /// Ends the connection for lack of memory.
    pub(crate) fn give_way(&self, why: Shortage) {
        if self.cut.get().is_some() {
            return;
        }
        if let Some(holding) = &self.holding {
            holding.account().count(why);
            holding.let_go();
        }
        self.cut(CutReason::Memory);
    }

    /// Remembers the task that [`Activity::cut`] has to wake.
    pub(crate) fn watch(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        match waker.as_ref() {
            Some(known) if known.will_wake(cx.waker()) => {}
            _ => *waker = Some(cx.waker().clone()),
        }
    }

    /// Whether the connection has to end now. Every loop on a connection asks this first in each
    /// poll, and is woken when it changes.
    pub(crate) fn poll_cut(&self, cx: &Context<'_>) -> Poll<CutReason> {
        self.watch(cx);
        self.cut.get().map_or(Poll::Pending, Poll::Ready)
    }

    /// A request's head is complete. Returns when its first byte arrived.
    pub(crate) fn request_begins(&self) -> u64 {
        self.running.set(self.running.get() + 1);
        self.is_answering.set(true);
        match self.head_at.take() {
            0 => self.clock.now().mono_ns,
            at => at,
        }
    }

    pub(crate) fn request_ends(&self, now_ns: u64) {
        self.running.set(self.running.get().saturating_sub(1));
        self.idle_at.set(now_ns.max(1));
    }

    /// Bytes of the next request have arrived already: its time runs even if nothing more is read.
    pub(crate) fn head_begins(&self) {
        if self.running.get() == 0 && self.head_at.get() == 0 && !self.raw.get() {
            self.head_at.set(self.clock.now().mono_ns.max(1));
            self.head_from.set(self.bytes_in.get());
        }
    }

    /// No request runs, and the client may send another.
    pub(crate) fn is_idle(&self) -> bool {
        self.running.get() == 0 && self.half_closed_at.get() == 0
    }

    /// Whether everything is answered that a client with a closed sending side has asked for.
    pub(crate) fn is_through(&self) -> bool {
        self.running.get() == 0 && self.half_closed_at.get() != 0
    }

    /// A client that takes nothing still sends what it was asked to send: it may take its answer
    /// later.
    pub(crate) fn excuse_block(&self, now_ns: u64) {
        if self.blocked_at.get() != 0 {
            self.blocked_at.set(now_ns.max(1));
        }
    }

    pub(super) fn on_read(&self, count: usize) {
        if count == 0 {
            self.half_closed_at.set(self.clock.now().mono_ns.max(1));
            return;
        }
        self.head_begins();
        self.bytes_in.set(self.bytes_in.get() + count as u64);
        if self.open_head() > BUFFER as u64 {
            self.grow();
        }
    }

    pub(super) fn on_write(&self, result: &Poll<io::Result<usize>>) {
        match result {
            Poll::Ready(Ok(count)) => {
                self.bytes_out.set(self.bytes_out.get() + *count as u64);
                self.blocked_at.set(0);
                if self.half_closed_at.get() != 0 {
                    self.half_closed_at.set(self.clock.now().mono_ns.max(1));
                }
            }
            Poll::Pending if self.blocked_at.get() == 0 => {
                self.blocked_at.set(self.clock.now().mono_ns.max(1));
            }
            Poll::Pending | Poll::Ready(Err(_)) => {}
        }
    }

    fn on_flush(&self, result: &Poll<io::Result<()>>) {
        match result {
            Poll::Ready(_) => self.blocked_at.set(0),
            Poll::Pending if self.blocked_at.get() == 0 => {
                self.blocked_at.set(self.clock.now().mono_ns.max(1));
            }
            Poll::Pending => {}
        }
    }
}

impl Drop for Activity {
    fn drop(&mut self) {
        if let Some(meter) = &self.counted {
            meter.connection_closed();
        }
    }
}

opaque!(Io);

// === impl Io ===

impl Io {
    pub(crate) fn new(transport: Transport, ahead: Bytes, activity: Rc<Activity>) -> Self {
        if !ahead.is_empty() {
            activity.on_read(ahead.len());
        }
        Self { transport, ahead, activity }
    }

    /// Puts back bytes that were read, so that another reader gets them.
    pub(crate) fn put_back(&mut self, read: Bytes) {
        // It is empty, but would keep the memory that it was part of.
        if read.is_empty() {
            return;
        }
        self.activity.head_begins();
        // The bytes that were put back before have not all been read.
        self.ahead = match self.ahead.is_empty() {
            true => read,
            false => [read, std::mem::take(&mut self.ahead)].concat().into(),
        };
    }

    pub(crate) fn activity(&self) -> &Rc<Activity> {
        &self.activity
    }

    /// Whether it holds bytes that were read and not returned yet.
    pub(crate) fn holds_ahead(&self) -> bool {
        !self.ahead.is_empty()
    }

    /// Whether closing it is enough: it is not encrypted, and the client is not sending anything.
    pub(crate) fn ends_by_itself(&self) -> bool {
        let is_plain = matches!(self.transport, Transport::Plain(_));
        is_plain && !self.activity.body_open.get() && !self.holds_unread()
    }

    /// Whether the client has sent bytes that nobody has read: a close would be a reset, now or
    /// when the rest of them arrives.
    pub(crate) fn holds_unread(&self) -> bool {
        let waiting = match self.transport.plain() {
            Plain::Tcp(tcp) => rustix::io::ioctl_fionread(tcp),
            Plain::Unix(unix) => rustix::io::ioctl_fionread(unix),
        };
        !self.ahead.is_empty() || waiting.unwrap_or(0) > 0
    }

    /// Whether bytes can be moved from and to it: a socket without TLS, with none of its bytes in
    /// our memory.
    pub(crate) fn can_move(&self) -> bool {
        self.ahead.is_empty() && matches!(self.transport, Transport::Plain(_))
    }

    fn on_write(&self, result: &Poll<io::Result<usize>>) {
        let activity = &self.activity;
        let was_blocked = activity.blocked_at.get() != 0;
        activity.on_write(result);
        if activity.blocked_at.get() != 0 && !was_blocked {
            self.blocks();
        }
    }

    /// The socket's buffer is full: its memory counts as ours.
    fn blocks(&self) {
        if let Some(holding) = self.activity.held() {
            let size = match self.transport.plain() {
                Plain::Tcp(tcp) => socket2::SockRef::from(tcp).send_buffer_size(),
                Plain::Unix(unix) => socket2::SockRef::from(unix).send_buffer_size(),
            };
            holding.blocked_with(size.unwrap_or(0) as u64);
            self.activity.grow();
        }
    }

    /// Closes with a reset: the peer learns it immediately, and the kernel keeps nothing.
    pub(crate) fn reset_on_drop(&self) {
        if let Plain::Tcp(tcp) = self.transport.plain() {
            // A socket that is gone already needs no reset.
            let _ = socket2::SockRef::from(tcp).set_linger(Some(std::time::Duration::ZERO));
        }
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if hand_out(&mut self.ahead, buf) {
            return Poll::Ready(Ok(()));
        }
        // hyper mistakes the end of the client's side for the end of the client. It may be a half
        // close, and the client still wants its answer. So report the end only once nothing runs
        // and everything was written. Until then a deadline and failing writes tell the two apart.
        let hides_end = |activity: &Activity| {
            !activity.raw.get() && (activity.running.get() > 0 || activity.is_answering.get())
        };
        if self.activity.half_closed_at.get() != 0 && !self.activity.raw.get() {
            return if hides_end(&self.activity) { Poll::Pending } else { Poll::Ready(Ok(())) };
        }
        let before = buf.filled().len();
        let result = Pin::new(&mut self.transport).poll_read(cx, buf);
        if let Poll::Ready(Ok(())) = result {
            let fresh = buf.filled().get(before..).unwrap_or_default();
            self.activity.on_read(fresh.len());
            if fresh.is_empty() && hides_end(&self.activity) {
                return Poll::Pending;
            }
        }
        result
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.transport).poll_write(cx, buf);
        self.on_write(&result);
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // A head with a short body: copying it together costs less than handing two pieces to
        // the kernel.
        let total: usize = bufs.iter().map(|b| b.len()).sum();
        let mut joined = [0; JOINED];
        let result = match joined.get_mut(..total) {
            Some(whole) if bufs.len() > 1 => {
                let mut rest = &mut *whole;
                for buf in bufs {
                    let (to, behind) = rest.split_at_mut(buf.len().min(rest.len()));
                    to.copy_from_slice(buf.get(..to.len()).unwrap_or_default());
                    rest = behind;
                }
                Pin::new(&mut self.transport).poll_write(cx, whole)
            }
            _ => Pin::new(&mut self.transport).poll_write_vectored(cx, bufs),
        };
        self.on_write(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.transport).poll_flush(cx);
        // TLS accepts bytes into its own buffer. Whether the peer reads shows only here.
        self.activity.on_flush(&result);
        result
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_shutdown(cx)
    }
}

/// Who is at the other end, determined once per connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientAddr {
    /// The peer of the socket, or the one that its PROXY header named. `None`: a Unix socket.
    pub(crate) peer: Option<SocketAddr>,
    /// The address that it connected to, for an outgoing PROXY header.
    pub(crate) local: Option<SocketAddr>,
}

impl ClientAddr {
    /// In canonical form. A Unix socket counts as loopback.
    pub(crate) fn ip(&self) -> std::net::IpAddr {
        self.peer.map_or(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), |a| {
            crate::core::address::canonical(a.ip())
        })
    }
}
