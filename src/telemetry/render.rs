//! The workers' cells as Prometheus text: summed over workers, named as declared in `metrics`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, OnceLock};

use metrics_exporter_prometheus::formatting;

use super::UseSeries;
use super::cells::{
    ByReason, Histogram, MetricCell, RouteCells, TOKEN_RESULTS, UpstreamCells, WorkerCells,
};
use super::control::{Control, ReloadKind};
use super::labels::{
    CODES, CacheResult, LingerEnd, MethodLabel, RateDecision, Shortage, TokenOrigin, TurnedAway,
};
use super::metrics::{self, Family};
use super::policies::PolicyLabels;
use crate::core::observe::UpstreamClass;
use crate::core::{PolicyName, Reason, TokenFault};

/// Reasons that [`WorkerCells::upstream_error`] is called with, shown from the start.
const UPSTREAM_REASONS: [Reason; 6] = [
    Reason::Overloaded,
    Reason::UpstreamBadResponse,
    Reason::UpstreamClosed,
    Reason::UpstreamConnect,
    Reason::UpstreamConnectTimeout,
    Reason::UpstreamTimeout,
];

/// Reasons for which a request fails without a verdict against it, shown from the start.
const FAILED_REASONS: [Reason; 12] = [
    Reason::BadHeader,
    Reason::BodyTimeout,
    Reason::BodyTooLarge,
    Reason::HeaderTimeout,
    Reason::HeadersTooLarge,
    Reason::Overloaded,
    Reason::Shutdown,
    Reason::UpstreamBadResponse,
    Reason::UpstreamClosed,
    Reason::UpstreamConnect,
    Reason::UpstreamConnectTimeout,
    Reason::UpstreamTimeout,
];

/// Reasons that end a stream, shown from the start.
const STREAM_REASONS: [Reason; 11] = [
    Reason::Address,
    Reason::Canary,
    Reason::Disabled,
    Reason::Expired,
    Reason::NoTable,
    Reason::NotYetValid,
    Reason::Permission,
    Reason::Revoked,
    Reason::TokenExpired,
    Reason::TokenKeyUnknown,
    Reason::WrongEnvironment,
];

/// Label values by slot.
pub(super) struct WorkerLabels<'l> {
    pub(super) routes: &'l [Box<str>],
    pub(super) listeners: &'l [Box<str>],
    pub(super) policies: &'l PolicyLabels,
    /// Names of `[upstreams.NAME]`.
    pub(super) upstreams: &'l [Box<str>],
}

pub(super) fn workers(out: &mut String, workers: &[Arc<WorkerCells>], labels: &WorkerLabels<'_>) {
    let mut page = MetricsPage { out, workers };
    page.requests(labels.routes, labels.policies);
    page.connections(labels.listeners);
    page.upstreams(labels.upstreams);
}

/// The histograms of everything off the request path.
pub(super) fn reloads(out: &mut String, control: &Control) {
    let mut page = MetricsPage { out, workers: &[] };
    page.family(&metrics::REVOCATION_LAG);
    page.buckets(&metrics::REVOCATION_LAG, None, [&control.revocation_lag]);
    page.family(&metrics::SHARED_LIMITS_SECONDS);
    page.buckets(&metrics::SHARED_LIMITS_SECONDS, None, [&control.shared_limits]);
    page.family(&metrics::TABLE_LOAD_DURATION);
    for artefact in [ReloadKind::Patch, ReloadKind::Table] {
        let label = Some(("artefact", artefact.as_str()));
        page.buckets(&metrics::TABLE_LOAD_DURATION, label, [control.load(artefact)]);
    }
}

/// No key and no org has a name with a space.
const OTHER_KEYS: &str = "other keys";
const OTHER_ORGS: &str = "other orgs";

pub(super) fn uses(out: &mut String, uses: &UseSeries) {
    let mut page = MetricsPage { out, workers: &[] };
    for (family, label, series, rest, other) in [
        (&metrics::KEY_REQUESTS, "key", &uses.keys, OTHER_KEYS, uses.other_keys),
        (&metrics::ORG_REQUESTS, "org", &uses.orgs, OTHER_ORGS, uses.other_orgs),
    ] {
        page.family(family);
        for (name, count) in series {
            page.sample(family, "", &[(label, name)], count);
        }
        if let Some(other) = other {
            page.sample(family, "", &[(label, rest)], other);
        }
    }
}

