//! One of the store's buckets as this sidecar sees it: what it has taken in advance, and what it
//! last heard. Imports `core`.

use std::time::Duration;

use crate::core::charge::PolicyCharge;
use crate::core::limit::Spent;
use crate::core::quota::QuotaSpan;
use crate::core::{Limit, Now, QuotaPeriod};

/// What a bucket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BucketLimit {
    pub(super) limit: Limit,
    /// `None`: it refills continuously.
    pub(super) quota: Option<QuotaPeriod>,
}

/// What the store has said about a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StoreState {
    /// Nanoseconds until the burst is whole again.
    Ahead(u64),
    /// For a quota: what all sidecars have taken and returned in this span.
    Counts { taken: u64, back: u64 },
}

/// Requests of cost 1 that this sidecar may admit under one limit without asking.
#[derive(Clone, Debug, Default)]
pub(super) struct LeasedBucket {
    tokens: u32,
    /// What requests have asked for since `counted_from_ns`, whether they got it or not.
    demand: u32,
    /// What lasts for one lease at the rate of the previous period.
    wanted: u32,
    counted_from_ns: u64,
    /// When the burst will be whole again, as the store last said, on our clock.
    arrival_ns: u64,
    /// When the store said it.
    heard_ns: u64,
    used_ns: u64,
    /// When the store refused, unless it has granted since. Zero: it has not refused.
    refused_ns: u64,
    /// No more is asked for in advance before this time.
    refill_from_ns: u64,
    /// For a quota: when it is counted, and what the store has said about it.
    quota: Option<QuotaLease>,
    /// A question for more in advance is under way.
    pub(super) is_refilling: bool,
    /// It is in the list of buckets that may have something to return.
    pub(super) is_listed: bool,
}

#[derive(Clone, Copy, Debug)]
struct QuotaLease {
    span: QuotaSpan,
    taken: u64,
    back: u64,
    /// Requests admitted without the store, which has yet to learn of them.
    owed: u32,
}

/// What a bucket says about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LeaseLook {
    Enough,
    /// This much has to be granted by the store first.
    Short(u32),
    /// The store has refused as much, and is not asked again until this time has passed.
    Refused(Duration),
}

/// After a refusal, keygate does not ask for this long, however short the wait. Otherwise a caller
/// far over its limit would cost the store a call for each request.
const AFTER_REFUSAL_NS: u64 = 50_000_000;

const MICROSECOND_NS: u64 = 1_000;

/// The same for a quota, whose wait is the rest of the day or month: others may return something.
const AFTER_QUOTA_REFUSAL_NS: u64 = 1_000_000_000;

// === impl BucketLimit ===

impl BucketLimit {
    pub(super) const fn of(charge: &PolicyCharge<'_>) -> Self {
        Self { limit: charge.limit, quota: charge.quota }
    }
}

// === impl LeasedBucket ===

impl LeasedBucket {
    /// What the bucket says. Changes nothing.
    #[inline]
    pub(super) fn look(&self, cost: u32, limit: Limit, now: Now) -> LeaseLook {
        if self.tokens >= cost {
            return LeaseLook::Enough;
        }
        let (missing, now_ns) = (cost - self.tokens, now.mono_ns);
        if let Some(quota) = self.quota {
            let asked_ns = self.refused_ns.saturating_add(AFTER_QUOTA_REFUSAL_NS);
            let is_less = quota.left(limit) < u64::from(missing);
            return match self.refused_ns != 0 && is_less && now_ns < asked_ns {
                true => LeaseLook::Refused(quota.span.left(now)),
                false => LeaseLook::Short(missing),
            };
        }
        if self.refused_ns != 0 {
            let there_ns = self.until(missing, limit);
            let asked_ns = there_ns.max(self.refused_ns.saturating_add(AFTER_REFUSAL_NS));
            // It is unknown whether the store would have refused a smaller request.
            if there_ns > self.refused_ns && now_ns < asked_ns {
                return LeaseLook::Refused(Duration::from_nanos(asked_ns - now_ns));
            }
        }
        LeaseLook::Short(missing)
    }

    /// When the store will have this much, unless others take it.
    fn until(&self, tokens: u32, limit: Limit) -> u64 {
        let taken = self.arrival_ns.saturating_add(limit.interval_ns() * u64::from(tokens));
        taken.saturating_sub(limit.tolerance_ns())
    }

    /// Records what a request asks for.
    #[inline]
    pub(super) fn demanded(&mut self, cost: u32, now_ns: u64) {
        self.demand = self.demand.saturating_add(cost);
        self.used_ns = now_ns;
    }

