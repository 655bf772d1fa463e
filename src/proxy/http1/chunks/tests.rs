//! The grammar of chunks, split anywhere.

use proptest::prelude::*;

use super::*;

/// Reads `pieces` one after the other: the data, what follows the body, and the trailers.
fn read(pieces: &[&[u8]]) -> Result<(Vec<u8>, usize, Option<HeaderMap>), BadChunk> {
    let mut reader = ChunkReader::default();
    let mut data = Vec::new();
    let mut surplus = 0;
    for piece in pieces {
        let mut bytes = piece.to_vec();
        let found = reader.read(&mut bytes, 0)?;
        data.extend_from_slice(&bytes[found.kept]);
        surplus += bytes.len() - found.used;
        assert!(found.used == bytes.len() || reader.is_over(), "bytes were left lying");
    }
    assert!(reader.is_over(), "not over");
    Ok((data, surplus, reader.take_trailers()?))
}

#[test]
fn bodies_are_read_however_they_are_split() {
    let bodies: &[(&str, &[u8], &[u8], usize)] = &[
        ("empty", b"0\r\n\r\n", b"", 0),
        ("one chunk", b"5\r\nhello\r\n0\r\n\r\n", b"hello", 0),
        ("several", b"5\r\nhello\r\n1\r\n \r\n5\r\nworld\r\n0\r\n\r\n", b"hello world", 0),
        ("capitals and zeros", b"000A\r\n0123456789\r\n00\r\n\r\n", b"0123456789", 0),
        (
            "zeros beyond 16 digits",
            b"00000000000000000000005\r\nhello\r\n000000000000000000\r\n\r\n",
            b"hello",
            0,
        ),
        ("padded size", b"5  \t\r\nhello\r\n0 \r\n\r\n", b"hello", 0),
        ("extensions", b"5;a=b;c=\"d\"\r\nhello\r\n0;z\r\n\r\n", b"hello", 0),
        ("data that looks like chunks", b"7\r\n0\r\n\r\nab\r\n0\r\n\r\n", b"0\r\n\r\nab", 0),
        ("something behind it", b"1\r\na\r\n0\r\n\r\nHTTP/1.1 200", b"a", 12),
        ("trailers", b"1\r\na\r\n0\r\nx-sum: 1\r\nY:2\r\n\r\n", b"a", 0),
    ];
    for (name, body, want, surplus) in bodies {
        let (data, left, _) = read(&[body]).unwrap();
        assert_eq!((&*data, left), (*want, *surplus), "{name}");
        for at in 0..=body.len() {
            let (before, behind) = body.split_at(at);
            let (data, left, _) = read(&[before, behind]).unwrap();
            assert_eq!((&*data, left), (*want, *surplus), "{name}, split at {at}");
        }
        let bytes: Vec<&[u8]> = body.chunks(1).collect();
        assert_eq!(read(&bytes).unwrap().0, *want, "{name}, byte by byte");
    }
}

#[test]
fn what_is_no_chunked_body() {
    let long = format!("1;{}\r\n", "x".repeat(MOST_EXTRA));
    let trailers = format!("0\r\nx: {}\r\n\r\n", "y".repeat(MOST_EXTRA));
    let zeros = format!("{}5\r\nhello\r\n", "0".repeat(MOST_EXTRA + 16));
    let zeros_of_all = format!("{}1\r\na\r\n", "0".repeat(1000)).repeat(20);
    let bodies: &[(&str, &[u8], BadChunk)] = &[
        ("no size", b"\r\nhello\r\n0\r\n\r\n", BadChunk::Size),
        ("a sign", b"+5\r\nhello\r\n", BadChunk::Size),
        ("a prefix", b"0x5\r\nhello\r\n", BadChunk::Size),
        ("leading space", b" 5\r\nhello\r\n", BadChunk::Size),
        ("a digit behind a space", b"5 5\r\nhello\r\n", BadChunk::Size),
        ("no digit", b"g\r\n", BadChunk::Size),
        ("2^63", b"8000000000000000\r\n", BadChunk::TooLong),
        ("2^64", b"10000000000000000\r\n", BadChunk::TooLong),
        ("2^64 behind a zero", b"010000000000000000\r\n", BadChunk::TooLong),
        ("zeros without end", zeros.as_bytes(), BadChunk::Extra),
        ("zeros of many chunks", zeros_of_all.as_bytes(), BadChunk::Extra),
        ("a bare line feed behind the size", b"5\nhello\r\n0\r\n\r\n", BadChunk::Size),
        ("a bare line feed in an extension", b"5;a\nhello\r\n", BadChunk::LineEnd),
        ("a bare carriage return", b"5\rhello\r\n", BadChunk::LineEnd),
        ("data too long", b"5\r\nhello!\r\n", BadChunk::LineEnd),
        ("a bare line feed behind the data", b"5\r\nhello\n0\r\n\r\n", BadChunk::LineEnd),
        ("long extensions", long.as_bytes(), BadChunk::Extra),
        ("long trailers", trailers.as_bytes(), BadChunk::Trailers),
        ("a trailer without a name", b"0\r\n: x\r\n\r\n", BadChunk::Trailers),
        ("a folded trailer", b"0\r\na: b\r\n c\r\n\r\n", BadChunk::Trailers),
        ("a bare line feed in a trailer", b"0\r\na: b\nc: d\r\n\r\n", BadChunk::LineEnd),
        ("the end without a line feed", b"0\r\n\rx", BadChunk::LineEnd),
    ];
    for (name, body, want) in bodies {
        assert_eq!(read(&[body]).unwrap_err(), *want, "{name}");
    }
}

