//! What the distributor serves, what it knows about it, and the answers to sidecars.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body as _;
use http_body_util::Full;
use metrics::Histogram;

use super::metrics::{DistributorMetrics, MeteredArtefact, OriginResult};
use super::options::{AccessLines, OriginArtefact};
use crate::artefacts::{
    ArtefactAnswered, ArtefactFleet, ArtefactName, ArtefactService, ArtefactShelf, BehindCaller,
    ServedArtefact, ServedArtefacts, ShelvedArtefact, WaitLimits,
};
use crate::clock::Clock;
use crate::table::Buffer;
use crate::tls::{Certificate, Reloadable as _, ServerTls};

/// How long after the start an audience about which the origin says nothing keeps the distributor
/// unready. From then on the others count: their sidecars must not go without a distributor because
/// of it.
const PATIENCE: Duration = Duration::from_secs(30);

/// The desk. Clones share one state.
#[derive(Clone)]
pub(super) struct DistributorDesk(Arc<DeskParts>);

/// What a desk is made of.
pub(super) struct DeskOptions {
    pub(super) artefacts: Vec<OriginArtefact>,
    pub(super) fleets: Vec<ArtefactFleet>,
    pub(super) most_waiting: usize,
    pub(super) access_log: AccessLines,
    pub(super) tls: Option<Arc<ServerTls>>,
    pub(super) clock: Clock,
}

struct DeskParts {
    service: ArtefactService,
    shelf: ArtefactShelf,
    kept: Vec<KeptArtefact>,
    metrics: DistributorMetrics,
    access_log: AccessLines,
    tls: Option<Arc<ServerTls>>,
    clock: Clock,
    /// By the process's clock.
    began_ns: u64,
    connections: AtomicUsize,
    is_leaving: AtomicBool,
}

/// One file as it is served.
struct KeptArtefact {
    place: OriginArtefact,
    news: Histogram,
    /// 0: nothing is served.
    serial: AtomicU64,
    /// The origin has answered about it.
    is_known: AtomicBool,
    /// When the origin last confirmed that the served version is its current one, in nanoseconds of
    /// the process's clock; 0: never.
    confirmed_ns: AtomicU64,
    /// When the served version arrived.
    arrived_ns: AtomicU64,
    /// From then until the last waiting sidecar was answered, in nanoseconds.
    news_ns: AtomicU64,
}

// === impl KeptArtefact ===

impl KeptArtefact {
    fn metered(&self) -> MeteredArtefact<'_> {
        MeteredArtefact { audience: &self.place.audience, name: self.place.name }
    }

    /// The origin has said nothing of it yet, or has no table: sidecars would be better off with
    /// another distributor.
    fn is_awaited(&self) -> bool {
        let is_table = self.place.name == ArtefactName::Table;
        !self.is_known.load(Ordering::Relaxed)
            || is_table && self.serial.load(Ordering::Relaxed) == 0
    }

    fn age(&self, now_ns: u64) -> Option<Duration> {
        let confirmed = self.confirmed_ns.load(Ordering::Relaxed);
        (confirmed > 0).then(|| Duration::from_nanos(now_ns.saturating_sub(confirmed)))
    }
}

// === impl DistributorDesk ===

impl DistributorDesk {
    pub(super) fn new(options: DeskOptions) -> Self {
        let DeskOptions { artefacts, fleets, most_waiting, access_log, tls, clock } = options;
        let metrics = DistributorMetrics::new();
        let shelf = ArtefactShelf::default();
        let kept: Vec<_> = artefacts
            .into_iter()
            .map(|place| {
                shelf.put(&place.audience, ServedArtefacts::UNKNOWN);
                let metered = MeteredArtefact { audience: &place.audience, name: place.name };
                KeptArtefact {
                    news: metrics.begin(metered),
                    place,
                    serial: AtomicU64::new(0),
                    is_known: AtomicBool::new(false),
                    confirmed_ns: AtomicU64::new(0),
                    arrived_ns: AtomicU64::new(0),
                    news_ns: AtomicU64::new(0),
                }
            })
            .collect();
        let limits = WaitLimits {
            of_a_fleet: most_waiting,
            in_all: most_waiting,
            ..WaitLimits::default().for_files(kept.len())
        };
        let service = ArtefactService::with_terms(
            shelf.clone(),
            fleets,
            limits,
            BehindCaller::Withheld,
            |_| {},
        );
        Self(Arc::new(DeskParts {
            service,
            shelf,
            kept,
            metrics,
            access_log,
            tls,
            began_ns: clock.now().mono_ns,
            clock,
            connections: AtomicUsize::new(0),
            is_leaving: AtomicBool::new(false),
        }))
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.0.clock
    }

    pub(super) fn tls(&self) -> Option<&Arc<ServerTls>> {
        self.0.tls.as_ref()
    }

