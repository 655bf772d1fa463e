//! Fetches a table or patch from an http(s) URL. Trust is based on the signature, not on this file.
//! This file protects memory, time and the credential. Imports `config`, `remote`, `wording` and
//! `reload::{pace, source, steady, validators}`.

use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use ureq::config::ConfigBuilder;
use ureq::typestate::AgentScope;

use super::pace::{Pace, WaitClaim};
use super::source::SourceError;
use super::steady::SteadyBody;
use crate::config::UrlOptions;
use crate::remote::{self, RemoteFileError};
use crate::table::Buffer;
use crate::wording::visible::one_line;

pub use super::validators::Validators;

/// The most redirects that are followed. Never from https to http.
const MAX_REDIRECTS: u32 = 5;

/// The most bytes of a response head.
const MAX_HEAD: usize = 32 * 1024;

/// For resolving the name, and for sending a request.
const CONNECT: Duration = Duration::from_secs(5);

/// For the head of a response, in addition to the long poll's own wait.
const RESPONSE: Duration = Duration::from_secs(10);

/// Longest pause between two bytes of a body.
const STALL: Duration = Duration::from_secs(15);

/// For an issuer's keys, from the first step to the last byte.
const KEYS: Duration = Duration::from_secs(15);

/// For a whole body that comes steadily ([`SteadyBody`]).
const BODY: Duration = Duration::from_secs(15 * 60);

/// The request field that names the sidecar. Together with `If-None-Match`, which names what the
/// sidecar has accepted, it shows a server the state of each of its sidecars.
const INSTANCE: HeaderName = HeaderName::from_static("keygate-instance");

/// The request field with the signed head of what the sidecar has accepted, in base64 of RFC 4648
/// section 5.
const HEAD: HeaderName = HeaderName::from_static("keygate-head");

/// Longest head that is sent, in bytes: servers limit the fields of a request.
const LONGEST_SHOWN: usize = 6 * 1024;

/// One URL that is fetched again and again.
pub struct UrlSource {
    url: Box<str>,
    agent: ureq::Agent,
    options: UrlOptions,
    /// The name of the sidecar that asks. `None`: the caller does not serve.
    instance: Option<HeaderValue>,
    /// The validators of what was last accepted, so that it is not sent again.
    taken: Validators,
    /// The signed head of that. It proves to a server that knows its sidecars what this one has.
    head: Option<HeaderValue>,
}

/// A server's answer.
pub enum FetchAnswer {
    /// Another version. Its validators count once it was accepted ([`UrlSource::taken`]).
    Changed {
        bytes: Buffer,
        validators: Validators,
    },
    /// 404: nothing was published there.
    Missing {
        retry_after: Option<Duration>,
    },
    Unchanged,
}

/// Why there is no usable answer.
#[derive(Debug)]
pub struct FetchFault {
    pub error: SourceError,
    /// The server did not answer, or said that it cannot, or when it can. An answer that was wrong
    /// or cut short is different: the next one may be as large.
    pub is_away: bool,
}

/// An answer, and whether the server says that it held it back until there was something to say.
pub struct Fetch {
    pub answer: FetchAnswer,
    pub claim: WaitClaim,
    /// How long it is valid, by `Cache-Control`.
    pub max_age: Option<Duration>,
}

/// Whether the server may hold the answer back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferDeadline {
    AtOnce,
    /// `Prefer: wait`, if it is configured.
    Wait,
}

// === impl UrlSource ===

impl UrlSource {
    pub(super) fn new(url: &str, options: &UrlOptions) -> Result<Self, SourceError> {
        let config = agent(url, options)?
            .max_redirects(MAX_REDIRECTS)
            .accept("application/octet-stream, */*")
            .timeout_per_read(Some(STALL + options.long_poll))
            .timeout_recv_response(Some(RESPONSE + options.long_poll))
            .timeout_recv_body(Some(BODY))
            .build();
        let agent = remote::open(config);
        let (url, options) = (url.into(), options.clone());
        Ok(Self { url, agent, options, instance: None, taken: Validators::default(), head: None })
    }

    /// As [`Self::new`], and names the sidecar in each request. A name that is not a valid header
    /// value is left out.
    pub fn of_instance(
        url: &str,
        options: &UrlOptions,
        instance: Option<&str>,
    ) -> Result<Self, SourceError> {
        let instance = instance.and_then(|name| HeaderValue::from_str(name).ok());
        Ok(Self { instance, ..Self::new(url, options)? })
    }

    /// The pace at which to ask it, from the beginning.
    pub fn pace(&self) -> Pace {
        if self.waits() { Pace::waiting() } else { Pace::polling() }
    }

    /// Whether keygate asks the server to hold answers back.
    pub fn waits(&self) -> bool {
        self.options.long_poll.as_secs() > 0
    }

