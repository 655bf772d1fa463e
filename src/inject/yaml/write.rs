//! Nodes → text: unchanged parts are copied, changed or new ones are written in block style.

use std::ops::Range;

use serde_json::Value;

use super::edit::FRESH;
use super::parse::{content_end, start_of_line};
use super::scalar::{is_block, quoted};
use super::{NodeKind, PartState, YamlNode};

/// The text of a document in which something has changed.
pub(super) fn document(root: &YamlNode, text: &str, line_end: &str) -> String {
    let first = text.get(root.span.start..).unwrap_or_default();
    let body = match first.starts_with(['{', '[']) {
        true => json(root, text),
        false => {
            let mut writer = NodeWriter { text, out: String::new() };
            writer.whole(root);
            writer.out
        }
    };
    match line_end {
        "\n" => body,
        // Copied text already has its line ends.
        _ => body.replace("\r\n", "\n").replace('\n', line_end),
    }
}

/// A document in JSON stays one.
fn json(root: &YamlNode, text: &str) -> String {
    let before = text.get(..root.span.start).unwrap_or_default();
    let after = text.get(root.span.end..).unwrap_or_default();
    let value = serde_json::to_string_pretty(&root.value()).unwrap_or_default();
    format!("{before}{value}{after}")
}

struct NodeWriter<'t> {
    text: &'t str,
    out: String,
}

/// One part of a list or mapping that may be copied.
struct WrittenPart<'n> {
    /// From the first byte that is its own: the beginning of a line, if nothing else precedes it
    /// there.
    start: usize,
    /// After its `-`, or its name and colon.
    head_end: usize,
    value: &'n YamlNode,
    state: PartState,
    /// `-`, or the name and a colon.
    head: String,
    place: FreshPlace,
}

/// What a value is written after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FreshPlace {
    /// The `-` of a list.
    Item,
    /// The name of a mapping.
    Member,
}

// === impl NodeWriter ===

