//! The settings of a registry: serial, audience, prefixes, where changes are published.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use toml_edit::{ArrayOfTables, DocumentMut, InlineTable, Item, Table, Value};

use super::published::BuiltFile;
use super::raw_limits::parse_limits;
use super::toml::{Piece, syntax_fault};
use super::words::{FieldFault, show_limit};
use crate::core::format::KeyFormat;
use crate::core::{LimitSet, OrgId};
use crate::manage::error::FileFault;
use crate::manage::time;
use crate::table::TableFormat;

/// The version of the registry's own form.
pub const VERSION: u32 = 1;

/// Parsed settings.
#[derive(Clone, Debug)]
pub struct RegistrySettings {
    /// Of the last change. The next change, of any kind, takes the next number.
    pub serial: u64,
    pub audience: Option<Box<str>>,
    /// How secrets are written and recognised, by the word in front of them.
    pub prefixes: BTreeMap<String, KeyFormat>,
    pub default_prefix: Option<String>,
    pub publish: Publish,
    /// Limits of orgs by policy; orgs without any are not here.
    pub orgs: BTreeMap<OrgId, LimitSet>,
    /// The last tables and patches that were made from this registry, the newest last.
    pub published: Vec<BuiltFile>,
}

/// What follows a change, unless options say otherwise. Paths are relative to the registry.
#[derive(Clone, Debug, Default)]
pub struct Publish {
    pub signer: Option<PathBuf>,
    pub table: Option<PathBuf>,
    pub patch: Option<PathBuf>,
    pub on_change: OnChange,
    /// How long a table is valid; `None`: without end.
    pub life: Option<Duration>,
    /// Version of the table format to write. Format 1 until it is said that all sidecars read 2.
    pub format: TableFormat,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnChange {
    #[default]
    Nothing,
    Patch,
    Table,
}

/// Settings as TOML or JSON says them.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawSettings {
    /// Version of the registry's form. Stands first: it tells a settings line of JSON Lines.
    pub registry: u32,
    pub serial: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_prefix: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub prefixes: BTreeMap<String, KeyFormat>,
    #[serde(default, skip_serializing_if = "RawPublish::is_empty")]
    pub publish: RawPublish,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub org: Vec<RawOrg>,
    /// What keygatectl writes down of its publications.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub published: Vec<String>,
}

/// What a registry says of an org.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawOrg {
    pub id: String,
    pub limits: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawPublish {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signer: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patch: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_change: Option<OnChange>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub life: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<u8>,
}

// === impl RawPublish ===

impl RawPublish {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

// === impl RegistrySettings ===

impl RegistrySettings {
    /// From what precedes the first `[[key]]`.
    pub fn from_toml(piece: &Piece, path: &Path) -> Result<Self, Vec<FileFault>> {
        let raw: RawSettings = toml::from_str(&piece.text)
            .map_err(|e| vec![syntax_fault(&e, piece, path, "keys are written as `[[key]]`")])?;
        let line_of = |field: &str| {
            let at = piece.text.lines().position(|line| {
                let line = line.trim_start();
                line.strip_prefix(field).is_some_and(|r| r.trim_start().starts_with('='))
                    || line.starts_with(&format!("[{field}]"))
            });
            at.map_or(piece.line, |at| piece.line + at as u64)
        };
        Self::from_raw(raw, path, &line_of)
    }

