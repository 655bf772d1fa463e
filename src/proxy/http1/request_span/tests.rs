//! The end is found wherever the bytes are split, and at the same place as by the reader of bodies.

use proptest::prelude::*;
use proptest::sample::select;

use super::super::chunks::ChunkReader;
use super::super::length::RequestBodyEnd;
use super::RequestSpan;

/// Bytes of the request in `all`, which arrives in two pieces. `None`: its chunks are broken.
fn length(head: usize, end: RequestBodyEnd, all: &[u8], cut: usize) -> Option<(usize, bool)> {
    let mut span = RequestSpan::new(head, end);
    let (first, second) = all.split_at(cut);
    let mut found = span.read(first).ok()?.used;
    if found == first.len() {
        found += span.read(second).ok()?.used;
    }
    assert!(!span.is_broken());
    Some((found, span.is_over()))
}

#[test]
fn where_a_request_ends() {
    let chunks = b"hhhh5\r\nhello\r\n1;a=b\r\nx\r\n0\r\nt: x\r\n\r\n";
    for (end, all, want) in [
        (RequestBodyEnd::Counted(0), &b"hhhhGET"[..], Some((4, true))),
        (RequestBodyEnd::Counted(3), b"hhhhabcGET", Some((7, true))),
        (RequestBodyEnd::Counted(3), b"hhhhab", Some((6, false))),
        (RequestBodyEnd::Counted(u64::MAX), b"hhhhab", Some((6, false))),
        (RequestBodyEnd::Chunked, &[chunks, &b"GET"[..]].concat(), Some((chunks.len(), true))),
        (RequestBodyEnd::Chunked, b"hhhh0\r\n\r\n", Some((9, true))),
        (RequestBodyEnd::Chunked, b"hhhh5\r\nhel", Some((10, false))),
        (RequestBodyEnd::Chunked, b"hhhhx", None),
        (RequestBodyEnd::Chunked, b"hhhh0\r\nt\r\n\r\n", None),
    ] {
        for cut in 0..=all.len() {
            assert_eq!(length(4, end, all, cut), want, "{} cut at {cut}", all.escape_ascii());
        }
    }
    let long = format!("0\r\nt: {}\r\n\r\n", "x".repeat(100_000));
    assert_eq!(length(0, RequestBodyEnd::Chunked, long.as_bytes(), 9), None);
}

/// The place of the trailers counts from the beginning of the head.
#[test]
fn which_bytes_are_trailers() {
    let mut span = RequestSpan::new(4, RequestBodyEnd::Chunked);
    let found = span.read(b"hhhh1\r\nx\r\n0\r\nt: x\r\n\r\nGET").unwrap();
    assert_eq!((found.used, found.trailers), (21, 13..19));
    assert!(span.is_over());
}

const PIECES: &[&str] =
    &["5\r\nhello\r\n", "0\r\n", "\r\n", "t: x\r\n", "1;a\r\nx\r\n", "5 \r\n", "\n", "GET /"];

proptest! {
    #[test]
    fn the_reader_of_bodies_finds_the_same_end(
        pieces in prop::collection::vec(select(PIECES), 0..8),
        cut in 0..64_usize,
    ) {
        let all = pieces.concat().into_bytes();
        let mut reader = ChunkReader::default();
        let read = reader.read(&mut all.clone(), 0).and_then(|found| {
            let is_over = reader.is_over();
            if is_over {
                reader.take_trailers()?;
            }
            Ok((found.used, is_over))
        });
        let found = length(0, RequestBodyEnd::Chunked, &all, cut.min(all.len()));
        prop_assert_eq!(found, read.ok());
    }
}
