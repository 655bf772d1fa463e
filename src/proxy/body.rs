//! The bodies of requests on their way through. Never buffered whole; one frame is in our hands at a
//! time.

mod error;
mod inflow;
mod unread;
mod upload;

pub(crate) use self::error::BodyError;
pub(crate) use self::inflow::Wire;
pub(crate) use self::unread::{HyperBody, Unread};
pub(crate) use self::upload::{
    ClientBody, Coming, RequestBody, Upload, UploadProgress, UploadState,
};
