//! The chunked transfer coding (RFC 9112 section 7.1), read and written. It does no I/O: the caller
//! supplies bytes as they arrive, split anywhere.

#[cfg(test)]
mod tests;

use std::ops::Range;

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// Removes the coding from a body, or keeps only the lines of its chunks.
#[derive(Debug, Default)]
pub(crate) struct ChunkReader {
    form: ChunkForm,
    step: ChunkState,
    /// Bytes of this chunk's data still to come. While the size is being read: the size so far.
    left: u64,
    /// Digits read so far of the current size, up to [`USUAL_DIGITS`].
    digits: u8,
    /// Bytes of extensions, padding and zeros beyond the usual digits, of all chunks together.
    extra: usize,
    /// The trailer section, line ends included.
    trailers: Vec<u8>,
    /// Bytes of data that were read and not [asked for](Self::take_data_length).
    data_read: u64,
}

/// What is kept of a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ChunkForm {
    /// Its data.
    #[default]
    Data,
    /// Its chunks, each with a size of one to sixteen digits and nothing after it. The last chunk,
    /// which has no data, and the trailers are left out. This is for a writer that continues in
    /// chunks: nothing has to move.
    Chunks,
}

/// The place in the grammar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ChunkState {
    /// The first digit of a size.
    #[default]
    Start,
    Size,
    /// White space after a size, which some servers add as padding.
    Padding,
    Extension,
    /// The line feed after a size.
    SizeEnd,
    Data,
    /// The line end after the data.
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
pub(crate) struct KeptBody {
    /// Where the data or the chunks are now: in one piece, however the input was split.
    pub(crate) kept: Range<usize>,
    /// Bytes that belonged to the body. If bytes follow them, the body has ended.
    pub(crate) used: usize,
}

/// A part of the coding, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum ChunkPart {
    /// A usual chunk that has arrived to its last byte, and the data in it.
    Chunk {
        all: Range<usize>,
        data: Range<usize>,
    },
    Data(Range<usize>),
    /// A usual line: the size of a chunk with data, or the end of its data.
    Line(Range<usize>),
    /// The end of a line with an unusual size, or with a size that was split.
    OtherSize,
    /// The line end after data, when it was split.
    OtherEnd,
}

/// What one call passed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SkippedChunks {
    /// Bytes that belonged to the body. If bytes follow them, the body has ended.
    pub(crate) used: usize,
    /// Where the lines of the trailer section are among them.
    pub(crate) trailers: Range<usize>,
}

/// The body breaks the grammar, or exceeds a bound.
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
/// Digits of the largest size. RFC 9112 section 7.1 allows any number of leading zeros. Zeros that
/// make a size longer than this count as extra bytes.
const USUAL_DIGITS: u8 = 16;
/// Fields that a trailer section may have.
const MOST_TRAILERS: usize = 100;
/// Bytes of a size line: 16 digits and a line end.
const SIZE_LINE: usize = USUAL_DIGITS as usize + CHUNK_END.len();
/// The most digits of a size that are read in one step. No usual chunk has more than 4 GiB.
const QUICK_DIGITS: usize = 8;

// === impl ChunkReader ===

impl ChunkReader {
    /// For a body of which `form` is kept.
    pub(crate) fn keeping(form: ChunkForm) -> Self {
        Self { form, ..Self::default() }
    }

    pub(crate) fn form(&self) -> ChunkForm {
        self.form
    }

    /// Bytes of data since the last call.
    pub(crate) fn take_data_length(&mut self) -> u64 {
        std::mem::take(&mut self.data_read)
    }

    /// Space that [`read`](Self::read) needs before the bytes of a body that has begun: if the
    /// beginning of a line came earlier, the whole line is written.
    pub(crate) fn room(&self) -> usize {
        match self.form {
            ChunkForm::Data => 0,
            ChunkForm::Chunks => SIZE_LINE,
        }
    }

