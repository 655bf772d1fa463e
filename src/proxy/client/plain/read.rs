//! What was read from a client and not answered yet, and whether the client is still there.

use std::io;
use std::pin::pin;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes};
use tokio::io::AsyncReadExt;

use crate::proxy::body::Wire;
use crate::proxy::net::buffers::{BUFFER, Buffers};
use crate::proxy::net::io::CutReason;
use crate::proxy::request::connection::ClientConnection;
use crate::proxy::worker::Worker;

/// What was read from the client and not answered yet.
pub(super) struct Read<'w> {
    /// Has no capacity between two requests: an idle connection holds no buffer.
    pub(super) bytes: Vec<u8>,
    /// Bytes of the request that is being answered.
    pub(super) used: usize,
    /// Bytes that were searched without finding a whole head.
    pub(super) looked_at: usize,
    buffers: &'w Buffers,
}

/// Why nobody wants an answer any more.
pub(super) enum AnswerAbort {
    /// The client has reset the connection, or the answer broke off.
    Broken,
    Cut(CutReason),
}

// === impl Read ===

impl<'w> Read<'w> {
    /// With nothing read.
    pub(super) fn new(buffers: &'w Buffers) -> Self {
        Self { bytes: Vec::new(), used: 0, looked_at: 0, buffers }
    }

    /// The bytes after the request that is being answered.
    fn ahead(&self) -> &[u8] {
        self.bytes.get(self.used..).unwrap_or_default()
    }

    /// Whether it holds bytes of a request that is not answered yet.
    pub(super) fn holds_more(&self) -> bool {
        !self.bytes.is_empty()
    }

    /// Everything, for another reader.
    pub(super) fn take(&mut self) -> Bytes {
        self.used = 0;
        std::mem::take(&mut self.bytes).into()
    }

    pub(super) fn answered(&mut self) {
        let used = std::mem::take(&mut self.used);
        self.looked_at = 0;
        self.bytes.drain(..used.min(self.bytes.len()));
        self.let_go();
    }

    fn let_go(&mut self) {
        if self.bytes.is_empty() {
            self.buffers.give_back(std::mem::take(&mut self.bytes));
        }
    }

    /// Whether a head may have ended since the last search. Otherwise a client that sends byte by
    /// byte would make us read the same bytes again and again.
    pub(super) fn may_be_whole(&self) -> bool {
        let fresh = self.bytes.get(self.looked_at..).unwrap_or_default();
        self.looked_at == 0 || fresh.contains(&b'\n')
    }

    /// Reads more after the bytes that are there, up to `most` bytes in all. Never called without
    /// space for them.
    pub(super) fn poll_more(
        &mut self,
        wire: &Wire,
        most: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if self.bytes.capacity() == 0 {
            self.bytes = self.buffers.take();
        }
        let room = most.saturating_sub(self.bytes.len());
        let mut io = wire.io();
        let result = pin!(io.read_buf(&mut (&mut self.bytes).limit(room))).poll(cx);
        self.let_go();
        result
    }
}

impl Drop for Read<'_> {
    fn drop(&mut self) {
        self.buffers.give_back(std::mem::take(&mut self.bytes));
    }
}

/// Whether to stop waiting for the answer or writing it: the client has gone, or the connection has
/// to end. (That the client has only closed its sending side shows in
/// [`crate::proxy::net::io::Activity`].) Reads ahead at most once.
pub(super) fn poll_abort(
    worker: &Worker,
    client: &ClientConnection,
    wire: &Wire,
    read: &mut Read<'_>,
    cx: &mut Context<'_>,
) -> Poll<AnswerAbort> {
    if let Poll::Ready(cut) = client.activity.poll_cut(cx) {
        return Poll::Ready(AnswerAbort::Cut(cut));
    }
    if let Poll::Ready(cut) = client.poll_abandoned(&worker.streams) {
        return Poll::Ready(AnswerAbort::Cut(cut));
    }
    if wire.is_broken() {
        return Poll::Ready(AnswerAbort::Broken);
    }
    // Once the answer is complete, further bytes are the next request, whose time has not started.
    // Before the end of the body, they are the body.
    if client.activity.running.get() > 0
        && !wire.owes_body()
        && read.ahead().is_empty()
        && read.bytes.len() < BUFFER
        && let Poll::Ready(Err(_)) = read.poll_more(wire, BUFFER, cx)
    {
        return Poll::Ready(AnswerAbort::Broken);
    }
    Poll::Pending
}
