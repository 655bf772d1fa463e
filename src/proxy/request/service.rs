//! One request is one page: [`handle`] decides ([`admit`]: facts → decide → charge → rewrite), and
//! passes on what may continue (send → answer).

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode, Version, response};
use hyper::body::{Body, Incoming};
use hyper::service::Service;
use hyper::upgrade::OnUpgrade;

use super::admit::{AdmittedRequest, HaltedRequest, IncomingRequest, WaitingRequest, admit};
use super::answer_plan::AnswerPlan;
use super::connection::ClientConnection;
use super::counted_body::{CountedBody, TakenBy};
use super::download::ResponseBody;
use super::exchange;
use super::record::RequestRecord;
use super::reply::{self, OwnAnswer, Reply};
use super::response_body::{RunningUpload, response_body};
use super::rewrite::answer;
use super::{upgrade, upgrade_request};
use crate::core::{Reason, Rejection};
use crate::proxy::answer_deadline::{AnswerDeadline, UploadPace};
use crate::proxy::body::{ClientBody, HyperBody, RequestRest, RestKeeper, RestOfBody};
use crate::proxy::future_size::at_most;
use crate::proxy::http1::answer_write::Writer;
use crate::proxy::http1::head::RequestHead;
use crate::proxy::http1::length::LengthFields;
use crate::proxy::http1::location::cut_all;
use crate::proxy::http1::request_refuse::JudgedHead;
use crate::proxy::memory::holding::UnsentAnswers;
use crate::proxy::streams::Stream;
use crate::proxy::upstream::{AnswerContent, AnswerHeadSource, PooledConnection};
use crate::proxy::worker::Worker;
use crate::telemetry::Shortage;

/// The service of one connection that hyper reads.
#[derive(Debug)]
pub(crate) struct Gate {
    worker: Rc<Worker>,
    client: Rc<ClientConnection>,
    /// HTTP/2 only: what its streams still have to send.
    unsent: Option<Arc<UnsentAnswers>>,
    /// HTTP/1 only.
    arrival: Option<RequestArrival>,
}

/// How much of an HTTP/1 connection's one request hyper has read.
#[derive(Clone, Debug)]
struct RequestArrival {
    rest: Rc<RequestRest>,
    /// Set once hyper has all of it.
    is_here: Rc<Cell<bool>>,
    /// The client waits to be asked for the body.
    expects: bool,
}

/// The largest future of a request that hyper has read, and of its exchange with the upstream, in
/// bytes.
const HYPER_REQUEST_BYTES: usize = 4168;
const EXCHANGE_BYTES: usize = 1024;

// === impl Gate ===

impl Gate {
    /// For one request over HTTP/1. `is_here` is set once hyper has all of it.
    pub(crate) fn new(
        worker: &Rc<Worker>,
        client: &Rc<ClientConnection>,
        is_here: Rc<Cell<bool>>,
    ) -> Self {
        let arrival = Some(RequestArrival { rest: Rc::default(), is_here, expects: false });
        Self { arrival, ..Self::counting(worker, client, None) }
    }

    /// For HTTP/2. Counts the parts of answers that hyper takes and does not send yet.
    pub(crate) fn counting(
        worker: &Rc<Worker>,
        client: &Rc<ClientConnection>,
        unsent: Option<Arc<UnsentAnswers>>,
    ) -> Self {
        Self { worker: Rc::clone(worker), client: Rc::clone(client), unsent, arrival: None }
    }
}

