//! Files and URLs to what is in force.

mod status;

pub use self::status::{Status, StatusCell, Time};

/// Lets the request path go first: the calling thread runs when the workers leave time.
pub fn lower_priority() {
    // On Linux this is the calling thread alone. Where it is not allowed, nothing is lost.
    let _ = rustix::process::setpriority_process(None, 10);
}
