//! Why keys do not make a table. Imports core only.

use std::io;

use crate::core::{KeyId, LimitSet};

/// Why keys do not make a table. The registry's author has to fix everything except `Io`.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("{0} and {1} have one digest: the same secret twice")]
    DuplicateDigest(KeyId, KeyId),
    #[error("{0} is the id of two keys\nhint: only a pair in rotation has two secrets")]
    DuplicateId(KeyId),
    #[error("{0} and {1} are pairs with one public id")]
    DuplicatePublicId(KeyId, KeyId),
    #[error(
        "{0} expires after 2106-02-07, which the format cannot hold\nhint: leave `expires` out"
    )]
    Expiry(KeyId),
    #[error(
        "format 1 cannot hold everything that is stated: {}\n\
         hint: once every sidecar reads format 2 (`keygate version` says so), set `format = 2` \
         under [publish] of the registry or give `--format 2`; until then take this away",
        list(.shown, *.more)
    )]
    Format {
        /// The first things that cannot be held.
        shown: Vec<Unheld>,
        /// How many more there are.
        more: u64,
    },
    #[error(
        "{0}: at most {most} limits, each of another policy", most = LimitSet::MOST
    )]
    Limits(Box<str>),
    #[error(
        "cannot write the table: {0}\nhint: nothing was published; free space where temporary files go and try again"
    )]
    Io(#[from] io::Error),
    #[error("{0}: the name must be at most 200 bytes of UTF-8 without control characters")]
    Name(KeyId),
    #[error("{0}: a pair has a public id, a single key has none")]
    PairWithoutId(KeyId),
    #[error("{0}: the public id must be 1 to 128 visible ASCII characters")]
    PublicId(KeyId),
    #[error("{0}: a pair has at most two secrets, during a rotation")]
    ThirdSecret(KeyId),
    #[error(
        "{0} has its sunset after 2106-02-07, which the format cannot hold\n\
         hint: leave `sunset` out"
    )]
    Sunset(KeyId),
    #[error("more than the format holds: {0}")]
    TooMany(&'static str),
}

/// Something that the format has no place for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unheld {
    /// The key's id or the org's name.
    pub whose: Box<str>,
    pub what: &'static str,
}

fn list(shown: &[Unheld], more: u64) -> String {
    let mut texts: Vec<_> = shown.iter().map(|u| format!("{} ({})", u.whose, u.what)).collect();
    if more > 0 {
        texts.push(format!("and {more} more"));
    }
    texts.join(", ")
}
