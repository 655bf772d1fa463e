//! `keys.audit.jsonl` next to the registry: who changed what, when, and the resulting serial.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value};

use super::Registry;
use super::entry::RegistryEntry;
use crate::core::KeyId;
use crate::manage::error::{Error, Result};
use crate::manage::{files, time};
use crate::wording::visible::one_line;

/// One line of the audit file.
#[derive(Clone, Debug, Serialize)]
pub struct Record {
    /// RFC 3339.
    pub time: String,
    pub serial: u64,
    pub who: String,
    /// The command: `keys create`, `table build`, …
    pub action: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub what: Map<String, Value>,
}

/// The audit file of a registry.
pub fn path_of(registry: &Path) -> PathBuf {
    registry.with_extension("audit.jsonl")
}

/// Who makes the change: the named person, or the user of the operating system.
pub fn who(named: Option<&str>) -> String {
    let uid = rustix::process::getuid().as_raw();
    let user = named.map(str::to_owned).or_else(|| {
        #[expect(clippy::disallowed_methods, reason = "who is at the keyboard is no configuration")]
        let read = |name| std::env::var(name).ok().filter(|v| !v.is_empty());
        read("SUDO_USER").or_else(|| read("USER")).or_else(|| read("LOGNAME"))
    });
    match user {
        Some(user) => format!("{} (uid {uid})", one_line(&user)),
        None => format!("uid {uid}"),
    }
}

pub fn append(registry: &Path, records: &[Record]) -> Result<()> {
    #[derive(Serialize)]
    struct Named<'a> {
        #[serde(flatten)]
        record: &'a Record,
        #[serde(skip_serializing_if = "Option::is_none")]
        registry: Option<String>,
    }
    // If two registries share the file, each line says which one it concerns.
    let named = |record| Named { record, registry: name_beside_twin(registry) };
    // People read it with `cat`: what a terminal would not show literally stays escaped, as JSON
    // allows.
    let json = records.iter().filter_map(|record| serde_json::to_string(&named(record)).ok());
    let lines: Vec<_> = json.map(|line| one_line(&line).into_owned()).collect();
    if lines.is_empty() {
        Ok(())
    } else {
        files::append_line(&path_of(registry), &lines.join("\n"))
    }
}

/// Records that a change was not made, if the last line states a serial that the registry never
/// reached: its writer died between the two files.
pub fn reconcile(registry: &Path, serial: u64) -> Result<()> {
    #[derive(Serialize)]
    struct NotApplied {
        serial: u64,
        action: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        registry: Option<String>,
    }
    #[derive(serde::Deserialize)]
    struct Last {
        serial: u64,
        action: String,
        #[serde(default)]
        registry: Option<String>,
    }
    const ACTION: &str = "not applied";
    let path = path_of(registry);
    let own = name_beside_twin(registry);
    let is_own = |line: &Last| match (&own, &line.registry) {
        (None, None) => true,
        // A line without a name may belong to the other registry.
        (Some(_), None) => false,
        (_, Some(of)) => *of == name_of(registry),
    };
    let parse = |line: &str| serde_json::from_str::<Last>(line).ok().filter(is_own);
    let last = last_line(&path, parse).map_err(Error::read(&path))?;
    match last {
        Some(last) if last.serial > serial && last.action != ACTION => {
            let line = NotApplied { serial: last.serial, action: ACTION, registry: own };
            files::append_line(&path, &serde_json::to_string(&line).unwrap_or_default())
        }
        _ => Ok(()),
    }
}

/// The name of a registry that shares its audit file with one of the other form.
fn name_beside_twin(registry: &Path) -> Option<String> {
    Registry::twin(registry).map(|_| name_of(registry))
}

fn name_of(registry: &Path) -> String {
    registry.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The last line of the file that `parse` accepts.
fn last_line<T>(path: &Path, parse: impl Fn(&str) -> Option<T>) -> std::io::Result<Option<T>> {
    const TAIL: u64 = 64 * 1024;
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let length = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut tail = Vec::new();
    file.take(TAIL).read_to_end(&mut tail)?;
    let text = String::from_utf8_lossy(&tail);
    Ok(text.lines().rev().find_map(parse))
}

/// What differs between two states of a key: `{"field": [before, after]}`. A digest is only
/// reported as changed.
pub fn difference(old: Option<&RegistryEntry>, new: &RegistryEntry) -> Map<String, Value> {
    let object = |entry: &RegistryEntry| match serde_json::to_value(entry.raw()) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    };
    let (old, new) = (old.map(object).unwrap_or_default(), object(new));
    let mut difference = Map::new();
    let names = old.keys().chain(new.keys().filter(|name| !old.contains_key(*name)));
    for name in names {
        let (was, is) = (old.get(name), new.get(name));
        if was == is || name == "id" {
            continue;
        }
        let shown = match name.as_str() {
            "digest" | "previous" => Value::from(if was.is_none() { "set" } else { "changed" }),
            _ if old.is_empty() => is.cloned().unwrap_or_default(),
            _ => Value::Array(vec![
                was.cloned().unwrap_or_default(),
                is.cloned().unwrap_or_default(),
            ]),
        };
        difference.insert(name.clone(), shown);
    }
    difference
}

/// A record of one key.
pub fn of_key(
    stamp: &AuditStamp<'_>,
    action: &'static str,
    key: KeyId,
    what: Map<String, Value>,
) -> Record {
    Record {
        time: time::show(stamp.now),
        serial: stamp.serial,
        who: stamp.who.to_owned(),
        action,
        key: Some(key.to_string()),
        what,
    }
}

/// What all records of one change share.
#[derive(Clone, Copy, Debug)]
pub struct AuditStamp<'a> {
    pub now: u64,
    pub serial: u64,
    pub who: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::KeyStatus;
    use crate::manage::registry::entry::tests::full;

    #[test]
    fn difference_shows_fields_but_no_digest() {
        let old = full();
        let mut new = old.clone();
        new.status = KeyStatus::Revoked;
        new.digest = crate::core::Digest::of(b"newer");
        let text = serde_json::to_string(&difference(Some(&old), &new)).unwrap();
        assert_eq!(text, r#"{"digest":"changed","status":["disabled","revoked"]}"#);
        let text = serde_json::to_string(&difference(None, &new)).unwrap();
        assert!(!text.contains("sha256"), "{text}");
        assert!(text.contains(r#""org":"acme""#), "{text}");
    }

    #[test]
    fn a_change_that_never_came_about_is_recorded() {
        let dir = tempfile::tempdir().unwrap();
        let registry = dir.path().join("keys.toml");
        let stamp = AuditStamp { now: 0, serial: 8, who: "kim" };
        let id = KeyId::parse("key_a").unwrap();
        append(&registry, &[of_key(&stamp, "keys revoke", id, Map::new())]).unwrap();
        reconcile(&registry, 8).unwrap();
        reconcile(&registry, 7).unwrap();
        reconcile(&registry, 7).unwrap();
        let text = std::fs::read_to_string(dir.path().join("keys.audit.jsonl")).unwrap();
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.ends_with("{\"serial\":8,\"action\":\"not applied\"}\n"), "{text}");
    }
}
