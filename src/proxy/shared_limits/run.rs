//! What the thread `shared-limits` does: it sends questions to the store, in batches of those that
//! have accumulated, and passes the answers to the book and to the waiting requests. Imports
//! `clock`, `config`, `telemetry`.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use metrics::Counter;
use smallvec::SmallVec;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use super::SharedLimits;
use super::ask::{LeaseAsk, StoreAnswer, TokensInHand};
use super::book::LeaseBook;
use super::health::StoreHealth;
use super::names::BucketNames;
use super::script::StoreCall;
use super::settings::StoreSettings;
use super::store::{StoreFault, StoreLink, StoreReply};
use crate::clock::Clock;
use crate::proxy::limits::LimitStore;
use crate::telemetry::Metrics;
use crate::telemetry::control::StoreResult;

/// The most questions that wait to be sent. Beyond it, requests use this sidecar's share.
const QUEUE: usize = 8_192;

/// The most questions that are sent together.
const BATCH: usize = 256;

/// How often a sidecar reports that it is there. One that misses three reports counts as gone.
const COUNT_EVERY: Duration = Duration::from_secs(10);

/// How long a connection, a count or the last return may take.
const PATIENCE: Duration = Duration::from_secs(1);

const FIRST_PROBE: Duration = Duration::from_millis(250);
/// Together with the attempt to connect after it, less than five seconds.
const LAST_PROBE: Duration = Duration::from_secs(4);

/// What a run is made of, on its thread.
pub(super) struct LeaseSeed {
    asks: mpsc::Receiver<LeaseAsk>,
    parts: RunParts,
    settings: StoreSettings,
}

/// The thread's own things.
pub(super) struct LeaseRun {
    asks: mpsc::Receiver<LeaseAsk>,
    link: Option<Rc<StoreLink>>,
    faults: mpsc::UnboundedSender<LinkFault>,
    faulty: mpsc::UnboundedReceiver<LinkFault>,
    /// The number of the link, counting all links that there were.
    generation: u64,
    parts: Rc<RunParts>,
    settings: StoreSettings,
    /// How long until the next attempt, while the store is away.
    pause: Duration,
    next_probe: Instant,
}

/// A fault of a link. A fault of a link that was given up says nothing about the next one.
struct LinkFault {
    generation: u64,
    fault: StoreFault,
}

/// What the tasks of single batches need in addition.
struct RunParts {
    book: Arc<LeaseBook>,
    health: Arc<StoreHealth>,
    names: BucketNames,
    clock: Clock,
    metrics: Metrics,
    results: [Counter; StoreResult::ALL.len()],
    timeout: Duration,
}

/// What workers charge, and what the thread begins with.
pub(super) fn prepare(
    settings: StoreSettings,
    own: &Arc<LimitStore>,
    metrics: &Metrics,
) -> (Arc<SharedLimits>, LeaseSeed) {
    let config = &settings.config;
    let (sender, asks) = mpsc::channel(QUEUE);
    let control = metrics.control();
    let health = Arc::new(StoreHealth::new(
        config.replicas,
        config.fallback_share,
        control.shared_limits_up(),
        control.shared_limits_fallback(),
        control.shared_limits_requests(StoreResult::Timeout),
    ));
    let book = Arc::<LeaseBook>::default();
    let names = BucketNames::new(&settings.audience);
    let limits = SharedLimits {
        book: Arc::clone(&book),
        health: Arc::clone(&health),
        names: names.clone(),
        asks: sender,
        lease_ns: u64::try_from(config.lease.as_nanos()).unwrap_or(u64::MAX),
        timeout: config.timeout,
        own: Arc::clone(own),
    };
    let parts = RunParts {
        book,
        health,
        names,
        clock: settings.clock.clone(),
        metrics: metrics.clone(),
        results: StoreResult::ALL.map(|result| control.shared_limits_requests(result)),
        timeout: config.timeout,
    };
    (Arc::new(limits), LeaseSeed { asks, parts, settings })
}

// === impl LeaseRun ===

impl LeaseRun {
    pub(super) fn new(seed: LeaseSeed) -> Self {
        let LeaseSeed { asks, parts, settings } = seed;
        let (faults, faulty) = mpsc::unbounded_channel();
        Self {
            asks,
            link: None,
            faults,
            faulty,
            generation: 0,
            parts: Rc::new(parts),
            settings,
            pause: FIRST_PROBE,
            next_probe: Instant::now(),
        }
    }

