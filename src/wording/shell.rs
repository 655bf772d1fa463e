//! Words in the form that a shell needs. A hint is meant to be typed, and contains foreign names
//! and paths: `$(…)` in the name of a client must not run. Imports only its neighbour.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::path::Path;

use super::visible::is_deceptive;

/// `text` as one word of `sh`, `bash` and `zsh`. What a terminal would not show literally becomes
/// an escape of `$'…'`, which `bash` and `zsh` read.
pub fn quoted(text: &str) -> Cow<'_, str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@%".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return Cow::Borrowed(text);
    }
    if !text.contains(is_deceptive) {
        return Cow::Owned(format!("'{}'", text.replace('\'', "'\\''")));
    }
    let mut word = String::with_capacity(text.len() + 16);
    word.push_str("$'");
    for c in text.chars() {
        match c {
            '\'' | '\\' => word.extend(['\\', c]),
            // Writing to a `String` cannot fail.
            c if is_deceptive(c) => {
                let _ = write!(word, "\\U{:08x}", u32::from(c));
            }
            c => word.push(c),
        }
    }
    word.push('\'');
    Cow::Owned(word)
}

/// A path as one word. A path that begins with `-` must not be read as an option.
pub fn quoted_path(path: &Path) -> String {
    let text = path.to_string_lossy();
    if text.starts_with('-') {
        quoted(&format!("./{text}")).into_owned()
    } else {
        quoted(&text).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_is_one_word_and_runs_nothing() {
        for (text, want) in [
            ("dir/keys.toml", "dir/keys.toml"),
            ("", "''"),
            ("Jane Doe", "'Jane Doe'"),
            ("$(touch x); y", "'$(touch x); y'"),
            ("`id`", "'`id`'"),
            ("it's", "'it'\\''s'"),
            ("route/routes[0]", "'route/routes[0]'"),
            ("~root", "'~root'"),
            ("K\u{e4}se", "'K\u{e4}se'"),
            ("a\nb", "$'a\\U0000000ab'"),
            ("e\u{202e}'\\", "$'e\\U0000202e\\'\\\\'"),
        ] {
            assert_eq!(quoted(text), want, "{text:?}");
        }
        assert_eq!(quoted_path(Path::new("-r x")), "'./-r x'");
    }
}
