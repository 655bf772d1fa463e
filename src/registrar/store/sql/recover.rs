//! Writes the keys of a published table into a database that is older than the table.

use serde_json::json;

use super::super::change::{Channel, KeyRef};
use super::super::error::StoreError;
use super::super::import::RecoveredKeys;
use super::connection::StoreConnection;
use super::keys::{self, ChangeStamp};
use super::log::{self, Occasion, Subject};
use super::writer::Work;
use crate::manage::registry::audit::difference;

/// One serial, and an audit line for each key.
pub(super) fn recover(
    store: &StoreConnection,
    batch: &RecoveredKeys,
) -> Result<Work<u64>, StoreError> {
    let RecoveredKeys { audience, actor, at_ms, above, entries } = batch;
    let name = audience.as_str();
    store
        .connection
        .execute("UPDATE audience SET serial = max(serial, ?2) WHERE name = ?1", (name, above))?;
    let serial = store.raise(audience)?;
    let stamp = ChangeStamp { serial, at_ms: *at_ms };
    let channel = Channel::default();
    for entry in entries {
        let (before, org) = match keys::load(store, audience, None, KeyRef::Id(entry.id)) {
            Ok(known) => {
                keys::update(store, &known, entry, stamp)?;
                (Some(known.key.entry), entry.org.as_str())
            }
            Err(StoreError::NoSuchKey) => {
                keys::insert(store, audience, &[entry], stamp)?;
                (None, entry.org.as_str())
            }
            Err(e) => return Err(e),
        };
        let mut detail = difference(before.as_ref(), entry);
        if before.is_none() {
            detail.insert("found".to_owned(), json!("recovered"));
        }
        let action = "recover";
        let occasion =
            Occasion { at_ms: *at_ms, audience: name, serial, actor, channel: &channel, action };
        let object = entry.id.to_string();
        log::append(store, occasion, Subject { org, object: &object, detail: &detail })?;
    }
    // They are older than what sidecars have. A new table will follow, and patches over it.
    store.connection.execute("DELETE FROM artefact WHERE audience = ?1", [name])?;
    store.connection.execute("UPDATE audience SET base = 0 WHERE name = ?1", [name])?;
    Ok(Work::Keep(serial))
}
