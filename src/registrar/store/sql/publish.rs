//! Rows of publications, artefacts, sidecars, signers and epochs; snapshots of keys.

pub(super) mod drafts;

use std::collections::HashMap;

use tokio::sync::{mpsc, oneshot};

use super::super::change::AuditEvent;
use super::super::error::StoreError;
use super::super::names::AudienceName;
use super::super::publishing::{
    ArtefactHead, ArtefactKind, ArtefactState, Publication, PublishedBase, Serials, SidecarReport,
    SignerRow, SnapshotKey, StoredArtefact, TableToPublish,
};
use super::connection::{RaisedSerial, StoreConnection};
use super::driver::SqlConnection;
use super::fault::OptionalExtension as _;
use super::keys::{COLUMNS, JOINS, decode};
use super::lease;
use super::log;
use super::value::ToValue as _;
use super::writer::Work;
use crate::core::Digest;

/// Bytes per piece of a body.
const CHUNK: usize = 1 << 20;
/// Keys per batch: a few hundred bytes each.
const BATCH: usize = 512;

pub(super) fn publication(
    store: &StoreConnection,
    audience: &AudienceName,
) -> Result<Publication, StoreError> {
    let view = store.connection.view()?;
    let found = view
        .prepare_cached("SELECT serial, published, base, epoch FROM audience WHERE name = ?1")?
        .query_row([audience.as_str()], |row| {
            Ok(Publication {
                audience: audience.clone(),
                serial: row.get(0)?,
                published: row.get(1)?,
                base: row.get(2)?,
                epoch: row.get(3)?,
                settings: None,
                table: None,
                patch: None,
                signed_patch: None,
                importing: None,
            })
        })
        .optional()?;
    let mut found = found.ok_or(StoreError::NoSuchAudience)?;
    let (made_with, importing) = (made_with(audience), importing(audience));
    let mut statement =
        view.prepare_cached("SELECT name, value FROM meta WHERE name IN (?1, ?2)")?;
    let mut rows = statement.query((&*made_with, &*importing))?;
    while let Some(row) = rows.next()? {
        let (name, value): (String, String) = (row.get(0)?, row.get(1)?);
        if name == importing {
            found.importing = value.parse().ok();
        } else if let Some((base, settings)) = value.split_once(' ') {
            found.settings = (base == found.base.to_string()).then(|| settings.into());
        }
    }
    drop(rows);
    found.table = newest(&view, audience, ArtefactKind::Table)?;
    found.patch = newest(&view, audience, ArtefactKind::Patch)?;
    let is_in_force =
        |head: &ArtefactHead| head.state == ArtefactState::Signed && head.base == found.base;
    found.signed_patch = match &found.patch {
        Some(patch) if is_in_force(patch) => Some(patch.clone()),
        Some(_) => drafts::signed_patch(&view, audience, found.base)?,
        None => None,
    };
    Ok(found)
}

/// The name of the row that says what the table in force was made with: its serial, and the rest.
fn made_with(audience: &AudienceName) -> String {
    format!("table {audience}")
}

/// The name of the row with the serial of a registry whose last keys are not in yet.
pub(super) fn importing(audience: &AudienceName) -> String {
    format!("import {audience}")
}

fn newest(
    connection: &SqlConnection,
    audience: &AudienceName,
    kind: ArtefactKind,
) -> Result<Option<ArtefactHead>, StoreError> {
    let serial: Option<u64> = connection
        .prepare_cached("SELECT max(serial) FROM artefact WHERE audience = ?1 AND kind = ?2")?
        .query_row((audience.as_str(), kind.as_str()), |row| row.get(0))?;
    match serial {
        Some(serial) => head(connection, audience, kind, serial),
        None => Ok(None),
    }
}

fn head(
    connection: &SqlConnection,
    audience: &AudienceName,
    kind: ArtefactKind,
    serial: u64,
) -> Result<Option<ArtefactHead>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT base, state, sha256, bytes, made FROM artefact \
         WHERE audience = ?1 AND kind = ?2 AND serial = ?3",
    )?;
    let mut rows = statement.query((audience.as_str(), kind.as_str(), serial))?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let state = ArtefactState::parse(&row.get::<_, String>(1)?);
    Ok(Some(ArtefactHead {
        audience: audience.clone(),
        kind,
        serial,
        base: row.get(0)?,
        state: state.ok_or_else(|| StoreError::broken("an artefact has a strange state"))?,
        sha256: Digest(row.get(2)?),
        bytes: row.get(3)?,
        made_ms: row.get(4)?,
    }))
}

