//! A part of a limit: what each of several sidecars may admit on its own.

use std::time::Duration;

use super::limit::Limit;

/// More than zero, at most the whole limit.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct LimitShare(f64);

/// Below this count, reducing the count would round too coarsely, so the window is stretched
/// instead.
const SMALL_COUNT: f64 = 1000.0;

// === impl LimitShare ===

impl LimitShare {
    pub const WHOLE: Self = Self(1.0);

    /// `max(1/replicas, least)`. With 1/replicas alone, a caller whose connections all reach one of
    /// many sidecars would lose most of its limit.
    pub fn of(replicas: u32, least: f64) -> Self {
        let even = 1.0 / f64::from(replicas.max(1));
        Self(even.max(least).clamp(0.0001, 1.0))
    }

    pub const fn fraction(self) -> f64 {
        self.0
    }

    /// This part of a count for a day or month. At least one request.
    #[must_use]
    pub fn of_count(self, limit: Limit) -> Limit {
        let count = ((f64::from(limit.count()) * self.0) as u32).max(1);
        Limit::new(count, limit.window(), count).unwrap_or(limit)
    }

    /// This part of the rate and of the burst. At least one request.
    #[must_use]
    pub fn of_limit(self, limit: Limit) -> Limit {
        let burst = ((f64::from(limit.burst()) * self.0) as u32).max(1);
        let count = f64::from(limit.count()) * self.0;
        let stretched = Duration::from_secs_f64(limit.window().as_secs_f64() / self.0);
        let by_window = || Limit::new(limit.count(), stretched, burst).ok();
        let by_count = || Limit::new((count as u32).max(1), limit.window(), burst).ok();
        let part = match count < SMALL_COUNT {
            true => by_window().or_else(by_count),
            false => by_count(),
        };
        part.unwrap_or(limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_rate_and_burst_alike() {
        let quarter = LimitShare::of(20, 0.25);
        assert_eq!(quarter, LimitShare::of(4, 0.01));
        for (limit, want) in [
            ("8000/min", "2000/min"),
            ("600/min burst 50", "600/4m burst 12"),
            ("10/s", "10/4s burst 2"),
            ("1/s", "1/4s"),
            // The window cannot be longer than thirty days.
            ("100/30d", "25/30d"),
            ("1/30d", "1/30d"),
        ] {
            let limit = Limit::parse(limit).unwrap();
            assert_eq!(quarter.of_limit(limit), Limit::parse(want).unwrap(), "{limit}");
        }
        let count = quarter.of_count(Limit::parse("100/d").unwrap());
        assert_eq!(count, Limit::parse("25/d").unwrap());
        let all = LimitShare::of(1, 0.25);
        assert_eq!((all, all.fraction()), (LimitShare::WHOLE, 1.0));
        let limit = Limit::parse("600/min burst 50").unwrap();
        assert_eq!(all.of_limit(limit), limit);
        assert_eq!(LimitShare::of(0, 0.25), LimitShare::WHOLE);
    }
}
