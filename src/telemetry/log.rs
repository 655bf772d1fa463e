//! The operator log: `tracing` events to standard error, by a thread that never blocks the caller.
//! Imports `config` and `wording`.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io;
use std::panic::PanicHookInfo;

use metrics::Counter;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use crate::config::{LogFormat, LogLevel};
use crate::wording::visible::Visible;

/// The most lines that wait for standard error.
const QUEUE: usize = 4096;

/// Keeps the log's thread. Drop it last, because dropping it writes the waiting lines.
#[derive(Debug)]
pub struct OperatorLog {
    _guard: WorkerGuard,
    errors: ErrorCounter,
    dropped: Counter,
}

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error(
        "log filter is not understood: {0}\nhint: write a level such as `info`, or `keygate=debug,info`"
    )]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    #[error("the log was started twice")]
    Started,
}

/// What is logged, and in which form.
#[derive(Clone, Debug)]
pub struct LogTerms {
    pub format: LogFormat,
    pub level: LogLevel,
    /// Further directives of the filter. May be empty.
    pub also: &'static str,
    /// Counts lines that were lost because they could not be taken in time.
    pub dropped: Counter,
}

/// Starts the operator log for the whole process. Libraries log only down to `info`: below it, some
/// write the fields of requests, including credentials.
pub fn start(terms: LogTerms) -> Result<OperatorLog, LogError> {
    let LogTerms { format, level, also, dropped } = terms;
    let level = match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "info,keygate=debug",
    };
    let filter = EnvFilter::builder().parse(format!("{level},{also}"))?;
    let (writer, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(QUEUE)
        .lossy(true)
        .thread_name("operator-log")
        .finish(io::stderr());
    let errors = writer.error_counter();
    let writer = BoxMakeWriter::new(move || Visible(writer.clone()));
    // No ANSI: the terminal seldom belongs to a person, and a file's name could contain an escape.
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(false);
    match format {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        LogFormat::Text => builder.try_init(),
    }
    .map_err(|_| LogError::Started)?;
    std::panic::set_hook(Box::new(report_panic));
    Ok(OperatorLog { _guard: guard, errors, dropped })
}

/// Logs a panic like every other line, without waiting: the standard hook would block a worker for
/// as long as nobody reads standard error.
fn report_panic(panic: &PanicHookInfo<'_>) {
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then_some(backtrace);
    tracing::error!(
        thread = std::thread::current().name(),
        backtrace = backtrace.map(tracing::field::display),
        "a fault of keygate's own: {panic}"
    );
}

impl OperatorLog {
    /// Updates the metric of lost lines. The admin thread calls it.
    pub fn count_dropped(&self) {
        self.dropped.absolute(self.errors.dropped_lines() as u64);
    }
}
