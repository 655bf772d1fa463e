//! The output of the body: written, counted and hashed in one pass. Imports core only.

use std::io::{self, BufReader, BufWriter, Read, Write};

use aws_lc_rs::digest::{Context, SHA256};

use crate::table::layout::ALIGN;
use crate::table::manifest::BodyHash;

/// Writes, counts and hashes.
pub(crate) struct BodyOutput<F: Write> {
    writer: BufWriter<F>,
    hash: Context,
    bytes: u64,
}

// === impl BodyOutput ===

impl<F: Write> BodyOutput<F> {
    pub(crate) fn new(file: F) -> Self {
        Self {
            writer: BufWriter::with_capacity(1 << 18, file),
            hash: Context::new(&SHA256),
            bytes: 0,
        }
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        self.writer.write_all(bytes)
    }

    pub(crate) fn pad(&mut self) -> io::Result<()> {
        let missing = self.bytes.next_multiple_of(ALIGN as u64) - self.bytes;
        let zeros = [0u8; ALIGN];
        self.write(zeros.get(..missing as usize).unwrap_or_default())
    }

    pub(crate) fn copy(&mut self, from: impl Read) -> io::Result<()> {
        let mut reader = BufReader::with_capacity(1 << 18, from);
        loop {
            let chunk = io::BufRead::fill_buf(&mut reader)?;
            if chunk.is_empty() {
                return Ok(());
            }
            let read = chunk.len();
            self.write(chunk)?;
            io::BufRead::consume(&mut reader, read);
        }
    }

    pub(crate) fn finish(self) -> io::Result<(F, u64, BodyHash)> {
        let mut sha256 = [0; 32];
        let hash = self.hash.finish();
        sha256.iter_mut().zip(hash.as_ref()).for_each(|(to, from)| *to = *from);
        let file = self.writer.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok((file, self.bytes, BodyHash(sha256)))
    }
}