    /// Settles the calendar span that it is counted in. Tokens of another span are void.
    pub(super) fn settle(&mut self, span: Option<QuotaSpan>) {
        if self.quota.map(|quota| quota.span) != span {
            let (is_listed, demand) = (self.is_listed, self.demand);
            *self = Self { is_listed, demand, used_ns: self.used_ns, ..Self::default() };
            self.quota = span.map(|span| QuotaLease { span, taken: 0, back: 0, owed: 0 });
        }
    }

    /// What the store learns with a question: the taken and returned amounts as far as this sidecar
    /// knows them, and what was admitted without the store, which is reported once.
    pub(super) fn tell(&mut self) -> (u64, u64, u32) {
        match &mut self.quota {
            None => (0, 0, 0),
            Some(quota) => (quota.taken, quota.back, std::mem::take(&mut quota.owed)),
        }
    }

    /// Records a request that was admitted without the store.
    pub(super) fn owe(&mut self, cost: u32) {
        if let Some(quota) = &mut self.quota {
            quota.owed = quota.owed.saturating_add(cost);
        }
    }

    /// Takes at most this much. Returns how much was taken.
    #[inline]
    pub(super) fn take(&mut self, cost: u32) -> u32 {
        let taken = self.tokens.min(cost);
        self.tokens -= taken;
        taken
    }

    /// Returns tokens that were taken and not used, unless their time is over.
    pub(super) fn put_back(&mut self, tokens: u32, span: Option<QuotaSpan>) {
        if self.quota.map(|quota| quota.span) == span {
            self.tokens = self.tokens.saturating_add(tokens);
        }
    }

    /// How much more to ask for in advance: what lasts for one lease at the observed rate, at most
    /// a quarter of the burst, once half of that is used. Zero: nothing, or not now.
    #[inline]
    pub(super) fn wants(&mut self, limit: Limit, lease_ns: u64, now_ns: u64) -> u32 {
        if lease_ns == 0 {
            return 0;
        }
        let elapsed_ns = now_ns.saturating_sub(self.counted_from_ns);
        if elapsed_ns >= lease_ns {
            self.recount(elapsed_ns, lease_ns, now_ns);
        }
        let most = limit.burst() / 4;
        if most == 0 || self.is_refilling || now_ns < self.refill_from_ns {
            return 0;
        }
        // Since the last count less than a lease has passed, so this will not have been all of the
        // demand.
        let want = self.wanted.max(self.demand).min(most);
        match self.tokens.saturating_mul(2) <= want {
            true => want - self.tokens,
            false => 0,
        }
    }

    /// Whether more would be wanted once this much is taken, or counting is due: a hot bucket
    /// answers this for every request.
    #[inline]
    pub(super) fn will_want(&self, cost: u32, limit: Limit, lease_ns: u64, now_ns: u64) -> bool {
        if self.is_refilling {
            return false;
        }
        let is_due = now_ns.saturating_sub(self.counted_from_ns) >= lease_ns;
        let left = self.tokens.saturating_sub(cost);
        // No more than this is ever held in advance.
        let want = self.wanted.max(self.demand).min(limit.burst() / 4);
        is_due || left.saturating_mul(2) <= want
    }

    #[cold]
    fn recount(&mut self, elapsed_ns: u64, lease_ns: u64, now_ns: u64) {
        let wanted = u128::from(self.demand) * u128::from(lease_ns) / u128::from(elapsed_ns.max(1));
        self.wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
        (self.demand, self.counted_from_ns) = (0, now_ns);
    }

    /// What callers are shown: the rest that the store last reported, and our own.
    #[inline]
    pub(super) fn state(&self, limit: Limit, now: Now) -> Spent {
        let now_ns = now.mono_ns;
        if let Some(quota) = self.quota {
            let left = quota.left(limit).saturating_add(self.tokens.into());
            let remaining = u32::try_from(left).unwrap_or(u32::MAX).min(limit.count());
            return Spent { remaining, full_in: quota.span.left(now) };
        }
        let (interval, tolerance) = (limit.interval_ns(), limit.tolerance_ns());
        let own_ns = interval.saturating_mul(u64::from(self.tokens));
        // A request that has waited began before the answer arrived.
        let now_ns = now_ns.max(self.heard_ns);
        let ahead = self.arrival_ns.saturating_sub(now_ns).saturating_sub(own_ns).min(tolerance);
        // The store counts in whole microseconds.
        let left = (tolerance - ahead).saturating_add(MICROSECOND_NS.min(interval - 1));
        let remaining = (left.min(tolerance) / interval) as u32;
        Spent { remaining, full_in: Duration::from_nanos(ahead) }
    }

