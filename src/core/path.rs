//! Is this path safe to judge? keygate forwards it unchanged, so a path that some reading could
//! lead elsewhere in the service is refused, never repaired. Where several readings may still lead
//! to one rule, [`Traits`] records them, for [`super::route::RouteTable::find`] to try them all.

/// What a path contains that only some routes allow. Also: what a route allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traits {
    /// `%25` followed by two hexadecimal digits.
    pub double_encoding: bool,
    /// An empty segment (`//`) after the first.
    pub empty_segment: bool,
    /// Anything is percent-encoded. Every route allows it.
    pub encoded: bool,
    /// `%2F`.
    pub encoded_slash: bool,
    /// `;` in a segment.
    pub semicolon: bool,
}

/// Why a path was refused (400). The log shows these names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPath {
    #[error("does not begin with a slash")]
    NotAbsolute,
    #[error("has a byte that a URI path cannot have")]
    Byte,
    #[error("has a `.` or `..` segment, plain or encoded")]
    DotSegment,
    #[error("begins with `//`")]
    EmptySegment,
    #[error("has an encoded backslash, control byte or NUL")]
    EncodedControl,
    #[error("has an encoded letter or digit")]
    EncodedAlphanumeric,
    #[error("has a `%` that is not followed by two hexadecimal digits")]
    Percent,
    #[error("has encoded bytes that are not UTF-8, or an overlong form")]
    Utf8,
    #[error("has `//`, `%2F`, `;` or a doubly encoded byte, which its route does not allow")]
    NotAllowedHere,
    #[error("leads to two rules: to one as it is sent, to another one decoded or with `//` merged")]
    TwoRules,
}

/// Characters that, unencoded in a path, end the request as `bad_target` before its path is judged.
pub const NOT_IN_TARGETS: [char; 4] = ['#', '<', '>', '`'];

/// Reads every byte of `path` (without query) once. On success, returns what the route still has to
/// allow ([`Traits::within`]).
pub fn scan(path: &[u8]) -> Result<Traits, BadPath> {
    let mut traits = Traits::default();
    let Some((b'/', mut rest)) = path.split_first().map(|(f, r)| (*f, r)) else {
        return Err(BadPath::NotAbsolute);
    };
    if rest.first() == Some(&b'/') {
        return Err(BadPath::EmptySegment);
    }
    loop {
        let end = rest.iter().position(|b| *b == b'/').unwrap_or(rest.len());
        let (segment, tail) = rest.split_at(end);
        // The last segment may be empty: it is a trailing slash.
        traits.empty_segment |= segment.is_empty() && !tail.is_empty();
        scan_segment(segment, &mut traits)?;
        match tail.split_first() {
            Some((_, next)) => rest = next,
            None => return Ok(traits),
        }
    }
}

impl Traits {
    /// Whether the route allows everything that this path has.
    pub fn within(self, allowed: Self) -> Result<(), BadPath> {
        let ok = (!self.double_encoding || allowed.double_encoding)
            && (!self.empty_segment || allowed.empty_segment)
            && (!self.encoded_slash || allowed.encoded_slash)
            && (!self.semicolon || allowed.semicolon);
        if ok { Ok(()) } else { Err(BadPath::NotAllowedHere) }
    }
}

fn scan_segment(segment: &[u8], traits: &mut Traits) -> Result<(), BadPath> {
    let mut plain = true;
    for byte in segment {
        match class(*byte) {
            Class::Plain => {}
            Class::Dot | Class::Percent | Class::Semicolon => plain = false,
            Class::Refused => return Err(BadPath::Byte),
        }
    }
    if plain { Ok(()) } else { scan_odd_segment(segment, traits) }
}

