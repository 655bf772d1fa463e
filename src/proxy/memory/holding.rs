//! What one client connection holds, in cells that its own thread writes. The sums go to the
//! [`Account`].

use std::cell::{Cell, OnceCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::sync::Notify;

use super::account::Account;
use super::rule::{
    CONNECTION, ChargedTo, ConnectionReach, FORWARDED, HTTP2, STREAM, STREAM_UPLOAD,
    STREAM_UPLOADS, TLS, UPLOAD,
};

/// One connection's part in the [`Account`], returned on drop.
#[derive(Debug)]
pub(crate) struct Holding {
    account: Arc<Account>,
    /// Notified when room has to be made before the next look at all connections.
    pressed: Rc<Notify>,
    holder: Cell<ChargedTo>,
    reach: Cell<ConnectionReach>,
    tls: Cell<bool>,
    /// HTTP/2 only: what its streams still have to send.
    unsent: OnceCell<Arc<UnsentAnswers>>,
    streams: Cell<u64>,
    /// What the kernel holds for a client that takes nothing.
    send_buffer: Cell<u64>,
    /// Bytes as booked, in all and as a stranger.
    booked: Cell<u64>,
    booked_stranger: Cell<u64>,
}

/// Pieces of answers that HTTP/2 has accepted and not sent.
#[derive(Debug, Default)]
pub(crate) struct UnsentAnswers {
    bytes: AtomicU64,
    pieces: AtomicU64,
}

/// One such piece: counted until its sender drops it.
struct UnsentPiece {
    piece: Bytes,
    all: Arc<UnsentAnswers>,
}

/// What the connection's other cells say when its part is worked out.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct InUse {
    /// Bytes of an incomplete head.
    pub(crate) head: u64,
    /// Requests over HTTP/1, or a tunnel.
    pub(crate) running: u64,
    pub(crate) is_uploading: bool,
    pub(crate) is_blocked: bool,
}

/// The size of the buffer that a head begins in.
const LEAST_HEAD: u64 = 8 << 10;

/// Between two looks, a part is booked again only when it has grown by this much: short requests
/// cost nothing.
const STEP: u64 = 16 << 10;

// === impl Holding ===

impl Holding {
    pub(crate) fn new(account: &Arc<Account>, pressed: &Rc<Notify>) -> Self {
        Self {
            account: Arc::clone(account),
            pressed: Rc::clone(pressed),
            holder: Cell::default(),
            reach: Cell::default(),
            tls: Cell::default(),
            unsent: OnceCell::new(),
            streams: Cell::default(),
            send_buffer: Cell::default(),
            booked: Cell::default(),
            booked_stranger: Cell::default(),
        }
    }

    pub(crate) fn account(&self) -> &Account {
        &self.account
    }

    /// Sets the holder of the connection, as soon as it is known.
    pub(crate) fn belongs_to(&self, holder: ChargedTo) {
        self.book_stranger(0);
        self.holder.set(holder);
    }

    pub(crate) fn holder(&self) -> ChargedTo {
        self.holder.get()
    }

    pub(crate) fn with_tls(&self) {
        self.tls.set(true);
    }

    /// The connection speaks HTTP/2.
    pub(crate) fn with_http2(&self) -> Arc<UnsentAnswers> {
        Arc::clone(self.unsent.get_or_init(Arc::default))
    }

    /// A request went through. Once admitted, a connection stays admitted.
    pub(crate) fn rises_to(&self, reach: ConnectionReach) {
        self.reach.set(self.reach.get().max(reach));
    }

    pub(crate) fn is_admitted(&self) -> bool {
        self.reach.get() == ConnectionReach::Admitted
    }

    pub(crate) fn stream_begins(&self) {
        self.streams.set(self.streams.get() + 1);
    }

    pub(crate) fn stream_ends(&self) {
        self.streams.set(self.streams.get().saturating_sub(1));
    }

    /// The client takes nothing: the kernel holds this much for it.
    pub(crate) fn blocked_with(&self, send_buffer: u64) {
        self.send_buffer.set(send_buffer);
    }