    /// Reads further, from `begin`. Afterwards, what is kept of all chunks in `bytes` is in one
    /// piece, so that many small chunks cost no more hand-overs than a large one.
    ///
    /// # Errors
    /// [`BadChunk`]. Nothing more can be read after it.
    pub(crate) fn read(&mut self, bytes: &mut [u8], begin: usize) -> Result<KeptBody, BadChunk> {
        let keeps_lines = self.form == ChunkForm::Chunks;
        let mut kept = begin..begin;
        let mut at = begin;
        while let Some(part) = self.next_part(bytes, &mut at)? {
            match part {
                ChunkPart::Chunk { mut all, data } => {
                    self.data_read += data.len() as u64;
                    if !keeps_lines {
                        keep(bytes, &mut kept, data);
                        continue;
                    }
                    // Keep further chunks of this kind together with it.
                    while let Some(rest) = bytes.get(at..)
                        && let Some(size) = QuickSize::read(rest)
                        && let Some(end) = size.chunk_end(rest)
                    {
                        self.data_read += size.size;
                        at += end + CHUNK_END.len();
                        all.end = at;
                    }
                    keep(bytes, &mut kept, all);
                }
                ChunkPart::Data(data) => {
                    self.data_read += data.len() as u64;
                    keep(bytes, &mut kept, data);
                }
                ChunkPart::Line(line) if keeps_lines => keep(bytes, &mut kept, line),
                ChunkPart::OtherSize if keeps_lines => {
                    let line = SizeLine::of(self.left);
                    put(bytes, &mut kept, at, line.text()).ok_or(BadChunk::Size)?;
                }
                ChunkPart::OtherEnd if keeps_lines => {
                    put(bytes, &mut kept, at, CHUNK_END).ok_or(BadChunk::LineEnd)?;
                }
                ChunkPart::Line(_) | ChunkPart::OtherSize | ChunkPart::OtherEnd => {}
            }
        }
        Ok(KeptBody { kept, used: at - begin })
    }

