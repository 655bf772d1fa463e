//! `keygatectl table …`: build, verify, inspect, compare and sign tables and patches.

pub mod build;
pub mod diff;
pub mod inspect;
pub mod patch;
pub mod sign;
pub mod verify;

use super::error::Result;
use super::session::Session;

#[derive(Debug, clap::Subcommand)]
pub enum Tables {
    /// Add a signature made by another program, or by another signer
    AttachSignature(sign::AttachSignature),
    /// Build and sign a table from the registry
    Build(build::Build),
    /// Show which keys two tables treat differently
    Diff(diff::Diff),
    /// Show the content of a table or patch, whoever signed it
    Inspect(inspect::Inspect),
    /// Check a table or patch as a sidecar would
    Verify(verify::Verify),
}

impl Tables {
    pub fn run(self, session: &mut Session) -> Result<()> {
        match self {
            Self::AttachSignature(attach) => attach.run(session),
            Self::Build(build) => build.run(session),
            Self::Diff(diff) => diff.run(session),
            Self::Inspect(inspect) => inspect.run(session),
            Self::Verify(verify) => verify.run(session),
        }
    }
}
