//! What a worker records: plain numbers in memory of its own. Imports `core`.
//!
//! Only the worker's thread writes; the admin thread reads. A write is therefore a relaxed load and
//! a relaxed store: a read-modify-write instruction costs several times as much, and a counter that
//! two threads share costs 14 → 77 ns (measured). Cells of different workers share no cache line.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use http::Method;

use super::metrics::buckets;
use super::{LISTENER_SLOTS, OTHER_ROUTE, ROUTE_SLOTS};
use crate::core::Reason;

/// All that one worker records.
///
/// The alignment keeps two workers' cells out of one pair of cache lines (the prefetcher of common
/// processors fetches pairs).
#[derive(Debug)]
#[repr(align(128))]
pub struct WorkerCells {
    pub(super) accept_errors: MetricCell,
    pub(super) aborted: MetricCell,
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
    pub(super) memory_turned_away: [MetricCell; MEMORY_REASONS.len()],
    pub(super) panics: MetricCell,
    pub(super) ratelimit: [MetricCell; RateDecision::ALL.len()],
    pub(super) request_duration: Histogram,
    pub(super) requests_failed: [MetricCell; Reason::ALL.len()],
    pub(super) streams_ended: [MetricCell; Reason::ALL.len()],
    pub(super) streams_open: MetricCell,
    pub(super) turned_away: [MetricCell; TurnedAway::ALL.len()],
    pub(super) lingered: [MetricCell; LingerEnd::ALL.len()],
    pub(super) upstream_connections: MetricCell,
    pub(super) upstream_errors: [MetricCell; Reason::ALL.len()],
    pub(super) upstream_informational: MetricCell,
    pub(super) upstream_open: MetricCell,
    pub(super) upstream_response: Histogram,
    pub(super) upstream_retries: MetricCell,
    pub(super) upstream_reused: MetricCell,
    /// Made when a route is first used, so that an idle sidecar stays small.
    routes: Box<[OnceLock<Box<RouteCells>>]>,
}

/// What is recorded per route rule.
#[derive(Debug, Default)]
pub(super) struct RouteCells {
    pub(super) admitted: MetricCell,
    pub(super) passed: MetricCell,
    pub(super) observed: OnceLock<Box<ByReason>>,
    pub(super) rejected: OnceLock<Box<ByReason>>,
    pub(super) requests: [OnceLock<Box<ByCode>>; MethodLabel::ALL.len()],
}

#[derive(Debug)]
pub(super) struct ByReason(pub(super) [MetricCell; Reason::ALL.len()]);

#[derive(Debug)]
pub(super) struct ByCode(pub(super) [MetricCell; CODES.len()]);

/// A number that one thread writes and others read.
#[derive(Debug, Default)]
pub(super) struct MetricCell(AtomicU64);

/// Counts per bucket and a sum, in nanoseconds.
#[derive(Debug)]
pub(super) struct Histogram {
    pub(super) bounds: &'static [u64],
    /// One more than `bounds`; the last is beyond all of them.
    counts: [MetricCell; 17],
    sum: MetricCell,
}

/// Value of the label `method`. What is not a standard method is `other`: the word comes from the
/// client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MethodLabel {
    Connect,
    Delete,
    Get,
    Head,
    Options,
    Other,
    Patch,
    Post,
    Put,
    Trace,
}

/// A verdict as it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecisionOutcome {
    Admitted,
    Observed(Reason),
    Passed,
    Rejected(Reason),
}

/// What a charge against a limit came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateDecision {
    Allowed,
    Limited,
}

/// What ended the reading on of a connection whose client still sent a body that nobody wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LingerEnd {
    /// It sent as much as is read on.
    Bytes,
    /// The client closed: it has its answer.
    Closed,
    /// Too many were read on already, or keygate drained: a second, and no more.
    NoPlace,
    /// The client closed with a reset.
    Reset,
    /// The client sent nothing for a second.
    Silent,
    /// It still sent when its time was over.
    Time,
}

/// Why a connection was ended before a request was read from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TurnedAway {
    /// More connections than configured.
    Cap,
    /// More connections of one address than configured.
    CapPerAddress,
    /// The TLS or PROXY header took too long.
    HandshakeTimeout,
    /// No PROXY header, a bad one, or from a peer that must not send one.
    ProxyHeader,
    /// The TLS handshake failed.
    Tls,
}

/// Why something was turned away for want of memory, as label values.
pub const MEMORY_REASONS: [&str; 4] = ["address", "connection", "pressure", "stream"];

