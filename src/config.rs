//! What the configuration means. `raw` is what the TOML says; [`Config`] is what the rest of the
//! program sees: parsed, defaulted, checked as a whole. Imports `core`, `token` and `wording`.

mod addresses;
mod admin;
mod certificate;
mod copies;
mod cors;
mod delivery;
mod diff;
mod fault;
mod files;
mod host;
mod limits;
mod log;
mod lower;
mod observe;
mod policy;
mod probes;
mod raw;
pub(crate) mod reader;
mod refusals;
mod routes;
mod secrets;
mod section;
mod shared;
mod signing;
mod socket_file;
mod syntax;
#[cfg(test)]
mod tests;
mod tokens;
mod units;
mod unknown;
mod upstream;
mod usage;
mod watched;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::core::cors::CorsRules;
use crate::core::headers::FieldTable;
pub use crate::core::identity::IdentityFields;
use crate::core::{CredentialSource, NetworkSet, Policy};
use crate::token::sign::assertion::Assertions;
use crate::token::sign::credential::UpstreamCredential;

pub use self::admin::{read_secret, token as admin_token};
pub use self::diff::needs_restart;
pub use self::fault::{ConfigError, ConfigFault};
pub use self::host::{Noted, ThisHost, open_regular};
pub use self::log::{Log, LogFields, LogFormat, LogLevel};
pub use self::probes::{PassedProbe, ProbedTarget, is_framing};
pub use self::raw::{Host, Places};
pub use self::shared::{SharedConfig, StoreNode, StoreTopology};
pub use self::socket_file::SocketFile;
pub(crate) use self::tokens::MOST_ISSUERS;
pub use self::tokens::{JwksSource, TokenIssuer, TokenSettings};
pub(crate) use self::units::size;
pub(crate) use self::upstream::MOST_UPSTREAMS;
pub use self::usage::{UsageConfig, UseReports};
pub use self::watched::{FileAccess, FileWriters, WatchedFile};

/// The whole configuration. Changes to the parts outside [`Settings`] need a restart.
#[derive(Clone, Debug)]
pub struct Config {
    pub listeners: Vec<Listener>,
    pub admin: AdminConfig,
    pub workers: Workers,
    pub upstream: UpstreamConfig,
    /// `[upstreams.NAME]`. Upstream 0 of a route is `upstream`, upstream n the n-th of these.
    pub upstreams: Vec<NamedUpstream>,
    pub table: TableConfig,
    pub timeouts: Timeouts,
    pub caps: Caps,
    pub drain: Drain,
    pub http2: Http2Config,
    pub log: Log,
    pub usage: UsageConfig,
    /// `None`: limits apply per sidecar.
    pub shared: Option<SharedConfig>,
    /// Keeps the used part of quotas over a restart. `None`: nothing does.
    pub quota_file: Option<PathBuf>,
    pub settings: Settings,
    /// What is allowed but deserves a second look, for the log at start and for `keygate check`.
    pub warnings: Vec<ConfigFault>,
    /// The places of its keys, for faults in what they name.
    pub places: Places,
    /// Files whose secrets are in `settings`. A change of one is a change of the configuration.
    pub secret_files: Vec<WatchedFile>,
    /// Files of the directory in `KEYGATE_VARIABLES` that it was read with, including missing ones.
    pub variable_files: Vec<PathBuf>,
}

/// What a reload of the configuration file puts in force at the same time as the table.
#[derive(Clone, Debug)]
pub struct Settings {
    pub policy: Policy,
    pub sources: Vec<CredentialSource>,
    /// Built from `sources` and `identity`.
    pub fields: FieldTable,
    pub identity: IdentityFields,
    pub trace: TraceStart,
    pub underscores: Underscores,
    /// Proxies whose `X-Forwarded-For` keygate believes.
    pub trusted_proxies: NetworkSet,
    pub refusals: crate::core::refusal::Refusals,
    /// Pages of other origins that may read refusals.
    pub cors: CorsRules,
    /// Names of fields that they may read.
    pub cors_exposed: Box<str>,
    /// One access line per this many successes. Refusals are always logged. 1: all, 0: none.
    pub log_every: u32,
    pub log_fields: LogFields,
    /// WebSocket close code when a stream's key ends (1008, or 4000 to 4999).
    pub close_code: u16,
    pub use_reports: UseReports,
    /// Behind a pointer, so that whoever keeps a verified token can compare the settings by it.
    pub tokens: Arc<TokenSettings>,
    /// `None`: keygate signs no assertions.
    pub assertion: Option<Arc<Assertions>>,
    /// `None`: the service gets no credential.
    pub credential: Option<Arc<UpstreamCredential>>,
    /// What the services of `[upstreams.NAME]` get instead, in order.
    pub upstreams: Vec<UpstreamTrust>,
}

