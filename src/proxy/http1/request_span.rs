//! Where a request ends that hyper reads: what comes behind it is the next one's, and is judged before
//! anybody reads it.

#[cfg(test)]
mod tests;

use super::chunks::ChunkReader;

/// How the end of a request's body shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestBodyEnd {
    /// The last chunk says so.
    Chunked,
    /// The body has this many bytes; without a body 0.
    Counted(u64),
}

/// The bytes of one request, from the first of its head on.
pub(crate) struct RequestSpan {
    /// Bytes of the head, and of a counted body, that are to come.
    left: u64,
    chunks: Option<ChunkReader>,
    is_broken: bool,
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

    /// Reads on: returns how many of these bytes are the request's. Of broken chunks none are.
    pub(crate) fn read(&mut self, bytes: &[u8]) -> usize {
        let counted = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
        self.left -= counted as u64;
        let rest = bytes.get(counted..).unwrap_or_default();
        match &mut self.chunks {
            Some(chunks) if !rest.is_empty() => match chunks.skip(rest) {
                Ok(of_body) => counted + of_body,
                Err(_) => {
                    self.is_broken = true;
                    counted
                }
            },
            _ => counted,
        }
    }

    /// Its chunks are none: nobody can say where it ends.
    pub(crate) fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// All of it was read.
    pub(crate) fn is_over(&self) -> bool {
        self.left == 0 && self.chunks.as_ref().is_none_or(ChunkReader::is_over)
    }
}
