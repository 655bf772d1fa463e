//! One issuer's keeper. A request with an unknown `kid` is refused immediately and makes a wish. A
//! wish brings the next look forward, but never to less than 30 s after the last one began,
//! whatever its result: a stranger who invents kids must not make keygate flood the identity
//! provider.
//!
//! A keeper whose settings were replaced may be in the middle of a fetch. The result no longer
//! belongs to anybody: the keeper neither puts keys in force, nor writes the copy, the metrics or
//! the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::board::{IssuerBoard, IssuerEntry, IssuerError};
use super::offline::{IssuerFailure, read, read_copy};
use crate::clock::Clock;
use crate::config::{FileWriters, JwksSource, TokenIssuer};
use crate::reload::jwks_copy::{CopyError, KeptSet};
use crate::reload::source::SourceError;
use crate::reload::status::Time;
use crate::reload::url::{FetchAnswer, TransferDeadline, UrlSource, Validators};
use crate::snapshot::{FetchWish, HeldKeys, Store, WishEnd};
use crate::table::Buffer;
use crate::telemetry::Metrics;
use crate::telemetry::control::FetchResult;
use crate::token::jwks::{JwkSet, JwksError, LONGEST_SET};

/// Between two looks at a URL whose answers do not set an interval.
const FETCH_EVERY: Duration = Duration::from_secs(300);

/// The shortest interval that `max-age` of an answer can set.
const SHORTEST_AGE: Duration = Duration::from_secs(60);
const LONGEST_AGE: Duration = Duration::from_secs(3600);

/// Between two looks at a file.
const FILE_EVERY: Duration = Duration::from_secs(5);

/// The shortest time from one look to the next that a wish causes.
const WISH_PAUSE: Duration = Duration::from_secs(30);

/// First pause after a failure. It doubles up to [`FETCH_EVERY`]. While there were never any keys
/// it is shorter, because nobody can make a wish then.
const FAILURE_PAUSE: Duration = Duration::from_secs(30);
const FIRST_FAILURE_PAUSE: Duration = Duration::from_secs(1);

/// The age of the keys is shown at least this often.
const SHOW_EVERY: Duration = Duration::from_secs(15);

/// A copy on disk records when the source last had its set. It is written again at this age.
const COPY_AGE: Duration = Duration::from_secs(60);

/// What every issuer's thread needs.
#[derive(Clone, Debug)]
pub struct IssuerParts {
    pub store: Arc<Store>,
    pub clock: Clock,
    pub metrics: Metrics,
    pub board: IssuerBoard,
}

/// One issuer's keys, and their source.
pub(super) struct IssuerKeeper {
    parts: IssuerParts,
    issuer: TokenIssuer,
    pub(super) wish: Arc<FetchWish>,
    source: OpenedSource,
    had: Option<HadKeys>,
    /// Consecutive failures.
    failures: u32,
    /// As last logged.
    told: Option<String>,
    /// Why there is no copy, as last logged.
    copy_failure: Option<String>,
    /// Stays after a success.
    last_error: Option<IssuerError>,
    /// Who except its owner may write the file. `None`: not checked yet.
    writers: Option<Option<FileWriters>>,
    /// Spreads the looks of a fleet. Any number.
    jitter: u64,
}

enum OpenedSource {
    File,
    Url(Box<UrlSource>),
    /// It cannot even be tried.
    Unusable(String),
}

struct HadKeys {
    keys: Arc<JwkSet>,
    /// Unix seconds of when the source last had them. Shared with what is in force.
    at: Arc<AtomicU64>,
    in_force: bool,
    /// As last logged.
    is_fresh: bool,
}

/// What the source has.
enum FoundKeys {
    File(JwkSet),
    /// The same as before.
    Same {
        max_age: Option<Duration>,
    },
    Url {
        keys: JwkSet,
        bytes: Buffer,
        validators: Validators,
        max_age: Option<Duration>,
    },
}

// === impl IssuerKeeper ===

impl IssuerKeeper {
    pub(super) fn new(parts: &IssuerParts, issuer: &TokenIssuer) -> Self {
        let source = match &issuer.jwks {
            JwksSource::Path(_) => OpenedSource::File,
            JwksSource::Url { url, ca, .. } => match UrlSource::of_keys(url, ca.as_deref()) {
                Ok(source) => OpenedSource::Url(Box::new(source)),
                Err(error) => OpenedSource::Unusable(error.to_string()),
            },
        };
        let known = parts.store.issuers();
        let had = known.of(issuer).map(|held| HadKeys {
            keys: Arc::clone(&held.keys),
            at: Arc::clone(&held.had_at),
            // Not yet with this keeper's wish.
            in_force: false,
            is_fresh: true,
        });
        Self {
            parts: parts.clone(),
            issuer: issuer.clone(),
            wish: Arc::default(),
            source,
            had,
            failures: 0,
            told: None,
            copy_failure: None,
            last_error: None,
            writers: None,
            jitter: u64::from(std::process::id()),
        }
    }

