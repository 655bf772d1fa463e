//! When to ask a URL again: immediately where the server holds answers back, otherwise after a
//! pause. Pure: the caller passes in time and randomness.

use std::time::Duration;

/// Longest pause after failures, unless polling is even slower.
const MAX_PAUSE: Duration = Duration::from_secs(300);

/// Longest pause while the server is away. It returns without notice, and sidecars that relied on
/// it for revocations should do so again soon.
const MAX_AWAY: Duration = Duration::from_secs(10);

/// From which pauses double with each failure. The first one is twice as long, give or take a
/// quarter; while the server is away it is any time up to that.
const MIN_PAUSE: Duration = Duration::from_millis(500);

/// `Retry-After` has whole seconds: a fleet that got the same value spreads over the next second.
const SECOND: Duration = Duration::from_secs(1);

/// Shortest time from one request to the next: 50 a second, whatever a server does.
const EAGER: Duration = Duration::from_millis(20);

/// An answer that says `Preference-Applied: wait` and took this long was held back.
const HELD: Duration = Duration::from_millis(500);

/// Without that field (RFC 7240 section 3 lets a server be silent), it must have taken this long.
const HELD_IN_SILENCE: Duration = Duration::from_secs(2);

/// How many answers may claim a wait, arrive immediately and contain nothing new, before the server
/// is polled. The first is forgiven: a server that restarts releases everyone it was holding.
const HASTY: u32 = 2;

/// The result of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchEnd {
    /// The server did not answer, or said that it cannot (5xx), or not now (429 with a pause).
    /// Asking costs it little.
    Away {
        /// What the server asks for in `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// Something new arrived, and it is in force.
    New,
    /// The server sent what is already in force, because it cannot compare.
    Known,
    /// The server said, without a body, that there is nothing new or nothing at all.
    Nothing,
    /// An answer that was bad, cut short or refused: the next one is likely to be no better, and
    /// may be large.
    Failed {
        /// What the server asks for in `Retry-After`.
        retry_after: Option<Duration>,
    },
}

/// Whether the server claims that it held the answer back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitClaim {
    /// `Preference-Applied: wait`.
    Claimed,
    /// It was not asked to.
    NotAsked,
    Silent,
}

/// The pace of one URL, based on what its server has done so far.
#[derive(Debug)]
pub struct Pace {
    /// keygate asks the server to hold answers back.
    waits: bool,
    failures: u32,
    hasty: u32,
    /// The server does hold answers back, even if it does not say so.
    holds: bool,
    /// Longest pause after a failure, unless polling is even slower.
    longest: Duration,
}

/// How to choose the time from an answer to the next request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextFetch {
    /// At least 20 ms after the last request.
    AtOnce,
    /// A quarter more or less.
    After(Duration),
    /// As the server said, or a little later.
    NotBefore(Duration),
    /// At any moment before that, all equally likely.
    Within(Duration),
}

// === impl WaitClaim ===

impl WaitClaim {
    /// Whether a bodiless answer that took this long was held back.
    pub fn is_true_of(self, took: Duration) -> bool {
        match self {
            Self::Claimed => took >= HELD,
            Self::NotAsked => false,
            Self::Silent => took >= HELD_IN_SILENCE,
        }
    }
}

// === impl Pace ===

impl Pace {
    /// For a server that is asked to hold answers back.
    pub fn waiting() -> Self {
        Self { waits: true, ..Self::polling() }
    }

    /// For a server that is not.
    pub fn polling() -> Self {
        Self { waits: false, failures: 0, hasty: 0, holds: false, longest: MAX_PAUSE }
    }

    /// Never pauses longer than this after a failure, unless the server asks for it, or polling is
    /// slower.
    #[must_use]
    pub fn at_most(self, longest: Duration) -> Self {
        Self { longest, ..self }
    }

