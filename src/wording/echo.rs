//! Which parts of a command's arguments its messages may repeat. An argument may be a secret that
//! was pasted in the wrong place, and may hold characters that change what the terminal shows.
//! Imports only its neighbours.

use std::ffi::OsString;

use super::visible::{is_deceptive, one_line, visible};
use crate::core::KeyId;

/// The shortest text that counts as a secret: keys have at least 16 characters.
const SHORTEST: usize = 16;

/// The shortest part of a path, a host name or a token that counts as random text on its own.
const LONG_PART: usize = 20;

/// Whether a text looks like a key, a token or a digest rather than like a name, a time or a path:
/// long, only characters that keys have, letters and digits mixed.
///
/// Base64 contains `/`, and a JSON Web Token `.`, but so do paths and host names. Such a text
/// counts as a secret if one of its parts alone looks like one, or if it has the shape of Base64.
pub fn is_like_secret(text: &str) -> bool {
    if !text.contains(['/', '.']) {
        return is_random(text);
    }
    let mut parts = text.split(['/', '.']);
    parts.any(|part| part.len() >= LONG_PART && is_random(part)) || is_base64(text)
}

/// Base64 with `/` among its characters, but not a path. Paths begin with `/`, `~` or `.`, and
/// otherwise seldom mix both cases with digits in a multiple of four characters.
fn is_base64(text: &str) -> bool {
    let begins_path = text.starts_with(['/', '~', '.']);
    let has = |is: fn(&u8) -> bool| text.bytes().any(|b| is(&b));
    let is_mixed =
        has(u8::is_ascii_uppercase) && has(u8::is_ascii_lowercase) && has(u8::is_ascii_digit);
    let without_slashes = text.replace('/', "");
    !begins_path && text.len().is_multiple_of(4) && is_mixed && is_random(&without_slashes)
}

/// Whether a text without separators looks random. Random letters change their case often, words do
/// not. The id of a key is public.
fn is_random(text: &str) -> bool {
    let of_keys =
        |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'+' | b'=' | b'~');
    let count = |is: fn(&u8) -> bool| text.bytes().filter(is).count();
    let (digits, letters) = (count(u8::is_ascii_digit), count(u8::is_ascii_alphabetic));
    let (upper, lower) = (count(u8::is_ascii_uppercase), count(u8::is_ascii_lowercase));
    let is_mixed = digits >= 2 && letters >= 2 || upper >= 4 && lower >= 4;
    text.len() >= SHORTEST
        && text.bytes().all(of_keys)
        && is_mixed
        && KeyId::parse(text).is_err()
        && !text.starts_with("--")
}

/// `message` without the secrets among the arguments, and with an escape for everything that the
/// terminal would not show literally.
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
            "q1W2e3R4t5Y6/7u8I9o0P+aS",
            "key_live_Ab3dE5f6Gh7iJ8kL9mN0",
            "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.c2lnbmF0dXJl",
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
            "orders.eu-west-1.example.com",
            "deploy/Orders2027/keys.toml",
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
