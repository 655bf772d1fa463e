//! Rules and the paths that lead to them.

use proptest::prelude::*;

use super::*;

fn route(id: &str, methods: &[&str], pattern: &str) -> Route {
    Route {
        index: 0,
        id: id.into(),
        pattern: Pattern::parse(pattern).unwrap(),
        methods: methods.iter().map(|m| m.parse().unwrap()).collect(),
        access: Access::Public,
        allow: Traits::default(),
        body_limit: None,
        upgrades: Vec::new(),
        preflight: false,
        profile: None,
        class: None,
        cost: 1,
        upstream: 0,
    }
}

fn found<'t>(
    table: &'t RouteTable,
    method: &str,
    path: &str,
) -> Result<FoundRoute<'t>, path::BadPath> {
    let traits = path::scan(path.as_bytes())?;
    table.find(&method.parse().unwrap(), path, traits)
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
        ("GET", "/users/@me", "me"),
        ("GET", "/Api/items", "all"),
    ];
    let table = table();
    for (method, path, want) in cases {
        match found(&table, method, path) {
            Ok(FoundRoute::Route(r)) => assert_eq!(&*r.id, want, "{method} {path}"),
            other => panic!("{method} {path}: {other:?}"),
        }
    }
}

#[test]
fn default_deny_and_other_methods() {
    let table =
        RouteTable::new(vec![route("a", &["GET"], "/a"), route("b", &["PUT"], "/a/{x}")]).unwrap();
    assert!(matches!(found(&table, "GET", "/b"), Ok(FoundRoute::Nothing)));
    match found(&table, "POST", "/a") {
        Ok(FoundRoute::OtherMethods(m)) => assert_eq!(m, [&Method::GET]),
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
    assert_eq!(Pattern::parse("/a%2Db"), Err(PatternError::Unsafe));
    assert_eq!(Pattern::parse("/%61"), Err(PatternError::Unsafe));
    assert!(Pattern::parse("/a%20b").is_ok());
}

/// The parameter syntax of other routers is not accepted as a literal that nobody ever sends.
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
    // These are literals to every router, or state that they are.
    for text in ["/v1/things:cancel", "/a/%3Aid", "/Products('1')", "/$metadata", "/a+b", "/@me"] {
        assert!(Pattern::parse(text).is_ok(), "{text}");
    }
}

/// A path that can be read in two ways passes where both lead to one rule, and nowhere else.
#[test]
fn readings_that_agree() {
    let rules =
        |rules: &[&str]| RouteTable::new(rules.iter().map(|r| route(r, &[], r)).collect()).unwrap();
    for (patterns, path, want) in [
        (&["/v1/{id}"][..], "/v1/a%2Db", Some("/v1/{id}")),
        (&["/v1/{id}"], "/v1/%7Ea%5Fb%2Ec", Some("/v1/{id}")),
        (&["/v1/a-b", "/v1/{id}"], "/v1/a%2Db", None),
        (&["/v1/a-b", "/v1/{id}"], "/v1/a-b", Some("/v1/a-b")),
        (&["/v1/a-b", "/v1/{id}"], "/v1/a%2Dc", Some("/v1/{id}")),
        (&["/v1/a-b"], "/v1/a%2Db", None),
        (&["/v1/*"], "/v1/a%2Db/c", Some("/v1/*")),
        // Other characters can also be read in two ways.
        (&["/*", "/users/@me"], "/users/%40me", None),
        (&["/*", "/users/%40me"], "/users/%40me", Some("/users/%40me")),
        (&["/*", "/users/%40me"], "/users/@me", Some("/users/%40me")),
        (&["/caf%C3%A9", "/*"], "/caf%C3%A9", Some("/caf%C3%A9")),
        (&["/caf%C3%A9", "/*"], "/caf%c3%a9", None),
        (&["/a%20b"], "/a%20b", Some("/a%20b")),
        (&["/{x}/c"], "/a%20b/c", Some("/{x}/c")),
        // With slashes kept and with slashes merged.
        (&["/v1/*"], "/v1//a", Some("/v1/*")),
        (&["/v1/*"], "/v1/a//", Some("/v1/*")),
        (&["/v1/{id}"], "/v1//a", None),
        (&["/v1/{id}"], "/v1//", None),
        (&["/v1/{id}", "/v1/*"], "/v1//a", None),
        (&["/v1/{id}", "/v1/*"], "/v1//a/b", Some("/v1/*")),
        (&["/v1/a", "/v1/*"], "/v1//a", None),
        (&["/v1/{a}/{b}/{c}", "/*"], "/v1/x//y", Some("/*")),
        (&["/v1/{a}/{b}", "/*"], "/v1/x//y", None),
        (&["/v1/{a}/{b}", "/*"], "/v1//x", Some("/*")),
        (&["/a/b-c/*", "/a/*"], "/a//b%2Dc", None),
        (&["/a/b-c", "/a/*"], "/a/b%2Dc", None),
    ] {
        let table = rules(patterns);
        let found = found(&table, "GET", path);
        let name = match &found {
            Ok(FoundRoute::Route(route)) => Some(&*route.id),
            Ok(_) | Err(_) => None,
        };
        assert_eq!(name, want, "{patterns:?} {path}: {found:?}");
    }
    // A path without escapes and empty segments has one reading, and finding no rule is not an
    // error.
    assert!(matches!(found(&rules(&["/a"]), "GET", "/b"), Ok(FoundRoute::Nothing)));
    assert!(matches!(found(&rules(&["/a"]), "GET", "/%20"), Ok(FoundRoute::Nothing)));
}

