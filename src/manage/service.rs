//! A management service over HTTP: its address, the credential for it, and what its answers say.
//! The credential comes from a file or the environment, never from an argument. Imports remote,
//! wording, the configuration's host and errors.

mod credential;

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use http::header::{AUTHORIZATION, CONTENT_TYPE, DATE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, Method, Request};
use serde::Deserialize;
use zeroize::Zeroizing;

use self::credential::ServiceCredential;
use super::error::{Error, Result};
use crate::config::{FileAccess, Host as _, ThisHost, UrlOptions};
use crate::core::address;
use crate::exit::Exit;
use crate::remote;
use crate::wording::shell::{quoted, quoted_path};
use crate::wording::visible::one_line;

/// Variable with the credential, if no file has it.
const VARIABLE: &str = "KEYGATE_CREDENTIAL";

/// Field with the public id of a pair, at every management service.
pub const PUBLIC_ID_FIELD: HeaderName = HeaderName::from_static("keygate-public-id");

/// Limit for a whole request; a change may wait 20 s for sidecars.
const WHOLE: Duration = Duration::from_secs(60);

/// What to do if a request gets no answer.
const AWAY: &str = "\nhint: look whether the service runs and --server-ca names its authority; the same \
                    command may be given again";

/// How many characters of a service's text are shown.
const LONGEST_TEXT: usize = 1000;

/// Where a service is, and how to ask it.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Management service")]
pub struct ServiceArgs {
    /// Management service that is asked, such as `https://keys.example.com`
    #[arg(long, global = true, value_name = "URL")]
    pub server: Option<String>,
    /// File with the credential, mode 0600; of a pair two lines, public id and secret [default:
    /// the variable KEYGATE_CREDENTIAL]
    #[arg(long, global = true, value_name = "FILE")]
    pub credential_file: Option<PathBuf>,
    /// PEM file of who is believed to be the service [default: public authorities]
    #[arg(long, global = true, value_name = "FILE")]
    pub server_ca: Option<PathBuf>,
}

/// Asks one service.
pub struct ServiceClient {
    agent: ureq::Agent,
    base: String,
    credential: ServiceCredential,
}

/// An answer of any status. Its body may hold a new secret.
pub struct ServiceAnswer {
    pub status: u16,
    pub fields: HeaderMap,
    pub body: Zeroizing<Vec<u8>>,
}

/// A refusal in the service's words (RFC 9457).
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ToldProblem {
    #[serde(default)]
    pub code: String,
    #[serde(default)]
    pub detail: String,
    #[serde(default)]
    pub errors: Vec<ToldFault>,
}

/// A service's text, made safe to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToldText {
    pub line: String,
    pub hint: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub struct ToldFault {
    #[serde(default)]
    pub pointer: Option<String>,
    #[serde(default)]
    pub parameter: Option<String>,
    #[serde(default)]
    pub detail: String,
}

// === impl ServiceArgs ===

