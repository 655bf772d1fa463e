//! Composition root: configuration → running sidecar → its end. Nothing else knows how the parts
//! are connected.

mod address_lock;
mod assertion;
mod cgroup;
mod error;
mod hooks;
mod inherited;
mod listen;
mod notify;
mod prepare;
mod quotas;
mod running;
mod signals;
mod uses;
mod watchers;
mod workers;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use self::assertion::AssertionKeys;
pub use self::error::StartError;
use self::hooks::{certificate_status, hooks, route_slots, shared_limits_status};
use self::inherited::Inherited;
use self::listen::{bind_admin, bind_all, lock_addresses};
use self::notify::Notifier;
pub use self::prepare::{PreparedStart, prepare};
use self::quotas::QuotaFile;
pub use self::running::Running;
use self::running::{Outlived, advance};
use self::signals::{BlockingStage, Signals};
use self::uses::{instance_name, start_meter, use_book};
use self::watchers::Watchers;
use self::workers::{fit_descriptors, instance_id, random, start_worker};
use crate::admin::{
    self, AdminAccess, AdminDoor, AdminState, AdminToken, ObserveDesk, ProbePassages,
};
use crate::check;
use crate::clock::Clock;
use crate::config::Config;
use crate::exit::Exit;
use crate::exposure::{ExposureCell, ExposureCheck};
use crate::meter::UseProbe;
use crate::observe::ObserveBook;
use crate::proxy::{
    LimitStore, Load, MemoryAccount, Phase, Seed, Shared, SharedLimits, SharedUpstream,
    StoreSettings,
};
use crate::reload::{self, Hooks, IssuerBoard, IssuerParts, UseCounting};
use crate::snapshot::{Snapshot, Store};
use crate::telemetry::control::LogName;
use crate::telemetry::log::{LogTerms, OperatorLog};
use crate::telemetry::{AccessLog, AccessLogs, Metrics, Readiness};
use crate::tls::Reloadable;

/// From the end of the drain to the end of the process, however slow a disk or the reader of the
/// logs is.
const LAST: Duration = Duration::from_secs(5);

/// How long a start may take before it is ended: it may wait without limit for a table from a
/// server that does not answer.
const NO_LIMIT: Duration = Duration::from_secs(u32::MAX as u64);

/// Loads the configuration, starts, and serves until the end: all of `keygate serve`.
pub fn serve(file: &Path) -> Exit {
    // This must be first: it changes the environment, and there is no second thread yet.
    let inherited = Inherited::from_parent();
    let mut signals = match Signals::catch() {
        Ok(signals) => signals,
        Err(error) => {
            let failed = StartError::Signals(error);
            failed.say();
            return failed.exit();
        }
    };
    let file = file.to_owned();
    match signals.unless_told(BlockingStage::Start, NO_LIMIT, move || start(&file, inherited?)) {
        Ok(Some(Ok(running))) => {
            signals.serve(&running, &Notifier::from_environment());
            // The rest may wait for a disk, or for a reader of the logs that no longer reads.
            let _ = signals.unless_told(BlockingStage::Stop, LAST, move || running.stop());
            Exit::Ok
        }
        Ok(Some(Err(failed))) => {
            let exit = failed.exit();
            let _ = signals.unless_told(BlockingStage::LastWords, LAST, move || failed.say());
            exit
        }
        // The process was told to end before there was anything to drain.
        Ok(None) => Exit::Ok,
        Err(error) => StartError::Thread(error).exit(),
    }
}

/// Starts with the configuration in `file`, and with the log of the process.
fn start(file: &Path, inherited: Inherited) -> Result<Running, StartError> {
    let prepared = prepare(file, &Clock::system())?;
    let config = &prepared.config;
    let metrics = Metrics::new(config.workers.count);
    let log = crate::telemetry::log::start(LogTerms {
        format: config.log.format,
        level: config.log.level,
        also: "",
        dropped: metrics.control().log_lines_dropped(LogName::Operator),
    })?;
    for finding in check::notes(config, prepared.clock.now()) {
        tracing::warn!("{}", finding.text());
    }
    build(prepared, metrics, Some(Arc::new(log)), inherited)
}

