//! The answer of `/observe`, line by line. Imports core only.

use std::cmp::{Ordering, Reverse};
use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// The first line.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct ObserveHead {
    /// Version of the form: 1.
    pub observe: u32,
    pub instance: String,
    /// Milliseconds since 1970.
    pub started_ms: u64,
    pub now_ms: u64,
    /// Whether requests are observed at this time.
    pub observing: bool,
    /// Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
    /// The share of callers, 0 to 1.
    pub enforced_share: f64,
    /// Whether credentials for keygate reach the service: `forward` or `strip`. None: no
    /// `[observe]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<String>,
    /// When the first request was compared, in milliseconds since 1970. None: no request was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<u64>,
    /// Requests that were compared.
    pub requests: u64,
    pub rows: u64,
    /// Rows that left for lack of space.
    pub dropped: u64,
    /// The reasons of those rows among them that would break somebody, with the time when each
    /// reason was last seen, in milliseconds since 1970. `None`: the sidecar does not report this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<BTreeMap<String, u64>>,
}

/// What a row is about.
#[derive(Clone, Copy, Debug, Deserialize, Hash, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RowKind {
    /// keygate would refuse it.
    Deny,
    /// The head does not, or would not, reach the service as the client sent it.
    Changed,
    /// keygate would admit it, but the service did not.
    Admit,
    /// keygate has refused the request or the service's answer: neither is ever let through.
    Refused,
}

/// A row.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct ObserveLine {
    pub kind: RowKind,
    pub reason: String,
    pub route: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// For callers without a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<IpNet>,
    pub count: u64,
    pub first_ms: u64,
    pub last_ms: u64,
    /// Number of requests by the service's answer.
    pub upstream: BTreeMap<String, u64>,
    pub request_id: String,
    /// Somebody who is served today would not be. For [`RowKind::Refused`]: is no longer served.
    pub breaks: bool,
}

// === impl ObserveHead ===

impl ObserveHead {
    pub const VERSION: u32 = 1;
}

// === impl ObserveLine ===

impl ObserveLine {
    /// First those who would break, then the most frequent.
    pub fn by_weight(one: &Self, other: &Self) -> Ordering {
        let weight = |line: &Self| (Reverse(line.breaks), line.kind, Reverse(line.count));
        weight(one)
            .cmp(&weight(other))
            .then_with(|| one.reason.cmp(&other.reason))
            .then_with(|| one.route.cmp(&other.route))
            .then_with(|| one.caller().cmp(&other.caller()))
    }

    /// The id of a key, or a network.
    pub fn caller(&self) -> String {
        let network = self.network.map(|network| network.to_string());
        self.key.clone().or(network).unwrap_or_default()
    }
}