    fn bytes(&self, used: InUse) -> u64 {
        let reaches_service = self.reach.get() > ConnectionReach::Stranger;
        let mut sum = CONNECTION;
        // The buffers double while they are filled with a head.
        if used.head > 0 {
            sum += (used.head * 2).max(LEAST_HEAD);
        }
        if self.tls.get() {
            sum += TLS;
        }
        if let Some(unsent) = self.unsent.get() {
            let bytes = unsent.bytes.load(Ordering::Relaxed);
            // A stream whose last piece waits no longer has a task.
            let streams = self.streams.get().max(unsent.pieces.load(Ordering::Relaxed));
            let each = if reaches_service { FORWARDED } else { STREAM };
            sum += HTTP2 + streams * each + bytes;
            if used.is_uploading && reaches_service {
                sum += (streams * STREAM_UPLOAD).min(STREAM_UPLOADS);
            }
        } else {
            if reaches_service {
                sum += used.running * FORWARDED;
            }
            if used.is_uploading && reaches_service {
                sum += UPLOAD;
            }
        }
        if used.is_blocked {
            sum += self.send_buffer.get();
        }
        sum
    }

    /// Books what it holds now. Returns it.
    pub(crate) fn settle(&self, used: InUse) -> u64 {
        let now = self.bytes(used);
        self.book(now);
        now
    }

    /// As [`Holding::settle`], if it is much more than before. In that case, returns whether its
    /// address has to give something up.
    pub(crate) fn grows(&self, used: InUse) -> bool {
        let now = self.bytes(used);
        if now < self.booked.get() + STEP {
            return false;
        }
        self.book(now);
        if self.account.is_pressed() {
            self.pressed.notify_one();
        }
        !self.is_admitted() && self.account.is_over_share(self.holder.get())
    }

    /// It is about to end: what it holds no longer counts.
    pub(crate) fn let_go(&self) {
        self.book(0);
    }

    fn book(&self, now: u64) {
        let before = self.booked.replace(now);
        if before != now {
            self.account.book(before, now);
        }
        self.book_stranger(if self.is_admitted() { 0 } else { now });
    }

    fn book_stranger(&self, now: u64) {
        let before = self.booked_stranger.replace(now);
        self.account.book_stranger(self.holder.get(), before, now);
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.let_go();
    }
}

// === impl UnsentAnswers ===

impl UnsentAnswers {
    /// The same bytes, counted until they are dropped.
    pub(crate) fn count(self: &Arc<Self>, piece: Bytes) -> Bytes {
        self.bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
        self.pieces.fetch_add(1, Ordering::Relaxed);
        Bytes::from_owner(UnsentPiece { piece, all: Arc::clone(self) })
    }
}

// === impl UnsentPiece ===

impl AsRef<[u8]> for UnsentPiece {
    fn as_ref(&self) -> &[u8] {
        &self.piece
    }
}

impl Drop for UnsentPiece {
    fn drop(&mut self) {
        self.all.bytes.fetch_sub(self.piece.len() as u64, Ordering::Relaxed);
        self.all.pieces.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MemoryBudget;

    fn holding(account: &Arc<Account>, last: u8) -> Holding {
        let holding = Holding::new(account, &Rc::default());
        holding.belongs_to(ChargedTo::Address([192, 0, 2, last].into()));
        holding
    }

    #[test]
    fn everything_is_given_back() {
        let account = Arc::new(Account::new(MemoryBudget::Bytes(8 << 20), None));
        let one = holding(&account, 1);
        let unsent = one.with_http2();
        one.with_tls();
        one.stream_begins();
        let bare = one.settle(InUse::default());
        let piece = unsent.count(Bytes::from(vec![0; 5000]));
        assert_eq!(one.settle(InUse::default()), bare + 5000);
        one.stream_ends();
        assert_eq!(one.settle(InUse::default()), bare + 5000, "its last piece still waits");
        drop(piece);
        assert_eq!(one.settle(InUse::default()), bare - STREAM);
        assert_eq!(account.shown().bytes, bare - STREAM);
        one.rises_to(ConnectionReach::Admitted);
        one.settle(InUse::default());
        drop(one);
        assert_eq!(account.shown().bytes, 0);
    }

    #[test]
    fn growth_is_booked_at_once_and_shows_who_has_too_much() {
        // A quarter of it is 2 MiB.
        let account = Arc::new(Account::new(MemoryBudget::Bytes(8 << 20), None));
        let head = |bytes| InUse { head: bytes, ..InUse::default() };
        let (one, other) = (holding(&account, 1), holding(&account, 2));
        other.settle(InUse::default());
        assert!(!one.grows(head(1000)), "not yet worth it");
        assert!(!one.grows(head(500 << 10)));
        assert!(one.grows(head(1100 << 10)), "over its quarter");
        assert!(account.is_over_share(one.holder()) && !account.is_over_share(other.holder()));
        one.rises_to(ConnectionReach::Admitted);
        assert!(!one.grows(head(2000 << 10)), "what is admitted has no share");
        assert!(!account.is_over_share(one.holder()));
        one.let_go();
        assert!(account.shown().bytes < 64 << 10);
    }
}
