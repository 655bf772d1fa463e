//! Makes tables and patches from the registry and puts them where sidecars find them. A file is
//! built next to the target, signed, and renamed over it only if nothing newer is there.

pub mod compare;
pub mod cosigned;
pub mod elsewhere;
pub mod fold;
pub mod head;
pub mod losses;
pub mod meet;
mod opened;
pub mod pending;
pub mod purpose;
pub mod rows;
pub mod signatures;
pub mod target;
pub mod terms;
pub mod trusted;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::compare::{MeantArgs, Ours};
use self::head::head;
use self::losses::Acknowledged;
use self::target::{Destination, PublishOrigin, Published};
use self::terms::{Spill, Terms};
use super::error::{Error, Result};
use super::registry::audit::Record;
use super::registry::change::{Change, Committed};
use super::registry::entry::RegistryEntry;
use super::registry::settings::OnChange;
use super::registry::{Filter, Registry};
use super::session::Session;
use super::signer::{Signer, table_key};
use crate::core::{KeyId, KeySpec, KeyStatus};
use crate::table::write::{
    BodyBuilder, BuildError, PatchDifference, PatchDraft, RemovalOf, UnheldBy,
};
use crate::table::{Acknowledge, KeySet, PublicKey, Table, TableFormat, Trust};

/// Publishing as a part of a change.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Publishing")]
pub struct PublishArgs {
    /// Then build and sign the table into this file
    #[arg(long, value_name = "FILE", conflicts_with = "publish_patch")]
    pub publish: Option<PathBuf>,
    /// Then write and sign a patch for the published table into this file
    #[arg(long, value_name = "FILE")]
    pub publish_patch: Option<PathBuf>,
    /// Only change the registry, whatever its [publish] says
    #[arg(long, conflicts_with_all = ["publish", "publish_patch"])]
    pub no_publish: bool,
    /// Table that the patch applies to [default: `table` of the registry's [publish]]
    #[arg(long, value_name = "FILE")]
    pub base: Option<PathBuf>,
    /// Private key that signs; repeatable [default: `signer` of the registry's [publish]]
    #[arg(long = "signer", value_name = "FILE")]
    pub signers: Vec<PathBuf>,
    #[command(flatten)]
    pub meant: MeantArgs,
}

/// What a publication is made of.
#[derive(Debug)]
pub enum Plan {
    Nothing,
    Patch { out: PathBuf, base: PathBuf },
    Table { out: PathBuf },
}

/// Whether something that a command was asked for is in the registry but not yet published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outstanding {
    Nothing,
    Something,
}

/// A patch and the table that it is over.
#[derive(Clone, Copy, Debug)]
pub struct PatchOver<'a> {
    pub out: &'a Path,
    pub base: &'a Path,
}

// === impl Outstanding ===

impl Outstanding {
    pub fn when(is_otherwise: impl FnOnce() -> bool) -> Self {
        if is_otherwise() { Self::Something } else { Self::Nothing }
    }
}

// === impl PublishArgs ===

impl PublishArgs {
    /// Refuses, before anything is changed, what could not be published.
    pub fn check(&self, registry: &Registry, session: &Session) -> Result<()> {
        let plan = self.plan(registry)?;
        let (out, base) = match &plan {
            Plan::Nothing => return Ok(()),
            Plan::Patch { out, base } => {
                head(base)?;
                (out, Some(base.as_path()))
            }
            Plan::Table { out } => (out, None),
        };
        let (meant, source) = (self.meant.acknowledged(), PublishOrigin::Held(registry));
        let terms = self.terms(registry, session)?;
        let place = Destination { out, base, source, meant: &meant };
        place.refuse_signers_of(&terms)
    }

    /// Writes a change, unless publishing it would undo what somebody else has published. Its
    /// records state what is undone on purpose.
    pub fn commit(
        &self,
        change: Change,
        mut records: Vec<Record>,
        session: &Session,
    ) -> Result<Committed> {
        self.compare(&change, session)?;
        for record in &mut records {
            self.meant.note_in(&mut record.what);
        }
        change.commit(&records)
    }

