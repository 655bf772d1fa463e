//! The threads that support the count: one settles what retired key sets have counted and keeps the
//! metrics per key, one writes `usage.file`, one posts. A disk or a server that hangs delays only
//! its own thread. Imports `clock`, `config`, `core`, `telemetry`.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::Thread;
use std::time::Duration;

use super::book::UseBook;
use super::file::UsageFile;
use super::post::UsagePoster;
use super::series::UseSeriesBook;
use crate::config::UrlOptions;
use crate::telemetry::Metrics;
use crate::telemetry::control::Attempt;

/// Between two checks whether the last reader of a retired key set has gone.
const RETIRED: Duration = Duration::from_millis(20);

/// Between two checks when there is nothing to settle.
const IDLE: Duration = Duration::from_secs(1);

const WRITE_EVERY: Duration = Duration::from_secs(60);
const POST_EVERY: Duration = Duration::from_secs(15);
const SERIES_EVERY: Duration = Duration::from_secs(15);

/// Walks take at most this part of a core.
const WALK_SHARE: u32 = 200;

/// At the end, writing and posting the last records may take this long, together. Whatever hangs is
/// abandoned.
const LAST: Duration = if cfg!(test) { Duration::from_millis(100) } else { Duration::from_secs(2) };

/// What the threads need in addition to the book.
#[derive(Clone, Debug)]
pub struct MeterParts {
    pub metrics: Metrics,
    /// Usage records are added to it.
    pub file: Option<PathBuf>,
    /// Authority and credential for posts: those of the table.
    pub url_options: UrlOptions,
    /// Called first on each new thread. Lowers its priority.
    pub begin: fn(),
}

/// The running threads.
#[derive(Debug)]
pub struct Meter {
    stop: Arc<AtomicBool>,
    settler: Thread,
    /// For each thread that reports from time to time, and once more at its end, which dropping its
    /// sender signals.
    reporters: Vec<Sender<()>>,
    /// Disconnected once all reporters have gone. The settler holds no part of it: the end waits
    /// for the last records, not for a walk over millions of keys.
    ended: Receiver<()>,
}

// === impl Meter ===

impl Meter {
    pub fn start(book: &Arc<UseBook>, parts: MeterParts) -> io::Result<Self> {
        let (end, ended) = channel();
        let mut reporters = Vec::new();
        if let Some(path) = &parts.file {
            let file = UsageFile::new(path);
            reporters.push(write_file(book, file, parts.clone(), end.clone())?);
        }
        reporters.push(post(book, parts.clone(), end)?);
        let (book, stop) = (Arc::clone(book), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("meter".into()).spawn(move || {
            (parts.begin)();
            book.settled_by(std::thread::current());
            let mut series = UseSeriesBook::default();
            let mut walk_at = 0;
            while !stopped.load(Ordering::Acquire) {
                let settled = book.settle();
                let now = book.clock().now().mono_ns;
                if now >= walk_at {
                    let pause = show_series(&book, &mut series).max(SERIES_EVERY);
                    walk_at = now.saturating_add(u64::try_from(pause.as_nanos()).unwrap_or(0));
                }
                std::thread::park_timeout(if settled { IDLE } else { RETIRED });
            }
        })?;
        Ok(Self { stop, settler: thread.thread().clone(), reporters, ended })
    }

    /// Call this once nobody counts any more. Reports the last records, which include the counts of
    /// replaced key sets, settled or not. Waits for [`LAST`] in all.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Release);
        self.settler.unpark();
        drop(self.reporters);
        if let Err(RecvTimeoutError::Timeout) = self.ended.recv_timeout(LAST) {
            tracing::warn!("the last usage record could not be handed on in time");
        }
    }
}

#[cfg(test)]
impl Meter {
    /// Whether all reporters end after they were asked to.
    pub(super) fn reporters_end(self) -> bool {
        drop(self.reporters);
        self.ended.recv_timeout(Duration::from_secs(30)) == Err(RecvTimeoutError::Disconnected)
    }
}