    pub fn from_raw(
        raw: RawSettings,
        path: &Path,
        line_of: &dyn Fn(&str) -> u64,
    ) -> Result<Self, Vec<FileFault>> {
        let mut faults = Vec::new();
        let mut fault = |line: u64, field: &str, why: String| {
            faults.push(FileFault::new(path, line, field, why));
        };
        if raw.registry != VERSION {
            let why = format!("this keygatectl reads version {VERSION}, not {}", raw.registry);
            fault(line_of("registry"), "registry", why);
        }
        if raw.serial >= crate::table::manifest::MAX_SERIAL {
            fault(line_of("serial"), "serial", "must be below 2^53 - 1".into());
        }
        if raw.audience.as_deref().is_some_and(|a| !is_audience(a)) {
            let why = "must be 1 to 128 visible ASCII characters".into();
            fault(line_of("audience"), "audience", why);
        }
        for (name, format) in &raw.prefixes {
            let section = format!("prefixes.{name}");
            if let Err(e) = format.validate() {
                fault(line_of(&section), &section, e.to_string());
            }
        }
        if let Some(name) = &raw.default_prefix
            && !raw.prefixes.contains_key(name)
        {
            let why = format!("no section [prefixes.{name}]");
            fault(line_of("default_prefix"), "default_prefix", why);
        }
        let life = raw.publish.life.as_deref().and_then(|text| match time::duration(text) {
            Ok(life) => Some(life),
            Err(e) => {
                fault(line_of("life"), "publish.life", e.to_string());
                None
            }
        });
        let format = match raw.publish.format.map(|n| (n, TableFormat::of_number(n))) {
            None => TableFormat::default(),
            Some((_, Some(format))) => format,
            Some((number, None)) => {
                let why = format!("this keygatectl writes 1 and 2, not {number}");
                fault(line_of("format"), "publish.format", why);
                TableFormat::default()
            }
        };
        let orgs = parse_orgs(&raw.org, |why| fault(line_of("[org]"), "org", why));
        let publish = Publish {
            signer: raw.publish.signer,
            table: raw.publish.table,
            patch: raw.publish.patch,
            on_change: raw.publish.on_change.unwrap_or_default(),
            life,
            format,
        };
        let needs = match publish.on_change {
            OnChange::Nothing => None,
            OnChange::Patch => (publish.patch.is_none() || publish.table.is_none())
                .then_some("`patch` needs `table` and `patch`, the files to write"),
            OnChange::Table => {
                publish.table.is_none().then_some("`table` needs `table`, the file to write")
            }
        };
        if let Some(why) = needs {
            fault(line_of("on_change"), "publish.on_change", why.into());
        }
        if publish.on_change != OnChange::Nothing && publish.signer.is_none() {
            let why = "needs `signer`, the private key's file";
            fault(line_of("on_change"), "publish.on_change", why.into());
        }
        let known: Vec<_> = raw.published.iter().map(|text| BuiltFile::parse(text)).collect();
        if known.contains(&None) {
            let why = "must be as keygatectl wrote it, such as `table 5 sha256:…`; without it every \
                       key is compared with what is published";
            fault(line_of("published"), "published", why.into());
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(Self {
            serial: raw.serial,
            audience: raw.audience.map(Into::into),
            prefixes: raw.prefixes,
            default_prefix: raw.default_prefix,
            publish,
            orgs,
            published: known.into_iter().flatten().collect(),
        })
    }

    pub fn raw(&self) -> RawSettings {
        let publish = &self.publish;
        RawSettings {
            registry: VERSION,
            serial: self.serial,
            audience: self.audience.as_deref().map(Into::into),
            default_prefix: self.default_prefix.clone(),
            prefixes: self.prefixes.clone(),
            publish: RawPublish {
                signer: publish.signer.clone(),
                table: publish.table.clone(),
                patch: publish.patch.clone(),
                on_change: (publish.on_change != OnChange::Nothing).then_some(publish.on_change),
                life: publish
                    .life
                    .map(|l| humantime::format_duration(l).to_string().replace(' ', "")),
                format: (publish.format != TableFormat::default())
                    .then_some(publish.format.number()),
            },
            org: self.orgs.iter().map(|(org, limits)| RawOrg::of(org, limits)).collect(),
            published: self.published.iter().map(BuiltFile::show).collect(),
        }
    }

    /// The form that a new secret takes: the named prefix, the default, the only one, or ours.
    pub fn format(&self, prefix: Option<&str>) -> Option<(&str, &KeyFormat)> {
        let name = match (prefix.or(self.default_prefix.as_deref()), self.prefixes.len()) {
            (Some(name), _) => name,
            (None, 1) => self.prefixes.keys().next()?,
            (None, _) => return None,
        };
        self.prefixes.get_key_value(name).map(|(name, format)| (name.as_str(), format))
    }

    /// The text with what differs from `old` changed: the serial, what was published, limits of
    /// orgs, and which prefixes are checksummed. Everything else of it is for people to edit.
    pub fn edit_toml(&self, text: &str, old: &Self) -> Option<String> {
        let mut document: DocumentMut = text.parse().ok()?;
        if self.serial != old.serial {
            set(document.get_mut("serial")?, i64::try_from(self.serial).ok()?.into())?;
        }
        if self.published != old.published {
            let mut recent: toml_edit::Array = self.published.iter().map(BuiltFile::show).collect();
            recent.iter_mut().for_each(|line| line.decor_mut().set_prefix("\n  "));
            recent.set_trailing("\n");
            recent.set_trailing_comma(true);
            match document.get_mut("published") {
                Some(item) => set(item, recent.into())?,
                None => {
                    // Above all sections.
                    document.insert("published", toml_edit::value(recent));
                    let what =
                        "# made from this registry, newest last; keygatectl keeps the list\n";
                    document.key_mut("published")?.leaf_decor_mut().set_prefix(what);
                }
            }
        }
        if self.orgs != old.orgs {
            self.edit_orgs(&mut document, old)?;
        }
        for (name, format) in &self.prefixes {
            if old.prefixes.get(name) != Some(format) {
                let section = document.get_mut("prefixes")?.get_mut(name)?;
                match section.get_mut("checksummed") {
                    Some(item) => set(item, format.checksummed.into())?,
                    None => section["checksummed"] = toml_edit::value(format.checksummed),
                }
            }
        }
        Some(document.to_string())
    }
}

impl RegistrySettings {
    /// Sections `[[org]]` of orgs that have other limits now; the others stay as they are written.
    fn edit_orgs(&self, document: &mut DocumentMut, old: &Self) -> Option<()> {
        let of = |org: &Table| OrgId::parse(org.get("id")?.as_str()?).ok();
        let orgs = document.entry("org").or_insert(Item::ArrayOfTables(ArrayOfTables::new()));
        let orgs = orgs.as_array_of_tables_mut()?;
        orgs.retain(|org| of(org).is_none_or(|org| self.orgs.contains_key(&org)));
        for (org, limits) in &self.orgs {
            if old.orgs.get(org) == Some(limits) {
                continue;
            }
            let mut value = InlineTable::new();
            for (policy, limit) in RawOrg::of(org, limits).limits {
                value.insert(&policy, limit.into());
            }
            let at = orgs.iter().position(|table| of(table).as_ref() == Some(org));
            match at.and_then(|at| orgs.get_mut(at)) {
                Some(table) => {
                    table.insert("limits", toml_edit::value(value));
                }
                None => {
                    let mut table = Table::new();
                    table.insert("id", toml_edit::value(org.as_str()));
                    table.insert("limits", toml_edit::value(value));
                    table.decor_mut().set_prefix("\n");
                    orgs.push(table);
                }
            }
        }
        if orgs.is_empty() {
            document.remove("org");
        }
        Some(())
    }
}

// === impl RawOrg ===

impl RawOrg {
    fn of(org: &OrgId, limits: &LimitSet) -> Self {
        let limits = limits.iter().map(|n| (n.policy.as_str().to_owned(), show_limit(n.limit)));
        Self { id: org.as_str().to_owned(), limits: limits.collect() }
    }
}

fn parse_orgs(raw: &[RawOrg], mut fault: impl FnMut(String)) -> BTreeMap<OrgId, LimitSet> {
    let mut orgs = BTreeMap::new();
    for RawOrg { id, limits } in raw {
        let org = match OrgId::parse(id) {
            Ok(org) => org,
            Err(e) => {
                fault(format!("an id {e}"));
                continue;
            }
        };
        let mut faults = Vec::new();
        let limits = parse_limits(None, limits, &mut faults);
        for FieldFault { why, .. } in faults {
            fault(format!("limits of {id}: {why}"));
        }
        if limits.is_empty() {
            fault(format!("{id} has no limits; leave its section out"));
        }
        if orgs.insert(org, limits).is_some() {
            fault(format!("{id} stands twice"));
        }
    }
    orgs
}

/// Replaces a value and keeps the spaces and the comment around it.
fn set(item: &mut Item, mut value: Value) -> Option<()> {
    let present = item.as_value_mut()?;
    *value.decor_mut() = present.decor().clone();
    *present = value;
    Some(())
}

pub fn is_audience(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# ours\nregistry = 1\nserial = 7 # rises\naudience = \"shop\"\n\n\
        [prefixes.wa]\nprefix = \"wa_\"\nrandom = 32\nchecksum = 6\nchecksummed = true\n\n\
        [publish]\nsigner = \"s.pem\"\ntable = \"t.kgt\"\non_change = \"table\"\nlife = \"30d\"\n";

    fn read(text: &str) -> Result<RegistrySettings, Vec<FileFault>> {
        RegistrySettings::from_toml(
            &Piece { line: 1, text: text.to_owned() },
            Path::new("keys.toml"),
        )
    }

    #[test]
    fn settings_are_read_edited_and_turned_to_json() {
        let old = read(TEXT).unwrap();
        assert_eq!(old.format(None).unwrap().0, "wa");
        let mut new = old.clone();
        new.serial = 8;
        new.prefixes.get_mut("wa").unwrap().checksummed = false;
        let text = new.edit_toml(TEXT, &old).unwrap();
        assert_eq!(
            text,
            TEXT.replace("serial = 7", "serial = 8").replace("summed = true", "summed = false")
        );
        let json = serde_json::to_string(&new.raw()).unwrap();
        assert!(json.starts_with("{\"registry\":1,\"serial\":8,"), "{json}");
        let again = RegistrySettings::from_raw(
            serde_json::from_str(&json).unwrap(),
            Path::new("k"),
            &|_| 1,
        );
        assert_eq!(serde_json::to_string(&again.unwrap().raw()).unwrap(), json);
    }

    #[test]
    fn limits_of_orgs_are_read_edited_and_turned_to_json() {
        let text = format!(
            "{TEXT}format = 2\n\n# pays most\n[[org]]\nid = \"acme\" # first\n\
             limits = {{ monthly = \"9000/30d\" }}\n"
        );
        let old = read(&text).unwrap();
        assert_eq!(old.publish.format, TableFormat::V2);
        let limits =
            |text: &str| LimitSet::new([super::super::words::parse_named_limit(text).unwrap()]);
        let org = |text| OrgId::parse(text).unwrap();
        assert_eq!(old.orgs[&org("acme")], limits("monthly=9000/30d"));
        let mut new = old.clone();
        new.orgs.insert(org("b.c"), limits("monthly=1/d"));
        let added = new.edit_toml(&text, &old).unwrap();
        assert!(added.starts_with(text.trim_end()), "{added}");
        assert_eq!(read(&added).unwrap().orgs, new.orgs, "{added}");
        let json = serde_json::to_string(&new.raw()).unwrap();
        let again = RegistrySettings::from_raw(
            serde_json::from_str(&json).unwrap(),
            Path::new("k"),
            &|_| 1,
        );
        assert_eq!(again.unwrap().orgs, new.orgs);
        new.orgs.remove(&org("acme"));
        let gone = new.edit_toml(&added, &read(&added).unwrap()).unwrap();
        assert_eq!(read(&gone).unwrap().orgs, new.orgs, "{gone}");
        let none = RegistrySettings { orgs: BTreeMap::new(), ..old.clone() };
        assert!(!none.edit_toml(&text, &old).unwrap().contains("org"));
        let cases = [
            ("id = \"acme\"", "id = \"a b\"", "keys.toml:20: org: an id must be"),
            ("9000/30d", "x", "keys.toml:20: org: limits of acme: must look like"),
            ("monthly", "Monthly", "keys.toml:20: org: limits of acme: must be 1 to 64"),
            ("format = 2", "format = 3", "keys.toml:17: publish.format: this keygatectl"),
        ];
        for (from, to, want) in cases {
            let faults = read(&text.replace(from, to)).unwrap_err();
            assert!(faults[0].to_string().contains(want), "{}", faults[0]);
        }
    }

    #[test]
    fn faults_name_line_and_field() {
        let cases = [
            ("version", "registry = 1", "registry = 2", "keys.toml:2: registry: "),
            ("prefix", "random = 32", "random = 3", "keys.toml:6: prefixes.wa: fewer"),
            ("life", "30d", "soon", "keys.toml:16: publish.life: "),
            ("no signer", "signer = \"s.pem\"\n", "", "on_change: needs `signer`"),
            ("unknown", "audience", "audiense", "keys.toml:4: unknown field"),
        ];
        for (name, from, to, want) in cases {
            let faults = read(&TEXT.replace(from, to)).unwrap_err();
            assert!(faults[0].to_string().contains(want), "{name}: {}", faults[0]);
        }
        let many = TEXT.replace("random = 32", "random = 3").replace("30d", "soon");
        assert_eq!(read(&many).unwrap_err().len(), 2, "all at once");
    }
}
