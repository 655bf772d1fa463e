//! Keeps the signing keys of issuers: a thread for each, which fetches, checks, puts in force and
//! keeps a copy. No request waits for it. Imports `clock`, `config`, `snapshot`, `token`,
//! `reload::{jwks_copy, source, url}`.
//!
//! A request with an unknown `kid` is refused now and makes a wish. A wish brings the next look
//! forward, but never to less than 30 s after the last one began, whatever came of that: a stranger
//! who makes up kids must not make keygate flood the identity provider.

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::jwks_copy::{CopyError, KeptSet};
use super::source::{self, SourceError};
use super::url::{FetchAnswer, TransferDeadline, UrlSource};
use crate::clock::Clock;
use crate::config::{JwksSource, TokenIssuer, TokenSettings};
use crate::core::{Now, TokenFault, UserToken};
use crate::snapshot::{FetchWish, HeldKeys, Store, WishEnd};
use crate::telemetry::Metrics;
use crate::telemetry::control::FetchResult;
use crate::token::IssuerRules;
use crate::token::jwks::{JwkSet, JwksError, LONGEST_SET};
use crate::token::verify::{Issuers, Unverified};

/// Between two looks at a URL that says nothing of its own.
const FETCH_EVERY: Duration = Duration::from_secs(300);

/// What `max-age` of an answer can make of it.
const SHORTEST_AGE: Duration = Duration::from_secs(60);
const LONGEST_AGE: Duration = Duration::from_secs(3600);

/// Between two looks at a file.
const FILE_EVERY: Duration = Duration::from_secs(5);

/// From one look to the next that a wish brings.
const WISH_PAUSE: Duration = Duration::from_secs(30);

/// First pause after a failure; it doubles up to [`FETCH_EVERY`]. Before any keys were had it is
/// shorter: nobody can wish then.
const FAILURE_PAUSE: Duration = Duration::from_secs(30);
const FIRST_FAILURE_PAUSE: Duration = Duration::from_secs(1);

/// The age of the keys is shown at least this often.
const SHOW_EVERY: Duration = Duration::from_secs(15);

/// How often the supervisor looks whether the configuration has other issuers.
const CONFIG_EVERY: Duration = Duration::from_secs(1);

/// A copy on disk says when its set was had. That is written again when it is this old.
const COPY_AGE: Duration = Duration::from_secs(60);

