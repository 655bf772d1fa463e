//! Resolves server names to addresses. ureq's own resolver makes a thread for every connection, and
//! panics if the host cannot provide one. This resolver asks nobody if the host is already an
//! address.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};

use http::Uri;
use ureq::Error;
use ureq::config::Config;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// The most addresses of one name that are tried.
const MOST: usize = 8;

/// Takes no longer than the caller's time-out, and needs no thread for an address.
#[derive(Debug)]
pub(super) struct BoundedResolver;

// === impl BoundedResolver ===

impl Resolver for BoundedResolver {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        let host = uri.host().ok_or(Error::HostNotFound)?;
        let default = if uri.scheme_str() == Some("https") { 443 } else { 80 };
        let port = uri.port_u16().unwrap_or(default);
        let found = match address(host) {
            Some(address) => vec![SocketAddr::new(address, port)],
            None => ask((host.to_owned(), port), timeout)?,
        };
        let mut wanted = self.empty();
        config.ip_family().keep_wanted(found.into_iter()).take(MOST).for_each(|a| wanted.push(a));
        if wanted.is_empty() { Err(Error::HostNotFound) } else { Ok(wanted) }
    }
}

/// An IPv4 address, or an IPv6 address in brackets.
fn address(host: &str) -> Option<IpAddr> {
    let inner = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    inner.unwrap_or(host).parse().ok()
}

/// The system's resolver cannot be cancelled, so it has a thread of its own.
fn ask(name: (String, u16), timeout: NextTimeout) -> Result<Vec<SocketAddr>, Error> {
    let (to, answer) = sync_channel(1);
    let look = move || {
        // After the time-out, nobody waits any more.
        to.send(name.to_socket_addrs().map(Vec::from_iter)).ok();
    };
    std::thread::Builder::new().name("resolve".to_owned()).spawn(look)?;
    match answer.recv_timeout(*timeout.after) {
        Ok(found) => Ok(found?),
        Err(RecvTimeoutError::Timeout) => Err(Error::Timeout(timeout.reason)),
        Err(RecvTimeoutError::Disconnected) => {
            Err(io::Error::other("the look-up of a name has ended without an answer").into())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn resolved(url: &str) -> Result<Vec<SocketAddr>, Error> {
        let within = NextTimeout {
            after: Duration::from_secs(20).into(),
            reason: ureq::Timeout::Resolve,
            ..NextTimeout::default()
        };
        let found = BoundedResolver.resolve(&url.parse().unwrap(), &Config::default(), within)?;
        Ok(found.iter().copied().collect())
    }

    #[test]
    fn addresses_and_names() {
        for (url, want) in [
            ("http://127.0.0.1/a", "127.0.0.1:80"),
            ("https://127.0.0.1/a", "127.0.0.1:443"),
            ("http://192.0.2.1:8080/a", "192.0.2.1:8080"),
            ("https://[2001:db8::1]:1/", "[2001:db8::1]:1"),
        ] {
            assert_eq!(resolved(url).unwrap(), [want.parse().unwrap()], "{url}");
        }
        let local = resolved("http://localhost:7/").unwrap();
        assert!(!local.is_empty() && local.iter().all(|a| a.ip().is_loopback() && a.port() == 7));
        assert!(resolved("http://nobody.invalid/").is_err());
    }
}
