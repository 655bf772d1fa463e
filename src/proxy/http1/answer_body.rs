//! The body of an answer on its way from the upstream: where it ends, and what follows it.

#[cfg(test)]
mod tests;

use http::header::HeaderMap;

use super::chunks::{BadChunk, ChunkForm, ChunkReader, KeptBody};
use super::length::BodyLength;

/// Finds the data of a body in the bytes that arrive.
#[derive(Debug)]
pub(crate) enum AnswerBody {
    /// The number of bytes still to come.
    Counted(u64),
    Chunked(Box<ChunkReader>),
    UntilClose,
    /// The connection is closed, which ended the body.
    Closed,
}

/// The connection ended before the body did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the upstream closed the connection in the middle of its answer")]
pub(crate) struct Truncated;

// === impl AnswerBody ===

impl AnswerBody {
    /// `form`: what is kept of a chunked body.
    pub(crate) fn new(length: BodyLength, form: ChunkForm) -> Self {
        match length {
            BodyLength::None => Self::Counted(0),
            BodyLength::Counted(length) => Self::Counted(length),
            BodyLength::Chunked => Self::Chunked(Box::new(ChunkReader::keeping(form))),
            BodyLength::UntilClose => Self::UntilClose,
        }
    }

    /// What is kept of its chunks. For a body that is not chunked: only data.
    pub(crate) fn form(&self) -> ChunkForm {
        match self {
            Self::Chunked(chunks) => chunks.form(),
            Self::Counted(_) | Self::UntilClose | Self::Closed => ChunkForm::Data,
        }
    }

    /// Space that [`read`](Self::read) needs before the bytes of a body that has begun.
    pub(crate) fn room(&self) -> usize {
        match self {
            Self::Chunked(chunks) => chunks.room(),
            Self::Counted(_) | Self::UntilClose | Self::Closed => 0,
        }
    }

    /// Bytes of data in a piece of `length` bytes, which is all that was read since the last call.
    pub(crate) fn data_in(&mut self, length: usize) -> u64 {
        match self {
            Self::Chunked(chunks) if chunks.form() == ChunkForm::Chunks => {
                chunks.take_data_length()
            }
            _ => length as u64,
        }
    }

    /// Finds the body in `bytes` from `begin` on, and moves together what is kept of it. Unused
    /// bytes do not belong to the body: the upstream sent more than it was asked for.
    ///
    /// # Errors
    /// The chunks are not what RFC 9112 section 7.1 says.
    pub(crate) fn read(&mut self, bytes: &mut [u8], begin: usize) -> Result<KeptBody, BadChunk> {
        let all = bytes.len().saturating_sub(begin);
        let used = match self {
            Self::Chunked(chunks) => return chunks.read(bytes, begin),
            Self::Counted(left) => {
                let used = usize::try_from(*left).map_or(all, |left| left.min(all));
                *left -= used as u64;
                used
            }
            Self::UntilClose => all,
            Self::Closed => 0,
        };
        Ok(KeptBody { kept: begin..begin + used, used })
    }

    /// The connection was closed.
    ///
    /// # Errors
    /// The body had not ended.
    pub(crate) fn close(&mut self) -> Result<(), Truncated> {
        match self {
            Self::UntilClose => {
                *self = Self::Closed;
                Ok(())
            }
            _ if self.is_over() => Ok(()),
            _ => Err(Truncated),
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        match self {
            Self::Counted(left) => *left == 0,
            Self::Chunked(chunks) => chunks.is_over(),
            Self::UntilClose => false,
            Self::Closed => true,
        }
    }

    /// Bytes still to come, where that is known.
    pub(crate) fn left(&self) -> Option<u64> {
        match self {
            Self::Counted(left) => Some(*left),
            Self::Closed => Some(0),
            Self::Chunked(_) | Self::UntilClose => None,
        }
    }

    /// The trailers of a body that has ended, once.
    ///
    /// # Errors
    /// They are not fields.
    pub(crate) fn take_trailers(&mut self) -> Result<Option<HeaderMap>, BadChunk> {
        match self {
            Self::Chunked(chunks) => chunks.take_trailers(),
            Self::Counted(_) | Self::UntilClose | Self::Closed => Ok(None),
        }
    }

    pub(crate) fn has_trailers(&self) -> bool {
        matches!(self, Self::Chunked(chunks) if chunks.has_trailers())
    }
}
