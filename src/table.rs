//! The key table: format, verification, look-up, patch overlay. No I/O, no clock, no log.

use crate::core::{Digest, KeyView, Keys, PairLookup};

/// The keys in force: one verified table with the patch over it.
#[derive(Debug)]
pub struct KeySet {
    serial: u64,
}

impl KeySet {
    /// Serial of the table.
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// Serial of the patch in force over it.
    pub fn patch_serial(&self) -> Option<u64> {
        None
    }
}

impl Keys for KeySet {
    fn plausible(&self, _secret: &[u8]) -> bool {
        true
    }

    fn single(&self, _digest: &Digest) -> Option<KeyView<'_>> {
        None
    }

    fn pair(&self, _id: &[u8], _secret: &Digest) -> PairLookup<'_> {
        PairLookup::UnknownId
    }

    fn any(&self, _digest: &Digest) -> Option<KeyView<'_>> {
        None
    }

    fn refuse_from(&self) -> Option<u64> {
        None
    }
}
