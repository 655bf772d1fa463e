//! One client's connection: it arrives, takes its turns of plain HTTP and hyper, and ends. Imports
//! every sub-room but `run`; none but that and the door for fuzzing imports this one.

pub(crate) mod listener;
mod plain;
pub(crate) mod serve;
