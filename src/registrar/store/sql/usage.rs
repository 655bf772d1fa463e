//! Rows about the use of keys. They never touch the key's own row: a use changes no key, and no
//! change waits for a use.

mod fold;

use std::collections::BTreeMap;

use super::super::change::KeyRef;
use super::super::error::StoreError;
use super::super::names::{AudienceName, Uid};
use super::super::publishing::UsedLease;
use super::super::usage::{
    FindingQuery, FoundUsage, KeyUsage, RefusedFor, ReportedUse, UsageAlert, UsageBatch,
    UsageBucket, UsageTaken, UseReporter, UsedNetwork,
};
use super::connection::StoreConnection;
use super::driver::SqlConnection;
use super::fault::OptionalExtension as _;
use super::keys;
use super::lease;
use super::value::{SqlValue, ToValue as _, named_values};
use super::writer::Work;
use crate::core::{KeyId, OrgId, Reason};

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const DAY_MS: u64 = 24 * HOUR_MS;

/// How long hours and days are kept.
const HOURS_MS: u64 = 8 * DAY_MS;
const DAYS_MS: u64 = 400 * DAY_MS;

/// A process that has not reported for this long has ended. Its reports are forgotten, and a record
/// that still arrives from it is too late.
const PROCESS_MS: u64 = 40 * DAY_MS;

/// The most processes of an audience that are known although no key of it was used there: reporters
/// choose the names of their processes.
const IDLE_PROCESSES: u64 = 100_000;

/// A gap in a sidecar's reports of up to this long is a restart, and not a time in which it was used
/// without anybody being told.
const GAP_MS: u64 = 5 * MINUTE_MS;

/// For how long a process counts as silent while the first record from it is not whole.
const UNHEARD_MS: u64 = HOUR_MS;

/// `usage_process.boot` of the row that says since when a sidecar has reported without a gap. All
/// its processes share it.
const SINCE: &str = "";

/// Fewer refusals a day than this never stand out.
const REFUSALS: u64 = 100;

/// When the parts of a batch happened, as far as the service trusts the reported times.
#[derive(Clone, Copy)]
struct BatchTime {
    /// The record's own time; never later than its arrival.
    now_ms: u64,
    /// When it arrived.
    at_ms: u64,
}

/// A line about a key that the audience has.
#[derive(Clone, Copy)]
struct UsedKey<'r> {
    /// Its row.
    key: u64,
    /// When it was made; 0 if nobody knows.
    since_ms: u64,
    line: &'r ReportedUse,
}

/// Stores a part of a record.
pub(super) fn take(
    store: &StoreConnection,
    batch: &UsageBatch,
) -> Result<Work<UsageTaken>, StoreError> {
    let told_ms = u64::from(batch.head.now) * MINUTE_MS;
    let time = BatchTime { now_ms: told_ms.min(batch.at_ms), at_ms: batch.at_ms };
    let mut taken = UsageTaken::default();
    if batch.at_ms.saturating_sub(told_ms) > PROCESS_MS {
        return Ok(Work::Undo(taken));
    }
    store.settings(&batch.audience)?;
    heard_of(&store.connection, batch, time)?;
    let keys = key_rows(&store.connection, batch)?;
    let mut found = Vec::with_capacity(batch.lines.len());
    for line in &batch.lines {
        match keys.get(&line.key.to_string()) {
            Some((key, since_ms)) => found.push(UsedKey { key: *key, since_ms: *since_ms, line }),
            None => taken.unknown += 1,
        }
    }
    let is_whole = batch.head.part.is_last();
    // That it was not used is news of a key, too, but only a whole record says so.
    if found.is_empty() && !(is_whole && has_room(&store.connection, batch)?) {
        return Ok(Work::Keep(taken));
    }
    if is_whole {
        note_since(&store.connection, batch, time)?;
    }
    let process = process(&store.connection, batch, time)?;
    if found.is_empty() {
        return Ok(Work::Keep(taken));
    }
    // Sidecars report keys in an order of their own. In row order, neighbours share pages of every
    // table: that takes a third off the work for a minute's record of 100,000 keys.
    found.sort_by_key(|used| used.key);
    taken.raised = fold::fold(&store.connection, process, found, time)?;
    Ok(Work::Keep(taken))
}

fn heard_of(
    connection: &SqlConnection,
    batch: &UsageBatch,
    time: BatchTime,
) -> Result<(), StoreError> {
    connection
        .prepare_cached(
            "INSERT INTO usage_audience (audience, first, last) VALUES (?1, ?2, ?2) \
             ON CONFLICT (audience) DO UPDATE SET last = max(usage_audience.last, ?2)",
        )?
        .execute((batch.audience.as_str(), time.at_ms))?;
    Ok(())
}

