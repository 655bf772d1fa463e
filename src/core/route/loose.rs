//! The rules that a service may use for a path if it reads paths more loosely than keygate:
//! ignoring case, cutting off trailing dots and spaces, cutting off what follows `;`, `?` or `#`,
//! decoding once or twice before or after it splits the path. Wherever one of these is possible,
//! both ways are tried, so that the result is never too small.
//!
//! Only for `[observe]`: [`RouteTable::find`] alone decides whether a request is admitted.

use std::borrow::Cow;

use http::Method;

use super::find::Search;
use super::{Literal, Route, RouteTable};
use crate::core::path;

/// A segment of a path, as one kind of server sees it.
#[derive(Debug)]
struct LooseSegment<'p> {
    /// As the request has it, unless it was split or decoded twice.
    raw: Option<&'p [u8]>,
    folded: String,
}

/// What a server does before it looks at segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Splitting {
    /// At `/` as sent, then decoded.
    AsSent,
    /// At `/` in the text after decoding once.
    Decoded,
    /// At `/` and `\` in the text after decoding twice.
    DecodedTwice,
}

/// Whether a search that finds no rule here may continue with a less specific pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fall {
    Never,
    Possible,
}

/// A look-up, with everything found so far.
struct LooseSearch<'m, 't> {
    search: Search<'m, 't>,
    found: Vec<Option<&'t Route>>,
}

impl RouteTable {
    /// Every rule that some service may use for `path`, which [`path::scan`] has accepted. An entry
    /// `None`: no rule. `None`: it may lead anywhere.
    ///
    /// It does not count if an encoded slash leads to no rule: whoever allows it on a rule says
    /// that it is a part of a segment. It counts if it leads to another rule.
    pub fn find_loosely(&self, method: &Method, path: &str) -> Option<Vec<Option<&Route>>> {
        let mut search = LooseSearch { search: Search::new(method), found: Vec::new() };
        let split = |splitting| segments(path, splitting);
        if self.fall(0, &split(Splitting::AsSent)?, &mut search) == Fall::Possible {
            search.found.push(None);
        }
        if path.contains('%') {
            for splitting in [Splitting::Decoded, Splitting::DecodedTwice] {
                search.search.others.clear();
                let fall = self.fall(0, &split(splitting)?, &mut search);
                if fall == Fall::Possible && !search.search.others.is_empty() {
                    search.found.push(None);
                }
            }
        }
        Some(search.found)
    }

    /// Depth is bounded by the deepest pattern, not counting empty segments, which do not go
    /// deeper.
    fn fall<'t>(
        &'t self,
        node: usize,
        segments: &[LooseSegment<'_>],
        search: &mut LooseSearch<'_, 't>,
    ) -> Fall {
        let Some(node) = self.nodes.get(node) else { return Fall::Possible };
        let mut merged = segments;
        while let [segment, tail @ ..] = merged
            && segment.is_empty()
        {
            merged = tail;
        }
        let rests = |search: &mut LooseSearch<'_, 't>| {
            let rule = self.pick(&node.rests, &mut search.search);
            search.takes(rule)
        };
        if merged.len() < segments.len() {
            // Kept, because an empty segment is not a literal and does not match `{name}`.
            rests(search);
        }
        let Some((segment, tail)) = merged.split_first() else {
            let rule = self.pick(&node.ends, &mut search.search);
            return match search.takes(rule) {
                Fall::Never => Fall::Never,
                Fall::Possible => rests(search),
            };
        };
        let mut certain = None;
        for literal in node.literals.iter().filter(|literal| *literal.folded == *segment.folded) {
            match segment.is_certainly(literal) {
                true => certain = Some(literal.next),
                false => {
                    self.fall(literal.next, tail, search);
                }
            }
        }
        for next in [certain, node.param].into_iter().flatten() {
            if self.fall(next, tail, search) == Fall::Never {
                return Fall::Never;
            }
        }
        rests(search)
    }
}

// === impl LooseSearch ===

impl<'t> LooseSearch<'_, 't> {
    fn takes(&mut self, rule: Option<&'t Route>) -> Fall {
        match rule {
            None => Fall::Possible,
            rule => {
                self.found.push(rule);
                Fall::Never
            }
        }
    }
}

// === impl LooseSegment ===

impl LooseSegment<'_> {
    fn is_empty(&self) -> bool {
        self.folded.is_empty()
    }

    /// Whether every server recognises it as this literal.
    fn is_certainly(&self, literal: &Literal) -> bool {
        self.raw.is_some_and(|raw| match raw.contains(&b'%') {
            true => literal.is_written(raw),
            false => *raw == *literal.decoded,
        })
    }
}

/// `None`: some server finds an invalid segment, or one that leads up, or more to decode.
fn segments(path: &str, splitting: Splitting) -> Option<Vec<LooseSegment<'_>>> {
    let path = path.strip_prefix('/').unwrap_or(path);
    let mut found = Vec::new();
    for raw in path.as_bytes().split(|b| *b == b'/') {
        let decoded = match raw.contains(&b'%') {
            true => Cow::Owned(path::decode(raw)),
            false => Cow::Borrowed(raw),
        };
        let raw = Some(raw).filter(|_| splitting == Splitting::AsSent || !raw.contains(&b'%'));
        let decoded = match splitting {
            Splitting::DecodedTwice => Cow::Owned(path::decode(&decoded)),
            Splitting::AsSent | Splitting::Decoded => decoded,
        };
        if splitting == Splitting::DecodedTwice && path::decode(&decoded) != *decoded {
            return None;
        }
        let is_end = |b: &u8| match splitting {
            Splitting::AsSent => false,
            Splitting::Decoded => *b == b'/',
            Splitting::DecodedTwice => matches!(*b, b'/' | b'\\'),
        };
        for part in decoded.split(is_end) {
            let folded = fold(part);
            if folded.is_empty() && !part.is_empty() {
                return None;
            }
            found.push(LooseSegment { raw, folded });
        }
    }
    // A trailing slash does not matter.
    found.pop_if(|last| last.is_empty());
    Some(found)
}

/// A decoded segment as compared by a server that ignores case, without what some file systems and
/// servers cut off. Empty for `.` and `..` as well.
pub(super) fn fold(decoded: &[u8]) -> String {
    let name = decoded.split(|b| matches!(b, b';' | b'?' | b'#')).next().unwrap_or_default();
    let name = String::from_utf8_lossy(name);
    let name = name.trim_end_matches(['.', ' ']);
    // Upper case first, because `ſ` is an `s`, and the Kelvin sign a `k`.
    name.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect()
}
