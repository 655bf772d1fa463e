//! GCRA: a rate limit in one `u64` per bucket. Each call passes in the limit, so that a reload can
//! change it without losing what was already spent.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::key::NameError;

/// `count` requests per `window`, of which `burst` may arrive at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Limit {
    count: u32,
    window_ms: u32,
    burst: u32,
}

/// The name of a policy: 1 to 64 of `a-z 0-9 - _`. So it is a TOML key, a metric label and an RFC
/// 9651 String without quoting, and no two names differ by case alone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyName {
    text: Box<str>,
    id: PolicyId,
}

/// 48 bits of a hash of a policy's name: a bucket stores this instead of the name. It is the same
/// in every process and after every reload. Among a hundred names, two share one in one of
/// 57,000,000,000 deployments, and would then share a bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyId([u8; 6]);

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    #[error("the burst must be 1 to the count")]
    Burst,
    #[error("the count must be 1 to 1,000,000,000, and at most 1,000,000 per millisecond")]
    Count,
    #[error(
        "must look like `600/min` or `600/min burst 50`: a count, `/`, then s, min, h, d or a \
         duration such as 30s"
    )]
    Syntax,
    #[error("the window must be 1 ms to 30 days")]
    Window,
}

/// What is left after a charge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spent {
    /// How many more requests of cost 1 would be admitted right now.
    pub remaining: u32,
    /// The time until the whole burst is available again.
    pub full_in: Duration,
}

/// How far two workers' readings of one clock may differ: each reads it once per request.
const READINGS_APART_NS: u64 = 1_000_000_000;

/// The limit is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exhausted {
    /// The time until a request of this cost would be admitted, if the state becomes `arrival`.
    pub retry_in: Duration,
    /// The new state. It is less than before if the limit shrank meanwhile.
    pub arrival: u64,
}

/// A charge that is computed but not yet taken: with several limits, all are checked before any is
/// charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitStep {
    /// The new state, in nanoseconds.
    pub arrival: u64,
    pub spent: Spent,
}

// === impl Limit ===

impl Limit {
    pub fn new(count: u32, window: Duration, burst: u32) -> Result<Self, LimitError> {
        const MAX_WINDOW_MS: u128 = 30 * 24 * 3600 * 1000;
        let window_ms = match window.as_millis() {
            ms @ 1..=MAX_WINDOW_MS => ms as u32,
            _ => return Err(LimitError::Window),
        };
        // Below one nanosecond an interval would round to zero and never run out.
        if !(1..=1_000_000_000).contains(&count) || count / 1_000_000 > window_ms {
            return Err(LimitError::Count);
        }
        if burst == 0 || burst > count {
            return Err(LimitError::Burst);
        }
        Ok(Self { count, window_ms, burst })
    }

    /// `600/min`, `10/s`, `5000/1h30m`, `600/min burst 50`. Without a burst it is the whole count.
    pub fn parse(text: &str) -> Result<Self, LimitError> {
        if let Some((rate, burst)) = text.split_once(" burst ") {
            let whole = Self::parse(rate)?;
            let burst = burst.trim().parse().map_err(|_| LimitError::Syntax)?;
            return Self::new(whole.count, whole.window(), burst);
        }
        let (count, window) = text.split_once('/').ok_or(LimitError::Syntax)?;
        let count: u32 = count.trim().parse().map_err(|_| LimitError::Syntax)?;
        let window = match window.trim() {
            "s" | "sec" | "second" => Duration::from_secs(1),
            "m" | "min" | "minute" => Duration::from_secs(60),
            "h" | "hour" => Duration::from_secs(3600),
            "d" | "day" => Duration::from_secs(24 * 3600),
            other => humantime::parse_duration(other).map_err(|_| LimitError::Syntax)?,
        };
        Self::new(count, window, count)
    }

    pub const fn count(self) -> u32 {
        self.count
    }

    pub const fn burst(self) -> u32 {
        self.burst
    }

    pub const fn window(self) -> Duration {
        Duration::from_millis(self.window_ms as u64)
    }

