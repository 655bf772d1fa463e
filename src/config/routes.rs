//! `[[routes]]`: which requests need what.

use std::collections::HashMap;

use http::{HeaderName, Method};

use super::fault::Problem;
use super::raw::{Place, pick};
use super::section::Section;
use super::{refusals, units};
use crate::core::key::NameError;
use crate::core::path::Traits;
use crate::core::refusal::Refusals;
use crate::core::route::{Access, Mode, Needs, Pattern, Require};
use crate::core::{Permission, Route, RouteTable};

/// A rule with the place that messages about it name.
pub(super) struct Rule {
    route: Route,
    place: Place,
}

pub(super) fn needs_key(rule: &Rule) -> bool {
    rule.route.access != Access::Public
}

pub(super) fn rules(root: &Section<'_>, refusals: &Refusals) -> Vec<Rule> {
    let sections = root.sections("routes");
    if sections.is_empty() {
        let problem = Problem::new("is missing: without a rule every request would be refused");
        root.fault(
            "routes",
            problem.hint("begin with [[routes]] path = \"/*\", which lets every valid key in"),
        );
    }
    let mut rules: Vec<Rule> = Vec::new();
    let mut ids: HashMap<Box<str>, Place> = HashMap::new();
    for section in &sections {
        let Some(route) = route(section, refusals) else { continue };
        let place = section.place_of("path");
        let at = if section.has("id") { section.place_of("id") } else { place.clone() };
        if let Some(other) = ids.get(&route.id) {
            let line = root.reader().line(other);
            let problem =
                Problem::new(format!("route `{}` is there already (line {line})", route.id));
            root.reader().fault(&at, problem.hint("ids name routes in logs and metrics"));
        } else {
            ids.insert(route.id.clone(), at);
        }
        rules.push(Rule { route, place });
    }
    rules
}

fn route(section: &Section<'_>, known: &Refusals) -> Option<Route> {
    if !section.has("path") {
        section.missing("path", "for example path = \"/api/v1/items/{id}\" or path = \"/*\"");
    }
    let pattern = section
        .parse("path", |text| Pattern::parse(text).map_err(|e| Problem::from(e).hint(e.hint())));
    let methods = section.parse_list("methods", method);
    if section.has("methods") && section.texts("methods").is_empty() {
        let problem = Problem::new("is empty").hint("leave it out to take every method");
        section.fault("methods", problem);
    }
    let access = access(section);
    let id = section.parse("id", |text| {
        let ok = (1..=128).contains(&text.len()) && !text.chars().any(char::is_control);
        if ok {
            Ok(Box::<str>::from(text))
        } else {
            Err(Problem::new("must be 1 to 128 characters"))
        }
    });
    let profile = section.parse("profile", |text| match known.has_profile(text) {
        true => Ok(Box::<str>::from(text)),
        false => Err(refusals::unknown_profile(known)),
    });
    let mode = section.choice(
        "mode",
        Mode::Enforce,
        &[("enforce", Mode::Enforce), ("observe", Mode::Observe)],
    );
    let allow = Traits {
        double_encoding: section.flag("allow_double_encoding", false),
        encoded_slash: section.flag("allow_encoded_slash", false),
        semicolon: section.flag("allow_semicolon", false),
    };
    let body_limit = section.parse("body_limit", units::size);
    let upgrades = section.parse_list("upgrade", upgrade);
    let preflight = section.flag("preflight", false);
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
        mode,
        allow,
        body_limit,
        upgrades,
        preflight,
        profile,
    })
}

fn method(text: &str) -> Result<Method, Problem> {
    if matches!(text, "CONNECT" | "TRACE" | "TRACK") {
        return Err(Problem::new("is never forwarded"));
    }
    let upper = text.to_ascii_uppercase();
    if upper != text {
        return Err(Problem::new("methods are case-sensitive").hint(format!("write {upper:?}")));
    }
    Method::from_bytes(text.as_bytes()).map_err(|_| Problem::new("is not a method"))
}

fn upgrade(text: &str) -> Result<Box<str>, Problem> {
    let lower = text.to_ascii_lowercase();
    if matches!(lower.as_str(), "h2c" | "tls") || lower.starts_with("http/") {
        return Err(Problem::new("would tunnel past the rules"));
    }
    match HeaderName::from_bytes(lower.as_bytes()) {
        Ok(_) => Ok(lower.into()),
        Err(_) => Err(Problem::new("is not a protocol such as \"websocket\"")),
    }
}

#[derive(Clone, Copy)]
enum Gate {
    Key,
    KeyOrPass,
    Public,
}

fn access(section: &Section<'_>) -> Option<Access> {
    let gate = match section.has("access") {
        false => {
            section.ask("access");
            Some(Gate::Key)
        }
        true => section.parse("access", |text| {
            let words =
                [("key", Gate::Key), ("key-or-pass", Gate::KeyOrPass), ("public", Gate::Public)];
            pick(text, &words)
        }),
    };
    let permissions = section.parse_list("permissions", |text| match text {
        Permission::ALL => {
            Err(Problem::new("`*` is what a key may hold, not what a route requires")
                .hint("leave permissions out to let every valid key in"))
        }
        text => Permission::parse(text).map_err(|e: NameError| Problem::from(e)),
    });
    let require =
        section.choice("require", Require::All, &[("all", Require::All), ("any", Require::Any)]);
    let needs = Needs { permissions: permissions.into(), require };
    match gate? {
        Gate::Key => Some(Access::Key(needs)),
        Gate::KeyOrPass => Some(Access::KeyOrPass(needs)),
        Gate::Public => {
            if !needs.permissions.is_empty() {
                let problem = Problem::new("a public route looks at no key");
                section.fault("permissions", problem.hint("remove it, or set access = \"key\""));
            }
            Some(Access::Public)
        }
    }
}

/// Rules that can never match are reported with the rule that hides them.
pub(super) fn table(root: &Section<'_>, rules: Vec<Rule>) -> Option<RouteTable> {
    let places: Vec<(Box<str>, Place)> =
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
                    Problem::new(format!(
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
