//! Single words of a registry as text: digests, limits, networks, names. Imports core and wording.

use ipnet::IpNet;
use serde_json::Value;

use crate::core::limit::LimitError;
use crate::core::{Digest, KeySpec, Limit, LimitSet, NamedLimit, PolicyName};
use crate::wording::visible::has_visible;

/// What is wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldFault {
    /// Empty if the entry as a whole is at fault.
    pub field: &'static str,
    pub why: String,
}

// === impl FieldFault ===

impl FieldFault {
    pub fn new(field: &'static str, why: impl Into<String>) -> Self {
        Self { field, why: why.into() }
    }
}

/// `sha256:` and 64 hexadecimal digits.
pub fn parse_digest(text: &str) -> Result<Digest, &'static str> {
    let Some(hex) = text.strip_prefix("sha256:") else {
        return Err("must be `sha256:` and 64 hexadecimal digits, and is not; if a secret was \
                    pasted here, it is known to too many now: remove it and issue a new key");
    };
    let bytes = hex.as_bytes();
    let mut digest = [0u8; 32];
    let bad = "must have exactly 64 hexadecimal digits after `sha256:`";
    if bytes.len() != 64 {
        return Err(bad);
    }
    for (to, pair) in digest.iter_mut().zip(bytes.chunks_exact(2)) {
        let &[high, low] = pair else { return Err(bad) };
        *to = nibble(high).ok_or(bad)? << 4 | nibble(low).ok_or(bad)?;
    }
    Ok(Digest(digest))
}

const fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

pub fn show_digest(digest: &Digest) -> String {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(71);
    text.push_str("sha256:");
    for byte in digest.0 {
        for nibble in [byte >> 4, byte & 15] {
            text.push(char::from(*HEX.get(usize::from(nibble)).unwrap_or(&b'0')));
        }
    }
    text
}

/// `600/min`, or `600/min burst 50`.
pub fn parse_limit(text: &str) -> Result<Limit, LimitError> {
    Limit::parse(text)
}

pub fn show_limit(limit: Limit) -> String {
    limit.to_string()
}

/// The plain limit first, as `600/min`, then `NAME=LIMIT` for every other policy.
pub fn show_limits(limits: &LimitSet) -> Vec<String> {
    let plain = limits.per_key().map(show_limit);
    let others = limits.iter().filter(|named| named.policy.as_str() != PolicyName::PER_KEY);
    let others = others.map(|n| format!("{}={}", n.policy.as_str(), show_limit(n.limit)));
    plain.into_iter().chain(others).collect()
}

/// `NAME=LIMIT` for every policy: an org has no plain limit.
pub fn show_limits_of_org(limits: &LimitSet) -> String {
    let each = limits.iter().map(|n| format!("{}={}", n.policy.as_str(), show_limit(n.limit)));
    each.collect::<Vec<_>>().join(", ")
}

/// A policy's name, but not the word that metrics use for `per-key`.
pub fn parse_policy(name: &str) -> Result<PolicyName, String> {
    match PolicyName::parse(name) {
        Ok(name) if name.as_str() == PolicyName::METRIC_OF_PER_KEY => {
            Err(format!("must not be `{}`, as metrics call `per-key`", name.as_str()))
        }
        parsed => parsed.map_err(|error| error.to_string()),
    }
}

/// One limit in an option or a list: `LIMIT` is for `per-key`, else `NAME=LIMIT`.
pub fn parse_named_limit(text: &str) -> Result<NamedLimit, String> {
    let (name, limit) = text.split_once('=').unwrap_or((PolicyName::PER_KEY, text));
    let policy = parse_policy(name.trim()).map_err(|e| format!("the name of the policy {e}"))?;
    let limit = parse_limit(limit.trim()).map_err(|e| e.to_string())?;
    Ok(NamedLimit { policy, limit })
}

/// Limits by policy, as in `limits` of a registry but including `per-key`.
pub fn to_object(limits: &LimitSet) -> Value {
    let entries = limits.iter().map(|n| (n.policy.as_str().to_owned(), show_limit(n.limit).into()));
    Value::Object(entries.collect())
}

/// One address without its `/32` or `/128`.
pub fn show_network(network: &IpNet) -> String {
    if network.prefix_len() == network.max_prefix_len() {
        network.addr().to_string()
    } else {
        network.to_string()
    }
}

pub fn check_name(name: &str) -> Result<(), &'static str> {
    if name.len() > KeySpec::MAX_NAME {
        Err("must be at most 200 bytes of UTF-8")
    } else if !KeySpec::is_name(name) {
        Err("must not contain control characters")
    } else {
        Ok(())
    }
}

/// A name that somebody gives a key: people find keys by it. Old names may be blank.
pub fn check_given_name(name: &str) -> Result<(), &'static str> {
    match has_visible(name) {
        true => check_name(name),
        false => Err("must have a visible character"),
    }
}

pub fn check_public_id(id: &str) -> Result<(), &'static str> {
    let ok = KeySpec::is_public_id(id) && !id.contains(':');
    if ok { Ok(()) } else { Err("must be 1 to 128 visible ASCII characters without `:`") }
}

/// The value. A fault goes on the list instead.
pub(super) fn taken<T, E: ToString>(
    field: &'static str,
    parsed: Result<T, E>,
    faults: &mut Vec<FieldFault>,
) -> Option<T> {
    parsed.map_err(|e| faults.push(FieldFault::new(field, e.to_string()))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_print_as_they_are_read() {
        for text in
            ["600/min", "10/s", "5/h", "1/d", "7/1h30m", "600/min burst 50", "3/30s", "9/30d"]
        {
            assert_eq!(show_limit(parse_limit(text).unwrap()), text);
        }
        assert!(parse_limit("600/min burst 0").is_err());
        assert!(parse_limit("600/min burst x").is_err());
    }

    #[test]
    fn named_limits_print_as_they_are_read() {
        let texts = ["600/min burst 50", "daily=10000/d", "search=2/s"];
        let set = LimitSet::new(texts.map(|text| parse_named_limit(text).unwrap()));
        assert_eq!(show_limits(&set), texts);
        for text in ["Daily=1/d", "=1/d", "daily=", "daily", "key=1/s"] {
            assert!(parse_named_limit(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_given_name_can_be_seen() {
        for name in ["CRM", " x ", "\u{200b}x", "é", "日本", "."] {
            assert_eq!(check_given_name(name), Ok(()), "{name:?}");
        }
        for name in ["", " ", "   ", "\u{200b}", "\u{3164}\u{2800} ", "\u{a0}\u{fe0f}", "\u{feff}"]
        {
            assert_eq!(check_given_name(name), Err("must have a visible character"), "{name:?}");
        }
        assert_eq!(check_given_name("a\nb"), Err("must not contain control characters"));
        assert_eq!(check_given_name(&"a".repeat(201)), Err("must be at most 200 bytes of UTF-8"));
    }

    #[test]
    fn digests() {
        let digest = Digest::of(b"abc");
        assert_eq!(parse_digest(&show_digest(&digest)), Ok(digest));
        assert!(parse_digest("sha256:abcd").is_err());
        assert!(parse_digest("wa_secret").unwrap_err().contains("secret"));
        assert!(parse_digest(&format!("sha256:{}", "g".repeat(64))).is_err());
    }
}
