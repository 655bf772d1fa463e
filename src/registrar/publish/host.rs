//! Publishing, as commands on the host see it: whether a service runs here, who publishes, and
//! whether a command's change is published.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;

use super::high_water::HighWaterFile;
use super::hindrance::{NotedHindrance, noted};
use super::outbox::{Outbox, OutboxParts};
use super::target::there;
use super::{PublicationState, PublisherOptions, UnpublishedReason, is_behind, of_store};
use crate::exit::Exit;
use crate::manage::error::{Error, Result};
use crate::manage::files::{Lock, POLL};
use crate::registrar::config::AudienceConfig;
use crate::registrar::store::AudienceName;

/// The longest that a command waits until its change is published.
pub const PUBLISHED_WITHIN: Duration = Duration::from_secs(10);

/// A reason recorded this long after a change is about that change as well: the service has tried
/// since.
const STILL_NOTED: Duration = Duration::from_secs(3);

/// Between two checks of what has happened to a change.
const LOOK: Duration = Duration::from_millis(100);

/// A command that checks whether a service runs holds up a starting one for no longer than this.
const LOOKED_AT: Duration = Duration::from_secs(1);

/// Locked by the process that publishes: the service, or a command while there is none.
const PUBLISHER: &str = "publisher";

/// Locked by the service alone.
const SERVICE: &str = "service";

/// Held by the service while it runs.
#[derive(Debug)]
pub(super) struct ServiceLock {
    _publisher: Lock,
    _service: Lock,
}

// === impl ServiceLock ===

impl ServiceLock {
    /// Waits up to `wait` for a command that publishes, or for a predecessor that is ending.
    pub(super) async fn take(state: &Path, wait: Duration) -> Result<Self> {
        let mut waited = Duration::ZERO;
        let publisher = loop {
            match Lock::take(&state.join(PUBLISHER), Duration::ZERO) {
                Ok(lock) => break lock,
                Err(Error::Locked { holder, .. }) if waited < wait => {
                    if waited.is_zero() {
                        let state = state.display();
                        tracing::warn!(%state, "another process{holder} publishes from here; waiting for its end");
                    }
                    // An asynchronous sleep, so that a signal can end the wait.
                    tokio::time::sleep(POLL).await;
                    waited += POLL;
                }
                Err(Error::Locked { holder, .. }) => {
                    let message = format!(
                        "{}: another process{holder} publishes from here\nhint: one service at a \
                         time works on a state directory",
                        state.display()
                    );
                    return Err(Error::Added { message, exit: Exit::TryAgain });
                }
                Err(e) => return Err(e),
            }
        };
        let service = Lock::take(&state.join(SERVICE), LOOKED_AT)?;
        Ok(Self { _publisher: publisher, _service: service })
    }
}

/// Whether a service runs on this state directory.
///
/// # Errors
///
/// A directory that cannot be read.
pub fn is_served(state: &Path) -> Result<bool> {
    Lock::is_held(&state.join(SERVICE))
}

/// Waits until a command's change is published: by the service if one runs, otherwise by this
/// process, into the directories of the targets.
///
/// # Errors
///
/// Why it is not published yet, with exit code 75. The change stays in the database.
pub async fn publish_change(
    options: &PublisherOptions,
    audience: &AudienceName,
    serial: u64,
) -> Result<()> {
    let state = &options.settings.state;
    let Some(config) = options.settings.audience(audience) else { return Ok(()) };
    let mut waited = Duration::ZERO;
    loop {
        if is_published(options, config, serial).await? {
            return all_told(options, config);
        }
        if let Some(lock) = lock(state)? {
            if config.signer.is_none() || !config.targets.is_empty() {
                once(options, config).await?;
                drop(lock);
                if is_published(options, config, serial).await? {
                    return all_told(options, config);
                }
            } else if !options.store.is_shared() {
                return Err(only_the_service());
            }
        }
        let hindrance = noted_by_service(state, audience)?;
        if waited >= PUBLISHED_WITHIN || (hindrance.is_some() && waited >= STILL_NOTED) {
            return Err(not_published(hindrance));
        }
        tokio::time::sleep(LOOK).await;
        waited += LOOK;
    }
}

