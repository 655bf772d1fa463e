//! Words of somebody on the signer's host: what the brake would refuse may pass once, until a moment.
//! A file each, which is gone before the signature leaves. Imports files, time and errors.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::super::error::{Error, Result};
use super::super::files;
use super::super::operation::RandomSource as _;
use super::super::session::SystemRandomness;

/// Directory of the files, in the signer's state directory.
const DIRECTORY: &str = "allowed";

/// More is another file.
const MAX_BYTES: u64 = 4096;

/// What may pass.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(tag = "of", rename_all = "kebab-case", deny_unknown_fields)]
pub enum AllowedPass {
    /// A table or patch that leaves at least `least` active keys; 0: none at all.
    Fall { audience: String, least: u64 },
    /// An audit log that was restored from a backup.
    Recovery,
}

/// A word that is good once.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Allowance {
    pub pass: AllowedPass,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub until_ms: u64,
    /// Who has said it.
    pub by: String,
}

// === impl Allowance ===

impl Allowance {
    /// Writes it down, for the signer whose state is in `state`.
    ///
    /// # Errors
    ///
    /// Whoever is not the signer's user; a disk that takes nothing.
    pub fn give(&self, state: &Path) -> Result<()> {
        refuse_others(state)?;
        let directory = state.join(DIRECTORY);
        match fs::create_dir(&directory) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Error::Write { path: directory, source: e });
            }
            _ => {}
        }
        let mut random = [0u8; 8];
        SystemRandomness.fill(&mut random).map_err(|_| Error::Random)?;
        let name: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let text = serde_json::to_string(self).unwrap_or_default();
        // By rename: the signer never reads half of it.
        files::replace(&directory.join(format!("{name}.json")), format!("{text}\n").as_bytes())
    }

    /// Takes one that lets `wanted` pass. It is gone from the disk then.
    ///
    /// # Errors
    ///
    /// A disk from which nothing can be removed: the word would be good twice.
    pub fn take(
        state: &Path,
        now_ms: u64,
        wanted: impl Fn(&AllowedPass) -> bool,
    ) -> Result<Option<Self>> {
        let directory = state.join(DIRECTORY);
        let Ok(entries) = fs::read_dir(&directory) else { return Ok(None) };
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let Some(allowance) = read(&path) else { continue };
            let is_over = allowance.until_ms < now_ms;
            if !is_over && !wanted(&allowance.pass) {
                continue;
            }
            fs::remove_file(&path).map_err(Error::write(&path))?;
            File::open(&directory).and_then(|d| d.sync_all()).map_err(Error::write(&directory))?;
            if !is_over {
                return Ok(Some(allowance));
            }
        }
        Ok(None)
    }
}

fn read(path: &Path) -> Option<Allowance> {
    serde_json::from_slice(&files::read(path, MAX_BYTES).ok()?).ok()
}

/// A word counts only where the signer's own user has said it: root would leave files that the signer
/// cannot remove.
fn refuse_others(state: &Path) -> Result<()> {
    let owner = fs::metadata(state).map_err(Error::read(state))?.uid();
    let we = rustix::process::geteuid().as_raw();
    if owner == we {
        return Ok(());
    }
    let hint = "run it as the signer's user, for example with `sudo -u` or `setpriv --reuid`";
    Err(Error::setting(state, format!("belongs to user {owner}, and you are user {we}"), hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_good_once_and_for_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let fall = |audience: &str, least| AllowedPass::Fall { audience: audience.into(), least };
        let give = |pass, until_ms| {
            Allowance { pass, until_ms, by: "kim".into() }.give(dir.path()).unwrap();
        };
        let take = |now_ms, audience: &str| {
            Allowance::take(
                dir.path(),
                now_ms,
                |pass| matches!(pass, AllowedPass::Fall { audience: of, .. } if of == audience),
            )
            .unwrap()
        };
        assert_eq!(take(1, "shop"), None);
        give(fall("shop", 7), 100);
        give(AllowedPass::Recovery, 100);
        assert_eq!(take(50, "app"), None);
        assert_eq!(
            take(100, "shop").map(|a| (a.pass, a.by)),
            Some((fall("shop", 7), "kim".into()))
        );
        assert_eq!(take(100, "shop"), None, "used up");
        give(fall("shop", 7), 100);
        assert_eq!(take(101, "shop"), None, "too late");
        assert_eq!(take(50, "shop"), None, "and gone");
        fs::write(dir.path().join(DIRECTORY).join("x.json"), "{").unwrap();
        let recovery = Allowance::take(dir.path(), 50, |pass| *pass == AllowedPass::Recovery);
        assert_eq!(recovery.unwrap(), None, "that was too old as well");
    }
}
