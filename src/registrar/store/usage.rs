//! Rows of what sidecars have reported about the use of keys, and what stands out in them.

use ipnet::IpNet;

use super::names::{AudienceName, Uid};
use super::rows::LastUse;
use crate::core::{KeyId, OrgId};
use crate::usage::{ToldCounts, UsageHead};

/// A part of a sidecar's usage record: all of it is stored, or nothing.
#[derive(Clone, Debug)]
pub struct UsageBatch {
    pub audience: AudienceName,
    pub head: UsageHead,
    /// At most [`UsageBatch::MOST`]: changes wait behind a batch.
    pub lines: Vec<ReportedUse>,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub at_ms: u64,
}

/// A line of the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportedUse {
    pub key: KeyId,
    /// Minutes since 1970; 0: no request was admitted.
    pub last: u32,
    /// Since the start of the process.
    pub counts: ToldCounts,
    pub nets: Vec<IpNet>,
}

/// The result of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UsageTaken {
    /// Lines that reported something new.
    pub raised: u64,
    /// Lines of keys that the audience does not have.
    pub unknown: u64,
}

/// How a key was used, as far as sidecars have reported.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyUsage {
    pub last: Option<LastUse>,
    /// When a sidecar of the audience last reported, in milliseconds since 1970.
    pub as_of_ms: Option<u64>,
    /// When a sidecar of the audience reported for the first time.
    pub since_ms: Option<u64>,
    /// The last 8 days, without hours in which nothing happened, the oldest first.
    pub hours: Vec<UsageBucket>,
    /// The last 400 days, without days in which nothing happened, the oldest first.
    pub days: Vec<UsageBucket>,
    /// The last 30 days, the most frequent reason first.
    pub refused: Vec<RefusedFor>,
    /// The latest first.
    pub networks: Vec<UsedNetwork>,
}

/// A sidecar that reports the use of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UseReporter {
    /// As the sidecar calls itself; or, if the service fetches its record, its host and port too.
    pub instance: Box<str>,
    /// Since when its reports have no gap, in milliseconds since 1970; `None`: nobody knows.
    pub since_ms: Option<u64>,
    /// When a record last arrived from it as a whole.
    pub last_ms: u64,
}

/// An hour or a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsageBucket {
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub begin_ms: u64,
    pub admitted: u64,
    pub refused: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedFor {
    pub reason: Box<str>,
    pub count: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsedNetwork {
    /// A /24 or /48.
    pub network: Box<str>,
    /// When a report named it for the first time and for the last. The last time may be up to an
    /// hour later than this says. In milliseconds since 1970.
    pub first_ms: u64,
    pub last_ms: u64,
}

/// What stands out in the use of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum UsageAlert {
    /// Somebody uses a canary, a key that exists only to be stolen.
    Canary,
    /// A revoked or expired key is still used.
    EndedUsed,
    /// A key that has been in use for two weeks is used from a network that nobody has seen before.
    NewNetwork,
    /// A day's refusals are ten times those of the previous days.
    RefusedTenfold,
    /// Nobody has used an active key for 90 days.
    Unused,
}

/// Which keys' use to examine for what stands out.
#[derive(Clone, Debug)]
pub struct FindingQuery {
    pub audience: AudienceName,
    /// `None`: all orgs.
    pub org: Option<OrgId>,
    /// Only keys of the person with this subject.
    pub owner: Option<Box<str>>,
    /// Only these.
    pub keys: Option<Vec<KeyId>>,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub now_ms: u64,
    /// The most keys for each alert.
    pub most: usize,
}

/// A key that stands out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundUsage {
    pub alert: UsageAlert,
    pub key: KeyId,
    pub uid: Uid,
    pub org: OrgId,
    pub name: Box<str>,
    /// Since when or when last, in milliseconds since 1970-01-01T00:00:00Z; `None`: never used.
    pub at_ms: Option<u64>,
    /// How many requests, or the network.
    pub detail: Box<str>,
}

// === impl FindingQuery ===

impl FindingQuery {
    /// All keys of an org (`None`: of all orgs), up to `most` for each alert.
    pub fn all(audience: AudienceName, org: Option<OrgId>, now_ms: u64, most: usize) -> Self {
        Self { audience, org, owner: None, keys: None, now_ms, most }
    }
}

// === impl UsageBatch ===

impl UsageBatch {
    pub const MOST: usize = 2000;
}

// === impl UsageAlert ===

impl UsageAlert {
    pub const ALL: [Self; 5] =
        [Self::Canary, Self::EndedUsed, Self::NewNetwork, Self::RefusedTenfold, Self::Unused];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Canary => "canary",
            Self::EndedUsed => "ended_used",
            Self::NewNetwork => "new_network",
            Self::RefusedTenfold => "refused_tenfold",
            Self::Unused => "unused",
        }
    }
}
