//! Artefacts that wait for others' signatures: which of them wait, and which are replaced.

use super::super::super::change::AuditEvent;
use super::super::super::error::StoreError;
use super::super::super::names::AudienceName;
use super::super::super::publishing::{
    ArtefactHead, ArtefactKind, ArtefactState, PublishedBase, StoredArtefact,
};
use super::super::connection::StoreConnection;
use super::super::driver::SqlConnection;
use super::super::fault::OptionalExtension as _;
use super::super::log;
use super::super::writer::Work;
use crate::table::Manifest;

/// The name of the row that says what the newest draft of a table was made with: its serial, the
/// serial of the table in force when its keys were read, and the rest as in [`super::made_with`].
pub(super) fn made_with(audience: &AudienceName) -> String {
    format!("draft {audience}")
}

/// The newest patch over the table `base` that enough have signed.
pub(super) fn signed_patch(
    connection: &SqlConnection,
    audience: &AudienceName,
    base: u64,
) -> Result<Option<ArtefactHead>, StoreError> {
    let serial: Option<u64> = connection
        .prepare_cached(
            "SELECT max(serial) FROM artefact \
             WHERE audience = ?1 AND kind = 'patch' AND base = ?2 AND state = 'signed'",
        )?
        .query_row((audience.as_str(), base), |row| row.get(0))?;
    match serial {
        Some(serial) => super::head(connection, audience, ArtefactKind::Patch, serial),
        None => Ok(None),
    }
}

/// Forgets what a new draft of a patch replaces: older drafts, tables that did not become the one
/// in force, and patches over those. `base`: serial of the table in force.
///
/// Whatever is published has a higher serial than everything before it. So a draft of a table is
/// useless once a patch over another table is ahead of it. So is a patch behind a newer one.
pub(super) fn make_way(
    connection: &SqlConnection,
    patch: &ArtefactHead,
    base: u64,
) -> Result<(), StoreError> {
    let audience = patch.audience.as_str();
    let conflict = |why: &str| Err(StoreError::Conflict { why: why.to_owned() });
    let newest = super::newest(connection, &patch.audience, ArtefactKind::Patch)?;
    if newest.is_some_and(|newest| newest.serial > patch.serial) {
        return conflict("a later patch is kept");
    }
    if patch.base > base {
        let kind = ArtefactKind::Table;
        if super::head(connection, &patch.audience, kind, patch.base)?.is_none() {
            return conflict("the table of this patch was given up");
        }
        let ahead = signed_patch(connection, &patch.audience, base)?;
        if ahead.is_some_and(|ahead| ahead.serial > patch.base) {
            return conflict("a patch over the table in force is ahead of the table of this one");
        }
    }
    connection.execute(
        "DELETE FROM artefact WHERE audience = ?1 AND serial < ?2 AND serial <> ?3 AND \
         ((kind = 'patch' AND (state = 'draft' OR (base > ?4 AND base <> ?3))) \
         OR (kind = 'table' AND serial > ?4))",
        (audience, patch.serial, patch.base, base),
    )?;
    Ok(())
}

pub(in super::super) fn sign_draft(
    store: &StoreConnection,
    draft: StoredArtefact,
) -> Result<Work<Option<StoredArtefact>>, StoreError> {
    let connection = &store.connection;
    let head = &draft.head;
    let kept = super::artefact(connection, &head.audience, head.kind, head.serial)?;
    let Some(kept) = kept else { return Ok(Work::Undo(None)) };
    // Each signature makes the file longer.
    let has_more = draft.body.len() > kept.body.len();
    let is_signed = kept.head.state == ArtefactState::Signed;
    let is_complete =
        !is_signed && head.state == ArtefactState::Signed && draft.body.len() == kept.body.len();
    let base = super::base_of(connection, &head.audience)?.unwrap_or_default();
    let is_in_force = is_signed && kept.head.base <= base;
    if is_in_force || !(has_more || is_complete) {
        return Ok(Work::Undo(Some(kept)));
    }
    connection.execute(
        "DELETE FROM artefact WHERE audience = ?1 AND kind = ?2 AND serial = ?3",
        (head.audience.as_str(), head.kind.as_str(), head.serial),
    )?;
    let state = if is_signed { ArtefactState::Signed } else { head.state };
    let draft = StoredArtefact { head: ArtefactHead { state, ..head.clone() }, body: draft.body };
    let head = super::insert_artefact(connection, &draft)?;
    Ok(Work::Keep(Some(StoredArtefact { head, ..draft })))
}

/// Somebody else's signature, and the line that tells of it: a repeated request finds the signature,
/// and would not write the line.
pub(in super::super) fn co_sign(
    store: &StoreConnection,
    draft: StoredArtefact,
    event: &AuditEvent,
) -> Result<Work<Option<StoredArtefact>>, StoreError> {
    let done = sign_draft(store, draft)?;
    if matches!(done, Work::Keep(_)) {
        log::note(store, event)?;
    }
    Ok(done)
}

pub(in super::super) fn release_table(
    store: &StoreConnection,
    audience: &AudienceName,
    serial: u64,
) -> Result<Work<bool>, StoreError> {
    let connection = &store.connection;
    let is_signed = |head: &ArtefactHead| head.state == ArtefactState::Signed;
    let patch = super::newest(connection, audience, ArtefactKind::Patch)?;
    if !patch.is_some_and(|patch| patch.base == serial && is_signed(&patch)) {
        return Ok(Work::Undo(false));
    }
    let table = super::artefact(connection, audience, ArtefactKind::Table, serial)?;
    let Some(table) = table.filter(|table| is_signed(&table.head)) else {
        return Ok(Work::Undo(false));
    };
    let manifest = Manifest::unverified(&table.body)
        .map_err(|e| StoreError::broken(format!("the table of serial {serial}: {e}")))?;
    let made_with: Option<String> = connection
        .prepare_cached("SELECT value FROM meta WHERE name = ?1")?
        .query_row([made_with(audience)], |row| row.get(0))
        .optional()?;
    // Keys that were read after another table than the one in force lack what that one has
    // forgotten.
    let base = super::base_of(connection, audience)?.unwrap_or_default();
    let of_it =
        made_with.as_deref().and_then(|text| text.strip_prefix(&format!("{serial} {base} ")));
    let Some(settings) = of_it else { return Ok(Work::Undo(false)) };
    connection.execute(
        "INSERT INTO meta (name, value) VALUES (?1, ?2) \
         ON CONFLICT (name) DO UPDATE SET value = ?2",
        (super::made_with(audience), format!("{serial} {settings}")),
    )?;
    let includes = manifest.includes_through;
    super::set_base(store, &PublishedBase { audience: audience.clone(), serial, includes })?;
    Ok(Work::Keep(true))
}
