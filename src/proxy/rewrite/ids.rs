//! Names for requests and traces.

use std::cell::Cell;

use http::HeaderValue;

/// A `traceparent` of ours.
#[derive(Debug)]
pub(crate) struct Trace(pub(super) [u8; 55]);

/// Unique names for requests and traces: random start per worker, then counted. Not secret.
#[derive(Debug)]
pub(crate) struct Ids {
    high: u64,
    low: Cell<u64>,
}

// === impl Ids ===

impl Ids {
    pub(crate) fn new(seed: [u8; 16]) -> Self {
        let seed = u128::from_le_bytes(seed);
        Self { high: (seed >> 64) as u64, low: Cell::new(seed as u64) }
    }

    /// 32 hexadecimal digits.
    pub(crate) fn next(&self) -> HeaderValue {
        let mut text = [0; 32];
        let (high, low) = text.split_at_mut(16);
        put_hex(high, self.high);
        put_hex(low, self.step());
        value_of(&text)
    }

    /// A `traceparent` that begins a trace (W3C Trace Context, version 00, not sampled).
    pub(crate) fn begin_trace(&self, request_id: &HeaderValue) -> Trace {
        let mut text = *b"00-................................-................-00";
        let (trace, rest) = text.split_at_mut(35);
        if let Some(trace) = trace.get_mut(3..) {
            if request_id.len() == trace.len() {
                trace.copy_from_slice(request_id.as_bytes());
            } else {
                let (high, low) = trace.split_at_mut(16);
                put_hex(high, self.high);
                put_hex(low, self.step());
            }
        }
        if let Some(span) = rest.get_mut(1..17) {
            put_hex(span, self.step());
        }
        Trace(text)
    }

    /// Weyl sequence through a mixer (SplitMix64): distinct for 2^64 steps.
    fn step(&self) -> u64 {
        let next = self.low.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.low.set(next);
        let mixed = (next ^ (next >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// Fills `out` with the 16 digits of `number`, eight at a time.
fn put_hex(out: &mut [u8], number: u64) {
    let halves = [(number >> 32) as u32, number as u32];
    for (out, half) in out.chunks_exact_mut(8).zip(halves) {
        out.copy_from_slice(&hex(half));
    }
}

/// Eight digits. Spreads the nibbles over eight bytes, and adds to each what makes it a digit.
const fn hex(number: u32) -> [u8; 8] {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let mut spread = number as u64;
    spread = (spread | (spread << 16)) & 0x0000_ffff_0000_ffff;
    spread = (spread | (spread << 8)) & 0x00ff_00ff_00ff_00ff;
    spread = (spread | (spread << 4)) & 0x0f0f_0f0f_0f0f_0f0f;
    let letters = ((spread + ONES * 6) >> 4) & ONES;
    (spread + ONES * b'0' as u64 + letters * (b'a' - b'0' - 10) as u64).to_be_bytes()
}

/// Hexadecimal digits and dashes are always a value.
fn value_of(text: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(text).unwrap_or(HeaderValue::from_static("0"))
}

/// Whether a `traceparent` of the client is well-formed; else a new trace begins.
pub(crate) fn is_traceparent(bytes: &[u8]) -> bool {
    let hex = |part: Option<&[u8]>| {
        part.is_some_and(|p| p.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
    };
    let nonzero = |part: Option<&[u8]>| part.is_some_and(|p| p.iter().any(|b| *b != b'0'));
    bytes.len() == 55
        && bytes.starts_with(b"00-")
        && [2, 35, 52].iter().all(|at| bytes.get(*at) == Some(&b'-'))
        && hex(bytes.get(3..35))
        && hex(bytes.get(36..52))
        && hex(bytes.get(53..55))
        && nonzero(bytes.get(3..35))
        && nonzero(bytes.get(36..52))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_those_of_the_formatter() {
        let mut number = 0x0123_4567_89ab_cdef_u64;
        for _ in 0..1000 {
            let mut out = [0; 16];
            put_hex(&mut out, number);
            assert_eq!(std::str::from_utf8(&out).unwrap(), format!("{number:016x}"));
            number = number.rotate_left(7).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
    }
}
