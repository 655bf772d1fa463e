//! The rows of any number of sidecars and access logs, as one report. Imports core and
//! wording only.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::lines::{ObserveHead, ObserveLine, RowKind};
use crate::core::observe::UpstreamClass;
use crate::core::{ClientNetwork, Reason};
use crate::wording::count::count;

/// What was seen in all sources.
#[derive(Debug, Default)]
pub struct ObserveReport {
    rows: BTreeMap<ReportKey, ObserveLine>,
    /// Requests that were compared.
    requests: u64,
    dropped: u64,
    /// Sidecars that observe nobody at this time.
    idle: Vec<String>,
    /// Sidecars that remove credentials for keygate from requests.
    strips: Vec<String>,
    /// Sidecars, and since when each has compared requests, in milliseconds since 1970.
    since: Vec<(String, Option<u64>)>,
    /// Sources before the one that is being read.
    sources: Vec<ReportSource>,
    current: Option<ReportSource>,
}

/// What one source has reported, to find out what it has not.
#[derive(Debug, Default)]
struct ReportSource {
    name: String,
    requests: u64,
    /// Rows that heads of `/observe` announce, and those that followed.
    announced: u64,
    rows: u64,
    has_head: bool,
    /// Lines that should be rows or requests, but cannot be read.
    unread: u64,
    /// When the report was made (the earliest time if there are several reports), or when the last
    /// request was logged, in milliseconds since 1970.
    made_ms: Option<u64>,
    logged_ms: Option<u64>,
    /// When keygate last refused a request that it would let through while observing.
    refused_ms: Option<u64>,
    /// What the sidecar was doing when it made its report.
    coverage: SourceCoverage,
    /// Reasons of rows that left and would break somebody, and when each was last seen, in
    /// milliseconds since 1970.
    lost: BTreeMap<String, u64>,
    /// Rows that left, if the sidecar does not say what they were.
    untold: u64,
}

/// Whose requests may appear in a source's rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum SourceCoverage {
    /// Callers outside the enforced share. For an access log: it has doubts of its own.
    #[default]
    Some,
    /// Nobody's: all callers are enforced.
    EnforcesAll,
    /// Nobody's: observing is off.
    ObservesNobody,
}

/// Why it is unknown whether somebody would break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceDoubt {
    #[error("announces {announced} rows and has {rows}: it was cut off")]
    Cut { announced: u64, rows: u64 },
    #[error("has lines of a report or an access log that cannot be read: {0}")]
    Unread(u64),
    #[error("ends before the time that --since asks about")]
    Old,
    #[error("has not compared any request")]
    NothingCompared,
    #[error("is of a gate that enforces and has refused requests: who breaks has no row")]
    Enforces,
    #[error("enforces for all callers: who breaks has no row")]
    EnforcesAll,
    #[error("observes nobody at this time: who breaks has no row")]
    ObservesNobody,
    #[error("has dropped rows by which somebody would break, for want of room")]
    Lost,
}

/// Whether a report knows everybody who would break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportKnowledge {
    Complete,
    /// A source is in doubt, or its rows began too late.
    Partial,
}

/// What a line turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportLine {
    /// A line of `/observe` or of an access log.
    Known,
    /// Something else: a log may contain other lines, and end with a torn one.
    Other,
}

/// A report in an unknown form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is a report of version {0}, and this program reads version 1")]
pub struct UnknownReportVersion(u32);

/// What to look at, and what is known already.
#[derive(Clone, Debug, Default)]
pub struct ReportView {
    /// Rows that were last seen before this time are left out, in milliseconds since 1970.
    pub since_ms: u64,
    /// Reasons for which callers may break.
    pub accepted: Vec<String>,
}

/// The summary for programs.
#[derive(Debug, Serialize)]
pub struct ReportSummary<'r> {
    pub requests: u64,
    /// Rows that would break somebody and were not accepted.
    pub breaks: usize,
    /// Whether these are all: `false` if a source does not know.
    pub complete: bool,
    pub dropped: u64,
    pub rows: Vec<&'r ObserveLine>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct ReportKey {
    kind: RowKind,
    reason: String,
    route: String,
    caller: String,
}

