//! What a worker records: plain numbers in its own memory. Imports `core` and `config`.
//!
//! Only the worker's thread writes; the admin thread reads. A write is therefore a relaxed load and
//! a relaxed store: a read-modify-write instruction costs several times as much, and a counter that
//! two threads share costs 14 → 77 ns (measured). Cells of different workers share no cache line.

mod cell;
mod upstream;

use std::sync::{Arc, OnceLock};

pub(super) use self::cell::{Histogram, MetricCell, add_at};
pub(super) use self::upstream::UpstreamCells;
use super::labels::{
    CODES, CacheResult, DecisionOutcome, LingerEnd, MethodLabel, RateDecision, Shortage,
    TokenOrigin, TurnedAway, code_slot,
};
use super::metrics::buckets;
use super::policies::{POLICY_SLOTS, PolicyLabels};
use super::{LISTENER_SLOTS, OTHER_ROUTE, ROUTE_SLOTS};
use crate::config::{MOST_ISSUERS, MOST_UPSTREAMS};
use crate::core::charge::ChargedLimits;
use crate::core::observe::UpstreamClass;
use crate::core::rate_fields::LimitReport;
use crate::core::{PolicyName, Reason, TokenFault};

/// All that one worker records.
///
/// The alignment prevents two workers' cells from sharing a pair of cache lines (the prefetcher of
/// common processors fetches pairs).
#[derive(Debug)]
#[repr(align(128))]
pub struct WorkerCells {
    pub(super) accept_errors: MetricCell,
    pub(super) aborted: MetricCell,
    pub(super) assertions: [MetricCell; TokenOrigin::ALL.len()],
    pub(super) auth_duration: Histogram,
    pub(super) bytes_received: MetricCell,
    pub(super) bytes_sent: MetricCell,
    pub(super) canary_used: MetricCell,
    pub(super) connections: [MetricCell; LISTENER_SLOTS],
    pub(super) connections_open: [MetricCell; LISTENER_SLOTS],
    pub(super) fields_dropped: MetricCell,
    pub(super) http2_streams_open: MetricCell,
    pub(super) in_flight: MetricCell,
    pub(super) memory_budget: MetricCell,
    pub(super) memory_held: MetricCell,
    pub(super) memory_turned_away: [MetricCell; Shortage::ALL.len()],
    pub(super) panics: MetricCell,
    /// For the policy `per-key`.
    pub(super) ratelimit: [MetricCell; RateDecision::ALL.len()],
    /// For all others, by their place in `policies`. Created when the first of them is charged.
    pub(super) ratelimit_named:
        OnceLock<Box<[[MetricCell; RateDecision::ALL.len()]; POLICY_SLOTS]>>,
    policies: Arc<PolicyLabels>,
    pub(super) request_duration: Histogram,
    pub(super) requests_failed: [MetricCell; Reason::ALL.len()],
    pub(super) streams_ended: [MetricCell; Reason::ALL.len()],
    pub(super) streams_open: MetricCell,
    pub(super) turned_away: [MetricCell; TurnedAway::ALL.len()],
    pub(super) token_cache: [MetricCell; CacheResult::ALL.len()],
    /// By issuer, in the order of their first token here. The last is for all further issuers.
    pub(super) tokens: [OnceLock<Box<TokenCells>>; ISSUER_SLOTS],
    pub(super) lingered: [MetricCell; LingerEnd::ALL.len()],
    /// For `[upstream]`.
    upstream: UpstreamCells,
    /// For each of `[upstreams.NAME]`, created when it is first used.
    named_upstreams: [OnceLock<Box<UpstreamCells>>; MOST_UPSTREAMS],
    /// Created when a route is first used, so that an idle sidecar stays small.
    routes: Box<[OnceLock<Box<RouteCells>>]>,
}

/// What is recorded per route rule.
#[derive(Debug, Default)]
pub(super) struct RouteCells {
    pub(super) admitted: MetricCell,
    pub(super) passed: MetricCell,
    pub(super) observed: OnceLock<Box<ByReason>>,
    /// For requests that are only observed.
    pub(super) compared: OnceLock<Box<ComparedVerdicts>>,
    pub(super) rejected: OnceLock<Box<ByReason>>,
    pub(super) requests: [OnceLock<Box<ByCode>>; MethodLabel::ALL.len()],
}

/// What is recorded per issuer of user tokens.
#[derive(Debug)]
pub(super) struct TokenCells {
    /// Empty: it is not configured, or there is none.
    pub(super) issuer: Box<str>,
    /// Accepted, then by [`TokenFault`].
    pub(super) results: [MetricCell; TOKEN_RESULTS],
}

