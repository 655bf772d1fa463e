//! Instants and durations as people write them. Reads no clock.

use std::time::{Duration, UNIX_EPOCH};

/// The last second that a table's record can hold (2106-02-07T06:28:15Z).
const LAST: u64 = u32::MAX as u64;

/// Longest accepted duration: a hundred years. Every clock can count that far ahead.
const LONGEST: Duration = Duration::from_secs(36_525 * 24 * 3600);

/// A point in time as an option gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    At(u64),
    In(Duration),
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimeError {
    #[error("must look like `90d`, `12h` or `1h30m`")]
    Duration,
    #[error("must be at most `36525d`")]
    Long,
    #[error("must look like `2027-01-31T00:00:00Z` (RFC 3339, with a zone)")]
    Instant,
    #[error("must be between 1970-01-01 and 2106-02-06")]
    Range,
    #[error(
        "must be a duration such as `90d`, a day such as `2027-01-31` (UTC), an instant such as \
         `2027-01-31T00:00:00Z`, or `never`"
    )]
    When,
}

// === impl When ===

impl When {
    /// An end: a day includes its last second, as on a ticket.
    pub fn parse(text: &str) -> Result<Self, TimeError> {
        Self::parse_with(text, end_of_day)
    }

    /// A beginning: a day counts from its first second.
    pub fn parse_begin(text: &str) -> Result<Self, TimeError> {
        Self::parse_with(text, day)
    }

    fn parse_with(text: &str, day: fn(&str) -> Option<u64>) -> Result<Self, TimeError> {
        if let Some(at) = day(text) {
            return if at <= LAST { Ok(Self::At(at)) } else { Err(TimeError::Range) };
        }
        // A valid day, but beyond what a record holds.
        if instant(&format!("{text}T00:00:00Z")) == Err(TimeError::Range) {
            return Err(TimeError::Range);
        }
        if text == "never" {
            return Ok(Self::Never);
        }
        // However long: [`Self::resolve`] refuses an end beyond what a record holds.
        if let Ok(duration) = humantime::parse_duration(text) {
            return Ok(Self::In(duration));
        }
        match instant(text) {
            Ok(at) => Ok(Self::At(at)),
            Err(TimeError::Range) => Err(TimeError::Range),
            Err(_) => Err(TimeError::When),
        }
    }

    /// Unix seconds; `None`: never.
    pub fn resolve(self, now: u64) -> Result<Option<u64>, TimeError> {
        let at = match self {
            Self::Never => return Ok(None),
            Self::At(at) => at,
            Self::In(after) => now.saturating_add(after.as_secs()),
        };
        if at <= LAST { Ok(Some(at)) } else { Err(TimeError::Range) }
    }
}

/// RFC 3339 with any zone, as Unix seconds; fractions of a second are cut off.
pub fn instant(text: &str) -> Result<u64, TimeError> {
    let (local, offset) = split_zone(text).ok_or(TimeError::Instant)?;
    let local = local.replace(['t', ' '], "T");
    let parsed = humantime::parse_rfc3339(&format!("{local}Z")).map_err(|_| TimeError::Instant)?;
    let seconds = parsed.duration_since(UNIX_EPOCH).map_err(|_| TimeError::Range)?.as_secs();
    let at = seconds.checked_add_signed(-offset).ok_or(TimeError::Range)?;
    if at <= LAST { Ok(at) } else { Err(TimeError::Range) }
}

/// The first second of a day in UTC, `2027-01-31`, as Unix seconds.
pub fn day(text: &str) -> Option<u64> {
    let is_day = text.len() == 10 && text.bytes().all(|b| b.is_ascii_digit() || b == b'-');
    if is_day { instant(&format!("{text}T00:00:00Z")).ok() } else { None }
}

/// The first second after a day in UTC: what ends then is valid all day.
pub fn end_of_day(text: &str) -> Option<u64> {
    day(text)?.checked_add(24 * 3600)
}

/// `2027-01-31T00:00:00Z`. Times after the year 9999 are shown as its last second: RFC 3339 has no
/// longer years, and a file may hold any number. [`instant`] refuses either.
pub fn show(seconds: u64) -> String {
    /// 9999-12-31T23:59:59Z.
    const END: u64 = 253_402_300_799;
    let after = Duration::from_secs(seconds.min(END));
    humantime::format_rfc3339_seconds(UNIX_EPOCH.checked_add(after).unwrap_or(UNIX_EPOCH))
        .to_string()
}

/// As people write it; a hundred years at most.
pub fn duration(text: &str) -> Result<Duration, TimeError> {
    match humantime::parse_duration(text).map_err(|_| TimeError::Duration)? {
        long if long > LONGEST => Err(TimeError::Long),
        duration => Ok(duration),
    }
}

