//! Questions to servers that the configuration names: a product's session endpoint, an issuer's keys.
//! No redirect is followed, no proxy of the environment used, nothing long or slow taken.

use std::io::Read as _;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use crate::config::UrlOptions;
use crate::remote::agent;

/// Questions at a time: each holds a thread.
const MOST: usize = 32;

static PLACES: Semaphore = Semaphore::const_new(MOST);

/// What is asked.
pub(super) struct RemoteQuestion {
    pub(super) url: String,
    /// Authorities of the server; `None`: the usual ones.
    pub(super) ca: Option<PathBuf>,
    /// The one cookie that goes along, `name=value`.
    pub(super) cookie: Option<Zeroizing<String>>,
    /// Of the answer, in bytes.
    pub(super) longest: u64,
    /// For all of it.
    pub(super) deadline: Duration,
}

/// Nobody outside learns which.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error("{0}")]
    Failed(String),
    #[error("the answer is longer than {0} bytes")]
    Long(u64),
    #[error("the answer has status {0}")]
    Status(u16),
}

/// The body of a 200 to a GET.
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
    let agent = agent(&question.url, &options)
        .map_err(|error| failed(&error))?
        .max_redirects(0)
        .timeout_global(Some(question.deadline))
        .build()
        .new_agent();
    let mut request = agent.get(&question.url).header("accept", "application/json");
    if let Some(cookie) = &question.cookie {
        request = request.header("cookie", &**cookie);
    }
    let answer = request.call().map_err(|error| failed(&error))?;
    if answer.status().as_u16() != 200 {
        return Err(AskError::Status(answer.status().as_u16()));
    }
    let mut body = Vec::new();
    let read = answer.into_body().into_reader().take(question.longest + 1).read_to_end(&mut body);
    read.map_err(|error| failed(&error))?;
    match body.len() as u64 > question.longest {
        true => Err(AskError::Long(question.longest)),
        false => Ok(body),
    }
}
