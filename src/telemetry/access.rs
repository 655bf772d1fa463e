//! The access log: one line per request. The worker formats it into a buffer of its own, and
//! another thread writes the buffers. A slow disk loses lines, which are counted, and never delays
//! a request.
//!
//! Imports `core`, `config` and `telemetry::control`. A line never holds a query or a secret, and
//! nothing that a client sent gets into it unescaped.

mod line;

use std::cell::{Cell, RefCell};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use metrics::Counter;

use self::line::LineBuffer;
use super::Metrics;
use super::control::LogName;
use crate::config::LogFormat;
use crate::core::{KeyId, Reason};

/// A worker hands over its buffer when it holds this much.
const HAND_OVER: usize = 128 * 1024;

/// The most buffers that wait for the disk: together with [`HAND_OVER`], this limits memory to
/// about 2 MiB.
const QUEUE: usize = 16;

/// For the last lines, when the process ends.
const LAST_LINES: Duration = Duration::from_secs(2);

/// What is known about a request when its answer is complete.
#[derive(Clone, Copy, Debug)]
pub struct AccessLine<'a> {
    pub unix_ms: u64,
    /// Visible ASCII.
    pub request_id: &'a [u8],
    pub client: IpAddr,
    pub protocol: &'static str,
    pub method: &'a str,
    /// As the client wrote it, without the query.
    pub path: &'a str,
    pub route: Option<&'a str>,
    /// One of `[upstreams.NAME]`.
    pub upstream: Option<&'a str>,
    pub status: u16,
    pub decided: Decided,
    pub reason: Option<Reason>,
    /// Of an observed request: what ended it early.
    pub failure: Option<Reason>,
    pub key_id: Option<KeyId>,
    pub org: Option<&'a str>,
    /// For a user token: its issuer, as configured, and its subject.
    pub issuer: Option<&'a str>,
    pub subject: Option<&'a str>,
    /// The id of the trace that the request belongs to (W3C Trace Context).
    pub trace_id: Option<&'a str>,
    /// `Host` as the client wrote it, shortened. Optional.
    pub host: Option<&'a str>,
    /// In the same way.
    pub user_agent: Option<&'a str>,
    pub table_serial: Option<u64>,
    pub patch_serial: Option<u64>,
    /// From the head to the last byte of the answer.
    pub duration_ns: u64,
    /// Waiting for a connection to the upstream: queue, name, connect, TLS.
    pub connect_ns: Option<u64>,
    /// From sending the request to the head of the upstream's response.
    pub upstream_ns: Option<u64>,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the answer's body.
    pub bytes_out: u64,
}

/// The verdict as a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decided {
    Admitted,
    /// Refused before or without a verdict: bad HTTP, no table.
    None,
    Observed,
    Passed,
    Rejected,
}

/// The thread that writes. Also makes the workers' handles.
#[derive(Debug)]
pub struct AccessLogs {
    shared: Arc<LogShared>,
    /// Signals that the thread has ended. It is not joined: a pipe that nobody reads would block it
    /// for ever.
    ended: Option<Receiver<()>>,
}

/// One worker's handle. Do not share it between threads.
#[derive(Debug)]
pub struct AccessLog {
    buffer: RefCell<LineBuffer>,
    passed_over: Cell<u32>,
    format: LogFormat,
    /// `None`: there is no access log.
    shared: Option<Arc<LogShared>>,
    dropped: Counter,
}

#[derive(Debug)]
struct LogShared {
    full: SyncSender<LogLines>,
    /// Written buffers that return to the workers.
    empty: std::sync::Mutex<Receiver<Vec<u8>>>,
    reopen: AtomicBool,
    stop: AtomicBool,
    format: LogFormat,
    dropped: Counter,
}

#[derive(Debug)]
struct LogLines {
    bytes: Vec<u8>,
    count: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum AccessLogError {
    #[error("cannot open the access log {path}: {source}")]
    Open { path: PathBuf, source: io::Error },
    #[error("cannot start the access log's thread: {0}")]
    Thread(io::Error),
}

/// Where lines are written.
enum LogSink {
    File {
        path: PathBuf,
        file: File,
    },
    Stderr,
    #[cfg(test)]
    Test(Box<dyn Write + Send>),
}

// === impl AccessLogs ===

impl AccessLogs {
    /// Opens the file (`None`: standard error) and starts the thread.
    pub fn start(
        file: Option<&Path>,
        format: LogFormat,
        metrics: &Metrics,
    ) -> Result<Self, AccessLogError> {
        let sink = match file {
            Some(path) => LogSink::File { path: path.to_owned(), file: open(path)? },
            None => LogSink::Stderr,
        };
        Self::with_sink(sink, format, metrics)
    }

    fn with_sink(
        sink: LogSink,
        format: LogFormat,
        metrics: &Metrics,
    ) -> Result<Self, AccessLogError> {
        let (full, lines) = sync_channel(QUEUE);
        let (back, empty) = sync_channel(QUEUE);
        let dropped = metrics.control().log_lines_dropped(LogName::Access);
        let shared = Arc::new(LogShared {
            full,
            empty: empty.into(),
            reopen: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            format,
            dropped,
        });
        let its = Arc::clone(&shared);
        let (end, ended) = sync_channel::<()>(0);
        std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || {
                write_all(sink, &lines, &back, &its);
                drop(end);
            })
            .map_err(AccessLogError::Thread)?;
        Ok(Self { shared, ended: Some(ended) })
    }

    /// A handle for one worker.
    pub fn worker(&self) -> AccessLog {
        AccessLog {
            buffer: RefCell::default(),
            passed_over: Cell::new(0),
            format: self.shared.format,
            shared: Some(Arc::clone(&self.shared)),
            dropped: self.shared.dropped.clone(),
        }
    }

