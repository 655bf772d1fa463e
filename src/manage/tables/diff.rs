//! `keygatectl table diff`: what changes for callers between two tables, or a table and the
//! registry.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::super::error::{Error, Result};
use super::super::files;
use super::super::registry::entry::{show_limit, show_network};
use super::super::registry::{Filter, Registry};
use super::super::session::Session;
use super::super::time;
use crate::core::{Environment, KeyId, KeySpec, Permission};
use crate::table::{Bounds, KeySet, Patch, Table, Trust};

#[derive(Debug, clap::Args)]
pub struct Diff {
    /// Table, or registry (`.toml`, `.jsonl`)
    #[arg(value_name = "OLD")]
    pub old: PathBuf,
    /// Table, or registry
    #[arg(value_name = "NEW")]
    pub new: PathBuf,
    /// Patch over OLD
    #[arg(long, value_name = "FILE")]
    pub old_patch: Option<PathBuf>,
    /// Patch over NEW
    #[arg(long, value_name = "FILE")]
    pub new_patch: Option<PathBuf>,
    /// End with 1 if there is a difference
    #[arg(long)]
    pub exit_code: bool,
}

/// Every secret of a key. A pair in rotation has two.
type Keys = BTreeMap<KeyId, Vec<KeySpec>>;

// === impl Diff ===

impl Diff {
    /// Whether the two differ.
    pub fn run(self, session: &mut Session) -> Result<()> {
        let old = read(&self.old, self.old_patch.as_deref())?;
        let new = read(&self.new, self.new_patch.as_deref())?;
        let mut differences = 0u64;
        for id in old.keys().chain(new.keys().filter(|id| !old.contains_key(*id))) {
            let (was, is) = (old.get(id).map(Vec::as_slice), new.get(id).map(Vec::as_slice));
            let change = match (was, is) {
                (Some(was), Some(is)) => {
                    let changed = changes(was, is);
                    if changed.is_empty() {
                        continue;
                    }
                    json!({ "id": id.to_string(), "change": "changed", "fields": changed })
                }
                (None, Some(_)) => json!({ "id": id.to_string(), "change": "added" }),
                _ => json!({ "id": id.to_string(), "change": "removed" }),
            };
            differences += 1;
            let key = is.or(was).and_then(<[KeySpec]>::first);
            tell(change, key, session)?;
        }
        if differences == 0 && !session.output.json {
            session.output.line("no difference")?;
        }
        session.output.flush()?;
        if self.exit_code && differences > 0 { Err(Error::Different) } else { Ok(()) }
    }
}

fn tell(mut change: Value, key: Option<&KeySpec>, session: &mut Session) -> Result<()> {
    if session.output.json {
        if let (Value::Object(map), Some(key)) = (&mut change, key) {
            map.insert("name".into(), key.name.as_ref().into());
            map.insert("org".into(), key.org.as_str().into());
        }
        return session.output.json_line(&change);
    }
    let text = |name: &str| change.get(name).and_then(Value::as_str).unwrap_or_default();
    let sign = match text("change") {
        "added" => '+',
        "removed" => '-',
        _ => '~',
    };
    let name = key.map_or(String::new(), |k| format!(" {} ({})", k.name, k.org.as_str()));
    let mut line = format!("{sign} {}{name}", text("id"));
    for (field, values) in change.get("fields").and_then(Value::as_object).into_iter().flatten() {
        let shown = |n: usize| match values.get(n) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Null) | None => "-".to_owned(),
            Some(other) => other.to_string(),
        };
        line.push_str(&format!("\n    {field}: {} → {}", shown(0), shown(1)));
    }
    session.output.line(&line)
}

/// `{"field": [before, after]}`.
fn changes(was: &[KeySpec], is: &[KeySpec]) -> Map<String, Value> {
    let (was, is) = (describe(was), describe(is));
    let mut changed = Map::new();
    for (field, before) in &was {
        let after = is.get(field).cloned().unwrap_or_default();
        if *before != after {
            changed.insert(field.clone(), json!([before, after]));
        }
    }
    changed
}

/// The fields of a key as a reader compares them. Digests are compared, and shown as a count.
fn describe(specs: &[KeySpec]) -> Map<String, Value> {
    let mut specs: Vec<_> = specs.iter().collect();
    specs.sort_by_key(|spec| std::cmp::Reverse(spec.expires.unwrap_or(u64::MAX)));
    let Some(first) = specs.first() else { return Map::new() };
    let grant = &first.grant;
    let mut digests: Vec<_> = specs.iter().map(|spec| spec.digest.0).collect();
    digests.sort_unstable();
    // A name for the set of secrets that tells two sets apart and no digest.
    let set = crate::core::Digest::of(&digests.concat());
    let set: String = set.0.iter().take(4).map(|b| format!("{b:02x}")).collect();
    let value = json!({
        "name": first.name,
        "org": first.org.as_str(),
        "status": grant.status.as_str(),
        "environment": grant.environment.map(Environment::as_str),
        "permissions": grant.permissions.iter().map(Permission::as_str).collect::<Vec<_>>().join(" "),
        "networks": grant.networks.iter().map(show_network).collect::<Vec<_>>().join(" "),
        "limit": grant.limit.map(show_limit),
        "not_before": grant.not_before.map(time::show),
        "expires": first.expires.map(time::show),
        "public_id": first.public_id,
        "secrets": format!("{} (set {set})", specs.len()),
    });
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn read(path: &Path, patch: Option<&Path>) -> Result<Keys> {
    let mut keys = Keys::new();
    let mut add = |spec: KeySpec| keys.entry(spec.id).or_default().push(spec);
    match path.extension().and_then(|e| e.to_str()) {
        Some("toml" | "jsonl" | "ndjson") => {
            if patch.is_some() {
                return Err(Error::argument("--old-patch", "a registry has no patch over it"));
            }
            Registry::open(path)?.scan(&Filter::default(), &mut |located| {
                located.entry.specs().for_each(&mut add);
                Ok(())
            })?;
        }
        _ => {
            let (trust, bounds) = (Trust::for_inspection(), Bounds::default());
            let table = Table::open(files::read(path, bounds.max_bytes)?, &trust, &bounds)
                .map_err(|e| Error::refused(path, e))?;
            let patch = match patch {
                Some(path) => {
                    let patch = Patch::open(files::read(path, bounds.max_bytes)?, &trust, &bounds)
                        .map_err(|e| Error::refused(path, e))?;
                    if !patch.is_over(&table) {
                        let base = patch.manifest().base.map_or(0, |base| base.serial);
                        let why = "the table given is another";
                        return Err(Error::refused(
                            path,
                            crate::table::Refusal::Base { base, why },
                        ));
                    }
                    Some(Arc::new(patch))
                }
                None => None,
            };
            let set = KeySet::new(Arc::new(table), patch, &[], None);
            set.iter().filter_map(|entry| entry.to_spec()).for_each(add);
        }
    }
    Ok(keys)
}
