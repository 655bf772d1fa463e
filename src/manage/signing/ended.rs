//! Keys that were ended by recently signed files. Whoever controls the service decides which signed
//! files a sidecar gets. It may pass on the file that ends a key and withhold the one that brings
//! it back. So a key that comes back counts as ended for a while. Pure. Imports table.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use crate::core::Digest;
use crate::table::ActiveSpan;

const DAY_MS: u64 = 86_400_000;

/// How long an end counts, in whole days after the day of the signature.
const DAYS: u64 = 7;

/// Keys whose ends are kept whole. Each takes about 150 bytes in memory, or 330 if every day of a
/// week says something else of all of them. Beyond this number, only the fact that a key ended is
/// kept.
const MOST: usize = 1 << 19;

/// Keys of which only the end is known, about 35 bytes in memory each.
const MOST_KNOWN: usize = 4 * MOST;

/// Lines of a day's journal that are about one key each. Beyond that only the number counts, and a
/// key counts again with each file.
const MOST_LINES: usize = 4 * MOST;

/// In seconds: an end further away matters neither while the signature counts nor a day later.
const AHEAD: u64 = (DAYS + 3) * 86_400;

/// What a file leaves of a key whose secret has this digest.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyEnd {
    pub digest: Digest,
    /// Empty: nothing.
    pub left: ActiveSpan,
}

/// The keys ended by an audience's files of the last days.
#[derive(Debug, Default)]
pub struct EndedKeys {
    keys: HashMap<Digest, Vec<DayEnd>>,
    /// The last day, by the first bytes of a digest.
    known: HashMap<[u8; 8], u64>,
    days: HashMap<u64, DayCount>,
}

/// Of one day's files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct DayCount {
    lines: usize,
    /// Ends of which nothing but their number is kept.
    more: u64,
}

/// What the files of one day leave of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
struct DayEnd {
    day: u64,
    left: ActiveSpan,
}

/// Lines for the journal of a day.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct JournalLines(pub String);

/// Days since 1970-01-01.
pub const fn day_of(now_ms: u64) -> u64 {
    now_ms / DAY_MS
}

/// What both allow; `None`: as much as `all`, as far ahead as anybody looks.
pub fn less_of(all: &ActiveSpan, other: &ActiveSpan, now_ms: u64) -> Option<ActiveSpan> {
    let now = now_ms / 1000;
    let seen = now..now.saturating_add(AHEAD);
    let both = meet(all, other);
    (meet(&both, &seen) != meet(all, &seen)).then_some(both)
}

/// The span in which both are active; `0..0` if never.
pub fn meet(a: &ActiveSpan, b: &ActiveSpan) -> ActiveSpan {
    let both = a.start.max(b.start)..a.end.min(b.end);
    if both.is_empty() { 0..0 } else { both }
}

// === impl KeyEnd ===

impl KeyEnd {
    fn read(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let digest = BASE64_URL_SAFE_NO_PAD.decode(words.next()?).ok()?;
        let digest = Digest(digest.try_into().ok()?);
        let left = words.next()?.parse().ok()?..words.next()?.parse().ok()?;
        words.next().is_none().then_some(Self { digest, left })
    }
}

impl std::fmt::Debug for KeyEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyEnd").field("left", &self.left).finish_non_exhaustive()
    }
}

// === impl EndedKeys ===

