//! Rows of publications, artefacts, sidecars, signers, epochs and leases; snapshots of keys.

use rusqlite::{Connection, OptionalExtension as _};
use tokio::sync::{mpsc, oneshot};

use super::super::change::AuditEvent;
use super::super::error::StoreError;
use super::super::names::AudienceName;
use super::super::publishing::{
    ArtefactHead, ArtefactKind, ArtefactState, HeldLease, Publication, PublishedBase, Serials,
    SidecarReport, SignerRow, SnapshotKey, StoredArtefact,
};
use super::connection::{RaisedSerial, StoreConnection};
use super::keys::{COLUMNS, JOINS, decode};
use super::log;
use super::writer::Work;
use crate::core::Digest;

/// Bytes of a piece of a body.
const CHUNK: usize = 1 << 20;
/// Keys of a batch: a few hundred bytes each.
const BATCH: usize = 512;

pub(super) fn publication(
    store: &StoreConnection,
    audience: &AudienceName,
) -> Result<Publication, StoreError> {
    let view = store.connection.unchecked_transaction()?;
    let found = view
        .prepare_cached("SELECT serial, published, base, epoch FROM audience WHERE name = ?1")?
        .query_row([audience.as_str()], |row| {
            Ok(Publication {
                audience: audience.clone(),
                serial: row.get(0)?,
                published: row.get(1)?,
                base: row.get(2)?,
                epoch: row.get(3)?,
                table: None,
                patch: None,
            })
        })
        .optional()?;
    let mut found = found.ok_or(StoreError::NoSuchAudience)?;
    found.table = newest(&view, audience, ArtefactKind::Table)?;
    found.patch = newest(&view, audience, ArtefactKind::Patch)?;
    Ok(found)
}

fn newest(
    connection: &Connection,
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
    connection: &Connection,
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
    connection: &Connection,
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
        let piece = row.get_ref(0)?;
        body.extend_from_slice(piece.as_blob().map_err(StoreError::broken)?);
    }
    if !Digest::of(&body).matches(&head.sha256) {
        return Err(StoreError::broken(format!(
            "the {} of serial {serial} is not the one that was kept",
            kind.as_str()
        )));
    }
    Ok(Some(StoredArtefact { head, body }))
}

