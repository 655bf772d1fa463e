//! Do configuration and table fit together? This answers before a sidecar is started with them.
//! Imports clock, config, core, exit, exposure, mounts, reload, table and wording.

mod expiry;
mod limits;
mod load;
mod observing;
mod writable;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::path::Path;

use serde::Serialize;

use crate::config::{Config, TableSource};
use crate::core::route::{Needs, Require};
use crate::core::{
    Access, BasicForm, CredentialSource, Grant, KeyKind, KeyStatus, KeyView, Now, Permission, Route,
};
use crate::exposure::ExposureCheck;
use crate::mounts::Mounts;
use crate::reload::Preview;
use crate::table::{KeyEntry, KeySet};
use crate::wording::count::count;
use crate::wording::shell::quoted_path;

use self::limits::LimitFindings;
pub use self::load::{Instead, LoadError, load};
/// A user token, judged by the files on this machine.
pub use crate::reload::judge_offline;

/// What was checked, and what deserves a second look.
#[derive(Debug, Serialize)]
pub struct CheckReport {
    pub config: String,
    pub routes: usize,
    /// Ids of the routes that go to each of `[upstreams.NAME]`; all others go to `[upstream]`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub upstreams: BTreeMap<String, Vec<String>>,
    pub sources: usize,
    /// `None`: the table was not checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<TableReport>,
    /// Mismatches between the two; a start would proceed all the same.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<Finding>,
    pub findings: Vec<Finding>,
    /// What could not be tried on this machine, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_checked: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct TableReport {
    pub serial: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patch_serial: Option<u64>,
    pub signers: Vec<String>,
    pub keys: u64,
    pub active: u64,
    pub disabled: u64,
    pub revoked: u64,
    /// Keys that are planted to be stolen.
    pub canary: u64,
    /// Keys that are active, have not expired, and fit this deployment's environment.
    pub usable: u64,
}

/// Something that is allowed, but is seldom meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// A stable word.
    pub kind: &'static str,
    /// A route's or key's id, or a key of the configuration.
    pub subject: String,
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Up to this many keys that open nothing are named individually.
const NAMED: usize = 20;

/// What can be said about the configuration without a table. `serve` logs the same at its start and
/// after a reload.
pub fn notes(config: &Config, now: Now) -> Vec<Finding> {
    let mut findings: Vec<Finding> = config
        .warnings
        .iter()
        .map(|w| Finding {
            kind: "config",
            subject: w.key.clone(),
            message: w.message.clone(),
            hint: w.hint.clone(),
        })
        .collect();
    routes_alone(config, &mut findings);
    writable::look(config, &mut findings);
    unread_patch(config, &mut findings);
    if let Some(observe) = &config.settings.policy.observe {
        observing::look(observe, now, &mut findings);
    }
    findings
}

/// A patch next to the table that nothing reads: revocations in it would wait for the next table.
fn unread_patch(config: &Config, findings: &mut Vec<Finding>) {
    let (TableSource::Path(table), None) = (&config.table.source, &config.table.patch) else {
        return;
    };
    let patch = table.with_extension("kgp");
    if patch != *table && patch.is_file() {
        findings.push(Finding {
            kind: "patch_unread",
            subject: "table.patch".to_owned(),
            message: format!(
                "is not set, and {} lies beside the table: what it revokes works until the next table",
                patch.display()
            ),
            hint: Some(format!("set `table.patch` to {}", quoted_path(&patch))),
        });
    }
}

/// `loaded`: `None` to check only the configuration.
pub fn check(file: &Path, config: &Config, loaded: Option<&Preview>, now: Now) -> CheckReport {
    let mut findings = notes(config, now);
    if let Ok(mounts) = Mounts::read() {
        mounted_alone(file, config, &mounts, &mut findings);
    }
    // A check of only the configuration reports the same on every machine.
    if loaded.is_some() {
        exposed(config, &mut findings);
    }
    if let Some(refusal) = loaded.and_then(|l| l.restricted.as_ref()) {
        findings.push(Finding {
            kind: "patch_restricted",
            subject: "table.patch".to_owned(),
            message: format!(
                "only its restrictions are in force ({}): {refusal}",
                refusal.reason()
            ),
            hint: None,
        });
    }
    if let Some(refusal) = loaded.and_then(|l| l.unused.as_ref()) {
        findings.push(Finding {
            kind: "patch_unused",
            subject: "table.patch".to_owned(),
            message: format!("is of no use to this table ({}): {refusal}", refusal.reason()),
            hint: Some("publish a patch over the table in force".to_owned()),
        });
    }
    let table = loaded.map(|l| together(config, &l.keys, now, &mut findings));
    let policy = &config.settings.policy;
    let limits = loaded.map(|l| limits::look(&policy.limits, &policy.routes, &l.keys));
    let LimitFindings { mut errors, warnings } = limits.unwrap_or_default();
    findings.extend(warnings);
    if let Some(loaded) = loaded {
        let (after, observe) = (config.table.after_expiry, policy.observe.as_deref());
        let expiry = expiry::look(after, observe, &loaded.keys, now);
        errors.extend(expiry.error);
        findings.extend(expiry.warning);
    }
    CheckReport {
        config: file.display().to_string(),
        routes: config.settings.policy.routes.len(),
        upstreams: routes_by_upstream(config),
        sources: config.settings.sources.len(),
        table,
        errors,
        findings,
        not_checked: Vec::new(),
    }
}

