//! Merges records of many sidecars and many moments into one. Imports core only.
//!
//! Per (key, instance, boot), the larger count is the later one. Counts are summed over instances
//! and boots, and the latest `last` counts. So order, repeats and overlaps of records change
//! nothing.

use std::collections::BTreeMap;
use std::collections::HashMap;

use ipnet::IpNet;

use super::record::{RecordPart, UsageHead, UsageLine};
use crate::core::KeyId;

/// The most minutes between two records of one process, or between the end of one process and the
/// start of its successor, for which nothing is considered missing.
const GAP: u32 = 60;

/// The reason of a refusal where only a pair's public id was known.
const WRONG_SECRET: &str = "wrong_secret";

/// What is known about all keys.
#[derive(Clone, Debug, Default)]
pub struct UsageMerge {
    processes: Vec<ProcessRecord>,
    keys: HashMap<KeyId, KeyRecord>,
    /// The first minute that [`Self::refused_since`] covers.
    asked: u32,
}

/// One process: an instance since one of its starts.
#[derive(Clone, Debug)]
struct ProcessRecord {
    instance: String,
    boot: String,
    audience: String,
    started: u32,
    /// Intervals of minutes that are completely known, in no order.
    covered: Vec<Covered>,
    dropped: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Covered {
    from: u32,
    to: u32,
}

#[derive(Clone, Debug, Default)]
struct KeyRecord {
    last: u32,
    /// Per process.
    counts: Vec<ProcessCounts>,
    nets: Vec<IpNet>,
}

#[derive(Clone, Debug)]
struct ProcessCounts {
    process: u32,
    admitted: u64,
    refused: BTreeMap<Box<str>, RefusalCount>,
}

/// Refusals of one key by one process for one reason.
#[derive(Clone, Copy, Debug, Default)]
struct RefusalCount {
    most: u64,
    /// From the latest record that was made before the requested minute.
    before: CountAt,
    /// From the records that were made since. `None`: there are none.
    since: Option<CountRange>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct CountAt {
    minute: u32,
    count: u64,
}

#[derive(Clone, Copy, Debug)]
struct CountRange {
    least: u64,
    most: u64,
}

/// What is known about one key, over all processes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MergedUse {
    /// Minutes since 1970. 0: never admitted, as far as the records show.
    pub last: u32,
    pub admitted: u64,
    pub refused: BTreeMap<Box<str>, u64>,
    pub nets: Vec<IpNet>,
}

/// The time for which the records of one instance are complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceSpan {
    pub instance: String,
    /// Minutes since 1970.
    pub from: u32,
    pub to: u32,
    /// Whether it begins with its process, and not after a gap in the records.
    pub is_from_start: bool,
}

/// Instances that somebody has stated the beginning or end of.
#[derive(Clone, Copy, Debug, Default)]
pub struct KnownInstances<'a> {
    /// Those that did not replace another one when they began.
    pub added: &'a [String],
    /// Those that ended without being replaced.
    pub gone: &'a [String],
}

/// Place of a head in a [`UsageMerge`], for the lines that follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordPlace {
    process: u32,
    /// The minute of the record.
    now: u32,
    part: RecordPart,
}

// === impl UsageMerge ===

impl UsageMerge {
    /// Merges for a caller that will ask [what was refused since](Self::refused_since) this minute.
    pub fn asked_since(minute: u32) -> Self {
        Self { asked: minute, ..Self::default() }
    }

    /// Adds the head of a record, or of a part of it. The lines of its keys are [`Self::line`]s
    /// with the same place.
    pub fn head(&mut self, head: &UsageHead) -> RecordPlace {
        // A `since` after its own time covers nothing.
        let covered = Covered { from: head.from().min(head.now), to: head.now };
        let known = |p: &ProcessRecord| p.instance == head.instance && p.boot == head.boot;
        let place = match self.processes.iter().position(known) {
            Some(place) => place,
            None => {
                self.processes.push(ProcessRecord {
                    instance: head.instance.clone(),
                    boot: head.boot.clone(),
                    audience: head.audience.clone(),
                    started: head.started,
                    covered: Vec::new(),
                    dropped: 0,
                });
                self.processes.len() - 1
            }
        };
        if let Some(process) = self.processes.get_mut(place) {
            match head.part {
                RecordPart::Last => process.covered.push(covered),
                // The other parts may never have arrived.
                RecordPart::More => process.seen(head.now),
            }
            process.dropped = process.dropped.max(head.dropped);
        }
        RecordPlace { process: place as u32, now: head.now, part: head.part }
    }

