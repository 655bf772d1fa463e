//! `admin.toml`: what the management service listens on, where it keeps its state, what each
//! audience offers, who signs and where tables go. Reports all faults together, each with its line
//! and a remedy.
//!
//! A section for another room of the service has a file of its own below this one, and a line in
//! [`lower`]. A key that no code reads is reported as unknown.

mod asked;
mod audiences;
mod dialects;
mod embed;
mod labels;
mod people;
mod policy;
mod signers;
mod store;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use self::asked::AskedFor;
pub use self::asked::AskedSidecar;
pub use self::audiences::{AudienceConfig, PermissionSentence, PublishTarget};
pub use self::embed::EmbedConfig;
pub use self::labels::KeyLabels;
pub use self::people::{
    JwksPlace, OidcConfig, OidcRights, PeopleConfig, ProductRoles, ProductSessionConfig,
    ProductTokenConfig, SidecarConfig, SidecarProof, TokenProof,
};
pub use self::signers::CoSigner;
pub use self::store::StoreConfig;
use super::dialect::operation::{Dialect, DialectRoute};
use super::store::sqlite::SqliteOptions;
use super::store::{AudienceName, OrgRules};
use crate::clock::Clock;
use crate::config::reader::{
    ConfigProblem, ConfigSection, SecretFile, log_words, read_toml, secret, secret_path,
    socket_file, socket_path,
};
use crate::config::{
    Bind, CertificateFiles, ClientAuth, ConfigError, ConfigFault, Host, LogFormat, LogLevel,
    SocketFile, TlsServer, WatchedFile,
};
use crate::core::address::{self, parse_network};
use crate::core::{Digest, NetworkSet};
use crate::manage::signing::source::SignerSource;

/// A command that makes a token, for a remedy.
const MAKE_TOKEN: &str = "openssl rand -hex 32 > FILE";

/// The content of `admin.toml`.
#[derive(Debug)]
pub struct AdminToml {
    pub listen: Bind,
    /// For the file of a Unix socket.
    pub socket: SocketFile,
    /// For a TCP listener; `None`: it listens without TLS.
    pub tls: Option<TlsServer>,
    /// Where people reach the service, such as `https://keys.example.com`. Links begin with it.
    /// `None`: as `listen` says.
    pub public_url: Option<Box<str>>,
    /// Proxies in front of the service, whose `X-Forwarded-For` it believes.
    pub trusted_proxies: NetworkSet,
    /// Of the token that opens `/metrics`; `None`: only this host may read them.
    pub metrics_bearer: Option<Digest>,
    /// Holds `high-water.json`, and the database unless that is on a server.
    pub state: PathBuf,
    pub store: StoreConfig,
    pub log: LogConfig,
    /// The file for signed ends of the audit log, one per line.
    pub checkpoints: PathBuf,
    /// At least one.
    pub audiences: Vec<AudienceConfig>,
    pub fleets: Vec<FleetConfig>,
    /// Products' documented endpoints.
    pub dialects: Vec<Dialect>,
    pub people: PeopleConfig,
    /// For organizations whose owners have set nothing else.
    pub policy: OrgRules,
    /// Sidecars whose usage record the service fetches.
    pub usage_pulls: Vec<AskedSidecar>,
    /// Sidecars that the service asks what they have in force. Those that read files do not report
    /// it unasked.
    pub status_pulls: Vec<AskedSidecar>,
    /// Whose keys these are; shown at the top of every screen.
    pub title: Box<str>,
    /// A product's path, such as `/settings/api-keys`, at which the page is available as well, with
    /// the product's own session. Nobody signs in there, and the service sets no cookie.
    pub mount: Option<Box<str>>,
    /// Where people without a session of the product are sent.
    pub product_sign_in: Option<Box<str>>,
    pub embed: EmbedConfig,
    /// Settings that are allowed but deserve a second look.
    pub warnings: Vec<ConfigFault>,
    /// Files from which secrets were read.
    pub secret_files: Vec<WatchedFile>,
}

