//! What is known about one request while it runs. Dropping the record ends the request: that is the
//! only place that writes the access line and the counters.

mod observed;

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::{HeaderName, Method, Version, header};

use self::observed::AwaitedComparison;
use super::credentials;
use crate::config::{LogFields, Settings};
use crate::core::{KeyId, Now, Reason, UserToken};
use crate::proxy::body::{UploadProgress, UploadState};
use crate::proxy::canary::CanaryUse;
use crate::proxy::http1::head::RequestHead;
use crate::proxy::http1::target::RequestTarget;
use crate::proxy::ids::RequestId;
use crate::proxy::net::io::{Activity, CutReason};
use crate::proxy::worker::Worker;
use crate::proxy::worker_upstream::WorkerUpstream;
use crate::telemetry::{AccessLine, Decided, DecisionOutcome, MethodLabel, NO_ROUTE};

#[derive(Debug)]
pub(crate) struct RequestRecord {
    worker: Rc<Worker>,
    /// The activity of the client's connection.
    activity: Rc<Activity>,
    started: Now,
    /// The latest reading of the clock. A reading costs as much as the rest of a step.
    last_ns: u64,
    /// Nothing is left to wait for: the latest reading of the clock is the end.
    complete: bool,
    pub(crate) request_id: RequestId,
    method: Method,
    target: RequestTarget,
    version: Version,
    client: IpAddr,
    route: Option<Rc<str>>,
    route_slot: u32,
    /// `None`: `[upstream]`.
    upstream: Option<Rc<WorkerUpstream>>,
    pub(crate) status: u16,
    outcome: Option<DecisionOutcome>,
    /// What ended it early, or why it was refused. Of an observed request: why it would be refused.
    reason: Option<Reason>,
    /// What ended an observed request early.
    failure: Option<Reason>,
    pub(crate) key: Option<KeyId>,
    pub(crate) org: Option<Box<str>>,
    /// The user token that has opened the route.
    pub(crate) user: Option<Arc<UserToken>>,
    /// The id of the trace that the request belongs to, in hexadecimal digits.
    pub(crate) trace_id: Option<[u8; 32]>,
    /// The serials of the table and the patch that decided.
    pub(crate) serials: (Option<u64>, Option<u64>),
    /// Kept if configured: shortened, and as text.
    host: Option<Box<str>>,
    user_agent: Option<Box<str>>,
    connect_ns: Option<u64>,
    upstream_sent_ns: u64,
    upstream_ns: Option<u64>,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) log_every: u32,
    pub(crate) upload: Option<Rc<UploadProgress>>,
    trailers_sent: bool,
    aborted: bool,
    /// Set for a request that is only observed.
    observed: Option<Box<AwaitedComparison>>,
}

// === impl RequestRecord ===

impl RequestRecord {
    /// Starts the record of a request whose head has just been read.
    pub(crate) fn begin(
        worker: &Rc<Worker>,
        activity: &Rc<Activity>,
        head: &RequestHead,
        client: IpAddr,
    ) -> Self {
        worker.cells.request_started();
        let started = worker.clock.at(activity.request_begins());
        Self {
            worker: Rc::clone(worker),
            activity: Rc::clone(activity),
            started,
            last_ns: started.mono_ns,
            complete: false,
            request_id: worker.ids.next(),
            method: head.method.clone(),
            target: head.target.clone(),
            version: head.version,
            client,
            route: None,
            route_slot: NO_ROUTE,
            upstream: None,
            status: 0,
            outcome: None,
            reason: None,
            failure: None,
            key: None,
            org: None,
            user: None,
            trace_id: None,
            serials: (None, None),
            host: None,
            user_agent: None,
            connect_ns: None,
            upstream_sent_ns: 0,
            upstream_ns: None,
            bytes_in: 0,
            bytes_out: 0,
            log_every: 1,
            upload: None,
            trailers_sent: false,
            aborted: false,
            observed: None,
        }
    }

    pub(crate) fn worker(&self) -> &Rc<Worker> {
        &self.worker
    }

    /// Where the request goes, or would.
    pub(crate) fn upstream(&self) -> &WorkerUpstream {
        match &self.upstream {
            None => &self.worker.upstream,
            Some(named) => named,
        }
    }

    /// Names the upstream of the route, by index. `None`: the worker does not have that upstream.
    #[must_use]
    pub(crate) fn goes_to(&mut self, upstream: usize) -> Option<()> {
        if let Some(at) = upstream.checked_sub(1) {
            self.upstream = Some(Rc::clone(self.worker.upstreams.get(at)?));
        }
        Some(())
    }

    pub(crate) fn method(&self) -> &Method {
        &self.method
    }

    /// Whether the client speaks HTTP/2.
    pub(crate) fn is_http2(&self) -> bool {
        self.version == Version::HTTP_2
    }

    /// When the head was complete enough to be examined, with the wall time of that moment.
    pub(crate) fn started(&self) -> Now {
        self.started
    }