    fn heard(&mut self, state: StoreState, now_ns: u64) {
        self.heard_ns = now_ns;
        match (state, &mut self.quota) {
            (StoreState::Ahead(ahead_ns), _) => self.arrival_ns = now_ns.saturating_add(ahead_ns),
            (StoreState::Counts { taken, back }, Some(quota)) => {
                quota.taken = quota.taken.max(taken);
                quota.back = quota.back.max(back);
            }
            (StoreState::Counts { .. }, None) => {}
        }
    }

    /// The store has granted. `wanted`: what was asked for in advance. `kept`: how much of it was
    /// granted.
    pub(super) fn granted(&mut self, state: StoreState, wanted: u32, kept: u32, now_ns: u64) {
        self.heard(state, now_ns);
        self.tokens = self.tokens.saturating_add(kept);
        self.refused_ns = 0;
        if wanted > 0 {
            self.is_refilling = false;
            self.refill_from_ns =
                if kept > 0 { 0 } else { now_ns.saturating_add(AFTER_REFUSAL_NS) };
        }
    }

    /// The store has refused the request, whichever of its buckets was short.
    pub(super) fn refused(&mut self, state: StoreState, wanted: u32, now_ns: u64) {
        self.heard(state, now_ns);
        self.refused_ns = now_ns;
        self.refill_from_ns = now_ns.saturating_add(AFTER_REFUSAL_NS);
        if wanted > 0 {
            self.is_refilling = false;
        }
    }

    /// It is unknown what happened to the question.
    pub(super) fn unanswered(&mut self, wanted: u32) {
        if wanted > 0 {
            self.is_refilling = false;
        }
    }

    /// Gives back what has not been used for this long, so that others can use it.
    pub(super) fn give_back(&mut self, idle_ns: u64, now_ns: u64) -> u32 {
        match now_ns.saturating_sub(self.used_ns) >= idle_ns {
            true => std::mem::take(&mut self.tokens),
            false => 0,
        }
    }

    pub(super) fn span(&self) -> Option<QuotaSpan> {
        self.quota.map(|quota| quota.span)
    }

    pub(super) const fn is_quota(&self) -> bool {
        self.quota.is_some()
    }

    pub(super) const fn has_tokens(&self) -> bool {
        self.tokens > 0
    }

    /// Whether it still means anything.
    pub(super) fn is_alive(&self, now: Now) -> bool {
        let is_counted = |quota: QuotaLease| quota.span.left(now) > Duration::ZERO;
        self.tokens > 0
            || self.is_refilling
            || self.is_listed
            || self.arrival_ns > now.mono_ns
            || self.quota.is_some_and(is_counted)
    }
}

// === impl QuotaLease ===

