//! JSON with the bytes between its values, so that the answer to a request looks as the skeleton's
//! author wrote it. Imports nothing.

use std::collections::BTreeSet;

/// One value of a skeleton, and all bytes that belong to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Array(Vec<ShapeItem>),
    /// A number, `true`, `false`, `null`, or an empty object or list: as written.
    Literal(Box<str>),
    Object(Vec<ShapeMember>),
    Text {
        /// With its quotes.
        written: Box<str>,
        meant: Box<str>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ShapeItem {
    /// White space before it, and after it.
    pub(super) before: Box<str>,
    pub(super) value: Shape,
    pub(super) after: Box<str>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ShapeMember {
    /// White space, the name with its quotes, the colon.
    pub(super) before: Box<str>,
    pub(super) name: Box<str>,
    pub(super) value: Shape,
    pub(super) after: Box<str>,
}

/// Why a text is not a skeleton.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ShapeFault {
    Syntax(String),
    /// An object has this name twice: readers would choose one of the two.
    Twice(Box<str>),
}

struct Scanner<'t> {
    text: &'t str,
    at: usize,
}

/// Reads one JSON value; white space around it is dropped.
pub(super) fn scan(text: &str) -> Result<Shape, ShapeFault> {
    let text = text.trim_matches([' ', '\t', '\r', '\n']);
    // This limits the depth, too.
    if let Err(e) = serde_json::from_str::<serde_json::Value>(text) {
        return Err(ShapeFault::Syntax(e.to_string()));
    }
    Scanner { text, at: 0 }.value()
}

// === impl Scanner ===

impl<'t> Scanner<'t> {
    fn rest(&self) -> &'t str {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// The text from `start` to here.
    fn since(&self, start: usize) -> &'t str {
        self.text.get(start..self.at).unwrap_or_default()
    }

    fn next(&self) -> Option<u8> {
        self.rest().bytes().next()
    }

    fn take(&mut self, byte: u8) -> bool {
        let is_next = self.next() == Some(byte);
        self.at += usize::from(is_next);
        is_next
    }

    fn space(&mut self) -> &'t str {
        let rest = self.rest();
        let length = rest.len() - rest.trim_start_matches([' ', '\t', '\r', '\n']).len();
        self.at += length;
        rest.get(..length).unwrap_or_default()
    }

    fn value(&mut self) -> Result<Shape, ShapeFault> {
        match self.next() {
            Some(b'{') => self.object(),
            Some(b'[') => self.array(),
            Some(b'"') => {
                let (written, meant) = self.string();
                Ok(Shape::Text { written: written.into(), meant: meant.into() })
            }
            _ => {
                let rest = self.rest();
                let end = rest.find([',', ']', '}', ' ', '\t', '\r', '\n']).unwrap_or(rest.len());
                self.at += end;
                Ok(Shape::Literal(rest.get(..end).unwrap_or_default().into()))
            }
        }
    }

    /// The string as written, and its meaning.
    fn string(&mut self) -> (&'t str, String) {
        let rest = self.rest();
        let mut escaped = false;
        let end = rest.bytes().skip(1).position(|byte| {
            let is_end = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            is_end
        });
        let length = end.map_or(rest.len(), |end| end + 2);
        self.at += length;
        let written = rest.get(..length).unwrap_or_default();
        (written, serde_json::from_str(written).unwrap_or_default())
    }

    fn array(&mut self) -> Result<Shape, ShapeFault> {
        let start = self.at;
        self.take(b'[');
        let mut items = Vec::new();
        loop {
            let before = self.space().into();
            if self.take(b']') {
                return Ok(Shape::Literal(self.since(start).into()));
            }
            let value = self.value()?;
            let after = self.space().into();
            items.push(ShapeItem { before, value, after });
            if !self.take(b',') {
                self.take(b']');
                return Ok(Shape::Array(items));
            }
        }
    }

    fn object(&mut self) -> Result<Shape, ShapeFault> {
        let start = self.at;
        self.take(b'{');
        let (mut members, mut names) = (Vec::new(), BTreeSet::new());
        loop {
            let from = self.at;
            self.space();
            if self.take(b'}') {
                return Ok(Shape::Literal(self.since(start).into()));
            }
            let (_, name) = self.string();
            self.space();
            self.take(b':');
            self.space();
            let before = self.since(from).into();
            if !names.insert(name.clone()) {
                return Err(ShapeFault::Twice(name.into()));
            }
            let value = self.value()?;
            let after = self.space().into();
            members.push(ShapeMember { before, name: name.into(), value, after });
            if !self.take(b',') {
                self.take(b'}');
                return Ok(Shape::Object(members));
            }
        }
    }
}