/// The first of a serial stays, unless it was a draft that is signed now.
pub(super) fn put_artefact(
    store: &StoreConnection,
    made: StoredArtefact,
) -> Result<Work<StoredArtefact>, StoreError> {
    let connection = &store.connection;
    let StoredArtefact { head, body } = &made;
    let name = (head.audience.as_str(), head.kind.as_str(), head.serial);
    if let Some(kept) = artefact(connection, &head.audience, head.kind, head.serial)? {
        let is_signed_now =
            kept.head.state == ArtefactState::Draft && head.state == ArtefactState::Signed;
        if !is_signed_now {
            return Ok(Work::Undo(kept));
        }
        connection.execute(
            "DELETE FROM artefact WHERE audience = ?1 AND kind = ?2 AND serial = ?3",
            name,
        )?;
    }
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
    let head =
        ArtefactHead { sha256: Digest::of(body), bytes: body.len() as u64, ..made.head.clone() };
    Ok(Work::Keep(StoredArtefact { head, body: made.body }))
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

pub(super) fn claim_serials(
    store: &StoreConnection,
    audience: &AudienceName,
    count: u64,
) -> Result<Work<u64>, StoreError> {
    let mut last = 0;
    for _ in 0..count {
        last = store.raise(audience)?;
    }
    Ok(Work::Keep(last))
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
             DO UPDATE SET serial = ?4, base = ?5, seen = ?6, error = ?7 WHERE seen <= ?6",
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
    let rows = statement.query_map([audience.as_str()], |row| {
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
    Ok(rows.collect::<Result<_, _>>()?)
}

pub(super) fn forget_sidecars(
    store: &StoreConnection,
    audience: &AudienceName,
    before_ms: u64,
) -> Result<Work<u64>, StoreError> {
    let gone = store.connection.execute(
        "DELETE FROM sidecar WHERE audience = ?1 AND seen < ?2",
        (audience.as_str(), before_ms),
    )?;
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
    let rows = statement.query_map([], |row| {
        Ok(SignerRow {
            id: row.get::<_, String>(0)?.into(),
            public_key: row.get(1)?,
            note: row.get::<_, String>(2)?.into(),
            added_ms: row.get(3)?,
            retired_ms: row.get(4)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
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
    log::note(connection, event)?;
    Ok(Work::Keep(epoch))
}

pub(super) fn lease(
    store: &StoreConnection,
    name: &str,
    holder: &str,
    now_ms: u64,
    until_ms: u64,
) -> Result<Work<Option<HeldLease>>, StoreError> {
    // A new holder gets a new epoch; the same one keeps its own.
    let taken: Option<u64> = store
        .connection
        .query_row(
            "INSERT INTO lease (name, holder, epoch, until) VALUES (?1, ?2, 1, ?4) \
             ON CONFLICT (name) DO UPDATE SET until = ?4, holder = ?2, \
             epoch = epoch + (holder <> ?2) WHERE holder = ?2 OR until <= ?3 RETURNING epoch",
            (name, holder, now_ms, until_ms),
            |row| row.get(0),
        )
        .optional()?;
    Ok(Work::Keep(taken.map(|epoch| HeldLease { epoch, until_ms })))
}

/// Where a snapshot stands.
pub(super) struct SnapshotHead {
    pub(super) serial: u64,
    pub(super) base: u64,
}

/// Sends the keys of a snapshot, until all are sent or nobody takes them any more. On a thread and a
/// connection of its own: it lasts as long as whoever makes a table of it.
pub(super) fn send_snapshot(
    store: &StoreConnection,
    audience: &AudienceName,
    since: u64,
    begun: oneshot::Sender<Result<SnapshotHead, StoreError>>,
    keys: &mpsc::Sender<Result<Vec<SnapshotKey>, StoreError>>,
) {
    let view = store.connection.unchecked_transaction().map_err(StoreError::from);
    let head = view.as_ref().map_err(Clone::clone).and_then(|view| {
        let mut statement = view.prepare("SELECT serial, base FROM audience WHERE name = ?1")?;
        let found = statement
            .query_row([audience.as_str()], |row| {
                Ok(SnapshotHead { serial: row.get(0)?, base: row.get(1)? })
            })
            .optional()?;
        found.ok_or(StoreError::NoSuchAudience)
    });
    let failed = head.is_err();
    if begun.send(head).is_err() || failed {
        return;
    }
    if let Err(e) = send_keys(store, audience, since, keys) {
        keys.blocking_send(Err(e)).ok();
    }
}

fn send_keys(
    store: &StoreConnection,
    audience: &AudienceName,
    since: u64,
    to: &mpsc::Sender<Result<Vec<SnapshotKey>, StoreError>>,
) -> Result<(), StoreError> {
    let settings = store.settings(audience)?;
    let mut removed = store.connection.prepare(
        "SELECT digest FROM secret WHERE key = ?1 AND removed IS NOT NULL ORDER BY digest",
    )?;
    let behind = match since {
        0 => "ORDER BY k.row",
        _ => "AND k.changed > ?2 ORDER BY k.changed, k.row",
    };
    let sql = format!("SELECT {COLUMNS} FROM key k {JOINS} WHERE k.audience = ?1 {behind}");
    let mut statement = store.connection.prepare(&sql)?;
    let mut rows = match since {
        0 => statement.query([audience.as_str()])?,
        since => statement.query((audience.as_str(), since))?,
    };
    let mut batch = Vec::with_capacity(BATCH);
    while let Some(row) = rows.next()? {
        let found = decode(row, &settings)?;
        let digests = removed.query_map([found.row], |row| Ok(Digest(row.get(0)?)))?;
        let removed = digests.collect::<Result<_, _>>()?;
        batch.push(SnapshotKey { entry: found.key.entry, changed: found.key.changed, removed });
        if batch.len() == BATCH {
            let full = std::mem::replace(&mut batch, Vec::with_capacity(BATCH));
            if to.blocking_send(Ok(full)).is_err() {
                return Ok(());
            }
        }
    }
    if !batch.is_empty() {
        to.blocking_send(Ok(batch)).ok();
    }
    Ok(())
}
