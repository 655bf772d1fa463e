//! How many keys are active now and later, and how many were, by the signer's clock, in steps. A
//! key that ends in an hour counts as gone in an hour. A key that begins in a year does not count
//! yet. Pure. Imports table.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::table::{ActiveSpan, Patch, Table};

/// Step `n` begins `n` times this after 1970-01-01T00:00:00Z. A key counts in steps through the whole of
/// which it is active.
pub const STEP_MS: u64 = 4 * 3_600_000;

const STEPS_A_DAY: u64 = 86_400_000 / STEP_MS;

/// Steps over which a file is judged: the rest of this one and the next ones, a day or more.
const AHEAD: usize = STEPS_A_DAY as usize + 1;

/// Consecutive steps of a course; after them, it has one step a day. The oldest course that counts
/// is a day old and has to look a day ahead.
const FINE: usize = 2 * STEPS_A_DAY as usize + 1;

/// Steps of a course: after the fine ones, a hundred days. If nothing was signed for longer, the
/// last step stands for everything later.
const ALL: usize = FINE + 100;

/// How many keys are active from a signature on, if nothing else is signed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ActiveCourse {
    /// The step of the signature, which counts from the signature on.
    first: u64,
    /// Active keys in each step.
    at: Vec<u64>,
}

/// A course under construction, as differences from step to step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CountedSpans {
    now_ms: u64,
    changes: Vec<i64>,
    /// Active at this very moment.
    now: i64,
}

/// A table whose keys were counted, and can be counted again without a walk over all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CountedTable {
    /// Those that neither begin nor end within the step.
    steady: CountedSpans,
    others: Vec<ActiveSpan>,
}

/// The most active keys of the last day, and those by the last signature.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ActivePeaks {
    /// By the step of the signatures: in each fine step, the most by any of them.
    steps: BTreeMap<u64, Vec<u64>>,
    last: Option<ActiveCourse>,
}

/// A step of the next day, and how many keys are active in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JudgedStep {
    /// By the files signed within the last day.
    pub before: u64,
    /// By the file that is judged.
    pub after: u64,
}

/// Index, in a course that begins at `first`, of the first step that it has at or after `step`.
fn place(first: u64, step: u64) -> usize {
    let (fine, behind) = (FINE as u64, step.saturating_sub(first));
    let place = match behind < fine {
        true => behind,
        false => fine + step.saturating_sub(first_day(first)).div_ceil(STEPS_A_DAY),
    };
    usize::try_from(place).unwrap_or(usize::MAX).min(ALL)
}

/// The first step after the fine ones.
fn first_day(first: u64) -> u64 {
    first.saturating_add(FINE as u64).div_ceil(STEPS_A_DAY).saturating_mul(STEPS_A_DAY)
}

// === impl CountedTable ===

impl CountedTable {
    pub fn of(table: &Table, now_ms: u64) -> Self {
        let mut counted = Self { steady: CountedSpans::none(now_ms), others: Vec::new() };
        let step = now_ms / STEP_MS;
        let seconds = |step: u64| step.saturating_mul(STEP_MS) / 1000;
        let within = seconds(step)..=seconds(step + 1);
        for span in table.active_spans() {
            match within.contains(&span.start) || within.contains(&span.end) {
                true => counted.others.push(span),
                false => counted.steady.add(&span, 1),
            }
        }
        counted
    }

    /// Counts the keys of `table` again at another moment. `table` must be the one that was
    /// counted.
    pub fn at(&mut self, table: &Table, now_ms: u64) -> CountedSpans {
        if now_ms / STEP_MS != self.steady.first() {
            *self = Self::of(table, now_ms);
        }
        let mut counted = CountedSpans { now_ms, ..self.steady.clone() };
        self.others.iter().for_each(|span| counted.add(span, 1));
        counted
    }
}

// === impl CountedSpans ===

impl CountedSpans {
    pub fn none(now_ms: u64) -> Self {
        Self { now_ms, changes: vec![0; ALL], now: 0 }
    }

    pub fn of(spans: impl Iterator<Item = ActiveSpan>, now_ms: u64) -> Self {
        let mut counted = Self::none(now_ms);
        spans.for_each(|span| counted.add(&span, 1));
        counted
    }

    /// The counts for the counted table with a patch over it.
    #[must_use]
    pub fn with_patch(mut self, table: &Table, patch: &Patch) -> Self {
        patch.replaced_spans(table).for_each(|span| self.add(&span, -1));
        patch.active_spans().for_each(|span| self.add(&span, 1));
        self
    }

    fn first(&self) -> u64 {
        self.now_ms / STEP_MS
    }