    pub(super) fn set_fleets(&self, fleets: Vec<ArtefactFleet>) {
        self.0.service.set_fleets(fleets);
    }

    // --- reports from followers

    /// Every file with its number.
    pub(super) fn places(&self) -> impl Iterator<Item = (usize, &OriginArtefact)> {
        self.0.kept.iter().map(|kept| &kept.place).enumerate()
    }

    /// Serial of the served version; 0: nothing is served.
    pub(super) fn serial(&self, at: usize) -> u64 {
        self.0.kept.get(at).map_or(0, |kept| kept.serial.load(Ordering::Relaxed))
    }

    /// The origin has answered about it.
    pub(super) fn is_known(&self, at: usize) -> bool {
        self.0.kept.get(at).is_some_and(|kept| kept.is_known.load(Ordering::Relaxed))
    }

    /// The served version.
    pub(super) fn served(&self, at: usize) -> Option<ServedArtefact> {
        let place = &self.0.kept.get(at)?.place;
        self.0.shelf.get(&place.audience).get(place.name).served().cloned()
    }

    /// Serves this version from now on.
    pub(super) fn arrived(&self, at: usize, serial: u64, file: Buffer) {
        let Some(kept) = self.0.kept.get(at) else { return };
        let artefact = ServedArtefact::new(serial, Bytes::from_owner(file));
        let now = self.0.clock.now().mono_ns;
        kept.serial.store(serial, Ordering::Relaxed);
        kept.news_ns.store(0, Ordering::Relaxed);
        kept.arrived_ns.store(now, Ordering::Relaxed);
        kept.confirmed_ns.store(now.max(1), Ordering::Relaxed);
        kept.is_known.store(true, Ordering::Relaxed);
        let state = ShelvedArtefact::Served(artefact);
        self.0.shelf.put_one(&kept.place.audience, kept.place.name, state);
    }

    /// The origin has the version that is served.
    pub(super) fn confirmed(&self, at: usize) {
        let Some(kept) = self.0.kept.get(at) else { return };
        kept.confirmed_ns.store(self.0.clock.now().mono_ns.max(1), Ordering::Relaxed);
    }

    /// The origin has nothing there. A version that was served before is still served: sidecars
    /// would keep using it as well, and a new sidecar is better off with it than without.
    pub(super) fn missing(&self, at: usize) {
        let Some(kept) = self.0.kept.get(at) else { return };
        if kept.serial.load(Ordering::Relaxed) > 0 {
            return;
        }
        self.confirmed(at);
        if !kept.is_known.swap(true, Ordering::Relaxed) {
            let (audience, name) = (&kept.place.audience, kept.place.name);
            self.0.shelf.put_one(audience, name, ShelvedArtefact::Missing);
        }
    }

    pub(super) fn fetched(&self, at: usize, result: OriginResult) {
        if let Some(kept) = self.0.kept.get(at) {
            self.0.metrics.fetched(kept.metered(), result);
        }
    }

    // --- requests from sidecars

    /// Whether a request with these fields belongs to a fleet.
    pub(super) fn knows(&self, fields: &HeaderMap) -> bool {
        self.0.service.is_of_fleet(fields)
    }

