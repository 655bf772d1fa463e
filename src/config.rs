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
pub use self::probes::{PassedProbe, ProbedTarget};
pub use self::raw::{Host, Places};
pub use self::shared::{SharedConfig, StoreNode, StoreTopology};
pub(crate) use self::tokens::MOST_ISSUERS;
pub use self::tokens::{JwksSource, TokenIssuer, TokenSettings};
pub(crate) use self::units::size;
pub(crate) use self::upstream::MOST_UPSTREAMS;
pub use self::usage::{UsageConfig, UseReports};
pub use self::watched::{FileAccess, FileWriters, WatchedFile};

/// Everything. The parts outside [`Settings`] need a restart to change.
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
    /// `None`: limits hold per sidecar.
    pub shared: Option<SharedConfig>,
    /// What was used of quotas is kept there over a restart; `None`: nowhere.
    pub quota_file: Option<PathBuf>,
    pub settings: Settings,
    /// What is allowed but deserves a second look; for the log at start and `keygate check`.
    pub warnings: Vec<ConfigFault>,
    /// The places of its keys, for faults of what they name.
    pub places: Places,
    /// Files whose secrets are in `settings`. A change of one is a change of the configuration.
    pub secret_files: Vec<WatchedFile>,
    /// Files of the directory in `KEYGATE_VARIABLES` that it was read with, also those that are not there.
    pub variable_files: Vec<PathBuf>,
}

/// What a reload of the configuration file puts in force at once, together with the table.
#[derive(Clone, Debug)]
pub struct Settings {
    pub policy: Policy,
    pub sources: Vec<CredentialSource>,
    /// Built from `sources` and `identity`.
    pub fields: FieldTable,
    pub identity: IdentityFields,
    pub trace: TraceStart,
    pub underscores: Underscores,
    /// Hops that are believed in `X-Forwarded-For`.
    pub trusted_proxies: NetworkSet,
    pub refusals: crate::core::refusal::Refusals,
    /// Pages of other origins that may read refusals.
    pub cors: CorsRules,
    /// Names of fields that they may read.
    pub cors_exposed: Box<str>,
    /// One access line per this many successes; refusals are always logged. 1: all, 0: none.
    pub log_every: u32,
    pub log_fields: LogFields,
    /// WebSocket close code when a stream's key ends (1008, or 4000 to 4999).
    pub close_code: u16,
    pub use_reports: UseReports,
    /// Behind a pointer: whoever keeps what was verified by it compares that.
    pub tokens: Arc<TokenSettings>,
    /// `None`: keygate signs no assertion.
    pub assertion: Option<Arc<Assertions>>,
    /// `None`: the service gets no credential.
    pub credential: Option<Arc<UpstreamCredential>>,
    /// What the services of `[upstreams.NAME]` get instead, in their order.
    pub upstreams: Vec<UpstreamTrust>,
}

/// What one of `[upstreams.NAME]` gets to believe keygate by: nothing that is meant for another.
#[derive(Clone, Debug)]
pub struct UpstreamTrust {
    pub name: Box<str>,
    pub credential: Option<Arc<UpstreamCredential>>,
    /// `aud` of its assertions; `None`: it gets none, since one for another service could be used
    /// there.
    pub audience: Option<Box<str>>,
}

/// How keygate treats `traceparent` (W3C Trace Context).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceStart {
    /// It passes with `tracestate` as the client wrote them, or none does.
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
    /// Of a Unix socket's file.
    pub socket: SocketFile,
    pub tls: Option<TlsServer>,
    /// Peers that must send a PROXY header; `None`: a PROXY header is refused as bad HTTP.
    pub proxy_from: Option<NetworkSet>,
    pub sharing: Sharing,
}

/// Who may bind an address beside us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    Alone,
    /// Any process of the same user (`SO_REUSEPORT`).
    SameUser,
}

