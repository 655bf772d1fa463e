//! `[shared]`: the store in which sidecars count limits together.

use std::path::PathBuf;
use std::time::Duration;

use http::Uri;

use super::fault::ConfigProblem;
use super::raw::ConfigText;
use super::secrets::secret;
use super::section::ConfigSection;
use super::{TlsClient, units};

const LEASE: Duration = Duration::from_millis(200);
const LONGEST_LEASE: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_millis(5);
const LONGEST_TIMEOUT: Duration = Duration::from_secs(1);
const FALLBACK_SHARE: f64 = 0.25;
const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// Where the limits of all sidecars are counted, and how much each sidecar may admit without the
/// store.
#[derive(Clone, Debug, PartialEq)]
pub struct SharedConfig {
    pub store: StoreTopology,
    /// ACL user. `None`: the default one.
    pub user: Option<Box<str>>,
    /// Read again for each connection.
    pub password_file: Option<PathBuf>,
    /// Number of the database. 0 in a cluster.
    pub database: u32,
    /// `None`: without TLS.
    pub tls: Option<TlsClient>,
    /// How long tokens taken in advance should last at the observed rate. Zero: none are taken.
    pub lease: Duration,
    /// The longest time that a request waits for the store.
    pub timeout: Duration,
    /// The least part of each limit that applies while the store is away: 0 to 1.
    pub fallback_share: f64,
    /// Number of sidecars that share the limits. 0: the store counts them.
    pub replicas: u32,
}

/// Which server of the store to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreTopology {
    Single(StoreNode),
    /// The primary that the sentinels know by this name.
    Sentinel {
        nodes: Vec<StoreNode>,
        name: Box<str>,
    },
    /// The server that has the slot.
    Cluster {
        nodes: Vec<StoreNode>,
    },
}

/// One server of the store.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum StoreNode {
    /// Host name or address, and port.
    Tcp {
        host: Box<str>,
        port: u16,
    },
    Unix(PathBuf),
}

/// A URL of a store, in parts.
#[derive(Debug, PartialEq, Eq)]
struct StoreUrl {
    node: StoreNode,
    is_tls: bool,
    user: Option<Box<str>>,
    database: u32,
}

/// `None`: limits apply per sidecar, or something is wrong that the reader has recorded.
pub(super) fn shared(section: &ConfigSection<'_>) -> Option<SharedConfig> {
    if !section.is_there() {
        return None;
    }
    if !cfg!(feature = "shared-limits") {
        let problem = ConfigProblem::new("this build of keygate cannot share limits");
        let hint =
            "remove it, or use a build with the feature `shared-limits`, which the image has";
        section.reader().fault(&section.place(), problem.hint(hint));
    }
    let url = section.text("url").and_then(|text| store(section, &text, PORT));
    let is_cluster = section.flag("cluster");
    let name = section.parse("sentinel", |text| match text.trim() {
        "" => Err(ConfigProblem::new("is empty")
            .hint("the name that the sentinels monitor the primary by: sentinel = \"mymaster\"")),
        name => Ok(Box::<str>::from(name)),
    });
    let port = if section.has("sentinel") { SENTINEL_PORT } else { PORT };
    let nodes = section.texts("nodes");
    let nodes: Vec<_> = nodes.iter().filter_map(|text| store(section, text, port)).collect();
    places(section);
    let mut all = url.iter().chain(&nodes);
    let first = all.next();
    if let Some(first) = first
        && all.any(|other| {
            (other.is_tls, &other.user, other.database)
                != (first.is_tls, &first.user, first.database)
        })
    {
        let problem = ConfigProblem::new("differ in TLS, user or database");
        section.fault("nodes", problem.hint("they are servers of one store"));
    }
    let ca = section.file("ca");
    let is_tls = first.is_some_and(|first| first.is_tls);
    if section.has("ca") && first.is_some() && !is_tls {
        let problem = ConfigProblem::new("is for rediss://, and the store is asked in clear");
        section.fault("ca", problem.hint("write rediss:// in the url, or remove it"));
    }
    let user = first.and_then(|first| first.user.clone());
    let password_file = password(section, user.as_deref());
    let database = first.map_or(0, |first| first.database);
    if is_cluster && database != 0 {
        let problem = ConfigProblem::new("name a database, and a cluster has only the first");
        section.fault("nodes", problem.hint("remove what is behind the port"));
    }
    let (lease, timeout) = times(section);
    let fallback_share = section.parse("fallback_share", share).unwrap_or(FALLBACK_SHARE);
    let replicas = section.integer("replicas", 0, 0..=100_000) as u32;
    let tls = is_tls.then_some(TlsClient { ca, server_name: None, certificate: None });
    let nodes: Vec<_> = nodes.into_iter().map(|url| url.node).collect();
    let store = match (url, name) {
        (Some(url), None) if !is_cluster => StoreTopology::Single(url.node),
        (None, Some(name)) if !nodes.is_empty() => StoreTopology::Sentinel { nodes, name },
        (None, None) if is_cluster && !nodes.is_empty() => StoreTopology::Cluster { nodes },
        _ => return None,
    };
    Some(SharedConfig {
        store,
        user,
        password_file,
        database,
        tls,
        lease,
        timeout,
        fallback_share,
        replicas,
    })
}