/// `[log]`: what goes to standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogConfig {
    pub format: LogFormat,
    pub level: LogLevel,
    /// One line per request, whatever the level. Default yes.
    pub access: bool,
}

/// `[[fleets]]`: sidecars that share a bearer token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetConfig {
    pub name: Box<str>,
    /// The audiences whose tables it may fetch, and about whose usage it is believed.
    pub audiences: Vec<AudienceName>,
    /// Of the token in its file; the token itself is not kept.
    pub bearer: Digest,
}

// === impl AdminToml ===

impl AdminToml {
    /// The database's file in the state directory.
    pub const DATABASE: &'static str = "registrar.db";

    /// Reads `file`.
    ///
    /// # Errors
    ///
    /// A file that cannot be read; all faults of one that can.
    pub fn load(host: &dyn Host, file: &Path) -> Result<Self, ConfigError> {
        let unreadable = |source| ConfigError::Unreadable { file: file.to_owned(), source };
        let bytes = host.read(file).map_err(unreadable)?;
        let text = String::from_utf8(bytes)
            .map_err(|e| unreadable(io::Error::new(io::ErrorKind::InvalidData, e.utf8_error())))?;
        let read = read_toml(host, file, &text, lower)?;
        Ok(Self { warnings: read.warnings, secret_files: read.secret_files, ..read.value })
    }

    /// The file for checkpoints in the state directory, unless the configuration names another.
    const CHECKPOINTS: &'static str = "checkpoints.jsonl";

    /// The beginning of links: where people reach the service. Empty: it listens on a Unix socket
    /// alone, and people reach it through something unknown to it.
    pub fn reached_at(&self) -> String {
        match (&self.public_url, &self.listen) {
            (Some(url), _) => url.to_string(),
            (None, Bind::Tcp(address)) if self.tls.is_some() => format!("https://{address}"),
            (None, Bind::Tcp(address)) => format!("http://{address}"),
            (None, Bind::Unix(_)) => String::new(),
        }
    }

    /// The path under which people reach the service, without `/` at its end. It precedes every
    /// link. It is the path of `public_url`.
    pub fn base(&self) -> &str {
        let url = self.public_url.as_deref().unwrap_or_default();
        let rest = url.split_once("://").map_or("", |(_, rest)| rest);
        rest.find('/').and_then(|at| rest.get(at..)).unwrap_or_default().trim_end_matches('/')
    }

    /// The database's file, if the database is a file.
    pub fn database(&self) -> PathBuf {
        self.state.join(Self::DATABASE)
    }

    /// Who signs tables, in the order of the file, each once. The first signs the audit log.
    pub fn signers(&self) -> impl Iterator<Item = &SignerSource> {
        let signers = self.audiences.iter().filter_map(|audience| audience.signer.as_ref());
        let mut seen: Vec<&SignerSource> = Vec::new();
        signers.filter(move |signer| {
            let is_new = !seen.contains(signer);
            seen.push(signer);
            is_new
        })
    }

    /// How to open a database in a file.
    pub fn store_options(&self, clock: Clock) -> SqliteOptions {
        SqliteOptions {
            path: self.database(),
            audiences: self.audiences.iter().map(AudienceConfig::terms).collect(),
            rules: self.policy.clone(),
            busy_timeout: self.store.busy_timeout,
            clock,
        }
    }

    /// Whether the service learns which sidecars have the changes of an audience: it asks one, or a
    /// fleet fetches from it.
    pub fn knows_a_sidecar(&self, audience: &AudienceName) -> bool {
        self.status_pulls.iter().any(|sidecar| sidecar.audience == *audience)
            || self.fleets.iter().any(|fleet| fleet.audiences.contains(audience))
    }

    pub fn audience(&self, name: &AudienceName) -> Option<&AudienceConfig> {
        self.audiences.iter().find(|audience| audience.name == *name)
    }
}