/// Why an issuer's keys could not be had. Those before stay in force.
#[derive(Debug, thiserror::Error)]
enum IssuerFailure {
    #[error("{0}")]
    Set(#[from] JwksError),
    #[error("{0}")]
    Source(#[from] SourceError),
    #[error("no key in it verifies one of the configured algorithms")]
    Empty,
    #[error("it has a symmetric key or the private part of one, which anybody can read now")]
    NotPublic,
}

/// What every issuer's thread needs.
#[derive(Clone, Debug)]
pub struct IssuerParts {
    pub store: Arc<Store>,
    pub clock: Clock,
    pub metrics: Metrics,
}

/// One issuer's keys, and where they come from.
struct IssuerKeeper {
    parts: IssuerParts,
    issuer: TokenIssuer,
    wish: Arc<FetchWish>,
    source: OpenedSource,
    had: Option<HadKeys>,
    /// In a row.
    failures: u32,
    /// As it was told last.
    told: Option<String>,
    /// Spreads the looks of a fleet; any number.
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
    /// Unix seconds of the last time that the source had them; shared with what is in force.
    at: Arc<AtomicU64>,
    in_force: bool,
    /// As it was told last.
    is_fresh: bool,
}

/// What came of one look.
struct LookedAt {
    result: FetchResult,
    /// The server says how long it holds.
    max_age: Option<Duration>,
}

// === impl IssuerParts ===

impl IssuerParts {
    /// Puts in force what the disk has: key files, and copies of what was fetched. To be called
    /// before there are requests.
    pub fn load_first(&self) {
        let settings = Arc::clone(&self.store.load().settings.tokens);
        for issuer in &settings.issuers {
            IssuerKeeper::new(self, issuer).load_first();
        }
    }

    /// Keeps a thread for every issuer of the configuration in force, until told to stop.
    pub fn supervise(&self, stop: &Receiver<()>) {
        let mut running: Vec<(TokenIssuer, Arc<FetchWish>, JoinHandle<()>)> = Vec::new();
        let mut seen: Option<Arc<TokenSettings>> = None;
        let mut stale = Vec::new();
        loop {
            let settings = Arc::clone(&self.store.load().settings.tokens);
            if seen.as_ref().is_none_or(|seen| !Arc::ptr_eq(seen, &settings)) {
                let (kept, gone) =
                    running.into_iter().partition(|(issuer, ..)| settings.issuers.contains(issuer));
                running = kept;
                end(gone);
                if seen.is_some() {
                    self.store.keep_issuers(&settings);
                }
                for issuer in &settings.issuers {
                    if !running.iter().any(|(known, ..)| known == issuer) {
                        running.extend(self.start(issuer));
                    }
                }
                seen = Some(settings);
            }
            // Requests look at the clock themselves. Streams are told, also while the issuer's thread
            // waits for an answer.
            let stale_now = self.stale();
            if stale_now != stale {
                self.store.recheck_issuers();
                stale = stale_now;
            }
            match stop.recv_timeout(CONFIG_EVERY) {
                Err(RecvTimeoutError::Timeout) => {}
                // SIGHUP: look again, as soon as the pause allows.
                Ok(()) => running.iter().for_each(|(_, wish, _)| wish.make()),
                Err(RecvTimeoutError::Disconnected) => return end(running),
            }
        }
    }

    /// Issuers whose keys are too old.
    fn stale(&self) -> Vec<Arc<str>> {
        let (held, now) = (self.store.issuers(), self.clock.now());
        let settings = Arc::clone(&self.store.load().settings.tokens);
        let is_stale = |issuer: &&TokenIssuer| {
            held.find(&issuer.rules.issuer).is_some_and(|held| held.age(now) >= issuer.stale)
        };
        let stale = settings.issuers.iter().filter(is_stale);
        stale.map(|issuer| Arc::clone(&issuer.rules.issuer)).collect()
    }

    fn start(&self, issuer: &TokenIssuer) -> Option<(TokenIssuer, Arc<FetchWish>, JoinHandle<()>)> {
        let mut keeper = IssuerKeeper::new(self, issuer);
        let wish = Arc::clone(&keeper.wish);
        let thread = std::thread::Builder::new().name("fetch-jwks".into()).spawn(move || {
            super::lower_priority();
            keeper.load_first();
            keeper.run();
        });
        match thread {
            Ok(thread) => Some((issuer.clone(), wish, thread)),
            Err(error) => {
                tracing::error!(issuer = &*issuer.rules.issuer, %error, "no thread for its keys");
                None
            }
        }
    }
}

/// Threads that fetch end by themselves, a network time-out later at most; nobody waits for that.
fn end(running: Vec<(TokenIssuer, Arc<FetchWish>, JoinHandle<()>)>) {
    for (_, wish, thread) in running {
        wish.end();
        drop(thread);
    }
}

// === impl IssuerKeeper ===

impl IssuerKeeper {
    fn new(parts: &IssuerParts, issuer: &TokenIssuer) -> Self {
        let source = match &issuer.jwks {
            JwksSource::Path(_) => OpenedSource::File,
            JwksSource::Url { url, ca, .. } => match UrlSource::of_keys(url, ca.as_deref()) {
                Ok(source) => OpenedSource::Url(Box::new(source)),
                Err(error) => OpenedSource::Unusable(error.to_string()),
            },
        };
        let known = parts.store.issuers();
        let known = known.find(&issuer.rules.issuer).filter(|held| held.source == issuer.jwks);
        let had = known.map(|held| HadKeys {
            keys: Arc::clone(&held.keys),
            at: Arc::clone(&held.had_at),
            // Not yet with this one's wish.
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
            jitter: u64::from(std::process::id()),
        }
    }

    /// The file itself, or the copy of what a URL gave.
    fn load_first(&mut self) {
        if self.had.is_some() {
            return self.settle();
        }
        let now = self.now();
        match &self.issuer.jwks {
            JwksSource::Path(_) => {
                self.look();
            }
            JwksSource::Url { copy: Some(copy), .. } => match read_copy(copy, &self.issuer) {
                Ok((keys, fetched)) => {
                    self.had = Some(HadKeys::new(keys, fetched.min(now)));
                    self.settle();
                }
                Err(CopyError::Missing) => {}
                Err(error) => {
                    let issuer = &*self.issuer.rules.issuer;
                    tracing::warn!(
                        issuer, copy = %copy.display(), %error,
                        "the copy of its signing keys is ignored"
                    );
                }
            },
            JwksSource::Url { copy: None, .. } => {}
        }
        self.show();
    }

    fn run(&mut self) {
        let mut next = Duration::ZERO;
        let mut began = self.parts.clock.now().mono_ns;
        loop {
            if next.is_zero() {
                self.wish.tried();
                began = self.parts.clock.now().mono_ns;
                next = self.look();
            }
            self.settle();
            self.show();
            let until_stale = self.had.as_ref().filter(|had| had.is_fresh);
            let until_stale = until_stale.map_or(Duration::MAX, |had| self.left(had));
            let wait = next.min(SHOW_EVERY).min(until_stale);
            match self.wish.wait(wait) {
                WishEnd::Ended => return,
                WishEnd::TimedOut => next = next.saturating_sub(wait),
                WishEnd::Wished => {
                    // There is no other wish before the next look.
                    next = next.min(self.wish_pause().saturating_sub(self.since(began)));
                }
            }
        }
    }

    /// A file on this machine can be looked at as often as one likes.
    fn wish_pause(&self) -> Duration {
        match self.source {
            OpenedSource::File => Duration::from_secs(1),
            OpenedSource::Url(_) | OpenedSource::Unusable(_) => WISH_PAUSE,
        }
    }

    /// Looks at the source once. Returns the pause until the next look.
    fn look(&mut self) -> Duration {
        let looked = self.try_to_look();
        let issuer = Arc::clone(&self.issuer.rules.issuer);
        let control = self.parts.metrics.control();
        match looked {
            Ok(LookedAt { result, max_age }) => {
                control.jwks_fetches(&issuer, result).increment(1);
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
            Err(error) => {
                control.jwks_fetches(&issuer, FetchResult::Failed).increment(1);
                let text = error.to_string();
                if self.told.as_ref() != Some(&text) {
                    tracing::warn!(
                        issuer = &*issuer,
                        error = text,
                        "cannot get its signing keys; those had before stay in force"
                    );
                    self.told = Some(text);
                }
                let first = match self.had {
                    Some(_) => FAILURE_PAUSE,
                    None => FIRST_FAILURE_PAUSE,
                };
                let pause = first.saturating_mul(1 << self.failures.min(10));
                self.failures = self.failures.saturating_add(1);
                match self.source {
                    OpenedSource::File => FILE_EVERY,
                    OpenedSource::Url(_) | OpenedSource::Unusable(_) => {
                        self.spread(pause.min(FETCH_EVERY))
                    }
                }
            }
        }
    }

    fn try_to_look(&mut self) -> Result<LookedAt, IssuerFailure> {
        match (&self.source, &self.issuer.jwks) {
            (OpenedSource::File, JwksSource::Path(path)) => {
                let keys = self.parse(&read(path)?)?;
                Ok(LookedAt { result: self.take(keys), max_age: None })
            }
            (OpenedSource::Url(source), _) => {
                let fetched = source.fetch(TransferDeadline::AtOnce, LONGEST_SET as u64)?;
                match fetched.answer {
                    FetchAnswer::Missing { retry_after } => {
                        Err(SourceError::Status { status: 404, retry_after }.into())
                    }
                    FetchAnswer::Unchanged => {
                        let now = self.now();
                        if let Some(had) = &self.had {
                            had.at.store(now, Ordering::Relaxed);
                        }
                        self.renew_copy();
                        Ok(LookedAt { result: FetchResult::Unchanged, max_age: fetched.max_age })
                    }
                    FetchAnswer::Changed { bytes, validators } => {
                        let keys = self.parse(&bytes)?;
                        if let OpenedSource::Url(source) = &mut self.source {
                            source.taken(validators);
                        }
                        let result = self.take(keys);
                        match result {
                            FetchResult::Changed => self.keep_copy(&bytes),
                            // Without a copy so far, this is one.
                            FetchResult::Failed | FetchResult::Unchanged => self.keep_copy(&bytes),
                        }
                        Ok(LookedAt { result, max_age: fetched.max_age })
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

    fn parse(&self, bytes: &[u8]) -> Result<JwkSet, JwksError> {
        JwkSet::parse(bytes, &self.issuer.rules.algorithms)
    }

    /// The source has these keys now.
    fn take(&mut self, keys: JwkSet) -> FetchResult {
        let now = self.now();
        if let Some(had) = self.had.as_ref().filter(|had| had.keys.is_same(&keys)) {
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
            true => tracing::error!(
                issuer,
                ignored = keys.ignored,
                leaked = keys.leaked,
                "its key set has no usable key: its tokens are refused\n\
                 hint: see what the issuer publishes, and tokens.algorithms"
            ),
            false => tracing::info!(
                issuer,
                keys = keys.len(),
                ignored = keys.ignored,
                "signing keys in force"
            ),
        }
        self.had = Some(HadKeys::new(keys, now));
        self.settle();
        FetchResult::Changed
    }

    /// Puts in force what was had, and tells when it gets too old. Whoever uses the keys compares
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
    }

    fn keep_copy(&self, bytes: &[u8]) {
        let JwksSource::Url { url, copy: Some(copy), .. } = &self.issuer.jwks else { return };
        let kept = KeptSet::new(&self.issuer.rules.issuer, url, self.now(), bytes);
        if let Err(error) = kept.and_then(|kept| kept.place(copy)) {
            let issuer = &*self.issuer.rules.issuer;
            tracing::warn!(issuer, copy = %copy.display(), %error, "cannot keep a copy of its keys");
        }
    }

    /// The copy was right just now, which a successor is to know.
    fn renew_copy(&self) {
        let JwksSource::Url { url, copy: Some(copy), .. } = &self.issuer.jwks else { return };
        let Ok(mut kept) = KeptSet::read(copy) else { return };
        let now = self.now();
        if !kept.is_of(&self.issuer.rules.issuer, url)
            || now.saturating_sub(kept.fetched) < COPY_AGE.as_secs()
        {
            return;
        }
        kept.fetched = now;
        // A copy that is older than it need be is of use for a shorter time, and that is all.
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

/// What one issuer's files on this machine hold.
struct OfflineIssuers<'s> {
    settings: &'s TokenSettings,
    /// In the order of the settings.
    sets: Vec<Option<JwkSet>>,
}

/// Judges a token by the key files and copies on this machine, for `explain`. Asks no issuer.
///
/// # Errors
/// Why a sidecar with the same keys would not take it.
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

/// A key file of this machine. For `check` as well.
///
/// # Errors
/// It cannot be read, or is too long, or is no set of usable keys.
pub fn read_issuer_keys(path: &Path, issuer: &TokenIssuer) -> Result<JwkSet, String> {
    let read = || {
        let keys = JwkSet::parse(&read(path)?, &issuer.rules.algorithms)?;
        match (keys.leaked, keys.is_empty()) {
            (1.., _) => Err(IssuerFailure::NotPublic),
            (0, true) => Err(IssuerFailure::Empty),
            (0, false) => Ok(keys),
        }
    };
    read().map_err(|error| error.to_string())
}

/// The kept set of this issuer, and when it was fetched (Unix seconds).
fn read_copy(path: &Path, issuer: &TokenIssuer) -> Result<(JwkSet, u64), CopyError> {
    let JwksSource::Url { url, .. } = &issuer.jwks else { return Err(CopyError::Missing) };
    let kept = KeptSet::read(path)?;
    if !kept.is_of(&issuer.rules.issuer, url) {
        return Err(CopyError::Other);
    }
    let keys = JwkSet::parse(kept.jwks.to_string().as_bytes(), &issuer.rules.algorithms)?;
    Ok((keys, kept.fetched))
}

fn read(path: &Path) -> Result<Vec<u8>, IssuerFailure> {
    let of_io = |error| SourceError::of_io(path, error);
    let file = source::open(path).map_err(of_io)?;
    if !file.metadata().map_err(of_io)?.is_file() {
        return Err(SourceError::NotRegular { path: path.to_owned() }.into());
    }
    let mut bytes = Vec::new();
    file.take(LONGEST_SET as u64 + 1).read_to_end(&mut bytes).map_err(of_io)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
