//! Bounds on the size of futures. A future is as large as the largest state between two of its
//! awaits, so one rarely taken branch can make every connection larger without anybody noticing.
//! With these functions, such code does not compile.

/// The same future, of at most `BYTES` bytes. A larger one is a compile error that shows both
/// numbers: box the rare part, or raise the bound and state in the commit how much more each
/// connection costs.
pub(crate) fn at_most<const BYTES: usize, F: Future>(future: F) -> F {
    is_at_most::<BYTES, F>(&future);
    future
}

/// As [`at_most`], for a future that must not be moved any more, or a place for one.
pub(crate) fn is_at_most<const BYTES: usize, F>(_: &F) {
    let () = const {
        // Overflows if the future is larger.
        let _spare = BYTES - size_of::<F>();
    };
}
