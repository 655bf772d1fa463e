//! The audit log's rows: appended in the transaction that they describe, read in pages, checked as
//! a whole.

use serde_json::{Map, Value as Json};

use super::super::audit::{AuditHead, AuditLine, ChainCheck, ChainFault, ChainHash};
use super::super::change::{AuditEvent, Channel, StoreActor};
use super::super::error::StoreError;
use super::super::names::AudienceName;
use super::super::publishing::Checkpoint;
use super::super::query::{AuditPage, AuditQuery, KeyQuery};
use super::connection::StoreConnection;
use super::driver::{SqlConnection, SqlRow};
use super::fault::SqlError;
use super::value::{SqlValue, ToValue as _};
use crate::core::KeyId;

const COLUMNS: &str = "seq, at, audience, serial, org, actor_kind, actor, address, request_id, \
    action, object, detail, prev, hash";

/// What the lines of one change have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Occasion<'a> {
    pub(super) at_ms: u64,
    pub(super) audience: &'a str,
    pub(super) serial: u64,
    pub(super) actor: &'a StoreActor,
    pub(super) channel: &'a Channel,
    pub(super) action: &'a str,
}

/// What a line describes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subject<'a> {
    pub(super) org: &'a str,
    pub(super) object: &'a str,
    pub(super) detail: &'a Map<String, Json>,
}

/// Appends a line. Locks the head row with it, so that no other line follows the same one.
pub(super) fn append(
    store: &StoreConnection,
    occasion: Occasion<'_>,
    subject: Subject<'_>,
) -> Result<AuditHead, StoreError> {
    let detail = serde_json::to_string(subject.detail).map_err(StoreError::broken)?;
    let line = AuditLine {
        seq: 0,
        at_ms: occasion.at_ms,
        audience: occasion.audience.into(),
        serial: occasion.serial,
        org: subject.org.into(),
        actor_kind: occasion.actor.kind().into(),
        actor: occasion.actor.name().into(),
        address: occasion.channel.address.map(|a| a.to_string()).unwrap_or_default().into(),
        request_id: occasion.channel.request_id.clone(),
        action: occasion.action.into(),
        object: subject.object.into(),
        detail: detail.into(),
        prev: ChainHash::default(),
        hash: ChainHash::default(),
    };
    let before = match store.known.head() {
        Some(head) => head,
        None => head(&store.connection)?,
    };
    let line = line.behind(before);
    store
        .connection
        .prepare_cached(&format!(
            "INSERT INTO audit ({COLUMNS}) VALUES \
             (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)"
        ))?
        .execute_later((
            line.seq,
            line.at_ms,
            &*line.audience,
            line.serial,
            &*line.org,
            &*line.actor_kind,
            &*line.actor,
            &*line.address,
            &*line.request_id,
            &*line.action,
            &*line.object,
            &*line.detail,
            line.prev.0,
            line.hash.0,
        ))?;
    if !store.known.append(line.head()) {
        store
            .connection
            .prepare_cached("UPDATE audit_head SET seq = ?1, hash = ?2 WHERE one = 1")?
            .execute_later((line.seq, line.hash.0))?;
    }
    Ok(line.head())
}

/// Appends an event that changes no key.
pub(super) fn note(store: &StoreConnection, event: &AuditEvent) -> Result<AuditHead, StoreError> {
    let audience = event.audience.as_ref().map_or("", |name| name.as_str());
    let AuditEvent { at_ms, actor, channel, action, object, detail, .. } = event;
    let occasion = Occasion { at_ms: *at_ms, audience, serial: 0, actor, channel, action };
    let org = event.org.as_ref().map_or("", |org| org.as_str());
    append(store, occasion, Subject { org, object, detail })
}

/// Where the log ends.
pub(in super::super) fn head(connection: &SqlConnection) -> Result<AuditHead, StoreError> {
    let mut statement =
        connection.prepare_cached("SELECT seq, hash FROM audit_head WHERE one = 1")?;
    Ok(statement
        .query_row([], |row| Ok(AuditHead { seq: row.get(0)?, hash: ChainHash(row.get(1)?) }))?)
}

