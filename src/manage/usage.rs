//! Usage records of sidecars, from files and from their admin listeners, merged into one. Imports
//! core, `usage` and this room.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use zeroize::Zeroizing;

use super::error::{Error, FileFault, Result};
use super::status;
use super::time;
use crate::usage::merge::InstanceSpan;
use crate::usage::{KnownInstances, UsageMerge, UsageRecord, UsageRecordError};

/// For reading a record of a sidecar with many keys.
const TIMEOUT: Duration = Duration::from_secs(300);

/// Minutes by which the clock of a sidecar may be ahead.
const AHEAD: u32 = 10;

/// Longest line. Ours are far shorter.
const MAX_LINE: u64 = 64 << 10;

#[derive(Clone, Debug, clap::Args)]
pub struct UsageArgs {
    /// Usage records: files (all that `usage.file` wrote), or admin listeners such as
    /// `http://10.0.0.7:9901`. Name those of every sidecar
    #[arg(long, value_name = "FILE|URL", num_args = 1..)]
    pub usage: Vec<String>,
    /// File with the bearer token of their `admin.token_file`; sent to every URL
    #[arg(long, value_name = "FILE", requires = "usage")]
    pub token_file: Option<PathBuf>,
}

/// The records that a question needs, and how far back they have to go.
#[derive(Clone, Debug, clap::Args)]
pub struct UsagePeriod {
    /// Instance that replaced no other: its record may be younger than that
    #[arg(long, value_name = "INSTANCE")]
    pub added: Vec<String>,
    /// Instance that ended and that no other replaced: its records may end before now
    #[arg(long, value_name = "INSTANCE")]
    pub gone: Vec<String>,
}

// === impl UsageArgs ===

impl UsageArgs {
    /// Reads all of them. An unreadable one ends the command: an answer without it could be wrong.
    pub fn read(&self, audience: Option<&str>) -> Result<UsageMerge> {
        self.read_since(audience, 0)
    }

    /// The same, for callers that ask what was refused in or since this minute (since 1970).
    pub fn read_since(&self, audience: Option<&str>, minute: u32) -> Result<UsageMerge> {
        let mut merge = UsageMerge::asked_since(minute);
        let bearer = status::bearer(self.token_file.as_deref())?;
        for source in &self.usage {
            match url(source) {
                Some(url) => fetch(&url, bearer.as_ref(), &mut merge)?,
                None => {
                    let path = Path::new(source);
                    let file = File::open(path).map_err(Error::read(path))?;
                    add(path, BufReader::new(file), LastLine::MayBeTorn, &mut merge)?;
                }
            }
        }
        if let Some((wanted, found)) = audience.and_then(|a| Some((a, merge.stranger(a)?))) {
            return Err(Error::argument(
                "--usage",
                format!(
                    "the records are of the audience `{found}`, and the registry is of `{wanted}`\n\
                     hint: name the records of this registry's sidecars alone"
                ),
            ));
        }
        Ok(merge)
    }

    /// When an empty source will have a record.
    fn when_it_is_there(&self) -> &'static str {
        match self.usage.iter().any(|source| url(source).is_none()) {
            true => {
                "a sidecar writes to `usage.file` once a minute, first a minute after its start"
            }
            false => "see whether these are the admin listeners of sidecars, which have started",
        }
    }
}

// === impl UsagePeriod ===

impl UsagePeriod {
    /// Whether everything is known from `from` to `now` (Unix seconds); otherwise, which record is
    /// missing. `asked` is the period as requested.
    pub fn check(&self, read: &UsageArgs, merge: &UsageMerge, from: u64, now: u64) -> Result<()> {
        let minute = |secs: u64| u32::try_from(secs / 60).unwrap_or(u32::MAX);
        if merge.is_empty() {
            return Err(Error::NoUsage(format!(
                "there is no usage record in what --usage names\nhint: {}",
                read.when_it_is_there()
            )));
        }
        if merge.dropped() > 0 {
            let dropped = merge.dropped();
            // Their uses may be among what was dropped.
            return Err(Error::NoUsage(format!(
                "the records have forgotten {dropped} keys or more for want of room, so that no \
                 record of a use proves nothing\nhint: look at the keys one by one in the access log"
            )));
        }
        if let Some(span) = merge.after(minute(now).saturating_add(AHEAD)) {
            return Err(Error::NoUsage(format!(
                "the record of {} is from the future: {}\n\
                 hint: the clock of that sidecar or of this machine is wrong",
                span.instance,
                time::show(u64::from(span.to) * 60)
            )));
        }
        let known = KnownInstances { added: &self.added, gone: &self.gone };
        let gaps = merge.gaps(minute(from), minute(now), known);
        if gaps.is_empty() {
            return Ok(());
        }
        let shown: String = gaps.iter().map(describe).collect();
        Err(Error::NoUsage(format!(
            "the records do not cover the time since {}:{shown}\n\
             hint: name also the records of the sidecars that ran before these, and of those that run \
             now; if one was added and replaced none, say --added INSTANCE, and if one ended and none \
             replaced it, --gone INSTANCE",
            time::show(from)
        )))
    }
}

fn describe(span: &InstanceSpan) -> String {
    let at = |minute: u32| time::show(u64::from(minute) * 60);
    format!("\n  {} is known from {} to {}", span.instance, at(span.from), at(span.to))
}

