//! Who may request what from the admin listener: decided by the listener that was used, by the
//! address, by the `Host` that the request names and by its bearer token. Imports `config`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use aws_lc_rs::{constant_time, digest};
use http::{HeaderMap, Request, Version, header};

use crate::config;

/// Which listener received a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminDoor {
    /// `admin.address`.
    Admin,
    /// `admin.public_address`.
    Public,
}

/// Where a request came from.
#[derive(Clone, Copy, Debug)]
pub(super) struct AdminCaller {
    pub(super) peer: SocketAddr,
    pub(super) door: AdminDoor,
    /// The listener is bound to loopback.
    pub(super) on_loopback: bool,
}

/// Who reaches an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EndpointReach {
    /// Everybody who reaches either listener: probes, metrics, public keys. Metrics that name keys
    /// and orgs are still for the operator only.
    Public,
    /// This host, or whoever has the token; on `admin.address` only. For pages that name keys,
    /// files or networks of callers.
    Operator,
    /// This host, but no browser on it; on `admin.address` only. For actions that change something.
    ThisHost,
}

/// Why a request is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DeniedAccess {
    /// The listener does not have the endpoint.
    NoSuchPage,
    /// HTTP/1.1 without exactly one `Host` (RFC 9112 section 3.2).
    NotOneHost,
    /// A `Host` that does not belong to this listener, on loopback: this is what DNS rebinding
    /// looks like.
    Misdirected,
    /// The caller is on another host, and no token is configured.
    NoTokenConfigured,
    /// The caller is on another host and sent no token.
    NoTokenShown,
    /// The caller sent a wrong token, from this host or another one.
    WrongToken,
    NotThisHost,
    Browser,
}

/// `admin.hosts` and the token.
#[derive(Debug, Default)]
pub struct AdminAccess {
    /// In lower case, without port.
    pub hosts: Vec<Box<str>>,
    pub token: Option<AdminToken>,
}

/// The bearer token of `admin.token_file`: its SHA-256, so that the secret is in memory only while
/// it is read.
pub struct AdminToken {
    path: PathBuf,
    digest: ArcSwap<[u8; 32]>,
    /// The file was unusable the last time. Its previous content stays in force.
    failing: AtomicBool,
}

/// Why `admin.token_file` cannot be used. Reveals nothing of its content.
#[derive(Debug, thiserror::Error)]
#[error("the admin token cannot be read from {path}: {why}")]
pub struct AdminTokenError {
    path: String,
    why: String,
}

// === impl AdminCaller ===

impl AdminCaller {
    fn is_of_this_host(&self) -> bool {
        self.peer.ip().to_canonical().is_loopback()
    }
}

// === impl AdminAccess ===

impl AdminAccess {
    /// Checked before the endpoint is known: a listener on loopback answers only callers that know
    /// its name. A page in a browser can also reach it, under a name of its own that resolves to
    /// 127.0.0.1.
    pub(super) fn hears<B>(
        &self,
        caller: AdminCaller,
        request: &Request<B>,
    ) -> Result<(), DeniedAccess> {
        if caller.on_loopback && !self.is_named_by(request) {
            return Err(DeniedAccess::Misdirected);
        }
        let hosts = request.headers().get_all(header::HOST).iter().count();
        match request.version() == Version::HTTP_11 && hosts != 1 {
            true => Err(DeniedAccess::NotOneHost),
            false => Ok(()),
        }
    }

    pub(super) fn admits<B>(
        &self,
        caller: AdminCaller,
        reach: EndpointReach,
        request: &Request<B>,
    ) -> Result<(), DeniedAccess> {
        if reach == EndpointReach::Public {
            return Ok(());
        }
        if caller.door == AdminDoor::Public {
            return Err(DeniedAccess::NoSuchPage);
        }
        let here = caller.is_of_this_host();
        match reach {
            EndpointReach::Public => Ok(()),
            EndpointReach::Operator => self.admits_operator(caller, request),
            EndpointReach::ThisHost if !here => Err(DeniedAccess::NotThisHost),
            EndpointReach::ThisHost if is_of_browser(request.headers()) => {
                Err(DeniedAccess::Browser)
            }
            EndpointReach::ThisHost if !self.is_named_by(request) => Err(DeniedAccess::Misdirected),
            EndpointReach::ThisHost => Ok(()),
        }
    }

