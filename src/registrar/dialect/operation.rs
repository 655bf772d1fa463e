//! A compiled dialect: the URLs that it answers, what each of them does to a key, and in which
//! form. Imports its own skeletons and codes, core, and names of the store.

use std::fmt;
use std::time::Duration;

use http::Method;

use super::code::{DialectError, DialectMessages};
use super::map::{ErrorValues, RequestSkeleton, Skeleton};
use crate::core::Permission;
use crate::registrar::store::AudienceName;

/// The documented endpoints of one product.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dialect {
    pub name: Box<str>,
    /// The audience whose keys they are.
    pub audience: AudienceName,
    pub error: Skeleton,
    pub messages: DialectMessages,
    pub operations: Vec<DialectOperation>,
}

/// What a group of URLs does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DialectOperation {
    pub verb: DialectVerb,
    /// At least one.
    pub routes: Vec<DialectRoute>,
    /// For an answer: 200 to 299.
    pub status: u16,
    pub answer: Skeleton,
    /// One key of a list; only for [`DialectVerb::List`].
    pub key: Option<Skeleton>,
    pub request: RequestSkeleton,
    /// The permissions of a new key whose request does not name any.
    pub grants: Vec<Permission>,
    /// How long the old secret stays valid after a rotation.
    pub overlap: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialectVerb {
    Create,
    Get,
    List,
    Revoke,
    Rotate,
    Update,
}

/// A method and a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DialectRoute {
    pub method: Method,
    pub segments: Vec<RouteSegment>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteSegment {
    /// `{id}`: the key, by its id or UUID.
    Key,
    Literal(Box<str>),
    /// `{org}`: must be the caller's.
    Org,
}

/// Why a text is not a route.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteFault {
    #[error("`{0}` is not a method and a path")]
    Form(Box<str>),
    #[error("`{method}` cannot {verb}")]
    Method { method: Method, verb: DialectVerb },
    #[error("`{0}` is no parameter")]
    Parameter(Box<str>),
    #[error("`{0}` is there twice")]
    Twice(&'static str),
    #[error("has no {{id}}: which key is meant?")]
    NoKey,
    #[error("has {{id}}, and what it does is about no single key")]
    KeyOfNone,
    #[error("`/{0}` is of the service itself")]
    Taken(Box<str>),
}

/// The words of a request's path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathWords<'p> {
    pub key: Option<&'p str>,
    pub org: Option<&'p str>,
}

// === impl Dialect ===

impl Dialect {
    /// The body of an answer about an error.
    pub fn refuse(&self, error: &DialectError, request_id: &str) -> String {
        let message = self.messages.of(error);
        self.error.of_error(ErrorValues { code: error.code, message, request_id })
    }
}

// === impl DialectVerb ===

impl DialectVerb {
    pub const ALL: [Self; 6] =
        [Self::Create, Self::Get, Self::List, Self::Revoke, Self::Rotate, Self::Update];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Get => "get",
            Self::List => "list",
            Self::Revoke => "revoke",
            Self::Rotate => "rotate",
            Self::Update => "update",
        }
    }

    /// A GET changes nothing: browsers, previews and caches send it unasked.
    pub const fn methods(self) -> &'static [&'static str] {
        match self {
            Self::Get | Self::List => &["GET"],
            Self::Create | Self::Rotate => &["POST", "PUT"],
            Self::Revoke => &["DELETE", "POST"],
            Self::Update => &["PUT", "PATCH", "POST"],
        }
    }

    /// Whether it is about one existing key.
    pub const fn is_of_key(self) -> bool {
        !matches!(self, Self::Create | Self::List)
    }
}

impl fmt::Display for DialectVerb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl DialectRoute ===

impl DialectRoute {
    /// First segments of paths that the service uses itself: a router that gets a path twice ends
    /// the program.
    pub const TAKEN: [&'static str; 22] = [
        "artefacts",
        "audit",
        "embed",
        "findings",
        "healthz",
        "in-force",
        "keys",
        "mark.svg",
        "members",
        "metrics",
        "page.css",
        "page.js",
        "policy",
        "publication",
        "session",
        "sessions",
        "sign-in",
        "sign-in.js",
        "sign-out",
        "signers",
        "usage",
        "v1",
    ];

