//! Raw TOML → [`Config`]: the parts whose changes need a restart.

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZero;
use std::time::Duration;

use super::certificate::certificate;
use super::delivery::Remote;
use super::fault::ConfigProblem;
use super::policy::SettingsSections;
use super::raw::ConfigPlace;
use super::section::ConfigSection;
use super::{
    Bind, Caps, ClientAuth, Config, Drain, Families, Http2Config, Listener, Log, LogFormat,
    LogLevel, MemoryBudget, Places, Sharing, Timeouts, TlsServer, Workers,
};
use super::{addresses, admin, delivery, limits, policy, shared, upstream, usage};
use crate::core::NetworkSet;
use crate::core::address::parse_network;

const CONNECTIONS: u64 = 16_384;
const CONNECTIONS_PER_ADDRESS: u64 = 10_000;

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// `None` if something is wrong. The reader has recorded it.
pub(super) fn config(root: &ConfigSection<'_>) -> Option<Config> {
    let (mut listeners, places) = listeners(root);
    let upstream_section = root.section("upstream");
    let upstream = upstream::upstream(&upstream_section);
    let named_sections = upstream::sections(root);
    let upstreams = upstream::named(&named_sections);
    let table = delivery::table(&root.section("table"), posts(root));
    let admin_section = root.section("admin");
    let mut admin = admin::admin(&admin_section);
    if listeners.iter().any(|listener| listener.sharing == Sharing::SameUser) {
        admin.sharing = Sharing::SameUser;
    }
    addresses::no_loop(&upstream_section, upstream.as_ref(), &listeners, &admin);
    for (section, named) in named_sections.iter().zip(&upstreams) {
        addresses::no_loop(&section.section, named.as_ref().map(|u| &u.config), &listeners, &admin);
    }
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
    let shared = shared::shared(&root.section("shared"));
    let quotas = root.section("quotas");
    let quota_file = quotas.path("file");
    let trusted = table.as_ref().map(|table| table.trusted_signers.as_slice()).unwrap_or_default();
    let parts = SettingsSections {
        log: &log_section,
        usage: &usage_section,
        credential: &upstream_section.section("credential"),
        upstreams: &named_sections,
    };
    let settings = policy::settings(root, &parts, trusted);
    if let Some(settings) = &settings {
        limits::keep(root, &settings.policy.limits, quota_file.as_deref());
        outlives_balancer(&timeouts_section, timeouts.idle, &settings.trusted_proxies);
    }
    Some(Config {
        listeners,
        admin,
        workers,
        upstream: upstream?,
        upstreams: upstreams.into_iter().collect::<Option<_>>()?,
        table: table?,
        timeouts,
        caps,
        drain,
        http2,
        log,
        usage,
        shared,
        quota_file,
        settings: settings?,
        warnings: Vec::new(),
        places: Places::default(),
        secret_files: Vec::new(),
        variable_files: Vec::new(),
    })
}

/// Whether records of use are posted, in the same way as tables are fetched.
fn posts(root: &ConfigSection<'_>) -> Remote {
    let mut usage = root.section("usage");
    // Read here only for one key.
    usage.lose();
    if usage.has("post_url") { Remote::Posts } else { Remote::TablesAlone }
}

/// Each with the place of its address.
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

/// Whether others may bind the address as well. `bind` is `None` for an address that could not be
/// read.
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
    // Read here only for one key.
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

/// Google's front ends keep idle connections for 600 s, and answer 502 if they use one that is just
/// being closed. Their networks are published: whoever trusts them runs behind them.
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
    let (format, level) = log_words(section);
    Log {
        level,
        format,
        access_file: section.path("access_file"),
        access: section.flag_unless_off("access"),
    }
}

/// The form of a log, and its level.
pub(crate) fn log_words(section: &ConfigSection<'_>) -> (LogFormat, LogLevel) {
    let formats = [("json", LogFormat::Json), ("text", LogFormat::Text)];
    let levels = [
        ("error", LogLevel::Error),
        ("warn", LogLevel::Warn),
        ("info", LogLevel::Info),
        ("debug", LogLevel::Debug),
    ];
    let format = section.choice("format", LogFormat::Json, &formats);
    (format, section.choice("level", LogLevel::Info, &levels))
}