/// Whether the last line may lack its line end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LastLine {
    /// A file that a crash or a full disk cut off.
    MayBeTorn,
    Whole,
}

fn add(path: &Path, from: impl BufRead, last: LastLine, merge: &mut UsageMerge) -> Result<()> {
    let mut from = from;
    let (mut place, mut number) = (None, 0);
    loop {
        number += 1;
        let mut line = Vec::new();
        let read = from.by_ref().take(MAX_LINE).read_until(b'\n', &mut line);
        if read.map_err(Error::read(path))? == 0 {
            return Ok(());
        }
        let is_whole = line.pop_if(|b| *b == b'\n').is_some();
        if line.is_empty() {
            continue;
        }
        let fault = |why: String| {
            let fault =
                FileFault { path: path.to_owned(), line: number, field: String::new(), why };
            Error::fault(fault, "is it what `/usage` or `usage.file` gave, unchanged?")
        };
        match UsageRecord::parse(&line) {
            Ok(UsageRecord::Head(head)) => place = Some(merge.head(&head)),
            Ok(UsageRecord::Key(id, line)) => match place {
                Some(place) => merge.line(place, id, &line),
                None => return Err(fault("stands before the head of its record".into())),
            },
            Err(UsageRecordError::Syntax) if !is_whole && last == LastLine::MayBeTorn => {
                place.into_iter().for_each(|place| merge.cut(place));
                return Ok(());
            }
            Err(error) => return Err(fault(error.to_string())),
        }
    }
}

fn fetch(url: &str, bearer: Option<&Zeroizing<String>>, merge: &mut UsageMerge) -> Result<()> {
    let failed = |why: String| Error::NoUsage(format!("{url}: {why}"));
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_connect(Some(Duration::from_secs(5)))
        .timeout_global(Some(TIMEOUT))
        .http_status_as_error(false)
        .max_redirects(0)
        .build()
        .into();
    if url.starts_with("https://") {
        return Err(failed("an admin listener speaks http, not https".into()));
    }
    let mut request = agent.get(url);
    if let Some(bearer) = bearer {
        request = request.header("authorization", bearer.as_str());
    }
    let mut response = request.call().map_err(|e| failed(format!("no answer: {e}")))?;
    match response.status().as_u16() {
        200 => {}
        404 => {
            return Err(failed(
                "answered 404; is this the admin listener? If it is, it counts no uses \
                 (usage.enabled)"
                    .into(),
            ));
        }
        status => return Err(failed(status::why_not(status, bearer))),
    }
    let body = response.body_mut().with_config().limit(u64::MAX).reader();
    add(Path::new(url), BufReader::new(body), LastLine::Whole, merge)
}

/// Recognizes a URL, or an address with a port that is not a file; anything else is a file.
fn url(source: &str) -> Option<String> {
    let is_address = || {
        let port = source.rsplit_once(':').map(|(_, port)| port.trim_end_matches('/'));
        port.is_some_and(|port| port.parse::<u16>().is_ok()) && !Path::new(source).exists()
    };
    (source.contains("://") || is_address()).then(|| status::page_of(source, "/usage"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_files() {
        for (source, want) in [
            ("10.0.0.7:9901", Some("http://10.0.0.7:9901/usage")),
            ("http://a:1/", Some("http://a:1/usage")),
            ("http://a:1/usage", Some("http://a:1/usage")),
            ("http://a:1/usage?since=5", Some("http://a:1/usage?since=5")),
            ("usage.ndjson", None),
            ("usage.ndjson.1", None),
            ("/var/lib/keygate/usage.ndjson", None),
        ] {
            assert_eq!(url(source).as_deref(), want, "{source}");
        }
    }

    #[test]
    fn a_file_is_mentioned_where_one_was_named() {
        for (source, is_file) in [("usage.ndjson", true), ("http://a:1", false)] {
            let args = UsageArgs { usage: vec![source.to_owned()], token_file: None };
            let nothing = UsageMerge::asked_since(0);
            let period = UsagePeriod { added: Vec::new(), gone: Vec::new() };
            let said = period.check(&args, &nothing, 0, 60).unwrap_err().to_string();
            assert_eq!(said.contains("`usage.file`"), is_file, "{said}");
        }
    }

    #[test]
    fn a_torn_end_is_a_crash_and_anything_else_is_a_fault() {
        let head = r#"{"usage":1,"instance":"a","boot":"1","audience":"o","started":1,"now":2,"serial":1,"dropped":0}"#;
        let line = r#"{"key":"key_a","last":2,"admitted":5}"#;
        let read = |text: &str, end| {
            let mut merge = UsageMerge::default();
            add(Path::new("u"), text.as_bytes(), end, &mut merge).map(|()| merge.keys().count())
        };
        assert_eq!(read(&format!("{head}\n{line}\n"), LastLine::Whole).unwrap(), 1);
        let torn = format!("{head}\n{line}\n{{\"key\":\"ke");
        assert_eq!(read(&torn, LastLine::MayBeTorn).unwrap(), 1);
        for (text, end) in [
            (torn, LastLine::Whole),
            (format!("{line}\n"), LastLine::MayBeTorn),
            (format!("{head}\n{line}\nnonsense\n{line}\n"), LastLine::MayBeTorn),
        ] {
            let error = read(&text, end).unwrap_err().to_string();
            assert!(error.contains("u:") && error.contains("hint: "), "{error}");
        }
    }
}
