//! Allowances that somebody on the signer's host gives: what the brake would refuse may pass once,
//! until a moment. Each is a file that is removed before the signature leaves. Imports the rules,
//! files, time and errors.

use std::fmt;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::super::error::{Error, Result};
use super::super::files;
use super::super::operation::RandomSource as _;
use super::super::session::SystemRandomness;
use super::numbers::MOST_AT_ONCE;
use super::rules::AllowedPart;

/// Directory of the files, in the signer's state directory.
const DIRECTORY: &str = "allowed";

/// A longer file is not an allowance.
const MAX_BYTES: u64 = 4096;

/// What may pass.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(tag = "of", rename_all = "kebab-case", deny_unknown_fields)]
pub enum AllowedPass {
    /// A table or patch that leaves at least `least` active keys; 0: none at all.
    Fall { audience: String, least: u64 },
    /// A table or patch with this serial or one slightly above, even if something newer was signed
    /// or the serial is far ahead.
    Serial { audience: String, from: u64 },
    /// An audit log that was restored from a backup, or that would go back or too far ahead.
    Recovery,
}

/// A permission for one pass, valid once.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Allowance {
    pub pass: AllowedPass,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub until_ms: u64,
    /// Who gave it.
    pub by: String,
}

// === impl AllowedPass ===

impl AllowedPass {
    /// Whether it lets this part of a table or patch for `audience` pass.
    pub fn lets(&self, audience: &str, part: AllowedPart) -> bool {
        match (part, self) {
            (AllowedPart::Fall { active }, Self::Fall { audience: of, least }) => {
                **of == *audience && *least <= active
            }
            (AllowedPart::Serial { serial }, Self::Serial { audience: of, from }) => {
                let most = from.saturating_add(MOST_AT_ONCE);
                **of == *audience && (*from..=most).contains(&serial)
            }
            _ => false,
        }
    }

    /// `None`: it concerns the audit log.
    pub fn audience(&self) -> Option<&str> {
        match self {
            Self::Fall { audience, .. } | Self::Serial { audience, .. } => Some(audience),
            Self::Recovery => None,
        }
    }
}

impl fmt::Display for AllowedPass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fall { audience, least } => write!(
                f,
                "the next table or patch for {audience} that leaves {least} active keys or more"
            ),
            Self::Serial { audience, from } => {
                write!(f, "the next table or patch for {audience} of serial {from} or above")
            }
            Self::Recovery => f.write_str("the next audit log that was restored from a backup"),
        }
    }
}

// === impl Allowance ===