impl NodeWriter<'_> {
    fn whole(&mut self, root: &YamlNode) {
        let end = self.text.len();
        match &root.kind {
            NodeKind::Fresh(value) => {
                self.copy(0..root.span.start);
                self.fresh_body(value, 0);
                self.end_line();
            }
            NodeKind::Map { column: FRESH, .. } | NodeKind::List { column: FRESH, .. } => {
                self.copy(0..start_of_line(self.text, root.span.start));
                self.fresh_body(&root.value(), 0);
                self.end_line();
            }
            NodeKind::Written(_) => self.copy(0..end),
            _ => {
                self.copy(0..self.own_start(root.span.start));
                self.parts(root, end);
            }
        }
    }

    fn copy(&mut self, range: Range<usize>) {
        self.out.push_str(self.text.get(range).unwrap_or_default());
    }

    fn end_line(&mut self) {
        if !self.out.is_empty() && !self.out.ends_with('\n') {
            self.out.push('\n');
        }
    }

    /// The start of the line, if only white space precedes `at`.
    fn own_start(&self, at: usize) -> usize {
        let start = start_of_line(self.text, at);
        let before = self.text.get(start..at).unwrap_or_default();
        if before.trim().is_empty() { start } else { at }
    }

    /// The position after the line that contains `at`: a comment on that line belongs to it.
    fn line_behind(&self, at: usize, bound: usize) -> usize {
        let rest = self.text.get(at..bound).unwrap_or_default();
        rest.find('\n').map_or(bound, |newline| at + newline + 1)
    }

    /// The parts of a block, up to `end`: what follows the last one (comments) is copied too.
    fn parts(&mut self, node: &YamlNode, end: usize) {
        let (column, parts) = self.parts_of(node);
        let written: Vec<_> = parts.iter().filter(|p| p.state != PartState::New).collect();
        let region_of = |part: &WrittenPart<'_>| {
            let next = written.iter().find(|other| other.start > part.start);
            part.start..next.map_or(end, |next| next.start)
        };
        let last_content = written.iter().map(|p| self.content_of(p)).max();
        let mut strips = false;
        let mut tail = None;
        for part in &parts {
            match part.state {
                PartState::New => {
                    // Before comments that belong to the next block, not to this one.
                    if let (None, Some(content)) = (&tail, last_content) {
                        let is_behind_all = parts
                            .iter()
                            .rev()
                            .take_while(|other| other.state == PartState::New)
                            .any(|other| std::ptr::eq(other, part));
                        if is_behind_all {
                            let from = self.line_behind(content, end);
                            let keep = end.saturating_sub(from);
                            let cut = self.out.len().saturating_sub(keep);
                            let copied = self.text.get(from..end).unwrap_or_default();
                            if self.out.ends_with(copied) {
                                self.out.truncate(cut);
                                tail = Some(copied.to_owned());
                            }
                        }
                    }
                    self.end_line();
                    self.indent(column);
                    self.out.push_str(&part.head);
                    self.fresh_value(&part.value.value(), column, part.place);
                }
                PartState::Removed => {
                    let region = region_of(part);
                    let is_inline = self.own_start(region.start) == region.start
                        && start_of_line(self.text, region.start) != region.start;
                    strips |= is_inline;
                    let from = self.line_behind(self.content_of(part), region.end);
                    if !strips {
                        self.copy(from..region.end);
                    }
                }
                PartState::Kept => {
                    let mut region = region_of(part);
                    if strips {
                        region.start += column.min(region.len());
                        strips = false;
                    }
                    self.kept(part, region, column);
                }
            }
        }
        if let Some(tail) = tail {
            self.end_line();
            self.out.push_str(&tail);
        }
    }

    fn kept(&mut self, part: &WrittenPart<'_>, region: Range<usize>, column: usize) {
        let value = part.value;
        if !value.is_changed() {
            return self.copy(region);
        }
        match &value.kind {
            NodeKind::Map { column: below, entries } if *below != FRESH && !entries.is_empty() => {
                let first = self.own_start(value.span.start);
                self.copy(region.start..first);
                self.parts(value, region.end);
            }
            NodeKind::List { column: below, items } if *below != FRESH && !items.is_empty() => {
                let first = self.own_start(value.span.start);
                self.copy(region.start..first);
                self.parts(value, region.end);
            }
            _ => {
                self.copy(region.start..part.head_end);
                let content = self.content_of(part).max(part.head_end);
                self.fresh_value(&value.value(), column, part.place);
                // A comment on the same line, if the new value takes one line too.
                let rest = self.line_behind(content, region.end);
                let beside = self.text.get(content..rest).unwrap_or_default();
                let is_line = !matches!(value.value(), Value::Array(_) | Value::Object(_));
                if is_line && self.out.ends_with('\n') && !beside.trim().is_empty() {
                    self.out.pop();
                    self.out.push_str(beside);
                }
                self.copy(rest..region.end);
            }
        }
    }

    fn parts_of<'n>(&self, node: &'n YamlNode) -> (usize, Vec<WrittenPart<'n>>) {
        match &node.kind {
            NodeKind::Map { column, entries } => {
                let parts = entries.iter().map(|entry| {
                    let rest = self.text.get(entry.key_span.end..).unwrap_or_default();
                    let colon = rest.find(':').map_or(0, |at| at + 1);
                    WrittenPart {
                        start: self.own_start(entry.key_span.start),
                        head_end: entry.key_span.end + colon,
                        value: &entry.value,
                        state: entry.state,
                        head: format!("{}:", quoted(&entry.key)),
                        place: FreshPlace::Member,
                    }
                });
                (*column, parts.collect())
            }
            NodeKind::List { column, items } => {
                let parts = items.iter().map(|item| WrittenPart {
                    start: self.own_start(item.dash),
                    head_end: item.dash + 1,
                    value: &item.value,
                    state: item.state,
                    head: "-".to_owned(),
                    place: FreshPlace::Item,
                });
                (*column, parts.collect())
            }
            NodeKind::Fresh(_) | NodeKind::Written(_) => (0, Vec::new()),
        }
    }

    /// The position after the last character of a written part.
    fn content_of(&self, part: &WrittenPart<'_>) -> usize {
        part.head_end.max(self.last_of(part.value))
    }

    fn last_of(&self, node: &YamlNode) -> usize {
        match &node.kind {
            NodeKind::Map { entries, .. } => {
                let kept = entries.iter().filter(|entry| entry.state != PartState::New);
                kept.map(|e| self.last_of(&e.value).max(e.key_span.end))
                    .max()
                    .unwrap_or(node.span.start)
            }
            NodeKind::List { items, .. } => {
                let kept = items.iter().filter(|item| item.state != PartState::New);
                kept.map(|i| self.last_of(&i.value).max(i.dash + 1))
                    .max()
                    .unwrap_or(node.span.start)
            }
            NodeKind::Fresh(_) | NodeKind::Written(_) => content_end(self.text, &node.span),
        }
    }

    fn indent(&mut self, column: usize) {
        self.out.extend(std::iter::repeat_n(' ', column));
    }

    /// A value after its head, including the line end.
    fn fresh_value(&mut self, value: &Value, column: usize, place: FreshPlace) {
        match value {
            Value::Array(items) if items.is_empty() => self.out.push_str(" []\n"),
            Value::Object(members) if members.is_empty() => self.out.push_str(" {}\n"),
            Value::Array(_) => {
                self.out.push('\n');
                self.fresh_body(value, column + 2);
            }
            Value::Object(_) if place == FreshPlace::Item => {
                self.out.push(' ');
                let start = self.out.len();
                self.fresh_body(value, column + 2);
                // Its first line follows the dash.
                let indent = start..start + column + 2;
                self.out.replace_range(indent, "");
            }
            Value::Object(_) => {
                self.out.push('\n');
                self.fresh_body(value, column + 2);
            }
            Value::String(text) if is_block(text) => {
                self.out.push_str(" |\n");
                for line in text.lines() {
                    if !line.is_empty() {
                        self.indent(column + 2);
                    }
                    self.out.push_str(line);
                    self.out.push('\n');
                }
            }
            Value::String(text) => {
                self.out.push(' ');
                self.out.push_str(&quoted(text));
                self.out.push('\n');
            }
            other => {
                self.out.push_str(&format!(" {other}\n"));
            }
        }
    }

    /// The lines of a list or mapping.
    fn fresh_body(&mut self, value: &Value, column: usize) {
        match value {
            Value::Array(items) => {
                for item in items {
                    self.indent(column);
                    self.out.push('-');
                    self.fresh_value(item, column, FreshPlace::Item);
                }
            }
            Value::Object(members) => {
                // What people look for first.
                let leads = ["apiVersion", "kind", "metadata", "name", "image"];
                let first = leads.iter().filter_map(|name| members.get_key_value(*name));
                let others = members.iter().filter(|(name, _)| !leads.contains(&name.as_str()));
                for (name, value) in first.chain(others) {
                    self.indent(column);
                    self.out.push_str(&quoted(name));
                    self.out.push(':');
                    self.fresh_value(value, column, FreshPlace::Member);
                }
            }
            other => {
                self.out.push_str(&other.to_string());
                self.out.push('\n');
            }
        }
    }
}

/// A value as a document of its own.
pub(in crate::inject) fn fresh_document(value: &Value) -> String {
    let mut writer = NodeWriter { text: "", out: String::new() };
    writer.fresh_body(value, 0);
    writer.out
}