    /// Reads further without changing the bytes. The trailer section is checked when it is
    /// complete, and then forgotten.
    ///
    /// # Errors
    /// [`BadChunk`]. Nothing more can be read after it.
    pub(crate) fn skip(&mut self, bytes: &[u8]) -> Result<SkippedChunks, BadChunk> {
        let (mut at, before) = (0, self.trailers.len());
        while self.next_part(bytes, &mut at)?.is_some() {}
        let fresh = self.trailers.len() - before;
        // After the trailers, only the line end of the section is left.
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

    /// Reads from `at` to the end of the next part. `None`: the body has ended, or its next bytes
    /// have not arrived.
    fn next_part(&mut self, bytes: &[u8], at: &mut usize) -> Result<Option<ChunkPart>, BadChunk> {
        while let Some(rest @ [byte, ..]) = bytes.get(*at..) {
            let before = self.step;
            match before {
                ChunkState::Over => break,
                ChunkState::Data => {
                    let here = rest.len();
                    let count = usize::try_from(self.left).map_or(here, |left| left.min(here));
                    self.left -= count as u64;
                    if self.left == 0 {
                        self.step = ChunkState::DataCr;
                    }
                    return Ok(Some(ChunkPart::Data(pass(at, count))));
                }
                ChunkState::DataCr if rest.starts_with(CHUNK_END) => {
                    self.step = ChunkState::Start;
                    return Ok(Some(ChunkPart::Line(pass(at, CHUNK_END.len()))));
                }
                ChunkState::Start => {
                    if let Some(size) = QuickSize::read(rest) {
                        if let Some(end) = size.chunk_end(rest) {
                            let all = pass(at, end + CHUNK_END.len());
                            let data = all.start + size.length..all.start + end;
                            return Ok(Some(ChunkPart::Chunk { all, data }));
                        }
                        self.left = size.size;
                        self.step = ChunkState::Data;
                        return Ok(Some(ChunkPart::Line(pass(at, size.length))));
                    }
                }
                _ => {}
            }
            self.advance(*byte)?;
            *at += 1;
            match (before, self.step) {
                (ChunkState::SizeEnd, ChunkState::Data) => return Ok(Some(ChunkPart::OtherSize)),
                (ChunkState::DataLf, ChunkState::Start) => return Ok(Some(ChunkPart::OtherEnd)),
                _ => {}
            }
        }
        Ok(None)
    }

    /// The last chunk and the trailers after it were read.
    pub(crate) fn is_over(&self) -> bool {
        self.step == ChunkState::Over
    }

    pub(crate) fn has_trailers(&self) -> bool {
        !self.trailers.is_empty()
    }

    /// The trailers, once the body [has ended](Self::is_over). `None`: there are none.
    ///
    /// # Errors
    /// They are not fields.
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
            // TERM.EXT: a reader that ends the line here finds a different chunk (CVE-2025-22871).
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

/// A size above 0 in the usual form: a few digits and the line end, all of which have arrived.
struct QuickSize {
    size: u64,
    /// Bytes of the line.
    length: usize,
}

impl QuickSize {
    fn read(bytes: &[u8]) -> Option<Self> {
        let mut size = 0;
        for (at, byte) in bytes.iter().take(QUICK_DIGITS + 1).enumerate() {
            let digit = match byte {
                b'0'..=b'9' => byte - b'0',
                b'a'..=b'f' => byte - b'a' + 10,
                b'A'..=b'F' => byte - b'A' + 10,
                b'\r' if at > 0 && size > 0 && bytes.get(at + 1) == Some(&b'\n') => {
                    return Some(Self { size, length: at + CHUNK_END.len() });
                }
                _ => return None,
            };
            size = size << 4 | u64::from(digit);
        }
        None
    }

    /// Where the chunk's data ends that begins with this line, if all of it is in `bytes`.
    fn chunk_end(&self, bytes: &[u8]) -> Option<usize> {
        let end = usize::try_from(self.size).ok()?.checked_add(self.length)?;
        bytes.get(end..)?.starts_with(CHUNK_END).then_some(end)
    }
}

/// Passes over the next `count` bytes, and returns their place.
fn pass(at: &mut usize, count: usize) -> Range<usize> {
    let begin = *at;
    *at += count;
    begin..*at
}

/// Keeps a part of `bytes` that needs no change. It moves only if something before it was left out.
fn keep(bytes: &mut [u8], kept: &mut Range<usize>, part: Range<usize>) {
    if kept.start == kept.end {
        *kept = part;
        return;
    }
    let end = kept.end + part.len();
    if kept.end != part.start {
        bytes.copy_within(part, kept.end);
    }
    kept.end = end;
}

/// Keeps `text` in place of a line that ends at `at`. The line is no shorter than `text` if all of
/// it is in `bytes`. `None`: there is no space for it, which [`ChunkReader::room`] rules out.
fn put(bytes: &mut [u8], kept: &mut Range<usize>, at: usize, text: &[u8]) -> Option<()> {
    if kept.start == kept.end {
        let begin = at.checked_sub(text.len())?;
        *kept = begin..begin;
    }
    let end = kept.end + text.len();
    bytes.get_mut(kept.end..end).filter(|_| end <= at)?.copy_from_slice(text);
    kept.end = end;
    Some(())
}

// --- written ---

/// The line that starts a chunk.
struct SizeLine {
    text: [u8; SIZE_LINE],
    begin: usize,
}

impl SizeLine {
    fn of(size: u64) -> Self {
        let mut line = Self { text: [0; SIZE_LINE], begin: SIZE_LINE };
        for byte in CHUNK_END.iter().rev() {
            line.push_front(*byte);
        }
        let mut rest = size;
        loop {
            line.push_front(char::from_digit((rest % 16) as u32, 16).map_or(b'0', |c| c as u8));
            rest /= 16;
            if rest == 0 {
                return line;
            }
        }
    }

    fn push_front(&mut self, byte: u8) {
        if let Some(begin) = self.begin.checked_sub(1)
            && let Some(place) = self.text.get_mut(begin)
        {
            (*place, self.begin) = (byte, begin);
        }
    }

    fn text(&self) -> &[u8] {
        self.text.get(self.begin..).unwrap_or_default()
    }
}

/// Starts a chunk of `length` bytes, which must not be 0: that would end the body.
pub(crate) fn put_chunk_size(out: &mut Vec<u8>, length: usize) {
    debug_assert!(length > 0, "a chunk of no bytes ends the body");
    out.extend_from_slice(SizeLine::of(length as u64).text());
}

/// What follows the data of a chunk.
pub(crate) const CHUNK_END: &[u8] = b"\r\n";
/// The last chunk, and no trailers.
pub(crate) const BODY_END: &[u8] = b"0\r\n\r\n";
/// The end of the last data, and of the body with it.
pub(crate) const CHUNK_AND_BODY_END: &[u8] = b"\r\n0\r\n\r\n";
