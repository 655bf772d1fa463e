//! The rules of the memory budget, as functions of numbers: how much a connection is assumed to
//! hold, and who has to go when it is too much. docs/limits.md and docs/operations.md state them.
//! Imports `config` and `telemetry`.

use std::borrow::Borrow;
use std::cmp::Reverse;
use std::net::IpAddr;

use crate::config::MemoryBudget;
use crate::telemetry::Shortage;

/// How many bytes connections may hold. Without one, nothing is turned away for memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Budget(u64);

/// What the program needs in addition to tables and connections.
const PROGRAM: u64 = 32 << 20;

/// An open connection: sockets, tasks, a buffer to read into.
pub(crate) const CONNECTION: u64 = 10 << 10;
/// More with TLS: the session and its two buffers.
pub(crate) const TLS: u64 = 32 << 10;
/// More with HTTP/2: tables of HPACK, frames that are read or written.
pub(crate) const HTTP2: u64 = 24 << 10;
/// An HTTP/2 stream with the head of its request and of its answer.
pub(crate) const STREAM: u64 = 4 << 10;
/// A request that went to the service: head twice, a piece of its answer, the upstream's socket.
pub(crate) const FORWARDED: u64 = 24 << 10;
/// An upload over HTTP/1: the bytes that are read ahead.
pub(crate) const UPLOAD: u64 = 256 << 10;
/// An upload over HTTP/2: the stream's window, and at most the connection's for all of them.
pub(crate) const STREAM_UPLOAD: u64 = 64 << 10;
pub(crate) const STREAM_UPLOADS: u64 = 1 << 20;

/// How far a connection has got, which decides what it may cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ConnectionReach {
    /// Nothing from it has reached the service.
    #[default]
    Stranger,
    /// A request went through that needed no key: anybody can get this far.
    Passed,
    /// A request was admitted by its key.
    Admitted,
}

/// A connection on which nothing was admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StrangerConnection {
    /// Its place in the worker's registry.
    pub(crate) slot: usize,
    pub(crate) holder: ChargedTo,
    pub(crate) bytes: u64,
}

/// The holder of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum ChargedTo {
    /// Not known yet, or a Unix socket.
    #[default]
    Nobody,
    /// An address shared by many clients (`trusted_proxies`).
    Proxy(IpAddr),
    Address(IpAddr),
}

// === impl Budget ===

impl Budget {
    pub(crate) const NONE: Self = Self(u64::MAX);

    /// `limit`: what the environment of the process allows it, in bytes.
    pub(crate) fn of(setting: MemoryBudget, limit: Option<u64>, table_bytes: u64) -> Self {
        match (setting, limit) {
            (MemoryBudget::Bytes(bytes), _) => Self(bytes),
            (MemoryBudget::Detected, Some(limit)) => {
                Self(left_by(limit, table_bytes).max(MemoryBudget::LEAST))
            }
            (MemoryBudget::Detected, None) | (MemoryBudget::Off, _) => Self::NONE,
        }
    }

    /// What about it is too small for this many connections, in words. `limit` as in
    /// [`Budget::of`].
    pub(crate) fn shortfall(
        setting: MemoryBudget,
        limit: Option<u64>,
        table_bytes: u64,
        connections: u64,
    ) -> Option<String> {
        let budget = Self::of(setting, limit, table_bytes);
        let bytes = budget.bytes()?;
        let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
        let whose = match (setting, limit) {
            (MemoryBudget::Detected, Some(limit)) => {
                let left = left_by(limit, table_bytes);
                if left < MemoryBudget::LEAST {
                    return Some(format!(
                        "the memory limit of {} leaves {} for connections beside the program and a \
                         table of {}: the kernel may end keygate",
                        mib(limit),
                        mib(left),
                        mib(table_bytes)
                    ));
                }
                format!("{}, which the memory limit of {} leaves,", mib(bytes), mib(limit))
            }
            _ => mib(bytes),
        };
        let fit = budget.for_new() / CONNECTION;
        (fit < connections).then(|| {
            format!(
                "{whose} is room for {fit} idle connections, and limits.connections allows \
                 {connections}: new ones are closed before"
            )
        })
    }