    /// A source of an issuer's signing keys: small, answered immediately, and from nowhere else.
    pub(super) fn of_keys(url: &str, ca: Option<&Path>) -> Result<Self, SourceError> {
        let options = UrlOptions { ca: ca.map(Path::to_owned), ..UrlOptions::default() };
        let config = agent(url, &options)?
            .max_redirects(0)
            .max_redirects_will_error(true)
            .accept("application/jwk-set+json, application/json")
            .timeout_global(Some(KEYS))
            .build();
        let agent = remote::open(config);
        Ok(Self {
            url: url.into(),
            agent,
            options,
            instance: None,
            taken: Validators::default(),
            head: None,
        })
    }

    /// Asks for something newer than what was accepted. More than `max_bytes` are refused.
    pub fn fetch(&self, patience: TransferDeadline, max_bytes: u64) -> Result<Fetch, FetchFault> {
        let mut request = self.agent.get(&*self.url);
        if let Some(etag) = &self.taken.etag {
            request = request.header(header::IF_NONE_MATCH, etag);
        } else if let Some(date) = &self.taken.last_modified {
            request = request.header(header::IF_MODIFIED_SINCE, date);
        }
        let known = self.taken.etag.is_some() || self.taken.last_modified.is_some();
        // RFC 7240 section 4.3. A server that has something answers immediately. One that has
        // nothing yet may wait for it.
        let asked = patience == TransferDeadline::Wait && self.waits();
        if asked {
            let wait = self.options.long_poll.as_secs();
            request = request.header("prefer", format!("wait={wait}"));
        }
        if let Some(instance) = &self.instance {
            request = request.header(INSTANCE, instance);
            if let Some(head) = self.head.as_ref().filter(|_| self.taken.etag.is_some()) {
                request = request.header(HEAD, head);
            }
        }
        // Never forwarded to another host (ureq's default).
        if let Some(value) = remote::authorization(&self.options)? {
            request = request.header(header::AUTHORIZATION, value);
        }
        let mut response = request.call().map_err(FetchFault::of_call)?;
        let claim = if asked { WaitClaim::of(response.headers()) } else { WaitClaim::NotAsked };
        let max_age = max_age(response.headers());
        let retry_after = retry_after(response.headers());
        match response.status().as_u16() {
            304 if known => {
                return Ok(Fetch { answer: FetchAnswer::Unchanged, claim, max_age });
            }
            200 => {}
            404 => {
                let answer = FetchAnswer::Missing { retry_after };
                return Ok(Fetch { answer, claim, max_age });
            }
            status => {
                let is_away = says_when(status, retry_after);
                let error = SourceError::Status { status, retry_after };
                return Err(FetchFault { error, is_away });
            }
        }
        if let Some(coding) = response.headers().get(header::CONTENT_ENCODING)
            && coding != "identity"
        {
            let coding = coding.to_str().unwrap_or("?").escape_default().to_string();
            return Err(SourceError::Encoding(coding).into());
        }
        let validators = Validators::of_answer(response.headers());
        let bytes = read_body(response.body_mut(), max_bytes)?;
        Ok(Fetch { answer: FetchAnswer::Changed { bytes, validators }, claim, max_age })
    }

    /// The version with these validators was processed: only a newer one is wanted. For tables and
    /// patches the caller keeps those that can be true ([`Validators::naming`]).
    pub fn taken(&mut self, validators: Validators) {
        self.taken = validators;
    }

    /// What was last accepted begins with this head.
    pub fn shows(&mut self, head: Option<&[u8]>) {
        let head = head.filter(|head| head.len() <= LONGEST_SHOWN);
        let text = head.map(|head| BASE64_URL_SAFE_NO_PAD.encode(head));
        self.head = text.and_then(|text| HeaderValue::try_from(text).ok());
    }

    /// The next fetch asks for whatever there is.
    pub(super) fn forget(&mut self) {
        self.taken = Validators::default();
    }
}

// === impl FetchFault ===

impl FetchFault {
    fn of_call(error: ureq::Error) -> Self {
        let error = SourceError::of_ureq(error);
        let is_away = matches!(error, SourceError::Network(_) | SourceError::Timeout(_));
        Self { error, is_away }
    }
}

impl From<SourceError> for FetchFault {
    fn from(error: SourceError) -> Self {
        Self { error, is_away: false }
    }
}

impl From<RemoteFileError> for FetchFault {
    fn from(error: RemoteFileError) -> Self {
        SourceError::from(error).into()
    }
}

// === impl WaitClaim ===

impl WaitClaim {
    fn of(fields: &HeaderMap) -> Self {
        let mut applied = fields.get_all("preference-applied").iter();
        let is_wait =
            |v: &HeaderValue| v.as_bytes().to_ascii_lowercase().windows(4).any(|w| w == b"wait");
        if applied.any(is_wait) { Self::Claimed } else { Self::Silent }
    }
}

impl std::fmt::Debug for UrlSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UrlSource").field("url", &self.url).finish_non_exhaustive()
    }
}

/// The common settings of every fetch.
fn agent(url: &str, options: &UrlOptions) -> Result<ConfigBuilder<AgentScope>, SourceError> {
    Ok(remote::agent(url, options)?
        .max_response_header_size(MAX_HEAD)
        .accept_encoding("identity")
        .timeout_resolve(Some(CONNECT))
        .timeout_send_request(Some(CONNECT)))
}

