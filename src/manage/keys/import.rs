//! `keys import`: imports existing keys from other programs' files. Plaintext is
//! hashed on the way and never written.

pub mod apisix;
pub mod collect;
pub mod columns;
pub mod envoy;
pub mod kong;
pub mod kubernetes;
pub mod lines;
pub mod nginx;
pub mod placeholder;
pub mod report;
pub mod rules;
pub mod shape;
pub mod strict_json;
pub mod text;
pub mod yaml;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde_json::json;

use super::super::error::{Error, FileFault, Result};
use super::super::operation::{KeyField, RequestFault};
use super::super::publish::PublishArgs;
use super::super::registry::change::{Change, Check};
use super::super::registry::entry::{FieldFault, parse_limit};
use super::super::session::Session;
use super::super::time::When;
use super::refused::refused;
use crate::core::address::parse_typed_network;
use crate::core::{Environment, Limit, OrgId, Permission};
use crate::wording::shell::quoted;
use crate::wording::visible::one_line;

use self::collect::ImportItem;
use self::report::{ImportReport, ReportLine, Widened};

#[derive(Debug, clap::Args)]
pub struct Import {
    /// File to read; `-` for standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Format of the file
    #[arg(long, value_enum)]
    pub format: Option<ImportFormat>,
    /// Organization of keys without one [default: the client's name in the file]
    #[arg(long, value_parser = OrgId::parse)]
    pub org: Option<OrgId>,
    /// Permissions of keys without any; repeatable or separated by commas
    #[arg(long = "permission", value_name = "WORD", value_delimiter = ',', value_parser = Permission::parse)]
    pub permissions: Vec<Permission>,
    /// Networks of keys without any
    #[arg(long = "allow-ip", value_name = "NETWORK", value_delimiter = ',', value_parser = parse_typed_network)]
    pub networks: Vec<IpNet>,
    /// Expiry of keys without one
    #[arg(long, value_name = "WHEN", value_parser = When::parse)]
    pub expires: Option<When>,
    /// Rate limit of keys without one
    #[arg(long, value_parser = parse_limit)]
    pub limit: Option<Limit>,
    /// Environment of keys without one
    #[arg(long = "env", value_name = "ENVIRONMENT", value_parser = Environment::parse)]
    pub environment: Option<Environment>,
    /// Prefix of the secrets, if the file has only digests
    #[arg(long, value_name = "NAME")]
    pub prefix: Option<String>,
    /// Vouch that the secrets of imported digests have the checksum of their prefix
    #[arg(long)]
    pub conforming: bool,
    /// Accept secrets of fewer than 16 characters, which can be guessed
    #[arg(long)]
    pub accept_short: bool,
    /// Import keys without this restriction of the other program, as the report names it: `PLUGIN`
    /// or `PLUGIN:CLIENT`; repeatable. keygate then admits more than that program did
    #[arg(long, value_name = "NAME")]
    pub allow_wider: Vec<String>,
    /// Read every entry of this Kubernetes Secret, `NAME` or `NAMESPACE/NAME`, as a client's key;
    /// repeatable
    #[arg(long, value_name = "SECRET")]
    pub keys_in: Vec<String>,
    /// Leave out keys that cannot be imported, instead of importing nothing
    #[arg(long)]
    pub skip_bad: bool,
    /// Report what would happen, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub publish: PublishArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ImportFormat {
    /// APISIX consumers: apisix.yaml or the Admin API's JSON
    Apisix,
    /// A table with a header line, separated by commas, semicolons or tabs
    Csv,
    /// `credentials` of Envoy's api_key_auth filter, in YAML or JSON
    Envoy,
    /// Lines of `name:sha256`
    Htpasswd,
    /// One JSON object per line
    Jsonl,
    /// Kong's declarative configuration, as `decK` or `kong config db_export` writes it
    Kong,
    /// Kubernetes Secrets of a gateway (Kong, Authorino, Envoy Gateway, NGINX), with the resources
    /// that refer to them
    Kubernetes,
    /// An nginx `map` from key to client, alone or in a whole configuration
    NginxMap,
}

// === impl Import ===

