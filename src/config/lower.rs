//! Raw TOML → [`Config`]: the parts that a restart changes.

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZero;
use std::path::PathBuf;
use std::time::Duration;

use http::HeaderValue;
use http::uri::{Authority, Uri};

use super::delivery::Remote;
use super::fault::ConfigProblem;
use super::policy::SettingsSections;
use super::raw::ConfigPlace;
use super::section::ConfigSection;
use super::{
    Bind, Caps, CertificateFiles, ClientAuth, Config, ConnectionReuse, Drain, Families,
    Http2Config, Listener, Log, LogFormat, LogLevel, MemoryBudget, Places, Sharing, Timeouts,
    TlsClient, TlsServer, UpstreamAddress, UpstreamConfig, UpstreamProtocol, Workers,
};
use super::{addresses, admin, delivery, policy, usage};
use crate::core::NetworkSet;
use crate::core::address::parse_network;

const CONNECTIONS: u64 = 16_384;
const CONNECTIONS_PER_ADDRESS: u64 = 10_000;
const HEALTH_INTERVAL: Duration = Duration::from_secs(5);
const UPSTREAM_CONNECTIONS: u64 = 1_024;
const UPSTREAM_QUEUE: u64 = 1_024;

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// `None` when something is wrong that the reader has recorded.
pub(super) fn config(root: &ConfigSection<'_>) -> Option<Config> {
    let (mut listeners, places) = listeners(root);
    let upstream_section = root.section("upstream");
    let upstream = upstream(&upstream_section);
    let table = delivery::table(&root.section("table"), posts(root));
    let admin_section = root.section("admin");
    let mut admin = admin::admin(&admin_section);
    if listeners.iter().any(|listener| listener.sharing == Sharing::SameUser) {
        admin.sharing = Sharing::SameUser;
    }
    addresses::no_loop(&upstream_section, upstream.as_ref(), &listeners, &admin);
    addresses::settle(root, &mut listeners, &places, &mut admin, &admin_section);
    let workers = workers(&root.section("workers"));
    let timeouts_section = root.section("timeouts");
    let timeouts = timeouts(&timeouts_section);
    let caps = caps(&root.section("limits"));
    let drain = drain(&root.section("drain"));
    let http2 = http2(&root.section("http2"));
    let log_section = root.section("log");
    let log = log(&log_section);
    let usage_section = root.section("usage");
    let usage = usage::usage(&usage_section);
    let trusted = table.as_ref().map(|table| table.trusted_signers.as_slice()).unwrap_or_default();
    let parts = SettingsSections {
        log: &log_section,
        usage: &usage_section,
        credential: &upstream_section.section("credential"),
    };
    let settings = policy::settings(root, &parts, trusted);
    if let Some(settings) = &settings {
        outlives_balancer(&timeouts_section, timeouts.idle, &settings.trusted_proxies);
    }
    Some(Config {
        listeners,
        admin,
        workers,
        upstream: upstream?,
        table: table?,
        timeouts,
        caps,
        drain,
        http2,
        log,
        usage,
        settings: settings?,
        warnings: Vec::new(),
        places: Places::default(),
        secret_files: Vec::new(),
    })
}

/// Whether records of use are posted, by the same means as tables are fetched.
fn posts(root: &ConfigSection<'_>) -> Remote {
    let mut usage = root.section("usage");
    // Looked at here for one key alone.
    usage.lose();
    if usage.has("post_url") { Remote::Posts } else { Remote::TablesAlone }
}

/// With the place of each one's address.
fn listeners(root: &ConfigSection<'_>) -> (Vec<Listener>, Vec<ConfigPlace>) {
    let sections = root.sections("listen");
    if sections.is_empty() && !root.has("listen") {
        root.missing(
            "listen",
            "put at the top of the file: listen = { address = \"0.0.0.0:8080\" }",
        );
    }
    let (mut listeners, mut places) = (Vec::new(), Vec::new());
    for section in &sections {
        let Some(bind) = section.parse("address", bind) else {
            if !section.has("address") {
                section.missing("address", "for example address = \"0.0.0.0:8080\"");
            }
            drop((tls_server(&section.section("tls")), proxy_peers(section)));
            let _ = addresses::socket_file(section, None);
            let _ = sharing(root, section, None);
            continue;
        };
        let socket = addresses::socket_file(section, Some(&bind));
        let tls = tls_server(&section.section("tls"));
        let (families, proxy_from) = (Families::Both, proxy_peers(section));
        let sharing = sharing(root, section, Some(&bind));
        listeners.push(Listener { bind, families, sharing, socket, tls, proxy_from });
        places.push(section.place_of("address"));
    }
    (listeners, places)
}

