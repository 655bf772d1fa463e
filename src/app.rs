//! Composition root: configuration → running sidecar → its end. Nothing else knows how the parts
//! meet.

mod address_lock;
mod cgroup;
mod inherited;
mod notify;
mod prepare;
mod signals;
mod watchers;

use std::cell::Cell;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use self::address_lock::{AddressLock, AddressLockError};
use self::inherited::{Inherited, InheritedError};
use self::notify::Notifier;
use self::prepare::bind_hint;
pub use self::prepare::{PreparedStart, prepare};
use self::signals::{BlockingStage, Signals};
use self::watchers::Watchers;
use crate::admin::{
    self, Admin, AdminAccess, AdminDoor, AdminState, AdminToken, AdminTokenError, CertificateStatus,
};
use crate::check;
use crate::clock::Clock;
use crate::config::{self, Bind, Config, Noted, Settings, Sharing, ThisHost};
use crate::exit::Exit;
use crate::proxy::tls::ServerTls;
use crate::proxy::{
    self, Bound, BoundSocket, LimitStore, Load, MemoryAccount, Phase, Seed, Shared,
};
use crate::reload::{self, Hooks, LoadFailure, Reconfigured, Reloader, StatusCell, Time, Unusable};
use crate::snapshot::{Snapshot, Store};
use crate::telemetry::log::{LogError, OperatorLog};
use crate::telemetry::{AccessLog, AccessLogs, Metrics, Readiness};

