//! `[[dialect]]`: the key endpoints that a product documents, compiled from JSON skeletons.

#[cfg(test)]
mod tests;

use std::path::Path;
use std::time::Duration;

use super::super::dialect::built_in::{self, built_in};
use super::super::dialect::code::{DialectCode, DialectMessages};
use super::super::dialect::map::{RequestSkeleton, Skeleton, SkeletonFault, SkeletonUse, SlotKind};
use super::super::dialect::operation::{
    Dialect, DialectOperation, DialectRoute, DialectVerb, RouteFault,
};
use super::super::store::AudienceName;
use super::audiences::AudienceConfig;
use crate::config::ThisHost;
use crate::config::reader::{ConfigProblem, ConfigSection, pick, read_toml};
use crate::core::Permission;

/// How long an old secret stays valid after a rotation, unless the dialect says otherwise.
const OVERLAP: Duration = Duration::from_secs(24 * 3600);

/// The parts of a dialect that a text states.
#[derive(Default)]
struct DialectParts {
    error: Option<Skeleton>,
    messages: DialectMessages,
    operations: Vec<DialectOperation>,
}

pub(super) fn dialects(root: &ConfigSection<'_>, audiences: &[AudienceConfig]) -> Vec<Dialect> {
    let mut found: Vec<Dialect> = Vec::new();
    for section in root.sections("dialect") {
        let Some(dialect) = dialect(&section, audiences) else { continue };
        if let Some((route, problem)) = taken(&dialect, &found) {
            fault_of_route(&section, route, problem);
            continue;
        }
        found.push(dialect);
    }
    found
}

fn dialect(section: &ConfigSection<'_>, audiences: &[AudienceConfig]) -> Option<Dialect> {
    let name = section.parse("name", super::name);
    if !section.has("name") {
        section.missing("name", "for example name = \"whatomate\"");
    }
    let audience = audience(section, audiences);
    let own = parts(section);
    let built_in = name.as_deref().filter(|_| !section.has("operation")).and_then(built_in);
    let parts = match built_in {
        Some(text) => own.over(built_in_parts(text)),
        None => {
            if !section.has("operation") {
                let known: Vec<_> = built_in::names().collect();
                let hint = format!("[[dialect.operation]]; built in are {}", known.join(", "));
                section.missing("operation", &hint);
            }
            if !section.has("error") {
                let hint = "how the product answers errors: error = '{\"message\":\"$message\"}'";
                section.missing("error", hint);
            }
            own
        }
    };
    let audience = audience?;
    for operation in &parts.operations {
        let unknown = operation.grants.iter().find(|word| !audience.offers(word));
        if let Some(word) = unknown {
            let problem = ConfigProblem::new(format!(
                "operations grant `{}`, which is none of the audience's permissions",
                word.as_str()
            ));
            let hint = format!("[[audiences.permissions]] word = \"{}\" adds it", word.as_str());
            section.fault("name", problem.hint(hint));
        }
    }
    Some(Dialect {
        name: name?,
        audience: audience.name.clone(),
        error: parts.error?,
        messages: parts.messages,
        operations: parts.operations,
    })
}

/// The named one, or the only one.
fn audience<'a>(
    section: &ConfigSection<'_>,
    audiences: &'a [AudienceConfig],
) -> Option<&'a AudienceConfig> {
    let named = section.parse("audience", |text| {
        let name = AudienceName::parse(text);
        let found = audiences.iter().find(|audience| Some(&audience.name) == name.as_ref());
        found.ok_or_else(|| {
            ConfigProblem::new("is no audience of this file")
                .hint("name it as in [[audiences]] name")
        })
    });
    match (section.has("audience"), audiences) {
        (false, [only]) => Some(only),
        (false, [_, _, ..]) => {
            section.missing("audience", "whose keys they are, as in [[audiences]] name");
            None
        }
        _ => named,
    }
}

