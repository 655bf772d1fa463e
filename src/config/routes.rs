//! `[[routes]]`: which requests need what.

use std::collections::HashMap;

use http::{HeaderName, Method};

use super::fault::ConfigProblem;
use super::raw::{ConfigPlace, pick};
use super::section::ConfigSection;
use super::upstream::{UpstreamSection, index_of};
use super::{refusals, units};
use crate::core::key::NameError;
use crate::core::path::Traits;
use crate::core::refusal::Refusals;
use crate::core::route::{Access, Needs, Pattern, Require};
use crate::core::{Permission, PolicyName, Route, RouteTable};

/// A rule with the place that messages show for it.
pub(super) struct Rule {
    route: Route,
    place: ConfigPlace,
    class: ConfigPlace,
    cost: ConfigPlace,
}

pub(super) fn needs_key(rule: &Rule) -> bool {
    rule.route.access.takes_keys()
}

// === impl Rule ===

impl Rule {
    pub(super) fn access(&self) -> &Access {
        &self.route.access
    }

    pub(super) fn place(&self) -> &ConfigPlace {
        &self.place
    }

    pub(super) fn route(&self) -> &Route {
        &self.route
    }

    /// The place of what the rule says about its limits. `cost` is the key of the file.
    pub(super) fn cost_place(&self) -> &ConfigPlace {
        &self.cost
    }

    pub(super) fn class_place(&self) -> &ConfigPlace {
        &self.class
    }
}

