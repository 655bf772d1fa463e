//! What anchors name and aliases stand for, within bounds: aliases of aliases multiply.

use std::collections::HashSet;

use serde_json::Value;

use super::YamlNode;

/// How many values the aliases of one document may stand for, together. etcd takes objects of at
/// most 1.5 MiB, which is about 100,000 values; no manifest that a cluster takes comes near it.
pub(super) const MOST_VALUES: usize = 300_000;

/// How many bytes of names and texts they may stand for.
pub(super) const MOST_TEXT: usize = 32 << 20;

/// The anchors of a document that aliases refer to.
pub(super) struct AnchorBook {
    named: HashSet<usize>,
    known: Vec<(usize, Value, ValueExtent)>,
    /// What the aliases so far stand for.
    used: ValueExtent,
}

/// How large a value is.
#[derive(Clone, Copy, Debug, Default)]
struct ValueExtent {
    values: usize,
    text: usize,
    depth: usize,
}

/// Why an alias cannot be resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum AliasFault {
    #[error("it is nested too deep")]
    Deep,
    #[error(
        "its aliases stand for more than {MOST_VALUES} values or {} MiB of text\n\
         hint: aliases of aliases multiply; write out what they stand for, or split the document",
        MOST_TEXT >> 20
    )]
    Large,
    #[error("it names what is not there")]
    Unknown,
}

// === impl AnchorBook ===

impl AnchorBook {
    /// `named`: the anchors that aliases refer to; nobody asks for the others.
    pub(super) fn new(named: HashSet<usize>) -> Self {
        Self { named, known: Vec::new(), used: ValueExtent::default() }
    }

    /// Remembers what an anchor names.
    pub(super) fn learn(&mut self, anchor: usize, node: &YamlNode) {
        if self.named.contains(&anchor) {
            let value = node.value();
            let extent = ValueExtent::of(&value);
            self.known.push((anchor, value, extent));
        }
    }

    /// The value of an alias at `depth`; nothing may reach deeper than `deepest`.
    ///
    /// # Errors
    /// There is no such anchor, or the document would become too large.
    pub(super) fn value(
        &mut self,
        anchor: usize,
        depth: usize,
        deepest: usize,
    ) -> Result<Value, AliasFault> {
        let known = self.known.iter().rev().find(|(id, ..)| *id == anchor);
        let (_, value, extent) = known.ok_or(AliasFault::Unknown)?;
        if depth + extent.depth > deepest {
            return Err(AliasFault::Deep);
        }
        self.used.values += extent.values;
        self.used.text += extent.text;
        // Before the value takes memory.
        match self.used.values > MOST_VALUES || self.used.text > MOST_TEXT {
            true => Err(AliasFault::Large),
            false => Ok(value.clone()),
        }
    }
}

// === impl ValueExtent ===

impl ValueExtent {
    fn of(value: &Value) -> Self {
        let mut whole = Self { values: 1, ..Self::default() };
        match value {
            Value::String(text) => whole.text = text.len(),
            Value::Array(items) => items.iter().for_each(|item| whole.take_in(Self::of(item))),
            Value::Object(members) => {
                for (name, value) in members {
                    whole.text += name.len();
                    whole.take_in(Self::of(value));
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
        whole
    }

    fn take_in(&mut self, part: Self) {
        self.values += part.values;
        self.text += part.text;
        self.depth = self.depth.max(part.depth + 1);
    }
}
