//! Quotas by calendar: so many requests in a day or a month of UTC, counted from zero when the next
//! one begins. A count is one `u64`, like the state of a [`super::Limit`], and can be told apart
//! from it.

use std::time::Duration;

use super::Now;
use super::limit::{Exhausted, Limit, LimitError, LimitStep, Spent};

/// The period of a quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QuotaPeriod {
    Day,
    Month,
}

/// A day or a month, since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QuotaSpan {
    pub period: QuotaPeriod,
    /// Number of days, or months, before it.
    pub number: u32,
}

/// How much of a quota was used in one span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaCount {
    pub span: QuotaSpan,
    pub used: u32,
}

/// No arrival time has this bit: it stands for 292 years in nanoseconds.
const IS_COUNT: u64 = 1 << 63;
const IS_MONTH: u64 = 1 << 62;
/// The position of the span's number. The count is below it.
const NUMBER_AT: u32 = 32;
const NUMBER_BITS: u64 = (1 << 30) - 1;

const DAY_MS: u64 = 86_400_000;

// === impl QuotaPeriod ===

impl QuotaPeriod {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Month => "month",
        }
    }

    /// How a table states a count for a day or a month as a limit: per `1d` or `30d`.
    const fn window(self) -> Duration {
        match self {
            Self::Day => Duration::from_secs(24 * 3600),
            Self::Month => Duration::from_secs(30 * 24 * 3600),
        }
    }

    /// Parses `1000000/month`, `5000/day` into the period and the count, in the form of a table's
    /// limit with the same name.
    ///
    /// # Errors
    /// It is not such a text, or the count is out of bounds.
    pub fn parse(text: &str) -> Result<(Self, Limit), LimitError> {
        let (count, period) = text.split_once('/').ok_or(LimitError::Syntax)?;
        let period = match period.trim() {
            "day" => Self::Day,
            "month" => Self::Month,
            _ => return Err(LimitError::Syntax),
        };
        let count: u32 = count.trim().parse().map_err(|_| LimitError::Syntax)?;
        Ok((period, Limit::new(count, period.window(), count)?))
    }

    /// Whether a limit of a table is a count for this period: the whole count as burst, in the same
    /// window.
    pub fn counts(self, limit: Limit) -> bool {
        limit.window() == self.window() && limit.burst() == limit.count()
    }

    /// The span that `unix_ms` is in.
    pub const fn span(self, unix_ms: u64) -> QuotaSpan {
        let days = (unix_ms / DAY_MS) as u32;
        let number = match self {
            Self::Day => days,
            Self::Month => month_of(days),
        };
        QuotaSpan { period: self, number }
    }
}

// === impl QuotaSpan ===

impl QuotaSpan {
    /// The first moment of the next span, in milliseconds since 1970.
    pub const fn end_ms(self) -> u64 {
        let days = match self.period {
            QuotaPeriod::Day => self.number as u64 + 1,
            QuotaPeriod::Month => first_day(self.number + 1),
        };
        days * DAY_MS
    }

    /// How much of it is left.
    pub const fn left(self, now: Now) -> Duration {
        Duration::from_millis(self.end_ms().saturating_sub(now.unix_ms))
    }
}

// === impl QuotaCount ===

impl QuotaCount {
    /// What `state` counts. `None`: it is not a count.
    pub const fn of_state(state: u64) -> Option<Self> {
        if state & IS_COUNT == 0 {
            return None;
        }
        let period = if state & IS_MONTH == 0 { QuotaPeriod::Day } else { QuotaPeriod::Month };
        let number = ((state >> NUMBER_AT) & NUMBER_BITS) as u32;
        Some(Self { span: QuotaSpan { period, number }, used: state as u32 })
    }

    pub const fn state(self) -> u64 {
        let Self { span: QuotaSpan { period, number }, used } = self;
        let kind = match period {
            QuotaPeriod::Day => IS_COUNT,
            QuotaPeriod::Month => IS_COUNT | IS_MONTH,
        };
        kind | ((number as u64 & NUMBER_BITS) << NUMBER_AT) | used as u64
    }

    /// The count of this period at `now`. If the clock was set back, it stays in the later span:
    /// nobody gets a quota twice.
    pub const fn now(state: u64, period: QuotaPeriod, now: Now) -> Self {
        let span = period.span(now.unix_ms);
        match Self::of_state(state) {
            Some(count)
                if count.span.period as u8 == period as u8 && count.span.number >= span.number =>
            {
                count
            }
            _ => Self { span, used: 0 },
        }
    }
}

/// As [`Limit::step`], by calendar.
///
/// # Errors
/// [`Exhausted`]: less is left than the cost, until the next span.
pub fn quota_step(
    limit: Limit,
    period: QuotaPeriod,
    cost: u32,
    state: u64,
    now: Now,
) -> Result<LimitStep, Exhausted> {
    let count = QuotaCount::now(state, period, now);
    let cost = cost.min(limit.count());
    let left = limit.count().saturating_sub(count.used);
    if cost > left {
        return Err(Exhausted { retry_in: count.span.left(now), arrival: state });
    }
    let used = count.used.saturating_add(cost);
    let spent = Spent { remaining: left - cost, full_in: count.span.left(now) };
    Ok(LimitStep { arrival: QuotaCount { used, ..count }.state(), spent })
}

/// The arrival time that a state stands for. What was earlier counted by calendar says nothing
/// about it.
pub const fn arrival_of(state: u64) -> u64 {
    if state & IS_COUNT == 0 { state } else { 0 }
}