    pub fn add(&mut self, span: &ActiveSpan, keys: i64) {
        let now = self.now_ms / 1000;
        if span.contains(&now) {
            self.now += keys;
        }
        let first = self.first();
        let from = match span.start <= now {
            true => first,
            false => span.start.saturating_mul(1000).div_ceil(STEP_MS),
        };
        let until = span.end.saturating_mul(1000) / STEP_MS;
        let (from, until) = (place(first, from), place(first, until));
        if from >= until {
            return;
        }
        for (at, keys) in [(from, keys), (until, -keys)] {
            if let Some(change) = self.changes.get_mut(at) {
                *change += keys;
            }
        }
    }

    pub const fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// Keys active at the moment of counting.
    pub fn now(&self) -> u64 {
        u64::try_from(self.now).unwrap_or(0)
    }

    pub fn course(&self) -> ActiveCourse {
        let mut active = 0i64;
        let at = self.changes.iter().map(|change| {
            active += change;
            u64::try_from(active).unwrap_or(0)
        });
        ActiveCourse { first: self.first(), at: at.collect() }
    }
}

// === impl ActiveCourse ===

impl ActiveCourse {
    /// The course with this many keys fewer in each step.
    #[must_use]
    pub fn less(mut self, keys: u64) -> Self {
        self.at.iter_mut().for_each(|active| *active = active.saturating_sub(keys));
        self
    }

    /// Between two steps that the course has, the lower count.
    fn at(&self, step: u64) -> u64 {
        let next = place(self.first, step);
        let days = next.saturating_sub(FINE) as u64;
        let is_it = next < FINE || first_day(self.first) + days * STEPS_A_DAY == step;
        let at = |place: usize| self.at.get(place).or(self.at.last()).copied().unwrap_or(0);
        if is_it { at(next) } else { at(next).min(at(next - 1)) }
    }
}

// === impl ActivePeaks ===

impl ActivePeaks {
    /// Peaks of this course alone: a fall is measured against nothing else.
    pub fn of(course: ActiveCourse) -> Self {
        let mut peaks = Self::default();
        peaks.note(course);
        peaks
    }

    /// Takes in a course that is signed.
    pub fn note(&mut self, course: ActiveCourse) {
        let step = course.first;
        let kept = self.steps.entry(step).or_insert_with(|| vec![0; FINE]);
        // The last signed file was in force until this very moment, however long ago it was signed.
        let last = self.last.as_ref();
        for (at, (most, now)) in (step..).zip(kept.iter_mut().zip(&course.at)) {
            *most = (*most).max(*now).max(last.map_or(0, |last| last.at(at)));
        }
        self.last = Some(course);
        self.steps.retain(|kept, _| counts_in(*kept, step));
    }

    /// The steps of the next day: the count before, and the count by `course`. A key that ends by
    /// its own time is gone in both.
    pub fn judged<'p>(&'p self, course: &'p ActiveCourse) -> impl Iterator<Item = JudgedStep> + 'p {
        let steps = (course.first..).zip(&course.at).take(AHEAD);
        steps.map(|(step, after)| JudgedStep {
            before: self.most(course.first, step),
            after: *after,
        })
    }

    fn most(&self, now: u64, step: u64) -> u64 {
        let kept = self.steps.iter().filter(|(kept, _)| counts_in(**kept, now));
        let kept = kept.filter_map(|(kept, at)| {
            at.get(usize::try_from(step.saturating_sub(*kept)).ok()?).copied()
        });
        kept.chain(self.last.iter().map(|last| last.at(step))).max().unwrap_or(0)
    }
}