    /// Refuses a change, before it is written, if publishing it would undo what somebody else has
    /// published.
    fn compare(&self, change: &Change, session: &Session) -> Result<()> {
        let plan = self.plan(change.registry())?;
        let meant = self.meant.acknowledged();
        let source = PublishOrigin::Held(change.registry());
        refuse_inexpressible(&plan, change)?;
        let place = match &plan {
            Plan::Nothing => return Ok(()),
            Plan::Table { out } => Destination { out, base: None, source, meant: &meant },
            Plan::Patch { out, base } => {
                Destination { out, base: Some(base), source, meant: &meant }
            }
        };
        match place.refuse_losses_of(change, &session.output) {
            // A newer file is never overwritten. The change is made all the same, and its author
            // learns of it when it cannot be published.
            Err(Error::Raced { .. }) => Ok(()),
            judged => judged,
        }
    }

    /// The command that publishes a change, if the change itself does not.
    pub fn left_to_do(&self, registry: &Registry) -> Result<Option<String>> {
        match self.plan(registry)? {
            Plan::Nothing => pending::command(registry).map(Some),
            Plan::Patch { .. } | Plan::Table { .. } => Ok(None),
        }
    }

    /// Publishes a change that was written, or reports that nothing publishes it.
    pub fn after(&self, committed: &Committed, session: &mut Session) -> Result<()> {
        if let Some(command) = self.left_to_do(&committed.registry)? {
            not_published(&command, session);
            return Ok(());
        }
        let plan = self.plan(&committed.registry)?;
        let published = self.publish_change(&plan, committed, session);
        match published {
            Ok(None) => Ok(()),
            Ok(Some(published)) => {
                published.tell(session);
                Ok(())
            }
            Err(e) => Err(Error::Unpublished {
                serial: committed.serial,
                command: pending::command_of(&committed.registry, &plan, self),
                source: Box::new(e),
            }),
        }
    }

    /// Publishes what an earlier command has failed to publish, when the same command, given again,
    /// finds nothing to change.
    pub fn make_up(
        &self,
        change: Change,
        pending: Outstanding,
        action: &'static str,
        session: &mut Session,
    ) -> Result<()> {
        if pending == Outstanding::Nothing {
            return Ok(());
        }
        if let Some(command) = self.left_to_do(change.registry())? {
            not_published(&command, session);
            return Ok(());
        }
        let what = serde_json::json!({ "published": "again" });
        let record = session.record(change.serial(), action, what);
        let committed = self.commit(change, vec![record], session)?;
        self.after(&committed, session)
    }

    fn publish_change(
        &self,
        plan: &Plan,
        committed: &Committed,
        session: &Session,
    ) -> Result<Option<Published>> {
        let registry = &committed.registry;
        match plan {
            Plan::Nothing => Ok(None),
            Plan::Table { out } => {
                let terms = self.terms(registry, session)?;
                let meant = self.meant.acknowledged();
                let source = PublishOrigin::Held(registry);
                let place = Destination { out, base: None, source, meant: &meant };
                table(registry, &place, &terms, session).map(Some)
            }
            Plan::Patch { out, base } => {
                let terms = self.terms(registry, session)?;
                let meant = self.meant.acknowledged();
                patch(registry, PatchOver { out, base }, &meant, &terms, session).map(Some)
            }
        }
    }

    fn plan(&self, registry: &Registry) -> Result<Plan> {
        let publish = &registry.settings.publish;
        let table = publish.table.as_deref().map(|path| registry.relative(path));
        let patch = publish.patch.as_deref().map(|path| registry.relative(path));
        let base = || {
            self.base.clone().or_else(|| table.clone()).ok_or(Error::Missing {
                what: "the table that the patch is over",
                hint: "give --base, or set `table` under [publish] in the registry",
            })
        };
        if let Some(out) = &self.publish {
            return Ok(Plan::Table { out: out.clone() });
        }
        if let Some(out) = &self.publish_patch {
            return Ok(Plan::Patch { out: out.clone(), base: base()? });
        }
        Ok(match (publish.on_change, table.clone(), patch) {
            _ if self.no_publish => Plan::Nothing,
            (OnChange::Table, Some(out), _) => Plan::Table { out },
            (OnChange::Patch, _, Some(out)) => Plan::Patch { out, base: base()? },
            _ => Plan::Nothing,
        })
    }

    /// The public keys of each --signer.
    pub fn signing(&self) -> Result<Vec<PublicKey>> {
        self.signers.iter().map(|path| table_key(Signer::load(path)?.public())).collect()
    }

