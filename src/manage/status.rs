//! `keygatectl status`: asks sidecars whether a serial is in force everywhere, and what problems
//! they have.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::error::{Error, FileFault, Result};
use super::files;
use super::output::Columns;
use super::session::Session;
use super::time;

/// Sidecars that are asked at the same time.
const AT_ONCE: usize = 32;
const TIMEOUT: Duration = Duration::from_secs(5);
/// Of a `/status` answer.
const MAX_BYTES: u64 = 1 << 20;
/// Of the token's file.
const MAX_TOKEN: u64 = 8 << 10;
/// Between two rounds of `--wait`.
const PAUSE: Duration = Duration::from_millis(250);

#[derive(Debug, clap::Args)]
pub struct Status {
    /// Serial that must be in force; without it, any table, and the last one offered
    #[arg(long, value_name = "N")]
    pub serial: Option<u64>,
    /// Keep asking until it is in force everywhere, at most this long
    #[arg(long, value_name = "DURATION", value_parser = time::duration, requires = "serial")]
    pub wait: Option<Duration>,
    /// File with the bearer token of their `admin.token_file`; every URL gets it
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Admin listeners, such as `http://10.0.0.7:9900` or `10.0.0.7:9900`
    #[arg(value_name = "URL", required = true)]
    pub urls: Vec<String>,
}

/// What one sidecar answered.
#[derive(Clone, Debug, Serialize)]
struct SidecarAnswer {
    url: String,
    #[serde(skip)]
    answered: bool,
    in_force: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    serial: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    table: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    active_keys: Option<u64>,
    /// The last table or patch was refused.
    #[serde(skip)]
    refused: bool,
    /// Its table, such as one that has expired, keeps it from being ready: why.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_ready: Option<String>,
    /// The table in force has expired.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    expired: bool,
    /// Why there is no answer, or why the last table or patch was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// When the configuration in force was loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    config_loaded_at: Option<String>,
    /// The file was changed and has errors: an older configuration is in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    config_error: Option<String>,
    /// Keys of the configuration that wait for a restart.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    needs_restart: Vec<String>,
}

/// The part of `/status` that matters here; the rest may grow.
#[derive(Debug, Deserialize)]
struct Page {
    serial: Option<u64>,
    table: Option<ReportedSerial>,
    patch: Option<ReportedSerial>,
    keys: Option<ReportedKeys>,
    last_reload: Option<Attempted>,
    /// Of table and patch, what was refused and still is. Older sidecars do not state it.
    #[serde(default)]
    failing: Vec<Attempted>,
    #[serde(default)]
    mounted_files: Vec<MountedFile>,
    #[serde(default)]
    config: Configured,
    /// What keeps it from being ready.
    #[serde(default)]
    pending: Vec<PendingPart>,
}

#[derive(Debug, Deserialize)]
struct PendingPart {
    part: String,
    why: String,
}

#[derive(Debug, Default, Deserialize)]
struct Configured {
    loaded_at: Option<String>,
    error: Option<String>,
    #[serde(default)]
    needs_restart: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct ReportedSerial {
    serial: u64,
    #[serde(default)]
    expired: bool,
}

#[derive(Debug, Deserialize)]
struct ReportedKeys {
    active: u64,
}

#[derive(Debug, Deserialize)]
struct MountedFile {
    key: String,
    path: String,
}

#[derive(Debug, Deserialize)]
struct Attempted {
    #[serde(default)]
    what: String,
    ok: bool,
    error: Option<String>,
}

// === impl Status ===

impl Status {
    pub fn run(self, session: &mut Session) -> Result<()> {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .http_status_as_error(false)
            .max_redirects(0)
            .build()
            .into();
        let bearer = bearer(self.token_file.as_deref())?;
        let rounds = self.wait.map_or(0, |wait| wait.as_millis() / PAUSE.as_millis());
        let mut answers = self.ask_all(&agent, bearer.as_ref());
        for _ in 0..rounds {
            let well = |a: &SidecarAnswer| {
                a.in_force == Some(true) && a.config_error.is_none() && a.not_ready.is_none()
            };
            if answers.iter().all(well) {
                break;
            }
            std::thread::sleep(PAUSE);
            answers = self.ask_all(&agent, bearer.as_ref());
        }
        self.print(&answers, session)?;
        session.output.flush()?;
        let count = |is: fn(&SidecarAnswer) -> bool| answers.iter().filter(|a| is(a)).count();
        let silent = count(|a| !a.answered);
        let behind = count(|a| a.in_force == Some(false));
        let bare = count(|a| a.answered && a.serial.is_none());
        let refusing = count(|a| a.answered && a.serial.is_some() && a.refused);
        let ill = count(|a| a.config_error.is_some());
        let of = super::output::count(answers.len() as u64, "sidecar");
        let mut wrong = Vec::new();
        match self.serial {
            Some(serial) if behind > 0 => {
                wrong.push(format!("serial {serial} is not in force on {behind} of {of}"));
            }
            None if silent > 0 => wrong.push(format!("{silent} of {of} did not answer")),
            _ => {}
        }
        // With a serial, the only question is whether it is in force.
        if self.serial.is_none() {
            if bare > 0 {
                wrong.push(format!("no table is in force on {bare} of {of}"));
            }
            if refusing > 0 {
                wrong.push(format!("the last table or patch was not taken on {refusing} of {of}"));
            }
        }
        let not_ready = count(|a| a.not_ready.is_some());
        if not_ready > 0 {
            wrong.push(format!("the table keeps {not_ready} of {of} from being ready"));
        }
        if ill > 0 {
            wrong.push(format!(
                "the configuration has errors on {ill} of {of}: an older one is in force"
            ));
        }
        match wrong.is_empty() {
            true => Ok(()),
            false => Err(Error::NotInForce(wrong.join("; "))),
        }
    }

