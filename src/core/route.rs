//! Route rules: method + path pattern → access. The most specific match wins. No match refuses.

mod find;
mod loose;
#[cfg(test)]
mod tests;

use std::fmt;

use http::Method;

use super::key::Permission;
use super::path::{self, Traits};

/// One rule of the configuration.
#[derive(Clone, Debug)]
pub struct Route {
    /// Position in the table, set by [`RouteTable::new`].
    pub index: usize,
    /// Name in logs and metric labels. Unique.
    pub id: Box<str>,
    pub pattern: Pattern,
    /// Empty: every method.
    pub methods: Vec<Method>,
    pub access: Access,
    /// What its paths may contain beyond the strict default.
    pub allow: Traits,
    /// The most bytes of a request body. `None`: no bound.
    pub body_limit: Option<u64>,
    /// `Upgrade` tokens that are passed on, lower-case. Empty: none.
    pub upgrades: Vec<Box<str>>,
    /// A CORS preflight for this rule passes without a key.
    pub preflight: bool,
    /// Refusal profile by name. `None`: the default one.
    pub profile: Option<Box<str>>,
    /// Which policies charge its requests in addition to those for all routes.
    pub class: Option<Box<str>>,
    /// How many requests one of its requests counts as, 0 to [`Route::MAX_COST`]. 0: none.
    pub cost: u32,
    /// The service that its requests go to: 0 is `[upstream]`, n the n-th of `[upstreams.NAME]`.
    pub upstream: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// A key for keygate with the permissions.
    Key(Needs),
    /// Like `Key` for a credential for keygate. Anything else is forwarded as anonymous.
    KeyOrPass(Needs),
    /// A key as with `Key`, or a user token with the permissions.
    KeyOrToken(Needs),
    /// keygate looks at no credential.
    Public,
    /// A user token with the permissions.
    Token(Needs),
}

/// Permissions that a rule requires. None: any valid key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    pub permissions: Box<[Permission]>,
    pub require: Require,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Require {
    #[default]
    All,
    Any,
}

/// `/a/{b}/c`, or `/a/*` for `/a` and everything below it. Literals are compared case-sensitively,
/// with every reading of the request's path. A trailing slash in the request does not matter.
#[derive(Clone, PartialEq, Eq)]
pub struct Pattern {
    text: Box<str>,
    segments: Vec<Segment>,
    rest: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Literal { decoded: Box<[u8]>, written: Box<[u8]> },
    Param,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// `:name`, as Express, Rails and Gin write a parameter. As a literal it would match nothing
    /// that anybody sends, and the request would match a wider rule.
    #[error("`:name` is no parameter here")]
    Colon,
    /// `<name>`, `[name]`, `(\\d+)`, `.+`, `^…$`: parameters and expressions of other routers.
    #[error("has a sign of another router's patterns or of a regular expression")]
    Expression,
    #[error("must begin with `/`")]
    NotAbsolute,
    #[error("`*` may stand only alone as the last segment")]
    Star,
    #[error("a parameter is a whole segment: `{{name}}`")]
    Param,
    #[error("has an empty, `.` or `..` segment, or a byte that a path cannot have")]
    Unsafe,
}

/// Two rules that match the same requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Index of the earlier rule.
    pub first: usize,
    /// Index of the rule that can never be reached.
    pub second: usize,
}

/// All rules, compiled to one tree of segments.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    routes: Vec<Route>,
    nodes: Vec<Node>,
}

#[derive(Clone, Debug, Default)]
struct Node {
    /// Sorted by their decoded form.
    literals: Vec<Literal>,
    param: Option<usize>,
    /// Rules that end here.
    ends: Vec<usize>,
    /// Rules with `*` here.
    rests: Vec<usize>,
}

/// A branch of a node.
#[derive(Clone, Debug)]
struct Literal {
    decoded: Box<[u8]>,
    /// As [`loose`] compares it.
    folded: Box<str>,
    /// As the rules spell it.
    spellings: Vec<Box<[u8]>>,
    next: usize,
}

