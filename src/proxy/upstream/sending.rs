//! A request body on its way to an upstream connection that we write ourselves, piece by piece as
//! the client sends it. The kernel moves a body of declared length if both sides are plain sockets.
//! A body of unknown length is sent in chunks.

#[cfg(test)]
mod tests;

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;

use crate::proxy::body::{BodyError, Upload};
use crate::proxy::http1::chunks::{BODY_END, CHUNK_AND_BODY_END, CHUNK_END, put_chunk_size};
use crate::proxy::net::io::Io;
use crate::proxy::net::pipe::{LONG, Pipe, Pipes};

/// The part of a body that has not been written yet.
pub(super) struct Sending {
    /// `None`: nothing more will come, because that was all or because it was stopped.
    upload: Option<Upload>,
    /// Final: what was taken from the client and not written is lost.
    stopped: Option<Stopped>,
    coding: Coding,
    /// The size of a chunk, not written yet.
    size: Bytes,
    /// Bytes that were read and not written yet.
    piece: Bytes,
    /// Written after the piece.
    tail: &'static [u8],
    /// The piece, if it is not in our memory.
    pipe: Option<Pipe>,
    pipes: Rc<Pipes>,
}

/// How the end of the body is marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    /// Bytes still to take from the upload.
    Counted(u64),
    Chunked,
    /// Everything was taken.
    Over,
}

/// Why the body is not sent any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stopped {
    /// It is the client's fault, or keygate has ended the request: there is nothing to wait for.
    /// The upload knows which.
    Client,
    /// The upstream takes no more. It may have answered already.
    Upstream,
}

opaque!(Sending);

// === impl Sending ===

impl Sending {
    /// Sends all of `upload`: as it is if its length is known, otherwise in chunks. The head must
    /// say the same.
    pub(super) fn new(upload: Upload, pipes: &Rc<Pipes>) -> Self {
        let coding = upload.length().map_or(Coding::Chunked, Coding::Counted);
        let (upload, pipes) = (Some(upload), Rc::clone(pipes));
        let (size, piece, tail) = (Bytes::new(), Bytes::new(), &[][..]);
        Self { upload, stopped: None, coding, size, piece, tail, pipe: None, pipes }
    }

    /// Sends as far as both sides allow. Ready once every byte was written.
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
            if !(self.size.is_empty() && self.piece.is_empty() && self.tail.is_empty()) {
                match ready!(self.poll_write(io, cx)) {
                    Ok(count @ 1..) => self.wrote(count),
                    Ok(0) | Err(_) => return Poll::Ready(Err(Stopped::Upstream)),
                }
            } else if let Some(pipe) = self.pipe.as_mut().filter(|pipe| pipe.held() > 0) {
                match ready!(io.poll_put(pipe, cx)) {
                    Ok(1..) => {}
                    // It has to be written instead.
                    Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                        self.piece = self.take_back().map_err(|_| Stopped::Upstream)?;
                    }
                    Ok(0) | Err(_) => return Poll::Ready(Err(Stopped::Upstream)),
                }
            } else if matches!(self.coding, Coding::Counted(0) | Coding::Over) {
                (self.upload, self.pipe) = (None, None);
                return Pin::new(&mut *io).poll_flush(cx).map_err(|_| Stopped::Upstream);
            } else {
                // Bytes that were written must not wait for those to come.
                if let Poll::Ready(Err(_)) = Pin::new(&mut *io).poll_flush(cx) {
                    return Poll::Ready(Err(Stopped::Upstream));
                }
                ready!(self.poll_next(io, cx))?;
            }
        }
    }

    fn poll_write(&self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let io = Pin::new(io);
        if self.size.is_empty() && self.tail.is_empty() {
            return io.poll_write(cx, &self.piece);
        }
        io.poll_write_vectored(cx, &[&*self.size, &*self.piece, self.tail].map(io::IoSlice::new))
    }

    fn wrote(&mut self, count: usize) {
        let of_size = count.min(self.size.len());
        self.size.advance(of_size);
        let of_piece = (count - of_size).min(self.piece.len());
        self.piece.advance(of_piece);
        self.tail = self.tail.get(count - of_size - of_piece..).unwrap_or_default();
    }

    /// Takes what the client has sent next.
    fn poll_next(&mut self, io: &Io, cx: &mut Context<'_>) -> Poll<Result<(), Stopped>> {
        match self.coding {
            Coding::Counted(left) => self.poll_counted(left, io, cx),
            Coding::Chunked => self.poll_chunk(cx),
            Coding::Over => Poll::Ready(Ok(())),
        }
    }

    fn poll_counted(
        &mut self,
        left: u64,
        io: &Io,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Stopped>> {
        let Some(upload) = &mut self.upload else {
            return Poll::Ready(Err(Stopped::Upstream));
        };
        if left >= LONG && upload.can_move() && io.can_move() {
            self.pipe = self.pipe.take().or_else(|| self.pipes.take());
        } else {
            self.pipe = None;
        }
        if let Some(pipe) = &mut self.pipe {
            match upload.poll_move(left, pipe, cx) {
                Poll::Ready(Ok(count)) => {
                    self.coding = Coding::Counted(left.saturating_sub(count as u64));
                    return Poll::Ready(Ok(()));
                }
                // It has to be read instead.
                Poll::Ready(Err(BodyError::Unmoved)) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Stopped::Client)),
                Poll::Pending => {
                    // An upload that waits for its client must not keep a pipe from others.
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
        match left.checked_sub(bytes.len() as u64) {
            Some(left) => (self.coding, self.piece) = (Coding::Counted(left), bytes),
            // Bytes beyond the declared length would be read as the next request.
            None => return Poll::Ready(Err(Stopped::Client)),
        }
        Poll::Ready(Ok(()))
    }

    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stopped>> {
        let Some(upload) = &mut self.upload else {
            return Poll::Ready(Err(Stopped::Upstream));
        };
        match ready!(upload.poll_data(cx)) {
            // A chunk without bytes would end the body.
            Some(Ok(bytes)) if bytes.is_empty() => {}
            Some(Ok(bytes)) => {
                let mut size = Vec::new();
                put_chunk_size(&mut size, bytes.len());
                (self.size, self.piece) = (size.into(), bytes);
                self.tail = CHUNK_END;
                if upload.is_end_stream() {
                    (self.tail, self.coding) = (CHUNK_AND_BODY_END, Coding::Over);
                }
            }
            None => (self.tail, self.coding) = (BODY_END, Coding::Over),
            // Without its end, the upstream recognises that it was cut short.
            Some(Err(_)) => return Poll::Ready(Err(Stopped::Client)),
        }
        Poll::Ready(Ok(()))
    }

    /// Whether more of it may be written.
    pub(super) fn is_going_on(&self) -> bool {
        self.stopped.is_none()
    }

    /// The body again, if none of it was asked for yet.
    pub(super) fn into_unsent(self) -> Option<Upload> {
        self.upload
    }

    /// What was read from the client and not written.
    fn take_back(&mut self) -> io::Result<Bytes> {
        match self.pipe.take().filter(|pipe| pipe.held() > 0) {
            Some(pipe) => Ok(pipe.into_bytes()?.into()),
            None => Ok(std::mem::take(&mut self.piece)),
        }
    }
}