/// A page, the newest first.
pub(super) fn page(
    connection: &SqlConnection,
    query: &AuditQuery,
) -> Result<AuditPage, StoreError> {
    let limit = query.limit.clamp(1, KeyQuery::MOST);
    let mut conditions = Vec::new();
    let mut values: Vec<SqlValue<'_>> = Vec::new();
    let texts = [
        ("org = ?", query.org.as_ref().map(|org| org.as_str())),
        ("audience IN ('', ?)", query.audience.as_ref().map(AudienceName::as_str)),
        ("object = ?", query.object.as_deref()),
    ];
    for (condition, text) in texts {
        if let Some(text) = text {
            conditions.push(condition);
            values.push(text.to_value());
        }
    }
    if let Some(before) = query.before {
        conditions.push("seq < ?");
        values.push(i64::try_from(before).unwrap_or(i64::MAX).into());
    }
    let conditions = match conditions.is_empty() {
        true => String::new(),
        false => format!("WHERE {}", conditions.join(" AND ")),
    };
    let sql = format!("SELECT {COLUMNS} FROM audit {conditions} ORDER BY seq DESC LIMIT ?");
    values.push((limit as u64 + 1).to_value());
    let mut statement = connection.prepare_planned(&sql)?;
    let mut lines: Vec<AuditLine> = statement.query_all(values, line)?;
    let more = lines.len() > limit;
    lines.truncate(limit);
    let next = lines.last().filter(|_| more).map(|line| line.seq);
    Ok(AuditPage { lines, next })
}

/// Walks over the whole log and compares it with the signed checkpoints.
pub(in super::super) fn verify(
    connection: &SqlConnection,
    noted: &[AuditHead],
) -> Result<Vec<ChainFault>, StoreError> {
    // One transaction: it does not see lines appended meanwhile, and so does not miss them.
    let view = connection.view()?;
    let mut known: Vec<AuditHead> = checkpoints(&view)?.into_iter().map(|c| c.head).collect();
    known.extend(noted);
    known.sort_by_key(|head| head.seq);
    let mut check = ChainCheck::default();
    let mut next = known.iter().peekable();
    view.stream(&format!("SELECT {COLUMNS} FROM audit ORDER BY seq"), [], |row| {
        let found = line(row)?;
        check.line(&found);
        while let Some(noted) = next.next_if(|head| head.seq <= found.seq) {
            check.passes(*noted);
        }
        Ok(true)
    })?;
    let mut ends: Vec<_> = next.copied().collect();
    ends.push(head(&view)?);
    Ok(check.finish(&ends))
}

/// Keys that no line created.
pub(in super::super) fn unlogged_keys(
    connection: &SqlConnection,
    most: usize,
) -> Result<Vec<KeyId>, StoreError> {
    let imported = match connection.is_server() {
        true => "jsonb_array_elements_text(a.detail::jsonb -> 'keys') AS i (value)",
        false => "json_each(a.detail, '$.keys') i",
    };
    let mut statement = connection.prepare_cached(&format!(
        "SELECT k.id FROM key k WHERE NOT EXISTS (SELECT 1 FROM audit a WHERE a.object = k.id \
         AND a.audience = k.audience) AND k.id NOT IN (SELECT i.value FROM audit a, {imported} \
         WHERE a.action = 'import') ORDER BY k.row LIMIT ?1",
    ))?;
    let mut rows = statement.query([most])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let id = KeyId::parse(&row.get::<_, String>(0)?);
        found.push(id.map_err(|_| StoreError::broken("a key has a strange `id`"))?);
    }
    Ok(found)
}

pub(super) fn put_checkpoint(
    connection: &SqlConnection,
    checkpoint: &Checkpoint,
) -> Result<(), StoreError> {
    connection.execute(
        "INSERT INTO checkpoint (seq, hash, signer, signature, at) VALUES (?1, ?2, ?3, ?4, ?5) \
         ON CONFLICT DO NOTHING",
        (
            checkpoint.head.seq,
            checkpoint.head.hash.0,
            &*checkpoint.signer,
            &checkpoint.signature,
            checkpoint.at_ms,
        ),
    )?;
    Ok(())
}

pub(super) fn checkpoints(connection: &SqlConnection) -> Result<Vec<Checkpoint>, StoreError> {
    let mut statement = connection
        .prepare_cached("SELECT seq, hash, signer, signature, at FROM checkpoint ORDER BY seq")?;
    Ok(statement.query_all([], |row| {
        Ok(Checkpoint {
            head: AuditHead { seq: row.get(0)?, hash: ChainHash(row.get(1)?) },
            signer: row.get::<_, String>(2)?.into(),
            signature: row.get(3)?,
            at_ms: row.get(4)?,
        })
    })?)
}

fn line(row: &SqlRow<'_>) -> Result<AuditLine, SqlError> {
    let text = |column: &str| row.get::<_, String>(column).map(Box::from);
    Ok(AuditLine {
        seq: row.get("seq")?,
        at_ms: row.get("at")?,
        audience: text("audience")?,
        serial: row.get("serial")?,
        org: text("org")?,
        actor_kind: text("actor_kind")?,
        actor: text("actor")?,
        address: text("address")?,
        request_id: text("request_id")?,
        action: text("action")?,
        object: text("object")?,
        detail: text("detail")?,
        prev: ChainHash(row.get("prev")?),
        hash: ChainHash(row.get("hash")?),
    })
}
