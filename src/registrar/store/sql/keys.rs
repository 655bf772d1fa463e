//! Keys as rows: columns from entries, entries from columns, and the secrets of keys.

mod decode;

use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) use self::decode::decode;
use super::super::change::KeyRef;
use super::super::error::StoreError;
use super::super::names::{AudienceName, Uid};
use super::super::rows::KeyRow;
use super::connection::StoreConnection;
use super::fault::OptionalExtension as _;
use super::rows::NumberedKey;
use super::value::{SqlValue, ToValue as _};
use crate::core::{Digest, Environment, KeyId, OrgId, Owner, Permission};
use crate::manage::registry::entry::RegistryEntry;
use crate::manage::registry::words::to_object;

/// A key's columns, its secrets and its last use, from [`FROM`].
pub(super) const COLUMNS: &str = "k.row, k.id, k.uid, k.audience, k.org, k.name, k.status, \
    k.environment, k.permissions, k.networks, k.limits, k.plan, k.created, k.not_before, k.expires, \
    k.sunset, k.owner_subject, k.owner_email, k.owner_role, k.prefix, k.start, k.public_id, \
    k.replaces, k.note, k.version, k.changed, k.changed_at, s.digest AS digest, \
    p.digest AS former, p.expires AS former_expires, u.at AS used, u.network AS used_from";

/// Joined to `key k`, which goes first.
pub(super) const JOINS: &str = "CROSS JOIN secret s ON s.key = k.row AND s.place = 0 AND \
    s.removed IS NULL LEFT JOIN secret p ON p.key = k.row AND p.place = 1 AND p.removed IS NULL \
    LEFT JOIN usage_last u ON u.key = k.row";

/// The place of a secret.
const CURRENT: u8 = 0;
const FORMER: u8 = 1;

/// What a change writes in addition to the entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChangeStamp {
    pub(super) serial: u64,
    pub(super) at_ms: u64,
}

/// For sorting and searching: names that people take for the same become equal.
pub(super) fn folded(name: &str) -> String {
    name.to_lowercase()
}

pub(super) const fn ms(seconds: u64) -> u64 {
    seconds.saturating_mul(1000)
}

/// The key with that name. With `org`, the key must belong to that org.
pub(super) fn load(
    store: &StoreConnection,
    audience: &AudienceName,
    org: Option<&OrgId>,
    key: KeyRef,
) -> Result<NumberedKey, StoreError> {
    let settings = store.settings(audience)?;
    let wanted = match key {
        KeyRef::Id(_) => "k.id = ?2",
        KeyRef::Uid(_) => "k.uid = ?2",
    };
    let sql = format!("SELECT {COLUMNS} FROM key k {JOINS} WHERE k.audience = ?1 AND {wanted}");
    let mut statement = store.connection.prepare_cached(&sql)?;
    let mut rows = match key {
        KeyRef::Id(id) => statement.query((audience.as_str(), id.to_string()))?,
        KeyRef::Uid(uid) => statement.query((audience.as_str(), uid.0))?,
    };
    let found = rows.next()?.map(|row| decode(&row, &settings)).transpose()?;
    found
        .filter(|found| org.is_none_or(|org| *org == found.key.entry.org))
        .ok_or(StoreError::NoSuchKey)
}

/// Those of the keys that the audience has.
pub(super) fn load_all(
    store: &StoreConnection,
    audience: &AudienceName,
    ids: impl IntoIterator<Item = KeyId>,
) -> Result<BTreeMap<KeyId, NumberedKey>, StoreError> {
    let settings = store.settings(audience)?;
    let sql = format!(
        "SELECT {COLUMNS} FROM key k {JOINS} WHERE k.audience = ?1 AND k.id IN (SELECT value FROM \
         json_each(?2))"
    );
    let ids = SqlValue::texts(ids.into_iter().map(|id| id.to_string()));
    let mut statement = store.connection.prepare_cached(&sql)?;
    let mut rows = statement.query(vec![audience.as_str().to_value(), ids])?;
    let mut found = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let key = decode(&row, &settings)?;
        found.insert(key.key.entry.id, key);
    }
    Ok(found)
}

/// The key that asks for a change.
pub(super) fn load_caller(
    store: &StoreConnection,
    audience: &AudienceName,
    id: KeyId,
) -> Result<Arc<NumberedKey>, StoreError> {
    if let Some(known) = store.known.key(audience, id) {
        return Ok(known);
    }
    let found = Arc::new(load(store, audience, None, KeyRef::Id(id))?);
    store.known.put_key(audience, &found);
    Ok(found)
}

