//! One request that several limits have to admit: all of them, or none is charged. Imports core.

use std::time::Duration;

use smallvec::SmallVec;

use super::buckets::{BucketPlace, Buckets};
use crate::core::charge::PolicyCharge;
use crate::core::limit::{Exhausted, LimitStep, Spent};
use crate::core::rate_fields::LimitReport;
use crate::core::{Now, PolicyScope};

/// A request, and what each of its limits says to it.
pub(super) struct Attempt<'a, 'c> {
    /// In requests.
    cost: u32,
    limits: &'a [PolicyCharge<'c>],
    now: Now,
    /// In the order of `limits`. Empty before [`Attempt::make`].
    steps: SmallVec<[ChargeStep; 4]>,
}

/// What one limit says. Not a `Result`: as plain numbers it is written without being moved.
struct ChargeStep {
    is_admitted: bool,
    place: BucketPlace,
    /// The state of its bucket before the request.
    seen: u64,
    /// The state after it: charged, or at most a whole burst.
    arrival: u64,
    /// How many more requests of cost 1 would be admitted now.
    remaining: u32,
    /// Until the whole burst is available again, or until the request would be admitted.
    wait: Duration,
}

// === impl Attempt ===

impl<'a, 'c> Attempt<'a, 'c> {
    pub(super) fn new(cost: u32, limits: &'a [PolicyCharge<'c>], now: Now) -> Self {
        Self { cost, limits, now, steps: SmallVec::new() }
    }

    pub(super) fn now(&self) -> Now {
        self.now
    }

    /// Whether some limit is of this scope.
    #[inline]
    pub(super) fn is_of(&self, scope: PolicyScope) -> bool {
        self.limits.iter().any(|limit| limit.scope == scope)
    }

    /// Asks all limits, and charges all of them if none refuses. `of_caller`, `of_org`: the
    /// buckets, locked. `None`: no limit is of this scope.
    #[inline]
    pub(super) fn make(
        &mut self,
        mut of_caller: Option<&mut Buckets>,
        mut of_org: Option<&mut Buckets>,
    ) {
        let mut is_admitted = true;
        for one in self.limits {
            let buckets = match one.scope {
                PolicyScope::Key => of_caller.as_deref(),
                PolicyScope::Org => of_org.as_deref(),
            };
            let found = buckets.map(|buckets| buckets.find(one.policy.id()));
            let (place, seen) = found.unwrap_or_default();
            let step = match one.step(self.cost, seen, self.now) {
                Ok(LimitStep { arrival, spent }) => ChargeStep {
                    is_admitted: true,
                    place,
                    seen,
                    arrival,
                    remaining: spent.remaining,
                    wait: spent.full_in,
                },
                Err(Exhausted { retry_in, arrival }) => ChargeStep {
                    is_admitted: false,
                    place,
                    seen,
                    arrival,
                    remaining: 0,
                    wait: retry_in,
                },
            };
            is_admitted &= step.is_admitted;
            self.steps.push(step);
        }
        for (one, step) in self.limits.iter().zip(&self.steps) {
            // If a debt is longer than its limit's burst, only the burst is kept.
            let has_shrunk = !step.is_admitted && step.arrival < step.seen;
            if !is_admitted && !has_shrunk {
                continue;
            }
            let buckets = match one.scope {
                PolicyScope::Key => of_caller.as_deref_mut(),
                PolicyScope::Org => of_org.as_deref_mut(),
            };
            if let Some(buckets) = buckets {
                buckets.set_at(step.place, one.policy.id(), step.arrival, self.now);
            }
        }
    }

    /// What the caller is told. `shown`: the limits that it is shown, in the order of its own.
    ///
    /// # Errors
    /// What a refusal says: which limits have less left than the request costs.
    #[inline]
    pub(super) fn report(&self, shown: &[PolicyCharge<'_>]) -> Result<LimitReport, LimitReport> {
        if self.steps.iter().all(|step| step.is_admitted) {
            let spent = |step: &ChargeStep| Spent { remaining: step.remaining, full_in: step.wait };
            return Ok(LimitReport::spent(shown, self.steps.iter().map(spent)));
        }
        let wait = |step: &ChargeStep| (!step.is_admitted).then_some(step.wait);
        Err(LimitReport::refused(shown, self.steps.iter().map(wait)))
    }
}