impl QuotaLease {
    /// What the store had left when it last answered.
    fn left(&self, limit: Limit) -> u64 {
        u64::from(limit.count()).saturating_sub(self.taken.saturating_sub(self.back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const LEASE: u64 = 200 * MS;

    fn at(mono_ns: u64) -> Now {
        Now { unix_ms: 1_795_993_200_000, mono_ns }
    }

    fn ahead(ms: u64) -> StoreState {
        StoreState::Ahead(ms * MS)
    }

    fn limit(text: &str) -> Limit {
        Limit::parse(text).unwrap()
    }

    #[test]
    fn what_is_there_is_used_and_refilled_at_half() {
        let limit = limit("1000/s");
        let mut bucket = LeasedBucket::default();
        let mut now = 1_000 * MS;
        assert_eq!(bucket.look(1, limit, at(now)), LeaseLook::Short(1));
        // At 100 a second, a lease of 200 ms is twenty.
        for _ in 0..40 {
            now += 10 * MS;
            bucket.demanded(1, now);
            let _ = bucket.wants(limit, LEASE, now);
        }
        let want = bucket.wants(limit, LEASE, now);
        assert!((19..=21).contains(&want), "{want}");
        bucket.is_refilling = true;
        assert_eq!(bucket.wants(limit, LEASE, now), 0, "once at a time");
        bucket.granted(ahead(20), want, want, now);
        assert_eq!(bucket.look(1, limit, at(now)), LeaseLook::Enough);
        assert_eq!(bucket.wants(limit, LEASE, now), 0, "full");
        assert_eq!(bucket.take(want / 2), want / 2);
        assert!(bucket.wants(limit, LEASE, now) >= want / 2, "half is used");
    }

    #[test]
    fn no_more_than_a_quarter_of_the_burst_and_nothing_without_a_lease() {
        let tight = limit("1000/s burst 10");
        let mut bucket = LeasedBucket::default();
        for now in 0..300 {
            bucket.demanded(1, now * MS);
            let _ = bucket.wants(tight, LEASE, now * MS);
        }
        assert_eq!(bucket.wants(tight, LEASE, 300 * MS), 2);
        assert_eq!(bucket.wants(limit("3/s"), LEASE, 300 * MS), 0, "a quarter is less than one");
        assert_eq!(bucket.wants(tight, 0, 300 * MS), 0);
    }

    #[test]
    fn a_refusal_is_remembered_for_what_was_refused() {
        let limit = limit("10/s");
        let mut bucket = LeasedBucket::default();
        let now = 10_000 * MS;
        // Eight of ten are taken. In 200 ms four more will be available: two immediately.
        bucket.refused(ahead(800), 0, now);
        assert_eq!(
            bucket.look(4, limit, at(now + MS)),
            LeaseLook::Refused(Duration::from_millis(199))
        );
        assert_eq!(bucket.look(2, limit, at(now + MS)), LeaseLook::Short(2));
        assert_eq!(bucket.look(4, limit, at(now + 200 * MS)), LeaseLook::Short(4));
        // Even for a shorter wait it is fifty.
        bucket.refused(ahead(930), 0, now);
        assert_eq!(
            bucket.look(1, limit, at(now + 40 * MS)),
            LeaseLook::Refused(Duration::from_millis(10))
        );
        bucket.put_back(1, None);
        assert_eq!(bucket.look(1, limit, at(now + 40 * MS)), LeaseLook::Enough);
    }

    #[test]
    fn what_nobody_uses_is_given_back_once() {
        let mut bucket = LeasedBucket::default();
        bucket.demanded(1, 1_000 * MS);
        bucket.granted(ahead(0), 5, 5, 1_000 * MS);
        assert_eq!(bucket.give_back(2 * LEASE, 1_300 * MS), 0);
        assert_eq!(bucket.give_back(2 * LEASE, 1_400 * MS), 5);
        assert_eq!(bucket.give_back(2 * LEASE, 1_400 * MS), 0);
    }

    #[test]
    fn callers_are_told_the_rest_of_both() {
        let limit = limit("10/s");
        let mut bucket = LeasedBucket::default();
        let now = 5_000 * MS;
        bucket.granted(ahead(600), 2, 2, now);
        let state = bucket.state(limit, at(now));
        assert_eq!((state.remaining, state.full_in), (6, Duration::from_millis(400)));
        assert_eq!(bucket.state(limit, at(now + 10_000 * MS)).remaining, 10);
    }

    #[test]
    fn a_quota_is_void_when_its_time_is_over() {
        let (period, limit) = QuotaPeriod::parse("10/day").unwrap();
        let mut bucket = LeasedBucket::default();
        let evening = at(5_000 * MS);
        let today = Some(period.span(evening.unix_ms));
        bucket.settle(today);
        bucket.granted(StoreState::Counts { taken: 9, back: 1 }, 3, 2, evening.mono_ns);
        let state = bucket.state(limit, evening);
        assert_eq!((state.remaining, state.full_in), (4, Duration::from_secs(3_600)));
        bucket.owe(2);
        assert_eq!(bucket.tell(), (9, 1, 2));
        assert_eq!(bucket.tell(), (9, 1, 0), "told once");
        // An older answer takes nothing back.
        bucket.refused(StoreState::Counts { taken: 8, back: 1 }, 0, evening.mono_ns);
        let refused = LeaseLook::Refused(Duration::from_secs(3_600));
        assert_eq!(bucket.look(5, limit, evening), refused);
        assert_eq!(bucket.look(4, limit, evening), LeaseLook::Short(2), "two may be there");
        assert_eq!(bucket.look(5, limit, at(6_001 * MS)), LeaseLook::Short(3));
        let midnight = Now { unix_ms: evening.unix_ms + 3_600_000, ..evening };
        assert!(bucket.is_alive(evening) && bucket.has_tokens());
        bucket.settle(Some(period.span(midnight.unix_ms)));
        assert!(!bucket.has_tokens());
        bucket.put_back(2, today);
        assert!(!bucket.has_tokens(), "of yesterday");
        assert_eq!(bucket.state(limit, midnight).remaining, 10);
    }
}
