//! `keys init`: a registry with its settings, ready for the first key.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::super::error::{Error, Result};
use super::super::files::{self, Lock, Replacement};
use super::super::output::count;
use super::super::publish::head::head;
use super::super::registry::change::read_all;
use super::super::registry::published::place_of;
use super::super::registry::settings::{OnChange, Publish, RegistrySettings, is_audience};
use super::super::registry::{Filter, Form, Registry, jsonl, toml};
use super::super::session::Session;
use super::super::signer::Signer;
use crate::core::format::{Alphabet, KeyFormat};
use crate::core::limit::show_duration;
use crate::table::TableFormat;

#[derive(Debug, clap::Args)]
pub struct Init {
    /// Name of the deployments that the tables are for; sidecars refuse tables for another
    #[arg(long, value_name = "NAME", value_parser = audience, required_unless_present = "copy")]
    pub audience: Option<String>,
    /// Word in front of secrets, such as `kg` in `kg_live_`; the first is the default
    #[arg(long = "prefix", value_name = "WORD", default_value = "kg")]
    pub prefixes: Vec<String>,
    /// Write secrets as dashed groups of five without prefix; its name is `dashed`
    #[arg(long)]
    pub dashed: bool,
    /// Write secrets as 32 characters of a-z and 0-9 after the prefix, without environment
    #[arg(long)]
    pub compact: bool,
    /// Build and sign the table after every change
    #[arg(long, value_name = "FILE", requires = "signer")]
    pub publish: Option<std::path::PathBuf>,
    /// Private key that signs
    #[arg(long, value_name = "FILE")]
    pub signer: Option<std::path::PathBuf>,
    /// Copy settings and keys from this registry (to move from keys.toml to keys.jsonl, or back)
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prefixes", "dashed", "compact", "publish", "audience"])]
    pub copy: Option<std::path::PathBuf>,
}

// === impl Init ===

impl Init {
    pub fn run(self, session: &mut Session) -> Result<()> {
        const HINT: &str = "give another --registry, or use the one that is there";
        let path = session.registry.clone();
        if let Some(from) = &self.copy {
            return copy(from, &path, HINT, session);
        }
        self.check_publishing(&path)?;
        let settings = self.settings(&path)?;
        let text = match Form::of(&path) {
            Form::Toml => template(&settings),
            Form::JsonLines => jsonl::print_settings(&settings, None),
        };
        files::create_new(&path, 0o644, text.as_bytes(), HINT)?;
        // Reading must give what was written.
        let registry = Registry::open(&path)?;
        if session.output.json {
            let path = path.display().to_string();
            return session
                .output
                .json(&json!({ "registry": path, "serial": registry.settings.serial }));
        }
        session.output.line(&format!("started the registry {}", path.display()))
    }

    /// Refuses settings with which the first change could not be published.
    fn check_publishing(&self, registry: &Path) -> Result<()> {
        if let Some(signer) = &self.signer {
            Signer::load(signer)?;
        }
        let Some(table) = &self.publish else { return Ok(()) };
        let real = |path: &Path| place_of(registry, path);
        let is_taken = |path: &Path| real(path) == real(table);
        if is_taken(registry) || self.signer.as_deref().is_some_and(is_taken) {
            return Err(Error::argument(
                "--publish",
                "must be a file of its own, such as table.kgt",
            ));
        }
        if table.exists() {
            head(table)?;
        }
        Ok(())
    }

    fn settings(&self, registry: &Path) -> Result<RegistrySettings> {
        // As given, they are relative to the working directory.
        let relative = |path: &Option<PathBuf>| {
            let path = path.as_ref()?;
            let is_here = files::directory(registry) == Path::new(".");
            Some(match is_here || path.is_absolute() {
                true => path.clone(),
                false => PathBuf::from(place_of(registry, path).as_ref()),
            })
        };
        let mut prefixes = std::collections::BTreeMap::new();
        let mut default_prefix = None;
        for word in &self.prefixes {
            let name = word.trim_end_matches('_');
            let text = format!("{name}_");
            let format = match self.compact {
                true => KeyFormat::compact(&text),
                false => KeyFormat::standard(&text),
            };
            format.validate().map_err(|e| Error::argument("--prefix", e))?;
            default_prefix.get_or_insert_with(|| name.to_owned());
            prefixes.insert(name.to_owned(), format);
        }
        if self.dashed {
            prefixes.insert("dashed".into(), KeyFormat::dashed());
            default_prefix = Some("dashed".into());
        }
        let publish = Publish {
            on_change: if self.publish.is_some() { OnChange::Table } else { OnChange::Nothing },
            signer: relative(&self.signer),
            table: relative(&self.publish),
            // A new registry has no older sidecars.
            format: TableFormat::NEWEST,
            ..Publish::default()
        };
        let audience = self.audience.as_deref().map(Into::into);
        Ok(RegistrySettings {
            serial: 0,
            audience,
            prefixes,
            shown: std::collections::BTreeMap::new(),
            default_prefix,
            publish,
            plans: std::collections::BTreeMap::new(),
            orgs: std::collections::BTreeMap::new(),
            published: Vec::new(),
        })
    }
}