pub(super) fn artefact(
    connection: &SqlConnection,
    audience: &AudienceName,
    kind: ArtefactKind,
    serial: u64,
) -> Result<Option<StoredArtefact>, StoreError> {
    let Some(head) = head(connection, audience, kind, serial)? else { return Ok(None) };
    let mut statement = connection.prepare_cached(
        "SELECT body FROM chunk WHERE audience = ?1 AND kind = ?2 AND serial = ?3 ORDER BY piece",
    )?;
    let mut rows = statement.query((audience.as_str(), kind.as_str(), serial))?;
    let mut body = Vec::new();
    while let Some(row) = rows.next()? {
        body.extend(row.get::<_, Vec<u8>>(0)?);
    }
    if !Digest::of(&body).matches(&head.sha256) {
        return Err(StoreError::broken(format!(
            "the {} of serial {serial} is not the one that was kept",
            kind.as_str()
        )));
    }
    Ok(Some(StoredArtefact { head, body }))
}

/// The first artefact of a serial stays. A patch for a former table is refused: it would take that
/// table's sidecars past the next table's serial.
pub(super) fn put_artefact(
    store: &StoreConnection,
    made: StoredArtefact,
) -> Result<Work<StoredArtefact>, StoreError> {
    let connection = &store.connection;
    let head = &made.head;
    if let Some(kept) = artefact(connection, &head.audience, head.kind, head.serial)? {
        return Ok(Work::Undo(kept));
    }
    if head.kind == ArtefactKind::Patch {
        let base = base_of(connection, &head.audience)?.unwrap_or_default();
        if head.base < base {
            return Err(StoreError::Conflict { why: "a later table is published".to_owned() });
        }
        if is_importing(connection, &head.audience)? {
            return Err(StoreError::Conflict { why: "an import is under way".to_owned() });
        }
        if head.state == ArtefactState::Draft {
            drafts::make_way(connection, head, base)?;
        }
    }
    let head = insert_artefact(connection, &made)?;
    Ok(Work::Keep(StoredArtefact { head, body: made.body }))
}

/// Serial of the table in force.
fn base_of(connection: &SqlConnection, audience: &AudienceName) -> Result<Option<u64>, StoreError> {
    let mut statement = connection.prepare_cached("SELECT base FROM audience WHERE name = ?1")?;
    Ok(statement.query_row([audience.as_str()], |row| row.get(0)).optional()?)
}

fn insert_artefact(
    connection: &SqlConnection,
    made: &StoredArtefact,
) -> Result<ArtefactHead, StoreError> {
    let StoredArtefact { head, body } = made;
    let name = (head.audience.as_str(), head.kind.as_str(), head.serial);
    connection.execute(
        "INSERT INTO artefact (audience, kind, serial, base, state, sha256, bytes, made) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        (
            name.0,
            name.1,
            name.2,
            head.base,
            head.state.as_str(),
            Digest::of(body).0,
            body.len() as u64,
            head.made_ms,
        ),
    )?;
    let mut insert = connection.prepare_cached(
        "INSERT INTO chunk (audience, kind, serial, piece, body) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    for (piece, bytes) in body.chunks(CHUNK).enumerate() {
        insert.execute((name.0, name.1, name.2, piece as u64, bytes))?;
    }
    Ok(ArtefactHead { sha256: Digest::of(body), bytes: body.len() as u64, ..head.clone() })
}

