//! Why a table or patch was not put in force. One closed enum for logs, metrics, `/status` and exit
//! codes. Imports core and wording only.

use super::file_kind::FileKind;
use super::signer_id::SignerId;
use crate::wording::count::count;
use crate::wording::shell::quoted;
use crate::wording::time::instant;

/// Declares [`Refusal::reason`] and [`Refusal::exit`] together, and the list of all of them, so
/// that every variant has its own word and its own code.
macro_rules! reasons {
    ($( $pattern:pat => $word:literal $exit:literal, )*) => {
        impl Refusal {
            /// Every reason with its exit code, in the order of the codes.
            pub const REASONS: &'static [(&'static str, u8)] = &[ $( ($word, $exit), )* ];

            /// The word in log lines, metric labels and `/status`. Stable.
            pub fn reason(&self) -> &'static str {
                match self { $( $pattern => $word, )* }
            }

            /// The exit code of `keygatectl table verify` and of a start that found this table.
            pub fn exit(&self) -> u8 {
                match self { $( $pattern => $exit, )* }
            }
        }
    };
}

/// Alphabetical. Fields are only for the message; the reason word carries the decision.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error(
        "made for another audience: {stated:?}, this deployment is {wanted:?}\n\
         hint: build with `--audience {}`, or correct `audience` in the configuration",
        quoted(.wanted)
    )]
    Audience { stated: Box<str>, wanted: Box<str> },
    #[error(
        "the patch was made over table {base}, which is not in force and cannot become so: {why}\n\
         hint: publish the patch again, over the table in force"
    )]
    Base { base: u64, why: &'static str },
    #[error("the signature of {signer} is wrong: the file was altered or is not what was signed")]
    BadSignature { signer: SignerId },
    #[error(
        "the body is not the one that was signed (its SHA-256 differs)\n\
         hint: the file was damaged or put together from two publications; publish it again"
    )]
    BodyHash,
    #[error("the manifest counts {stated} {what}, the body holds {found}")]
    Counts { what: &'static str, stated: u64, found: u64 },
    #[error("{what} {index} repeats the one before it")]
    Duplicate { what: &'static str, index: u64 },
    #[error(
        "it has no active key\n\
         hint: if that is meant, build with `--acknowledge empty`"
    )]
    Empty,
    #[error(
        "serial {serial} was already accepted with another content\n\
         hint: two publishers used one serial; publish again, the registry gives the next one"
    )]
    EqualSerial { serial: u64 },
    #[error(
        "it expired at {}, before it could be put in force\n\
         hint: build and publish a fresh table; if it is fresh, correct this machine's clock",
        instant(*.at)
    )]
    Expired { at: u64 },
    #[error(
        "{valid} trusted signature(s), {required} required\n\
         hint: `keygatectl table attach-signature` adds the missing ones"
    )]
    FewSigners { valid: usize, required: usize },
    #[error(
        "format version {found}; this keygate reads {oldest} to {newest}\n\
         hint: update keygate before the publisher moves to the next format"
    )]
    Format { found: u8, oldest: u8, newest: u8 },
    #[error(
        "{} held that it does not replace, no more fit\n\
         hint: publish a table built from the current registry",
        if *.held == 1 { "1 patch is".to_owned() } else { format!("{held} patches are") }
    )]
    HoldFull { held: usize },
    #[error("it is a {found}, wanted: {wanted}")]
    Kind { found: FileKind, wanted: FileKind },
    #[error("not a keygate table or patch (it does not begin with `keygate`)")]
    Magic,
    #[error("bad manifest: {why}")]
    Manifest { why: Box<str> },
    #[error(
        "there is no memory for {bytes} bytes of its index or its use counts\n\
         hint: raise the memory limit; docs/operations.md says how much a table takes"
    )]
    Memory { bytes: u64 },
    #[error("out of range: {what} of {of} {index}")]
    OutOfRange { what: &'static str, of: &'static str, index: u64 },
    #[error("bytes that must be zero are not: {what}")]
    Padding { what: &'static str },
    #[error(
        "serial {serial} is below {floor}, the lowest that is accepted here\n\
         hint: publish again, the registry gives the next serial; a restored registry needs \
         `--serial` above {floor}"
    )]
    Rollback { serial: u64, floor: u64 },
    #[error(
        "{} instead of {before}: more are gone than the brake allows\n\
         hint: if that is meant, build with `--acknowledge shrink`",
        count(*.after, "active key")
    )]
    Shrink { before: u64, after: u64 },
    #[error(
        "it holds the changes through serial {includes_through}, the table in force those through \
         {floor}\n\
         hint: it was built from an older registry; build it again from the current one"
    )]
    Stale { includes_through: u64, floor: u64 },
    #[error(
        "{}, at most {limit} are allowed\nhint: raise `max_bytes` of the table",
        count(*.bytes, "byte")
    )]
    TooLarge { bytes: u64, limit: u64 },
    #[error("it continues past the end that the manifest states, by {}", count(*.extra, "byte"))]
    Trailing { extra: u64 },
    #[error(
        "{}\nhint: publish it again, or restore it from a backup",
        cut_short(*.found, *.missing)
    )]
    Truncated {
        /// Bytes of the file.
        found: u64,
        /// Bytes up to the end that the manifest states. `None`: it ends before its body begins.
        missing: Option<u64>,
    },
    #[error(
        "none of its signers is trusted here: {signers}\n\
         hint: publish with a trusted signer; add this one's public key to `trusted_signers` only if \
         nobody but you has its private key"
    )]
    UnknownSigner { signers: Box<str> },
    #[error("it is not signed\nhint: `keygatectl table attach-signature` signs it")]
    Unsigned,
    #[error("{what} {index} is out of order")]
    Unsorted { what: &'static str, index: u64 },
}