#[test]
fn trailers_are_fields() {
    let (_, _, trailers) = read(&[b"0\r\nX-Sum: 1\r\nx-sum: 2\r\nEmpty:\r\n\r\n"]).unwrap();
    let trailers = trailers.unwrap();
    let sums: Vec<_> = trailers.get_all("x-sum").iter().collect();
    assert_eq!(sums, ["1", "2"]);
    assert_eq!(trailers["empty"], "");
}

/// What [`ChunkForm::Chunks`] keeps of a body that arrives in these pieces, and how much data that
/// is.
fn kept_chunks(pieces: &[&[u8]]) -> Result<(Vec<u8>, u64), BadChunk> {
    let mut reader = ChunkReader::keeping(ChunkForm::Chunks);
    let mut all = Vec::new();
    let mut length = 0;
    for piece in pieces {
        let room = reader.room();
        let mut bytes = [&vec![b'!'; room][..], piece].concat();
        let found = reader.read(&mut bytes, room)?;
        all.extend_from_slice(&bytes[found.kept]);
        length += reader.take_data_length();
    }
    assert!(reader.is_over(), "not over");
    Ok((all, length))
}

/// Only size and data are left of a chunk, and only its digits of a size.
#[test]
fn chunks_are_kept_without_what_nobody_needs() {
    let cases: &[(&[u8], &[u8], u64)] = &[
        (b"0\r\n\r\n", b"", 0),
        (b"5\r\nhello\r\n0\r\n\r\n", b"5\r\nhello\r\n", 5),
        (b"5;a=b\r\nhello\r\n1 \r\n!\r\n0;c\r\n\r\n", b"5\r\nhello\r\n1\r\n!\r\n", 6),
        (b"1\r\na\r\n00000000000000000002\r\nbc\r\n0\r\n\r\n", b"1\r\na\r\n2\r\nbc\r\n", 3),
        (b"1\r\na\r\n0\r\nx: y\r\n\r\nHTTP", b"1\r\na\r\n", 1),
    ];
    for (body, want, length) in cases {
        let got = kept_chunks(&[body]).unwrap();
        assert_eq!((&*got.0, got.1), (*want, *length), "{}", body.escape_ascii());
        let mut end = body.len();
        while body[..end].ends_with(b"HTTP") {
            end -= 4;
        }
        for at in 0..=end {
            let (before, behind) = body[..end].split_at(at);
            let got = kept_chunks(&[before, behind]).unwrap();
            assert_eq!((&*got.0, got.1), (*want, *length), "{} cut at {at}", body.escape_ascii());
        }
        let bytes: Vec<&[u8]> = body[..end].chunks(1).collect();
        assert_eq!(&*kept_chunks(&bytes).unwrap().0, *want, "{}", body.escape_ascii());
    }
}

/// The sizes in `chunks`, if each is written as keygate writes it and the data is that long.
fn sizes(mut chunks: &[u8]) -> Option<Vec<u8>> {
    let mut data = Vec::new();
    while !chunks.is_empty() {
        let end = chunks.windows(2).position(|w| w == CHUNK_END)?;
        let digits = std::str::from_utf8(&chunks[..end]).ok()?;
        let is_size = (1..=16).contains(&digits.len()) && !digits.starts_with('+');
        let size = usize::from_str_radix(digits, 16).ok().filter(|size| is_size && *size > 0)?;
        let rest = chunks.get(end + 2..)?;
        data.extend_from_slice(rest.get(..size)?);
        chunks = rest.get(size..)?.strip_prefix(CHUNK_END)?;
    }
    Some(data)
}