    /// Loads the file itself, or the copy of what a URL returned.
    pub(super) fn load_first(&mut self) {
        if self.had.is_none() && matches!(self.issuer.jwks, JwksSource::Path(_)) {
            self.look();
        }
        let wish = Arc::clone(&self.wish);
        wish.while_in_charge(|| {
            if self.had.is_none() {
                self.had = self.kept();
            }
            self.settle();
            self.show();
        });
    }

    /// The keys of the copy, if there is one.
    fn kept(&self) -> Option<HadKeys> {
        let JwksSource::Url { copy: Some(copy), .. } = &self.issuer.jwks else { return None };
        match read_copy(copy, &self.issuer) {
            Ok((keys, fetched)) => Some(HadKeys::new(keys, fetched.min(self.now()))),
            Err(CopyError::Missing) => None,
            Err(error) => {
                let issuer = &*self.issuer.rules.issuer;
                tracing::warn!(
                    issuer, copy = %copy.display(), %error,
                    "the copy of its signing keys is ignored"
                );
                None
            }
        }
    }

    pub(super) fn run(&mut self) {
        let mut next = Duration::ZERO;
        let mut began = self.parts.clock.now().mono_ns;
        loop {
            if next.is_zero() {
                self.wish.tried();
                began = self.parts.clock.now().mono_ns;
                next = self.look();
            }
            let wish = Arc::clone(&self.wish);
            wish.while_in_charge(|| {
                self.settle();
                self.show();
            });
            let until_stale = self.had.as_ref().filter(|had| had.is_fresh);
            let until_stale = until_stale.map_or(Duration::MAX, |had| self.left(had));
            let wait = next.min(SHOW_EVERY).min(until_stale);
            match self.wish.wait(wait) {
                WishEnd::Ended => return,
                WishEnd::TimedOut => next = next.saturating_sub(wait),
                WishEnd::Wished => {
                    // No other wish counts before the next look.
                    next = next.min(self.wish_pause().saturating_sub(self.since(began)));
                }
            }
        }
    }

    /// A local file can be read as often as needed.
    fn wish_pause(&self) -> Duration {
        match self.source {
            OpenedSource::File => Duration::from_secs(1),
            OpenedSource::Url(_) | OpenedSource::Unusable(_) => WISH_PAUSE,
        }
    }

    /// Looks at the source once. Returns the pause until the next look.
    fn look(&mut self) -> Duration {
        let found = self.ask();
        let wish = Arc::clone(&self.wish);
        wish.while_in_charge(|| self.hear(found)).unwrap_or(FETCH_EVERY)
    }

    /// What the source has now. Takes as long as a fetch, and changes nothing.
    fn ask(&self) -> Result<FoundKeys, IssuerFailure> {
        match (&self.source, &self.issuer.jwks) {
            (OpenedSource::File, JwksSource::Path(path)) => {
                Ok(FoundKeys::File(self.parse(&read(path)?)?))
            }
            (OpenedSource::Url(source), _) => {
                let fetched = source.fetch(TransferDeadline::AtOnce, LONGEST_SET as u64);
                let fetched = fetched.map_err(|fault| fault.error)?;
                let max_age = fetched.max_age;
                match fetched.answer {
                    FetchAnswer::Missing { retry_after } => {
                        Err(SourceError::Status { status: 404, retry_after }.into())
                    }
                    FetchAnswer::Unchanged => Ok(FoundKeys::Same { max_age }),
                    FetchAnswer::Changed { bytes, validators } => {
                        let keys = self.parse(&bytes)?;
                        Ok(FoundKeys::Url { keys, bytes, validators, max_age })
                    }
                }
            }
            (OpenedSource::Unusable(why), _) => Err(SourceError::Network(why.clone()).into()),
            // Opened as what it is.
            (OpenedSource::File, JwksSource::Url { .. }) => {
                Err(SourceError::Network("not a file".to_owned()).into())
            }
        }
    }

    /// Processes what was found. Returns the pause until the next look.
    fn hear(&mut self, found: Result<FoundKeys, IssuerFailure>) -> Duration {
        match found {
            Ok(found) => {
                let max_age = match &found {
                    FoundKeys::File(_) => None,
                    FoundKeys::Same { max_age } | FoundKeys::Url { max_age, .. } => *max_age,
                };
                let result = self.take(found);
                self.succeeded(result, max_age)
            }
            Err(error) => self.failed(&error),
        }
    }

