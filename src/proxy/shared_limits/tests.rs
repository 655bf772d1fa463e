//! Many sidecars in one process, each with the lease code and its own connection, against one real
//! redis-server.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::LocalSet;

use super::run::{LeaseRun, prepare};
use super::{SharedCharge, SharedLimits, StoreSettings};
use crate::clock::Clock;
use crate::config::{SharedConfig, StoreNode, StoreTopology};
use crate::core::charge::{ChargedCaller, ChargedLimits};
use crate::core::{Charge, KeyId, Limit};
use crate::proxy::limits::LimitStore;
use crate::telemetry::Metrics;

#[allow(dead_code, clippy::disallowed_methods, reason = "the words of other tests")]
#[path = "../../../tests/it/support/redis.rs"]
mod redis_server;

use self::redis_server::RedisServer;

/// One of many sidecars.
struct FleetMember {
    limits: Arc<SharedLimits>,
    stop: tokio::sync::oneshot::Sender<()>,
}

fn config(port: u16, lease: Duration) -> SharedConfig {
    SharedConfig {
        store: StoreTopology::Single(StoreNode::Tcp { host: "127.0.0.1".into(), port }),
        user: None,
        password_file: None,
        database: 0,
        tls: None,
        lease,
        // Long enough that nobody falls back on a busy machine.
        timeout: Duration::from_secs(30),
        fallback_share: 0.25,
        replicas: 0,
    }
}

/// To be called inside a [`LocalSet`].
fn member(number: usize, config: &SharedConfig, clock: &Clock, metrics: &Metrics) -> FleetMember {
    let settings = StoreSettings {
        config: config.clone(),
        tls: None,
        audience: "tests".into(),
        instance: number.to_string().into(),
        clock: clock.clone(),
    };
    let (limits, seed) = prepare(settings, &Arc::<LimitStore>::default(), metrics);
    let (stop, stopped) = tokio::sync::oneshot::channel();
    tokio::task::spawn_local(async move { LeaseRun::new(seed).run(stopped).await });
    FleetMember { limits, stop }
}

/// Whether one request is admitted.
async fn admits(limits: &Arc<SharedLimits>, limit: Limit, clock: &Clock) -> bool {
    let id = KeyId::parse("key_a").unwrap();
    let charge = Charge {
        caller: ChargedCaller::Key(id),
        org: "acme",
        cost: 1,
        limits: ChargedLimits::PerKey(limit),
    };
    match limits.charge(&charge, clock.now()) {
        SharedCharge::Done(result) => result.is_ok(),
        SharedCharge::Waits(wait) => {
            let outcome = wait.outcome().await;
            limits.charge_after(outcome, &charge, clock.now()).is_ok()
        }
    }
}

/// What `count` sidecars admit of a limit in `rounds` of a request to each, one after the other.
fn fleet(count: usize, limit: &str, rounds: usize) -> (u32, f64, u32) {
    let redis = RedisServer::start(&["--maxclients", "4000"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let (clock, metrics) = (Clock::system(), Metrics::new(1));
        let config = config(redis.port(), Duration::from_millis(200));
        let mut members: Vec<FleetMember> = Vec::new();
        // Not all together: one thread does the work of all.
        while members.len() < count {
            let next = members.len()..count.min(members.len() + 50);
            members.extend(next.map(|n| member(n, &config, &clock, &metrics)));
            while members.iter().any(|member| member.limits.health.is_away()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        let limit = Limit::parse(limit).unwrap();
        let began = clock.now().mono_ns;
        let mut admitted = 0;
        for _ in 0..rounds {
            for member in &members {
                admitted += u32::from(admits(&member.limits, limit, &clock).await);
            }
        }
        let took = (clock.now().mono_ns - began) as f64 / 1e9;
        let last = members.last().map_or(0, |member| member.limits.health.replicas());
        for member in members {
            drop(member.stop);
        }
        (admitted, took, last)
    })
}

#[test]
fn two_thousand_sidecars_hold_one_limit() {
    let (admitted, took, counted) = fleet(2_000, "100/s burst 50", 2);
    let most = 50.0 + 100.0 * took + 1.0;
    assert!(f64::from(admitted) <= most, "{admitted} in {took:.2} s, at most {most:.0}");
    // Each was asked twice, so that demand was far above the limit, unless the machine is slow.
    let due = (50.0 + 100.0 * took).min(4_000.0);
    assert!(f64::from(admitted) >= 0.5 * due, "{admitted} in {took:.2} s of {due:.0}");
    assert!(counted > 1_000, "{counted} were counted by the last");
}

#[test]
fn a_pool_of_many_sidecars_is_used_to_the_last_token() {
    // Twenty sidecars and 200 tokens for a day: the others get what some have in advance.
    let (admitted, ..) = fleet(20, "200/d", 40);
    assert!((190..=201).contains(&admitted), "{admitted}");
}
