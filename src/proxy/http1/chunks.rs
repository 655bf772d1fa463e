//! The chunked transfer coding (RFC 9112 section 7.1), read and written. It does no I/O: the caller
//! brings bytes as they come, split anywhere.

#[cfg(test)]
mod tests;

use std::ops::Range;

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// Takes the coding off a body.
#[derive(Debug, Default)]
pub(crate) struct ChunkReader {
    step: ChunkState,
    /// Bytes of this chunk's data that are to come; while its size is being read, the size so far.
    left: u64,
    /// Digits of the size that is being read, up to [`USUAL_DIGITS`].
    digits: u8,
    /// Bytes of extensions, padding and zeros beyond the usual digits, of all chunks together.
    extra: usize,
    /// The trailer section, line ends included.
    trailers: Vec<u8>,
}

/// The place in the grammar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ChunkState {
    /// The first digit of a size.
    #[default]
    Start,
    Size,
    /// White space behind a size, which some servers pad it with.
    Padding,
    Extension,
    /// The line feed behind a size.
    SizeEnd,
    Data,
    /// The line end behind the data.
    DataCr,
    DataLf,
    /// The first byte of a trailer line, or the carriage return of the last line.
    Line,
    Trailer,
    TrailerLf,
    LastLf,
    Over,
}

/// What one call found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unchunked {
    /// Where the data is now: in one piece, whatever it was cut into.
    pub(crate) data: Range<usize>,
    /// Bytes that belonged to the body. What follows them is not the body's: the body is over.
    pub(crate) used: usize,
}

/// What one call passed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SkippedChunks {
    /// Bytes that belonged to the body. What follows them is not the body's: the body is over.
    pub(crate) used: usize,
    /// Where among them the lines of the trailer section are.
    pub(crate) trailers: Range<usize>,
}

/// The body does not keep to the grammar, or exceeds a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadChunk {
    #[error("a chunk's size is not a hexadecimal number")]
    Size,
    #[error("a chunk is longer than 2^63 - 1 bytes")]
    TooLong,
    #[error("a line of the chunked coding does not end with CR LF")]
    LineEnd,
    #[error("chunk extensions, padding and leading zeros are longer than 16 KiB")]
    Extra,
    #[error("the trailer section is not valid, or longer than 16 KiB")]
    Trailers,
}

/// Bytes of extensions, padding and needless zeros, and bytes of trailers, that one body may have.
/// Nobody needs them, and a sender could hide any amount of work in them (CVE-2023-39326).
const MOST_EXTRA: usize = 16 * 1024;
/// Digits of the largest size. RFC 9112 section 7.1 allows any number of leading zeros: those that
/// make a size longer than this count as extra bytes.
const USUAL_DIGITS: u8 = 16;
/// Fields that a trailer section may have.
const MOST_TRAILERS: usize = 100;
/// Bytes that a chunk has around its data, at most: 16 digits and two line ends.
const FRAME: usize = 20;

// === impl ChunkReader ===

impl ChunkReader {
    /// Reads on. The data of all chunks in `bytes` is moved together, so that many small chunks
    /// cost no more hand-overs than a large one.
    ///
    /// # Errors
    /// [`BadChunk`]; nothing more can be read then.
    pub(crate) fn read(&mut self, bytes: &mut [u8]) -> Result<Unchunked, BadChunk> {
        let mut data = 0..0;
        let mut at = 0;
        while let Some(found) = self.next_data(bytes, &mut at)? {
            if data.is_empty() {
                data = found;
            } else {
                let end = data.end + found.len();
                bytes.copy_within(found, data.end);
                data.end = end;
            }
        }
        Ok(Unchunked { data, used: at })
    }

    /// Reads on and leaves the bytes as they are. The trailer section is looked at when it is
    /// whole, and then forgotten.
    ///
    /// # Errors
    /// [`BadChunk`]; nothing more can be read then.
    pub(crate) fn skip(&mut self, bytes: &[u8]) -> Result<SkippedChunks, BadChunk> {
        let (mut at, before) = (0, self.trailers.len());
        while self.next_data(bytes, &mut at)?.is_some() {}
        let fresh = self.trailers.len() - before;
        // Behind the trailers there is only the line end of the section.
        let end = match self.step {
            ChunkState::Over => at.saturating_sub(2),
            ChunkState::LastLf => at.saturating_sub(1),
            _ => at,
        };
        let trailers = if fresh > 0 { end - fresh..end } else { 0..0 };
        if self.is_over() {
            self.take_trailers()?;
        }
        Ok(SkippedChunks { used: at, trailers })
    }

    /// Reads on from `at` up to the next data, and over it: returns where it is. `None`: the body is
    /// over, or its next bytes have not come.
    fn next_data(
        &mut self,
        bytes: &[u8],
        at: &mut usize,
    ) -> Result<Option<Range<usize>>, BadChunk> {
        while self.step != ChunkState::Over {
            let Some(byte) = bytes.get(*at) else { break };
            if self.step == ChunkState::Data {
                let here = bytes.len() - *at;
                let count = usize::try_from(self.left).map_or(here, |left| left.min(here));
                let data = *at..*at + count;
                *at = data.end;
                self.left -= count as u64;
                if self.left == 0 {
                    self.step = ChunkState::DataCr;
                }
                return Ok(Some(data));
            }
            self.advance(*byte)?;
            *at += 1;
        }
        Ok(None)
    }

    /// The last chunk and the trailers behind it were read.
    pub(crate) fn is_over(&self) -> bool {
        self.step == ChunkState::Over
    }

    pub(crate) fn has_trailers(&self) -> bool {
        !self.trailers.is_empty()
    }

