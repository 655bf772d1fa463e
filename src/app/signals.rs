//! Signals from the operating system to the process.
//!
//! | signal | effect |
//! | --- | --- |
//! | SIGTERM, SIGINT, SIGQUIT | drain; a second one cuts, a third one ends at once |
//! | SIGHUP | reload, and open logs again |
//! | SIGUSR1 | open logs again |
//! | SIGUSR2 | nothing |
//!
//! SIGPIPE is ignored by the standard library's start.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use super::Running;
use super::notify::Notifier;

/// Keeps signals that were caught and not yet handled, one of each kind.
#[derive(Debug)]
pub(super) struct Signals {
    runtime: tokio::runtime::Runtime,
    streams: CaughtSignals,
}

#[derive(Debug)]
struct CaughtSignals {
    end: EndSignals,
    hup: Signal,
    usr1: Signal,
    /// Caught so that it does not end the process.
    _usr2: Signal,
}

/// All signals that ask the process to end.
#[derive(Debug)]
struct EndSignals {
    term: Signal,
    int: Signal,
    /// nginx uses it for a graceful end. By default it dumps core, with every secret in it.
    quit: Signal,
}

/// Work that may take longer than anybody waits.
#[derive(Clone, Copy, Debug)]
pub(super) enum BlockingStage {
    /// Logging why a start has failed.
    LastWords,
    Start,
    Stop,
}

// === impl BlockingStage ===

impl BlockingStage {
    fn thread(self) -> &'static str {
        match self {
            Self::LastWords => "last-words",
            Self::Start => "start",
            Self::Stop => "stop",
        }
    }
}

// === impl Signals ===

impl Signals {
    /// From now on, no signal of the list ends the process on its own. This also matters for
    /// process 1 of a container, for which the kernel drops signals that are not caught.
    pub(super) fn catch() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let streams = {
            let _here = runtime.enter();
            let end = EndSignals {
                term: signal(SignalKind::terminate())?,
                int: signal(SignalKind::interrupt())?,
                quit: signal(SignalKind::quit())?,
            };
            CaughtSignals {
                end,
                hup: signal(SignalKind::hangup())?,
                usr1: signal(SignalKind::user_defined1())?,
                _usr2: signal(SignalKind::user_defined2())?,
            }
        };
        Ok(Self { runtime, streams })
    }

    /// Does `work` on a separate thread. If the process has to end, or after `limit`, nobody waits
    /// for it: then `None`. Used for anything that may block for ever, such as a write to a pipe
    /// that nobody reads.
    pub(super) fn unless_told<T: Send + 'static>(
        &mut self,
        stage: BlockingStage,
        limit: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<Option<T>> {
        let (done, outcome) = oneshot::channel();
        std::thread::Builder::new().name(stage.thread().to_owned()).spawn(move || {
            // Nobody listens any more if the process was told to end.
            let _ = done.send(work());
        })?;
        Ok(self.runtime.block_on(async {
            tokio::select! {
                outcome = outcome => outcome.ok(),
                () = self.streams.end.told() => None,
                () = tokio::time::sleep(limit) => None,
            }
        }))
    }

    /// Handles signals until the process has drained, and informs the service manager.
    pub(super) fn serve(&mut self, running: &Running, manager: &Notifier) {
        let CaughtSignals { end, hup, usr1, .. } = &mut self.streams;
        self.runtime.block_on(async {
            // A drain may take an hour, in which logs are rotated.
            let upkeep = async {
                let mut minute = tokio::time::interval(Duration::from_secs(60));
                loop {
                    tokio::select! {
                        _ = hup.recv() => reload(running, manager).await,
                        _ = usr1.recv() => running.reopen_logs(),
                        _ = minute.tick() => running.upkeep(),
                    }
                }
            };
            let ends = async {
                tokio::select! {
                    () = end.told() => {}
                    () = running.left() => {}
                    () = tell(running, manager) => {}
                }
                manager.stopping();
                running.drain(end.told()).await;
            };
            tokio::select! {
                () = ends => {}
                () = upkeep => {}
            }
        });
    }
}

/// Reloads, between the two messages that Type=notify-reload of systemd waits for.
async fn reload(running: &Running, manager: &Notifier) {
    let serves = running.serves() && !running.is_leaving();
    if serves {
        manager.reloading();
    }
    running.reload().await;
    // After STOPPING=1, nothing new begins.
    if serves && !running.is_leaving() {
        manager.ready(&running.summary());
    }
}

/// Informs the manager when requests can be served, and later what serves them. Never ends.
async fn tell(running: &Running, manager: &Notifier) {
    if !manager.is_heard() {
        return std::future::pending().await;
    }
    let mut said = String::new();
    let mut is_ready = false;
    let mut look = tokio::time::interval(Duration::from_millis(50));
    loop {
        look.tick().await;
        let summary = running.summary();
        if !is_ready && running.serves() {
            is_ready = manager.ready(&summary);
        } else if summary != said {
            manager.status(&summary);
        } else {
            continue;
        }
        said = summary;
    }
}

// === impl EndSignals ===

impl EndSignals {
    async fn told(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
            _ = self.quit.recv() => {}
        }
    }
}