    /// Reads the clock.
    pub(crate) fn now_ns(&mut self) -> u64 {
        self.last_ns = self.worker.clock.now().mono_ns;
        self.last_ns
    }

    /// The latest reading, precise enough for what follows immediately.
    pub(crate) fn last_ns(&self) -> u64 {
        self.last_ns
    }

    /// keygate holds the whole answer.
    pub(crate) fn complete(&mut self, bytes_out: u64) {
        self.bytes_out = bytes_out;
        self.complete = true;
    }

    pub(crate) fn client(&self) -> IpAddr {
        self.client
    }

    pub(crate) fn set_client(&mut self, client: IpAddr) {
        self.client = client;
    }

    pub(crate) fn set_route(&mut self, id: &str, slot: u32) {
        self.route = Some(self.worker.route_label(id, slot));
        self.route_slot = slot;
    }

    /// Keeps the fields of the head that the log is configured to show in addition. A field that a
    /// source reads may hold a key, and is not kept.
    pub(crate) fn note(&mut self, head: &RequestHead, settings: &Settings) {
        let LogFields { host, user_agent } = settings.log_fields;
        let of = |name: &HeaderName| {
            let carries = |source| credentials::is_field_of(source, name.as_str().as_bytes());
            let is_ours = settings.sources.iter().any(carries);
            head.fields.get(name).filter(|_| !is_ours).map(cut)
        };
        if host {
            let authority = || head.target.authority().map(|a| cut(a.as_str().as_bytes()));
            self.host = of(&header::HOST).or_else(authority);
        }
        if user_agent {
            self.user_agent = of(&header::USER_AGENT);
        }
    }

    /// Records the verdict, once, with the time that it took.
    pub(crate) fn decided(&mut self, outcome: DecisionOutcome) {
        self.outcome = Some(outcome);
        if let DecisionOutcome::Rejected(reason) | DecisionOutcome::Observed(reason) = outcome {
            self.reason = Some(reason);
            if reason == Reason::Canary {
                self.worker.cells.canary_used();
                self.worker.canaries.note(&CanaryUse {
                    key: self.key,
                    client: self.client,
                    path: self.path(),
                    request_id: self.request_id.as_str(),
                    now_ns: self.started.mono_ns,
                });
            }
        }
        self.worker.cells.decision(self.route_slot, outcome);
    }

    /// Refused or failed after the verdict: limit, upstream, time-outs.
    pub(crate) fn failed(&mut self, reason: Reason) {
        // A report from the log has to know what the caller would be refused for.
        match self.outcome {
            Some(DecisionOutcome::Observed(_)) => self.failure = Some(reason),
            _ => self.reason = Some(reason),
        }
        self.worker.cells.request_failed(reason);
    }

    /// The request has waited for a connection since `from_ns`, whether or not it got one.
    pub(crate) fn waited_for_upstream(&mut self, from_ns: u64, now_ns: u64) {
        let waited = now_ns.saturating_sub(from_ns);
        self.connect_ns = Some(self.connect_ns.unwrap_or(0).saturating_add(waited));
    }

    pub(crate) fn sent_upstream(&mut self, now_ns: u64) {
        self.last_ns = now_ns;
        self.upstream_sent_ns = now_ns;
    }

    /// The head of the upstream's response has arrived.
    pub(crate) fn answered(&mut self, status: u16) {
        self.status = status;
        let took = self.now_ns().saturating_sub(self.upstream_sent_ns);
        self.upstream_ns = Some(took);
        self.upstream().meter.response(took);
    }

    /// The upstream broke off in the middle of its response.
    pub(crate) fn upstream_broke(&mut self) {
        self.failed(Reason::UpstreamClosed);
        self.upstream().meter.error(Reason::UpstreamClosed);
    }

    /// keygate ended the response: its key ended, its time ran out, or keygate stops.
    pub(crate) fn ended_early(&mut self, reason: Reason) {
        if self.failure().is_none() {
            self.failed(reason);
        }
    }

    /// What has failed, or is refused. Not what an observed request would be refused for.
    fn failure(&self) -> Option<Reason> {
        match self.outcome {
            Some(DecisionOutcome::Observed(_)) => self.failure,
            _ => self.reason,
        }
    }

    /// The client has not taken its answer. A connection that a drain cut off is no sign of that.
    pub(crate) fn client_gone(&mut self) {
        self.aborted |= !self.is_drained();
    }

    /// Whether keygate has stopped and cut off the connection.
    fn is_drained(&self) -> bool {
        self.activity.cut.get() == Some(CutReason::Drain)
    }

    /// True once, for the final trailers of a gRPC stream that was ended.
    pub(crate) fn take_final_trailers(&mut self) -> bool {
        !std::mem::replace(&mut self.trailers_sent, true)
    }

    fn path(&self) -> &str {
        self.target.path()
    }
}

