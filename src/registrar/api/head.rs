//! The parts of a request outside its body: parameters of the query, `If-Match`, `Idempotency-Key`,
//! `Prefer`. Also the body as bytes, with a limit.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::{Bytes, to_bytes};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, header};

use super::problem::{ApiProblem, ProblemCode, ProblemFault};
use crate::core::Digest;
use crate::registrar::app::App;
use crate::registrar::request::BODY_LIMIT;
use crate::registrar::store::{IdempotencyKey, KeyQuery};

const IDEMPOTENCY_KEY: &str = "idempotency-key";
const PREFER: &str = "prefer";

/// The longest that an answer waits for sidecars.
const LONGEST_WAIT: Duration = Duration::from_secs(20);

/// Names in the path. Invalid UTF-8 names nothing.
#[derive(Debug)]
pub struct PathNames<T>(pub T);

/// A body, with everything that decides how to carry it out.
#[derive(Debug)]
pub struct ChangeCall {
    pub body: Bytes,
    pub if_match: Option<MatchedVersion>,
    pub idempotency: Option<IdempotencyKey>,
    /// How long to wait for the change to be in force everywhere.
    pub wait: Option<Duration>,
}

/// What `If-Match` names (RFC 9110, section 13.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatchedVersion {
    /// `*`
    Any,
    This(u64),
}

/// Parameters of a query, each at most once.
#[derive(Debug)]
pub struct QueryParameters {
    left: BTreeMap<String, String>,
    faults: Vec<ProblemFault>,
}

// === impl PathNames ===

impl<T> FromRequestParts<App> for PathNames<T>
where
    T: serde::de::DeserializeOwned + Send,
{
    type Rejection = ApiProblem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiProblem> {
        let found = Path::<T>::from_request_parts(parts, app).await;
        found.map(|Path(names)| Self(names)).map_err(|_| ApiProblem::not_found())
    }
}

// === impl MatchedVersion ===

impl MatchedVersion {
    /// For a change: `None` is any version.
    pub fn version(self) -> Option<u64> {
        match self {
            Self::Any => None,
            Self::This(version) => Some(version),
        }
    }

    fn of(headers: &HeaderMap) -> Result<Option<Self>, ApiProblem> {
        let Some(text) = only(headers, header::IF_MATCH.as_str())? else { return Ok(None) };
        if text.trim() == "*" {
            return Ok(Some(Self::Any));
        }
        let quoted = text.trim().strip_prefix('"').and_then(|text| text.strip_suffix('"'));
        let version = quoted.and_then(|text| text.parse().ok());
        version.map(|version| Some(Self::This(version))).ok_or_else(|| {
            let why = "must be the `ETag` of an answer, such as `\"3\"`, or `*`";
            ApiProblem::unreadable(vec![ProblemFault::of("If-Match", why)])
        })
    }
}

// === impl ChangeCall ===

impl ChangeCall {
    /// The version that the caller has read.
    pub fn version(&self) -> Option<u64> {
        self.if_match.and_then(MatchedVersion::version)
    }

    /// Refuses a change that could undo what somebody else did in the meantime.
    pub fn needs_match(&self) -> Result<(), ApiProblem> {
        match self.if_match {
            Some(_) => Ok(()),
            None => {
                let why = "send `If-Match` with the `ETag` of what you have read";
                Err(ApiProblem::new(ProblemCode::PreconditionRequired, why))
            }
        }
    }
}

impl FromRequest<App> for ChangeCall {
    type Rejection = ApiProblem;

    async fn from_request(request: Request, _: &App) -> Result<Self, ApiProblem> {
        let (parts, body) = request.into_parts();
        let body = to_bytes(body, BODY_LIMIT).await.map_err(|_| {
            ApiProblem::new(ProblemCode::TooLarge, "a request body is at most 64 KiB")
        })?;
        if !body.is_empty() && !is_json(&parts) {
            let why = "the body has to be `Content-Type: application/json`";
            return Err(ApiProblem::new(ProblemCode::UnsupportedMediaType, why));
        }
        Ok(Self {
            if_match: MatchedVersion::of(&parts.headers)?,
            idempotency: idempotency(&parts, &body)?,
            wait: wait(&parts.headers)?,
            body,
        })
    }
}

/// RFC 7396 has a media type of its own for merge patches; plain JSON is accepted too.
fn is_json(parts: &Parts) -> bool {
    let kind = parts.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/json")
        || parts.method == Method::PATCH
            && kind.eq_ignore_ascii_case("application/merge-patch+json")
}