    /// In the order in which they were named.
    fn ask_all(
        &self,
        agent: &ureq::Agent,
        bearer: Option<&Zeroizing<String>>,
    ) -> Vec<SidecarAnswer> {
        let next = Mutex::new(self.urls.iter().enumerate());
        let answers = Mutex::new(Vec::with_capacity(self.urls.len()));
        std::thread::scope(|scope| {
            for _ in 0..self.urls.len().min(AT_ONCE) {
                scope.spawn(|| {
                    loop {
                        let Some((n, url)) = next.lock().ok().and_then(|mut n| n.next()) else {
                            return;
                        };
                        let answer = self.ask(agent, bearer, url);
                        if let Ok(mut answers) = answers.lock() {
                            answers.push((n, answer));
                        }
                    }
                });
            }
        });
        let mut answers = answers.into_inner().unwrap_or_default();
        answers.sort_by_key(|(n, _)| *n);
        answers.into_iter().map(|(_, answer)| answer).collect()
    }

    fn ask(
        &self,
        agent: &ureq::Agent,
        bearer: Option<&Zeroizing<String>>,
        url: &str,
    ) -> SidecarAnswer {
        let mut answer = SidecarAnswer {
            url: url.to_owned(),
            answered: false,
            in_force: None,
            serial: None,
            table: None,
            patch: None,
            active_keys: None,
            refused: false,
            not_ready: None,
            expired: false,
            error: None,
            config_loaded_at: None,
            config_error: None,
            needs_restart: Vec::new(),
        };
        let fetched = match url.starts_with("https://") {
            true => Err("an admin listener speaks http, not https".to_owned()),
            false => fetch(agent, bearer, &page_of(url, "/status")),
        };
        match fetched {
            Ok(page) => {
                answer.answered = true;
                answer.serial = page.serial;
                answer.expired = page.table.as_ref().is_some_and(|table| table.expired);
                // Without a table, that is said already.
                let table = page.pending.into_iter().find(|pending| pending.part == "table");
                answer.not_ready = table.filter(|_| page.table.is_some()).map(|table| table.why);
                answer.table = page.table.map(|table| table.serial);
                answer.patch = page.patch.map(|patch| patch.serial);
                answer.active_keys = page.keys.map(|keys| keys.active);
                answer.in_force =
                    self.serial.map(|wanted| page.serial.is_some_and(|serial| serial >= wanted));
                // The next question is why a sidecar stays behind. A failed reload of the
                // configuration is reported under `config`, whatever was reloaded since.
                let last = page.last_reload.filter(|last| !last.ok && last.what != "config");
                // Accepting one artefact says nothing about the other.
                let failed = page.failing.into_iter().next().or(last);
                answer.refused = failed.is_some();
                answer.error = failed.and_then(|last| last.error);
                if answer.in_force == Some(false) && answer.error.is_none() {
                    answer.error = page.mounted_files.iter().find_map(MountedFile::why);
                }
                answer.config_loaded_at = page.config.loaded_at;
                answer.config_error = page.config.error;
                answer.needs_restart = page.config.needs_restart;
            }
            Err(why) => {
                answer.in_force = self.serial.map(|_| false);
                answer.error = Some(why);
            }
        }
        answer
    }

