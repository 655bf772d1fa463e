//! The handle that ends a tunnel from elsewhere on its thread.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// How a tunnel is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelCut {
    /// Immediately, without a goodbye.
    Abrupt,
    /// With a WebSocket close frame where the framing allows one. Otherwise like
    /// [`TunnelCut::Abrupt`].
    Close { code: u16, reason: &'static str },
}

/// Ends the tunnel that polls it. All clones are the same handle.
#[derive(Clone, Debug, Default)]
pub struct Stop(Rc<StopState>);

#[derive(Debug, Default)]
struct StopState {
    cut: Cell<Option<TunnelCut>>,
    waker: RefCell<Option<Waker>>,
}

// === impl Stop ===

impl Stop {
    pub fn new() -> Self {
        Self::default()
    }

    /// The first cut counts. The tunnel is woken, whether or not its client reads.
    pub fn cut(&self, cut: TunnelCut) {
        if self.0.cut.get().is_some() {
            return;
        }
        self.0.cut.set(Some(cut));
        let waker = self.0.waker.borrow_mut().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Ready once cut. Until then, the cut will wake the task.
    pub fn poll_cut(&self, cx: &mut Context<'_>) -> Poll<TunnelCut> {
        if let Some(cut) = self.0.cut.get() {
            return Poll::Ready(cut);
        }
        let mut waker = self.0.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}