pub(super) fn rules(
    root: &ConfigSection<'_>,
    refusals: &Refusals,
    upstreams: &[UpstreamSection<'_>],
) -> Vec<Rule> {
    let sections = root.sections("routes");
    if sections.is_empty() {
        let problem =
            ConfigProblem::new("is missing: without a rule every request would be refused");
        root.fault(
            "routes",
            problem.hint(
                "put at the top of the file: routes = [{ path = \"/*\" }], which lets every valid \
                 key in",
            ),
        );
    }
    let mut rules: Vec<Rule> = Vec::new();
    let mut ids: HashMap<Box<str>, ConfigPlace> = HashMap::new();
    for section in &sections {
        let Some(route) = route(section, refusals, upstreams) else { continue };
        let place = section.place_of("path");
        let at = if section.has("id") { section.place_of("id") } else { place.clone() };
        if let Some(other) = ids.get(&route.id) {
            let line = root.reader().line(other);
            let problem =
                ConfigProblem::new(format!("route `{}` is there already (line {line})", route.id));
            root.reader().fault(&at, problem.hint("ids name routes in logs and metrics"));
        } else {
            ids.insert(route.id.clone(), at);
        }
        let (class, cost) = (section.place_of("class"), section.place_of("cost"));
        rules.push(Rule { route, place, class, cost });
    }
    rules
}

fn route(
    section: &ConfigSection<'_>,
    known: &Refusals,
    upstreams: &[UpstreamSection<'_>],
) -> Option<Route> {
    if !section.has("path") {
        section.missing("path", "for example path = \"/api/v1/items/{id}\" or path = \"/*\"");
    }
    let pattern = section.parse("path", |text| {
        Pattern::parse(text).map_err(|e| ConfigProblem::from(e).hint(e.hint()))
    });
    let methods = section.parse_list("methods", method);
    if section.has("methods") && section.texts("methods").is_empty() {
        let problem = ConfigProblem::new("is empty").hint("leave it out to take every method");
        section.fault("methods", problem);
    }
    let access = access(section);
    let id = section.parse("id", |text| {
        let ok = (1..=128).contains(&text.len()) && !text.chars().any(char::is_control);
        match (ok, text) {
            (true, "none") => {
                let problem = ConfigProblem::new("stands for requests without a rule");
                Err(problem.hint("give the rule another id"))
            }
            (true, _) => Ok(Box::<str>::from(text)),
            (false, _) => Err(ConfigProblem::new("must be 1 to 128 characters")),
        }
    });
    let profile = section.parse("profile", |text| match known.has_profile(text) {
        true => Ok(Box::<str>::from(text)),
        false => Err(refusals::unknown_profile(known)),
    });
    section.refuse(
        "mode",
        "is gone: it removed credentials, enforced limits and so broke what it observed",
        "leave it out to enforce; to observe this rule, write its id under [observe]: \
         routes = [\"ID\"]",
    );
    let allow = Traits {
        double_encoding: section.flag("allow_double_encoding"),
        empty_segment: section.flag("allow_empty_segment"),
        encoded: true,
        encoded_slash: section.flag("allow_encoded_slash"),
        semicolon: section.flag("allow_semicolon"),
    };
    let body_limit = section.parse("body_limit", units::size);
    let upgrades = section.parse_list("upgrade", upgrade);
    let preflight = section.flag("preflight");
    let class = section.parse("class", class);
    let upstream = section.parse("upstream", |text| index_of(text, upstreams));
    let cost = section.integer("cost", 1, 0..=u64::from(Route::MAX_COST)) as u32;
    if access.as_ref().is_some_and(|access| *access == Access::Public) {
        for key in ["class", "cost"].into_iter().filter(|key| section.has(key)) {
            let problem = ConfigProblem::new("a public route looks at no key, and charges none");
            section.fault(key, problem.hint("remove it, or set access = \"key\""));
        }
    }
    let pattern = pattern?;
    let id = id.unwrap_or_else(|| {
        let words: Vec<_> = methods.iter().map(Method::as_str).collect();
        match words.is_empty() {
            true => pattern.as_str().into(),
            false => format!("{} {}", words.join(","), pattern.as_str()).into(),
        }
    });
    Some(Route {
        index: 0,
        id,
        pattern,
        methods,
        access: access?,
        allow,
        body_limit,
        upgrades,
        preflight,
        profile,
        class,
        cost,
        upstream: upstream.unwrap_or_default(),
    })
}

/// The name of a group of routes, as in `routes.class` and `policies.classes`.
pub(super) fn class(text: &str) -> Result<Box<str>, ConfigProblem> {
    match PolicyName::is_valid(text.as_bytes()) {
        true => Ok(text.into()),
        false => Err(ConfigProblem::new("must be 1 to 64 of `a` to `z`, `0` to `9`, `-` and `_`")),
    }
}

fn method(text: &str) -> Result<Method, ConfigProblem> {
    if matches!(text, "CONNECT" | "TRACE" | "TRACK") {
        return Err(ConfigProblem::new("is never forwarded"));
    }
    let upper = text.to_ascii_uppercase();
    if upper != text {
        return Err(
            ConfigProblem::new("methods are case-sensitive").hint(format!("write {upper:?}"))
        );
    }
    Method::from_bytes(text.as_bytes()).map_err(|_| ConfigProblem::new("is not a method"))
}

fn upgrade(text: &str) -> Result<Box<str>, ConfigProblem> {
    let lower = text.to_ascii_lowercase();
    if matches!(lower.as_str(), "h2c" | "tls") || lower.starts_with("http/") {
        return Err(ConfigProblem::new("would tunnel past the rules"));
    }
    match HeaderName::from_bytes(lower.as_bytes()) {
        Ok(_) => Ok(lower.into()),
        Err(_) => Err(ConfigProblem::new("is not a protocol such as \"websocket\"")),
    }
}

#[derive(Clone, Copy)]
enum RouteGate {
    Key,
    KeyOrPass,
    KeyOrToken,
    Public,
    Token,
}

fn access(section: &ConfigSection<'_>) -> Option<Access> {
    let gate = match section.has("access") {
        false => {
            section.ask("access");
            Some(RouteGate::Key)
        }
        true => section.parse("access", |text| {
            let words = [
                ("key", RouteGate::Key),
                ("key-or-pass", RouteGate::KeyOrPass),
                ("key-or-token", RouteGate::KeyOrToken),
                ("public", RouteGate::Public),
                ("token", RouteGate::Token),
            ];
            pick(text, &words)
        }),
    };
    let permissions = section.parse_list("permissions", |text| match text {
        Permission::ALL => {
            Err(ConfigProblem::new("`*` is what a key may hold, not what a route requires")
                .hint("leave permissions out to let every valid key in"))
        }
        text => Permission::parse(text).map_err(|e: NameError| ConfigProblem::from(e)),
    });
    let require =
        section.choice("require", Require::All, &[("all", Require::All), ("any", Require::Any)]);
    let needs = Needs { permissions: permissions.into(), require };
    match gate? {
        RouteGate::Key => Some(Access::Key(needs)),
        RouteGate::KeyOrPass => Some(Access::KeyOrPass(needs)),
        RouteGate::KeyOrToken => Some(Access::KeyOrToken(needs)),
        RouteGate::Token => Some(Access::Token(needs)),
        RouteGate::Public => {
            if !needs.permissions.is_empty() {
                let problem = ConfigProblem::new("a public route looks at no key");
                section.fault("permissions", problem.hint("remove it, or set access = \"key\""));
            }
            Some(Access::Public)
        }
    }
}

/// Rules that can never match are reported with the rule that hides them.
pub(super) fn table(root: &ConfigSection<'_>, rules: Vec<Rule>) -> Option<RouteTable> {
    let places: Vec<(Box<str>, ConfigPlace)> =
        rules.iter().map(|r| (r.route.id.clone(), r.place.clone())).collect();
    match RouteTable::new(rules.into_iter().map(|r| r.route).collect()) {
        Ok(table) => Some(table),
        Err(conflicts) => {
            for conflict in conflicts {
                let (Some((first, there)), Some((second, here))) =
                    (places.get(conflict.first), places.get(conflict.second))
                else {
                    continue;
                };
                let line = root.reader().line(there);
                root.reader().fault(
                    here,
                    ConfigProblem::new(format!(
                        "route `{second}` is shadowed: `{first}` (line {line}) matches the same \
                         requests"
                    ))
                    .hint("merge the two, or give them different methods or paths"),
                );
            }
            None
        }
    }
}