    /// The window in whole seconds, if it is.
    pub const fn whole_window(self) -> Option<u64> {
        let window = self.window();
        if window.subsec_nanos() == 0 && window.as_secs() > 0 {
            Some(window.as_secs())
        } else {
            None
        }
    }

    /// A limit that refuses every request that one of the two refuses: the lower steady rate and
    /// the smaller burst.
    #[must_use]
    pub fn slower(self, other: Self) -> Self {
        let cross = |one: Self, other: Self| u128::from(one.count) * other.window().as_millis();
        let slow = if cross(self, other) <= cross(other, self) { self } else { other };
        Self { burst: self.burst.min(other.burst), ..slow }
    }

    /// Nanoseconds between two requests at the steady rate. At least 1.
    pub const fn interval_ns(self) -> u64 {
        let ns = self.window_ms as u64 * 1_000_000 / self.count as u64;
        if ns == 0 { 1 } else { ns }
    }

    /// How far the arrival time may be ahead of now, in nanoseconds. At that point, the whole burst
    /// was taken.
    pub const fn tolerance_ns(self) -> u64 {
        self.interval_ns().saturating_mul(self.burst as u64)
    }

    /// What `arrival` becomes after a request of this cost. It is the theoretical arrival time in
    /// nanoseconds, on the clock that `now_ns` is read from. Zero is a state that was never
    /// charged.
    ///
    /// A cost above the burst takes the whole burst: otherwise such a request would never be
    /// admitted, however long its caller waits.
    ///
    /// # Errors
    /// [`Exhausted`]: less is left than the cost.
    #[inline]
    pub fn step(self, cost: u32, arrival: u64, now_ns: u64) -> Result<LimitStep, Exhausted> {
        let interval = self.interval_ns();
        let tolerance = self.tolerance_ns();
        let arrival = arrival.max(now_ns);
        // A limit that shrank on reload must not keep a debt longer than its own burst. A debt that
        // is only a little longer was charged by another worker with a newer reading of the clock.
        let longest = now_ns.saturating_add(tolerance);
        let has_shrunk = arrival > longest.saturating_add(READINGS_APART_NS);
        let arrival = if has_shrunk { longest } else { arrival };
        let cost = if cost > self.burst { self.burst } else { cost };
        let next = arrival.saturating_add(interval.saturating_mul(u64::from(cost)));
        let ahead = next - now_ns;
        if ahead > tolerance {
            return Err(Exhausted { retry_in: Duration::from_nanos(ahead - tolerance), arrival });
        }
        let remaining = ((tolerance - ahead) / interval) as u32;
        Ok(LimitStep {
            arrival: next,
            spent: Spent { remaining, full_in: Duration::from_nanos(ahead) },
        })
    }

    /// Charges a request of this cost to `state`, as [`Limit::step`] describes.
    pub fn charge(self, cost: u32, state: &AtomicU64, now_ns: u64) -> Result<Spent, Exhausted> {
        let mut seen = state.load(Ordering::Relaxed);
        loop {
            let (arrival, charged) = match self.step(cost, seen, now_ns) {
                Ok(LimitStep { arrival, spent }) => (arrival, Ok(spent)),
                Err(exhausted) if exhausted.arrival < seen => (exhausted.arrival, Err(exhausted)),
                Err(exhausted) => return Err(exhausted),
            };
            match state.compare_exchange_weak(seen, arrival, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return charged,
                Err(other) => seen = other,
            }
        }
    }
}

// === impl PolicyName ===

impl PolicyName {
    /// The policy of a key's plain `limit`, and of every limit in a table of format 1.
    pub const PER_KEY: &'static str = "per-key";

    /// The value of the metric label `policy` for `per-key`. No other policy may have this name.
    pub const METRIC_OF_PER_KEY: &'static str = "key";

    pub fn parse(text: &str) -> Result<Self, NameError> {
        if !Self::is_valid(text.as_bytes()) {
            return Err(NameError::Policy);
        }
        Ok(Self::of_valid(text))
    }

    /// The name of the policy of a key's plain `limit`.
    pub fn per_key() -> Self {
        Self::of_valid(Self::PER_KEY)
    }

