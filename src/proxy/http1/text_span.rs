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
    pub(super) fn range(self) -> Range<usize> {
        let begin = self.begin as usize;
        begin..begin + self.length as usize
    }

    /// Empty if `text` is not the one that the place is in.
    pub(super) fn of(self, text: &[u8]) -> &[u8] {
        text.get(self.range()).unwrap_or_default()
    }
}
