//! The record of which key was used when and how often: its lines, and how records of many sidecars
//! are merged into one. Reads what `/usage`, `usage.file` and `usage.post_url` write. Pure; imports
//! core only.

pub mod merge;
pub mod record;
pub mod rise;

pub use self::merge::{KnownInstances, MergedUse, UsageMerge};
pub use self::record::{UsageHead, UsageLine, UsageRecord, UsageRecordError};
pub use self::rise::{HIGHEST_COUNT, ToldCounts};
