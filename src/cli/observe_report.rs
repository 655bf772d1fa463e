//! `keygate observe-report`: who would be refused, according to sidecars and access logs.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use zeroize::Zeroizing;

use super::{Because as _, CommandFailure, ConfigArgs, json, show};
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::core::Reason;
use crate::exit::Exit;
use crate::observe::{
    ObserveReport, REASONS_OF_CHANGES, ReportKnowledge, ReportLine, ReportView, SourceDoubt,
};

const TIMEOUT: Duration = Duration::from_secs(60);

/// The longest line. Ours are far shorter.
const MAX_LINE: u64 = 64 << 10;

#[derive(Args)]
pub(super) struct ObserveReportArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Admin listeners such as `http://10.0.0.7:9901`, saved answers of `/observe`, and access logs
    /// (JSON) [default: the sidecar on this host, by `admin.address` of the configuration]
    #[arg(value_name = "URL|LOG")]
    sources: Vec<String>,
    /// File with the bearer token of their `admin.token_file`; sent to every URL
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Leave out what was last seen longer ago, such as 24h
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    since: Option<Duration>,
    /// Let callers break for this reason: they still show, and do not count
    #[arg(long, value_name = "REASON", value_parser = reason)]
    accept: Vec<String>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &ObserveReportArgs) -> Result<Exit, CommandFailure> {
    let bearer = args.token_file.as_deref().map(bearer).transpose()?;
    let mut report = ObserveReport::default();
    let mut sources = args.sources.clone();
    if sources.is_empty() {
        let config = Config::load(&args.config.config)?;
        sources.push(format!("http://{}", reachable(config.admin.bind)));
    }
    for source in &sources {
        report.begin(source);
        match url(source) {
            Some(url) => fetch(&url, bearer.as_ref(), &mut report)?,
            None => {
                let path = Path::new(source);
                let unreadable =
                    |error| Exit::NoInput.because(anyhow!("{source} cannot be read: {error}"));
                add(source, File::open(path).map_err(unreadable)?, &mut report)?;
            }
        }
    }
    if report.requests() == 0 {
        return Err(Exit::TryAgain.because(anyhow!(
            "no request was compared yet: that nobody would break is not known\n\
             hint: see that [observe] is in the configuration and that requests come this way"
        )));
    }
    let now_ms = Clock::system().now().unix_ms;
    let since_ms = args.since.map_or(0, |since| {
        now_ms.saturating_sub(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    });
    let view = ReportView { since_ms, accepted: args.accept.clone() };
    let (doubt, late) = (report.doubt(&view, now_ms), report.began_late(&view));
    let knows = match (doubt, late) {
        (None, None) => ReportKnowledge::Complete,
        _ => ReportKnowledge::Partial,
    };
    let summary = report.summary(&view, knows);
    show(&if args.json { json(&summary)? } else { report.text(&view, knows) })?;
    if summary.breaks == 0
        && let Some((source, doubt)) = doubt
    {
        return Err(Exit::TryAgain.because(anyhow!(
            "{source} {doubt}\nhint: that nobody would break is not known; {}",
            remedy(doubt)
        )));
    }
    match late {
        _ if summary.breaks > 0 => Ok(Exit::WouldBreak),
        None => Ok(Exit::Ok),
        Some(instance) => Err(Exit::TryAgain.because(anyhow!(
            "{instance} has not compared requests for so long: what went before is not known\n\
             hint: its rows began with its first request since it started; wait, or ask for less \
             with --since"
        ))),
    }
}

/// A reason that a row may have.
fn reason(word: &str) -> Result<String, String> {
    let known = Reason::ALL.iter().map(|reason| reason.as_str());
    let known: Vec<&str> = known.chain(REASONS_OF_CHANGES).collect();
    let is_field = word.strip_prefix("field:").is_some_and(|name| {
        name.parse::<http::HeaderName>().is_ok_and(|parsed| parsed.as_str() == name)
    });
    if is_field || known.contains(&word) {
        return Ok(word.to_owned());
    }
    let near = known.iter().map(|known| (strsim::damerau_levenshtein(word, known), known)).min();
    Err(match near.filter(|(distance, known)| *distance <= 1 + known.len() / 4) {
        Some((_, near)) => format!("no row has this reason; did you mean `{near}`?"),
        None => "no row has this reason; docs/observe.md has all".to_owned(),
    })
}

fn remedy(doubt: SourceDoubt) -> &'static str {
    match doubt {
        SourceDoubt::Cut { .. } | SourceDoubt::Unread(_) => "save or fetch it again, whole",
        SourceDoubt::Old => "take a newer one",
        SourceDoubt::NothingCompared => {
            "see that its [observe] is on and that requests come its way, or leave it out"
        }
        SourceDoubt::Enforces => "look at its requests with `verdict` `rejected`",
        SourceDoubt::EnforcesAll | SourceDoubt::ObservesNobody => {
            "look at its requests with `verdict` `rejected`, or leave it out"
        }
        SourceDoubt::Lost => {
            "restart it to begin anew, or --accept the reasons that its head names as lost"
        }
    }
}

