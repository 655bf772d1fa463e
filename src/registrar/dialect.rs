//! A product's documented endpoints for keys, in the product's own words: dialects are configuration.
//!
//! Dialects do not decide what is allowed: requests become [`ChangeRequest`]s, and the store asks
//! the rules of `manage`.
//!
//! [`ChangeRequest`]: super::store::ChangeRequest

pub mod built_in;
pub mod code;
pub mod map;
pub mod operation;