/// What a socket on an IPv6 address takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Families {
    /// `[::]` takes IPv4 as well, as Linux does by itself.
    #[default]
    Both,
    /// IPv6 alone: `0.0.0.0` with the same port is configured as well.
    OnlyIpv6,
}

/// Who may connect through a Unix socket. `None`: what the process's umask, user and group make it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketFile {
    /// Permission bits, such as `0o660`.
    pub mode: Option<u32>,
    /// Numeric ids.
    pub owner: Option<u32>,
    pub group: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bind {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

#[derive(Clone, Debug, PartialEq)]
pub struct TlsServer {
    /// Certificate chain and key files; the first is the default when no name matches.
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
    /// A certificate is verified when there is one.
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
    /// In routes, logs and metrics.
    pub name: Box<str>,
    pub config: UpstreamConfig,
}

#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamConfig {
    pub address: UpstreamAddress,
    pub protocol: UpstreamProtocol,
    pub tls: Option<TlsClient>,
    /// `Host` sent on; `None`: the client's.
    pub host: Option<http::HeaderValue>,
    /// Send a PROXY v2 header on each connection.
    pub send_proxy: bool,
    /// Header names as the client wrote them (owned ones stay lower-case).
    pub preserve_case: bool,
    pub reuse: ConnectionReuse,
    /// Cut `Location` down where it names [`UpstreamConfig::address`].
    pub rewrite_location: bool,
    /// Most connections, over all workers.
    pub max_connections: usize,
    /// Most requests waiting for a connection, over all workers.
    pub max_queue: usize,
    /// Path of the active health check; `None`: none.
    pub health_path: Option<Box<str>>,
    pub health_interval: Duration,
    /// Look whether clients can reach the service around keygate.
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
    /// Prior knowledge in clear, ALPN over TLS.
    Http2,
}

#[derive(Clone, Debug, PartialEq)]
pub struct TlsClient {
    /// `None`: the built-in roots.
    pub ca: Option<PathBuf>,
    /// Name asked for and checked; `None`: the host.
    pub server_name: Option<Box<str>>,
    pub certificate: Option<CertificateFiles>,
}

#[derive(Clone, Debug)]
pub struct AdminConfig {
    pub bind: SocketAddr,
    pub families: Families,
    /// A second listener, for probes and metrics alone.
    pub public: Option<SocketAddr>,
    pub public_families: Families,
    /// Names, in lower case, that a request to a listener on loopback may have in `Host`.
    pub hosts: Vec<Box<str>>,
    /// File of the bearer token that `/status` asks for beyond this host.
    pub token_file: Option<PathBuf>,
    /// Probes of the service that keygate makes when it is asked for them.
    pub probes: Vec<PassedProbe>,
    /// As the listeners: two processes that share those share this one too.
    pub sharing: Sharing,
}

#[derive(Clone, Debug)]
pub struct Workers {
    pub count: usize,
    /// Pin worker n to core n.
    pub pin: bool,
}

/// Every one runs; docs/limits.md says what a client sees.
#[derive(Clone, Debug)]
pub struct Timeouts {
    /// From the first byte of a request to the end of its head. Default 10 s.
    pub header: Duration,
    /// Without a byte of a request body. Default 30 s.
    pub body: Duration,
    /// Kept-alive connection without a request. Default 75 s.
    pub idle: Duration,
    /// Without progress while the client does not read. Default 30 s.
    pub write: Duration,
    /// A client that has closed its sending side waits this long for the next byte of its answer.
    /// Default 2 s.
    pub half_closed: Duration,
    /// PROXY header and TLS handshake. Default 10 s.
    pub handshake: Duration,
    /// Longest life of one request with its response; `None`: no bound (streams).
    pub total: Option<Duration>,
    /// To connect to the upstream. Default 2 s.
    pub connect: Duration,
    /// From the request sent to the response's head. Default 60 s.
    pub first_byte: Duration,
    /// Without a byte of a response body; `None`: no bound (streams).
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
    /// (408); 0: none. Default 32.
    pub body_rate: u64,
    /// What connections may hold in memory.
    pub memory: MemoryBudget,
}

