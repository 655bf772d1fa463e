//! A request body of declared length on its way to an upstream connection that we write ourselves:
//! piece by piece as the client sends it, and moved by the kernel where both sides are sockets in
//! clear.

#[cfg(test)]
mod tests;

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;

use crate::proxy::body::{BodyError, Upload};
use crate::proxy::net::io::Io;
use crate::proxy::net::pipe::{LONG, Pipe, Pipes};

/// The part of a body that has not been written yet.
pub(super) struct Sending {
    /// `None`: nothing more is to come, whether that was all or it was stopped.
    upload: Option<Upload>,
    /// For good: what was taken from the client and not written is lost.
    stopped: Option<Stopped>,
    /// Bytes to take from `upload`.
    left: u64,
    /// Read, and not written yet.
    piece: Bytes,
    /// The same, where it is not in our memory.
    pipe: Option<Pipe>,
    pipes: Rc<Pipes>,
}

/// Why a body is not sent any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stopped {
    /// The client's fault, or keygate has ended the request: there is nothing to wait for. The
    /// upload says which.
    Client,
    /// The upstream takes no more. It may have answered before.
    Upstream,
}

opaque!(Sending);

// === impl Sending ===

impl Sending {
    /// All of `upload`, of which the length is known.
    pub(super) fn new(upload: Upload, pipes: &Rc<Pipes>) -> Self {
        let (left, piece) = (upload.length().unwrap_or_default(), Bytes::new());
        let (upload, pipes) = (Some(upload), Rc::clone(pipes));
        Self { upload, stopped: None, left, piece, pipe: None, pipes }
    }

    /// Moves on as far as both sides allow. Ready once every byte was written.
    pub(super) fn poll(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<Result<(), Stopped>> {
        if let Some(stopped) = self.stopped {
            return Poll::Ready(Err(stopped));
        }
        let result = ready!(self.poll_written(io, cx));
        if let Err(stopped) = result {
            self.stopped = Some(stopped);
            (self.upload, self.pipe) = (None, None);
        }
        Poll::Ready(result)
    }

    fn poll_written(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<Result<(), Stopped>> {
        loop {
            if !self.piece.is_empty() {
                match ready!(Pin::new(&mut *io).poll_write(cx, &self.piece)) {
                    Ok(count @ 1..) => self.piece.advance(count),
                    Ok(0) | Err(_) => return Poll::Ready(Err(Stopped::Upstream)),
                }
            } else if let Some(pipe) = self.pipe.as_mut().filter(|pipe| pipe.held() > 0) {
                match ready!(io.poll_put(pipe, cx)) {
                    Ok(1..) => {}
                    // It is to be written instead.
                    Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                        self.piece = self.take_back().map_err(|_| Stopped::Upstream)?;
                    }
                    Ok(0) | Err(_) => return Poll::Ready(Err(Stopped::Upstream)),
                }
            } else if self.left > 0 {
                // What was written must not wait for what is to come.
                if let Poll::Ready(Err(_)) = Pin::new(&mut *io).poll_flush(cx) {
                    return Poll::Ready(Err(Stopped::Upstream));
                }
                ready!(self.poll_next(io, cx))?;
            } else {
                (self.upload, self.pipe) = (None, None);
                return Pin::new(&mut *io).poll_flush(cx).map_err(|_| Stopped::Upstream);
            }
        }
    }

    /// Takes what the client has sent next.
    fn poll_next(&mut self, io: &Io, cx: &mut Context<'_>) -> Poll<Result<(), Stopped>> {
        let Some(upload) = &mut self.upload else {
            return Poll::Ready(Err(Stopped::Upstream));
        };
        if self.left >= LONG && upload.can_move() && io.can_move() {
            self.pipe = self.pipe.take().or_else(|| self.pipes.take());
        } else {
            self.pipe = None;
        }
        if let Some(pipe) = &mut self.pipe {
            match upload.poll_move(self.left, pipe, cx) {
                Poll::Ready(Ok(count)) => {
                    self.left = self.left.saturating_sub(count as u64);
                    return Poll::Ready(Ok(()));
                }
                // It is to be read instead.
                Poll::Ready(Err(BodyError::Unmoved)) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Stopped::Client)),
                Poll::Pending => {
                    // Who waits for a client keeps no pipe from others.
                    self.pipe = None;
                    return Poll::Pending;
                }
            }
            self.pipe = None;
        }
        let bytes = match ready!(upload.poll_data(cx)) {
            Some(Ok(bytes)) => bytes,
            Some(Err(_)) | None => return Poll::Ready(Err(Stopped::Client)),
        };
        match self.left.checked_sub(bytes.len() as u64) {
            Some(left) => (self.left, self.piece) = (left, bytes),
            // More than was declared would be the next request.
            None => return Poll::Ready(Err(Stopped::Client)),
        }
        Poll::Ready(Ok(()))
    }

    /// The rest of it, for hyper to write. `None`: nothing more is to come.
    ///
    /// # Errors
    /// It was read, and could not be taken back.
    pub(super) fn take_rest(&mut self) -> io::Result<Option<Upload>> {
        let Some(mut upload) = self.upload.take() else { return Ok(None) };
        upload.put_back(self.take_back()?);
        Ok(Some(upload))
    }

    /// What was read of the client and not written.
    fn take_back(&mut self) -> io::Result<Bytes> {
        match self.pipe.take().filter(|pipe| pipe.held() > 0) {
            Some(pipe) => Ok(pipe.into_bytes()?.into()),
            None => Ok(std::mem::take(&mut self.piece)),
        }
    }
}