/// The text before the zone, and the zone's offset from UTC in seconds.
fn split_zone(text: &str) -> Option<(&str, i64)> {
    if let Some(local) = text.strip_suffix(['Z', 'z']) {
        return Some((local, 0));
    }
    let (local, zone) = text.split_at_checked(text.len().checked_sub(6)?)?;
    let (sign, clock) = match zone.split_at_checked(1)? {
        ("+", clock) => (1, clock),
        ("-", clock) => (-1, clock),
        _ => return None,
    };
    let (hours, minutes) = clock.split_once(':')?;
    let two = |text: &str, max: i64| -> Option<i64> {
        let ok = text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
        text.parse().ok().filter(|n| ok && *n <= max)
    };
    Some((local, sign * (two(hours, 23)? * 3600 + two(minutes, 59)? * 60)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_can_be_counted_on_from_now() {
        assert_eq!(duration("36525d"), Ok(LONGEST));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        for long in ["36526d", "18446744073709551615s", "999999999w"] {
            assert_eq!(duration(long), Err(TimeError::Long), "{long}");
            let ends = When::parse(long).unwrap().resolve(LAST);
            assert_eq!(ends, Err(TimeError::Range), "{long}");
        }
        for bad in ["", "soon", "99999999999999999999s"] {
            assert_eq!(duration(bad), Err(TimeError::Duration), "{bad}");
        }
    }

    #[test]
    fn instants() {
        let cases = [
            ("zulu", "2026-11-21T03:00:00Z", Ok(1_795_230_000)),
            ("lower case", "2026-11-21t03:00:00z", Ok(1_795_230_000)),
            ("space", "2026-11-21 03:00:00Z", Ok(1_795_230_000)),
            ("east", "2026-11-21T05:00:00+02:00", Ok(1_795_230_000)),
            ("west", "2026-11-20T22:30:00-04:30", Ok(1_795_230_000)),
            ("fraction", "2026-11-21T03:00:00.999Z", Ok(1_795_230_000)),
            ("no zone", "2026-11-21T03:00:00", Err(TimeError::Instant)),
            ("a date", "2026-11-21", Err(TimeError::Instant)),
            ("wild zone", "2026-11-21T03:00:00+99:00", Err(TimeError::Instant)),
            ("signs in zone", "2026-11-21T03:00:00++1:00", Err(TimeError::Instant)),
            ("beyond a record", "2107-01-01T00:00:00Z", Err(TimeError::Range)),
            ("before all", "1970-01-01T00:00:00+01:00", Err(TimeError::Range)),
            ("not ascii", "2026-11-21T03:00:00é1:00", Err(TimeError::Instant)),
        ];
        for (name, text, want) in cases {
            assert_eq!(instant(text), want, "{name}");
        }
        assert_eq!(show(1_795_230_000), "2026-11-21T03:00:00Z");
    }

    #[test]
    fn a_day_ends_with_it_and_begins_with_it() {
        let day = 1_795_219_200;
        assert_eq!(show(day), "2026-11-21T00:00:00Z");
        assert_eq!(When::parse("2026-11-21"), Ok(When::At(day + 86_400)));
        assert_eq!(When::parse_begin("2026-11-21"), Ok(When::At(day)));
        for text in ["2026-11-31", "2026-13-01", "2026-1-2", "21.11.2026", "20261121", "1969-12-31"]
        {
            assert!(When::parse(text).is_err(), "{text}");
        }
        for text in ["2106-02-07", "2200-01-01", "9999-12-31"] {
            assert_eq!(When::parse(text), Err(TimeError::Range), "{text}: beyond a record");
        }
    }

    #[test]
    fn every_number_is_shown_as_a_time() {
        for (seconds, want) in [
            (0, "1970-01-01T00:00:00Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"),
            (1_600_000_000_000, "9999-12-31T23:59:59Z"),
            (u64::MAX, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(show(seconds), want, "{seconds}");
        }
        assert_eq!(instant(&show(u64::MAX)), Err(TimeError::Range));
    }

    #[test]
    fn when_is_resolved_against_now() {
        assert_eq!(When::parse("90d").unwrap().resolve(10), Ok(Some(90 * 86_400 + 10)));
        assert_eq!(When::parse("never").unwrap().resolve(10), Ok(None));
        assert_eq!(
            When::parse("2026-11-21T03:00:00Z").unwrap().resolve(0),
            Ok(Some(1_795_230_000))
        );
        assert_eq!(When::parse("500y").unwrap().resolve(0), Err(TimeError::Range));
        assert_eq!(When::parse("soon"), Err(TimeError::When));
    }
}
