//! A worker's thread: it starts, listens, checks running streams against every new snapshot, looks
//! at deadlines and drains.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::canary::Canaries;
use super::client::listener::{self, Listening};
use super::ids::Ids;
use super::net::accepted::Accepted;
use super::net::io::CutReason;
use super::streams::RecheckNeed;
use super::worker::{Date, Phase, Shared, Worker};
use super::worker_upstream::{ExchangeRoom, UpstreamTerms, WorkerUpstream};
use crate::core::Now;
use crate::meter::UseProbe;
use crate::telemetry::{AccessLog, WorkerCells};

/// What a worker thread is started with.
#[derive(Debug)]
pub struct Seed {
    pub index: usize,
    pub shared: Arc<Shared>,
    pub cells: Arc<WorkerCells>,
    pub access: AccessLog,
    pub uses: UseProbe,
    pub listening: Vec<Listening>,
    pub handed: mpsc::UnboundedReceiver<Accepted>,
    /// For [`Ids`].
    pub random: [u8; 16],
}

/// Runs a worker until the process has drained.
pub fn run(seed: Seed) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build_local(tokio::runtime::LocalOptions::default())?;
    runtime.block_on(serve(seed));
    Ok(())
}

async fn serve(seed: Seed) {
    let Seed { index, shared, cells, access, uses, listening, handed, random } = seed;
    let room = ExchangeRoom::default();
    let with = UpstreamTerms {
        timeouts: &shared.timeouts,
        clock: &shared.clock,
        workers: shared.load.workers(),
        cells: &cells,
        room: &room,
    };
    let upstream = WorkerUpstream::new(0, &shared.upstream, &with);
    let named = shared.upstreams.iter().zip(1..);
    let upstreams =
        named.map(|(named, index)| Rc::new(WorkerUpstream::new(index, named, &with))).collect();
    let worker = Rc::new(Worker {
        index,
        clock: shared.clock.clone(),
        cells,
        access,
        uses,
        connections: Rc::default(),
        streams: Rc::default(),
        buffers: room.buffers,
        upstream,
        upstreams,
        keeps_case: shared.keeps_case(),
        ids: Ids::new(random),
        closing: Cell::new(false),
        draining: Cell::new(false),
        canaries: Canaries::default(),
        tokens: Default::default(),
        labels: RefCell::default(),
        date: Date::default(),
        shared,
    });
    let has_successor = listening.iter().any(Listening::outlives_us);
    for one in listening {
        tokio::task::spawn_local(listener::accept(Rc::clone(&worker), one));
    }
    tokio::task::spawn_local(listener::take_handed(Rc::clone(&worker), handed));
    tokio::task::spawn_local(watch_snapshots(Rc::clone(&worker)));
    let ticks = tokio::task::spawn_local(tick(Rc::clone(&worker)));
    drain(&worker, if has_successor { FIRST_HEADS } else { Duration::ZERO }).await;
    ticks.abort();
    worker.access.flush();
    worker.canaries.log_noted();
    worker.uses.hand_on();
}

/// Checks running streams against every new snapshot.
pub(crate) async fn watch_snapshots(worker: Rc<Worker>) {
    let mut swaps = worker.shared.store.subscribe();
    while swaps.changed().await.is_ok() {
        recheck_streams(&worker, worker.clock.now());
    }
}

fn recheck_streams(worker: &Worker, now: Now) {
    let snapshot = worker.shared.store.load();
    let keys = worker.shared.store.issuers();
    for reason in worker.streams.recheck(&snapshot, &keys, now) {
        worker.cells.stream_ended(reason);
    }
}

/// Looks at all deadlines of the worker. The interval sets their precision: an eighth of the
/// shortest time-out, at most half a second.
async fn tick(worker: Rc<Worker>) {
    let timeouts = &worker.shared.timeouts;
    let shortest = [
        timeouts.header,
        timeouts.body,
        timeouts.idle,
        timeouts.write,
        timeouts.half_closed,
        timeouts.first_byte,
        timeouts.upstream_idle,
        timeouts.total.unwrap_or(Duration::MAX),
        timeouts.response_idle.unwrap_or(Duration::MAX),
    ]
    .into_iter()
    .min()
    .unwrap_or(Duration::MAX);
    let every = (shortest / 8).clamp(Duration::from_millis(5), Duration::from_millis(500));
    let mut interval = tokio::time::interval(every);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let write_ns = timeouts.write.as_nanos() as u64;
    loop {
        // Keys end on time, whatever the interval.
        tokio::select! {
            _ = interval.tick() => {}
            () = worker.streams.next_expiry(&worker.clock) => {}
            () = worker.connections.pressed() => {}
        }
        let now = worker.clock.now();
        worker.connections.sweep(now.mono_ns, timeouts);
        worker.settle_memory();
        let sweep = worker.streams.sweep(now, write_ns);
        for reason in sweep.ended {
            worker.cells.stream_ended(reason);
        }
        if sweep.recheck == RecheckNeed::ObservingEnded {
            recheck_streams(&worker, now);
        }
        if let Some(keys) = &worker.shared.store.load().keys {
            worker.streams.touch_some(&**keys, now);
        }
        worker.all_upstreams().for_each(|upstream| upstream.pool.sweep(now.mono_ns));
        worker.access.flush();
        worker.canaries.log_noted();
        worker.uses.hand_on();
        worker.report_load();
    }
}

/// Waits until the process is to end, then drains this worker. `grace`: for clients that have
/// connected but sent nothing yet.
async fn drain(worker: &Rc<Worker>, grace: Duration) {
    let mut phase = worker.shared.phase.clone();
    // The sender lives as long as the app. If it is gone, so is the app.
    let _ = phase.wait_for(|p| *p >= Phase::Draining).await;
    worker.closing.set(true);
    // Requests that the kernel accepted before we stopped accepting must not find a closed
    // connection: they get this long to be read.
    tokio::time::sleep(LAST_HEADS.min(worker.shared.drain.deadline)).await;
    let gone = async {
        while worker.connections.count() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    // With a successor, nobody waits for this process to end.
    let _ = tokio::time::timeout(grace.min(worker.shared.drain.deadline), gone).await;
    worker.draining.set(true);
    worker.connections.wake_all();
    let empty = async {
        while worker.connections.count() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let cut = phase.wait_for(|p| *p >= Phase::Cutting);
    tokio::select! {
        () = empty => return,
        _ = cut => {}
    }
    worker.connections.cut_all(CutReason::Drain);
    // The tasks notice this at their next poll. Resets need no time.
    for _ in 0..50 {
        if worker.connections.count() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

const LAST_HEADS: Duration = Duration::from_millis(100);

/// With a successor: a client whose connection was accepted shortly before must not find it closed,
/// however busy its machine is.
const FIRST_HEADS: Duration = Duration::from_secs(2);
