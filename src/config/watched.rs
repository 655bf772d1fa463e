//! One file that a configuration names, and who else may use it. Imports nothing of its room.

use std::path::PathBuf;

/// A file whose replacement is to be seen without a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchedFile {
    /// The key of the configuration that names it.
    pub key: &'static str,
    /// As configured. Of a table or patch it may be the directory that holds it.
    pub path: PathBuf,
}

/// Who may use a file, beside its owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FileAccess {
    /// Its group reads it, and it belongs to another user than the one that runs keygate. A mounted
    /// Secret of Kubernetes is so.
    GroupReads,
    /// Nobody.
    #[default]
    OwnerAlone,
    /// Others, or its group although the owner could read it alone. Permission bits.
    TooMany(u32),
}

// === impl FileAccess ===

impl FileAccess {
    /// By its permission bits and its owner; `user` runs keygate.
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
