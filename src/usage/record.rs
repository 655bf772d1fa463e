//! Lines of a usage record, as JSON: a head, then a line per key. Imports core only.
//!
//! All times are whole minutes since 1970 (UTC). All counts are since `boot`, so that the larger of
//! two is the later one: order and repeats of lines do not matter.

use std::borrow::Cow;
use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::core::KeyId;

/// The version of the record's format, in `usage` of its head.
pub const VERSION: u32 = 1;

/// Whose record it is, and what it covers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageHead {
    /// [`VERSION`].
    pub usage: u32,
    /// `usage.instance`, or the host's name.
    pub instance: String,
    /// Random, chosen at each start: counts begin at 0 with it.
    pub boot: String,
    /// The audience of the table.
    pub audience: String,
    /// When this process began to count.
    pub started: u32,
    /// When the record was made.
    pub now: u32,
    /// The record has the keys that were used or refused in or since this minute. 0: all keys.
    #[serde(default)]
    pub since: u32,
    /// More of the record follows after another head, the last of which says that it is complete.
    /// So a key that is in no part so far may be in a part that never arrived.
    #[serde(default, skip_serializing_if = "RecordPart::is_last")]
    pub part: RecordPart,
    /// The serial of the table or patch in force, whichever is higher.
    pub serial: Option<u64>,
    /// Keys no longer in the table whose uses were forgotten for lack of space.
    pub dropped: u64,
    /// How many times the refusals and networks of a key were forgotten, or not recorded, for lack
    /// of space. Does not affect uses.
    #[serde(default)]
    pub dropped_traces: u64,
}

/// Which part of its record follows a head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecordPart {
    /// With the parts before it, the record is complete.
    #[default]
    Last,
    More,
}

/// One key. A key may have several lines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageLine<'l> {
    #[serde(borrow)]
    pub key: Cow<'l, str>,
    /// The minute of the last admitted request. 0: none was admitted.
    pub last: u32,
    /// Requests that were admitted.
    pub admitted: u64,
    /// Requests that were refused although they named the key, by reason. This is a lower bound.
    #[serde(default, borrow, skip_serializing_if = "BTreeMap::is_empty")]
    pub refused: BTreeMap<Cow<'l, str>, u64>,
    /// Networks that the key was used from (/24, /48): at most four, the latest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nets: Vec<IpNet>,
}

/// One line of either kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UsageRecord<'l> {
    Head(UsageHead),
    Key(KeyId, UsageLine<'l>),
}

/// A line that does not belong to a usage record. Shows nothing of its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UsageRecordError {
    #[error("is not a line of a usage record")]
    Syntax,
    #[error("is a usage record of form {0}, and this program knows form {VERSION}")]
    Version(u32),
}

// === impl UsageRecord ===

impl<'l> UsageRecord<'l> {
    /// One line, without its end.
    pub fn parse(line: &'l [u8]) -> Result<Self, UsageRecordError> {
        if let Ok(line) = serde_json::from_slice::<UsageLine<'l>>(line) {
            let id = KeyId::parse(&line.key).map_err(|_| UsageRecordError::Syntax)?;
            return Ok(Self::Key(id, line));
        }
        #[derive(Deserialize)]
        struct Form {
            usage: u32,
        }
        match serde_json::from_slice::<Form>(line) {
            Ok(Form { usage: VERSION }) => {}
            Ok(Form { usage }) => return Err(UsageRecordError::Version(usage)),
            Err(_) => return Err(UsageRecordError::Syntax),
        }
        serde_json::from_slice(line).map(Self::Head).map_err(|_| UsageRecordError::Syntax)
    }
}

// === impl RecordPart ===

impl RecordPart {
    pub fn is_last(&self) -> bool {
        *self == Self::Last
    }
}

// === impl UsageHead ===

impl UsageHead {
    /// The first minute from which the record is complete.
    pub fn from(&self) -> u32 {
        self.since.max(self.started)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_read_as_they_were_written() {
        let head = UsageHead {
            usage: VERSION,
            instance: "orders-7f".into(),
            boot: "1f".into(),
            audience: "orders-api".into(),
            started: 29_900_000,
            now: 29_900_100,
            since: 0,
            part: RecordPart::Last,
            serial: Some(7),
            dropped: 0,
            dropped_traces: 0,
        };
        let text = serde_json::to_string(&head).unwrap();
        assert!(!text.contains("part"), "{text}");
        assert_eq!(UsageRecord::parse(text.as_bytes()), Ok(UsageRecord::Head(head.clone())));
        let more = UsageHead { part: RecordPart::More, ..head };
        let text = serde_json::to_string(&more).unwrap();
        assert!(text.contains(r#","part":"more","#), "{text}");
        assert_eq!(UsageRecord::parse(text.as_bytes()), Ok(UsageRecord::Head(more)));
        let line = UsageLine {
            key: "key_a".into(),
            last: 29_900_090,
            admitted: 12,
            refused: [("rate_limited".into(), 3)].into(),
            nets: vec!["203.0.113.0/24".parse().unwrap(), "2001:db8::/48".parse().unwrap()],
        };
        let text = serde_json::to_string(&line).unwrap();
        let id = KeyId::parse("key_a").unwrap();
        assert_eq!(UsageRecord::parse(text.as_bytes()), Ok(UsageRecord::Key(id, line)));
        // Additions of later versions are skipped, and may be missing.
        let older = br#"{"usage":1,"instance":"a","boot":"1","audience":"o","started":1,"now":2,"serial":1,"dropped":0}"#;
        assert!(matches!(UsageRecord::parse(older), Ok(UsageRecord::Head(_))));
        let more = br#"{"key":"key_a","last":1,"admitted":2,"bytes":5}"#;
        assert!(matches!(UsageRecord::parse(more), Ok(UsageRecord::Key(..))));
    }

    #[test]
    fn other_lines_are_refused() {
        for (line, want) in [
            ("", UsageRecordError::Syntax),
            ("[]", UsageRecordError::Syntax),
            ("{\"key\":\"key_a\"", UsageRecordError::Syntax),
            (r#"{"key":"a b","last":1,"admitted":2}"#, UsageRecordError::Syntax),
            (r#"{"key":"key_a","last":1,"admitted":-2}"#, UsageRecordError::Syntax),
            (r#"{"usage":1}"#, UsageRecordError::Syntax),
            (r#"{"usage":2,"instance":"a"}"#, UsageRecordError::Version(2)),
        ] {
            assert_eq!(UsageRecord::parse(line.as_bytes()), Err(want), "{line}");
        }
    }
}
