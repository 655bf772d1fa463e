//! Which parts of a registry are not published yet, and the command that publishes it.
//! Imports the registry.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::super::error::Result;
use super::super::files;
use super::super::registry::Registry;
use super::super::registry::entry::RegistryEntry;
use super::super::registry::published::{self, BuildStage, BuiltFile};
use super::super::session::Session;
use super::super::signer::{Signer, table_key};
use super::compare::Standing;
use super::head::{head, signed_by};
use super::losses::Acknowledged;
use super::target::{Destination, PublishOrigin};
use super::{Plan, PublishArgs};
use crate::core::{KeyId, KeySpec, LimitSet, OrgId};
use crate::table::{KeySet, PublicKey, TableFormat};
use crate::wording::shell::quoted_path;

/// Distinguishes keys that are published as they are in the registry from all others.
#[derive(Debug)]
pub enum UnpublishedKeys {
    /// Nothing was ever published from it, or the publication is gone from the registry's own
    /// place.
    All,
    /// The publication is not available: these keys were changed since.
    Changed(BTreeSet<KeyId>),
    Published(Box<PublishedKeys>),
}

/// What is published in the registry's own place.
#[derive(Debug)]
pub struct PublishedKeys {
    keys: KeySet,
    /// Pairs that have two secrets there.
    in_rotation: BTreeSet<KeyId>,
}

/// Orgs whose limits are not published as they are in the registry.
#[derive(Debug)]
pub enum UnpublishedOrgs {
    /// The registry was published, but not to a file that is available.
    Unknown,
    /// With the limits in force instead: none if nothing is published about the org.
    Orgs(BTreeMap<OrgId, LimitSet>),
}

/// What a command reports in JSON about publishing its change.
#[derive(Debug)]
pub struct Publishing {
    /// `None`: publication follows the answer, and the exit code reports its outcome.
    pub published: Option<bool>,
    /// The command that publishes it if nothing else does.
    pub command: Option<String>,
}

// === impl Publishing ===

impl Publishing {
    /// For an answer that is given before its publication.
    pub fn before(command: Option<String>) -> Self {
        Self { published: command.is_some().then_some(false), command }
    }

    /// Adds it to the JSON of an answer.
    pub fn say(&self, answer: &mut Value) {
        if let Value::Object(map) = answer {
            map.insert("published".into(), self.published.into());
            map.insert("publish_with".into(), self.command.clone().into());
        }
    }
}

// === impl UnpublishedKeys ===

impl UnpublishedKeys {
    /// A `keys.jsonl` shows what was written since the last publication, provided that this
    /// publication is still in the registry's own place. What is published is compared in three
    /// other cases: something else is there (an older table that somebody put back, or a table
    /// whose patch is gone), the file was merged or edited, or it is a `keys.toml`. If nothing is
    /// available, the notes next to the registry decide.
    pub fn of(registry: &Registry) -> Result<Self> {
        let table = table_of(registry)?;
        let patch = registry.settings.publish.patch.as_deref().map(|p| registry.relative(p));
        let patches: Vec<&Path> = patch.iter().map(PathBuf::as_path).collect();
        let known = &registry.settings.published;
        // An unreadable publication is no reason to fault the registry here.
        let standing = Standing::at(table.as_deref(), &patches).unwrap_or_default();
        let base = standing.base(registry, known);
        let is_told = |artefact: &&BuiltFile| {
            standing.foreign(known).is_none() && standing.is_in_force(artefact)
        };
        let own = base.filter(is_told);
        let changed = own.map_or(Ok(None), |artefact| registry.changed_since(artefact))?;
        if let Some(changed) = changed {
            return Ok(Self::Changed(changed.iter().map(|entry| entry.id).collect()));
        }
        if let Ok(Some(keys)) = standing.keys() {
            return Ok(Self::Published(Box::new(PublishedKeys::of(keys))));
        }
        if standing.is_gone(registry, known) {
            return Ok(Self::All);
        }
        let after = base.map(|artefact| artefact.serial).or(standing.includes());
        let Some(after) = after else { return Ok(Self::All) };
        let through = registry.settings.serial;
        let noted = published::changed_since(&registry.real, after, through)?;
        Ok(Self::Changed(noted.into_keys().collect()))
    }

    /// Whether the key's published form differs from the registry's, or the key is not published at
    /// all.
    pub fn has(&self, entry: &RegistryEntry) -> bool {
        match self {
            Self::All => true,
            Self::Changed(keys) => keys.contains(&entry.id),
            Self::Published(there) => !there.has_all(entry),
        }
    }
}

// === impl PublishedKeys ===

impl PublishedKeys {
    fn of(keys: KeySet) -> Self {
        let (mut pairs, mut in_rotation) = (BTreeSet::new(), BTreeSet::new());
        for there in keys.iter().filter(|there| there.public_id.is_some()) {
            if !pairs.insert(there.view.id) {
                in_rotation.insert(there.view.id);
            }
        }
        Self { keys, in_rotation }
    }