impl Drop for RequestRecord {
    fn drop(&mut self) {
        let now_ns = if self.complete { self.last_ns } else { self.worker.clock.now().mono_ns };
        let took = now_ns.saturating_sub(self.started.mono_ns);
        self.activity.request_ends(now_ns);
        self.worker.cells.request_ended();
        if let Some(upload) = &self.upload {
            self.bytes_in = upload.bytes.get();
            if upload.state.get() == UploadState::Done {
                self.activity.body_open.set(false);
            }
        }
        let is_drained = self.is_drained();
        if is_drained {
            self.ended_early(Reason::Shutdown);
        }
        if self.observed.is_some() {
            self.end_comparison();
        }
        let (worker, cells) = (&self.worker, &self.worker.cells);
        // Dropped before there was an answer: the client left, keygate stopped, or it failed itself.
        // 499 is what nginx and its users call a client that did not wait.
        let (aborted, status) = match self.status {
            0 if std::thread::panicking() => (self.aborted, 500),
            0 if is_drained => (false, Reason::Shutdown.status()),
            0 => (true, 499),
            status => (self.aborted, status),
        };
        if aborted {
            cells.request_aborted();
        }
        cells.request(self.route_slot, MethodLabel::of(&self.method), status);
        cells.duration(took);
        cells.bytes_received(self.bytes_in);
        cells.bytes_sent(self.bytes_out);
        let plain = self.reason.is_none() && self.failure.is_none() && !aborted && status != 500;
        if plain && !worker.access.samples(self.log_every) {
            return;
        }
        let decided = match self.outcome {
            None => Decided::None,
            Some(DecisionOutcome::Admitted) => Decided::Admitted,
            Some(DecisionOutcome::Observed(_)) => Decided::Observed,
            Some(DecisionOutcome::Passed) => Decided::Passed,
            Some(DecisionOutcome::Rejected(_)) => Decided::Rejected,
        };
        worker.access.write(&AccessLine {
            unix_ms: self.started.unix_ms,
            request_id: self.request_id.as_bytes(),
            client: self.client,
            protocol: match self.version {
                Version::HTTP_2 => "HTTP/2",
                Version::HTTP_10 => "HTTP/1.0",
                _ => "HTTP/1.1",
            },
            method: known_method(&self.method),
            path: self.path(),
            route: self.route.as_deref(),
            upstream: self.upstream.as_ref().and_then(|upstream| upstream.name.as_deref()),
            status,
            decided,
            reason: self.reason,
            failure: self.failure,
            key_id: self.key,
            org: self.org.as_deref(),
            issuer: self.user.as_ref().map(|token| &**token.issuer()),
            subject: self.user.as_ref().map(|token| token.subject()),
            trace_id: self.trace_id.as_ref().and_then(|id| std::str::from_utf8(id).ok()),
            host: self.host.as_deref(),
            user_agent: self.user_agent.as_deref(),
            table_serial: self.serials.0,
            patch_serial: self.serials.1,
            duration_ns: took,
            connect_ns: self.connect_ns,
            upstream_ns: self.upstream_ns,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
        });
    }
}

/// The beginning of a client's text: a log line is bounded, whatever a client sends.
fn cut(value: &[u8]) -> Box<str> {
    /// The most bytes that are kept.
    const MOST: usize = 256;
    String::from_utf8_lossy(value.get(..MOST).unwrap_or(value)).into()
}

/// The method as the log shows it. An unknown token is not shown: it may be anything, even a key
/// that was pasted into the wrong place.
fn known_method(method: &Method) -> &str {
    const OTHERS: [&str; 12] = [
        "COPY",
        "LOCK",
        "MKCOL",
        "MOVE",
        "PROPFIND",
        "PROPPATCH",
        "PURGE",
        "QUERY",
        "REPORT",
        "SEARCH",
        "TRACK",
        "UNLOCK",
    ];
    let text = method.as_str();
    match MethodLabel::of(method) {
        MethodLabel::Other if !OTHERS.contains(&text) => MethodLabel::Other.as_str(),
        _ => text,
    }
}

/// Records a head that hyper could not parse and answered without us.
pub(crate) fn note_unread(worker: &Worker, client: IpAddr, version: Version, reason: Reason) {
    observed::note_unread(worker, client, reason);
    worker.cells.request_failed(reason);
    worker.cells.request(NO_ROUTE, MethodLabel::Other, reason.status());
    worker.access.write(&AccessLine {
        unix_ms: worker.clock.now().unix_ms,
        request_id: b"",
        client,
        protocol: if version == Version::HTTP_2 { "HTTP/2" } else { "HTTP/1.1" },
        method: "",
        path: "",
        route: None,
        upstream: None,
        status: reason.status(),
        decided: Decided::None,
        reason: Some(reason),
        failure: None,
        key_id: None,
        org: None,
        issuer: None,
        subject: None,
        trace_id: None,
        host: None,
        user_agent: None,
        table_serial: None,
        patch_serial: None,
        duration_ns: 0,
        connect_ns: None,
        upstream_ns: None,
        bytes_in: 0,
        bytes_out: 0,
    });
}
