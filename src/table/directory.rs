//! Where in a sorted array each leading bit pattern begins: one step from a digest to the one or two
//! records that it may be. Imports core only.

use std::ops::Range;

use super::layout::Record;

/// Where in a sorted array each leading bit pattern begins.
pub(crate) struct Directory {
    starts: Box<[u32]>,
    /// Leading bits of the 64-bit prefix that number the buckets.
    bits: u32,
}

// === impl Directory ===

impl Directory {
    pub(crate) fn len(&self) -> usize {
        self.starts.len()
    }

    pub(crate) fn empty() -> Self {
        Self { starts: Box::default(), bits: 0 }
    }

    /// One to two entries to a bucket, which is one cache line or two side by side, for 2 to 4
    /// bytes per key.
    pub(crate) fn filler(entries: usize, prefix_bits: u32) -> Filler {
        let bits = (entries as u64).max(1).ilog2().min(prefix_bits);
        Filler { starts: Vec::with_capacity((1 << bits) + 1), bits }
    }

    pub(crate) fn bucket(&self, prefix: u64) -> Range<usize> {
        let number = bucket_number(prefix, self.bits);
        match (self.starts.get(number), self.starts.get(number + 1)) {
            (Some(start), Some(end)) => *start as usize..*end as usize,
            _ => 0..0,
        }
    }
}

/// A directory while its entries are walked in order.
pub(crate) struct Filler {
    starts: Vec<u32>,
    bits: u32,
}

// === impl Filler ===

impl Filler {
    pub(crate) fn push(&mut self, prefix: u64, index: u32) {
        let number = bucket_number(prefix, self.bits);
        while self.starts.len() <= number {
            self.starts.push(index);
        }
    }

    pub(crate) fn finish(mut self, entries: u32) -> Directory {
        self.starts.resize((1 << self.bits) + 1, entries);
        Directory { starts: self.starts.into(), bits: self.bits }
    }
}

/// The record with this digest, in its bucket of one or two (seldom more).
///
/// Comparing in turn is the quickest: choosing among three without a branch, or guessing the place
/// from the digest's next bits, touches more memory per look-up and took 1.5 to 3 times as long.
pub(crate) fn position<'t>(
    records: &'t [Record],
    range: Range<usize>,
    digest: &[u8; 32],
) -> Option<&'t Record> {
    let bucket = records.get(range)?;
    match bucket.len() {
        0..=16 => bucket.iter().find(|r| r.digest == *digest),
        _ => bucket.get(bucket.binary_search_by(|r| r.digest.cmp(digest)).ok()?),
    }
}

fn bucket_number(prefix: u64, bits: u32) -> usize {
    prefix.checked_shr(64 - bits).unwrap_or(0) as usize
}

pub(crate) fn prefix(digest: &[u8; 32]) -> u64 {
    digest.first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
}
