//! Metrics of the distributor, on a recorder of its own. docs/distributor.md describes each.

use std::time::Duration;

use http::StatusCode;
use metrics::{Histogram, Key, Label, Level, Metadata, Recorder as _};
use metrics_exporter_prometheus::{
    Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};

use crate::artefacts::ArtefactName;

const REQUESTS: &str = "keygate_distributor_requests_total";
const REFUSED: &str = "keygate_distributor_refused_total";
const BYTES: &str = "keygate_distributor_sent_bytes_total";
const WAITING: &str = "keygate_distributor_waiting";
const CONNECTIONS: &str = "keygate_distributor_connections";
const CONNECTIONS_TURNED_AWAY: &str = "keygate_distributor_connections_turned_away_total";
const NEWS: &str = "keygate_distributor_news_seconds";
const NEWS_LAST: &str = "keygate_distributor_news_last_seconds";
const FETCHES: &str = "keygate_distributor_origin_fetches_total";
const AGE: &str = "keygate_distributor_origin_age_seconds";
const SERIAL: &str = "keygate_distributor_serial";
const SIZE: &str = "keygate_distributor_artefact_bytes";
const CERTIFICATE: &str = "keygate_distributor_certificate_expiry_timestamp_seconds";

/// Seconds.
const BUCKETS: [f64; 12] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 10.0];

const METADATA: Metadata<'static> = Metadata::new("keygate", Level::INFO, None);

pub(super) struct DistributorMetrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
}

/// The file that a metric is about.
#[derive(Clone, Copy, Debug)]
pub(super) struct MeteredArtefact<'a> {
    pub(super) audience: &'a str,
    pub(super) name: ArtefactName,
}

/// The outcome of one request to the origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OriginResult {
    Failed,
    Missing,
    New,
    Refused,
    Unchanged,
}

// === impl OriginResult ===

impl OriginResult {
    pub(super) const ALL: [Self; 5] =
        [Self::Failed, Self::Missing, Self::New, Self::Refused, Self::Unchanged];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Missing => "missing",
            Self::New => "new",
            Self::Refused => "refused",
            Self::Unchanged => "unchanged",
        }
    }
}

// === impl MeteredArtefact ===

impl MeteredArtefact<'_> {
    fn labels(self) -> Vec<Label> {
        let artefact = match self.name {
            ArtefactName::Patch => "patch",
            ArtefactName::Table => "table",
        };
        vec![
            Label::new("audience", self.audience.to_owned()),
            Label::from_static_parts("artefact", artefact),
        ]
    }

    fn with(self, name: &'static str, value: &'static str) -> Vec<Label> {
        let mut labels = self.labels();
        labels.push(Label::from_static_parts(name, value));
        labels
    }
}

// === impl DistributorMetrics ===

impl DistributorMetrics {
    pub(super) fn new() -> Self {
        let builder = PrometheusBuilder::new();
        let recorder =
            match builder.set_buckets_for_metric(Matcher::Full(NEWS.to_owned()), &BUCKETS) {
                Ok(builder) => builder.build_recorder(),
                // This fails only without a bucket.
                Err(_) => PrometheusBuilder::new().build_recorder(),
            };
        for (name, help) in [
            (REQUESTS, "Answers to sidecars, by file and status."),
            (REFUSED, "Requests of nobody's fleet, or for nothing that is served, by status."),
            (BYTES, "Bytes of tables and patches handed out."),
            (CONNECTIONS_TURNED_AWAY, "Connections beyond --max-connections."),
            (FETCHES, "Requests to the origin, by result."),
        ] {
            recorder.describe_counter(name.into(), None, help.into());
        }
        for (name, help) in [
            (WAITING, "Requests that wait for something new."),
            (CONNECTIONS, "Connections of sidecars."),
            (
                NEWS_LAST,
                "From the arrival of the newest version to the last who was waiting for it.",
            ),
            (AGE, "Since the origin last confirmed what is served; NaN: it never did."),
            (SERIAL, "Serial of what is served; 0: nothing."),
            (SIZE, "Size of what is served."),
            (CERTIFICATE, "When the listener's certificate ends."),
        ] {
            recorder.describe_gauge(name.into(), None, help.into());
        }
        let help = "From the arrival of a version to those who were waiting for it.";
        recorder.describe_histogram(NEWS.into(), None, help.into());
        let handle = recorder.handle();
        let none = Key::from_static_name(CONNECTIONS_TURNED_AWAY);
        recorder.register_counter(&none, &METADATA).increment(0);
        Self { recorder, handle }
    }

