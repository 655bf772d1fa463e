//! Changes of an app's containers, before they are made.

use serde_json::Value;

/// A change of one of the app's containers.
#[derive(Clone, Debug)]
pub(super) struct PodEdit {
    /// Position among all containers.
    pub(super) container: usize,
    /// Within the container.
    pub(super) at: String,
    pub(super) kind: EditKind,
}

#[derive(Clone, Debug)]
pub(super) enum EditKind {
    /// To a list, which may be missing.
    Append(Value),
    /// A member of an object that may be missing.
    Put(&'static str, Value),
    Remove,
    /// Replaces an existing value.
    Set(Value),
}