    /// Answers one request; its body is not read.
    pub(super) async fn answer<B>(
        &self,
        request: Request<B>,
        peer: IpAddr,
    ) -> Response<Full<Bytes>> {
        let log = match self.0.access_log {
            AccessLines::On => Some(AccessedBy::of(&request)),
            AccessLines::Off => None,
        };
        let is_head = request.method() == Method::HEAD;
        let began = self.0.clock.now().mono_ns;
        let mut response = self.0.service.answer(request, Some(peer)).await;
        let now = self.0.clock.now().mono_ns;
        let bytes = match is_head {
            true => 0,
            false => response.body().size_hint().exact().unwrap_or_default(),
        };
        let answered = response.extensions_mut().remove::<ArtefactAnswered>();
        let status = response.status();
        match answered.as_ref().and_then(|answered| self.kept(answered)) {
            Some((kept, waited)) => {
                self.0.metrics.answered(kept.metered(), status, bytes);
                if waited && status == StatusCode::OK {
                    let took = now.saturating_sub(kept.arrived_ns.load(Ordering::Relaxed));
                    kept.news.record(Duration::from_nanos(took).as_secs_f64());
                    kept.news_ns.fetch_max(took, Ordering::Relaxed);
                }
                let age = kept
                    .age(now)
                    .filter(|_| matches!(status, StatusCode::OK | StatusCode::NOT_MODIFIED));
                if let Some(age) = age {
                    response.headers_mut().insert(header::AGE, age.as_secs().into());
                }
            }
            None => self.0.metrics.refused(status),
        }
        // A connection without a token does not keep a place.
        if self.is_leaving() || status == StatusCode::UNAUTHORIZED {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        if let Some(by) = log {
            by.write(peer, status, bytes, Duration::from_nanos(now.saturating_sub(began)));
        }
        response
    }

    fn kept(&self, answered: &ArtefactAnswered) -> Option<(&KeptArtefact, bool)> {
        let is_it = |kept: &&KeptArtefact| {
            kept.place.name == answered.name && kept.place.audience == answered.audience
        };
        self.0.kept.iter().find(is_it).map(|kept| (kept, answered.waited))
    }

    // --- coming and going

    pub(super) fn connected(&self) -> ConnectedSidecar {
        self.0.connections.fetch_add(1, Ordering::Relaxed);
        ConnectedSidecar(self.clone())
    }

    pub(super) fn turned_away(&self) {
        self.0.metrics.turned_away();
    }

    /// Lets waiting sidecars go within this time; connections end with their next answer.
    pub(super) fn leave(&self, within: Duration) {
        self.0.is_leaving.store(true, Ordering::Relaxed);
        self.0.service.leave(within);
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.0.is_leaving.load(Ordering::Relaxed)
    }

    /// The first file that sidecars cannot do without, and why it is not here.
    pub(super) fn awaited(&self) -> Option<String> {
        let kept = self.0.kept.iter().find(|kept| kept.is_awaited())?;
        let (audience, what) = (&kept.place.audience, word(kept.place.name));
        Some(match kept.is_known.load(Ordering::Relaxed) {
            true => format!("the origin has no {what} of {audience}"),
            false => format!("the origin has said nothing yet of the {what} of {audience}"),
        })
    }

    /// Whether the distributor is useful as it is. It has every table and knows of every patch whether
    /// there is one; or it does so for one audience, and the others have had time enough. A file of
    /// unknown state is answered with 503 in any case.
    pub(super) fn is_ready(&self) -> bool {
        let age = self.0.clock.now().mono_ns.saturating_sub(self.0.began_ns);
        let mut awaited: Vec<_> = self.0.kept.iter().collect();
        awaited.retain(|kept| kept.is_awaited());
        let is_whole = |kept: &KeptArtefact| {
            awaited.iter().all(|awaited| awaited.place.audience != kept.place.audience)
        };
        awaited.is_empty()
            || Duration::from_nanos(age) >= PATIENCE && self.0.kept.iter().any(is_whole)
    }

    /// All metrics, with their current values.
    pub(super) fn metrics(&self) -> String {
        let metrics = &self.0.metrics;
        metrics.show(self.0.service.waiting(), self.0.connections.load(Ordering::Relaxed));
        let now = self.0.clock.now().mono_ns;
        for kept in &self.0.kept {
            let served = self.0.shelf.get(&kept.place.audience);
            let bytes = served.get(kept.place.name).served().map_or(0, |file| file.bytes.len());
            let serial = kept.serial.load(Ordering::Relaxed);
            let news = Duration::from_nanos(kept.news_ns.load(Ordering::Relaxed));
            metrics.show_artefact(kept.metered(), serial, bytes, kept.age(now), news);
        }
        let certificates = self.0.tls.as_ref().map(|tls| tls.certificates()).unwrap_or_default();
        if let Some(ends_at) = certificates.iter().map(Certificate::expires).min() {
            metrics.show_certificate(ends_at);
        }
        metrics.render()
    }

    pub(super) fn tidy(&self) {
        self.0.metrics.tidy();
        self.0.clock.resync();
    }
}

impl std::fmt::Debug for DistributorDesk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DistributorDesk").field("shelf", &self.0.shelf).finish_non_exhaustive()
    }
}

/// Counts a connection for as long as it lives.
pub(super) struct ConnectedSidecar(DistributorDesk);

impl Drop for ConnectedSidecar {
    fn drop(&mut self) {
        self.0.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What an access line says about a request: nothing in it is secret.
struct AccessedBy {
    path: Box<str>,
    instance: Box<str>,
}

// === impl AccessedBy ===

impl AccessedBy {
    /// Longest part of a path or name that is written.
    const MOST: usize = 128;

    fn of<B>(request: &Request<B>) -> Self {
        let short = |text: &str| text.chars().take(Self::MOST).collect::<String>().into();
        let instance = request.headers().get("keygate-instance").and_then(|v| v.to_str().ok());
        Self { path: short(request.uri().path()), instance: short(instance.unwrap_or_default()) }
    }

    fn write(&self, peer: IpAddr, status: StatusCode, bytes: u64, took: Duration) {
        tracing::info!(
            target: "access",
            %peer,
            instance = ?self.instance,
            path = ?self.path,
            status = status.as_u16(),
            bytes,
            ms = took.as_millis() as u64,
        );
    }
}

/// The word for a file in the log.
pub(super) const fn word(name: ArtefactName) -> &'static str {
    match name {
        ArtefactName::Patch => "patch",
        ArtefactName::Table => "table",
    }
}