    fn take(&mut self, found: FoundKeys) -> FetchResult {
        match found {
            FoundKeys::File(keys) => {
                self.tell_writers();
                self.take_keys(keys)
            }
            FoundKeys::Same { .. } => {
                if let Some(had) = &self.had {
                    had.at.store(self.now(), Ordering::Relaxed);
                }
                self.renew_copy();
                FetchResult::Unchanged
            }
            FoundKeys::Url { keys, bytes, validators, .. } => {
                if let OpenedSource::Url(source) = &mut self.source {
                    source.taken(validators);
                }
                let result = self.take_keys(keys);
                // Even if the keys are the same: without a copy so far, this becomes one.
                self.keep_copy(&bytes);
                result
            }
        }
    }

    /// A start and a reload report this for every file of this kind. This reports only what has
    /// changed since.
    fn tell_writers(&mut self) {
        let JwksSource::Path(path) = &self.issuer.jwks else { return };
        let writers = FileWriters::of(path);
        if let Some(writers) = writers.filter(|_| self.writers.is_some_and(|told| told.is_none())) {
            tracing::warn!(
                issuer = &*self.issuer.rules.issuer,
                file = %path.display(),
                "{} may write its signing keys, and so sign as every user: the file's {writers}\n\
                 hint: let its owner alone write it",
                writers.who()
            );
        }
        self.writers = Some(writers);
    }

    fn succeeded(&mut self, result: FetchResult, max_age: Option<Duration>) -> Duration {
        let issuer = Arc::clone(&self.issuer.rules.issuer);
        self.parts.metrics.control().jwks_fetches(&issuer, result).increment(1);
        self.failures = 0;
        if self.told.take().is_some() {
            tracing::info!(issuer = &*issuer, "its signing keys can be had again");
        }
        match self.source {
            OpenedSource::File => FILE_EVERY,
            OpenedSource::Url(_) | OpenedSource::Unusable(_) => {
                let every = max_age.unwrap_or(FETCH_EVERY);
                self.spread(every.clamp(SHORTEST_AGE, LONGEST_AGE))
            }
        }
    }

    fn failed(&mut self, failure: &IssuerFailure) -> Duration {
        let error = failure.to_string();
        let issuer = Arc::clone(&self.issuer.rules.issuer);
        self.parts.metrics.control().jwks_fetches(&issuer, FetchResult::Failed).increment(1);
        if self.told.as_ref() != Some(&error) {
            tracing::warn!(
                issuer = &*issuer,
                from = %self.issuer.jwks,
                error,
                "cannot get its signing keys; those had before stay in force\nhint: {}",
                failure.hint(&self.issuer.jwks)
            );
            self.told = Some(error.clone());
        }
        let at = Time { unix_ms: self.parts.clock.now().unix_ms };
        self.last_error = Some(IssuerError { at, error });
        let first = match self.had {
            Some(_) => FAILURE_PAUSE,
            None => FIRST_FAILURE_PAUSE,
        };
        let pause = first.saturating_mul(1 << self.failures.min(10));
        self.failures = self.failures.saturating_add(1);
        match self.source {
            OpenedSource::File => FILE_EVERY,
            // Two attempts are never closer than two wishes may be, except before there are any keys.
            OpenedSource::Url(_) | OpenedSource::Unusable(_) => {
                self.spread(pause.min(FETCH_EVERY)).max(first)
            }
        }
    }

    fn parse(&self, bytes: &[u8]) -> Result<JwkSet, JwksError> {
        JwkSet::parse(bytes, &self.issuer.rules.algorithms)
    }

    /// The source has these keys now.
    fn take_keys(&mut self, keys: JwkSet) -> FetchResult {
        let now = self.now();
        // Keys that cannot be used say something about the issuer all the same.
        let same = |had: &&HadKeys| {
            had.keys.is_same(&keys)
                && (had.keys.leaked, &had.keys.ignored) == (keys.leaked, &keys.ignored)
        };
        if let Some(had) = self.had.as_ref().filter(same) {
            had.at.store(now, Ordering::Relaxed);
            return FetchResult::Unchanged;
        }
        let issuer = &*self.issuer.rules.issuer;
        if keys.leaked > 0 {
            tracing::error!(
                issuer,
                leaked = keys.leaked,
                "its key set shows private or symmetric keys: they are not believed\n\
                 hint: tell the issuer; whoever has read the set can sign with them"
            );
        }
        match keys.is_empty() {
            true => {
                let failure = IssuerFailure::of_unusable(&self.issuer, &keys);
                tracing::error!(
                    issuer,
                    from = %self.issuer.jwks,
                    leaked = keys.leaked,
                    "its key set has no usable key: its tokens are refused: {failure}\nhint: {}",
                    failure.hint(&self.issuer.jwks)
                );
            }
            false => tracing::info!(
                issuer,
                keys = keys.len(),
                ignored = keys.ignored.len(),
                "signing keys in force"
            ),
        }
        self.had = Some(HadKeys::new(keys, now));
        self.settle();
        FetchResult::Changed
    }