/// Whether signatures of the step `kept` belong to the day that ends in the step `now`. A step in
/// the future, left by a clock that was set back, counts.
fn counts_in(kept: u64, now: u64) -> bool {
    kept.saturating_add(STEPS_A_DAY) >= now
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_795_230_000_000;
    const HOUR: u64 = 3600;

    fn counted(at_ms: u64, spans: &[(ActiveSpan, i64)]) -> CountedSpans {
        let mut counted = CountedSpans::none(at_ms);
        spans.iter().for_each(|(span, keys)| counted.add(span, *keys));
        counted
    }

    fn course(at_ms: u64, spans: &[(ActiveSpan, i64)]) -> ActiveCourse {
        counted(at_ms, spans).course()
    }

    /// How many are left of how many, where fewest are.
    fn worst(peaks: &ActivePeaks, course: &ActiveCourse) -> (u64, u64) {
        let steps = peaks.judged(course).map(|step| (step.after, step.before));
        steps
            .min_by_key(|(after, before)| (after * 1000).checked_div(*before).unwrap_or(1000))
            .unwrap()
    }

    #[test]
    fn a_key_counts_while_it_can_be_used() {
        let now = NOW / 1000;
        for (what, span, at_once, least) in [
            ("for ever", 0..u64::MAX, 1, 1),
            ("has expired", 0..now, 0, 0),
            ("expires in a minute", 0..now + 60, 1, 0),
            ("expires in an hour", 0..now + HOUR, 1, 0),
            ("expires in a day", 0..now + 24 * HOUR, 1, 0),
            ("expires in two days", 0..now + 48 * HOUR, 1, 1),
            ("begins in a minute", now + 60..u64::MAX, 0, 0),
            ("begins in an hour", now + HOUR..u64::MAX, 0, 0),
            ("has begun", now..u64::MAX, 1, 1),
            ("begins in a year", now + 8766 * HOUR..u64::MAX, 0, 0),
            ("begins never", u64::MAX - 1..u64::MAX, 0, 0),
            ("ends before it begins", now + 9 * HOUR..now + 3 * HOUR, 0, 0),
        ] {
            let found = counted(NOW, &[(span, 1)]);
            let through = found.course().at.iter().take(AHEAD).copied().min().unwrap();
            assert_eq!((found.now(), through), (at_once, least), "{what}");
        }
    }

    /// At whatever hour they were counted, and at whatever hour they end.
    #[test]
    fn a_course_says_how_many_are_left() {
        for from in 0..7 {
            let at_ms = NOW + from * 3_600_000;
            for hours in 1..2400u64 {
                let end = at_ms / 1000 + hours * HOUR;
                let course = course(at_ms, &[(0..end, 1), (0..u64::MAX, 1)]);
                let ends = end * 1000 / STEP_MS;
                assert_eq!(course.at(ends), 1, "{from} {hours}");
                // Further away, counted in days: gone a day too early at most.
                let near = if hours < 48 { 1 } else { STEPS_A_DAY };
                let before = ends.saturating_sub(near).max(course.first);
                assert!(ends <= course.first || course.at(before) == 2, "{from} {hours}");
            }
        }
    }

    /// All keys end at midnight, as their owner intended: a file signed afterwards is not a fall.
    /// Nor is one signed before keys begin.
    #[test]
    fn what_ends_or_begins_by_its_own_time_is_no_fall() {
        for hours in [1, 5, 20, 30, 47, 53, 70, 500, 2000] {
            let moment = NOW / 1000 + hours * HOUR;
            for keys in
                [[(0..moment, 90), (0..u64::MAX, 10)], [(moment..u64::MAX, 90), (0..u64::MAX, 10)]]
            {
                let peaks = ActivePeaks::of(course(NOW, &keys));
                for later in (0..2200).step_by(7) {
                    let next = course(NOW + later * 3_600_000, &keys);
                    let (after, before) = worst(&peaks, &next);
                    assert!(after >= before, "{hours} {later}: {after} of {before}");
                }
            }
        }
    }

    /// A new end or beginning for every key is a fall as soon as it is signed, however near it is.
    #[test]
    fn an_end_within_a_day_is_a_fall() {
        for from in 0..5 {
            let at_ms = NOW + from * 3_600_000;
            let now = at_ms / 1000;
            let peaks = ActivePeaks::of(course(at_ms, &[(0..u64::MAX, 100)]));
            for hours in [0, 1, 4, 12, 24] {
                let next = course(at_ms, &[(0..now + hours * HOUR, 100)]);
                assert_eq!(worst(&peaks, &next), (0, 100), "{from} {hours}");
                let next = course(at_ms, &[(now + 60 + hours * HOUR..u64::MAX, 100)]);
                assert_eq!(worst(&peaks, &next), (0, 100), "{from} {hours}");
            }
            // One half until a moment, and the other from later on.
            let halves = [(0..now + 5 * HOUR, 50), (now + 5 * HOUR + 60..u64::MAX, 50)];
            assert_eq!(worst(&peaks, &course(at_ms, &halves)), (0, 100), "{from}");
        }
    }

    /// At any hour of the day, the highest count of the last 24 hours applies, and not for longer
    /// than 28.
    #[test]
    fn the_most_of_a_whole_day_count() {
        let keys = |keys| [(0..u64::MAX, keys)];
        for from in 0..24 {
            let start = NOW + from * 3_600_000;
            let mut peaks = ActivePeaks::of(course(start, &keys(100)));
            for minutes in (1..=30 * 60).step_by(29) {
                let next = course(start + minutes * 60_000, &keys(51));
                let (_, before) = worst(&peaks, &next);
                match minutes {
                    ..=1440 => assert_eq!(before, 100, "{from} {minutes}"),
                    1681.. => assert_eq!(before, 51, "{from} {minutes}"),
                    _ => {}
                }
                peaks.note(next);
                assert!(peaks.steps.len() <= AHEAD + 1);
            }
        }
    }
}
