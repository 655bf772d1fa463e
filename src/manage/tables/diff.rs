//! `keygatectl table diff`: what changes for callers between two tables, or a table and the
//! registry.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::super::error::{Error, Result};
use super::super::files;
use super::super::progress::ProgressLine;
use super::super::registry::entry::{show_limit, show_limits, show_network};
use super::super::registry::words::{show_limits_of_org, to_object};
use super::super::registry::{Filter, Registry};
use super::super::session::Session;
use super::super::time;
use crate::core::{
    Digest, Environment, KeyId, KeySpec, KeyView, LimitSet, NamedLimit, OrgId, Owner, OwnerView,
    Permission,
};
use crate::table::{Bounds, KeyEntry, KeySet, Patch, Table, Trust};

#[derive(Debug, clap::Args)]
pub struct Diff {
    /// Table, or registry (`.toml`, `.jsonl`)
    #[arg(value_name = "OLD")]
    pub old: PathBuf,
    /// Table, or registry
    #[arg(value_name = "NEW")]
    pub new: PathBuf,
    /// Patch that applies to OLD
    #[arg(long, value_name = "FILE")]
    pub old_patch: Option<PathBuf>,
    /// Patch that applies to NEW
    #[arg(long, value_name = "FILE")]
    pub new_patch: Option<PathBuf>,
    /// Exit with 1 if there is a difference
    #[arg(long)]
    pub exit_code: bool,
}

/// Keys that are compared field by field at a time; further differences are read in another pass.
const AT_ONCE: usize = 1 << 16;

/// One side of the comparison.
enum DiffSide {
    Registry(Box<Registry>),
    Table(Box<KeySet>),
}

/// One secret of a key: its key, and a mark that changes with anything a caller can notice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Mark {
    id: KeyId,
    of: [u8; 16],
}

/// The secrets of one key, before and after. A pair in rotation has two.
#[derive(Default)]
struct Both {
    was: Vec<KeySpec>,
    is: Vec<KeySpec>,
}

// === impl Diff ===

impl Diff {
    /// Whether the two differ.
    ///
    /// Both are walked once. For each secret, 32 bytes are kept, sorted by key and merged. Only the
    /// keys that differ are read whole, some at a time.
    pub fn run(self, session: &mut Session) -> Result<()> {
        let mut progress = session.output.progress();
        let old = DiffSide::open(&self.old, self.old_patch.as_deref(), "--old-patch")?;
        let new = DiffSide::open(&self.new, self.new_patch.as_deref(), "--new-patch")?;
        let ids = differing(old.marks(&mut progress)?, new.marks(&mut progress)?);
        progress.end();
        for some in ids.chunks(AT_ONCE) {
            let mut keys: BTreeMap<KeyId, Both> = BTreeMap::new();
            old.keys(some, &mut |spec| keys.entry(spec.id).or_default().was.push(spec))?;
            new.keys(some, &mut |spec| keys.entry(spec.id).or_default().is.push(spec))?;
            for (id, Both { was, is }) in keys {
                let change = match (was.is_empty(), is.is_empty()) {
                    (false, false) => {
                        let changed = changes(&was, &is);
                        json!({ "id": id.to_string(), "change": "changed", "fields": changed })
                    }
                    (true, _) => json!({ "id": id.to_string(), "change": "added" }),
                    (false, true) => json!({ "id": id.to_string(), "change": "removed" }),
                };
                tell(change, is.first().or(was.first()), session)?;
            }
        }
        let (was, is) = (old.orgs(), new.orgs());
        let orgs: BTreeSet<&OrgId> = was.keys().chain(is.keys()).collect();
        let orgs = orgs.into_iter().filter(|org| was.get(org) != is.get(org));
        let mut differ = !ids.is_empty();
        for org in orgs {
            differ = true;
            tell_org(org, was.get(org), is.get(org), session)?;
        }
        if !differ && !session.output.json {
            session.output.line("no difference")?;
        }
        session.output.flush()?;
        if self.exit_code && differ { Err(Error::Different) } else { Ok(()) }
    }
}