    pub fn terms(&self, registry: &Registry, session: &Session) -> Result<Terms> {
        Terms::of(registry, &self.signers, session)
    }
}

/// Refuses, before it is written, a change that the format to publish in cannot hold.
fn refuse_inexpressible(plan: &Plan, change: &Change) -> Result<()> {
    let (out, format) = match plan {
        Plan::Nothing => return Ok(()),
        Plan::Table { out } => (out, change.new_settings().publish.format),
        Plan::Patch { out, base } => {
            (out, TableFormat::of_number(head(base)?.format).unwrap_or_default())
        }
    };
    let edited = change.edited().map(|(_, new)| new);
    let mut unheld = UnheldBy::new(format);
    for spec in edited.chain(change.added()).flat_map(RegistryEntry::specs) {
        unheld.key(&spec);
    }
    let (was, is) = (change.settings().org_limits(), change.new_settings().org_limits());
    for (org, limits) in &is {
        if was.get(org) != Some(limits) {
            unheld.org(org);
        }
    }
    unheld.refuse().map_err(|e| Error::build(out, e))
}

/// Reports that sidecars do not know of the change.
pub fn not_published(command: &str, session: &mut Session) {
    session.output.note(&format!(
        "not published: no sidecar knows of this yet; this command publishes it:\n  {command}"
    ));
}

/// Builds, signs and publishes a table of the registry's current state.
pub fn table(
    registry: &Registry,
    place: &Destination<'_>,
    terms: &Terms,
    session: &Session,
) -> Result<Published> {
    let out = place.out;
    let mut builder = BodyBuilder::new(Spill::beside(out), terms.memory);
    begin(&mut builder, registry, terms, out)?;
    registry.scan(&Filter::default(), &mut |located| {
        let pushed = located.entry.specs().try_for_each(|spec| builder.push(&spec));
        pushed.map_err(|e| duplicate(e, registry, out))
    })?;
    finish(builder, registry.settings.serial, place, terms, session)
}

/// Passes the registry's settings to the builder of a table.
pub fn begin(
    builder: &mut BodyBuilder<Spill>,
    registry: &Registry,
    terms: &Terms,
    out: &Path,
) -> Result<()> {
    let settings = &registry.settings;
    builder.set_format(terms.format.unwrap_or(settings.publish.format));
    builder.formats(settings.prefixes.values().cloned());
    let limits = settings.org_limits();
    let stated = limits.iter().try_for_each(|(org, limits)| builder.org_limits(org, limits));
    stated.map_err(|e| Error::build(out, e))
}

/// Makes a table of the keys that were pushed, signs it and puts it in place.
pub fn finish(
    builder: BodyBuilder<Spill>,
    serial: u64,
    place: &Destination<'_>,
    terms: &Terms,
    session: &Session,
) -> Result<Published> {
    let out = place.out;
    let body = builder.finish().map_err(|e| match place.source.registry() {
        Some(registry) => duplicate(e, registry, out),
        None => Error::build(out, e),
    })?;
    let purpose = match place.source.registry() {
        Some(registry) => place.purpose(&Ours::Registry(registry), body.active())?,
        None => Vec::new(),
    };
    let issue = terms.issue(serial, &purpose, session);
    if body.active() == 0 && !issue.acknowledge.contains(&Acknowledge::Empty) {
        session.output.warn(
            "the table has no active key, and sidecars refuse such a table (empty)\n\
             hint: create a key first; if that is intended, `keygatectl table build --acknowledge empty`",
        );
    }
    let mut draft = body.into_table(issue).map_err(|e| Error::refused(out, e))?;
    terms.sign(&mut draft, out)?;
    target::write(&mut draft, place, session)
}

