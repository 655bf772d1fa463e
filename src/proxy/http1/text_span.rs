//! A place in the bytes of a head, which stays right when the bytes move.

use std::ops::Range;

/// Where some text begins, and how many bytes it has.
#[derive(Clone, Copy, Debug)]
pub(super) struct TextSpan {
    pub(super) begin: u32,
    pub(super) length: u32,
}

// === impl TextSpan ===

impl TextSpan {
    /// Where `part` lies in `text`. `None`: it is not a part of it.
    pub(super) fn within(text: &[u8], part: &[u8]) -> Option<Self> {
        let begin = part.as_ptr().addr().checked_sub(text.as_ptr().addr())?;
        let is_inside = begin.checked_add(part.len()).is_some_and(|end| end <= text.len());
        let span = Self { begin: begin.try_into().ok()?, length: part.len().try_into().ok()? };
        is_inside.then_some(span)
    }

    pub(super) fn range(self) -> Range<usize> {
        let begin = self.begin as usize;
        begin..begin + self.length as usize
    }

    /// Empty if `text` is not the one that the place is in.
    pub(super) fn of(self, text: &[u8]) -> &[u8] {
        text.get(self.range()).unwrap_or_default()
    }
}
