//! The running distributor: its threads, from the start to the last answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, watch};
use tracing_subscriber::EnvFilter;

use super::desk::{DeskOptions, DistributorDesk};
use super::follow::OriginFollower;
use super::options::DistributorOptions;
use super::probes;
use super::serve::{ConnectionBounds, bind, serve};
use super::tokens::FleetTokens;
use crate::config::Sharing;
use crate::exit::Exit;
use crate::manage::error::{Error, Result};
use crate::manage::session::Session;
use crate::reload::UrlSource;
use crate::tls::{Reloadable, ServerTls, Watcher};
use crate::wording::visible::Visible;

/// Pause between two checks of token files and certificate.
const LOOK: Duration = Duration::from_secs(2);

/// Files and sockets other than those of sidecars and followers.
const OURS: u64 = 64;

fn internal(error: std::io::Error) -> Error {
    Error::Added { message: error.to_string(), exit: Exit::Internal }
}

/// Runs until a signal says to stop.
pub(super) fn run(options: DistributorOptions, session: &mut Session) -> Result<()> {
    // A log that nobody reads must not hold up a fleet.
    let (log, _log) = tracing_appender::non_blocking(std::io::stderr());
    let filter = EnvFilter::new("info,hyper=warn");
    // Text from the origin must not control a terminal.
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(move || Visible(log.clone()));
    // Only a test starts a second one in the same process; the first log serves both.
    let _ = log.try_init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_name("distributor")
        .enable_all()
        .build()
        .map_err(internal)?;
    let load = |files| ServerTls::load(files, session.clock.clone());
    let tls = options.tls.as_ref().map(load).transpose().map_err(|why| {
        let hint = "--tls-certificate and --tls-key name the chain and its key";
        Error::Added { message: format!("{why}\nhint: {hint}"), exit: Exit::Config }
    })?;
    let tls = tls.map(Arc::new);
    let watched = tls.iter().map(|tls| Arc::clone(tls) as Arc<dyn Reloadable>);
    let certificates = Watcher::new(watched, session.clock.clone());
    let most = fit_descriptors(options.max_connections, options.artefacts.len() as u64);
    let desk = DistributorDesk::new(DeskOptions {
        artefacts: options.artefacts.clone(),
        fleets: options.fleets.fleets(),
        most_waiting: most,
        access_log: options.access_log,
        tls,
        clock: session.clock.clone(),
    });
    let followers = followers(&options, &desk)?;
    runtime.block_on(async {
        let listener = listen("--listen", options.listen, options.sharing)?;
        let probes = listen("--admin-listen", options.admin_listen, Sharing::Alone)?;
        let mut signals = StopSignals::new().map_err(internal)?;
        let scheme = if desk.tls().is_some() { "https" } else { "http" };
        for (what, listener, scheme) in
            [("listening", &listener, scheme), ("probes and metrics", &probes, "http")]
        {
            let address = listener.local_addr().map_err(internal)?;
            session.output.line(&format!("{what} on {scheme}://{address}"))?;
        }
        session.output.flush()?;
        // Nobody is served before we own the addresses.
        let fell = Arc::new(Notify::new());
        let stop = follow(followers, &fell)?;
        let (close, told) = watch::channel(false);
        // Probes are answered until the process ends.
        let (_end, ended) = watch::channel(false);
        let bounds = ConnectionBounds { most, age: options.connection_age };
        let serving = tokio::spawn(serve(listener, desk.clone(), bounds, told));
        let probing = tokio::spawn(probes::serve(probes, desk.clone(), ended));
        let caring = tokio::spawn(care(desk.clone(), options.fleets, certificates));
        tokio::select! {
            () = signals.wait() => {}
            // Otherwise sidecars would be served ever older files, and nobody would notice.
            () = fell.notified() => {
                let message = "a thread that follows the origin has panicked, see above";
                return Err(Error::Added { message: message.to_owned(), exit: Exit::Internal });
            }
        }
        tracing::info!(within = ?options.drain, "draining");
        desk.leave(options.drain);
        tokio::select! {
            () = tokio::time::sleep(options.drain) => {}
            // A second signal means that the operator does not want to wait.
            () = signals.wait() => {}
        }
        close.send_replace(true);
        tokio::select! {
            // A panic of that task was already reported.
            _ = serving => {}
            () = signals.wait() => {}
        }
        caring.abort();
        probing.abort();
        drop(stop);
        tracing::info!("stopped");
        Ok(())
    })
}