impl Allowance {
    /// Writes it down for the signer whose state is in `state`.
    ///
    /// # Errors
    ///
    /// The process does not run as the signer's user; the disk takes no writes.
    pub fn give(&self, state: &Path) -> Result<()> {
        refuse_others(state)?;
        let directory = state.join(DIRECTORY);
        match DirBuilder::new().mode(0o700).create(&directory) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Error::Write { path: directory, source: e });
            }
            _ => {}
        }
        // Checked whether or not the directory already existed.
        refuse_shared(&directory, 0o077, HINT)?;
        let mut random = [0u8; 8];
        SystemRandomness.fill(&mut random).map_err(|_| Error::Random)?;
        let name: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let text = serde_json::to_string(self).unwrap_or_default();
        // By rename: the signer never reads half of it.
        files::replace(&directory.join(format!("{name}.json")), format!("{text}\n").as_bytes())
    }

    /// Takes an allowance for each of the first `parts` numbers: one that `lets` its part pass. All
    /// of them are then removed from the disk, or none. The inner error is the first part without
    /// an allowance.
    ///
    /// # Errors
    ///
    /// A disk from which nothing can be removed: the allowance would be valid twice.
    pub fn take(
        state: &Path,
        now_ms: u64,
        parts: usize,
        lets: impl Fn(usize, &AllowedPass) -> bool,
    ) -> Result<std::result::Result<Vec<Self>, usize>> {
        let directory = state.join(DIRECTORY);
        let (mut there, over): (Vec<_>, Vec<_>) =
            words(&directory).into_iter().partition(|(_, word)| word.until_ms >= now_ms);
        let mut found = Vec::new();
        let mut missing = None;
        for part in 0..parts {
            match there.iter().position(|(_, word)| lets(part, &word.pass)) {
                Some(at) => found.push(there.swap_remove(at)),
                None => missing = missing.or(Some(part)),
            }
        }
        if missing.is_some() {
            found.clear();
        }
        let gone: Vec<_> = over.iter().chain(&found).map(|(path, _)| path).collect();
        for path in &gone {
            fs::remove_file(path).map_err(Error::write(path))?;
        }
        if !gone.is_empty() {
            File::open(&directory).and_then(|d| d.sync_all()).map_err(Error::write(&directory))?;
        }
        Ok(match missing {
            Some(part) => Err(part),
            None => Ok(found.into_iter().map(|(_, word)| word).collect()),
        })
    }

    /// What is allowed now, in no particular order.
    ///
    /// # Errors
    ///
    /// The process does not run as the signer's user, and so would see nothing.
    pub fn given(state: &Path, now_ms: u64) -> Result<Vec<Self>> {
        refuse_others(state)?;
        let words = words(&state.join(DIRECTORY)).into_iter().map(|(_, word)| word);
        Ok(words.filter(|word| word.until_ms >= now_ms).collect())
    }

    /// Withdraws each allowance that is `meant`, and returns those that the signer had not used
    /// yet.
    ///
    /// # Errors
    ///
    /// The process does not run as the signer's user; a disk from which nothing can be removed.
    pub fn withdraw(state: &Path, now_ms: u64, meant: impl Fn(&Self) -> bool) -> Result<Vec<Self>> {
        refuse_others(state)?;
        let directory = state.join(DIRECTORY);
        let mut gone = Vec::new();
        for (path, word) in words(&directory) {
            if !meant(&word) {
                continue;
            }
            match fs::remove_file(&path) {
                // The signer used it first, or it has expired anyway.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(Error::Write { path, source }),
                Ok(()) if word.until_ms >= now_ms => gone.push(word),
                Ok(()) => {}
            }
        }
        if directory.exists() {
            File::open(&directory).and_then(|d| d.sync_all()).map_err(Error::write(&directory))?;
        }
        Ok(gone)
    }

    /// Whether an allowance lets `wanted` pass. It is not used up.
    pub fn is_given(state: &Path, now_ms: u64, wanted: impl Fn(&AllowedPass) -> bool) -> bool {
        let words = words(&state.join(DIRECTORY));
        words.iter().any(|(_, word)| word.until_ms >= now_ms && wanted(&word.pass))
    }
}

/// What is wrong if others could give allowances in the signer's name.
const HINT: &str = "chown it to the signer's user and chmod 700: whoever writes there allows what the \
                    signer would refuse";

/// Refuses a directory of allowances that others can use. A missing directory is fine.
///
/// # Errors
///
/// Who owns it, or who else can use it.
pub fn refuse_shared_words(state: &Path) -> Result<()> {
    let directory = state.join(DIRECTORY);
    match directory.symlink_metadata() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        _ => refuse_shared(&directory, 0o077, HINT),
    }
}

/// Refuses a path that belongs to another user, or has one of these permission bits.
///
/// # Errors
///
/// Which of the two.
pub fn refuse_shared(path: &Path, bits: u32, hint: &'static str) -> Result<()> {
    let there = fs::metadata(path).map_err(Error::read(path))?;
    let (owner, we) = (there.uid(), rustix::process::geteuid().as_raw());
    if owner != we {
        let why = format!("belongs to user {owner}, and the signer is user {we}");
        return Err(Error::setting(path, why, hint));
    }
    let mode = there.permissions().mode() & 0o777;
    match mode & bits {
        0 => Ok(()),
        _ => Err(Error::setting(path, format!("others can use it (mode {mode:04o})"), hint)),
    }
}

/// All existing allowances, with their files, ordered by file name.
fn words(directory: &Path) -> Vec<(PathBuf, Allowance)> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut words: Vec<_> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .filter_map(|path| Some((read(&path)?, path)))
        .map(|(word, path)| (path, word))
        .collect();
    words.sort_by(|(a, _), (b, _)| a.cmp(b));
    words
}

/// `None`: the file is not an allowance, or another user wrote it.
fn read(path: &Path) -> Option<Allowance> {
    let there = path.symlink_metadata().ok()?;
    let is_ours = there.is_file() && there.uid() == rustix::process::geteuid().as_raw();
    let others_write = there.permissions().mode() & 0o022 != 0;
    if !is_ours || others_write {
        return None;
    }
    serde_json::from_slice(&files::read(path, MAX_BYTES).ok()?).ok()
}