fn lower(root: &ConfigSection<'_>) -> Option<AdminToml> {
    let listen = root.section("listen");
    let bind = listen.parse("address", bind);
    let socket = socket_file(&listen, bind.as_ref());
    let public_url = listen.parse("public_url", public_url);
    if !listen.has("address") {
        let hint = "for example address = \"127.0.0.1:9920\", or a Unix socket, \"unix:/run/…\"";
        listen.missing("address", hint);
    }
    let tls_section = listen.section("tls");
    let tls = listen_tls(&listen, &tls_section, bind.as_ref());
    if let Some(Bind::Tcp(address)) = &bind
        && !address.ip().is_loopback()
        && !tls_section.is_there()
        && public_url.is_none()
    {
        let problem = ConfigProblem::new("is not on this host alone, and speaks without TLS");
        let hint = "[listen.tls], or a TLS proxy in front of it and its https:// URL in public_url";
        listen.fault("address", problem.hint(hint));
    }
    // Who comes to a Unix socket has no address, whoever is in between.
    let is_behind_proxy = matches!(bind, Some(Bind::Tcp(_))) && public_url.is_some();
    if is_behind_proxy && !tls_section.is_there() && !listen.has("trusted_proxies") {
        let problem =
            ConfigProblem::new("is missing: all people come from one address, the proxy's");
        let hint = "the networks of the proxies in front: an address is told to wait after 30 \
                    failures, and audit lines have it";
        listen.warn("trusted_proxies", problem.hint(hint));
    }
    let trusted_proxies = NetworkSet::new(listen.parse_list("trusted_proxies", parse_network));
    let metrics_bearer =
        secret(&listen, "metrics_bearer_file", "listen.metrics_bearer_file", MAKE_TOKEN)
            .and_then(|token| bearer(&listen, "metrics_bearer_file", &token));
    let state = root.path("state");
    if !root.has("state") {
        root.missing("state", "name a directory on a disk of this host: state = \"/var/lib/…\"");
    }
    let store = store::store(root);
    let log = log_config(&root.section("log"));
    let checkpoints = root.section("audit").path("checkpoints");
    let audiences = audiences::audiences(root);
    let page_section = root.section("page");
    let title = page_section.parse("title", labels::sentence);
    let mount = page_section.parse("base_path", base_path);
    let product_sign_in = page_section.parse("sign_in_url", place);
    let embed = embed::embed(root);
    let fleets = fleets(root, &audiences);
    let usage_pulls = asked::pulls(root, &audiences, AskedFor::Usage);
    let status_pulls = asked::pulls(root, &audiences, AskedFor::Status);
    let dialects = dialects::dialects(root, &audiences);
    let policy = policy::policy(root, &audiences);
    let verifies_clients = tls.as_ref().is_some_and(|tls| tls.client_auth != ClientAuth::None);
    let on = people::ListensOn { bind: bind.as_ref(), verifies_clients };
    let people = people::people(root, on, &audiences);
    if !people.oidc.is_empty() && public_url.is_none() && matches!(bind, Some(Bind::Unix(_))) {
        let hint = "providers send people back to it, and on a Unix socket nobody else knows it";
        listen.missing("public_url", hint);
    }
    let ways = people.sessions.len() + people.tokens.len() + people.sidecars.len();
    if page_section.has("base_path") && ways == 0 {
        let problem = ConfigProblem::new("is of no use: nobody comes in there");
        let hint = "the page there has the product's session: [[people.product_sessions]]";
        page_section.fault("base_path", problem.hint(hint));
    }
    let in_mount = |dialect: &Dialect| {
        let mut routes = dialect.operations.iter().flat_map(|operation| &operation.routes);
        let mount = mount.as_deref().unwrap_or("/");
        mount != "/" && routes.any(|route| route.pattern().starts_with(mount))
    };
    if dialects.iter().any(in_mount) {
        let problem = ConfigProblem::new("is the path of a [[dialect]]");
        page_section.fault("base_path", problem.hint("give the page a path of its own"));
    }
    if product_sign_in.is_some() && mount.is_none() {
        let problem = ConfigProblem::new("is of no use without base_path");
        page_section.fault("sign_in_url", problem.hint("people sign in at /sign-in"));
    }
    let state = state?;
    Some(AdminToml {
        listen: bind?,
        socket,
        tls,
        public_url,
        trusted_proxies,
        metrics_bearer,
        checkpoints: checkpoints.unwrap_or_else(|| state.join(AdminToml::CHECKPOINTS)),
        state,
        store,
        log,
        audiences,
        fleets,
        dialects,
        people,
        policy,
        usage_pulls,
        status_pulls,
        title: title.unwrap_or_else(|| "keygate".into()),
        mount,
        product_sign_in,
        embed,
        warnings: Vec::new(),
        secret_files: Vec::new(),
    })
}