/// What `skip` leaves of a body without its trailers, in pieces of `room` bytes.
fn without_trailers(body: &[u8], room: usize) -> Result<Vec<u8>, BadChunk> {
    let mut reader = ChunkReader::default();
    let mut kept = Vec::new();
    for piece in body.chunks(room) {
        let found = reader.skip(piece)?;
        kept.extend_from_slice(&piece[..found.trailers.start.min(found.used)]);
        kept.extend_from_slice(&piece[found.trailers.end..found.used]);
    }
    Ok(kept)
}

#[test]
fn trailers_can_be_cut_out_however_they_are_split() {
    for (body, want) in [
        (&b"5\r\nhello\r\n0\r\n\r\n"[..], &b"5\r\nhello\r\n0\r\n\r\n"[..]),
        (b"1\r\na\r\n0;x\r\na: b\r\nc:\r\n\r\n", b"1\r\na\r\n0;x\r\n\r\n"),
        (b"0\r\na: b\r\n\r\nGET", b"0\r\n\r\n"),
    ] {
        for room in 1..=body.len() {
            let kept = without_trailers(body, room).unwrap();
            assert_eq!(kept.escape_ascii().to_string(), want.escape_ascii().to_string(), "{room}");
        }
    }
    for broken in ["0\r\nno colon\r\n\r\n", "0\r\na : b\r\n\r\n", "0\r\na: b\0\r\n\r\n"] {
        for room in 1..=broken.len() {
            assert_eq!(without_trailers(broken.as_bytes(), room), Err(BadChunk::Trailers));
        }
    }
}

const PARTS: &[&str] = &[
    "5\r\nhello\r\n",
    "1;a\r\nx\r\n",
    "A\r\n0123456789\r\n",
    "3  \r\n\r\n0\r\n",
    "000000003\r\nabc\r\n",
    "00000000000000000000f;x=y\r\n0123456789abcde\r\n",
    "0\r\n",
    "\r\n",
    "t: x\r\n",
    "5\n",
    "x",
];

proptest! {
    /// Whatever arrives, in whatever pieces: chunks are kept exactly if the data would be, and mean
    /// the same in the plainest form.
    #[test]
    fn both_forms_say_the_same(
        parts in prop::collection::vec(prop::sample::select(PARTS), 0..12),
        room in 1usize..40,
    ) {
        let all = parts.concat().into_bytes();
        let pieces: Vec<&[u8]> = all.chunks(room).collect();
        let mut plain = ChunkReader::default();
        let mut lines = ChunkReader::keeping(ChunkForm::Chunks);
        let (mut data, mut chunks, mut length) = (Vec::new(), Vec::new(), 0);
        for piece in pieces {
            let mut bytes = piece.to_vec();
            let of_data = plain.read(&mut bytes, 0).map(|found| {
                data.extend_from_slice(&bytes[found.kept]);
                found.used
            });
            let begin = lines.room();
            let mut bytes = [&vec![b'!'; begin][..], piece].concat();
            let of_lines = lines.read(&mut bytes, begin).map(|found| {
                chunks.extend_from_slice(&bytes[found.kept]);
                found.used
            });
            length += lines.take_data_length();
            prop_assert_eq!(of_data, of_lines);
            if of_data.is_err() {
                return Ok(());
            }
        }
        prop_assert_eq!(plain.is_over(), lines.is_over());
        prop_assert_eq!(length, data.len() as u64);
        if lines.is_over() {
            prop_assert_eq!(sizes(&chunks), Some(data));
        }
    }

    /// What was written can be read back, wherever the reads end.
    #[test]
    fn written_and_read_again(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..6),
        room in 1usize..64,
    ) {
        let mut text = Vec::new();
        for piece in &pieces {
            put_chunk_size(&mut text, piece.len());
            text.extend_from_slice(piece);
            text.extend_from_slice(CHUNK_END);
        }
        text.extend_from_slice(BODY_END);
        let parts: Vec<&[u8]> = text.chunks(room).collect();
        let (data, surplus, trailers) = read(&parts).unwrap();
        prop_assert_eq!((data, surplus), (pieces.concat(), 0));
        prop_assert!(trailers.is_none());
    }
}