/// Starts everything. Returns once every listener is bound and a table is in force (or is awaited,
/// if so configured).
fn build(
    prepared: PreparedStart,
    metrics: Metrics,
    log: Option<Arc<OperatorLog>>,
    mut inherited: Inherited,
) -> Result<Running, StartError> {
    let PreparedStart { mut config, file, clock, listener_tls, upstream_tls, store_tls } = prepared;
    // The contents of the file: `config` is fitted to this machine and taken apart below, and a
    // reload compares with the whole.
    let mut running = config.clone();
    // What a reload replaces must be wiped then, and not be kept here for comparison.
    running.settings.assertion = None;
    running.settings.credential = None;
    running.settings.upstreams.clear();
    fit_descriptors(&mut config);
    let readiness = Readiness::new();
    let exposure_check = ExposureCheck::of(&config, &config.upstream);
    let named_checks: Vec<_> = config
        .upstreams
        .iter()
        .map(|named| (named.name.clone(), ExposureCheck::of(&config, &named.config)))
        .collect();
    let upstream_ready =
        config.upstream.health_path.as_ref().map(|_| readiness.register("upstream"));
    let Config { listeners, upstream, upstreams, timeouts, caps, http2, drain, settings, .. } =
        config;
    let mut reloadable: Vec<Arc<dyn Reloadable>> = Vec::new();
    reloadable.extend(listener_tls.iter().flatten().map(|tls| Arc::clone(tls) as Arc<_>));
    reloadable.extend(upstream_tls.iter().flatten().map(|tls| Arc::clone(tls) as Arc<_>));
    reloadable.extend(store_tls.iter().map(|tls| Arc::clone(tls) as Arc<_>));
    metrics.name_upstreams(upstreams.iter().map(|named| named.name.clone()).collect());
    let mut upstream_tls = upstream_tls.into_iter();
    let mut shared_upstream = |name, config| {
        let tls = upstream_tls.next().flatten();
        SharedUpstream { name, config, tls }
    };
    let upstream = shared_upstream(None, upstream);
    let upstreams: Vec<_> = upstreams
        .into_iter()
        .map(|named| shared_upstream(Some(named.name), named.config))
        .collect();
    let binds: Vec<_> = listeners.iter().map(|listener| &listener.bind).collect();
    let sockets = inherited.listeners(&binds);
    let admin = &config.admin;
    let admin_socket = inherited.admin(AdminDoor::Admin, admin.bind)?;
    let public_socket = match admin.public {
        Some(public) => inherited.admin(AdminDoor::Public, public)?,
        None => None,
    };
    inherited.finish()?;
    let doors = [(AdminDoor::Admin, &admin_socket), (AdminDoor::Public, &public_socket)];
    let outlived = Outlived {
        clients: sockets.iter().all(Option::is_some),
        doors: doors.into_iter().filter(|(_, socket)| socket.is_some()).map(|d| d.0).collect(),
    };
    // Before anything listens, because from then on the kernel may send clients here.
    let address_locks = lock_addresses(&listeners, &config.table)?;
    let (listening, addresses) = bind_all(&listeners, sockets, listener_tls, &metrics)?;
    let admin_listener = match admin_socket {
        Some(listener) => listener,
        None => bind_admin(admin.bind, admin.families, admin.sharing)?,
    };
    let public_listener = match (public_socket, admin.public) {
        (Some(listener), _) => Some(listener),
        (None, Some(public)) => Some(bind_admin(public, admin.public_families, admin.sharing)?),
        (None, None) => None,
    };
    let token = admin.token_file.as_deref().map(AdminToken::load).transpose()?;

    let instance = instance_name(&config.usage);
    let loaded = reload::load_first(
        &config.table,
        UseCounting::from(&config.usage),
        clock.clone(),
        metrics.clone(),
        &readiness,
        &instance,
    )?;
    let status = loaded.status();
    metrics.control().audience_info(&config.table.audience).set(1);
    let settings = Arc::new(settings);
    let route_slots = route_slots(&metrics, &settings);
    let keys = loaded.keys();
    let store = Arc::new(Store::new(Snapshot { settings, keys, route_slots }));
    let board = IssuerBoard::default();
    let issuers = IssuerParts {
        store: Arc::clone(&store),
        clock: clock.clone(),
        metrics: metrics.clone(),
        board: board.clone(),
    };
    issuers.load_first();
    let assertion_keys = AssertionKeys::new(&store, clock.clone());
    let uses = use_book(&config.usage, &config.table.audience, &store, &clock)?;

    let access = match config.log.access {
        true => {
            let file = config.log.access_file.as_deref();
            Some(AccessLogs::start(file, config.log.format, &metrics)?)
        }
        false => None,
    };
    let count = config.workers.count.max(1);
    let (handoff, handed): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::unbounded_channel()).unzip();
    let phase = Arc::new(watch::Sender::new(Phase::Serving));
    let limits = Arc::new(LimitStore::default());
    // Before the first request is charged.
    let quota_file = config.quota_file.map(|path| QuotaFile::open(path, &limits, &clock));
    let observed = Arc::new(ObserveBook::default());
    let (shared_limits, shared_limits_thread) = match config.shared {
        None => (None, None),
        Some(store) => {
            let settings = StoreSettings {
                config: store,
                tls: store_tls,
                audience: config.table.audience.clone(),
                instance: instance_id()?,
                clock: clock.clone(),
            };
            let (limits, thread) = SharedLimits::start(settings, &limits, &metrics)?;
            (Some(limits), Some(thread))
        }
    };
    let (delay, deadline) = (drain.delay, drain.deadline);
    let shared = Arc::new(Shared {
        clock: clock.clone(),
        store,
        dropped_names: Default::default(),
        observed: Arc::clone(&observed),
        token_budgets: Default::default(),
        limits: Arc::clone(&limits),
        shared_limits: shared_limits.clone(),
        upstream,
        upstreams,
        timeouts,
        memory: Arc::new(MemoryAccount::new(caps.memory, cgroup::memory_limit())),
        caps,
        http2,
        drain,
        phase: phase.subscribe(),
        load: Arc::new(Load::new(count)),
        handoff,
    });
    let mut workers = Vec::with_capacity(count);
    for (index, handed) in handed.into_iter().enumerate() {
        let seed = Seed {
            index,
            shared: Arc::clone(&shared),
            cells: metrics.worker(index),
            access: access.as_ref().map_or_else(AccessLog::off, AccessLogs::worker),
            uses: UseProbe::new(uses.clone()),
            listening: listening.iter().map(|l| l.share()).collect::<io::Result<_>>()?,
            handed,
            random: random()?,
        };
        workers.push(start_worker(seed, config.workers.pin.then_some(index))?);
    }
    drop(listening);
    let reloader = loaded.start(
        Arc::clone(&shared.store),
        file.clone(),
        Hooks {
            uses: uses.clone(),
            ..hooks(file, running, &clock, metrics.clone(), Arc::clone(&assertion_keys))
        },
    )?;
    let meter = start_meter(uses.as_ref(), config.usage, config.table, &metrics)?;
    let mut watchers = Watchers::default();
    let certificates = certificate_status(&reloadable, &clock);
    watchers.certificates(reloadable, &clock, &metrics)?;
    watchers.issuers(issuers)?;
    if let Some(file) = quota_file {
        watchers.quotas(file)?;
    }
    watchers.health(&shared, upstream_ready, &metrics)?;
    let exposure = ExposureCell::default();
    let gauge = metrics.control().upstream_exposed.clone();
    watchers.exposure(None, exposure_check, exposure.clone(), gauge)?;
    let mut named_exposure = Vec::new();
    for (name, check) in named_checks {
        let (gauge, cell) =
            (metrics.control().named_upstream_exposed(&name), ExposureCell::default());
        gauge.set(-1.0);
        named_exposure.push((name.clone(), cell.clone()));
        watchers.exposure(Some(name), check, cell, gauge)?;
    }

    let leave = Arc::clone(&phase);
    let admin_handle = admin::serve(
        admin_listener,
        public_listener,
        AdminState {
            metrics: metrics.clone(),
            readiness: readiness.clone(),
            status: status.clone(),
            issuers: board,
            exposure,
            named_exposure,
            uses,
            observe: ObserveDesk {
                book: observed,
                store: Arc::clone(&shared.store),
                instance,
                started: clock.now(),
            },
            certificates,
            shared_limits: {
                let limits = shared_limits.clone();
                Box::new(move || limits.as_ref().map(|limits| shared_limits_status(limits)))
            },
            public_keys: Box::new(move || assertion_keys.jwk_set()),
            clock: clock.clone(),
            log: log.clone(),
            drain: Box::new(move || advance(&leave, Phase::Leaving)),
            access: AdminAccess { hosts: config.admin.hosts, token },
            probes: ProbePassages::new(config.admin.probes),
        },
    )?;
    let running = Running {
        admin: admin_handle.address,
        public_admin: admin_handle.public_address,
        addresses,
        phase,
        workers,
        access,
        admin_handle,
        readiness,
        delay,
        deadline,
        clock,
        limits,
        shared_limits,
        shared_limits_thread,
        watchers,
        reloader,
        meter,
        status,
        outlived,
        _address_locks: address_locks,
        log,
    };
    running.announce();
    Ok(running)
}

#[cfg(test)]
mod tests;
