//! Questions to servers that the configuration names: a product's session endpoint, an issuer's
//! keys, an OpenID provider. Follows no redirect, uses no proxy from the environment, and accepts
//! no long or slow answer.

use std::collections::HashMap;
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use crate::config::UrlOptions;
use crate::remote;

/// The most questions to one provider at a time: each holds a thread.
const MOST: usize = 32;

/// The places for questions, by provider: one that does not answer holds up nobody else's people.
static PLACES: Mutex<Option<HashMap<AskedProvider, Arc<Semaphore>>>> = Mutex::new(None);

/// Who is asked: an entry of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum AskedProvider {
    /// A place of public keys.
    Keys(Box<str>),
    Oidc(Box<str>),
    Session(Box<str>),
}

/// One question.
pub(super) struct RemoteQuestion {
    pub(super) of: AskedProvider,
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

// === impl AskError ===

impl AskError {
    /// Whether it says nothing about what was asked: nobody has answered, or an answer says that it
    /// cannot.
    pub(super) const fn is_unreachable(&self) -> bool {
        match self {
            Self::Failed(_) => true,
            Self::Status(status) | Self::Refused { status, .. } => *status == 429 || *status >= 500,
            Self::Long(_) => false,
        }
    }
}

fn places_of(provider: &AskedProvider) -> Arc<Semaphore> {
    // The map is consistent at every point where a thread could panic.
    let mut all = PLACES.lock().unwrap_or_else(PoisonError::into_inner);
    let all = all.get_or_insert_default();
    let places = all.entry(provider.clone()).or_insert_with(|| Arc::new(Semaphore::new(MOST)));
    Arc::clone(places)
}

/// Returns the body of a 200.
///
/// # Errors
/// Anything else.
pub(super) async fn ask(question: RemoteQuestion) -> Result<Vec<u8>, AskError> {
    let failed = |error: &dyn std::fmt::Display| AskError::Failed(error.to_string());
    let deadline = question.deadline;
    let places = places_of(&question.of);
    let asked = async {
        let _place = places.acquire().await.map_err(|error| failed(&error))?;
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

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::TcpListener;

    use super::*;

    fn question(name: &str, listener: &TcpListener, deadline: Duration) -> RemoteQuestion {
        RemoteQuestion {
            of: AskedProvider::Oidc(name.into()),
            url: format!("http://{}/", listener.local_addr().unwrap()),
            ca: None,
            with: AskedWith::Nothing,
            longest: 100,
            deadline,
        }
    }

    /// It takes connections, and never answers.
    #[test]
    fn a_provider_that_hangs_holds_up_no_other() {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let hanging = TcpListener::bind("127.0.0.1:0").unwrap();
        let well = TcpListener::bind("127.0.0.1:0").unwrap();
        let (name, other) = ("hangs", "is well");
        runtime.block_on(async {
            let deadline = Duration::from_secs(3);
            let asking =
                (0..2 * MOST).map(|_| tokio::spawn(ask(question(name, &hanging, deadline))));
            let asking: Vec<_> = asking.collect();
            while places_of(&AskedProvider::Oidc(name.into())).available_permits() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let asked = question(other, &well, Duration::from_millis(500));
            let answering = std::thread::spawn(move || {
                let (mut stream, _) = well.accept().unwrap();
                let mut head = [0; 1024];
                assert!(stream.read(&mut head).unwrap() > 0);
                let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi";
                stream.write_all(answer.as_bytes()).unwrap();
            });
            assert_eq!(ask(asked).await.unwrap(), b"hi");
            answering.join().unwrap();
            for asking in asking {
                let told = asking.await.unwrap().unwrap_err();
                assert!(told.is_unreachable(), "{told}");
            }
        });
    }
}