fn listen_tls(
    listen: &ConfigSection<'_>,
    section: &ConfigSection<'_>,
    bind: Option<&Bind>,
) -> Option<TlsServer> {
    if !section.is_there() {
        return None;
    }
    if let Some(Bind::Unix(_)) = bind {
        let problem = ConfigProblem::new("means nothing on a Unix socket");
        listen.fault("tls", problem.hint("leave it out: the kernel says who is at the other end"));
    }
    let certificate = section.file("certificate");
    if !section.has("certificate") {
        section.missing("certificate", "the chain in PEM, the service's own certificate first");
    }
    let key = secret_path(section, "key");
    if !section.has("key") {
        section.missing("key", "the certificate's private key in PEM, mode 0600");
    }
    let client_ca = section.file("client_ca");
    // People have no certificate.
    let client_auth = client_ca.map_or(ClientAuth::None, |ca| ClientAuth::Optional { ca });
    let files = CertificateFiles { chain: certificate?, key: key? };
    Some(TlsServer { certificates: vec![files], client_auth, only_tls13: false, http2: false })
}

fn log_config(section: &ConfigSection<'_>) -> LogConfig {
    let (format, level) = log_words(section);
    LogConfig { format, level, access: section.flag_unless_off("access") }
}

fn bind(text: &str) -> Result<Bind, ConfigProblem> {
    if let Some(path) = text.strip_prefix("unix:") {
        return socket_path(path).map(Bind::Unix);
    }
    text.parse::<SocketAddr>().map(Bind::Tcp).map_err(|_| {
        ConfigProblem::new("is not an address")
            .hint("addresses look like 127.0.0.1:9920, [::1]:9920 or unix:/run/keygate/keys.sock")
    })
}

/// Scheme, host, and optionally a port and a path without `/` at the end.
fn public_url(text: &str) -> Result<Box<str>, ConfigProblem> {
    let uri: http::Uri = text.parse().map_err(|_| ConfigProblem::new("is not a URL"))?;
    match uri.scheme_str() {
        Some("https") => {}
        Some("http") if uri.host().is_some_and(address::is_this_host) => {}
        _ => {
            let problem = ConfigProblem::new("must begin with https://");
            return Err(problem.hint("cookies and secrets go over it; http:// is for this host"));
        }
    }
    let has_user = uri.authority().is_some_and(|a| a.as_str().contains('@'));
    if has_user || uri.query().is_some() || text.contains('#') {
        return Err(ConfigProblem::new("must be scheme, host, port and path alone"));
    }
    Ok(text.trim_end_matches('/').into())
}

/// A path of a product: segments that need no percent-encoding.
fn base_path(text: &str) -> Result<Box<str>, ConfigProblem> {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    let is_segment =
        |segment: &str| !matches!(segment, "" | "." | "..") && segment.bytes().all(is_plain);
    let segments = text.strip_prefix('/').filter(|rest| rest.split('/').all(is_segment));
    let first = segments.and_then(|rest| rest.split('/').next());
    match first {
        Some(first) if !DialectRoute::TAKEN.contains(&first) && text.len() <= 128 => {
            Ok(text.into())
        }
        Some(_) => Err(ConfigProblem::new("is of the service itself, or longer than 128 bytes")
            .hint("a path of the product, such as /settings/api-keys")),
        None => Err(ConfigProblem::new("is no path without `/` at its end")
            .hint("a path of the product, such as /settings/api-keys")),
    }
}