    fn print(&self, answers: &[SidecarAnswer], session: &mut Session) -> Result<()> {
        if session.output.json {
            return session.output.json(&answers);
        }
        let mut columns = Columns::titled(&["SIDECAR", "IN FORCE", "TABLE", "PATCH", "KEYS", ""]);
        for answer in answers {
            let number = |n: Option<u64>| n.map_or("-".to_owned(), |n| n.to_string());
            columns.row([
                answer.url.clone(),
                match answer.in_force {
                    Some(true) => "yes".to_owned(),
                    Some(false) => "no".to_owned(),
                    None => number(answer.serial),
                },
                number(answer.table),
                number(answer.patch),
                number(answer.active_keys),
                answer.troubles(),
            ]);
        }
        columns.print(&mut session.output)
    }
}

// === impl MountedFile ===

impl MountedFile {
    /// Why a new serial does not arrive; `None`: the mounted file carries no keys.
    fn why(&self) -> Option<String> {
        let carries_keys = ["table.path", "table.patch"].contains(&self.key.as_str());
        carries_keys.then(|| {
            let Self { key, path } = self;
            format!("{key}: {path} is a mount of its own and will never see a replacement")
        })
    }
}

// === impl SidecarAnswer ===

impl SidecarAnswer {
    /// On one line; `--json` has every line of it.
    fn troubles(&self) -> String {
        let first = |text: &String| text.lines().next().unwrap_or_default().to_owned();
        let mut all: Vec<_> = match (&self.not_ready, self.expired) {
            (Some(why), _) => vec![format!("not ready: {}", first(why))],
            (None, true) => vec!["the table in force has expired".to_owned()],
            (None, false) => Vec::new(),
        };
        all.extend(self.error.iter().map(first));
        all.extend(self.config_error.iter().map(|e| format!("configuration: {}", first_fault(e))));
        if !self.needs_restart.is_empty() {
            all.push(format!("waits for a restart: {}", self.needs_restart.join(", ")));
        }
        all.join("; ")
    }
}

/// The first fault of a configuration. A line that only counts them stands before it.
fn first_fault(error: &str) -> &str {
    let mut lines = error.lines();
    let first = lines.next().unwrap_or_default();
    match first.starts_with("the configuration has ") {
        true => lines.next().unwrap_or(first).trim_start(),
        false => first,
    }
}

/// The value of `Authorization`, from the file that has the token.
pub fn bearer(token_file: Option<&Path>) -> Result<Option<Zeroizing<String>>> {
    let Some(path) = token_file else { return Ok(None) };
    let bytes = Zeroizing::new(files::read(path, MAX_TOKEN)?);
    let token = std::str::from_utf8(bytes.trim_ascii()).unwrap_or_default();
    match !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic()) {
        true => Ok(Some(Zeroizing::new(format!("Bearer {token}")))),
        false => Err(Error::fault(
            FileFault {
                path: path.to_owned(),
                line: 0,
                field: String::new(),
                why: "holds no bearer token".into(),
            },
            "the file that the sidecars' `admin.token_file` names has it",
        )),
    }
}

/// `page` (`/status`) of the admin listener that `url` names.
pub fn page_of(url: &str, page: &str) -> String {
    let url = url.trim_end_matches('/');
    let url = match url.contains("://") {
        true => url.to_owned(),
        false => format!("http://{url}"),
    };
    let path = url.split('?').next().unwrap_or_default();
    if path.ends_with(page) { url } else { format!("{url}{page}") }
}

fn fetch(
    agent: &ureq::Agent,
    bearer: Option<&Zeroizing<String>>,
    url: &str,
) -> std::result::Result<Page, String> {
    let mut request = agent.get(url);
    if let Some(bearer) = bearer {
        request = request.header("authorization", bearer.as_str());
    }
    let mut response = request.call().map_err(|e| format!("no answer: {e}"))?;
    match response.status().as_u16() {
        200 => {}
        status => return Err(why_not(status, bearer)),
    }
    let body = response.body_mut().with_config().limit(MAX_BYTES).read_to_vec();
    let body = body.map_err(|e| format!("answer cut short: {e}"))?;
    serde_json::from_slice(&body)
        .map_err(|_| "answered something else than a status; is this the admin listener?".into())
}

/// What a status other than 200 means for the request.
pub fn why_not(status: u16, bearer: Option<&Zeroizing<String>>) -> String {
    match status {
        401 if bearer.is_some() => "answered 401: it has another token".into(),
        401 => "answered 401: give its token with --token-file".into(),
        403 => "answered 403: it needs `admin.token_file` to be asked from here".into(),
        421 => "answered 421: add this name to its `admin.hosts`, or use its address".into(),
        status => format!("answered {status}; is this the admin listener?"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_lead_to_the_status_page() {
        for (url, want) in [
            ("10.0.0.7:9900", "http://10.0.0.7:9900/status"),
            ("http://a:1/", "http://a:1/status"),
            ("http://a/status", "http://a/status"),
        ] {
            assert_eq!(page_of(url, "/status"), want);
        }
    }
}
