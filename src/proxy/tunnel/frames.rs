//! RFC 6455 frame headers, followed byte by byte as they pass. The payload is counted, never kept.

use bytes::{BufMut, Bytes, BytesMut};

/// Longest header: 2 fixed bytes, 8 of length, 4 of mask.
const MAX_HEADER: usize = 14;
/// A control frame has at most 125 bytes of payload, 2 of which are the code.
const MAX_REASON: usize = 123;
const OPCODE_CLOSE: u8 = 0x8;

/// The position of a stream of bytes in its sequence of frames.
#[derive(Clone, Debug, Default)]
pub(super) struct Frames {
    header: [u8; MAX_HEADER],
    have: usize,
    /// Payload still to come.
    left: u64,
    /// A close frame has begun. Nothing may follow it.
    closing: bool,
}

// === impl Frames ===

impl Frames {
    /// Records that `bytes` have passed.
    pub(super) fn advance(&mut self, mut bytes: &[u8]) {
        loop {
            let skip = usize::try_from(self.left).map_or(bytes.len(), |left| left.min(bytes.len()));
            self.left -= skip as u64;
            bytes = bytes.get(skip..).unwrap_or_default();
            let Some((byte, rest)) = bytes.split_first() else { return };
            bytes = rest;
            if let Some(slot) = self.header.get_mut(self.have) {
                *slot = *byte;
            }
            self.have += 1;
            self.complete_header();
        }
    }

    /// Between two frames, and neither was a close frame: only here may keygate insert one.
    pub(super) fn may_close(&self) -> bool {
        self.have == 0 && self.left == 0 && !self.closing
    }

    fn complete_header(&mut self) {
        if self.have < 2 {
            return;
        }
        let [first, second, extended @ ..] = &self.header;
        let [a, b, c, d, e, f, g, h, ..] = *extended;
        let (length_bytes, length) = match second & 0x7f {
            126 => (2, u64::from(u16::from_be_bytes([a, b]))),
            127 => (8, u64::from_be_bytes([a, b, c, d, e, f, g, h])),
            short => (0, u64::from(short)),
        };
        // A server must not mask, but keygate follows the frames of one that does.
        let mask_bytes = if second & 0x80 == 0 { 0 } else { 4 };
        if self.have < 2 + length_bytes + mask_bytes {
            return;
        }
        self.closing |= first & 0x0f == OPCODE_CLOSE;
        self.left = length;
        self.have = 0;
    }
}

/// An unmasked close frame, as a server sends it.
pub(super) fn close_frame(code: u16, reason: &str) -> Bytes {
    let fits = |end: &usize| reason.is_char_boundary(*end);
    let end = (0..=reason.len().min(MAX_REASON)).rev().find(fits).unwrap_or(0);
    let reason = reason.get(..end).unwrap_or_default();
    let mut frame = BytesMut::with_capacity(4 + reason.len());
    frame.put_u8(0x80 | OPCODE_CLOSE);
    frame.put_u8(2 + reason.len() as u8);
    frame.put_u16(code);
    frame.put_slice(reason.as_bytes());
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MASKING_KEY: [u8; 4] = [1, 2, 3, 4];

    /// A frame with `length` bytes of payload, all of them 0x88: a close frame's first byte.
    fn frame(first: u8, length: usize, key: Option<[u8; 4]>) -> Vec<u8> {
        let mask = if key.is_some() { 0x80 } else { 0 };
        let mut bytes = vec![first];
        match length {
            0..126 => bytes.push(mask | length as u8),
            126..65536 => {
                bytes.push(mask | 126);
                bytes.extend((length as u16).to_be_bytes());
            }
            _ => {
                bytes.push(mask | 127);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        bytes.extend(key.into_iter().flatten());
        bytes.resize(bytes.len() + length, 0x88);
        bytes
    }

    #[test]
    fn boundaries() {
        for length in [0, 1, 125, 126, 127, 65535, 65536] {
            for key in [None, Some(MASKING_KEY)] {
                let bytes = frame(0x82, length, key);
                let mut frames = Frames::default();
                assert!(frames.may_close());
                for (at, byte) in bytes.iter().enumerate() {
                    frames.advance(&[*byte]);
                    let last = at + 1 == bytes.len();
                    assert_eq!(frames.may_close(), last, "{length} {key:?} at {at}");
                }
            }
        }
    }

    #[test]
    fn nothing_after_a_close_frame() {
        let mut frames = Frames::default();
        frames.advance(&frame(0x88, 2, None));
        assert!(!frames.may_close());
    }

    #[test]
    fn a_length_that_no_frame_can_have_never_ends() {
        let mut frames = Frames::default();
        frames.advance(&[0x82, 127, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        frames.advance(&[0; 4096]);
        assert!(!frames.may_close());
    }

    #[test]
    fn close_frames() {
        assert_eq!(&close_frame(1008, "key revoked")[..], b"\x88\x0d\x03\xf0key revoked");
        assert_eq!(close_frame(4001, "").as_ref(), [0x88, 2, 0x0f, 0xa1]);
        let long = close_frame(1008, &"ä".repeat(100));
        assert_eq!(long.len(), 2 + 2 + 122);
        assert_eq!(long[1], 124);
        assert!(std::str::from_utf8(&long[4..]).is_ok());
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(
            lengths in proptest::collection::vec((0usize..70_000, any::<bool>()), 1..5),
            cut in any::<prop::sample::Index>(),
        ) {
            let of = |(length, masked): &(usize, bool)| {
                frame(0x01, *length, masked.then_some(MASKING_KEY))
            };
            let bytes: Vec<u8> = lengths.iter().flat_map(of).collect();
            let mut frames = Frames::default();
            let (a, b) = bytes.split_at(cut.index(bytes.len()));
            frames.advance(a);
            frames.advance(b);
            prop_assert!(frames.may_close());
        }
    }
}
