//! Metrics of everything off the request path: handles of the `metrics` crate on a recorder of our
//! own (not a global one, so that tests can run side by side). Imports nothing of the crate.

use std::time::Duration;

use metrics::{Counter, Gauge, Key, Label, Level, Metadata, Recorder as _};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use super::cells::Histogram;
use super::metrics::{self as families, ALL, Family, FamilyKind, buckets};

/// What reloads, certificates, logs and readiness record.
pub struct Control {
    pub config_reload_successful: Gauge,
    pub observe_enforced_share: Gauge,
    pub observe_until: Gauge,
    pub patch_age: Gauge,
    pub patch_serial: Gauge,
    pub process_start_time: Gauge,
    pub ready: Gauge,
    revocation_lag_last: Gauge,
    pub state_persistent: Gauge,
    pub table_age: Gauge,
    pub table_expired: Gauge,
    pub table_expiry: Gauge,
    pub table_last_reload_successful: Gauge,
    pub table_last_reload_timestamp: Gauge,
    pub table_serial: Gauge,
    pub upstream_exposed: Gauge,
    pub upstream_healthy: Gauge,
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    // Not in the recorder: a scrape removes its samples, and one that is recorded at that moment is
    // lost (metrics-util 0.20, `AtomicBucket::clear_with`).
    pub(super) revocation_lag: Histogram<19>,
    table_load: Histogram,
    patch_load: Histogram,
    pub(super) shared_limits: Histogram,
}

/// What was reloaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReloadKind {
    Patch,
    Table,
}

/// The result of looking at a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchResult {
    Changed,
    Failed,
    Unchanged,
}

/// Whether an attempt succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    Failed,
    Succeeded,
}

/// Which log lost lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogName {
    Access,
    Operator,
}

/// The result of a question to the store of shared limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreResult {
    Granted,
    Refused,
    /// Nobody waits for the answer any more.
    Timeout,
    Error,
}

// === impl Control ===

