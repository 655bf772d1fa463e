//! Names for requests and traces.

use std::cell::Cell;

use crate::config::Sampled;
use crate::proxy::http1::head::Fields;

/// Names one request in its answer, in the log and to the service: visible ASCII.
#[derive(Clone, Debug)]
pub(crate) enum RequestId {
    /// Hexadecimal digits.
    Made([u8; 32]),
    /// From a trusted proxy.
    Given(Box<str>),
}

/// A `traceparent` that keygate has made.
#[derive(Debug)]
pub(crate) struct Trace(pub(super) [u8; 55]);

/// Unique names for requests and traces: a random start per worker, then counted. Not secret.
#[derive(Debug)]
pub(crate) struct Ids {
    high: u64,
    low: Cell<u64>,
}

// === impl Trace ===

impl Trace {
    /// 32 hexadecimal digits.
    pub(crate) fn id(&self) -> Option<[u8; 32]> {
        self.0.get(3..35)?.try_into().ok()
    }
}

// === impl RequestId ===

impl RequestId {
    /// The most bytes of an id that somebody else has made.
    const LONGEST: usize = 128;

    /// An id from a trusted proxy. `None`: too long, empty, or not visible ASCII.
    pub(crate) fn given(value: &[u8]) -> Option<Self> {
        let fits = (1..=Self::LONGEST).contains(&value.len());
        let text = std::str::from_utf8(value).ok()?;
        (fits && value.iter().all(u8::is_ascii_graphic)).then(|| Self::Given(text.into()))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Made(digits) => digits,
            Self::Given(text) => text.as_bytes(),
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Made(digits) => std::str::from_utf8(digits).unwrap_or_default(),
            Self::Given(text) => text,
        }
    }
}

// === impl Ids ===

impl Ids {
    pub(crate) fn new(seed: [u8; 16]) -> Self {
        let seed = u128::from_le_bytes(seed);
        Self { high: (seed >> 64) as u64, low: Cell::new(seed as u64) }
    }

    pub(crate) fn next(&self) -> RequestId {
        let mut text = [0; 32];
        let (high, low) = text.split_at_mut(16);
        put_hex(high, self.high);
        put_hex(low, self.step());
        RequestId::Made(text)
    }

    /// A `traceparent` that begins a trace (W3C Trace Context, version 00). Its trace id is the
    /// request's id, if that has the right form.
    pub(crate) fn begin_trace(&self, request_id: &RequestId, sampled: Sampled) -> Trace {
        let mut text = match sampled {
            Sampled::Yes => *b"00-................................-................-01",
            Sampled::No => *b"00-................................-................-00",
        };
        let (trace, rest) = text.split_at_mut(35);
        if let Some(trace) = trace.get_mut(3..) {
            if is_trace_id(request_id.as_bytes()) {
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

/// Eight digits. Spreads the nibbles over eight bytes, and turns each into a digit by an addition.
const fn hex(number: u32) -> [u8; 8] {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let mut spread = number as u64;
    spread = (spread | (spread << 16)) & 0x0000_ffff_0000_ffff;
    spread = (spread | (spread << 8)) & 0x00ff_00ff_00ff_00ff;
    spread = (spread | (spread << 4)) & 0x0f0f_0f0f_0f0f_0f0f;
    let letters = ((spread + ONES * 6) >> 4) & ONES;
    (spread + ONES * b'0' as u64 + letters * (b'a' - b'0' - 10) as u64).to_be_bytes()
}

fn is_trace_id(bytes: &[u8]) -> bool {
    bytes.len() == 32
        && bytes.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        && bytes.iter().any(|b| *b != b'0')
}

/// The trace that a head belongs to: the trace id of its one `traceparent`, if that is valid (W3C
/// Trace Context section 3.2). Of a later version, only the part that version 00 defines is read.
pub(crate) fn trace_id(fields: &Fields) -> Option<[u8; 32]> {
    let mut all = fields.all("traceparent");
    let bytes = all.next().filter(|_| all.next().is_none())?;
    let hex = |part: &[u8]| part.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let named = |part: &[u8]| hex(part) && part.iter().any(|b| *b != b'0');
    let (version, trace) = (bytes.get(..2)?, bytes.get(3..35)?);
    let (parent, flags) = (bytes.get(36..52)?, bytes.get(53..55)?);
    let ends = match version {
        b"ff" => false,
        b"00" => bytes.len() == 55,
        _ => bytes.get(55).is_none_or(|b| *b == b'-'),
    };
    let dashes = [2, 35, 52].iter().all(|at| bytes.get(*at) == Some(&b'-'));
    let valid = ends && dashes && hex(version) && named(trace) && named(parent) && hex(flags);
    trace.try_into().ok().filter(|_| valid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_valid_traceparent_is() {
        let trace = "0af7651916cd43dd8448eb211c80319c";
        let parent = "b7ad6b7169203331";
        let good = format!("00-{trace}-{parent}-01");
        let cases: &[(&[&str], bool)] = &[
            (&[&good], true),
            (&[&format!("00-{trace}-{parent}-00")], true),
            (&[&format!("00-{trace}-{parent}-ff")], true),
            (&[&format!("cc-{trace}-{parent}-01")], true),
            (&[&format!("cc-{trace}-{parent}-01-what-the-future-brings")], true),
            (&[&format!("cc-{trace}-{parent}-01.")], false),
            (&[&format!("00-{trace}-{parent}-01-more")], false),
            (&[&format!("ff-{trace}-{parent}-01")], false),
            (&[&format!("00-{}-{parent}-01", "0".repeat(32))], false),
            (&[&format!("00-{trace}-{}-01", "0".repeat(16))], false),
            (&[&good.to_uppercase()], false),
            (&[&format!("0x-{trace}-{parent}-01")], false),
            (&[&format!("00-{trace}-{parent}-0g")], false),
            (&[&format!("00_{trace}-{parent}-01")], false),
            (&[&good[..54]], false),
            (&[""], false),
            (&[], false),
            (&[&good, &good], false),
        ];
        for (values, want) in cases {
            let mut fields = Fields::default();
            for value in *values {
                fields.push(b"traceparent", value.as_bytes());
            }
            let found = trace_id(&fields);
            assert_eq!(found.is_some(), *want, "{values:?}");
            assert!(found.is_none_or(|id| id == trace.as_bytes()), "{values:?}");
        }
    }

    #[test]
    fn a_trace_of_ours_is_valid() {
        let ids = Ids::new([7; 16]);
        let begun =
            |id: &str| ids.begin_trace(&RequestId::given(id.as_bytes()).unwrap(), Sampled::Yes);
        // A client's own id, through a trusted proxy, may have any form.
        for id in
            ["request-1", "0af7651916cd43dd8448eb211c80319c", "................................"]
        {
            let trace = begun(id);
            let mut fields = Fields::default();
            fields.push(b"traceparent", &trace.0);
            assert_eq!(trace_id(&fields), trace.id(), "{id}");
        }
        assert_eq!(
            begun("0af7651916cd43dd8448eb211c80319c").id().unwrap(),
            *b"0af7651916cd43dd8448eb211c80319c"
        );
    }

    #[test]
    fn what_a_given_request_id_is() {
        let longest = "x".repeat(RequestId::LONGEST);
        for id in ["1", "a\"b<c>", &longest] {
            assert_eq!(RequestId::given(id.as_bytes()).unwrap().as_str(), id);
        }
        for id in ["", "a b", "a\r\nb", "\u{7f}", "\u{e9}", &format!("{longest}x")] {
            assert!(RequestId::given(id.as_bytes()).is_none(), "{id:?}");
        }
    }

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
