//! One worker's buffers to read into, for connections that have something to read. Idle connections
//! hold none, and a buffer that was used recently is warm in the cache.

use std::cell::RefCell;

#[derive(Debug, Default)]
pub(crate) struct Buffers(RefCell<Vec<Vec<u8>>>);

/// The space in a buffer: enough for most heads with a short body.
pub(crate) const BUFFER: usize = 8 * 1024;
/// The most spare buffers that are kept.
const SPARE: usize = 64;

// === impl Buffers ===

impl Buffers {
    /// An empty buffer.
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