impl Control {
    #[expect(clippy::new_without_default, reason = "made once, by `Metrics`")]
    pub fn new() -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        let gauge = |family: Family| recorder.register_gauge(&key(&family, vec![]), &METADATA);
        let control = Self {
            config_reload_successful: gauge(families::CONFIG_RELOAD_SUCCESSFUL),
            observe_enforced_share: gauge(families::OBSERVE_ENFORCED_SHARE),
            observe_until: gauge(families::OBSERVE_UNTIL),
            patch_age: gauge(families::PATCH_AGE),
            patch_serial: gauge(families::PATCH_SERIAL),
            process_start_time: gauge(families::PROCESS_START_TIME),
            ready: gauge(families::READY),
            revocation_lag_last: gauge(families::REVOCATION_LAG_LAST),
            state_persistent: gauge(families::STATE_PERSISTENT),
            table_age: gauge(families::TABLE_AGE),
            table_expired: gauge(families::TABLE_EXPIRED),
            table_expiry: gauge(families::TABLE_EXPIRY),
            table_last_reload_successful: gauge(families::TABLE_LAST_RELOAD_SUCCESSFUL),
            table_last_reload_timestamp: gauge(families::TABLE_LAST_RELOAD_TIMESTAMP),
            table_serial: gauge(families::TABLE_SERIAL),
            upstream_exposed: gauge(families::UPSTREAM_EXPOSED),
            upstream_healthy: gauge(families::UPSTREAM_HEALTHY),
            recorder,
            handle,
            revocation_lag: Histogram::new(buckets::LAG),
            table_load: Histogram::new(buckets::LOAD),
            patch_load: Histogram::new(buckets::LOAD),
            shared_limits: Histogram::new(buckets::STORE),
        };
        control.show_zeros();
        control
    }

    /// Makes every possible series visible before anything has happened.
    fn show_zeros(&self) {
        for family in ALL.iter().filter(|f| CONTROL.contains(f)) {
            let (name, help) = (family.name.into(), family.help.into());
            match family.kind {
                FamilyKind::Counter => self.recorder.describe_counter(name, None, help),
                FamilyKind::Gauge => self.recorder.describe_gauge(name, None, help),
                FamilyKind::Histogram => self.recorder.describe_histogram(name, None, help),
            }
        }
        self.config_reload_successful.set(1.0);
        self.observe_enforced_share.set(1.0);
        self.upstream_exposed.set(-1.0);
        self.upstream_healthy.set(1.0);
        self.shared_limits_up().set(-1.0);
        self.shared_limits_fallback().increment(0);
        for result in StoreResult::ALL {
            self.shared_limits_requests(result).increment(0);
        }
        self.gauge(&families::BUILD_INFO, vec![label("version", env!("CARGO_PKG_VERSION"))]).set(1);
        for attempt in [Attempt::Failed, Attempt::Succeeded] {
            self.certificate_reloads(attempt).increment(0);
            self.config_reloads(attempt).increment(0);
            self.usage_posts(attempt).increment(0);
            self.usage_writes(attempt).increment(0);
        }
        for log in [LogName::Access, LogName::Operator] {
            self.log_lines_dropped(log).increment(0);
        }
        for artefact in [ReloadKind::Patch, ReloadKind::Table] {
            self.table_reloads(artefact).increment(0);
            for fetched in [FetchResult::Changed, FetchResult::Failed, FetchResult::Unchanged] {
                self.source_fetches(artefact, fetched).increment(0);
            }
        }
    }

    pub fn source_fetches(&self, artefact: ReloadKind, result: FetchResult) -> Counter {
        let labels = vec![label("artefact", artefact.as_str()), label("result", result.as_str())];
        self.counter(&families::SOURCE_FETCHES, labels)
    }

    pub fn table_reloads(&self, artefact: ReloadKind) -> Counter {
        self.counter(&families::TABLE_RELOADS, vec![label("artefact", artefact.as_str())])
    }

    /// `reason` is a word of a closed list, never a message.
    pub fn table_reload_failures(&self, artefact: ReloadKind, reason: &'static str) -> Counter {
        let labels = vec![label("artefact", artefact.as_str()), label("reason", reason)];
        self.counter(&families::TABLE_RELOAD_FAILURES, labels)
    }

    /// The time from the issue of a patch until it was in force. Only one thread at a time, the
    /// reload thread, calls this.
    pub fn revocation_lag(&self, lag: Duration) {
        self.revocation_lag.record(nanos(lag));
        self.revocation_lag_last.set(lag.as_secs_f64());
    }

    /// From the first byte read to the result. Called like [`Self::revocation_lag`].
    pub fn table_load_duration(&self, artefact: ReloadKind, took: Duration) {
        self.load(artefact).record(nanos(took));
    }

    pub(super) fn load(&self, artefact: ReloadKind) -> &Histogram {
        match artefact {
            ReloadKind::Patch => &self.patch_load,
            ReloadKind::Table => &self.table_load,
        }
    }

    /// `audience` is the configured one.
    pub fn audience_info(&self, audience: &str) -> Gauge {
        self.gauge(&families::AUDIENCE_INFO, vec![label("audience", audience)])
    }

    /// `signer` is the id of a trusted signer, so the configuration bounds it.
    pub fn table_info(&self, signer: &str) -> Gauge {
        self.gauge(&families::TABLE_INFO, vec![label("signer", signer)])
    }

    /// `upstream` is the name of one of `[upstreams.NAME]`.
    pub fn named_upstream_exposed(&self, upstream: &str) -> Gauge {
        self.gauge(&families::UPSTREAM_EXPOSED, vec![label(UPSTREAM, upstream)])
    }

    /// As [`Control::named_upstream_exposed`].
    pub fn named_upstream_healthy(&self, upstream: &str) -> Gauge {
        self.gauge(&families::UPSTREAM_HEALTHY, vec![label(UPSTREAM, upstream)])
    }

    /// `issuer` is a configured one.
    pub fn jwks_age(&self, issuer: &str) -> Gauge {
        self.gauge(&families::JWKS_AGE, vec![label("issuer", issuer)])
    }

    /// See [`Control::jwks_age`].
    pub fn jwks_keys(&self, issuer: &str) -> Gauge {
        self.gauge(&families::JWKS_KEYS, vec![label("issuer", issuer)])
    }

    /// See [`Control::jwks_age`].
    pub fn jwks_fetches(&self, issuer: &str, result: FetchResult) -> Counter {
        let labels = vec![label("issuer", issuer), label("result", result.as_str())];
        self.counter(&families::JWKS_FETCHES, labels)
    }

    pub fn shared_limits_up(&self) -> Gauge {
        self.gauge(&families::SHARED_LIMITS_UP, vec![])
    }

    pub fn shared_limits_fallback(&self) -> Counter {
        self.counter(&families::SHARED_LIMITS_FALLBACK, vec![])
    }

    pub fn shared_limits_requests(&self, result: StoreResult) -> Counter {
        let labels = vec![label("result", result.as_str())];
        self.counter(&families::SHARED_LIMITS_REQUESTS, labels)
    }

    /// From a question to its answer. Only the thread that asks calls this.
    pub fn shared_limits_duration(&self, took: Duration) {
        self.shared_limits.record(nanos(took));
    }

    pub fn keys(&self, state: &'static str) -> Gauge {
        self.gauge(&families::KEYS, vec![label("state", state)])
    }

    pub fn keys_expiring(&self, window: &'static str) -> Gauge {
        self.gauge(&families::KEYS_EXPIRING, vec![label("window", window)])
    }

    pub fn certificate_reloads(&self, result: Attempt) -> Counter {
        self.counter(&families::CERTIFICATE_RELOADS, vec![label("result", result.as_str())])
    }

    /// `name` is the configured certificate, never what a client asked for.
    pub fn certificate_expiry(&self, name: &str) -> Gauge {
        self.gauge(&families::CERTIFICATE_EXPIRY, vec![label("name", name)])
    }

    /// See [`Control::certificate_expiry`].
    pub fn certificate_valid(&self, name: &str) -> Gauge {
        self.gauge(&families::CERTIFICATE_VALID, vec![label("name", name)])
    }

    pub fn config_reloads(&self, result: Attempt) -> Counter {
        self.counter(&families::CONFIG_RELOADS, vec![label("result", result.as_str())])
    }

    pub fn usage_posts(&self, result: Attempt) -> Counter {
        self.counter(&families::USAGE_POSTS, vec![label("result", result.as_str())])
    }

    pub fn usage_writes(&self, result: Attempt) -> Counter {
        self.counter(&families::USAGE_WRITES, vec![label("result", result.as_str())])
    }

    pub fn log_lines_dropped(&self, log: LogName) -> Counter {
        self.counter(&families::LOG_LINES_DROPPED, vec![label("log", log.as_str())])
    }

    pub(super) fn render(&self, out: &mut String) {
        let text = self.handle.render();
        out.push_str(&text);
        // The recorder omits a labelled family that has no series yet, but dashboards should know
        // its name.
        for family in CONTROL.iter().filter(|f| !text.contains(&format!("# TYPE {} ", f.name))) {
            use metrics_exporter_prometheus::formatting;
            formatting::write_help_line(out, family.name, None, None, family.help);
            formatting::write_type_line(out, family.name, None, None, family.kind.as_str());
        }
    }

    fn counter(&self, family: &Family, labels: Vec<Label>) -> Counter {
        self.recorder.register_counter(&key(family, labels), &METADATA)
    }

    fn gauge(&self, family: &Family, labels: Vec<Label>) -> Gauge {
        self.recorder.register_gauge(&key(family, labels), &METADATA)
    }
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Control")
    }
}

