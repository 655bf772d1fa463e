//! `keys list|show`.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::super::error::{Error, Result};
use super::super::output::Columns;
use super::super::publish::pending::{self, UnpublishedKeys, UnpublishedOrgs};
use super::super::registry::entry::{
    RegistryEntry, show_digest, show_limit, show_limits, show_network,
};
use super::super::registry::plans::behind_plan;
use super::super::registry::words::to_object;
use super::super::registry::{Filter, Form, Registry};
use super::super::session::Session;
use super::super::time;
use super::super::usage::UsageArgs;
use super::lookup::{HeldAs, given_lines, holders};
use super::unused::show_minute;
use crate::core::{Environment, KeyId, OrgId, Permission, PolicyName};
use crate::usage::MergedUse;

/// How many keys have their columns aligned together. The next ones get their own widths, so that a
/// million keys need no memory.
pub(super) const ALIGNED: usize = 1000;

#[derive(Debug, clap::Args)]
pub struct List {
    /// Only keys of this organization
    #[arg(long, value_parser = OrgId::parse)]
    pub org: Option<OrgId>,
    /// Only keys with this name
    #[arg(long, value_parser = super::create::name)]
    pub name: Option<String>,
    /// Only keys in this state
    #[arg(long, value_name = "STATE", value_parser = ["active", "disabled", "revoked", "canary", "expired", "not yet valid"])]
    pub state: Option<String>,
    /// Only active keys that expire within this time, soonest first
    #[arg(long, value_name = "DURATION", value_parser = time::duration)]
    pub expiring: Option<Duration>,
    // Shows when each key was last used and how often, as far as the records go.
    #[command(flatten)]
    pub records: UsageArgs,
}

#[derive(Debug, clap::Args)]
pub struct Show {
    /// Key id, or a name that only one key has
    #[arg(value_name = "KEY", required_unless_present = "secret_stdin")]
    pub key: Option<String>,
    /// Look for the name only among the keys of this organization
    #[arg(long, value_parser = OrgId::parse)]
    pub org: Option<OrgId>,
    /// Read a secret from standard input and show its key
    #[arg(long, conflicts_with = "key")]
    pub secret_stdin: bool,
    /// Also show digests
    #[arg(long)]
    pub digests: bool,
}

/// Columns of a list; the last two only if there are usage records.
pub(super) const TITLES: [&str; 16] = [
    "ID",
    "NAME",
    "ORG",
    "ENV",
    "KEY PREFIX",
    "PERMISSIONS",
    "NETWORKS",
    "LIMIT",
    "STATUS",
    "CREATED",
    "EXPIRES",
    "SUNSET",
    "OWNER",
    "REPLACED BY",
    "LAST USED",
    "REQUESTS",
];

// === impl List ===

impl List {
    pub fn run(self, session: &mut Session) -> Result<()> {
        let registry = Registry::open(&session.registry)?;
        let now = session.now();
        let unpublished = UnpublishedKeys::of(&registry)?;
        let successors = successors(&registry)?;
        let mut left = 0u64;
        let filter = Filter { org: self.org.clone(), name: self.name.clone(), ..Filter::default() };
        let uses = match self.records.usage.is_empty() {
            true => None,
            false => Some(self.records.read(registry.settings.audience.as_deref())?),
        };
        let titles = match uses {
            Some(_) => &TITLES[..],
            None => TITLES.get(..TITLES.len() - 2).unwrap_or_default(),
        };
        let mut columns = Columns::titled(titles);
        let mut pending = 0;
        let mut faults = Vec::new();
        let mut first = true;
        let json = session.output.json;
        if json {
            session.output.text("[")?;
        }
        let mut show = |entry: &RegistryEntry, session: &mut Session| {
            if json {
                session.output.text(if first { "\n" } else { ",\n" })?;
                first = false;
                let mut value = to_json(entry, now);
                say_published(&mut value, entry, &unpublished);
                say_replaced(&mut value, entry, &successors);
                if let Some(uses) = &uses {
                    say_used(&mut value, &uses.key(entry.id));
                }
                return session.output.json_raw(&value);
            }
            let mut cells = row(entry, now);
            if unpublished.has(entry) {
                left += 1;
                let [.., status, _, _, _, _, _] = &mut cells;
                status.push_str(" (not published)");
            }
            if let (Some(by), [.., last]) = (successors.get(&entry.id), &mut cells) {
                *last = by.to_string();
            }
            let used = uses.as_ref().map(|uses| used_cells(&uses.key(entry.id)));
            columns.row(cells.into_iter().chain(used.into_iter().flatten()));
            pending += 1;
            if pending == ALIGNED {
                pending = 0;
                columns.print(&mut session.output)?;
                columns = Columns::default();
            }
            Ok(())
        };
        // Only keys that end soon are held, to be sorted; they are few.
        let mut ending = Vec::new();
        registry.scan_with(&filter, &mut faults, &mut |located| {
            let entry = located.entry;
            if !self.takes(&entry, now) {
                return Ok(());
            }
            if self.expiring.is_some() {
                ending.push(entry);
                return Ok(());
            }
            show(&entry, session)
        })?;
        ending.sort_by_key(|entry| (entry.expires, entry.id));
        ending.iter().try_for_each(|entry| show(entry, session))?;
        if json {
            session.output.text(if first { "]\n" } else { "\n]\n" })?;
        } else {
            columns.print(&mut session.output)?;
        }
        if let Some(uses) = &uses {
            let from = uses.spans().into_iter().map(|span| span.from).max();
            let from = from.and_then(show_minute).unwrap_or_default();
            session.output.note(&format!("uses as far as the records go; one begins at {from}"));
        }
        if left > 0 {
            let is = if left == 1 { "1 key is" } else { &format!("{left} keys are") };
            let command = pending::command(&registry)?;
            session.output.note(&format!(
                "{is} not published as shown; this command publishes the registry:\n  {command}"
            ));
        }
        pending::note_orgs(&registry, &UnpublishedOrgs::of(&registry)?, session)?;
        if faults.is_empty() {
            return Ok(());
        }
        session.output.flush()?;
        Err(super::super::error::Error::Faults { faults, hint: "the keys above are the others" })
    }

