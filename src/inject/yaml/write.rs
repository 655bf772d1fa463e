//! Nodes → text: unchanged parts are copied, changed or new ones are written in block style.

use std::ops::Range;

use serde_json::Value;

use super::edit::FRESH;
use super::parse::start_of_line;
use super::scalar::{escaped, is_block, quoted};
use super::{NodeKind, PartState, YamlNode};

/// The text of a document in which something has changed.
pub(super) fn document(root: &YamlNode, text: &str, line_end: &str) -> String {
    let first = text.get(root.span.start..).unwrap_or_default();
    let body = match first.starts_with(['{', '[']) {
        true => json(root, text),
        false => {
            let mut writer = NodeWriter::new(text);
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
    format!("{before}{}{after}", escaped(&value))
}

struct NodeWriter<'t> {
    text: &'t str,
    out: String,
    /// The column of the text block that `out` ends with.
    open_block: Option<usize>,
}

/// One part of a list or mapping that may be copied.
struct WrittenPart<'n> {
    /// From the first byte that is its own: the beginning of a line, if nothing else precedes it
    /// there.
    start: usize,
    /// Its `-`, or the first byte of its name.
    head: usize,
    /// After its `-`, or its name and colon.
    head_end: usize,
    value: &'n YamlNode,
    state: PartState,
    /// `-`, or the name and a colon, for a new one.
    head_text: String,
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

impl<'t> NodeWriter<'t> {
    fn new(text: &'t str) -> Self {
        Self { text, out: String::new(), open_block: None }
    }

    fn whole(&mut self, root: &YamlNode) {
        let end = self.text.len();
        match &root.kind {
            NodeKind::Written(_) => self.copy(0..end),
            _ if has_own_parts(root) => {
                self.copy(0..self.own_start(root.span.start));
                self.parts(root, end);
            }
            _ => {
                self.copy(0..self.own_start(root.span.start));
                self.end_line();
                self.fresh_body(&root.value(), 0);
                self.end_line();
                self.copy(self.line_behind(root.span.end, end)..end);
            }
        }
    }

    fn copy(&mut self, range: Range<usize>) {
        let mut text = self.text.get(range).unwrap_or_default();
        // Comments and white space behind a new text block must not become part of it.
        while let (Some(column), Some(line)) = (self.open_block, text.split_inclusive('\n').next())
        {
            let content = line.trim_start_matches([' ', '\t']);
            let is_blank = content.trim().is_empty();
            if is_blank || content.starts_with('#') && line.len() - content.len() >= column {
                self.indent(if is_blank { 0 } else { column.saturating_sub(2) });
                self.out.push_str(content);
                text = text.get(line.len()..).unwrap_or_default();
            } else {
                self.open_block = None;
            }
        }
        self.out.push_str(text);
    }

    fn end_line(&mut self) {
        if !self.out.is_empty() && !self.out.ends_with('\n') {
            self.out.push('\n');
        }
    }

    /// Whether something is on the last line.
    fn is_line_open(&self) -> bool {
        !self.out.is_empty() && !self.out.ends_with('\n')
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

    /// The position after comments at `from` that are indented deeper than a block: they belong to
    /// its last part.
    fn behind_comments(&self, from: usize, end: usize, column: usize) -> usize {
        let (mut at, mut behind) = (from, from);
        for line in self.text.get(from..end).unwrap_or_default().split_inclusive('\n') {
            at += line.len();
            let content = line.trim_start();
            if content.starts_with('#') && line.len() - content.len() > column {
                behind = at;
            } else if !content.is_empty() {
                break;
            }
        }
        behind
    }

    /// The parts of a block, up to `end`: what follows the last one (comments) is copied too.
    fn parts(&mut self, node: &YamlNode, end: usize) {
        let (column, parts) = self.parts_of(node);
        let written: Vec<_> = parts.iter().filter(|p| p.state != PartState::New).collect();
        let last = written.iter().map(|part| self.content_of(part)).max();
        // What is new at the end comes before comments that belong to the next block, not to this
        // one.
        let own_end = match (parts.last(), last) {
            (Some(WrittenPart { state: PartState::New, .. }), Some(last)) => {
                self.behind_comments(self.line_behind(last, end), end, column)
            }
            _ => end,
        };
        let region_of = |part: &WrittenPart<'_>| {
            let next = written.iter().find(|other| other.start > part.start);
            part.start..next.map_or(own_end, |next| next.start)
        };
        for (at, part) in parts.iter().enumerate() {
            match part.state {
                PartState::New => {
                    self.end_line();
                    self.indent(column);
                    self.out.push_str(&part.head_text);
                    self.fresh_value(&part.value.value(), column, part.place);
                }
                PartState::Removed => {
                    let region = region_of(part);
                    let from = self.line_behind(self.content_of(part), region.end);
                    let mut from = self.behind_comments(from, region.end, column);
                    let mut earlier = parts.iter().take(at).rev();
                    let last = earlier.find(|other| other.state != PartState::Removed);
                    // A text block that keeps empty lines at its end would take these too.
                    if last.is_some_and(|last| ends_with_lines(last.value)) {
                        let rest = self.text.get(from..region.end).unwrap_or_default();
                        let lines = rest.split_inclusive('\n');
                        let empty = lines.take_while(|line| line.trim().is_empty());
                        from += empty.map(str::len).sum::<usize>();
                    }
                    let mut later = parts.iter().skip(at + 1);
                    let next = later.find(|other| other.state != PartState::Removed);
                    // After a `-` the next one takes its place, without the comments between them.
                    let is_taken = next.is_some_and(|next| next.state == PartState::Kept);
                    if !(self.is_line_open() && is_taken) {
                        self.end_line();
                        self.copy(from..region.end);
                    }
                }
                PartState::Kept => {
                    let mut region = region_of(part);
                    let is_inline = start_of_line(self.text, region.start) != region.start;
                    match (is_inline, self.is_line_open()) {
                        (true, false) => self.indent(column),
                        (false, true) => region.start = part.head,
                        _ => {}
                    }
                    self.kept(part, region, column);
                }
            }
        }
        if own_end < end {
            self.end_line();
            self.copy(own_end..end);
        }
    }

    fn kept(&mut self, part: &WrittenPart<'_>, region: Range<usize>, column: usize) {
        let value = part.value;
        if !value.is_changed() {
            return self.copy(region);
        }
        if has_own_parts(value) {
            let first = self.own_start(value.span.start);
            self.copy(region.start..first);
            return self.parts(value, region.end);
        }
        self.copy(region.start..part.head_end);
        let content = self.content_of(part).max(part.head_end);
        let head = self.out.len();
        self.fresh_value(&value.value(), column, part.place);
        // A comment on the same line, if the new value is a scalar too.
        let rest = self.line_behind(content, region.end);
        let beside = self.text.get(content..rest).unwrap_or_default().trim_end();
        let is_scalar = !matches!(value.value(), Value::Array(_) | Value::Object(_));
        if is_scalar && beside.trim_start().starts_with('#') {
            let line = self.out.get(head..).and_then(|fresh| fresh.find('\n'));
            self.out.insert_str(line.map_or(self.out.len(), |line| head + line), beside);
        }
        self.copy(rest..region.end);
    }

    fn parts_of<'n>(&self, node: &'n YamlNode) -> (usize, Vec<WrittenPart<'n>>) {
        match &node.kind {
            NodeKind::Map { column, entries } => {
                let parts = entries.iter().map(|entry| {
                    let rest = self.text.get(entry.key_span.end..).unwrap_or_default();
                    let colon = rest.find(':').map_or(0, |at| at + 1);
                    WrittenPart {
                        start: self.own_start(entry.key_span.start),
                        head: entry.key_span.start,
                        head_end: entry.key_span.end + colon,
                        value: &entry.value,
                        state: entry.state,
                        head_text: format!("{}:", quoted(&entry.key)),
                        place: FreshPlace::Member,
                    }
                });
                (*column, parts.collect())
            }
            NodeKind::List { column, items } => {
                let parts = items.iter().map(|item| WrittenPart {
                    start: self.own_start(item.dash),
                    head: item.dash,
                    head_end: item.dash + 1,
                    value: &item.value,
                    state: item.state,
                    head_text: "-".to_owned(),
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
        let is_written = |state: &PartState| *state != PartState::New;
        let last = match &node.kind {
            NodeKind::Map { entries, .. } => {
                let written = entries.iter().filter(|entry| is_written(&entry.state));
                written.map(|e| self.last_of(&e.value).max(e.key_span.end)).max()
            }
            NodeKind::List { items, .. } => {
                let written = items.iter().filter(|item| is_written(&item.state));
                written.map(|i| self.last_of(&i.value).max(i.dash + 1)).max()
            }
            NodeKind::Fresh(_) | NodeKind::Written(_) => None,
        };
        // What was loosened has only new parts: all of its old text goes.
        last.unwrap_or(node.span.end)
    }

    fn indent(&mut self, column: usize) {
        self.out.extend(std::iter::repeat_n(' ', column));
    }

    /// A value after its head, including the line end.
    fn fresh_value(&mut self, value: &Value, column: usize, place: FreshPlace) {
        self.open_block = None;
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
                self.open_block = Some(column + 2);
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
            Value::Object(members) if !members.is_empty() => {
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

/// Whether parts of it stay where they are in the text.
fn has_own_parts(node: &YamlNode) -> bool {
    match &node.kind {
        NodeKind::Map { column, entries } => {
            *column != FRESH && entries.iter().any(|entry| entry.state != PartState::Removed)
        }
        NodeKind::List { column, items } => {
            *column != FRESH && items.iter().any(|item| item.state != PartState::Removed)
        }
        NodeKind::Fresh(_) | NodeKind::Written(_) => false,
    }
}

/// Whether it ends with a text that may be a block with `|+`, as far as its value says.
fn ends_with_lines(node: &YamlNode) -> bool {
    match &node.kind {
        NodeKind::Map { entries, .. } => {
            let mut written = entries.iter().rev().filter(|e| e.state != PartState::Removed);
            written.next().is_some_and(|entry| ends_with_lines(&entry.value))
        }
        NodeKind::List { items, .. } => {
            let mut written = items.iter().rev().filter(|i| i.state != PartState::Removed);
            written.next().is_some_and(|item| ends_with_lines(&item.value))
        }
        NodeKind::Written(Value::String(text)) => text.is_empty() || text.ends_with('\n'),
        NodeKind::Fresh(_) | NodeKind::Written(_) => false,
    }
}

/// A value as a document of its own.
pub(in crate::inject) fn fresh_document(value: &Value) -> String {
    let mut writer = NodeWriter::new("");
    writer.fresh_body(value, 0);
    writer.out
}
