//! Questions to servers that the configuration names: a product's session endpoint, an issuer's
//! keys, an OpenID provider. Follows no redirect, uses no proxy from the environment, and accepts
//! no long or slow answer.

use std::io::Read as _;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use crate::config::UrlOptions;
use crate::remote;

/// The most questions at a time: each holds a thread.
const MOST: usize = 32;

static PLACES: Semaphore = Semaphore::const_new(MOST);

/// One question.
pub(super) struct RemoteQuestion {
    pub(super) url: String,
    /// Authorities of the server; `None`: the usual ones.
    pub(super) ca: Option<PathBuf>,
    pub(super) with: AskedWith,
    /// The longest answer, in bytes.
    pub(super) longest: u64,
    /// For the whole exchange.
    pub(super) deadline: Duration,
}

/// The only thing that goes along with a question.
pub(super) enum AskedWith {
    Nothing,
    /// An access token.
    Bearer(Zeroizing<String>),
    /// `name=value`.
    Cookie(Zeroizing<String>),
    /// A POST of a form, with name and secret of the client in Base64, or with both in the form.
    Form {
        body: Zeroizing<String>,
        basic: Option<Zeroizing<String>>,
    },
}

/// The reason goes to the log. Nobody outside learns it.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error("{0}")]
    Failed(String),
    #[error("the answer is longer than {0} bytes")]
    Long(u64),
    /// To a form. `error` is the server's name for the error (RFC 6749, section 5.2).
    #[error("the answer has status {status}: {error}")]
    Refused { status: u16, error: Box<str> },
    #[error("the answer has status {0}")]
    Status(u16),
}

/// The longest name of an error, and the longest body to search for one.
const LONGEST_ERROR: usize = 64;
const LONGEST_REFUSAL: u64 = 4096;

/// Returns the body of a 200.
///
/// # Errors
/// Anything else.
pub(super) async fn ask(question: RemoteQuestion) -> Result<Vec<u8>, AskError> {
    let failed = |error: &dyn std::fmt::Display| AskError::Failed(error.to_string());
    let deadline = question.deadline;
    let asked = async {
        let _place = PLACES.acquire().await.map_err(|error| failed(&error))?;
        let answer = tokio::task::spawn_blocking(move || get(&question)).await;
        answer.map_err(|error| failed(&error))?
    };
    let answer = tokio::time::timeout(deadline.saturating_mul(2), asked).await;
    answer.map_err(|_| AskError::Failed("no answer in time".to_owned()))?
}

fn get(question: &RemoteQuestion) -> Result<Vec<u8>, AskError> {
    let failed = |error: &dyn std::fmt::Display| AskError::Failed(error.to_string());
    let options = UrlOptions { ca: question.ca.clone(), ..UrlOptions::default() };
    let settings = remote::agent(&question.url, &options).map_err(|error| failed(&error))?;
    let settings = settings.max_redirects(0).timeout_global(Some(question.deadline));
    let agent = remote::open(settings.build());
    let get = || agent.get(&question.url).header("accept", "application/json");
    let answer = match &question.with {
        AskedWith::Nothing => get().call(),
        AskedWith::Bearer(token) => {
            let value = Zeroizing::new(format!("Bearer {}", **token));
            get().header("authorization", &**value).call()
        }
        AskedWith::Cookie(cookie) => get().header("cookie", &**cookie).call(),
        AskedWith::Form { body, basic } => {
            let mut request = agent
                .post(&question.url)
                .header("accept", "application/json")
                .header("content-type", "application/x-www-form-urlencoded");
            if let Some(basic) = basic {
                let value = Zeroizing::new(format!("Basic {}", **basic));
                request = request.header("authorization", &**value);
            }
            request.send(body.as_bytes())
        }
    };
    let answer = answer.map_err(|error| failed(&error))?;
    let status = answer.status().as_u16();
    if status != 200 {
        return Err(match &question.with {
            AskedWith::Form { .. } => AskError::Refused { status, error: named_error(answer) },
            _ => AskError::Status(status),
        });
    }
    let mut body = Vec::new();
    let read = answer.into_body().into_reader().take(question.longest + 1).read_to_end(&mut body);
    read.map_err(|error| failed(&error))?;
    match body.len() as u64 > question.longest {
        true => Err(AskError::Long(question.longest)),
        false => Ok(body),
    }
}

/// The server's name for the error: one word, or empty.
fn named_error(answer: http::Response<ureq::Body>) -> Box<str> {
    let mut body = Vec::new();
    let mut reader = answer.into_body().into_reader().take(LONGEST_REFUSAL);
    if reader.read_to_end(&mut body).is_err() {
        return "no reason".into();
    }
    let told: Option<serde_json::Value> = serde_json::from_slice(&body).ok();
    let word = told.as_ref().and_then(|told| told.get("error")?.as_str());
    let fits = |word: &&str| {
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        (1..=LONGEST_ERROR).contains(&word.len()) && word.bytes().all(is_word)
    };
    word.filter(fits).unwrap_or("no reason").into()
}