/// The relevant fields of an access log line.
#[derive(Deserialize)]
struct LoggedRequest {
    time: String,
    request_id: String,
    client: IpAddr,
    status: u16,
    verdict: String,
    reason: Option<String>,
    key_id: Option<String>,
    route: Option<String>,
    upstream_us: Option<u64>,
}

/// The most rows that are shown. The most serious ones are first.
const SHOWN: usize = 200;

// === impl ObserveReport ===

impl ObserveReport {
    /// The following lines belong to this source.
    pub fn begin(&mut self, name: &str) {
        let next = ReportSource { name: name.to_owned(), ..ReportSource::default() };
        self.sources.extend(self.current.replace(next));
    }

    /// The first source that leaves it unknown whether somebody would break, and why. `now_ms`:
    /// milliseconds since 1970.
    pub fn doubt(&self, view: &ReportView, now_ms: u64) -> Option<(&str, SourceDoubt)> {
        let mut sources = self.sources.iter().chain(&self.current);
        sources.find_map(|source| Some((&*source.name, source.doubt(view, now_ms)?)))
    }

    fn source(&mut self) -> &mut ReportSource {
        self.current.get_or_insert_default()
    }

    /// Adds one line of a source.
    ///
    /// # Errors
    /// It is the head of a report from a version newer than this program.
    pub fn add(&mut self, line: &[u8]) -> Result<ReportLine, UnknownReportVersion> {
        let Ok(value) = serde_json::from_slice::<Value>(line) else {
            // A log may contain other lines, but a report does not.
            let source = self.source();
            if source.has_head && !line.trim_ascii().is_empty() {
                source.unread += 1;
            }
            return Ok(ReportLine::Other);
        };
        if let Some(version) = value.get("observe").and_then(Value::as_u64) {
            if version != u64::from(ObserveHead::VERSION) {
                return Err(UnknownReportVersion(u32::try_from(version).unwrap_or(u32::MAX)));
            }
            let Ok(head) = serde_json::from_value::<ObserveHead>(value) else {
                self.source().unread += 1;
                return Ok(ReportLine::Other);
            };
            let source = self.source();
            source.has_head = true;
            source.requests = source.requests.saturating_add(head.requests);
            source.announced = source.announced.saturating_add(head.rows);
            source.made_ms = Some(source.made_ms.map_or(head.now_ms, |ms| ms.min(head.now_ms)));
            match head.lost {
                Some(lost) => {
                    for (reason, last_ms) in lost {
                        let known = source.lost.entry(reason).or_default();
                        *known = last_ms.max(*known);
                    }
                }
                None => source.untold = source.untold.saturating_add(head.dropped),
            }
            source.coverage = source.coverage.max(match (head.observing, head.enforced_share) {
                (false, _) => SourceCoverage::ObservesNobody,
                (true, share) if share >= 1.0 => SourceCoverage::EnforcesAll,
                (true, _) => SourceCoverage::Some,
            });
            self.requests = self.requests.saturating_add(head.requests);
            self.dropped = self.dropped.saturating_add(head.dropped);
            self.since.push((head.instance.clone(), head.since_ms));
            if head.credentials.as_deref() == Some("strip") {
                self.strips.push(head.instance.clone());
            }
            if !head.observing {
                self.idle.push(head.instance);
            }
            return Ok(ReportLine::Known);
        }
        if value.get("kind").is_some() {
            return Ok(match serde_json::from_value::<ObserveLine>(value) {
                Ok(row) => {
                    self.source().rows += 1;
                    self.merge(row);
                    ReportLine::Known
                }
                Err(_) => {
                    self.source().unread += 1;
                    ReportLine::Other
                }
            });
        }
        let is_request = value.get("verdict").is_some() && value.get("request_id").is_some();
        Ok(match serde_json::from_value::<LoggedRequest>(value) {
            Ok(logged) => {
                self.add_logged(logged);
                ReportLine::Known
            }
            Err(_) => {
                self.source().unread += u64::from(is_request);
                ReportLine::Other
            }
        })
    }