/// Stores the table, and makes it the one that patches are for, if nobody else has to sign it.
/// `false`: somebody else was first, and nothing was changed.
pub(super) fn publish_table(
    store: &StoreConnection,
    table: TableToPublish,
) -> Result<Work<bool>, StoreError> {
    let TableToPublish { artefact, includes, after, settings, lease } = table;
    let head = &artefact.head;
    let (audience, serial) = (head.audience.clone(), head.serial);
    let is_draft = head.state == ArtefactState::Draft;
    if let Some(lease) = &lease
        && !lease::is_held(store, lease)?
    {
        return Ok(Work::Undo(false));
    }
    let connection = &store.connection;
    if is_importing(connection, &audience)? {
        return Ok(Work::Undo(false));
    }
    let found: Option<(u64, u64)> = connection
        .prepare_cached("SELECT serial, base FROM audience WHERE name = ?1")?
        .query_row([audience.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let (newest, base) = found.ok_or(StoreError::NoSuchAudience)?;
    // Another table was published since this one's keys were read. Secrets that were removed before
    // that table are no longer in the database, and no patch over this table would remove them.
    if newest >= serial || base != after {
        return Ok(Work::Undo(false));
    }
    insert_artefact(connection, &artefact)?;
    // Two serials: the table's own, and one for the first patch over it.
    connection.execute(
        "UPDATE audience SET serial = ?2 WHERE name = ?1",
        (audience.as_str(), serial.saturating_add(1)),
    )?;
    let raised = RaisedSerial { audience: audience.clone(), serial: serial.saturating_add(1) };
    store.raised.borrow_mut().push(raised);
    connection.execute(
        "INSERT INTO meta (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = ?2",
        match is_draft {
            true => (drafts::made_with(&audience), format!("{serial} {after} {settings}")),
            false => (made_with(&audience), format!("{serial} {settings}")),
        },
    )?;
    if is_draft {
        return Ok(Work::Keep(true));
    }
    set_base(store, &PublishedBase { audience, serial, includes })?;
    Ok(Work::Keep(true))
}

/// A part of the keys is there, and is not published.
fn is_importing(connection: &SqlConnection, audience: &AudienceName) -> Result<bool, StoreError> {
    let noted: Option<String> = connection
        .prepare_cached("SELECT value FROM meta WHERE name = ?1")?
        .query_row([importing(audience)], |row| row.get(0))
        .optional()?;
    Ok(noted.is_some())
}

pub(super) fn set_published(
    store: &StoreConnection,
    audience: &AudienceName,
    serial: u64,
) -> Result<Work<()>, StoreError> {
    store.connection.execute(
        "UPDATE audience SET published = max(published, min(?2, serial)) WHERE name = ?1",
        (audience.as_str(), serial),
    )?;
    Ok(Work::Keep(()))
}

/// The name of the row with the serial of the last table or patch that was about to be signed.
fn about_to_sign(audience: &AudienceName) -> String {
    format!("signing {audience}")
}

pub(super) fn note_signing(
    store: &StoreConnection,
    audience: &AudienceName,
    serial: u64,
) -> Result<Work<()>, StoreError> {
    let serial = serial.max(noted_signing(&store.connection, audience)?);
    store.connection.execute(
        "INSERT INTO meta (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = ?2",
        (about_to_sign(audience), serial.to_string()),
    )?;
    Ok(Work::Keep(()))
}

pub(super) fn withdraw_signing(
    store: &StoreConnection,
    audience: &AudienceName,
    serial: u64,
    before: u64,
) -> Result<Work<()>, StoreError> {
    // Another instance may have noted a later one.
    store.connection.execute(
        "UPDATE meta SET value = ?3 WHERE name = ?1 AND value = ?2",
        (about_to_sign(audience), serial.to_string(), before.to_string()),
    )?;
    Ok(Work::Keep(()))
}

pub(super) fn noted_signing(
    connection: &SqlConnection,
    audience: &AudienceName,
) -> Result<u64, StoreError> {
    let noted: Option<String> = connection
        .prepare_cached("SELECT value FROM meta WHERE name = ?1")?
        .query_row([about_to_sign(audience)], |row| row.get(0))
        .optional()?;
    Ok(noted.and_then(|serial| serial.parse().ok()).unwrap_or(0))
}

pub(super) fn claim_serials(
    store: &StoreConnection,
    audience: &AudienceName,
    count: u64,
) -> Result<Work<u64>, StoreError> {
    Ok(Work::Keep(store.raise_by(audience, count)?))
}

pub(super) fn set_base(
    store: &StoreConnection,
    published: &PublishedBase,
) -> Result<Work<()>, StoreError> {
    let connection = &store.connection;
    let PublishedBase { audience, serial: base, includes } = published;
    let (name, base) = (audience.as_str(), *base);
    let former: Option<u64> = connection
        .query_row("SELECT base FROM audience WHERE name = ?1", [name], |row| row.get(0))
        .optional()?;
    let former = former.ok_or(StoreError::NoSuchAudience)?;
    if base <= former {
        return Ok(Work::Undo(()));
    }
    connection.execute("UPDATE audience SET base = ?2 WHERE name = ?1", (name, base))?;
    // The new table was made without them.
    connection
        .execute("DELETE FROM secret WHERE audience = ?1 AND removed <= ?2", (name, includes))?;
    // Sidecars that have not taken the new table yet still ask for patches to the former one.
    connection.execute(
        "DELETE FROM artefact WHERE audience = ?1 AND \
         ((kind = 'table' AND serial < ?2) OR (kind = 'patch' AND base < ?2))",
        (name, former),
    )?;
    Ok(Work::Keep(()))
}

pub(super) fn put_sidecar(
    store: &StoreConnection,
    report: &SidecarReport,
) -> Result<Work<()>, StoreError> {
    store
        .connection
        .prepare_cached(
            "INSERT INTO sidecar (audience, instance, fleet, serial, base, seen, error) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (audience, fleet, instance) \
             DO UPDATE SET serial = ?4, base = ?5, seen = ?6, error = ?7 WHERE sidecar.seen <= ?6",
        )?
        .execute((
            report.audience.as_str(),
            &*report.instance,
            &*report.fleet,
            report.serial,
            report.base,
            report.seen_ms,
            report.error.as_deref(),
        ))?;
    Ok(Work::Keep(()))
}

pub(super) fn sidecars(
    store: &StoreConnection,
    audience: &AudienceName,
) -> Result<Vec<SidecarReport>, StoreError> {
    let mut statement = store.connection.prepare_cached(
        "SELECT fleet, instance, serial, base, seen, error FROM sidecar WHERE audience = ?1 \
         ORDER BY fleet, instance",
    )?;
    let rows = statement.query_all([audience.as_str()], |row| {
        Ok(SidecarReport {
            audience: audience.clone(),
            fleet: row.get::<_, String>(0)?.into(),
            instance: row.get::<_, String>(1)?.into(),
            serial: row.get(2)?,
            base: row.get(3)?,
            seen_ms: row.get(4)?,
            error: row.get::<_, Option<String>>(5)?.map(Into::into),
        })
    })?;
    Ok(rows)
}

pub(super) fn forget_sidecars(
    store: &StoreConnection,
    silent: &[SidecarReport],
) -> Result<Work<u64>, StoreError> {
    // It may have reported to another instance since.
    let mut statement = store.connection.prepare_cached(
        "DELETE FROM sidecar WHERE audience = ?1 AND fleet = ?2 AND instance = ?3 AND seen <= ?4",
    )?;
    let mut gone = 0;
    for SidecarReport { audience, fleet, instance, seen_ms, .. } in silent {
        gone += statement.execute((audience.as_str(), &**fleet, &**instance, *seen_ms))?;
    }
    Ok(Work::Keep(gone as u64))
}

pub(super) fn put_signer(
    store: &StoreConnection,
    signer: &SignerRow,
) -> Result<Work<()>, StoreError> {
    store.connection.execute(
        "INSERT INTO signer (id, public_key, note, added, retired) VALUES (?1, ?2, ?3, ?4, ?5) \
         ON CONFLICT (id) DO UPDATE SET note = ?3, retired = ?5",
        (&*signer.id, signer.public_key, &*signer.note, signer.added_ms, signer.retired_ms),
    )?;
    Ok(Work::Keep(()))
}

pub(super) fn signers(store: &StoreConnection) -> Result<Vec<SignerRow>, StoreError> {
    let mut statement = store.connection.prepare_cached(
        "SELECT id, public_key, note, added, retired FROM signer ORDER BY added, id",
    )?;
    let rows = statement.query_all([], |row| {
        Ok(SignerRow {
            id: row.get::<_, String>(0)?.into(),
            public_key: row.get(1)?,
            note: row.get::<_, String>(2)?.into(),
            added_ms: row.get(3)?,
            retired_ms: row.get(4)?,
        })
    })?;
    Ok(rows)
}

/// A new epoch, and serials above all that were seen elsewhere.
pub(super) fn begin_epoch(
    store: &StoreConnection,
    above: &Serials,
    event: &AuditEvent,
) -> Result<Work<u64>, StoreError> {
    let connection = &store.connection;
    let epoch = super::people::epoch(store)? + 1;
    connection.execute("UPDATE meta SET value = ?1 WHERE name = 'epoch'", [epoch.to_string()])?;
    connection.execute("DELETE FROM session", [])?;
    connection.execute("DELETE FROM signin", [])?;
    for (audience, serial) in &above.0 {
        let raised: Option<u64> = connection
            .query_row(
                "UPDATE audience SET serial = max(serial, ?2) + 1, epoch = epoch + 1 \
                 WHERE name = ?1 RETURNING serial",
                (audience.as_str(), serial),
                |row| row.get(0),
            )
            .optional()?;
        let serial = raised.ok_or(StoreError::NoSuchAudience)?;
        store.raised.borrow_mut().push(RaisedSerial { audience: audience.clone(), serial });
    }
    log::note(store, event)?;
    Ok(Work::Keep(epoch))
}

/// The state that a snapshot shows.
pub(super) struct SnapshotHead {
    pub(super) serial: u64,
    pub(super) base: u64,
}

/// Sends the keys of a snapshot until all are sent or the receiver is gone. On a thread and a
/// connection of its own: it lasts as long as it takes to make a table of the keys.
///
/// # Errors
///
/// Something went wrong, which the receivers know.
pub(super) fn send_snapshot(
    store: &StoreConnection,
    audience: &AudienceName,
    since: u64,
    begun: oneshot::Sender<Result<SnapshotHead, StoreError>>,
    keys: &mpsc::Sender<Result<Vec<SnapshotKey>, StoreError>>,
) -> Result<(), SnapshotFailed> {
    let view = store.connection.view().map_err(StoreError::from);
    let head = view.as_ref().map_err(Clone::clone).and_then(|view| {
        let found = view
            .prepare_cached("SELECT serial, base FROM audience WHERE name = ?1")?
            .query_row([audience.as_str()], |row| {
                Ok(SnapshotHead { serial: row.get(0)?, base: row.get(1)? })
            });
        found.optional()?.ok_or(StoreError::NoSuchAudience)
    });
    let failed = head.is_err();
    if begun.send(head).is_err() || failed {
        return Err(SnapshotFailed);
    }
    match send_keys(store, audience, since, keys) {
        Ok(()) if !keys.is_closed() => Ok(()),
        // Nobody wants the rest, perhaps because it is too old.
        Ok(()) => Err(SnapshotFailed),
        Err(e) => {
            keys.blocking_send(Err(e)).ok();
            Err(SnapshotFailed)
        }
    }
}

/// A snapshot ended early. Its receivers know why.
#[derive(Clone, Copy, Debug)]
pub(super) struct SnapshotFailed;

fn send_keys(
    store: &StoreConnection,
    audience: &AudienceName,
    since: u64,
    to: &mpsc::Sender<Result<Vec<SnapshotKey>, StoreError>>,
) -> Result<(), StoreError> {
    let settings = store.settings(audience)?;
    let mut removed = removed_secrets(store)?;
    let behind = match since {
        // An index has this order: nothing has to sort a million keys.
        0 => "ORDER BY k.since, k.row",
        _ => "AND k.changed > ?2 ORDER BY k.changed, k.row",
    };
    let sql = format!("SELECT {COLUMNS} FROM key k {JOINS} WHERE k.audience = ?1 {behind}");
    let mut values = vec![audience.as_str().to_value()];
    values.extend((since > 0).then(|| since.to_value()));
    let mut batch = Vec::with_capacity(BATCH);
    let mut strange = None;
    store.connection.stream(&sql, values, |row| {
        let found = match decode(row, &settings) {
            Ok(found) => found,
            Err(e) => {
                strange = Some(e);
                return Ok(false);
            }
        };
        let removed = removed.remove(&found.row).unwrap_or_default();
        batch.push(SnapshotKey { entry: found.key.entry, changed: found.key.changed, removed });
        if batch.len() < BATCH {
            return Ok(true);
        }
        let full = std::mem::replace(&mut batch, Vec::with_capacity(BATCH));
        Ok(to.blocking_send(Ok(full)).is_ok())
    })?;
    if let Some(e) = strange {
        return Err(e);
    }
    if !batch.is_empty() {
        to.blocking_send(Ok(batch)).ok();
    }
    Ok(())
}

/// By the rows of their keys. There are few, because the next table forgets them.
fn removed_secrets(store: &StoreConnection) -> Result<HashMap<u64, Vec<Digest>>, StoreError> {
    let mut removed: HashMap<u64, Vec<Digest>> = HashMap::new();
    // For all audiences: for one, SQLite would walk over all its secrets instead of these few.
    let sql = "SELECT key, digest FROM secret WHERE removed IS NOT NULL ORDER BY key, digest";
    store.connection.stream(sql, [], |row| {
        removed.entry(row.get(0)?).or_default().push(Digest(row.get(1)?));
        Ok(true)
    })?;
    Ok(removed)
}
