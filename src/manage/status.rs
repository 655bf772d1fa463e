//! `keygatectl status`: asks sidecars whether a serial is in force everywhere.

use std::sync::Mutex;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use super::output::Columns;
use super::session::Session;
use super::time;

/// Sidecars that are asked at the same time.
const AT_ONCE: usize = 32;
const TIMEOUT: Duration = Duration::from_secs(5);
/// Of a `/status` answer.
const MAX_BYTES: u64 = 1 << 20;
/// Between two rounds of `--wait`.
const PAUSE: Duration = Duration::from_millis(250);

#[derive(Debug, clap::Args)]
pub struct Status {
    /// The serial that must be in force; without it, only show what is
    #[arg(long, value_name = "N")]
    pub serial: Option<u64>,
    /// Ask again until it is in force everywhere, at most this long
    #[arg(long, value_name = "DURATION", value_parser = time::duration, requires = "serial")]
    pub wait: Option<Duration>,
    /// Admin listeners, such as `http://10.0.0.7:9900` or `10.0.0.7:9900`
    #[arg(value_name = "URL", required = true)]
    pub urls: Vec<String>,
}

/// What one sidecar answered.
#[derive(Clone, Debug, Serialize)]
struct Answer {
    url: String,
    in_force: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    serial: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    table: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    active_keys: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// The part of `/status` that is of interest here; the rest may grow.
#[derive(Debug, Deserialize)]
struct Page {
    serial: Option<u64>,
    table: Option<InForce>,
    patch: Option<InForce>,
    keys: Option<Keys>,
    last_reload: Option<Attempted>,
    #[serde(default)]
    mounted_files: Vec<MountedFile>,
}

#[derive(Debug, Deserialize)]
struct InForce {
    serial: u64,
}

#[derive(Debug, Deserialize)]
struct Keys {
    active: u64,
}

#[derive(Debug, Deserialize)]
struct MountedFile {
    key: String,
    path: String,
}

#[derive(Debug, Deserialize)]
struct Attempted {
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
        let rounds = self.wait.map_or(0, |wait| wait.as_millis() / PAUSE.as_millis());
        let mut answers = self.ask_all(&agent);
        for _ in 0..rounds {
            if answers.iter().all(|answer| answer.in_force == Some(true)) {
                break;
            }
            std::thread::sleep(PAUSE);
            answers = self.ask_all(&agent);
        }
        self.print(&answers, session)?;
        session.output.flush()?;
        let missing =
            answers.iter().filter(|a| a.error.is_some() || a.in_force == Some(false)).count();
        match (missing, self.serial) {
            (0, _) => Ok(()),
            (n, Some(serial)) => Err(Error::NotInForce(format!(
                "serial {serial} is not in force on {n} of {} sidecars",
                answers.len()
            ))),
            (n, None) => {
                Err(Error::NotInForce(format!("{n} of {} sidecars did not answer", answers.len())))
            }
        }
    }

    /// In the order in which they were named.
    fn ask_all(&self, agent: &ureq::Agent) -> Vec<Answer> {
        let next = Mutex::new(self.urls.iter().enumerate());
        let answers = Mutex::new(Vec::with_capacity(self.urls.len()));
        std::thread::scope(|scope| {
            for _ in 0..self.urls.len().min(AT_ONCE) {
                scope.spawn(|| {
                    loop {
                        let Some((n, url)) = next.lock().ok().and_then(|mut n| n.next()) else {
                            return;
                        };
                        let answer = self.ask(agent, url);
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

    fn ask(&self, agent: &ureq::Agent, url: &str) -> Answer {
        let mut answer = Answer {
            url: url.to_owned(),
            in_force: None,
            serial: None,
            table: None,
            patch: None,
            active_keys: None,
            error: None,
        };
        let fetched = match url.starts_with("https://") {
            true => Err("an admin listener speaks http, not https".to_owned()),
            false => fetch(agent, &page_of(url)),
        };
        match fetched {
            Ok(page) => {
                answer.serial = page.serial;
                answer.table = page.table.map(|table| table.serial);
                answer.patch = page.patch.map(|patch| patch.serial);
                answer.active_keys = page.keys.map(|keys| keys.active);
                answer.in_force =
                    self.serial.map(|wanted| page.serial.is_some_and(|serial| serial >= wanted));
                // Why a sidecar stays behind is the next question.
                if answer.in_force == Some(false) {
                    let failed = page.last_reload.filter(|last| !last.ok);
                    let mounted = || page.mounted_files.iter().find_map(MountedFile::why);
                    answer.error = failed.and_then(|last| last.error).or_else(mounted);
                }
            }
            Err(why) => {
                answer.in_force = self.serial.map(|_| false);
                answer.error = Some(why);
            }
        }
        answer
    }

    fn print(&self, answers: &[Answer], session: &mut Session) -> Result<()> {
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
                answer.error.clone().unwrap_or_default(),
            ]);
        }
        columns.print(&mut session.output)
    }
}

// === impl MountedFile ===

impl MountedFile {
    /// Why a new serial does not arrive; `None`: another file is mounted so.
    fn why(&self) -> Option<String> {
        let carries_keys = ["table.path", "table.patch"].contains(&self.key.as_str());
        carries_keys.then(|| {
            let Self { key, path } = self;
            format!("{key}: {path} is a mount of its own and will never see a replacement")
        })
    }
}

fn page_of(url: &str) -> String {
    let url = url.trim_end_matches('/');
    let url = match url.contains("://") {
        true => url.to_owned(),
        false => format!("http://{url}"),
    };
    if url.ends_with("/status") { url } else { format!("{url}/status") }
}

fn fetch(agent: &ureq::Agent, url: &str) -> std::result::Result<Page, String> {
    let mut response = agent.get(url).call().map_err(|e| format!("no answer: {e}"))?;
    if response.status() != 200 {
        return Err(format!("answered {}; is this the admin listener?", response.status()));
    }
    let body = response.body_mut().with_config().limit(MAX_BYTES).read_to_vec();
    let body = body.map_err(|e| format!("answer cut short: {e}"))?;
    serde_json::from_slice(&body)
        .map_err(|_| "answered something else than a status; is this the admin listener?".into())
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
            assert_eq!(page_of(url), want);
        }
    }
}