/// Ids of the routes that go to each of `[upstreams.NAME]`.
fn routes_by_upstream(config: &Config) -> BTreeMap<String, Vec<String>> {
    let mut by_name = BTreeMap::<String, Vec<String>>::new();
    for named in &config.upstreams {
        by_name.entry(named.name.to_string()).or_default();
    }
    for route in config.settings.policy.routes.iter() {
        if let Some(name) = config.settings.upstream_name(route.upstream) {
            by_name.entry(name.to_owned()).or_default().push(route.id.to_string());
        }
    }
    by_name
}

/// What can be said about the routes without a table.
fn routes_alone(config: &Config, findings: &mut Vec<Finding>) {
    let settings = &config.settings;
    let takes_all = settings.sources.iter().any(|source| match source {
        CredentialSource::Bearer { prefixes } | CredentialSource::Basic { prefixes, .. } => {
            prefixes.own(b"")
        }
        _ => false,
    });
    for route in settings.policy.routes.iter() {
        if matches!(route.access, Access::KeyOrPass(_)) && takes_all {
            findings.push(Finding::route(
                route,
                "everything_ours",
                "is key-or-pass, but every `authorization` counts as a key of ours, so that no \
                 user token can pass",
                "give the source the `prefixes` of your keys",
            ));
        }
    }
}

/// Files whose replacement a sidecar running here would never see.
fn mounted_alone(file: &Path, config: &Config, mounts: &Mounts, findings: &mut Vec<Finding>) {
    let watched = config.watched_files();
    let named = watched.iter().map(|watched| (watched.key, watched.path.as_path()));
    for (key, path) in std::iter::once(("configuration", file)).chain(named) {
        for point in mounts.files_at(path) {
            findings.push(Finding {
                kind: "mounted_file",
                subject: key.to_owned(),
                message: format!(
                    "{} is a mount of its own and will never see a replacement: what is renamed \
                     into its place outside does not arrive here",
                    point.display()
                ),
                hint: Some("mount the directory that holds it, without subPath".to_owned()),
            });
        }
    }
}

/// A service that runs here and can be reached without keygate.
fn exposed(config: &Config, findings: &mut Vec<Finding>) {
    for (key, upstream) in config.all_upstreams() {
        let found = ExposureCheck::of(config, upstream).look();
        if let Some(message) = found.message() {
            findings.push(Finding {
                kind: "upstream_exposed",
                subject: format!("{key}.url"),
                message,
                hint: Some(found.hint().to_owned()),
            });
        }
    }
}

