//! What the store is asked for, and what it has granted: tokens in the hand of one request, which
//! return to the lease unless the request uses them. Imports `core`.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::book::LeaseBook;
use super::bucket::StoreState;
use super::names::StoreBucket;
use crate::core::Now;

/// What is asked for from one bucket.
#[derive(Clone, Debug)]
pub(super) struct AskedBucket {
    pub(super) bucket: Arc<StoreBucket>,
    /// Without it, the request is refused.
    pub(super) need: u32,
    /// In advance: this much more, if available.
    pub(super) want: u32,
    /// For a quota: what the store has to learn, as [`super::bucket::LeasedBucket::tell`] returns
    /// it.
    pub(super) told: (u64, u64, u32),
}

/// One question: all buckets of one request.
#[derive(Debug)]
pub(super) struct LeaseAsk {
    pub(super) buckets: SmallVec<[AskedBucket; 2]>,
    /// The request that waits for the answer. `None`: it is for later requests.
    pub(super) waiter: Option<oneshot::Sender<StoreAnswer>>,
    /// When it was asked, on the clock of [`crate::core::Now::mono_ns`].
    pub(super) asked_ns: u64,
}

/// The answer to a question that a request waits for.
#[derive(Debug)]
pub(super) enum StoreAnswer {
    Granted(TokensInHand),
    /// How long each bucket makes it wait, in their order. `None`: the bucket has enough.
    Refused(SmallVec<[Option<Duration>; 4]>),
    /// The store cannot answer.
    Failed,
}

/// Tokens taken for one request. What it does not use is for others.
pub(super) struct TokensInHand {
    book: Arc<LeaseBook>,
    taken: SmallVec<[(Arc<StoreBucket>, u32); 2]>,
}

// === impl AskedBucket ===

impl AskedBucket {
    /// How long until the bucket has what is needed. `None`: it has it.
    pub(super) fn wait(&self, state: StoreState, now: Now) -> Option<Duration> {
        let limit = self.bucket.of.limit;
        let ahead_ns = match state {
            StoreState::Ahead(ahead_ns) => ahead_ns,
            StoreState::Counts { taken, back } => {
                let left = u64::from(limit.count()).saturating_sub(taken.saturating_sub(back));
                let span = self.bucket.span.filter(|_| left < u64::from(self.need));
                return span.map(|span| span.left(now));
            }
        };
        let needed_ns = limit.interval_ns().saturating_mul(u64::from(self.need));
        let wait_ns = ahead_ns.saturating_add(needed_ns).saturating_sub(limit.tolerance_ns());
        (wait_ns > 0).then(|| Duration::from_nanos(wait_ns))
    }
}

// === impl LeaseAsk ===

impl LeaseAsk {
    /// Answers the waiting request. An error: it no longer waits.
    pub(super) fn answer(&mut self, answer: StoreAnswer) -> Result<(), StoreAnswer> {
        match self.waiter.take() {
            Some(waiter) => waiter.send(answer),
            None => Err(answer),
        }
    }
}

// === impl TokensInHand ===

impl TokensInHand {
    pub(super) fn new(book: &Arc<LeaseBook>) -> Self {
        Self { book: Arc::clone(book), taken: SmallVec::new() }
    }

    pub(super) fn add(&mut self, bucket: &Arc<StoreBucket>, tokens: u32) {
        if tokens > 0 {
            self.taken.push((Arc::clone(bucket), tokens));
        }
    }

    /// Adds the other tokens.
    pub(super) fn merge(&mut self, mut other: Self) {
        self.taken.extend(other.taken.drain(..));
    }

    /// The request is admitted.
    pub(super) fn use_up(mut self) {
        self.taken.clear();
    }
}

impl Drop for TokensInHand {
    fn drop(&mut self) {
        for (bucket, tokens) in self.taken.drain(..) {
            self.book.put_back(&bucket, tokens);
        }
    }
}

impl std::fmt::Debug for TokensInHand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokensInHand").field("taken", &self.taken).finish_non_exhaustive()
    }
}
