//! Metrics of the service, on a recorder of its own. docs/admin.md describes each of them.

use std::time::Duration;

use axum::http::{Method, StatusCode};
use metrics::{Counter, Key, Label, Level, Metadata, Recorder as _};
use metrics_exporter_prometheus::{
    Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};

use super::store::UsageTaken;

const REQUESTS: &str = "keygate_admin_requests_total";
const DURATION: &str = "keygate_admin_request_duration_seconds";
const FAILURES: &str = "keygate_admin_auth_failures_total";
const OIDC: &str = "keygate_admin_oidc_sign_ins_total";
const USAGE_LINES: &str = "keygate_admin_usage_lines_total";
const UNSIGNED: &str = "keygate_admin_audit_unsigned_lines";
const CHECKPOINT_FAILURES: &str = "keygate_admin_checkpoint_failures_total";
const CERTIFICATE_EXPIRY: &str = "keygate_admin_certificate_expiry_timestamp_seconds";
const CERTIFICATE_RELOADS: &str = "keygate_admin_certificate_reloads_total";
const LOG_DROPPED: &str = "keygate_admin_log_lines_dropped_total";
const FINDINGS: &str = "keygate_admin_usage_findings";

/// Seconds.
const BUCKETS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5, 10.0];

const METADATA: Metadata<'static> = Metadata::new("keygate", Level::INFO, None);

pub struct ServiceMetrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
}

// === impl ServiceMetrics ===

impl ServiceMetrics {
    #[expect(clippy::new_without_default, reason = "made once, by `App`")]
    pub fn new() -> Self {
        let builder = PrometheusBuilder::new();
        let recorder =
            match builder.set_buckets_for_metric(Matcher::Full(DURATION.to_owned()), &BUCKETS) {
                Ok(builder) => builder.build_recorder(),
                // Fails only without a bucket.
                Err(_) => PrometheusBuilder::new().build_recorder(),
            };
        let told = [
            (REQUESTS, "Requests to the management service."),
            (FAILURES, "Requests whose credential was refused, and why."),
            (OIDC, "Sign-ins at OpenID providers, by how they ended."),
            (LOG_DROPPED, "Lines of the log that were lost because nobody took them in time."),
            (CERTIFICATE_RELOADS, "Attempts to load the certificate again."),
            (CHECKPOINT_FAILURES, "Looks after which the audit log was not signed."),
            (USAGE_LINES, "Lines of usage records, by what they told."),
        ];
        for (name, help) in told {
            recorder.describe_counter(name.into(), None, help.into());
        }
        let help = "Keys whose use stands out, up to 1000 each.";
        recorder.describe_gauge(FINDINGS.into(), None, help.into());
        let help = "Lines of the audit log behind the last signed one.";
        recorder.describe_gauge(UNSIGNED.into(), None, help.into());
        let help = "When the served certificate expires.";
        recorder.describe_gauge(CERTIFICATE_EXPIRY.into(), None, help.into());
        let help = "From the head of a request to the head of its answer.";
        recorder.describe_histogram(DURATION.into(), None, help.into());
        let handle = recorder.handle();
        Self { recorder, handle }
    }

    /// `path` is the route's pattern, never text that a client has sent.
    pub fn answered(&self, method: &Method, path: &str, status: StatusCode, took: Duration) {
        let method = method_word(method);
        let labels = vec![
            Label::from_static_parts("method", method),
            Label::new("route", path.to_owned()),
            Label::new("status", status.as_u16().to_string()),
        ];
        let key = Key::from_parts(REQUESTS, labels);
        self.recorder.register_counter(&key, &METADATA).increment(1);
        let key = Key::from_parts(DURATION, vec![Label::new("route", path.to_owned())]);
        self.recorder.register_histogram(&key, &METADATA).record(took.as_secs_f64());
    }

    pub fn refused(&self, code: &'static str) {
        let key = Key::from_parts(FAILURES, vec![Label::from_static_parts("code", code)]);
        self.recorder.register_counter(&key, &METADATA).increment(1);
    }

    /// Counts the result of a sign-in at an OpenID provider; `provider` is from the configuration.
    pub fn oidc(&self, provider: &str, result: &'static str) {
        let labels = vec![
            Label::new("provider", provider.to_owned()),
            Label::from_static_parts("result", result),
        ];
        let key = Key::from_parts(OIDC, labels);
        self.recorder.register_counter(&key, &METADATA).increment(1);
    }

    /// Counts the result of a usage record.
    pub fn took_usage(&self, taken: UsageTaken) {
        for (told, lines) in [("raised", taken.raised), ("unknown", taken.unknown)] {
            let labels = vec![Label::from_static_parts("told", told)];
            let key = Key::from_parts(USAGE_LINES, labels);
            self.recorder.register_counter(&key, &METADATA).increment(lines);
        }
    }

    /// Sets how many of an audience's keys stand out in this way.
    pub fn found_usage(&self, audience: &str, finding: &'static str, keys: u64) {
        let labels = vec![
            Label::new("audience", audience.to_owned()),
            Label::from_static_parts("finding", finding),
        ];
        let key = Key::from_parts(FINDINGS, labels);
        self.recorder.register_gauge(&key, &METADATA).set(keys as f64);
    }

    /// Sets how many lines of the audit log no checkpoint covers.
    pub fn audit_unsigned(&self, lines: u64) {
        let key = Key::from_name(UNSIGNED);
        self.recorder.register_gauge(&key, &METADATA).set(lines as f64);
    }

    /// Counts a failure to sign the end of the audit log.
    pub fn checkpoint_failed(&self) {
        let key = Key::from_name(CHECKPOINT_FAILURES);
        self.recorder.register_counter(&key, &METADATA).increment(1);
    }

    /// The service uses a certificate that expires at this Unix time, in seconds.
    pub fn certificate(&self, name: &str, expires: i64) {
        let key = Key::from_parts(CERTIFICATE_EXPIRY, vec![Label::new("name", name.to_owned())]);
        self.recorder.register_gauge(&key, &METADATA).set(expires as f64);
    }

    /// Counts attempts to read changed files of certificate, key or authorities: `succeeded` or
    /// `failed`.
    pub fn certificates_read(&self, result: &'static str) {
        let labels = vec![Label::from_static_parts("result", result)];
        let key = Key::from_parts(CERTIFICATE_RELOADS, labels);
        self.recorder.register_counter(&key, &METADATA).increment(1);
    }

    /// Counts lines that the log has lost.
    pub fn log_lines_dropped(&self) -> Counter {
        self.recorder.register_counter(&Key::from_name(LOG_DROPPED), &METADATA)
    }

    /// Prometheus's text format.
    pub fn render(&self) -> String {
        self.handle.render()
    }

    /// Keeps samples small while nobody scrapes. Called every few seconds.
    pub fn tidy(&self) {
        self.handle.run_upkeep();
    }
}

/// For labels and logs, which a client must not fill with names of its own.
pub fn method_word(method: &Method) -> &'static str {
    match *method {
        Method::DELETE => "DELETE",
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::PATCH => "PATCH",
        Method::POST => "POST",
        Method::PUT => "PUT",
        _ => "other",
    }
}

impl std::fmt::Debug for ServiceMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServiceMetrics").finish_non_exhaustive()
    }
}
