//! Keys as rows: columns from entries and entries from columns, and what becomes of secrets.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::super::change::KeyRef;
use super::super::error::StoreError;
use super::super::names::{AudienceName, Uid};
use super::super::rows::{KeyRow, LastUse};
use super::connection::{AudienceSettings, StoreConnection};
use super::driver::SqlRow;
use super::fault::OptionalExtension as _;
use super::value::{BoundValues, named_values};
use crate::core::{
    Digest, Environment, KeyId, KeyStatus, Limit, LimitSet, NamedLimit, OrgId, Owner, Permission,
    PolicyName,
};
use crate::manage::registry::entry::{Previous, RegistryEntry};
use crate::manage::registry::plans::{AppliedPlan, PlanName};
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

/// Where a secret stands.
const CURRENT: u8 = 0;
const FORMER: u8 = 1;

/// A row with its number in the database.
#[derive(Clone, Debug)]
pub(super) struct NumberedKey {
    pub(super) row: u64,
    pub(super) key: KeyRow,
}

/// What a change writes down beside the entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChangeStamp {
    pub(super) serial: u64,
    pub(super) at_ms: u64,
}

/// For order and search: what people take for the same name.
pub(super) fn folded(name: &str) -> String {
    name.to_lowercase()
}

pub(super) const fn ms(seconds: u64) -> u64 {
    seconds.saturating_mul(1000)
}

/// The key of that name. `org`: it must be one of that org.
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

/// The key that has this secret now, or had it before its last rotation.
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

/// What a new key and a changed one are written with alike.
fn columns(entry: &RegistryEntry, stamp: ChangeStamp) -> BoundValues<'_> {
    let owner = entry.owner.as_ref().map(Owner::view);
    named_values! {
        ":name": &*entry.name,
        ":folded": folded(&entry.name),
        ":status": entry.status.as_str(),
        ":environment": entry.environment.map(Environment::as_str),
        ":permissions": permissions_text(entry),
        ":networks": networks_text(entry),
        ":limits": to_object(&entry.limits).to_string(),
        ":plan": entry.plan.as_ref().map(|plan| plan.name.as_str()),
        ":not_before": entry.not_before.map(ms),
        ":expires": entry.expires.map(ms),
        ":sunset": entry.sunset.map(ms),
        ":owner_subject": owner.map(|o| o.subject),
        ":owner_email": owner.map(|o| o.email),
        ":owner_role": owner.map(|o| o.role),
        ":prefix": entry.prefix.as_deref(),
        ":start": &*entry.key_prefix,
        ":note": &*entry.note,
        ":changed": stamp.serial,
        ":changed_at": stamp.at_ms,
    }
}

/// Puts a new key in.
pub(super) fn insert(
    store: &StoreConnection,
    audience: &AudienceName,
    uid: Uid,
    entry: &RegistryEntry,
    stamp: ChangeStamp,
) -> Result<NumberedKey, StoreError> {
    let row: u64 = store
        .connection
        .prepare_cached(
            "INSERT INTO key (id, uid, audience, org, name, folded, status, environment, \
             permissions, networks, limits, plan, created, since, not_before, expires, sunset, \
             owner_subject, owner_email, owner_role, prefix, start, public_id, replaces, note, \
             version, changed, changed_at) VALUES (:id, :uid, :audience, :org, :name, :folded, \
             :status, :environment, :permissions, :networks, :limits, :plan, :created, :since, \
             :not_before, :expires, :sunset, :owner_subject, :owner_email, :owner_role, :prefix, \
             :start, :public_id, :replaces, :note, 1, :changed, :changed_at) RETURNING row",
        )?
        .query_row(
            named_values! {
                ":id": entry.id.to_string(),
                ":uid": uid.0,
                ":audience": audience.as_str(),
                ":org": entry.org.as_str(),
                ":created": entry.created.map(ms),
                ":since": entry.created.map_or(0, ms),
                ":public_id": entry.public_id.as_deref(),
                ":replaces": entry.replaces.map(|id| id.to_string()),
            }
            .and(columns(entry, stamp)),
            |row| row.get(0),
        )?;
    let key = KeyRow {
        audience: audience.clone(),
        uid,
        entry: entry.clone(),
        version: 1,
        changed: stamp.serial,
        changed_ms: stamp.at_ms,
        last_use: None,
    };
    add_secret(store, audience, row, CURRENT, &entry.digest, None)?;
    if let Some(previous) = entry.previous {
        add_secret(store, audience, row, FORMER, &previous.digest, Some(previous.expires))?;
    }
    Ok(NumberedKey { row, key })
}

/// Writes what became of a key.
pub(super) fn update(
    store: &StoreConnection,
    old: &NumberedKey,
    entry: &RegistryEntry,
    stamp: ChangeStamp,
) -> Result<NumberedKey, StoreError> {
    store
        .connection
        .prepare_cached(
            "UPDATE key SET name = :name, folded = :folded, status = :status, \
             environment = :environment, permissions = :permissions, networks = :networks, \
             limits = :limits, plan = :plan, not_before = :not_before, expires = :expires, \
             sunset = :sunset, owner_subject = :owner_subject, owner_email = :owner_email, \
             owner_role = :owner_role, prefix = :prefix, start = :start, note = :note, \
             version = version + 1, changed = :changed, changed_at = :changed_at \
             WHERE row = :row",
        )?
        .execute_later(named_values! { ":row": old.row }.and(columns(entry, stamp)))?;
    move_secrets(store, old, entry, stamp)?;
    let key = KeyRow {
        entry: entry.clone(),
        version: old.key.version + 1,
        changed: stamp.serial,
        changed_ms: stamp.at_ms,
        ..old.key.clone()
    };
    Ok(NumberedKey { row: old.row, key })
}