/// The keys whose marks differ, in order.
fn differing(mut old: Vec<Mark>, mut new: Vec<Mark>) -> Vec<KeyId> {
    old.sort_unstable();
    new.sort_unstable();
    let (mut old, mut new) = (old.into_iter().peekable(), new.into_iter().peekable());
    let mut ids = Vec::new();
    loop {
        let mark = match (old.peek(), new.peek()) {
            (None, None) => return ids,
            (Some(was), Some(is)) if was == is => {
                old.next();
                new.next();
                continue;
            }
            (Some(was), Some(is)) if was < is => old.next(),
            (Some(_), None) => old.next(),
            _ => new.next(),
        };
        // The two sides of a changed key follow each other.
        if let Some(mark) = mark.filter(|mark| ids.last() != Some(&mark.id)) {
            ids.push(mark.id);
        }
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

/// Reports an org whose keys may together do more or less than before.
fn tell_org(
    org: &OrgId,
    was: Option<&LimitSet>,
    is: Option<&LimitSet>,
    session: &mut Session,
) -> Result<()> {
    let (change, sign) = match (was, is) {
        (None, _) => ("added", '+'),
        (_, None) => ("removed", '-'),
        _ => ("changed", '~'),
    };
    if session.output.json {
        let [was, is] = [was, is].map(|limits| limits.map(to_object));
        let fields = json!({ "limits": [was, is] });
        let line = json!({ "limits_of_org": org.as_str(), "change": change, "fields": fields });
        return session.output.json_line(&line);
    }
    let shown = |limits: Option<&LimitSet>| match limits {
        Some(limits) => show_limits_of_org(limits),
        None => "-".to_owned(),
    };
    let line = format!(
        "{sign} limits of the org {}\n    limits: {} → {}",
        org.as_str(),
        shown(was),
        shown(is)
    );
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
    // A name for the set of secrets that distinguishes two sets without showing a digest.
    let set = crate::core::Digest::of(&digests.concat());
    let set: String = set.0.iter().take(4).map(|b| format!("{b:02x}")).collect();
    let mut others = show_limits(&grant.limits);
    others.retain(|limit| limit.contains('='));
    let value = json!({
        "name": first.name,
        "org": first.org.as_str(),
        "status": grant.status.as_str(),
        "environment": grant.environment.map(Environment::as_str),
        "permissions": grant.permissions.iter().map(Permission::as_str).collect::<Vec<_>>().join(" "),
        "networks": grant.networks.iter().map(show_network).collect::<Vec<_>>().join(" "),
        "limit": grant.limits.per_key().map(show_limit),
        "limits": others.join(", "),
        "sunset": grant.sunset.map(time::show),
        "owner": first.owner.as_ref().map(|owner| owner.view().to_string()),
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

// === impl DiffSide ===

impl DiffSide {
    fn open(path: &Path, patch: Option<&Path>, option: &'static str) -> Result<Self> {
        if let Some("toml" | "jsonl" | "ndjson") = path.extension().and_then(|e| e.to_str()) {
            if patch.is_some() {
                return Err(Error::argument(option, "a registry has no patch over it"));
            }
            return Ok(Self::Registry(Box::new(Registry::open(path)?)));
        }
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
                    return Err(Error::refused(path, crate::table::Refusal::Base { base, why }));
                }
                Some(Arc::new(patch))
            }
            None => None,
        };
        Ok(Self::Table(Box::new(KeySet::new(Arc::new(table), patch, &[], None))))
    }

    /// Limits of orgs, leaving out orgs that have none.
    fn orgs(&self) -> BTreeMap<OrgId, LimitSet> {
        match self {
            Self::Registry(registry) => registry.settings.org_limits(),
            Self::Table(set) => {
                let stated = set.iter_org_limits();
                let owned =
                    stated.filter_map(|s| Some((OrgId::parse(s.org).ok()?, s.limits.clone())));
                owned.collect()
            }
        }
    }

    fn marks(&self, progress: &mut ProgressLine) -> Result<Vec<Mark>> {
        let mut marks = Vec::new();
        let mut buffer = Vec::with_capacity(512);
        match self {
            Self::Registry(registry) => registry.scan(&Filter::default(), &mut |located| {
                progress.step("keys compared");
                for spec in located.entry.specs() {
                    let view = KeyView {
                        id: spec.id,
                        org: spec.org.as_str(),
                        name: &spec.name,
                        expires: spec.expires,
                        grant: &spec.grant,
                        uses: None,
                    };
                    let public_id = spec.public_id.as_deref();
                    let owner = spec.owner.as_ref().map(Owner::view);
                    marks.push(Mark::of(&view, &spec.digest, public_id, owner, &mut buffer));
                }
                Ok(())
            })?,
            Self::Table(set) => {
                let counts = set.counts();
                marks.reserve_exact(usize::try_from(counts.keys).unwrap_or_default());
                for entry in set.iter() {
                    progress.step("keys compared");
                    let KeyEntry { view, digest, public_id, owner } = &entry;
                    marks.push(Mark::of(view, digest, *public_id, *owner, &mut buffer));
                }
            }
        }
        Ok(marks)
    }

    /// Every secret of the keys `ids`, which are sorted.
    fn keys(&self, ids: &[KeyId], each: &mut dyn FnMut(KeySpec)) -> Result<()> {
        let wanted = |id: &KeyId| ids.binary_search(id).is_ok();
        match self {
            Self::Registry(registry) => registry.scan(&Filter::default(), &mut |located| {
                if wanted(&located.entry.id) {
                    located.entry.specs().for_each(&mut *each);
                }
                Ok(())
            }),
            Self::Table(set) => {
                let found = set.iter().filter(|entry| wanted(&entry.view.id));
                found.filter_map(|entry| entry.to_spec()).for_each(each);
                Ok(())
            }
        }
    }
}

// === impl Mark ===

impl Mark {
    /// `buffer` is there only for reuse.
    fn of(
        view: &KeyView<'_>,
        digest: &Digest,
        public_id: Option<&str>,
        owner: Option<OwnerView<'_>>,
        buffer: &mut Vec<u8>,
    ) -> Self {
        let KeyView { id, org, name, expires, grant, uses: _ } = view;
        buffer.clear();
        // Each text is followed by a byte that no text contains; each number has a fixed length.
        for text in [*org, *name, public_id.unwrap_or("\u{1}"), grant.permissions.joined()] {
            buffer.extend_from_slice(text.as_bytes());
            buffer.push(0);
        }
        buffer.extend_from_slice(&digest.0);
        for time in [*expires, grant.not_before, grant.sunset] {
            buffer.extend_from_slice(&time.map_or(u64::MAX, |at| at).to_be_bytes());
        }
        buffer.push(grant.status as u8);
        buffer.push(grant.kind as u8);
        buffer.push(grant.environment.map_or(u8::MAX, |environment| environment as u8));
        for text in owner.map_or(["\u{1}"; 3], |owner| [owner.subject, owner.email, owner.role]) {
            buffer.extend_from_slice(text.as_bytes());
            buffer.push(0);
        }
        buffer.push(grant.limits.len() as u8);
        for NamedLimit { policy, limit } in grant.limits.iter() {
            buffer.extend_from_slice(policy.as_str().as_bytes());
            buffer.push(0);
            buffer.extend_from_slice(&limit.count().to_be_bytes());
            buffer.extend_from_slice(&limit.burst().to_be_bytes());
            buffer.extend_from_slice(&limit.window().as_millis().to_be_bytes());
        }
        for network in grant.networks.iter() {
            match network.network() {
                IpAddr::V4(address) => buffer.extend_from_slice(&address.to_ipv6_mapped().octets()),
                IpAddr::V6(address) => buffer.extend_from_slice(&address.octets()),
            }
            buffer.extend_from_slice(&[network.prefix_len(), network.max_prefix_len()]);
        }
        let hash = Digest::of(buffer).0;
        let mut of = [0; 16];
        of.iter_mut().zip(hash).for_each(|(to, from)| *to = from);
        Self { id: *id, of }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{Grant, Limit, LimitSet, NetworkSet, PermissionSet};
    use crate::manage::registry::entry::tests::full;

    fn mark(spec: &KeySpec) -> Mark {
        let view = KeyView {
            id: spec.id,
            org: spec.org.as_str(),
            name: &spec.name,
            expires: spec.expires,
            grant: &spec.grant,
            uses: None,
        };
        let owner = spec.owner.as_ref().map(Owner::view);
        Mark::of(&view, &spec.digest, spec.public_id.as_deref(), owner, &mut Vec::new())
    }

    #[test]
    fn a_mark_changes_with_whatever_a_reader_is_shown() {
        let spec = full().specs().next().unwrap();
        let with = |change: &dyn Fn(&mut KeySpec)| {
            let mut other = spec.clone();
            change(&mut other);
            other
        };
        let grant = |change: &dyn Fn(&mut Grant)| with(&|spec| change(&mut spec.grant));
        let others = [
            with(&|s| s.name = "another".into()),
            with(&|s| s.org = crate::core::OrgId::parse("other").unwrap()),
            with(&|s| s.digest = Digest::of(b"another")),
            with(&|s| s.expires = None),
            with(&|s| s.public_id = None),
            with(&|s| s.public_id = Some("".into())),
            grant(&|g| g.status = crate::core::KeyStatus::Revoked),
            grant(&|g| g.kind = crate::core::KeyKind::Single),
            grant(&|g| g.environment = None),
            grant(&|g| g.environment = Some(Environment::Test)),
            grant(&|g| g.not_before = None),
            grant(&|g| g.permissions = PermissionSet::new([])),
            grant(&|g| g.networks = NetworkSet::new([])),
            grant(&|g| g.limits = LimitSet::default()),
            grant(&|g| g.limits = LimitSet::of_key(Some(Limit::parse("600/min").unwrap()))),
            grant(&|g| g.limits = g.limits.without("search")),
            grant(&|g| g.sunset = None),
            with(&|s| s.owner = None),
            with(&|s| s.owner = Owner::new("u-17", "", "admin").ok()),
        ];
        assert!(mark(&spec) == mark(&spec.clone()));
        for (n, other) in others.iter().enumerate() {
            assert!(mark(other) != mark(&spec), "{n}");
        }
    }

    #[test]
    fn marks_that_differ_name_their_key_once() {
        let mark = |id: &str, of: u8| Mark { id: KeyId::parse(id).unwrap(), of: [of; 16] };
        let old = vec![mark("key_c", 1), mark("key_a", 1), mark("key_b", 1), mark("key_b", 2)];
        let new = vec![mark("key_b", 3), mark("key_a", 1), mark("key_d", 1), mark("key_b", 1)];
        let ids: Vec<_> = differing(old, new).iter().map(ToString::to_string).collect();
        assert_eq!(ids, ["key_b", "key_c", "key_d"]);
    }
}
