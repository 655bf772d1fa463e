//! External sort of byte strings within a bound of memory. Files come from the caller.
//! Imports core only.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};

/// Provides empty files for data that does not fit in memory. They are dropped after use.
pub trait Spool {
    type File: Read + Write + Seek;

    fn fresh(&mut self) -> io::Result<Self::File>;
}

/// A spool that keeps everything in memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct InMemory;

/// Collects byte strings of at most 64 KiB, in runs that fit into `memory`.
pub(crate) struct Sorter<F> {
    memory: usize,
    arena: Vec<u8>,
    /// The first eight bytes, big-endian, and the position of the string: most comparisons need no
    /// more.
    order: Vec<(u64, usize, u16)>,
    runs: Vec<F>,
}

/// The strings in ascending order.
pub(crate) enum Sorted<F> {
    Memory { arena: Vec<u8>, order: std::vec::IntoIter<(u64, usize, u16)> },
    Merge { heap: BinaryHeap<Reverse<RunHead>>, runs: Vec<BufReader<F>>, current: Vec<u8> },
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RunHead {
    bytes: Vec<u8>,
    run: usize,
}

/// Read buffers of a merge. Small enough that hundreds of runs stay within any sensible bound.
const BUFFER: usize = 64 * 1024;

// === impl InMemory ===

impl Spool for InMemory {
    type File = io::Cursor<Vec<u8>>;

    fn fresh(&mut self) -> io::Result<Self::File> {
        Ok(io::Cursor::default())
    }
}

// === impl Sorter ===

impl<F: Read + Write + Seek> Sorter<F> {
    pub(crate) fn new(memory: usize) -> Self {
        Self { memory, arena: Vec::new(), order: Vec::new(), runs: Vec::new() }
    }

    pub(crate) fn push(
        &mut self,
        bytes: &[u8],
        spool: &mut impl Spool<File = F>,
    ) -> io::Result<()> {
        let length = u16::try_from(bytes.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let entry = size_of::<(u64, usize, u16)>();
        // Vectors grow by doubling, so only half of the bound may be filled.
        let used = self.arena.len() + bytes.len() + (self.order.len() + 1) * entry;
        if used > self.memory / 2 && !self.order.is_empty() {
            self.spill(spool)?;
        }
        let first = bytes.first_chunk().map_or_else(
            || {
                let mut padded = [0; 8];
                padded.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
                u64::from_be_bytes(padded)
            },
            |first| u64::from_be_bytes(*first),
        );
        self.order.push((first, self.arena.len(), length));
        self.arena.extend_from_slice(bytes);
        Ok(())
    }

    pub(crate) fn finish(mut self, spool: &mut impl Spool<File = F>) -> io::Result<Sorted<F>> {
        if self.runs.is_empty() {
            self.sort();
            return Ok(Sorted::Memory { arena: self.arena, order: self.order.into_iter() });
        }
        self.spill(spool)?;
        let mut runs = Vec::with_capacity(self.runs.len());
        let mut heap = BinaryHeap::with_capacity(self.runs.len());
        for (run, mut file) in self.runs.into_iter().enumerate() {
            file.seek(SeekFrom::Start(0))?;
            let mut reader = BufReader::with_capacity(BUFFER, file);
            let mut bytes = Vec::new();
            if read_entry(&mut reader, &mut bytes)? {
                heap.push(Reverse(RunHead { bytes, run }));
            }
            runs.push(reader);
        }
        Ok(Sorted::Merge { heap, runs, current: Vec::new() })
    }

    fn sort(&mut self) {
        let arena = &self.arena;
        let text = |at: usize, length: u16| arena.get(at..at + usize::from(length));
        self.order.sort_unstable_by(|a, b| {
            a.0.cmp(&b.0).then_with(|| text(a.1, a.2).cmp(&text(b.1, b.2)))
        });
    }

    fn spill(&mut self, spool: &mut impl Spool<File = F>) -> io::Result<()> {
        self.sort();
        let mut writer = BufWriter::with_capacity(BUFFER, spool.fresh()?);
        for (_, at, length) in self.order.drain(..) {
            writer.write_all(&length.to_le_bytes())?;
            let end = at + usize::from(length);
            writer.write_all(self.arena.get(at..end).unwrap_or_default())?;
        }
        self.arena.clear();
        self.runs.push(writer.into_inner().map_err(io::IntoInnerError::into_error)?);
        Ok(())
    }
}

// === impl Sorted ===

impl<F: Read> Sorted<F> {
    pub(crate) fn next(&mut self) -> io::Result<Option<&[u8]>> {
        match self {
            Self::Memory { arena, order } => {
                Ok(order.next().and_then(|(_, at, length)| arena.get(at..at + usize::from(length))))
            }
            Self::Merge { heap, runs, current } => {
                let Some(Reverse(mut head)) = heap.pop() else {
                    return Ok(None);
                };
                std::mem::swap(current, &mut head.bytes);
                if let Some(reader) = runs.get_mut(head.run)
                    && read_entry(reader, &mut head.bytes)?
                {
                    heap.push(Reverse(head));
                }
                Ok(Some(current))
            }
        }
    }
}

/// False at the end of a run.
fn read_entry(reader: &mut impl Read, bytes: &mut Vec<u8>) -> io::Result<bool> {
    let mut length = [0u8; 2];
    match reader.read_exact(&mut length) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
        Err(e) => return Err(e),
    }
    bytes.resize(u16::from_le_bytes(length).into(), 0);
    reader.read_exact(bytes)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sorted(items: &[Vec<u8>], memory: usize) -> (Vec<Vec<u8>>, bool) {
        let mut sorter = Sorter::new(memory);
        for item in items {
            sorter.push(item, &mut InMemory).unwrap();
        }
        let mut out = Vec::new();
        let mut sorted = sorter.finish(&mut InMemory).unwrap();
        let spilled = matches!(sorted, Sorted::Merge { .. });
        while let Some(item) = sorted.next().unwrap() {
            out.push(item.to_vec());
        }
        (out, spilled)
    }

    #[test]
    fn spills_when_it_must() {
        let items: Vec<_> = (0..1000u32).rev().map(|n| n.to_be_bytes().to_vec()).collect();
        assert!(!sorted(&items, 1 << 20).1);
        let (out, spilled) = sorted(&items, 2048);
        assert!(spilled && out.is_sorted() && out.len() == 1000);
    }

    proptest! {
        #[test]
        fn agrees_with_a_sort_in_memory(
            mut items in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..200),
            memory in 64usize..4096,
        ) {
            let (out, _) = sorted(&items, memory);
            items.sort();
            prop_assert_eq!(out, items);
        }
    }
}
