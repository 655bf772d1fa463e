//! `keys export`: every key without its secret, to be read by people, programs, or `keys import`.

use std::io::Write;
use std::path::PathBuf;

use super::super::error::{Error, Result};
use super::super::files::Replacement;
use super::super::output::{broken, count};
use super::super::registry::entry::{RawOwner, RegistryEntry};
use super::super::registry::{Filter, Registry, toml};
use super::super::session::Session;
use crate::core::OrgId;

#[derive(Debug, clap::Args)]
pub struct Export {
    /// Format to write
    #[arg(long, value_enum, default_value = "toml")]
    pub format: ExportFormat,
    /// Where to write [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Only keys of this organization
    #[arg(long, value_parser = OrgId::parse)]
    pub org: Option<OrgId>,
    /// Leave out the digests; `keys import` cannot read the result
    #[arg(long)]
    pub no_digests: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ExportFormat {
    Csv,
    Jsonl,
    Toml,
}

const COLUMNS: [&str; 25] = [
    "id",
    "org",
    "name",
    "permissions",
    "environment",
    "networks",
    "limit",
    "limits",
    "status",
    "created",
    "not_before",
    "expires",
    "sunset",
    "owner",
    "owner_email",
    "owner_role",
    "prefix",
    "key_prefix",
    "public_id",
    "replaces",
    "note",
    "previous_expires",
    "digest",
    "previous_digest",
    "key_uid",
];

// === impl Export ===

impl Export {
    pub fn run(self, session: &mut Session) -> Result<()> {
        let registry = Registry::open(&session.registry)?;
        match &self.out {
            Some(path) => {
                let mut file = Replacement::of(path)?;
                self.write(&registry, &mut file, &Error::write(path))?;
                file.commit()?;
            }
            None => self.write(&registry, session.output.writer(), &broken)?,
        }
        let orgs = registry.settings.orgs.keys();
        let left = orgs.filter(|org| self.org.as_ref().is_none_or(|wanted| wanted == *org)).count();
        if left > 0 {
            session.output.note(&format!(
                "the limits of {} are not in it: `keygatectl orgs list` shows them, and `keygatectl \
                 orgs limit` sets them in another registry",
                count(left as u64, "org")
            ));
        }
        if !registry.settings.plans.is_empty() {
            session.output.note(
                "plans are not in it: a key that has one is written with the limits that the plan \
                 gives it",
            );
        }
        Ok(())
    }

    fn write<F>(&self, registry: &Registry, to: &mut dyn Write, failed: &F) -> Result<()>
    where
        F: Fn(std::io::Error) -> Error,
    {
        let filter = Filter { org: self.org.clone(), ..Filter::default() };
        if self.format == ExportFormat::Csv {
            return self.write_csv(registry, &filter, to, failed);
        }
        registry.scan(&filter, &mut |located| {
            let text = match self.format {
                ExportFormat::Jsonl => self.json_line(&located.entry.without_plan()),
                ExportFormat::Csv | ExportFormat::Toml => self.toml(&located.entry.without_plan()),
            };
            to.write_all(text.as_bytes()).map_err(failed)
        })?;
        to.flush().map_err(failed)
    }

    fn write_csv<F>(
        &self,
        registry: &Registry,
        filter: &Filter,
        to: &mut dyn Write,
        failed: &F,
    ) -> Result<()>
    where
        F: Fn(std::io::Error) -> Error,
    {
        let is_shown = |column: &str| !(self.no_digests && column.ends_with("digest"));
        let columns: Vec<_> = COLUMNS.into_iter().filter(|column| is_shown(column)).collect();
        let mut csv = csv::Writer::from_writer(to);
        csv.write_record(columns).map_err(|e| failed(e.into()))?;
        registry.scan(filter, &mut |located| {
            let cells = cells(&located.entry.without_plan());
            let shown = cells.iter().zip(COLUMNS).filter(|(_, column)| is_shown(column));
            csv.write_record(shown.map(|(cell, _)| cell)).map_err(|e| failed(e.into()))
        })?;
        csv.flush().map_err(failed)
    }

    fn json_line(&self, entry: &RegistryEntry) -> String {
        let mut value = serde_json::to_value(entry.raw()).unwrap_or_default();
        if let Some(map) = value.as_object_mut().filter(|_| self.no_digests) {
            map.remove("digest");
            map.remove("previous");
        }
        let mut line = value.to_string();
        line.push('\n');
        line
    }

    fn toml(&self, entry: &RegistryEntry) -> String {
        let text = toml::print(entry);
        let is_digest =
            |line: &str| line.starts_with("digest = ") || line.starts_with("previous = ");
        let kept = text.lines().filter(|line| !(self.no_digests && is_digest(line)));
        kept.flat_map(|line| [line, "\n"]).chain(["\n"]).collect()
    }
}

/// In the order of [`COLUMNS`].
fn cells(entry: &RegistryEntry) -> [String; 25] {
    let raw = entry.raw();
    let text = |field: Option<std::borrow::Cow<'_, str>>| field.unwrap_or_default().into_owned();
    let time = |stamp: Option<super::super::registry::entry::RawTime>| {
        stamp.map_or_else(String::new, |s| s.0)
    };
    let (previous_digest, previous_expires) = raw
        .previous
        .map(|previous| (previous.digest.into_owned(), previous.expires.0))
        .unwrap_or_default();
    let RawOwner { subject, email, role } = raw.owner.unwrap_or_default();
    let [subject, email, role] = [subject, email, role].map(std::borrow::Cow::into_owned);
    [
        raw.id.into_owned(),
        raw.org.into_owned(),
        raw.name.into_owned(),
        raw.permissions.join(" "),
        text(raw.environment),
        raw.networks.join(" "),
        text(raw.limit),
        raw.limits.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join("; "),
        entry.status.as_str().to_owned(),
        time(raw.created),
        time(raw.not_before),
        time(raw.expires),
        time(raw.sunset),
        subject,
        email,
        role,
        text(raw.prefix),
        text(raw.key_prefix),
        text(raw.public_id),
        text(raw.replaces),
        text(raw.note),
        previous_expires,
        raw.digest.into_owned(),
        previous_digest,
        text(raw.uid),
    ]
}
