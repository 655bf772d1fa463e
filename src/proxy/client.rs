//! One client's connection: it arrives, our own reader and hyper take turns on it, and it ends.

pub(crate) mod listener;
mod plain;
pub(crate) mod serve;
