//! What a file is: a table, or a patch over one. Imports nothing of this crate.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a file says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileKind {
    Patch,
    Table,
}

// === impl FileKind ===

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Patch => "patch",
            Self::Table => "table",
        })
    }
}