/// Status codes that have a label value of their own. The upstream can send any of a thousand;
/// the rest is counted by class.
pub(super) const CODES: [(u16, &str); 48] = [
    (101, "101"),
    (200, "200"),
    (201, "201"),
    (202, "202"),
    (203, "203"),
    (204, "204"),
    (206, "206"),
    (207, "207"),
    (301, "301"),
    (302, "302"),
    (303, "303"),
    (304, "304"),
    (307, "307"),
    (308, "308"),
    (400, "400"),
    (401, "401"),
    (402, "402"),
    (403, "403"),
    (404, "404"),
    (405, "405"),
    (406, "406"),
    (408, "408"),
    (409, "409"),
    (410, "410"),
    (411, "411"),
    (412, "412"),
    (413, "413"),
    (414, "414"),
    (415, "415"),
    (416, "416"),
    (417, "417"),
    (418, "418"),
    (421, "421"),
    (422, "422"),
    (429, "429"),
    (431, "431"),
    (451, "451"),
    (500, "500"),
    (501, "501"),
    (502, "502"),
    (503, "503"),
    (504, "504"),
    // Classes; no status is below 100.
    (1, "1xx"),
    (2, "2xx"),
    (3, "3xx"),
    (4, "4xx"),
    (5, "5xx"),
    (0, "other"),
];

/// Place in [`CODES`] by status.
const CODE_SLOTS: [u8; 600] = {
    let mut slots = [(CODES.len() - 1) as u8; 600];
    let mut status = 100;
    while status < 600 {
        let mut at = 0;
        while at < CODES.len() {
            // Exact codes come first; a class is taken only if none matched.
            if CODES[at].0 == status as u16 || CODES[at].0 == (status / 100) as u16 {
                slots[status] = at as u8;
                break;
            }
            at += 1;
        }
        status += 1;
    }
    slots
};

// === impl WorkerCells ===

impl WorkerCells {
    /// A request was answered with `status`.
    pub fn request(&self, route: u32, method: MethodLabel, status: u16) {
        let slot = CODE_SLOTS.get(usize::from(status)).copied();
        let slot = slot.map_or(CODES.len() - 1, usize::from);
        if let Some(by_code) = self.route(route).and_then(|r| r.requests.get(method as usize)) {
            add_at(&by_code.get_or_init(Box::default).0, slot);
        }
    }

    /// A verdict was reached. An observed one counts as a shadow denial as well.
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

    pub fn upstream_response(&self, ns: u64) {
        self.upstream_response.record(ns);
    }