    /// The trailers, once the body [is over](Self::is_over). `None`: there are none.
    ///
    /// # Errors
    /// They are no fields.
    pub(crate) fn take_trailers(&mut self) -> Result<Option<HeaderMap>, BadChunk> {
        let mut lines = std::mem::take(&mut self.trailers);
        if lines.is_empty() {
            return Ok(None);
        }
        lines.extend_from_slice(b"\r\n");
        let mut fields = [httparse::EMPTY_HEADER; MOST_TRAILERS];
        let Ok(httparse::Status::Complete((_, fields))) =
            httparse::parse_headers(&lines, &mut fields)
        else {
            return Err(BadChunk::Trailers);
        };
        let mut map = HeaderMap::with_capacity(fields.len());
        for field in fields {
            let name = HeaderName::from_bytes(field.name.as_bytes());
            let value = HeaderValue::from_bytes(field.value);
            let (Ok(name), Ok(value)) = (name, value) else { return Err(BadChunk::Trailers) };
            #[expect(clippy::disallowed_methods, reason = "what the upstream sent; may repeat")]
            map.append(name, value);
        }
        Ok(Some(map))
    }

    /// One byte that is not data.
    fn advance(&mut self, byte: u8) -> Result<(), BadChunk> {
        self.step = match (self.step, byte) {
            (ChunkState::Start | ChunkState::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = (byte as char).to_digit(16).ok_or(BadChunk::Size)?;
                self.digits = if self.step == ChunkState::Start { 0 } else { self.digits };
                if self.digits < USUAL_DIGITS {
                    self.digits += 1;
                } else {
                    self.count_extra()?;
                }
                self.left = self
                    .left
                    .checked_mul(16)
                    .map(|size| size + u64::from(digit))
                    .filter(|size| *size <= i64::MAX as u64)
                    .ok_or(BadChunk::TooLong)?;
                ChunkState::Size
            }
            (ChunkState::Size | ChunkState::Padding, b' ' | b'\t') => {
                self.count_extra()?;
                ChunkState::Padding
            }
            (ChunkState::Size | ChunkState::Padding, b';') => ChunkState::Extension,
            (ChunkState::Size | ChunkState::Padding | ChunkState::Extension, b'\r') => {
                ChunkState::SizeEnd
            }
            (ChunkState::Start | ChunkState::Size | ChunkState::Padding, _) => {
                return Err(BadChunk::Size);
            }
            // TERM.EXT: a reader that ends the line here finds another chunk (CVE-2025-22871).
            (ChunkState::Extension, b'\n') => return Err(BadChunk::LineEnd),
            (ChunkState::Extension, _) => {
                self.count_extra()?;
                ChunkState::Extension
            }
            (ChunkState::SizeEnd, b'\n') if self.left == 0 => ChunkState::Line,
            (ChunkState::SizeEnd, b'\n') => ChunkState::Data,
            (ChunkState::DataCr, b'\r') => ChunkState::DataLf,
            (ChunkState::DataLf, b'\n') => ChunkState::Start,
            (ChunkState::Line, b'\r') => ChunkState::LastLf,
            (ChunkState::LastLf, b'\n') => ChunkState::Over,
            (ChunkState::Trailer, b'\r') => self.trailer(byte, ChunkState::TrailerLf)?,
            (ChunkState::TrailerLf, b'\n') => self.trailer(byte, ChunkState::Line)?,
            (ChunkState::Line | ChunkState::Trailer, b'\n') => return Err(BadChunk::LineEnd),
            (ChunkState::Line | ChunkState::Trailer, _) => {
                self.trailer(byte, ChunkState::Trailer)?
            }
            (
                ChunkState::SizeEnd
                | ChunkState::DataCr
                | ChunkState::DataLf
                | ChunkState::LastLf
                | ChunkState::TrailerLf,
                _,
            ) => {
                return Err(BadChunk::LineEnd);
            }
            (ChunkState::Data | ChunkState::Over, _) => self.step,
        };
        Ok(())
    }

    fn count_extra(&mut self) -> Result<(), BadChunk> {
        self.extra += 1;
        if self.extra >= MOST_EXTRA { Err(BadChunk::Extra) } else { Ok(()) }
    }

    fn trailer(&mut self, byte: u8, next: ChunkState) -> Result<ChunkState, BadChunk> {
        self.trailers.push(byte);
        if self.trailers.len() >= MOST_EXTRA { Err(BadChunk::Trailers) } else { Ok(next) }
    }
}

// --- written ---

/// Starts a chunk of `length` bytes, which must not be 0: that would end the body.
pub(crate) fn put_chunk_size(out: &mut Vec<u8>, length: usize) {
    debug_assert!(length > 0, "a chunk of no bytes ends the body");
    out.reserve(FRAME);
    let mut digits = [0; 16];
    let mut begin = digits.len();
    let mut rest = length;
    while let Some(digit) = begin.checked_sub(1).and_then(|at| digits.get_mut(at)) {
        *digit = char::from_digit((rest % 16) as u32, 16).map_or(b'0', |c| c as u8);
        begin -= 1;
        rest /= 16;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(begin..).unwrap_or_default());
    out.extend_from_slice(CHUNK_END);
}

/// What follows the data of a chunk.
pub(crate) const CHUNK_END: &[u8] = b"\r\n";
/// The last chunk, and no trailers.
pub(crate) const BODY_END: &[u8] = b"0\r\n\r\n";
/// The end of the last data, and of the body with it.
pub(crate) const CHUNK_AND_BODY_END: &[u8] = b"\r\n0\r\n\r\n";
