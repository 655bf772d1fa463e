//! Route rules: method + path pattern → access. The most specific match wins; no match refuses.

use std::fmt;

use http::Method;

use super::key::Permission;
use super::path::{self, Traits};

/// One rule of the configuration.
#[derive(Clone, Debug)]
pub struct Route {
    /// Position in the table; set by [`RouteTable::new`].
    pub index: usize,
    /// Name in logs and metric labels; unique.
    pub id: Box<str>,
    pub pattern: Pattern,
    /// Empty: every method.
    pub methods: Vec<Method>,
    pub access: Access,
    pub mode: Mode,
    /// What its paths may contain beyond the strict default.
    pub allow: Traits,
    /// Most bytes of a request body; `None`: no bound.
    pub body_limit: Option<u64>,
    /// `Upgrade` tokens that are passed on, lower-case. Empty: none.
    pub upgrades: Vec<Box<str>>,
    /// A CORS preflight for this rule passes without a key.
    pub preflight: bool,
    /// Refusal profile by name; `None`: the default one.
    pub profile: Option<Box<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// A key of ours with the permissions.
    Key(Needs),
    /// Like `Key` for a credential of ours; anything else is forwarded as anonymous.
    KeyOrPass(Needs),
    /// No credential looked at.
    Public,
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

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    #[default]
    Enforce,
    /// Decide and record, but forward as anonymous what would be refused. The credential is removed
    /// and limits are charged all the same: docs/config.md says whom that breaks.
    Observe,
}

/// `/a/{b}/c`, or `/a/*` for `/a` and all below it. Literals are compared after percent-decoding,
/// case-sensitively. A trailing slash of the request does not matter.
#[derive(Clone, PartialEq, Eq)]
pub struct Pattern {
    text: Box<str>,
    segments: Vec<Segment>,
    rest: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Literal(Box<[u8]>),
    Param,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// `:name`, as Express, Rails and Gin write a parameter. As a literal it would match nothing
    /// that anybody sends, and the request would fall to a wider rule.
    #[error("`:name` is no parameter here")]
    Colon,
    /// `<name>`, `[name]`, `(\\d+)`, `.+`, `^…$`: parameters and expressions of others.
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
    /// Index of the rule that could never be reached.
    pub second: usize,
}

/// All rules, compiled to one tree of segments.
#[derive(Debug, Default)]
pub struct RouteTable {
    routes: Vec<Route>,
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    /// Sorted by literal.
    literals: Vec<(Box<[u8]>, usize)>,
    param: Option<usize>,
    /// Rules that end here.
    ends: Vec<usize>,
    /// Rules with `*` here.
    rests: Vec<usize>,
}

/// The result of a look-up.
#[derive(Clone, Debug)]
pub enum FoundRoute<'t> {
    Route(&'t Route),
    /// Rules exist for this path, none for this method. Holds the methods that have one.
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
            Self::Key(needs) | Self::KeyOrPass(needs) => Some(needs),
            Self::Public => None,
        }
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

    /// Whether `path` is under this pattern, by itself: another one may be more specific.
    pub fn matches(&self, path: &str) -> bool {
        let mut parts = path.strip_prefix('/').unwrap_or(path).split('/').peekable();
        let is_end = |part: Option<&&str>| part.is_none_or(|p| p.is_empty());
        for segment in &self.segments {
            let Some(part) = parts.next() else { return false };
            let fits = match segment {
                Segment::Param => !part.is_empty(),
                Segment::Literal(text) => **text == *path::decode(part.as_bytes()),
            };
            if !fits {
                return false;
            }
        }
        self.rest || (is_end(parts.next().as_ref()) && parts.next().is_none())
    }

    /// Orders patterns that match one path as [`RouteTable::find`] does: the greater one wins.
    pub fn specificity(&self) -> Vec<u8> {
        let segment = |segment: &Segment| match segment {
            Segment::Param => 1,
            Segment::Literal(_) => 2,
        };
        let end = if self.rest { 0 } else { 3 };
        self.segments.iter().map(segment).chain([end]).collect()
    }

    /// Whether both match the same paths.
    pub fn is_same(&self, other: &Self) -> bool {
        self.segments == other.segments && self.rest == other.rest
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

/// Whether another router would read more into a segment than its letters.
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
            Ok(_) if !part.is_empty() => Ok(Self::Literal(path::decode(part.as_bytes()).into())),
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
    /// A rule on GET answers HEAD as well, unless another rule names HEAD (RFC 9110 §9.3.2).
    fn serves(&self, method: &Method) -> bool {
        self.methods.is_empty() || self.methods.contains(method)
    }
}