impl ServiceArgs {
    /// The first of these options that was given, if any.
    pub fn given(&self) -> Option<&'static str> {
        let given = [
            ("--server", self.server.is_some()),
            ("--credential-file", self.credential_file.is_some()),
            ("--server-ca", self.server_ca.is_some()),
        ];
        given.into_iter().find(|(_, is_given)| *is_given).map(|(option, _)| option)
    }

    /// The options as a shell takes them; empty without a service.
    pub fn shown(&self) -> Option<String> {
        let server = self.server.as_deref()?;
        // An address that will be refused may hold a password.
        let server = if server.contains(['@', '?']) { "URL" } else { server };
        let mut shown = format!("--server {}", quoted(server));
        let files =
            [("--credential-file", &self.credential_file), ("--server-ca", &self.server_ca)];
        for (option, file) in files {
            if let Some(file) = file {
                shown.push_str(&format!(" {option} {}", quoted_path(file)));
            }
        }
        Some(shown)
    }

    /// # Errors
    ///
    /// An invalid URL, or a missing credential.
    pub fn client(&self) -> Result<ServiceClient> {
        let Some(server) = &self.server else {
            let hint = "give --server URL";
            return Err(Error::Missing { what: "the management service", hint });
        };
        let uri: http::Uri = server.parse().map_err(|_| {
            Error::argument("--server", "is no URL, such as https://keys.example.com")
        })?;
        match uri.scheme_str() {
            Some("https") => {}
            Some("http") if uri.host().is_some_and(address::is_this_host) => {}
            _ => {
                let why = "must begin with https://; http:// is for this host: a credential goes \
                           over it";
                return Err(Error::argument("--server", why));
            }
        }
        let has_user = uri.authority().is_some_and(|a| a.as_str().contains('@'));
        if has_user || uri.query().is_some() {
            return Err(Error::argument("--server", "must be scheme, host, port and path alone"));
        }
        self.credential_file.as_deref().map_or(Ok(()), refuse_open)?;
        let options = UrlOptions { ca: self.server_ca.clone(), ..UrlOptions::default() };
        let unusable = |e: remote::RemoteFileError| Error::Added {
            message: e.to_string(),
            exit: Exit::NoInput,
        };
        let given = match &self.credential_file {
            Some(file) => {
                let text = remote::credential_text(file).map_err(unusable)?;
                let odd = |why: &str| Error::Added {
                    message: format!("the credential in {} {why}", file.display()),
                    exit: Exit::NoInput,
                };
                ServiceCredential::read(&text).map_err(odd)?
            }
            None => {
                let text = ThisHost.variable(VARIABLE).map(Zeroizing::new).unwrap_or_default();
                ServiceCredential::read(&text).map_err(|why| Error::argument(VARIABLE, why))?
            }
        };
        let Some(credential) = given else {
            let hint = "put a key or token into a file of mode 0600 and give --credential-file \
                        FILE, or set KEYGATE_CREDENTIAL";
            return Err(Error::Missing { what: "the credential for the service", hint });
        };
        let agent = remote::agent(server, &options).map_err(unusable)?;
        // The credential is for this server only.
        let agent = remote::open(agent.max_redirects(0).timeout_global(Some(WHOLE)).build());
        let base = server.trim_end_matches('/').to_owned();
        Ok(ServiceClient { agent, base, credential })
    }
}

fn refuse_open(file: &Path) -> Result<()> {
    let FileAccess::TooMany(mode) = ThisHost.access(file) else { return Ok(()) };
    let file = file.display();
    let message = format!(
        "{file}: others than its owner may read the credential: its mode is {mode:04o}\n\
         hint: `chmod 600 {file}`; if somebody may have read it, rotate the key"
    );
    Err(Error::Added { message, exit: Exit::Data })
}

// === impl ServiceClient ===

impl ServiceClient {
    /// Sends a request, and takes at most `most` bytes of the answer. `path` begins with `/`.
    ///
    /// # Errors
    ///
    /// A service that does not answer: whether it has done something is then unknown.
    pub fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&serde_json::Value>,
        fields: &[(&'static str, &str)],
        most: u64,
    ) -> Result<ServiceAnswer> {
        let url = format!("{}{path}", self.base);
        // For a change, the caller says what to do.
        let hint = if method == Method::GET { AWAY } else { "" };
        let odd = |e: http::Error| Error::argument("--server", e);
        let mut request = Request::builder()
            .method(method)
            .uri(&url)
            .header(AUTHORIZATION, self.credential.authorization.clone());
        if let Some(id) = &self.credential.public_id {
            request = request.header(PUBLIC_ID_FIELD, id.clone());
        }
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let answer = match body {
            Some(body) => {
                let bytes = serde_json::to_vec(body).unwrap_or_default();
                let request = request.header(CONTENT_TYPE, "application/json");
                self.agent.run(request.body(bytes).map_err(odd)?)
            }
            None => self.agent.run(request.body(()).map_err(odd)?),
        };
        let away = |e: &dyn std::fmt::Display| self.away(e, hint);
        let answer = answer.map_err(|e| away(&e))?;
        let (head, body) = answer.into_parts();
        let mut bytes = Zeroizing::new(Vec::new());
        let mut reader = body.into_with_config().limit(most).reader();
        reader.read_to_end(&mut bytes).map_err(|e| away(&e))?;
        Ok(ServiceAnswer { status: head.status.as_u16(), fields: head.headers, body: bytes })
    }

    fn away(&self, error: &dyn std::fmt::Display, hint: &str) -> Error {
        let message = format!("{}: {error}{hint}", self.base);
        Error::Added { message, exit: Exit::TryAgain }
    }

    /// The address of the service.
    pub fn base(&self) -> &str {
        &self.base
    }
}

impl std::fmt::Debug for ServiceClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServiceClient").field("base", &self.base).finish_non_exhaustive()
    }
}

// === impl ServiceAnswer ===