    fn admits_operator<B>(
        &self,
        caller: AdminCaller,
        request: &Request<B>,
    ) -> Result<(), DeniedAccess> {
        let here = caller.is_of_this_host();
        let shown = request.headers().contains_key(header::AUTHORIZATION);
        match &self.token {
            // A token that is sent is always judged, on this host too: a caller that tries one
            // wants to know.
            Some(token) if shown => match bearer(request.headers()) {
                Some(presented) if token.is(presented) => Ok(()),
                _ => Err(DeniedAccess::WrongToken),
            },
            _ if here && self.is_named_by(request) => Ok(()),
            _ if here => Err(DeniedAccess::Misdirected),
            Some(_) => Err(DeniedAccess::NoTokenShown),
            None => Err(DeniedAccess::NoTokenConfigured),
        }
    }

    /// Every name in the request is an IP literal, `localhost` or one of `admin.hosts`. Browsers
    /// always send a name. A manual probe in HTTP/1.0 may have none.
    fn is_named_by<B>(&self, request: &Request<B>) -> bool {
        let fields = request.headers().get_all(header::HOST).iter();
        let mut named = fields.map(|value| value.to_str().ok());
        let target = request.uri().authority().map(|authority| authority.as_str());
        named.all(|name| name.is_some_and(|name| self.knows(name)))
            && target.is_none_or(|name| self.knows(name))
    }

    fn knows(&self, authority: &str) -> bool {
        let Some(name) = host_of(authority) else { return false };
        name.parse::<IpAddr>().is_ok()
            || name.eq_ignore_ascii_case("localhost")
            || self.hosts.iter().any(|host| name.eq_ignore_ascii_case(host))
    }
}

/// The host without its port, and without the brackets of IPv6.
fn host_of(authority: &str) -> Option<&str> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (literal, port) = rest.split_once(']')?;
        literal.parse::<Ipv6Addr>().ok()?;
        return is_port(port).then_some(literal);
    }
    let at = authority.find(':').unwrap_or(authority.len());
    let (name, port) = authority.split_at(at);
    // A resolver treats `2130706433` and `127.1` as addresses, but they are not literals.
    let numeric = name.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let literal = !numeric || name.parse::<Ipv4Addr>().is_ok();
    (literal && !name.is_empty() && is_port(port)).then_some(name)
}

/// Empty, or `:` and a port.
fn is_port(text: &str) -> bool {
    text.is_empty() || text.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok())
}

fn is_of_browser(headers: &HeaderMap) -> bool {
    headers.contains_key(header::ORIGIN) || headers.contains_key("sec-fetch-site")
}

/// RFC 6750 section 2.1. `None`: there is none, it has another scheme, or there is more than one.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut fields = headers.get_all(header::AUTHORIZATION).iter();
    let value = fields.next()?.as_bytes();
    if fields.next().is_some() {
        return None;
    }
    let (scheme, token) = value.split_at_checked("bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

// === impl AdminToken ===

impl AdminToken {
    pub fn load(path: &Path) -> Result<Self, AdminTokenError> {
        let digest = ArcSwap::from_pointee(read(path)?);
        Ok(Self { path: path.to_owned(), digest, failing: AtomicBool::new(false) })
    }

    /// Reads the current content of the file. An unusable file changes nothing and is logged once.
    pub(super) fn refresh(&self) {
        match read(&self.path) {
            Ok(digest) => {
                self.failing.store(false, Ordering::Relaxed);
                if **self.digest.load() != digest {
                    self.digest.store(digest.into());
                    tracing::info!("a new admin token is in force");
                }
            }
            Err(error) => {
                if !self.failing.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "the admin token in force stays");
                }
            }
        }
    }

    /// Compares in a time that depends on neither of the two.
    fn is(&self, presented: &[u8]) -> bool {
        let digest = self.digest.load();
        constant_time::verify_slices_are_equal(&sha256(presented), &digest[..]).is_ok()
    }
}

