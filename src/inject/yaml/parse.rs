//! Text → nodes with their positions.

use std::ops::Range;

use granit_parser::{Event, Parser, ScalarStyle, Span, StructureStyle};
use serde_json::{Map, Value};

use super::scalar::meaning;
use super::{NodeKind, PartState, YamlEntry, YamlFault, YamlItem, YamlNode};

/// Nesting deeper than any object of the API.
const DEEPEST: usize = 200;

/// The node of a document, and its value; no node: the document is empty.
pub(super) fn document(
    text: &str,
    first_line: usize,
) -> Result<(Option<YamlNode>, Value), YamlFault> {
    let options = granit_parser::options! { emit_comments: false };
    let mut events = Vec::new();
    for read in Parser::new_from_str_with_options(text, options) {
        let (event, span) = read.map_err(|error| YamlFault {
            line: first_line + error.marker().line().saturating_sub(1),
            why: error.info().to_string(),
        })?;
        events.push((event, span));
    }
    let mut reader = NodeReader {
        text,
        first_line,
        events: events.into_iter().peekable(),
        anchors: Vec::new(),
        is_odd: false,
    };
    let mut root = None;
    while let Some((event, _)) = reader.events.peek() {
        match event {
            Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(..)
            | Event::DocumentEnd => {
                reader.events.next();
            }
            _ => root = Some(reader.node(0)?),
        }
    }
    let Some(root) = root else { return Ok((None, Value::Null)) };
    let value = root.value();
    let is_empty = value.is_null() && root.span.is_empty();
    // Other places may refer to parts of it by name: such a document is rewritten as a whole.
    let root = match reader.is_odd {
        true => YamlNode { kind: NodeKind::Written(value.clone()), span: root.span },
        false => root,
    };
    Ok(((!is_empty).then_some(root), value))
}

struct NodeReader<'t, I: Iterator<Item = (Event<'t>, Span)>> {
    text: &'t str,
    first_line: usize,
    events: std::iter::Peekable<I>,
    /// Anchors and their values.
    anchors: Vec<(usize, Value)>,
    /// Anchors, merges or tags are used.
    is_odd: bool,
}

// === impl NodeReader ===

