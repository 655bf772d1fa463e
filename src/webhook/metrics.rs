//! Metrics of the webhook, counted by many threads concurrently. docs/metrics.md describes each; a
//! test compares the two.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use metrics::Counter;

use super::review::{AdmissionResult, all_results};

const ADMISSIONS: &str = "keygate_webhook_admissions_total";
const DURATION: &str = "keygate_webhook_admission_duration_seconds";
const REFUSED: &str = "keygate_webhook_refused_requests_total";
const HANDSHAKES: &str = "keygate_webhook_failed_handshakes_total";
const EXPIRY: &str = "keygate_webhook_certificate_expiry_timestamp_seconds";
const LOOKS: &str = "keygate_webhook_certificate_looks_total";
const LOST_LINES: &str = "keygate_webhook_log_lines_dropped_total";
const READY: &str = "keygate_webhook_ready";

/// Upper bounds, in microseconds.
const BOUNDS_US: [u64; 11] =
    [100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 100_000, 500_000, 2_500_000];

/// Statuses of requests that are not a review.
const STATUSES: [u16; 7] = [404, 405, 408, 413, 415, 500, 503];

/// What the webhook counts.
#[derive(Debug)]
pub struct WebhookMetrics {
    admissions: BTreeMap<(AdmissionResult, &'static str), AtomicU64>,
    /// The last one is for durations beyond all bounds.
    durations: [AtomicU64; BOUNDS_US.len() + 1],
    duration_sum_us: AtomicU64,
    refused: BTreeMap<u16, AtomicU64>,
    handshakes: BTreeMap<&'static str, AtomicU64>,
    expiry: BTreeMap<&'static str, AtomicU64>,
    looks: BTreeMap<&'static str, AtomicU64>,
    lost_lines: Arc<AtomicU64>,
}

/// Why a connection led to no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeFault {
    /// The client does not trust our certificate.
    CertificateRefused,
    Timeout,
    Tls,
}

/// Whether reviews can be answered, and whether new ones should arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WebhookReadiness {
    Draining,
    NoCertificate,
    Ready,
}

/// Which certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateOf {
    Authority,
    Serving,
}

// === impl WebhookMetrics ===

impl WebhookMetrics {
    #[expect(clippy::new_without_default, reason = "made once, by the command")]
    pub fn new() -> Self {
        fn zeros<K: Ord>(keys: impl IntoIterator<Item = K>) -> BTreeMap<K, AtomicU64> {
            keys.into_iter().map(|key| (key, AtomicU64::new(0))).collect()
        }
        Self {
            admissions: zeros(all_results()),
            durations: std::array::from_fn(|_| AtomicU64::new(0)),
            duration_sum_us: AtomicU64::new(0),
            refused: zeros(STATUSES),
            handshakes: zeros(HandshakeFault::ALL.map(HandshakeFault::as_str)),
            expiry: BTreeMap::from(
                [CertificateOf::Authority, CertificateOf::Serving]
                    .map(|of| (of.as_str(), AtomicU64::new(0))),
            ),
            looks: zeros(["failed", "succeeded"]),
            lost_lines: Arc::default(),
        }
    }

    pub fn admitted(&self, result: AdmissionResult, reason: &'static str, took: Duration) {
        count(&self.admissions, &(result, reason));
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        // Bounds are inclusive, as `le` says.
        let at = BOUNDS_US.partition_point(|bound| *bound < us);
        if let Some(cell) = self.durations.get(at) {
            cell.fetch_add(1, Ordering::Relaxed);
        }
        self.duration_sum_us.fetch_add(us, Ordering::Relaxed);
    }

    pub fn refused(&self, status: http::StatusCode) {
        count(&self.refused, &status.as_u16());
    }

    pub fn handshake_failed(&self, fault: HandshakeFault) {
        count(&self.handshakes, &fault.as_str());
    }

    /// `unix_secs`: 0 while there is none.
    pub fn expires(&self, of: CertificateOf, unix_secs: u64) {
        if let Some(cell) = self.expiry.get(of.as_str()) {
            cell.store(unix_secs, Ordering::Relaxed);
        }
    }

    /// A check of the certificate's files, or of authority and bundle.
    pub fn looked<T, E>(&self, result: &Result<T, E>) {
        count(&self.looks, &if result.is_ok() { "succeeded" } else { "failed" });
    }

    /// For the log, which counts the lines that it had to drop.
    pub fn lost_lines(&self) -> Counter {
        Counter::from_arc(Arc::clone(&self.lost_lines))
    }