impl std::fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdminToken").field("path", &self.path).finish_non_exhaustive()
    }
}

fn read(path: &Path) -> Result<[u8; 32], AdminTokenError> {
    let failed = |why: String| AdminTokenError { path: path.display().to_string(), why };
    let bytes = config::read_secret(path).map_err(|error| failed(error.to_string()))?;
    let token = config::admin_token(&bytes).map_err(|why| failed(why.to_owned()))?;
    Ok(sha256(token))
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(host: &str) -> Request<()> {
        http::Request::get("/status").header("host", host).body(()).unwrap()
    }

    #[test]
    fn hosts_that_are_heard_on_loopback() {
        let access = AdminAccess { hosts: vec!["keygate.internal".into()], token: None };
        let caller = AdminCaller {
            peer: "127.0.0.1:5".parse().unwrap(),
            door: AdminDoor::Admin,
            on_loopback: true,
        };
        for (host, heard) in [
            ("127.0.0.1:9901", true),
            ("127.0.0.1", true),
            ("10.1.2.3:80", true),
            ("[::1]:9901", true),
            ("[::1]", true),
            ("localhost:9901", true),
            ("LocalHost", true),
            ("KEYGATE.internal:9901", true),
            ("evil.example", false),
            ("localhost.evil.example", false),
            ("evil.localhost", false),
            ("127.0.0.1.evil.example", false),
            ("keygate.internal.evil.example", false),
            ("2130706433", false),
            ("127.1", false),
            ("0x7f000001", false),
            ("", false),
            (":9901", false),
            ("[::1", false),
            ("[::1]x", false),
            ("[localhost]", false),
            ("localhost:port", false),
            ("localhost:1:2", false),
            ("localhost@evil.example", false),
            ("evil.example, localhost", false),
        ] {
            assert_eq!(access.hears(caller, &named(host)).is_ok(), heard, "{host:?}");
        }
        let two = http::Request::get("/")
            .header("host", "localhost")
            .header("host", "evil.example")
            .body(())
            .unwrap();
        assert_eq!(access.hears(caller, &two), Err(DeniedAccess::Misdirected));
        let absolute = http::Request::get("http://evil.example/")
            .header("host", "localhost")
            .body(())
            .unwrap();
        assert_eq!(access.hears(caller, &absolute), Err(DeniedAccess::Misdirected));
        let mut none = http::Request::get("/livez").body(()).unwrap();
        assert_eq!(access.hears(caller, &none), Err(DeniedAccess::NotOneHost));
        *none.version_mut() = Version::HTTP_10;
        assert_eq!(access.hears(caller, &none), Ok(()), "a probe by hand");
        let elsewhere = AdminCaller { on_loopback: false, ..caller };
        assert_eq!(access.hears(elsewhere, &two), Err(DeniedAccess::NotOneHost));
        assert_eq!(access.hears(elsewhere, &named("orders.svc")), Ok(()), "scrapes by name go on");
    }

    #[test]
    fn bearer_tokens() {
        let read = |values: &[&str]| {
            let mut request = http::Request::get("/");
            for value in values {
                request = request.header("authorization", *value);
            }
            bearer(request.body(()).unwrap().headers()).map(<[u8]>::to_vec)
        };
        assert_eq!(read(&["Bearer abc"]), Some(b"abc".to_vec()));
        assert_eq!(read(&["bEARER   abc "]), Some(b"abc".to_vec()));
        for none in
            [&[][..], &["Basic abc"], &["Bearer"], &["Bearerabc"], &["Bearer a", "Bearer a"]]
        {
            assert_eq!(read(none), None, "{none:?}");
        }
    }
}