/// Another kind of server: which escapes of a segment it decodes, and how it treats `//`.
#[derive(Clone, Debug)]
struct Server {
    decodes: Vec<u8>,
    merges: bool,
}

impl Server {
    /// The segments that it routes on. Escapes that it does not decode stay as they are.
    fn read(&self, path: &str) -> Vec<String> {
        let mut parts: Vec<&str> = path[1..].split('/').collect();
        // A trailing slash does not matter.
        if parts.last() == Some(&"") {
            parts.pop();
        }
        if self.merges {
            parts.retain(|p| !p.is_empty());
        }
        let decode = |part: &str| {
            let mut out = String::new();
            let mut rest = part;
            while let Some((before, after)) = rest.split_once('%') {
                let byte = u8::from_str_radix(&after[..2], 16).unwrap();
                out.push_str(before);
                match self.decodes.contains(&byte) {
                    true => out.push(char::from(byte)),
                    false => out.push_str(&format!("%{}", &after[..2])),
                }
                rest = &after[2..];
            }
            out + rest
        };
        parts.into_iter().map(decode).collect()
    }

    /// The rule that it would use: the most specific of all that match.
    fn route<'t>(&self, table: &'t RouteTable, path: &str) -> Option<&'t Route> {
        let parts = self.read(path);
        let fits = |route: &&Route| {
            let pattern = route.pattern.as_str();
            let (text, rest) = match pattern.strip_suffix("/*") {
                Some(text) => (text, true),
                None => (pattern, false),
            };
            let wanted: Vec<&str> = text.split('/').skip(1).collect();
            let long = parts.len() == wanted.len() || rest && parts.len() > wanted.len();
            let same = |(wanted, part): (&&str, &String)| {
                if wanted.starts_with('{') { !part.is_empty() } else { wanted == part }
            };
            long && wanted.iter().zip(&parts).all(same)
        };
        table.iter().filter(fits).max_by_key(|route| route.pattern.specificity())
    }
}

proptest! {
    /// However a server decodes and merges: where we find a rule, it finds the same one.
    #[test]
    fn every_reading_gives_the_rule_that_was_judged(
        patterns in prop::collection::hash_set("(/(a|a-|@|-|[.]a|\\{x\\})){1,3}(/[*])?", 1..6),
        path in "(/(a|a-|@|-|[.]a|a%2D|%2d|%40|%2Ea|a%2d|%20|)){1,4}/?",
        decodes in prop::sample::subsequence(b"-.@ ".to_vec(), 0..=4),
        merges: bool,
    ) {
        let Ok(table) = RouteTable::new(patterns.iter().map(|p| route(p, &[], p)).collect()) else {
            return Ok(());
        };
        if let Ok(traits) = path::scan(path.as_bytes())
            && let Ok(found) = table.find(&Method::GET, &path, traits)
        {
            let ours = match found {
                FoundRoute::Route(route) => Some(&*route.id),
                _ => None,
            };
            let theirs = Server { decodes, merges }.route(&table, &path).map(|r| &*r.id);
            prop_assert_eq!(ours, theirs, "{:?} {}", patterns, path);
        }
    }
}
