//! Text → nodes with their positions.

use std::ops::Range;

use granit_parser::{
    Event, Parser, ScalarStyle, Scanner, Span, StrInput, StructureStyle, TokenType,
};
use serde_json::{Map, Value};

use super::anchors::AnchorBook;
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
    for read in Parser::new_from_str_with_options(text, options.clone()) {
        let (event, span) = read.map_err(|error| YamlFault {
            line: first_line + error.marker().line().saturating_sub(1),
            why: error.info().to_string(),
        })?;
        events.push((event, span));
    }
    let named = events.iter().filter_map(|(event, _)| match event {
        Event::Alias(anchor) => Some(*anchor),
        _ => None,
    });
    let anchors = AnchorBook::new(named.collect());
    // The parser does not say where the `-` of an item is; the scanner does, in the same order.
    let tokens = Scanner::with_options(StrInput::new(text), options).map_while(Result::ok);
    let dashes = tokens.filter_map(|token| match token.token_type() {
        TokenType::BlockEntry => Some(dash_before(text, byte(token.span().start.byte_offset()))),
        _ => None,
    });
    let mut reader = NodeReader {
        text,
        first_line,
        events: events.into_iter().peekable(),
        dashes,
        anchors,
        // What is copied is cut where lines end, and only LF ends one here.
        is_odd: text.split("\r\n").any(|part| part.contains('\r')),
    };
    let mut root = None;
    while let Some((event, span)) = reader.events.peek() {
        match event {
            Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(..)
            | Event::DocumentEnd => {
                reader.events.next();
            }
            _ if root.is_some() => {
                let why = "a second document begins here\n\
                           hint: begin it with a line `---`; lines end with LF or CRLF";
                let line = span.start.line();
                return Err(reader.fault(line, why));
            }
            _ => root = Some(reader.node(0)?),
        }
    }
    let Some(root) = root else { return Ok((None, Value::Null)) };
    let value = root.value();
    let is_empty = value.is_null() && root.span.is_empty();
    // Parts may be referred to by name, or stand where nobody would look: such a document is
    // rewritten as a whole.
    let root = match reader.is_odd {
        true => YamlNode { kind: NodeKind::Written(value.clone()), span: root.span },
        false => root,
    };
    Ok(((!is_empty).then_some(root), value))
}

struct NodeReader<'t, I: Iterator<Item = (Event<'t>, Span)>, D: Iterator<Item = usize>> {
    text: &'t str,
    first_line: usize,
    events: std::iter::Peekable<I>,
    /// The `-` of each item in block style, in the order of the items.
    dashes: D,
    anchors: AnchorBook,
    /// Anchors, merges, tags, names after `?` or line ends of old are used.
    is_odd: bool,
}

// === impl NodeReader ===

impl<'t, I, D> NodeReader<'t, I, D>
where
    I: Iterator<Item = (Event<'t>, Span)>,
    D: Iterator<Item = usize>,
{
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
                let end = byte(span.end.byte_offset()).max(start);
                let span = match (&value, style) {
                    (Value::String(text), ScalarStyle::Literal | ScalarStyle::Folded) => {
                        let end = block_end(self.text, start..end, text);
                        start.min(end)..end
                    }
                    _ => start..end,
                };
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
                let value = self.anchors.value(id, depth, DEEPEST);
                let value = value.map_err(|fault| self.fault(line, &fault.to_string()))?;
                let span = start..byte(span.end.byte_offset()).max(start);
                (YamlNode { kind: NodeKind::Written(value), span }, 0)
            }
            _ => return Err(self.fault(line, "a value is missing")),
        };
        if anchor != 0 {
            self.is_odd = true;
            self.anchors.learn(anchor, &node);
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
            // Before its value is read: items of that have dashes too.
            let dash = match style {
                StructureStyle::Block => self.dashes.next().unwrap_or(start),
                StructureStyle::Flow => start,
            };
            let value = self.node(depth + 1)?;
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
            let behind = self.text.get(key_span.end..).unwrap_or_default();
            // After `?` its colon can be anywhere.
            self.is_odd |= style == StructureStyle::Block
                && !behind.trim_start_matches([' ', '\t']).starts_with(':');
            entries.push(YamlEntry { key: name, key_span, value, state: PartState::Kept });
        }
    }

    fn fault(&self, line: usize, why: &str) -> YamlFault {
        YamlFault { line: self.first_line + line.saturating_sub(1), why: why.to_owned() }
    }
}

fn byte(offset: Option<usize>) -> usize {
    offset.unwrap_or_default()
}

/// The `-` of an item whose token is at `at`: the scanner has read over the white space and the
/// comment behind it.
fn dash_before(text: &str, at: usize) -> usize {
    let line = start_of_line(text, at);
    let behind = text.get(line..at).unwrap_or_default();
    // Only white space and indicators can precede it on its line.
    let before_comment = behind.split('#').next().unwrap_or_default();
    before_comment.rfind('-').map_or(at, |dash| line + dash)
}

/// The first byte of the line that `at` is on.
pub(super) fn start_of_line(text: &str, at: usize) -> usize {
    text.get(..at).and_then(|before| before.rfind('\n')).map_or(0, |newline| newline + 1)
}

/// Where a block scalar ends: before its last line end.
fn block_end(text: &str, span: Range<usize>, value: &str) -> usize {
    // The scanner has already read the indentation of what comes next.
    let line = start_of_line(text, span.end);
    let indent = text.get(line..span.end).unwrap_or_default();
    let end = if indent.trim().is_empty() { line } else { span.end };
    let body = text.get(span.start.min(end)..end).unwrap_or_default();
    // White space at its end is part of it (`|+`), or not.
    let last = value.strip_suffix('\n').unwrap_or(value);
    let is_kept = last.is_empty() || last.ends_with(['\n', ' ', '\t']);
    let end = if is_kept { end } else { end - (body.len() - body.trim_end().len()) };
    match text.get(..end).is_some_and(|before| before.ends_with('\n')) {
        true => end - 1,
        false => end,
    }
}