/// Whether others may bind the address as well; `None` for an address that could not be read.
fn sharing(root: &ConfigSection<'_>, section: &ConfigSection<'_>, bind: Option<&Bind>) -> Sharing {
    if !section.flag("reuse_port") {
        return Sharing::Alone;
    }
    if matches!(bind, Some(Bind::Unix(_))) {
        let problem = ConfigProblem::new("is for TCP: a Unix socket is bound once")
            .hint("a parent can pass the socket on instead, see docs/upgrade.md");
        section.fault("reuse_port", problem);
    }
    let mut table = root.section("table");
    // Looked at here for one key alone.
    table.lose();
    if !table.has("state_file") {
        let problem = ConfigProblem::new("needs table.state_file")
            .hint("the lock file that says whose the address is lies beside it");
        section.fault("reuse_port", problem);
    }
    Sharing::SameUser
}

fn proxy_peers(section: &ConfigSection<'_>) -> Option<NetworkSet> {
    let peers = section.parse_list("proxy_protocol_from", parse_network);
    if section.has("proxy_protocol_from") && peers.is_empty() {
        section.fault(
            "proxy_protocol_from",
            ConfigProblem::new("names no peer").hint("leave it out to take no PROXY header"),
        );
    }
    section.has("proxy_protocol_from").then(|| NetworkSet::new(peers))
}

/// `0.0.0.0:8080`, `[::]:8080` or `unix:/run/keygate.sock`.
fn bind(text: &str) -> Result<Bind, ConfigProblem> {
    if let Some(path) = text.strip_prefix("unix:") {
        return addresses::socket_path(path).map(Bind::Unix);
    }
    text.parse().map(Bind::Tcp).map_err(|_| {
        ConfigProblem::new("is not an address with a port")
            .hint("addresses look like 0.0.0.0:8080, [::]:8080 or unix:/run/keygate/http.sock")
    })
}

fn tls_server(section: &ConfigSection<'_>) -> Option<TlsServer> {
    let mut certificates: Vec<_> = certificate(section, "certificate", "key").into_iter().collect();
    for more in section.sections("names") {
        certificates.extend(certificate(&more, "certificate", "key"));
        if !more.has("certificate") {
            more.missing("certificate", "each name has a certificate and a key");
        }
    }
    let ca = section.file("client_ca");
    let required = section.choice(
        "client_auth",
        ca.as_ref().map(|_| true),
        &[("none", None), ("optional", Some(false)), ("required", Some(true))],
    );
    let client_auth = match (required, ca) {
        (None, _) => ClientAuth::None,
        (Some(true), Some(ca)) => ClientAuth::Required { ca },
        (Some(false), Some(ca)) => ClientAuth::Optional { ca },
        (Some(_), None) => {
            if !section.has("client_ca") {
                section.missing("client_ca", "the CA that client certificates are checked against");
            }
            ClientAuth::None
        }
    };
    let only_tls13 = section.choice("min_version", false, &[("1.2", false), ("1.3", true)]);
    let http2 = section.flag_unless_off("http2");
    if section.is_there()
        && certificates.is_empty()
        && !section.has("certificate")
        && !section.has("key")
    {
        section.missing("certificate", "TLS needs certificate = \"FILE\" and key = \"FILE\"");
    }
    section.is_there().then_some(TlsServer { certificates, client_auth, only_tls13, http2 })
}

fn certificate(
    section: &ConfigSection<'_>,
    chain_key: &'static str,
    key_key: &'static str,
) -> Option<CertificateFiles> {
    let chain = section.file(chain_key);
    let key = section.file(key_key);
    match (section.has(chain_key), section.has(key_key)) {
        (true, false) => section.missing(key_key, "the private key of the certificate"),
        (false, true) => section.missing(chain_key, "the certificate chain of the key"),
        _ => {}
    }
    Some(CertificateFiles { chain: chain?, key: key? })
}

