//! Documents as people write them: the same value in any of YAML's styles, with comments wherever
//! they may be.

use serde_json::{Map, Value, json};

use crate::inject::yaml::scalar::{is_block, quoted};

/// Decisions, from bytes that a test shrinks; 0 when they run out.
pub(super) struct Choices<'b>(pub(super) &'b [u8]);

/// A document while it is written.
pub(super) struct Page<'c, 'b> {
    choices: &'c mut Choices<'b>,
    pub(super) text: String,
    /// How many comments it has; each has a number.
    comments: usize,
    /// It ends with a text block: what follows must not be indented as deep.
    is_after_block: bool,
    /// Anchors by number, with what they name.
    anchors: Vec<Value>,
    /// It has anchors, or names after `?`: a change rewrites it.
    pub(super) is_odd: bool,
    /// Names of the outermost mapping, with the numbers of the comments in their values.
    pub(super) outermost: Vec<(String, std::ops::Range<usize>)>,
}

/// What a value is written after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Head {
    Dash,
    Name,
}

const TEXTS: [&str; 14] = [
    "a",
    "b c",
    "true",
    "8080",
    "",
    "x: y",
    "- z",
    "it's # no comment",
    "1\n2\n",
    "# 1\n  2\n\n3\n",
    "k\n\n\n",
    "no end\n\n x",
    "é \"q\" {",
    "] }",
];

pub(super) const NAMES: [&str; 9] = ["a", "b", "c", "ports", "on", "8080", "x y", "a/b", "m: ~n"];

// === impl Choices ===

impl Choices<'_> {
    pub(super) fn below(&mut self, bound: usize) -> usize {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        usize::from(*first) % bound
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == count - 1
    }

    pub(super) fn value(&mut self, depth: usize) -> Value {
        match (self.below(6), depth) {
            (0 | 1, 1..) => {
                let count = self.below(4);
                (0..count).map(|_| self.value(depth - 1)).collect()
            }
            (2 | 3, 1..) => self.mapping(depth),
            _ => match self.below(4) {
                0 => [json!(1), json!(null), json!(true), json!(-1.5)][self.below(4)].clone(),
                _ => json!(TEXTS[self.below(TEXTS.len())]),
            },
        }
    }

    pub(super) fn mapping(&mut self, depth: usize) -> Value {
        let count = self.below(4);
        let members = (0..count)
            .map(|_| (NAMES[self.below(NAMES.len())].to_owned(), self.value(depth - 1)))
            .collect::<Map<_, _>>();
        Value::Object(members)
    }
}

// === impl Page ===

impl<'c, 'b> Page<'c, 'b> {
    /// Writes a document whose value is `root`.
    pub(super) fn of(root: &Value, choices: &'c mut Choices<'b>) -> Self {
        let mut page = Self {
            choices,
            text: String::new(),
            comments: 0,
            is_after_block: false,
            anchors: Vec::new(),
            is_odd: false,
            outermost: Vec::new(),
        };
        let before =
            ["", "---\n", "--- # head\n", "# head\n\n---\n", "%YAML 1.2\n---\n", "\u{feff}"];
        page.text.push_str(before[page.choices.below(before.len())]);
        match root {
            Value::Object(members) if !members.is_empty() => page.members(members, 0),
            _ => {
                page.flow(root, 0);
                page.line_end();
            }
        }
        let after = ["", "...\n", "# end\n", "... # end\n# after\n", "\n"];
        let count = if page.is_after_block { 2 } else { after.len() };
        let after = after[page.choices.below(count)];
        page.text.push_str(after);
        if after.is_empty() && !page.is_after_block && page.choices.one_in(4) {
            page.text.pop();
        }
        if page.choices.one_in(6) {
            page.text = page.text.replace('\n', "\r\n");
        }
        page
    }

    fn indent(&mut self, column: usize) {
        self.text.extend(std::iter::repeat_n(' ', column));
    }

    fn comment(&mut self) {
        // What could be taken for something else.
        let looks = ["", ": - x", " - name: [", " '{ \"", " -", " }]"];
        let look = looks[self.choices.below(looks.len())];
        self.text.push_str(&format!("# c{}.{look}", self.comments));
        self.comments += 1;
    }

    fn line_end(&mut self) {
        if self.choices.one_in(4) {
            self.text.push_str("  ");
            self.comment();
        }
        self.text.push('\n');
    }

    /// Comments and empty lines between two lines.
    fn between(&mut self, column: usize) {
        while self.choices.one_in(4) {
            match self.choices.below(3) {
                0 if !self.is_after_block => self.text.push('\n'),
                _ => {
                    let bound = if self.is_after_block { column + 1 } else { column + 5 };
                    let indent = self.choices.below(bound);
                    self.indent(indent);
                    self.comment();
                    self.text.push('\n');
                }
            }
        }
    }

    fn members(&mut self, members: &Map<String, Value>, column: usize) {
        for (at, (name, value)) in members.iter().enumerate() {
            // The first one can be on the line of a dash.
            if at > 0 || self.text.is_empty() || self.text.ends_with('\n') {
                self.between(column);
                self.indent(column);
            }
            self.is_after_block = false;
            let name_text = match self.choices.below(3) {
                0 => json!(name).to_string(),
                1 if !name.contains('\'') => format!("'{name}'"),
                _ => quoted(name),
            };
            if self.choices.one_in(24) {
                self.is_odd = true;
                self.text.push_str("? ");
                self.text.push_str(&name_text);
                self.line_end();
                self.indent(column);
            } else {
                self.text.push_str(&name_text);
                self.text.push_str([" ", ""][usize::from(!self.choices.one_in(8))]);
            }
            self.text.push(':');
            let first = self.comments;
            self.behind_head(value, column, Head::Name);
            // Only the outermost mapping begins at the margin.
            if column == 0 {
                self.outermost.push((name.clone(), first..self.comments));
            }
        }
    }