    /// The record whose head was the last at this place was cut short: its lines count, but the
    /// keys it does not mention may have been in the missing part.
    pub fn cut(&mut self, place: RecordPlace) {
        let process = self.processes.get_mut(place.process as usize);
        let Some(process) = process.filter(|_| place.part.is_last()) else { return };
        if let Some(last) = process.covered.pop() {
            process.seen(last.to);
        }
    }

    /// A record that was made after this minute, if there is one.
    pub fn after(&self, minute: u32) -> Option<InstanceSpan> {
        self.spans().into_iter().find(|span| span.to > minute)
    }

    /// Requests with the key that were refused in or since the minute of [`Self::asked_since`], as
    /// far as the records show. If no record was made before that minute, everything that the
    /// process has refused. Excludes requests that only named the public id of a pair: their
    /// senders have no secret.
    pub fn refused_since(&self, id: KeyId) -> u64 {
        let counts = self.keys.get(&id).into_iter().flat_map(|key| &key.counts);
        let refused = counts.flat_map(|counts| &counts.refused);
        let refused = refused.filter(|(reason, _)| &***reason != WRONG_SECRET);
        refused.map(|(_, count)| count.since()).sum()
    }

    pub fn line(&mut self, place: RecordPlace, id: KeyId, line: &UsageLine<'_>) {
        let key = self.keys.entry(id).or_default();
        key.last = key.last.max(line.last);
        for net in &line.nets {
            if !key.nets.contains(net) {
                key.nets.push(*net);
            }
        }
        let counts = match key.counts.iter().position(|counts| counts.process == place.process) {
            Some(at) => key.counts.get_mut(at),
            None => {
                let refused = BTreeMap::new();
                key.counts.push(ProcessCounts { process: place.process, admitted: 0, refused });
                key.counts.last_mut()
            }
        };
        let Some(counts) = counts else { return };
        counts.admitted = counts.admitted.max(line.admitted);
        for (reason, count) in &line.refused {
            let known = counts.refused.entry(Box::from(&**reason)).or_default();
            known.add(CountAt { minute: place.now, count: *count }, self.asked);
        }
    }

    /// Another audience than this one, if there is one.
    pub fn stranger(&self, audience: &str) -> Option<&str> {
        self.processes.iter().map(|p| &*p.audience).find(|theirs| *theirs != audience)
    }

    pub fn is_empty(&self) -> bool {
        self.processes.is_empty()
    }

    /// Keys whose uses, or refusals and networks, may be missing.
    pub fn dropped(&self) -> u64 {
        self.processes.iter().map(|p| p.dropped).sum()
    }

    pub fn key(&self, id: KeyId) -> MergedUse {
        let Some(key) = self.keys.get(&id) else { return MergedUse::default() };
        let mut merged = MergedUse { last: key.last, ..MergedUse::default() };
        for counts in &key.counts {
            merged.admitted = merged.admitted.saturating_add(counts.admitted);
            for (reason, count) in &counts.refused {
                *merged.refused.entry(reason.clone()).or_default() += count.most;
            }
        }
        merged.nets = key.nets.clone();
        merged.nets.sort_unstable();
        merged
    }

    /// Every key of the records, with what is known about it.
    pub fn keys(&self) -> impl Iterator<Item = (KeyId, MergedUse)> {
        self.keys.keys().map(|id| (*id, self.key(*id)))
    }

