//! The versions of the format. Imports nothing of this room.

/// A version that is read and written. The default is for publishers who have not stated that all
/// readers know a newer one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TableFormat {
    /// One limit per key.
    #[default]
    V1,
    /// Limits by policy, limits of orgs, canaries, sunsets, owners.
    V2,
}

// === impl TableFormat ===

impl TableFormat {
    /// The newest that is read and written.
    pub const NEWEST: Self = Self::V2;
    /// The oldest that is read and written: the one before the newest.
    pub const OLDEST: Self = Self::V1;

    /// The version byte of a file.
    pub const fn number(self) -> u8 {
        match self {
            Self::V1 => 1,
            Self::V2 => 2,
        }
    }

    pub const fn of_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::V1),
            2 => Some(Self::V2),
            _ => None,
        }
    }
}

impl std::fmt::Display for TableFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.number())
    }
}
