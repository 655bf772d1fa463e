//! The settings of a registry: serial, audience, prefixes, where changes are published.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use toml_edit::{DocumentMut, Item, Value};

use super::plans::{
    OrgTerms, PlanName, RawOrg, RawPlan, edit_orgs, edit_plans, limits_of_orgs, parse_orgs,
    parse_plans, raw_orgs, raw_plans,
};
use super::published::BuiltFile;
use super::toml::{Piece, syntax_fault};
use crate::core::format::{Alphabet, KeyFormat};
use crate::core::limit::show_duration;
use crate::core::{Digest, LimitSet, OrgId};
use crate::manage::error::FileFault;
use crate::manage::time;
use crate::table::TableFormat;

/// The version of the registry's own format.
pub const VERSION: u32 = 1;

/// Most characters of a secret that a registry keeps for people.
const MOST_SHOWN: usize = 16;

/// Bits of a secret that stay unseen, so that what is shown does not help to guess the rest.
const UNSEEN_BITS: f64 = 80.0;

/// Parsed settings.
#[derive(Clone, Debug)]
pub struct RegistrySettings {
    /// Of the last change. The next change, of any kind, takes the next number.
    pub serial: u64,
    pub audience: Option<Box<str>>,
    /// How secrets are written and recognised, by their prefix.
    pub prefixes: BTreeMap<String, KeyFormat>,
    /// How many characters of a secret are kept for people, where that is not
    /// [`KeyFormat::SHOWN`]; by prefix.
    pub shown: BTreeMap<String, usize>,
    pub default_prefix: Option<String>,
    pub publish: Publish,
    /// Sets of limits that keys and orgs refer to by name.
    pub plans: BTreeMap<PlanName, LimitSet>,
    /// Orgs that have limits or a plan, as the registry states them:
    /// [`RegistrySettings::org_limits`] are those in force.
    pub orgs: BTreeMap<OrgId, OrgTerms>,
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
    /// Version of the table format to write. Format 1 until the operator states that all sidecars
    /// read 2.
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

/// Settings as written in TOML or JSON.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawSettings {
    /// Version of the registry's format. Comes first: it identifies a settings line of JSON Lines.
    pub registry: u32,
    pub serial: u64,
    /// In a line of JSON Lines: the settings that it supersedes, as [`RawSettings::content`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_prefix: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub prefixes: BTreeMap<String, RawPrefix>,
    #[serde(default, skip_serializing_if = "RawPublish::is_empty")]
    pub publish: RawPublish,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plan: Vec<RawPlan>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub org: Vec<RawOrg>,
    /// What keygatectl records of its publications.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub published: Vec<String>,
}

/// A form of secrets, which tables state as well, and what only the registry knows about it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawPrefix {
    prefix: Box<str>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    environment: bool,
    #[serde(default)]
    alphabet: Alphabet,
    random: u8,
    #[serde(default, skip_serializing_if = "is_zero")]
    checksum: u8,
    #[serde(default, skip_serializing_if = "is_zero")]
    group: u8,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    checksummed: bool,
    /// Characters of a secret after its prefix that are kept to recognise its key by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shown: Option<usize>,
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

// === impl RawSettings ===

impl RawSettings {
    /// The first 32 bits of the SHA-256, as hexadecimal digits, of the settings that people make:
    /// without the serial and keygatectl's notes of its publications.
    pub fn content(mut self) -> String {
        (self.serial, self.after, self.published) = (0, None, Vec::new());
        let text = serde_json::to_string(&self).unwrap_or_default();
        let Digest([a, b, c, d, ..]) = Digest::of(text.as_bytes());
        format!("{:08x}", u32::from_be_bytes([a, b, c, d]))
    }
}

// === impl RawPrefix ===

impl RawPrefix {
    fn of(format: &KeyFormat, shown: Option<usize>) -> Self {
        let KeyFormat { prefix, environment, alphabet, random, checksum, group, checksummed } =
            format.clone();
        Self { prefix, environment, alphabet, random, checksum, group, checksummed, shown }
    }

    fn format(&self) -> KeyFormat {
        let Self { prefix, environment, alphabet, random, checksum, group, checksummed, .. } =
            self.clone();
        KeyFormat { prefix, environment, alphabet, random, checksum, group, checksummed }
    }
}

/// Whether this many characters of a secret of this form may be kept for people.
///
/// # Errors
///
/// How many may.
pub fn check_shown(format: &KeyFormat, shown: usize) -> Result<(), String> {
    let bits = (format.alphabet.symbols().len() as f64).log2();
    let unseen = f64::from(format.random) * bits - shown as f64 * bits;
    match shown <= MOST_SHOWN && unseen >= UNSEEN_BITS {
        true => Ok(()),
        false => Err(format!(
            "must be at most {MOST_SHOWN}, and leave {UNSEEN_BITS} random bits that nobody sees"
        )),
    }
}

// === impl RawPublish ===

