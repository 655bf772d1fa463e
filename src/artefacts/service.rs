//! Answers requests for artefacts, immediately or once there is something new.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use percent_encoding::percent_decode_str;
use tokio::sync::watch;

use super::etag::{ArtefactTag, KnownTags};
use super::leave::WaitersLeave;
use super::places::{NoPlace, PollCaller, WaitLimits, WaitingPlace, WaitingPolls};
use super::prefer::{PREFERENCE_APPLIED, wait};
use super::shelf::{ArtefactName, ArtefactShelf, ServedArtefacts, ShelvedArtefact};
use crate::core::Digest;

/// All paths begin with this.
const ROOT: &str = "/artefacts/";

/// The caller's name, as stated by the caller.
const INSTANCE: &str = "keygate-instance";

/// The signed head of its file proves what the caller has in force.
const HEAD: &str = "keygate-head";

/// Longest name of a sidecar.
const INSTANCE_MAX: usize = 128;

/// Sidecars that share a bearer token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArtefactFleet {
    pub name: Box<str>,
    /// Whose artefacts it sees. It cannot tell whether artefacts of other audiences exist.
    pub audiences: Vec<Box<str>>,
    /// Digest of the token. `None`: every caller without another fleet's token belongs to this one.
    pub bearer: Option<Digest>,
}

/// What a caller gets that says it has something newer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BehindCaller {
    /// The current artefact: it was published here.
    Sent,
    /// Nothing, until there is something even newer: another server had it earlier. A sidecar
    /// refuses what is older than what it has, and then waits before it asks again.
    Withheld,
}

/// The answer as counters need it: an extension of the response to a fleet's request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArtefactAnswered {
    pub audience: Box<str>,
    pub name: ArtefactName,
    /// The answer was held back for a while.
    pub waited: bool,
}

/// What a request says about its sender. The token proves the fleet; the rest is only what the
/// sidecar claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArtefactPoll {
    pub fleet: Box<str>,
    pub audience: Box<str>,
    pub name: ArtefactName,
    /// `Keygate-Instance`; `None`: not stated.
    pub instance: Option<Box<str>>,
    pub peer: Option<IpAddr>,
    /// What it has in force, by its `If-None-Match`; `None`: nothing from here.
    pub has: Option<ArtefactTag>,
    /// The signed head of that file, from `Keygate-Head`: nobody can forge it. Not verified yet.
    pub head: Option<Box<[u8]>>,
}

/// Serves the artefacts of a shelf. Clones share one state.
#[derive(Clone)]
pub struct ArtefactService(Arc<Serving>);

struct Serving {
    shelf: ArtefactShelf,
    fleets: ArcSwap<Vec<ArtefactFleet>>,
    polls: WaitingPolls,
    behind: BehindCaller,
    leave: WaitersLeave,
    told: Box<dyn Fn(ArtefactPoll) + Send + Sync>,
}

/// The service for one connection, as hyper calls it.
#[derive(Clone, Debug)]
pub struct ArtefactConnection {
    service: ArtefactService,
    peer: Option<IpAddr>,
}

/// Why there is no artefact. The words are the `code` of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NoArtefact {
    /// No token, or one that belongs to no fleet.
    Unauthorized,
    Method,
    /// No such path, or an audience of another fleet.
    NotFound,
    /// Nothing was published there yet.
    Unpublished,
    /// It is not known yet whether anything was published.
    Unknown,
    TooManyPolls,
    Busy,
}

// === impl ArtefactService ===

impl ArtefactService {
    /// `told` gets every request of a fleet before it is answered. It must not wait.
    pub fn new(
        shelf: ArtefactShelf,
        fleets: Vec<ArtefactFleet>,
        told: impl Fn(ArtefactPoll) + Send + Sync + 'static,
    ) -> Self {
        Self::with_terms(shelf, fleets, WaitLimits::default(), BehindCaller::Sent, told)
    }

