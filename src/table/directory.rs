//! Where each leading bit pattern begins in a sorted array: one step from a digest to the one or
//! two records that may match. Imports core only.

use std::ops::Range;

use zerocopy::FromBytes;
use zerocopy::little_endian::U32;

use super::buffer::Buffer;
use super::layout::RawRecord;
use super::refusal::Refusal;

/// Where each leading bit pattern begins in a sorted array.
///
/// The start of a block of buckets takes 32 bits; the distance of a bucket from there takes 8. That
/// is 1 to 2 bytes per key, which fits into caches where four times as much would not.
pub(crate) struct Directory {
    /// A [`U32`] each.
    blocks: Buffer,
    distances: Buffer,
    /// Number of leading bits of the 64-bit prefix that form the bucket number.
    bits: u32,
    /// Buckets of a block, as a power of two.
    block_bits: u32,
}

/// Digests are spread evenly, so a block holds about 50 entries and never 256.
const EVEN: u32 = 5;
/// Where they are not, each bucket is a block of its own.
const UNEVEN: u32 = 0;

// === impl Directory ===

impl Directory {
    pub(crate) fn empty() -> Self {
        Self { blocks: Vec::new().into(), distances: Vec::new().into(), bits: 0, block_bits: 0 }
    }

    /// Built from `prefixes` in ascending order; their first `prefix_bits` bits count. One to two
    /// entries per bucket, which is one cache line or two adjacent ones.
    pub(crate) fn of(
        prefixes: impl Iterator<Item = u64> + Clone,
        count: usize,
        prefix_bits: u32,
    ) -> Result<Self, Refusal> {
        for block_bits in [EVEN, UNEVEN] {
            let space = Self::zeroed(count, prefix_bits, block_bits)?;
            if let Some(filled) = space.filled(prefixes.clone()) {
                return Ok(filled);
            }
        }
        Ok(Self::empty())
    }

    /// Bytes held in memory.
    pub(crate) fn resident(&self) -> usize {
        self.blocks.resident() + self.distances.resident()
    }

    pub(crate) fn bucket(&self, prefix: u64) -> Range<usize> {
        let number = bucket_number(prefix, self.bits);
        match (self.start(number), self.start(number + 1)) {
            (Some(start), Some(end)) => start..end,
            _ => 0..0,
        }
    }

    fn start(&self, number: usize) -> Option<usize> {
        let blocks = <[U32]>::ref_from_bytes(&self.blocks).unwrap_or_default();
        let block = blocks.get(number >> self.block_bits)?;
        Some(block.get() as usize + usize::from(*self.distances.get(number)?))
    }

    /// Space for `count` entries.
    fn zeroed(count: usize, prefix_bits: u32, block_bits: u32) -> Result<Self, Refusal> {
        let bits = (count as u64).max(1).ilog2().min(prefix_bits);
        let starts = (1 << bits) + 1;
        let blocks = zeroed(size_of::<U32>() * ((starts >> block_bits) + 1))?;
        Ok(Self { blocks, distances: zeroed(starts)?, bits, block_bits })
    }

    /// `None`: a block holds too many.
    fn filled(mut self, prefixes: impl Iterator<Item = u64>) -> Option<Self> {
        let (bits, block_bits, starts) = (self.bits, self.block_bits, self.distances.len());
        let distances = &mut self.distances;
        let block_starts = <[U32]>::mut_from_bytes(&mut self.blocks).unwrap_or_default();
        let ends = prefixes.map(|prefix| bucket_number(prefix, bits) + 1).chain([starts]);
        let (mut number, mut block) = (0, 0);
        // Every bucket up to the entry's own that has no start yet begins at the entry.
        for (index, end) in ends.enumerate() {
            for (distance, number) in distances.get_mut(number..end)?.iter_mut().zip(number..) {
                if number.trailing_zeros() >= block_bits {
                    block = index;
                    *block_starts.get_mut(number >> block_bits)? = U32::new(index as u32);
                }
                *distance = u8::try_from(index - block).ok()?;
            }
            number = number.max(end);
        }
        Some(self)
    }
}

fn zeroed(bytes: usize) -> Result<Buffer, Refusal> {
    Buffer::zeroed(bytes).map_err(|_| Refusal::Memory { bytes: bytes as u64 })
}

/// Index of the record with this digest, in its bucket of one or two (seldom more).
///
/// Comparing one after the other is fastest. Choosing among three without a branch, or guessing the
/// place from the digest's next bits, touches more memory per look-up and took 1.5 to 3 times as
/// long.
pub(crate) fn position(
    records: &[RawRecord],
    range: Range<usize>,
    digest: &[u8; 32],
) -> Option<usize> {
    let start = range.start;
    let bucket = records.get(range)?;
    let is_it = |r: &RawRecord| prefix(&r.digest) == prefix(digest) && r.digest == *digest;
    let at = match bucket.len() {
        0..=16 => bucket.iter().position(is_it)?,
        _ => bucket.binary_search_by(|r| r.digest.cmp(digest)).ok()?,
    };
    Some(start + at)
}

fn bucket_number(prefix: u64, bits: u32) -> usize {
    prefix.checked_shr(64 - bits).unwrap_or(0) as usize
}

pub(crate) fn prefix(digest: &[u8; 32]) -> u64 {
    digest.first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_prefix_leads_to_its_entries_however_they_are_spread() {
        let spread = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut lists: Vec<Vec<u64>> = vec![
            vec![],
            vec![0],
            vec![u64::MAX],
            vec![0, u64::MAX],
            (0..5_000).map(spread).collect(),
            // All in one block of buckets, and far more than a distance can express.
            (0..5_000).collect(),
            (0..5_000).map(|n| u64::MAX - n).collect(),
            (0..300).chain((0..300).map(|n| (1 << 63) + n)).collect(),
        ];
        for list in &mut lists {
            list.sort_unstable();
            let directory = Directory::of(list.iter().copied(), list.len(), 64).unwrap();
            for (index, prefix) in list.iter().enumerate() {
                assert!(directory.bucket(*prefix).contains(&index), "{index} of {}", list.len());
            }
            let mut end = 0;
            for prefix in (0..=256u64).map(|n| n.rotate_right(8)) {
                let bucket = directory.bucket(prefix);
                assert!(bucket.start >= end.min(bucket.start) && bucket.end <= list.len());
                end = bucket.start;
            }
        }
    }

    #[test]
    fn an_index_that_cannot_be_had_is_a_refusal() {
        let refused = Directory::of([].into_iter(), 1 << 61, 64).err();
        assert!(matches!(refused, Some(Refusal::Memory { .. })), "{refused:?}");
    }
}
