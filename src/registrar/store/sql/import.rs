//! Imports keys of a registry as they are.

use std::collections::BTreeMap;

use serde_json::{Map, json};

use super::super::error::StoreError;
use super::super::import::{ImportBatch, ImportedBatch};
use super::super::names::{AudienceName, Uid};
use super::connection::StoreConnection;
use super::keys::{self, ChangeStamp};
use super::log::{self, Occasion, Subject};
use super::writer::Work;
use crate::core::KeyId;
use crate::manage::operation::RandomSource;
use crate::manage::registry::entry::RegistryEntry;
use crate::manage::registry::settings::RawSettings;

/// The savepoint to go back to when keys cannot be added together.
const TOGETHER: &str = "together";

/// One serial and one audit line for the whole batch.
pub(super) fn import(
    store: &StoreConnection,
    batch: &ImportBatch,
    random: &mut dyn RandomSource,
) -> Result<Work<ImportedBatch>, StoreError> {
    let ImportBatch { audience, actor, channel, at_ms, .. } = batch;
    store.connection.execute(
        "UPDATE audience SET serial = max(serial, ?2) WHERE name = ?1",
        (audience.as_str(), batch.above),
    )?;
    let serial = store.raise(audience)?;
    if let Some(settings) = &batch.settings {
        put_settings(store, audience, settings)?;
    }
    let known_settings = store.settings(audience)?;
    let stamp = ChangeStamp { serial, at_ms: *at_ms };
    let mut done = ImportedBatch { serial, ..ImportedBatch::default() };
    let mut ids = Vec::new();
    let known = keys::load_all(store, audience, batch.entries.iter().map(|entry| entry.id))?;
    let mut made: Vec<(Uid, RegistryEntry)> = Vec::new();
    let mut places: BTreeMap<KeyId, usize> = BTreeMap::new();
    for entry in &batch.entries {
        let mut entry = entry.clone();
        entry
            .resolve_plan(&known_settings.registry.plans)
            .map_err(|fault| StoreError::invalid(fault.field, fault.why))?;
        let there = known.get(&entry.id).map(|known| &known.key.entry);
        let place = || places.get(&entry.id).and_then(|place| made.get(*place));
        match there.or_else(|| place().map(|(_, entry)| entry)) {
            Some(there) if *there == entry => done.known += 1,
            Some(_) => {
                let why = format!("{} is there already, with other content", entry.id);
                return Err(StoreError::Conflict { why });
            }
            None => {
                let mut bytes = [0; 16];
                random.fill(&mut bytes).map_err(|_| StoreError::broken("no random bytes"))?;
                ids.push(entry.id.to_string());
                places.insert(entry.id, made.len());
                made.push((Uid::of_random(bytes), entry));
                done.added += 1;
            }
        }
    }
    let made: Vec<_> = made.iter().map(|(uid, entry)| (*uid, entry)).collect();
    insert(store, audience, &made, stamp)?;
    if ids.is_empty() && batch.settings.is_none() {
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

/// Adds them together. If that fails, adds them one after the other, to find the one that fails.
fn insert(
    store: &StoreConnection,
    audience: &AudienceName,
    made: &[(Uid, &RegistryEntry)],
    stamp: ChangeStamp,
) -> Result<(), StoreError> {
    let try_all = |made: &[(Uid, &RegistryEntry)]| -> Result<(), StoreError> {
        keys::insert(store, audience, made, stamp)?;
        Ok(store.connection.settle()?)
    };
    let together = store.connection.nested(TOGETHER, || try_all(made));
    let Err(StoreError::Conflict { .. }) = together else { return together };
    for (uid, entry) in made {
        try_all(&[(*uid, *entry)]).map_err(|e| match e {
            StoreError::Conflict { .. } => StoreError::Conflict {
                why: format!("another key has the secret or public id of {}", entry.id),
            },
            e => e,
        })?;
    }
    together
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

/// As a registry has them, without the fields that tell one registry's file from another's.
fn put_settings(
    store: &StoreConnection,
    audience: &AudienceName,
    settings: &RawSettings,
) -> Result<(), StoreError> {
    let raw = RawSettings {
        serial: 0,
        audience: Some(audience.as_str().to_owned()),
        published: Vec::new(),
        ..settings.clone()
    };
    let text = serde_json::to_string(&raw).map_err(StoreError::broken)?;
    store
        .connection
        .execute("UPDATE audience SET settings = ?2 WHERE name = ?1", (audience.as_str(), text))?;
    Ok(())
}

pub(super) fn settings(
    store: &StoreConnection,
    audience: &AudienceName,
) -> Result<RawSettings, StoreError> {
    Ok(store.settings(audience)?.registry.raw())
}