/// Whether the server says that it cannot answer now. After a 429 with a time, keygate must not
/// double its pause: the server has named the one that suits it.
fn says_when(status: u16, retry_after: Option<Duration>) -> bool {
    status >= 500 || status == 429 && retry_after.is_some()
}

/// `max-age` of `Cache-Control` (RFC 9111 section 5.2.2.1).
fn max_age(fields: &HeaderMap) -> Option<Duration> {
    let directives = fields.get_all(header::CACHE_CONTROL).iter().filter_map(|v| v.to_str().ok());
    let ages = directives.flat_map(|v| v.split(',')).filter_map(|directive| {
        let (name, value) = directive.trim().split_once('=')?;
        let age = name.eq_ignore_ascii_case("max-age").then(|| value.trim_matches('"'))?;
        age.parse().ok().map(Duration::from_secs)
    });
    ages.min()
}

/// `Retry-After` (RFC 9110 section 10.2.3): seconds, or a date, which is compared with the server's
/// own.
fn retry_after(fields: &HeaderMap) -> Option<Duration> {
    let text = |name| fields.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let after = text(header::RETRY_AFTER)?;
    if let Ok(seconds) = after.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = httpdate::parse_http_date(after).ok()?;
    let now = httpdate::parse_http_date(text(header::DATE)?).ok()?;
    // A date in the past: immediately.
    Some(until.duration_since(now).unwrap_or_default())
}

fn read_body(body: &mut ureq::Body, limit: u64) -> Result<Buffer, SourceError> {
    let stated = body.content_length();
    if let Some(bytes) = stated.filter(|n| *n > limit) {
        return Err(SourceError::TooLarge { bytes, limit });
    }
    let reader = body.with_config().limit(limit.saturating_add(2)).reader();
    let mut reader = SteadyBody::new(reader);
    // A stated length within the bound is trusted for the size of the buffer, not for the end of
    // the body.
    let expected = stated.unwrap_or(0);
    let bytes = Buffer::read(&mut reader, expected, limit).map_err(|e| match e.kind() {
        std::io::ErrorKind::OutOfMemory => SourceError::TooLarge { bytes: expected, limit },
        _ => SourceError::of_ureq(ureq::Error::from(e)),
    })?;
    if bytes.len() as u64 > limit {
        return Err(SourceError::TooLarge { bytes: bytes.len() as u64, limit });
    }
    if let Some(stated) = stated.filter(|n| *n != bytes.len() as u64) {
        let got = bytes.len();
        return Err(SourceError::Network(format!("{got} of {stated} bytes came")));
    }
    Ok(bytes)
}

impl SourceError {
    /// The library's messages name hosts and addresses, never a credential.
    fn of_ureq(error: ureq::Error) -> Self {
        match error {
            ureq::Error::TooManyRedirects
            | ureq::Error::RedirectFailed
            | ureq::Error::RequireHttpsOnly(_) => Self::Redirect,
            ureq::Error::Timeout(what) => Self::Timeout(what.to_string()),
            ureq::Error::Io(e) if e.kind() == std::io::ErrorKind::TimedOut => {
                Self::Timeout(e.to_string())
            }
            ureq::Error::BodyStalled => Self::Timeout("the body stalled".to_owned()),
            // It may quote the answer, such as the target of a redirect.
            other => Self::Network(one_line(&other.to_string()).into_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_that_the_server_names_is_not_doubled() {
        let second = Some(Duration::from_secs(1));
        for (status, retry_after, wanted) in [
            (503, None, true),
            (500, second, true),
            (429, second, true),
            (429, None, false),
            (401, second, false),
            (403, None, false),
        ] {
            assert_eq!(says_when(status, retry_after), wanted, "{status} {retry_after:?}");
        }
    }

    #[test]
    fn an_answer_that_is_quoted_makes_no_line_of_its_own() {
        let error =
            ureq::Error::BadUri("http://a\n2027-01-31 INFO all is well\u{1b}[31m".to_owned());
        let told = SourceError::of_ureq(error).to_string();
        assert!(!told.contains(['\n', '\u{1b}']) && told.contains("all is well"), "{told:?}");
    }

    #[test]
    fn a_retry_is_after_seconds_or_at_a_date() {
        let now = "Sun, 06 Nov 1994 08:49:37 GMT";
        for (after, date, wanted) in [
            ("7", None, Some(7)),
            (" 7 ", None, Some(7)),
            ("0", None, Some(0)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(now), Some(60)),
            ("Sun, 06 Nov 1994 08:40:37 GMT", Some(now), Some(0)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", None, None),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some("today"), None),
            ("-1", None, None),
            ("1.5", None, None),
            ("soon", None, None),
        ] {
            let mut fields = HeaderMap::new();
            fields.insert(header::RETRY_AFTER, HeaderValue::from_static(after));
            if let Some(date) = date {
                fields.insert(header::DATE, HeaderValue::from_static(date));
            }
            assert_eq!(retry_after(&fields), wanted.map(Duration::from_secs), "{after}");
        }
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }
}
