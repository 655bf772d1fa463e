//! The memory that holds a file while it is in force. Imports nothing of the crate.
//!
//! A look-up touches two places of a large table, which no cache holds. With pages of 4 KiB it also
//! waits for the page table, which is itself too large for the caches: huge pages halve its time.
//! The allocator is built without them, because they would triple the memory of an idle process. So
//! large buffers get memory of their own, which is returned as a whole.

use std::io::{self, Read};
use std::ops::{Deref, DerefMut};

use memmap2::{Advice, MmapMut};

/// From this size, bytes get memory of their own.
const LARGE: usize = 4 << 20;

/// Size of a buffer for data of unstated length.
const FIRST: usize = 64 << 10;

/// Bytes of a table or patch.
pub struct Buffer {
    place: Backing,
    len: usize,
}

enum Backing {
    Heap(Vec<u8>),
    Own(MmapMut),
}

// === impl Buffer ===

impl Buffer {
    /// This many zeros; an error if there is not enough memory.
    pub(crate) fn zeroed(len: usize) -> io::Result<Self> {
        let place = if len < LARGE {
            let mut bytes = Vec::new();
            bytes.try_reserve_exact(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
            bytes.resize(len, 0);
            Backing::Heap(bytes)
        } else {
            let map = MmapMut::map_anon(len)?;
            // A kernel without huge pages uses small ones.
            let _ = map.advise(Advice::HugePage);
            Backing::Own(map)
        };
        Ok(Self { place, len })
    }

    /// Reads to the end, but at most one byte beyond `limit`: the length then shows that the data
    /// is longer. `expected` bytes need no second buffer.
    pub fn read(reader: &mut impl Read, expected: u64, limit: u64) -> io::Result<Self> {
        let size = |bytes: u64| usize::try_from(bytes).map_err(|_| io::ErrorKind::OutOfMemory);
        let most = size(limit.saturating_add(1))?;
        // One more, so that the end is seen without growing.
        let first = if expected == 0 { FIRST } else { size(expected.saturating_add(1))? };
        let mut buffer = Self::zeroed(first.min(most))?;
        let mut filled = 0;
        loop {
            if filled == buffer.len {
                if filled == most {
                    break;
                }
                let mut larger = Self::zeroed(filled.saturating_mul(2).min(most))?;
                if let Some(start) = larger.get_mut(..filled) {
                    start.copy_from_slice(&buffer);
                }
                buffer = larger;
            }
            match reader.read(buffer.get_mut(filled..).unwrap_or_default()) {
                Ok(0) => break,
                Ok(more) => filled += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        buffer.len = filled;
        Ok(buffer)
    }

    /// Bytes of memory that it uses.
    pub(crate) fn resident(&self) -> usize {
        match &self.place {
            Backing::Heap(bytes) => bytes.capacity(),
            Backing::Own(map) => map.len(),
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let all: &[u8] = match &self.place {
            Backing::Heap(bytes) => bytes,
            Backing::Own(map) => map,
        };
        all.get(..self.len).unwrap_or(all)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        let all: &mut [u8] = match &mut self.place {
            Backing::Heap(bytes) => bytes,
            Backing::Own(map) => map,
        };
        let len = self.len.min(all.len());
        all.get_mut(..len).unwrap_or_default()
    }
}

impl From<Vec<u8>> for Buffer {
    fn from(bytes: Vec<u8>) -> Self {
        Self { len: bytes.len(), place: Backing::Heap(bytes) }
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never the bytes: they contain digests.
        f.debug_struct("Buffer").field("len", &self.len).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_whatever_was_expected_and_no_more_than_the_limit() {
        let bytes: Vec<u8> = (0..LARGE * 2 + 5).map(|n| (n % 251) as u8).collect();
        for len in [0, 1, FIRST - 1, FIRST, FIRST + 1, LARGE - 1, LARGE, bytes.len()] {
            let file = &bytes[..len];
            for expected in [0, 1, len as u64, len as u64 + 1] {
                for limit in [0, len as u64, u64::from(u32::MAX)] {
                    let buffer = Buffer::read(&mut &*file, expected, limit).unwrap();
                    let wanted = len.min(limit as usize + 1);
                    assert_eq!(buffer.len(), wanted, "{len} {expected} {limit}");
                    assert!(*buffer == file[..wanted]);
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_had_is_an_error() {
        assert!(Buffer::zeroed(usize::MAX).is_err());
        assert!(Buffer::read(&mut io::empty(), u64::MAX - 1, u64::MAX).is_err());
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::ConnectionReset.into())
            }
        }
        assert!(Buffer::read(&mut Broken, 10, 10).is_err());
    }
}