impl<'t, I: Iterator<Item = (Event<'t>, Span)>> NodeReader<'t, I> {
    fn node(&mut self, depth: usize) -> Result<YamlNode, YamlFault> {
        let Some((event, span)) = self.events.next() else {
            return Err(self.fault(0, "it ends early"));
        };
        let start = byte(span.start.byte_offset());
        let line = span.start.line();
        if depth > DEEPEST {
            return Err(self.fault(line, "it is nested too deep"));
        }
        let (node, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.is_odd |= tag.is_some();
                let value = match (style, &tag) {
                    (ScalarStyle::Plain, None) => meaning(&text),
                    _ => Value::String(text.into_owned()),
                };
                let span = start..byte(span.end.byte_offset()).max(start);
                (YamlNode { kind: NodeKind::Written(value), span }, anchor)
            }
            Event::SequenceStart(style, anchor, tag) => {
                self.is_odd |= tag.is_some();
                (self.list(start, style, depth)?, anchor)
            }
            Event::MappingStart(style, anchor, tag) => {
                self.is_odd |= tag.is_some();
                (self.map(start, span.start.col(), style, depth)?, anchor)
            }
            Event::Alias(id) => {
                self.is_odd = true;
                let known = self.anchors.iter().rev().find(|(anchor, _)| *anchor == id);
                let value = known.map(|(_, value)| value.clone());
                let value = value.ok_or_else(|| self.fault(line, "it names what is not there"))?;
                let span = start..byte(span.end.byte_offset()).max(start);
                (YamlNode { kind: NodeKind::Written(value), span }, 0)
            }
            _ => return Err(self.fault(line, "a value is missing")),
        };
        if anchor != 0 {
            self.is_odd = true;
            self.anchors.push((anchor, node.value()));
        }
        Ok(node)
    }

    fn list(
        &mut self,
        start: usize,
        style: StructureStyle,
        depth: usize,
    ) -> Result<YamlNode, YamlFault> {
        let mut items = Vec::new();
        let mut end = start;
        loop {
            if let Some((_, span)) = self.events.next_if(|(e, _)| *e == Event::SequenceEnd) {
                return Ok(match style {
                    StructureStyle::Flow => {
                        let items: Vec<YamlItem> = items;
                        let value = items.iter().map(|item| item.value.value()).collect();
                        let span = start..byte(span.end.byte_offset());
                        YamlNode { kind: NodeKind::Written(value), span }
                    }
                    StructureStyle::Block => {
                        let start = items.first().map_or(start, |item: &YamlItem| item.dash);
                        let column = start - start_of_line(self.text, start);
                        YamlNode { kind: NodeKind::List { column, items }, span: start..end }
                    }
                });
            }
            let value = self.node(depth + 1)?;
            let dash = self.dash_before(value.span.start);
            end = end.max(value.span.end).max(dash + 1);
            items.push(YamlItem { dash, value, state: PartState::Kept });
        }
    }

    fn map(
        &mut self,
        start: usize,
        column: usize,
        style: StructureStyle,
        depth: usize,
    ) -> Result<YamlNode, YamlFault> {
        let mut entries: Vec<YamlEntry> = Vec::new();
        let mut merged = Map::new();
        let mut end = start;
        loop {
            if let Some((_, span)) = self.events.next_if(|(e, _)| *e == Event::MappingEnd) {
                let is_merged = !merged.is_empty();
                let mut value = merged;
                if style == StructureStyle::Flow || is_merged {
                    value.extend(entries.iter().map(|e| (e.key.clone(), e.value.value())));
                    let end = end.max(byte(span.end.byte_offset()));
                    let kind = NodeKind::Written(Value::Object(value));
                    return Ok(YamlNode { kind, span: start..end });
                }
                return Ok(YamlNode { kind: NodeKind::Map { column, entries }, span: start..end });
            }
            let line = self.events.peek().map_or(0, |(_, span)| span.start.line());
            let key = self.node(depth + 1)?;
            let value = self.node(depth + 1)?;
            let name = match key.value() {
                Value::String(name) => name,
                Value::Null | Value::Array(_) | Value::Object(_) => {
                    return Err(self.fault(line, "a name is no text"));
                }
                // As written: `on` and `8080` are names too.
                _ => self.text.get(key.span.clone()).unwrap_or_default().to_owned(),
            };
            end = end.max(value.span.end).max(key.span.end);
            // In quotes it is a name like any other.
            if name == "<<" && self.text.get(key.span.clone()) == Some("<<") {
                self.is_odd = true;
                let maps = match value.value() {
                    Value::Array(maps) => maps,
                    map => vec![map],
                };
                for map in maps.into_iter().rev() {
                    let Value::Object(map) = map else {
                        return Err(self.fault(line, "only mappings can be merged"));
                    };
                    merged.extend(map);
                }
                continue;
            }
            if entries.iter().any(|entry| entry.key == name) {
                return Err(self.fault(line, "a name stands twice in one mapping"));
            }
            let key_span = key.span;
            entries.push(YamlEntry { key: name, key_span, value, state: PartState::Kept });
        }
    }

    /// The `-` of an item: before its value, or on an earlier line that has nothing after it.
    fn dash_before(&self, value: usize) -> usize {
        let mut end = value;
        loop {
            let start = start_of_line(self.text, end);
            let line = self.text.get(start..end).unwrap_or_default();
            let line = if line.trim_start().starts_with('#') { "" } else { line.trim_end() };
            if line.ends_with('-') {
                return start + line.len() - 1;
            }
            if start == 0 {
                return value;
            }
            end = start - 1;
        }
    }

    fn fault(&self, line: usize, why: &str) -> YamlFault {
        YamlFault { line: self.first_line + line.saturating_sub(1), why: why.to_owned() }
    }
}

fn byte(offset: Option<usize>) -> usize {
    offset.unwrap_or_default()
}

/// The first byte of the line that `at` is on.
pub(super) fn start_of_line(text: &str, at: usize) -> usize {
    text.get(..at).and_then(|before| before.rfind('\n')).map_or(0, |newline| newline + 1)
}

/// Where a value ends, without trailing white space and line ends.
pub(super) fn content_end(text: &str, span: &Range<usize>) -> usize {
    let body = text.get(span.clone()).unwrap_or_default();
    let header = body.lines().next().unwrap_or_default();
    // Such a block keeps the empty lines after it.
    if body.starts_with(['|', '>']) && header.contains('+') {
        return span.end;
    }
    span.start + body.trim_end().len()
}
