//! An answer is written in two ways: by us as lines, and by hyper from its map of fields.

use http::header::{CONTENT_LENGTH, HeaderName};
use proptest::prelude::*;

use super::{Trailers, to_client};
use crate::config::Settings;
use crate::proxy::http1::answer_read::{FieldRoom, RequestMethod, find_head};
use crate::proxy::http1::answer_write::{AddField, AnswerLines};
use crate::proxy::tests::settings;

const OURS: [(&str, &str); 2] = [("x-request-id", "ours"), ("ratelimit", "\"per-key\";r=1;t=1")];

fn add(fields: &mut impl AddField) {
    for (name, value) in OURS {
        fields.set(&HeaderName::from_static(name), value.as_bytes());
    }
}

type Pairs = Vec<(String, String)>;

/// The client's fields from the lines, and from the map. Lengths are added by the writer.
fn both(head: &str, settings: &Settings) -> Option<(Pairs, Pairs)> {
    let raw = find_head(head.as_bytes(), RequestMethod::Other, &mut FieldRoom::default())
        .ok()??
        .with(head.as_bytes().to_vec());
    let mut lines = AnswerLines::new(raw.status, None, 0);
    add(&mut lines);
    lines.copy_end_to_end(&raw, &settings.fields, None);
    let text = String::from_utf8(lines.text.clone()).unwrap();
    let mut by_lines: Pairs = text
        .split_terminator("\r\n")
        .skip(1)
        .map(|line| line.split_once(": ").expect("a field"))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    for (name, _) in &by_lines {
        assert!(lines.has(&HeaderName::from_bytes(name.as_bytes()).unwrap()), "{name}");
    }
    assert_eq!(lines.is_dated, by_lines.iter().any(|(name, _)| name == "date"));
    let mut map = raw.into_parts().headers;
    to_client(&mut map, settings, Trailers::Dropped);
    add(&mut map);
    map.remove(CONTENT_LENGTH);
    let mut by_map: Pairs = map
        .iter()
        .map(|(n, v)| (n.to_string(), String::from_utf8(v.as_bytes().to_vec()).unwrap()))
        .collect();
    by_lines.sort();
    by_map.sort();
    Some((by_lines, by_map))
}

#[test]
fn what_belongs_to_a_connection_or_is_ours_does_not_go_through() {
    let head = "HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\n\
        Content-Length: 0\r\nX-Request-Id: theirs\r\nX-A: 1\r\nx-a: 2\r\nDate: now\r\n\
        Proxy-Authenticate: Basic\r\nTrailer: x\r\n\r\n";
    let (by_lines, by_map) = both(head, &settings()).unwrap();
    let want = [
        ("date", "now"),
        ("ratelimit", OURS[1].1),
        ("x-a", "1"),
        ("x-a", "2"),
        ("x-request-id", "ours"),
    ];
    assert_eq!(by_lines, want.map(|(n, v)| (n.to_owned(), v.to_owned())));
    assert_eq!(by_lines, by_map);
}

fn any_case(name: &'static str) -> impl Strategy<Value = String> {
    proptest::collection::vec(any::<bool>(), name.len()).prop_map(move |upper| {
        name.chars().zip(upper).map(|(c, up)| if up { c.to_ascii_uppercase() } else { c }).collect()
    })
}

fn field() -> impl Strategy<Value = String> {
    let names = prop::sample::select(vec![
        "cache-control",
        "date",
        "keep-alive",
        "proxy-authenticate",
        "proxy-connection",
        "ratelimit",
        "ratelimit-policy",
        "set-cookie",
        "te",
        "trailer",
        "x-forwarded-for",
        "x-org-id",
        "x-request-id",
        "x-request-id-2",
    ]);
    let connection = any_case("connection").prop_map(|name| format!("{name}: Keep-Alive\r\n"));
    let other = (names.prop_flat_map(any_case), "[ -~]{0,12}")
        .prop_map(|(name, value)| format!("{name}: {}\r\n", value.trim()));
    prop_oneof![1 => connection, 6 => other]
}

proptest! {
    #[test]
    fn both_shapes_of_an_answer_say_the_same(
        fields in proptest::collection::vec(field(), 0..8),
        status in prop::sample::select(vec!["200 OK", "404 Not Found", "502 Bad Gateway"]),
    ) {
        let head = format!("HTTP/1.1 {status}\r\ncontent-length: 3\r\n{}\r\n", fields.concat());
        let (by_lines, by_map) = both(&head, &settings()).unwrap();
        prop_assert_eq!(by_lines, by_map);
    }
}