    /// The text that Prometheus reads.
    pub fn render(&self, readiness: WebhookReadiness) -> String {
        let mut text = String::with_capacity(4096);
        let out = &mut text;
        let read = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        family(
            out,
            ADMISSIONS,
            "counter",
            "Admission reviews answered, and what became of the pod.",
        );
        for ((result, reason), cell) in &self.admissions {
            let labels = format!("result=\"{}\",reason=\"{reason}\"", result.as_str());
            line(out, ADMISSIONS, &labels, read(cell));
        }
        family(out, DURATION, "histogram", "From the last byte of a review to its answer.");
        let mut sum = 0;
        for (at, cell) in self.durations.iter().enumerate() {
            sum += read(cell);
            let bound = BOUNDS_US.get(at).map(|us| (*us as f64 / 1e6).to_string());
            let bound = bound.unwrap_or_else(|| "+Inf".to_owned());
            line(out, &format!("{DURATION}_bucket"), &format!("le=\"{bound}\""), sum);
        }
        let seconds = read(&self.duration_sum_us) as f64 / 1e6;
        // Writing to a `String` cannot fail.
        let _ = writeln!(out, "{DURATION}_sum {seconds}\n{DURATION}_count {sum}");
        family(
            out,
            REFUSED,
            "counter",
            "Requests that were no review, by the status of the answer.",
        );
        for (status, cell) in &self.refused {
            line(out, REFUSED, &format!("status=\"{status}\""), read(cell));
        }
        family(out, HANDSHAKES, "counter", "Connections that came to no request.");
        for (reason, cell) in &self.handshakes {
            line(out, HANDSHAKES, &format!("reason=\"{reason}\""), read(cell));
        }
        let help = "When the certificate ends, in Unix time; 0 while there is none.";
        family(out, EXPIRY, "gauge", help);
        for (of, cell) in &self.expiry {
            line(out, EXPIRY, &format!("certificate=\"{of}\""), read(cell));
        }
        family(
            out,
            LOOKS,
            "counter",
            "Looks at the certificate, or at its authority and caBundle.",
        );
        for (result, cell) in &self.looks {
            line(out, LOOKS, &format!("result=\"{result}\""), read(cell));
        }
        family(out, LOST_LINES, "counter", "Log lines dropped because nobody read them in time.");
        let _ = writeln!(out, "{LOST_LINES} {}", read(&self.lost_lines));
        family(out, READY, "gauge", "1: a certificate is loaded and the process does not drain.");
        let _ = writeln!(out, "{READY} {}", u8::from(readiness == WebhookReadiness::Ready));
        text
    }
}

fn count<K: Ord>(cells: &BTreeMap<K, AtomicU64>, key: &K) {
    if let Some(cell) = cells.get(key) {
        cell.fetch_add(1, Ordering::Relaxed);
    }
}

fn family(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn line(out: &mut String, name: &str, labels: &str, value: u64) {
    let _ = writeln!(out, "{name}{{{labels}}} {value}");
}

// === impl HandshakeFault ===

impl HandshakeFault {
    const ALL: [Self; 3] = [Self::CertificateRefused, Self::Timeout, Self::Tls];

    const fn as_str(self) -> &'static str {
        match self {
            Self::CertificateRefused => "certificate_refused",
            Self::Timeout => "timeout",
            Self::Tls => "tls",
        }
    }
}

// === impl CertificateOf ===

impl CertificateOf {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Authority => "authority",
            Self::Serving => "serving",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// docs/metrics.md has a row for each family with its kind and labels, and none for a family
    /// that does not exist.
    #[test]
    fn the_manual_describes_every_family_and_label() {
        let text = WebhookMetrics::new().render(WebhookReadiness::Ready);
        let manual = include_str!("../../docs/metrics.md");
        let rows: Vec<_> =
            manual.lines().filter(|l| l.starts_with("| `keygate_webhook_")).collect();
        let mut families = 0;
        for told in text.lines().filter_map(|l| l.strip_prefix("# TYPE ")) {
            let (name, kind) = told.split_once(' ').unwrap();
            let row = rows.iter().find(|row| row.starts_with(&format!("| `{name}` | {kind} |")));
            let row =
                row.unwrap_or_else(|| panic!("docs/metrics.md: no row for the {kind} {name}"));
            let series = text.lines().find(|l| l.starts_with(&format!("{name}{{")));
            let labels = series.and_then(|l| l.split('{').nth(1)?.split('}').next());
            for label in labels.into_iter().flat_map(|labels| labels.split(',')) {
                let label = label.split('=').next().unwrap();
                assert!(row.contains(&format!("`{label}`")), "{name} has the label {label}");
            }
            families += 1;
        }
        assert_eq!(families, rows.len(), "a row is of no family: {rows:#?}");
    }

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let metrics = WebhookMetrics::new();
        for us in [0, 100, 101, 10_000, 9_000_000] {
            metrics.admitted(AdmissionResult::Injected, "", Duration::from_micros(us));
        }
        let text = metrics.render(WebhookReadiness::Draining);
        for want in [
            "keygate_webhook_admission_duration_seconds_bucket{le=\"0.0001\"} 2",
            "keygate_webhook_admission_duration_seconds_bucket{le=\"0.00025\"} 3",
            "keygate_webhook_admission_duration_seconds_bucket{le=\"0.01\"} 4",
            "keygate_webhook_admission_duration_seconds_bucket{le=\"2.5\"} 4",
            "keygate_webhook_admission_duration_seconds_bucket{le=\"+Inf\"} 5",
            "keygate_webhook_admission_duration_seconds_count 5",
            "keygate_webhook_admission_duration_seconds_sum 9.010201",
            "keygate_webhook_admissions_total{result=\"injected\",reason=\"\"} 5",
            "keygate_webhook_admissions_total{result=\"skipped\",reason=\"host_network\"} 0",
            "keygate_webhook_ready 0",
        ] {
            assert!(text.lines().any(|line| line == want), "{want}\nnot in\n{text}");
        }
    }
}
