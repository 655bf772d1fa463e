//! Turns a part of a record into rows: reads everything known about its keys in one go, works out
//! here what is new, and writes each table with one statement. Nobody else writes in the meantime.

use std::collections::{BTreeMap, BTreeSet};

use super::super::super::error::StoreError;
use super::super::driver::SqlConnection;
use super::super::value::{SqlValue, ToValue as _};
use super::{BatchTime, DAY_MS, HOUR_MS, MINUTE_MS, UsedKey};
use crate::usage::{HIGHEST_COUNT, ToldCounts};

/// How many networks of a key are kept, the latest ones.
const NETWORKS: u64 = 64;

/// A known network is noted again only after this long. Otherwise each key would cost a write a
/// minute.
const NETWORK_AGAIN_MS: u64 = HOUR_MS;

/// What is known about the keys.
struct KnownUse {
    told: BTreeMap<u64, ToldCounts>,
    /// When each network was last seen.
    networks: BTreeMap<(u64, String), u64>,
    last: BTreeMap<u64, u64>,
}

/// Admitted and refused requests, by key and beginning.
type Buckets = BTreeMap<(u64, u64), (u64, u64)>;

/// The rows to write.
#[derive(Default)]
struct FoldedUse {
    told: BTreeMap<u64, ToldCounts>,
    hours: Buckets,
    days: Buckets,
    refused: BTreeMap<(u64, Box<str>), u64>,
    networks: BTreeSet<(u64, String)>,
    /// Keys with a network that nobody has seen before.
    spread: BTreeSet<u64>,
    last: BTreeMap<u64, (u64, String)>,
}

/// Returns how many lines reported something new. `lines` are in the order of their keys' rows.
pub(super) fn fold(
    connection: &SqlConnection,
    process: u64,
    mut lines: Vec<UsedKey<'_>>,
    time: BatchTime,
) -> Result<u64, StoreError> {
    let mut raised = 0;
    // A record may report a key twice: the second line builds on the first.
    while !lines.is_empty() {
        let mut again = Vec::new();
        let mut before = None;
        lines.retain(|line| {
            let is_first = before.replace(line.key) != Some(line.key);
            if !is_first {
                again.push(*line);
            }
            is_first
        });
        let known = KnownUse::read(connection, process, &lines)?;
        let mut folded = FoldedUse::default();
        for used in &lines {
            raised += u64::from(folded.line(&known, *used, time));
        }
        folded.write(connection, process, time)?;
        lines = again;
    }
    Ok(raised)
}

// === impl KnownUse ===

impl KnownUse {
    fn read(
        connection: &SqlConnection,
        process: u64,
        lines: &[UsedKey<'_>],
    ) -> Result<Self, StoreError> {
        let keys = SqlValue::integers(lines.iter().map(|used| used.key));
        let mut told = BTreeMap::new();
        let mut statement = connection.prepare_cached(
            "SELECT key, admitted, refused FROM usage_told \
             WHERE process = ?1 AND key IN (SELECT value FROM json_each(?2))",
        )?;
        let mut rows = statement.query(vec![process.to_value(), keys.clone()])?;
        while let Some(row) = rows.next()? {
            let refused: String = row.get(2)?;
            let refused = serde_json::from_str(&refused).map_err(StoreError::broken)?;
            told.insert(row.get(0)?, ToldCounts { admitted: row.get(1)?, refused });
        }
        // All networks of a key, which are few. Asking only for those in the record would be a
        // search for each key with each network.
        let mut statement = connection.prepare_cached(
            "SELECT key, network, last FROM usage_network WHERE key IN (SELECT value FROM \
             json_each(?1))",
        )?;
        let networks = statement
            .query_all(vec![keys.clone()], |row| Ok(((row.get(0)?, row.get(1)?), row.get(2)?)))?
            .into_iter()
            .collect();
        let mut statement = connection.prepare_cached(
            "SELECT key, at FROM usage_last WHERE key IN (SELECT value FROM json_each(?1))",
        )?;
        let last = statement
            .query_all(vec![keys], |row| Ok((row.get(0)?, row.get(1)?)))?
            .into_iter()
            .collect();
        Ok(Self { told, networks, last })
    }
}

// === impl FoldedUse ===

impl FoldedUse {
    /// Returns whether the line reports something new.
    fn line(&mut self, known: &KnownUse, used: UsedKey<'_>, time: BatchTime) -> bool {
        let UsedKey { key, since_ms, line } = used;
        let mut told = known.told.get(&key).cloned().unwrap_or_default();
        let rise = told.raise(&line.counts);
        let is_new = !rise.is_nothing();
        if is_new {
            self.told.insert(key, told);
            let used_ms = (u64::from(line.last) * MINUTE_MS).min(time.now_ms);
            match used_ms / HOUR_MS == time.now_ms / HOUR_MS {
                true => self.count(key, used_ms, rise.admitted, rise.all_refused()),
                false => {
                    self.count(key, used_ms, rise.admitted, 0);
                    self.count(key, time.now_ms, 0, rise.all_refused());
                }
            }
            for (reason, count) in rise.refused {
                self.refused.insert((key, reason), count);
            }
        }
        let mut is_seen = false;
        for network in &line.nets {
            let seen = (key, network.to_string());
            match known.networks.get(&seen) {
                Some(last) if last.saturating_add(NETWORK_AGAIN_MS) > time.now_ms => continue,
                Some(_) => {}
                None => is_seen = true,
            }
            self.networks.insert(seen);
        }
        if is_seen {
            self.spread.insert(key);
        }
        // A record says the minute, and its clock may be behind ours: nobody used the key before it
        // was made.
        let at = (u64::from(line.last) * MINUTE_MS).max(since_ms).min(time.at_ms);
        let is_last = line.last > 0 && known.last.get(&key).is_none_or(|last| *last < at);
        if is_last {
            let network = line.nets.last().map(ToString::to_string).unwrap_or_default();
            self.last.insert(key, (at, network));
        }
        is_new || is_seen || is_last
    }