impl EndedKeys {
    /// Takes in the journal of a day. A line that breaks off belongs to a file that was never
    /// signed: the signer writes before it signs.
    pub fn read(&mut self, day: u64, journal: &str) {
        for line in journal.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
            match line.strip_prefix("more ").map(str::parse::<u64>) {
                Some(more) => self.count(day, more.unwrap_or_default()),
                None => match (KeyEnd::read(line), read_first(line)) {
                    (Some(end), _) => drop(self.take(day, &end)),
                    (None, Some(first)) => drop(self.know(day, first)),
                    (None, None) => {}
                },
            }
        }
    }

    /// Takes in what a file signed today ends. Returns what the day's journal lacks.
    pub fn note<'e>(
        &mut self,
        day: u64,
        ends: impl IntoIterator<Item = &'e KeyEnd>,
    ) -> JournalLines {
        let mut lines = String::new();
        let mut more = 0u64;
        for end in ends {
            match self.take(day, end) {
                TakenEnd::Known => {}
                TakenEnd::New => {
                    let digest = BASE64_URL_SAFE_NO_PAD.encode(end.digest.0);
                    let ActiveSpan { start, end: until } = end.left;
                    let _ = writeln!(lines, "{digest} {start} {until}");
                }
                TakenEnd::Short(first) => {
                    let _ = writeln!(lines, "{}", BASE64_URL_SAFE_NO_PAD.encode(first));
                }
                TakenEnd::TooMany => more += 1,
            }
        }
        if more > 0 {
            self.count(day, more);
            let _ = writeln!(lines, "more {more}");
        }
        JournalLines(lines)
    }

    /// Forgets what no longer counts.
    pub fn forget(&mut self, today: u64) {
        if self.days.keys().all(|day| is_kept(*day, today)) {
            return;
        }
        self.known.retain(|_, day| is_kept(*day, today));
        self.days.retain(|day, _| is_kept(*day, today));
        self.keys.retain(|_, ends| {
            ends.retain(|end| is_kept(end.day, today));
            !ends.is_empty()
        });
    }

    /// How many ends count in addition to those of [`Self::digests`].
    pub fn uncounted(&self, today: u64) -> u64 {
        let known = self.known.values().filter(|day| is_kept(**day, today)).count() as u64;
        let days = self.days.iter().filter(|(day, _)| is_kept(**day, today));
        days.map(|(_, count)| count.more).fold(known, u64::saturating_add)
    }

    pub fn has(&self, digest: &Digest) -> bool {
        self.keys.contains_key(digest)
    }

    pub fn digests(&self) -> impl Iterator<Item = &Digest> {
        self.keys.keys()
    }

    /// What they leave of an active span.
    pub fn left(&self, digest: &Digest, active: &ActiveSpan, today: u64) -> ActiveSpan {
        let ends = self.keys.get(digest).into_iter().flatten();
        let ends = ends.filter(|end| is_kept(end.day, today));
        ends.fold(active.clone(), |left, end| meet(&left, &end.left))
    }

    fn count(&mut self, day: u64, more: u64) {
        let count = self.days.entry(day).or_default();
        count.more = count.more.saturating_add(more);
    }

    fn take(&mut self, day: u64, end: &KeyEnd) -> TakenEnd {
        let count = self.days.entry(day).or_default();
        let has_lines = count.lines < MOST_LINES;
        let has_room = has_lines && self.keys.len() < MOST;
        let known = match self.keys.entry(end.digest) {
            Entry::Occupied(known) => known.into_mut(),
            // Usually there is one.
            Entry::Vacant(place) if has_room => place.insert(Vec::with_capacity(1)),
            Entry::Vacant(_) => {
                let first = end.digest.0.first_chunk().copied().unwrap_or_default();
                return self.know(day, first);
            }
        };
        match known.iter_mut().find(|known| known.day == day) {
            Some(known) if meet(&known.left, &end.left) == known.left => return TakenEnd::Known,
            _ if !has_lines => return TakenEnd::TooMany,
            Some(known) => known.left = meet(&known.left, &end.left),
            None => known.push(DayEnd { day, left: end.left.clone() }),
        }
        count.lines += 1;
        TakenEnd::New
    }

    /// Takes in an end for which there is no space. Made-up digests that begin alike gain an
    /// attacker nothing: each of them counts.
    fn know(&mut self, day: u64, first: [u8; 8]) -> TakenEnd {
        let count = self.days.entry(day).or_default();
        let has_room = count.lines < MOST_LINES && self.known.len() < MOST_KNOWN;
        match self.known.entry(first) {
            Entry::Occupied(last) if *last.get() >= day => return TakenEnd::Known,
            Entry::Occupied(mut last) if count.lines < MOST_LINES => drop(last.insert(day)),
            Entry::Vacant(place) if has_room => drop(place.insert(day)),
            Entry::Occupied(_) | Entry::Vacant(_) => return TakenEnd::TooMany,
        }
        count.lines += 1;
        TakenEnd::Short(first)
    }
}

fn read_first(line: &str) -> Option<[u8; 8]> {
    BASE64_URL_SAFE_NO_PAD.decode(line).ok()?.try_into().ok()
}

