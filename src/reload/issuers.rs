//! Keeps the signing keys of issuers: a thread for each, which fetches, checks, puts in force and
//! keeps a copy. No request waits for it. Imports `clock`, `config`, `snapshot`, `token`,
//! `reload::{files, source, url}`.
//!
//! A request with an unknown `kid` is refused now and makes a wish. A wish brings the next look
//! forward, but never to less than 30 s after the last one began, whatever came of that: a stranger
//! who makes up kids must not make keygate flood the identity provider.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, UNIX_EPOCH};

use super::files::FileTurn;
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

/// A copy on disk says when it was had by its time, which is set again when it is this old.
const COPY_AGE: Duration = Duration::from_secs(60);

/// Why an issuer's keys could not be had. Those before stay in force.
#[derive(Debug, thiserror::Error)]
enum IssuerFailure {
    #[error("{0}")]
    Set(#[from] JwksError),
    #[error("{0}")]
    Source(#[from] SourceError),
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
    /// Unix seconds of the last time that the source had them.
    at: u64,
    in_force: bool,
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
            match stop.recv_timeout(CONFIG_EVERY) {
                Err(RecvTimeoutError::Timeout) => {}
                // SIGHUP: look again, as soon as the pause allows.
                Ok(()) => running.iter().for_each(|(_, wish, _)| wish.make()),
                Err(RecvTimeoutError::Disconnected) => return end(running),
            }
        }
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
        let had = known.and_then(|held| {
            let keys = Arc::clone(held.keys.as_ref()?);
            // Not yet with this one's wish.
            Some(HadKeys { keys, at: held.had_at, in_force: false })
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
            JwksSource::Url { copy: Some(copy), .. } => {
                let had = read(copy).and_then(|bytes| Ok(self.parse(&bytes)?));
                let at = modified(copy).unwrap_or(0).min(now);
                match had {
                    Ok(keys) => {
                        self.had = Some(HadKeys { keys: Arc::new(keys), at, in_force: false });
                        self.settle();
                    }
                    Err(IssuerFailure::Source(SourceError::Missing { .. })) => {}
                    Err(error) => {
                        let issuer = &*self.issuer.rules.issuer;
                        tracing::warn!(issuer, copy = %copy.display(), %error, "the copy is no use");
                    }
                }
            }
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
            let until_stale = self.had.as_ref().filter(|had| had.in_force);
            let until_stale = until_stale.map_or(Duration::MAX, |had| self.left(had));
            let wait = next.min(SHOW_EVERY).min(until_stale);
            match self.wish.wait(wait) {
                WishEnd::Ended => return,
                WishEnd::TimedOut => next = next.saturating_sub(wait),
                WishEnd::Wished => {
                    let rest = self.wish_pause().saturating_sub(self.since(began));
                    // Shown meanwhile or not: half a minute is no matter.
                    if !self.wish.sleep(rest) {
                        return;
                    }
                    next = Duration::ZERO;
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
                    FetchAnswer::Unchanged => {
                        let now = self.now();
                        if let Some(had) = &mut self.had {
                            had.at = now;
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
                            FetchResult::Failed | FetchResult::Unchanged => self.renew_copy(),
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
        if let Some(had) = self.had.as_mut().filter(|had| had.keys.is_same(&keys)) {
            had.at = now;
            return FetchResult::Unchanged;
        }
        tracing::info!(
            issuer = &*self.issuer.rules.issuer,
            keys = keys.len(),
            ignored = keys.ignored,
            "signing keys in force"
        );
        self.had = Some(HadKeys { keys: Arc::new(keys), at: now, in_force: false });
        self.settle();
        FetchResult::Changed
    }

    /// Puts in force what was had, or takes it out of force when it is too old.
    fn settle(&mut self) {
        let is_fresh = self.had.as_ref().is_some_and(|had| !self.left(had).is_zero());
        let Some(had) = &mut self.had else { return };
        if had.in_force == is_fresh {
            return;
        }
        had.in_force = is_fresh;
        let keys = is_fresh.then(|| Arc::clone(&had.keys));
        let had_at = had.at;
        if !is_fresh {
            tracing::error!(
                issuer = &*self.issuer.rules.issuer,
                "its signing keys are too old: its tokens are refused\n\
                 hint: see why the issuer cannot be reached, or raise tokens.jwks_stale"
            );
        }
        self.parts.store.put_issuer(&HeldKeys {
            issuer: Arc::clone(&self.issuer.rules.issuer),
            source: self.issuer.jwks.clone(),
            keys,
            had_at,
            wish: Arc::clone(&self.wish),
        });
    }

    /// How long these keys may still be used.
    fn left(&self, had: &HadKeys) -> Duration {
        let age = Duration::from_secs(self.now().saturating_sub(had.at));
        self.issuer.stale.saturating_sub(age)
    }

    fn show(&self) {
        let gauge = self.parts.metrics.control().jwks_age(&self.issuer.rules.issuer);
        gauge.set(match &self.had {
            Some(had) => self.now().saturating_sub(had.at) as f64,
            None => -1.0,
        });
    }

    fn keep_copy(&self, bytes: &[u8]) {
        let JwksSource::Url { copy: Some(copy), .. } = &self.issuer.jwks else { return };
        if let Err(error) = FileTurn::take(copy).and_then(|turn| turn.place(bytes)) {
            let issuer = &*self.issuer.rules.issuer;
            tracing::warn!(issuer, copy = %copy.display(), %error, "cannot keep a copy of its keys");
        }
    }

    /// The copy was right just now: its time says so to a successor.
    fn renew_copy(&self) {
        let JwksSource::Url { copy: Some(copy), .. } = &self.issuer.jwks else { return };
        let now = self.now();
        if modified(copy).is_some_and(|at| now.saturating_sub(at) < COPY_AGE.as_secs()) {
            return;
        }
        let at = UNIX_EPOCH + Duration::from_secs(now);
        // A copy that is older than it need be is of use for a shorter time, and that is all.
        let _ = File::options().write(true).open(copy).and_then(|file| file.set_modified(at));
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
    let set = |issuer: &TokenIssuer| {
        let path = match &issuer.jwks {
            JwksSource::Path(path) => Some(path),
            JwksSource::Url { copy, .. } => copy.as_ref(),
        };
        read_issuer_keys(path?, issuer).ok()
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
    let keys = read(path).and_then(|bytes| Ok(JwkSet::parse(&bytes, &issuer.rules.algorithms)?));
    keys.map_err(|error| error.to_string())
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

/// Unix seconds.
fn modified(path: &Path) -> Option<u64> {
    let time = std::fs::metadata(path).ok()?.modified().ok()?;
    Some(time.duration_since(UNIX_EPOCH).ok()?.as_secs())
}

#[cfg(test)]
mod tests;
