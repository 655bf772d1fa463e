//! What runs after both sides answered 101: bytes both ways, until both sides are done or the key
//! that opened the tunnel ends. Knows just enough WebSocket framing to say goodbye between two
//! frames.
//! Imports nothing of the crate.
//!
//! Memory: an idle tunnel holds no buffer. Reads go through one scratch buffer per thread. What the
//! other side does not take immediately, at most [`CHUNK`] bytes, waits in a buffer of its own, and
//! nothing more is read in that direction until it is gone.

mod frames;
mod pump;
mod stop;
#[cfg(test)]
mod tests;

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Sleep, sleep, timeout};

use self::frames::{Frames, close_frame};
pub use self::pump::CHUNK;
use self::pump::{Pump, PumpFault};
pub use self::stop::{Stop, TunnelCut};

/// Close code of an idle tunnel: "going away" (RFC 6455 section 7.4.1).
const GOING_AWAY: u16 = 1001;

/// Two connections that have both switched protocols.
#[derive(Debug)]
pub struct Tunnel<'a, C, U> {
    /// Still belongs to the caller, who may have to reset it; see [`TunnelSummary::must_reset`].
    pub client: &'a mut C,
    /// Dropped in the poll that notices a cut.
    pub upstream: U,
    pub framing: Framing,
    /// Bytes read from the client after its request.
    pub from_client: Bytes,
    /// Bytes read from the upstream after its 101.
    pub from_upstream: Bytes,
    pub limits: Limits,
}

/// What travels inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Bytes in an unknown format: keygate can only cut them.
    Opaque,
    /// RFC 6455 frames: a cut between two of them ends with a close frame.
    WebSocket,
}

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest time without a byte in either direction. `None`: no bound. The tunnel ends at most a
    /// quarter of it late.
    pub idle: Option<Duration>,
    /// The same once one side has ended its half: the other is more often than not a dead peer.
    pub half_closed: Option<Duration>,
    /// For the goodbye: close frame, shutdown, and the client's own end of the connection.
    pub write: Duration,
}

/// How a tunnel went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelSummary {
    pub end: TunnelEnd,
    /// Bytes sent to the client, not counting the goodbye.
    pub to_client: u64,
    pub to_upstream: u64,
    /// The client was cut inside a message, or does not read: a clean end of its connection would
    /// tell it something false, or keep the kernel busy for minutes.
    pub must_reset: bool,
}

/// Why a tunnel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelEnd {
    /// The client's connection broke.
    Client(io::ErrorKind),
    /// [`Stop::cut`], or whatever the caller passed instead.
    Cut,
    /// Both sides have ended their half.
    Finished,
    Idle,
    /// The upstream's connection broke.
    Upstream(io::ErrorKind),
}

/// An optional deadline that progress extends without touching the timer: it checks a counter four
/// times per period.
#[derive(Debug, Default)]
struct IdleTimer {
    period: Option<Duration>,
    sleep: Option<Pin<Box<Sleep>>>,
    seen: u64,
    quiet: u8,
}

/// The outcome of the copying.
enum CopyOutcome {
    Cut(TunnelCut),
    Ended(TunnelEnd),
}

// === impl Tunnel ===

