//! What of a command's arguments its messages may show again. An argument may be a secret that was
//! pasted in the wrong place, and it may hold characters that change what the terminal shows.
//! Imports only its neighbour.

use std::ffi::OsString;

use super::visible::{is_deceptive, one_line, visible};

/// The shortest text that counts as a secret: keys have at least 16 characters.
const SHORTEST: usize = 16;

/// Whether a text looks like a key, a token or a digest rather than like a name, a time or a path:
/// long, of the characters of keys alone, letters and digits mixed.
pub fn is_like_secret(text: &str) -> bool {
    let of_keys =
        |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'+' | b'=' | b'~');
    let count = |is: fn(&u8) -> bool| text.bytes().filter(is).count();
    let (digits, letters) = (count(u8::is_ascii_digit), count(u8::is_ascii_alphabetic));
    let (upper, lower) = (count(u8::is_ascii_uppercase), count(u8::is_ascii_lowercase));
    // Random letters change their case often, words do not.
    let is_mixed = digits >= 2 && letters >= 2 || upper >= 4 && lower >= 4;
    text.len() >= SHORTEST
        && text.bytes().all(of_keys)
        && is_mixed
        && !text.starts_with("key_")
        && !text.starts_with("--")
}

/// `message` without the secrets among the arguments, and with what the terminal would not show as
/// it is escaped.
pub fn told(message: &str, arguments: &[OsString]) -> String {
    let mut told = message.to_owned();
    for argument in arguments {
        let Some(argument) = argument.to_str() else { continue };
        let value = argument.split_once('=').filter(|(option, _)| option.starts_with('-'));
        for text in [Some(argument), value.map(|(_, value)| value)].into_iter().flatten() {
            for word in text.split([' ', ',', ':']).filter(|word| is_like_secret(word)) {
                told = told.replace(word, "…");
            }
            if text.contains(is_deceptive) {
                told = told.replace(text, &one_line(text));
            }
        }
    }
    told
}

/// [`told`], ready for a terminal.
pub fn shown(message: &str, arguments: &[OsString]) -> String {
    visible(&told(message, arguments)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_told_from_a_name() {
        for secret in [
            "ord_live_Ab3dE5f6Gh7iJ8kL",
            "whm_a1b2c3d4e5f6g7h8i9j0k1l2m3n4o5p6",
            "12345-abcde-67890-fghij-klmno",
            "AbCdEfGhIjKlMnOpQrSt",
            "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881",
        ] {
            assert!(is_like_secret(secret), "{secret}");
        }
        for name in [
            "production-crm-integration",
            "Production CRM 2027 for the office",
            "key_7f3kq0a1b2c3",
            "2027-01-31T00:00:00Z",
            "--publish-patch",
            "/srv/keys/2027/orders.toml",
            "203.0.113.0/24",
            "short1a2b",
        ] {
            assert!(!is_like_secret(name), "{name}");
        }
    }

    #[test]
    fn arguments_are_shown_without_secrets_and_without_tricks() {
        let arguments: Vec<OsString> =
            ["keygatectl", "ord_live_Ab3dE5f6Gh7iJ8kL", "--name=a\u{202e}b\nerror: c", "plain"]
                .map(OsString::from)
                .into();
        let message = "no `ord_live_Ab3dE5f6Gh7iJ8kL`, no 'a\u{202e}b\nerror: c', no plain";
        assert_eq!(told(message, &arguments), "no `…`, no 'a\\u202eb\\u000aerror: c', no plain");
    }
}