    fn has_all(&self, entry: &RegistryEntry) -> bool {
        let is_there = |spec: KeySpec| {
            let there = self.keys.find_digest(&spec.digest).and_then(|there| there.to_spec());
            there.is_some_and(|there| there == spec)
        };
        let is_rotated = entry.previous.is_some();
        is_rotated == self.in_rotation.contains(&entry.id) && entry.specs().all(is_there)
    }
}

// === impl UnpublishedOrgs ===

impl UnpublishedOrgs {
    /// Compares the registry with what is published. Skips files of format 1, which holds no limits
    /// of orgs.
    pub fn of(registry: &Registry) -> Result<Self> {
        let settings = &registry.settings;
        let table = table_of(registry)?;
        let patch = settings.publish.patch.as_deref().map(|p| registry.relative(p));
        let patches: Vec<&Path> = patch.iter().map(PathBuf::as_path).collect();
        // An unreadable publication is no reason to fault the registry here.
        let standing = Standing::at(table.as_deref(), &patches).unwrap_or_default();
        if standing.includes().is_none() && !settings.published.is_empty() {
            return Ok(Self::Unknown);
        }
        let plain = TableFormat::V1.number();
        let published = match standing.all().all(|(_, manifest)| manifest.format == plain) {
            true => BTreeMap::new(),
            false => match standing.org_limits() {
                Ok(limits) => limits,
                Err(_) => return Ok(Self::Unknown),
            },
        };
        let stated = settings.org_limits();
        let orgs: BTreeSet<&OrgId> = stated.keys().chain(published.keys()).collect();
        let in_force = |org: &OrgId| published.get(org).cloned().unwrap_or_default();
        let differ = |org: &OrgId| {
            let own = stated.get(org);
            own.map_or(!in_force(org).is_empty(), |own| *own != in_force(org))
        };
        let differing = orgs.into_iter().filter(|org| differ(org));
        Ok(Self::Orgs(differing.map(|org| (org.clone(), in_force(org))).collect()))
    }

    /// `None`: unknown.
    pub fn has(&self, org: &OrgId) -> Option<bool> {
        match self {
            Self::Unknown => None,
            Self::Orgs(orgs) => Some(orgs.contains_key(org)),
        }
    }

    pub fn count(&self) -> usize {
        match self {
            Self::Unknown => 0,
            Self::Orgs(orgs) => orgs.len(),
        }
    }

    /// Orgs that no longer have limits in the registry, but still have some in force.
    pub fn removed<'u>(&'u self, registry: &'u Registry) -> impl Iterator<Item = &'u OrgId> {
        let orgs = match self {
            Self::Unknown => None,
            Self::Orgs(orgs) => Some(orgs.keys()),
        };
        orgs.into_iter().flatten().filter(|org| !registry.settings.orgs.contains_key(org))
    }
}

/// How a command for this registry begins.
pub fn program(registry: &Registry) -> String {
    match is_default(&registry.path) {
        true => "keygatectl".to_owned(),
        false => format!("keygatectl -r {}", quoted_path(&registry.path)),
    }
}

/// The command that publishes the registry as it is; `FILE` is a placeholder that only its user can
/// fill in.
pub fn command(registry: &Registry) -> Result<String> {
    if let Some(table) = table_of(registry)?
        && let Some(several) = several(registry, &table)
    {
        return Ok(several);
    }
    let mut words = vec![program(registry)];
    words.extend(["table".to_owned(), "build".to_owned()]);
    let publish = &registry.settings.publish;
    let there = table_of(registry)?;
    if publish.table.is_none() {
        let table = there.as_deref().map_or_else(|| "FILE".to_owned(), quoted_path);
        words.extend(["--out".to_owned(), table]);
    }
    if publish.signer.is_none() {
        // Where `signer new` puts it. Once the signer has changed, sidecars refuse files that the
        // previous one signs.
        let signer = registry.path.with_file_name("signer.pem");
        let is_good = signer.exists() && there.is_none_or(|table| is_named(&signer, &table));
        let signer = if is_good { quoted_path(&signer) } else { "FILE".to_owned() };
        words.extend(["--signer".to_owned(), signer]);
    }
    Ok(words.join(" "))
}

/// Whether the published table names this signer. Without a table, anybody may sign.
fn is_named(signer: &Path, table: &Path) -> bool {
    let Ok(manifest) = head(table) else { return true };
    let key = Signer::load(signer).and_then(|signer| table_key(signer.public()));
    key.is_ok_and(|key| manifest.signers.contains(&key.id()))
}