/// The text built into the program. A test checks that it has no faults.
fn built_in_parts(text: &str) -> DialectParts {
    let read = read_toml(&ThisHost, Path::new("built-in.toml"), text, |root| {
        let section = root.sections("dialect").into_iter().next()?;
        section.text("name");
        Some(parts(&section))
    });
    read.map(|read| read.value).unwrap_or_default()
}

fn parts(section: &ConfigSection<'_>) -> DialectParts {
    let error = section.parse_as_written("error", |text| {
        Skeleton::parse(text, SkeletonUse::Error).map_err(problem)
    });
    let mut messages = DialectMessages::default();
    for (word, text) in section.pairs("messages") {
        let code = section.reader().parse(&word, |word| {
            DialectCode::parse(word).ok_or_else(|| {
                let all = DialectCode::ALL.map(DialectCode::as_str).join(", ");
                ConfigProblem::new("is no error of a dialect").hint(format!("they are {all}"))
            })
        });
        let text = section.reader().parse(&text, super::labels::sentence);
        if let (Some(code), Some(text)) = (code, text) {
            messages.set(code, text);
        }
    }
    let operations = section.sections("operation");
    let operations = operations.iter().filter_map(operation).collect();
    DialectParts { error, messages, operations }
}

fn operation(section: &ConfigSection<'_>) -> Option<DialectOperation> {
    let words = DialectVerb::ALL.map(|verb| (verb.as_str(), verb));
    if !section.has("does") {
        let all = words.map(|(word, _)| word).join(", ");
        section.missing("does", &format!("one of {all}"));
    }
    let verb = section.parse("does", |text| pick(text, &words));
    // Read the rest as that of some verb, so that none of its keys is reported as unknown.
    let known = verb.unwrap_or(DialectVerb::List);
    let routes = routes(section, known);
    let used = match known {
        DialectVerb::List => SkeletonUse::List,
        DialectVerb::Create | DialectVerb::Rotate => SkeletonUse::NewKey,
        DialectVerb::Get | DialectVerb::Revoke | DialectVerb::Update => SkeletonUse::Key,
    };
    let skeleton = |key, used| {
        section.parse_as_written(key, |text| Skeleton::parse(text, used).map_err(problem))
    };
    let answer = skeleton("answer", used);
    if !section.has("answer") {
        section.missing("answer", "the JSON that the product's page shows, with slots");
    }
    let key = match known {
        DialectVerb::List => {
            if !section.has("key") {
                section.missing("key", "the JSON of one key in the list, with slots");
            }
            skeleton("key", SkeletonUse::Key)
        }
        _ => refused(section, "key", "is for lists", "answer says it all"),
    };
    let request = request(section, known);
    let grants = match known {
        DialectVerb::Create => section.parse_list("grants", Permission::parse),
        _ => refused(section, "grants", "is for new keys", "take it out").unwrap_or_default(),
    };
    let overlap = match known {
        DialectVerb::Rotate => section.pause("overlap", OVERLAP),
        _ => refused(section, "overlap", "is for rotations", "take it out").unwrap_or(OVERLAP),
    };
    let status = section.integer("status", 200, 200..=299);
    let status = u16::try_from(status).unwrap_or(200);
    verb?;
    let is_whole = known != DialectVerb::List || key.is_some();
    (is_whole && !routes.is_empty()).then_some(())?;
    Some(DialectOperation {
        verb: known,
        routes,
        status,
        answer: answer?,
        key,
        request: request?,
        grants,
        overlap,
    })
}

/// One route, or a list of them.
fn routes(section: &ConfigSection<'_>, verb: DialectVerb) -> Vec<DialectRoute> {
    if !section.has("on") {
        section.missing("on", "for example on = \"GET /api/api-keys\"");
    }
    let is_one = section.ask("on").is_some_and(|(_, value)| value.as_str().is_some());
    let route = |text: &str| {
        DialectRoute::parse(text, verb)
            .map_err(|fault: RouteFault| ConfigProblem::new(fault.to_string()).hint(fault.hint()))
    };
    match is_one {
        true => section.parse("on", route).into_iter().collect(),
        false => section.parse_list("on", route),
    }
}

