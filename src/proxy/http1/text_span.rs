//! A place in the bytes of a head that stays valid when the bytes move.

use std::ops::Range;

/// Where some text begins, and its length in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct TextSpan {
    pub(super) begin: u32,
    pub(super) length: u32,
}

/// Lines of a head that follow one another.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LineRun {
    begin: usize,
    end: usize,
}

// === impl TextSpan ===

impl TextSpan {
    /// Where `part` is in `text`. `None`: it is not a part of `text`.
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

    /// Empty if `text` is not the text that the place refers to.
    pub(super) fn of(self, text: &[u8]) -> &[u8] {
        text.get(self.range()).unwrap_or_default()
    }
}

// === impl LineRun ===

impl LineRun {
    /// The line of a field, if `text` has it as keygate would write it. `None`: there is more than
    /// `: ` between name and value, or more than the end of the line after them.
    pub(super) fn tidy(text: &[u8], name: TextSpan, value: TextSpan) -> Option<Self> {
        let line = Self::of(name, value);
        let is_tidy = text.get(name.range().end..value.range().start) == Some(b": ")
            && text.get(value.range().end..line.end) == Some(b"\r\n");
        is_tidy.then_some(line)
    }

    /// The line of a tidy field.
    pub(super) fn of(name: TextSpan, value: TextSpan) -> Self {
        Self { begin: name.range().start, end: value.range().end + 2 }
    }

    /// Appends the line that follows the last one. False: `line` does not follow it.
    pub(crate) fn goes_on(&mut self, line: Self) -> bool {
        let follows = self.end == line.begin;
        if follows {
            self.end = line.end;
        }
        follows
    }

    pub(super) fn of_text(self, text: &[u8]) -> &[u8] {
        text.get(self.begin..self.end).unwrap_or_default()
    }
}
