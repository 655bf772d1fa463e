//! Questions to sidecars on their admin listeners: their usage record, and what they have in force.

use std::io::Read;
use std::time::Duration;

use http::header;

use super::config::AskedSidecar;
use crate::remote;

/// The body of a successful answer to `GET URL` with `query` appended. Blocks.
///
/// # Errors
///
/// Why there is none, in one line.
pub fn get(
    sidecar: &AskedSidecar,
    query: &str,
    whole: Duration,
    most_bytes: u64,
) -> Result<impl Read + use<>, String> {
    let AskedSidecar { url, options, .. } = sidecar;
    let agent = remote::agent(url, options).map_err(|error| error.to_string())?;
    // Only this server may see the credential.
    let agent = remote::open(agent.max_redirects(0).timeout_global(Some(whole)).build());
    let mut request = agent.get(format!("{url}{query}"));
    if let Some(value) = remote::authorization(options).map_err(|e| e.to_string())? {
        request = request.header(header::AUTHORIZATION, value);
    }
    let answer = request.call().map_err(|error| error.to_string())?;
    if !answer.status().is_success() {
        return Err(format!("the sidecar answered {}", answer.status().as_u16()));
    }
    Ok(answer.into_body().into_with_config().limit(most_bytes).reader())
}

/// Host and port, by which people know a sidecar that is asked.
pub fn address(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}