reasons! {
    Refusal::Audience { .. } => "audience" 10,
    Refusal::Base { .. } => "base" 11,
    Refusal::BadSignature { .. } => "bad_signature" 12,
    Refusal::BodyHash => "body_hash" 13,
    Refusal::Counts { .. } => "counts" 14,
    Refusal::Duplicate { .. } => "duplicate" 15,
    Refusal::Empty => "empty" 16,
    Refusal::EqualSerial { .. } => "equal_serial" 17,
    Refusal::Expired { .. } => "expired" 18,
    Refusal::FewSigners { .. } => "few_signers" 19,
    Refusal::Format { .. } => "format" 20,
    Refusal::HoldFull { .. } => "hold_full" 21,
    Refusal::Kind { .. } => "kind" 22,
    Refusal::Magic => "magic" 23,
    Refusal::Manifest { .. } => "manifest" 24,
    Refusal::OutOfRange { .. } => "out_of_range" 25,
    Refusal::Padding { .. } => "padding" 26,
    Refusal::Rollback { .. } => "rollback" 27,
    Refusal::Shrink { .. } => "shrink" 28,
    Refusal::Stale { .. } => "stale" 29,
    Refusal::TooLarge { .. } => "too_large" 30,
    Refusal::Trailing { .. } => "trailing" 31,
    Refusal::Truncated { .. } => "truncated" 32,
    Refusal::UnknownSigner { .. } => "unknown_signer" 33,
    Refusal::Unsigned => "unsigned" 34,
    Refusal::Unsorted { .. } => "unsorted" 35,
    Refusal::Memory { .. } => "memory" 36,
}

fn cut_short(found: u64, missing: Option<u64>) -> String {
    match (found, missing) {
        (0, None) => "the file is empty".to_owned(),
        (_, None) => format!("it ends after {}, before its keys begin", count(found, "byte")),
        (_, Some(missing)) => format!(
            "it stops short of the end that the manifest states, by {}",
            count(missing, "byte")
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_reason_has_its_own_word_and_exit_code() {
        let words: HashSet<_> = Refusal::REASONS.iter().map(|r| r.0).collect();
        let exits: HashSet<_> = Refusal::REASONS.iter().map(|r| r.1).collect();
        assert_eq!(words.len(), Refusal::REASONS.len());
        assert_eq!(exits.len(), Refusal::REASONS.len());
        assert!(exits.iter().all(|e| (10..64).contains(e)), "clear of clap's 2 and of sysexits");
    }
}