/// The store must be named in exactly one way.
fn places(section: &ConfigSection<'_>) {
    let (has_nodes, is_cluster) = (section.has("nodes"), section.flag("cluster"));
    match (section.has("url"), has_nodes) {
        (true, true) => {
            let problem = ConfigProblem::new("cannot be combined with shared.url");
            section.fault("nodes", problem.hint("keep one of them"));
        }
        (false, false) => {
            let hint = "the store, for example url = \"redis://limits:6379\"";
            section.missing("url", hint);
        }
        _ => {}
    }
    if has_nodes && section.texts("nodes").is_empty() {
        let problem = ConfigProblem::new("is empty").hint("name at least one server");
        section.fault("nodes", problem);
    }
    match (section.has("sentinel"), is_cluster) {
        (true, true) => {
            let problem = ConfigProblem::new("cannot be combined with shared.sentinel");
            section.fault("cluster", problem.hint("a cluster fails over by itself"));
        }
        (false, false) if has_nodes => {
            let problem = ConfigProblem::new("do not say what they are");
            let hint = "add sentinel = \"NAME\" if they are sentinels, or cluster = true; for one \
                        server set url instead";
            section.fault("nodes", problem.hint(hint));
        }
        (true, false) | (false, true) if !has_nodes => {
            let hint = "name the servers that are asked first: nodes = [\"a:6379\", \"b:6379\"]";
            section.missing("nodes", hint);
        }
        _ => {}
    }
}

fn password(section: &ConfigSection<'_>, user: Option<&str>) -> Option<PathBuf> {
    let advice = "put it in a file and name it as shared.password_file";
    section.refuse("password", "a secret does not belong into this file", advice);
    secret(section, "password_file", "shared.password_file", "cat > FILE");
    let path = section.path("password_file");
    if user.is_some() && !section.has("password_file") {
        section.missing("password_file", "the password of the user that the url names");
    }
    path
}

fn times(section: &ConfigSection<'_>) -> (Duration, Duration) {
    let lease = section.pause("lease", LEASE);
    if lease > LONGEST_LEASE {
        let problem = ConfigProblem::new("must be at most 10s")
            .hint("what one sidecar has taken in advance, the others lack");
        section.fault("lease", problem);
    }
    let timeout = section.duration("timeout", TIMEOUT);
    if timeout > LONGEST_TIMEOUT {
        let problem = ConfigProblem::new("must be at most 1s")
            .hint("requests wait so long for a store that does not answer");
        section.fault("timeout", problem);
    }
    (lease, timeout)
}

