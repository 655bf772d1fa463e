//! By how much counts have risen since they were last known. A process counts from its start, so
//! the larger of two counts is the later one: records that are repeated, out of order or received
//! in two ways add nothing. Imports core only.

use std::collections::BTreeMap;

use super::record::UsageLine;
use crate::core::Reason;

/// Highest count that is believed: every JSON reader can represent it exactly, and no process can
/// count further.
pub const HIGHEST_COUNT: u64 = (1 << 53) - 1;

/// The highest counts that one process has reported for one key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToldCounts {
    pub admitted: u64,
    /// By reason.
    pub refused: BTreeMap<Box<str>, u64>,
}

impl ToldCounts {
    /// The counts of a line, up to [`HIGHEST_COUNT`]. Unknown reasons are left out: a sidecar of a
    /// later version may have them, and a forger any number of them.
    pub fn of(line: &UsageLine<'_>) -> Self {
        let known = line
            .refused
            .iter()
            .filter(|(reason, count)| **count > 0 && Reason::of_word(reason).is_some());
        let believed = |count: &u64| (*count).min(HIGHEST_COUNT);
        let refused = known.map(|(reason, count)| (Box::from(&**reason), believed(count)));
        Self { admitted: believed(&line.admitted), refused: refused.collect() }
    }

    /// Merges later or older counts of the same process, and returns the increase.
    pub fn raise(&mut self, told: &Self) -> Self {
        let mut rise =
            Self { admitted: told.admitted.saturating_sub(self.admitted), ..Self::default() };
        self.admitted = self.admitted.max(told.admitted);
        for (reason, count) in &told.refused {
            let known = self.refused.entry(reason.clone()).or_default();
            let more = count.saturating_sub(*known);
            if more > 0 {
                *known = *count;
                rise.refused.insert(reason.clone(), more);
            }
        }
        rise
    }

    /// Refusals of all reasons.
    pub fn all_refused(&self) -> u64 {
        self.refused.values().fold(0, |sum, count| sum.saturating_add(*count))
    }

    pub fn is_nothing(&self) -> bool {
        self.admitted == 0 && self.refused.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn told(admitted: u64, refused: &[(&'static str, u64)]) -> ToldCounts {
        let line = UsageLine {
            key: "key_a".into(),
            last: 1,
            admitted,
            refused: refused.iter().map(|(reason, count)| ((*reason).into(), *count)).collect(),
            nets: Vec::new(),
        };
        ToldCounts::of(&line)
    }

    proptest! {
        /// However often lines are repeated and in whatever order: the increases add up to the
        /// largest counts.
        #[test]
        fn rises_add_up_to_the_most(
            counts in prop::collection::vec((0..100_u64, 0..100_u64, 0..100_u64), 1..20),
            order in prop::collection::vec(any::<prop::sample::Index>(), 1..60),
        ) {
            let mut known = ToldCounts::default();
            let mut sum = ToldCounts::default();
            let mut most = ToldCounts::default();
            for at in order {
                let (admitted, limited, expired) = *at.get(&counts);
                let now = told(admitted, &[("rate_limited", limited), ("expired", expired)]);
                let rise = known.raise(&now);
                sum.admitted += rise.admitted;
                for (reason, count) in rise.refused {
                    *sum.refused.entry(reason).or_default() += count;
                }
                most.admitted = most.admitted.max(admitted);
                for (reason, count) in [("rate_limited", limited), ("expired", expired)] {
                    let most = most.refused.entry(reason.into()).or_default();
                    *most = (*most).max(count);
                }
            }
            most.refused.retain(|_, count| *count > 0);
            prop_assert_eq!(&sum, &most);
            known.refused.retain(|_, count| *count > 0);
            prop_assert_eq!(known, most);
        }
    }

    #[test]
    fn a_word_that_is_no_reason_counts_nothing() {
        assert!(told(0, &[("made_up", 7), ("expired", 0)]).is_nothing());
    }

    #[test]
    fn a_repeat_is_nothing() {
        let mut known = ToldCounts::default();
        assert!(!known.raise(&told(3, &[("expired", 1)])).is_nothing());
        assert!(known.raise(&told(3, &[("expired", 1)])).is_nothing());
        assert!(known.raise(&told(1, &[])).is_nothing());
        assert_eq!(known.raise(&told(4, &[("expired", 3)])).all_refused(), 2);
    }
}
