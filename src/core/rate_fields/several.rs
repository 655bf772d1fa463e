//! What the RateLimit fields say about a request that was charged to several limits.

use std::time::Duration;

use smallvec::SmallVec;

use super::LimitState;
use crate::core::charge::PolicyCharge;
use crate::core::limit::Limit;
use crate::core::policy_item;

/// More than one limit, or one of another name than `per-key`.
///
/// The fields are written at once: a report outlives the table and the configuration, from which
/// the names are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeveralLimits {
    /// The value of `RateLimit-Policy`, covering all limits, and after it that of `RateLimit`, in
    /// ASCII. Most values fit here, so that a report is one allocation.
    short: [[u8; SHORT_LINE]; SHORT_LINES],
    /// The values, if they do not fit there.
    long: Vec<u8>,
    /// The length of the first.
    policies: usize,
    /// The length of both.
    end: usize,
    /// What `RateLimit` shows: the limit with the least left, or all that refused.
    shown: SmallVec<[ShownLimit; 1]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct ShownLimit {
    /// Its position among the limits.
    place: usize,
    /// Where its name is in the text.
    at: usize,
    /// Bytes of the name.
    len: usize,
    limit: Limit,
    left: LeftOfLimit,
}

/// What is left of one limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LeftOfLimit {
    /// The number of requests of cost 1.
    pub(super) remaining: u32,
    /// As [`LimitState::wait`], in nanoseconds.
    pub(super) wait_ns: u64,
}

/// Writes the values into a buffer that is long enough.
struct FieldText<'t> {
    buffer: &'t mut [u8],
    used: usize,
}

/// Space for the values with three limits whose names are as long as usual, in lines: a longer
/// array has no default.
const SHORT_LINE: usize = 32;
const SHORT_LINES: usize = 5;

/// The most bytes that an item has beside the policy's name: a comma, a space, two quotation marks,
/// `;q=;w=` or `;r=;t=`, a number of 32 bits and one of 64.
const BESIDE_NAME: usize = 44;

// === impl SeveralLimits ===

