//! What the RateLimit fields say about a request, and their text: RateLimit header fields for HTTP,
//! draft-ietf-httpapi-ratelimit-headers, revision 10 of 27 September 2025. Revision 11 of 23 May
//! 2026 is announced. Its text was not available when this was written.

mod several;

use std::time::Duration;

use http::HeaderName;

use self::several::{LeftOfLimit, SeveralLimits};
use super::charge::PolicyCharge;
use super::limit::{Limit, PolicyName, Spent};

/// Which fields inform a caller about its limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateFields {
    /// `RateLimit-Policy` and `RateLimit`.
    pub standard: bool,
    /// `X-RateLimit-Limit`, `-Remaining` and `-Reset`, the last in seconds left.
    pub x: bool,
}

/// The state of one limit after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitState {
    pub limit: Limit,
    /// The number of requests of cost 1.
    pub remaining: u32,
    /// For an admitted request: until the whole burst is available again. More becomes available
    /// earlier, so this is the cautious reading of `t`: a caller that sends what is left and then
    /// waits for it never gets a 429. For a refused request: until it would be admitted.
    pub wait: Duration,
}

/// The limits that one request was charged to, or refused by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LimitReport {
    /// The policy `per-key`, alone.
    PerKey(LimitState),
    Several(Box<SeveralLimits>),
}

const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const X_LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const X_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const X_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// The length of two 64-bit numbers and the words around them.
const LONGEST_LONE: usize = 64;

/// No wait is longer than 584 years.
fn nanoseconds(wait: Duration) -> u64 {
    u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX)
}

/// Whole seconds, rounded up, so that a caller that waits this long is not early.
pub fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

// === impl LimitReport ===

impl LimitReport {
    /// For an admitted request. `spent` is in the order of `charges`.
    #[inline]
    pub fn spent(charges: &[PolicyCharge<'_>], spent: impl Iterator<Item = Spent> + Clone) -> Self {
        let left = spent.map(|spent| LeftOfLimit {
            remaining: spent.remaining,
            wait_ns: nanoseconds(spent.full_in),
        });
        // Among those with equally little left, the one that takes longest.
        let least = left
            .clone()
            .enumerate()
            .min_by_key(|(_, left)| (left.remaining, std::cmp::Reverse(left.wait_ns)));
        let least = least.map(|(at, _)| at);
        let shown = left.enumerate().map(|(at, left)| (least == Some(at)).then_some(left));
        Self::Several(SeveralLimits::new(charges, shown))
    }

    /// For a refused request: how long each limit makes it wait. `None`: the limit has enough left.
    pub fn refused(
        charges: &[PolicyCharge<'_>],
        waits: impl Iterator<Item = Option<Duration>>,
    ) -> Self {
        let left = |wait| LeftOfLimit { remaining: 0, wait_ns: nanoseconds(wait) };
        Self::Several(SeveralLimits::new(charges, waits.map(|wait| wait.map(left))))
    }

    /// The limits that `RateLimit` shows, by name. For a refused request: all that refused it.
    pub fn shown(&self) -> impl Iterator<Item = (&str, LimitState)> {
        let (lone, several) = match self {
            Self::PerKey(state) => (Some((PolicyName::PER_KEY, *state)), None),
            Self::Several(several) => (None, Some(several)),
        };
        lone.into_iter().chain(several.into_iter().flat_map(|several| several.shown()))
    }

    /// The longest wait of all that are shown.
    pub fn longest_wait(&self) -> Duration {
        self.shown().map(|(_, state)| state.wait).max().unwrap_or_default()
    }
}

// === impl RateFields ===

impl RateFields {
    pub const ALL: Self = Self { standard: true, x: true };

    /// Names of all fields that may be sent.
    pub fn names(self) -> impl Iterator<Item = HeaderName> {
        let standard = [RATELIMIT, RATELIMIT_POLICY].into_iter().filter(move |_| self.standard);
        standard.chain([X_LIMIT, X_REMAINING, X_RESET].into_iter().filter(move |_| self.x))
    }

    /// Whether the field has the same value in every answer for a key.
    pub fn is_constant(name: &HeaderName) -> bool {
        *name == RATELIMIT_POLICY || *name == X_LIMIT
    }

    /// Passes each field that must be sent to `add`, with its value.
    pub fn each(self, report: &LimitReport, add: impl FnMut(HeaderName, &[u8])) {
        match report {
            LimitReport::PerKey(state) => self.lone(*state, add),
            LimitReport::Several(several) => self.several(several, add),
        }
    }

    fn lone(self, state: LimitState, mut add: impl FnMut(HeaderName, &[u8])) {
        // On the path of every limited request, so it uses neither formatting machinery nor
        // allocations.
        let mut put = |name: HeaderName, parts: &[&str]| {
            let mut text = [0; LONGEST_LONE];
            let mut used = 0;
            for part in parts {
                if let Some(place) = text.get_mut(used..used + part.len()) {
                    place.copy_from_slice(part.as_bytes());
                    used += part.len();
                }
            }
            add(name, text.get(..used).unwrap_or_default());
        };
        let LimitState { limit, remaining, wait } = state;
        let (mut count, mut left, mut width, mut until) =
            (itoa::Buffer::new(), itoa::Buffer::new(), itoa::Buffer::new(), itoa::Buffer::new());
        let count = count.format(limit.count());
        let remaining = left.format(remaining);
        let wait = until.format(whole_seconds(wait));
        if self.standard {
            let policy = PolicyName::PER_KEY;
            match limit.whole_window() {
                Some(w) => {
                    let width = width.format(w);
                    put(RATELIMIT_POLICY, &["\"", policy, "\";q=", count, ";w=", width]);
                }
                None => put(RATELIMIT_POLICY, &["\"", policy, "\";q=", count]),
            }
            put(RATELIMIT, &["\"", policy, "\";r=", remaining, ";t=", wait]);
        }
        if self.x {
            put(X_LIMIT, &[count]);
            put(X_REMAINING, &[remaining]);
            put(X_RESET, &[wait]);
        }
    }

    fn several(self, several: &SeveralLimits, mut add: impl FnMut(HeaderName, &[u8])) {
        if self.standard {
            add(RATELIMIT_POLICY, several.policies());
            add(RATELIMIT, several.state());
        }
        // These fields cover only one limit: the one with the longest wait.
        if self.x
            && let Some((_, state)) = several.shown().max_by_key(|(_, state)| state.wait)
        {
            add(X_LIMIT, itoa::Buffer::new().format(state.limit.count()).as_bytes());
            add(X_REMAINING, itoa::Buffer::new().format(state.remaining).as_bytes());
            add(X_RESET, itoa::Buffer::new().format(whole_seconds(state.wait)).as_bytes());
        }
    }
}

impl Default for RateFields {
    fn default() -> Self {
        Self { standard: true, x: false }
    }
}
