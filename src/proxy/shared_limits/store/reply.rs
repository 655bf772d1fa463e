//! What the scripts answer.

use redis::{RedisError, Value};
use smallvec::SmallVec;

use super::fault::StoreFault;
use crate::proxy::shared_limits::bucket::StoreState;

/// The answer to one call.
#[derive(Debug)]
pub(in crate::proxy::shared_limits) struct StoreReply(Value);

/// The answer to a question for tokens.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::proxy::shared_limits) struct LeaseReply {
    /// All that is needed was granted, or nothing was.
    pub(in crate::proxy::shared_limits) is_granted: bool,
    /// What was taken from each bucket, and its state.
    pub(in crate::proxy::shared_limits) buckets: SmallVec<[(u32, StoreState); 4]>,
}

// === impl StoreReply ===

impl StoreReply {
    pub(super) fn of(value: Value) -> Result<Self, StoreFault> {
        match value {
            Value::ServerError(error) => Err(StoreFault::from(RedisError::from(error))),
            value => Ok(Self(value)),
        }
    }

    pub(in crate::proxy::shared_limits) fn number(&self) -> Option<u32> {
        match self.0 {
            Value::Int(number) => u32::try_from(number).ok(),
            _ => None,
        }
    }

    /// Reads the reply for these buckets, each with a quota or without. `None`: it is not such a
    /// reply.
    pub(in crate::proxy::shared_limits) fn lease(
        &self,
        quotas: impl Iterator<Item = bool>,
    ) -> Option<LeaseReply> {
        let Value::Array(values) = &self.0 else { return None };
        let mut numbers = values.iter().map(|value| match value {
            Value::Int(number) => u64::try_from(*number).ok(),
            _ => None,
        });
        let is_granted = numbers.next()?? == 1;
        let mut found = SmallVec::new();
        for is_quota in quotas {
            let (granted, first, second) = (numbers.next()??, numbers.next()??, numbers.next()??);
            let state = match is_quota {
                true => StoreState::Counts { taken: first, back: second },
                false => StoreState::Ahead(first.saturating_mul(1_000)),
            };
            found.push((u32::try_from(granted).ok()?, state));
        }
        numbers.next().is_none().then_some(LeaseReply { is_granted, buckets: found })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_answers_are_answers() {
        let reply = |numbers: &[i64]| {
            StoreReply(Value::Array(numbers.iter().map(|number| Value::Int(*number)).collect()))
        };
        let one = |is_quota: bool| std::iter::once(is_quota);
        let want = |state| LeaseReply { is_granted: true, buckets: SmallVec::from_iter([state]) };
        let ahead = (3, StoreState::Ahead(7_000));
        assert_eq!(reply(&[1, 3, 7, 0]).lease(one(false)), Some(want(ahead)));
        let counts = (3, StoreState::Counts { taken: 7, back: 2 });
        assert_eq!(reply(&[1, 3, 7, 2]).lease(one(true)), Some(want(counts)));
        assert!(!reply(&[0, 0, 7, 0]).lease(one(false)).unwrap().is_granted);
        for numbers in [&[][..], &[1], &[1, 3, 7], &[1, 3, 7, 0, 1], &[1, -3, 7, 0], &[1, 3, -7, 0]]
        {
            assert_eq!(reply(numbers).lease(one(false)), None, "{numbers:?}");
        }
        assert_eq!(StoreReply(Value::Okay).lease(one(false)), None);
        assert_eq!(StoreReply(Value::Int(5)).number(), Some(5));
        assert_eq!(StoreReply(Value::Nil).number(), None);
    }
}
