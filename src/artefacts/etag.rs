//! Entity tags that say which artefact they are of. Pure.

use http::HeaderMap;
use http::header;

use crate::core::Digest;

/// Digits of the hash in a tag: 128 bits.
const DIGITS: usize = 32;

/// What an artefact is recognised by: `"SERIAL-HASH"`, strong (RFC 9110 section 8.8.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArtefactTag {
    pub serial: u64,
    /// The first 32 hexadecimal digits of the file's SHA-256.
    pub hash: Box<str>,
}

// === impl ArtefactTag ===

impl ArtefactTag {
    /// Of a file with this SHA-256.
    pub fn of(serial: u64, sha256: &Digest) -> Self {
        let mut hash: String = sha256.0.iter().map(|byte| format!("{byte:02x}")).collect();
        hash.truncate(DIGITS);
        Self { serial, hash: hash.into() }
    }

    /// The value of `ETag`.
    pub fn to_field(&self) -> String {
        format!("\"{}-{}\"", self.serial, self.hash)
    }

    /// Without its quotes. `None`: it is another server's.
    fn parse(opaque: &str) -> Option<Self> {
        let (serial, hash) = opaque.split_once('-')?;
        let is_hash = hash.len() == DIGITS
            && hash.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let is_serial = serial.bytes().all(|b| b.is_ascii_digit());
        (is_hash && is_serial).then_some(())?;
        Some(Self { serial: serial.parse().ok()?, hash: hash.into() })
    }
}

/// What `If-None-Match` says.
#[derive(Debug, Default)]
pub(super) struct KnownTags {
    /// `*`
    any: bool,
    tags: Vec<ArtefactTag>,
}

// === impl KnownTags ===

impl KnownTags {
    /// Compared weakly, as RFC 9110 section 13.1.2 has it: `W/` counts for nothing.
    pub(super) fn of(fields: &HeaderMap) -> Self {
        let mut known = Self::default();
        for value in fields.get_all(header::IF_NONE_MATCH) {
            let Ok(text) = value.to_str() else { continue };
            known.any |= text.trim() == "*";
            // Our tags hold neither comma nor quote.
            let opaque = text.split(',').filter_map(|one| {
                let one = one.trim();
                let one = one.strip_prefix("W/").unwrap_or(one);
                one.strip_prefix('"')?.strip_suffix('"')
            });
            known.tags.extend(opaque.filter_map(ArtefactTag::parse));
        }
        known
    }

    /// Whether the caller has this one already.
    pub(super) fn has(&self, tag: &ArtefactTag) -> bool {
        self.any || self.tags.contains(tag)
    }

    /// Whether the caller says that it has something newer.
    pub(super) fn is_beyond(&self, tag: &ArtefactTag) -> bool {
        self.tags.iter().any(|known| known.serial > tag.serial)
    }

    /// The newest that the caller says it has.
    pub(super) fn newest(self) -> Option<ArtefactTag> {
        self.tags.into_iter().max_by_key(|tag| tag.serial)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn tags_are_read_as_they_are_written() {
        let tag = ArtefactTag::of(7, &Digest::of(b"abc"));
        assert_eq!(tag.to_field(), "\"7-ba7816bf8f01cfea414140de5dae2223\"");
        let known = |values: &[&str]| {
            let mut fields = HeaderMap::new();
            for value in values {
                #[expect(
                    clippy::disallowed_methods,
                    reason = "a client may send the field more than once"
                )]
                fields.append(header::IF_NONE_MATCH, HeaderValue::from_str(value).unwrap());
            }
            KnownTags::of(&fields)
        };
        let own = tag.to_field();
        for values in [
            vec![own.clone()],
            vec![format!("W/{own}")],
            vec![format!("\"x\", \"\" ,{own} , \"9-1\"")],
            vec!["\"x\"".to_owned(), own.clone()],
            vec!["*".to_owned()],
        ] {
            let values: Vec<_> = values.iter().map(String::as_str).collect();
            assert!(known(&values).has(&tag), "{values:?}");
        }
        let other = ArtefactTag::of(8, &Digest::of(b"abc"));
        for value in ["", &own[1..], "\"7-\"", "\"-7\"", "\"+7-ba7816bf8f01cfea414140de5dae2223\""]
        {
            let known = known(&[value]);
            assert!(!known.has(&tag) && known.newest().is_none(), "{value}");
        }
        let both = format!("{}, {}", other.to_field(), own);
        assert!(!known(&[&own]).has(&other));
        assert!(known(&[&both]).is_beyond(&tag) && !known(&[&both]).is_beyond(&other));
        assert!(!known(&["*"]).is_beyond(&tag));
        assert_eq!(known(&[&both]).newest(), Some(other));
        assert_eq!(known(&["*"]).newest(), None, "says nothing of what it is");
    }
}
