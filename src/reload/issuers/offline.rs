//! An issuer's keys in files on this machine: key files, and copies of what its URL returned. For
//! its keeper, and for `check` and `explain`, which ask no issuer.

use std::io::{self, Read as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{JwksSource, TokenIssuer, TokenSettings};
use crate::core::{Now, TokenFault, UserToken};
use crate::reload::jwks_copy::{CopyError, KeptSet};
use crate::reload::source::{self, SourceError};
use crate::token::IssuerRules;
use crate::token::jwks::{JwkSet, JwksError, LONGEST_SET};
use crate::token::verify::{Issuers, Unverified};

/// Why an issuer's keys are not available. The previous ones stay in force.
#[derive(Debug, thiserror::Error)]
pub(super) enum IssuerFailure {
    #[error("{0}")]
    Set(#[from] JwksError),
    #[error("{0}")]
    Source(SourceError),
    #[error("it does not exist")]
    Missing,
    #[error("it cannot be read: {0}")]
    Unreadable(io::Error),
    #[error("it is not a regular file")]
    NotRegular,
    #[error("no key in it is for {wanted}{}", has(.ignored))]
    Empty { wanted: String, ignored: Vec<String> },
    #[error("it has a symmetric key or the private part of one, which anybody can read now")]
    NotPublic,
}

/// The most unusable keys that are named.
const NAMED: usize = 4;

fn has(ignored: &[String]) -> String {
    let more = match ignored.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    match ignored {
        [] => ": it is empty".to_owned(),
        some => {
            let named = some.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>();
            format!("; it has {}{more}", named.join(", "))
        }
    }
}

// === impl IssuerFailure ===

impl From<io::Error> for IssuerFailure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Missing,
            _ => Self::Unreadable(error),
        }
    }
}

/// The hints of that error are for tables.
impl From<SourceError> for IssuerFailure {
    fn from(error: SourceError) -> Self {
        match error {
            SourceError::TooLarge { .. } => Self::Set(JwksError::TooLong),
            other => Self::Source(other),
        }
    }
}

impl IssuerFailure {
    /// Why a set has no key that can be used.
    pub(super) fn of_unusable(issuer: &TokenIssuer, keys: &JwkSet) -> Self {
        // A set is not empty because its only key is private.
        if keys.leaked > 0 && keys.ignored.is_empty() {
            return Self::NotPublic;
        }
        let wanted: Vec<_> = issuer.rules.algorithms.iter().map(|alg| alg.as_str()).collect();
        Self::Empty { wanted: wanted.join(" or "), ignored: keys.ignored.clone() }
    }

    /// What to do about it.
    pub(super) fn hint(&self, source: &JwksSource) -> String {
        let set = match source {
            JwksSource::Path(path) => path.display().to_string(),
            JwksSource::Url { .. } => "its set".to_owned(),
        };
        match self {
            Self::Set(JwksError::SameKid(_)) => {
                format!("keep one key of each kid in {set}: a token names its key by it")
            }
            Self::Set(JwksError::TooLong | JwksError::TooMany) => {
                format!("keep the keys in {set} that still sign, and remove the others")
            }
            Self::Empty { ignored, .. } if ignored.is_empty() => {
                format!("save the issuer's JWK Set to {set}, as its jwks_uri gives it")
            }
            Self::Empty { .. } => format!(
                "add the alg of its keys to tokens.algorithms, or put a key for one of those into \
                 {set}"
            ),
            Self::NotPublic => format!(
                "have the issuer sign with another key, and save its public part alone to {set}"
            ),
            Self::Source(_) => format!("see why {source} gives no JWK Set, and tokens.jwks_ca"),
            Self::Unreadable(_) => {
                format!(
                    "let the user that runs keygate read {set}, and enter every folder above it"
                )
            }
            Self::Set(JwksError::NotASet) | Self::Missing | Self::NotRegular => {
                format!("let {set} have the issuer's JWK Set, as its jwks_uri gives it")
            }
        }
    }
}

/// The contents of the issuers' files on this machine.
struct OfflineIssuers<'s> {
    settings: &'s TokenSettings,
    /// In the order of the settings.
    sets: Vec<Option<JwkSet>>,
}

/// Judges a token by the key files and copies on this machine, for `explain`. Asks no issuer.
///
/// # Errors
/// Why a sidecar with the same keys would not accept it.
pub fn judge_offline(
    settings: &TokenSettings,
    token: &[u8],
    now: Now,
) -> Result<Arc<UserToken>, TokenFault> {
    let set = |issuer: &TokenIssuer| match &issuer.jwks {
        JwksSource::Path(path) => read_issuer_keys(path, issuer).ok(),
        JwksSource::Url { copy, .. } => {
            let (keys, fetched) = read_copy(copy.as_ref()?, issuer).ok()?;
            let age = Duration::from_secs(now.unix_secs().saturating_sub(fetched));
            (age < issuer.stale).then_some(keys)
        }
    };
    let sets = settings.issuers.iter().map(set).collect();
    let issuers = OfflineIssuers { settings, sets };
    Unverified::read(token, &issuers, now).map_err(|unread| unread.fault)?.verify()
}

// === impl OfflineIssuers ===

impl Issuers for OfflineIssuers<'_> {
    fn rules(&self, issuer: &str) -> Option<&IssuerRules> {
        self.settings.find(issuer).map(|found| &found.rules)
    }

    fn keys(&self, issuer: &str) -> Option<&JwkSet> {
        let mut both = self.settings.issuers.iter().zip(&self.sets);
        both.find(|(known, _)| *known.rules.issuer == *issuer)?.1.as_ref()
    }
}

/// A key file on this machine. Also for `check`.
///
/// # Errors
/// It cannot be read, is too long, or is not a set of usable keys. The error names the file and
/// gives a hint.
pub fn read_issuer_keys(path: &Path, issuer: &TokenIssuer) -> Result<JwkSet, String> {
    let read = || {
        let keys = JwkSet::parse(&read(path)?, &issuer.rules.algorithms)?;
        match (keys.leaked, keys.is_empty()) {
            (1.., _) => Err(IssuerFailure::NotPublic),
            (0, true) => Err(IssuerFailure::of_unusable(issuer, &keys)),
            (0, false) => Ok(keys),
        }
    };
    read().map_err(|error: IssuerFailure| {
        format!("{}: {error}\nhint: {}", path.display(), error.hint(&issuer.jwks))
    })
}

/// The kept set of this issuer, and when it was fetched (Unix seconds).
pub(super) fn read_copy(path: &Path, issuer: &TokenIssuer) -> Result<(JwkSet, u64), CopyError> {
    let JwksSource::Url { url, .. } = &issuer.jwks else { return Err(CopyError::Missing) };
    let kept = KeptSet::read(path)?;
    if !kept.is_of(&issuer.rules.issuer, url) {
        return Err(CopyError::Other);
    }
    let keys = JwkSet::parse(kept.jwks.to_string().as_bytes(), &issuer.rules.algorithms)?;
    Ok((keys, kept.fetched))
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, IssuerFailure> {
    let file = source::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(IssuerFailure::NotRegular);
    }
    let mut bytes = Vec::new();
    file.take(LONGEST_SET as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