/// Two keys that cannot both be in a table, with their lines in the registry.
pub fn duplicate(e: BuildError, registry: &Registry, out: &Path) -> Error {
    let ids: Vec<KeyId> = match &e {
        BuildError::DuplicateDigest(a, b) | BuildError::DuplicatePublicId(a, b) => vec![*a, *b],
        BuildError::DuplicateId(id) | BuildError::ThirdSecret(id) => vec![*id],
        _ => return Error::build(out, e),
    };
    let mut faults = Vec::new();
    for id in ids {
        let filter = Filter { id: Some(id), ..Filter::default() };
        for located in registry.find(&filter).unwrap_or_default() {
            let why = e.to_string().lines().next().unwrap_or_default().to_owned();
            faults.push(super::error::FileFault::new(&registry.path, located.line, "", why));
        }
    }
    faults.sort_by_key(|fault| fault.line);
    faults.dedup();
    match faults.is_empty() {
        true => Error::build(out, e),
        false => Error::Faults { faults, hint: "no table was written" },
    }
}

/// Writes a patch with all differences between the registry and the table at `base`.
pub fn patch(
    registry: &Registry,
    PatchOver { out, base }: PatchOver<'_>,
    meant: &Acknowledged,
    terms: &Terms,
    session: &Session,
) -> Result<Published> {
    let table = opened::table(base, |_| Trust::for_inspection())?;
    let table = table.map_err(|e| Error::refused(base, e))?;
    let stated = table.manifest();
    if *stated.audience != *terms.audience {
        return Err(Error::audience(base, &stated.audience, &terms.audience));
    }
    let serial = registry.settings.serial;
    if stated.serial >= serial {
        return Err(Error::raced(base, stated, serial));
    }
    // Only what was written since this table was made can differ. If the registry cannot tell (it
    // was merged, edited, compacted, or the table is another's), all of it is compared.
    let own = registry.settings.published.iter().find(|artefact| artefact.is(stated));
    let changed = own.map_or(Ok(None), |artefact| registry.changed_since(artefact))?;
    let mut active = 0;
    let mut draft = match &changed {
        Some(changed) => {
            let differing = Differing::of(&table, changed);
            active = differing.active;
            differing.draft
        }
        None => {
            let mut difference = PatchDifference::from(&table);
            registry.scan(&Filter::default(), &mut |located| {
                for spec in located.entry.specs() {
                    active += is_active(&spec);
                    difference.push(spec);
                }
                Ok(())
            })?;
            difference.finish()
        }
    };
    draft.formats(registry.settings.prefixes.values().cloned());
    draft.org_limits(&table, &registry.settings.org_limits());
    if let Some(format) = terms.format {
        draft.set_format(format);
    }
    let source = PublishOrigin::Held(registry);
    let place = Destination { out, base: Some(base), source, meant };
    let ours = match &changed {
        // A key to be dropped may be any key.
        Some(changed)
            if meant.drop.is_empty() && place.has_only(&registry.settings.published)? =>
        {
            Ours::Since { registry, changed }
        }
        _ => Ours::Registry(registry),
    };
    let purpose = place.purpose(&ours, active)?;
    let draft = draft.build(terms.issue(serial, &purpose, session));
    let mut draft = draft.map_err(|e| Error::patch(out, e))?;
    terms.sign(&mut draft, out)?;
    target::write(&mut draft, &place, session)
}

/// What differs from a table.
struct Differing {
    draft: PatchDraft,
    /// Active records afterwards.
    active: u64,
}

impl Differing {
    /// Which keys of `changed` differ from the table, and which of their secrets are gone.
    fn of(table: &Arc<Table>, changed: &[RegistryEntry]) -> Self {
        let mut draft = PatchDraft::over(table);
        let set = KeySet::new(Arc::clone(table), None, &[], None);
        let mut active = set.counts().active;
        let now: std::collections::HashMap<KeyId, &RegistryEntry> =
            changed.iter().map(|entry| (entry.id, entry)).collect();
        for there in set.iter() {
            if let Some(entry) = now.get(&there.view.id)
                && !entry.specs().any(|spec| spec.digest == there.digest)
            {
                draft.remove(there.digest, there.view.id, RemovalOf::Secret);
                active -= there.to_spec().as_ref().map_or(0, is_active);
            }
        }
        for spec in changed.iter().flat_map(RegistryEntry::specs) {
            let there = set.find_digest(&spec.digest).and_then(|there| there.to_spec());
            if there.as_ref() != Some(&spec) {
                active = active + is_active(&spec) - there.as_ref().map_or(0, is_active);
                draft.put(spec);
            }
        }
        Self { draft, active }
    }
}

fn is_active(spec: &KeySpec) -> u64 {
    u64::from(spec.grant.status == KeyStatus::Active)
}
