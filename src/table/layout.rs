//! The fixed-width structures of a body, as docs/table-format.md specifies them. Little-endian,
//! without alignment, so that verified bytes are used in place. Imports core only.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::format::TableFormat;
use crate::core::{Environment, KeyKind, KeyStatus, Limit};

/// The body and every section of it begin at a multiple of this.
pub(crate) const ALIGN: usize = 64;
/// In place of an offset or an index: none.
pub(crate) const NONE: u32 = u32::MAX;
/// Most records of a file: indexes are 32 bits and [`NONE`] is one of them.
pub(crate) const MAX_KEYS: u64 = NONE as u64 - 1;

/// The sections of a body, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Section {
    Records,
    Pairs,
    Grants,
    Networks,
    Permissions,
    Orgs,
    Formats,
    Removals,
    Texts,
    /// From here on: format 2 only.
    Policies,
    Limits,
    OrgLimits,
    Owners,
}

pub(crate) const SECTIONS: usize = 13;

/// The first 128 bytes of a body. In format 1 the last four lengths are zeros as well.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Header {
    /// Bytes of each section, without the zeros that fill it up to a multiple of 64.
    pub lengths: [U64; SECTIONS],
    pub zero: [u8; 24],
}

/// One secret. Sorted by digest.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawRecord {
    pub digest: [u8; 32],
    pub id: [u8; 16],
    /// Offset into the orgs.
    pub org: U32,
    /// Index of the grant.
    pub grant: U32,
    /// Unix seconds; 0: never.
    pub expires: U32,
    /// Offset into the texts, or [`NONE`].
    pub text: U32,
}

/// One secret of a pair. Sorted by tag, then record.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct PairEntry {
    /// The first four bytes of the SHA-256 of the public id, read as a big-endian number.
    pub tag: U32,
    /// Index of the record.
    pub record: U32,
}

/// What many keys have in common. Sorted by its bytes.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawGrant {
    pub status: u8,
    pub kind: u8,
    pub environment: u8,
    pub zero: u8,
    /// Offset into the permission sets.
    pub permissions: U32,
    /// Index of the first network, and how many follow.
    pub network: U32,
    pub networks: U32,
    /// Format 1: count, window in milliseconds and burst of the limit; all 0: none. Format 2: index
    /// of the first limit, how many follow, and the sunset in Unix seconds (0: none).
    pub by_format: [U32; 3],
    pub zero_too: U32,
    /// Unix seconds; 0: immediately.
    pub not_before: U64,
}

/// One limit of a set. Sorted by policy within its set.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawLimit {
    /// Offset into the policies.
    pub policy: U32,
    pub count: U32,
    pub window_ms: U32,
    pub burst: U32,
}

/// The limits of one org. Sorted by org.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawOrgLimits {
    /// Offset into the orgs.
    pub org: U32,
    /// Index of the first limit, and how many follow. None: a patch removes the org's limits.
    pub limit: U32,
    pub limits: U32,
    pub zero: U32,
}

/// One network. Sorted within its set.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawNetwork {
    /// 4 or 6.
    pub family: u8,
    pub prefix: u8,
    /// Network order; an IPv4 address fills the first four bytes, the rest is 0.
    pub address: [u8; 16],
}

/// A secret that a patch removes from its base. Sorted by digest.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Removal {
    pub digest: [u8; 32],
    pub id: [u8; 16],
    /// 1: no secret of this key is left.
    pub whole: u8,
    pub zero: [u8; 15],
}

// === impl Section ===

impl Section {
    pub(crate) const ALL: [Self; SECTIONS] = [
        Self::Records,
        Self::Pairs,
        Self::Grants,
        Self::Networks,
        Self::Permissions,
        Self::Orgs,
        Self::Formats,
        Self::Removals,
        Self::Texts,
        Self::Policies,
        Self::Limits,
        Self::OrgLimits,
        Self::Owners,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Records => "records",
            Self::Pairs => "pairs",
            Self::Grants => "grants",
            Self::Networks => "networks",
            Self::Permissions => "permissions",
            Self::Orgs => "orgs",
            Self::Formats => "formats",
            Self::Removals => "removals",
            Self::Texts => "texts",
            Self::Policies => "policies",
            Self::Limits => "limits",
            Self::OrgLimits => "org limits",
            Self::Owners => "owners",
        }
    }
}

