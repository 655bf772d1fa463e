//! A client's connection while hyper reads one request of it. hyper sees only the bytes of this
//! request, without its trailers: it would answer a head that it cannot parse itself, with neither
//! code nor request id. The bytes after the request stay here, for [`super::plain`] to judge.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::proxy::http1::request_refuse::ForHyper;
use crate::proxy::http1::request_span::{RequestSpan, SpanBytes};
use crate::proxy::net::io::Io;
use crate::proxy::net::transport::hand_out;

/// The connection.
pub(super) struct Turn {
    io: Io,
    /// What has arrived of the request, to be handed to hyper first.
    first: Bytes,
    span: RequestSpan,
    is_over: Rc<Cell<bool>>,
}

/// The most that is read ahead of the next request at a time, in bytes.
const AHEAD: usize = 2048;

// === impl Turn ===

impl Turn {
    pub(super) fn new(mut io: Io, request: ForHyper) -> Self {
        let ForHyper { bytes: first, behind, span, .. } = request;
        io.put_back(behind);
        Self { io, first, span, is_over: Rc::default() }
    }

    /// Set once all of the request was handed to hyper.
    pub(super) fn over(&self) -> Rc<Cell<bool>> {
        Rc::clone(&self.is_over)
    }

    /// The connection, with what has arrived and was not handed to hyper.
    pub(super) fn into_io(mut self) -> Io {
        self.io.put_back(self.first);
        self.io
    }

    /// Reads the bytes after the request, once, to see whether the client is still there.
    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.io.holds_ahead() {
            return Poll::Pending;
        }
        let mut bytes = [0; AHEAD];
        let mut ahead = ReadBuf::new(&mut bytes);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut ahead))?;
        if ahead.filled().is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.io.put_back(Bytes::copy_from_slice(ahead.filled()));
        Poll::Pending
    }
}

impl AsyncRead for Turn {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_over.get() {
            return self.poll_ahead(cx);
        }
        if hand_out(&mut self.first, buf) {
            self.is_over.set(self.first.is_empty() && self.span.is_over());
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        // hyper sees a body of broken chunks as one that ends too early.
        while !self.span.is_broken() {
            ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
            let fresh = buf.filled_mut().get_mut(before..).unwrap_or_default();
            if fresh.is_empty() {
                break;
            }
            let Ok(SpanBytes { used, trailers }) = self.span.read(fresh) else {
                buf.set_filled(before);
                break;
            };
            let behind = Bytes::copy_from_slice(fresh.get(used..).unwrap_or_default());
            self.io.put_back(behind);
            if !trailers.is_empty() {
                fresh.copy_within(trailers.end..used, trailers.start);
            }
            buf.set_filled(before + used - trailers.len());
            self.is_over.set(self.span.is_over());
            // To hyper, an empty read would be the end of the connection.
            if buf.filled().len() > before {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Turn {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