/// The result of a look-up.
#[derive(Clone, Debug)]
pub enum FoundRoute<'t> {
    Route(&'t Route),
    /// Rules exist for this path, but none for this method. Holds the methods that have one.
    OtherMethods(Vec<&'t Method>),
    Nothing,
}

// === impl Needs ===

impl Needs {
    pub fn met_by(&self, held: &super::grant::PermissionSet) -> bool {
        match self.require {
            _ if self.permissions.is_empty() => true,
            Require::All => self.permissions.iter().all(|p| held.holds(p)),
            Require::Any => self.permissions.iter().any(|p| held.holds(p)),
        }
    }
}

// === impl Access ===

impl Access {
    pub fn needs(&self) -> Option<&Needs> {
        match self {
            Self::Key(needs)
            | Self::KeyOrPass(needs)
            | Self::KeyOrToken(needs)
            | Self::Token(needs) => Some(needs),
            Self::Public => None,
        }
    }

    /// Whether a user token can open the route.
    pub fn takes_tokens(&self) -> bool {
        matches!(self, Self::KeyOrToken(_) | Self::Token(_))
    }

    /// Whether requests without a key pass, whatever other credential they have.
    pub fn lets_strangers_pass(&self) -> bool {
        matches!(self, Self::KeyOrPass(_) | Self::Public)
    }

    /// Whether a key can open the route.
    pub fn takes_keys(&self) -> bool {
        matches!(self, Self::Key(_) | Self::KeyOrPass(_) | Self::KeyOrToken(_))
    }
}

// === impl Pattern ===

impl Pattern {
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let body = text.strip_prefix('/').ok_or(PatternError::NotAbsolute)?;
        let mut parts: Vec<&str> = body.split('/').collect();
        let rest = parts.last() == Some(&"*");
        // `/a/` and `/a` are one pattern, as they are one path to most servers.
        if rest || parts.last() == Some(&"") {
            parts.pop();
        }
        let segments = parts.into_iter().map(Segment::parse).collect::<Result<_, _>>()?;
        Ok(Self { text: text.into(), segments, rest })
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Its segments as they are compared, and whether it ends with `*`.
    fn shape(&self) -> (Vec<Option<&[u8]>>, bool) {
        fn compared(segment: &Segment) -> Option<&[u8]> {
            match segment {
                Segment::Literal { decoded, .. } => Some(decoded),
                Segment::Param => None,
            }
        }
        (self.segments.iter().map(compared).collect(), self.rest)
    }

    /// Whether it names no path: `/*`, or parameters alone. The path `/` counts as named.
    pub fn names_nothing(&self) -> bool {
        let is_named =
            self.segments.iter().any(|segment| matches!(segment, Segment::Literal { .. }));
        !is_named && (self.rest || !self.segments.is_empty())
    }

    /// Whether both match the same paths.
    pub fn is_same(&self, other: &Self) -> bool {
        self.shape() == other.shape()
    }
}

impl PatternError {
    /// What to write instead.
    pub const fn hint(self) -> &'static str {
        match self {
            Self::Colon => {
                "write {name} for any one segment; a literal that begins with a colon is written %3A"
            }
            Self::Expression => {
                "write {name} for any one segment and /* for all below; a literal sign is written \
                 as its percent-encoding, such as %28"
            }
            Self::Param => {
                "names are letters, digits, `_` and `-`; types and expressions behind them, and text \
                 around the braces, are not known here"
            }
            Self::NotAbsolute | Self::Star | Self::Unsafe => "patterns look like /a/{id}/b or /a/*",
        }
    }
}

/// Whether another router would interpret a segment instead of reading it literally.
fn is_expression(part: &str) -> bool {
    part.contains(['<', '>', '[', ']', '^', '|', '\\'])
        || part.ends_with('$')
        || matches!(part, ".+" | ".+?")
        || (part.starts_with('(') && part.ends_with([')', '?', '+']))
}