impl Service<Request<Incoming>> for Gate {
    type Response = Response<CountedBody>;
    type Error = Unwritable;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>>>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let worker = Rc::clone(&self.worker);
        let client = Rc::clone(&self.client);
        if client.http2 && !worker.shared.memory.takes(Shortage::Stream) {
            let refused = h2::Error::from(h2::Reason::REFUSED_STREAM);
            return Box::pin(std::future::ready(Err(Unwritable::NoRoom(refused))));
        }
        let taken_by = match client.http2 {
            true => TakenBy::Http2 { worker: Rc::clone(&worker), unsent: self.unsent.clone() },
            false => TakenBy::Http1,
        };
        let (mut parts, body) = request.into_parts();
        let connect = upgrade_request::extended_connect(&mut parts);
        // Taken now and not at the first poll: hyper may look for the end of the client's side
        // before that.
        let head = match client.judged.take() {
            Some(JudgedHead { target, framing }) => {
                let head = RequestHead::read_by_hyper(parts, Ok(framing));
                RequestHead { target, ..head }
            }
            None if client.http2 => {
                let framing = LengthFields::of_map(&parts.headers)
                    .and_then(|lengths| lengths.of_request(parts.version));
                RequestHead::read_by_hyper(parts, framing.map(|(_, framing)| framing))
            }
            None => return Box::pin(std::future::ready(Err(Unwritable::Unjudged))),
        };
        let record = RequestRecord::begin(&worker, &client.activity, &head, client.address.ip());
        let mut arrival = self.arrival.clone();
        if let Some(arrival) = &mut arrival {
            arrival.expects = head.fields.has(header::EXPECT);
        }
        let keeper = match (&arrival, &client.unread) {
            (Some(arrival), _) => RestKeeper::Http1(Rc::clone(&arrival.rest)),
            (None, Some(unread)) => RestKeeper::Http2(Rc::clone(unread)),
            (None, None) => RestKeeper::Nobody,
        };
        let version = head.version;
        let body = ClientBody::Hyper(HyperBody::new(body, keeper));
        let incoming = IncomingRequest { head, body, connect, writer: Writer::Hyper };
        Box::pin(at_most::<HYPER_REQUEST_BYTES, _>(async move {
            // In the task of its stream. The executor recognises that task by what registers while
            // it polls.
            let mut held = None;
            let answer = pin!(handle(&worker, &client, incoming, record, &mut held));
            let reply = match (answer.as_pin_mut(), held) {
                (Some(answer), _) => answer.await,
                (None, Some(held)) => held.await,
                (None, None) => return Err(Unwritable::Unjudged),
            };
            to_hyper(reply, arrival, version, taken_by).await
        }))
    }
}

async fn to_hyper(
    reply: Reply,
    arrival: Option<RequestArrival>,
    version: Version,
    taken_by: TakenBy,
) -> Result<Response<CountedBody>, Unwritable> {
    let Reply::Http(mut response) = reply else { return Err(Unwritable::Lines) };
    if let Some(arrival) = arrival
        && !arrival.is_through(&response).await
    {
        announce_close(&mut response, version);
    }
    Ok(response.map(|body| CountedBody::new(body, taken_by)))
}

/// hyper closes the connection after this answer, and does not announce it on its own.
fn announce_close(response: &mut Response<ResponseBody>, request: Version) {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    if request == Version::HTTP_10 {
        // Otherwise hyper adds `keep-alive`.
        *response.version_mut() = Version::HTTP_10;
    }
}

// === impl RequestArrival ===

impl RequestArrival {
    /// Whether hyper can read another request after this response: the body of this one was read to
    /// its end, or a service is still reading it. To make that possible, this drops what hyper
    /// already has of an unwanted body, without waiting. With an `Expect` it does not: asking for
    /// the body would invite the client to send it.
    async fn is_through<B>(&self, response: &Response<B>) -> bool {
        let mut rest = match self.rest.take() {
            RestOfBody::Over => return true,
            RestOfBody::Held => return response.extensions().get::<OwnAnswer>().is_none(),
            RestOfBody::Left(rest) => rest,
        };
        if self.expects || !self.is_here.get() {
            return false;
        }
        loop {
            match poll_fn(|cx| Pin::new(&mut rest).poll_frame(cx)).await {
                None => return true,
                Some(Ok(_)) => {}
                Some(Err(_)) => return false,
            }
        }
    }
}

/// hyper cannot write any answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unwritable {
    /// The answer has the form of lines, which nobody asked for.
    #[error("the answer has the shape of another writer")]
    Lines,
    /// hyper has found a request that keygate did not hand to it.
    #[error("the request was not judged")]
    Unjudged,
    /// hyper resets the stream with the source's reason.
    #[error("no memory is left for another stream")]
    NoRoom(#[source] h2::Error),
}

/// What is needed to make the answer to one request.
struct Answering<'a> {
    worker: &'a Rc<Worker>,
    client: &'a Rc<ClientConnection>,
    writer: Writer,
    plan: AnswerPlan,
}