/// Returns how long the next walk has to wait.
fn show_series(book: &Arc<UseBook>, series: &mut UseSeriesBook) -> Duration {
    let reports = book.reports();
    if reports.top_keys == 0 && reports.top_orgs == 0 {
        book.show_series(Default::default());
        return Duration::ZERO;
    }
    let began = book.clock().now().mono_ns;
    series.walk(book, reports.top_keys, reports.top_orgs);
    book.show_series(series.shown());
    let took = book.clock().now().mono_ns.saturating_sub(began);
    Duration::from_nanos(took).saturating_mul(WALK_SHARE)
}

fn write_file(
    book: &Arc<UseBook>,
    mut file: UsageFile,
    parts: MeterParts,
    end: Sender<()>,
) -> io::Result<Sender<()>> {
    let book = Arc::clone(book);
    let (stop, stopped) = channel::<()>();
    std::thread::Builder::new().name("usage-file".into()).spawn(move || {
        let _end = end;
        (parts.begin)();
        let mut failing = false;
        every(WRITE_EVERY, &stopped, || {
            let control = parts.metrics.control();
            match file.write(&book) {
                Ok(()) => {
                    control.usage_writes(Attempt::Succeeded).increment(1);
                    if std::mem::replace(&mut failing, false) {
                        tracing::info!("usage.file is written again");
                    }
                }
                Err(error) => {
                    control.usage_writes(Attempt::Failed).increment(1);
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(%error, "trying again; no count is lost while this runs");
                    }
                }
            }
        });
    })?;
    Ok(stop)
}

fn post(book: &Arc<UseBook>, parts: MeterParts, end: Sender<()>) -> io::Result<Sender<()>> {
    let book = Arc::clone(book);
    let (stop, stopped) = channel::<()>();
    std::thread::Builder::new().name("usage-post".into()).spawn(move || {
        let _end = end;
        (parts.begin)();
        let mut failing = false;
        let mut poster: Option<UsagePoster> = None;
        every(POST_EVERY, &stopped, || {
            let Some(url) = book.reports().post_url else {
                poster = None;
                return;
            };
            let to = match poster.take().filter(|poster| *poster.url() == *url) {
                Some(known) => poster.insert(known),
                None => poster.insert(UsagePoster::new(&url, &parts.url_options)),
            };
            let control = parts.metrics.control();
            match to.post(&book) {
                Ok(()) => {
                    control.usage_posts(Attempt::Succeeded).increment(1);
                    if std::mem::replace(&mut failing, false) {
                        tracing::info!("usage.post_url takes records again");
                    }
                }
                Err(error) => {
                    control.usage_posts(Attempt::Failed).increment(1);
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(
                            %error,
                            "usage.post_url took no record; trying again, and no count is lost \
                             while this runs"
                        );
                    }
                }
            }
        });
    })?;
    Ok(stop)
}

/// Runs until the other end of `stopped` has gone, and then once more.
fn every(interval: Duration, stopped: &Receiver<()>, mut act: impl FnMut()) {
    while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(interval) {
        act();
    }
    act();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hangs_does_not_hold_up_the_end() {
        let (end, ended) = channel::<()>();
        let (reporter, told) = channel::<()>();
        let (free, freed) = channel::<()>();
        // One that is stopped, and whose disk never answers.
        let hung = std::thread::spawn(move || {
            let told = told.recv().is_err();
            let _ = freed.recv();
            drop(end);
            told
        });
        let (stop, settler) = (Arc::new(AtomicBool::new(false)), std::thread::current());
        let reporters = vec![reporter];
        Meter { stop: Arc::clone(&stop), settler, reporters, ended }.stop();
        assert!(stop.load(Ordering::Acquire) && !hung.is_finished(), "it was left behind");
        drop(free);
        assert!(hung.join().unwrap(), "every reporter is told");
    }
}
