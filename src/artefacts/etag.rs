//! Entity tags that identify an artefact. Pure.

use http::HeaderMap;
use http::header;

use crate::core::Digest;

/// Digits of the hash in a tag: 128 bits.
const DIGITS: usize = 32;

/// Most tags of a request that count: a caller has one file in force, and each tag is kept for as long
/// as the request waits.
const MOST: usize = 8;

/// The identity of an artefact: `"SERIAL-HASH"`, strong (RFC 9110 section 8.8.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArtefactTag {
    pub serial: u64,
    /// The first 32 hexadecimal digits of the file's SHA-256.
    pub hash: Box<str>,
}

// === impl ArtefactTag ===

impl ArtefactTag {
    /// The tag of a file with this SHA-256.
    pub fn of(serial: u64, sha256: &Digest) -> Self {
        let mut hash: String = sha256.0.iter().map(|byte| format!("{byte:02x}")).collect();
        hash.truncate(DIGITS);
        Self { serial, hash: hash.into() }
    }

    /// Reads what is between the quotes of an `ETag`. `None`: it has another form.
    pub fn parse(opaque: &str) -> Option<Self> {
        KnownTag::parse(opaque).map(KnownTag::to_tag)
    }

    /// The value of `ETag`.
    pub fn to_field(&self) -> String {
        format!("\"{}-{}\"", self.serial, self.hash)
    }
}

/// What `If-None-Match` says.
#[derive(Debug, Default)]
pub(super) struct KnownTags {
    /// `*`
    any: bool,
    tags: Box<[KnownTag]>,
}

/// An [`ArtefactTag`], small enough to keep while a request waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct KnownTag {
    serial: u64,
    hash: [u8; DIGITS / 2],
}

// === impl KnownTag ===

impl KnownTag {
    /// Without its quotes. `None`: another server made it.
    fn parse(opaque: &str) -> Option<Self> {
        let (serial, digits) = opaque.split_once('-')?;
        let is_serial = serial.bytes().all(|b| b.is_ascii_digit());
        is_serial.then_some(())?;
        Some(Self { serial: serial.parse().ok()?, hash: hash_of(digits)? })
    }

    fn to_tag(self) -> ArtefactTag {
        let hash = format!("{:032x}", u128::from_be_bytes(self.hash));
        ArtefactTag { serial: self.serial, hash: hash.into() }
    }

    fn is(&self, tag: &ArtefactTag) -> bool {
        self.serial == tag.serial && hash_of(&tag.hash) == Some(self.hash)
    }
}

/// The hash that its digits encode.
fn hash_of(digits: &str) -> Option<[u8; DIGITS / 2]> {
    let is_hash = digits.len() == DIGITS
        && digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    is_hash.then_some(())?;
    u128::from_str_radix(digits, 16).ok().map(u128::to_be_bytes)
}

// === impl KnownTags ===

impl KnownTags {
    /// Compared weakly, as RFC 9110 section 13.1.2 requires: `W/` is ignored.
    pub(super) fn of(fields: &HeaderMap) -> Self {
        let (mut any, mut tags) = (false, Vec::new());
        for value in fields.get_all(header::IF_NONE_MATCH) {
            let Ok(text) = value.to_str() else { continue };
            any |= text.trim() == "*";
            // Our tags contain neither a comma nor a quote.
            let opaque = text.split(',').filter_map(|one| {
                let one = one.trim();
                let one = one.strip_prefix("W/").unwrap_or(one);
                one.strip_prefix('"')?.strip_suffix('"')
            });
            let room = MOST.saturating_sub(tags.len());
            tags.extend(opaque.filter_map(KnownTag::parse).take(room));
        }
        Self { any, tags: tags.into() }
    }

    /// Whether the caller already has this one.
    pub(super) fn has(&self, tag: &ArtefactTag) -> bool {
        self.any || self.tags.iter().any(|known| known.is(tag))
    }

    /// Whether the caller says that it has something newer.
    pub(super) fn is_beyond(&self, tag: &ArtefactTag) -> bool {
        self.tags.iter().any(|known| known.serial > tag.serial)
    }

    /// The newest that the caller says it has.
    pub(super) fn newest(&self) -> Option<ArtefactTag> {
        self.tags.iter().max_by_key(|tag| tag.serial).map(|newest| newest.to_tag())
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
        // However many there are, a waiting request keeps only a few.
        let many = vec![&*both; 400].join(", ");
        assert_eq!(known(&[&many, &many]).tags.len(), MOST);
        assert!(size_of::<KnownTag>() <= 24);
    }
}
