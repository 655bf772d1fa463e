//! From a request's head to a request that may be sent, or to keygate's own answer: read → decide →
//! charge → rewrite. Sends nothing and waits for nothing, so that the guard of the snapshot ends
//! here.

mod charge;
mod judge;
mod observe;
mod prepare;

use std::rc::Rc;
use std::sync::Arc;

use http::StatusCode;
use http::header::{HeaderName, HeaderValue};
use hyper::upgrade::OnUpgrade;

use self::prepare::HeadExtras;
use super::answer_plan::AnswerPlan;
use super::connection::ClientConnection;
use super::facts::{self, RequestReading};
use super::record::RequestRecord;
use super::reply::{self, RefusalContext, Reply};
use super::sent_tokens::SentTokens;
use super::{cors, grpc};
use crate::config::Settings;
use crate::core::observe::{Conduct, CredentialPassage};
use crate::core::rate_fields::LimitReport;
use crate::core::{Rejection, Route};
use crate::proxy::body::{ClientBody, UploadProgress};
use crate::proxy::http1::answer_write::Writer;
use crate::proxy::http1::head::RequestHead;
use crate::proxy::ids::trace_id;
use crate::proxy::outbound::{Forward, UpstreamRequest};
use crate::proxy::shared_limits::{StoreOutcome, StoreWait};
use crate::proxy::streams::Stream;
use crate::proxy::worker::Worker;
use crate::snapshot::Snapshot;
use crate::telemetry::DecisionOutcome;

/// A request as the reader of its connection hands it over.
pub(crate) struct IncomingRequest {
    pub(crate) head: RequestHead,
    pub(crate) body: ClientBody,
    /// The stream of an extended CONNECT, which becomes a tunnel if the service agrees.
    pub(crate) connect: Option<OnUpgrade>,
    /// Who writes the answer.
    pub(crate) writer: Writer,
}

/// A request that may be sent, with what its answer will need.
pub(crate) struct AdmittedRequest {
    pub(super) request: UpstreamRequest,
    pub(super) plan: AnswerPlan,
    pub(super) stream: Stream,
    pub(super) upload: Option<Rc<UploadProgress>>,
    /// As in [`IncomingRequest`].
    pub(super) connect: Option<OnUpgrade>,
    pub(super) writer: Writer,
}

/// A request that goes no further, at least for now.
#[allow(clippy::large_enum_variant, reason = "moved once, and then is the answer")]
pub(crate) enum HaltedRequest {
    /// The answer: a refusal, or keygate's answer to a preflight.
    Answered(Reply),
    /// The request waits for the store of shared limits. Then it is decided again.
    Waits(Box<WaitingRequest>),
}

/// The request as it arrived, and what it waits for.
pub(crate) struct WaitingRequest {
    pub(crate) incoming: IncomingRequest,
    pub(crate) wait: StoreWait,
}

/// What became of a charge.
enum ChargeOutcome {
    /// `None`: the caller has no limit.
    Done(Option<LimitReport>),
    Waits(StoreWait),
}

/// What every step of one request's admission needs.
struct Admission<'s> {
    worker: &'s Rc<Worker>,
    client: &'s Rc<ClientConnection>,
    snapshot: &'s Arc<Snapshot>,
    writer: Writer,
    grpc: bool,
    /// Lets pages of other origins read a refusal.
    cors: Vec<(HeaderName, HeaderValue)>,
    /// `Accept`, where the client may choose the form of a refusal.
    accept: Option<Box<str>>,
    /// The request was decided before, and has waited since.
    has_waited: bool,
}

/// A verdict that lets the request through, and the request's route.
struct Passage<'s> {
    forward: Forward<'s>,
    route: &'s Route,
    conduct: Conduct,
    credentials: CredentialPassage,
}

/// Decides whether the request may be sent, and prepares what is sent. This is not a future: for a
/// refusal, moving the future would be most of the cost.
///
/// `waited`: what the store of shared limits has answered since the request was first decided.
///
/// # Errors
/// The request goes no further.
#[expect(clippy::result_large_err, reason = "a refusal is moved once, and then is the answer")]
pub(crate) fn admit(
    worker: &Rc<Worker>,
    client: &Rc<ClientConnection>,
    incoming: IncomingRequest,
    waited: Option<Box<StoreOutcome>>,
    record: &mut RequestRecord,
) -> Result<AdmittedRequest, HaltedRequest> {
    let snapshot = worker.shared.store.load();
    let mut admission = Admission::begin(worker, client, &snapshot, &incoming, record);
    admission.has_waited = waited.is_some();
    let reading = admission.read(&incoming.head, record)?;
    admission.answer_preflight(&incoming.head, &reading, record)?;
    let passage = admission.judge(&reading, record)?;
    admission.choose_upstream(&passage, record)?;
    let (mut charged, mut sent) = (None, SentTokens::default());
    match passage.conduct {
        Conduct::Observed => sent = admission.observe(&passage, &reading, &incoming, record),
        Conduct::Enforced => {
            sent.credential = admission.credential(&passage, record)?;
            match admission.charge(&passage, waited, record)? {
                ChargeOutcome::Done(report) => charged = report,
                ChargeOutcome::Waits(wait) => {
                    drop(reading);
                    return Err(HaltedRequest::Waits(Box::new(WaitingRequest { incoming, wait })));
                }
            }
            admission.check_body(&passage, &incoming.body, record)?;
        }
    }
    let mut extras = HeadExtras::of(&reading, sent);
    let mut changes = reading.into_changes();
    admission.settle_head(&passage, &incoming.head, &mut changes, &mut extras, record)?;
    let plan = admission.plan(&passage, &incoming.head, &changes, &extras, charged);
    admission.rewrite(passage, incoming, changes, extras, plan, record)
}

