//! Amounts of memory as Kubernetes writes them (`k8s.io/apimachinery/pkg/api/resource`).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A whole number of bytes. It is written the way it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quantity {
    bytes: u64,
    text: Box<str>,
}

/// The text is not an amount of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no amount of memory; for example 256Mi or 1Gi")]
pub struct QuantityError;

const UNITS: [(&str, u64); 11] = [
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("Pi", 1 << 50),
    ("k", 1000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("P", 1_000_000_000_000_000),
    ("", 1),
];

// === impl Quantity ===

impl Quantity {
    pub fn mebibytes(count: u64) -> Self {
        Self { bytes: count.saturating_mul(1 << 20), text: format!("{count}Mi").into() }
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// At least this many bytes, in whole mebibytes.
    pub(super) fn at_least(bytes: u64) -> Self {
        Self::mebibytes(bytes.div_ceil(1 << 20))
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let (number, unit) = UNITS
            .iter()
            .find_map(|(word, bytes)| Some((text.strip_suffix(word)?, *bytes)))
            .ok_or(QuantityError)?;
        let (whole, part) = number.split_once('.').unwrap_or((number, ""));
        let digits = |text: &str| text.len() <= 15 && text.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || !digits(whole) || !digits(part) || number.ends_with('.') {
            return Err(QuantityError);
        }
        let scale = 10u128.pow(part.len() as u32);
        let digits: u128 = format!("{whole}{part}").parse().map_err(|_| QuantityError)?;
        let bytes = (digits * u128::from(unit)).div_ceil(scale);
        let bytes = u64::try_from(bytes).map_err(|_| QuantityError)?;
        if bytes == 0 || bytes > 1 << 60 {
            return Err(QuantityError);
        }
        Ok(Self { bytes, text: text.into() })
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// An amount of CPU time: `50m`, `0.5`, `2`.
pub fn is_cpu(text: &str) -> bool {
    let number = text.strip_suffix('m').unwrap_or(text);
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    let digits =
        |text: &str| (1..=6).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    let is_fraction = number.contains('.');
    digits(whole)
        && digits(part)
        && !(is_fraction && text.ends_with('m'))
        && number.bytes().any(|b| (b'1'..=b'9').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory() {
        for (text, want) in [
            ("1", Some(1)),
            ("64Mi", Some(64 << 20)),
            ("1.5Gi", Some(3 << 29)),
            ("1k", Some(1000)),
            ("0.0001Ki", Some(1)),
            ("0", None),
            ("", None),
            ("Mi", None),
            ("1.Mi", None),
            (".5Mi", None),
            ("-1Mi", None),
            ("1e3", None),
            ("64MB", None),
            ("64mi", None),
            ("99999999999Pi", None),
            ("1\u{660}", None),
        ] {
            assert_eq!(text.parse::<Quantity>().ok().map(|q| q.bytes()), want, "{text}");
        }
        assert_eq!("1.5Gi".parse::<Quantity>().unwrap().to_string(), "1.5Gi");
        assert_eq!(Quantity::at_least((1 << 20) + 1).to_string(), "2Mi");
    }

    #[test]
    fn cpu() {
        for text in ["50m", "1", "0.5", "1500m"] {
            assert!(is_cpu(text), "{text}");
        }
        for text in ["", "0", "0m", "m", "1.5m", "1,5", "-1", "1 ", "0.", "a"] {
            assert!(!is_cpu(text), "{text}");
        }
    }
}