    /// Puts the keys in force, and reports when they become too old. The users of the keys compare
    /// their age with the clock.
    fn settle(&mut self) {
        let is_fresh = self.had.as_ref().is_some_and(|had| !self.left(had).is_zero());
        let Some(had) = &mut self.had else { return };
        if had.is_fresh && !is_fresh {
            tracing::error!(
                issuer = &*self.issuer.rules.issuer,
                "its signing keys are too old: its tokens are refused\n\
                 hint: see why the issuer cannot be reached, or raise tokens.jwks_stale"
            );
        }
        let changed = had.is_fresh != is_fresh;
        had.is_fresh = is_fresh;
        if !had.in_force {
            had.in_force = true;
            self.parts.store.put_issuer(&HeldKeys {
                issuer: Arc::clone(&self.issuer.rules.issuer),
                source: self.issuer.jwks.clone(),
                keys: Arc::clone(&had.keys),
                had_at: Arc::clone(&had.at),
                wish: Arc::clone(&self.wish),
            });
        } else if changed {
            self.parts.store.recheck_issuers();
        }
    }

    /// How long these keys may still be used.
    fn left(&self, had: &HadKeys) -> Duration {
        self.issuer.stale.saturating_sub(Duration::from_secs(self.age(had)))
    }

    /// Seconds since the source had them.
    fn age(&self, had: &HadKeys) -> u64 {
        self.now().saturating_sub(had.at.load(Ordering::Relaxed))
    }

    fn show(&self) {
        let (control, issuer) = (self.parts.metrics.control(), &self.issuer.rules.issuer);
        let had = self.had.as_ref();
        control.jwks_age(issuer).set(had.map_or(-1.0, |had| self.age(had) as f64));
        control.jwks_keys(issuer).set(had.map_or(-1.0, |had| had.keys.len() as f64));
        self.parts.board.put(IssuerEntry {
            issuer: Arc::clone(issuer),
            source: self.issuer.jwks.to_string(),
            keys: had.map(|had| Arc::clone(&had.keys)),
            had_at: had.map(|had| Arc::clone(&had.at)),
            stale: self.issuer.stale,
            last_error: self.last_error.clone(),
        });
    }

    fn keep_copy(&mut self, bytes: &[u8]) {
        let JwksSource::Url { url, copy: Some(copy), .. } = &self.issuer.jwks else { return };
        let kept = KeptSet::new(&self.issuer.rules.issuer, url, self.now(), bytes);
        let failure = kept.and_then(|kept| kept.place(copy)).err().map(|error| error.to_string());
        if failure != self.copy_failure
            && let Some(error) = &failure
        {
            let issuer = &*self.issuer.rules.issuer;
            tracing::warn!(issuer, copy = %copy.display(), error, "cannot keep a copy of its keys");
        }
        self.copy_failure = failure;
    }

    /// The copy was just confirmed, which a successor has to know.
    fn renew_copy(&mut self) {
        let JwksSource::Url { url, copy: Some(copy), .. } = &self.issuer.jwks else { return };
        let mut kept = match KeptSet::read(copy) {
            Ok(kept) => kept,
            Err(error) => {
                // Somebody has removed it. Only a whole answer makes another one, which takes a
                // directory to put it in.
                let has_place = copy
                    .parent()
                    .is_none_or(|folder| folder.as_os_str().is_empty() || folder.exists());
                if let (CopyError::Missing, OpenedSource::Url(source)) = (error, &mut self.source)
                    && has_place
                {
                    source.forget();
                }
                return;
            }
        };
        let now = self.now();
        if !kept.is_of(&self.issuer.rules.issuer, url)
            || now.saturating_sub(kept.fetched) < COPY_AGE.as_secs()
        {
            return;
        }
        kept.fetched = now;
        // A copy that is older than necessary is only usable for a shorter time.
        let _ = kept.place(copy);
    }

    /// Up to a tenth more or less.
    fn spread(&mut self, pause: Duration) -> Duration {
        let seed = self.jitter ^ self.parts.clock.now().mono_ns;
        self.jitter = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17);
        pause.mul_f64(0.9 + (self.jitter % 1000) as f64 / 5000.0)
    }

    fn now(&self) -> u64 {
        self.parts.clock.now().unix_secs()
    }

    fn since(&self, began_ns: u64) -> Duration {
        Duration::from_nanos(self.parts.clock.now().mono_ns.saturating_sub(began_ns))
    }
}

// === impl HadKeys ===

impl HadKeys {
    /// `at`: Unix seconds.
    fn new(keys: JwkSet, at: u64) -> Self {
        let at = Arc::new(AtomicU64::new(at));
        Self { keys: Arc::new(keys), at, in_force: false, is_fresh: true }
    }
}

#[cfg(test)]
mod tests;