/// A segment with `.`, `%` or `;` in it.
fn scan_odd_segment(segment: &[u8], traits: &mut Traits) -> Result<(), BadPath> {
    traits.semicolon |= segment.contains(&b';');
    let mut encoded = Vec::new(); // decoded bytes >= 0x80 of the current run
    let mut bytes = segment.iter().copied();
    let mut encoded_alphanumeric = false;
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            check_utf8(&mut encoded)?;
            continue;
        }
        let value = match (bytes.next().and_then(hex), bytes.next().and_then(hex)) {
            (Some(high), Some(low)) => high << 4 | low,
            _ => return Err(BadPath::Percent),
        };
        traits.encoded = true;
        if value >= 0x80 {
            encoded.push(value);
            continue;
        }
        check_utf8(&mut encoded)?;
        match value {
            b'/' => traits.encoded_slash = true,
            b'%' => {
                let mut ahead = bytes.clone();
                let digits =
                    ahead.next().and_then(hex).is_some() && ahead.next().and_then(hex).is_some();
                traits.double_encoding |= digits;
            }
            b'\\' | 0..=0x1f | 0x7f => return Err(BadPath::EncodedControl),
            // Libraries encode `-`, `.`, `_` and `~` although they need not (RFC 3986 section 2.3).
            // A letter or a digit is encoded only to hide something.
            _ => encoded_alphanumeric |= value.is_ascii_alphanumeric(),
        }
    }
    check_utf8(&mut encoded)?;
    // What a server sees that decodes once and cuts off path parameters (Tomcat's `..;`): the part
    // before the first `;`, and the parts between encoded slashes.
    let decoded = decode(segment);
    let dotted = |part: &[u8]| {
        let name = part.split(|b| *b == b';').next().unwrap_or_default();
        name == b"." || name == b".."
    };
    if decoded.split(|b| *b == b'/').any(dotted) {
        return Err(BadPath::DotSegment);
    }
    if encoded_alphanumeric { Err(BadPath::EncodedAlphanumeric) } else { Ok(()) }
}

fn check_utf8(run: &mut Vec<u8>) -> Result<(), BadPath> {
    let ok = run.is_empty() || std::str::from_utf8(run).is_ok();
    run.clear();
    if ok { Ok(()) } else { Err(BadPath::Utf8) }
}

/// Percent-decodes a segment that [`scan`] accepted. A malformed escape stays as it is.
pub fn decode(segment: &[u8]) -> Vec<u8> {
    percent_encoding::percent_decode(segment).collect()
}

/// A segment with only those characters encoded that a path cannot hold otherwise: the way back
/// from [`decode`] to what most people write.
pub fn encode(decoded: &[u8]) -> String {
    let mut out = String::with_capacity(decoded.len());
    for byte in decoded {
        match (byte, class(*byte)) {
            (b'%' | b'/', _) | (_, Class::Refused) => out.push_str(&format!("%{byte:02X}")),
            _ => out.push(char::from(*byte)),
        }
    }
    out
}

/// Whether `-`, `.`, `_` or `~` is encoded.
pub fn encodes_mark(segment: &[u8]) -> bool {
    segment.windows(3).any(|w| match w {
        [b'%', high, low] => match (hex(*high), hex(*low)) {
            (Some(high), Some(low)) => matches!(high << 4 | low, b'-' | b'.' | b'_' | b'~'),
            _ => false,
        },
        _ => false,
    })
}

const fn hex(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Dot,
    Percent,
    Plain,
    Refused,
    Semicolon,
}