    /// The instances whose records, or those of their predecessors, begin after `from`, or whose
    /// records, or those of their successors, end before `to`. Empty: everything used between the
    /// two is known.
    ///
    /// A process that began when another ended counts as its successor, whatever their names,
    /// because pods get new ones. A process whose records begin after a gap succeeds none, because
    /// it ran before.
    pub fn gaps(&self, from: u32, to: u32, known: KnownInstances<'_>) -> Vec<InstanceSpan> {
        let mut spans = self.spans();
        spans.sort_by_key(|span| (span.from, span.to));
        let mut open: Vec<usize> = Vec::new();
        let mut short = Vec::new();
        let of = |at: usize, span: &InstanceSpan| {
            spans.get(at).is_some_and(|other| other.instance == span.instance)
        };
        for (at, span) in spans.iter().enumerate() {
            let ends_before = |other: usize| {
                span.is_from_start
                    && spans.get(other).is_some_and(|o| {
                        o.to.saturating_add(GAP) >= span.from
                            && o.to < span.from.saturating_add(GAP)
                    })
            };
            let predecessor = open
                .iter()
                .position(|other| ends_before(*other) && of(*other, span))
                .or_else(|| open.iter().position(|other| ends_before(*other)));
            // It was added only once, when its first process began.
            let is_added = span.is_from_start
                && known.added.contains(&span.instance)
                && !(0..at).any(|before| of(before, span));
            match predecessor {
                Some(place) => {
                    open.remove(place);
                }
                None if span.from <= from || is_added => {}
                None => short.push(span.clone()),
            }
            open.push(at);
        }
        for at in open {
            let Some(span) = spans.get(at) else { continue };
            let ends_early = span.to >= from && span.to.saturating_add(GAP) < to;
            let is_gone =
                known.gone.contains(&span.instance) && !(at + 1..spans.len()).any(|n| of(n, span));
            if ends_early && !is_gone && !short.contains(span) {
                short.push(span.clone());
            }
        }
        // Whatever is stated about the others, somebody has to know about today.
        let latest = spans.iter().max_by_key(|span| span.to);
        if let Some(latest) = latest.filter(|span| span.to.saturating_add(GAP) < to)
            && !short.contains(latest)
        {
            short.push(latest.clone());
        }
        short
    }

    /// Per process, the last interval that is completely known.
    pub fn spans(&self) -> Vec<InstanceSpan> {
        let span = |process: &ProcessRecord| {
            let mut covered = process.covered.clone();
            covered.sort_unstable();
            let mut run = *covered.first()?;
            for next in covered {
                // A record since the start is complete, whatever was missing before.
                if next.from > run.to.saturating_add(1) && next.from > process.started {
                    run = next;
                }
                run.to = run.to.max(next.to);
            }
            let (instance, is_from_start) = (process.instance.clone(), run.from <= process.started);
            Some(InstanceSpan { instance, from: run.from, to: run.to, is_from_start })
        };
        self.processes.iter().filter_map(span).collect()
    }
}

// === impl ProcessRecord ===

impl ProcessRecord {
    /// The process counted in this minute. Nothing more is known.
    fn seen(&mut self, minute: u32) {
        if self.covered.is_empty() {
            self.covered.push(Covered { from: minute, to: minute });
        }
    }
}

// === impl RefusalCount ===

impl RefusalCount {
    fn add(&mut self, seen: CountAt, asked: u32) {
        self.most = self.most.max(seen.count);
        if seen.minute < asked {
            self.before = self.before.max(seen);
            return;
        }
        let known = self.since.unwrap_or(CountRange { least: seen.count, most: seen.count });
        let (least, most) = (known.least.min(seen.count), known.most.max(seen.count));
        self.since = Some(CountRange { least, most });
    }