    /// Like [`Self::new`], for servers that pass on what others publish.
    pub fn with_terms(
        shelf: ArtefactShelf,
        fleets: Vec<ArtefactFleet>,
        limits: WaitLimits,
        behind: BehindCaller,
        told: impl Fn(ArtefactPoll) + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(Serving {
            shelf,
            fleets: ArcSwap::from_pointee(fleets),
            polls: WaitingPolls::new(limits),
            behind,
            leave: WaitersLeave::new(),
            told: Box::new(told),
        }))
    }

    /// Serves these fleets from now on. Callers that already wait continue to wait, and get nothing
    /// that their token does not open by then.
    pub fn set_fleets(&self, fleets: Vec<ArtefactFleet>) {
        self.0.fleets.store(Arc::new(fleets));
    }

    /// Whether a request with these fields belongs to a fleet.
    pub fn is_of_fleet(&self, fields: &HeaderMap) -> bool {
        fleet(&self.0.fleets.load(), bearer(fields).as_ref()).is_some()
    }

    /// How many requests wait now.
    pub fn waiting(&self) -> usize {
        self.0.polls.waiting()
    }

    /// Lets waiting callers go within this time, evenly spread, and all who arrive from now on as
    /// well: the process is about to end. Until its turn, each still gets news immediately.
    pub fn leave(&self, within: Duration) {
        self.0.leave.begin(within);
    }

    /// For a connection from `peer`; `None`: a Unix socket.
    pub fn connection(&self, peer: Option<IpAddr>) -> ArtefactConnection {
        ArtefactConnection { service: self.clone(), peer }
    }

    /// Answers one request; its body is not read. With `Prefer: wait` that takes up to a minute, and
    /// ends as soon as the caller drops the future.
    pub async fn answer<B>(
        &self,
        request: Request<B>,
        peer: Option<IpAddr>,
    ) -> Response<Full<Bytes>> {
        let asked = match self.asked(&request, peer) {
            Ok(asked) => asked,
            Err(refused) => return refused.response(),
        };
        // Its fields would keep a buffer of the connection alive for as long as this waits.
        drop(request);
        let (audience, name) = (asked.audience.clone(), asked.name);
        let (mut response, waited) = match self.find(asked).await {
            Ok(found) => found,
            Err(refused) => return refused.response(),
        };
        response.extensions_mut().insert(ArtefactAnswered { audience, name, waited });
        response
    }

    fn asked<B>(
        &self,
        request: &Request<B>,
        peer: Option<IpAddr>,
    ) -> Result<ArtefactRequest, NoArtefact> {
        let fleets = self.0.fleets.load();
        let bearer = bearer(request.headers());
        let fleet = fleet(&fleets, bearer.as_ref()).ok_or(NoArtefact::Unauthorized)?;
        let path = request.uri().path().strip_prefix(ROOT).ok_or(NoArtefact::NotFound)?;
        let (audience, file) = path.split_once('/').ok_or(NoArtefact::NotFound)?;
        let audience = percent_decode_str(audience).decode_utf8().ok();
        let audience = audience.ok_or(NoArtefact::NotFound)?;
        let name = ArtefactName::of_file(file).ok_or(NoArtefact::NotFound)?;
        if !fleet.sees(&audience) {
            return Err(NoArtefact::NotFound);
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Err(NoArtefact::Method);
        }
        let instance = instance(request.headers());
        let caller = PollCaller {
            fleet: fleet.name.clone(),
            instance: instance.clone(),
            address: peer.map(|peer| peer.to_canonical()),
        };
        let known = KnownTags::of(request.headers());
        let has = known.newest();
        let audience: Box<str> = audience.into();
        (self.0.told)(ArtefactPoll {
            fleet: fleet.name.clone(),
            audience: audience.clone(),
            name,
            instance,
            peer,
            has,
            head: head(request.headers()),
        });
        let (wait, behind) = (wait(request.headers()), self.0.behind);
        Ok(ArtefactRequest { audience, name, known, caller, bearer, wait, behind })
    }

    /// The answer, and whether it was held back.
    async fn find(
        &self,
        asked: ArtefactRequest,
    ) -> Result<(Response<Full<Bytes>>, bool), NoArtefact> {
        let mut board = self.0.shelf.watch(&asked.audience);
        let answer = asked.look(&board.borrow_and_update());
        if asked.wait.is_zero() || matches!(answer, ArtefactFinding::New(_)) {
            return Ok((answer.response(), false));
        }
        let place = match self.0.polls.take(&asked.caller) {
            Ok(place) => place,
            Err(NoPlace::Caller) => return Ok((NoArtefact::TooManyPolls.response(), false)),
            Err(NoPlace::All) => return Ok((NoArtefact::Busy.response(), false)),
        };
        tokio::select! {
            () = asked.news(&mut board, &place) => {}
            () = tokio::time::sleep(asked.wait) => {}
            () = self.0.leave.turn() => {}
        }
        // Its token may have been taken away meanwhile.
        let fleets = self.0.fleets.load();
        let fleet = fleet(&fleets, asked.bearer.as_ref()).ok_or(NoArtefact::Unauthorized)?;
        if !fleet.sees(&asked.audience) {
            return Err(NoArtefact::NotFound);
        }
        // However the wait ends, the current state is the answer.
        let mut response = asked.look(&board.borrow_and_update()).response();
        if let Ok(applied) = HeaderValue::from_str(&format!("wait={}", asked.wait.as_secs())) {
            response.headers_mut().insert(PREFERENCE_APPLIED, applied);
        }
        Ok((response, true))
    }
}