// === impl HaltedRequest ===

impl From<Reply> for HaltedRequest {
    fn from(answer: Reply) -> Self {
        Self::Answered(answer)
    }
}

/// The values of `Accept`, as one list. `None` where nothing depends on it.
fn accepted(head: &RequestHead, settings: &Settings) -> Option<Box<str>> {
    if settings.refusals.by_accept.is_empty() {
        return None;
    }
    let values = head.fields.iter().filter(|(name, _)| *name == b"accept");
    let values: Vec<_> = values.filter_map(|(_, value)| std::str::from_utf8(value).ok()).collect();
    (!values.is_empty()).then(|| values.join(",").into())
}

// === impl Admission ===

#[expect(clippy::result_large_err, reason = "a refusal is moved once, and then is the answer")]
impl<'s> Admission<'s> {
    /// Records what is known before anything is decided.
    #[inline]
    fn begin(
        worker: &'s Rc<Worker>,
        client: &'s Rc<ClientConnection>,
        snapshot: &'s Arc<Snapshot>,
        incoming: &IncomingRequest,
        record: &mut RequestRecord,
    ) -> Self {
        let (head, settings) = (&incoming.head, &snapshot.settings);
        client.activity.body_open.set(!incoming.body.has_come());
        record.log_every = settings.log_every;
        record.note(head, settings);
        record.trace_id = trace_id(&head.fields);
        let cors = cors::of(head, settings);
        Self {
            worker,
            client,
            snapshot,
            writer: incoming.writer,
            grpc: grpc::is_grpc(head),
            accept: accepted(head, settings),
            has_waited: false,
            cors: cors.map(|cors| cors::of_refusal(&cors, head, settings)).unwrap_or_default(),
        }
    }

    fn refuse(
        &self,
        rejection: &Rejection,
        profile: Option<&str>,
        record: &mut RequestRecord,
    ) -> Reply {
        let refusals = &self.snapshot.settings.refusals;
        let context = RefusalContext {
            method: record.method(),
            grpc: self.grpc,
            profile: refusals.choose(profile, self.accept.as_deref()),
            request_id: &record.request_id,
            cors: &self.cors,
        };
        let status = reply::status_of(rejection, &context);
        let reply = reply::refuse(rejection, &self.snapshot.settings, self.writer, &context);
        record.status = status;
        reply
    }

    /// Reads what the decision depends on. Refuses a head that can be read in two ways.
    #[inline]
    fn read<'r>(
        &self,
        head: &'r RequestHead,
        record: &mut RequestRecord,
    ) -> Result<RequestReading<'r>, Reply>
    where
        's: 'r,
    {
        let (settings, shared) = (&self.snapshot.settings, &self.worker.shared);
        let reading = facts::fits(head, shared.http2.header_list_bytes).and_then(|()| {
            let peer = self.client.address.ip();
            facts::read(head, settings, &shared.caps, peer, record.started())
        });
        let reading = match reading {
            Ok(reading) => reading,
            Err(rejection) => {
                record.decided(DecisionOutcome::Rejected(rejection.reason));
                record.refused_while_observing(rejection.reason);
                return Err(self.refuse(&rejection, None, record));
            }
        };
        record.set_client(reading.client());
        let of_proxy = reading.changes.of_proxy.as_ref();
        if let Some(id) = of_proxy.and_then(|fields| fields.request_id.as_ref()) {
            record.request_id = id.clone();
        }
        Ok(reading)
    }

    /// Answers a preflight that CORS is configured for, unless its caller is only observed.
    #[inline]
    fn answer_preflight(
        &self,
        head: &RequestHead,
        reading: &RequestReading<'_>,
        record: &mut RequestRecord,
    ) -> Result<(), Reply> {
        let settings = &self.snapshot.settings;
        if settings.cors.is_empty() || reading.fault.is_some() {
            return Ok(());
        }
        let fields = facts::preflight(head).and_then(|method| {
            let rule = cors::of(head, settings)?;
            cors::of_preflight(&rule, head, &method)
        });
        let Some(fields) = fields else { return Ok(()) };
        if self.observes(reading, record) {
            record.answers_preflight();
            return Ok(());
        }
        record.status = StatusCode::NO_CONTENT.as_u16();
        record.decided(DecisionOutcome::Passed);
        Err(reply::no_content(fields, settings, self.writer, &record.request_id))
    }
}
