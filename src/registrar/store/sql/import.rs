//! Keys of a registry, put in as they are.

use serde_json::{Map, json};

use super::super::change::KeyRef;
use super::super::error::StoreError;
use super::super::import::{ImportBatch, ImportedBatch};
use super::super::names::{AudienceName, Uid};
use super::connection::StoreConnection;
use super::keys::{self, ChangeStamp};
use super::log::{self, Occasion, Subject};
use super::writer::Work;
use crate::manage::operation::RandomSource;
use crate::manage::registry::settings::RawSettings;

/// One serial and one audit line for all of the batch.
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
    for entry in &batch.entries {
        let mut entry = entry.clone();
        entry
            .resolve_plan(&known_settings.registry.plans)
            .map_err(|fault| StoreError::invalid(fault.field, fault.why))?;
        match keys::load(store, audience, None, KeyRef::Id(entry.id)) {
            Ok(known) if known.key.entry == entry => done.known += 1,
            Ok(_) => {
                let why = format!("{} is there already, with other content", entry.id);
                return Err(StoreError::Conflict { why });
            }
            Err(StoreError::NoSuchKey) => {
                let mut bytes = [0; 16];
                random.fill(&mut bytes).map_err(|_| StoreError::broken("no random bytes"))?;
                let made = keys::insert(store, audience, Uid::of_random(bytes), &entry, stamp);
                made.and_then(|_| Ok(store.connection.settle()?)).map_err(|e| match e {
                    StoreError::Conflict { .. } => StoreError::Conflict {
                        why: format!("another key has the secret or public id of {}", entry.id),
                    },
                    e => e,
                })?;
                ids.push(entry.id.to_string());
                done.added += 1;
            }
            Err(e) => return Err(e),
        }
    }
    if ids.is_empty() && batch.settings.is_none() {
        return Ok(Work::Undo(ImportedBatch { serial: serial.saturating_sub(1), ..done }));
    }
    let mut detail = Map::new();
    detail.insert("keys".to_owned(), json!(ids));
    let name = audience.as_str();
    let action = "import";
    let occasion = Occasion { at_ms: *at_ms, audience: name, serial, actor, channel, action };
    log::append(&store.connection, occasion, Subject { org: "", object: "", detail: &detail })?;
    Ok(Work::Keep(done))
}

/// As a registry has them. What tells one registry's file from another's stays out.
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
