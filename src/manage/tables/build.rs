//! `keygatectl table build`: a table from the registry, or from other sources, within a memory
//! bound.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::super::error::{Error, FileFault, Result};
use super::super::files;
use super::super::keys::import::collect::{ImportItem, Wider};
use super::super::keys::import::lines::read_csv;
use super::super::publish::compare::MeantArgs;
use super::super::publish::target::{Destination, PublishOrigin, Published};
use super::super::publish::terms::{MEMORY, SigningArgs, Spill, Terms};
use super::super::publish::trusted::TrustedArgs;
use super::super::publish::{self, fold};
use super::super::registry::change::{Change, Check, check_serial};
use super::super::registry::entry::{FieldFault, RawEntry, RegistryEntry};
use super::super::registry::settings::is_audience;
use super::super::registry::{Filter, Form, Registry, jsonl};
use super::super::session::Session;
use super::super::time::When;
use crate::core::KeySpec;
use crate::table::Acknowledge;
use crate::table::write::BodyBuilder;
use crate::table::{FileKind, TableFormat};

#[derive(Debug, clap::Args)]
pub struct Build {
    /// File to write [default: `table` of the registry's [publish]]
    #[arg(long, short, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Build from this file instead of the registry: `.toml`, `.jsonl` or `.csv`, with digests;
    /// repeatable. Neither reads nor changes the registry
    #[arg(long = "from", value_name = "FILE", requires = "serial", requires = "audience")]
    pub sources: Vec<PathBuf>,
    /// Serial of a table from other sources, or the serial to continue from after you lost a
    /// registry
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub serial: Option<u64>,
    /// Name of the deployments that the table is for [default: the registry's]
    #[arg(long, value_name = "NAME")]
    pub audience: Option<String>,
    #[command(flatten)]
    pub signing: SigningArgs,
    /// When sidecars stop accepting the table: `30d`, an instant, or `never` [default: `life`]
    #[arg(long, value_name = "WHEN", value_parser = When::parse)]
    pub expires: Option<When>,
    /// Confirm that you intend this: `empty` (no active key), `shrink` (most keys gone); repeatable
    #[arg(long, value_name = "WHAT", value_enum, value_delimiter = ',')]
    pub acknowledge: Vec<Meant>,
    /// Merge this patch into the registry first [default: `patch` of [publish]]
    #[arg(long, value_name = "FILE", conflicts_with = "sources")]
    pub fold_patch: Option<Option<PathBuf>>,
    #[command(flatten)]
    pub trusted: TrustedArgs,
    /// Memory to use at most, such as `64MiB`; sorts on disk what does not fit
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "256MiB")]
    pub memory: usize,
    /// Version of the table format [default: `format` of the registry's [publish], else 1]
    #[arg(long, value_name = "N", value_parser = format)]
    pub format: Option<TableFormat>,
    /// What to do with an unreadable line
    #[arg(long, value_name = "WHAT", value_enum, default_value = "report")]
    pub on_bad_line: OnBadLine,
    // Last: its options have a heading, which would also apply to those after it.
    #[command(flatten)]
    pub meant: MeantArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Meant {
    Empty,
    Shrink,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum OnBadLine {
    /// Report all of them and build nothing
    Report,
    /// Report all of them and build without them
    Skip,
    /// Report the first and build nothing
    Stop,
}

// === impl Meant ===

impl Meant {
    /// The word for it in a manifest.
    pub fn word(self) -> Acknowledge {
        match self {
            Self::Empty => Acknowledge::Empty,
            Self::Shrink => Acknowledge::Shrink,
        }
    }
}

// === impl Build ===

impl Build {
    /// With everything from the registry's settings.
    pub fn of_settings() -> Self {
        Self {
            out: None,
            sources: Vec::new(),
            serial: None,
            audience: None,
            signing: SigningArgs::default(),
            expires: None,
            acknowledge: Vec::new(),
            fold_patch: None,
            trusted: TrustedArgs::default(),
            memory: MEMORY,
            format: None,
            meant: MeantArgs::default(),
            on_bad_line: OnBadLine::Report,
        }
    }

    pub fn run(self, session: &mut Session) -> Result<()> {
        self.signing.check()?;
        if let Some(audience) = self.audience.as_deref().filter(|a| !is_audience(a)) {
            let why = format!("`{audience}` must be 1 to 128 visible ASCII characters");
            return Err(Error::argument("--audience", why));
        }
        let published = if self.sources.is_empty() {
            self.of_registry(session)?
        } else {
            self.of_files(session)?
        };
        published.answer(session)
    }

    fn of_registry(&self, session: &mut Session) -> Result<Published> {
        let check = if self.fold_patch.is_some() { Check::All } else { Check::Touched };
        let change =
            Change::begin(&session.registry, session.lock_timeout, check, &session.output)?;
        let terms = self.terms(Some(change.registry()), session)?;
        let out = self.out.clone().or_else(|| {
            let registry = change.registry();
            registry.settings.publish.table.as_deref().map(|path| registry.relative(path))
        });
        let out = out.ok_or(Error::Missing {
            what: "the file to write",
            hint: "give --out, or set `table` under [publish] in the registry",
        })?;
        files::refuse_no_directory(&out)?;
        let meant = self.meant.acknowledged();
        let trusted = self.trusted.signers(change.registry(), &terms.named)?;
        let fold_patch = self.fold_patch.as_ref();
        let change = fold::published_patch(fold_patch, change, &trusted, &meant, session)?;
        let change = match self.serial {
            Some(serial) => change.at_serial(serial)?,
            None => change,
        };
        let source = PublishOrigin::Held(change.registry());
        let place = Destination { out: &out, base: None, source, meant: &meant };
        place.refuse_signers_of(&terms)?;
        place.refuse_rollback(FileKind::Table, &terms.audience, change.serial())?;
        place.refuse_losses_of(&change, &session.output)?;
        let what = self.meant.record(json!({ "file": out.display().to_string() }));
        let record = session.record(change.serial(), "table build", what);
        let mut records = change.records("table build: fold", &session.stamp(change.serial()));
        records.push(record);
        // The serial is taken. The lock is released before the long part, and the file that was
        // opened is the one that is read.
        let registry = change.commit(&records)?.registry;
        let place = Destination {
            out: &out,
            base: None,
            source: PublishOrigin::Free(&registry),
            meant: &meant,
        };
        self.build(registry.settings.serial, &place, &terms, session)
    }

    fn of_files(&self, session: &Session) -> Result<Published> {
        let terms = self.terms(None, session)?;
        let out = self
            .out
            .clone()
            .ok_or(Error::Missing { what: "the file to write", hint: "give --out" })?;
        files::refuse_no_directory(&out)?;
        let meant = self.meant.acknowledged();
        let place =
            Destination { out: &out, base: None, source: PublishOrigin::Files, meant: &meant };
        let serial = self.serial.unwrap_or_default();
        check_serial(serial)?;
        self.build(serial, &place, &terms, session)
    }

    fn terms(&self, registry: Option<&Registry>, session: &Session) -> Result<Terms> {
        let audience = self
            .audience
            .as_deref()
            .map(Into::into)
            .or_else(|| registry.and_then(|registry| registry.settings.audience.clone()));
        let signers = self.signing.signers(registry)?;
        let named = self.signing.named(&signers)?;
        let life = registry.and_then(|registry| registry.settings.publish.life).map(When::In);
        let expires_at = match self.expires.or(life) {
            Some(when) => {
                when.resolve(session.now()).map_err(|e| Error::argument("--expires", e))?
            }
            None => None,
        };
        Ok(Terms {
            audience: audience.ok_or(Error::Missing {
                what: "the audience",
                hint: "give --audience, or set `audience` in the registry",
            })?,
            signers,
            named,
            expires_at,
            acknowledge: self.acknowledge.iter().map(|meant| meant.word()).collect(),
            memory: self.memory,
            format: self.format,
            message: self.signing.message.clone(),
        })
    }

    fn build(
        &self,
        serial: u64,
        place: &Destination<'_>,
        terms: &Terms,
        session: &Session,
    ) -> Result<Published> {
        let (registry, out) = (place.source.registry(), place.out);
        let mut builder = BodyBuilder::new(Spill::beside(out), terms.memory);
        match registry {
            Some(registry) => publish::begin(&mut builder, registry, terms, out)?,
            None => builder.set_format(terms.format.unwrap_or_default()),
        }
        let mut faults = Vec::new();
        let stop = self.on_bad_line == OnBadLine::Stop;
        let mut progress = session.output.progress();
        let mut push = |spec: &KeySpec| {
            progress.step("keys read");
            builder.push(spec).map_err(|e| Error::build(out, e))
        };
        match registry {
            Some(registry) => {
                registry.scan_with(&Filter::default(), &mut faults, &mut |located| {
                    located.entry.specs().try_for_each(|spec| push(&spec))
                })?;
            }
            None => {
                for source in &self.sources {
                    read_source(source, self.on_bad_line, &mut faults, &mut push)?;
                }
            }
        }
        if !faults.is_empty() {
            progress.end();
            if self.on_bad_line != OnBadLine::Skip {
                if stop {
                    faults.truncate(1);
                }
                let hint = match registry {
                    // Leaving a key out means that nobody can use it.
                    Some(_) => "no table was written; docs/registry.md describes every field",
                    None => "no table was written; --on-bad-line skip builds without these keys",
                };
                return Err(Error::Faults { faults, hint });
            }
            for fault in &faults {
                session.output.warn(&format!("left out: {fault}"));
            }
        }
        progress.say("sorting and writing");
        publish::finish(builder, serial, place, terms, session)
    }
}

/// Every key of a file that is not the registry. Digests only: `keys import` takes plaintext.
fn read_source(
    path: &Path,
    on_bad_line: OnBadLine,
    faults: &mut Vec<FileFault>,
    push: &mut dyn FnMut(&KeySpec) -> Result<()>,
) -> Result<()> {
    let stop = on_bad_line == OnBadLine::Stop;
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    if extension == "csv" {
        let file = File::open(path).map_err(Error::read(path))?;
        let mut reader = io::BufReader::with_capacity(1 << 18, file);
        return read_csv(&mut reader, path, &mut |found| match found {
            ImportItem::Fault(fault) if stop => Err(Error::fault(fault, "no table was written")),
            ImportItem::Fault(fault) => {
                faults.push(fault);
                Ok(())
            }
            // A misspelt `expires` must not make keys that never end.
            ImportItem::Lost(lost) | ImportItem::Wider(Wider { fault: lost, .. }) => {
                Err(Error::fault(lost, "no table was written; rename or remove the column"))
            }
            ImportItem::Key(candidate) => {
                let line = candidate.line;
                if candidate.secret.is_some() {
                    let why = "is plaintext; `keygatectl keys import` hashes it on the way";
                    return Err(Error::fault(FileFault::new(path, line, "secret", why), ""));
                }
                match without_registry(&candidate.raw) {
                    Ok(entry) => entry.specs().try_for_each(|spec| push(&spec)),
                    Err(new) => {
                        let place =
                            |FieldFault { field, why }| FileFault::new(path, line, field, why);
                        faults.extend(new.into_iter().map(place));
                        match (stop, faults.first()) {
                            (true, Some(first)) => {
                                Err(Error::fault(first.clone(), "no table was written"))
                            }
                            _ => Ok(()),
                        }
                    }
                }
            }
        });
    }
    if Form::of(path) == Form::JsonLines && !jsonl::is_registry(path)? {
        return jsonl::plain(path, faults, &mut |raw: RawEntry<'_>| match without_registry(&raw) {
            Ok(entry) => entry.specs().try_for_each(|spec| push(&spec)).map(|()| Vec::new()),
            Err(faults) => Ok(faults),
        });
    }
    let registry = Registry::open(path)?;
    registry.scan_with(&Filter::default(), faults, &mut |located| {
        located.entry.specs().try_for_each(|spec| push(&spec))
    })
}

/// A key of a file that is not a registry, and so has no plans.
fn without_registry(raw: &RawEntry<'_>) -> std::result::Result<RegistryEntry, Vec<FieldFault>> {
    let mut entry = raw.parse()?;
    entry.resolve_plan(&BTreeMap::new()).map_err(|fault| vec![fault])?;
    Ok(entry)
}

/// `1` or `2`.
pub fn format(text: &str) -> std::result::Result<TableFormat, &'static str> {
    let number = text.parse().ok().and_then(TableFormat::of_number);
    number.ok_or("must be 1 or 2")
}

/// `64MiB`, `1GiB`, or bytes.
fn size(text: &str) -> std::result::Result<usize, &'static str> {
    const BAD: &str = "must look like `64MiB`: a number with KiB, MiB or GiB";
    let units = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
    let unit = units.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)));
    let (number, factor) = unit.unwrap_or((text, 1usize));
    number.trim().parse::<usize>().ok().and_then(|n| n.checked_mul(factor)).ok_or(BAD)
}
