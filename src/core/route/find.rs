//! The rule for a request, by each way in which a server may read its path.
//!
//! A path is forwarded unchanged, and a service may route on its bytes, on its decoded segments, or
//! on something in between. It may merge slashes or not. Whichever it does, the rule that it would
//! find in our place has to be the rule that keygate judged by.

use http::Method;

use super::{FoundRoute, Literal, Node, Pattern, Route, RouteTable};
use crate::core::path::{self, BadPath, Traits};

/// One way to read a path.
#[derive(Clone, Copy, Debug)]
struct PathReading {
    segments: Segments,
    slashes: Slashes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Segments {
    /// Compared with literals byte for byte.
    AsSent,
    /// Percent-decoded, each segment separately.
    Decoded,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slashes {
    /// `//` is an empty segment, which is not a literal and does not match `{name}`.
    Kept,
    /// `//` is `/`.
    Merged,
}

/// A look-up.
pub(super) struct Search<'m, 't> {
    method: &'m Method,
    reading: PathReading,
    /// Rules for the path, but not for the method.
    pub(super) others: Vec<&'t Route>,
}

// === impl Search ===

impl<'m> Search<'m, '_> {
    pub(super) fn new(method: &'m Method) -> Self {
        let reading = PathReading { segments: Segments::Decoded, slashes: Slashes::Kept };
        Self { method, reading, others: Vec::new() }
    }
}

// === impl RouteTable ===

impl RouteTable {
    /// The rule for `method` on `path`, which [`path::scan`] has accepted with `traits`.
    ///
    /// At each segment a literal beats a parameter, and both beat `*`. With the same pattern, a
    /// rule that names the method beats one for all.
    ///
    /// # Errors
    /// Two readings of the path lead to two rules, or one of them to none.
    pub fn find(
        &self,
        method: &Method,
        path: &str,
        traits: Traits,
    ) -> Result<FoundRoute<'_>, BadPath> {
        use Segments::{AsSent, Decoded};
        use Slashes::{Kept, Merged};
        let read = |segments, slashes| self.search(method, path, PathReading { segments, slashes });
        let found = read(Decoded, Kept);
        // A server that decodes only some of the escapes sees literals that are among those of
        // `Decoded`, and include all those of `AsSent`. So if these two find the same rule, it is
        // the best of all readings in between.
        let agreed = (!traits.encoded || found.is_same(&read(AsSent, Kept)))
            && (!traits.empty_segment || found.is_same(&read(Decoded, Merged)))
            && !(traits.encoded && traits.empty_segment && !found.is_same(&read(AsSent, Merged)));
        if agreed { Ok(found) } else { Err(BadPath::TwoRules) }
    }