/// If it is bound to all addresses: loopback.
fn reachable(mut bind: SocketAddr) -> SocketAddr {
    match bind.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => bind.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => bind.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    bind
}

/// A URL, or an address with a port unless a file has that name. Anything else is a file.
fn url(source: &str) -> Option<String> {
    let is_address = || {
        let port = source.rsplit_once(':').map(|(_, port)| port.trim_end_matches('/'));
        port.is_some_and(|port| port.parse::<u16>().is_ok()) && !Path::new(source).exists()
    };
    let url = match source.contains("://") {
        true => source.to_owned(),
        false if is_address() => format!("http://{source}"),
        false => return None,
    };
    let url = url.trim_end_matches('/');
    Some(if url.ends_with("/observe") { url.to_owned() } else { format!("{url}/observe") })
}

/// The value of `Authorization`.
fn bearer(path: &Path) -> Result<Zeroizing<String>, CommandFailure> {
    let failed = |why: String| {
        Exit::NoInput.because(anyhow!("no token can be read from {}: {why}", path.display()))
    };
    let bytes = config::read_secret(path).map_err(|error| failed(error.to_string()))?;
    let token = config::admin_token(&bytes).map_err(|why| failed(why.to_owned()))?;
    Ok(Zeroizing::new(format!("Bearer {}", String::from_utf8_lossy(token))))
}

fn fetch(
    url: &str,
    bearer: Option<&Zeroizing<String>>,
    report: &mut ObserveReport,
) -> Result<(), CommandFailure> {
    let failed = |why: String| Exit::TryAgain.because(anyhow!("{url}: {why}"));
    if url.starts_with("https://") {
        return Err(failed("an admin listener speaks http, not https".to_owned()));
    }
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_connect(Some(Duration::from_secs(5)))
        .timeout_global(Some(TIMEOUT))
        .http_status_as_error(false)
        .max_redirects(0)
        // An environment variable must not decide who gets the token.
        .proxy(None)
        .build()
        .into();
    let mut request = agent.get(url);
    if let Some(bearer) = bearer {
        request = request.header("authorization", bearer.as_str());
    }
    let mut response = request.call().map_err(|error| {
        failed(format!(
            "no answer: {error}\nhint: is keygate running there, and is that its admin listener?"
        ))
    })?;
    match response.status().as_u16() {
        200 => {}
        401 if bearer.is_some() => return Err(failed("answered 401: it has another token".into())),
        401 => return Err(failed("answered 401: give its token with --token-file".into())),
        403 => {
            let why = "answered 403: it needs `admin.token_file` to be asked from here";
            return Err(failed(why.into()));
        }
        status => return Err(failed(format!("answered {status}; is this the admin listener?"))),
    }
    let body = response.body_mut().with_config().limit(u64::MAX).reader();
    add(url, body, report)
}

fn add(source: &str, input: impl Read, report: &mut ObserveReport) -> Result<(), CommandFailure> {
    let mut input = BufReader::new(input);
    let mut line = Vec::new();
    let (mut known, mut lines) = (0u64, 0u64);
    loop {
        line.clear();
        let read = (&mut input).take(MAX_LINE).read_until(b'\n', &mut line);
        match read {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) => {
                return Err(Exit::TryAgain.because(anyhow!("{source} ends early: {error}")));
            }
        }
        lines += 1;
        match report.add(&line) {
            Ok(ReportLine::Known) => known += 1,
            Ok(ReportLine::Other) => {}
            Err(version) => return Err(Exit::Data.because(anyhow!("{source} {version}"))),
        }
    }
    if lines > 0 && known == 0 {
        return Err(Exit::Data.because(anyhow!(
            "{source} has no line of /observe, and none of an access log\n\
             hint: access logs are read as JSON (log.format = \"json\")"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_reasons_of_rows_are_accepted() {
        for word in ["route", "bad_framing", "admitted", "forwarding", "field:x-org-id"] {
            assert_eq!(reason(word).as_deref(), Ok(word));
        }
        assert!(reason("routes").is_err_and(|why| why.contains("`route`")));
        for word in ["", "bogus-words", "field:", "field:X-Org-Id", "2xx"] {
            assert!(reason(word).is_err(), "{word}");
        }
    }

    #[test]
    fn addresses_and_files() {
        for (source, want) in [
            ("10.0.0.7:9901", Some("http://10.0.0.7:9901/observe")),
            ("http://a:1/", Some("http://a:1/observe")),
            ("http://a:1/observe", Some("http://a:1/observe")),
            ("access.log", None),
            ("/var/log/keygate/access.log.1", None),
        ] {
            assert_eq!(url(source).as_deref(), want, "{source}");
        }
    }
}
