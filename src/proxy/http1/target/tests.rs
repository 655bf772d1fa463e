//! Each byte is kept or refused, and nothing else happens to it.

use http::Uri;
use proptest::prelude::*;

use super::{BadTarget, RequestTarget};
use crate::core::path::NOT_IN_TARGETS;

fn parsed(text: &str) -> Result<String, BadTarget> {
    RequestTarget::parse(text).map(|t| t.as_str().to_owned())
}

#[test]
fn every_visible_byte_is_kept_or_refused() {
    for byte in 0..=0x7f_u8 {
        let char = char::from(byte);
        let in_path = match char {
            '#' => Err(BadTarget::Fragment),
            '<' | '>' | '`' => Err(BadTarget::Path),
            '!'..='~' => Ok(format!("/a{char}b")),
            _ => Err(BadTarget::Form),
        };
        assert_eq!(parsed(&format!("/a{char}b")), in_path, "{byte:#x} in a path");
        let is_listed = NOT_IN_TARGETS.contains(&char);
        assert_eq!(is_listed, in_path.is_err() && char.is_ascii_graphic(), "{char}");
        let in_query = match char {
            '#' => Err(BadTarget::Fragment),
            '!'..='~' => Ok(format!("/a?b{char}c")),
            _ => Err(BadTarget::Form),
        };
        assert_eq!(parsed(&format!("/a?b{char}c")), in_query, "{byte:#x} in a query");
    }
    assert_eq!(parsed("/é?é\u{202e}").as_deref(), Ok("/é?é\u{202e}"));
}

#[test]
fn forms() {
    for (text, path, query, authority) in [
        ("/", "/", None, None),
        ("/?", "/", Some(""), None),
        ("/a?b?c", "/a", Some("b?c"), None),
        ("*", "*", None, None),
        ("http://h", "/", None, Some("h")),
        ("http://h?\"q\"", "/", Some("\"q\""), Some("h")),
        ("HTTP://h:1/a/?", "/a/", Some(""), Some("h:1")),
        ("h:1", "", None, Some("h:1")),
        ("//h/a", "//h/a", None, None),
    ] {
        let target = RequestTarget::parse(text).ok().unwrap();
        let found = (target.path(), target.query(), target.authority().map(|a| a.as_str()));
        assert_eq!(found, (path, query, authority), "{text}");
    }
    for text in ["", "?a", "*?a", "h?a", "a/b", "http://", "http:///a", "://h", "http://h\"/"] {
        assert_eq!(parsed(text), Err(BadTarget::Form), "{text}");
    }
}

#[test]
fn a_query_is_replaced_and_nothing_else() {
    let mut target = RequestTarget::parse("http://h/a%2Fb?x=\"1\"&k=v").ok().unwrap();
    target.set_query(Some("x=\"1\""));
    assert_eq!((target.as_str(), target.authority().is_some()), ("/a%2Fb?x=\"1\"", true));
    target.set_query(None);
    target.clear_origin();
    assert_eq!((target.as_str(), target.query()), ("/a%2Fb", None));
}

proptest! {
    /// What both accept they read the same, and what `Uri` does not accept is known beforehand.
    #[test]
    fn a_uri_is_the_same(text in "(http://h)?[/?*h][a-c/?%\"<>{}|^`\\\\#:@!~é\u{7f} ]{0,12}") {
        let uri = text.parse::<Uri>();
        match RequestTarget::parse(&text) {
            Ok(target) => {
                prop_assert_eq!(target.is_uri(), target.to_uri().is_ok());
                prop_assert_eq!(target.is_uri(), uri.is_ok());
                if let Ok(uri) = uri {
                    prop_assert_eq!((target.path(), target.query()), (uri.path(), uri.query()));
                    prop_assert_eq!(target.authority(), uri.authority());
                    let same = RequestTarget::from(uri);
                    prop_assert_eq!(same.as_str(), target.as_str());
                }
            }
            Err(BadTarget::Fragment) => prop_assert!(text.contains('#')),
            Err(_) => prop_assert!(uri.is_err()),
        }
    }
}