struct MetricsPage<'p> {
    out: &'p mut String,
    workers: &'p [Arc<WorkerCells>],
}

// === impl MetricsPage ===

impl MetricsPage<'_> {
    fn requests(&mut self, routes: &[Box<str>], policies: &PolicyLabels) {
        self.family(&metrics::REQUESTS);
        for (slot, route) in routes.iter().enumerate() {
            for method in MethodLabel::ALL {
                for (at, (_, code)) in CODES.iter().enumerate() {
                    let sum = self.route_sum(slot, |r| {
                        r.requests.get(method as usize)?.get()?.0.get(at).map(MetricCell::read)
                    });
                    if sum > 0 {
                        let labels =
                            [("code", *code), ("method", method.as_str()), ("route", &**route)];
                        self.sample(&metrics::REQUESTS, "", &labels, sum);
                    }
                }
            }
        }
        self.family(&metrics::AUTH_DECISIONS);
        for (slot, route) in routes.iter().enumerate() {
            for (decision, sum) in [
                ("admitted", self.route_sum(slot, |r| Some(r.admitted.read()))),
                ("passed", self.route_sum(slot, |r| Some(r.passed.read()))),
            ] {
                // A configured rule shows its zero. Requests without a rule are never admitted.
                if slot > 0 || sum > 0 {
                    let labels = [("decision", decision), ("reason", ""), ("route", &**route)];
                    self.sample(&metrics::AUTH_DECISIONS, "", &labels, sum);
                }
            }
            for reason in Reason::ALL {
                for (decision, sum) in [
                    ("observed", self.reason_sum(slot, *reason, |r| r.observed.get())),
                    ("rejected", self.reason_sum(slot, *reason, |r| r.rejected.get())),
                ] {
                    if sum > 0 {
                        let labels =
                            [("decision", decision), ("reason", reason.as_str()), ("route", route)];
                        self.sample(&metrics::AUTH_DECISIONS, "", &labels, sum);
                    }
                }
            }
        }
        self.compared(routes);
        self.histogram(&metrics::REQUEST_DURATION, |w| &w.request_duration);
        self.histogram(&metrics::AUTH_DURATION, |w| &w.auth_duration);
        self.plain(&metrics::REQUESTS_ABORTED, |w| &w.aborted);
        self.plain(&metrics::REQUESTS_IN_FLIGHT, |w| &w.in_flight);
        self.plain(&metrics::PANICS, |w| &w.panics);
        self.plain(&metrics::CANARY_USED, |w| &w.canary_used);
        self.family(&metrics::RATELIMIT_DECISIONS);
        for decision in RateDecision::ALL {
            let sum = self.sum(|w| w.ratelimit.get(decision as usize));
            let labels =
                [("decision", decision.as_str()), ("policy", PolicyName::METRIC_OF_PER_KEY)];
            self.sample(&metrics::RATELIMIT_DECISIONS, "", &labels, sum);
        }
        for (slot, policy) in policies.iter() {
            let sums = RateDecision::ALL.map(|decision| {
                self.sum(|w| w.ratelimit_named.get()?.get(slot)?.get(decision as usize))
            });
            // Shows both once one of them has happened.
            for (decision, sum) in RateDecision::ALL.into_iter().zip(sums) {
                if sums.iter().any(|sum| *sum > 0) {
                    let labels = [("decision", decision.as_str()), ("policy", policy)];
                    self.sample(&metrics::RATELIMIT_DECISIONS, "", &labels, sum);
                }
            }
        }
        self.tokens();
        self.family(&metrics::ASSERTIONS);
        for source in TokenOrigin::ALL {
            let sum = self.sum(|w| w.assertions.get(source as usize));
            self.sample(&metrics::ASSERTIONS, "", &[("result", source.as_str())], sum);
        }
        self.plain(&metrics::STREAMS_OPEN, |w| &w.streams_open);
        self.by_reason(&metrics::STREAMS_ENDED, &STREAM_REASONS, |w| &w.streams_ended);
    }

    /// Verdicts on requests that are only observed.
    fn compared(&mut self, routes: &[Box<str>]) {
        self.family(&metrics::OBSERVED);
        for (slot, route) in routes.iter().enumerate() {
            let denied = Reason::ALL.iter().map(|reason| Some(*reason));
            for reason in std::iter::once(None).chain(denied) {
                for class in UpstreamClass::ALL {
                    let sum = self.route_sum(slot, |r| {
                        let compared = r.compared.get()?;
                        let by_upstream = match reason {
                            None => &compared.admitted,
                            Some(reason) => compared.denied.get(reason as usize)?.get()?,
                        };
                        by_upstream.0.get(class as usize).map(MetricCell::read)
                    });
                    if sum > 0 {
                        let labels = [
                            ("reason", reason.map_or("", Reason::as_str)),
                            ("route", &**route),
                            ("upstream", class.as_str()),
                            ("verdict", if reason.is_none() { "admit" } else { "deny" }),
                        ];
                        self.sample(&metrics::OBSERVED, "", &labels, sum);
                    }
                }
            }
        }
    }

    fn tokens(&mut self) {
        let mut sums = BTreeMap::<&str, [u64; TOKEN_RESULTS]>::new();
        for cells in self.workers.iter().flat_map(|w| &w.tokens).filter_map(OnceLock::get) {
            let sums = sums.entry(&cells.issuer).or_insert([0; TOKEN_RESULTS]);
            for (sum, cell) in sums.iter_mut().zip(&cells.results) {
                *sum += cell.read();
            }
        }
        self.family(&metrics::TOKENS);
        let faults = TokenFault::ALL.iter().map(|fault| fault.as_str());
        let words: Vec<_> = std::iter::once("accepted").chain(faults).collect();
        for (issuer, sums) in sums {
            for (word, sum) in words.iter().zip(sums).filter(|(_, sum)| *sum > 0) {
                self.sample(&metrics::TOKENS, "", &[("issuer", issuer), ("result", word)], sum);
            }
        }
        self.family(&metrics::TOKEN_CACHE);
        for result in CacheResult::ALL {
            let sum = self.sum(|w| w.token_cache.get(result as usize));
            self.sample(&metrics::TOKEN_CACHE, "", &[("result", result.as_str())], sum);
        }
    }

    fn connections(&mut self, listeners: &[Box<str>]) {
        self.plain(&metrics::ACCEPT_ERRORS, |w| &w.accept_errors);
        self.family(&metrics::CONNECTIONS);
        for (at, listener) in listeners.iter().enumerate() {
            let sum = self.sum(|w| w.connections.get(at));
            self.sample(&metrics::CONNECTIONS, "", &[("listener", listener)], sum);
        }
        self.family(&metrics::CONNECTIONS_OPEN);
        for (at, listener) in listeners.iter().enumerate() {
            for (n, worker) in self.workers.iter().enumerate() {
                let open = worker.connections_open.get(at).map_or(0, MetricCell::read);
                let labels = [("listener", &**listener), ("worker", &n.to_string())];
                self.sample(&metrics::CONNECTIONS_OPEN, "", &labels, open);
            }
        }
        self.family(&metrics::CONNECTIONS_TURNED_AWAY);
        for why in TurnedAway::ALL {
            let sum = self.sum(|w| w.turned_away.get(why as usize));
            self.sample(&metrics::CONNECTIONS_TURNED_AWAY, "", &[("reason", why.as_str())], sum);
        }
        self.family(&metrics::LINGERING_CLOSES);
        for end in LingerEnd::ALL {
            let sum = self.sum(|w| w.lingered.get(end as usize));
            self.sample(&metrics::LINGERING_CLOSES, "", &[("end", end.as_str())], sum);
        }
        self.plain(&metrics::CLIENT_BYTES_RECEIVED, |w| &w.bytes_received);
        self.plain(&metrics::CLIENT_BYTES_SENT, |w| &w.bytes_sent);
        self.plain(&metrics::FIELDS_DROPPED, |w| &w.fields_dropped);
        self.plain(&metrics::HTTP2_STREAMS_OPEN, |w| &w.http2_streams_open);
        self.plain(&metrics::MEMORY_BUDGET, |w| &w.memory_budget);
        self.plain(&metrics::MEMORY_HELD, |w| &w.memory_held);
        self.family(&metrics::MEMORY_TURNED_AWAY);
        for why in Shortage::ALL {
            let sum = self.sum(|w| w.memory_turned_away.get(why as usize));
            self.sample(&metrics::MEMORY_TURNED_AWAY, "", &[("reason", why.as_str())], sum);
        }
    }

    /// The series of `[upstream]` have no label `upstream`. Those of `[upstreams.NAME]` have its
    /// name.
    fn upstreams(&mut self, names: &[Box<str>]) {
        self.of_upstreams(&metrics::UPSTREAM_CONNECTIONS, names, |u| &u.connections);
        self.of_upstreams(&metrics::UPSTREAM_CONNECTIONS_OPEN, names, |u| &u.open);
        self.family(&metrics::UPSTREAM_CREDENTIALS);
        for (at, name) in upstream_labels(names) {
            for source in TokenOrigin::ALL {
                let sum = self.upstream_sum(at, |u| u.credentials.get(source as usize));
                let labels = std::iter::once(("result", source.as_str())).chain(name);
                let labels: Vec<_> = labels.collect();
                self.sample(&metrics::UPSTREAM_CREDENTIALS, "", &labels, sum);
            }
        }
        self.of_upstreams(&metrics::UPSTREAM_CREDENTIAL_REFUSED, names, |u| &u.credential_refused);
        self.by_reason(&metrics::REQUESTS_FAILED, &FAILED_REASONS, |w| &w.requests_failed);
        self.family(&metrics::UPSTREAM_ERRORS);
        for (at, name) in upstream_labels(names) {
            for reason in Reason::ALL {
                let sum = self.upstream_sum(at, |u| u.errors.get(*reason as usize));
                if sum > 0 || UPSTREAM_REASONS.contains(reason) {
                    let labels = std::iter::once(("reason", reason.as_str())).chain(name);
                    let labels: Vec<_> = labels.collect();
                    self.sample(&metrics::UPSTREAM_ERRORS, "", &labels, sum);
                }
            }
        }
        self.of_upstreams(&metrics::UPSTREAM_INFORMATIONAL, names, |u| &u.informational);
        self.family(&metrics::UPSTREAM_RESPONSE);
        for (at, name) in upstream_labels(names) {
            // An upstream that no worker has used yet shows zeros.
            let unused = UpstreamCells::default();
            let used = self.workers.iter().filter_map(|w| w.used_upstream(at));
            let of: Vec<_> = used.chain([&unused]).map(|cells| &cells.response).collect();
            self.buckets(&metrics::UPSTREAM_RESPONSE, name, of);
        }
        self.of_upstreams(&metrics::UPSTREAM_RETRIES, names, |u| &u.retries);
        self.of_upstreams(&metrics::UPSTREAM_REUSED, names, |u| &u.reused);
    }

    /// A family with one series for each upstream.
    fn of_upstreams(
        &mut self,
        family: &Family,
        names: &[Box<str>],
        cell: impl Fn(&UpstreamCells) -> &MetricCell,
    ) {
        self.family(family);
        for (at, name) in upstream_labels(names) {
            let sum = self.upstream_sum(at, |u| Some(cell(u)));
            let labels: Vec<_> = name.into_iter().collect();
            self.sample(family, "", &labels, sum);
        }
    }

    fn upstream_sum(
        &self,
        upstream: usize,
        cell: impl Fn(&UpstreamCells) -> Option<&MetricCell>,
    ) -> u64 {
        self.workers
            .iter()
            .filter_map(|w| cell(w.used_upstream(upstream)?).map(MetricCell::read))
            .fold(0, u64::wrapping_add)
    }

    fn plain(&mut self, family: &Family, cell: impl Fn(&WorkerCells) -> &MetricCell) {
        self.family(family);
        let sum = self.sum(|w| Some(cell(w)));
        self.sample(family, "", &[], sum);
    }

    /// Shows the expected reasons with their zeros, and others only after they have happened.
    fn by_reason(
        &mut self,
        family: &Family,
        expected: &[Reason],
        cells: impl Fn(&WorkerCells) -> &[MetricCell; Reason::ALL.len()],
    ) {
        self.family(family);
        for reason in Reason::ALL {
            let sum = self.sum(|w| cells(w).get(*reason as usize));
            if sum > 0 || expected.contains(reason) {
                self.sample(family, "", &[("reason", reason.as_str())], sum);
            }
        }
    }

    fn histogram(&mut self, family: &Family, of: impl Fn(&WorkerCells) -> &Histogram) {
        self.family(family);
        self.buckets(family, None, self.workers.iter().map(|worker| of(worker)));
    }

    /// The samples of one series: the sum of all these histograms, which have the same bounds.
    fn buckets<'h, const CELLS: usize>(
        &mut self,
        family: &Family,
        label: Option<(&str, &str)>,
        of: impl IntoIterator<Item = &'h Histogram<CELLS>>,
    ) {
        let mut of = of.into_iter().peekable();
        let Some(bounds) = of.peek().map(|histogram| histogram.bounds) else { return };
        let mut totals = vec![0u64; bounds.len() + 1];
        let mut sum_ns = 0u64;
        for histogram in of {
            for (total, count) in totals.iter_mut().zip(histogram.counts()) {
                *total += count;
            }
            sum_ns = sum_ns.wrapping_add(histogram.sum_ns());
        }
        // The count is the sum of what was just read, so that a scrape is self-consistent.
        let mut running = 0;
        for (at, total) in totals.iter().enumerate() {
            running += total;
            let le = match bounds.get(at) {
                Some(bound) => seconds(*bound).to_string(),
                None => "+Inf".to_owned(),
            };
            let labels: Vec<_> = label.into_iter().chain([("le", le.as_str())]).collect();
            self.sample(family, "_bucket", &labels, running);
        }
        let labels: Vec<_> = label.into_iter().collect();
        self.sample(family, "_sum", &labels, seconds(sum_ns));
        self.sample(family, "_count", &labels, running);
    }

    fn family(&mut self, family: &Family) {
        formatting::write_help_line(self.out, family.name, None, None, family.help);
        formatting::write_type_line(self.out, family.name, None, None, family.kind.as_str());
    }

    fn sample(
        &mut self,
        family: &Family,
        suffix: &str,
        labels: &[(&str, &str)],
        value: impl std::fmt::Display,
    ) {
        self.out.push_str(family.name);
        self.out.push_str(suffix);
        let mut open = '{';
        for (name, value) in labels {
            self.out.push(open);
            self.out.push_str(name);
            self.out.push_str("=\"");
            self.out.push_str(&formatting::sanitize_label_value(value));
            self.out.push('"');
            open = ',';
        }
        if !labels.is_empty() {
            self.out.push('}');
        }
        // Writing to a `String` cannot fail.
        let _ = writeln!(self.out, " {value}");
    }

    fn sum(&self, cell: impl Fn(&WorkerCells) -> Option<&MetricCell>) -> u64 {
        self.workers.iter().map(|w| cell(w).map_or(0, MetricCell::read)).fold(0, u64::wrapping_add)
    }

    fn route_sum(&self, slot: usize, read: impl Fn(&RouteCells) -> Option<u64>) -> u64 {
        self.workers
            .iter()
            .filter_map(|w| w.used_route(slot).and_then(&read))
            .fold(0, u64::wrapping_add)
    }

    fn reason_sum(
        &self,
        slot: usize,
        reason: Reason,
        of: impl Fn(&RouteCells) -> Option<&Box<ByReason>>,
    ) -> u64 {
        self.route_sum(slot, |r| of(r)?.0.get(reason as usize).map(MetricCell::read))
    }
}

/// Each upstream by its index, with its label.
fn upstream_labels(names: &[Box<str>]) -> impl Iterator<Item = (usize, Option<(&str, &str)>)> {
    let named = names.iter().map(|name| Some(("upstream", &**name)));
    std::iter::once(None).chain(named).enumerate()
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

#[cfg(test)]
mod tests;