/// The most values of the label `issuer` of one worker: the configured ones, that of strangers, and
/// space for reloads. The last one is [`OTHER_ISSUERS`].
const ISSUER_SLOTS: usize = 2 * MOST_ISSUERS;

/// Issuers added by reloads when all slots were taken. No issuer has this name, because theirs are
/// URLs.
pub(super) const OTHER_ISSUERS: &str = "other";

pub(super) const TOKEN_RESULTS: usize = 1 + TokenFault::ALL.len();

#[derive(Debug)]
pub(super) struct ByReason(pub(super) [MetricCell; Reason::ALL.len()]);

/// Verdicts that were not enforced, together with the service's answers.
#[derive(Debug)]
pub(super) struct ComparedVerdicts {
    pub(super) admitted: ByUpstream,
    pub(super) denied: [OnceLock<Box<ByUpstream>>; Reason::ALL.len()],
}

#[derive(Debug, Default)]
pub(super) struct ByUpstream(pub(super) [MetricCell; UpstreamClass::ALL.len()]);

#[derive(Debug)]
pub(super) struct ByCode(pub(super) [MetricCell; CODES.len()]);

// === impl WorkerCells ===

impl WorkerCells {
    /// A request was answered with `status`.
    pub fn request(&self, route: u32, method: MethodLabel, status: u16) {
        if let Some(by_code) = self.route(route).and_then(|r| r.requests.get(method as usize)) {
            add_at(&by_code.get_or_init(Box::default).0, code_slot(status));
        }
    }

    /// A verdict was reached.
    pub fn decision(&self, route: u32, outcome: DecisionOutcome) {
        let Some(cells) = self.route(route) else { return };
        match outcome {
            DecisionOutcome::Admitted => cells.admitted.add(1),
            DecisionOutcome::Observed(reason) => {
                add_at(&cells.observed.get_or_init(Box::default).0, reason as usize);
            }
            DecisionOutcome::Passed => cells.passed.add(1),
            DecisionOutcome::Rejected(reason) => {
                add_at(&cells.rejected.get_or_init(Box::default).0, reason as usize);
            }
        }
    }

    /// The verdict on an observed request was compared with the service's answer. `denied`: what
    /// keygate would have refused it for.
    pub fn compared(&self, route: u32, denied: Option<Reason>, upstream: UpstreamClass) {
        let Some(cells) = self.route(route) else { return };
        let compared = cells.compared.get_or_init(Box::default);
        let by_upstream = match denied {
            None => &compared.admitted,
            Some(reason) => match compared.denied.get(reason as usize) {
                Some(by_upstream) => by_upstream.get_or_init(Box::default),
                None => return,
            },
        };
        add_at(&by_upstream.0, upstream as usize);
    }

    /// A user token was checked. `issuer`: if it is configured. `fault`: `None` if it was accepted.
    pub fn token(&self, issuer: Option<&str>, fault: Option<TokenFault>) {
        let issuer = issuer.unwrap_or_default();
        let new = || Box::new(TokenCells::new(issuer));
        let Some((others, named)) = self.tokens.split_last() else { return };
        let mine = named.iter().find_map(|slot| {
            let cells = slot.get_or_init(new);
            (*cells.issuer == *issuer).then_some(cells)
        });
        // They have their own name: under another issuer's name they would count as its tokens.
        let others = || Some(others.get_or_init(|| Box::new(TokenCells::new(OTHER_ISSUERS))));
        if let Some(cells) = mine.or_else(others) {
            add_at(&cells.results, fault.map_or(0, |fault| 1 + fault as usize));
        }
    }

    pub fn token_cache(&self, result: CacheResult) {
        add_at(&self.token_cache, result as usize);
    }

    /// A canary was presented.
    pub fn canary_used(&self) {
        self.canary_used.add(1);
    }

    pub fn duration(&self, ns: u64) {
        self.request_duration.record(ns);
    }

    pub fn auth_duration(&self, ns: u64) {
        self.auth_duration.record(ns);
    }

    /// The cells of upstream 0, `[upstream]`, or of the n-th of `[upstreams.NAME]`.
    pub(super) fn of_upstream(&self, upstream: usize) -> &UpstreamCells {
        match upstream.checked_sub(1).and_then(|at| self.named_upstreams.get(at)) {
            None => &self.upstream,
            Some(cells) => cells.get_or_init(Box::default),
        }
    }