/// An allowance counts only if the signer's own user gave it: root would leave files that the
/// signer cannot remove.
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
        let is_fall = |audience: &str, pass: &AllowedPass| matches!(pass, AllowedPass::Fall { audience: of, .. } if of == audience);
        let take = |now_ms, audience: &str| {
            let taken = Allowance::take(dir.path(), now_ms, 1, |_, pass| is_fall(audience, pass));
            taken.unwrap().ok().and_then(|mut words| words.pop())
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
        let given =
            |now_ms| Allowance::is_given(dir.path(), now_ms, |pass| *pass == AllowedPass::Recovery);
        assert!(!given(50), "that was too old as well");
        give(AllowedPass::Recovery, 100);
        assert!(given(100) && given(100) && !given(101));
    }

    #[test]
    fn what_is_allowed_is_listed_and_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        let given = |now_ms| Allowance::given(dir.path(), now_ms).unwrap();
        assert_eq!((given(1), given(1).len()), (Vec::new(), 0), "nothing yet");
        let serial = AllowedPass::Serial { audience: "app".into(), from: 7 };
        for (pass, until_ms) in
            [(AllowedPass::Recovery, 100), (serial.clone(), 100), (serial.clone(), 10)]
        {
            Allowance { pass, until_ms, by: "kim".into() }.give(dir.path()).unwrap();
        }
        assert_eq!((given(1).len(), given(50).len(), given(101).len()), (3, 2, 0));
        let take_back = || {
            let meant = |word: &Allowance| word.pass.audience() == Some("app");
            let gone = Allowance::withdraw(dir.path(), 50, meant).unwrap();
            gone.into_iter().map(|word| word.pass).collect::<Vec<_>>()
        };
        assert_eq!(take_back(), [serial], "the other was over");
        assert_eq!(take_back(), []);
        let left = given(1);
        assert_eq!(
            left.iter().map(|word| &word.pass).collect::<Vec<_>>(),
            [&AllowedPass::Recovery]
        );
    }

    /// If one of them is missing, the other stays.
    #[test]
    fn two_words_are_taken_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let fall = AllowedPass::Fall { audience: "shop".into(), least: 0 };
        let serial = AllowedPass::Serial { audience: "shop".into(), from: 7 };
        let give = |pass: &AllowedPass| {
            let word = Allowance { pass: pass.clone(), until_ms: 100, by: "kim".into() };
            word.give(dir.path()).unwrap();
        };
        let wanted = [fall.clone(), serial.clone()];
        let take = || {
            let taken =
                Allowance::take(dir.path(), 1, 2, |part, pass| wanted.get(part) == Some(pass));
            taken.unwrap().map(|words| words.into_iter().map(|word| word.pass).collect::<Vec<_>>())
        };
        assert_eq!(take(), Err(0));
        give(&fall);
        assert_eq!((take(), take()), (Err(1), Err(1)));
        give(&serial);
        assert_eq!(take(), Ok(wanted.to_vec()));
        assert_eq!(take(), Err(0));
        // One allowance is not valid for two parts.
        give(&fall);
        let both = Allowance::take(dir.path(), 1, 2, |_, pass| *pass == fall);
        assert_eq!(both.unwrap(), Err(1));
    }

    #[test]
    fn words_of_others_do_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let words = dir.path().join(DIRECTORY);
        let word = Allowance { pass: AllowedPass::Recovery, until_ms: 100, by: "kim".into() };
        refuse_shared_words(dir.path()).unwrap();
        word.give(dir.path()).unwrap();
        refuse_shared_words(dir.path()).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&words), 0o700, "whatever the umask");
        let given = || Allowance::is_given(dir.path(), 1, |_| true);
        assert!(given());
        let file = fs::read_dir(&words).unwrap().flatten().next().unwrap().path();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o622)).unwrap();
        assert!(!given(), "others can write it");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(given());
        let elsewhere = dir.path().join("elsewhere");
        fs::rename(&file, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &file).unwrap();
        assert!(!given(), "a link to what may be another's");
        for open in [0o777, 0o755, 0o710] {
            fs::set_permissions(&words, fs::Permissions::from_mode(open)).unwrap();
            let told = refuse_shared_words(dir.path()).unwrap_err().to_string();
            assert!(told.contains("others can use it") && told.contains("chmod 700"), "{told}");
            assert!(word.give(dir.path()).is_err(), "{open:o}");
        }
        if rustix::process::geteuid().is_root() {
            fs::set_permissions(&words, fs::Permissions::from_mode(0o700)).unwrap();
            fs::remove_file(&file).unwrap();
            fs::rename(&elsewhere, &file).unwrap();
            std::os::unix::fs::chown(&file, Some(65534), None).unwrap();
            assert!(!given(), "another's");
            std::os::unix::fs::chown(&words, Some(65534), None).unwrap();
            let told = refuse_shared_words(dir.path()).unwrap_err().to_string();
            assert!(told.contains("belongs to user 65534"), "{told}");
        }
    }
}