    /// Runs until it is stopped.
    pub(super) async fn run(&mut self, mut stopped: oneshot::Receiver<()>) {
        let lease = self.settings.config.lease;
        let look = lease.max(Duration::from_millis(50));
        let mut idle = interval_at(Instant::now() + look, look);
        idle.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut count = interval_at(Instant::now() + COUNT_EVERY, COUNT_EVERY);
        count.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(BATCH);
        let health = Arc::clone(&self.parts.health);
        loop {
            tokio::select! {
                biased;
                _ = &mut stopped => break,
                Some(met) = self.faulty.recv() => self.failed(&met),
                () = health.found_away.notified() => self.begin_probing(),
                () = tokio::time::sleep_until(self.next_probe), if health.is_away() => {
                    tokio::select! {
                        _ = &mut stopped => break,
                        () = self.probe() => {}
                    }
                }
                _ = idle.tick() => self.give_back(2 * lease),
                _ = count.tick(), if !health.is_away() => self.count(),
                received = self.asks.recv_many(&mut batch, BATCH) => {
                    if received == 0 {
                        break;
                    }
                    self.put(std::mem::take(&mut batch));
                }
            }
        }
        self.leave().await;
    }

    /// Sends questions in one write. The answers are awaited while the next questions are sent.
    fn put(&self, asks: Vec<LeaseAsk>) {
        let parts = Rc::clone(&self.parts);
        let Some(link) = self.link.clone().filter(|_| !parts.health.is_away()) else {
            return parts.all_failed(asks);
        };
        let (faults, generation) = (self.faults.clone(), self.generation);
        tokio::task::spawn_local(async move {
            let now = parts.clock.now();
            let call = |ask: &LeaseAsk| StoreCall::lease(&ask.buckets, now);
            let calls: Vec<_> = asks.iter().map(call).collect();
            let replies = link.call(calls).await;
            for (mut ask, reply) in asks.into_iter().zip(replies) {
                match reply {
                    Ok(reply) => parts.answered(&mut ask, &reply),
                    Err(fault) => {
                        parts.failed(&mut ask);
                        if fault.means_away() {
                            // Nobody hears it when the thread ends.
                            let _ = faults.send(LinkFault { generation, fault });
                        }
                    }
                }
            }
        });
    }

    /// One error is enough to give up the link.
    fn failed(&mut self, met: &LinkFault) {
        if met.generation == self.generation {
            self.parts.health.leave(&met.fault.to_string());
            // By now, another server may be the right one.
            self.link = None;
        }
    }

    fn begin_probing(&mut self) {
        self.pause = FIRST_PROBE;
        self.next_probe = Instant::now() + FIRST_PROBE;
    }

    /// Checks whether the store answers again. If it was slow once, asks again immediately: this
    /// thread may not have had a turn.
    async fn probe(&mut self) {
        let result = match timeout(PATIENCE, self.try_again()).await {
            Ok(result) => result,
            Err(_) => Err(StoreFault::Silent),
        };
        match result {
            Ok(()) => {
                self.parts.health.is_back();
            }
            Err(fault) => {
                self.parts.health.leave(&fault.to_string());
                if !matches!(fault, StoreFault::Slow) {
                    self.link = None;
                }
                let jitter = 0.75
                    + 0.25 * f64::from(self.parts.clock.now().mono_ns as u32) / f64::from(u32::MAX);
                self.next_probe = Instant::now() + self.pause.mul_f64(jitter);
                self.pause = (2 * self.pause).min(LAST_PROBE);
            }
        }
    }

    async fn try_again(&mut self) -> Result<(), StoreFault> {
        let link = match &self.link {
            Some(link) => Rc::clone(link),
            None => {
                let link = Rc::new(StoreLink::connect(&self.settings).await?);
                self.generation += 1;
                self.link = Some(Rc::clone(&link));
                link
            }
        };
        link.look_around().await?;
        let mut attempts = 3;
        loop {
            let began = Instant::now();
            let replicas = self.parts.count(&link, &self.settings).await?;
            self.counted(replicas);
            attempts -= 1;
            match began.elapsed() <= self.parts.timeout {
                true => return Ok(()),
                false if attempts == 0 => return Err(StoreFault::Slow),
                false => {}
            }
        }
    }

    fn counted(&self, replicas: u32) {
        if self.settings.config.replicas == 0 {
            self.parts.health.counted(replicas);
        }
    }

    fn count(&self) {
        let Some(link) = self.link.clone() else { return };
        let (parts, faults) = (Rc::clone(&self.parts), self.faults.clone());
        let generation = self.generation;
        let is_counted = self.settings.config.replicas == 0;
        let call = StoreCall::count(&parts.names.replicas(), &self.settings.instance);
        tokio::task::spawn_local(async move {
            let counted = timeout(PATIENCE, async {
                link.look_around().await?;
                let reply = link.call_one(call).await?;
                reply.number().ok_or(StoreFault::Strange)
            });
            match counted.await.unwrap_or(Err(StoreFault::Silent)) {
                Ok(replicas) if is_counted => parts.health.counted(replicas),
                Ok(_) => {}
                Err(fault) => {
                    let _ = faults.send(LinkFault { generation, fault });
                }
            }
        });
    }