// === impl RouteTable ===

impl RouteTable {
    /// Every pair of rules of which the second could never match is reported.
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

    pub fn len(&self) -> usize {
        self.routes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// The rule for `method` on `path`, which [`path::scan`] has accepted.
    ///
    /// At each segment a literal beats a parameter, and both beat `*`; on one pattern a rule that
    /// names the method beats one for all.
    pub fn find(&self, method: &Method, path: &str) -> FoundRoute<'_> {
        let mut others = Vec::new();
        let rest = path.strip_prefix('/').unwrap_or(path).as_bytes();
        match self.walk(0, Some(rest), method, &mut others) {
            Some(route) => FoundRoute::Route(route),
            None if others.is_empty() => FoundRoute::Nothing,
            None => {
                let mut methods: Vec<&Method> = others.iter().flat_map(|r| &r.methods).collect();
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
        method: &Method,
        others: &mut Vec<&'t Route>,
    ) -> Option<&'t Route> {
        let node = self.nodes.get(node)?;
        let Some(rest) = rest.filter(|r| !r.is_empty()) else {
            return self
                .pick(&node.ends, method, others)
                .or_else(|| self.pick(&node.rests, method, others));
        };
        let (raw, tail) = match rest.iter().position(|b| *b == b'/') {
            Some(at) => (rest.get(..at).unwrap_or_default(), rest.get(at + 1..)),
            None => (rest, None),
        };
        let literal = if raw.contains(&b'%') {
            find_literal(&node.literals, &path::decode(raw))
        } else {
            find_literal(&node.literals, raw)
        };
        literal
            .and_then(|next| self.walk(next, tail, method, others))
            .or_else(|| node.param.and_then(|next| self.walk(next, tail, method, others)))
            .or_else(|| self.pick(&node.rests, method, others))
    }

    fn pick<'t>(
        &'t self,
        candidates: &[usize],
        method: &Method,
        others: &mut Vec<&'t Route>,
    ) -> Option<&'t Route> {
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
            others.extend(routes());
        }
        found
    }

    /// The list of rules at the place of `pattern`, made when it is not there.
    fn slot(&mut self, pattern: &Pattern) -> &mut Vec<usize> {
        let mut at = 0;
        for segment in &pattern.segments {
            let fresh = self.nodes.len();
            let Some(node) = self.nodes.get_mut(at) else { break };
            at = match segment {
                Segment::Param => *node.param.get_or_insert(fresh),
                Segment::Literal(text) => {
                    match node.literals.binary_search_by(|(known, _)| known.cmp(text)) {
                        Ok(i) => node.literals.get(i).map_or(fresh, |(_, next)| *next),
                        Err(i) => {
                            node.literals.insert(i, (text.clone(), fresh));
                            fresh
                        }
                    }
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

fn find_literal(literals: &[(Box<[u8]>, usize)], wanted: &[u8]) -> Option<usize> {
    let at = literals.binary_search_by(|(known, _)| known.as_ref().cmp(wanted)).ok()?;
    literals.get(at).map(|(_, next)| *next)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(id: &str, methods: &[&str], pattern: &str) -> Route {
        Route {
            index: 0,
            id: id.into(),
            pattern: Pattern::parse(pattern).unwrap(),
            methods: methods.iter().map(|m| m.parse().unwrap()).collect(),
            access: Access::Public,
            mode: Mode::Enforce,
            allow: Traits::default(),
            body_limit: None,
            upgrades: Vec::new(),
            preflight: false,
            profile: None,
        }
    }

    fn table() -> RouteTable {
        RouteTable::new(vec![
            route("all", &[], "/*"),
            route("api", &[], "/api/*"),
            route("list", &["GET"], "/api/items"),
            route("one", &["GET", "DELETE"], "/api/items/{id}"),
            route("special", &["GET"], "/api/items/special"),
            route("deep", &["POST"], "/api/{kind}/x/y"),
            route("me", &["GET"], "/users/@me"),
        ])
        .unwrap()
    }

    #[test]
    fn most_specific_wins() {
        let cases = [
            ("GET", "/", "all"),
            ("GET", "/api", "api"),
            ("GET", "/api/", "api"),
            ("GET", "/api/items", "list"),
            ("GET", "/api/items/", "list"),
            ("HEAD", "/api/items", "list"),
            ("POST", "/api/items", "api"),
            ("GET", "/api/items/7", "one"),
            ("DELETE", "/api/items/special", "one"),
            ("GET", "/api/items/special", "special"),
            ("GET", "/api/items/7/8", "api"),
            ("POST", "/api/items/x/y", "deep"),
            ("GET", "/users/%40me", "me"),
            ("GET", "/Api/items", "all"),
        ];
        let table = table();
        for (method, path, want) in cases {
            match table.find(&method.parse().unwrap(), path) {
                FoundRoute::Route(r) => assert_eq!(&*r.id, want, "{method} {path}"),
                other => panic!("{method} {path}: {other:?}"),
            }
        }
    }

    #[test]
    fn default_deny_and_other_methods() {
        let table =
            RouteTable::new(vec![route("a", &["GET"], "/a"), route("b", &["PUT"], "/a/{x}")])
                .unwrap();
        assert!(matches!(table.find(&Method::GET, "/b"), FoundRoute::Nothing));
        match table.find(&Method::POST, "/a") {
            FoundRoute::OtherMethods(m) => assert_eq!(m, [&Method::GET]),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn conflicts() {
        let clash = RouteTable::new(vec![
            route("a", &["GET"], "/a/{x}"),
            route("b", &["GET", "PUT"], "/a/{y}/"),
            route("c", &[], "/a/{z}"),
        ]);
        assert_eq!(clash.unwrap_err(), [Conflict { first: 0, second: 1 }]);
    }

    #[test]
    fn patterns() {
        assert_eq!(Pattern::parse("a"), Err(PatternError::NotAbsolute));
        assert_eq!(Pattern::parse("/a*"), Err(PatternError::Star));
        assert_eq!(Pattern::parse("/*/a"), Err(PatternError::Star));
        assert_eq!(Pattern::parse("/{a"), Err(PatternError::Param));
        assert_eq!(Pattern::parse("/a//b"), Err(PatternError::Unsafe));
        assert_eq!(Pattern::parse("/../b"), Err(PatternError::Unsafe));
    }

    /// What means a parameter elsewhere is not taken for a literal that nobody ever sends.
    #[test]
    fn patterns_of_other_routers() {
        use PatternError::{Colon, Expression, Param, Star, Unsafe};
        for (text, want) in [
            ("/a/:id", Colon),
            ("/a/:id?", Colon),
            ("/:from-:to", Colon),
            ("/a/*rest", Star),
            ("/a/**", Star),
            ("/a/.*", Star),
            ("/a/:path*", Star),
            ("/a/<id>", Expression),
            ("/a/<int:id>", Expression),
            ("/a/[id]", Expression),
            ("/a/[...slug]", Expression),
            (r"/a/(\d+)", Expression),
            ("/a/([0-9]+)", Expression),
            ("/a/(.+)", Expression),
            ("/a/.+", Expression),
            ("/^a", Expression),
            ("/a$", Expression),
            ("/a|b", Expression),
            ("/a/{id:int}", Param),
            ("/a/{id}.json", Param),
            ("/a/{*rest}", Param),
            ("/a/{rest...}", Param),
            ("/a/{id?}", Param),
            ("/a/{}", Param),
            ("/a?b=c", Unsafe),
        ] {
            assert_eq!(Pattern::parse(text), Err(want), "{text}");
            assert!(!want.hint().is_empty());
        }
        // These are literals to everybody, or say that they are.
        for text in
            ["/v1/things:cancel", "/a/%3Aid", "/Products('1')", "/$metadata", "/a+b", "/@me"]
        {
            assert!(Pattern::parse(text).is_ok(), "{text}");
        }
    }
}
