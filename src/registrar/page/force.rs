//! How far a change is in force: on how many of the sidecars that reported lately.

use std::time::Duration;

use axum::Json;
use axum::response::Response;
use serde::Serialize;

use super::visit::Visit;
use super::words::{Words, fill};
use crate::registrar::store::{Changed, StoreError};

/// How long an answer waits for the sidecars.
pub const LONGEST_WAIT: Duration = Duration::from_millis(1500);

/// How often to ask the store while somebody waits.
const PAUSE: Duration = Duration::from_millis(20);

/// A sidecar that has been silent for this long is not waited for.
const SILENT_MS: u64 = 5 * 60 * 1000;

/// How far one change is in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChangeProgress {
    pub published: bool,
    /// Sidecars that reported lately, and those of them that have the change.
    pub sidecars: usize,
    pub have: usize,
    /// How long that took, if somebody waited for it.
    pub took_ms: Option<u64>,
}

#[derive(Debug, Serialize)]
pub struct ProgressAnswer {
    text: String,
    done: bool,
}

// === impl ChangeProgress ===

impl ChangeProgress {
    pub fn is_complete(&self) -> bool {
        self.published && self.have == self.sidecars
    }

    pub fn text(&self, w: &Words) -> String {
        let (have, all) = (self.have.to_string(), self.sidecars.to_string());
        let counts = [("count", have.as_str()), ("all", all.as_str())];
        match (self.published, self.sidecars, self.took_ms) {
            (false, _, _) => w.in_force_unpublished.to_string(),
            (true, 0, _) => w.in_force_none.to_string(),
            (true, _, Some(ms)) => {
                let ms = ms.to_string();
                fill(&w.in_force_after, &[counts[0], counts[1], ("ms", &ms)])
            }
            (true, _, None) => fill(&w.in_force, &counts),
        }
    }
}

/// Waits until the change with this serial is in force everywhere, but no longer than `longest`. If
/// nobody signs here, nobody publishes here either, so there is no wait.
pub async fn wait(
    visit: &Visit,
    serial: u64,
    longest: Duration,
) -> Result<ChangeProgress, StoreError> {
    let began = visit.app.clock.now().mono_ns;
    let place = visit.app.waits.take(visit.sight.caller.actor.label());
    let longest = match visit.audience.signer.is_none() || place.is_none() {
        true => Duration::ZERO,
        false => longest,
    };
    if let Some(publishing) = &visit.app.publishing {
        let name = &visit.audience.name;
        let found = publishing.publisher.in_force(name, serial, longest).await;
        let took = Duration::from_nanos(visit.app.clock.now().mono_ns.saturating_sub(began));
        let progress = ChangeProgress {
            published: found.published,
            sidecars: found.sidecars,
            have: found.sidecars.saturating_sub(found.late.len()),
            took_ms: None,
        };
        let has_waited = progress.is_complete() && !longest.is_zero();
        let took_ms = has_waited.then_some(took.as_millis() as u64);
        return Ok(ChangeProgress { took_ms, ..progress });
    }
    if longest.is_zero() {
        return look(visit, serial).await;
    }
    let complete = async {
        loop {
            match look(visit, serial).await {
                Ok(progress) if !progress.is_complete() => tokio::time::sleep(PAUSE).await,
                done => return done,
            }
        }
    };
    let Ok(done) = tokio::time::timeout(longest, complete).await else {
        return look(visit, serial).await;
    };
    let took = Duration::from_nanos(visit.app.clock.now().mono_ns.saturating_sub(began));
    Ok(ChangeProgress { took_ms: Some(took.as_millis() as u64), ..done? })
}

async fn look(visit: &Visit, serial: u64) -> Result<ChangeProgress, StoreError> {
    let store = &visit.app.store;
    let publication = store.publication(&visit.audience.name).await?;
    let sidecars = store.sidecars(&visit.audience.name).await?;
    let since = visit.app.clock.now().unix_ms.saturating_sub(SILENT_MS);
    let heard: Vec<_> = sidecars.iter().filter(|sidecar| sidecar.seen_ms >= since).collect();
    Ok(ChangeProgress {
        published: publication.published >= serial,
        sidecars: heard.len(),
        have: heard.iter().filter(|sidecar| sidecar.serial >= serial).count(),
        took_ms: None,
    })
}

/// Leads back to the key, once its sidecars have the change or the wait is over.
pub async fn done(visit: &Visit, changed: &Changed, what: &str) -> Result<Response, Response> {
    let progress = wait(visit, changed.serial, LONGEST_WAIT).await;
    let progress = progress.map_err(|e| visit.failed(&e))?;
    let serial = changed.serial.to_string();
    let ms = progress.took_ms.map(|ms| ms.to_string()).unwrap_or_default();
    let path = format!("/keys/{}", changed.key.entry.id);
    Ok(visit.go(&path, &[("done", what), ("serial", &serial), ("ms", &ms)]))
}

/// For the script of a screen that shows the progress.
pub(super) async fn follow(visit: Visit) -> Json<ProgressAnswer> {
    let serial = visit.query.text("serial").parse().unwrap_or(u64::MAX);
    let progress = wait(&visit, serial, Duration::ZERO).await.unwrap_or_default();
    Json(ProgressAnswer { text: progress.text(visit.w), done: progress.is_complete() })
}
