//! The last steps of an admission: what the service gets, and what the answer will need.

use std::net::IpAddr;
use std::rc::Rc;

use http::Version;

use super::{Admission, AdmittedRequest, HaltedRequest, IncomingRequest, Passage};
use crate::config::TraceStart;
use crate::core::decision::Ticket;
use crate::core::observe::{Conduct, CredentialPassage};
use crate::core::rate_fields::LimitReport;
use crate::core::{OwnerView, Policy, Reason, Rejection};
use crate::observe::HeadNotice;
use crate::proxy::body::{ClientBody, RequestBody, Upload, UploadProgress};
use crate::proxy::http1::answer_write::Writer;
use crate::proxy::http1::chunks::ChunkForm;
use crate::proxy::http1::head::{RequestHead, is_extended_connect};
use crate::proxy::ids::Trace;
use crate::proxy::outbound::Forward;
use crate::proxy::request::answer_plan::AnswerPlan;
use crate::proxy::request::connection::ClientConnection;
use crate::proxy::request::credentials::Carried;
use crate::proxy::request::facts::{self, RequestReading};
use crate::proxy::request::head_changes::{HeadChanges, KeptWith};
use crate::proxy::request::record::RequestRecord;
use crate::proxy::request::reply::{self, Reply};
use crate::proxy::request::rewrite::{self, RewriteContext, answer};
use crate::proxy::request::sent_tokens::{self, SentToken, SentTokens};
use crate::proxy::request::upgrade_request::{self, UpgradeAsked, UpgradeRequest};

/// What is sent in addition to the head, and where its credentials were.
pub(super) struct HeadExtras<'s> {
    client_ip: IpAddr,
    carried: Carried,
    upgrade: Option<Box<UpgradeRequest>>,
    trace: Option<Trace>,
    sent: SentTokens<'s>,
}

// === impl HeadExtras ===

impl<'s> HeadExtras<'s> {
    #[inline]
    pub(super) fn of(reading: &RequestReading<'_>, sent: SentTokens<'s>) -> Self {
        let (client_ip, carried) = (reading.client(), reading.carriers.carried());
        Self { client_ip, carried, upgrade: None, trace: None, sent }
    }
}

// === impl Admission ===

#[expect(clippy::result_large_err, reason = "a refusal is moved once, and then is the answer")]
impl<'s> Admission<'s> {
    /// Settles which fields the head loses and what is added. The assertion is made last, when
    /// nothing can refuse the request any more.
    #[inline]
    pub(super) fn settle_head(
        &self,
        passage: &Passage<'_>,
        head: &RequestHead,
        changes: &mut HeadChanges,
        extras: &mut HeadExtras<'s>,
        record: &mut RequestRecord,
    ) -> Result<(), Reply> {
        if passage.credentials == CredentialPassage::Forward {
            extras.carried = Carried::default();
            changes.keep(KeptWith::Credentials);
        }
        if passage.conduct == Conduct::Observed && self.is_whole_gate() {
            changes.keep(KeptWith::Observed);
        }
        self.note_dropped(changes, head);
        extras.upgrade = self.upgrade(passage, head, changes, extras.carried, record)?;
        extras.trace = self.start_trace(record);
        if passage.conduct == Conduct::Enforced {
            extras.sent.assertion = self.assertion(passage, head, record)?;
        }
        Ok(())
    }

    /// What the answer will need of the request.
    #[inline]
    pub(super) fn plan(
        &mut self,
        passage: &Passage<'_>,
        head: &RequestHead,
        changes: &HeadChanges,
        extras: &HeadExtras<'_>,
        charged: Option<LimitReport>,
    ) -> AnswerPlan {
        let settings = &self.snapshot.settings;
        let profile = passage.route.profile.as_deref();
        let admitted = match &passage.forward {
            Forward::Admitted(admitted) if passage.conduct == Conduct::Enforced => Some(admitted),
            Forward::Admitted(_) | Forward::Observed(_) | Forward::Passed(_) => None,
        };
        AnswerPlan {
            method: head.method.clone(),
            grpc: self.grpc,
            profile: settings.refusals.choose(profile, self.accept.as_deref()).map(Box::from),
            charged,
            sunset: admitted.and_then(|admitted| admitted.key()?.grant.sunset),
            private: extras.carried.in_query && admitted.is_some(),
            has_credential: extras.sent.credential.is_some(),
            upgrade: extras.upgrade.clone(),
            close: self.worker.closing.get() && head.version != Version::HTTP_2,
            trailers: match changes.te_trailers || self.client.http2 {
                true => answer::Trailers::Announced,
                false => answer::Trailers::Dropped,
            },
            is_http10: head.version == Version::HTTP_10,
            request_id_name: settings.identity.request_id.clone(),
            cors: std::mem::take(&mut self.cors),
        }
    }