// === impl ArtefactFleet ===

impl ArtefactFleet {
    fn sees(&self, audience: &str) -> bool {
        self.audiences.iter().any(|own| **own == *audience)
    }
}

/// The fleet that has the token with this digest. All are compared, each in constant time.
fn fleet<'f>(fleets: &'f [ArtefactFleet], digest: Option<&Digest>) -> Option<&'f ArtefactFleet> {
    let mut found = None;
    for fleet in fleets {
        let is_it = match (&fleet.bearer, digest) {
            (Some(own), Some(digest)) => own.matches(digest),
            (Some(_), None) => false,
            (None, _) => found.is_none(),
        };
        if is_it {
            found = Some(fleet);
        }
    }
    found
}

/// Digest of the token, if a request has exactly one.
fn bearer(fields: &HeaderMap) -> Option<Digest> {
    let mut values = fields.get_all(header::AUTHORIZATION).iter();
    let (value, None) = (values.next()?, values.next()) else { return None };
    let (scheme, token) = value.as_bytes().split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| Digest::of(token.trim_ascii()))
}

impl std::fmt::Debug for ArtefactService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ArtefactService").field("shelf", &self.0.shelf).finish_non_exhaustive()
    }
}

impl<B> hyper::service::Service<Request<B>> for ArtefactConnection
where
    B: Send + 'static,
{
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<B>) -> Self::Future {
        let (service, peer) = (self.service.clone(), self.peer);
        // The body is not needed, and then need not be shared between threads.
        let request = request.map(drop);
        Box::pin(async move { Ok(service.answer(request, peer).await) })
    }
}

/// A request of a fleet for one of its artefacts.
struct ArtefactRequest {
    audience: Box<str>,
    name: ArtefactName,
    known: KnownTags,
    caller: PollCaller,
    /// Digest of the token: the fleets may change while this waits.
    bearer: Option<Digest>,
    wait: Duration,
    behind: BehindCaller,
}

enum ArtefactFinding {
    New(super::ServedArtefact),
    Unchanged(ArtefactTag),
    Nothing,
    Unknown,
}

// === impl ArtefactRequest ===

impl ArtefactRequest {
    fn look(&self, artefacts: &ServedArtefacts) -> ArtefactFinding {
        match artefacts.get(self.name) {
            ShelvedArtefact::Served(artefact) if self.known.has(&artefact.tag) => {
                ArtefactFinding::Unchanged(artefact.tag.clone())
            }
            ShelvedArtefact::Served(artefact)
                if self.behind == BehindCaller::Withheld && self.known.is_beyond(&artefact.tag) =>
            {
                ArtefactFinding::Unchanged(artefact.tag.clone())
            }
            ShelvedArtefact::Served(artefact) => ArtefactFinding::New(artefact.clone()),
            ShelvedArtefact::Missing => ArtefactFinding::Nothing,
            ShelvedArtefact::Unknown => ArtefactFinding::Unknown,
        }
    }