fn request(section: &ConfigSection<'_>, verb: DialectVerb) -> Option<RequestSkeleton> {
    let used = match verb {
        DialectVerb::Create => SkeletonUse::RequestForNew,
        DialectVerb::Update => SkeletonUse::RequestForChange,
        _ => {
            refused::<()>(section, "request", "says nothing that counts here", "take it out");
            return Some(RequestSkeleton::default());
        }
    };
    if verb == DialectVerb::Update && !section.has("request") {
        section
            .missing("request", "what it changes, such as '{\"permissions\":\"$permissions!\"}'");
        return None;
    }
    if !section.has("request") {
        section.ask("request");
        return Some(RequestSkeleton::default());
    }
    section.parse_as_written("request", |text| {
        let request = RequestSkeleton::parse(text, used).map_err(problem)?;
        let is_of_change = SlotKind::ALL.into_iter().any(|kind| request.asks_for(kind));
        match verb == DialectVerb::Update && !is_of_change {
            true => Err(ConfigProblem::new("changes nothing").hint("name a slot")),
            false => Ok(request),
        }
    })
}

/// A key that belongs to another verb.
fn refused<T>(
    section: &ConfigSection<'_>,
    key: &'static str,
    message: &str,
    hint: &str,
) -> Option<T> {
    section.refuse(key, message, hint);
    None
}

fn problem(fault: SkeletonFault) -> ConfigProblem {
    ConfigProblem::new(fault.to_string()).hint(fault.hint())
}

/// A route of `dialect` that something else answers already, and what does.
fn taken<'d>(
    dialect: &'d Dialect,
    others: &[Dialect],
) -> Option<(&'d DialectRoute, ConfigProblem)> {
    let mut own: Vec<&DialectRoute> = Vec::new();
    for route in dialect.operations.iter().flat_map(|operation| &operation.routes) {
        let path = route.pattern();
        let has_path = |other: &DialectRoute| other.pattern() == path;
        if own.iter().any(|other| has_path(other) && other.method == route.method) {
            let problem = ConfigProblem::new(format!("`{route}` is answered already"));
            return Some((route, problem.hint("one operation answers a URL")));
        }
        own.push(route);
        let other = others.iter().find(|other| {
            other.operations.iter().flat_map(|operation| &operation.routes).any(has_path)
        });
        // The refusal of a path's other methods is in the words of one product.
        if let Some(other) = other {
            let name = &other.name;
            let message = format!("the path of `{route}` is answered by dialect `{name}` already");
            let hint = "one dialect answers a path: take another path for one of the two";
            return Some((route, ConfigProblem::new(message).hint(hint)));
        }
    }
    None
}

/// At the last line of the dialect that states the route; for a built-in dialect, at the dialect.
fn fault_of_route(section: &ConfigSection<'_>, route: &DialectRoute, problem: ConfigProblem) {
    let (method, path) = (&route.method, route.pattern());
    let says = |operation: &&ConfigSection<'_>| {
        let Some((_, value)) = operation.ask("on") else { return false };
        let list = value.as_array().map(|list| list.iter().filter_map(|i| i.get_ref().as_str()));
        let mut texts = list.into_iter().flatten().chain(value.as_str());
        texts.any(|text| {
            let read = DialectVerb::ALL.iter().find_map(|v| DialectRoute::parse(text, *v).ok());
            read.is_some_and(|read| read.method == *method && read.pattern() == path)
        })
    };
    if !section.has("operation") {
        return section.fault("name", problem);
    }
    let mut operations = section.sections("operation");
    // Unknown keys in them were reported when they were read.
    operations.iter_mut().for_each(ConfigSection::lose);
    match operations.iter().rev().find(says) {
        Some(operation) => operation.fault("on", problem),
        None => section.fault("operation", problem),
    }
}

// === impl DialectParts ===

impl DialectParts {
    /// Adds what `below` states in addition.
    fn over(self, below: Self) -> Self {
        let mut messages = below.messages;
        messages.set_all(self.messages);
        Self { error: self.error.or(below.error), messages, operations: below.operations }
    }
}
