//! JSON Patch (RFC 6902): the operations, and a working copy that is changed while the operations
//! are recorded.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// One operation of a patch, serialised as the API server expects it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum PatchOperation {
    Add { path: String, value: Value },
    Remove { path: String },
    Replace { path: String, value: Value },
}

/// A document that is being changed: every change is also recorded as an operation.
#[derive(Debug)]
pub(super) struct PatchDraft {
    document: Value,
    operations: Vec<PatchOperation>,
}

/// The place of a change holds something of another kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PatchMisfit(pub(super) String);

/// A JSON Pointer (RFC 6901) of these names.
pub(crate) fn pointer(names: &[&str]) -> String {
    names.iter().fold(String::new(), |mut path, name| {
        path.push('/');
        path.push_str(&name.replace('~', "~0").replace('/', "~1"));
        path
    })
}

/// The result of applying a patch to the document that it was made for.
pub(crate) fn applied(document: &Value, patch: &[PatchOperation]) -> Value {
    let mut draft = PatchDraft::new(document.clone());
    for operation in patch {
        // It was made for this very document, so each step fits.
        let _ = match operation {
            PatchOperation::Remove { path } => {
                draft.remove(path);
                Ok(())
            }
            PatchOperation::Replace { path, value } => draft.set(path, value.clone()),
            PatchOperation::Add { path, value } => match path.strip_suffix("/-") {
                Some(list) => draft.append(list, value.clone()),
                None => {
                    match path.strip_suffix("/0").map(|list| (list, draft.document.pointer(list))) {
                        Some((list, Some(Value::Array(_)))) => draft.prepend(list, value.clone()),
                        _ => draft.set(path, value.clone()),
                    }
                }
            },
        };
    }
    draft.document
}

// === impl PatchDraft ===

impl PatchDraft {
    pub(super) fn new(document: Value) -> Self {
        Self { document, operations: Vec::new() }
    }

    pub(super) fn document(&self) -> &Value {
        &self.document
    }

    pub(super) fn operations(self) -> Vec<PatchOperation> {
        self.operations
    }

    /// Sets a member of an object, and makes the object if there is none. The object's parent must
    /// exist.
    ///
    /// # Errors
    /// Something other than an object is in its place.
    pub(super) fn put(
        &mut self,
        object: &str,
        name: &str,
        value: Value,
    ) -> Result<(), PatchMisfit> {
        match self.document.pointer(object) {
            None | Some(Value::Null) => {
                self.set(object, Value::from(Map::from_iter([(name.to_owned(), value)])))
            }
            Some(Value::Object(_)) => self.set(&format!("{object}{}", pointer(&[name])), value),
            Some(_) => Err(PatchMisfit(format!("{object} is no object"))),
        }
    }

    /// Appends to a list, and makes it if there is none. The list's parent must exist.
    ///
    /// # Errors
    /// Something other than a list is in its place.
    pub(super) fn append(&mut self, list: &str, value: Value) -> Result<(), PatchMisfit> {
        match self.document.pointer_mut(list) {
            None | Some(Value::Null) => self.set(list, json!([value])),
            Some(Value::Array(items)) => {
                items.push(value.clone());
                self.operations.push(PatchOperation::Add { path: format!("{list}/-"), value });
                Ok(())
            }
            Some(_) => Err(PatchMisfit(format!("{list} is no list"))),
        }
    }

    /// Puts an item in front of a list's others.
    ///
    /// # Errors
    /// There is no list.
    pub(super) fn prepend(&mut self, list: &str, value: Value) -> Result<(), PatchMisfit> {
        match self.document.pointer_mut(list) {
            Some(Value::Array(items)) => {
                items.insert(0, value.clone());
                self.operations.push(PatchOperation::Add { path: format!("{list}/0"), value });
                Ok(())
            }
            _ => Err(PatchMisfit(format!("{list} is no list"))),
        }
    }

    /// Sets the value at `path`; its parent must exist.
    ///
    /// # Errors
    /// There is no parent that could hold it.
    pub(super) fn set(&mut self, path: &str, value: Value) -> Result<(), PatchMisfit> {
        if let Some(old) = self.document.pointer_mut(path) {
            if *old == value {
                return Ok(());
            }
            old.clone_from(&value);
            self.operations.push(PatchOperation::Replace { path: path.to_owned(), value });
            return Ok(());
        }
        let no_parent = || PatchMisfit(format!("{path} has no place"));
        let (parent, name) = path.rsplit_once('/').ok_or_else(no_parent)?;
        match self.document.pointer_mut(parent) {
            Some(Value::Object(members)) => {
                members.insert(name.replace("~1", "/").replace("~0", "~"), value.clone());
                self.operations.push(PatchOperation::Add { path: path.to_owned(), value });
                Ok(())
            }
            _ => Err(no_parent()),
        }
    }

    /// Removes the value at `path`, if there is one.
    pub(super) fn remove(&mut self, path: &str) {
        let Some((parent, name)) = path.rsplit_once('/') else { return };
        let gone = match self.document.pointer_mut(parent) {
            Some(Value::Object(members)) => {
                members.remove(&name.replace("~1", "/").replace("~0", "~")).is_some()
            }
            Some(Value::Array(items)) => match name.parse::<usize>() {
                Ok(at) if at < items.len() => {
                    items.remove(at);
                    true
                }
                _ => false,
            },
            _ => false,
        };
        if gone {
            self.operations.push(PatchOperation::Remove { path: path.to_owned() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_are_made_and_names_escaped() {
        let mut draft = PatchDraft::new(json!({"metadata": {"labels": null}, "spec": {}}));
        draft.put("/metadata/annotations", "a/b~c", json!("1")).unwrap();
        draft.put("/metadata/annotations", "d/e", json!("2")).unwrap();
        draft.put("/metadata/labels", "x", json!("3")).unwrap();
        draft.append("/spec/volumes", json!(1)).unwrap();
        draft.append("/spec/volumes", json!(2)).unwrap();
        assert_eq!(
            *draft.document(),
            json!({
                "metadata": {"annotations": {"a/b~c": "1", "d/e": "2"}, "labels": {"x": "3"}},
                "spec": {"volumes": [1, 2]}
            })
        );
        let patch = serde_json::to_value(draft.operations()).unwrap();
        assert_eq!(
            patch,
            json!([
                {"op": "add", "path": "/metadata/annotations", "value": {"a/b~c": "1"}},
                {"op": "add", "path": "/metadata/annotations/d~1e", "value": "2"},
                {"op": "replace", "path": "/metadata/labels", "value": {"x": "3"}},
                {"op": "add", "path": "/spec/volumes", "value": [1]},
                {"op": "add", "path": "/spec/volumes/-", "value": 2},
            ])
        );
    }

    #[test]
    fn what_is_of_another_kind_is_refused() {
        let mut draft = PatchDraft::new(json!({"metadata": {"labels": []}, "spec": 1}));
        assert!(draft.put("/metadata/labels", "x", json!(1)).is_err());
        assert!(draft.append("/spec/volumes", json!(1)).is_err());
        assert!(draft.prepend("/spec", json!(1)).is_err());
    }
}
