//! `unpublished.json`: why changes are not published, written by the process that publishes. A
//! command on the host cannot know what the signer has answered.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::config::AudienceConfig;
use super::PublisherHandle;
use crate::manage::error::Error;
use crate::manage::files;
use crate::manage::signing::ask::ask_key;
use crate::manage::signing::source::SignerSource;

/// The file's name, in the state directory.
const FILE: &str = "unpublished.json";

/// A larger file is not ours.
const MAX_BYTES: u64 = 1 << 20;

/// How often to check that the file is up to date.
const LOOK: Duration = Duration::from_secs(1);

/// Why the changes of an audience are not published.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct NotedHindrance {
    /// Of the closed list of the API.
    pub reason: Box<str>,
    /// In full, for the people who look after the host.
    pub why: Box<str>,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub since_ms: u64,
}

type ByAudience = BTreeMap<String, NotedHindrance>;

/// Keeps the reason why changes are not published in the file, until the service ends.
pub async fn keep_noting(publisher: PublisherHandle, state: PathBuf) {
    let mut tick = tokio::time::interval(LOOK);
    // The first check removes what an earlier process has left.
    let mut said: Option<ByAudience> = None;
    loop {
        tick.tick().await;
        let now = hindrances(&publisher, said.as_ref());
        if said.as_ref() == Some(&now) {
            continue;
        }
        let (state, wanted) = (state.clone(), now.clone());
        let done = tokio::task::spawn_blocking(move || write(&state, &wanted)).await;
        match done {
            Ok(Ok(())) => said = Some(now),
            // It will be tried again. If the disk is full, the log says so already.
            Ok(Err(error)) => tracing::debug!(%error, "the reason is not noted"),
            Err(_) => return,
        }
    }
}

fn hindrances(publisher: &PublisherHandle, said: Option<&ByAudience>) -> ByAudience {
    let now_ms = publisher.clock.now().unix_ms;
    let states = publisher.states().filter_map(|(name, state)| {
        let (reason, why) = (state.hindrance()?.as_str(), state.hindrance_in_full()?);
        // Nobody records since when a database has been behind.
        let said = said.and_then(|said| said.get(name.as_str()));
        let said = said.filter(|said| *said.reason == *reason).map(|said| said.since_ms);
        let unpublished = state.unpublished.map(|unpublished| unpublished.since_ms);
        let noted = NotedHindrance {
            reason: reason.into(),
            why: why.into(),
            since_ms: unpublished.or(said).unwrap_or(now_ms),
        };
        Some((name.to_string(), noted))
    });
    states.collect()
}

fn write(state: &Path, wanted: &ByAudience) -> Result<(), Error> {
    let path = state.join(FILE);
    if wanted.is_empty() {
        return match std::fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::Write { path, source: e }),
            _ => Ok(()),
        };
    }
    let text = serde_json::to_string_pretty(wanted).unwrap_or_default();
    files::replace(&path, format!("{text}\n").as_bytes())
}

/// What the running service has recorded. Nothing, if the file cannot be read.
pub fn noted(state: &Path) -> BTreeMap<String, NotedHindrance> {
    let bytes = files::read(&state.join(FILE), MAX_BYTES).ok();
    bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

/// What would keep a service from publishing, as far as one can tell without a service.
pub fn obstacle(audience: &AudienceConfig) -> Option<String> {
    let signer = match audience.signer.as_ref()? {
        SignerSource::Socket { path, .. } => ask_key(path).map(drop).map_err(|e| e.to_string()),
        signer => signer.public().map(drop),
    };
    if let Err(why) = signer {
        return Some(why);
    }
    let mut directories = audience.targets.iter().map(|target| files::directory(&target.table));
    let missing = directories.find(|directory| !directory.is_dir())?;
    Some(format!("{}: there is no such directory", missing.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_is_read_and_goes_away() {
        let dir = tempfile::tempdir().unwrap();
        assert!(noted(dir.path()).is_empty());
        let hindrance =
            NotedHindrance { reason: "target".into(), why: "x: full".into(), since_ms: 7 };
        let wanted = BTreeMap::from([("shop".to_owned(), hindrance)]);
        write(dir.path(), &wanted).unwrap();
        assert_eq!(noted(dir.path()), wanted);
        write(dir.path(), &BTreeMap::new()).unwrap();
        write(dir.path(), &BTreeMap::new()).unwrap();
        assert!(noted(dir.path()).is_empty() && !dir.path().join(FILE).exists());
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        assert!(noted(dir.path()).is_empty());
    }
}
