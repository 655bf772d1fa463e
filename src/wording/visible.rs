//! Characters that make a reader see something other than what is there: they change the direction
//! of the text around them, end a line, or are invisible (Trojan Source, CVE-2021-42574). They are
//! removed from foreign text before it is written to logs and terminals. Imports nothing of this
//! crate.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write};

/// Whether to escape a character wherever foreign text is shown: controls, direction marks, other
/// invisible format characters, and separators of lines and paragraphs.
pub fn is_deceptive(c: char) -> bool {
    c.is_control()
        || matches!(
            u32::from(c),
            // Soft hyphen, Arabic letter mark, Mongolian vowel separator.
            0xad | 0x61c | 0x180e
            // Zero-width characters and marks of direction; separators, embeddings, overrides.
            | 0x200b..=0x200f | 0x2028..=0x202e
            // Word joiner, invisible operators, isolates and the deprecated characters next to
            // them.
            | 0x2060..=0x206f
            // Byte order mark, annotations.
            | 0xfeff | 0xfff9..=0xfffb
            // Controls of hieroglyphs, shorthand and music; tags.
            | 0x13430..=0x1343f | 0x1bca0..=0x1bca3 | 0x1d173..=0x1d17a | 0xe0000..=0xe007f
        )
}

/// Whether a reader sees anything of a text: a name without that cannot be found or clicked.
pub fn has_visible(text: &str) -> bool {
    let is_blank = |c: char| {
        c.is_whitespace()
            || is_deceptive(c)
            || matches!(
                u32::from(c),
                // Combining grapheme joiner, fillers of Hangul and Khmer, the empty Braille pattern.
                0x34f | 0x115f | 0x1160 | 0x17b4 | 0x17b5 | 0x2800 | 0x3164 | 0xffa0
                // Variation selectors.
                | 0x180b..=0x180f | 0xfe00..=0xfe0f | 0xe0100..=0xe01ef
            )
    };
    !text.chars().all(is_blank)
}

/// The character as JSON escapes it: `\u202e`, or a pair of surrogates.
pub fn escape(c: char, out: &mut String) {
    for unit in c.encode_utf16(&mut [0; 2]) {
        // Writing to a `String` cannot fail.
        let _ = write!(out, "\\u{unit:04x}");
    }
}

/// Foreign text for a terminal. Tabs and line ends stay, because our own text has them.
pub fn visible(text: &str) -> Cow<'_, str> {
    let goes = |c: char| is_deceptive(c) && !matches!(c, '\n' | '\t');
    if !text.contains(goes) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if goes(c) { escape(c, &mut out) } else { out.push(c) }
    }
    Cow::Owned(out)
}

/// Foreign text for a place within a line: line ends and tabs are escaped as well, so that it
/// cannot look like another of our lines.
pub fn one_line(text: &str) -> Cow<'_, str> {
    if !text.contains(is_deceptive) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_deceptive(c) { escape(c, &mut out) } else { out.push(c) }
    }
    Cow::Owned(out)
}

/// Writes text with deceptive characters escaped. Each `write` must have whole characters, as those
/// of formatters and JSON writers do. Bytes that are not text pass unchanged.
#[derive(Clone, Debug)]
pub struct Visible<W>(pub W);

impl<W: Write> Write for Visible<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match std::str::from_utf8(bytes).map(visible) {
            Ok(Cow::Owned(text)) => self.0.write_all(text.as_bytes())?,
            Ok(Cow::Borrowed(_)) | Err(_) => self.0.write_all(bytes)?,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_deceives_is_escaped_and_nothing_else() {
        for (text, want) in [
            ("caf\u{e9} \u{65e5}\u{672c} \u{5d0}\u{628} \u{1f511}", None),
            ("a\tb\n", None),
            ("a\u{202e}b", Some("a\\u202eb")),
            ("\u{2066}a\u{2069}", Some("\\u2066a\\u2069")),
            ("\u{200b}\u{feff}\u{ad}", Some("\\u200b\\ufeff\\u00ad")),
            ("\u{2028}\u{2029}\u{85}", Some("\\u2028\\u2029\\u0085")),
            ("\u{1b}[31m\r", Some("\\u001b[31m\\u000d")),
            ("\u{e0041}", Some("\\udb40\\udc41")),
        ] {
            assert_eq!(visible(text), want.unwrap_or(text), "{text:?}");
            let mut out = Vec::new();
            Visible(&mut out).write_all(text.as_bytes()).unwrap();
            assert_eq!(out, want.unwrap_or(text).as_bytes());
        }
        for c in ('\u{202a}'..='\u{202e}').chain('\u{2066}'..='\u{2069}') {
            assert!(is_deceptive(c), "{c:?}");
        }
    }

    #[test]
    fn text_within_a_line_starts_no_other() {
        assert_eq!(one_line("a\nerror: b\t\u{202e}"), "a\\u000aerror: b\\u0009\\u202e");
        assert_eq!(one_line("caf\u{e9}"), "caf\u{e9}");
    }

    #[test]
    fn json_stays_json() {
        let value = serde_json::json!({ "name\u{202e}": ["\u{2066}\u{e0041}\"\u{1b}", 1] });
        let mut out = Vec::new();
        serde_json::to_writer_pretty(Visible(&mut out), &value).unwrap();
        assert!(!String::from_utf8(out.clone()).unwrap().contains(is_deceptive_but_line_end));
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&out).unwrap(), value);
    }

    fn is_deceptive_but_line_end(c: char) -> bool {
        is_deceptive(c) && c != '\n'
    }
}