impl ServiceAnswer {
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// How long it asks to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        let seconds = self.fields.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
        Some(Duration::from_secs(seconds))
    }

    /// The time of the answer, by the service's clock (Unix seconds).
    pub fn date(&self) -> Option<u64> {
        let date = httpdate::parse_http_date(self.fields.get(DATE)?.to_str().ok()?).ok()?;
        Some(date.duration_since(UNIX_EPOCH).ok()?.as_secs())
    }

    /// # Errors
    ///
    /// A body that is not a valid answer of the service.
    pub fn json<T: serde::de::DeserializeOwned>(&self, server: &str) -> Result<T> {
        serde_json::from_slice(&self.body).map_err(|e| Error::Added {
            // Only the place: a message of serde may quote the content.
            message: format!(
                "{server}: its answer is not one of a management service: line {}, column {}\n\
                 hint: --server is what people open in a browser, without /v1; of a newer service, \
                 use its keygatectl",
                e.line(),
                e.column()
            ),
            exit: Exit::Data,
        })
    }

    /// What the answer says is wrong; empty if it has nothing readable.
    pub fn problem(&self) -> ToldProblem {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// Whether a change may have been made all the same.
    pub fn leaves_open(&self) -> bool {
        match (&*self.problem().code, self.status) {
            ("busy" | "read_only" | "too_many_failures", _) => false,
            (_, status) => status == 408 || status >= 500,
        }
    }

    /// The refusal as the error that ends a command.
    pub fn refusal(&self, server: &str) -> Error {
        let ToldProblem { code, .. } = self.problem();
        let (exit, hint) = match (&*code, self.status) {
            ("no_credential" | "invalid_credential", _) => (
                Exit::Data,
                "--credential-file names a file with a key that is valid there; of a pair, its public id \
                 and its secret, a line each",
            ),
            ("address_not_allowed", _) => {
                (Exit::Data, "the key is for other networks than this one")
            }
            ("forbidden" | "no_role", _) => {
                (Exit::Data, "ask with a key that holds more: nobody grants more than they hold")
            }
            ("not_found", _) => {
                (Exit::NoInput, "it is not there, or not for this credential to see")
            }
            ("busy" | "read_only" | "unavailable" | "timeout" | "too_many_failures", _) => {
                (Exit::TryAgain, "try again in a moment")
            }
            ("version_mismatch", _) => {
                (Exit::TryAgain, "somebody has changed it meanwhile: look at it, and try again")
            }
            ("internal", _) => (Exit::TryAgain, "the log of the service says why; then try again"),
            ("", 300..=399) => (Exit::Data, "it leads elsewhere: give that URL as --server"),
            ("", 408 | 429 | 500..) => {
                (Exit::TryAgain, "try again; what stands before the service has said that")
            }
            ("", _) => (Exit::Data, "--server is what people open in a browser, without /v1"),
            _ => (Exit::Data, ""),
        };
        let ToldText { line, hint: theirs } = self.told(server);
        let message = match (theirs, hint) {
            (Some(hint), _) => format!("{line}\nhint: {hint}"),
            (None, "") => line,
            (None, hint) => format!("{line}\nhint: {hint}"),
        };
        Error::Added { message, exit }
    }

    /// What it refuses, and where in the request.
    pub fn told(&self, server: &str) -> ToldText {
        let ToldProblem { detail, errors, .. } = self.problem();
        let ToldText { line, hint } = told_text(&detail);
        let what = match detail.is_empty() {
            true => format!("the service answered {}", self.status),
            false => line,
        };
        let places: Vec<_> = errors
            .iter()
            .filter(|fault| !detail.contains(&fault.detail))
            .filter_map(|fault| {
                let place = fault.pointer.as_deref().or(fault.parameter.as_deref())?;
                Some(format!("\n  {}: {}", told_line(place), told_line(&fault.detail)))
            })
            .take(20)
            .collect();
        ToldText { line: format!("{server}: {what}{}", places.concat()), hint }
    }
}

impl std::fmt::Debug for ServiceAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServiceAnswer").field("status", &self.status).finish_non_exhaustive()
    }
}

/// A service's text, reduced to one line of ours and the hint below it: it cannot begin another
/// line, move a cursor or fill a screen.
pub fn told_text(text: &str) -> ToldText {
    // A keygate service ends its message with what to do.
    match text.split_once("\nhint: ") {
        Some((line, hint)) => ToldText { line: told_line(line), hint: Some(told_line(hint)) },
        None => ToldText { line: told_line(text), hint: None },
    }
}

/// All of a service's text, on one line.
pub fn told_line(text: &str) -> String {
    let cut: String = text.chars().take(LONGEST_TEXT).collect();
    let end = if cut.len() < text.len() { "…" } else { "" };
    one_line(&cut).into_owned() + end
}