/// Writes settings and keys of `from` in the form of `to`.
fn copy(from: &Path, to: &Path, hint: &'static str, session: &mut Session) -> Result<()> {
    let _lock = Lock::take(to, session.lock_timeout)?;
    if to.exists() {
        return Err(Error::Exists { path: to.to_owned(), hint });
    }
    let source = Registry::open(from)?;
    let keys = read_all(&source)?.count();
    let settings = &source.settings;
    let mut copy = Replacement::of(to)?;
    let failed = || Error::write(to);
    let form = Form::of(to);
    let first = match form {
        Form::Toml => template(settings),
        Form::JsonLines => jsonl::print_settings(settings, None),
    };
    copy.write_all(first.as_bytes()).map_err(failed())?;
    source.scan(&Filter::default(), &mut |located| {
        let text = match form {
            Form::Toml => format!("\n{}", toml::print(&located.entry)),
            Form::JsonLines => {
                let serial = located.serial.unwrap_or(settings.serial);
                jsonl::print(&located.entry, serial, None)
            }
        };
        copy.write_all(text.as_bytes()).map_err(failed())
    })?;
    copy.commit()?;
    session.output.line(&format!(
        "{} holds the {} of {}",
        to.display(),
        count(keys as u64, "key"),
        from.display()
    ))?;
    if Registry::twin(to).is_some() {
        session.output.note(&format!(
            "move {} away before you change a key: commands without --registry use keys.toml if \
             there is one, and what is changed in one of the two, the other does not know",
            from.display()
        ));
    }
    Ok(())
}

/// A self-explanatory `keys.toml`.
pub fn template(settings: &RegistrySettings) -> String {
    let quote = |text: &str| toml_edit::Value::from(text).to_string();
    let mut text = String::from(
        "# Keys of keygate: digests, never secrets. Review it like code.\n\
         # Edit it by hand or with `keygatectl keys`; docs/registry.md describes every field.\n\
         registry = 1\n",
    );
    text.push_str(&format!("serial = {} # rises with every change\n", settings.serial));
    if let Some(audience) = &settings.audience {
        text.push_str(&format!(
            "audience = {} # sidecars refuse tables for another\n",
            quote(audience)
        ));
    }
    if let Some(name) = &settings.default_prefix {
        text.push_str(&format!("default_prefix = {}\n", quote(name)));
    }
    for (name, format) in &settings.prefixes {
        text.push_str(&format!("\n[prefixes.{name}]\n"));
        text.push_str(&format!("prefix = {}\n", quote(&format.prefix)));
        if format.environment {
            text.push_str("environment = true # `live_` or `test_` behind the prefix\n");
        }
        let alphabet = match format.alphabet {
            Alphabet::Base36 => "base36",
            Alphabet::Base62 => "base62",
            Alphabet::Hex => "hex",
        };
        text.push_str(&format!("alphabet = \"{alphabet}\"\n"));
        text.push_str(&format!("random = {}\n", format.random));
        if format.checksum > 0 {
            text.push_str(&format!("checksum = {}\n", format.checksum));
        }
        if format.group > 0 {
            text.push_str(&format!("group = {}\n", format.group));
        }
        if format.checksummed {
            text.push_str("checksummed = true # every key with this prefix conforms\n");
        }
        if let Some(shown) = settings.shown.get(name) {
            text.push_str(&format!("shown = {shown} # characters kept as `key_prefix`\n"));
        }
    }
    let publish = &settings.publish;
    let file =
        |path: &Option<std::path::PathBuf>| path.as_ref().map(|p| quote(&p.display().to_string()));
    text.push_str("\n# What follows a change, unless an option says otherwise. Paths are relative to this file.\n[publish]\n");
    for (name, value) in [
        ("signer", file(&publish.signer)),
        ("table", file(&publish.table)),
        ("patch", file(&publish.patch)),
    ] {
        if let Some(value) = value {
            text.push_str(&format!("{name} = {value}\n"));
        }
    }
    match publish.on_change {
        OnChange::Nothing => text.push_str("# signer = \"signer.pem\"\n# table = \"table.kgt\"\n# patch = \"table.kgp\"\n# on_change = \"table\" # or \"patch\", or \"nothing\"\n"),
        OnChange::Patch => text.push_str("on_change = \"patch\"\n"),
        OnChange::Table => text.push_str("on_change = \"table\"\n"),
    }
    match publish.life {
        Some(life) => {
            text.push_str(&format!("life = \"{}\"\n", show_duration(life)));
        }
        None => text.push_str("# life = \"30d\" # a table older than this is refused\n"),
    }
    if publish.format != TableFormat::default() {
        let format = publish.format;
        text.push_str(&format!("format = {format} # every sidecar reads it; 1 for older ones\n"));
    }
    if settings.published.is_empty() && settings.orgs.is_empty() && settings.plans.is_empty() {
        return text;
    }
    let (plans, orgs) = Default::default();
    let bare = RegistrySettings { published: Vec::new(), plans, orgs, ..settings.clone() };
    settings.edit_toml(&text, &bare).unwrap_or(text)
}

fn audience(text: &str) -> std::result::Result<String, &'static str> {
    if is_audience(text) {
        Ok(text.to_owned())
    } else {
        Err("must be 1 to 128 visible ASCII characters")
    }
}
