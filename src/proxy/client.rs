//! One client's connection: it arrives, our own reader and hyper take turns on it, and it ends.

mod linger;
pub(crate) mod listener;
mod plain;
pub(crate) mod serve;
mod turn;
