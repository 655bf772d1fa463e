//! JSON Web Tokens (RFC 7519): those of users, which identity providers sign and keygate verifies,
//! and those in which keygate tells the service what it has decided.
//!
//! Pure: no I/O, no clock, no log. Callers pass in bytes and the time. Imports only `core`.
//!
//! - [`rules`]: the configuration of one issuer.
//! - [`claims`]: whether the claims hold, and what they mean.
//! - [`jwks`]: an issuer's public keys (RFC 7517).
//! - [`verify`]: from the bytes of a token to a [`UserToken`](crate::core::UserToken).
//! - [`cache`]: tokens that have been verified.
//! - `product`: tokens that a product gives its own people, for the management service.
//! - [`sign`]: tokens that keygate makes for the service.
//! - [`buckets`]: a bounded number of rates, by address or subject.

pub mod buckets;
pub mod cache;
pub mod claims;
mod json;
pub mod jwks;
#[cfg(feature = "admin")]
pub mod product;
pub mod rules;
pub mod sign;
pub mod verify;

pub use self::buckets::{BoundedBuckets, network_of};
pub use self::cache::TokenCache;
pub use self::jwks::{JwkSet, JwksError};
pub use self::rules::{IssuerRules, TokenAlgorithm};
pub use self::verify::{LONGEST_TOKEN, Unverified, looks_like_token};