/// SIGTERM, SIGINT and SIGHUP. SIGHUP stops too: the process notices changed files without it.
struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

// === impl StopSignals ===

impl StopSignals {
    fn new() -> std::io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Self { terminate, interrupt, hang_up: signal(SignalKind::hangup())? })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}

fn listen(option: &'static str, address: SocketAddr, sharing: Sharing) -> Result<TcpListener> {
    bind(address, sharing).map_err(|error| {
        let message = format!("cannot listen on {address}: {error}\nhint: {option} names another");
        Error::Added { message, exit: Exit::CannotCreate }
    })
}

/// Opens every URL, so that an unusable CA file shows at the start.
fn followers(options: &DistributorOptions, desk: &DistributorDesk) -> Result<Vec<OriginFollower>> {
    let opened = desk.places().map(|(at, place)| {
        let source = UrlSource::of_instance(&place.url, &options.origin, Some(&options.instance))
            .map_err(|e| Error::Added { message: e.to_string(), exit: Exit::Config })?;
        Ok(OriginFollower {
            desk: desk.clone(),
            at,
            place: place.clone(),
            source,
            poll: options.poll,
            max_bytes: options.max_bytes,
            said: None,
        })
    });
    opened.collect()
}

/// Starts a thread for each file, which runs until the returned value is dropped. A thread that
/// waits at the origin at that time ends with the process; `fell` is notified if one panics.
fn follow(followers: Vec<OriginFollower>, fell: &Arc<Notify>) -> Result<Vec<Sender<()>>> {
    let mut stops = Vec::new();
    for follower in followers {
        let (stop, stopped) = channel();
        watched(fell, move || follower.run(&stopped)).map_err(internal)?;
        stops.push(stop);
    }
    Ok(stops)
}

/// Notifies when its thread panics.
struct Fall(Arc<Notify>);

impl Drop for Fall {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.notify_one();
        }
    }
}

/// Does the work on a thread of its own.
fn watched(fell: &Arc<Notify>, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    let fall = Fall(Arc::clone(fell));
    let thread = std::thread::Builder::new().name("fetch-origin".to_owned());
    thread.spawn(move || {
        let _fall = fall;
        work();
    })?;
    Ok(())
}

/// Takes care of what changes at run time: token files, certificate, metrics.
async fn care(desk: DistributorDesk, mut fleets: FleetTokens, mut certificates: Watcher) {
    let mut tick = tokio::time::interval(LOOK);
    loop {
        tick.tick().await;
        if let Some(changed) = fleets.look() {
            desk.set_fleets(changed);
        }
        // It logs its findings itself.
        certificates.look(|_| {});
        desk.tidy();
    }
}

/// Raises the limit of file descriptors to what the connections need, or admits fewer connections.
fn fit_descriptors(connections: usize, files: u64) -> usize {
    let ours = OURS + files * 2;
    let limit = getrlimit(Resource::Nofile);
    let wanted = (connections as u64).saturating_add(ours);
    let Some(now) = limit.current.filter(|now| *now < wanted) else { return connections };
    let most = limit.maximum.map_or(wanted, |max| max.min(wanted));
    let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(most), ..limit }).is_ok();
    let have = if raised { most } else { now };
    if have >= wanted {
        return connections;
    }
    let fits = usize::try_from(have.saturating_sub(ours).max(have / 2)).unwrap_or(connections);
    tracing::warn!(
        descriptors = have,
        connections = fits,
        "fewer file descriptors than --max-connections needs; taking fewer connections\n\
         hint: raise the limit (LimitNOFILE, ulimit -n) or lower --max-connections"
    );
    fits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_panics_does_not_do_so_in_silence() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let fell = Arc::new(Notify::new());
        watched(&fell, || {}).unwrap();
        watched(&fell, || panic!("of this test")).unwrap();
        let heard = async { tokio::time::timeout(Duration::from_secs(60), fell.notified()).await };
        runtime.block_on(heard).expect("it fell");
    }
}