// === impl RawGrant ===

impl RawGrant {
    pub(crate) fn status(&self, format: TableFormat) -> Option<KeyStatus> {
        match (self.status, format) {
            (1, _) => Some(KeyStatus::Active),
            (2, _) => Some(KeyStatus::Disabled),
            (3, _) => Some(KeyStatus::Revoked),
            (4, TableFormat::V2) => Some(KeyStatus::Canary),
            _ => None,
        }
    }

    pub(crate) fn kind(&self) -> Option<KeyKind> {
        match self.kind {
            1 => Some(KeyKind::Single),
            2 => Some(KeyKind::Pair),
            _ => None,
        }
    }

    /// `None`: not a value of the format.
    pub(crate) fn environment(&self) -> Option<Option<Environment>> {
        match self.environment {
            0 => Some(None),
            1 => Some(Some(Environment::Live)),
            2 => Some(Some(Environment::Test)),
            _ => None,
        }
    }

    /// The one limit of format 1. `None`: not a value of the format.
    pub(crate) fn limit_v1(&self) -> Option<Option<Limit>> {
        match self.by_format.map(U32::get) {
            [0, 0, 0] => Some(None),
            [count, window, burst] => {
                Limit::new(count, Duration::from_millis(window.into()), burst).ok().map(Some)
            }
        }
    }

    /// The limits of format 2: index of the first one, and how many.
    pub(crate) fn limits_v2(&self) -> [u32; 2] {
        let [first, limits, _] = self.by_format.map(U32::get);
        [first, limits]
    }

    pub(crate) fn sunset(&self, format: TableFormat) -> Option<u64> {
        let [.., sunset] = self.by_format;
        match format {
            TableFormat::V1 => None,
            TableFormat::V2 => Some(u64::from(sunset.get())).filter(|at| *at != 0),
        }
    }
}

// === impl RawLimit ===

impl RawLimit {
    /// `None`: not a value of the format.
    pub(crate) fn limit(&self) -> Option<Limit> {
        let window = Duration::from_millis(self.window_ms.get().into());
        Limit::new(self.count.get(), window, self.burst.get()).ok()
    }
}

pub(crate) const fn status_code(status: KeyStatus) -> u8 {
    match status {
        KeyStatus::Active => 1,
        KeyStatus::Disabled => 2,
        KeyStatus::Revoked => 3,
        KeyStatus::Canary => 4,
    }
}

pub(crate) const fn kind_code(kind: KeyKind) -> u8 {
    match kind {
        KeyKind::Single => 1,
        KeyKind::Pair => 2,
    }
}

pub(crate) const fn environment_code(environment: Option<Environment>) -> u8 {
    match environment {
        None => 0,
        Some(Environment::Live) => 1,
        Some(Environment::Test) => 2,
    }
}

// === impl RawNetwork ===

impl RawNetwork {
    pub(crate) fn of(net: &IpNet) -> Self {
        let mut address = [0u8; 16];
        let family = match net.network() {
            IpAddr::V4(v4) => {
                address.iter_mut().zip(v4.octets()).for_each(|(to, from)| *to = from);
                4
            }
            IpAddr::V6(v6) => {
                address = v6.octets();
                6
            }
        };
        Self { family, prefix: net.prefix_len(), address }
    }

    /// `None`: not canonical, or IPv4-mapped (which would never match a canonical address).
    pub(crate) fn network(&self) -> Option<IpNet> {
        let v6 = Ipv6Addr::from(self.address);
        let net = match self.family {
            4 => {
                let [a, b, c, d, rest @ ..] = self.address;
                if rest != [0; 12] {
                    return None;
                }
                IpNet::V4(Ipv4Net::new(Ipv4Addr::new(a, b, c, d), self.prefix).ok()?)
            }
            6 if v6.to_ipv4_mapped().is_none() => IpNet::V6(Ipv6Net::new(v6, self.prefix).ok()?),
            _ => return None,
        };
        (net.trunc() == net).then_some(net)
    }
}
