//! Where a request that hyper reads ends. The bytes after it belong to the next one, and are judged
//! before anybody reads them. hyper does not get the request's trailers either. Nobody wants them
//! (CVE-2013-5704), and after them hyper does not report the body's end once the answer has ended.

#[cfg(test)]
mod tests;

use std::ops::Range;

use super::chunks::{BadChunk, ChunkReader};
use super::length::RequestBodyEnd;

/// The bytes of one request, from the first of its head on.
pub(crate) struct RequestSpan {
    /// Bytes of the head, and of a counted body, still to come.
    left: u64,
    chunks: Option<ChunkReader>,
    is_broken: bool,
}

/// What some bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SpanBytes {
    /// Number of bytes that belong to the request. The others belong to the next one.
    pub(crate) used: usize,
    /// Which of those are its trailers.
    pub(crate) trailers: Range<usize>,
}

// === impl RequestSpan ===

impl RequestSpan {
    /// `head_length`: bytes of the head, empty lines before it included.
    pub(crate) fn new(head_length: usize, end: RequestBodyEnd) -> Self {
        let head = head_length as u64;
        match end {
            RequestBodyEnd::Chunked => {
                Self { left: head, chunks: Some(ChunkReader::default()), is_broken: false }
            }
            RequestBodyEnd::Counted(body) => {
                Self { left: head.saturating_add(body), chunks: None, is_broken: false }
            }
        }
    }

    /// Reads further.
    ///
    /// # Errors
    /// The chunks or the trailers are broken, so it is unknown where the request ends.
    pub(crate) fn read(&mut self, bytes: &[u8]) -> Result<SpanBytes, BadChunk> {
        let counted = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
        self.left -= counted as u64;
        let rest = bytes.get(counted..).unwrap_or_default();
        match &mut self.chunks {
            Some(chunks) if !rest.is_empty() => {
                let found = chunks.skip(rest).inspect_err(|_| self.is_broken = true)?;
                let trailers = counted + found.trailers.start..counted + found.trailers.end;
                Ok(SpanBytes { used: counted + found.used, trailers })
            }
            _ => Ok(SpanBytes { used: counted, trailers: 0..0 }),
        }
    }

    /// Whether a part of it was broken.
    pub(crate) fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// Whether all of it was read.
    pub(crate) fn is_over(&self) -> bool {
        self.left == 0 && self.chunks.as_ref().is_none_or(ChunkReader::is_over)
    }
}