    pub(super) fn takes(&self, entry: &RegistryEntry, now: u64) -> bool {
        let state = entry.state(now);
        let within = |window: Duration| {
            state == "active"
                && entry.expires.is_some_and(|at| at <= now.saturating_add(window.as_secs()))
        };
        self.state.as_deref().is_none_or(|wanted| wanted == state)
            && self.expiring.is_none_or(within)
    }
}

pub(super) fn row(entry: &RegistryEntry, now: u64) -> [String; 14] {
    let date = |at: Option<u64>, none: &str| match at {
        Some(at) => time::show(at).split('T').next().unwrap_or_default().to_owned(),
        None => none.to_owned(),
    };
    // For a pair, the caller shows the public id, in full.
    let key = match &entry.public_id {
        Some(id) => id.to_string(),
        None => match &*entry.key_prefix {
            "" => "-".to_owned(),
            prefix => format!("{prefix}…"),
        },
    };
    let networks: Vec<_> = entry.networks.iter().map(show_network).collect();
    let words: Vec<_> = entry.permissions.iter().map(Permission::as_str).collect();
    let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    [
        entry.id.to_string(),
        or_dash(&entry.name),
        entry.org.as_str().to_owned(),
        or_dash(entry.environment.map_or("", Environment::as_str)),
        key,
        or_dash(&words.join(",")),
        or_dash(&networks.join(",")),
        or_dash(&limits_with_plan(entry)),
        entry.state(now).to_owned(),
        date(entry.created, "-"),
        date(entry.expires, "never"),
        date(entry.sunset, "-"),
        or_dash(entry.owner.as_ref().map_or("", |owner| owner.view().subject)),
        // Its successor, which the caller knows.
        "-".to_owned(),
    ]
}

/// The limits in force, and their plan.
fn limits_with_plan(entry: &RegistryEntry) -> String {
    let limits = show_limits(&entry.limits_in_force()).join(", ");
    behind_plan(entry.plan.as_ref().map(|plan| &plan.name), limits)
}

// === impl Show ===

impl Show {
    pub fn run(self, session: &mut Session) -> Result<()> {
        let registry = Registry::open(&session.registry)?;
        let now = session.now();
        let entry = match &self.key {
            Some(key) => registry.select(key, self.org.as_ref(), now)?.entry,
            None => {
                let mut held = holders(&registry, &given_lines()?)?;
                let (Some(only), true) = (held.pop(), held.is_empty()) else {
                    let why = "standard input has secrets of several keys; give one";
                    return Err(Error::argument("--secret-stdin", why));
                };
                if only.held_as == HeldAs::Former {
                    session.output.note("this is the former secret of a pair");
                }
                only.located.entry
            }
        };
        let mut value = to_json(&entry, now);
        say_published(&mut value, &entry, &UnpublishedKeys::of(&registry)?);
        say_replaced(&mut value, &entry, &successors(&registry)?);
        if let Value::Object(map) = &mut value
            && self.digests
        {
            map.insert("digest".into(), show_digest(&entry.digest).into());
            if let Some(previous) = entry.previous {
                map.insert("previous_digest".into(), show_digest(&previous.digest).into());
            }
        }
        print_key(value, session)?;
        if registry.form == Form::Toml && !session.output.json {
            session.output.note(&format!("from {}", session.registry.display()));
        }
        Ok(())
    }
}

