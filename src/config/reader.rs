//! The reader of a whole TOML file: it turns text into the meaning of its sections, with all faults
//! together. It also reads the configuration of the management service and that of a signer.

use std::path::{Path, PathBuf};

pub(crate) use super::addresses::{socket_file, socket_path};
pub(crate) use super::fault::ConfigProblem;
use super::fault::{ConfigError, ConfigFault};
#[cfg(feature = "admin")]
pub(crate) use super::lower::log_words;
#[cfg(feature = "admin")]
pub(crate) use super::raw::pick;
use super::raw::{ConfigReader, Host, Places};
#[cfg(feature = "admin")]
pub(crate) use super::secrets::{SecretFile, secret, secret_path};
pub(crate) use super::section::ConfigSection;
pub(crate) use super::units::share;
use super::watched::WatchedFile;

/// The meaning of a TOML file, with what was recorded while reading it.
pub(crate) struct ReadToml<T> {
    pub(crate) value: T,
    pub(crate) warnings: Vec<ConfigFault>,
    pub(crate) places: Places,
    pub(crate) secret_files: Vec<WatchedFile>,
    /// Files that variables were looked for in.
    pub(crate) variable_files: Vec<PathBuf>,
    /// Every key that was asked for, without list positions.
    #[cfg(test)]
    #[cfg_attr(not(feature = "admin"), expect(dead_code, reason = "tests of the admin feature"))]
    pub(crate) asked: std::collections::BTreeSet<String>,
}

/// What `lower` makes of a file's text. All faults are reported together, each with its place.
pub(crate) fn read_toml<T>(
    host: &dyn Host,
    file: &Path,
    text: &str,
    lower: impl FnOnce(&ConfigSection<'_>) -> Option<T>,
) -> Result<ReadToml<T>, ConfigError> {
    let base = file.parent().unwrap_or(Path::new(""));
    let reader = ConfigReader::new(text, base, host);
    let (table, errors) = toml::de::DeTable::parse_recoverable(text);
    match foreign_format(file, text).filter(|_| !errors.is_empty()) {
        // The messages of a TOML parser, line by line, would help nobody.
        Some(format) => reader.foreign(format),
        None => errors.iter().for_each(|error| reader.syntax(error)),
    }
    // A damaged file would only add false faults.
    let value = match errors.is_empty() {
        true => lower(&ConfigSection::root(&reader, &table)),
        false => None,
    };
    let (places, secret_files) = (reader.places(), reader.secrets());
    let variable_files = reader.variables();
    #[cfg(test)]
    let asked = reader.asked();
    let (faults, warnings) = reader.finish();
    match value {
        Some(value) if faults.is_empty() => Ok(ReadToml {
            value,
            warnings,
            places,
            secret_files,
            variable_files,
            #[cfg(test)]
            asked,
        }),
        _ => Err(ConfigError::Invalid { file: file.to_owned(), faults }),
    }
}

/// Another format that a file seems to be in, by its name and its first lines.
fn foreign_format(file: &Path, text: &str) -> Option<&'static str> {
    let extension = file.extension().and_then(|e| e.to_str()).unwrap_or_default();
    let first = text.lines().map(str::trim).find(|l| !l.is_empty() && !l.starts_with('#'))?;
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '"' | '\'');
    let yaml = |line: &str| {
        line == "---"
            || line.starts_with("- ")
            || line.split_once(':').is_some_and(|(key, value)| {
                key.chars().all(is_name) && (value.is_empty() || value.starts_with(' '))
            })
    };
    match extension {
        _ if first.starts_with('{') => Some("JSON"),
        _ if yaml(first) => Some("YAML"),
        "json" => Some("JSON"),
        "yaml" | "yml" => Some("YAML"),
        _ => None,
    }
}
