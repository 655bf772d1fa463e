//! What client connections hold of the process's memory, and what follows from it: [`rule`] says who
//! has to go, [`account`] adds up what each [`holding`] says. Knows no socket and no HTTP.

pub(crate) mod account;
pub(crate) mod holding;
pub(crate) mod rule;

pub use self::account::Account;
