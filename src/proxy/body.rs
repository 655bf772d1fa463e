//! The bodies of requests on their way through. A body is never buffered as a whole: keygate holds
//! one frame at a time.
//!
//! ```text
//! who reads the client     HyperBody (hyper) | Inflow (a Wire, without hyper)
//!   as it is handed over   ClientBody: Whole, with the head | one of the two above
//!   under its rules        Upload: with the route's limit; UploadProgress is its other end
//!   as it is sent          RequestBody: Empty | Whole | Stream of an Upload
//!     by hyper             RequestBody itself, which is a body to hyper
//!     as bytes             with the head, or behind it by upstream::sending::Sending
//! what nobody wants        RequestRest over HTTP/1 | Unread, which reads on and drops, over HTTP/2
//! ```

mod error;
mod inflow;
mod unread;
mod upload;

pub(crate) use self::error::BodyError;
pub(crate) use self::inflow::Wire;
pub(crate) use self::unread::{HyperBody, RequestRest, RestKeeper, RestOfBody, Unread};
pub(crate) use self::upload::{ClientBody, RequestBody, Upload, UploadProgress, UploadState};