fn upstream(section: &ConfigSection<'_>) -> Option<UpstreamConfig> {
    if !section.has("url") {
        let hint = match section.is_there() {
            true => "the service to protect: url = \"http://127.0.0.1:9000\"",
            false => "put at the top of the file: upstream = { url = \"http://127.0.0.1:9000\" }",
        };
        section.missing("url", hint);
    }
    let target = section.parse("url", upstream_url);
    let protocol = section.choice(
        "protocol",
        UpstreamProtocol::Http1,
        &[("http1", UpstreamProtocol::Http1), ("http2", UpstreamProtocol::Http2)],
    );
    let client = tls_client(&section.section("tls"));
    let secure = target.as_ref().is_some_and(|(_, secure)| *secure);
    if !secure && target.is_some() && section.has("tls") {
        section.fault(
            "tls",
            ConfigProblem::new("is for an https:// upstream").hint("change upstream.url"),
        );
    }
    let host = section.parse("host", |text| {
        let authority: Authority =
            text.parse().map_err(|_| ConfigProblem::new("is not a host with an optional port"))?;
        HeaderValue::from_str(authority.as_str()).map_err(ConfigProblem::from)
    });
    let health_path = section.parse("health_path", |text| {
        match text.starts_with('/') && text.parse::<Uri>().is_ok() {
            true => Ok(Box::<str>::from(text)),
            false => Err(ConfigProblem::new("must be a path that begins with `/`")),
        }
    });
    let upstream = UpstreamConfig {
        protocol,
        tls: secure.then_some(client),
        host,
        send_proxy: section.flag("send_proxy_protocol"),
        preserve_case: section.flag("preserve_header_case"),
        reuse: section.choice(
            "reuse",
            ConnectionReuse::Always,
            &[("always", ConnectionReuse::Always), ("never", ConnectionReuse::Never)],
        ),
        rewrite_location: section.flag_unless_off("rewrite_location"),
        exposure_check: section.flag_unless_off("exposure_check"),
        max_connections: section.integer("max_connections", UPSTREAM_CONNECTIONS, 1..=1_000_000)
            as usize,
        max_queue: section.integer("max_queue", UPSTREAM_QUEUE, 0..=1_000_000) as usize,
        health_path,
        health_interval: section.duration("health_interval", HEALTH_INTERVAL),
        address: target?.0,
    };
    if upstream.protocol == UpstreamProtocol::Http2 && upstream.preserve_case {
        let problem = ConfigProblem::new("HTTP/2 has only lower-case names");
        section.fault("preserve_header_case", problem);
    }
    Some(upstream)
}

/// Where to connect, and whether with TLS.
fn upstream_url(text: &str) -> Result<(UpstreamAddress, bool), ConfigProblem> {
    let forms = "upstreams look like http://127.0.0.1:9000, https://app:8443 or unix:/run/app.sock";
    if let Some(path) = text.strip_prefix("unix:") {
        return match path.starts_with('/') {
            true => Ok((UpstreamAddress::Unix(PathBuf::from(path)), false)),
            false => Err(ConfigProblem::new("a Unix socket needs an absolute path").hint(forms)),
        };
    }
    let bad = || ConfigProblem::new("is not an upstream").hint(forms);
    let uri: Uri = text.parse().map_err(|_| bad())?;
    let (secure, default) = match uri.scheme_str() {
        Some("http") => (false, 80),
        Some("https") => (true, 443),
        _ => return Err(bad()),
    };
    let authority = uri.authority().ok_or_else(bad)?;
    if authority.as_str().contains('@') {
        return Err(ConfigProblem::new("must not hold a user or password"));
    }
    if uri.path() != "/" || uri.query().is_some() {
        return Err(ConfigProblem::new("must not have a path")
            .hint("keygate sends the path that it judged, byte for byte"));
    }
    // A port that is no number up to 65535 reads as none; then something is left behind the host.
    let port = match authority.port_u16() {
        Some(port) => port,
        None if authority.as_str() == authority.host() => default,
        None => 0,
    };
    if port == 0 {
        return Err(bad());
    }
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    Ok((UpstreamAddress::Tcp { host: host.into(), port }, secure))
}

fn tls_client(section: &ConfigSection<'_>) -> TlsClient {
    let server_name =
        section.parse("server_name", |text| match rustls::pki_types::ServerName::try_from(text) {
            Ok(_) => Ok(Box::<str>::from(text)),
            Err(_) => Err(ConfigProblem::new("is not a host name or address")),
        });
    TlsClient {
        ca: section.file("ca"),
        server_name,
        certificate: certificate(section, "certificate", "key"),
    }
}

fn workers(section: &ConfigSection<'_>) -> Workers {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let count = match section.ask("count") {
        Some((_, value)) if value.as_str() == Some("auto") => cores,
        Some((_, value)) if value.is_integer() => {
            section.integer("count", cores as u64, 1..=1_024) as usize
        }
        Some(_) => {
            section.fault("count", ConfigProblem::new("must be a whole number or \"auto\""));
            cores
        }
        None => cores,
    };
    Workers { count, pin: section.flag("pin") }
}

fn timeouts(section: &ConfigSection<'_>) -> Timeouts {
    Timeouts {
        header: section.duration("header", secs(10)),
        body: section.duration("body", secs(30)),
        idle: section.duration("idle", secs(75)),
        write: section.duration("write", secs(30)),
        half_closed: section.duration("half_closed", secs(2)),
        handshake: section.duration("handshake", secs(10)),
        total: section.bound("total"),
        connect: section.duration("connect", secs(2)),
        first_byte: section.duration("first_byte", secs(60)),
        response_idle: section.bound("response_idle"),
        upstream_idle: section.duration("upstream_idle", secs(4)),
        queue: section.duration("queue", secs(1)),
    }
}