    fn since(&self) -> u64 {
        match self.since {
            None => 0,
            // The process had forgotten the key, and counted from zero again.
            Some(since) if since.least < self.before.count => since.most,
            Some(since) => since.most - self.before.count,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(instance: &str, boot: &str, started: u32, since: u32, now: u32) -> UsageHead {
        UsageHead {
            usage: 1,
            instance: instance.into(),
            boot: boot.into(),
            audience: "orders".into(),
            started,
            now,
            since,
            part: RecordPart::Last,
            serial: None,
            dropped: 0,
            dropped_traces: 0,
        }
    }

    fn line(key: &str, last: u32, admitted: u64, limited: u64) -> UsageLine<'_> {
        UsageLine {
            key: key.into(),
            last,
            admitted,
            refused: [("rate_limited".into(), limited)].into(),
            nets: Vec::new(),
        }
    }

    #[test]
    fn order_and_repeats_change_nothing() {
        let id = KeyId::parse("key_a").unwrap();
        let records = [
            (head("a", "1", 100, 0, 110), line("key_a", 105, 5, 1)),
            (head("a", "1", 100, 0, 120), line("key_a", 118, 9, 1)),
            (head("a", "2", 130, 0, 140), line("key_a", 131, 2, 0)),
            (head("b", "1", 100, 0, 140), line("key_a", 101, 7, 4)),
        ];
        let orders: [&[usize]; 4] =
            [&[0, 1, 2, 3], &[3, 2, 1, 0], &[1, 0, 1, 3, 2, 2, 3], &[1, 3, 2]];
        for order in orders {
            let mut merge = UsageMerge::default();
            for at in order {
                let (head, line) = &records[*at];
                let place = merge.head(head);
                merge.line(place, id, line);
            }
            let merged = merge.key(id);
            assert_eq!((merged.last, merged.admitted), (131, 18), "{order:?}");
            assert_eq!(merged.refused, [("rate_limited".into(), 5)].into(), "{order:?}");
        }
    }

    #[test]
    fn a_record_that_was_cut_covers_nothing() {
        let mut merge = UsageMerge::default();
        let place = merge.head(&head("a", "1", 100, 0, 110));
        merge.head(&head("a", "1", 100, 110, 120));
        merge.cut(place);
        assert_eq!(merge.spans()[0].to, 110);
        merge.cut(place);
        assert_eq!((merge.spans()[0].from, merge.spans()[0].to), (110, 110));
        assert_eq!(merge.after(109).map(|span| span.instance), Some("a".into()));
        assert_eq!(merge.after(110), None);
    }

    #[test]
    fn a_refused_request_counts_where_its_record_reaches() {
        let id = KeyId::parse("key_a").unwrap();
        let refused_since = |records: &[(&str, &str, u32, u64)], from: u32| {
            let merge = |records: &mut dyn Iterator<Item = &(&str, &str, u32, u64)>| {
                let mut merge = UsageMerge::asked_since(from);
                for (instance, boot, now, limited) in records {
                    let place = merge.head(&head(instance, boot, 100, 0, *now));
                    let refused = [("rate_limited".into(), *limited), ("wrong_secret".into(), 50)];
                    let refused = refused.into();
                    merge.line(place, id, &UsageLine { refused, ..line("key_a", 0, 0, 0) });
                }
                merge.refused_since(id)
            };
            let refused = merge(&mut records.iter());
            assert_eq!(merge(&mut records.iter().rev().chain(records)), refused, "in any order");
            refused
        };
        let restarted = [("a", "1", 110, 3), ("a", "2", 220, 3)];
        let refused = [50, 110, 111, 220, 221].map(|from| refused_since(&restarted, from));
        assert_eq!(refused, [6, 6, 3, 3, 0]);
        // One process that continues: its earlier refusals are outside the requested time.
        let goes_on = [("a", "1", 110, 3), ("a", "1", 150, 3), ("a", "1", 220, 5)];
        let refused = [110, 111, 151, 220, 221].map(|from| refused_since(&goes_on, from));
        assert_eq!(refused, [5, 2, 2, 2, 0]);
        // Two in parallel: one refused the key long ago and the other does now.
        let two =
            [("a", "1", 110, 40), ("a", "1", 220, 40), ("b", "1", 110, 1), ("b", "1", 220, 2)];
        assert_eq!([110, 111].map(|from| refused_since(&two, from)), [42, 1]);
        // A process that has forgotten a key counts from zero again, below what it had reported.
        let forgot = [("a", "1", 110, 40), ("a", "1", 220, 2)];
        assert_eq!(refused_since(&forgot, 111), 2);
    }

    #[test]
    fn parts_of_a_record_cover_its_time_once_the_last_is_there() {
        let day = 1440;
        let part = |since, now, part| UsageHead { part, ..head("a", "1", 0, since, now) };
        let (first, second) = (part(0, 5 * day, RecordPart::Last), 10 * day);
        let more = part(5 * day, second, RecordPart::More);
        let last = part(5 * day, second, RecordPart::Last);
        let span = |heads: &[&UsageHead]| {
            let mut merge = UsageMerge::default();
            heads.iter().for_each(|head| {
                merge.head(head);
            });
            let spans = merge.spans();
            (spans[0].from, spans[0].to)
        };
        assert_eq!(span(&[&first, &more]), (0, 5 * day));
        assert_eq!(span(&[&more]), (second, second), "it counted then, and no more is known");
        assert_eq!(span(&[&first, &more, &more, &last]), (0, second));
        assert_eq!(span(&[&last, &more, &first]), (0, second));
        // A line that is torn off in a part that covers nothing takes nothing from the others.
        let mut merge = UsageMerge::default();
        merge.head(&first);
        let place = merge.head(&more);
        merge.cut(place);
        assert_eq!(merge.spans()[0].to, 5 * day);
    }

    #[test]
    fn a_record_that_is_too_young_is_named() {
        let young = |heads: &[UsageHead], from: u32, to: u32| {
            let mut merge = UsageMerge::default();
            for head in heads {
                merge.head(head);
            }
            let (added, gone) = (["new".into()], ["gone".into()]);
            let gaps = merge.gaps(from, to, KnownInstances { added: &added, gone: &gone });
            gaps.into_iter().map(|span| span.instance).collect::<Vec<_>>()
        };
        let day = 1440;
        // One process that ran long enough, and one that is too young.
        assert!(young(&[head("a", "1", 0, 0, 100 * day)], 10 * day, 100 * day).is_empty());
        assert_eq!(young(&[head("a", "1", 20 * day, 0, 100 * day)], 10 * day, 100 * day), ["a"]);
        // A restart, and a pod that took over under another name.
        let before = head("a", "1", 0, 0, 50 * day);
        assert!(
            young(&[head("a", "2", 50 * day, 0, 100 * day), before.clone()], day, 100 * day)
                .is_empty()
        );
        assert!(
            young(&[before.clone(), head("b", "2", 50 * day, 0, 100 * day)], day, 100 * day)
                .is_empty()
        );
        // One predecessor does not count as two.
        let two = [
            before.clone(),
            head("b", "2", 50 * day, 0, 100 * day),
            head("c", "3", 50 * day, 0, 100 * day),
        ];
        assert_eq!(young(&two, day, 100 * day), ["c"]);
        let added = [
            before.clone(),
            head("b", "2", 50 * day, 0, 100 * day),
            head("new", "3", 50 * day, 0, 100 * day),
        ];
        assert!(young(&added, day, 100 * day).is_empty());
        // A record that ended long ago says nothing about today.
        assert_eq!(young(std::slice::from_ref(&before), day, 100 * day), ["a"]);
        // Nor does one that ends while another continues, unless somebody states that it is gone.
        let other = head("b", "1", 0, 0, 100 * day);
        assert_eq!(young(&[before.clone(), other.clone()], day, 100 * day), ["a"]);
        assert!(young(&[before.clone(), other.clone()], 60 * day, 100 * day).is_empty());
        let gone = head("gone", "1", 0, 0, 50 * day);
        assert!(young(&[gone.clone(), other.clone()], day, 100 * day).is_empty());
        let back = head("gone", "2", 60 * day, 0, 90 * day);
        let both_ends = ["gone", "gone"];
        assert_eq!(young(&[gone, back, other.clone()], day, 100 * day), both_ends, "of a hole");
        // An added instance was added only once.
        let (first, again) =
            (head("new", "1", 20 * day, 0, 50 * day), head("new", "2", 80 * day, 0, 100 * day));
        let holed = head("new", "1", 20 * day, 80 * day, 100 * day);
        assert_eq!(young(&[first, again, other.clone()], day, 100 * day), ["new", "new"]);
        assert_eq!(young(&[holed, other.clone()], day, 100 * day), ["new"]);
        // A process with a gap ran before, and is not a successor.
        let holed = head("c", "1", 10 * day, 50 * day, 100 * day);
        assert_eq!(young(&[before.clone(), holed, other], day, 100 * day), ["c", "a"]);
        // Pages with a gap in between: only what follows it is known.
        let pages =
            [head("a", "1", 0, 0, 10), head("a", "1", 0, 10, 20), head("a", "1", 0, 40, 50)];
        assert_eq!(young(&pages, 0, 50), ["a"]);
        assert!(young(&pages, 40, 50).is_empty());
        let whole = [pages[2].clone(), head("a", "1", 0, 0, 60)];
        assert!(young(&whole, 0, 60).is_empty());
    }
}
