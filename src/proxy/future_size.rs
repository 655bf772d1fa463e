//! Bounds on the size of futures. A future is as large as the largest state between two of its awaits,
//! so one branch that is rarely taken can make every connection larger, and nobody sees it. Here it
//! does not compile.

/// The same future, of at most `BYTES` bytes. A larger one is a compile error that tells both numbers:
/// box what is rare, or raise the bound and say in the commit what each connection costs more.
pub(crate) fn at_most<const BYTES: usize, F: Future>(future: F) -> F {
    is_at_most::<BYTES, F>(&future);
    future
}

/// As [`at_most`], of a future, or a place for one, that is not to be moved any more.
pub(crate) fn is_at_most<const BYTES: usize, F>(_: &F) {
    let () = const {
        // Overflows if the future is larger.
        let _spare = BYTES - size_of::<F>();
    };
}
