//! Buffers to read into, of one worker, for connections that have something to read. Idle ones hold
//! none, and one that has been used is warm.

use std::cell::RefCell;

#[derive(Debug, Default)]
pub(crate) struct Buffers(RefCell<Vec<Vec<u8>>>);

/// What a buffer has room for: most heads with a short body.
pub(crate) const BUFFER: usize = 8 * 1024;
/// Most that wait to be used again.
const SPARE: usize = 64;

// === impl Buffers ===

impl Buffers {
    /// An empty one.
    pub(crate) fn take(&self) -> Vec<u8> {
        self.0.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(BUFFER))
    }

    pub(crate) fn give_back(&self, mut buffer: Vec<u8>) {
        let mut spare = self.0.borrow_mut();
        if buffer.capacity() == BUFFER && spare.len() < SPARE {
            buffer.clear();
            spare.push(buffer);
        }
    }
}