    /// Opens the file again by its name, because it was rotated.
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Relaxed);
    }

    /// Writes what was handed over, for at most [`LAST_LINES`], and ends the thread. Workers must
    /// flush before.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if let Some(ended) = self.ended.take() {
            // It ends when this side drops its half. Lines that it cannot write by then are lost.
            let _ = ended.recv_timeout(LAST_LINES);
        }
    }
}

impl Drop for AccessLogs {
    fn drop(&mut self) {
        self.end();
    }
}

// === impl AccessLog ===

impl AccessLog {
    /// A handle that keeps nothing.
    pub fn off() -> Self {
        Self {
            buffer: RefCell::default(),
            passed_over: Cell::new(0),
            format: LogFormat::Json,
            shared: None,
            dropped: Counter::noop(),
        }
    }

    /// Whether this success is the one in `every` that gets a line. 0: none does.
    ///
    /// Not used for refusals, which always get a line.
    pub fn samples(&self, every: u32) -> bool {
        if every <= 1 {
            return every == 1;
        }
        let passed_over = self.passed_over.get();
        let takes = passed_over == 0;
        self.passed_over.set(if passed_over + 1 >= every { 0 } else { passed_over + 1 });
        takes
    }

    /// Formats one line. Full buffers are handed to the writer. The worker calls [`Self::flush`] on
    /// a tick.
    pub fn write(&self, line: &AccessLine<'_>) {
        if self.shared.is_none() {
            return;
        }
        // Formatting calls nothing that could lead back here.
        let Ok(mut buffer) = self.buffer.try_borrow_mut() else { return };
        match self.format {
            LogFormat::Json => buffer.json(line),
            LogFormat::Text => buffer.text(line),
        }
        buffer.lines += 1;
        if buffer.bytes.len() >= HAND_OVER {
            self.hand_over(&mut buffer);
        }
    }

    /// Hands over what has accumulated. Cheap if that is nothing.
    pub fn flush(&self) {
        if let Ok(mut buffer) = self.buffer.try_borrow_mut()
            && !buffer.bytes.is_empty()
        {
            self.hand_over(&mut buffer);
        }
    }

    fn hand_over(&self, buffer: &mut LineBuffer) {
        let Some(shared) = &self.shared else { return };
        let count = std::mem::take(&mut buffer.lines);
        // Another worker may hold the lock for the moment that taking a buffer lasts. Then make a
        // fresh one instead of waiting.
        let fresh = shared.empty.try_lock().ok().and_then(|empty| empty.try_recv().ok());
        let bytes = std::mem::replace(&mut buffer.bytes, fresh.unwrap_or_default());
        match shared.full.try_send(LogLines { bytes, count }) {
            Ok(()) => {}
            Err(TrySendError::Full(lines) | TrySendError::Disconnected(lines)) => {
                self.dropped.increment(lines.count);
                let mut bytes = lines.bytes;
                bytes.clear();
                buffer.bytes = bytes;
            }
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.flush();
    }
}

// === impl Decided ===

impl Decided {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Admitted => "admitted",
            Self::None => "none",
            Self::Observed => "observed",
            Self::Passed => "passed",
            Self::Rejected => "rejected",
        }
    }
}

// === impl LogSink ===

impl LogSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::File { file, .. } => file.write_all(bytes),
            Self::Stderr => io::stderr().lock().write_all(bytes),
            #[cfg(test)]
            Self::Test(sink) => sink.write_all(bytes),
        }
    }

    fn shown(&self) -> String {
        match self {
            Self::File { path, .. } => path.display().to_string(),
            Self::Stderr => "standard error".to_owned(),
            #[cfg(test)]
            Self::Test(_) => "test".to_owned(),
        }
    }

    /// On failure the old file stays open: lines in a renamed file are better than none.
    fn reopen(&mut self) -> Result<(), AccessLogError> {
        if let Self::File { path, file } = self {
            *file = open(path)?;
        }
        Ok(())
    }
}

fn open(path: &Path) -> Result<File, AccessLogError> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .map_err(|source| AccessLogError::Open { path: path.to_owned(), source })
}

fn lost_lines(sink: &LogSink, error: &io::Error) -> String {
    let remedy = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "free some space: keygate then goes on writing"
        }
        _ => "see to its disk or its reader: keygate tries again with every batch of lines",
    };
    format!(
        "the access log {} cannot be written: {error}; lines are lost\nhint: {remedy}",
        sink.shown()
    )
}

/// The writer's thread.
fn write_all(
    mut sink: LogSink,
    lines: &Receiver<LogLines>,
    back: &SyncSender<Vec<u8>>,
    shared: &LogShared,
) {
    let mut failing = false;
    loop {
        // Wakes from time to time to notice that it should end although workers still hold handles.
        let received = lines.recv_timeout(Duration::from_millis(100));
        if shared.reopen.swap(false, Ordering::Relaxed)
            && let Err(error) = sink.reopen()
        {
            tracing::error!(%error, "access log stays in the old file");
        }
        match received {
            Ok(mut batch) => {
                match sink.write(&batch.bytes) {
                    Ok(()) => failing = false,
                    Err(error) => {
                        shared.dropped.increment(batch.count);
                        if !failing {
                            tracing::error!("{}", lost_lines(&sink, &error));
                        }
                        failing = true;
                    }
                }
                batch.bytes.clear();
                // If there is no space, the workers have enough buffers.
                let _ = back.try_send(batch.bytes);
            }
            Err(RecvTimeoutError::Timeout) if shared.stop.load(Ordering::Acquire) => return,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

#[cfg(test)]
mod tests;
