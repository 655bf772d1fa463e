//! Callbacks for other parts while the sidecar runs: a new configuration, the certificates in
//! force.

use std::cell::Cell;
use std::path::PathBuf;
use std::sync::Arc;

use super::assertion::AssertionKeys;
use crate::admin::{CertificateStatus, SharedLimitsStatus};
use crate::check;
use crate::clock::Clock;
use crate::config::{self, Config, Noted, Settings, ThisHost};
use crate::proxy::{SharedLimits, StoreStanding};
use crate::reload::{Hooks, Reconfigured, Time, Unusable};
use crate::telemetry::Metrics;
use crate::tls::Reloadable;

/// What `/status` shows about the certificates that are in force when it is asked.
pub(super) fn certificate_status(
    targets: &[Arc<dyn Reloadable>],
    clock: &Clock,
) -> Box<dyn Fn() -> Vec<CertificateStatus> + Send + Sync> {
    let (targets, clock) = (targets.to_vec(), clock.clone());
    Box::new(move || {
        let now = clock.now();
        // Dates before 1970 need no distinction.
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
pub(super) fn route_slots(metrics: &Metrics, settings: &Settings) -> Box<[u32]> {
    settings.policy.routes.iter().map(|route| metrics.intern_route(&route.id)).collect()
}

/// What the reload thread does when the configuration file changes. `running` is what this process
/// was started with: differences from it outside the settings need a restart.
pub(super) fn hooks(
    file: PathBuf,
    running: Config,
    clock: &Clock,
    metrics: Metrics,
    assertion_keys: Arc<AssertionKeys>,
) -> Hooks {
    let (watched, read) = (running.watched_files(), running.read_files());
    let variables = running.variable_files.clone();
    let clock = clock.clone();
    let audience = Cell::new(running.table.audience.clone());
    let reconfigure = move || {
        let host = Noted::new(&ThisHost);
        let mut next = match Config::load_on(&host, &file) {
            Ok(next) => next,
            Err(error) => return Err(Unusable { error: error.to_string(), files: host.files() }),
        };
        // A route to a service that this process has no connections to would answer 502.
        if let Err(name) = next.settings.fit_upstreams(&running.upstreams) {
            let error = format!(
                "a route goes to an upstream that was added since the start: {name}\n\
                 hint: restart keygate; until then nothing of this configuration is in force"
            );
            return Err(Unusable { error, files: host.files() });
        }
        for finding in check::notes(&next, clock.now()) {
            tracing::warn!("{}", finding.text());
        }
        let control = metrics.control();
        control.audience_info(&audience.replace(next.table.audience.clone())).set(0);
        control.audience_info(&next.table.audience).set(1);
        let needs_restart = config::needs_restart(&running, &next);
        let needs_restart = needs_restart.into_iter().map(str::to_owned).collect();
        let (watched, read) = (next.watched_files(), next.read_files());
        let variables = next.variable_files;
        assertion_keys.take(&next.settings);
        let settings = Arc::new(next.settings);
        let route_slots = route_slots(&metrics, &settings);
        Ok(Reconfigured {
            settings,
            route_slots,
            table: next.table,
            watched,
            read,
            variables,
            needs_restart,
        })
    };
    Hooks {
        reconfigure: Box::new(reconfigure),
        files: Vec::new(),
        uses: None,
        watched,
        read,
        variables,
    }
}

/// What `/status` shows about shared limits.
pub(super) fn shared_limits_status(limits: &SharedLimits) -> SharedLimitsStatus {
    let StoreStanding { up, why, replicas, share } = limits.standing();
    SharedLimitsStatus { up, why, replicas, share }
}
