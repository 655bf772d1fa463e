//! How much of the process's memory client connections hold, and what follows from it: [`rule`]
//! decides who has to go, [`account`] adds up what each [`holding`] reports. Knows no socket and no
//! HTTP.

pub(crate) mod account;
pub(crate) mod holding;
pub(crate) mod rule;

pub use self::account::Account;
use crate::config::MemoryBudget;

/// What about a configured or detected budget is too small for a table of `table_bytes` and this
/// many connections, in words. `limit`: what the cgroup allows the process, in bytes.
pub fn shortfall(
    setting: MemoryBudget,
    limit: Option<u64>,
    table_bytes: u64,
    connections: u64,
) -> Option<String> {
    rule::Budget::shortfall(setting, limit, table_bytes, connections)
}