    /// Creates every series of a file, before anything happens to it.
    pub(super) fn begin(&self, artefact: MeteredArtefact<'_>) -> Histogram {
        for result in OriginResult::ALL {
            let key = Key::from_parts(FETCHES, artefact.with("result", result.as_str()));
            self.recorder.register_counter(&key, &METADATA).increment(0);
        }
        let key = Key::from_parts(NEWS, artefact.labels());
        self.recorder.register_histogram(&key, &METADATA)
    }

    pub(super) fn fetched(&self, artefact: MeteredArtefact<'_>, result: OriginResult) {
        let key = Key::from_parts(FETCHES, artefact.with("result", result.as_str()));
        self.recorder.register_counter(&key, &METADATA).increment(1);
    }

    pub(super) fn answered(&self, artefact: MeteredArtefact<'_>, status: StatusCode, bytes: u64) {
        let mut labels = artefact.labels();
        labels.push(Label::new("status", status.as_u16().to_string()));
        let key = Key::from_parts(REQUESTS, labels);
        self.recorder.register_counter(&key, &METADATA).increment(1);
        if bytes > 0 {
            let key = Key::from_parts(BYTES, artefact.labels());
            self.recorder.register_counter(&key, &METADATA).increment(bytes);
        }
    }

    pub(super) fn refused(&self, status: StatusCode) {
        let labels = vec![Label::new("status", status.as_u16().to_string())];
        let key = Key::from_parts(REFUSED, labels);
        self.recorder.register_counter(&key, &METADATA).increment(1);
    }

    pub(super) fn turned_away(&self) {
        let key = Key::from_static_name(CONNECTIONS_TURNED_AWAY);
        self.recorder.register_counter(&key, &METADATA).increment(1);
    }

    // --- read on request

    pub(super) fn show(&self, waiting: usize, connections: usize) {
        for (name, value) in [(WAITING, waiting), (CONNECTIONS, connections)] {
            let key = Key::from_static_name(name);
            self.recorder.register_gauge(&key, &METADATA).set(value as f64);
        }
    }

    /// `age`: since the origin confirmed it; `news`: of the newest version.
    pub(super) fn show_artefact(
        &self,
        artefact: MeteredArtefact<'_>,
        serial: u64,
        bytes: usize,
        age: Option<Duration>,
        news: Duration,
    ) {
        let age = age.map_or(f64::NAN, |age| age.as_secs_f64());
        for (name, value) in [
            (SERIAL, serial as f64),
            (SIZE, bytes as f64),
            (AGE, age),
            (NEWS_LAST, news.as_secs_f64()),
        ] {
            let key = Key::from_parts(name, artefact.labels());
            self.recorder.register_gauge(&key, &METADATA).set(value);
        }
    }

    pub(super) fn show_certificate(&self, ends_at: i64) {
        let key = Key::from_static_name(CERTIFICATE);
        self.recorder.register_gauge(&key, &METADATA).set(ends_at as f64);
    }

    /// The text that Prometheus reads.
    pub(super) fn render(&self) -> String {
        self.handle.render()
    }

    /// Keeps samples small while nobody scrapes. Called every few seconds.
    pub(super) fn tidy(&self) {
        self.handle.run_upkeep();
    }
}

impl std::fmt::Debug for DistributorMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DistributorMetrics").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_manual_describes_every_metric_and_no_other() {
        let metrics = DistributorMetrics::new();
        for name in [ArtefactName::Patch, ArtefactName::Table] {
            let artefact = MeteredArtefact { audience: "shop", name };
            metrics.begin(artefact).record(1.0);
            metrics.answered(artefact, StatusCode::OK, 7);
            metrics.show_artefact(artefact, 7, 7, None, Duration::ZERO);
        }
        metrics.refused(StatusCode::UNAUTHORIZED);
        metrics.turned_away();
        metrics.show(1, 2);
        metrics.show_certificate(7);
        let page = metrics.render();
        let families = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        let kinds: BTreeSet<(&str, &str)> = families.filter_map(|l| l.split_once(' ')).collect();
        let manual = include_str!("../../docs/distributor.md");
        let rows = manual.lines().filter_map(|line| {
            let mut cells = line.strip_prefix("| `keygate_")?.split('|').map(str::trim);
            Some((cells.next()?.trim_end_matches('`'), cells.next()?))
        });
        let told: BTreeSet<(String, &str)> =
            rows.map(|(name, kind)| (format!("keygate_{name}"), kind)).collect();
        let told: BTreeSet<(&str, &str)> = told.iter().map(|(n, k)| (&**n, *k)).collect();
        assert_eq!(kinds, told);
        let helps = page.lines().filter(|line| line.starts_with("# HELP ")).count();
        assert_eq!(helps, kinds.len());
        for line in page.lines().filter(|line| !line.starts_with('#')) {
            assert!(!line.contains("status=\"\""), "{line}");
        }
    }
}