/// Whether the process is known, or not too many are.
fn has_room(connection: &SqlConnection, batch: &UsageBatch) -> Result<bool, StoreError> {
    let UsageBatch { audience, head, .. } = batch;
    let known: u64 = connection
        .prepare_cached(
            "SELECT count(*) FROM usage_process \
             WHERE audience = ?1 AND instance = ?2 AND boot = ?3",
        )?
        .query_row((audience.as_str(), &head.instance, &head.boot), |row| row.get(0))?;
    if known > 0 {
        return Ok(true);
    }
    let all: u64 = connection
        .prepare_cached("SELECT count(*) FROM usage_process WHERE audience = ?1")?
        .query_row([audience.as_str()], |row| row.get(0))?;
    Ok(all < IDLE_PROCESSES)
}

/// Notes since when the reports of this sidecar have no gap. Call it before [`process`], which
/// forgets when it reported before.
fn note_since(
    connection: &SqlConnection,
    batch: &UsageBatch,
    time: BatchTime,
) -> Result<(), StoreError> {
    let UsageBatch { audience, head, .. } = batch;
    let (last, since): (Option<u64>, Option<u64>) = connection
        .prepare_cached(
            "SELECT max(CASE WHEN boot <> ?3 THEN seen END), max(CASE WHEN boot = ?3 THEN seen END) \
             FROM usage_process WHERE audience = ?1 AND instance = ?2",
        )?
        .query_row((audience.as_str(), &head.instance, SINCE), |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    let arrived = |minute: u32| (u64::from(minute) * MINUTE_MS).min(time.at_ms);
    let from_ms = arrived(head.from());
    let joins = last.is_some_and(|last| from_ms <= last.saturating_add(GAP_MS));
    let known = match (joins, since) {
        (true, Some(since)) => since.min(from_ms),
        // It reported to a version that did not note this.
        (true, None) => arrived(head.started),
        (false, _) => from_ms,
    };
    if since == Some(known) {
        return Ok(());
    }
    connection
        .prepare_cached(
            "INSERT INTO usage_process (audience, instance, boot, seen) VALUES (?1, ?2, ?3, ?4) \
             ON CONFLICT (audience, instance, boot) DO UPDATE SET seen = ?4",
        )?
        .execute((audience.as_str(), &head.instance, SINCE, known))?;
    Ok(())
}

/// The row of the process, which says when a whole record last arrived from it.
fn process(
    connection: &SqlConnection,
    batch: &UsageBatch,
    time: BatchTime,
) -> Result<u64, StoreError> {
    let seen_ms = match batch.head.part.is_last() {
        true => time.at_ms,
        false => time.at_ms.saturating_sub(UNHEARD_MS),
    };
    Ok(connection
        .prepare_cached(
            "INSERT INTO usage_process (audience, instance, boot, seen) VALUES (?1, ?2, ?3, ?4) \
             ON CONFLICT (audience, instance, boot) DO UPDATE SET \
             seen = max(usage_process.seen, ?4) \
             RETURNING id",
        )?
        .query_row(
            (batch.audience.as_str(), &batch.head.instance, &batch.head.boot, seen_ms),
            |row| row.get(0),
        )?)
}

/// Rows of keys by their ids, and when they were made.
fn key_rows(
    connection: &SqlConnection,
    batch: &UsageBatch,
) -> Result<BTreeMap<String, (u64, u64)>, StoreError> {
    let ids = SqlValue::texts(batch.lines.iter().map(|line| line.key.to_string()));
    let mut statement = connection.prepare_cached(
        "SELECT id, row, since FROM key WHERE audience = ?1 AND id IN (SELECT value FROM \
         json_each(?2))",
    )?;
    let rows = statement.query_all(vec![batch.audience.as_str().to_value(), ids], |row| {
        Ok((row.get(0)?, (row.get(1)?, row.get(2)?)))
    })?;
    Ok(rows.into_iter().collect())
}

/// How a key was used.
pub(super) fn of_key(
    store: &StoreConnection,
    audience: &AudienceName,
    org: Option<&OrgId>,
    key: KeyRef,
    now_ms: u64,
) -> Result<KeyUsage, StoreError> {
    let view = store.connection.view()?;
    let found = keys::load(store, audience, org, key)?;
    let buckets = |table: &str, since: u64| -> Result<Vec<UsageBucket>, StoreError> {
        let mut statement = view.prepare_cached(&format!(
            "SELECT begin, admitted, refused FROM {table} WHERE key = ?1 AND begin >= ?2 \
             ORDER BY begin"
        ))?;
        Ok(statement.query_all((found.row, since), |row| {
            Ok(UsageBucket { begin_ms: row.get(0)?, admitted: row.get(1)?, refused: row.get(2)? })
        })?)
    };
    let mut statement = view.prepare_cached(
        "SELECT reason, CAST(sum(count) AS BIGINT) FROM usage_refused WHERE key = ?1 AND day >= ?2 \
         GROUP BY reason ORDER BY sum(count) DESC, reason",
    )?;
    let refused = statement.query_all((found.row, now_ms.saturating_sub(30 * DAY_MS)), |row| {
        Ok(RefusedFor { reason: row.get::<_, String>(0)?.into(), count: row.get(1)? })
    })?;
    let mut statement = view.prepare_cached(
        "SELECT network, first, last FROM usage_network WHERE key = ?1 ORDER BY last DESC, network",
    )?;
    let networks = statement.query_all([found.row], |row| {
        Ok(UsedNetwork {
            network: row.get::<_, String>(0)?.into(),
            first_ms: row.get(1)?,
            last_ms: row.get(2)?,
        })
    })?;
    let reported: Option<(u64, u64)> = view
        .prepare_cached("SELECT first, last FROM usage_audience WHERE audience = ?1")?
        .query_row([audience.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    Ok(KeyUsage {
        last: found.key.last_use.clone(),
        as_of_ms: reported.map(|(_, last)| last),
        since_ms: reported.map(|(first, _)| first),
        hours: buckets("usage_hour", now_ms.saturating_sub(HOURS_MS))?,
        days: buckets("usage_day", now_ms.saturating_sub(DAYS_MS))?,
        refused,
        networks,
    })
}

/// Who has reported, and since when without a gap.
pub(super) fn reporters(
    store: &StoreConnection,
    audience: &AudienceName,
    after_ms: u64,
) -> Result<Vec<UseReporter>, StoreError> {
    let mut statement = store.connection.prepare_cached(
        "SELECT p.instance, max(p.seen), (SELECT s.seen FROM usage_process s WHERE \
         s.audience = ?1 AND s.instance = p.instance AND s.boot = ?3) FROM usage_process p \
         WHERE p.audience = ?1 AND p.boot <> ?3 AND p.seen >= ?2 \
         GROUP BY p.instance ORDER BY p.instance",
    )?;
    Ok(statement.query_all((audience.as_str(), after_ms, SINCE), |row| {
        Ok(UseReporter {
            instance: row.get::<_, String>(0)?.into(),
            last_ms: row.get(1)?,
            since_ms: row.get(2)?,
        })
    })?)
}

/// Forgets what is older than anybody looks at. `None`: another instance holds the lease now.
pub(super) fn forget(
    store: &StoreConnection,
    now_ms: u64,
    lease: &UsedLease,
) -> Result<Work<Option<u64>>, StoreError> {
    if !lease::is_held(store, lease)? {
        return Ok(Work::Undo(None));
    }
    let connection = &store.connection;
    let mut gone = 0;
    for (sql, keep) in [
        ("DELETE FROM usage_hour WHERE begin < ?1", HOURS_MS + DAY_MS),
        ("DELETE FROM usage_day WHERE begin < ?1", DAYS_MS),
        ("DELETE FROM usage_refused WHERE day < ?1", DAYS_MS),
        (
            "DELETE FROM usage_told WHERE process IN \
             (SELECT id FROM usage_process WHERE seen < ?1 AND boot <> '')",
            PROCESS_MS + DAY_MS,
        ),
        ("DELETE FROM usage_process WHERE seen < ?1 AND boot <> ''", PROCESS_MS + DAY_MS),
        // Since when a sidecar reports is no less true the longer ago it is.
        (
            "DELETE FROM usage_process WHERE seen < ?1 AND boot = '' AND NOT EXISTS (SELECT 1 FROM \
             usage_process p WHERE p.audience = usage_process.audience \
             AND p.instance = usage_process.instance AND p.boot <> '')",
            PROCESS_MS + DAY_MS,
        ),
    ] {
        gone += connection.execute(sql, [now_ms.saturating_sub(keep)])?;
    }
    Ok(Work::Keep(Some(gone as u64)))
}

/// Up to `most` keys for each alert.
pub(super) fn found(
    store: &StoreConnection,
    query: &FindingQuery,
) -> Result<Vec<FoundUsage>, StoreError> {
    let FindingQuery { audience, org, owner, keys, now_ms, most } = query;
    let (org, now_ms) = (org.as_ref(), *now_ms);
    let ids = keys.as_ref().map(|keys| keys.iter().map(KeyId::to_string).collect::<Vec<_>>());
    let ids = ids.map(|ids| serde_json::Value::from(ids).to_string());
    let is_server = store.connection.is_server();
    let ago = |days: u64| now_ms.saturating_sub(days * DAY_MS);
    let mut all = Vec::new();
    for alert in UsageAlert::ALL {
        // Each: a time or null, and a detail, for keys `k` that stand out.
        let (at, detail, joins, condition) = match alert {
            UsageAlert::Canary => (
                "max(r.day)",
                "sum(r.count)",
                "JOIN usage_refused r ON r.key = k.row AND r.day >= :week",
                "k.status = 'canary' AND r.reason = :canary",
            ),
            UsageAlert::EndedUsed => (
                "max(r.day)",
                "sum(r.count)",
                "JOIN usage_refused r ON r.key = k.row AND r.day >= :week",
                "(k.status = 'revoked' OR k.status = 'active' AND k.expires <= :now) \
                 AND r.reason IN (:revoked, :expired)",
            ),
            UsageAlert::NewNetwork => (
                "max(n.first)",
                "max(n.network)",
                "JOIN usage_network n ON n.key = k.row AND n.first >= :week",
                "k.status = 'active' AND (SELECT min(o.first) FROM usage_network o \
                 WHERE o.key = k.row) < :fortnight",
            ),
            UsageAlert::RefusedTenfold => (
                "max(d.begin)",
                "sum(d.refused)",
                "JOIN usage_hour d ON d.key = k.row AND d.begin >= :day",
                "d.refused > 0",
            ),
            UsageAlert::Unused => (
                "max(u.at)",
                "''",
                "LEFT JOIN usage_last u ON u.key = k.row JOIN usage_audience a ON \
                 a.audience = k.audience AND a.first < :quarter",
                "k.status = 'active' AND (k.expires IS NULL OR k.expires > :now) \
                 AND k.since < :quarter AND coalesce(u.at, 0) < :quarter",
            ),
        };
        let having = match alert {
            UsageAlert::RefusedTenfold => {
                "HAVING sum(d.refused) >= :refusals AND sum(d.refused) * 7 >= 10 * (SELECT \
                 coalesce(sum(b.refused), 0) FROM usage_hour b WHERE b.key = k.row AND \
                 b.begin >= :eight AND b.begin < :day)"
            }
            _ => "",
        };
        // The `+` keeps SQLite from choosing an index for them: if there are few keys, it looks
        // those up.
        let plus = if ids.is_some() && !is_server { "+" } else { "" };
        let org_is = org.map(|_| format!("AND {plus}k.org = :org")).unwrap_or_default();
        let owner_is = owner
            .as_ref()
            .map(|_| format!("AND {plus}k.owner_subject = :owner"))
            .unwrap_or_default();
        // If there are few keys, start with the keys, not with everything that happened this week.
        let (is_one, joins) = match ids {
            Some(_) => (
                match is_server {
                    true => "AND k.id IN (SELECT jsonb_array_elements_text(CAST(:keys AS JSONB)))",
                    false => "AND k.id IN (SELECT value FROM json_each(:keys))",
                },
                match joins.strip_prefix("JOIN ") {
                    Some(rest) => format!("CROSS JOIN {rest}"),
                    None => joins.to_owned(),
                },
            ),
            None => ("", joins.to_owned()),
        };
        let sql = format!(
            "SELECT k.id, k.uid, k.org, k.name, {at}, CAST({detail} AS TEXT) FROM key k {joins} \
             WHERE k.audience = :audience {org_is} {owner_is} {is_one} AND {condition} \
             GROUP BY k.row {having} ORDER BY k.row LIMIT :most"
        );
        let mut statement = store.connection.prepare_planned(&sql)?;
        let values = named_values! {
            ":audience": audience.as_str(),
            ":org": org.map(OrgId::as_str),
            ":owner": owner.as_deref(),
            ":keys": ids.as_deref(),
            ":now": now_ms,
            ":day": ago(1),
            ":week": ago(7),
            ":eight": ago(8),
            ":fortnight": ago(14),
            ":quarter": ago(90),
            ":refusals": REFUSALS,
            ":canary": Reason::Canary.as_str(),
            ":revoked": Reason::Revoked.as_str(),
            ":expired": Reason::Expired.as_str(),
            ":most": *most,
        };
        let mut rows = statement.query(values)?;
        while let Some(row) = rows.next()? {
            let odd = |what: &str| StoreError::broken(format!("a key has a strange `{what}`"));
            all.push(FoundUsage {
                alert,
                key: KeyId::parse(&row.get::<_, String>(0)?).map_err(|_| odd("id"))?,
                uid: Uid(row.get(1)?),
                org: OrgId::parse(&row.get::<_, String>(2)?).map_err(|_| odd("org"))?,
                name: row.get::<_, String>(3)?.into(),
                at_ms: row.get(4)?,
                detail: row.get::<_, Option<String>>(5)?.unwrap_or_default().into(),
            });
        }
    }
    Ok(all)
}