/// Google's front ends keep idle connections for 600 s, and answer 502 to a request that meets one
/// which is just being closed. Their networks are published; whoever trusts them runs behind them.
fn outlives_balancer(section: &ConfigSection<'_>, idle: Duration, trusted: &NetworkSet) {
    const FRONT_ENDS: [IpAddr; 2] =
        [IpAddr::V4(Ipv4Addr::new(35, 191, 0, 1)), IpAddr::V4(Ipv4Addr::new(130, 211, 0, 1))];
    let stands_behind =
        !trusted.is_empty() && FRONT_ENDS.into_iter().any(|front| trusted.allows(front));
    if stands_behind && idle <= secs(600) {
        let problem = ConfigProblem::new(
            "closes idle connections before the balancer does: Google's, which trusted_proxies \
             names, keep them for 600 s, and some requests would be 502",
        );
        section.warn("idle", problem.hint("idle = \"620s\""));
    }
}

fn caps(section: &ConfigSection<'_>) -> Caps {
    let connections = section.integer("connections", CONNECTIONS, 1..=10_000_000) as usize;
    let per_address = CONNECTIONS_PER_ADDRESS.min(connections as u64);
    Caps {
        connections,
        connections_per_address: section.integer(
            "connections_per_address",
            per_address,
            1..=10_000_000,
        ) as usize,
        head_bytes: section.size("head_bytes", 32 << 10, 1 << 10..=1 << 20) as usize,
        headers: section.integer("headers", 100, 8..=1_000) as usize,
        uri_bytes: section.size("uri_bytes", 8 << 10, 64..=1 << 16) as usize,
        body_rate: section.integer("body_rate", 32, 0..=1 << 30),
        memory: memory_budget(section),
    }
}

fn memory_budget(section: &ConfigSection<'_>) -> MemoryBudget {
    let read = |text: &str| match text {
        "none" => Ok(MemoryBudget::Off),
        text => match super::units::size(text)? {
            bytes if bytes >= MemoryBudget::LEAST => Ok(MemoryBudget::Bytes(bytes)),
            _ => Err(ConfigProblem::new(
                "must be at least 8MiB: one address may have a quarter of it, and a client with \
                 a full head or HTTP/2 takes some hundred KiB",
            )
            .hint("leave it out to use what the cgroup's limit leaves, or say \"none\"")),
        },
    };
    section.parse("memory", read).unwrap_or(MemoryBudget::Detected)
}

fn drain(section: &ConfigSection<'_>) -> Drain {
    Drain {
        delay: section.pause("delay", Duration::ZERO),
        deadline: section.pause("deadline", secs(30)),
    }
}

fn http2(section: &ConfigSection<'_>) -> Http2Config {
    Http2Config {
        prior_knowledge: section.flag_unless_off("prior_knowledge"),
        max_streams: section.integer("max_streams", 100, 1..=10_000) as u32,
        header_list_bytes: section.size("header_list_bytes", 16 << 10, 1 << 10..=1 << 20) as u32,
    }
}

fn log(section: &ConfigSection<'_>) -> Log {
    let format = section.choice(
        "format",
        LogFormat::Json,
        &[("json", LogFormat::Json), ("text", LogFormat::Text)],
    );
    let level = section.choice(
        "level",
        LogLevel::Info,
        &[
            ("error", LogLevel::Error),
            ("warn", LogLevel::Warn),
            ("info", LogLevel::Info),
            ("debug", LogLevel::Debug),
        ],
    );
    Log {
        level,
        format,
        access_file: section.path("access_file"),
        access: section.flag_unless_off("access"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstream_urls() {
        let tcp = |host: &str, port| UpstreamAddress::Tcp { host: host.into(), port };
        let cases = [
            ("http://127.0.0.1:9000", Some((tcp("127.0.0.1", 9000), false))),
            ("http://app", Some((tcp("app", 80), false))),
            ("https://app.svc/", Some((tcp("app.svc", 443), true))),
            ("http://[::1]:9000", Some((tcp("::1", 9000), false))),
            ("unix:/run/app.sock", Some((UpstreamAddress::Unix("/run/app.sock".into()), false))),
            ("unix:app.sock", None),
            ("127.0.0.1:9000", None),
            ("ftp://app", None),
            ("http://app/base", None),
            ("http://user:secret@app", None),
            ("http://app:", None),
            ("http://app:0", None),
            ("http://app:99999", None),
        ];
        for (text, want) in cases {
            assert_eq!(upstream_url(text).ok(), want, "{text}");
        }
    }
}
