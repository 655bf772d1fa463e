//! The API server of Kubernetes as one service account reaches it: a handful of verbs over plain JSON,
//! and `keygatectl poke`. Only with the feature `kubernetes`. Imports config, exit, manage,
//! remote and wording.

mod access;
mod api;
mod error;
pub mod poke;

pub use self::access::{ClusterOptions, POD_ACCOUNT};
pub use self::api::{ClusterApi, ObjectPath, PatchForm};
pub use self::error::ClusterError;
