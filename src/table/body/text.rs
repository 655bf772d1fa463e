//! Texts and owners of format 2: what a record's text holds, and the owner that it refers to.
//! Imports core and the layout.

use super::super::layout::Section;
use super::TableBody;
use crate::core::{KeyKind, OwnerView};

/// A text of format 2, in parts.
#[derive(Clone, Copy, Debug)]
pub(super) struct TextParts<'t> {
    pub name: &'t str,
    /// Present exactly if the key is a pair.
    pub public_id: Option<&'t str>,
    /// Offset into the owners.
    pub owner: Option<u32>,
    /// Where the next text begins.
    pub end: usize,
}

impl TableBody {
    /// The text at `offset` of a key of this kind. `None`: it does not end, or its owner is not a
    /// number.
    pub(super) fn text_v2(&self, offset: u32, kind: KeyKind) -> Option<TextParts<'_>> {
        let texts = self.bytes(Section::Texts);
        let mut end = offset as usize;
        let mut next = || {
            let rest = texts.get(end..)?;
            let length = memchr::memchr(0, rest)?;
            end += length + 1;
            std::str::from_utf8(rest.get(..length)?).ok()
        };
        let name = next()?;
        let public_id = match kind {
            KeyKind::Pair => Some(next()?),
            KeyKind::Single => None,
        };
        let owner = match next()? {
            "" => None,
            digits => Some(number(digits)?),
        };
        Some(TextParts { name, public_id, owner, end })
    }

    /// The owner that begins at `offset`; checked on opening.
    pub(super) fn owner_at(&self, offset: u32) -> Option<OwnerView<'_>> {
        let owners = std::str::from_utf8(self.bytes(Section::Owners).get(offset as usize..)?);
        let mut texts = owners.ok()?.split('\0');
        let [subject, email, role] = [texts.next()?, texts.next()?, texts.next()?];
        Some(OwnerView { subject, email, role })
    }
}

/// Decimal, in canonical spelling. Allocates nothing: a table has one for each owned key.
fn number(digits: &str) -> Option<u32> {
    // The standard parser also accepts a sign and leading zeros.
    match digits.as_bytes() {
        [b'0'] | [b'1'..=b'9', ..] => digits.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_one_spelling() {
        for (digits, value) in [
            ("0", Some(0)),
            ("10", Some(10)),
            ("4294967295", Some(u32::MAX)),
            ("4294967296", None),
            ("", None),
            ("00", None),
            ("010", None),
            ("+1", None),
            ("-1", None),
            (" 1", None),
            ("1 ", None),
            ("1a", None),
        ] {
            assert_eq!(number(digits), value, "{digits:?}");
        }
    }
}