/// What connections may hold in memory, all together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryBudget {
    /// What the cgroup's limit leaves.
    Detected,
    /// No bound but those of the other limits.
    Off,
    /// At least [`MemoryBudget::LEAST`].
    Bytes(u64),
}

#[derive(Clone, Debug)]
pub struct Drain {
    /// Between un-ready and no longer accepting. Default 0 s.
    pub delay: Duration,
    /// Until what still runs is cut. Default 30 s.
    pub deadline: Duration,
}

#[derive(Clone, Debug)]
pub struct Http2Config {
    /// HTTP/2 by prior knowledge on clear listeners.
    pub prior_knowledge: bool,
    pub max_streams: u32,
    pub header_list_bytes: u32,
}

/// Where tables come from and which are taken.
#[derive(Clone, Debug)]
pub struct TableConfig {
    pub source: TableSource,
    pub patch: Option<TableSource>,
    /// Must equal the manifest's.
    pub audience: Box<str>,
    /// SPKI Ed25519 public keys (32 raw bytes each), none of small order, all canonical.
    pub trusted_signers: Vec<[u8; 32]>,
    /// The files that they were read from. A change of one is a change of the configuration.
    pub signer_files: Vec<PathBuf>,
    pub required_signers: usize,
    /// Remembers the highest serial taken; `None`: only `min_serial` guards against rollback.
    pub state_file: Option<PathBuf>,
    pub min_serial: u64,
    pub after_expiry: AfterExpiry,
    pub grace: Duration,
    /// Refused before reading on. Default 2 GiB.
    pub max_bytes: u64,
    /// Share of active keys that a new table may lose without acknowledgement. Default 0.5.
    pub shrink_brake: f64,
    /// Slow poll beside the watch. Default 10 s.
    pub poll: Duration,
    pub patch_poll: Duration,
    /// Serve un-ready instead of ending when no table can be had at start.
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
    /// Longest `Prefer: wait` that is asked for; zero: plain polling.
    pub long_poll: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterExpiry {
    Refuse,
    Serve,
}

// === impl MemoryBudget ===

impl MemoryBudget {
    /// In bytes. With less, a handful of clients would find the gate closed.
    pub const LEAST: u64 = 8 << 20;
}

// === impl Settings ===

impl Settings {
    /// The name of the upstream that a route goes to; `None`: `[upstream]`.
    pub fn upstream_name(&self, upstream: usize) -> Option<&str> {
        Some(&self.upstreams.get(upstream.checked_sub(1)?)?.name)
    }

    /// What requests to the upstream get in place of the caller's key. 0: `[upstream]`.
    pub fn credential_for(&self, upstream: usize) -> Option<&Arc<UpstreamCredential>> {
        match upstream.checked_sub(1) {
            None => self.credential.as_ref(),
            Some(at) => self.upstreams.get(at)?.credential.as_ref(),
        }
    }

    /// What signs the assertions for the upstream, and whose `aud` they have. 0: `[upstream]`.
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
    /// The name of an upstream that a route goes to and the process does not have.
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

    /// Reads `file`. Every fault is reported at once.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        Self::load_on(&ThisHost, file)
    }

    /// Like [`Config::load`], with another machine's environment and files.
    pub fn load_on(host: &dyn Host, file: &Path) -> Result<Self, ConfigError> {
        let unreadable = |source| ConfigError::Unreadable { file: file.to_owned(), source };
        let bytes = host.read(file).map_err(unreadable)?;
        let text = String::from_utf8(bytes)
            .map_err(|e| unreadable(io::Error::new(io::ErrorKind::InvalidData, e.utf8_error())))?;
        Self::parse(host, file, &text)
    }

    /// Like [`Config::load_on`], for text that was read from `file` before.
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