/// The answer to a request that is not sent immediately.
#[allow(clippy::large_enum_variant, reason = "always in a box, and nearly always the large one")]
pub(crate) enum HeldAnswer {
    /// Held until somebody takes it.
    Refused(Option<Reply>),
    /// keygate asks the store of shared limits first.
    Waits(Pin<Box<dyn Future<Output = Reply>>>),
}

// === impl HeldAnswer ===

impl HeldAnswer {
    /// The answer, if there is nothing to wait for.
    pub(crate) fn refusal(&mut self) -> Option<Reply> {
        match self {
            Self::Refused(refusal) => refusal.take(),
            Self::Waits(_) => None,
        }
    }
}

impl Future for HeldAnswer {
    type Output = Reply;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Reply> {
        match self.get_mut() {
            Self::Refused(refusal) => refusal.take().map_or(Poll::Pending, Poll::Ready),
            Self::Waits(answer) => answer.as_mut().poll(cx),
        }
    }
}

/// Decides about a request. If it may be sent, returns the future that sends it. `None`: it may
/// not, or not yet, and `held` is its answer.
///
/// Pin the returned future where it is made, because moving it copies 3 KB. That is why a refusal
/// is returned separately: an `Option` can be pinned without unsafe code, a `Result` cannot.
pub(crate) fn handle(
    worker: &Rc<Worker>,
    client: &Rc<ClientConnection>,
    incoming: IncomingRequest,
    mut record: RequestRecord,
    held: &mut Option<Box<HeldAnswer>>,
) -> Option<impl Future<Output = Reply> + use<>> {
    match admit(worker, client, incoming, None, &mut record) {
        Ok(admitted) => Some(pass(Rc::clone(worker), Rc::clone(client), admitted, record)),
        Err(HaltedRequest::Answered(refusal)) => {
            *held = Some(Box::new(HeldAnswer::Refused(Some(refusal))));
            None
        }
        Err(HaltedRequest::Waits(waiting)) => {
            let answer = pass_later(Rc::clone(worker), Rc::clone(client), waiting, record);
            *held = Some(Box::new(HeldAnswer::Waits(Box::pin(answer))));
            None
        }
    }
}

/// Waits for the store of shared limits and decides again: keys may have ended meanwhile.
async fn pass_later(
    worker: Rc<Worker>,
    client: Rc<ClientConnection>,
    mut waiting: Box<WaitingRequest>,
    mut record: RequestRecord,
) -> Reply {
    loop {
        let WaitingRequest { incoming, wait } = *waiting;
        let waited = Box::new(wait.outcome().await);
        match admit(&worker, &client, incoming, Some(waited), &mut record) {
            Ok(admitted) => return pass(worker, client, admitted, record).await,
            Err(HaltedRequest::Answered(refusal)) => return refusal,
            // A request never waits twice.
            Err(HaltedRequest::Waits(again)) => waiting = again,
        }
    }
}

/// From a request that may be sent to the head of its response.
async fn pass(
    worker: Rc<Worker>,
    client: Rc<ClientConnection>,
    admitted: AdmittedRequest,
    mut record: RequestRecord,
) -> Reply {
    let AdmittedRequest { request, plan, stream, upload, connect, writer } = admitted;
    let answering = Answering { worker: &worker, client: &client, writer, plan };
    // The client's claim alone must not lift the deadlines: over HTTP/1.1 there is no gRPC to wait
    // for.
    let pace = match answering.plan.grpc && record.upstream().is_http2() {
        true => UploadPace::Any,
        false => UploadPace::Steady,
    };
    let (timeouts, caps) = (&worker.shared.timeouts, &worker.shared.caps);
    let answer_deadline =
        AnswerDeadline::new(timeouts, caps, upload.clone(), pace, record.started());
    let sent = at_most::<EXCHANGE_BYTES, _>(exchange::send(
        request,
        &stream,
        &answer_deadline,
        &client.address,
        &mut record,
    ))
    .await;
    let (answer, content, pooled) = match sent {
        Ok(answered) => answered,
        Err(reason) => {
            if let Some(upload) = &upload {
                upload.stop();
            }
            return answering.fail(reason, record);
        }
    };
    record.answered(answer.status().as_u16());
    record.compare_with(&answer);
    if answering.plan.has_credential && answer.status() == StatusCode::UNAUTHORIZED {
        let upstream = record.upstream();
        upstream.meter.credential_refused();
        upstream.minted.tell_refusal(upstream.name.as_deref(), record.last_ns());
    }
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        return answering.switch_protocols(answer.into_parts(), pooled, stream, connect, record);
    }
    // Over HTTP/2 any success would open the tunnel (RFC 8441 section 5).
    if connect.is_some() && answer.status().is_success() {
        return answering.fail(Reason::UpstreamBadResponse, record);
    }
    let upload = upload.map(|progress| RunningUpload { progress, answer_deadline });
    answering.pass_on(answer, content, pooled, stream, upload, record)
}

