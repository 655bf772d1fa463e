//! Decides. Pure: no I/O, no clock, no log, no global state. Imports nothing of this crate.
//!
//! [`decide`] is one function of (policy, keys, facts, now). The proxy, `keygate explain` and the
//! property tests call the same one.

#![deny(clippy::indexing_slicing)]

pub mod address;
pub mod certificate;
pub mod charge;
pub mod client_network;
pub mod cors;
pub mod credential;
pub mod decision;
pub mod format;
pub mod grant;
pub mod headers;
pub mod identity;
pub mod key;
pub mod limit;
pub mod limit_set;
pub mod limit_share;
pub mod observe;
pub mod owner;
pub mod path;
pub mod policy_item;
pub mod quota;
pub mod rate_fields;
pub mod reason;
pub mod refusal;
pub mod route;
pub mod secret;
pub mod signer;
pub mod use_cell;
pub mod user_token;

pub use self::address::NetworkSet;
pub use self::charge::{Charge, LimitPolicies, LimitPolicy, PolicyScope};
pub use self::client_network::ClientNetwork;
pub use self::credential::{BasicForm, CredentialSource, MissingHalf, Prefixes};
pub use self::decision::{
    Admitted, Facts, KeyLookup, Observed, PairLookup, Passed, Policy, Presented, Verdict, decide,
};
pub use self::grant::{Grant, KeySpec, KeyView, PermissionSet};
pub use self::identity::{IdentityFields, anonymous_field, identity_fields, token_fields};
pub use self::key::{Environment, KeyId, KeyKind, KeyStatus, NameError, OrgId, Permission};
pub use self::limit::{Limit, PolicyName};
pub use self::limit_set::{LimitSet, NamedLimit};
pub use self::limit_share::LimitShare;
pub use self::owner::{Owner, OwnerView};
pub use self::quota::QuotaPeriod;
pub use self::reason::{CallerKind, Reason, Rejection};
pub use self::route::{Access, Route, RouteTable};
pub use self::secret::{Digest, Secret};
pub use self::signer::{SignerError, SignerKey};
pub use self::use_cell::{KeyUse, UseCell};
pub use self::user_token::{
    ClaimReading, IssuersNow, KnownOrgs, SignerPrint, TokenFault, TokenOnward, UserToken,
    VerifiedToken,
};

/// One reading of the clock, taken at the edge and passed down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub unix_ms: u64,
    /// Nanoseconds since the process's clock was created. Never goes backwards.
    pub mono_ns: u64,
}

impl Now {
    /// Whole minutes since 1970-01-01T00:00:00Z.
    pub const fn unix_minute(self) -> u32 {
        (self.unix_ms / 60_000) as u32
    }

    /// Whole seconds since 1970-01-01T00:00:00Z.
    pub const fn unix_secs(self) -> u64 {
        self.unix_ms / 1000
    }
}
