//! `keys import`: takes over keys that exist already, from other programs' files. Plaintext is
//! hashed on the way and never written.

pub mod collect;
pub mod lines;
pub mod yaml;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::Serialize;
use serde_json::json;

use super::super::error::{Error, Fault, Result};
use super::super::output::count;
use super::super::publish::PublishArgs;
use super::super::registry::change::{Change, Check};
use super::super::session::Session;
use super::super::time::When;
use super::create;
use crate::core::address::parse_network;
use crate::core::{Environment, Limit, OrgId, Permission};

pub use self::collect::Found;
pub use self::lines::read_csv;

#[derive(Debug, clap::Args)]
pub struct Import {
    /// File to read; `-` for standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// What the file is
    #[arg(long, value_enum)]
    pub format: Option<Format>,
    /// Organization of keys that name none [default: the client's name in the file]
    #[arg(long, value_parser = OrgId::parse)]
    pub org: Option<OrgId>,
    /// Permissions of keys that name none; repeat it, or separate by commas
    #[arg(long = "permission", value_name = "WORD", value_delimiter = ',', value_parser = Permission::parse)]
    pub permissions: Vec<Permission>,
    /// Networks of keys that name none
    #[arg(long = "allow-ip", value_name = "NETWORK", value_delimiter = ',', value_parser = parse_network)]
    pub networks: Vec<IpNet>,
    /// End of keys that name none
    #[arg(long, value_name = "WHEN", value_parser = When::parse)]
    pub expires: Option<When>,
    /// Limit of keys that name none
    #[arg(long, value_parser = create::limit)]
    pub limit: Option<Limit>,
    /// Environment of keys that name none
    #[arg(long = "env", value_name = "ENVIRONMENT", value_parser = Environment::parse)]
    pub environment: Option<Environment>,
    /// Which of the registry's prefixes their secrets have, where only digests are given
    #[arg(long, value_name = "NAME")]
    pub prefix: Option<String>,
    /// The secrets behind imported digests conform to their prefix's checksum
    #[arg(long)]
    pub conforming: bool,
    /// Take secrets of fewer than 16 characters: they can be guessed
    #[arg(long)]
    pub accept_short: bool,
    /// Leave out what cannot be taken over, instead of taking over nothing
    #[arg(long)]
    pub skip_bad: bool,
    /// Report what would be done, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub publish: PublishArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// APISIX consumers: apisix.yaml or the Admin API's JSON
    Apisix,
    /// Comma-separated values with a header line
    Csv,
    /// `credentials` of Envoy's api_key_auth filter, in YAML or JSON
    Envoy,
    /// Lines of `name:sha256`
    Htpasswd,
    /// One JSON object per line
    Jsonl,
    /// Kong's declarative configuration with keyauth_credentials
    Kong,
    /// Kubernetes Secrets in YAML, one key per entry
    Kubernetes,
    /// An nginx `map` from key to client
    NginxMap,
}

/// What was done, or would be.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub format: &'static str,
    pub dry_run: bool,
    pub imported: u64,
    /// Keys that the registry has already.
    pub present: u64,
    pub refused: Vec<Line>,
    /// What the file says and a key cannot hold.
    pub not_carried: Vec<Line>,
    pub warnings: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<u64>,
    /// `Some(false)`: no publication follows, and `publish_with` is the command that publishes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub published: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publish_with: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct Line {
    pub line: u64,
    #[serde(rename = "where")]
    pub place: String,
    pub why: String,
}

// === impl Import ===

impl Import {
    pub fn run(self, session: &mut Session) -> Result<()> {
        let format = self.format.or_else(|| Format::of(&self.file)).ok_or(Error::Missing {
            what: "the format of the file",
            hint: "give --format, one of apisix, csv, envoy, htpasswd, jsonl, kong, kubernetes, \
                   nginx-map",
        })?;
        let mut change = super::begin(session, Check::All)?;
        self.publish.check(change.registry(), session)?;
        if let Some(name) = &self.prefix
            && !change.settings().prefixes.contains_key(name)
        {
            create::form(change.settings(), Some(name), session)?;
        }
        let mut report =
            Report { format: format.as_str(), dry_run: self.dry_run, ..Report::default() };
        let faults = self.gather(format, &mut change, &mut report, session)?;
        if !faults.is_empty() && !self.skip_bad && !self.dry_run {
            let hint = "nothing was imported; --dry-run shows the whole report, --skip-bad leaves \
                        these out";
            return Err(Error::Faults { faults, hint });
        }
        report.refused = faults.iter().map(Line::of).collect();
        if self.dry_run || change.is_empty() {
            report.print(session)?;
            return match (self.dry_run, faults.is_empty()) {
                (true, false) => {
                    session.output.flush()?;
                    Err(Error::Faults { faults, hint: "--skip-bad leaves these out" })
                }
                _ => Ok(()),
            };
        }
        let what = json!({
            "source": self.file.display().to_string(),
            "format": format.as_str(),
            "imported": report.imported,
        });
        let record = session.record(change.serial(), "keys import", what);
        self.publish.compare(&change)?;
        let committed = change.commit(&[record])?;
        report.serial = Some(committed.serial);
        report.publish_with = self.publish.left_to_do(&committed.registry)?;
        report.published = report.publish_with.is_some().then_some(false);
        report.print(session)?;
        session.output.flush()?;
        self.publish.after(&committed, session)
    }

