//! JSON Web Tokens (RFC 7519): those of users, which identity providers sign and keygate verifies.
//!
//! Pure: no I/O, no clock, no log. Callers pass in bytes and the time. Imports only `core`.
