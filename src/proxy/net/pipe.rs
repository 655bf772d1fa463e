//! Bytes that go from one socket to another without anybody looking at them: `splice(2)` moves them
//! inside the kernel, and copies nothing into our memory. This is worth it for long uploads only.
//! Short ones take one read and one write anyway, and a pipe is two descriptors. Answers were
//! slower with it (docs/performance.md). It cannot pass urgent data, which no HTTP client sends:
//! `timeouts.body` cuts an upload that has some.

#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use rustix::pipe::{
    PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice,
};
use tokio::io::Interest;

use super::io::Io;
use super::transport::{Plain, Transport};

/// The pipes of one worker. A client that does not read keeps one from all others. So there are few
/// pipes, and connections that get none copy.
#[derive(Debug, Default)]
pub(crate) struct Pipes {
    spare: RefCell<Vec<Ends>>,
    in_use: Cell<usize>,
    /// The system cannot make one that is large enough, or will not move bytes through one.
    refused: Cell<bool>,
}

/// One of a worker's pipes. If it is empty when dropped, it is used again.
#[derive(Debug)]
pub(crate) struct Pipe {
    ends: Option<Ends>,
    held: usize,
    pool: Rc<Pipes>,
}

#[derive(Debug)]
struct Ends {
    out_of: OwnedFd,
    into: OwnedFd,
}

/// Bodies with at least this many bytes to come are worth a pipe.
pub(crate) const LONG: u64 = 64 * 1024;
/// The requested size of a pipe, in bytes. The kernel counts pages, so a pipe holds less if
/// segments are short.
const ROOM: usize = 256 * 1024;
/// A pipe smaller than this costs more calls than it saves copies. This is what an unprivileged
/// user gets after using up `fs.pipe-user-pages-soft`.
const LEAST_ROOM: usize = 64 * 1024;
/// The most pipes of one worker that are in use at the same time.
const MOST: usize = 16;
/// The most descriptors that the pipes of one worker take.
pub const PIPE_DESCRIPTORS: usize = 2 * MOST;

// === impl Pipes ===

impl Pipes {
    /// An empty pipe, if one is available.
    pub(crate) fn take(self: &Rc<Self>) -> Option<Pipe> {
        if self.refused.get() || self.in_use.get() >= MOST {
            return None;
        }
        let spare = self.spare.borrow_mut().pop();
        let ends = match spare {
            Some(ends) => ends,
            // A lack of descriptors may pass.
            None => Ends::open().ok()?.or_else(|| {
                self.refused.set(true);
                None
            })?,
        };
        self.in_use.set(self.in_use.get() + 1);
        Some(Pipe { ends: Some(ends), held: 0, pool: Rc::clone(self) })
    }
}

impl Ends {
    /// `None`: the pipe is too small.
    fn open() -> rustix::io::Result<Option<Self>> {
        let (out_of, into) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let room = fcntl_setpipe_size(&into, ROOM).or_else(|_| fcntl_getpipe_size(&into))?;
        Ok((room >= LEAST_ROOM).then_some(Self { out_of, into }))
    }
}

// === impl Pipe ===

impl Pipe {
    /// Number of bytes in it.
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    /// Its contents, for a caller that has to read them after all.
    pub(crate) fn into_bytes(mut self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; self.held];
        let mut read = 0;
        while let Some(rest) = bytes.get_mut(read..).filter(|r| !r.is_empty())
            && let Some(ends) = &self.ends
        {
            match rustix::io::read(&ends.out_of, rest)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => read += count,
            }
        }
        self.held = 0;
        Ok(bytes)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.pool.in_use.set(self.pool.in_use.get().saturating_sub(1));
        if let Some(ends) = self.ends.take().filter(|_| self.held == 0) {
            self.pool.spare.borrow_mut().push(ends);
        }
    }
}

// === impl Io ===

impl Io {
    /// Moves up to `most` bytes of what the peer sends into `pipe`, which is empty. 0: the peer's
    /// end.
    ///
    /// # Errors
    /// `Unsupported`: the system moves nothing, and nothing was taken; read the bytes instead. All
    /// other errors are the connection's.
    pub(crate) fn poll_take(
        &mut self,
        pipe: &mut Pipe,
        most: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        debug_assert!(pipe.held == 0 && self.can_move());
        let (Transport::Plain(plain), Some(ends)) = (&self.transport, &pipe.ends) else {
            return Poll::Ready(Err(io::ErrorKind::Unsupported.into()));
        };
        if self.activity.half_closed_at.get() != 0 {
            return Poll::Ready(Ok(0));
        }
        let result = ready!(plain.poll_splice(Interest::READABLE, cx, |socket| {
            splice(socket, None, &ends.into, None, most, SpliceFlags::NONBLOCK)
        }));
        match &result {
            Ok(count) => {
                pipe.held = *count;
                self.activity.on_read(*count);
            }
            Err(error) if is_refusal(error) => {
                pipe.pool.refused.set(true);
                return Poll::Ready(Err(io::ErrorKind::Unsupported.into()));
            }
            Err(_) => {}
        }
        Poll::Ready(result)
    }

    /// Writes the contents of `pipe`, which is not empty, as far as the peer takes them.
    ///
    /// # Errors
    /// `Unsupported`: the system moves nothing there; the bytes are still in the pipe. All other
    /// errors are the connection's.
    pub(crate) fn poll_put(
        &mut self,
        pipe: &mut Pipe,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        debug_assert!(pipe.held > 0 && self.can_move());
        let (Transport::Plain(plain), Some(ends)) = (&self.transport, &pipe.ends) else {
            return Poll::Ready(Err(io::ErrorKind::Unsupported.into()));
        };
        let result = plain.poll_splice(Interest::WRITABLE, cx, |socket| {
            splice(&ends.out_of, None, socket, None, pipe.held, SpliceFlags::NONBLOCK)
        });
        self.activity.on_write(&result);
        match &result {
            Poll::Ready(Ok(count)) => pipe.held = pipe.held.saturating_sub(*count),
            Poll::Ready(Err(error)) if is_refusal(error) => {
                pipe.pool.refused.set(true);
                return Poll::Ready(Err(io::ErrorKind::Unsupported.into()));
            }
            Poll::Ready(Err(_)) | Poll::Pending => {}
        }
        result
    }
}

/// The errors of a kernel, a sandbox or a kind of socket that has no `splice`.
fn is_refusal(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, PermissionDenied, Unsupported};
    matches!(error.kind(), InvalidInput | PermissionDenied | Unsupported)
}

// === impl Plain ===

impl Plain {
    /// Runs the operation once the socket is ready for it.
    fn poll_splice(
        &self,
        interest: Interest,
        cx: &mut Context<'_>,
        act: impl Fn(std::os::fd::BorrowedFd<'_>) -> rustix::io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            let ready = match (self, interest.is_readable()) {
                (Self::Tcp(tcp), true) => tcp.poll_read_ready(cx),
                (Self::Tcp(tcp), false) => tcp.poll_write_ready(cx),
                (Self::Unix(unix), true) => unix.poll_read_ready(cx),
                (Self::Unix(unix), false) => unix.poll_write_ready(cx),
            };
            ready!(ready)?;
            let result = match self {
                Self::Tcp(tcp) => tcp.try_io(interest, || Ok(act(tcp.as_fd())?)),
                Self::Unix(unix) => unix.try_io(interest, || Ok(act(unix.as_fd())?)),
            };
            match result {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return Poll::Ready(result),
            }
        }
    }
}