    pub(crate) const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// In bytes. `None`: there is no budget.
    pub(crate) const fn bytes(self) -> Option<u64> {
        if self.0 == Self::NONE.0 { None } else { Some(self.0) }
    }

    /// What one address may hold on connections on which nothing was admitted.
    pub(crate) const fn of_address(self) -> u64 {
        self.0 / 4
    }

    /// Whether a new connection or stream is accepted while this much is held.
    pub(crate) const fn takes_new(self, held: u64) -> bool {
        held <= self.for_new()
    }

    /// New connections and streams are accepted while no more than this is held.
    const fn for_new(self) -> u64 {
        self.0 / 100 * 80
    }

    /// Whether room has to be made.
    pub(crate) const fn is_pressed(self, held: u64) -> bool {
        held > self.0 / 100 * 95
    }
}

/// What a memory limit leaves for connections after the program and a table.
const fn left_by(limit: u64, table_bytes: u64) -> u64 {
    // While the next table is verified, both are in memory.
    let tables = table_bytes.saturating_mul(22) / 10;
    limit.saturating_sub(PROGRAM).saturating_sub(tables)
}

/// A holder, while connections to close are chosen.
#[derive(Clone, Copy, Debug)]
struct HolderPart {
    holder: ChargedTo,
    /// Bytes on connections on which nothing was admitted, in all workers.
    sum: u64,
    /// How many of its connections on this worker are closed, the largest first.
    taken: usize,
}

/// Which connections have to go, and why. `held`: by all connections. `strangers`: what each holder
/// has on connections on which nothing was admitted, in all workers; `own` are those of this
/// worker. Of one holder's connections, the one that holds most goes first.
///
/// An attacker has as many addresses as connections. So the work is limited to sorting them, and a
/// holder who gives nothing up costs one comparison.
pub(crate) fn to_close<S: Borrow<StrangerConnection>>(
    budget: Budget,
    mut held: u64,
    strangers: &[(ChargedTo, u64)],
    own: &mut [S],
) -> Vec<(usize, Shortage)> {
    let part =
        |(holder, sum): &(ChargedTo, u64)| HolderPart { holder: *holder, sum: *sum, taken: 0 };
    let mut parts: Vec<HolderPart> = strangers.iter().map(part).collect();
    let is_over = |part: &HolderPart| {
        matches!(part.holder, ChargedTo::Address(_)) && part.sum > budget.of_address()
    };
    let mut closed = Vec::new();
    if !budget.is_pressed(held) && !parts.iter().any(is_over) {
        return closed;
    }
    own.sort_unstable_by_key(|one| (one.borrow().holder, Reverse(one.borrow().bytes)));
    for part in &mut parts {
        while is_over(part)
            && let Some(bytes) = part.close_largest(own, &mut closed, Shortage::Address)
        {
            held = held.saturating_sub(bytes);
        }
    }
    if !budget.is_pressed(held) {
        return closed;
    }
    parts.sort_unstable_by_key(|part| Reverse(part.sum));
    for part in &mut parts {
        while budget.is_pressed(held)
            && let Some(bytes) = part.close_largest(own, &mut closed, Shortage::Pressure)
        {
            held = held.saturating_sub(bytes);
        }
        // Other workers have the rest of the largest holder: it is their turn.
        if part.sum > 0 || !budget.is_pressed(held) {
            break;
        }
    }
    closed
}

impl HolderPart {
    /// Returns the bytes of the connection. `None`: this worker has no more of the holder's
    /// connections. `own` is sorted by holder, the largest first.
    fn close_largest<S: Borrow<StrangerConnection>>(
        &mut self,
        own: &[S],
        closed: &mut Vec<(usize, Shortage)>,
        why: Shortage,
    ) -> Option<u64> {
        let first = own.partition_point(|one| one.borrow().holder < self.holder);
        let one = own.get(first + self.taken)?.borrow();
        if one.holder != self.holder {
            return None;
        }
        closed.push((one.slot, why));
        self.taken += 1;
        self.sum = self.sum.saturating_sub(one.bytes);
        Some(one.bytes)
    }
}

#[cfg(test)]
mod tests;