    /// As [`Self::of_upstream`]. `None`: nothing was recorded for it.
    pub(super) fn used_upstream(&self, upstream: usize) -> Option<&UpstreamCells> {
        match upstream.checked_sub(1) {
            None => Some(&self.upstream),
            Some(at) => self.named_upstreams.get(at)?.get().map(|cells| &**cells),
        }
    }

    /// A request was charged to these limits, or refused by some of them.
    #[inline]
    pub fn ratelimit(&self, limits: &ChargedLimits<'_>, result: &Result<LimitReport, LimitReport>) {
        match (limits, result) {
            (ChargedLimits::PerKey(_), Ok(_)) => {
                add_at(&self.ratelimit, RateDecision::Allowed as usize);
            }
            (ChargedLimits::Several(limits), Ok(_)) => {
                for limit in limits {
                    self.ratelimit_of(limit.policy.as_str(), RateDecision::Allowed);
                }
            }
            (_, Err(report)) => {
                for (policy, _) in report.shown() {
                    self.ratelimit_of(policy, RateDecision::Limited);
                }
            }
        }
    }

    fn ratelimit_of(&self, policy: &str, decision: RateDecision) {
        if policy == PolicyName::PER_KEY {
            add_at(&self.ratelimit, decision as usize);
            return;
        }
        let cells = self
            .ratelimit_named
            .get_or_init(|| Box::new(std::array::from_fn(|_| Default::default())));
        if let Some(cells) = cells.get(self.policies.slot(policy)) {
            add_at(cells, decision as usize);
        }
    }

    /// An assertion was sent.
    pub fn assertion(&self, source: TokenOrigin) {
        add_at(&self.assertions, source as usize);
    }

    pub fn request_started(&self) {
        self.in_flight.add(1);
    }

    pub fn request_ended(&self) {
        self.in_flight.sub(1);
    }

    /// The client went away before its answer was complete.
    pub fn request_aborted(&self) {
        self.aborted.add(1);
    }

    /// A request that was let through failed, or a head never arrived completely.
    pub fn request_failed(&self, reason: Reason) {
        add_at(&self.requests_failed, reason as usize);
    }

    pub fn stream_opened(&self) {
        self.streams_open.add(1);
    }

    pub fn stream_closed(&self) {
        self.streams_open.sub(1);
    }

    /// A stream was ended because its key no longer opens it.
    pub fn stream_ended(&self, reason: Reason) {
        add_at(&self.streams_ended, reason as usize);
    }

    pub fn connection_opened(&self, listener: u32) {
        add_at(&self.connections, listener as usize);
        add_at(&self.connections_open, listener as usize);
    }

    pub fn connection_closed(&self, listener: u32) {
        if let Some(cell) = self.connections_open.get(listener as usize) {
            cell.sub(1);
        }
    }

    pub fn connection_turned_away(&self, why: TurnedAway) {
        add_at(&self.turned_away, why as usize);
    }

    /// Fields of requests were dropped because of an underscore in their name.
    pub fn fields_dropped(&self, count: u64) {
        self.fields_dropped.add(count);
    }

    /// A connection with an unread request body was closed.
    pub fn lingered(&self, end: LingerEnd) {
        add_at(&self.lingered, end as usize);
    }

    /// The state of the process's memory account, which one worker records. `turned_away` is in the
    /// order of [`Shortage::ALL`].
    pub fn memory(&self, held: u64, budget: Option<u64>, turned_away: [u64; Shortage::ALL.len()]) {
        self.memory_held.set(held);
        self.memory_budget.set(budget.unwrap_or(0));
        for (cell, count) in self.memory_turned_away.iter().zip(turned_away) {
            cell.set(count);
        }
    }

    pub fn accept_error(&self) {
        self.accept_errors.add(1);
    }

    pub fn http2_stream_opened(&self) {
        self.http2_streams_open.add(1);
    }

    pub fn http2_stream_closed(&self) {
        self.http2_streams_open.sub(1);
    }

    pub fn bytes_received(&self, n: u64) {
        self.bytes_received.add(n);
    }

    pub fn bytes_sent(&self, n: u64) {
        self.bytes_sent.add(n);
    }

    pub fn panicked(&self) {
        self.panics.add(1);
    }

    /// Always present: a slot beyond the list is the last one.
    fn route(&self, slot: u32) -> Option<&RouteCells> {
        let slot = slot.min(OTHER_ROUTE) as usize;
        Some(self.routes.get(slot)?.get_or_init(Box::default))
    }