    /// What to do after a request that took this long. `poll`: the pause between two requests to a
    /// server that does not hold answers back.
    pub fn after(
        &mut self,
        end: FetchEnd,
        claim: WaitClaim,
        took: Duration,
        poll: Duration,
    ) -> NextFetch {
        let claimed = claim == WaitClaim::Claimed;
        match end {
            FetchEnd::Away { retry_after } => {
                self.failures = self.failures.saturating_add(1);
                return self.away(poll, retry_after);
            }
            FetchEnd::Failed { retry_after } => {
                self.failures = self.failures.saturating_add(1);
                let pause = back_off(poll, self.failures, retry_after, self.longest);
                return match retry_after {
                    Some(_) => NextFetch::NotBefore(pause),
                    None => NextFetch::After(pause),
                };
            }
            FetchEnd::New | FetchEnd::Known | FetchEnd::Nothing => {}
        }
        self.failures = 0;
        if claim == WaitClaim::NotAsked {
            return NextFetch::After(poll);
        }
        match end {
            FetchEnd::New => {
                self.holds |= claimed;
                self.hasty = 0;
                return if self.holds { NextFetch::AtOnce } else { NextFetch::After(poll) };
            }
            // A body takes time to arrive, so the duration says nothing about a hold.
            FetchEnd::Known => self.holds &= claimed,
            FetchEnd::Nothing | FetchEnd::Away { .. } | FetchEnd::Failed { .. } => {
                if claim.is_true_of(took) {
                    self.holds = true;
                    self.hasty = 0;
                    return NextFetch::AtOnce;
                }
                self.holds = claimed;
            }
        }
        self.hasty = if claimed { self.hasty + 1 } else { HASTY };
        if self.hasty < HASTY { NextFetch::AtOnce } else { NextFetch::After(poll) }
    }

    fn away(&self, poll: Duration, retry_after: Option<Duration>) -> NextFetch {
        if let Some(after) = retry_after {
            return NextFetch::NotBefore(after.min(MAX_PAUSE));
        }
        let ceiling = MIN_PAUSE.saturating_mul(1 << self.failures.min(16)).min(MAX_AWAY);
        match self.waits {
            // All that waited lost the server at the same moment: only a completely random pause
            // prevents them from returning together.
            true => NextFetch::Within(ceiling),
            // Pollers are spread out already, and never ask more often than when all is well.
            false => NextFetch::After(ceiling.max(poll)),
        }
    }
}

// === impl NextFetch ===

impl NextFetch {
    /// How long to rest, `took` after the last request began. A polling fleet spreads out. A fleet
    /// that the server holds must hear immediately. `share`: random, 0 to 1. [`random_share`]
    /// returns one.
    pub fn rest(self, took: Duration, share: f64) -> Duration {
        let share = share.clamp(0.0, 1.0);
        match self {
            Self::AtOnce => EAGER.saturating_sub(took),
            Self::After(pause) => pause.mul_f64(0.75 + share / 2.0),
            Self::NotBefore(pause) => pause.saturating_add(SECOND.max(pause / 4).mul_f64(share)),
            Self::Within(longest) => longest.mul_f64(share).max(EAGER),
        }
    }
}

/// Doubles with each failure. The server's own value counts, within reason.
fn back_off(
    poll: Duration,
    failures: u32,
    retry_after: Option<Duration>,
    longest: Duration,
) -> Duration {
    let doubled = poll.max(MIN_PAUSE).saturating_mul(1 << failures.min(16)).min(longest.max(poll));
    doubled.max(retry_after.unwrap_or_default()).min(MAX_PAUSE.max(poll))
}