fn idempotency(parts: &Parts, body: &[u8]) -> Result<Option<IdempotencyKey>, ApiProblem> {
    let Some(name) = only(&parts.headers, IDEMPOTENCY_KEY)? else { return Ok(None) };
    if !(1..=255).contains(&name.len()) || !name.bytes().all(|b| b.is_ascii_graphic()) {
        let why = "must be 1 to 255 visible ASCII characters";
        return Err(ApiProblem::unreadable(vec![ProblemFault::of("Idempotency-Key", why)]));
    }
    // Each part with its length, so that no two requests have the same bytes. `If-Match` is part of
    // what was asked for.
    let matched = parts.headers.get(header::IF_MATCH).map(|v| v.as_bytes()).unwrap_or_default();
    let mut told = Vec::new();
    for part in [parts.method.as_str().as_bytes(), parts.uri.path().as_bytes(), matched, body] {
        told.extend_from_slice(&(part.len() as u64).to_be_bytes());
        told.extend_from_slice(part);
    }
    Ok(Some(IdempotencyKey { name: name.into(), body: Digest::of(&told) }))
}

/// `wait=N` of `Prefer` (RFC 7240, section 4.3). Other preferences are ignored.
fn wait(headers: &HeaderMap) -> Result<Option<Duration>, ApiProblem> {
    let lines = headers.get_all(PREFER).iter().filter_map(|line| line.to_str().ok());
    let mut waits = lines.flat_map(|line| line.split(',')).filter_map(|preference| {
        let (name, value) = preference.split(';').next()?.split_once('=')?;
        name.trim().eq_ignore_ascii_case("wait").then(|| value.trim().trim_matches('"').to_owned())
    });
    let Some(text) = waits.next() else { return Ok(None) };
    match text.parse().map(Duration::from_secs) {
        Ok(wait) => Ok(Some(wait.min(LONGEST_WAIT))),
        Err(_) => {
            let why = "wait is a number of seconds, such as `wait=5`";
            Err(ApiProblem::unreadable(vec![ProblemFault::of("Prefer", why)]))
        }
    }
}

/// The value of a field that may occur once.
fn only<'h>(headers: &'h HeaderMap, name: &'static str) -> Result<Option<&'h str>, ApiProblem> {
    let mut lines = headers.get_all(name).iter();
    let unreadable = |why| {
        let shown = match name {
            IDEMPOTENCY_KEY => "Idempotency-Key",
            _ => "If-Match",
        };
        ApiProblem::unreadable(vec![ProblemFault::of(shown, why)])
    };
    match (lines.next(), lines.next()) {
        (None, _) => Ok(None),
        (Some(line), None) => {
            line.to_str().map(Some).map_err(|_| unreadable("must be visible ASCII characters"))
        }
        (Some(_), Some(_)) => Err(unreadable("is there twice")),
    }
}

// === impl QueryParameters ===

impl QueryParameters {
    /// `known`: the parameters that the path understands. Others are refused, because a misspelled
    /// filter must not show everything.
    pub fn of(parts: &Parts, known: &'static [&'static str]) -> Result<Self, ApiProblem> {
        let pairs = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri).map_err(|_| {
            ApiProblem::unreadable(vec![ProblemFault::of("query", "cannot be read")])
        })?;
        let mut left = BTreeMap::new();
        let mut faults = Vec::new();
        for (name, value) in pairs.0 {
            match known.iter().find(|known| **known == name) {
                None => {
                    let why = format!("has an unknown parameter; known are {}", known.join(", "));
                    faults.push(ProblemFault::of("query", why));
                }
                Some(known) => {
                    if left.insert(name, value).is_some() {
                        faults.push(ProblemFault::of(known, "is there twice"));
                    }
                }
            }
        }
        Ok(Self { left, faults })
    }

    /// One of them, parsed. An empty one counts as missing, because forms send it so.
    pub fn take<T>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.left.remove(name).filter(|text| !text.is_empty())?;
        parse(&text).map_err(|why| self.faults.push(ProblemFault::of(name, why))).ok()
    }

    /// How many rows a page should have.
    pub fn limit(&mut self) -> Option<usize> {
        self.take("limit", |text| {
            let parsed = text.parse().ok().filter(|limit| (1..=KeyQuery::MOST).contains(limit));
            parsed.ok_or_else(|| format!("must be 1 to {}", KeyQuery::MOST))
        })
    }

    pub fn end<T>(self, made: T) -> Result<T, ApiProblem> {
        match self.faults.is_empty() {
            true => Ok(made),
            false => Err(ApiProblem::unreadable(self.faults)),
        }
    }
}