/// The key that has this secret now or had it before its last rotation.
pub(super) fn of_secret(
    store: &StoreConnection,
    audience: &AudienceName,
    digest: &Digest,
) -> Result<Option<KeyRow>, StoreError> {
    let settings = store.settings(audience)?;
    let sql = format!(
        "SELECT {COLUMNS} FROM secret w CROSS JOIN key k ON k.row = w.key {JOINS} \
         WHERE w.audience = ?1 AND w.digest = ?2 AND w.removed IS NULL"
    );
    let mut statement = store.connection.prepare_cached(&sql)?;
    let mut rows = statement.query((audience.as_str(), digest.0))?;
    Ok(rows.next()?.map(|row| decode(&row, &settings)).transpose()?.map(|found| found.key))
}

/// The columns that a new key and a changed one share: those up to `changed_at`.
fn columns(entry: &RegistryEntry, stamp: ChangeStamp) -> [SqlValue<'_>; 19] {
    let owner = entry.owner.as_ref().map(Owner::view);
    [
        (&*entry.name).to_value(),
        folded(&entry.name).to_value(),
        entry.status.as_str().to_value(),
        entry.environment.map(Environment::as_str).to_value(),
        permissions_text(entry).to_value(),
        networks_text(entry).to_value(),
        to_object(&entry.limits).to_string().to_value(),
        entry.plan.as_ref().map(|plan| plan.name.as_str()).to_value(),
        entry.not_before.map(ms).to_value(),
        entry.expires.map(ms).to_value(),
        entry.sunset.map(ms).to_value(),
        owner.map(|o| o.subject).to_value(),
        owner.map(|o| o.email).to_value(),
        owner.map(|o| o.role).to_value(),
        entry.prefix.as_deref().to_value(),
        (&*entry.key_prefix).to_value(),
        (&*entry.note).to_value(),
        stamp.serial.to_value(),
        stamp.at_ms.to_value(),
    ]
}

/// The UUID of a new key.
fn uid_of(audience: &AudienceName, entry: &RegistryEntry) -> Uid {
    entry.uid.unwrap_or_else(|| Uid::of_key(audience.as_str(), entry.id))
}

/// Inserts new keys, without waiting for their row numbers.
pub(super) fn insert(
    store: &StoreConnection,
    audience: &AudienceName,
    made: &[&RegistryEntry],
    stamp: ChangeStamp,
) -> Result<(), StoreError> {
    let mut rows = Vec::with_capacity(made.len());
    let mut secrets = Vec::with_capacity(made.len());
    for entry in made {
        store.unindexed.add(&store.connection, audience, (&entry.org, entry.id))?;
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s] = columns(entry, stamp);
        let id = entry.id.to_string().to_value();
        rows.push([
            a,
            b,
            c,
            d,
            e,
            f,
            g,
            h,
            i,
            j,
            k,
            l,
            m,
            n,
            o,
            p,
            q,
            r,
            s,
            id,
            uid_of(audience, entry).0.to_value(),
            audience.as_str().to_value(),
            entry.org.as_str().to_value(),
            entry.created.map(ms).to_value(),
            entry.created.map_or(0, ms).to_value(),
            entry.public_id.as_deref().to_value(),
            entry.replaces.map(|id| id.to_string()).to_value(),
        ]);
        secrets.push(secret(audience, entry.id, CURRENT, &entry.digest, None));
        if let Some(previous) = entry.previous {
            let expires = Some(previous.expires);
            secrets.push(secret(audience, entry.id, FORMER, &previous.digest, expires));
        }
    }
    store.connection.execute_rows(
        "INSERT INTO key (name, folded, status, environment, permissions, networks, limits, plan, \
         not_before, expires, sunset, owner_subject, owner_email, owner_role, prefix, start, note, \
         changed, changed_at, id, uid, audience, org, created, since, public_id, replaces, version) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, \
         ?19, ?20, ?21, ?22, ?23, ?24, ?25, ?26, ?27, 1)",
        rows,
    )?;
    add_secrets(store, secrets)
}

/// A key that was just inserted.
pub(super) fn new_row(
    audience: &AudienceName,
    entry: &RegistryEntry,
    stamp: ChangeStamp,
) -> KeyRow {
    KeyRow {
        audience: audience.clone(),
        uid: uid_of(audience, entry),
        entry: entry.clone(),
        version: 1,
        changed: stamp.serial,
        changed_ms: stamp.at_ms,
        last_use: None,
    }
}

