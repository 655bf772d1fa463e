//! The files of tests/data/table: this reader's verdict on each, and that the generator makes
//! exactly these. Files that differ are left in a folder, to be inspected and copied there.

mod bad;
mod bodies;
mod forge;
mod good;
mod v2;

#[cfg(test)]
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::core::{Limit, LimitSet, Now};
use crate::table::testkit::*;
use crate::table::*;

/// One file, and a reader's verdict on it.
struct Vector {
    /// Without folder and extension.
    name: &'static str,
    kind: FileKind,
    file: Vec<u8>,
    verdict: Verdict,
}

enum Verdict {
    /// It is accepted and has this content.
    Good(Value),
    Bad {
        reason: &'static str,
        given: Given,
        why: &'static str,
    },
}

/// The reader's state, besides trusting signer 1 for the audience `test`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Given {
    /// good/basic.kgt was put in force before.
    Basic,
    Nothing,
    /// It trusts signers 1 and 2, and requires both.
    TwoRequired,
}

/// When the vectors arrive: 2026-01-01T00:00:00Z.
const NOW: Now = Now { unix_ms: 1_767_225_600_000, mono_ns: 0 };
/// Only bad/too_large.kgt is larger.
const MAX_BYTES: u64 = 16_384;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/table")
}

fn vectors() -> Vec<Vector> {
    let mut all = good::vectors();
    all.extend(bad::vectors());
    all.extend(v2::vectors());
    all
}

fn path_of(vector: &Vector, extension: &str) -> String {
    let side = if matches!(vector.verdict, Verdict::Good(_)) { "good" } else { "bad" };
    format!("{side}/{}.{extension}", vector.name)
}

fn extension(kind: FileKind) -> &'static str {
    match kind {
        FileKind::Patch => "kgp",
        FileKind::Table => "kgt",
    }
}

/// Every file with its content, by its path in the folder.
fn files() -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for number in [1, 2] {
        let pem = Signer::new(number).key.spki_pem();
        files.push((format!("signer-{number}.pem"), pem.into()));
    }
    for vector in vectors() {
        files.push((path_of(&vector, extension(vector.kind)), vector.file.clone()));
        match &vector.verdict {
            Verdict::Good(content) => {
                let text = serde_json::to_string_pretty(content).unwrap() + "\n";
                files.push((path_of(&vector, "json"), text.into()));
            }
            Verdict::Bad { reason, given, why } => {
                let given = given.as_str();
                files.push((path_of(&vector, "txt"), format!("{reason}{given}: {why}\n").into()));
            }
        }
    }
    files
}

/// The content of a set of keys, as JSON for comparison with another reader.
fn content(
    manifest: &Manifest,
    entries: impl Iterator<Item = Value>,
    removed: Vec<Value>,
) -> Value {
    let mut content = json!({
        "manifest": manifest,
        "keys": entries.collect::<Vec<_>>(),
    });
    if !removed.is_empty() {
        content["removed"] = removed.into();
    }
    content
}

fn key(entry: &KeyEntry<'_>, format: TableFormat) -> Value {
    let grant = entry.view.grant;
    let mut content = json!({
        "digest": BodyHash(entry.digest.0),
        "id": entry.view.id.to_string(),
        "org": entry.view.org,
        "name": entry.view.name,
        "public_id": entry.public_id,
        "expires": entry.view.expires,
        "status": grant.status.as_str(),
        "environment": grant.environment.map(|e| e.as_str()),
        "not_before": grant.not_before,
        "permissions": grant.permissions.joined(),
        "networks": grant.networks.iter().map(ToString::to_string).collect::<Vec<_>>(),
    });
    let value = &mut content;
    match format {
        TableFormat::V1 => value["limit"] = grant.limits.per_key().map(limit).into(),
        TableFormat::V2 => {
            value["limits"] = limits(&grant.limits);
            value["sunset"] = grant.sunset.into();
            value["owner"] = entry.owner.map(|o| json!([o.subject, o.email, o.role])).into();
        }
    }
    content
}

fn limit(limit: Limit) -> Value {
    json!({
        "count": limit.count(),
        "window_ms": limit.window().as_millis() as u64,
        "burst": limit.burst(),
    })
}

fn limits(limits: &LimitSet) -> Value {
    let named = limits.iter().map(|n| (n.policy.as_str().to_owned(), limit(n.limit)));
    Value::Object(named.collect())
}

fn org_limits<'k>(stated: impl Iterator<Item = OrgLimits<'k>>) -> Value {
    Value::Object(stated.map(|s| (s.org.to_owned(), limits(s.limits))).collect())
}

fn content_of_table(table: Table) -> Value {
    let set = KeySet::new(Arc::new(table), None, &[], None);
    let format = set.table().format();
    let entries = set.iter().map(|entry| key(&entry, format));
    let mut content = content(set.table().manifest(), entries, Vec::new());
    if format == TableFormat::V2 {
        content["org_limits"] = org_limits(set.iter_org_limits());
    }
    content
}

fn content_of_patch(patch: &Patch) -> Value {
    let removed = patch.body().removals().iter().map(|removal| {
        json!({
            "digest": BodyHash(removal.digest),
            "id": crate::core::KeyId::from_bytes(removal.id).unwrap().to_string(),
            "whole": removal.whole == 1,
        })
    });
    let entries = patch.body().iter().map(|found| key(&found.entry(), patch.format()));
    let mut content = content(patch.manifest(), entries, removed.collect());
    if patch.format() == TableFormat::V2 {
        content["org_limits"] = org_limits(patch.org_limits());
    }
    content
}