impl<C, U> Tunnel<'_, C, U>
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    /// Copies until the end. Every poll first calls `poll_cut` ([`Stop::poll_cut`]). Once it is
    /// ready, not one more byte goes in either direction, the upstream is dropped immediately, and
    /// only the goodbye to the client remains.
    pub async fn run(
        self,
        mut poll_cut: impl FnMut(&mut Context<'_>) -> Poll<TunnelCut>,
    ) -> TunnelSummary {
        let Self { client, upstream, framing, from_client, from_upstream, limits } = self;
        let frames = match framing {
            Framing::Opaque => None,
            Framing::WebSocket => Some(Frames::default()),
        };
        let mut to_upstream = Pump::new(from_client, None);
        let mut to_client = Pump::new(from_upstream, frames);
        let mut idle = IdleTimer::default();
        let mut upstream = Some(upstream);
        // After a failed write, the upstream may still have something to say: a server that refuses
        // more input often says why.
        let mut upstream_fault = None;

        let outcome = poll_fn(|cx| {
            if let Poll::Ready(cut) = poll_cut(cx) {
                upstream = None;
                return Poll::Ready(CopyOutcome::Cut(cut));
            }
            let Some(far) = upstream.as_mut() else {
                return Poll::Ready(CopyOutcome::Ended(TunnelEnd::Finished));
            };
            let up = to_upstream.poll(cx, client, far);
            match up {
                Poll::Ready(Err(PumpFault::Read(kind))) => {
                    return Poll::Ready(CopyOutcome::Ended(TunnelEnd::Client(kind)));
                }
                Poll::Ready(Err(PumpFault::Write(kind))) => {
                    upstream_fault.get_or_insert(kind);
                    to_upstream.give_up();
                }
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
            let down = to_client.poll(cx, far, client);
            match down {
                Poll::Ready(Err(PumpFault::Write(kind))) => {
                    return Poll::Ready(CopyOutcome::Ended(TunnelEnd::Client(kind)));
                }
                Poll::Ready(Err(PumpFault::Read(kind))) => {
                    return Poll::Ready(CopyOutcome::Ended(TunnelEnd::Upstream(kind)));
                }
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
            if let (true, true) = (to_upstream.is_done(), to_client.is_done()) {
                let end = upstream_fault.map_or(TunnelEnd::Finished, TunnelEnd::Upstream);
                return Poll::Ready(CopyOutcome::Ended(end));
            }
            let half_closed = to_upstream.is_ending() || to_client.is_ending();
            let period = match half_closed {
                true => limits.idle.into_iter().chain(limits.half_closed).min(),
                false => limits.idle,
            };
            let activity = to_upstream.bytes().wrapping_add(to_client.bytes());
            idle.poll(cx, period, activity).map(|()| CopyOutcome::Ended(TunnelEnd::Idle))
        })
        .await;
        drop(upstream);

        let goodbye = |code, reason: &str| {
            to_client.frames().filter(|f| f.may_close()).map(|_| close_frame(code, reason))
        };
        let (end, must_reset) = match outcome {
            CopyOutcome::Cut(TunnelCut::Abrupt) => (TunnelEnd::Cut, true),
            CopyOutcome::Cut(TunnelCut::Close { code, reason }) => {
                (TunnelEnd::Cut, !close(client, goodbye(code, reason), limits.write).await)
            }
            CopyOutcome::Ended(TunnelEnd::Idle) => {
                let frame = goodbye(GOING_AWAY, "idle");
                (TunnelEnd::Idle, !close(client, frame, limits.write).await)
            }
            CopyOutcome::Ended(TunnelEnd::Upstream(kind)) if !to_client.is_done() => {
                // Bytes that arrived before the fault were handed on, but still have to leave our
                // buffers.
                let flushed = timeout(limits.write, client.shutdown()).await;
                let cut_short = framing == Framing::Opaque;
                (TunnelEnd::Upstream(kind), cut_short || !matches!(flushed, Ok(Ok(()))))
            }
            CopyOutcome::Ended(end) => (end, false),
        };
        TunnelSummary {
            end,
            to_client: to_client.bytes(),
            to_upstream: to_upstream.bytes(),
            must_reset,
        }
    }
}

/// Sends the last frame, ends our half and waits until the client has ended its own, so that no
/// reset overtakes the frame. False: that did not happen in time, or no frame could be sent.
async fn close<C>(client: &mut C, frame: Option<Bytes>, limit: Duration) -> bool
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    let Some(frame) = frame else { return false };
    let goodbye = async {
        client.write_all(&frame).await?;
        client.shutdown().await?;
        let mut ignored = [0; 1024];
        while client.read(&mut ignored).await? != 0 {}
        io::Result::Ok(())
    };
    matches!(timeout(limit, goodbye).await, Ok(Ok(())))
}

// === impl TunnelEnd ===

impl TunnelEnd {
    /// The word in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Client(_) => "client_closed",
            Self::Cut => "cut",
            Self::Finished => "finished",
            Self::Idle => "idle_timeout",
            Self::Upstream(_) => "upstream_closed",
        }
    }
}

// === impl IdleTimer ===

impl IdleTimer {
    const LOOKS: u8 = 4;

    fn poll(&mut self, cx: &mut Context<'_>, period: Option<Duration>, activity: u64) -> Poll<()> {
        if self.period != period {
            let look = |period: Duration| Box::pin(sleep(period / u32::from(Self::LOOKS)));
            *self = Self { period, sleep: period.map(look), seen: activity, quiet: 0 };
        }
        let (Some(period), Some(timer)) = (self.period, self.sleep.as_mut()) else {
            return Poll::Pending;
        };
        while timer.as_mut().poll(cx).is_ready() {
            self.quiet = if activity == self.seen { self.quiet.saturating_add(1) } else { 0 };
            self.seen = activity;
            if self.quiet >= Self::LOOKS {
                return Poll::Ready(());
            }
            let next = timer.deadline() + period / u32::from(Self::LOOKS);
            timer.as_mut().reset(next);
        }
        Poll::Pending
    }
}