/// Those that went are kept as removed, so that the next patch can refuse them.
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
            add_secret(store, audience, old.row, FORMER, &previous.digest, expires)?;
        }
    }
    if !had(&entry.digest) {
        add_secret(store, audience, old.row, CURRENT, &entry.digest, None)?;
    }
    Ok(())
}

fn add_secret(
    store: &StoreConnection,
    audience: &AudienceName,
    row: u64,
    place: u8,
    digest: &Digest,
    expires: Option<u64>,
) -> Result<(), StoreError> {
    store.connection
        .prepare_cached(
            "INSERT INTO secret (audience, digest, key, place, expires) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute_later((audience.as_str(), digest.0, row, place, expires.map(ms)))?;
    Ok(())
}

/// The key of a row with [`COLUMNS`].
pub(super) fn decode(
    row: &SqlRow<'_>,
    settings: &AudienceSettings,
) -> Result<NumberedKey, StoreError> {
    let text = |column: &str| row.get::<_, String>(column).map_err(|_| odd(column));
    let maybe = |column: &str| row.get::<_, Option<String>>(column).map_err(StoreError::from);
    let seconds = |column: &str| -> Result<Option<u64>, StoreError> {
        Ok(row.get::<_, Option<u64>>(column)?.map(|ms| ms / 1000))
    };
    let digest = |column: &str| -> Result<Option<Digest>, StoreError> {
        Ok(row.get::<_, Option<[u8; 32]>>(column)?.map(Digest))
    };
    let plan = match maybe("plan")? {
        Some(name) => {
            let name = PlanName::parse(&name).map_err(|_| odd("plan"))?;
            let resolved = AppliedPlan::of(&name, &settings.registry.plans);
            Some(resolved.unwrap_or_else(|_| AppliedPlan::unresolved(name)))
        }
        None => None,
    };
    let owner = match maybe("owner_subject")? {
        Some(subject) => {
            let email = maybe("owner_email")?.unwrap_or_default();
            let role = maybe("owner_role")?.unwrap_or_default();
            Some(Owner::new(&subject, &email, &role).map_err(|_| odd("owner_subject"))?)
        }
        None => None,
    };
    let former_expires = seconds("former_expires")?;
    let previous = digest("former")?
        .map(|digest| Previous { digest, expires: former_expires.unwrap_or_default() });
    let entry = RegistryEntry {
        id: KeyId::parse(&text("id")?).map_err(|_| odd("id"))?,
        org: OrgId::parse(&text("org")?).map_err(|_| odd("org"))?,
        name: text("name")?.into(),
        status: KeyStatus::parse(&text("status")?).map_err(|_| odd("status"))?,
        environment: maybe("environment")?
            .map(|word| Environment::parse(&word).map_err(|_| odd("environment")))
            .transpose()?,
        permissions: permissions_of(&text("permissions")?)?,
        networks: networks_of(&text("networks")?)?,
        limits: limits_of(&text("limits")?)?,
        plan,
        created: seconds("created")?,
        not_before: seconds("not_before")?,
        expires: seconds("expires")?,
        sunset: seconds("sunset")?,
        owner,
        prefix: maybe("prefix")?.map(Into::into),
        key_prefix: text("start")?.into(),
        public_id: maybe("public_id")?.map(Into::into),
        digest: digest("digest")?.ok_or_else(|| odd("digest"))?,
        previous,
        replaces: maybe("replaces")?
            .map(|id| KeyId::parse(&id).map_err(|_| odd("replaces")))
            .transpose()?,
        note: text("note")?.into(),
    };
    let used = row.get::<_, Option<u64>>("used")?;
    let used_from = maybe("used_from")?.unwrap_or_default();
    let key = KeyRow {
        audience: AudienceName::parse(&text("audience")?).ok_or_else(|| odd("audience"))?,
        uid: Uid(row.get("uid")?),
        entry,
        version: row.get("version")?,
        changed: row.get("changed")?,
        changed_ms: row.get("changed_at")?,
        last_use: used.map(|at_ms| LastUse { at_ms, network: used_from.into() }),
    };
    Ok(NumberedKey { row: row.get("row")?, key })
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

/// A value that no program of ours has written. Its column is named, not the value.
fn odd(column: &str) -> StoreError {
    StoreError::broken(format!("a key has a strange `{column}`"))
}

fn permissions_text(entry: &RegistryEntry) -> String {
    let words: Vec<_> = entry.permissions.iter().map(Permission::as_str).collect();
    serde_json::to_string(&words).unwrap_or_default()
}

fn permissions_of(text: &str) -> Result<Vec<Permission>, StoreError> {
    let words: Vec<String> = serde_json::from_str(text).map_err(|_| odd("permissions"))?;
    words.iter().map(|w| Permission::parse(w).map_err(|_| odd("permissions"))).collect()
}

fn networks_text(entry: &RegistryEntry) -> String {
    serde_json::to_string(&entry.networks).unwrap_or_default()
}

fn networks_of(text: &str) -> Result<Vec<IpNet>, StoreError> {
    serde_json::from_str(text).map_err(|_| odd("networks"))
}

fn limits_of(text: &str) -> Result<LimitSet, StoreError> {
    let limits: BTreeMap<String, String> = serde_json::from_str(text).map_err(|_| odd("limits"))?;
    let one = |(policy, limit): (String, String)| {
        let policy = PolicyName::parse(&policy).map_err(|_| odd("limits"))?;
        let limit = Limit::parse(&limit).map_err(|_| odd("limits"))?;
        Ok(NamedLimit { policy, limit })
    };
    Ok(LimitSet::new(limits.into_iter().map(one).collect::<Result<Vec<_>, StoreError>>()?))
}