    /// The cells of a route, if it was ever used on this worker.
    pub(super) fn used_route(&self, slot: usize) -> Option<&RouteCells> {
        self.routes.get(slot)?.get().map(Box::as_ref)
    }
}

impl Default for WorkerCells {
    fn default() -> Self {
        Self::new(Arc::default())
    }
}

impl WorkerCells {
    pub(super) fn new(policies: Arc<PolicyLabels>) -> Self {
        Self {
            policies,
            ratelimit_named: OnceLock::new(),
            accept_errors: MetricCell::default(),
            aborted: MetricCell::default(),
            assertions: Default::default(),
            auth_duration: Histogram::new(buckets::AUTH),
            bytes_received: MetricCell::default(),
            bytes_sent: MetricCell::default(),
            connections: Default::default(),
            connections_open: Default::default(),
            fields_dropped: MetricCell::default(),
            http2_streams_open: MetricCell::default(),
            in_flight: MetricCell::default(),
            memory_budget: MetricCell::default(),
            memory_held: MetricCell::default(),
            memory_turned_away: Default::default(),
            canary_used: MetricCell::default(),
            panics: MetricCell::default(),
            ratelimit: Default::default(),
            request_duration: Histogram::new(buckets::REQUEST),
            requests_failed: std::array::from_fn(|_| MetricCell::default()),
            streams_ended: std::array::from_fn(|_| MetricCell::default()),
            streams_open: MetricCell::default(),
            turned_away: Default::default(),
            token_cache: Default::default(),
            tokens: Default::default(),
            lingered: Default::default(),
            upstream: UpstreamCells::default(),
            named_upstreams: Default::default(),
            routes: (0..ROUTE_SLOTS).map(|_| OnceLock::new()).collect(),
        }
    }
}

// === impl TokenCells ===

impl TokenCells {
    fn new(issuer: &str) -> Self {
        Self { issuer: issuer.into(), results: std::array::from_fn(|_| MetricCell::default()) }
    }
}

// === impl ByReason, ByCode ===

impl Default for ByReason {
    fn default() -> Self {
        Self(std::array::from_fn(|_| MetricCell::default()))
    }
}

impl Default for ComparedVerdicts {
    fn default() -> Self {
        Self { admitted: ByUpstream::default(), denied: std::array::from_fn(|_| OnceLock::new()) }
    }
}

impl Default for ByCode {
    fn default() -> Self {
        Self(std::array::from_fn(|_| MetricCell::default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_a_bounded_label() {
        let label = |status: u16| {
            let cells = WorkerCells::default();
            cells.request(0, MethodLabel::Get, status);
            let route = cells.used_route(0).unwrap();
            let by_code = route.requests[MethodLabel::Get as usize].get().unwrap();
            let at = by_code.0.iter().position(|c| c.read() == 1).unwrap();
            CODES[at].1
        };
        for (status, want) in
            [(200, "200"), (299, "2xx"), (404, "404"), (499, "4xx"), (599, "5xx"), (101, "101")]
        {
            assert_eq!(label(status), want, "{status}");
        }
        for status in [0, 1, 5, 99, 600, 999, u16::MAX] {
            assert_eq!(label(status), "other", "{status}");
        }
        for reason in Reason::ALL {
            assert_eq!(label(reason.status()), reason.status().to_string(), "{reason:?}");
        }
    }

    #[test]
    fn issuers_beyond_the_slots_are_counted_as_others() {
        let cells = WorkerCells::default();
        for n in 0..ISSUER_SLOTS + 8 {
            let issuer = format!("https://idp-{n}.example/");
            cells.token(Some(&issuer), None);
            cells.token(Some(&issuer), Some(TokenFault::Expired));
        }
        let counted = cells.tokens.iter().filter_map(OnceLock::get).map(|cells| {
            let of = cells.results.iter().map(MetricCell::read).sum::<u64>();
            (&*cells.issuer, of)
        });
        let counted: Vec<_> = counted.collect();
        assert_eq!(counted.len(), ISSUER_SLOTS);
        let (last, named) = counted.split_last().unwrap();
        assert_eq!(*last, (OTHER_ISSUERS, 2 * 9));
        assert!(named.iter().all(|(issuer, count)| issuer.starts_with("https://") && *count == 2));
    }

    #[test]
    fn a_gauge_never_falls_below_zero() {
        let cells = WorkerCells::default();
        cells.connection_closed(0);
        cells.connection_opened(0);
        assert_eq!(cells.connections_open[0].read(), 1);
    }
}
