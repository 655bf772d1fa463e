//! Values with a format of their own: `30s`, `64KiB`, `50%`, names of fields.

use std::time::Duration;

use http::HeaderName;

use super::fault::ConfigProblem;

const SIZES: [(&str, u64); 9] = [
    ("B", 1),
    ("kB", 1_000),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// Longest duration that is accepted: a hundred years. Every clock can represent now plus that.
const LONGEST: Duration = Duration::from_secs(36_525 * 24 * 3600);

/// `30s`, `250ms`, `1h 30m`, `90d`. A hundred years at most.
pub(crate) fn duration(text: &str) -> Result<Duration, ConfigProblem> {
    let duration = humantime::parse_duration(text).map_err(|_| {
        let bare = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let hint = if bare { format!("write \"{text}s\" for seconds") } else { examples() };
        ConfigProblem::new("is not a duration").hint(hint)
    })?;
    if duration > LONGEST {
        return Err(ConfigProblem::new("is longer than \"36525d\"").hint(examples()));
    }
    Ok(duration)
}

fn examples() -> String {
    "durations look like 250ms, 30s, 5m, 1h 30m or 90d".to_owned()
}

/// `512B`, `64KiB`, `10MB`. Whole numbers only.
pub(crate) fn size(text: &str) -> Result<u64, ConfigProblem> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let parsed = number.parse::<u64>().ok().and_then(|n| {
        let (_, factor) = SIZES.iter().find(|(name, _)| *name == unit.trim_start())?;
        n.checked_mul(*factor)
    });
    parsed.ok_or_else(|| {
        ConfigProblem::new("is not a size").hint("sizes look like 512B, 64KiB or 10MB")
    })
}

/// `50%` as 0.5.
pub(crate) fn share(text: &str) -> Result<f64, ConfigProblem> {
    let percent = text.strip_suffix('%').and_then(|n| n.trim_end().parse::<f64>().ok());
    match percent {
        Some(p) if (0.0..=100.0).contains(&p) => Ok(p / 100.0),
        _ => {
            Err(ConfigProblem::new("is not a share").hint("shares look like 50%, from 0% to 100%"))
        }
    }
}

pub(crate) fn field_name(text: &str) -> Result<HeaderName, ConfigProblem> {
    // Any spelling is accepted, and written in lower case.
    HeaderName::from_bytes(text.as_bytes()).map_err(|_| ConfigProblem::new("is not a header name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let cases = [
            ("64KiB", Some(65_536)),
            ("64 KiB", Some(65_536)),
            ("0B", Some(0)),
            ("2GiB", Some(1 << 31)),
            ("10MB", Some(10_000_000)),
            ("10", None),
            ("", None),
            ("KiB", None),
            ("1.5MiB", None),
            ("-1B", None),
            ("99999999999TiB", None),
        ];
        for (text, want) in cases {
            assert_eq!(size(text).ok(), want, "{text}");
        }
    }

    #[test]
    fn durations_and_shares() {
        assert_eq!(duration("1h 30m").ok(), Some(Duration::from_secs(5_400)));
        assert_eq!(duration("30").unwrap_err().hint.unwrap(), "write \"30s\" for seconds");
        assert!(duration("soon").is_err());
        assert_eq!(duration("36525d").ok(), Some(LONGEST));
        for long in ["36526d", "18446744073709551615s"] {
            assert!(duration(long).unwrap_err().message.contains("is longer than"), "{long}");
        }
        assert_eq!(share("50%").ok(), Some(0.5));
        assert!(share("101%").is_err() && share("0.5").is_err() && share("NaN%").is_err());
    }
}