    pub fn ratelimit(&self, decision: RateDecision) {
        add_at(&self.ratelimit, decision as usize);
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

    /// A request that was let through came to nothing, or a head never came whole.
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

    pub fn upstream_connection_opened(&self) {
        self.upstream_connections.add(1);
        self.upstream_open.add(1);
    }

    pub fn upstream_connection_closed(&self) {
        self.upstream_open.sub(1);
    }

    pub fn upstream_reused(&self) {
        self.upstream_reused.add(1);
    }

    pub fn upstream_retried(&self) {
        self.upstream_retries.add(1);
    }

    pub fn upstream_error(&self, reason: Reason) {
        add_at(&self.upstream_errors, reason as usize);
    }

    pub fn upstream_informational(&self) {
        self.upstream_informational.add(1);
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

    /// Fields of requests were dropped for an underscore in their name.
    pub fn fields_dropped(&self, count: u64) {
        self.fields_dropped.add(count);
    }

    /// A connection with an unread request body was closed.
    pub fn lingered(&self, end: LingerEnd) {
        add_at(&self.lingered, end as usize);
    }

    /// What the process's account of memory says; one worker records it. `turned_away` is in the order
    /// of [`MEMORY_REASONS`].
    pub fn memory(&self, held: u64, budget: Option<u64>, turned_away: [u64; MEMORY_REASONS.len()]) {
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

    /// Always there: a slot beyond the list is the last one.
    fn route(&self, slot: u32) -> Option<&RouteCells> {
        let slot = slot.min(OTHER_ROUTE) as usize;
        Some(self.routes.get(slot)?.get_or_init(Box::default))
    }

    /// The cells of a route, if it was ever used on this worker.
    pub(super) fn used_route(&self, slot: usize) -> Option<&RouteCells> {
        self.routes.get(slot)?.get().map(Box::as_ref)
    }
}

fn add_at(cells: &[MetricCell], at: usize) {
    if let Some(cell) = cells.get(at) {
        cell.add(1);
    }
}

impl Default for WorkerCells {
    fn default() -> Self {
        Self {
            accept_errors: MetricCell::default(),
            aborted: MetricCell::default(),
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
            lingered: Default::default(),
            upstream_connections: MetricCell::default(),
            upstream_errors: std::array::from_fn(|_| MetricCell::default()),
            upstream_informational: MetricCell::default(),
            upstream_open: MetricCell::default(),
            upstream_response: Histogram::new(buckets::REQUEST),
            upstream_retries: MetricCell::default(),
            upstream_reused: MetricCell::default(),
            routes: (0..ROUTE_SLOTS).map(|_| OnceLock::new()).collect(),
        }
    }
}

// === impl ByReason, ByCode ===

impl Default for ByReason {
    fn default() -> Self {
        Self(std::array::from_fn(|_| MetricCell::default()))
    }
}

impl Default for ByCode {
    fn default() -> Self {
        Self(std::array::from_fn(|_| MetricCell::default()))
    }
}

// === impl MetricCell ===

impl MetricCell {
    fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    fn sub(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).saturating_sub(n), Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

// === impl Histogram ===

impl Histogram {
    fn new(bounds: &'static [u64]) -> Self {
        Self { bounds, counts: Default::default(), sum: MetricCell::default() }
    }

    fn record(&self, ns: u64) {
        // Bounds are inclusive, as `le` says.
        add_at(&self.counts, self.bounds.partition_point(|bound| *bound < ns));
        self.sum.add(ns);
    }

    /// Counts per bucket, the one beyond all bounds last.
    pub(super) fn counts(&self) -> impl Iterator<Item = u64> {
        self.counts.iter().take(self.bounds.len() + 1).map(MetricCell::read)
    }

    pub(super) fn sum_ns(&self) -> u64 {
        self.sum.read()
    }
}

// === impl MethodLabel ===

impl MethodLabel {
    pub const ALL: [Self; 10] = [
        Self::Connect,
        Self::Delete,
        Self::Get,
        Self::Head,
        Self::Options,
        Self::Other,
        Self::Patch,
        Self::Post,
        Self::Put,
        Self::Trace,
    ];

    pub fn of(method: &Method) -> Self {
        match *method {
            Method::CONNECT => Self::Connect,
            Method::DELETE => Self::Delete,
            Method::GET => Self::Get,
            Method::HEAD => Self::Head,
            Method::OPTIONS => Self::Options,
            Method::PATCH => Self::Patch,
            Method::POST => Self::Post,
            Method::PUT => Self::Put,
            Method::TRACE => Self::Trace,
            _ => Self::Other,
        }
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "CONNECT",
            Self::Delete => "DELETE",
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Options => "OPTIONS",
            Self::Other => "other",
            Self::Patch => "PATCH",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Trace => "TRACE",
        }
    }
}

// === impl RateDecision ===

impl RateDecision {
    pub const ALL: [Self; 2] = [Self::Allowed, Self::Limited];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Limited => "limited",
        }
    }
}

// === impl LingerEnd ===

impl LingerEnd {
    pub const ALL: [Self; 6] =
        [Self::Bytes, Self::Closed, Self::NoPlace, Self::Reset, Self::Silent, Self::Time];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Closed => "closed",
            Self::NoPlace => "no_place",
            Self::Reset => "reset",
            Self::Silent => "silent",
            Self::Time => "time",
        }
    }
}

// === impl TurnedAway ===

impl TurnedAway {
    pub const ALL: [Self; 5] =
        [Self::Cap, Self::CapPerAddress, Self::HandshakeTimeout, Self::ProxyHeader, Self::Tls];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cap => "cap",
            Self::CapPerAddress => "cap_per_address",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::ProxyHeader => "proxy_header",
            Self::Tls => "tls",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_stand_at_their_own_place() {
        for (at, method) in MethodLabel::ALL.into_iter().enumerate() {
            assert_eq!(method as usize, at);
        }
        for (at, end) in LingerEnd::ALL.into_iter().enumerate() {
            assert_eq!(end as usize, at);
        }
        for (at, why) in TurnedAway::ALL.into_iter().enumerate() {
            assert_eq!(why as usize, at);
        }
        for (at, decision) in RateDecision::ALL.into_iter().enumerate() {
            assert_eq!(decision as usize, at);
        }
        for (at, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, at);
        }
        assert!(buckets::AUTH.len() < 17 && buckets::REQUEST.len() < 17);
    }

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
    fn a_bound_belongs_to_its_bucket() {
        let histogram = Histogram::new(&[10, 20]);
        for ns in [0, 10, 11, 20, 21, u64::from(u32::MAX)] {
            histogram.record(ns);
        }
        assert_eq!(histogram.counts().collect::<Vec<_>>(), [2, 2, 2]);
        assert_eq!(histogram.sum_ns(), 62 + u64::from(u32::MAX));
    }

    #[test]
    fn a_gauge_never_falls_below_zero() {
        let cells = WorkerCells::default();
        cells.connection_closed(0);
        cells.connection_opened(0);
        assert_eq!(cells.connections_open[0].read(), 1);
    }
}
