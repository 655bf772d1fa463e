//! The queue for connections, without a socket.

use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::{Connector, ExchangeResources, UpstreamPool};
use crate::clock::Clock;
use crate::config::{Config, ThisHost};
use crate::core::Reason;
use crate::telemetry::{UpstreamMeter, WorkerCells};

const CONFIG: &str = concat!(
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/minimal.toml")),
    r#"[[credentials]]
source = "header"
name = "x-api-key"
[[routes]]
path = "/*"
"#
);

fn pool() -> Rc<UpstreamPool> {
    let text = CONFIG.replace("[upstream]", "[upstream]\nmax_connections = 1\nmax_queue = 2");
    let config = Config::parse(&ThisHost, Path::new("keygate.toml"), &text).unwrap();
    let meter = UpstreamMeter::new(Arc::<WorkerCells>::default(), 0);
    let (upstream, timeouts) = (&config.upstream, &config.timeouts);
    let clock = Clock::manual(0);
    let connector = Connector::new(upstream, None, timeouts.connect, clock, meter.clone());
    let resources = ExchangeResources { meter, buffers: Rc::default(), pipes: Rc::default() };
    UpstreamPool::new(connector, upstream, timeouts, 1, resources)
}

/// A waiter may leave between the moment its turn comes and the moment it runs. Its slot must go to
/// the next one, or return. Lost slots would add up until every request is refused.
#[tokio::test]
async fn a_slot_handed_to_a_waiter_that_has_gone_is_not_lost() {
    let pool = pool();
    let cx = &mut Context::from_waker(Waker::noop());
    let first = pool.slot().await.unwrap();
    {
        let mut gone = Box::pin(pool.slot());
        let mut next = pin!(pool.slot());
        assert!(gone.as_mut().poll(cx).is_pending() && next.as_mut().poll(cx).is_pending());
        drop(first);
        drop(gone);
        let Poll::Ready(Ok(second)) = next.as_mut().poll(cx) else { panic!("not handed on") };
        assert_eq!(pool.active.get(), 1);
        drop(second);
    }
    assert_eq!(pool.active.get(), 0, "nobody waits: it goes back");
    // The only waiter leaves.
    let first = pool.slot().await.unwrap();
    {
        let mut gone = Box::pin(pool.slot());
        assert!(gone.as_mut().poll(cx).is_pending());
        drop(first);
        drop(gone);
    }
    assert_eq!(pool.active.get(), 0);
    // Waiters that left before their turn are skipped, and do not fill the queue.
    let first = pool.slot().await.unwrap();
    for _ in 0..5 {
        let mut gone = Box::pin(pool.slot());
        assert!(gone.as_mut().poll(cx).is_pending());
    }
    let mut waits = [Box::pin(pool.slot()), Box::pin(pool.slot())];
    assert!(waits.iter_mut().all(|w| w.as_mut().poll(cx).is_pending()));
    assert!(matches!(pool.slot().await, Err(Reason::Overloaded)));
    drop(first);
    assert!(waits[0].as_mut().poll(cx).is_ready(), "in turn");
}
