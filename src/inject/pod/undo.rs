//! Takes the sidecar out of a pod again: reverses what the status says was done.

use serde_json::Value;

use super::annotations::{AnnotationName, LabelName};
use super::patch::{PatchDraft, PatchOperation, pointer};
use super::status::{ContainerChange, InjectStatus};
use super::{DEFAULT_CONTAINER, has_text};

/// Why a pod stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UndoError {
    /// It has no status: nothing was done to it.
    #[error("it was not injected: the annotation keygate.dev/status is missing")]
    NotInjected,
    #[error(
        "annotation keygate.dev/status cannot be read: {why}\nhint: it was changed, or a newer \
         keygatectl has written it; inject the workload's source again instead"
    )]
    Status { why: String },
    /// Somebody has changed what the injector had changed.
    #[error(
        "container {container}: {at} was changed after the injection, so what was there before cannot \
         be put back\nhint: undo that change, or take the sidecar out by hand"
    )]
    Changed { container: String, at: String },
}

/// What may be left empty once everything of ours is removed.
pub(super) const EMPTIED: [&str; 5] = [
    "/spec/initContainers",
    "/spec/volumes",
    "/metadata/labels",
    "/metadata/annotations",
    "/metadata",
];

/// A patch that restores the pod as it was before [`super::inject`].
///
/// # Errors
/// It was not injected, or was changed since.
pub fn uninject(pod: &Value) -> Result<Vec<PatchOperation>, UndoError> {
    let name = AnnotationName::Status.name();
    let status = pod.pointer(&pointer(&["metadata", "annotations", name]));
    let status = status.and_then(Value::as_str).ok_or(UndoError::NotInjected)?;
    let status =
        InjectStatus::read(status).map_err(|error| UndoError::Status { why: error.to_string() })?;
    let mut draft = PatchDraft::new(pod.clone());
    for list in ["/spec/containers", "/spec/initContainers"] {
        remove_named(&mut draft, list, &status.container);
    }
    for change in status.changes.iter().rev() {
        undo(&mut draft, change)?;
    }
    for volume in &status.volumes {
        remove_named(&mut draft, "/spec/volumes", volume);
    }
    draft.remove(&pointer(&["metadata", "labels", LabelName::Injected.name()]));
    let annotations = [AnnotationName::Status.name(), AnnotationName::SidecarConfig.name()];
    let default = status.default_container.then_some(DEFAULT_CONTAINER);
    for name in annotations.into_iter().chain(default) {
        draft.remove(&pointer(&["metadata", "annotations", name]));
    }
    for emptied in EMPTIED.into_iter().filter(|at| !status.empty.iter().any(|kept| kept == at)) {
        remove_empty(&mut draft, emptied);
    }
    Ok(draft.operations())
}

/// Whether a pod or a template was injected.
pub fn is_injected(pod: &Value) -> bool {
    pod.get("metadata")
        .is_some_and(|metadata| has_text(metadata, "annotations", AnnotationName::Status.name()))
}

fn undo(draft: &mut PatchDraft, change: &ContainerChange) -> Result<(), UndoError> {
    let changed =
        || UndoError::Changed { container: change.container.clone(), at: change.at.clone() };
    let container = place_of(draft.document(), &change.container).ok_or_else(changed)?;
    let path = format!("{container}{}", change.at);
    let there = draft.document().pointer(&path);
    if change.appended {
        let items = there.and_then(Value::as_array).ok_or_else(changed)?;
        let at = items.iter().rposition(|item| Some(item) == change.now.as_ref());
        draft.remove(&format!("{path}/{}", at.ok_or_else(changed)?));
        remove_empty(draft, &path);
        return Ok(());
    }
    let is_ours = match (there, &change.now) {
        // The API server adds defaults to the objects that it gets.
        (Some(there), Some(now)) => contains(there, now),
        (None, None) => true,
        _ => false,
    };
    if !is_ours {
        return Err(changed());
    }
    match &change.was {
        Some(was) => draft.set(&path, was.clone()).map_err(|_| changed())?,
        None => {
            draft.remove(&path);
            if let Some((parent, _)) = path.rsplit_once('/').filter(|(p, _)| *p != container) {
                remove_empty(draft, parent);
            }
        }
    }
    Ok(())
}

/// Whether `value` contains everything in `part`.
fn contains(value: &Value, part: &Value) -> bool {
    match (value, part) {
        (Value::Object(value), Value::Object(part)) => part
            .iter()
            .all(|(name, part)| value.get(name).is_some_and(|value| contains(value, part))),
        _ => value == part,
    }
}

fn place_of(pod: &Value, container: &str) -> Option<String> {
    ["containers", "initContainers"].iter().find_map(|list| {
        let items = pod.get("spec")?.get(*list)?.as_array()?;
        let at = items
            .iter()
            .position(|item| item.get("name").and_then(Value::as_str) == Some(container));
        at.map(|at| format!("/spec/{list}/{at}"))
    })
}

fn remove_named(draft: &mut PatchDraft, list: &str, name: &str) {
    let items = draft.document().pointer(list).and_then(Value::as_array);
    let at = items.and_then(|items| {
        items.iter().position(|item| item.get("name").and_then(Value::as_str) == Some(name))
    });
    if let Some(at) = at {
        draft.remove(&format!("{list}/{at}"));
    }
}

fn remove_empty(draft: &mut PatchDraft, path: &str) {
    let is_empty = draft.document().pointer(path).is_some_and(|value| match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
        _ => false,
    });
    if is_empty {
        draft.remove(path);
    }
}