/// A URL, or a path of the same host.
fn place(text: &str) -> Result<Box<str>, ConfigProblem> {
    let is_path = text.starts_with('/') && !text.starts_with("//");
    match is_path && text.bytes().all(|b| b.is_ascii_graphic() && b != b'\\') {
        true => Ok(text.into()),
        false => public_url(text),
    }
}

/// Scheme, host and optionally a port, as browsers send it in `Origin`.
fn origin(text: &str) -> Result<Box<str>, ConfigProblem> {
    let url = public_url(text)?;
    match origin_of(&url) == *url {
        true => Ok(url),
        false => Err(ConfigProblem::new("must be scheme, host and port alone")
            .hint("for example https://app.example.com")),
    }
}

/// The origin of a URL that [`public_url`] has accepted, without a port that its scheme implies.
pub fn origin_of(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("https", url));
    let authority = rest.split('/').next().unwrap_or_default().to_ascii_lowercase();
    let implied = if scheme == "https" { ":443" } else { ":80" };
    format!("{scheme}://{}", authority.strip_suffix(implied).unwrap_or(&authority))
}

fn fleets(root: &ConfigSection<'_>, audiences: &[AudienceConfig]) -> Vec<FleetConfig> {
    let mut fleets: Vec<FleetConfig> = Vec::new();
    for section in root.sections("fleets") {
        let name = section.parse("name", name);
        if !section.has("name") {
            section.missing("name", "for example name = \"web\": the page shows it");
        }
        let of = section.parse_list("audiences", |text| {
            let known = AudienceName::parse(text)
                .filter(|name| audiences.iter().any(|audience| audience.name == *name));
            known.ok_or_else(|| {
                ConfigProblem::new("is no audience of this file")
                    .hint("name it as in [[audiences]] name")
            })
        });
        if !section.has("audiences") {
            section.missing("audiences", "for example audiences = [\"shop\"]");
        }
        if !section.has("bearer_file") {
            let hint = "a file with a random token, mode 0600, that the sidecars have as well";
            section.missing("bearer_file", hint);
        }
        let token = secret(&section, "bearer_file", "fleets.bearer_file", MAKE_TOKEN);
        let bearer = token.and_then(|token| bearer(&section, "bearer_file", &token));
        let (Some(name), Some(bearer)) = (name, bearer) else { continue };
        if let Some(other) = fleets.iter().find(|f| f.name == name || f.bearer == bearer) {
            let what = if other.name == name { "name" } else { "bearer_file" };
            let problem = ConfigProblem::new(format!("is that of fleet `{}`, too", other.name));
            section.fault(what, problem.hint("each fleet has a name and a token of its own"));
            continue;
        }
        fleets.push(FleetConfig { name, audiences: of, bearer });
    }
    fleets
}

/// Of the token in a file, without the line end after it.
fn bearer(section: &ConfigSection<'_>, key: &'static str, file: &SecretFile) -> Option<Digest> {
    const LEAST: usize = 16;
    let token = file.bytes.trim_ascii();
    match token.len() >= LEAST && token.iter().all(u8::is_ascii_graphic) {
        true => Some(Digest::of(token)),
        false => {
            let what = format!("must hold one line of at least {LEAST} visible ASCII characters");
            let hint = "`openssl rand -hex 32` makes one";
            section.fault(key, file.problem(&what).hint(hint));
            None
        }
    }
}

/// A name that people and logs see: 1 to 64 visible ASCII characters.
fn name(text: &str) -> Result<Box<str>, ConfigProblem> {
    match (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()) {
        true => Ok(text.into()),
        false => Err(ConfigProblem::new("must be 1 to 64 visible ASCII characters")),
    }
}
