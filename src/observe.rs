//! What observing has seen: the sidecar keeps rows of who would be refused and why, and the report
//! is made from them. Imports `core` and `wording`.
//!
//! ```text
//! a worker → ObserveBook → /observe, as lines
//! lines of sidecars, access logs → ObserveReport → keygate observe-report
//! ```

mod book;
mod lines;
mod report;

pub use self::book::{ObserveBook, ObservedRows, Sighting, SightingReason};
pub use self::lines::{ObserveHead, ObserveLine, RowKind};
pub use self::report::{
    ObserveReport, ReportKnowledge, ReportLine, ReportSummary, ReportView, SourceDoubt,
    UnknownReportVersion,
};

/// Words of rows that are not reasons of a decision, in addition to `field:NAME`.
pub const REASONS_OF_CHANGES: [&str; 5] =
    ["admitted", "forwarding", "override", "underscore", "upgrade"];

/// A part of a request's head that does not reach the service as the client sent it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HeadNotice {
    /// A field that says who the client is, from a peer outside `trusted_proxies`: removed.
    Forwarding,
    /// A field that names the target or method again: removed where it is enforced.
    Override,
    /// A field that only keygate may set, by its name in the configuration: removed.
    Owned(Box<str>),
    /// The request id, by the name of its field, from a peer outside `trusted_proxies`: replaced.
    RequestId(Box<str>),
    /// A field with `_` in its name: removed where it is enforced.
    Underscore,
    /// An upgrade that the rule does not allow: dropped where it is enforced. Unless it is to
    /// `websocket`, dropped everywhere.
    Upgrade,
}

// === impl HeadNotice ===

impl HeadNotice {
    /// The word in reports.
    pub fn word(&self) -> String {
        match self {
            Self::Forwarding => "forwarding".to_owned(),
            Self::Override => "override".to_owned(),
            Self::Owned(name) | Self::RequestId(name) => format!("field:{name}"),
            Self::Underscore => "underscore".to_owned(),
            Self::Upgrade => "upgrade".to_owned(),
        }
    }
}