impl RawPublish {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

// === impl RegistrySettings ===

impl RegistrySettings {
    /// From the text before the first `[[key]]`.
    pub fn from_toml(piece: &Piece, path: &Path) -> Result<Self, Vec<FileFault>> {
        let raw: RawSettings = toml::from_str(&piece.text)
            .map_err(|e| vec![syntax_fault(&e, piece, path, "keys are written as `[[key]]`")])?;
        if raw.after.is_some() {
            let why = "belongs to lines of a keys.jsonl; remove it";
            return Err(vec![FileFault::new(path, piece.line, "after", why)]);
        }
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
        for (name, prefix) in &raw.prefixes {
            let section = format!("prefixes.{name}");
            if let Err(e) = prefix.format().validate() {
                fault(line_of(&section), &section, e.to_string());
            } else if let Some(shown) = prefix.shown
                && let Err(why) = check_shown(&prefix.format(), shown)
            {
                fault(line_of(&section), &section, format!("shown: {why}"));
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
        let plans = parse_plans(&raw.plan, |why| fault(line_of("[plan]"), "plan", why));
        let orgs = parse_orgs(&raw.org, &plans, |why| fault(line_of("[org]"), "org", why));
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
            shown: raw
                .prefixes
                .iter()
                .filter_map(|(name, prefix)| Some((name.clone(), prefix.shown?)))
                .collect(),
            prefixes: raw.prefixes.iter().map(|(name, p)| (name.clone(), p.format())).collect(),
            default_prefix: raw.default_prefix,
            publish,
            plans,
            orgs,
            published: known.into_iter().flatten().collect(),
        })
    }

    pub fn raw(&self) -> RawSettings {
        let publish = &self.publish;
        RawSettings {
            registry: VERSION,
            serial: self.serial,
            after: None,
            audience: self.audience.as_deref().map(Into::into),
            default_prefix: self.default_prefix.clone(),
            prefixes: self
                .prefixes
                .iter()
                .map(|(name, format)| {
                    (name.clone(), RawPrefix::of(format, self.shown.get(name).copied()))
                })
                .collect(),
            publish: RawPublish {
                signer: publish.signer.clone(),
                table: publish.table.clone(),
                patch: publish.patch.clone(),
                on_change: (publish.on_change != OnChange::Nothing).then_some(publish.on_change),
                life: publish.life.map(show_duration),
                format: (publish.format != TableFormat::default())
                    .then_some(publish.format.number()),
            },
            plan: raw_plans(&self.plans),
            org: raw_orgs(&self.orgs),
            published: self.published.iter().map(BuiltFile::show).collect(),
        }
    }

    /// Limits in force of every org that has any, including those of its plan.
    pub fn org_limits(&self) -> BTreeMap<OrgId, LimitSet> {
        limits_of_orgs(&self.orgs, &self.plans)
    }

    /// How many characters of a secret with this prefix are kept for people.
    pub fn shown(&self, prefix: Option<&str>) -> usize {
        let set = prefix.and_then(|name| self.shown.get(name)).copied();
        set.unwrap_or(KeyFormat::SHOWN)
    }

    /// The text with the differences from `old` applied: the serial, what was published, plans,
    /// limits of orgs, and which prefixes are checksummed. Everything else in it is for people to
    /// edit.
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
        if self.plans != old.plans {
            edit_plans(&mut document, &self.plans, &old.plans)?;
        }
        if self.orgs != old.orgs {
            edit_orgs(&mut document, &self.orgs, &old.orgs)?;
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

fn is_zero(n: &u8) -> bool {
    *n == 0
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
        assert!(old.prefixes.contains_key("wa"));
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
        assert_eq!(old.org_limits()[&org("acme")], limits("monthly=9000/30d"));
        let mut new = old.clone();
        let terms = OrgTerms { limits: limits("monthly=1/d"), plan: None };
        new.orgs.insert(org("b.c"), terms);
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
    fn plans_are_read_edited_and_turned_to_json() {
        let text = format!(
            "{TEXT}\n# sold\n[[plan]]\nname = \"gold\" # dear\nlimit = \"600/min\"\n\
             limits = {{ search = \"2/s\" }}\n\n[[org]]\nid = \"acme\"\nplan = \"gold\"\n"
        );
        let limits = |texts: &[&str]| {
            let named = texts.iter().map(|t| super::super::words::parse_named_limit(t).unwrap());
            LimitSet::new(named)
        };
        let name = |text| PlanName::parse(text).unwrap();
        let (old, acme) = (read(&text).unwrap(), OrgId::parse("acme").unwrap());
        assert_eq!(old.plans[&name("gold")], limits(&["600/min", "search=2/s"]));
        assert_eq!(old.org_limits()[&acme], old.plans[&name("gold")]);
        assert_eq!(old.edit_toml(&text, &old).unwrap(), text);
        let mut new = old.clone();
        new.plans.insert(name("gold"), limits(&["700/min"]));
        new.plans.insert(name("free"), limits(&["1/s"]));
        let edited = new.edit_toml(&text, &old).unwrap();
        assert!(edited.contains("# sold\n[[plan]]\nname = \"gold\" # dear\n"), "{edited}");
        assert_eq!(read(&edited).unwrap().plans, new.plans, "{edited}");
        assert_eq!(read(&edited).unwrap().org_limits()[&acme], limits(&["700/min"]), "{edited}");
        let json = serde_json::to_string(&new.raw()).unwrap();
        let raw = serde_json::from_str(&json).unwrap();
        let again = RegistrySettings::from_raw(raw, Path::new("k"), &|_| 1).unwrap();
        assert_eq!((again.plans, again.orgs), (new.plans, new.orgs));
        let cases = [
            ("600/min", "x", "keys.toml:19: plan: limits of gold: must look like"),
            ("plan = \"gold\"", "plan = \"gild\"", "keys.toml:24: org: acme: no plan `gild`"),
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
            (
                "shown",
                "random = 32",
                "random = 32\nshown = 17",
                "prefixes.wa: shown: must be at most",
            ),
            ("shown", "random = 32", "random = 25\nshown = 12", "leave 80 random bits"),
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
