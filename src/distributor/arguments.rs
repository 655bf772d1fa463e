//! The options of `keygatectl distributor`, as the user types them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::config::size;
use crate::manage::time;

/// Options of `keygatectl distributor`.
#[derive(Debug, Args)]
pub(super) struct DistributorArguments {
    /// Where tables and patches come from: URL/AUDIENCE/table.kgt and URL/AUDIENCE/patch.kgp, as
    /// the management service has them under /artefacts
    #[arg(long, value_name = "URL")]
    pub(super) origin: Option<String>,
    /// Audience to serve, from --origin; may be given again
    #[arg(long = "audience", value_name = "NAME", requires = "origin")]
    pub(super) audiences: Vec<String>,
    /// URL of an audience's table, for origins with other paths; may be given again
    #[arg(long = "table", value_name = "AUDIENCE=URL")]
    pub(super) tables: Vec<String>,
    /// URL of an audience's patch; may be given again
    #[arg(long = "patch", value_name = "AUDIENCE=URL")]
    pub(super) patches: Vec<String>,
    /// File with the bearer token that the origin wants; read anew for each request
    #[arg(long, value_name = "FILE", conflicts_with = "origin_basic_file")]
    pub(super) origin_bearer_file: Option<PathBuf>,
    /// File with the `user:password` that the origin wants
    #[arg(long, value_name = "FILE")]
    pub(super) origin_basic_file: Option<PathBuf>,
    /// Certificate authorities of the origin, PEM [default: public ones]
    #[arg(long, value_name = "FILE")]
    pub(super) origin_ca: Option<PathBuf>,
    /// How long the origin is asked to hold an answer until there is news, 1s to 60s; 0s: it is polled
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = time::duration)]
    pub(super) long_poll: Duration,
    /// From one request to the next, to an origin that holds nothing back
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = time::duration)]
    pub(super) poll: Duration,
    /// Largest table or patch
    #[arg(long, value_name = "SIZE", default_value = "2GiB", value_parser = bytes)]
    pub(super) max_bytes: u64,
    /// Public key of a signer, a PEM file or `ed25519:BASE64`: only what it has signed is passed on,
    /// and nothing older than what is; may be given again
    #[arg(long = "trusted-signer", value_name = "KEY")]
    pub(super) trusted_signers: Vec<String>,
    /// Where sidecars reach it
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9930")]
    pub(super) listen: SocketAddr,
    /// Let other distributors of the same user listen there as well; the kernel spreads connections
    #[arg(long)]
    pub(super) share_address: bool,
    /// Where /metrics, /livez and /readyz are
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9931")]
    pub(super) admin_listen: SocketAddr,
    /// Certificate chain of --listen, PEM; read again when it changes
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(super) tls_certificate: Option<PathBuf>,
    /// Private key of the certificate, PEM
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    pub(super) tls_key: Option<PathBuf>,
    /// Sidecars with the bearer token in FILE, and their audiences (without: all); may be given
    /// again
    #[arg(long = "fleet", value_name = "NAME[:AUDIENCE,…]=FILE")]
    pub(super) fleets: Vec<String>,
    /// Serve whoever reaches --listen, without a token
    #[arg(long)]
    pub(super) open: bool,
    /// Most connections at a time; a sidecar has two per audience
    #[arg(long, value_name = "N", default_value_t = 30_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) max_connections: u32,
    /// How old a connection becomes before it is closed, so that sidecars spread over new
    /// distributors; a quarter more or less
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = time::duration)]
    pub(super) connection_age: Duration,
    /// After SIGTERM or SIGHUP: within this time those who wait are let go, evenly spread; 0s: at once
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = time::duration)]
    pub(super) drain: Duration,
    /// What it calls itself at the origin [default: the host's name]
    #[arg(long, value_name = "NAME")]
    pub(super) instance: Option<String>,
    /// Write a line for each answer to standard error
    #[arg(long)]
    pub(super) access_log: bool,
}

fn bytes(text: &str) -> std::result::Result<u64, String> {
    let bytes = size(text).map_err(|_| "must look like 512KiB, 64MiB or 2GiB")?;
    if bytes == 0 { Err("must be more than 0".to_owned()) } else { Ok(bytes) }
}