/// RFC 3986 `pchar`, and the few that clients send raw and no server reads as something else
/// (`|`, `^`, `"`, `<`, `>`, backtick, braces, brackets). `\`, `#`, `?`, controls, space and bytes
/// from 0x80 are refused.
const fn class(byte: u8) -> Class {
    match byte {
        b'.' => Class::Dot,
        b'%' => Class::Percent,
        b';' => Class::Semicolon,
        b'\\' | b'#' | b'?' | 0..=0x20 | 0x7f..=0xff => Class::Refused,
        _ => Class::Plain,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn table() {
        let none = Traits::default();
        let encoded = Traits { encoded: true, ..none };
        let empty = Traits { empty_segment: true, ..none };
        let cases: &[(&str, Result<Traits, BadPath>)] = &[
            ("/", Ok(none)),
            ("/a/b.c/d", Ok(none)),
            ("/a/", Ok(none)),
            ("/...", Ok(none)),
            ("/a%20b", Ok(encoded)),
            ("/caf%C3%A9", Ok(encoded)),
            ("/a%2Db%2e%5F%7e", Ok(encoded)),
            ("/..%2E", Ok(encoded)),
            ("/a//b", Ok(empty)),
            ("/a//", Ok(empty)),
            ("/a//%2Db", Ok(Traits { encoded: true, ..empty })),
            ("/a:b@c,d=e+f&g$h!i'(j)*k~l-m_n", Ok(none)),
            ("", Err(BadPath::NotAbsolute)),
            ("a", Err(BadPath::NotAbsolute)),
            ("*", Err(BadPath::NotAbsolute)),
            ("//", Err(BadPath::EmptySegment)),
            ("///", Err(BadPath::EmptySegment)),
            ("//a", Err(BadPath::EmptySegment)),
            ("/a//../b", Err(BadPath::DotSegment)),
            ("/a//%2E", Err(BadPath::DotSegment)),
            ("/.", Err(BadPath::DotSegment)),
            ("/..", Err(BadPath::DotSegment)),
            ("/a/../b", Err(BadPath::DotSegment)),
            ("/a/%2e%2E/b", Err(BadPath::DotSegment)),
            ("/a/.%2e/b", Err(BadPath::DotSegment)),
            ("/a/..;/b", Err(BadPath::DotSegment)),
            ("/a/.;x=1/b", Err(BadPath::DotSegment)),
            ("/a%2f..%2fb", Err(BadPath::DotSegment)),
            ("/a%2F..", Err(BadPath::DotSegment)),
            ("/a\\b", Err(BadPath::Byte)),
            ("/a b", Err(BadPath::Byte)),
            ("/a#b", Err(BadPath::Byte)),
            ("/a\u{e9}", Err(BadPath::Byte)),
            ("/a\u{7f}", Err(BadPath::Byte)),
            ("/a%5cb", Err(BadPath::EncodedControl)),
            ("/a%00b", Err(BadPath::EncodedControl)),
            ("/a%0d%0ab", Err(BadPath::EncodedControl)),
            ("/%61dmin", Err(BadPath::EncodedAlphanumeric)),
            ("/%2D%30", Err(BadPath::EncodedAlphanumeric)),
            ("/a%2", Err(BadPath::Percent)),
            ("/a%", Err(BadPath::Percent)),
            ("/a%u002e", Err(BadPath::Percent)),
            ("/a%zz", Err(BadPath::Percent)),
            ("/%c0%ae", Err(BadPath::Utf8)),
            ("/%e0%80%ae", Err(BadPath::Utf8)),
            ("/%ff", Err(BadPath::Utf8)),
            ("/%C3/%A9", Err(BadPath::Utf8)),
            ("/a%2Fb", Ok(Traits { encoded_slash: true, ..encoded })),
            ("/a;v=1", Ok(Traits { semicolon: true, ..none })),
            ("/a%252e", Ok(Traits { double_encoding: true, ..encoded })),
            ("/100%25", Ok(encoded)),
        ];
        for (path, want) in cases {
            assert_eq!(scan(path.as_bytes()), *want, "{path}");
        }
    }

    #[test]
    fn routes_allow_only_what_they_name() {
        let slash = Traits { encoded_slash: true, ..Traits::default() };
        assert!(slash.within(slash).is_ok());
        assert_eq!(slash.within(Traits::default()), Err(BadPath::NotAllowedHere));
        let empty = Traits { empty_segment: true, ..Traits::default() };
        assert_eq!(empty.within(slash), Err(BadPath::NotAllowedHere));
        assert!(Traits { encoded: true, ..slash }.within(slash).is_ok());
    }

    proptest! {
        /// However a server decodes an accepted strict path, once or not at all, and however it
        /// merges and resolves, it ends up with the same segments.
        #[test]
        fn accepted_paths_mean_one_thing(path in "/[a-c./%;2eEfF5cC\\\\]{0,24}") {
            let strict = Traits::default();
            let encoded = Traits { encoded: true, ..strict };
            if [Ok(strict), Ok(encoded)].contains(&scan(path.as_bytes())) {
                let decoded = decode(path.as_bytes());
                let parts: Vec<_> = decoded.split(|b| *b == b'/').collect();
                prop_assert!(parts.iter().all(|p| *p != b"." && *p != b".."));
                prop_assert!(!decoded.contains(&b'\\') && !decoded.contains(&b';'));
                let raw_parts = path.split('/').count();
                prop_assert_eq!(parts.len(), raw_parts);
            }
        }
    }
}