    /// Waits until there is something new, or nobody publishes any more.
    async fn news(&self, board: &mut watch::Receiver<ServedArtefacts>, _place: &WaitingPlace) {
        while board.changed().await.is_ok() {
            if matches!(self.look(&board.borrow_and_update()), ArtefactFinding::New(_)) {
                return;
            }
        }
    }
}

// === impl ArtefactFinding ===

impl ArtefactFinding {
    fn response(self) -> Response<Full<Bytes>> {
        let (status, tag, bytes) = match self {
            Self::New(artefact) => (StatusCode::OK, artefact.tag, artefact.bytes),
            Self::Unchanged(tag) => (StatusCode::NOT_MODIFIED, tag, Bytes::new()),
            Self::Nothing => return NoArtefact::Unpublished.response(),
            Self::Unknown => return NoArtefact::Unknown.response(),
        };
        let mut response = Response::new(Full::new(bytes));
        *response.status_mut() = status;
        let fields = response.headers_mut();
        if let Ok(tag) = HeaderValue::from_str(&tag.to_field()) {
            fields.insert(header::ETAG, tag);
        }
        if status == StatusCode::OK {
            let octets = HeaderValue::from_static("application/octet-stream");
            fields.insert(header::CONTENT_TYPE, octets);
        }
        uncached(fields);
        response
    }
}

// === impl NoArtefact ===

impl NoArtefact {
    fn response(self) -> Response<Full<Bytes>> {
        let (status, code, detail) = match self {
            Self::Unauthorized => {
                (StatusCode::UNAUTHORIZED, "unauthorized", "a fleet's bearer token is needed")
            }
            Self::Method => {
                (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "only GET and HEAD are")
            }
            Self::NotFound => (StatusCode::NOT_FOUND, "not_found", "there is no such artefact"),
            Self::Unpublished => {
                (StatusCode::NOT_FOUND, "not_published", "nothing was published here yet")
            }
            Self::TooManyPolls => (
                StatusCode::TOO_MANY_REQUESTS,
                "too_many_polls",
                "as many requests of this caller wait as may",
            ),
            Self::Unknown => (
                StatusCode::SERVICE_UNAVAILABLE,
                "not_known",
                "whether anything was published here is not known yet",
            ),
            Self::Busy => (StatusCode::SERVICE_UNAVAILABLE, "busy", "as many requests wait as may"),
        };
        let title = status.canonical_reason().unwrap_or_default();
        let body = serde_json::json!({
            "type": "about:blank", "title": title, "status": status.as_u16(), "code": code,
            "detail": detail,
        });
        let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
        *response.status_mut() = status;
        let fields = response.headers_mut();
        fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        let (name, value) = match self {
            Self::Unauthorized => (header::WWW_AUTHENTICATE, "Bearer realm=\"artefacts\""),
            Self::Method => (header::ALLOW, "GET, HEAD"),
            Self::TooManyPolls | Self::Unknown | Self::Busy => (header::RETRY_AFTER, "1"),
            Self::NotFound | Self::Unpublished => (header::VARY, "authorization"),
        };
        fields.insert(name, HeaderValue::from_static(value));
        uncached(fields);
        response
    }
}

/// An intermediate cache would return yesterday's table, or one fleet's table to another.
fn uncached(fields: &mut HeaderMap) {
    let value = HeaderValue::from_static("private, no-cache");
    fields.insert(header::CACHE_CONTROL, value);
}

/// The head of a file, from the field in which sidecars send it.
fn head(fields: &HeaderMap) -> Option<Box<[u8]>> {
    let text = fields.get(HEAD)?.as_bytes();
    BASE64_URL_SAFE_NO_PAD.decode(text).ok().map(Into::into)
}

/// A name that is too long, or that no configuration can have, counts as absent.
fn instance(fields: &HeaderMap) -> Option<Box<str>> {
    let text = fields.get(INSTANCE)?.to_str().ok()?.trim();
    let is_name =
        (1..=INSTANCE_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
    is_name.then(|| text.into())
}