    fn search(&self, method: &Method, path: &str, reading: PathReading) -> FoundRoute<'_> {
        let mut search = Search { reading, ..Search::new(method) };
        let rest = path.strip_prefix('/').unwrap_or(path).as_bytes();
        match self.walk(0, Some(rest), &mut search) {
            Some(route) => FoundRoute::Route(route),
            None if search.others.is_empty() => FoundRoute::Nothing,
            None => {
                let others = search.others.iter();
                let mut methods: Vec<&Method> = others.flat_map(|r| &r.methods).collect();
                methods.sort_unstable_by_key(|m| m.as_str());
                methods.dedup();
                FoundRoute::OtherMethods(methods)
            }
        }
    }

    /// Depth is bounded by the deepest pattern, not by the path.
    fn walk<'t>(
        &'t self,
        node: usize,
        rest: Option<&[u8]>,
        search: &mut Search<'_, 't>,
    ) -> Option<&'t Route> {
        let node = self.nodes.get(node)?;
        let rest = match search.reading.slashes {
            Slashes::Kept => rest,
            Slashes::Merged => rest.map(|r| {
                let slashes = r.iter().take_while(|b| **b == b'/').count();
                r.get(slashes..).unwrap_or_default()
            }),
        };
        let Some(rest) = rest.filter(|r| !r.is_empty()) else {
            return self.pick(&node.ends, search).or_else(|| self.pick(&node.rests, search));
        };
        let (raw, tail) = match rest.iter().position(|b| *b == b'/') {
            Some(at) => (rest.get(..at).unwrap_or_default(), rest.get(at + 1..)),
            None => (rest, None),
        };
        let param = node.param.filter(|_| !raw.is_empty());
        node.literal(raw, search.reading.segments)
            .and_then(|next| self.walk(next, tail, search))
            .or_else(|| param.and_then(|next| self.walk(next, tail, search)))
            .or_else(|| self.pick(&node.rests, search))
    }

    pub(super) fn pick<'t>(
        &'t self,
        candidates: &[usize],
        search: &mut Search<'_, 't>,
    ) -> Option<&'t Route> {
        let method = search.method;
        let routes = || candidates.iter().filter_map(|i| self.routes.get(*i));
        let named = routes().find(|r| r.methods.contains(method));
        let found = named
            .or_else(|| {
                (method == Method::HEAD)
                    .then(|| routes().find(|r| r.methods.contains(&Method::GET)))
                    .flatten()
            })
            .or_else(|| routes().find(|r| r.serves(method)));
        if found.is_none() {
            search.others.extend(routes());
        }
        found
    }
}

// === impl Node ===

impl Node {
    /// The node after the literal that `raw` matches.
    fn literal(&self, raw: &[u8], segments: Segments) -> Option<usize> {
        if !raw.contains(&b'%') {
            return self.find_literal(raw).map(|literal| literal.next);
        }
        let literal = self.find_literal(&path::decode(raw))?;
        let same = segments == Segments::Decoded || literal.is_written(raw);
        same.then_some(literal.next)
    }

    fn find_literal(&self, decoded: &[u8]) -> Option<&Literal> {
        let at = self.literals.binary_search_by(|known| (*known.decoded).cmp(decoded)).ok()?;
        self.literals.get(at)
    }
}

// === impl Literal ===

impl Literal {
    /// Whether a server that compares bytes recognises `raw` as this literal: rules spell it that
    /// way, or it is encoded no more than necessary.
    pub(super) fn is_written(&self, raw: &[u8]) -> bool {
        self.spellings.iter().any(|known| **known == *raw)
            || path::encode(&self.decoded).as_bytes() == raw
    }
}

// === impl FoundRoute ===

impl FoundRoute<'_> {
    /// Whether both lead to one rule, or both to none.
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Route(one), Self::Route(other)) => one.index == other.index,
            (Self::OtherMethods(one), Self::OtherMethods(other)) => one == other,
            (Self::Nothing, Self::Nothing) => true,
            _ => false,
        }
    }
}

// === impl Pattern ===

impl Pattern {
    /// Whether `path` matches this pattern. Another pattern may be more specific.
    pub fn matches(&self, path: &str) -> bool {
        let mut parts = path.strip_prefix('/').unwrap_or(path).split('/');
        for segment in &self.segments {
            let Some(part) = parts.next() else { return false };
            let fits = match segment {
                super::Segment::Param => !part.is_empty(),
                super::Segment::Literal { decoded, .. } => {
                    **decoded == *path::decode(part.as_bytes())
                }
            };
            if !fits {
                return false;
            }
        }
        // A trailing slash does not matter.
        self.rest || (parts.next().is_none_or(str::is_empty) && parts.next().is_none())
    }

    /// Orders patterns that match one path as [`RouteTable::find`] does: the greater one wins.
    pub fn specificity(&self) -> Vec<u8> {
        let segment = |segment: &super::Segment| match segment {
            super::Segment::Param => 1,
            super::Segment::Literal { .. } => 2,
        };
        let end = if self.rest { 0 } else { 3 };
        self.segments.iter().map(segment).chain([end]).collect()
    }
}
