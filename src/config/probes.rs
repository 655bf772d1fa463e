//! `[[admin.probes]]`: probes of the service that keygate makes for a platform which cannot reach
//! the service itself. Each has its path and its one target on this host, so it cannot relay
//! anything else.

use std::net::SocketAddr;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Uri, header};

use super::fault::ConfigProblem;
use super::section::ConfigSection;

/// The beginning of every probe's path.
const ROOT: &str = "/probe/";

const TIMEOUT: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

/// One probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassedProbe {
    /// Its path on the admin listeners.
    pub path: Box<str>,
    pub target: ProbedTarget,
    /// Fields of an HTTP probe.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// For the whole probe.
    pub timeout: Duration,
}

/// The target of a probe. All addresses are on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbedTarget {
    /// `grpc.health.v1.Health/Check` of a service, which may be empty.
    Grpc { address: SocketAddr, service: Box<str> },
    /// GET of a path with its query. The status is the result.
    Http { address: SocketAddr, target: Box<str> },
    /// A connection that is accepted counts as success.
    Tcp { address: SocketAddr },
}

pub(super) fn probes(section: &ConfigSection<'_>) -> Vec<PassedProbe> {
    let mut probes: Vec<PassedProbe> = Vec::new();
    for section in section.sections("probes") {
        let (path, target) = (section.parse("path", path), section.parse("url", target));
        let headers = section.parse_list("headers", field);
        let timeout = section.duration("timeout", TIMEOUT);
        if timeout > LONGEST {
            let problem = ConfigProblem::new("is longer than a minute");
            section.fault("timeout", problem.hint("as the platform's own time-out for the probe"));
        }
        for (key, is_there) in [("path", section.has("path")), ("url", section.has("url"))] {
            if !is_there {
                section.missing(key, "for example path = \"/probe/app/live\" and url = \"http://127.0.0.1:9000/live\"");
            }
        }
        let (Some(path), Some(target)) = (path, target) else { continue };
        if probes.iter().any(|probe| probe.path == path) {
            let problem = ConfigProblem::new("is the path of another probe");
            section.fault("path", problem.hint("give each a path of its own"));
        }
        if !headers.is_empty() && !matches!(target, ProbedTarget::Http { .. }) {
            let problem = ConfigProblem::new("are for http:// alone");
            section.fault("headers", problem.hint("leave them out"));
        }
        probes.push(PassedProbe { path, target, headers, timeout });
    }
    probes
}

fn path(text: &str) -> Result<Box<str>, ConfigProblem> {
    let is_part = |b: u8| b.is_ascii_alphanumeric() || b"-_./".contains(&b);
    match text.strip_prefix(ROOT) {
        Some(rest) if !rest.is_empty() && rest.bytes().all(is_part) => Ok(text.into()),
        _ => Err(ConfigProblem::new("is no path of a probe")
            .hint("/probe/ and letters, digits, `-`, `_`, `.` and `/`, such as /probe/app/live")),
    }
}

fn target(text: &str) -> Result<ProbedTarget, ConfigProblem> {
    let hint = "http://127.0.0.1:9000/live, tcp://127.0.0.1:9000 or grpc://127.0.0.1:9000/SERVICE";
    let none = || ConfigProblem::new("is no target of a probe").hint(hint);
    let (scheme, rest) = text.split_once("://").ok_or_else(none)?;
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let address: SocketAddr = authority.parse().map_err(|_| none())?;
    if !address.ip().to_canonical().is_loopback() {
        return Err(ConfigProblem::new("is not on this host").hint(
            "a probe is for the service beside keygate: 127.0.0.1 or [::1]; others would make a relay \
             of it",
        ));
    }
    match scheme {
        "grpc" => {
            let service = path.strip_prefix('/').unwrap_or_default();
            let is_part = |b: u8| b.is_ascii_graphic();
            match service.len() <= 256 && service.bytes().all(is_part) {
                true => Ok(ProbedTarget::Grpc { address, service: service.into() }),
                false => Err(none()),
            }
        }
        "http" => {
            let target = if path.is_empty() { "/" } else { path };
            let target = escaped(target);
            match target.parse::<Uri>() {
                Ok(_) => Ok(ProbedTarget::Http { address, target: target.into() }),
                Err(_) => Err(none()),
            }
        }
        "tcp" if path.is_empty() || path == "/" => Ok(ProbedTarget::Tcp { address }),
        _ => Err(none()),
    }
}

/// In the form in which a client sends a path that was written with characters no path can have.
fn escaped(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'!'..=b'~' if !b"\"#<>\\^`{|}".contains(&byte) => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// Whether a field says how a message is framed.
pub fn is_framing(name: &HeaderName) -> bool {
    [header::CONNECTION, header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::UPGRADE]
        .contains(name)
}

fn field(text: &str) -> Result<(HeaderName, HeaderValue), ConfigProblem> {
    let none = || {
        ConfigProblem::new("is no field of a header").hint("name and value, such as \"X-Probe: 1\"")
    };
    let (name, value) = text.split_once(':').ok_or_else(none)?;
    let name: HeaderName = name.trim().parse().map_err(|_| none())?;
    if is_framing(&name) {
        return Err(ConfigProblem::new("says how a message is framed").hint("leave it out"));
    }
    let value = HeaderValue::from_bytes(value.trim().as_bytes()).map_err(|_| none())?;
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        let address: SocketAddr = "127.0.0.1:9000".parse().unwrap();
        let http = |target: &str| Some(ProbedTarget::Http { address, target: target.into() });
        for (text, want) in [
            ("http://127.0.0.1:9000", http("/")),
            ("http://127.0.0.1:9000/a b?c={d}", http("/a%20b?c=%7Bd%7D")),
            ("tcp://127.0.0.1:9000", Some(ProbedTarget::Tcp { address })),
            (
                "grpc://127.0.0.1:9000/a.b/C",
                Some(ProbedTarget::Grpc { address, service: "a.b/C".into() }),
            ),
            ("tcp://127.0.0.1:9000/x", None),
            ("http://10.0.0.1:9000/", None),
            ("http://localhost:9000/", None),
            ("http://127.0.0.1/", None),
            ("http://a@127.0.0.1:9000/", None),
            ("https://127.0.0.1:9000/", None),
            ("127.0.0.1:9000", None),
        ] {
            assert_eq!(target(text).ok(), want, "{text}");
        }
    }

    #[test]
    fn paths_and_fields() {
        for (text, ok) in [
            ("/probe/app/live", true),
            ("/probe/", false),
            ("/probe/a b", false),
            ("/status", false),
            ("probe/a", false),
        ] {
            assert_eq!(path(text).is_ok(), ok, "{text}");
        }
        assert!(field("X-A: b c").is_ok() && field("Host: x").is_ok());
        assert!(field("X-A").is_err() && field("a b: c").is_err() && field("a: b\nc: d").is_err());
        assert!(field("Transfer-Encoding: chunked").is_err());
    }
}