impl SeveralLimits {
    /// `left`: for each limit that `RateLimit` shows, what is left of it.
    #[inline]
    pub(super) fn new(
        charges: &[PolicyCharge<'_>],
        left: impl Iterator<Item = Option<LeftOfLimit>>,
    ) -> Box<Self> {
        // Written where it will stay: to move a text that was just written is slow.
        let mut report = Box::<Self>::default();
        let Self { short, long, shown, .. } = &mut *report;
        let mut most = 0;
        for ((place, charge), left) in charges.iter().enumerate().zip(left) {
            let len = charge.policy.as_str().len();
            most += charge.item.map_or(len + BESIDE_NAME, |item| item.text(charge.quota).len() + 2);
            if let Some(left) = left {
                shown.push(ShownLimit { place, at: 0, len, limit: charge.limit, left });
                most += len + BESIDE_NAME;
            }
        }
        let short = short.as_flattened_mut();
        let buffer = match most <= short.len() {
            true => short,
            false => {
                long.resize(most, 0);
                long
            }
        };
        let mut text = FieldText { buffer, used: 0 };
        text.policies(charges, shown);
        let policies = text.used;
        text.state(charges, shown);
        let end = text.used;
        (report.policies, report.end) = (policies, end);
        report
    }

    fn text(&self) -> &[u8] {
        if self.long.is_empty() { self.short.as_flattened() } else { &self.long }
    }

    /// The value of `RateLimit-Policy`.
    pub(super) fn policies(&self) -> &[u8] {
        self.text().get(..self.policies).unwrap_or_default()
    }

    /// The value of `RateLimit`.
    pub(super) fn state(&self) -> &[u8] {
        self.text().get(self.policies..self.end).unwrap_or_default()
    }

    pub(super) fn shown(&self) -> impl Iterator<Item = (&str, LimitState)> {
        self.shown.iter().map(|shown| {
            let name = self.text().get(shown.at..shown.at + shown.len);
            let name = name.and_then(|name| std::str::from_utf8(name).ok());
            let LeftOfLimit { remaining, wait_ns } = shown.left;
            let wait = Duration::from_nanos(wait_ns);
            (name.unwrap_or_default(), LimitState { limit: shown.limit, remaining, wait })
        })
    }
}

// === impl FieldText ===

impl FieldText<'_> {
    /// Writes the value of `RateLimit-Policy`, and notes where the names are.
    #[inline]
    fn policies(&mut self, charges: &[PolicyCharge<'_>], shown: &mut [ShownLimit]) {
        for (place, charge) in charges.iter().enumerate() {
            if place > 0 {
                self.put(", ");
            }
            if let Some(one) = shown.iter_mut().find(|one| one.place == place) {
                one.at = self.used + 1;
            }
            match charge.item {
                Some(item) => self.put(item.text(charge.quota)),
                None => self.item(charge),
            }
        }
    }

    /// Not inlined: it would slow down the usual case.
    #[inline(never)]
    fn item(&mut self, charge: &PolicyCharge<'_>) {
        policy_item::each_part(charge.policy, charge.limit, charge.quota, |part| self.put(part));
    }

    /// Writes the value of `RateLimit`.
    #[inline]
    fn state(&mut self, charges: &[PolicyCharge<'_>], shown: &[ShownLimit]) {
        for (n, one) in shown.iter().enumerate() {
            let Some(charge) = charges.get(one.place) else { continue };
            self.put(if n == 0 { "\"" } else { ", \"" });
            self.put(charge.policy.as_str());
            self.put("\";r=");
            self.put(itoa::Buffer::new().format(one.left.remaining));
            self.put(";t=");
            self.put(itoa::Buffer::new().format(one.left.wait_ns.div_ceil(1_000_000_000)));
        }
    }

    #[inline]
    fn put(&mut self, part: &str) {
        if let Some(place) = self.buffer.get_mut(self.used..self.used + part.len()) {
            place.copy_from_slice(part.as_bytes());
            self.used += part.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::policy_item::PolicyItem;
    use crate::core::rate_fields::{LimitReport, RateFields};
    use crate::core::{PolicyName, PolicyScope};

    const WAIT: Duration = Duration::from_millis(61_500);

    /// The two fields of a request that every second limit refused.
    fn fields(charges: &[PolicyCharge<'_>]) -> Vec<String> {
        let waits = (0..charges.len()).map(|n| (n % 2 == 0).then_some(WAIT));
        let report = LimitReport::refused(charges, waits);
        let names: Vec<_> = report.shown().map(|(name, _)| name.to_owned()).collect();
        let refused = charges.iter().step_by(2).map(|charge| charge.policy.as_str());
        assert_eq!(names, refused.collect::<Vec<_>>());
        let mut fields = Vec::new();
        RateFields::default().each(&report, |name, value| {
            fields.push(format!("{name}: {}", std::str::from_utf8(value).unwrap()));
        });
        fields
    }

    /// With names of any length, as many as there can be, written in advance or not.
    #[test]
    fn any_number_of_limits_with_names_of_any_length_is_shown_whole() {
        let limit = Limit::parse("1000000000/30d").unwrap();
        for (many, length) in [(1, 1), (1, 64), (2, 7), (2, 64), (3, 20), (8, 3), (16, 64)] {
            let name = |n: usize| PolicyName::parse(&format!("{n:0>length$}")).unwrap();
            let names: Vec<_> = (0..many).map(name).collect();
            let items: Vec<_> = names.iter().map(|name| PolicyItem::new(name, limit)).collect();
            let charges = |is_written: bool| {
                let charge = |(policy, item)| PolicyCharge {
                    policy,
                    scope: PolicyScope::Key,
                    limit,
                    quota: None,
                    item: Some(item).filter(|_| is_written),
                };
                names.iter().zip(&items).map(charge).collect::<Vec<_>>()
            };
            let policies: Vec<_> = names
                .iter()
                .map(|name| format!("\"{}\";q=1000000000;w=2592000", name.as_str()))
                .collect();
            let refused: Vec<_> = names
                .iter()
                .step_by(2)
                .map(|name| format!("\"{}\";r=0;t=62", name.as_str()))
                .collect();
            let wanted = [
                format!("ratelimit-policy: {}", policies.join(", ")),
                format!("ratelimit: {}", refused.join(", ")),
            ];
            assert_eq!(fields(&charges(true)), wanted, "{many} of {length}");
            assert_eq!(fields(&charges(false)), wanted, "{many} of {length}");
        }
    }
}