/// By what one of `[upstreams.NAME]` recognises keygate: nothing that is meant for another one.
#[derive(Clone, Debug)]
pub struct UpstreamTrust {
    pub name: Box<str>,
    pub credential: Option<Arc<UpstreamCredential>>,
    /// `aud` of its assertions. `None`: it gets none, because it could use one meant for another
    /// service there.
    pub audience: Option<Box<str>>,
}

/// How keygate treats `traceparent` (W3C Trace Context).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceStart {
    /// It passes together with `tracestate` as the client wrote them, or neither does.
    Pass,
    /// A request without a valid one begins a trace.
    Start(Sampled),
}

/// Whether a trace that begins here is to be recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sampled {
    No,
    Yes,
}

/// Header names with `_`: many servers read `_` as `-`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Underscores {
    Allow,
    #[default]
    Drop,
    Refuse,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    pub bind: Bind,
    pub families: Families,
    /// The file of a Unix socket.
    pub socket: SocketFile,
    pub tls: Option<TlsServer>,
    /// Peers that must send a PROXY header. `None`: a PROXY header is refused as bad HTTP.
    pub proxy_from: Option<NetworkSet>,
    pub sharing: Sharing,
}

/// Who else may bind an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    Alone,
    /// Any process of the same user (`SO_REUSEPORT`).
    SameUser,
}

/// The address families that a socket on an IPv6 address accepts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Families {
    /// `[::]` also accepts IPv4, which is the default on Linux.
    #[default]
    Both,
    /// IPv6 alone, because `0.0.0.0` is configured with the same port.
    OnlyIpv6,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bind {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

#[derive(Clone, Debug, PartialEq)]
pub struct TlsServer {
    /// Certificate chain and key files. The first is the default when no name matches.
    pub certificates: Vec<CertificateFiles>,
    pub client_auth: ClientAuth,
    /// Refuse TLS 1.2.
    pub only_tls13: bool,
    /// Offer `h2` by ALPN.
    pub http2: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct CertificateFiles {
    pub chain: PathBuf,
    pub key: PathBuf,
}

#[derive(Clone, Debug, PartialEq)]
pub enum ClientAuth {
    None,
    /// If a client sends a certificate, it is verified.
    Optional {
        ca: PathBuf,
    },
    Required {
        ca: PathBuf,
    },
}

/// One of `[upstreams.NAME]`.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedUpstream {
    /// Its name in routes, logs and metrics.
    pub name: Box<str>,
    pub config: UpstreamConfig,
}

#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamConfig {
    pub address: UpstreamAddress,
    pub protocol: UpstreamProtocol,
    pub tls: Option<TlsClient>,
    /// `Host` to send. `None`: the client's.
    pub host: Option<http::HeaderValue>,
    /// Send a PROXY v2 header on each connection.
    pub send_proxy: bool,
    /// Send header names in the client's spelling (owned ones stay lower-case).
    pub preserve_case: bool,
    pub reuse: ConnectionReuse,
    /// Shorten `Location` where it names [`UpstreamConfig::address`].
    pub rewrite_location: bool,
    /// The most connections, over all workers.
    pub max_connections: usize,
    /// The most requests that wait for a connection, over all workers.
    pub max_queue: usize,
    /// Path of the active health check. `None`: there is no check.
    pub health_path: Option<Box<str>>,
    pub health_interval: Duration,
    /// Check whether clients can bypass keygate to reach the service.
    pub exposure_check: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamAddress {
    /// Host name or address, and port.
    Tcp {
        host: Box<str>,
        port: u16,
    },
    Unix(PathBuf),
}

/// Whether a connection to the service carries more than one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionReuse {
    Always,
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamProtocol {
    Http1,
    /// Prior knowledge without TLS, ALPN over TLS.
    Http2,
}

#[derive(Clone, Debug, PartialEq)]
pub struct TlsClient {
    /// `None`: the built-in roots.
    pub ca: Option<PathBuf>,
    /// Name to request and check. `None`: the host.
    pub server_name: Option<Box<str>>,
    pub certificate: Option<CertificateFiles>,
}

#[derive(Clone, Debug)]
pub struct AdminConfig {
    pub bind: SocketAddr,
    pub families: Families,
    /// A second listener, only for probes and metrics.
    pub public: Option<SocketAddr>,
    pub public_families: Families,
    /// Names, in lower case, that are allowed in `Host` on a loopback listener.
    pub hosts: Vec<Box<str>>,
    /// File of the bearer token that `/status` requires from other hosts.
    pub token_file: Option<PathBuf>,
    /// Probes of the service that keygate makes on request.
    pub probes: Vec<PassedProbe>,
    /// Like the listeners: two processes that share those share this one too.
    pub sharing: Sharing,
}

#[derive(Clone, Debug)]
pub struct Workers {
    pub count: usize,
    /// Pin worker n to core n.
    pub pin: bool,
}

/// All of them are always active. docs/limits.md says what a client sees.
#[derive(Clone, Debug)]
pub struct Timeouts {
    /// From the first byte of a request to the end of its head. Default 10 s.
    pub header: Duration,
    /// The longest time without a byte of a request body. Default 30 s.
    pub body: Duration,
    /// A kept-alive connection without a request. Default 75 s.
    pub idle: Duration,
    /// The longest time without progress while the client does not read. Default 30 s.
    pub write: Duration,
    /// A client that has closed its sending side waits this long for the next byte of its answer.
    /// Default 2 s.
    pub half_closed: Duration,
    /// PROXY header and TLS handshake. Default 10 s.
    pub handshake: Duration,
    /// Longest life of one request with its response. `None`: no bound (streams).
    pub total: Option<Duration>,
    /// For connecting to the upstream. Default 2 s.
    pub connect: Duration,
    /// From sending the request to the response's head. Default 60 s.
    pub first_byte: Duration,
    /// The longest time without a byte of a response body. `None`: no bound (streams).
    pub response_idle: Option<Duration>,
    /// Idle upstream connection. Default 4 s: below the common servers' 5 s.
    pub upstream_idle: Duration,
    /// Waiting for an upstream connection in the queue. Default 1 s.
    pub queue: Duration,
}

#[derive(Clone, Debug)]
pub struct Caps {
    pub connections: usize,
    pub connections_per_address: usize,
    /// Bytes of a request head (431). Default 32 KiB.
    pub head_bytes: usize,
    /// Fields of a request head (431). Default 100.
    pub headers: usize,
    /// Bytes of a request target (414). Default 8 KiB.
    pub uri_bytes: usize,
    /// Bytes per second that a request body must have averaged whenever `timeouts.body` has passed
    /// (408). 0: no minimum. Default 32.
    pub body_rate: u64,
    /// What connections may hold in memory.
    pub memory: MemoryBudget,
}

/// How much memory all connections together may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryBudget {
    /// What the cgroup's limit leaves.
    Detected,
    /// Only the other limits apply.
    Off,
    /// At least [`MemoryBudget::LEAST`].
    Bytes(u64),
}