impl Segment {
    fn parse(part: &str) -> Result<Self, PatternError> {
        if let Some(inner) = part.strip_prefix('{') {
            let name = inner.strip_suffix('}').ok_or(PatternError::Param)?;
            let ok = !name.is_empty()
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
            return if ok { Ok(Self::Param) } else { Err(PatternError::Param) };
        }
        if part.contains('*') {
            return Err(PatternError::Star);
        }
        if part.contains(['{', '}']) {
            return Err(PatternError::Param);
        }
        if part.starts_with(':') {
            return Err(PatternError::Colon);
        }
        if is_expression(part) {
            return Err(PatternError::Expression);
        }
        let whole = [b"/", part.as_bytes()].concat();
        // `/` + part is one segment exactly if the part is safe, non-empty and has no slash.
        match path::scan(&whole) {
            Ok(_) if !part.is_empty() && !path::encodes_mark(part.as_bytes()) => {
                let decoded = path::decode(part.as_bytes()).into();
                Ok(Self::Literal { decoded, written: part.as_bytes().into() })
            }
            _ => Err(PatternError::Unsafe),
        }
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

// === impl Route ===

impl Route {
    pub const MAX_COST: u32 = 1_000_000;

    /// Position of the substitute rule for a request that matches none.
    pub const UNMATCHED: usize = usize::MAX;

    /// Whether it is a rule of the configuration.
    pub fn is_rule(&self) -> bool {
        self.index != Self::UNMATCHED
    }

    /// A rule on GET answers HEAD as well, unless another rule names HEAD (RFC 9110 §9.3.2).
    fn serves(&self, method: &Method) -> bool {
        self.methods.is_empty() || self.methods.contains(method)
    }
}

// === impl RouteTable ===

impl RouteTable {
    /// Reports every pair of rules whose second could never match.
    pub fn new(mut routes: Vec<Route>) -> Result<Self, Vec<Conflict>> {
        for (index, route) in routes.iter_mut().enumerate() {
            route.index = index;
        }
        let mut table = Self { routes: Vec::new(), nodes: vec![Node::default()] };
        let mut conflicts = Vec::new();
        for (index, route) in routes.iter().enumerate() {
            let slot = table.slot(&route.pattern);
            for other in slot.iter() {
                let Some(earlier) = routes.get(*other) else { continue };
                // A rule for all methods and one for some may share a pattern: the latter wins.
                let same = match (earlier.methods.is_empty(), route.methods.is_empty()) {
                    (true, true) => true,
                    (false, false) => route.methods.iter().any(|m| earlier.methods.contains(m)),
                    _ => false,
                };
                if same {
                    conflicts.push(Conflict { first: *other, second: index });
                }
            }
            slot.push(index);
        }
        table.routes = routes;
        if conflicts.is_empty() { Ok(table) } else { Err(conflicts) }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Route> {
        self.routes.iter()
    }

    /// Replaces the upstream of every rule with the one that `place` returns.
    ///
    /// # Errors
    /// Those of `place`. Some rules may have changed by then.
    pub fn move_upstreams<E>(
        &mut self,
        place: impl Fn(usize) -> Result<usize, E>,
    ) -> Result<(), E> {
        for route in &mut self.routes {
            route.upstream = place(route.upstream)?;
        }
        Ok(())
    }

    pub fn len(&self) -> usize {
        self.routes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// The list of rules at the place of `pattern`, created if it does not exist.
    fn slot(&mut self, pattern: &Pattern) -> &mut Vec<usize> {
        let mut at = 0;
        for segment in &pattern.segments {
            let fresh = self.nodes.len();
            let Some(node) = self.nodes.get_mut(at) else { break };
            at = match segment {
                Segment::Param => *node.param.get_or_insert(fresh),
                Segment::Literal { decoded, written } => {
                    let i = match node.literals.binary_search_by(|l| l.decoded.cmp(decoded)) {
                        Ok(i) => i,
                        Err(i) => {
                            let (decoded, spellings) = (decoded.clone(), Vec::new());
                            let folded = loose::fold(&decoded).into();
                            let literal = Literal { decoded, folded, spellings, next: fresh };
                            node.literals.insert(i, literal);
                            i
                        }
                    };
                    let Some(literal) = node.literals.get_mut(i) else { break };
                    if !literal.spellings.contains(written) {
                        literal.spellings.push(written.clone());
                    }
                    literal.next
                }
            };
            if at == fresh {
                self.nodes.push(Node::default());
            }
        }
        if self.nodes.len() <= at {
            self.nodes.resize_with(at + 1, Node::default);
        }
        #[expect(clippy::indexing_slicing, reason = "resized to hold `at` just above")]
        let node = &mut self.nodes[at];
        if pattern.rest { &mut node.rests } else { &mut node.ends }
    }
}