// === impl Answering ===

impl Answering<'_> {
    /// The exchange with the upstream failed.
    fn fail(&self, reason: Reason, mut record: RequestRecord) -> Reply {
        record.failed(reason);
        if !reason.is_client_fault() {
            record.upstream().meter.error(reason);
        }
        let rejection = Rejection::new(reason);
        let snapshot = self.worker.shared.store.load();
        let context = self.plan.refusal(&record);
        let status = reply::status_of(&rejection, &context);
        let reply = reply::refuse(&rejection, &snapshot.settings, self.writer, &context);
        record.status = status;
        reply
    }

    /// The upstream has agreed to an upgrade: the connection becomes a tunnel.
    fn switch_protocols(
        mut self,
        answer: response::Parts,
        pooled: PooledConnection,
        stream: Stream,
        connect: Option<OnUpgrade>,
        record: RequestRecord,
    ) -> Reply {
        let snapshot = self.worker.shared.store.load();
        let settings = &snapshot.settings;
        let asked = self.plan.upgrade.take();
        match upgrade::accept(answer, pooled, stream, asked, settings) {
            Ok((mut response, upgraded)) => {
                self.plan.finish(response.headers_mut(), settings, &record.request_id);
                let upgraded = upgraded.with(record);
                match connect {
                    Some(connect) => upgraded.run_in_stream(self.worker, connect),
                    None => *self.client.upgraded.borrow_mut() = Some(Box::new(upgraded)),
                }
                Reply::Http(response)
            }
            Err(reason) => self.fail(reason, record),
        }
    }

    /// The upstream's answer in the form that its writer needs.
    fn pass_on(
        self,
        answer: AnswerHeadSource,
        content: AnswerContent,
        mut pooled: PooledConnection,
        stream: Stream,
        upload: Option<RunningUpload>,
        record: RequestRecord,
    ) -> Reply {
        let plan = &self.plan;
        let snapshot = self.worker.shared.store.load();
        let settings = &snapshot.settings;
        let mut head = match answer {
            AnswerHeadSource::Own(head) if self.writer == Writer::Plain => {
                let lines = plan.lines(&head, settings, &record);
                pooled.recycle(head);
                let body = response_body(content, pooled, stream, upload, record, plan);
                return Reply::Lines(lines, body);
            }
            answer => answer.into_parts(),
        };
        if !answer::is_framed_once(head.status, &head.headers) {
            // Another reader of these bytes might choose differently from hyper.
            return self.fail(Reason::UpstreamBadResponse, record);
        }
        // The version belongs to one hop: to the client we speak ours, whatever the upstream
        // speaks.
        head.version = Version::HTTP_11;
        answer::to_client(&mut head.headers, settings, plan.trailers);
        cut_all(&mut head.headers, record.upstream().own_address.as_ref());
        plan.finish(&mut head.headers, settings, &record.request_id);
        plan.finish_map(&mut head.headers);
        let mut body = response_body(content, pooled, stream, upload, record, plan);
        if plan.is_http10 && body.size_hint().exact().is_none() {
            head.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            // Otherwise hyper adds `keep-alive`.
            head.version = Version::HTTP_10;
            self.client.until_close.set(true);
        }
        // A 304 gives the length of the answer that the client already has (RFC 9110 section 8.6).
        // Over HTTP/1, hyper drops that field when it knows that the body is empty.
        if head.status == StatusCode::NOT_MODIFIED
            && !self.client.http2
            && body.is_end_stream()
            && head.headers.contains_key(header::CONTENT_LENGTH)
        {
            body = ResponseBody::Unmeasured(Bytes::new());
        }
        Reply::Http(Response::from_parts(head, body))
    }
}
