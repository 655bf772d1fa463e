//! Operations of a patch on nodes.

use serde_json::Value;

use super::{NodeKind, PartState, YamlEntry, YamlItem, YamlNode};
use crate::inject::pod::patch::PatchOperation;

/// Carries out one operation; its path begins below `prefix`. An operation that does not fit
/// changes nothing: it was made for this very document.
pub(super) fn apply(root: &mut YamlNode, prefix: &str, operation: &PatchOperation) {
    let (path, value) = match operation {
        PatchOperation::Add { path, value } | PatchOperation::Replace { path, value } => {
            (path, Some(value))
        }
        PatchOperation::Remove { path } => (path, None),
    };
    let whole = format!("{prefix}{path}");
    let names: Vec<String> =
        whole.split('/').skip(1).map(|name| name.replace("~1", "/").replace("~0", "~")).collect();
    let Some((last, parents)) = names.split_last() else { return };
    let inserts = matches!(operation, PatchOperation::Add { .. });
    let mut node = root;
    for name in parents {
        node.loosen();
        let Some(below) = node.child(name) else { return };
        node = below;
    }
    node.loosen();
    match value {
        Some(value) if inserts => node.add(last, value.clone()),
        Some(value) => node.replace(last, value.clone()),
        None => node.remove(last),
    }
}

// === impl YamlNode ===

impl YamlNode {
    /// Flow style is rewritten as soon as something in it changes.
    fn loosen(&mut self) {
        if let NodeKind::Written(value @ (Value::Array(_) | Value::Object(_))) = &self.kind {
            self.kind = NodeKind::Fresh(value.clone());
        }
        let NodeKind::Fresh(value) = &mut self.kind else { return };
        match value {
            Value::Array(items) => {
                let items = std::mem::take(items).into_iter().map(new_item).collect();
                self.kind = NodeKind::List { column: FRESH, items };
            }
            Value::Object(members) => {
                let entries = std::mem::take(members).into_iter();
                let entries = entries.map(|(key, value)| new_entry(key, value)).collect();
                self.kind = NodeKind::Map { column: FRESH, entries };
            }
            _ => {}
        }
    }

    fn child(&mut self, name: &str) -> Option<&mut Self> {
        match &mut self.kind {
            NodeKind::Map { entries, .. } => {
                let mut kept = entries.iter_mut().filter(|e| e.state != PartState::Removed);
                kept.find(|entry| entry.key == name).map(|entry| &mut entry.value)
            }
            NodeKind::List { items, .. } => {
                let at = name.parse().ok()?;
                let mut kept = items.iter_mut().filter(|i| i.state != PartState::Removed);
                kept.nth(at).map(|item| &mut item.value)
            }
            NodeKind::Fresh(_) | NodeKind::Written(_) => None,
        }
    }

    fn add(&mut self, name: &str, value: Value) {
        if matches!(self.kind, NodeKind::Map { .. }) && self.child(name).is_some() {
            return self.replace(name, value);
        }
        match &mut self.kind {
            NodeKind::List { items, .. } => {
                let kept = || {
                    let all = items.iter().enumerate();
                    all.filter(|(_, item)| item.state != PartState::Removed).map(|(at, _)| at)
                };
                let at = match name.parse::<usize>() {
                    Ok(at) => kept().nth(at).unwrap_or(items.len()),
                    Err(_) => items.len(),
                };
                items.insert(at, new_item(value));
            }
            NodeKind::Map { entries, .. } => entries.push(new_entry(name.to_owned(), value)),
            NodeKind::Fresh(_) | NodeKind::Written(_) => {}
        }
    }

    fn replace(&mut self, name: &str, value: Value) {
        if let Some(child) = self.child(name) {
            child.kind = NodeKind::Fresh(value);
        }
    }

    fn remove(&mut self, name: &str) {
        match &mut self.kind {
            NodeKind::List { items, .. } => {
                let Ok(at) = name.parse() else { return };
                let all = items.iter().enumerate();
                let mut kept = all.filter(|(_, item)| item.state != PartState::Removed);
                let Some((at, _)) = kept.nth(at) else { return };
                match items.get_mut(at) {
                    Some(item) if item.state == PartState::Kept => item.state = PartState::Removed,
                    _ => drop(items.remove(at)),
                }
            }
            NodeKind::Map { entries, .. } => {
                let mut all = entries.iter();
                let is_it = |e: &YamlEntry| e.state != PartState::Removed && e.key == name;
                let Some(at) = all.position(is_it) else { return };
                match entries.get_mut(at) {
                    Some(entry) if entry.state == PartState::Kept => {
                        entry.state = PartState::Removed;
                    }
                    _ => drop(entries.remove(at)),
                }
            }
            NodeKind::Fresh(_) | NodeKind::Written(_) => {}
        }
    }
}

/// The column of a value that is not written anywhere yet.
pub(super) const FRESH: usize = usize::MAX;

fn fresh(value: Value) -> YamlNode {
    YamlNode { kind: NodeKind::Fresh(value), span: 0..0 }
}

fn new_item(value: Value) -> YamlItem {
    YamlItem { dash: 0, value: fresh(value), state: PartState::New }
}

fn new_entry(key: String, value: Value) -> YamlEntry {
    YamlEntry { key, key_span: 0..0, value: fresh(value), state: PartState::New }
}