#[derive(Clone, Debug)]
pub struct Drain {
    /// Between becoming un-ready and accepting no more connections. Default 0 s.
    pub delay: Duration,
    /// When whatever is still running is cut. Default 30 s.
    pub deadline: Duration,
}

#[derive(Clone, Debug)]
pub struct Http2Config {
    /// HTTP/2 by prior knowledge on listeners without TLS.
    pub prior_knowledge: bool,
    pub max_streams: u32,
    pub header_list_bytes: u32,
}

/// Where tables are from and which are accepted.
#[derive(Clone, Debug)]
pub struct TableConfig {
    pub source: TableSource,
    pub patch: Option<TableSource>,
    /// Must equal the manifest's.
    pub audience: Box<str>,
    /// SPKI Ed25519 public keys (32 raw bytes each), none of small order, all canonical.
    pub trusted_signers: Vec<[u8; 32]>,
    /// The files that they were read from. A change of such a file is a change of the
    /// configuration.
    pub signer_files: Vec<PathBuf>,
    pub required_signers: usize,
    /// Remembers the highest accepted serial. `None`: only `min_serial` prevents a rollback.
    pub state_file: Option<PathBuf>,
    pub min_serial: u64,
    pub after_expiry: AfterExpiry,
    pub grace: Duration,
    /// Larger files are refused before the rest is read. Default 2 GiB.
    pub max_bytes: u64,
    /// The share of active keys that a new table may lose without acknowledgement. Default 0.5.
    pub shrink_brake: f64,
    /// Slow poll in addition to the watch. Default 10 s.
    pub poll: Duration,
    pub patch_poll: Duration,
    /// If no table is available at start, run without being ready instead of ending.
    pub wait_for_table: bool,
    /// Copy of the last good table for a URL source.
    pub cache_dir: Option<PathBuf>,
    pub url: UrlOptions,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableSource {
    /// A file, or a directory that holds one `*.kgt` (patch: `*.kgp`).
    Path(PathBuf),
    Url(Box<str>),
}

/// How tables are fetched from a URL.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UrlOptions {
    pub ca: Option<PathBuf>,
    /// File that holds a bearer token.
    pub bearer_file: Option<PathBuf>,
    /// File that holds `user:password`.
    pub basic_file: Option<PathBuf>,
    /// Longest `Prefer: wait` to ask for. Zero: plain polling.
    pub long_poll: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterExpiry {
    Refuse,
    Serve,
}

// === impl MemoryBudget ===

impl MemoryBudget {
    /// In bytes. With less, keygate would turn clients away after a handful of them.
    pub const LEAST: u64 = 8 << 20;
}

// === impl Settings ===

impl Settings {
    /// The name of the upstream that a route goes to. `None`: `[upstream]`.
    pub fn upstream_name(&self, upstream: usize) -> Option<&str> {
        Some(&self.upstreams.get(upstream.checked_sub(1)?)?.name)
    }