    fn count(&mut self, key: u64, at_ms: u64, admitted: u64, refused: u64) {
        if admitted == 0 && refused == 0 {
            return;
        }
        for (buckets, length) in [(&mut self.hours, HOUR_MS), (&mut self.days, DAY_MS)] {
            let bucket = buckets.entry((key, at_ms / length * length)).or_default();
            bucket.0 = bucket.0.saturating_add(admitted).min(HIGHEST_COUNT);
            bucket.1 = bucket.1.saturating_add(refused).min(HIGHEST_COUNT);
        }
    }

    fn write(
        self,
        connection: &SqlConnection,
        process: u64,
        time: BatchTime,
    ) -> Result<(), StoreError> {
        let mut told = Vec::with_capacity(self.told.len());
        for (key, counts) in self.told {
            let refused = serde_json::to_string(&counts.refused).map_err(StoreError::broken)?;
            told.push([
                process.to_value(),
                key.to_value(),
                counts.admitted.to_value(),
                refused.to_value(),
            ]);
        }
        connection.execute_rows(
            "INSERT INTO usage_told (process, key, admitted, refused) VALUES (?1, ?2, ?3, ?4) \
             ON CONFLICT (process, key) DO UPDATE SET \
             admitted = excluded.admitted, refused = excluded.refused",
            told,
        )?;
        for (table, buckets) in [("usage_hour", self.hours), ("usage_day", self.days)] {
            let rows = buckets.into_iter().map(|((key, begin), (admitted, refused))| {
                [key.to_value(), begin.to_value(), admitted.to_value(), refused.to_value()]
            });
            connection.execute_rows(
                &format!(
                    "INSERT INTO {table} (key, begin, admitted, refused) VALUES (?1, ?2, ?3, ?4) \
                     ON CONFLICT (key, begin) DO UPDATE SET \
                     admitted = min({table}.admitted + excluded.admitted, {HIGHEST_COUNT}), \
                     refused = min({table}.refused + excluded.refused, {HIGHEST_COUNT})"
                ),
                rows.collect(),
            )?;
        }
        let day = time.now_ms / DAY_MS * DAY_MS;
        let refused = self.refused.into_iter().map(|((key, reason), count)| {
            let reason = String::from(reason);
            [key.to_value(), day.to_value(), reason.to_value(), count.to_value()]
        });
        connection.execute_rows(
            &format!(
                "INSERT INTO usage_refused (key, day, reason, count) VALUES (?1, ?2, ?3, ?4) \
                 ON CONFLICT (key, day, reason) DO UPDATE SET \
                 count = min(usage_refused.count + excluded.count, {HIGHEST_COUNT})"
            ),
            refused.collect(),
        )?;
        let seen = self.networks.into_iter().map(|(key, network)| {
            [key.to_value(), network.to_value(), time.now_ms.to_value(), time.now_ms.to_value()]
        });
        connection.execute_rows(
            "INSERT INTO usage_network (key, network, first, last) VALUES (?1, ?2, ?3, ?4) \
             ON CONFLICT (key, network) DO UPDATE SET last = excluded.last",
            seen.collect(),
        )?;
        forget_networks(connection, self.spread)?;
        let last = self
            .last
            .into_iter()
            .map(|(key, (at, network))| [key.to_value(), at.to_value(), network.to_value()]);
        connection.execute_rows(
            "INSERT INTO usage_last (key, at, network) VALUES (?1, ?2, ?3) \
             ON CONFLICT (key) DO UPDATE SET at = excluded.at, network = CASE excluded.network \
             WHEN '' THEN usage_last.network ELSE excluded.network END",
            last.collect(),
        )?;
        Ok(())
    }
}

/// Forgets all networks of these keys except the latest.
fn forget_networks(connection: &SqlConnection, keys: BTreeSet<u64>) -> Result<(), StoreError> {
    if keys.is_empty() {
        return Ok(());
    }
    let mut statement = connection.prepare_cached(
        "SELECT key FROM usage_network WHERE key IN (SELECT value FROM json_each(?1)) \
         GROUP BY key HAVING count(*) > ?2",
    )?;
    let full = statement.query_all(vec![SqlValue::integers(keys), NETWORKS.to_value()], |row| {
        row.get::<_, u64>(0)
    })?;
    for key in full {
        connection
            .prepare_cached(
                "DELETE FROM usage_network WHERE key = ?1 AND network NOT IN (SELECT network FROM \
                 usage_network WHERE key = ?1 ORDER BY last DESC, network LIMIT ?2)",
            )?
            .execute_later((key, NETWORKS))?;
    }
    Ok(())
}