/// Why the sidecar did not start. One message, with the remedy; each kind has its exit code.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{0}")]
    AdminToken(#[from] AdminTokenError),
    #[error("{0}")]
    AccessLog(#[from] crate::telemetry::access::AccessLogError),
    #[error("cannot bind {what} {address}: {source}\nhint: {hint}")]
    Bind { what: &'static str, address: String, source: io::Error, hint: String },
    #[error("{0}")]
    AddressLock(#[from] AddressLockError),
    #[error("{0}")]
    Config(#[from] config::ConfigError),
    #[error("{0}")]
    Inherited(#[from] InheritedError),
    #[error("{0}")]
    Log(#[from] LogError),
    #[error("cannot catch signals: {0}")]
    Signals(io::Error),
    #[error("cannot start a thread: {0}")]
    Thread(#[from] io::Error),
    #[error("{0}")]
    Keys(#[from] reload::FirstLoadError),
}

/// A running sidecar.
#[derive(Debug)]
pub struct Running {
    /// Where each listener is bound, in the order of the configuration; `None`: a Unix socket.
    pub addresses: Vec<Option<SocketAddr>>,
    pub admin: SocketAddr,
    /// The second admin listener, where one is configured.
    pub public_admin: Option<SocketAddr>,
    phase: Arc<watch::Sender<Phase>>,
    workers: Vec<JoinHandle<()>>,
    access: Option<AccessLogs>,
    admin_handle: Admin,
    readiness: Readiness,
    delay: Duration,
    deadline: Duration,
    clock: Clock,
    limits: Arc<LimitStore>,
    watchers: Watchers,
    reloader: Reloader,
    status: StatusCell,
    /// Whether the sockets of clients, all of them, and of the admin listener outlive the process.
    outlived: Outlived,
    _address_locks: Vec<AddressLock>,
    /// Dropped last, when nobody logs any more.
    log: Option<Arc<OperatorLog>>,
}

/// From the end of the drain to the end of the process, however slowly a disk or the reader of the
/// logs answers.
const LAST: Duration = Duration::from_secs(5);

/// What a start may take before somebody ends it: a table from a server that does not answer may be
/// waited for without end.
const NO_LIMIT: Duration = Duration::from_secs(u32::MAX as u64);

/// Which sockets outlive the process: a successor takes new connections at once, so nothing is
/// gained by accepting any longer.
#[derive(Clone, Debug, Default)]
struct Outlived {
    /// All of them.
    clients: bool,
    doors: Vec<AdminDoor>,
}

/// Loads the configuration, starts, serves until the end. The whole of `keygate serve`.
pub fn serve(file: &Path) -> Exit {
    // First of all: it changes the environment, and there is no second thread yet.
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
            // What is left may wait for a disk, or for a reader of the logs that reads no more.
            let _ = signals.unless_told(BlockingStage::Stop, LAST, move || running.stop());
            Exit::Ok
        }
        Ok(Some(Err(failed))) => {
            let exit = failed.exit();
            let _ = signals.unless_told(BlockingStage::LastWords, LAST, move || failed.say());
            exit
        }
        // Told to end before there was anything to drain.
        Ok(None) => Exit::Ok,
        Err(error) => StartError::Thread(error).exit(),
    }
}

/// A start by the configuration in `file`, with the log of the process.
fn start(file: &Path, inherited: Inherited) -> Result<Running, StartError> {
    let prepared = prepare(file, &Clock::system())?;
    let config = &prepared.config;
    let metrics = Metrics::new(config.workers.count);
    let log = crate::telemetry::log::start(config.log.format, config.log.level, &metrics)?;
    for finding in check::notes(config) {
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
    let PreparedStart { mut config, file, clock, listener_tls, upstream_tls } = prepared;
    // What the file says: `config` is fitted to this machine and taken apart below, and a reload
    // compares with the whole.
    let running = config.clone();
    fit_descriptors(&mut config);
    let readiness = Readiness::new();
    let upstream_ready =
        config.upstream.health_path.as_ref().map(|_| readiness.register("upstream"));
    let Config { listeners, upstream, timeouts, caps, http2, drain, settings, .. } = config;
    let mut reloadable: Vec<Arc<dyn proxy::tls::Reloadable>> = Vec::new();
    reloadable.extend(listener_tls.iter().flatten().map(|tls| Arc::clone(tls) as Arc<_>));
    reloadable.extend(upstream_tls.iter().map(|tls| Arc::clone(tls) as Arc<_>));
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
    // Before anything listens: from then on the kernel may send clients here.
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

    let loaded = reload::load_first(&config.table, clock.clone(), metrics.clone(), &readiness)?;
    let status = loaded.status();
    metrics.control().audience_info(&config.table.audience).set(1);
    let settings = Arc::new(settings);
    let route_slots = route_slots(&metrics, &settings);
    let store = Arc::new(Store::new(Snapshot { settings, keys: loaded.keys(), route_slots }));

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
    let (delay, deadline) = (drain.delay, drain.deadline);
    let shared = Arc::new(Shared {
        clock: clock.clone(),
        store,
        dropped_names: Default::default(),
        limits: Arc::clone(&limits),
        upstream,
        upstream_tls,
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
        hooks(file, running, metrics.clone()),
    )?;
    let mut watchers = Watchers::default();
    let certificates = certificate_status(&reloadable, &clock);
    watchers.certificates(reloadable, &clock, &metrics)?;
    watchers.health(&shared, upstream_ready)?;

    let leave = Arc::clone(&phase);
    let admin_handle = admin::serve(
        admin_listener,
        public_listener,
        AdminState {
            metrics: metrics.clone(),
            readiness: readiness.clone(),
            status: status.clone(),
            certificates,
            clock: clock.clone(),
            log: log.clone(),
            drain: Box::new(move || advance(&leave, Phase::Leaving)),
            access: AdminAccess { hosts: config.admin.hosts, token },
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
        watchers,
        reloader,
        status,
        outlived,
        _address_locks: address_locks,
        log,
    };
    running.announce();
    Ok(running)
}

/// What `/status` says of the certificates in force at the time it is asked.
fn certificate_status(
    targets: &[Arc<dyn proxy::tls::Reloadable>],
    clock: &Clock,
) -> Box<dyn Fn() -> Vec<CertificateStatus> + Send + Sync> {
    let (targets, clock) = (targets.to_vec(), clock.clone());
    Box::new(move || {
        let now = clock.now();
        // Before 1970 there is nothing to tell apart.
        let time = |unix| Time::of_secs(u64::try_from(unix).unwrap_or(0));
        let all = targets.iter().flat_map(|target| target.certificates());
        all.map(|certificate| CertificateStatus {
            not_before: time(certificate.not_before()),
            expires: time(certificate.expires()),
            valid: certificate.is_valid(now),
            name: certificate.name,
        })
        .collect()
    })
}

/// The metric slot of each route, by its index.
fn route_slots(metrics: &Metrics, settings: &Settings) -> Box<[u32]> {
    settings.policy.routes.iter().map(|route| metrics.intern_route(&route.id)).collect()
}

/// What the reload thread does when the configuration file changes. `running` is what this process
/// was started with; what differs from it outside the settings needs a restart.
fn hooks(file: PathBuf, running: Config, metrics: Metrics) -> Hooks {
    let watched = running.watched_files();
    let audience = Cell::new(running.table.audience.clone());
    let reconfigure = move || {
        let host = Noted::new(&ThisHost);
        let next = match Config::load_on(&host, &file) {
            Ok(next) => next,
            Err(error) => return Err(Unusable { error: error.to_string(), files: host.files() }),
        };
        for finding in check::notes(&next) {
            tracing::warn!("{}", finding.text());
        }
        let control = metrics.control();
        control.audience_info(&audience.replace(next.table.audience.clone())).set(0);
        control.audience_info(&next.table.audience).set(1);
        let needs_restart = config::needs_restart(&running, &next);
        let needs_restart = needs_restart.into_iter().map(str::to_owned).collect();
        let watched = next.watched_files();
        let settings = Arc::new(next.settings);
        let route_slots = route_slots(&metrics, &settings);
        Ok(Reconfigured { settings, route_slots, table: next.table, watched, needs_restart })
    };
    Hooks { reconfigure: Box::new(reconfigure), files: Vec::new(), watched }
}

/// Where other processes of this user may listen as well, they must be of the same audience.
fn lock_addresses(
    listeners: &[config::Listener],
    table: &config::TableConfig,
) -> Result<Vec<AddressLock>, StartError> {
    let mut locks = Vec::new();
    for listener in listeners.iter().filter(|listener| listener.sharing == Sharing::SameUser) {
        // Port 0 is a port of our own. The configuration was refused if there is no state file.
        if let (Bind::Tcp(address), Some(state_file)) = (&listener.bind, &table.state_file)
            && address.port() != 0
        {
            locks.push(AddressLock::take(state_file, *address, &table.audience)?);
        }
    }
    Ok(locks)
}

/// Each listener takes its certificates and its socket; without one it is bound.
fn bind_all(
    listeners: &[config::Listener],
    sockets: Vec<Option<BoundSocket>>,
    tls: Vec<Option<Arc<ServerTls>>>,
    metrics: &Metrics,
) -> Result<(Vec<proxy::Listening>, Vec<Option<SocketAddr>>), StartError> {
    let mut listening = Vec::new();
    let mut addresses = Vec::new();
    for ((listener, socket), tls) in listeners.iter().zip(sockets).zip(tls) {
        let name = match &listener.bind {
            Bind::Tcp(address) => address.to_string(),
            Bind::Unix(path) => format!("unix:{}", path.display()),
        };
        let slot = metrics.intern_listener(&name);
        let listen = |bound| proxy::listen(bound, listener, slot, tls);
        let bound = match socket {
            Some(socket) => Ok(Bound::Inherited(socket)),
            None => proxy::bind(listener),
        };
        let (bound, address) = bound.and_then(listen).map_err(|source| {
            let hint = bind_hint(&listener.bind, &source);
            StartError::Bind { what: "the listener", address: name, source, hint }
        })?;
        listening.push(bound);
        addresses.push(address);
    }
    Ok((listening, addresses))
}

fn bind_admin(
    bind: SocketAddr,
    families: config::Families,
    sharing: Sharing,
) -> Result<TcpListener, StartError> {
    /// As std does.
    const BACKLOG: i32 = 128;
    let bound = proxy::bind_tcp(bind, families, sharing);
    let listening = bound.and_then(|socket| {
        socket.listen(BACKLOG)?;
        Ok(TcpListener::from(socket))
    });
    listening.map_err(|source| StartError::Bind {
        what: "the admin listener",
        address: bind.to_string(),
        hint: bind_hint(&Bind::Tcp(bind), &source),
        source,
    })
}

/// `core`: the one to keep the worker on, if any.
fn start_worker(seed: Seed, core: Option<usize>) -> io::Result<JoinHandle<()>> {
    let index = seed.index;
    std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
        if let Some(core) = core {
            pin_to(core);
        }
        if let Err(error) = proxy::run(seed) {
            tracing::error!(%error, worker = index, "a worker could not start");
        }
    })
}

/// Keeps this thread on one core, so that its caches stay warm.
fn pin_to(core: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(core);
    if let Err(error) = rustix::thread::sched_setaffinity(None, &set) {
        tracing::warn!(%error, core, "cannot pin a worker to its core");
    }
}

/// Raises the limit of file descriptors to what the configured connections need, or lowers the cap
/// on connections to what the limit allows: past it clients are turned away, not left hanging.
fn fit_descriptors(config: &mut Config) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    /// Files and sockets of no client's.
    const OURS: u64 = 128;
    let ours = OURS + (config.workers.count * crate::proxy::PIPE_DESCRIPTORS) as u64;
    let limit = getrlimit(Resource::Nofile);
    let upstream = config.upstream.max_connections as u64;
    let wanted = (config.caps.connections as u64).saturating_add(upstream).saturating_add(ours);
    let Some(now) = limit.current.filter(|now| *now < wanted) else { return };
    let most = limit.maximum.map_or(wanted, |max| max.min(wanted));
    let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(most), ..limit }).is_ok();
    let have = if raised { most } else { now };
    if have >= wanted {
        return;
    }
    let fits = have.saturating_sub(upstream.saturating_add(ours)).max(have / 2);
    config.caps.connections = usize::try_from(fits).unwrap_or(usize::MAX);
    tracing::warn!(
        descriptors = have,
        connections = fits,
        "fewer file descriptors than limits.connections needs; taking fewer connections\n\
         hint: raise the limit (LimitNOFILE, ulimit -n) or lower limits.connections"
    );
}

fn random() -> io::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|_| io::Error::other("the operating system gives no random bytes"))?;
    Ok(bytes)
}

/// A phase is never left backwards.
fn advance(phase: &watch::Sender<Phase>, to: Phase) {
    phase.send_if_modified(|now| {
        let forward = *now < to;
        *now = to.max(*now);
        forward
    });
}

// === impl Running ===

impl Running {
    fn announce(&self) {
        let addresses: Vec<_> = self
            .addresses
            .iter()
            .map(|a| a.map_or_else(|| "unix".to_owned(), |a| a.to_string()))
            .collect();
        tracing::info!(
            addresses = addresses.join(","),
            admin = %self.admin,
            public_admin = self.public_admin.map(tracing::field::display),
            version = env!("KEYGATE_VERSION"),
            "listening"
        );
    }

    /// Where clients connect, for tests with port 0.
    pub fn address(&self) -> Option<SocketAddr> {
        self.addresses.iter().flatten().next().copied()
    }

    /// Begins to leave, as SIGTERM does: un-ready now, and after the delay no new connections.
    pub fn leave(&self) {
        advance(&self.phase, Phase::Leaving);
    }

    fn is_leaving(&self) -> bool {
        *self.phase.borrow() >= Phase::Leaving
    }

    /// Waits until somebody asks to leave.
    pub async fn left(&self) {
        let mut phase = self.phase.subscribe();
        // The sender is ours, so it cannot be gone.
        let _ = phase.wait_for(|p| *p >= Phase::Leaving).await;
    }

    /// From un-ready to the end: delay, drain, cut. `hurry` ends it at once.
    pub async fn drain(&self, hurry: impl Future<Output = ()>) {
        self.leave();
        self.readiness.drain();
        // What is in force here is written down by the successor from now on.
        self.reloader.leave();
        for door in &self.outlived.doors {
            self.admin_handle.leave(*door);
        }
        // Load balancers see an address that goes on being served: there is nothing to notice.
        let delay = if self.outlived.clients { Duration::ZERO } else { self.delay };
        tracing::info!(
            delay_ms = delay.as_millis() as u64,
            deadline_ms = self.deadline.as_millis() as u64,
            "draining"
        );
        let ordered = async {
            tokio::time::sleep(delay).await;
            advance(&self.phase, Phase::Draining);
            let end = tokio::time::Instant::now() + self.deadline;
            while !self.workers.iter().all(JoinHandle::is_finished) {
                if tokio::time::Instant::now() >= end {
                    tracing::warn!("drain deadline passed; cutting what still runs");
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            () = ordered => {}
            () = hurry => tracing::warn!("second termination signal; cutting what still runs"),
        }
        advance(&self.phase, Phase::Cutting);
    }

    /// Ends what is left once the workers have.
    pub fn stop(self) {
        advance(&self.phase, Phase::Cutting);
        for worker in self.workers {
            // A panic of a worker was reported by the panic hook.
            let _ = worker.join();
        }
        // The state file first: nothing else that may take its time is of use to the next start.
        self.reloader.stop();
        self.watchers.stop();
        self.admin_handle.stop();
        if let Some(access) = self.access {
            access.stop();
        }
        tracing::info!("stopped");
        drop(self.log);
    }

    /// Housekeeping off the workers; called about once a minute.
    fn upkeep(&self) {
        self.limits.sweep(self.clock.now());
    }

    /// SIGHUP: everything that comes from a file is looked at again, and logs that were rotated away
    /// are opened anew.
    /// Returns when configuration, table and patch were looked at.
    async fn reload(&self) {
        let looked = self.reloader.trigger();
        self.watchers.look_now();
        self.reopen_logs();
        // Where the thread is gone, the process is about to end.
        let _ = looked.await;
    }

    /// Whether there is nothing to wait for before clients are sent here: a table is in force. The
    /// health of the upstream is its own matter, and a predecessor's as well.
    fn serves(&self) -> bool {
        self.status.load().table.is_some()
    }

    /// One line for the service manager.
    fn summary(&self) -> String {
        let status = self.status.load();
        let mut line = match (&status.table, &status.patch) {
            (None, _) => "waiting for a table".to_owned(),
            (Some(table), None) => format!("serving by table {}", table.serial),
            (Some(table), Some(patch)) => {
                format!("serving by table {} and patch {}", table.serial, patch.serial)
            }
        };
        if let Some(error) = &status.config.error {
            let first = error.lines().next().unwrap_or_default();
            line.push_str(&format!("; the configuration stays as it was: {first}"));
        }
        line
    }

    /// SIGUSR1: logs that were rotated away are opened anew. Standard error stays what it is.
    fn reopen_logs(&self) {
        if let Some(access) = &self.access {
            access.reopen();
        }
    }
}

// === impl StartError ===

impl StartError {
    pub fn exit(&self) -> Exit {
        match self {
            Self::AccessLog(_) | Self::AddressLock(_) | Self::Bind { .. } => Exit::CannotCreate,
            Self::AdminToken(_) | Self::Config(_) | Self::Inherited(_) | Self::Log(_) => {
                Exit::Config
            }
            // `keygatectl table verify` tells refusals apart; a start says only that the data is bad.
            Self::Keys(reload::FirstLoadError::Keys {
                failure: LoadFailure::Refused(_), ..
            }) => Exit::Data,
            Self::Keys(error) => Exit::from_code(error.exit()),
            Self::Signals(_) | Self::Thread(_) => Exit::Internal,
        }
    }

    /// On standard error, as there may be no log yet.
    fn say(&self) {
        use std::io::Write as _;
        // Nothing can be done about a standard error that is closed.
        let _ = writeln!(io::stderr(), "error: {self}");
    }
}

#[cfg(test)]
mod tests;