impl Import {
    pub fn run(self, session: &mut Session) -> Result<()> {
        let format = self.format.or_else(|| ImportFormat::of(&self.file)).ok_or(Error::Missing {
            what: "the format of the file",
            hint: "give --format, one of apisix, csv, envoy, htpasswd, jsonl, kong, kubernetes, \
                   nginx-map",
        })?;
        let mut change = super::begin(session, Check::All)?;
        self.publish.check(change.registry(), session)?;
        if let Some(name) = &self.prefix
            && !change.settings().prefixes.contains_key(name)
        {
            let settings = super::operation_settings(change.settings());
            let unknown = |why| refused(RequestFault { field: KeyField::Prefix, why }.into());
            settings.form(Some(name)).map_err(unknown)?;
        }
        let mut report = ImportReport {
            format: format.as_str(),
            dry_run: self.dry_run,
            ..ImportReport::default()
        };
        let faults = self.gather(format, &mut change, &mut report, session)?;
        if !self.dry_run {
            self.stop_if_wider(&report, &faults)?;
        }
        if !faults.is_empty() && !self.skip_bad && !self.dry_run {
            let hint = match faults.iter().any(FileFault::is_placeholder) {
                true => {
                    "nothing was imported; give a file with the real keys where it has \
                     placeholders; --dry-run shows the whole report, --skip-bad leaves these out"
                }
                false => {
                    "nothing was imported; --dry-run shows the whole report, --skip-bad leaves \
                     these out"
                }
            };
            return Err(Error::Faults { faults, hint });
        }
        report.refused = faults.iter().map(ReportLine::of).collect();
        if self.dry_run || change.is_empty() {
            report.print(session)?;
            session.output.flush()?;
            self.stop_if_wider(&report, &faults)?;
            return match (self.dry_run, faults.is_empty()) {
                (true, false) => {
                    let hint = match faults.iter().any(FileFault::is_placeholder) {
                        true => {
                            "give a file with the real keys where it has placeholders; \
                             --skip-bad leaves these out"
                        }
                        false => "--skip-bad leaves these out",
                    };
                    Err(Error::Faults { faults, hint })
                }
                _ => Ok(()),
            };
        }
        let mut what = json!({
            "source": self.file.display().to_string(),
            "format": format.as_str(),
            "imported": report.imported,
        });
        if !report.wider.is_empty() {
            let names: BTreeSet<_> = report.wider.iter().map(|w| w.name.as_str()).collect();
            what["allowed_wider"] = json!(names);
        }
        let record = session.record(change.serial(), "keys import", what);
        let committed = self.publish.commit(change, vec![record], session)?;
        report.serial = Some(committed.serial);
        report.publish_with = self.publish.left_to_do(&committed.registry)?;
        report.published = report.publish_with.is_some().then_some(false);
        report.print(session)?;
        session.output.flush()?;
        self.publish.after(&committed, session)
    }

    /// Nothing is imported while a restriction would be lost without the operator's consent.
    fn stop_if_wider(&self, report: &ImportReport, faults: &[FileFault]) -> Result<()> {
        let lost: Vec<_> = report.wider.iter().filter(|wider| !wider.allowed).collect();
        if lost.is_empty() {
            return Ok(());
        }
        let fault = |w: &&Widened| FileFault::new(&self.file, w.at.line, &w.at.place, &w.at.why);
        let mut all: Vec<_> = lost.iter().map(fault).collect();
        if !self.skip_bad {
            all.extend_from_slice(faults);
        }
        let names: BTreeSet<_> = lost.iter().map(|wider| wider.name.clone()).collect();
        Err(Error::Wider { faults: all, names: names.into_iter().collect() })
    }