    fn add_logged(&mut self, logged: LoggedRequest) {
        let time = humantime::parse_rfc3339(&logged.time).unwrap_or(UNIX_EPOCH);
        let at_ms = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let is_compared = matches!(&*logged.verdict, "observed" | "admitted" | "passed");
        let source = self.source();
        source.requests = source.requests.saturating_add(u64::from(is_compared));
        source.logged_ms = source.logged_ms.max(Some(at_ms));
        if logged.verdict == "rejected" && logged.reason.as_deref().is_some_and(is_enforced) {
            source.refused_ms = source.refused_ms.max(Some(at_ms));
        }
        let upstream = match logged.upstream_us {
            Some(_) => UpstreamClass::of(logged.status),
            None => UpstreamClass::None,
        };
        let turned_away =
            matches!(upstream, UpstreamClass::Unauthorized | UpstreamClass::Forbidden);
        let (kind, reason) = match (&*logged.verdict, logged.reason) {
            ("observed", Some(reason)) => (RowKind::Deny, reason),
            ("admitted", _) if turned_away => (RowKind::Admit, "admitted".to_owned()),
            ("admitted" | "passed", _) => {
                self.requests = self.requests.saturating_add(1);
                return;
            }
            // It was enforced, or ended before there was a verdict.
            _ => return,
        };
        self.requests = self.requests.saturating_add(1);
        let network = match logged.key_id {
            Some(_) => None,
            None => ClientNetwork::of(logged.client.to_canonical()).network(),
        };
        self.merge(ObserveLine {
            kind,
            reason,
            route: logged.route.unwrap_or_else(|| "none".to_owned()),
            key: logged.key_id,
            network,
            count: 1,
            first_ms: at_ms,
            last_ms: at_ms,
            upstream: [(upstream.as_str().to_owned(), 1)].into(),
            request_id: logged.request_id,
            breaks: kind == RowKind::Deny && upstream.is_served(),
        });
    }

    fn merge(&mut self, row: ObserveLine) {
        let key = ReportKey {
            kind: row.kind,
            reason: row.reason.clone(),
            route: row.route.clone(),
            caller: row.caller(),
        };
        let Some(known) = self.rows.get_mut(&key) else {
            self.rows.insert(key, row);
            return;
        };
        // A served request is more informative than one that was not.
        if (row.breaks, row.last_ms) > (known.breaks, known.last_ms) {
            known.request_id = row.request_id;
        }
        known.count = known.count.saturating_add(row.count);
        known.first_ms = known.first_ms.min(row.first_ms);
        known.last_ms = known.last_ms.max(row.last_ms);
        known.breaks |= row.breaks;
        for (class, more) in row.upstream {
            let of_class = known.upstream.entry(class).or_default();
            *of_class = of_class.saturating_add(more);
        }
    }

    /// Number of requests that all sources have compared.
    pub fn requests(&self) -> u64 {
        self.requests
    }

    /// The rows in view, the most serious first.
    pub fn summary(&self, view: &ReportView, knows: ReportKnowledge) -> ReportSummary<'_> {
        let in_view = self.rows.values().filter(|row| row.last_ms >= view.since_ms);
        let mut rows: Vec<&ObserveLine> = in_view.collect();
        rows.sort_by(|one, other| ObserveLine::by_weight(one, other));
        let breaks = rows.iter().filter(|row| view.counts(row)).count();
        let complete = knows == ReportKnowledge::Complete;
        ReportSummary { requests: self.requests, breaks, complete, dropped: self.dropped, rows }
    }

    /// A sidecar that has not compared requests during the whole time in view: its rows began
    /// later, so what happened before is unknown. Access logs themselves show when they begin.
    pub fn began_late(&self, view: &ReportView) -> Option<&str> {
        let is_late = |since: Option<u64>| since.is_none_or(|ms| ms > view.since_ms);
        let late = self.since.iter().find(|(_, since)| view.since_ms > 0 && is_late(*since));
        late.map(|(instance, _)| instance.as_str())
    }

    /// The text for people.
    pub fn text(&self, view: &ReportView, knows: ReportKnowledge) -> String {
        let summary = self.summary(view, knows);
        let mut text = format!("{} compared\n", count(self.requests, "request"));
        for instance in &self.idle {
            text.push_str(&format!("{instance} observes nobody at this time\n"));
        }
        for row in summary.rows.iter().take(SHOWN) {
            let mark = match (view.counts(row), row.breaks) {
                (true, _) => "BREAKS  ",
                (false, true) => "accepted",
                (false, false) => "        ",
            };
            text.push_str(&format!("{mark} {row}\n"));
        }
        if let Some(more @ 1..) = summary.rows.len().checked_sub(SHOWN) {
            text.push_str(&format!("and {}; --json has all\n", count(more as u64, "more row")));
        }
        if summary.dropped > 0 {
            let dropped = count(summary.dropped, "row");
            text.push_str(&format!("{dropped} left for want of room, harmless ones first\n"));
        }
        text.push_str(&match summary.breaks {
            0 if summary.complete => "nobody would break\n".to_owned(),
            0 => "whether somebody would break is not known\n".to_owned(),
            rows => format!("{} would break somebody\n", count(rows as u64, "row")),
        });
        // This does not mean that the service lacks the key: it got none.
        if let Some(instance) = self.strips.first()
            && summary.rows.iter().any(|row| row.kind == RowKind::Admit)
        {
            text.push_str(&format!(
                "hint: {instance} has credentials = \"strip\", so the service gets no key: set \
                 \"forward\" while it still checks keys\n"
            ));
        }
        text
    }
}

