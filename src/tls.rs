//! TLS on both sides, with certificates, keys and authorities that are read again from disk while
//! connections are open. rustls with aws-lc-rs. Imports clock, config, core and wording.
//!
//! Every set of files is read once into memory, checked as a whole, and put in force as one value.
//! On any fault, the previous one stays in force. [`Watcher`] does that on the control thread. If
//! the dates of a listener's own certificate are not valid at a start, keygate serves it and logs
//! that prominently: an outage of TLS is worse for clients that do not check dates, and no better
//! for those that do.

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