/// What the table's keys can and cannot do here.
fn together(config: &Config, keys: &KeySet, now: Now, findings: &mut Vec<Finding>) -> TableReport {
    let routes: Vec<&Route> = config.settings.policy.routes.iter().collect();
    let gated: Vec<(&Route, &Needs)> =
        routes.iter().filter_map(|r| Some((*r, r.access.needs()?))).collect();
    let mut opened = vec![false; gated.len()];
    let mut held: Vec<Permission> = Vec::new();
    let mut idle: Vec<String> = Vec::new();
    let (mut usable, mut idle_keys) = (0u64, 0u64);
    let mut stranded: [u64; 2] = [0, 0];
    let carried = carried(&config.settings.sources);
    let mut nameless: Vec<_> = (0..=config.upstreams.len()).map(NamelessKeys::of).collect();
    // Many keys share a grant; whether it opens anything is decided once for each.
    let mut verdicts: HashMap<*const Grant, bool> = HashMap::new();
    for entry in keys.iter() {
        let view = entry.view;
        if !is_usable(config, &view, now) {
            continue;
        }
        usable += 1;
        nameless.iter_mut().for_each(|of| of.look_at(config, &entry));
        let grant = view.grant;
        match grant.kind {
            KeyKind::Pair if !carried.pairs => stranded[0] += 1,
            KeyKind::Single if !carried.singles => stranded[1] += 1,
            _ => {}
        }
        let opens = *verdicts.entry(std::ptr::from_ref(grant)).or_insert_with(|| {
            let mut any = false;
            for ((_, needs), opened) in gated.iter().zip(&mut opened) {
                if needs.met_by(&grant.permissions) {
                    *opened = true;
                    any = true;
                }
            }
            for word in grant.permissions.iter() {
                if !held.contains(word) {
                    held.push(word.clone());
                }
            }
            any
        });
        if !opens {
            idle_keys += 1;
            if idle.len() < NAMED {
                idle.push(view.id.to_string());
            }
        }
    }
    for ((route, needs), opened) in gated.iter().zip(&opened) {
        if !opened && usable > 0 {
            findings.push(closed(route, needs, &held));
        }
    }
    if idle_keys > 0 {
        let more = idle_keys.saturating_sub(idle.len() as u64);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        findings.push(Finding {
            kind: "opens_nothing",
            subject: idle.join(", "),
            message: format!("{}{more}: no rule is met by what they hold", count(idle_keys, "key")),
            hint: Some("add a permission to them, or revoke them".to_owned()),
        });
    }
    findings.extend(nameless.into_iter().filter_map(|of| of.finding(config)));
    for (held, kind, want) in [(stranded[0], "pair", "pair"), (stranded[1], "single key", "header")]
    {
        if held > 0 {
            findings.push(Finding {
                kind: "no_carrier",
                subject: "credentials".to_owned(),
                message: format!("the table has {}, and no source takes such", count(held, kind)),
                hint: Some(format!("add a [[credentials]] with source = \"{want}\"")),
            });
        }
    }
    let counts = keys.counts();
    if usable == 0 {
        findings.push(Finding {
            kind: "no_key",
            subject: "table".to_owned(),
            message: "no key of the table is usable here: every key-protected request is refused"
                .to_owned(),
            hint: Some("check expiry dates and `environment`".to_owned()),
        });
    }
    TableReport {
        serial: keys.serial(),
        patch_serial: keys.patch_serial(),
        signers: keys.table().signed_by().iter().map(|key| key.id().to_string()).collect(),
        keys: counts.keys,
        active: counts.active,
        disabled: counts.disabled,
        revoked: counts.revoked,
        canary: counts.canary,
        usable,
    }
}

/// Keys that lack a claim of one upstream's credential, by the first claim that is missing.
#[derive(Default)]
struct NamelessKeys {
    /// 0: `[upstream]`; n: the n-th of `[upstreams.NAME]`.
    upstream: usize,
    count: u64,
    /// The first ones.
    named: Vec<String>,
    /// Options of `keys edit` that state what is missing.
    options: BTreeSet<&'static str>,
}

// === impl NamelessKeys ===

impl NamelessKeys {
    fn of(upstream: usize) -> Self {
        Self { upstream, ..Self::default() }
    }

    fn look_at(&mut self, config: &Config, entry: &KeyEntry<'_>) {
        let Some(credential) = config.settings.credential_for(self.upstream) else { return };
        let missing = credential.all_missing(&entry.view, entry.owner);
        if missing.is_empty() {
            return;
        }
        self.count += 1;
        self.options.extend(missing.iter().map(|slot| match slot.as_str() {
            "$owner.email" => "--owner-email EMAIL",
            "$owner.role" => "--owner-role ROLE",
            // Every key has the others.
            _ => "--owner SUBJECT",
        }));
        if self.named.len() < NAMED {
            let first = missing.first().map_or("", |slot| slot.as_str());
            self.named.push(format!("{} ({})", entry.view.id, first.trim_start_matches('$')));
        }
    }

    fn finding(self, config: &Config) -> Option<Finding> {
        let (of, requests) = match config.settings.upstream_name(self.upstream) {
            None => ("upstream".to_owned(), "every request".to_owned()),
            Some(name) => (format!("upstreams.{name}"), format!("every request to {name}")),
        };
        let more = self.count.saturating_sub(self.named.len() as u64);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        (self.count > 0).then(|| Finding {
            kind: "no_upstream_identity",
            subject: self.named.join(", ") + &more,
            message: format!(
                "{}: {requests} is 403 no_upstream_identity, because the claims of {of}.credential ask \
                 for what the key does not have",
                count(self.count, "key")
            ),
            hint: Some(format!(
                "state what each lacks (`keygatectl keys edit ID {}`), and publish in format 2",
                self.options.into_iter().collect::<Vec<_>>().join(" ")
            )),
        })
    }
}