    /// Makes the upstream's request.
    #[inline]
    pub(super) fn rewrite(
        &self,
        passage: Passage<'s>,
        incoming: IncomingRequest,
        changes: HeadChanges,
        extras: HeadExtras<'s>,
        plan: AnswerPlan,
        record: &mut RequestRecord,
    ) -> Result<AdmittedRequest, HaltedRequest> {
        let IncomingRequest { head, body, connect, writer } = incoming;
        let HeadExtras { client_ip, carried, upgrade, trace, sent } = extras;
        let Passage { forward, route, conduct, credentials } = passage;
        let (settings, client, origins) = (&self.snapshot.settings, self.client, sent.origins());
        let body_limit = route.body_limit.filter(|_| conduct == Conduct::Enforced);
        let (body, upload) = upstream_body(body, body_limit, client, record);
        let ticket = ticket(&forward, client_ip, &settings.policy);
        let stream = self.worker.streams.register(ticket, settings, route.index);
        if !client.http2 {
            client.running.set(self.worker.streams.take_latest());
        }
        let upstream = record.upstream();
        let context = RewriteContext {
            settings,
            client: &client.address,
            https: client.https,
            request_id: &record.request_id,
            trace,
            host: upstream.host.as_ref(),
            authority: &upstream.authority,
            http2: upstream.is_http2(),
            upstream_https: upstream.is_https,
            preserve_case: upstream.preserve_case,
            upgrade,
            subject: client.subject.as_ref(),
            owner: self.owner(&forward),
            credentials,
            chunks: match writer {
                Writer::Plain => ChunkForm::Chunks,
                Writer::Hyper => ChunkForm::Data,
            },
            assertion: sent.assertion.map(|token| token.text),
            credential: sent.credential,
            credential_field: settings.credential_for(upstream.index).map(|of| &of.field),
        };
        match rewrite::rewrite(forward, head, body, changes, carried, context) {
            Ok(request) => {
                origins.count(self.worker, record);
                Ok(AdmittedRequest { request, plan, stream, upload, connect, writer })
            }
            Err(bad) => {
                record.failed(Reason::BadTarget);
                record.refused_while_observing(Reason::BadTarget);
                let rejection = Rejection::why(Reason::BadTarget, bad.why());
                let context = plan.refusal(record);
                let status = reply::status_of(&rejection, &context);
                let answer = reply::refuse(&rejection, settings, writer, &context);
                record.status = status;
                Err(HaltedRequest::Answered(answer))
            }
        }
    }

    /// Records the fields that the service does not get because their name has an underscore.
    fn note_dropped(&self, changes: &HeadChanges, head: &RequestHead) {
        for name in changes.dropped(head, &self.snapshot.settings) {
            self.worker.cells.fields_dropped(1);
            self.worker.shared.dropped_names.note(name);
        }
    }

    /// The upgrade to pass on. An HTTP/2 upstream gets none. An extended CONNECT that its route
    /// does not allow is refused.
    fn upgrade(
        &self,
        passage: &Passage<'_>,
        head: &RequestHead,
        changes: &mut HeadChanges,
        carried: Carried,
        record: &mut RequestRecord,
    ) -> Result<Option<Box<UpgradeRequest>>, Reply> {
        let (settings, route) = (&self.snapshot.settings, passage.route);
        let asked = UpgradeAsked {
            route,
            carried,
            conduct: passage.conduct,
            credentials: passage.credentials,
        };
        let upgrade = upgrade_request::read(head, changes, &asked, settings)
            .filter(|_| !record.upstream().is_http2());
        if facts::asks_upgrade(head, changes)
            && !upgrade.as_ref().is_some_and(|upgrade| upgrade.is_of(route))
        {
            record.tell(HeadNotice::Upgrade);
        }
        if upgrade.is_none() && is_extended_connect(head) {
            let reason = match record.upstream().is_http2() {
                // No rule could allow it.
                true => Reason::BadMethod,
                false => Reason::Method,
            };
            record.failed(reason);
            record.refused_while_observing(reason);
            return Err(self.refuse(&reason.into(), route.profile.as_deref(), record));
        }
        Ok(upgrade)
    }

    /// What the service learns about the caller in a form that it can verify.
    fn assertion(
        &self,
        passage: &Passage<'_>,
        head: &RequestHead,
        record: &mut RequestRecord,
    ) -> Result<Option<SentToken>, Reply> {
        sent_tokens::assertion(self.snapshot, &passage.forward, head, record).map_err(|reason| {
            record.failed(reason);
            self.refuse(&reason.into(), passage.route.profile.as_deref(), record)
        })
    }

    /// The owner of the key, if an identity field is for it.
    fn owner(&self, forward: &Forward<'s>) -> Option<OwnerView<'s>> {
        self.snapshot.settings.identity.owner.as_ref()?;
        let Forward::Admitted(admitted) = forward else { return None };
        admitted.owner(self.snapshot.keys.as_deref()?)
    }

    /// Starts a trace if the client sent none and the configuration asks for one.
    fn start_trace(&self, record: &mut RequestRecord) -> Option<Trace> {
        let TraceStart::Start(sampled) = self.snapshot.settings.trace else { return None };
        if record.trace_id.is_some() {
            return None;
        }
        let trace = self.worker.ids.begin_trace(&record.request_id, sampled);
        record.trace_id = trace.id();
        Some(trace)
    }
}

/// What is kept of the verdict while the request runs. `None`: the request needs no key.
fn ticket(forward: &Forward<'_>, client: IpAddr, policy: &Policy) -> Option<Ticket> {
    match forward {
        Forward::Admitted(admitted) => Some(admitted.ticket(client, policy)),
        Forward::Observed(observed) => observed.ticket(client, policy),
        Forward::Passed(_) => None,
    }
}

/// The body as the upstream gets it, and its progress if the client still sends it.
fn upstream_body(
    body: ClientBody,
    limit: Option<u64>,
    client: &ClientConnection,
    record: &mut RequestRecord,
) -> (RequestBody, Option<Rc<UploadProgress>>) {
    match body {
        ClientBody::Whole(bytes) if !bytes.is_empty() => {
            record.bytes_in = bytes.len() as u64;
            (RequestBody::Whole(bytes), None)
        }
        body if body.has_come() => (RequestBody::Empty, None),
        body => {
            let upload = Upload::new(body, limit, Rc::clone(&client.activity));
            let progress = upload.progress();
            record.upload = Some(Rc::clone(&progress));
            (RequestBody::Stream(upload), Some(progress))
        }
    }
}
