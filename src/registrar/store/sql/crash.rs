//! Points at which tests end the process, as a crash would. Outside tests they do nothing.

/// Ends the process if a test asked for this point.
#[cfg(not(test))]
#[inline]
pub(in crate::registrar) fn point(_name: &str) {}

#[cfg(test)]
pub(in crate::registrar) use self::in_tests::point;

#[cfg(test)]
pub(in crate::registrar) mod in_tests {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// `POINT:COUNT`: end when POINT is passed for the COUNTth time.
    pub(crate) const VARIABLE: &str = "KEYGATE_TEST_CRASH";

    pub(crate) fn point(name: &str) {
        static ASKED: OnceLock<Option<(String, u64)>> = OnceLock::new();
        static PASSED: AtomicU64 = AtomicU64::new(0);
        let asked = ASKED.get_or_init(|| {
            #[expect(
                clippy::disallowed_methods,
                reason = "how the parent of a test tells its child"
            )]
            let text = std::env::var(VARIABLE).ok()?;
            let (name, count) = text.split_once(':')?;
            Some((name.to_owned(), count.parse().ok()?))
        });
        if let Some((at, count)) = asked
            && at == name
            && PASSED.fetch_add(1, Ordering::SeqCst) + 1 == *count
        {
            std::process::abort();
        }
    }
}
