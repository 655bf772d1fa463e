//! What a registry says beside its keys: serial, audience, prefixes, where changes are published.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use toml_edit::{DocumentMut, Item, Value};

use super::published::BuiltFile;
use super::toml::{Piece, syntax_fault};
use crate::core::format::KeyFormat;
use crate::manage::error::FileFault;
use crate::manage::time;

/// The version of the registry's own form.
pub const VERSION: u32 = 1;

/// Parsed settings.
#[derive(Clone, Debug)]
pub struct RegistrySettings {
    /// Of the last change. The next one, whatever it is, takes the number after.
    pub serial: u64,
    pub audience: Option<Box<str>>,
    /// How secrets are written and recognised, by the word in front of them.
    pub prefixes: BTreeMap<String, KeyFormat>,
    pub default_prefix: Option<String>,
    pub publish: Publish,
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
    /// How long a table is good for; `None`: for ever.
    pub life: Option<Duration>,
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
    /// What keygatectl writes down of its publications.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub published: Vec<String>,
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
}

// === impl RawPublish ===

impl RawPublish {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

// === impl RegistrySettings ===

impl RegistrySettings {
    /// From what stands before the first `[[key]]`.
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
        let publish = Publish {
            signer: raw.publish.signer,
            table: raw.publish.table,
            patch: raw.publish.patch,
            on_change: raw.publish.on_change.unwrap_or_default(),
            life,
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
            },
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

    /// The text with what differs from `old` changed: the serial, what was published, and which
    /// prefixes are checksummed. Everything else of it is for people to edit.
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