// === impl ReportSource ===

impl ReportSource {
    fn doubt(&self, view: &ReportView, now_ms: u64) -> Option<SourceDoubt> {
        let is_old =
            |at: Option<u64>, slack| at.is_some_and(|ms| ms.saturating_add(slack) < now_ms);
        let asked_ms = now_ms.saturating_sub(view.since_ms);
        match self {
            Self { unread: unread @ 1.., .. } => Some(SourceDoubt::Unread(*unread)),
            Self { announced, rows, .. } if rows < announced => {
                Some(SourceDoubt::Cut { announced: *announced, rows: *rows })
            }
            Self { refused_ms: Some(at), .. } if *at >= view.since_ms => {
                Some(SourceDoubt::Enforces)
            }
            Self { requests: 0, .. } => Some(SourceDoubt::NothingCompared),
            Self { coverage: SourceCoverage::ObservesNobody, .. } => {
                Some(SourceDoubt::ObservesNobody)
            }
            Self { coverage: SourceCoverage::EnforcesAll, .. } => Some(SourceDoubt::EnforcesAll),
            Self { untold: 1.., .. } => Some(SourceDoubt::Lost),
            Self { lost, .. } if lost.iter().any(|(reason, at)| view.misses(reason, *at)) => {
                Some(SourceDoubt::Lost)
            }
            // A log ends with its last request, which may have been a while ago.
            _ if view.since_ms > 0
                && (is_old(self.made_ms, STALE_MS) || is_old(self.logged_ms, asked_ms)) =>
            {
                Some(SourceDoubt::Old)
            }
            _ => None,
        }
    }
}

/// A saved report older than this says nothing about the last hours.
const STALE_MS: u64 = 3_600_000;

/// Whether keygate would let such a request through while observing. An unknown word from another
/// version counts, because it might.
fn is_enforced(reason: &str) -> bool {
    !Reason::of_word(reason).is_some_and(Reason::is_refused_anyway)
}

// === impl ReportView ===

impl ReportView {
    /// Whether this row would break somebody, and nobody has accepted that.
    fn counts(&self, row: &ObserveLine) -> bool {
        row.breaks && !self.accepted.contains(&row.reason)
    }

    /// Whether a row that has left would have counted. `last_ms`: milliseconds since 1970.
    fn misses(&self, reason: &str, last_ms: u64) -> bool {
        last_ms >= self.since_ms && !self.accepted.iter().any(|accepted| accepted == reason)
    }
}

impl fmt::Display for ObserveLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            RowKind::Admit => "admit",
            RowKind::Changed => "changed",
            RowKind::Deny => "deny",
            RowKind::Refused => "refused",
        };
        let answers: Vec<_> = self.upstream.iter().map(|(c, n)| format!("{c} {n}")).collect();
        let last = UNIX_EPOCH + Duration::from_millis(self.last_ms.min(LAST_MS));
        write!(
            f,
            "{kind:<7} {:<18} {:<12} {:<20} {}; last {}, request {}",
            self.reason,
            self.route,
            self.caller(),
            answers.join(", "),
            humantime::format_rfc3339_seconds(last),
            self.request_id,
        )
    }
}

/// The time format ends with the year 9999.
const LAST_MS: u64 = 253_402_300_799_000;

#[cfg(test)]
mod tests;