    /// What requests to the upstream get instead of the caller's key. 0: `[upstream]`.
    pub fn credential_for(&self, upstream: usize) -> Option<&Arc<UpstreamCredential>> {
        match upstream.checked_sub(1) {
            None => self.credential.as_ref(),
            Some(at) => self.upstreams.get(at)?.credential.as_ref(),
        }
    }

    /// What signs the assertions for the upstream, and their `aud`. 0: `[upstream]`.
    pub fn assertion_for(&self, upstream: usize) -> Option<(&Arc<Assertions>, &str)> {
        let assertions = self.assertion.as_ref()?;
        match upstream.checked_sub(1) {
            None => Some((assertions, &assertions.audience)),
            Some(at) => Some((assertions, self.upstreams.get(at)?.audience.as_deref()?)),
        }
    }

    /// Gives routes and upstreams the order of `running`, which a process keeps as long as it runs.
    ///
    /// # Errors
    /// The name of an upstream that a route needs and the process does not have.
    pub fn fit_upstreams(&mut self, running: &[NamedUpstream]) -> Result<(), Box<str>> {
        if self.upstreams.iter().map(|u| &u.name).eq(running.iter().map(|u| &u.name)) {
            return Ok(());
        }
        let place = |name: &str| running.iter().position(|known| *known.name == *name);
        let known = &self.upstreams;
        self.policy.routes.move_upstreams(|from| {
            let Some(of) = from.checked_sub(1).and_then(|at| known.get(at)) else { return Ok(0) };
            place(&of.name).map(|at| at + 1).ok_or_else(|| of.name.clone())
        })?;
        let none =
            |name: &str| UpstreamTrust { name: name.into(), credential: None, audience: None };
        let of = |running: &NamedUpstream| {
            let found = self.upstreams.iter().find(|known| known.name == running.name);
            found.cloned().unwrap_or_else(|| none(&running.name))
        };
        self.upstreams = running.iter().map(of).collect();
        Ok(())
    }
}

// === impl Config ===

impl Config {
    /// `[upstream]`, then each of `[upstreams.NAME]`, with the key of the file.
    pub fn all_upstreams(&self) -> impl Iterator<Item = (String, &UpstreamConfig)> {
        let named = self.upstreams.iter().map(|u| (format!("upstreams.{}", u.name), &u.config));
        std::iter::once(("upstream".to_owned(), &self.upstream)).chain(named)
    }

    /// Reads `file`. Reports all faults together.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        Self::load_on(&ThisHost, file)
    }

    /// Like [`Config::load`], with the environment and files of another machine.
    pub fn load_on(host: &dyn Host, file: &Path) -> Result<Self, ConfigError> {
        let unreadable = |source| ConfigError::Unreadable { file: file.to_owned(), source };
        let bytes = host.read(file).map_err(unreadable)?;
        let text = String::from_utf8(bytes)
            .map_err(|e| unreadable(io::Error::new(io::ErrorKind::InvalidData, e.utf8_error())))?;
        Self::parse(host, file, &text)
    }

    /// Like [`Config::load_on`], for text that was already read from `file`.
    pub fn parse(host: &dyn Host, file: &Path, text: &str) -> Result<Self, ConfigError> {
        let read = reader::read_toml(host, file, text, lower::config)?;
        let reader::ReadToml { value, warnings, places, secret_files, variable_files, .. } = read;
        let config = Self { warnings, places, secret_files, variable_files, ..value };
        let faults = config.copies_in_the_way(file);
        match faults.is_empty() {
            true => Ok(config),
            false => Err(ConfigError::Invalid { file: file.to_owned(), faults }),
        }
    }
}
