//! When a URL is asked again: at once where the server holds answers back, else after a pause. Pure
//! but for the spread of pauses.

use std::time::Duration;

/// Longest pause after failures, unless polling is slower still.
const MAX_PAUSE: Duration = Duration::from_secs(300);

/// Shortest pause after a failure.
const MIN_PAUSE: Duration = Duration::from_millis(500);

/// Shortest time from one request to the next: 50 a second, whatever a server does.
const EAGER: Duration = Duration::from_millis(20);

/// An answer that says `Preference-Applied: wait` and took this long was held back.
const HELD: Duration = Duration::from_millis(500);

/// One that does not say so (RFC 7240 section 3 lets a server be silent) must have taken this long.
const HELD_IN_SILENCE: Duration = Duration::from_secs(2);

/// Answers that claim a wait, came at once and had nothing new, until the server is polled. The
/// first is forgiven: a server that restarts lets go of all whom it holds.
const HASTY: u32 = 2;

/// What became of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FetchEnd {
    /// Something new came, and it is in force.
    New,
    /// The server sent what is in force already, because it cannot compare.
    Known,
    /// The server said, without a body, that there is nothing new or nothing at all.
    Nothing,
    /// No answer, a bad one, or one that was refused.
    Failed {
        /// What the server asks for in `Retry-After`.
        retry_after: Option<Duration>,
    },
}

/// Whether the server says that it has held the answer back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WaitClaim {
    /// `Preference-Applied: wait`.
    Claimed,
    /// Nobody asked it to.
    NotAsked,
    Silent,
}

/// The pace of one URL, from what its server did so far.
#[derive(Debug, Default)]
pub(super) struct Pace {
    failures: u32,
    hasty: u32,
    /// The server holds answers back, though it may not say so.
    holds: bool,
}

/// From an answer to the next request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NextFetch {
    /// As soon as [`EAGER`] allows.
    AtOnce,
    After(Duration),
}

// === impl WaitClaim ===

impl WaitClaim {
    /// Whether a bodiless answer that took this long was held back.
    pub(super) fn is_true_of(self, took: Duration) -> bool {
        match self {
            Self::Claimed => took >= HELD,
            Self::NotAsked => false,
            Self::Silent => took >= HELD_IN_SILENCE,
        }
    }
}

// === impl Pace ===