/// The commands that publish over a table with several signers; one signature would not be enough.
fn several(registry: &Registry, table: &Path) -> Option<String> {
    let (meant, source) = (Acknowledged::default(), PublishOrigin::Held(registry));
    let place = Destination { out: table, base: None, source, meant: &meant };
    let own = place.own_signer();
    let mut missing = signed_by(table).ok().filter(|keys| keys.len() > 1)?;
    match own {
        Some(own) => missing.retain(|key| key.id() != own),
        // The first to sign, with `--signer FILE`.
        None => drop(missing.pop()),
    }
    Some(commands_of_several(registry, &place, &missing))
}

/// The commands by which several signers publish, each on a separate machine. `missing` are those
/// who have signed what is published at `place` and do not sign here. `FILE` is the private key of
/// the signer who builds, `FILE-OF-ID` that of a signer by its id.
pub fn commands_of_several(
    registry: &Registry,
    place: &Destination<'_>,
    missing: &[PublicKey],
) -> String {
    let program = program(registry);
    let out = quoted_path(place.out);
    // No `.kgp` next to a table that is not one of the published patches.
    let (build, draft) = match place.base {
        Some(base) => (format!("patch --base {}", quoted_path(base)), "patch.draft"),
        None => ("table build".to_owned(), "table.draft"),
    };
    let signer = match &registry.settings.publish.signer {
        Some(_) => "",
        None => " --signer FILE",
    };
    let named: String = missing.iter().map(|key| format!(" --signer-public {key}")).collect();
    let mut commands = vec![format!("{program} {build}{signer}{named} --out {draft}")];
    let base = place.base.map(|base| format!(" --base {}", quoted_path(base))).unwrap_or_default();
    // All but the last sign the draft itself; the last puts it in place.
    for (at, key) in missing.iter().enumerate() {
        let id = key.id().to_string();
        let file = id.trim_start_matches("ed25519:");
        let target = match at + 1 == missing.len() {
            true => format!("{base} --out {out}"),
            false => String::new(),
        };
        commands.push(format!(
            "{program} table attach-signature {draft} --signer FILE-OF-{file}{target}"
        ));
    }
    commands.join(" && ")
}

/// The command that publishes what a change has failed to publish, with the same options.
pub fn command_of(registry: &Registry, plan: &Plan, publish_args: &PublishArgs) -> String {
    let signers = &publish_args.signers;
    let publish = &registry.settings.publish;
    let is_set = |set: &Option<PathBuf>, path: &Path| {
        set.as_ref().is_some_and(|set| registry.relative(set) == path)
    };
    let mut named: Vec<(&str, &Path)> = Vec::new();
    let command = match plan {
        Plan::Nothing | Plan::Table { .. } => "table build",
        Plan::Patch { .. } => "patch",
    };
    match plan {
        Plan::Nothing => {}
        Plan::Table { out } if is_set(&publish.table, out) => {}
        Plan::Table { out } => named.push(("--out", out)),
        Plan::Patch { out, base } => {
            named.push(("--out", out));
            if !is_set(&publish.table, base) {
                named.push(("--base", base));
            }
        }
    }
    named.extend(signers.iter().map(|signer| ("--signer", signer.as_path())));
    let options = named.iter().map(|(option, path)| format!(" {option} {}", quoted_path(path)));
    let meant = &publish_args.meant;
    let fewer = if meant.fewer_signatures { " --fewer-signatures" } else { "" };
    let new = if meant.new_signer { " --new-signer" } else { "" };
    format!("{} {command}{}{fewer}{new}", program(registry), options.collect::<String>())
}

/// Reports that limits of orgs are not in force as the registry states them.
pub fn note_orgs(
    registry: &Registry,
    unpublished: &UnpublishedOrgs,
    session: &mut Session,
) -> Result<()> {
    let whose = match unpublished.count() {
        0 => return Ok(()),
        1 => "1 org".to_owned(),
        many => format!("{many} orgs"),
    };
    let command = command(registry)?;
    session.output.note(&format!(
        "the limits of {whose} are not published as `keygatectl orgs list` shows them; this \
         command publishes the registry:\n  {command}"
    ));
    Ok(())
}

/// Where the registry publishes to: its setting, or its newest table in the same folder.
fn table_of(registry: &Registry) -> Result<Option<PathBuf>> {
    let known = &registry.settings.published;
    if let Some(path) = &registry.settings.publish.table {
        return Ok(Some(registry.relative(path)));
    }
    if known.is_empty() {
        return Ok(None);
    }
    let beside = files::siblings(&registry.path, "kgt")?;
    let made = beside.into_iter().filter_map(|path| {
        let manifest = head(&path).ok()?;
        let is_own = |a: &BuiltFile| a.stage == BuildStage::Published && a.is(&manifest);
        known.iter().any(is_own).then_some((manifest.serial, path))
    });
    Ok(made.max().map(|(_, path)| path))
}

/// Whether keygatectl finds this registry without `--registry`.
fn is_default(path: &Path) -> bool {
    let (toml, lines) = (Path::new("keys.toml"), Path::new("keys.jsonl"));
    path == toml || path == lines && !toml.exists()
}