/// Writes a changed key.
pub(super) fn update(
    store: &StoreConnection,
    old: &NumberedKey,
    entry: &RegistryEntry,
    stamp: ChangeStamp,
) -> Result<KeyRow, StoreError> {
    store.known.forget_key(&old.key.audience, entry.id);
    if old.key.entry.name != entry.name || old.key.entry.key_prefix != entry.key_prefix {
        // The index moves what it has.
        store.unindexed.index(&store.connection)?;
    }
    let mut values = Vec::from(columns(entry, stamp));
    values.push(old.row.to_value());
    store
        .connection
        .prepare_cached(
            "UPDATE key SET name = ?1, folded = ?2, status = ?3, environment = ?4, \
             permissions = ?5, networks = ?6, limits = ?7, plan = ?8, not_before = ?9, \
             expires = ?10, sunset = ?11, owner_subject = ?12, owner_email = ?13, \
             owner_role = ?14, prefix = ?15, start = ?16, note = ?17, changed = ?18, \
             changed_at = ?19, version = version + 1 WHERE row = ?20",
        )?
        .execute_later(values)?;
    move_secrets(store, old, entry, stamp)?;
    Ok(KeyRow {
        entry: entry.clone(),
        version: old.key.version + 1,
        changed: stamp.serial,
        changed_ms: stamp.at_ms,
        ..old.key.clone()
    })
}

/// Keeps the secrets that the key lost as removed, so that the next patch can refuse them.
fn move_secrets(
    store: &StoreConnection,
    old: &NumberedKey,
    entry: &RegistryEntry,
    stamp: ChangeStamp,
) -> Result<(), StoreError> {
    let audience = &old.key.audience;
    let before = &old.key.entry;
    if before.digest == entry.digest && before.previous == entry.previous {
        return Ok(());
    }
    let stays = |digest: &Digest| {
        *digest == entry.digest || entry.previous.is_some_and(|p| p.digest == *digest)
    };
    let had = |digest: &Digest| {
        *digest == before.digest || before.previous.is_some_and(|p| p.digest == *digest)
    };
    let mut remove = store
        .connection
        .prepare_cached("UPDATE secret SET removed = ?3 WHERE audience = ?1 AND digest = ?2")?;
    for digest in [Some(before.digest), before.previous.map(|p| p.digest)].into_iter().flatten() {
        if !stays(&digest) {
            remove.execute_later((audience.as_str(), digest.0, stamp.serial))?;
        }
    }
    if let Some(previous) = entry.previous {
        if had(&previous.digest) {
            store.connection
                .prepare_cached(
                    "UPDATE secret SET place = ?3, expires = ?4 WHERE audience = ?1 AND digest = ?2",
                )?
                .execute_later((
                    audience.as_str(),
                    previous.digest.0,
                    FORMER,
                    ms(previous.expires),
                ))?;
        } else {
            let expires = Some(previous.expires);
            let row = secret(audience, entry.id, FORMER, &previous.digest, expires);
            add_secrets(store, vec![row])?;
        }
    }
    if !had(&entry.digest) {
        add_secrets(store, vec![secret(audience, entry.id, CURRENT, &entry.digest, None)])?;
    }
    Ok(())
}

/// Rows of secrets, by the ids of their keys.
fn add_secrets(store: &StoreConnection, rows: Vec<[SqlValue<'_>; 5]>) -> Result<(), StoreError> {
    Ok(store.connection.execute_rows(
        "INSERT INTO secret (audience, digest, key, place, expires) VALUES \
         (?1, ?2, (SELECT row FROM key WHERE audience = ?1 AND id = ?3), ?4, ?5)",
        rows,
    )?)
}

fn secret<'a>(
    audience: &'a AudienceName,
    id: KeyId,
    place: u8,
    digest: &Digest,
    expires: Option<u64>,
) -> [SqlValue<'a>; 5] {
    [
        audience.as_str().to_value(),
        digest.0.to_value(),
        id.to_string().to_value(),
        place.to_value(),
        expires.map(ms).to_value(),
    ]
}

/// How many keys of the org are neither final nor past their end.
pub(super) fn living(
    store: &StoreConnection,
    audience: &AudienceName,
    org: &OrgId,
    now_ms: u64,
) -> Result<u64, StoreError> {
    let count = store
        .connection
        .prepare_cached(
            "SELECT count(*) FROM key WHERE audience = ?1 AND org = ?2 AND status IN \
             ('active', 'disabled') AND (expires IS NULL OR expires > ?3)",
        )?
        .query_row((audience.as_str(), org.as_str(), now_ms), |row| row.get(0))
        .optional()?;
    Ok(count.unwrap_or_default())
}

fn permissions_text(entry: &RegistryEntry) -> String {
    let words: Vec<_> = entry.permissions.iter().map(Permission::as_str).collect();
    serde_json::to_string(&words).unwrap_or_default()
}

fn networks_text(entry: &RegistryEntry) -> String {
    serde_json::to_string(&entry.networks).unwrap_or_default()
}
