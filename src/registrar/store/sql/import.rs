//! Imports keys of a registry as they are.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, json};

use super::super::error::StoreError;
use super::super::import::{ImportBatch, ImportPart, ImportedBatch};
use super::super::names::AudienceName;
use super::connection::StoreConnection;
use super::fault::OptionalExtension as _;
use super::keys::{self, ChangeStamp};
use super::log::{self, Occasion, Subject};
use super::publish::importing;
use super::writer::Work;
use crate::core::KeyId;
use crate::manage::registry::entry::RegistryEntry;
use crate::manage::registry::settings::RawSettings;

/// The savepoint to go back to when keys cannot be added together.
const TOGETHER: &str = "together";

/// One serial and one audit line for the whole batch, if it changes anything.
pub(super) fn import(
    store: &StoreConnection,
    batch: &ImportBatch,
) -> Result<Work<ImportedBatch>, StoreError> {
    let ImportBatch { audience, actor, channel, at_ms, .. } = batch;
    let lift = lift(store, audience, batch.above)?;
    let has_ended = settle(store, batch, lift)?;
    let serial = store.raise(audience)?;
    let has_new_settings = match &batch.settings {
        Some(settings) => put_settings(store, audience, settings)?,
        None => false,
    };
    let known_settings = store.settings(audience)?;
    let stamp = ChangeStamp { serial, at_ms: *at_ms };
    let mut done = ImportedBatch { serial, ..ImportedBatch::default() };
    let mut ids = Vec::new();
    let known = keys::load_all(store, audience, batch.entries.iter().map(|entry| entry.id))?;
    let mut made: Vec<RegistryEntry> = Vec::new();
    let mut places: BTreeMap<KeyId, usize> = BTreeMap::new();
    for entry in &batch.entries {
        let mut entry = entry.clone();
        entry
            .resolve_plan(&known_settings.registry.plans)
            .map_err(|fault| StoreError::invalid(fault.field, fault.why))?;
        let there = known.get(&entry.id).map(|known| &known.key.entry);
        let place = || places.get(&entry.id).and_then(|place| made.get(*place));
        match there.or_else(place) {
            Some(there) => {
                // A key keeps the UUID that callers know.
                if *there != (RegistryEntry { uid: there.uid, ..entry }) {
                    let why = format!("{} is there already, with other content", there.id);
                    return Err(StoreError::Conflict { why });
                }
                done.known += 1;
            }
            None => {
                ids.push(entry.id.to_string());
                places.insert(entry.id, made.len());
                made.push(entry);
                done.added += 1;
            }
        }
    }
    insert(store, audience, &mut made, stamp)?;
    if ids.is_empty() && !has_new_settings && lift == SerialLift::Kept && !has_ended {
        return Ok(Work::Undo(ImportedBatch { serial: serial.saturating_sub(1), ..done }));
    }
    let mut detail = Map::new();
    detail.insert("keys".to_owned(), json!(ids));
    let name = audience.as_str();
    let action = "import";
    let occasion = Occasion { at_ms: *at_ms, audience: name, serial, actor, channel, action };
    log::append(store, occasion, Subject { org: "", object: "", detail: &detail })?;
    if store.connection.is_server() {
        count_rows(store, done.added)?;
    }
    Ok(Work::Keep(done))
}

/// Brings the audience's serial up to that of the registry.
fn lift(
    store: &StoreConnection,
    audience: &AudienceName,
    above: u64,
) -> Result<SerialLift, StoreError> {
    let lifted = store.connection.execute(
        "UPDATE audience SET serial = ?2 WHERE name = ?1 AND serial < ?2",
        (audience.as_str(), above),
    )?;
    Ok(if lifted > 0 { SerialLift::Lifted } else { SerialLift::Kept })
}

/// What a batch has done to the audience's serial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SerialLift {
    /// It is above that of the registry now.
    Lifted,
    /// It was.
    Kept,
}