    /// Reads the file into the change. What cannot be taken over is returned.
    fn gather(
        &self,
        format: Format,
        change: &mut Change,
        report: &mut Report,
        session: &Session,
    ) -> Result<Vec<Fault>> {
        let mut faults = Vec::new();
        let mut seen = BTreeMap::new();
        let mut unmarked = BTreeSet::new();
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
        let mut sink = |found: Found| -> Result<()> {
            let candidate = match found {
                Found::Key(candidate) => candidate,
                Found::Fault(fault) => {
                    faults.push(fault);
                    return Ok(());
                }
                Found::Lost(lost) => {
                    report.not_carried.push(Line::of(&lost));
                    return Ok(());
                }
            };
            let (line, place) = (candidate.line, candidate.place.clone());
            let taken =
                match candidate.finish(&defaults, change.settings(), self.prefix.as_deref())? {
                    Ok(taken) => taken,
                    Err(new) => {
                        faults.extend(new.into_iter().map(|(field, why)| {
                            let field = match (place.as_str(), field) {
                                ("", field) => field.to_owned(),
                                (place, "") => place.to_owned(),
                                (place, field) => format!("{place}.{field}"),
                            };
                            Fault::new(path, line, &field, why)
                        }));
                        return Ok(());
                    }
                };
            if let Some(first) = seen.insert(taken.entry.digest, (line, place.clone())) {
                let first = if first.0 > 0 { format!("line {}", first.0) } else { first.1 };
                faults.push(Fault::new(path, line, &place, format!("the same key as at {first}")));
                return Ok(());
            }
            if change.has_digest(&taken.entry.digest) {
                report.present += 1;
                return Ok(());
            }
            for name in collect::unmarks(&taken, change.settings(), self.conforming) {
                unmarked.insert(name);
            }
            if change.add(taken.entry) {
                report.imported += 1;
            } else {
                let why = "its id or public id belongs to another key of the registry";
                faults.push(Fault::new(path, line, &place, why));
            }
            Ok(())
        };
        let mut source = open(path)?;
        format.read(source.as_mut(), path, &mut sink)?;
        for name in unmarked {
            if let Some(format) = change.settings_mut().prefixes.get_mut(&name) {
                format.checksummed = false;
            }
            report.warnings.push(format!(
                "prefix `{name}` is no longer marked `checksummed`: a key with it does not, or may \
                 not, conform"
            ));
        }
        if format == Format::NginxMap {
            report.warnings.push(
                "nginx compares the keys of a map without regard to case; keygate does not".into(),
            );
        }
        Ok(faults)
    }
}

// === impl Format ===

impl Format {
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
        sink: &mut dyn FnMut(Found) -> Result<()>,
    ) -> Result<()> {
        match self {
            Self::Apisix => yaml::read_apisix(source, path, sink),
            Self::Csv => lines::read_csv(source, path, sink),
            Self::Envoy => yaml::read_envoy(source, path, sink),
            Self::Htpasswd => lines::read_htpasswd(source, path, sink),
            Self::Jsonl => lines::read_json_lines(source, path, sink),
            Self::Kong => yaml::read_kong(source, path, sink),
            Self::Kubernetes => yaml::read_kubernetes(source, path, sink),
            Self::NginxMap => lines::read_nginx_map(source, path, sink),
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

// === impl Report ===

impl Report {
    fn print(&self, session: &mut Session) -> Result<()> {
        if session.output.json {
            return session.output.json(self);
        }
        let would = if self.dry_run { "would be " } else { "" };
        session.output.line(&format!("{} {would}imported", count(self.imported, "key")))?;
        if self.present > 0 {
            session
                .output
                .line(&format!("{} in the registry already", count(self.present, "key")))?;
        }
        for (title, lines) in
            [("could not be carried", &self.not_carried), ("cannot be imported", &self.refused)]
        {
            if lines.is_empty() {
                continue;
            }
            session.output.line(&format!("{} {title}:", lines.len()))?;
            for line in lines {
                session.output.line(&format!("  {}", line.text()))?;
            }
        }
        for warning in &self.warnings {
            session.output.line(&format!("warning: {warning}"))?;
        }
        match self.serial {
            Some(serial) => session.output.line(&format!("serial {serial}")),
            None => session.output.line("nothing was changed"),
        }
    }
}

// === impl Line ===

impl Line {
    fn of(fault: &Fault) -> Self {
        Self { line: fault.line, place: fault.field.clone(), why: fault.why.clone() }
    }

    fn text(&self) -> String {
        match (self.line, self.place.as_str()) {
            (0, place) => format!("{place}: {}", self.why),
            (line, "") => format!("line {line}: {}", self.why),
            (line, place) => format!("line {line}: {place}: {}", self.why),
        }
    }
}

#[cfg(test)]
mod tests;