fn share(text: &str) -> Result<f64, ConfigProblem> {
    match units::share(text)? {
        share if share < 0.01 => Err(ConfigProblem::new("must be at least 1%")
            .hint("with less, a store that is away is an outage for most callers")),
        share => Ok(share),
    }
}

/// A server, given by its URL or by host and port alone.
fn store(section: &ConfigSection<'_>, text: &ConfigText, port: u16) -> Option<StoreUrl> {
    let authority = text.text.split_once("://").map_or(&*text.text, |(_, rest)| rest);
    if authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':')) {
        // Checked here, because a parser's fault shows what it found.
        let problem = ConfigProblem::new("must not hold a password")
            .hint("put it in a file and name it as shared.password_file");
        section.reader().fault(&text.place, problem);
        return None;
    }
    let is_url = text.text.contains("://") || text.text.starts_with("unix:");
    section.reader().parse(text, |text| match is_url {
        true => store_url(text, port),
        false => store_url(&format!("redis://{text}"), port),
    })
}

/// `redis://limits:6379`, `rediss://user@limits/2`, `unix:///run/valkey.sock`.
fn store_url(text: &str, default_port: u16) -> Result<StoreUrl, ConfigProblem> {
    let forms = "stores look like redis://limits:6379, rediss://user@limits:6379/0 (TLS) or \
                 unix:///run/valkey.sock";
    if let Some(path) = text.strip_prefix("unix:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        return match path.starts_with('/') {
            true => Ok(StoreUrl {
                node: StoreNode::Unix(PathBuf::from(path)),
                is_tls: false,
                user: None,
                database: 0,
            }),
            false => Err(ConfigProblem::new("a Unix socket needs an absolute path").hint(forms)),
        };
    }
    let bad = || ConfigProblem::new("is not the URL of a store").hint(forms);
    let uri: Uri = text.parse().map_err(|_| bad())?;
    let is_tls = match uri.scheme_str() {
        Some("redis" | "valkey") => false,
        Some("rediss" | "valkeys") => true,
        _ => return Err(bad()),
    };
    let authority = uri.authority().ok_or_else(bad)?;
    let user = authority.as_str().rsplit_once('@').map(|(user, _)| Box::from(user));
    let port = match authority.port_u16() {
        Some(port) => port,
        None if !authority.as_str().ends_with(':') => default_port,
        None => 0,
    };
    let database = match uri.path().trim_start_matches('/') {
        "" => Some(0),
        number => number.parse().ok(),
    };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let (Some(database), None) = (database, uri.query()) else { return Err(bad()) };
    if port == 0 || host.is_empty() {
        return Err(bad());
    }
    let node = StoreNode::Tcp { host: host.into(), port };
    Ok(StoreUrl { node, is_tls, user, database })
}

// === impl StoreNode ===

/// In the form that the configuration uses.
impl std::fmt::Display for StoreNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_stores() {
        let tcp = |host: &str, port| StoreNode::Tcp { host: host.into(), port };
        let url = |node, is_tls, user: Option<&str>, database| StoreUrl {
            node,
            is_tls,
            user: user.map(Box::from),
            database,
        };
        for (text, want) in [
            ("redis://limits", Some(url(tcp("limits", 6379), false, None, 0))),
            ("rediss://limits:6380/3", Some(url(tcp("limits", 6380), true, None, 3))),
            ("valkey://gate@[::1]:7000", Some(url(tcp("::1", 7000), false, Some("gate"), 0))),
            (
                "unix:///run/v.sock",
                Some(url(StoreNode::Unix("/run/v.sock".into()), false, None, 0)),
            ),
            ("redis://limits:", None),
            ("redis://limits:0", None),
            ("redis://limits/one", None),
            ("redis://limits/0?timeout=1", None),
            ("http://limits", None),
            ("limits:6379", None),
            ("unix:run/v.sock", None),
        ] {
            assert_eq!(store_url(text, PORT).ok(), want, "{text}");
        }
    }
}
