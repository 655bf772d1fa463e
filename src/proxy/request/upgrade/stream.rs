//! The client's side of a tunnel: its whole connection, or a stream of an HTTP/2 connection.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::clock::Clock;
use crate::proxy::net::io::{Activity, Io};
use crate::proxy::streams::{Stream, TaskAbort};

/// The client's side of a tunnel.
pub(super) trait ClientSide: AsyncRead + AsyncWrite + Unpin {
    /// The connection's activity, if the tunnel has the connection to itself.
    fn own_moments(&self) -> Option<Rc<Activity>> {
        None
    }

    /// A clean end would tell the client something false.
    fn reset(&self);
}

impl ClientSide for Io {
    fn own_moments(&self) -> Option<Rc<Activity>> {
        Some(Rc::clone(self.activity()))
    }

    fn reset(&self) {
        self.reset_on_drop();
    }
}

/// hyper moves the bytes of a stream in a task of its own, which a client without a window can
/// block for as long as it likes. So the write deadline runs here.
pub(super) struct InStream {
    io: TokioIo<hyper::upgrade::Upgraded>,
    stream: Rc<Stream>,
    clock: Clock,
    write_ns: u64,
    /// The client takes nothing, so the deadline is running.
    stalled: bool,
    task: Option<Rc<TaskAbort>>,
}

// === impl InStream ===

impl InStream {
    pub(super) fn new(
        upgraded: hyper::upgrade::Upgraded,
        stream: Rc<Stream>,
        clock: Clock,
        write_ns: u64,
    ) -> Self {
        let task = stream.take_abort();
        Self { io: TokioIo::new(upgraded), stream, clock, write_ns, stalled: false, task }
    }

    fn note<T>(&mut self, result: &Poll<T>) {
        if result.is_pending() == self.stalled {
            return;
        }
        self.stalled = result.is_pending();
        self.stream.set_deadline(match self.stalled {
            true => self.clock.now().mono_ns.saturating_add(self.write_ns),
            false => u64::MAX,
        });
    }
}

impl ClientSide for InStream {
    fn reset(&self) {
        if let Some(task) = &self.task {
            task.fire();
        }
    }
}

impl AsyncRead for InStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for InStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(cx, buf);
        self.note(&result);
        result
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