/// Random, 0 to 1. Without randomness a fleet asks together, and nothing worse happens.
pub fn random_share() -> f64 {
    let mut bytes = [0u8; 4];
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::FetchEnd::{Away, Failed, Known, New, Nothing};
    use super::NextFetch::{After, AtOnce, NotBefore, Within};
    use super::WaitClaim::{Claimed, NotAsked, Silent};
    use super::*;

    const POLL: Duration = Duration::from_secs(10);
    const QUICK: Duration = Duration::from_millis(1);
    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn a_server_that_holds_is_asked_at_once() {
        for claim in [Claimed, Silent] {
            let mut pace = Pace::waiting();
            assert_eq!(pace.after(Nothing, claim, LONG, POLL), AtOnce, "held");
            for _ in 0..9 {
                assert_eq!(pace.after(New, claim, QUICK, POLL), AtOnce, "news after a hold");
            }
        }
        assert_eq!(Pace::waiting().after(New, Claimed, QUICK, POLL), AtOnce);
        assert_eq!(AtOnce.rest(QUICK, 1.0), EAGER - QUICK, "50 a second at most");
        assert_eq!(AtOnce.rest(LONG, 1.0), Duration::ZERO);
    }

    #[test]
    fn a_server_that_does_not_hold_is_polled() {
        let mut pace = Pace::waiting();
        for end in [New, Nothing, Known, New, Nothing] {
            assert_eq!(pace.after(end, Silent, QUICK, POLL), After(POLL), "{end:?}");
        }
        // It held once, and then never again.
        assert_eq!(pace.after(Nothing, Silent, LONG, POLL), AtOnce);
        assert_eq!(pace.after(Nothing, Silent, QUICK, POLL), After(POLL));
        assert_eq!(pace.after(New, Silent, QUICK, POLL), After(POLL));
        // It was not asked to hold: it is slow.
        for end in [New, Nothing, Known] {
            assert_eq!(pace.after(end, NotAsked, LONG, POLL), After(POLL), "{end:?}");
        }
        // Half a second may be a slow network.
        assert_eq!(pace.after(Nothing, Silent, HELD, POLL), After(POLL));
    }

    /// Whether it answers 304, 404, or sends the same body again and again.
    #[test]
    fn a_claim_to_hold_is_believed_once() {
        for end in [Nothing, Known] {
            let mut pace = Pace::waiting();
            assert_eq!(pace.after(end, Claimed, QUICK, POLL), AtOnce);
            for _ in 0..9 {
                assert_eq!(pace.after(end, Claimed, QUICK, POLL), After(POLL), "{end:?}");
            }
            assert_eq!(pace.after(Nothing, Claimed, LONG, POLL), AtOnce);
            assert_eq!(pace.after(end, Claimed, QUICK, POLL), AtOnce, "forgiven again");
        }
        assert_eq!(Pace::waiting().after(Known, Silent, LONG, POLL), After(POLL), "a slow body");
    }

    #[test]
    fn pauses_grow_with_failures_and_have_an_end() {
        let failed = Failed { retry_after: None };
        let mut pace = Pace::waiting();
        assert_eq!(pace.after(failed, Silent, LONG, POLL), After(POLL * 2));
        assert_eq!(pace.after(failed, Claimed, LONG, POLL), After(POLL * 4), "held or not");
        assert_eq!(pace.after(Nothing, Silent, QUICK, POLL), After(POLL));
        assert_eq!(pace.after(failed, Silent, QUICK, POLL), After(POLL * 2), "from the beginning");
        let back_off = |poll, failures, told| super::back_off(poll, failures, told, MAX_PAUSE);
        assert_eq!(back_off(POLL, 3, None), Duration::from_secs(80));
        assert_eq!(back_off(POLL, 99, None), MAX_PAUSE);
        assert_eq!(back_off(POLL, 1, Some(Duration::from_secs(60))), Duration::from_secs(60));
        assert_eq!(back_off(POLL, 1, Some(Duration::from_secs(86_400))), MAX_PAUSE);
        assert_eq!(back_off(Duration::ZERO, 1, None), MIN_PAUSE * 2);
        let hour = Duration::from_secs(3600);
        assert_eq!(back_off(hour, 5, None), hour, "never asks more often than when all is well");
        // A client between a server and many others does not rest for as long.
        let mut pace = Pace::waiting().at_most(POLL * 3);
        for _ in 0..99 {
            pace.after(failed, Silent, QUICK, POLL);
        }
        assert_eq!(pace.after(failed, Silent, QUICK, POLL), After(POLL * 3));
        assert_eq!(pace.after(failed, Silent, QUICK, hour), After(hour));
        let told = Failed { retry_after: Some(POLL * 6) };
        assert_eq!(pace.after(told, Silent, QUICK, POLL), NotBefore(POLL * 6), "its own word");
    }

    #[test]
    fn a_server_that_is_away_is_asked_again_within_ten_seconds() {
        let away = Away { retry_after: None };
        let mut pace = Pace::waiting();
        for seconds in [1, 2, 4, 8, 10, 10, 10] {
            assert_eq!(pace.after(away, NotAsked, LONG, POLL), Within(seconds * SECOND));
        }
        for _ in 0..100 {
            pace.after(away, NotAsked, QUICK, POLL);
        }
        assert_eq!(pace.after(away, NotAsked, QUICK, POLL), Within(MAX_AWAY), "and for ever");
        assert_eq!(pace.after(Nothing, Claimed, LONG, POLL), AtOnce);
        assert_eq!(pace.after(away, NotAsked, QUICK, POLL), Within(SECOND), "from the beginning");
        // A poller continues to poll.
        let mut pace = Pace::polling();
        assert_eq!(pace.after(away, NotAsked, QUICK, SECOND * 3), After(SECOND * 3));
        for _ in 0..9 {
            pace.after(away, NotAsked, QUICK, SECOND * 3);
        }
        assert_eq!(pace.after(away, NotAsked, QUICK, SECOND * 3), After(MAX_AWAY));
        assert_eq!(pace.after(away, NotAsked, QUICK, SECOND * 60), After(SECOND * 60));
    }

    #[test]
    fn a_servers_own_word_is_kept() {
        let told = |seconds: u64| Some(Duration::from_secs(seconds));
        for seconds in [1, 7, 120] {
            let mut pace = Pace::waiting();
            for _ in 0..3 {
                let next = pace.after(Away { retry_after: told(seconds) }, NotAsked, QUICK, POLL);
                let pause = Duration::from_secs(seconds);
                assert_eq!(next, NotBefore(pause), "however often");
                assert_eq!(next.rest(LONG, 0.0), pause, "never earlier");
                let latest = next.rest(LONG, 1.0);
                assert!(latest >= pause + SECOND && latest <= pause.mul_f64(1.25) + SECOND);
            }
        }
        let mut pace = Pace::waiting();
        let day = Away { retry_after: told(86_400) };
        assert_eq!(pace.after(day, NotAsked, QUICK, POLL), NotBefore(MAX_PAUSE), "within reason");
        let next = pace.after(Failed { retry_after: told(60) }, NotAsked, QUICK, POLL);
        assert_eq!(next, NotBefore(Duration::from_secs(60)));
    }

    #[test]
    fn rests_are_spread() {
        let pause = Duration::from_secs(100);
        let spread = |next: NextFetch| [0.0, 0.5, 1.0].map(|s| next.rest(LONG, s).as_secs());
        assert_eq!(spread(After(pause)), [75, 100, 125]);
        assert_eq!(spread(NotBefore(pause)), [100, 112, 125]);
        assert_eq!(spread(Within(pause)), [0, 50, 100]);
        assert_eq!(Within(pause).rest(LONG, 0.0), EAGER, "never in a tight loop");
        let shares: Vec<_> = (0..200).map(|_| random_share()).collect();
        assert!(shares.iter().all(|share| (0.0..=1.0).contains(share)));
        assert!(shares.iter().any(|share| *share != shares[0]));
    }

    /// Of 10,000 that lose their server at the same moment, by the test's clock and dice: none is
    /// away for more than 10 s after it has returned, however long it was gone, and at no time do
    /// they arrive as a herd.
    #[test]
    fn a_fleet_comes_back_soon_and_not_at_once() {
        const FLEET: usize = 10_000;
        let mut die = 1u64;
        let mut share = || {
            // Knuth's MMIX generator: the same in each run.
            die =
                die.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (die >> 33) as f64 / f64::from(1u32 << 31)
        };
        for outage in [Duration::ZERO, SECOND * 3, SECOND * 60, SECOND * 3600] {
            let mut back = Vec::new();
            let mut load = vec![0usize; outage.as_secs() as usize * 10 + 200];
            for _ in 0..FLEET {
                let mut pace = Pace::waiting();
                let mut now = Duration::ZERO;
                let away = Away { retry_after: None };
                now += pace.after(away, NotAsked, LONG, POLL).rest(LONG, share());
                while now < outage {
                    load[(now.as_millis() / 100) as usize] += 1;
                    now += pace.after(away, NotAsked, QUICK, POLL).rest(QUICK, share());
                }
                load[(now.as_millis() / 100) as usize] += 1;
                back.push(now - outage);
            }
            let last = back.iter().max().unwrap();
            assert!(*last <= MAX_AWAY, "{last:?} after {outage:?}");
            // The first pause is at most a second: a tenth of them in each tenth of it, and some of
            // the early ones again.
            let herd = load.iter().max().unwrap();
            assert!(*herd < FLEET / 5, "{herd} within 100 ms, {outage:?}");
            // From the fifth pause on it is 10 s: 5 s on average.
            let late = load.iter().skip(300).take(300).max().unwrap_or(&0);
            assert!(*late < FLEET / 25, "{late} within 100 ms, {outage:?}");
        }
    }
}
