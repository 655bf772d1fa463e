//! The body of the admin listener's answers: a page, or the usage record while it is being read.
//! Imports `meter`.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use crate::meter::UsePages;

/// The body of an answer of the admin listener.
pub(super) enum AdminBody {
    Page(Full<Bytes>),
    Usage(UsageBody),
    /// The last page was sent.
    End,
}

/// A usage record. Each of its pages waits for its turn among all pages on all connections: a probe
/// waits for two or three, however many clients read.
pub(super) struct UsageBody {
    /// Adds the next page to a buffer. False: it was the last one.
    next_page: Box<NextPage>,
    turns: Arc<Semaphore>,
    /// The turn for the next page, once it was requested. Nobody closes the semaphore.
    turn: Option<Pin<Box<TurnComes>>>,
}

type NextPage = dyn FnMut(&mut Vec<u8>) -> bool + Send;

type TurnComes = dyn Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send;

// === impl UsageBody ===

impl UsageBody {
    pub(super) fn new(mut pages: UsePages, turns: &Arc<Semaphore>) -> Self {
        Self::of(move |page| pages.next_page(page), turns)
    }

    fn of(
        next_page: impl FnMut(&mut Vec<u8>) -> bool + Send + 'static,
        turns: &Arc<Semaphore>,
    ) -> Self {
        let (next_page, turns) = (Box::new(next_page), Arc::clone(turns));
        Self { next_page, turns, turn: None }
    }

    /// The next page that is not empty, or the last one.
    fn poll_page(&mut self, context: &mut Context<'_>) -> Poll<(Vec<u8>, PageOrder)> {
        loop {
            let turns = &self.turns;
            let turn = self.turn.get_or_insert_with(|| {
                let turn = Arc::clone(turns).acquire_owned();
                Box::pin(async {
                    let turn = turn.await;
                    // Still holding the turn: whoever waits for the thread is served before the
                    // page.
                    tokio::task::yield_now().await;
                    turn
                })
            });
            let _turn = ready!(turn.as_mut().poll(context));
            self.turn = None;
            let mut page = Vec::new();
            let order = match (self.next_page)(&mut page) {
                true => PageOrder::More,
                false => PageOrder::Last,
            };
            if !page.is_empty() || order == PageOrder::Last {
                return Poll::Ready((page, order));
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PageOrder {
    Last,
    More,
}

impl Body for AdminBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        let usage = match this {
            Self::Page(page) => return Pin::new(page).poll_frame(context),
            Self::Usage(usage) => usage,
            Self::End => return Poll::Ready(None),
        };
        let (page, order) = ready!(usage.poll_page(context));
        if order == PageOrder::Last {
            *this = Self::End;
        }
        match page.is_empty() {
            true => Poll::Ready(None),
            false => Poll::Ready(Some(Ok(Frame::data(page.into())))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Page(page) => page.is_end_stream(),
            Self::Usage(_) => false,
            Self::End => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Page(page) => page.size_hint(),
            Self::Usage(_) | Self::End => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http_body_util::BodyExt as _;

    use super::*;

    /// Ten readers of a hundred pages each, every second page empty, and a probe that arrives last.
    #[test]
    fn a_probe_waits_for_no_more_than_a_few_pages_of_usage() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (turns, made) = (Arc::new(Semaphore::new(1)), Arc::new(AtomicUsize::new(0)));
        let (most, bytes) = runtime.block_on(async {
            let readers: Vec<_> = (0..10)
                .map(|_| {
                    let (made, mut left) = (Arc::clone(&made), 100);
                    let next = move |page: &mut Vec<u8>| {
                        made.fetch_add(1, Ordering::Relaxed);
                        left -= 1;
                        page.extend((left % 2 == 0).then_some(b'\n'));
                        left > 0
                    };
                    let body = AdminBody::Usage(UsageBody::of(next, &turns));
                    tokio::spawn(async move { body.collect().await.unwrap().to_bytes().len() })
                })
                .collect();
            let made = Arc::clone(&made);
            // A task, like a connection.
            let probes = tokio::spawn(async move {
                let mut most = 0;
                for _ in 0..100 {
                    let before = made.load(Ordering::Relaxed);
                    tokio::spawn(async {}).await.unwrap();
                    most = most.max(made.load(Ordering::Relaxed) - before);
                }
                most
            });
            let most = probes.await.unwrap();
            let mut bytes = 0;
            for reader in readers {
                bytes += reader.await.unwrap();
            }
            (most, bytes)
        });
        assert_eq!((bytes, made.load(Ordering::Relaxed)), (500, 1000), "nothing is lost");
        assert!(most <= 3, "a probe waited for {most} pages");
    }

    /// A reader that takes nothing must not hold the turn.
    #[test]
    fn the_turn_is_free_while_a_page_is_on_its_way() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let turns = Arc::new(Semaphore::new(1));
        runtime.block_on(async {
            let body = || {
                AdminBody::Usage(UsageBody::of(
                    |page| {
                        page.push(b'x');
                        true
                    },
                    &turns,
                ))
            };
            let (mut slow, mut quick) = (body(), body());
            assert!(slow.frame().await.is_some());
            for _ in 0..3 {
                assert!(quick.frame().await.is_some());
            }
            assert_eq!(turns.available_permits(), 1);
        });
    }
}
