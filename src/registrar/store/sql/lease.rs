//! Rows of leases: which instance of the service may do work that only one may do.

use super::super::error::StoreError;
use super::super::publishing::{HeldLease, UsedLease};
use super::connection::StoreConnection;
use super::fault::OptionalExtension as _;
use super::writer::Work;

pub(super) fn take(
    store: &StoreConnection,
    name: &str,
    holder: &str,
    now_ms: u64,
    until_ms: u64,
) -> Result<Work<Option<HeldLease>>, StoreError> {
    // A new holder gets a new epoch, and the same holder keeps its own. A lease that lasts longer
    // than twice the requested time was taken by a clock that was ahead, and binds nobody.
    // Instances whose clocks differ by less respect each other's leases.
    let longest_ms = now_ms.saturating_add(until_ms.saturating_sub(now_ms).saturating_mul(2));
    let taken: Option<u64> = store
        .connection
        .query_row(
            "INSERT INTO lease (name, holder, epoch, until) VALUES (?1, ?2, 1, ?4) \
             ON CONFLICT (name) DO UPDATE SET until = ?4, holder = ?2, \
             epoch = lease.epoch + CASE WHEN lease.holder = ?2 THEN 0 ELSE 1 END \
             WHERE lease.holder = ?2 OR lease.until <= ?3 OR lease.until > ?5 RETURNING epoch",
            (name, holder, now_ms, until_ms, longest_ms),
            |row| row.get(0),
        )
        .optional()?;
    Ok(Work::Keep(taken.map(|epoch| HeldLease { epoch, until_ms })))
}

/// Whether nobody else has taken the lease since. Nobody can while this transaction lasts.
pub(super) fn is_held(store: &StoreConnection, lease: &UsedLease) -> Result<bool, StoreError> {
    let found: Option<(String, u64)> = store
        .connection
        .prepare_cached("SELECT holder, epoch FROM lease WHERE name = ?1")?
        .query_row([&*lease.name], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    Ok(found.is_some_and(|(holder, epoch)| *holder == *lease.holder && epoch == lease.epoch))
}