/// A key in full, as JSON or with a line for each of its fields.
pub(super) fn print_key(value: Value, session: &mut Session) -> Result<()> {
    if session.output.json {
        return session.output.json(&value);
    }
    let Value::Object(map) = value else { return Ok(()) };
    let mut columns = Columns::default();
    for (name, value) in map {
        let text = match value {
            Value::Null => continue,
            Value::Array(items) if items.is_empty() => continue,
            Value::String(text) => text,
            Value::Array(items) => {
                let items: Vec<_> = items.iter().filter_map(Value::as_str).collect();
                items.join(", ")
            }
            Value::Object(map) if map.is_empty() => continue,
            Value::Object(map) => {
                let shown = map.iter().filter_map(|(k, v)| Some((k, v.as_str()?)));
                let shown = shown.filter(|(_, v)| !v.is_empty());
                shown.map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(", ")
            }
            other => other.to_string(),
        };
        columns.row([name.replace('_', " "), text]);
    }
    columns.print(&mut session.output)
}

fn say_published(key: &mut Value, entry: &RegistryEntry, unpublished: &UnpublishedKeys) {
    if let Value::Object(map) = key {
        map.insert("published".into(), (!unpublished.has(entry)).into());
    }
}

pub(super) fn say_replaced(
    key: &mut Value,
    entry: &RegistryEntry,
    successors: &HashMap<KeyId, KeyId>,
) {
    if let Value::Object(map) = key {
        let by = successors.get(&entry.id).map(KeyId::to_string);
        map.insert("replaced_by".into(), by.into());
    }
}

fn say_used(key: &mut Value, used: &MergedUse) {
    if let Value::Object(map) = key {
        map.insert("last_used".into(), show_minute(used.last).into());
        map.insert("requests".into(), used.admitted.into());
        map.insert("refused".into(), json!(used.refused));
        let nets: Vec<_> = used.nets.iter().map(ToString::to_string).collect();
        map.insert("used_from".into(), nets.into());
    }
}

/// LAST USED and REQUESTS.
fn used_cells(used: &MergedUse) -> [String; 2] {
    [show_minute(used.last).unwrap_or_else(|| "-".to_owned()), used.admitted.to_string()]
}

/// The key that replaced each rotated key: the newest one, if there are several.
pub fn successors(registry: &Registry) -> Result<HashMap<KeyId, KeyId>> {
    let mut successors = HashMap::new();
    // The other pass over the registry reports its faults.
    let mut faults = Vec::new();
    registry.scan_with(&Filter::default(), &mut faults, &mut |located| {
        if let Some(former) = located.entry.replaces {
            successors.insert(former, located.entry.id);
        }
        Ok(())
    })?;
    Ok(successors)
}

/// A key in the form for programs. No digest, no secret.
pub fn to_json(entry: &RegistryEntry, now: u64) -> Value {
    let limits = entry.limits_in_force();
    json!({
        "id": entry.id.to_string(),
        "name": entry.name,
        "org": entry.org.as_str(),
        "environment": entry.environment.map(Environment::as_str),
        "kind": match entry.kind() {
            crate::core::KeyKind::Pair => "pair",
            crate::core::KeyKind::Single => "single",
        },
        "public_id": entry.public_id,
        "key_prefix": entry.key_prefix,
        "permissions": entry.permissions.iter().map(Permission::as_str).collect::<Vec<_>>(),
        "networks": entry.networks.iter().map(show_network).collect::<Vec<_>>(),
        "plan": entry.plan.as_ref().map(|plan| plan.name.as_str()),
        "limit": limits.per_key().map(show_limit),
        "limits": to_object(&limits.without(PolicyName::PER_KEY)),
        "status": entry.status.as_str(),
        "state": entry.state(now),
        "created": entry.created.map(time::show),
        "not_before": entry.not_before.map(time::show),
        "expires": entry.expires.map(time::show),
        "sunset": entry.sunset.map(time::show),
        "owner": entry.owner.as_ref().map(|owner| {
            let owner = owner.view();
            json!({ "subject": owner.subject, "email": owner.email, "role": owner.role })
        }),
        "former_secret_until": entry.previous.map(|p| time::show(p.expires)),
        "replaces": entry.replaces.map(|id| id.to_string()),
        "prefix": entry.prefix,
        "note": (!entry.note.is_empty()).then_some(&entry.note),
    })
}
