//! Counting which key is used: the book, and the threads that process it.

use std::io;
use std::sync::Arc;

use super::error::StartError;
use super::workers::random;
use crate::clock::Clock;
use crate::config::{TableConfig, UsageConfig};
use crate::meter::{BookIdentity, Meter, MeterParts, UseBook, open_mode, open_usage_file};
use crate::reload::lower_priority;
use crate::snapshot::Store;
use crate::telemetry::Metrics;
use crate::wording::shell::quoted_path;

/// Where uses of keys are counted. `None`: they are not. It already has the cells of the keys in
/// force.
pub(super) fn use_book(
    usage: &UsageConfig,
    audience: &str,
    store: &Arc<Store>,
    clock: &Clock,
) -> Result<Option<Arc<UseBook>>, StartError> {
    if !usage.enabled {
        return Ok(None);
    }
    if let Some(file) = &usage.file {
        open_usage_file(file)?;
        if let Some(mode) = open_mode(file) {
            tracing::warn!(
                path = %file.display(),
                mode = format!("{mode:04o}"),
                "everybody on this machine can read usage.file, which says which key is used from \
                 where\nhint: `chmod o-rwx {}`",
                quoted_path(file)
            );
        }
    }
    let instance = instance_name(usage);
    let boot = random()?.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let identity = BookIdentity { instance, boot, audience: audience.to_owned() };
    Ok(Some(Arc::new(UseBook::new(Arc::clone(store), clock.clone(), identity))))
}

/// The name that counts are reported under: as configured, otherwise the host's name.
pub(super) fn instance_name(usage: &UsageConfig) -> String {
    match &usage.instance {
        Some(instance) => instance.to_string(),
        None => rustix::system::uname().nodename().to_string_lossy().into_owned(),
    }
}

/// Starts the threads that settle, write and post.
pub(super) fn start_meter(
    book: Option<&Arc<UseBook>>,
    usage: UsageConfig,
    table: TableConfig,
    metrics: &Metrics,
) -> io::Result<Option<Meter>> {
    let Some(book) = book else { return Ok(None) };
    let parts = MeterParts {
        metrics: metrics.clone(),
        file: usage.file,
        url_options: table.url,
        begin: lower_priority,
    };
    Meter::start(book, parts).map(Some)
}
