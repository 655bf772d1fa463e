//! Makes the files that the rest of this room reads: bodies, manifests, patches, and the message to
//! sign. Only `manage` imports it (and benches, fuzz targets and tests): the sidecar cannot make a
//! table. It holds no private key: it hands out the message and takes the signature.

mod build;
mod fault;
mod output;
mod patch;
mod seal;
mod sections;
mod sort;
mod unheld;

pub use self::build::{BodyBuilder, BuiltBody, RemovalOf};
pub use self::fault::{BuildError, Unheld};
pub use self::patch::{PatchBase, PatchDifference, PatchDraft, PatchError, fold};
pub use self::seal::{Draft, SealError};
pub use self::sort::{InMemory, Spool};
pub use self::unheld::UnheldBy;