/// Whether what was signed on `day` counts today. A day in the future, left by a clock that was set
/// back, counts.
pub const fn is_kept(day: u64, today: u64) -> bool {
    day.saturating_add(DAYS) >= today
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TakenEnd {
    Known,
    New,
    /// Only the first bytes of the digest are kept.
    Short([u8; 8]),
    TooMany,
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_795_230_000_000;

    fn end(n: u32, left: ActiveSpan) -> KeyEnd {
        KeyEnd { digest: Digest::of(&n.to_be_bytes()), left }
    }

    #[test]
    fn less_is_what_matters_within_days() {
        let now = NOW / 1000;
        let (hour, for_ever) = (3600, 0..u64::MAX);
        assert_eq!(less_of(&for_ever, &(0..now + hour), NOW), Some(0..now + hour));
        assert_eq!(less_of(&for_ever, &(0..0), NOW), Some(0..0));
        assert_eq!(less_of(&for_ever, &(now + hour..u64::MAX), NOW), Some(now + hour..u64::MAX));
        let year = 8766 * hour;
        for (all, other) in [
            (for_ever.clone(), 0..now + year),
            (for_ever.clone(), now - hour..u64::MAX),
            (0..now + hour, for_ever),
            (0..now - hour, 0..0),
            (now + hour..now + 2 * hour, now..now + 2 * hour),
            (now + year..u64::MAX, 0..0),
        ] {
            assert_eq!(less_of(&all, &other, NOW), None, "{all:?} {other:?}");
        }
    }

    /// The strictest of a week counts, and the journal has what was noted.
    #[test]
    fn ends_of_days_are_met_and_forgotten() {
        let mut ended = EndedKeys::default();
        let mut journals: HashMap<u64, String> = HashMap::new();
        let mut note = |ended: &mut EndedKeys, day: u64, ends: &[KeyEnd]| {
            let JournalLines(lines) = ended.note(day, ends);
            journals.entry(day).or_default().push_str(&lines);
            (lines, journals.clone())
        };
        note(&mut ended, 100, &[end(1, 5..90), end(2, 0..0)]);
        let (lines, _) = note(&mut ended, 100, &[end(1, 0..95), end(2, 7..8)]);
        assert_eq!(lines, "", "nothing new");
        note(&mut ended, 101, &[end(1, 10..95)]);
        let (_, mut journals) = note(&mut ended, 101, &[end(1, 20..95), end(3, 0..0)]);
        // The power fails while a line is written.
        journals.get_mut(&101).unwrap().push_str(&"ab".repeat(20));
        let mut read = EndedKeys::default();
        journals.iter().for_each(|(day, journal)| read.read(*day, journal));
        for mut ended in [ended, read] {
            let left =
                |ended: &EndedKeys, n, today| ended.left(&end(n, 0..0).digest, &(0..200), today);
            assert_eq!(left(&ended, 1, 101), 20..90);
            let others = [2, 3, 4].map(|n| left(&ended, n, 101));
            assert_eq!(others, [0..0, 0..0, 0..200]);
            let week = 100 + DAYS;
            assert_eq!((left(&ended, 1, week), left(&ended, 1, week + 1)), (20..90, 20..95));
            // A clock that was ahead for a moment.
            assert_eq!(left(&ended, 1, week), 20..90);
            ended.forget(week + 1);
            assert_eq!((ended.digests().count(), left(&ended, 2, 101)), (2, 0..200));
        }
    }

    /// A key counts once, however many patches repeat it.
    #[test]
    fn more_than_are_kept_whole_are_counted() {
        let mut ended = EndedKeys::default();
        let many: Vec<_> = (0..MOST as u32 + 7).map(|n| end(n, 0..0)).collect();
        let JournalLines(mut lines) = ended.note(100, &many);
        for _ in 0..3 {
            lines.push_str(&ended.note(100, &many[MOST - 2..]).0);
        }
        let mut read = EndedKeys::default();
        read.read(100, &lines);
        for mut ended in [ended, read] {
            let week = 100 + DAYS;
            assert_eq!((ended.uncounted(week), ended.uncounted(week + 1)), (7, 0));
            ended.note(101, &many[MOST + 5..]);
            assert_eq!((ended.uncounted(week), ended.uncounted(week + 1)), (7, 2));
            ended.forget(week + 2);
            assert_eq!((ended.uncounted(week), ended.digests().count()), (0, 0));
        }
    }

    /// A second less with each patch: the journal stops growing at some point, and what is not in
    /// it still counts.
    #[test]
    fn a_journal_does_not_grow_without_end() {
        let mut ended = EndedKeys::default();
        let mut bytes = 0;
        for n in 0..MOST_LINES as u64 + 9 {
            bytes += ended.note(100, &[end(1, 0..1_800_000_000 - n)]).0.len();
        }
        assert_eq!(ended.uncounted(100), 9);
        assert!(bytes < 80 * MOST_LINES, "{bytes}");
    }
}