impl Pace {
    /// After a request that took this long. `poll`: the pause between two requests to a server that
    /// holds nothing back.
    pub(super) fn after(
        &mut self,
        end: FetchEnd,
        claim: WaitClaim,
        took: Duration,
        poll: Duration,
    ) -> NextFetch {
        let claimed = claim == WaitClaim::Claimed;
        if let FetchEnd::Failed { retry_after } = end {
            self.failures += 1;
            return NextFetch::After(back_off(poll, self.failures, retry_after));
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
            // A body takes its time, so that nothing can be said about a hold.
            FetchEnd::Known => self.holds &= claimed,
            FetchEnd::Nothing | FetchEnd::Failed { .. } => {
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
}

// === impl NextFetch ===

impl NextFetch {
    /// How long to rest, `took` after the last request began. A fleet that polls spreads out; one
    /// that is held back must hear at once.
    pub(super) fn rest(self, took: Duration) -> Duration {
        match self {
            Self::AtOnce => EAGER.saturating_sub(took),
            Self::After(pause) => jittered(pause),
        }
    }
}

/// Doubles with each failure. A server's own word counts, within reason.
fn back_off(poll: Duration, failures: u32, retry_after: Option<Duration>) -> Duration {
    let longest = MAX_PAUSE.max(poll);
    let doubled = poll.max(MIN_PAUSE).saturating_mul(1 << failures.min(16));
    doubled.max(retry_after.unwrap_or_default()).min(longest)
}

/// Up to a quarter less or more, so that a fleet that was started together does not ask together.
fn jittered(pause: Duration) -> Duration {
    let mut byte = [0u8; 2];
    // Without randomness the fleet asks together; that is all.
    let _ = aws_lc_rs::rand::fill(&mut byte);
    pause.mul_f64(0.75 + f64::from(u16::from_le_bytes(byte)) / f64::from(u16::MAX) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::FetchEnd::{Failed, Known, New, Nothing};
    use super::NextFetch::{After, AtOnce};
    use super::WaitClaim::{Claimed, NotAsked, Silent};
    use super::*;

    const POLL: Duration = Duration::from_secs(10);
    const QUICK: Duration = Duration::from_millis(1);
    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn a_server_that_holds_is_asked_at_once() {
        for claim in [Claimed, Silent] {
            let mut pace = Pace::default();
            assert_eq!(pace.after(Nothing, claim, LONG, POLL), AtOnce, "held");
            for _ in 0..9 {
                assert_eq!(pace.after(New, claim, QUICK, POLL), AtOnce, "news after a hold");
            }
        }
        assert_eq!(Pace::default().after(New, Claimed, QUICK, POLL), AtOnce);
        assert_eq!(AtOnce.rest(QUICK), EAGER - QUICK, "50 a second at most");
        assert_eq!(AtOnce.rest(LONG), Duration::ZERO);
    }

    #[test]
    fn a_server_that_does_not_hold_is_polled() {
        let mut pace = Pace::default();
        for end in [New, Nothing, Known, New, Nothing] {
            assert_eq!(pace.after(end, Silent, QUICK, POLL), After(POLL), "{end:?}");
        }
        // It held once, and then no more.
        assert_eq!(pace.after(Nothing, Silent, LONG, POLL), AtOnce);
        assert_eq!(pace.after(Nothing, Silent, QUICK, POLL), After(POLL));
        assert_eq!(pace.after(New, Silent, QUICK, POLL), After(POLL));
        // Nobody asked it to hold: it is slow.
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
            let mut pace = Pace::default();
            assert_eq!(pace.after(end, Claimed, QUICK, POLL), AtOnce);
            for _ in 0..9 {
                assert_eq!(pace.after(end, Claimed, QUICK, POLL), After(POLL), "{end:?}");
            }
            assert_eq!(pace.after(Nothing, Claimed, LONG, POLL), AtOnce);
            assert_eq!(pace.after(end, Claimed, QUICK, POLL), AtOnce, "forgiven again");
        }
        assert_eq!(Pace::default().after(Known, Silent, LONG, POLL), After(POLL), "a slow body");
    }

    #[test]
    fn pauses_grow_with_failures_and_have_an_end() {
        let failed = Failed { retry_after: None };
        let mut pace = Pace::default();
        assert_eq!(pace.after(failed, Silent, LONG, POLL), After(POLL * 2));
        assert_eq!(pace.after(failed, Claimed, LONG, POLL), After(POLL * 4), "held or not");
        assert_eq!(pace.after(Nothing, Silent, QUICK, POLL), After(POLL));
        assert_eq!(pace.after(failed, Silent, QUICK, POLL), After(POLL * 2), "from the beginning");
        assert_eq!(back_off(POLL, 3, None), Duration::from_secs(80));
        assert_eq!(back_off(POLL, 99, None), MAX_PAUSE);
        assert_eq!(back_off(POLL, 1, Some(Duration::from_secs(60))), Duration::from_secs(60));
        assert_eq!(back_off(POLL, 1, Some(Duration::from_secs(86_400))), MAX_PAUSE);
        assert_eq!(back_off(Duration::ZERO, 1, None), MIN_PAUSE * 2);
        let hour = Duration::from_secs(3600);
        assert_eq!(back_off(hour, 5, None), hour, "never asks more often than when all is well");
    }

    #[test]
    fn jitter_spreads_within_a_quarter() {
        let rests: Vec<_> = (0..200).map(|_| After(Duration::from_secs(100)).rest(LONG)).collect();
        assert!(rests.iter().all(|p| (75.0..=125.0).contains(&p.as_secs_f64())));
        assert!(rests.iter().any(|p| *p != rests[0]));
    }
}