    /// Returns what has not been used for this long. Never repeated, because it may have arrived
    /// without our knowledge.
    fn give_back(&self, idle: Duration) {
        let idle_ns = u64::try_from(idle.as_nanos()).unwrap_or(u64::MAX);
        let Some(link) = self.link.clone().filter(|_| !self.parts.health.is_away()) else { return };
        let idle = self.parts.book.take_idle(idle_ns, self.parts.clock.now());
        if idle.is_empty() {
            return;
        }
        let calls: Vec<_> =
            idle.iter().map(|(bucket, tokens)| StoreCall::give_back(bucket, *tokens)).collect();
        tokio::task::spawn_local(async move {
            // The next question will meet the same error.
            let _ = link.call(calls).await;
        });
    }

    /// Returns everything, and is no longer counted.
    async fn leave(&mut self) {
        self.asks.close();
        while let Ok(mut ask) = self.asks.try_recv() {
            self.parts.failed(&mut ask);
        }
        let Some(link) = self.link.take().filter(|_| !self.parts.health.is_away()) else { return };
        // Tokens asked for now are taken when the answer arrives, and are returned too.
        let _ = timeout(PATIENCE, async {
            while Rc::strong_count(&self.parts) > 1 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
        let mut calls: Vec<_> = self
            .parts
            .book
            .take_idle(0, self.parts.clock.now())
            .iter()
            .map(|(bucket, tokens)| StoreCall::give_back(bucket, *tokens))
            .collect();
        calls.push(StoreCall::uncount(&self.parts.names.replicas(), &self.settings.instance));
        let _ = timeout(PATIENCE, link.call(calls)).await;
    }
}

// === impl RunParts ===

impl RunParts {
    async fn count(&self, link: &StoreLink, settings: &StoreSettings) -> Result<u32, StoreFault> {
        let call = StoreCall::count(&self.names.replicas(), &settings.instance);
        link.call_one(call).await?.number().ok_or(StoreFault::Strange)
    }

    fn all_failed(&self, asks: Vec<LeaseAsk>) {
        for mut ask in asks {
            self.failed(&mut ask);
        }
    }

    /// It is unknown what the store has done.
    fn failed(&self, ask: &mut LeaseAsk) {
        for asked in &ask.buckets {
            self.book.with(&asked.bucket, self.clock.now(), |leased| {
                leased.unanswered(asked.want);
            });
        }
        let is_awaited = ask.waiter.is_none() || ask.answer(StoreAnswer::Failed).is_ok();
        if is_awaited {
            self.count_result(StoreResult::Error);
        }
    }

    /// The store has granted all that is needed, or refused. Tokens that arrive too late for the
    /// request are kept for the next one.
    fn answered(&self, ask: &mut LeaseAsk, reply: &StoreReply) {
        let now = self.clock.now();
        let took = Duration::from_nanos(now.mono_ns.saturating_sub(ask.asked_ns));
        if took <= self.timeout {
            self.health.answered();
        }
        self.metrics.control().shared_limits_duration(took);
        let quotas = ask.buckets.iter().map(|asked| asked.bucket.span.is_some());
        let Some(granted) = reply.lease(quotas) else { return self.failed(ask) };
        let is_awaited = ask.waiter.is_some();
        let (result, told) = match granted.is_granted {
            true => {
                let mut hand = TokensInHand::new(&self.book);
                for (asked, (taken, state)) in ask.buckets.iter().zip(&granted.buckets) {
                    let kept = taken.saturating_sub(asked.need);
                    self.book.with(&asked.bucket, now, |leased| {
                        // A day or month that is over grants nothing any more.
                        let kept = if leased.span() == asked.bucket.span { kept } else { 0 };
                        leased.granted(*state, asked.want, kept, now.mono_ns);
                    });
                    self.book.list(&asked.bucket, now);
                    hand.add(&asked.bucket, asked.need.min(*taken));
                }
                (StoreResult::Granted, ask.answer(StoreAnswer::Granted(hand)))
            }
            false => {
                let mut waits = SmallVec::<[_; 4]>::new();
                for (asked, (_, state)) in ask.buckets.iter().zip(&granted.buckets) {
                    self.book.with(&asked.bucket, now, |leased| {
                        leased.refused(*state, asked.want, now.mono_ns);
                    });
                    waits.push(asked.wait(*state, now));
                }
                // The store answers in whole microseconds: less than one may be missing.
                if waits.iter().all(Option::is_none) {
                    waits.fill(Some(Duration::from_millis(1)));
                }
                (StoreResult::Refused, ask.answer(StoreAnswer::Refused(waits)))
            }
        };
        // A question that no request waits for any more was counted when its time was over.
        if told.is_ok() || !is_awaited {
            self.count_result(result);
        }
    }

    fn count_result(&self, result: StoreResult) {
        if let Some(counter) = self.results.get(result as usize) {
            counter.increment(1);
        }
    }
}