    fn items(&mut self, items: &[Value], column: usize) {
        for (at, value) in items.iter().enumerate() {
            if at > 0 || self.text.ends_with('\n') {
                self.between(column);
                self.indent(column);
            }
            self.is_after_block = false;
            self.text.push('-');
            self.behind_head(value, column, Head::Dash);
        }
    }

    fn behind_head(&mut self, value: &Value, column: usize, head: Head) {
        if self.choices.one_in(30) {
            self.is_odd = true;
            if let Some(known) = self.anchors.iter().position(|known| known == value) {
                self.text.push_str(&format!(" *n{known}"));
                return self.line_end();
            }
            self.text.push_str(&format!(" &n{}", self.anchors.len()));
            self.anchors.push(value.clone());
        }
        let has_anchor = self.text.ends_with(|c: char| c.is_ascii_digit());
        let is_flow = self.choices.one_in(3);
        match value {
            Value::Array(items) if !items.is_empty() && !is_flow => {
                let deeper = match head {
                    Head::Name => self.choices.below(3),
                    Head::Dash => 2,
                };
                if head == Head::Dash && !has_anchor && self.choices.one_in(2) {
                    self.text.push(' ');
                } else {
                    self.line_end();
                }
                self.items(items, column + deeper);
            }
            Value::Object(members) if !members.is_empty() && !is_flow => {
                let mut deeper = 2;
                if head == Head::Dash && !has_anchor && !self.choices.one_in(3) {
                    self.text.push(' ');
                } else {
                    deeper = 1 + self.choices.below(4);
                    self.line_end();
                }
                self.members(members, column + deeper);
            }
            Value::Array(_) | Value::Object(_) => {
                self.gap_before_flow(column);
                self.flow(value, column);
                self.line_end();
            }
            Value::String(text) if is_block(text) && self.choices.one_in(2) => {
                self.block(text, " |", column);
            }
            Value::String(text) if text.ends_with("\n\n") && self.choices.one_in(2) => {
                self.block(text, " |+", column);
            }
            Value::Null if self.choices.one_in(2) => self.line_end(),
            _ => {
                self.gap_before_flow(column);
                self.scalar(value, column);
                self.line_end();
            }
        }
    }

    /// A value may begin on a line of its own.
    fn gap_before_flow(&mut self, column: usize) {
        if self.choices.one_in(8) {
            self.line_end();
            self.indent(column + 2);
        } else {
            self.text.push(' ');
        }
    }

    fn block(&mut self, text: &str, header: &str, column: usize) {
        self.text.push_str(header);
        self.line_end();
        for line in text.lines() {
            if !line.is_empty() {
                self.indent(column + 2);
            }
            self.text.push_str(line);
            self.text.push('\n');
        }
        self.is_after_block = true;
    }

    /// White space in something in flow style, where it may be.
    fn gap(&mut self, column: usize) {
        match self.choices.below(6) {
            0 => {
                self.line_end();
                // Parsers take less than the specification asks for.
                let deeper = self.choices.below(4);
                self.indent(column + deeper);
            }
            1 => {
                self.text.push_str("\n\n");
                self.indent(column + 2);
            }
            2 => self.text.push(' '),
            _ => {}
        }
    }

    fn flow(&mut self, value: &Value, column: usize) {
        match value {
            Value::Array(items) => {
                self.text.push('[');
                for (at, item) in items.iter().enumerate() {
                    self.gap(column);
                    self.flow(item, column);
                    self.comma(items.len() - at - 1, column);
                }
                self.gap(column);
                self.text.push(']');
            }
            Value::Object(members) => {
                self.text.push('{');
                for (at, (name, value)) in members.iter().enumerate() {
                    self.gap(column);
                    self.text.push_str(&quoted(name));
                    self.text.push_str(": ");
                    self.gap(column);
                    self.flow(value, column);
                    self.comma(members.len() - at - 1, column);
                }
                self.gap(column);
                self.text.push('}');
            }
            _ => self.scalar(value, column),
        }
    }

    /// Behind the last one it may be left out.
    fn comma(&mut self, left: usize, column: usize) {
        self.gap(column);
        if left > 0 || self.choices.one_in(3) {
            self.text.push(',');
        }
    }

    /// In one line, or in quotes over several.
    fn scalar(&mut self, value: &Value, column: usize) {
        let Value::String(text) = value else {
            return self.text.push_str(&value.to_string());
        };
        let is_single = !text.contains('\n') && self.choices.one_in(3);
        let written = match (is_single, self.choices.below(2)) {
            (true, _) => format!("'{}'", text.replace('\'', "''")),
            (false, 0) => json!(text).to_string(),
            (false, _) => quoted(text),
        };
        let is_quoted = written.starts_with(['"', '\'']);
        match written.trim_matches(['"', '\'']).contains(' ') {
            // A line end in quotes is read as one space.
            true if is_quoted && self.choices.one_in(2) && !written.contains("  ") => {
                let indent = " ".repeat(column + 1 + self.choices.below(4));
                self.text.push_str(&written.replacen(' ', &format!("\n{indent}"), 1));
            }
            _ => self.text.push_str(&written),
        }
    }
}
