//! A request body of declared length, read from the same connection that its answer goes to: the
//! writer of the answer and the body share it.

use std::cell::{Cell, RefCell, RefMut};
use std::io;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker, ready};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::AsyncReadExt;

use super::error::BodyError;
use crate::proxy::net::io::Io;
use crate::proxy::net::pipe::Pipe;

/// A client's connection that is read without hyper.
#[derive(Debug)]
pub(crate) struct Wire {
    io: RefCell<Io>,
    /// Bytes of the running request's body that were not read yet.
    body_left: Cell<u64>,
    /// Reading the body has failed: the client has left.
    broken: Cell<bool>,
    /// Wakes the reader that waits for more of the body.
    reader: RefCell<Option<Waker>>,
}

/// The body of the request that is being answered. Ends with the connection, which it does not own.
pub(crate) struct Inflow {
    wire: Weak<Wire>,
    /// The part that arrived with the head.
    first: Bytes,
    /// Bytes that were not read yet.
    left: u64,
    /// Size of the next read. Grows while reads fill it.
    room: usize,
}

/// Size of the first read of a body, and the largest size, in bytes.
const FIRST_READ: usize = 16 * 1024;
const LARGEST_READ: usize = 256 * 1024;

// === impl Wire ===

impl Wire {
    pub(crate) fn new(io: Io) -> Rc<Self> {
        let (body_left, broken, reader) = (Cell::new(0), Cell::new(false), RefCell::default());
        Rc::new(Self { io: RefCell::new(io), body_left, broken, reader })
    }

    /// Do not hold it across a poll of a body.
    pub(crate) fn io(&self) -> RefMut<'_, Io> {
        self.io.borrow_mut()
    }

    /// Takes the connection back. A body that still exists somewhere reads nothing more.
    pub(crate) fn into_io(self: Rc<Self>) -> Option<Io> {
        let wire = Rc::into_inner(self)?;
        // The connection no longer wakes it.
        if let Some(reader) = wire.reader.take() {
            reader.wake();
        }
        Some(wire.io.into_inner())
    }

    /// The body of the next request to answer: `first`, and `left` more bytes.
    pub(crate) fn body(self: &Rc<Self>, first: Bytes, left: u64) -> Inflow {
        self.body_left.set(left);
        Inflow { wire: Rc::downgrade(self), first, left, room: FIRST_READ }
    }

    /// Whether bytes of a body are still to come before the next request.
    pub(crate) fn owes_body(&self) -> bool {
        self.body_left.get() > 0
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.broken.get()
    }

    /// The client has left in the middle of its body, which also ends the answer.
    fn break_off(&self) {
        self.broken.set(true);
        self.io.borrow().activity().wake();
    }
}

opaque!(Inflow);

// === impl Inflow ===

impl Inflow {
    /// Bytes still to come.
    pub(super) fn left(&self) -> u64 {
        self.left.saturating_add(self.first.len() as u64)
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.left() == 0
    }

    pub(super) fn can_move(&self) -> bool {
        self.first.is_empty() && self.wire.upgrade().is_some_and(|wire| wire.io.borrow().can_move())
    }

    /// The next bytes. Pending for ever once the client has gone, or has closed its sending side.
    ///
    /// # Errors
    /// `Truncated`: the connection belongs to somebody else by now.
    pub(super) fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, BodyError>>> {
        if !self.first.is_empty() {
            return Poll::Ready(Some(Ok(std::mem::take(&mut self.first))));
        }
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let Some(wire) = self.wire.upgrade() else {
            return Poll::Ready(Some(Err(BodyError::Truncated)));
        };
        let most = self.room.min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let mut read = BytesMut::with_capacity(most).limit(most);
        let result = pin!(wire.io.borrow_mut().read_buf(&mut read)).poll(cx);
        let count = ready!(self.note_read(&wire, result, cx));
        if count == self.room {
            self.room = (self.room * 2).min(LARGEST_READ);
        }
        Poll::Ready(Some(Ok(read.into_inner().freeze())))
    }

    /// As [`Self::poll_data`], into an empty `pipe`.
    ///
    /// # Errors
    /// `Unmoved`: the bytes have to be read instead.
    pub(super) fn poll_move(
        &mut self,
        most: u64,
        pipe: &mut Pipe,
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, BodyError>> {
        let wire = self.wire.upgrade().filter(|_| self.first.is_empty() && self.left > 0);
        let Some(wire) = wire else { return Poll::Ready(Err(BodyError::Unmoved)) };
        let most = usize::try_from(most.min(self.left)).unwrap_or(usize::MAX);
        let result = wire.io.borrow_mut().poll_take(pipe, most, cx);
        if let Poll::Ready(Err(error)) = &result
            && error.kind() == io::ErrorKind::Unsupported
        {
            return Poll::Ready(Err(BodyError::Unmoved));
        }
        self.note_read(&wire, result, cx).map(Ok)
    }

    /// Records the result of a read of the body. Pending: nothing has arrived, and `cx` is woken
    /// when something does.
    fn note_read(
        &mut self,
        wire: &Wire,
        read: Poll<io::Result<usize>>,
        cx: &Context<'_>,
    ) -> Poll<usize> {
        match read {
            Poll::Ready(Ok(count @ 1..)) => {
                self.left = self.left.saturating_sub(count as u64);
                wire.body_left.set(self.left);
                return Poll::Ready(count);
            }
            Poll::Ready(Err(_)) => wire.break_off(),
            Poll::Ready(Ok(_)) | Poll::Pending => {}
        }
        let mut reader = wire.reader.borrow_mut();
        if !reader.as_ref().is_some_and(|reader| reader.will_wake(cx.waker())) {
            *reader = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}