/// What keeps the running service from publishing. A service that was killed leaves its record
/// behind.
fn noted_by_service(state: &Path, audience: &AudienceName) -> Result<Option<NotedHindrance>> {
    Ok(match is_served(state)? {
        true => noted(state).remove(audience.as_str()),
        false => None,
    })
}

/// Whether the database says so and every directory has it. The database says so even if a
/// directory could not be written.
async fn is_published(
    options: &PublisherOptions,
    config: &AudienceConfig,
    serial: u64,
) -> Result<bool> {
    let publication = options.store.publication(&config.name).await.map_err(of_store)?;
    // If the file cannot be read, do not assume that it is there.
    let has = |path: &Path| {
        let manifest = there(path).ok().flatten();
        manifest
            .is_some_and(|found| *found.audience == *config.name.as_str() && found.serial >= serial)
    };
    let mut targets = config.targets.iter();
    Ok(publication.published >= serial
        && targets.all(|target| has(&target.patch) || has(&target.table)))
}

/// The lock for a command that publishes. `None`: another process holds it.
fn lock(state: &Path) -> Result<Option<Lock>> {
    match Lock::take(&state.join(PUBLISHER), Duration::ZERO) {
        Ok(lock) => Ok(Some(lock)),
        Err(Error::Locked { .. }) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Publishes whatever there is to publish, under the lock.
async fn once(options: &PublisherOptions, config: &AudienceConfig) -> Result<()> {
    let high_water = HighWaterFile::open(&options.settings.state)?;
    let high_water = Arc::new(Mutex::new(high_water));
    let (state, shown) = watch::channel(PublicationState::default());
    let parts = OutboxParts { options, audience: config, state, high_water: &high_water };
    let mut outbox = Outbox::new(parts);
    outbox.begin().await.map_err(of_store)?;
    let done = match outbox.turn().await {
        Ok(()) => outbox.noted().await,
        Err(fault) => Err(fault),
    };
    let behind = shown.borrow().behind.clone();
    if let Some(behind) = behind {
        return Err(is_behind(&behind));
    }
    done.map_err(|fault| {
        let then = match fault.reason() {
            UnpublishedReason::AwaitingSignatures => {
                "start the service, and have them sign: `keygatectl signer co-sign`"
            }
            UnpublishedReason::NoSigner => "set `audiences.signer`, and start the service",
            UnpublishedReason::SignerRefuses => {
                "once the signer signs, the same command, given again, publishes it; so does the \
                 service when it starts"
            }
            _ => "the same command, given again, publishes it; so does the service when it starts",
        };
        unpublished(&format!(": {fault}"), then)
    })
}

/// The change is published, but sidecars that fetch from a service that is not running get nothing.
fn all_told(options: &PublisherOptions, config: &AudienceConfig) -> Result<()> {
    let fleets = options.settings.fleets.iter().filter(|f| f.audiences.contains(&config.name));
    let fleets: Vec<_> = fleets.map(|fleet| &*fleet.name).collect();
    // Another instance may be running on the same database.
    if fleets.is_empty() || options.store.is_shared() || is_served(&options.settings.state)? {
        return Ok(());
    }
    let message = format!(
        "published into the directories of its targets; sidecars that fetch tables (fleets: {}) learn \
         nothing from a service that does not run\nhint: start the service",
        fleets.join(", ")
    );
    Err(Error::Added { message, exit: Exit::TryAgain })
}

fn only_the_service() -> Error {
    unpublished(
        ": the service does not run, and the audience has no directory to publish into \
         ([[audiences.targets]])",
        "start the service: it publishes the change",
    )
}

/// The service's recorded reason, or that it has recorded none.
fn not_published(hindrance: Option<NotedHindrance>) -> Error {
    let Some(NotedHindrance { reason, why, .. }) = hindrance else {
        let seconds = PUBLISHED_WITHIN.as_secs();
        return unpublished(
            &format!(" within {seconds} s"),
            "the service goes on; `keygatectl admin check --running` says whether it is published, or \
             what is in its way",
        );
    };
    let known = UnpublishedReason::ALL.into_iter().find(|known| known.as_str() == &*reason);
    let then = match known {
        Some(UnpublishedReason::AwaitingSignatures) => {
            "have them sign: `keygatectl signer co-sign`; the service publishes it then"
        }
        Some(UnpublishedReason::Behind) => {
            "`keygatectl admin recover` takes in what was published since"
        }
        Some(UnpublishedReason::SignerRefuses) => {
            "once the signer signs, the service publishes it by itself"
        }
        _ => {
            "the service goes on trying; docs/management.md, \"Why something is not published\", says \
             what helps"
        }
    };
    unpublished(&format!(": {why}"), then)
}

/// With exit code 75. If the reason has a hint of its own, that hint comes first.
fn unpublished(why: &str, then: &str) -> Error {
    let (why, first) = match why.split_once("\nhint: ") {
        Some((why, first)) => (why, format!("{first}; ")),
        None => (why, String::new()),
    };
    let message = format!(
        "the change is in the database, and not published{why}\nhint: sidecars do not know of it until \
         it is. {first}{then}"
    );
    Error::Added { message, exit: Exit::TryAgain }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fast<T>(test: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(test)
    }

    /// A command on the host, or a predecessor that is ending, does not stop a start.
    #[test]
    fn a_service_that_starts_waits_for_whoever_publishes() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path();
        fast(async {
            let held = lock(state).unwrap().unwrap();
            let late = ServiceLock::take(state, Duration::ZERO).await.unwrap_err();
            assert_eq!(late.exit(), Exit::TryAgain.code());
            let own = format!("another process (process {}) publishes", std::process::id());
            assert!(late.to_string().contains(&own), "{late}");
            let ending = async {
                tokio::time::sleep(POLL * 4).await;
                assert!(!is_served(state).unwrap(), "a command is no service");
                drop(held);
            };
            let (taken, ()) = tokio::join!(ServiceLock::take(state, LOOKED_AT), ending);
            let taken = taken.unwrap();
            assert!(is_served(state).unwrap() && lock(state).unwrap().is_none());
            drop(taken);
            assert!(!is_served(state).unwrap());
        });
    }

    /// It was killed, so the reason may be gone.
    #[test]
    fn what_a_dead_service_has_noted_is_no_reason() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path();
        let text = "{\"shop\": {\"reason\": \"target\", \"why\": \"full\", \"since_ms\": 7}}";
        std::fs::write(state.join("unpublished.json"), text).unwrap();
        let shop = AudienceName::parse("shop").unwrap();
        assert_eq!(noted_by_service(state, &shop).unwrap(), None);
        let serves = fast(ServiceLock::take(state, LOOKED_AT)).unwrap();
        let noted = noted_by_service(state, &shop).unwrap().unwrap();
        assert_eq!(&*noted.why, "full");
        drop(serves);
    }

    /// A check takes nothing away from other checks, and creates no file.
    #[test]
    fn a_look_leaves_no_trace() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!is_served(dir.path()).unwrap());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn each_reason_says_what_to_do() {
        for reason in UnpublishedReason::ALL {
            let why = "x: full\nhint: make room".into();
            let noted = NotedHindrance { reason: reason.as_str().into(), why, since_ms: 7 };
            let told = not_published(Some(noted));
            assert_eq!(told.exit(), Exit::TryAgain.code());
            let told = told.to_string();
            assert!(told.contains("not published: x: full\nhint: "), "{told}");
            assert!(told.contains("until it is. make room; "), "{told}");
            assert_eq!(told.matches("hint: ").count(), 1, "{told}");
        }
        let told = not_published(None).to_string();
        assert!(told.contains("not published within 10 s\nhint: "), "{told}");
    }
}