fn trust() -> Trust {
    Trust::new([Signer::new(1).key], 1, AUDIENCE).unwrap()
}

// === impl Given ===

impl Given {
    const ALL: [Self; 3] = [Self::Basic, Self::Nothing, Self::TwoRequired];

    fn as_str(self) -> &'static str {
        match self {
            Self::Basic => " (after good/basic.kgt)",
            Self::Nothing => "",
            Self::TwoRequired => " (signers 1 and 2 required)",
        }
    }
}

/// Reads a vector as a sidecar does: verified, then offered after whatever came before.
fn verdict(file: Vec<u8>, kind: FileKind, given: Given) -> Result<Value, Refusal> {
    let bounds = Bounds { max_bytes: MAX_BYTES };
    let mut desk = Acceptance::new(AcceptRules::default());
    if given == Given::Basic {
        let before = fs::read(folder().join("good/basic.kgt")).unwrap();
        let before = Table::open(before, &trust(), &bounds).unwrap();
        desk.offer_table(Arc::new(before), NOW).unwrap();
    }
    let trust = match given {
        Given::TwoRequired => Trust::new([1, 2].map(|n| Signer::new(n).key), 2, AUDIENCE).unwrap(),
        Given::Basic | Given::Nothing => trust(),
    };
    match kind {
        FileKind::Table => {
            let table = Arc::new(Table::open(file, &trust, &bounds)?);
            desk.offer_table(table.clone(), NOW)?;
            drop(desk);
            Ok(content_of_table(Arc::into_inner(table).unwrap()))
        }
        FileKind::Patch => {
            let patch = Arc::new(Patch::open(file, &trust, &bounds)?);
            match desk.offer_patch(patch.clone(), NOW)? {
                AcceptOutcome::Restricted(refusal) => Err(refusal),
                _ => Ok(content_of_patch(&patch)),
            }
        }
    }
}

#[test]
fn the_directory_says_what_the_reader_says() {
    let mut seen = 0;
    let mut faults = Vec::new();
    for side in ["good", "bad"] {
        for entry in fs::read_dir(folder().join(side)).unwrap() {
            let path = entry.unwrap().path();
            let kind = match path.extension().and_then(|e| e.to_str()) {
                Some("kgt") => FileKind::Table,
                Some("kgp") => FileKind::Patch,
                _ => continue,
            };
            let name = path.display().to_string();
            let file = fs::read(&path).unwrap();
            seen += 1;
            if side == "good" {
                let text = fs::read(path.with_extension("json")).unwrap();
                let wanted: Value = serde_json::from_slice(&text).unwrap();
                match verdict(file, kind, Given::Nothing) {
                    Ok(content) if content == wanted => {}
                    Ok(content) => faults.push(format!("{name} holds {content:#}")),
                    Err(refusal) => faults.push(format!("{name} is refused: {refusal}")),
                }
                continue;
            }
            let text = fs::read_to_string(path.with_extension("txt")).unwrap();
            assert_eq!(text.lines().count(), 1, "{name}: one line says why");
            let (head, _) = text.split_once(": ").unwrap();
            let (reason, given) = head.split_at(head.find(" (").unwrap_or(head.len()));
            let given = Given::ALL.into_iter().find(|g| g.as_str() == given).unwrap();
            match verdict(file, kind, given) {
                Ok(_) => faults.push(format!("{name} is accepted")),
                Err(refusal) if refusal.reason() == reason => {}
                Err(refusal) => {
                    faults.push(format!("{name} is refused as {}: {refusal}", refusal.reason()));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(seen > 50, "{seen} vectors");
}

/// Writes all files to a folder that stays.
fn left(files: &[(String, Vec<u8>)]) -> PathBuf {
    let folder = tempfile::tempdir().unwrap().keep();
    for side in ["good", "bad"] {
        fs::create_dir(folder.join(side)).unwrap();
    }
    for (path, content) in files {
        fs::write(folder.join(path), content).unwrap();
    }
    folder
}

#[test]
fn the_directory_is_what_the_generator_makes() {
    let made = files();
    let is_there = |(path, content): &&(String, Vec<u8>)| {
        fs::read(folder().join(path)).is_ok_and(|there| there == *content)
    };
    let wrong: Vec<_> = made.iter().filter(|file| !is_there(file)).map(|(path, _)| path).collect();
    assert!(
        wrong.is_empty(),
        "{wrong:?}: as the generator makes them in {}",
        left(&made).display()
    );
    let names: BTreeSet<_> = made.iter().map(|(path, _)| path.clone()).collect();
    for side in ["good", "bad"] {
        for entry in fs::read_dir(folder().join(side)).unwrap() {
            let path = format!("{side}/{}", entry.unwrap().file_name().display());
            assert!(names.contains(&path), "{path} is nobody's");
        }
    }
}

/// Every reason of the enum has a file that is refused for it.
#[test]
fn every_reason_has_a_vector() {
    let have: BTreeSet<_> = vectors()
        .iter()
        .filter_map(|vector| match vector.verdict {
            Verdict::Bad { reason, .. } => Some(reason),
            Verdict::Good(_) => None,
        })
        .collect();
    for (reason, _) in Refusal::REASONS {
        // Nine publishers together: tests/accept.rs has it. Memory does not depend on the file.
        if !["hold_full", "memory"].contains(reason) {
            assert!(have.contains(reason), "{reason}");
        }
    }
}
