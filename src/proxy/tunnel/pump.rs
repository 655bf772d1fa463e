//! One direction of a tunnel.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frames::Frames;

/// The most bytes of one read, and the most that wait in one direction.
pub const CHUNK: usize = 16 * 1024;

/// Reads per poll. After them, other tasks of the thread get a turn.
const ROUNDS: usize = 8;

thread_local! {
    /// The thread's scratch buffer, while no read uses it.
    static SCRATCH: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

/// Copies from a reader to a writer with back-pressure.
#[derive(Debug)]
pub(super) struct Pump {
    state: State,
    /// Bytes that were read but not yet taken by the writer.
    pending: Bytes,
    /// The writer may still hold bytes in a buffer.
    unflushed: bool,
    bytes: u64,
    frames: Option<Frames>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Copying,
    Done,
    /// The reader has ended. The writer will end once it has taken everything.
    Ending,
}

/// Which end of a pump broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PumpFault {
    Read(io::ErrorKind),
    Write(io::ErrorKind),
}

/// The borrowed scratch buffer, returned on drop.
struct Scratch(Box<[u8]>);

// === impl Pump ===

impl Pump {
    /// `first` was read earlier and is sent first. `frames` follows what the writer has taken.
    pub(super) fn new(first: Bytes, frames: Option<Frames>) -> Self {
        Self { state: State::Copying, pending: first, unflushed: false, bytes: 0, frames }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn frames(&self) -> Option<&Frames> {
        self.frames.as_ref()
    }

    pub(super) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// The reader has ended its half.
    pub(super) fn is_ending(&self) -> bool {
        self.state != State::Copying
    }

    /// Nothing more is copied.
    pub(super) fn give_up(&mut self) {
        self.pending = Bytes::new();
        self.state = State::Done;
    }

    /// Ready when the reader has ended and the writer has been shut down.
    pub(super) fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
    ) -> Poll<Result<(), PumpFault>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        if self.state == State::Copying {
            ready!(self.poll_copy(cx, reader, writer))?;
            self.state = State::Ending;
        }
        if self.state == State::Ending {
            // A peer that has gone already needs no notice.
            let _ = ready!(Pin::new(writer).poll_shutdown(cx));
            self.state = State::Done;
        }
        Poll::Ready(Ok(()))
    }

    /// Ready at the reader's end, with everything written.
    fn poll_copy<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
    ) -> Poll<Result<(), PumpFault>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        for _ in 0..ROUNDS {
            while !self.pending.is_empty() {
                let taken = ready!(self.poll_write(cx, writer, &self.pending.clone()))?;
                self.pending.advance(taken);
            }
            // An empty view may keep the allocation that it was cut from.
            self.pending = Bytes::new();

            let mut scratch = Scratch::take();
            let mut buffer = ReadBuf::new(&mut scratch.0);
            match Pin::new(&mut *reader).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(PumpFault::Read(error.kind()))),
                Poll::Pending => return self.poll_flush(cx, writer),
            }
            let mut fresh = buffer.filled();
            while !fresh.is_empty() {
                match self.poll_write(cx, writer, fresh)? {
                    Poll::Ready(taken) => fresh = fresh.get(taken..).unwrap_or_default(),
                    Poll::Pending => {
                        self.pending = Bytes::copy_from_slice(fresh);
                        return Poll::Pending;
                    }
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_write<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut W,
        bytes: &[u8],
    ) -> Poll<Result<usize, PumpFault>> {
        let taken = match ready!(Pin::new(writer).poll_write(cx, bytes)) {
            Ok(0) => return Poll::Ready(Err(PumpFault::Write(io::ErrorKind::WriteZero))),
            Ok(taken) => taken.min(bytes.len()),
            Err(error) => return Poll::Ready(Err(PumpFault::Write(error.kind()))),
        };
        self.unflushed = true;
        self.bytes += taken as u64;
        if let Some(frames) = &mut self.frames {
            frames.advance(bytes.get(..taken).unwrap_or_default());
        }
        Poll::Ready(Ok(taken))
    }

    /// There is nothing to read for now, so written bytes have to leave. Never ready.
    fn poll_flush<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut W,
    ) -> Poll<Result<(), PumpFault>> {
        if self.unflushed {
            match ready!(Pin::new(writer).poll_flush(cx)) {
                Ok(()) => self.unflushed = false,
                Err(error) => return Poll::Ready(Err(PumpFault::Write(error.kind()))),
            }
        }
        Poll::Pending
    }
}

// === impl Scratch ===

impl Scratch {
    fn take() -> Self {
        // A reader that is itself made of a tunnel finds the slot empty and gets a buffer of its
        // own.
        Self(SCRATCH.take().unwrap_or_else(|| vec![0; CHUNK].into_boxed_slice()))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        SCRATCH.set(Some(std::mem::take(&mut self.0)));
    }
}