/// A name as a segment of a path or a value of a query: it may have any visible character.
pub fn path_segment(name: &str) -> String {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
    name.bytes()
        .map(|b| match is_plain(b) {
            true => char::from(b).to_string(),
            false => format!("%{b:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_cannot_write_lines_of_ours() {
        assert_eq!(told_line("a\nerror: b\u{1b}[2J\u{202e}"), "a\\u000aerror: b\\u001b[2J\\u202e");
        let told = told_text("it is revoked\nhint: make another\nhint: run this\nhint: and that");
        assert_eq!(told.line, "it is revoked");
        let hint = "make another\\u000ahint: run this\\u000ahint: and that";
        assert_eq!(told.hint.as_deref(), Some(hint));
        let long = told_line(&"ä".repeat(5000));
        assert!(long.chars().count() == LONGEST_TEXT + 1 && long.ends_with('…'));
    }

    #[test]
    fn the_hint_is_one_and_the_last_line() {
        let body = r#"{"code":"conflict","detail":"no\nhint: one\nhint: two",
            "errors":[{"pointer":"/a\nhint: three","detail":"b\nhint: four"}]}"#;
        let text = answer(409, body).refusal("https://x").to_string();
        let lines: Vec<_> = text.lines().collect();
        let [first, place, hint] = lines[..] else { panic!("{text}") };
        assert_eq!(first, "https://x: no");
        assert_eq!(place, "  /a\\u000ahint: three: b\\u000ahint: four");
        assert_eq!(hint, "hint: one\\u000ahint: two");
    }

    #[test]
    fn what_leaves_open_whether_a_change_was_made() {
        for (status, body, is_open) in [
            (200, "", false),
            (302, "", false),
            (408, "", true),
            (409, r#"{"code":"conflict"}"#, false),
            (429, "", false),
            (500, r#"{"code":"internal"}"#, true),
            (500, "<html>", true),
            (502, "", true),
            (503, "", true),
            (503, r#"{"code":"busy"}"#, false),
            (503, r#"{"code":"read_only"}"#, false),
            (503, r#"{"code":"unavailable"}"#, true),
            (504, r#"{"code":"timeout"}"#, true),
        ] {
            assert_eq!(answer(status, body).leaves_open(), is_open, "{status} {body}");
        }
    }

    fn answer(status: u16, body: &str) -> ServiceAnswer {
        let body = Zeroizing::new(body.as_bytes().to_vec());
        ServiceAnswer { status, fields: HeaderMap::new(), body }
    }

    #[test]
    fn refusals_end_as_commands_do() {
        let refused = |status: u16, body: &str| {
            let error = answer(status, body).refusal("https://x");
            (Exit::from_code(error.exit()), error.to_string())
        };
        for (status, body, exit, says) in [
            (
                401,
                r#"{"code":"invalid_credential","detail":"no"}"#,
                Exit::Data,
                "--credential-file",
            ),
            (
                404,
                r#"{"code":"not_found","detail":"no"}"#,
                Exit::NoInput,
                "not for this credential",
            ),
            (503, r#"{"code":"busy","detail":"no"}"#, Exit::TryAgain, "try again"),
            (500, r#"{"code":"internal","detail":"no"}"#, Exit::TryAgain, "log of the service"),
            (412, r#"{"code":"version_mismatch","detail":"no"}"#, Exit::TryAgain, "meanwhile"),
            (302, "", Exit::Data, "leads elsewhere"),
            (429, "slow down", Exit::TryAgain, "before the service"),
            (502, "<html>", Exit::TryAgain, "before the service"),
            (404, "<html>", Exit::Data, "without /v1"),
            (422, r#"{"code":"a_word_of_tomorrow","detail":"no"}"#, Exit::Data, "https://x: no"),
        ] {
            let (is, text) = refused(status, body);
            assert_eq!(is, exit, "{status} {body}");
            assert!(text.contains(says), "{text}");
        }
    }

    #[test]
    fn what_may_hold_a_secret_is_not_shown() {
        let answer = answer(201, r#"{"secret":"hunter2"}"#);
        let wrong = answer.json::<Vec<u64>>("https://x").unwrap_err().to_string();
        let number = answer.json::<std::collections::BTreeMap<String, u64>>("https://x");
        let number = number.unwrap_err().to_string();
        let shown = format!("{answer:?}");
        assert!(![wrong, number, shown].concat().contains("hunter2"));
    }
}