/// The families recorded here and not by workers.
const CONTROL: &[Family] = &[
    families::AUDIENCE_INFO,
    families::BUILD_INFO,
    families::CERTIFICATE_EXPIRY,
    families::CERTIFICATE_RELOADS,
    families::CERTIFICATE_VALID,
    families::CONFIG_RELOADS,
    families::CONFIG_RELOAD_SUCCESSFUL,
    families::JWKS_AGE,
    families::JWKS_FETCHES,
    families::JWKS_KEYS,
    families::KEYS,
    families::KEYS_EXPIRING,
    families::LOG_LINES_DROPPED,
    families::OBSERVE_ENFORCED_SHARE,
    families::OBSERVE_UNTIL,
    families::PATCH_AGE,
    families::PATCH_SERIAL,
    families::PROCESS_START_TIME,
    families::READY,
    families::REVOCATION_LAG_LAST,
    families::SHARED_LIMITS_FALLBACK,
    families::SHARED_LIMITS_REQUESTS,
    families::SHARED_LIMITS_UP,
    families::SOURCE_FETCHES,
    families::STATE_PERSISTENT,
    families::TABLE_AGE,
    families::TABLE_EXPIRED,
    families::TABLE_EXPIRY,
    families::TABLE_INFO,
    families::TABLE_LAST_RELOAD_SUCCESSFUL,
    families::TABLE_LAST_RELOAD_TIMESTAMP,
    families::TABLE_RELOADS,
    families::TABLE_RELOAD_FAILURES,
    families::TABLE_SERIAL,
    families::UPSTREAM_EXPOSED,
    families::UPSTREAM_HEALTHY,
    families::USAGE_POSTS,
    families::USAGE_WRITES,
];

const UPSTREAM: &str = "upstream";

const METADATA: Metadata<'static> = Metadata::new("keygate", Level::INFO, None);

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn key(family: &Family, labels: Vec<Label>) -> Key {
    // The series of `[upstream]` do not have this label.
    let of_default = family.labels.iter().copied().filter(|name| *name != UPSTREAM);
    debug_assert!(
        labels.iter().map(Label::key).eq(family.labels.iter().copied())
            || labels.iter().map(Label::key).eq(of_default)
    );
    Key::from_parts(family.name, labels)
}

fn label(name: &'static str, value: &str) -> Label {
    Label::new(name, value.to_owned())
}

// === impl labels ===

impl ReloadKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Patch => "patch",
            Self::Table => "table",
        }
    }
}

impl FetchResult {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Failed => "failed",
            Self::Unchanged => "unchanged",
        }
    }
}

impl Attempt {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Succeeded => "succeeded",
        }
    }
}

impl StoreResult {
    pub const ALL: [Self; 4] = [Self::Granted, Self::Refused, Self::Timeout, Self::Error];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Granted => "granted",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Error => "error",
        }
    }
}

impl LogName {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Access => "access",
            Self::Operator => "operator",
        }
    }
}