    /// Reads the file into the change. Returns what it cannot import.
    fn gather(
        &self,
        format: ImportFormat,
        change: &mut Change,
        report: &mut ImportReport,
        session: &Session,
    ) -> Result<Vec<FileFault>> {
        let mut faults = Vec::new();
        let mut seen = BTreeMap::new();
        let mut unmarked = BTreeSet::new();
        let mut used = BTreeSet::new();
        let mut told = BTreeSet::new();
        let mut escaped = BTreeMap::new();
        let now = session.now();
        let expires = match self.expires {
            Some(when) => when.resolve(now).map_err(|e| Error::argument("--expires", e))?,
            None => None,
        };
        let defaults = collect::Defaults {
            org: self.org.as_ref(),
            permissions: &self.permissions,
            networks: &self.networks,
            limit: self.limit,
            environment: self.environment,
            expires,
            now,
            accept_short: self.accept_short,
        };
        let path = self.file.as_path();
        let mut progress = session.output.progress();
        let mut sink = |found: ImportItem| -> Result<()> {
            let candidate = match found {
                ImportItem::Key(candidate) => {
                    progress.step("keys read");
                    candidate
                }
                ImportItem::Fault(fault) => {
                    faults.push(fault);
                    return Ok(());
                }
                ImportItem::Lost(lost) => {
                    let line = ReportLine::of(&lost);
                    if told.insert((String::new(), line.clone())) {
                        report.not_carried.push(line);
                    }
                    return Ok(());
                }
                ImportItem::Wider(wider) => {
                    let named = self.allow_wider.iter().filter(|name| wider.is_named(name));
                    let named: Vec<&str> = named.map(String::as_str).collect();
                    let allowed = !named.is_empty();
                    used.extend(named);
                    let (name, at) = (wider.name(), ReportLine::of(&wider.fault));
                    // A plugin for everybody is reported once, whomever it restricts.
                    if !told.insert((name.clone(), at.clone())) {
                        return Ok(());
                    }
                    report.wider.push(Widened { name, allowed, at });
                    return Ok(());
                }
            };
            if self.org.is_none() && candidate.raw.org.is_empty() {
                escaped.extend(collect::escaped_org(&candidate.client));
            }
            let (line, place) = (candidate.line, candidate.place.clone());
            let taken =
                match candidate.finish(&defaults, change.settings(), self.prefix.as_deref())? {
                    Ok(taken) => taken,
                    Err(new) => {
                        faults.extend(new.into_iter().map(|FieldFault { field, why }| {
                            let field = match (place.as_str(), field) {
                                ("", field) => field.to_owned(),
                                (place, "") => place.to_owned(),
                                (place, field) => format!("{place}.{field}"),
                            };
                            FileFault::new(path, line, &field, why)
                        }));
                        return Ok(());
                    }
                };
            if let Some(first) = seen.insert(taken.entry.digest, (line, place.clone())) {
                let first = if first.0 > 0 { format!("line {}", first.0) } else { first.1 };
                faults.push(FileFault::new(
                    path,
                    line,
                    &place,
                    format!("the same key as at {first}"),
                ));
                return Ok(());
            }
            if change.has_digest(&taken.entry.digest) {
                report.present += 1;
                return Ok(());
            }
            let unknown = match self.conforming {
                true => collect::UnknownSecrets::Conform,
                false => collect::UnknownSecrets::MayNotConform,
            };
            for name in collect::unmarks(&taken, change.settings(), unknown) {
                unmarked.insert(name);
            }
            if change.add(taken.entry) {
                report.imported += 1;
            } else {
                let why = "its id or public id belongs to another key of the registry";
                faults.push(FileFault::new(path, line, &place, why));
            }
            Ok(())
        };
        let mut source = open(path)?;
        format.read(source.as_mut(), path, &self.keys_in, &mut sink)?;
        for name in unmarked {
            if let Some(format) = change.settings_mut().prefixes.get_mut(&name) {
                format.checksummed = false;
            }
            report.warnings.push(format!(
                "prefix `{name}` is no longer marked `checksummed`: a key with it does not, or may \
                 not, conform"
            ));
        }
        if let Some((client, org)) = escaped.first_key_value() {
            let more = match escaped.len() {
                1 => String::new(),
                n => format!(", and {} more like it", n - 1),
            };
            report.warnings.push(format!(
                "the org of `{}` is written `{org}`{more}: an org is ASCII without spaces; --org gives \
                 all of them another",
                one_line(client)
            ));
        }
        for name in self.allow_wider.iter().filter(|name| !used.contains(name.as_str())) {
            report
                .warnings
                .push(format!("--allow-wider {}: nothing here has this name", quoted(name)));
        }
        if format == ImportFormat::NginxMap {
            report.warnings.push(
                "nginx compares the keys of a map without regard to case; keygate does not".into(),
            );
        }
        Ok(faults)
    }
}

// === impl ImportFormat ===

impl ImportFormat {
    fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "csv" => Some(Self::Csv),
            "jsonl" | "ndjson" => Some(Self::Jsonl),
            "htpasswd" => Some(Self::Htpasswd),
            _ => None,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Apisix => "apisix",
            Self::Csv => "csv",
            Self::Envoy => "envoy",
            Self::Htpasswd => "htpasswd",
            Self::Jsonl => "jsonl",
            Self::Kong => "kong",
            Self::Kubernetes => "kubernetes",
            Self::NginxMap => "nginx-map",
        }
    }

    fn read(
        self,
        source: &mut dyn BufRead,
        path: &Path,
        keys_in: &[String],
        sink: &mut dyn FnMut(ImportItem) -> Result<()>,
    ) -> Result<()> {
        match self {
            Self::Apisix => apisix::read(source, path, sink),
            Self::Csv => lines::read_csv(source, path, sink),
            Self::Envoy => envoy::read(source, path, sink),
            Self::Htpasswd => lines::read_htpasswd(source, path, sink),
            Self::Jsonl => lines::read_json_lines(source, path, sink),
            Self::Kong => kong::read(source, path, sink),
            Self::Kubernetes => kubernetes::read(source, path, keys_in, sink),
            Self::NginxMap => nginx::read(source, path, sink),
        }
    }
}

fn open(path: &Path) -> Result<Box<dyn BufRead>> {
    if path == Path::new("-") {
        return Ok(Box::new(BufReader::new(std::io::stdin())));
    }
    let file = File::open(path).map_err(Error::read(path))?;
    Ok(Box::new(BufReader::with_capacity(1 << 18, file)))
}

#[cfg(test)]
mod tests;