/// A key with a later not-before counts: it will be usable.
fn is_usable(config: &Config, key: &KeyView<'_>, now: Now) -> bool {
    let policy = &config.settings.policy;
    let fits = match (policy.environment, key.grant.environment) {
        (Some(ours), Some(its)) => ours == its,
        (_, None) => !policy.require_environment,
        (None, Some(_)) => true,
    };
    key.grant.status == KeyStatus::Active
        && key.expires.is_none_or(|at| now.unix_secs() < at)
        && fits
}

struct CarriedKinds {
    pairs: bool,
    singles: bool,
}

/// Which kinds of keys the sources accept.
fn carried(sources: &[CredentialSource]) -> CarriedKinds {
    let is_pair = |source: &CredentialSource| {
        matches!(
            source,
            CredentialSource::Pair { .. } | CredentialSource::Basic { form: BasicForm::Pair, .. }
        )
    };
    CarriedKinds {
        pairs: sources.iter().any(is_pair),
        singles: sources.iter().any(|source| !is_pair(source)),
    }
}

fn closed(route: &Route, needs: &Needs, held: &[Permission]) -> Finding {
    let missing: Vec<_> =
        needs.permissions.iter().filter(|p| !held.contains(p)).map(Permission::as_str).collect();
    let message = match (missing.as_slice(), needs.require) {
        ([], _) => {
            let all: Vec<_> = needs.permissions.iter().map(Permission::as_str).collect();
            format!("no one key holds all of {}", all.join(", "))
        }
        (missing, Require::All) => format!("no usable key holds {}", missing.join(", ")),
        (missing, Require::Any) => format!("no usable key holds any of {}", missing.join(", ")),
    };
    Finding::route(
        route,
        "permission_not_held",
        &message,
        "check the spelling of the permission, or give it to a key",
    )
}

// === impl Finding ===

impl Finding {
    fn route(route: &Route, kind: &'static str, message: &str, hint: &str) -> Self {
        Self {
            kind,
            subject: format!("route `{}`", route.id),
            message: message.to_owned(),
            hint: Some(hint.to_owned()),
        }
    }
}

impl Finding {
    /// For a log line, which has its own severity.
    pub fn text(&self) -> String {
        let hint = self.hint.as_ref().map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
        format!("{}: {}{hint}", self.subject, self.message)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "warning: {}", self.text())
    }
}

// === impl CheckReport ===

/// For people; programs take the JSON.
impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { config, routes, upstreams, sources, table, errors, findings, not_checked } =
            self;
        let routes = count(*routes as u64, "route");
        let sources = count(*sources as u64, "credential source");
        writeln!(f, "configuration {config}: {routes}, {sources}")?;
        for (name, routes) in upstreams {
            match routes.as_slice() {
                [] => writeln!(f, "upstream {name}: no route")?,
                routes => writeln!(f, "upstream {name}: {}", routes.join(", "))?,
            }
        }
        match table {
            Some(table) => writeln!(f, "{table}")?,
            None => writeln!(f, "table: not looked at")?,
        }
        for error in errors {
            writeln!(f, "error: {}", error.text())?;
        }
        for finding in findings {
            writeln!(f, "{finding}")?;
        }
        for untried in not_checked {
            writeln!(f, "not checked: {untried}")?;
        }
        match findings.len() {
            _ if !errors.is_empty() => writeln!(f, "{}", count(errors.len() as u64, "error")),
            0 => writeln!(f, "ok"),
            n => writeln!(f, "ok, with {}", count(n as u64, "warning")),
        }
    }
}

impl fmt::Display for TableReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "table: serial {}", self.serial)?;
        if let Some(serial) = self.patch_serial {
            write!(f, ", patch {serial}")?;
        }
        write!(f, ", signed by {}; {}", self.signers.join(", "), count(self.keys, "key"))?;
        write!(f, ", {} active, {} disabled", self.active, self.disabled)?;
        write!(f, ", {} revoked", self.revoked)?;
        match self.canary {
            0 => {}
            1 => write!(f, ", 1 canary")?,
            n => write!(f, ", {n} canaries")?,
        }
        write!(f, ", {} usable here", self.usable)
    }
}

#[cfg(test)]
mod tests;
