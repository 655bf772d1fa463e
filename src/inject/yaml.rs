//! YAML documents that change only where something changes. Everywhere else they stay as written:
//! order, quotes and comments. Imports `pod` for its operations.

mod anchors;
mod edit;
mod parse;
mod scalar;
#[cfg(test)]
mod tests;
mod write;

use std::ops::Range;

use serde_json::Value;

pub(super) use self::write::fresh_document;
use super::pod::patch::PatchOperation;

/// One document of a stream with its text, including the separator line.
#[derive(Clone, Debug)]
pub(super) struct YamlDocument {
    text: String,
    /// Where in its stream it begins, from 1.
    line: usize,
    /// `None`: it has only comments, or cannot be changed.
    root: Option<YamlNode>,
    /// Its value.
    pub(super) value: Value,
    line_end: &'static str,
}

/// Why a document cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: is not YAML that can be read: {why}")]
pub(super) struct YamlFault {
    /// In the stream, from 1.
    pub(super) line: usize,
    pub(super) why: String,
}

/// A bug: the text of a changed document does not mean what it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "internal error: the document at line {line} cannot be written: {why}\n\
     hint: nothing was written; report this with the document"
)]
pub(super) struct WriteFault {
    /// In the stream, from 1.
    line: usize,
    why: String,
}

/// A value with its position in the document's text.
#[derive(Clone, Debug)]
struct YamlNode {
    kind: NodeKind,
    /// First byte of the value, and the one after its last.
    span: Range<usize>,
}

#[derive(Clone, Debug)]
enum NodeKind {
    /// Set by an operation, or too unusual to keep as written.
    Fresh(Value),
    /// In block style.
    List { column: usize, items: Vec<YamlItem> },
    /// In block style.
    Map { column: usize, entries: Vec<YamlEntry> },
    /// A scalar or something in flow style, as written.
    Written(Value),
}

#[derive(Clone, Debug)]
struct YamlEntry {
    key: String,
    /// The bytes of the key; of a new one, nothing.
    key_span: Range<usize>,
    value: YamlNode,
    state: PartState,
}

#[derive(Clone, Debug)]
struct YamlItem {
    /// Position of its `-`.
    dash: usize,
    value: YamlNode,
    state: PartState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PartState {
    Kept,
    New,
    Removed,
}

/// The documents of a stream; their texts concatenated are the stream. A line that begins with
/// `---` always starts one, and what comes after a line `...` is another: text in block scalars is
/// indented.
pub(super) fn split(stream: &str) -> Vec<(usize, &str)> {
    let mut documents = Vec::new();
    let (mut start, mut first_line) = (0, 1);
    let mut at = 0;
    let mut has_content = false;
    // After a line `...`: position and number of the next line.
    let mut ended = None;
    for (number, line) in stream.split_inclusive('\n').enumerate() {
        let text = line.trim();
        let marker = marker(line);
        // Comments and directives before the first separator belong to its document.
        let cut = match marker {
            Some(Marker::Separator) if has_content => Some(ended.unwrap_or((at, number + 1))),
            Some(Marker::End) => None,
            _ if text.is_empty() || text.starts_with('#') => None,
            _ => ended,
        };
        if let Some((position, line_number)) = cut {
            documents.push((first_line, stream.get(start..position).unwrap_or_default()));
            (start, first_line) = (position, line_number);
            (ended, has_content) = (None, false);
        }
        has_content |= marker.is_some() || !(text.is_empty() || text.starts_with(['#', '%']));
        at += line.len();
        if marker == Some(Marker::End) && ended.is_none() {
            ended = Some((at, number + 2));
        }
    }
    documents.push((first_line, stream.get(start..).unwrap_or_default()));
    documents.retain(|(_, text)| !text.is_empty());
    documents
}

/// A line that begins or ends a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Marker {
    /// `...`
    End,
    /// `---`
    Separator,
}

fn marker(line: &str) -> Option<Marker> {
    let (marker, rest) = match line.strip_prefix("---") {
        Some(rest) => (Marker::Separator, rest),
        None => (Marker::End, line.strip_prefix("...")?),
    };
    (rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n'])).then_some(marker)
}

// === impl YamlDocument ===

impl YamlDocument {
    /// `line`: where in its stream it begins, from 1; for faults.
    ///
    /// # Errors
    /// It is not YAML.
    pub(super) fn parse(text: &str, line: usize) -> Result<Self, YamlFault> {
        let line_end = match text.find('\n') {
            Some(at) if text.get(..at).is_some_and(|t| t.ends_with('\r')) => "\r\n",
            _ => "\n",
        };
        let (root, value) = parse::document(text, line)?;
        Ok(Self { text: text.to_owned(), line, root, value, line_end })
    }

    /// Carries out operations whose paths begin below `prefix`.
    pub(super) fn apply(&mut self, prefix: &str, patch: &[PatchOperation]) {
        let Some(root) = &mut self.root else { return };
        for operation in patch {
            edit::apply(root, prefix, operation);
        }
        self.value = root.value();
    }

    /// The text, changed only where operations have changed something.
    ///
    /// # Errors
    /// It would mean something else than [`Self::value`]: a bug of the writer.
    pub(super) fn written(&self) -> Result<String, WriteFault> {
        let root = match &self.root {
            Some(root) if root.is_changed() => root,
            _ => return Ok(self.text.clone()),
        };
        let text = write::document(root, &self.text, self.line_end);
        let fault = |why: &str| WriteFault { line: self.line, why: why.to_owned() };
        let markers = |text: &str| text.lines().filter_map(marker).collect::<Vec<_>>();
        if markers(&text) != markers(&self.text) {
            return Err(fault("it would begin or end elsewhere"));
        }
        match parse::document(&text, self.line) {
            Ok((_, value)) if value == self.value => Ok(text),
            Ok(_) => Err(fault("its text would have another meaning")),
            Err(unreadable) => Err(fault(&unreadable.why)),
        }
    }
}

// === impl YamlNode ===

impl YamlNode {
    fn value(&self) -> Value {
        match &self.kind {
            NodeKind::Fresh(value) | NodeKind::Written(value) => value.clone(),
            NodeKind::List { items, .. } => {
                let kept = items.iter().filter(|item| item.state != PartState::Removed);
                kept.map(|item| item.value.value()).collect()
            }
            NodeKind::Map { entries, .. } => {
                let kept = entries.iter().filter(|entry| entry.state != PartState::Removed);
                Value::Object(kept.map(|e| (e.key.clone(), e.value.value())).collect())
            }
        }
    }

    fn is_changed(&self) -> bool {
        match &self.kind {
            NodeKind::Fresh(_)
            | NodeKind::List { column: edit::FRESH, .. }
            | NodeKind::Map { column: edit::FRESH, .. } => true,
            NodeKind::Written(_) => false,
            NodeKind::List { items, .. } => {
                items.iter().any(|i| i.state != PartState::Kept || i.value.is_changed())
            }
            NodeKind::Map { entries, .. } => {
                entries.iter().any(|e| e.state != PartState::Kept || e.value.is_changed())
            }
        }
    }
}