    /// Reads `GET /api/keys/{id}`.
    ///
    /// # Errors
    ///
    /// See [`RouteFault`].
    pub fn parse(text: &str, verb: DialectVerb) -> Result<Self, RouteFault> {
        let form = || RouteFault::Form(text.into());
        let (method, path) = text.split_once(' ').ok_or_else(form)?;
        let method: Method = method.parse().map_err(|_| form())?;
        let path = path.strip_prefix('/').ok_or_else(form)?;
        if path.is_empty() {
            return Err(RouteFault::Taken("".into()));
        }
        let segments = path.split('/').map(|segment| match segment {
            "{id}" => Ok(RouteSegment::Key),
            "{org}" => Ok(RouteSegment::Org),
            "" | "." | ".." => Err(form()),
            text if text.contains(['{', '}', ':', '*']) => Err(RouteFault::Parameter(text.into())),
            text => {
                let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
                let literal = RouteSegment::Literal(text.into());
                if text.bytes().all(is_plain) { Ok(literal) } else { Err(form()) }
            }
        });
        let segments = segments.collect::<Result<Vec<_>, _>>()?;
        let count = |segment| segments.iter().filter(|other| **other == segment).count();
        let (keys, orgs) = (count(RouteSegment::Key), count(RouteSegment::Org));
        if !verb.methods().contains(&method.as_str()) {
            return Err(RouteFault::Method { method, verb });
        }
        match (keys, orgs) {
            (2.., _) => Err(RouteFault::Twice("{id}")),
            (_, 2..) => Err(RouteFault::Twice("{org}")),
            (0, _) if verb.is_of_key() => Err(RouteFault::NoKey),
            (1, _) if !verb.is_of_key() => Err(RouteFault::KeyOfNone),
            _ => match segments.first() {
                Some(RouteSegment::Literal(first)) if Self::TAKEN.contains(&&**first) => {
                    Err(RouteFault::Taken(first.clone()))
                }
                Some(RouteSegment::Literal(_)) => Ok(Self { method, segments }),
                // It would match every page of the service.
                _ => Err(RouteFault::Form(text.into())),
            },
        }
    }

    /// The path with its parameters numbered, as a router takes it: routes share the tree, whatever
    /// they call their parameters.
    pub fn pattern(&self) -> String {
        let segment = |(at, segment): (usize, &RouteSegment)| match segment {
            RouteSegment::Literal(text) => format!("/{text}"),
            RouteSegment::Key | RouteSegment::Org => format!("/{{p{at}}}"),
        };
        self.segments.iter().enumerate().map(segment).collect()
    }

    /// Whether a path is at or below the segments that come before the first parameter: there a
    /// client of the product expects the product's answers.
    pub fn is_above(&self, path: &str) -> bool {
        let mut below = path.split('/').skip(1);
        let mut literals = self.segments.iter().map_while(|segment| match segment {
            RouteSegment::Literal(text) => Some(&**text),
            RouteSegment::Key | RouteSegment::Org => None,
        });
        literals.all(|literal| below.next() == Some(literal))
    }

    /// The words in the path of a request that matched this route.
    pub fn words<'p>(&self, path: &'p str) -> PathWords<'p> {
        let mut words = PathWords::default();
        for (segment, text) in self.segments.iter().zip(path.split('/').skip(1)) {
            match segment {
                RouteSegment::Key => words.key = Some(text),
                RouteSegment::Org => words.org = Some(text),
                RouteSegment::Literal(_) => {}
            }
        }
        words
    }
}

/// As the configuration writes it.
impl fmt::Display for DialectRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.method)?;
        self.segments.iter().try_for_each(|segment| match segment {
            RouteSegment::Key => f.write_str("/{id}"),
            RouteSegment::Literal(text) => write!(f, "/{text}"),
            RouteSegment::Org => f.write_str("/{org}"),
        })
    }
}

// === impl RouteFault ===

impl RouteFault {
    /// A remedy.
    pub fn hint(&self) -> String {
        match self {
            Self::Form(_) => "for example on = \"DELETE /api/api-keys/{id}\"".into(),
            Self::Method { verb, .. } => {
                format!("{verb} takes {}", verb.methods().join(" or "))
            }
            Self::Parameter(_) => {
                "{id} is the key, {org} its organization, each a whole segment".into()
            }
            Self::Twice(_) => "leave one of the two".into(),
            Self::NoKey => "for example /api/api-keys/{id}".into(),
            Self::KeyOfNone => "take it out".into(),
            Self::Taken(_) => "the product's own paths belong here, such as /api/api-keys".into(),
        }
    }
}