/// Notes that keys are still missing below the serial that was lifted, or that none is any more.
/// Without the note, a database that holds a part of the keys would pass for one that has caught up.
/// Returns whether an import that was left unfinished ends with this batch.
fn settle(
    store: &StoreConnection,
    batch: &ImportBatch,
    serial: SerialLift,
) -> Result<bool, StoreError> {
    let name = importing(&batch.audience);
    match batch.part {
        ImportPart::Early if serial == SerialLift::Lifted => {
            store.connection.execute(
                "INSERT INTO meta (name, value) VALUES (?1, ?2) \
                 ON CONFLICT (name) DO UPDATE SET value = ?2",
                (name, batch.above.to_string()),
            )?;
            Ok(false)
        }
        ImportPart::Early => Ok(false),
        ImportPart::Last => {
            let noted: Option<String> = store
                .connection
                .prepare_cached("SELECT value FROM meta WHERE name = ?1")?
                .query_row([&*name], |row| row.get(0))
                .optional()?;
            let noted = noted.and_then(|serial| serial.parse().ok());
            // An older registry lacks what is missing.
            if noted.is_none_or(|serial: u64| serial > batch.above) {
                return Ok(false);
            }
            store.connection.execute("DELETE FROM meta WHERE name = ?1", [name])?;
            Ok(true)
        }
    }
}

/// Adds them together. If that fails, first takes away the UUIDs that other keys have, and then
/// adds the keys one after the other, to find the one that fails.
fn insert(
    store: &StoreConnection,
    audience: &AudienceName,
    made: &mut [RegistryEntry],
    stamp: ChangeStamp,
) -> Result<(), StoreError> {
    let try_all = |made: &[RegistryEntry]| -> Result<(), StoreError> {
        keys::insert(store, audience, &made.iter().collect::<Vec<_>>(), stamp)?;
        Ok(store.connection.settle()?)
    };
    let unindexed = store.unindexed.added();
    let mut together = store.connection.nested(TOGETHER, || try_all(made));
    if together.is_err() {
        store.unindexed.restore(unindexed.clone());
    }
    if is_conflict(&together) && give_up_uids(store, made)? {
        together = store.connection.nested(TOGETHER, || try_all(made));
        if together.is_err() {
            store.unindexed.restore(unindexed);
        }
    }
    if !is_conflict(&together) {
        return together;
    }
    for entry in made.iter() {
        try_all(std::slice::from_ref(entry)).map_err(|e| match e {
            StoreError::Conflict { .. } => StoreError::Conflict {
                why: format!(
                    "another key has the secret, public id or UUID of {}; if a line states `uid` for \
                     that key, take it out there",
                    entry.id
                ),
            },
            e => e,
        })?;
    }
    together
}

const fn is_conflict(done: &Result<(), StoreError>) -> bool {
    matches!(done, Err(StoreError::Conflict { .. }))
}

/// Of keys that state a UUID which another key has: somebody copied their lines, or imports them
/// for a second audience. Returns whether there are any.
fn give_up_uids(store: &StoreConnection, made: &mut [RegistryEntry]) -> Result<bool, StoreError> {
    let mut statement =
        store.connection.prepare_cached("SELECT count(*) FROM key WHERE uid = ?1")?;
    let mut stated = BTreeSet::new();
    let mut are_any = false;
    for entry in made {
        let Some(uid) = entry.uid else { continue };
        let there: u64 = statement.query_row([uid.0], |row| row.get(0))?;
        if there > 0 || !stated.insert(uid) {
            entry.uid = None;
            are_any = true;
        }
    }
    Ok(are_any)
}

/// A server plans by the row counts that it took last, and those of a new database are nothing. By
/// itself it counts again once a minute at best.
fn count_rows(store: &StoreConnection, added: u64) -> Result<(), StoreError> {
    let counted: String = store.connection.query_row(
        "SELECT CAST(CAST(reltuples AS BIGINT) AS TEXT) FROM pg_class WHERE oid = 'key'::regclass",
        [],
        |row| row.get(0),
    )?;
    // -1: never.
    if counted.parse().unwrap_or(-1_i64) < i64::try_from(added).unwrap_or(i64::MAX) {
        store.connection.execute("ANALYZE key, secret", [])?;
    }
    Ok(())
}

/// As a registry has them, without the fields that tell one registry's file from another's. Returns
/// whether they were others.
fn put_settings(
    store: &StoreConnection,
    audience: &AudienceName,
    settings: &RawSettings,
) -> Result<bool, StoreError> {
    let raw = RawSettings {
        serial: 0,
        audience: Some(audience.as_str().to_owned()),
        published: Vec::new(),
        ..settings.clone()
    };
    let text = serde_json::to_string(&raw).map_err(StoreError::broken)?;
    let changed = store.connection.execute(
        "UPDATE audience SET settings = ?2 WHERE name = ?1 AND settings <> ?2",
        (audience.as_str(), text),
    )?;
    Ok(changed > 0)
}

pub(super) fn settings(
    store: &StoreConnection,
    audience: &AudienceName,
) -> Result<RawSettings, StoreError> {
    Ok(store.settings(audience)?.registry.raw())
}
