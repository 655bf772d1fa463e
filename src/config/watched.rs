//! One file that a configuration names, and who else may use it. Imports nothing of its room.

use std::fmt;
use std::fs::Metadata;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// A file whose replacement must be noticed without a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchedFile {
    /// The key of the configuration that names it.
    pub key: &'static str,
    /// As configured. For a table or patch it may be the directory that holds it.
    pub path: PathBuf,
}

/// Who may use a file in addition to its owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FileAccess {
    /// Its group can read it, and its owner is not the user that runs keygate. A mounted Secret of
    /// Kubernetes is like that.
    GroupReads,
    /// Nobody.
    #[default]
    OwnerAlone,
    /// Others, or its group although the owner could read it alone. Holds the permission bits.
    TooMany(u32),
}

/// Permission bits of a file that not only its owner may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileWriters {
    mode: u32,
}

// === impl FileWriters ===

impl FileWriters {
    /// `None`: only its owner may write it, or the file does not exist.
    pub fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok().filter(Metadata::is_file)?;
        Self::of_mode(metadata.permissions().mode())
    }

    fn of_mode(mode: u32) -> Option<Self> {
        (mode & 0o022 != 0).then_some(Self { mode: mode & 0o7777 })
    }

    pub const fn who(self) -> &'static str {
        match self.mode & 0o002 {
            0 => "its group",
            _ => "everybody on this machine",
        }
    }
}

impl fmt::Display for FileWriters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mode is {:04o}", self.mode)
    }
}

// === impl FileAccess ===

impl FileAccess {
    /// Determined from its permission bits and its owner. `user` runs keygate.
    pub(super) fn of(mode: u32, owner: u32, user: u32) -> Self {
        match mode & 0o077 {
            0 => Self::OwnerAlone,
            0o040 if owner != user => Self::GroupReads,
            _ => Self::TooMany(mode & 0o7777),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_write_a_file() {
        for mode in [0o100644, 0o100400, 0o100755, 0o100604] {
            assert_eq!(FileWriters::of_mode(mode), None, "{mode:o}");
        }
        for (mode, who) in [
            (0o100666, "everybody on this machine"),
            (0o100602, "everybody on this machine"),
            (0o100664, "its group"),
        ] {
            assert_eq!(FileWriters::of_mode(mode).map(FileWriters::who), Some(who), "{mode:o}");
        }
    }

    #[test]
    fn who_may_use_a_file() {
        for (mode, owner, want) in [
            (0o100600, 7, FileAccess::OwnerAlone),
            (0o100400, 7, FileAccess::OwnerAlone),
            (0o100400, 0, FileAccess::OwnerAlone),
            (0o100440, 0, FileAccess::GroupReads),
            (0o100640, 0, FileAccess::GroupReads),
            (0o100640, 7, FileAccess::TooMany(0o640)),
            (0o100660, 0, FileAccess::TooMany(0o660)),
            (0o100644, 0, FileAccess::TooMany(0o644)),
            (0o100604, 7, FileAccess::TooMany(0o604)),
            (0o100620, 7, FileAccess::TooMany(0o620)),
            (0o100601, 7, FileAccess::TooMany(0o601)),
        ] {
            assert_eq!(FileAccess::of(mode, owner, 7), want, "{mode:o} of {owner}");
        }
    }
}
