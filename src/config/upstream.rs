//! `[upstream]` and `[upstreams.NAME]`: the services behind the gate.

use std::path::PathBuf;
use std::time::Duration;

use http::HeaderValue;
use http::uri::{Authority, Uri};

use super::certificate::certificate;
use super::fault::ConfigProblem;
use super::section::ConfigSection;
use super::unknown::nearest;
use super::{
    ConnectionReuse, NamedUpstream, TlsClient, UpstreamAddress, UpstreamConfig, UpstreamProtocol,
};
use crate::core::PolicyName;

const HEALTH_INTERVAL: Duration = Duration::from_secs(5);
const UPSTREAM_CONNECTIONS: u64 = 1_024;
const UPSTREAM_QUEUE: u64 = 1_024;

/// The word for `[upstream]` in messages.
const DEFAULT: &str = "default";

/// The most `[upstreams.NAME]`: each has its own series in every worker.
pub(crate) const MOST_UPSTREAMS: usize = 16;

/// One `[upstreams.NAME]` of the file, in the order of the upstreams of a [`super::Config`].
pub(super) struct UpstreamSection<'a> {
    pub(super) name: Box<str>,
    pub(super) section: ConfigSection<'a>,
    /// The `aud` of its assertions.
    pub(super) audience: Option<Box<str>>,
}

/// All of `[upstreams.NAME]`, by name. Invalid names are reported.
pub(super) fn sections<'a>(root: &ConfigSection<'a>) -> Vec<UpstreamSection<'a>> {
    let mut sections = Vec::new();
    for (name, section) in root.named("upstreams") {
        let problem = match &*name {
            DEFAULT => Some(
                ConfigProblem::new("stands for [upstream]").hint("give the upstream another name"),
            ),
            name if PolicyName::is_valid(name.as_bytes()) => None,
            _ => Some(
                ConfigProblem::new("is no name of an upstream")
                    .hint("1 to 64 of `a` to `z`, `0` to `9`, `-` and `_`"),
            ),
        };
        if let Some(problem) = problem {
            section.reader().fault(&section.place(), problem);
        } else if sections.len() == MOST_UPSTREAMS {
            let problem = ConfigProblem::new(format!("is one upstream more than {MOST_UPSTREAMS}"));
            section.reader().fault(&section.place(), problem.hint("let routes share upstreams"));
        }
        let audience = section.parse("assertion_audience", super::signing::word);
        // Its other keys are those of `[upstream]`.
        let section = section.documented_as("upstream");
        sections.push(UpstreamSection { name: name.into(), section, audience });
    }
    sections
}

/// In the order of the sections. `None`: something is wrong with it, which the reader has recorded.
pub(super) fn named(sections: &[UpstreamSection<'_>]) -> Vec<Option<NamedUpstream>> {
    let read = |of: &UpstreamSection<'_>| {
        Some(NamedUpstream { name: of.name.clone(), config: upstream(&of.section)? })
    };
    sections.iter().map(read).collect()
}

/// The index of the upstream that a route names: 0 is `[upstream]`.
pub(super) fn index_of(
    name: &str,
    sections: &[UpstreamSection<'_>],
) -> Result<usize, ConfigProblem> {
    if let Some(at) = sections.iter().position(|of| *of.name == *name) {
        return Ok(at + 1);
    }
    let names: Vec<&str> = sections.iter().map(|of| &*of.name).collect();
    let hint = match nearest(name, names.iter().copied()) {
        _ if name == DEFAULT => "leave it out to go to [upstream]".to_owned(),
        Some(near) => format!("did you mean `{near}`?"),
        None if names.is_empty() => {
            format!("add [upstreams.{name}] with its url, or leave it out to go to [upstream]")
        }
        None => format!("upstreams: {}; leave it out to go to [upstream]", names.join(", ")),
    };
    Err(ConfigProblem::new("is no upstream of this file").hint(hint))
}

/// keygate connects needlessly to an upstream that no route uses, and it suggests a wrong route.
pub(super) fn warn_of_unused(
    root: &ConfigSection<'_>,
    sections: &[UpstreamSection<'_>],
    used: impl Fn(usize) -> bool,
) {
    for (_, of) in sections.iter().enumerate().filter(|(at, _)| !used(at + 1)) {
        let problem = ConfigProblem::new("no route goes to it");
        let hint =
            format!("set upstream = \"{}\" in the routes that are meant to, or remove it", of.name);
        root.reader().warn(&of.section.place(), problem.hint(hint));
    }
}

pub(super) fn upstream(section: &ConfigSection<'_>) -> Option<UpstreamConfig> {
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
        section
            .fault("tls", ConfigProblem::new("is for an https:// upstream").hint("change its url"));
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

/// Where to connect, and whether to use TLS.
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
    // A port that is not a number up to 65535 reads as absent. Then text is left after the host.
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
