//! TLS on both sides, with certificates, keys and authorities that are read again from disk while
//! connections live. rustls with aws-lc-rs. Imports clock, config, core and wording.
//!
//! Every set of files is read once into memory, checked as a whole, and put in force as one
//! value; on any fault the one in force stays. [`Watcher`] does that on the control thread. A listener's
//! own certificate whose dates do not hold is served at a start, loudly: an outage of TLS is worse for
//! clients that do not look at dates, and no better for those that do.

mod client;
mod concern;
mod dates;
mod error;
mod files;
#[cfg(feature = "kubernetes")]
mod memory;
mod names;
mod pem;
mod provider;
mod server;
mod subject;
#[cfg(test)]
mod tests;
mod watch;

pub use self::client::ClientTls;
pub use self::concern::TlsConcern;
pub use self::error::TlsError;
#[cfg(feature = "kubernetes")]
pub use self::memory::MemoryServerTls;
pub use self::server::ServerTls;
pub use self::subject::{ClientCertificateError, client_subject};
pub use self::watch::{Certificate, Event, Reloadable, TlsReloadOutcome, Watcher};