/// Whether a state of either kind still means something.
pub const fn is_spent(state: u64, now: Now) -> bool {
    match QuotaCount::of_state(state) {
        Some(count) => count.span.number >= count.span.period.span(now.unix_ms).number,
        None => state > now.mono_ns,
    }
}

/// Months since January 1970 for a day (H. Hinnant, `civil_from_days`).
const fn month_of(days: u32) -> u32 {
    // Counted from 1 March of the year 0.
    let days = days as u64 + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    ((era * 400 + year) * 12 + from_march + 2 - 1_970 * 12) as u32
}

/// Days from 1970 to the first day of a month.
const fn first_day(month: u32) -> u64 {
    // Counted from March of the year 0, with February as the last month of a year.
    let month = month as u64 + 1_970 * 12 - 2;
    let (year, from_march) = (month / 12, month % 12);
    let leap_days = year / 4 - year / 100 + year / 400;
    year * 365 + leap_days + (153 * from_march + 2) / 5 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Now {
        let time = humantime::parse_rfc3339(text).unwrap();
        let since = time.duration_since(std::time::UNIX_EPOCH).unwrap();
        Now { unix_ms: since.as_millis() as u64, mono_ns: 5 }
    }

    #[test]
    fn spans_are_those_of_the_calendar() {
        for (text, day_ends, month_ends) in [
            ("1970-01-01T00:00:00Z", "1970-01-02T00:00:00Z", "1970-02-01T00:00:00Z"),
            ("2026-11-29T23:59:59Z", "2026-11-30T00:00:00Z", "2026-12-01T00:00:00Z"),
            ("2026-12-31T12:00:00Z", "2027-01-01T00:00:00Z", "2027-01-01T00:00:00Z"),
            ("2028-02-28T00:00:00Z", "2028-02-29T00:00:00Z", "2028-03-01T00:00:00Z"),
            ("2100-02-28T01:00:00Z", "2100-03-01T00:00:00Z", "2100-03-01T00:00:00Z"),
            ("2000-02-29T01:00:00Z", "2000-03-01T00:00:00Z", "2000-03-01T00:00:00Z"),
        ] {
            let now = at(text);
            assert_eq!(QuotaPeriod::Day.span(now.unix_ms).end_ms(), at(day_ends).unix_ms, "{text}");
            let month = QuotaPeriod::Month.span(now.unix_ms);
            assert_eq!(month.end_ms(), at(month_ends).unix_ms, "{text}");
        }
        // Every day of two centuries is in the month that ends after it.
        for day in 0..73_000_u64 {
            let span = QuotaPeriod::Month.span(day * DAY_MS);
            assert!(span.end_ms() > day * DAY_MS && span.end_ms() <= (day + 31) * DAY_MS, "{day}");
        }
    }

    #[test]
    fn a_quota_is_counted_to_its_end_and_anew() {
        let (period, limit) = QuotaPeriod::parse("3/month").unwrap();
        let mut state = 0;
        let last = at("2026-11-30T23:59:59Z");
        for left in [2, 1, 0] {
            let step = quota_step(limit, period, 1, state, last).unwrap();
            assert_eq!(step.spent.remaining, left);
            assert_eq!(step.spent.full_in, Duration::from_secs(1));
            state = step.arrival;
        }
        let refused = quota_step(limit, period, 1, state, last).unwrap_err();
        assert_eq!((refused.retry_in, refused.arrival), (Duration::from_secs(1), state));
        assert!(is_spent(state, last));
        let next = at("2026-12-01T00:00:00Z");
        assert!(!is_spent(state, next));
        assert_eq!(quota_step(limit, period, 2, state, next).unwrap().spent.remaining, 1);
        // A cost above the whole quota takes all of it.
        assert_eq!(quota_step(limit, period, 9, 0, next).unwrap().spent.remaining, 0);
    }

    #[test]
    fn a_clock_that_was_set_back_gives_nothing_twice() {
        let (period, limit) = QuotaPeriod::parse("2/day").unwrap();
        let (today, yesterday) = (at("2026-11-30T00:00:01Z"), at("2026-11-29T23:59:59Z"));
        let state = quota_step(limit, period, 2, 0, today).unwrap().arrival;
        assert!(quota_step(limit, period, 1, state, yesterday).is_err());
        // A count for another period, or a state of another kind of limit, means nothing here.
        assert!(quota_step(limit, QuotaPeriod::Month, 1, state, today).is_ok());
        assert!(quota_step(limit, period, 1, 10_000_000_000, today).is_ok());
    }

    #[test]
    fn text() {
        let (period, limit) = QuotaPeriod::parse("1000000/month").unwrap();
        assert!(period == QuotaPeriod::Month && period.counts(limit));
        assert!(period.counts(Limit::parse("2000000/30d").unwrap()));
        assert!(!period.counts(Limit::parse("2000000/30d burst 5").unwrap()));
        assert!(!period.counts(Limit::parse("600/min").unwrap()));
        assert!(QuotaPeriod::Day.counts(Limit::parse("5/d").unwrap()));
        for text in ["5/30d", "5", "0/day", "x/day", "5/week"] {
            assert!(QuotaPeriod::parse(text).is_err(), "{text}");
        }
        let count = QuotaCount { span: period.span(1_764_400_000_000), used: 1_000_000_000 };
        assert_eq!(QuotaCount::of_state(count.state()), Some(count));
        assert_eq!(QuotaCount::of_state(u64::MAX >> 1), None);
    }
}