    fn of_valid(text: &str) -> Self {
        Self { text: text.into(), id: PolicyId::of(text) }
    }

    pub fn is_valid(bytes: &[u8]) -> bool {
        let fits =
            |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
        (1..=64).contains(&bytes.len()) && bytes.iter().all(fits)
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub const fn id(&self) -> PolicyId {
        self.id
    }
}

// === impl PolicyId ===

impl PolicyId {
    pub const PER_KEY: Self = Self::of(PolicyName::PER_KEY);

    pub const fn to_bytes(self) -> [u8; 6] {
        self.0
    }

    pub const fn from_bytes(bytes: [u8; 6]) -> Self {
        Self(bytes)
    }

    /// FNV-1a, 64 bits, the upper 16 of which are folded into the lower 48.
    const fn of(name: &str) -> Self {
        let (mut hash, mut rest) = (0xcbf2_9ce4_8422_2325_u64, name.as_bytes());
        while let [byte, behind @ ..] = rest {
            hash = (hash ^ *byte as u64).wrapping_mul(0x0000_0100_0000_01b3);
            rest = behind;
        }
        let [a, b, c, d, e, f, ..] = (hash ^ (hash >> 48)).to_le_bytes();
        Self([a, b, c, d, e, f])
    }
}

/// In days and smaller units, as people type it and `humantime` reads it: `30d`, `1h30m`. Anything
/// below a millisecond is dropped.
pub fn show_duration(duration: Duration) -> String {
    const UNITS: [(&str, u128); 5] =
        [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
    let mut left = duration.as_millis();
    let mut text = String::new();
    for (unit, millis) in UNITS {
        if left >= millis {
            text.push_str(&format!("{}{unit}", left / millis));
            left %= millis;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// In the form that [`Limit::parse`] reads.
impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.window_ms {
            1_000 => write!(f, "{}/s", self.count)?,
            60_000 => write!(f, "{}/min", self.count)?,
            3_600_000 => write!(f, "{}/h", self.count)?,
            86_400_000 => write!(f, "{}/d", self.count)?,
            _ => write!(f, "{}/{}", self.count, show_duration(self.window()))?,
        }
        match self.burst == self.count {
            true => Ok(()),
            false => write!(f, " burst {}", self.burst),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use governor::clock::FakeRelativeClock;
    use governor::{Quota, RateLimiter};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn burst_then_refused_then_steady() {
        let limit = Limit::parse("3/s").unwrap();
        let state = AtomicU64::new(0);
        let now = 10_000_000_000;
        let left: Vec<_> =
            (0..3).map(|_| limit.charge(1, &state, now).unwrap().remaining).collect();
        assert_eq!(left, [2, 1, 0]);
        let retry = limit.charge(1, &state, now).unwrap_err().retry_in;
        assert!(retry <= Duration::from_millis(334), "{retry:?}");
        assert!(limit.charge(1, &state, now + retry.as_nanos() as u64).is_ok());
    }

    #[test]
    fn a_refusal_by_an_older_reading_of_the_clock_forgives_nothing() {
        let limit = Limit::parse("2/min").unwrap();
        let (state, now) = (AtomicU64::new(0), 10_000_000_000);
        let older = now - 40_000_000;
        while limit.charge(1, &state, now).is_ok() {}
        let spent = state.load(Ordering::Relaxed);
        let retry = limit.charge(1, &state, older).unwrap_err().retry_in;
        assert_eq!(retry, Duration::from_millis(30_040));
        assert_eq!(state.load(Ordering::Relaxed), spent);
        assert!(limit.charge(1, &state, now + 30_000_000_000 - 1).is_err());
    }

    #[test]
    fn a_debt_of_a_longer_window_does_not_outlive_the_limit() {
        let (hourly, quick) =
            (Limit::parse("5/h").unwrap(), Limit::parse("60/min burst 1").unwrap());
        let (state, now) = (AtomicU64::new(0), 10_000_000_000);
        while hourly.charge(1, &state, now).is_ok() {}
        let retry = quick.charge(1, &state, now).unwrap_err().retry_in;
        assert_eq!(retry, Duration::from_secs(1));
        assert!(quick.charge(1, &state, now + retry.as_nanos() as u64).is_ok());
    }

    #[test]
    fn a_cost_is_that_many_requests_at_once() {
        let limit = Limit::parse("10/s").unwrap();
        let (state, now) = (AtomicU64::new(0), 10_000_000_000);
        assert_eq!(limit.charge(7, &state, now).unwrap().remaining, 3);
        let retry = limit.charge(4, &state, now).unwrap_err().retry_in;
        assert_eq!(retry, Duration::from_millis(100));
        assert_eq!(limit.charge(3, &state, now).unwrap().remaining, 0);
        assert!(limit.charge(4, &state, now + 399_999_999).is_err());
        assert!(limit.charge(4, &state, now + 400_000_000).is_ok());
    }

    #[test]
    fn a_cost_above_the_burst_takes_all_of_it_and_locks_nobody_out() {
        let limit = Limit::parse("3/s").unwrap();
        let (state, now) = (AtomicU64::new(0), 10_000_000_000);
        assert_eq!(limit.charge(100, &state, now).unwrap().remaining, 0);
        let retry = limit.charge(100, &state, now).unwrap_err().retry_in;
        assert!(limit.charge(100, &state, now + retry.as_nanos() as u64).is_ok());
    }

    #[test]
    fn ids_of_names_differ() {
        let names: Vec<_> =
            (0..2000).map(|n| PolicyName::parse(&format!("p{n}")).unwrap()).collect();
        let ids: std::collections::BTreeSet<_> = names.iter().map(PolicyName::id).collect();
        assert_eq!(ids.len(), names.len());
        assert_eq!(PolicyName::per_key().id(), PolicyId::PER_KEY);
        assert!(!ids.contains(&PolicyId::default()));
    }

    #[test]
    fn a_smaller_limit_after_reload_does_not_lock_out() {
        let state = AtomicU64::new(0);
        let wide = Limit::parse("1000/d").unwrap();
        for _ in 0..1000 {
            wide.charge(1, &state, 0).unwrap();
        }
        let narrow = Limit::parse("1/s").unwrap();
        let retry = narrow.charge(1, &state, 0).unwrap_err().retry_in;
        assert!(retry <= Duration::from_secs(1), "{retry:?}");
    }

    #[test]
    fn text() {
        assert_eq!(Limit::parse("600/min").unwrap().to_string(), "600/min");
        assert_eq!(Limit::parse("5/90s").unwrap().to_string(), "5/1m30s");
        let burst = Limit::parse("600/min burst 50").unwrap();
        assert_eq!((burst.burst(), burst.to_string().as_str()), (50, "600/min burst 50"));
        assert_eq!(Limit::parse("600/min burst x"), Err(LimitError::Syntax));
        assert_eq!(Limit::parse("600/min burst 601"), Err(LimitError::Burst));
        assert_eq!(Limit::parse("600"), Err(LimitError::Syntax));
        assert_eq!(Limit::parse("0/s"), Err(LimitError::Count));
        assert_eq!(Limit::parse("1/40d"), Err(LimitError::Window));
        assert_eq!(Limit::new(5, Duration::from_secs(1), 6), Err(LimitError::Burst));
    }

    proptest! {
        /// governor implements the same algorithm independently. The verdicts must agree.
        #[test]
        fn agrees_with_governor(
            count in 1u32..50,
            steps in prop::collection::vec(0u64..300, 1..200),
        ) {
            let limit = Limit::new(count, Duration::from_secs(1), count).unwrap();
            let quota = Quota::with_period(Duration::from_nanos(limit.interval_ns()))
                .unwrap()
                .allow_burst(NonZeroU32::new(count).unwrap());
            let clock = FakeRelativeClock::default();
            let oracle = RateLimiter::direct_with_clock(quota, clock.clone());
            let state = AtomicU64::new(0);
            let mut now = 0u64;
            for step in steps {
                clock.advance(Duration::from_millis(step));
                now += step * 1_000_000;
                prop_assert_eq!(limit.charge(1, &state, now).is_ok(), oracle.check().is_ok());
            }
        }
    }
}
