//! The scripts that the store runs, and their arguments. A script is one atomic step there: it
//! takes from all buckets of a request, or from none. Imports `core`.

use std::sync::{Arc, LazyLock};

use smallvec::SmallVec;

use super::ask::AskedBucket;
use super::names::StoreBucket;
use crate::core::Now;

/// A script, by its text and by the name that the store keeps it under.
#[derive(Debug)]
pub(super) struct StoreScript {
    pub(super) text: &'static str,
    /// SHA-1 of the text, in hexadecimal digits.
    pub(super) sha: String,
}

/// One run of a script. All its keys have one hash tag.
#[derive(Clone, Debug)]
pub(super) struct StoreCall {
    pub(super) script: &'static StoreScript,
    pub(super) keys: SmallVec<[Box<str>; 2]>,
    pub(super) args: Vec<String>,
}

static LEASE: LazyLock<StoreScript> = LazyLock::new(|| StoreScript::new(include_str!("lease.lua")));
static GIVE_BACK: LazyLock<StoreScript> =
    LazyLock::new(|| StoreScript::new(include_str!("give_back.lua")));
static GIVE_BACK_QUOTA: LazyLock<StoreScript> =
    LazyLock::new(|| StoreScript::new(include_str!("give_back_quota.lua")));
static COUNT: LazyLock<StoreScript> = LazyLock::new(|| StoreScript::new(include_str!("count.lua")));

// === impl StoreScript ===

impl StoreScript {
    fn new(text: &'static str) -> Self {
        use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
        let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
        let sha = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Self { text, sha }
    }
}

// === impl StoreCall ===

impl StoreCall {
    /// Takes from all buckets, or from none.
    pub(super) fn lease(buckets: &[AskedBucket], now: Now) -> Self {
        let mut args = Vec::with_capacity(4 * buckets.len());
        for AskedBucket { bucket, need, want, told } in buckets {
            args.push(need.to_string());
            args.push(want.to_string());
            let limit = bucket.of.limit;
            let Some(span) = bucket.span else {
                args.push(micros(limit.interval_ns()));
                args.push(micros(limit.tolerance_ns()));
                continue;
            };
            let (taken, back, owed) = told;
            // A day longer than it is counted, because clocks differ.
            let lasts_ms = span.left(now).as_millis() + 86_400_000;
            args.push("q".to_owned());
            args.push(limit.count().to_string());
            args.extend([taken, back].map(u64::to_string));
            args.push(owed.to_string());
            args.push(lasts_ms.to_string());
        }
        let keys = buckets.iter().map(|asked| asked.bucket.key.clone()).collect();
        Self { script: &LEASE, keys, args }
    }

    /// Gives back what was not used. Never repeated: a second time would return too much.
    pub(super) fn give_back(bucket: &Arc<StoreBucket>, tokens: u32) -> Self {
        let keys = SmallVec::from_iter([bucket.key.clone()]);
        match bucket.span {
            None => {
                let args = vec![micros(bucket.of.limit.interval_ns()), tokens.to_string()];
                Self { script: &GIVE_BACK, keys, args }
            }
            Some(_) => Self { script: &GIVE_BACK_QUOTA, keys, args: vec![tokens.to_string()] },
        }
    }

    /// Reports that `instance` is there, and counts all that are.
    pub(super) fn count(key: &str, instance: &str) -> Self {
        let keys = SmallVec::from_iter([key.into()]);
        Self { script: &COUNT, keys, args: vec![instance.to_owned()] }
    }

    /// Reports that `instance` has gone.
    pub(super) fn uncount(key: &str, instance: &str) -> Self {
        let args = vec![instance.to_owned(), "leaves".to_owned()];
        Self { args, ..Self::count(key, instance) }
    }
}

/// With three decimals: a limit of more than a million a second has an interval below one.
fn micros(ns: u64) -> String {
    match ns % 1_000 {
        0 => (ns / 1_000).to_string(),
        rest => format!("{}.{rest:03}", ns / 1_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_in_microseconds() {
        for (ns, want) in [(100_000_000, "100000"), (142_857_142, "142857.142"), (1, "0.001")] {
            assert_eq!(micros(ns), want);
        }
    }

    #[test]
    fn scripts_are_known_by_the_hash_of_their_text() {
        // As `redis-cli SCRIPT LOAD "return 1"` names it.
        let script = StoreScript::new("return 1");
        assert_eq!(script.sha, "e0e1f9fabfc9d4800c877a703b823ac0578ff8db");
    }
}
