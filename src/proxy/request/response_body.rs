//! The body of the upstream's answer, as it goes to the client.

use std::rc::Rc;

use hyper::body::Body;

use super::answer_plan::AnswerPlan;
use super::download::{Download, RemainingBody, ResponseBody, send_rest};
use super::exchange;
use super::record::RequestRecord;
use crate::proxy::answer_deadline::AnswerDeadline;
use crate::proxy::body::UploadProgress;
use crate::proxy::http1::answer_body::AnswerBody;
use crate::proxy::http1::chunks::ChunkForm;
use crate::proxy::streams::Stream;
use crate::proxy::upstream::{AnswerContent, PooledConnection, WholeChunks};

/// An upload that may outlast the head of its answer, and the deadlines that it keeps.
pub(super) struct RunningUpload {
    pub(super) progress: Rc<UploadProgress>,
    pub(super) answer_deadline: AnswerDeadline,
}

/// The response's body. A body that has arrived completely needs nothing more from the upstream:
/// its connection is returned immediately, or sends the rest of the request. Over HTTP/2 the
/// request continues until the client has taken the body.
pub(super) fn response_body(
    content: AnswerContent,
    pooled: PooledConnection,
    stream: Stream,
    upload: Option<RunningUpload>,
    mut record: RequestRecord,
    plan: &AnswerPlan,
) -> ResponseBody {
    let uploaded =
        upload.as_ref().is_none_or(|upload| !upload.progress.is_open()) && !pooled.is_sending();
    let over_http2 = record.is_http2();
    let mut whole = None;
    let (first, rest) = match content {
        AnswerContent::Whole(bytes) if over_http2 && !bytes.is_empty() => {
            (Some(bytes), RemainingBody::Own(AnswerBody::Counted(0)))
        }
        AnswerContent::WholeChunked(whole) if over_http2 && !whole.bytes.is_empty() => {
            (Some(whole.bytes), RemainingBody::Trailers(None))
        }
        AnswerContent::Whole(bytes) => {
            record.complete(bytes.len() as u64);
            whole = Some(ResponseBody::Full(bytes));
            (None, RemainingBody::Own(AnswerBody::Counted(0)))
        }
        AnswerContent::WholeChunked(WholeChunks { bytes, form, data }) => {
            record.complete(data);
            whole = Some(match form {
                ChunkForm::Data => ResponseBody::Unmeasured(bytes),
                ChunkForm::Chunks => ResponseBody::Chunks(bytes),
            });
            (None, RemainingBody::Own(AnswerBody::Counted(0)))
        }
        AnswerContent::Coming { first, body } => {
            (Some(first).filter(|f| !f.is_empty()), RemainingBody::Own(body))
        }
        AnswerContent::Hyper(incoming) if incoming.is_end_stream() => {
            record.complete(0);
            whole = Some(ResponseBody::Empty);
            (None, RemainingBody::Hyper(incoming))
        }
        AnswerContent::Hyper(mut incoming) => {
            let mut first = None;
            if let Some(length) = incoming.size_hint().exact()
                && pooled.is_driven()
                && uploaded
                && let Some(bytes) = exchange::first_frame(&mut incoming, length)
            {
                if bytes.len() as u64 == length && !over_http2 {
                    record.complete(length);
                    whole = Some(ResponseBody::Full(bytes));
                } else {
                    first = Some(bytes);
                }
            }
            (first, RemainingBody::Hyper(incoming))
        }
    };
    if uploaded && let Some(body) = whole {
        pooled.give_back(record.last_ns());
        return body;
    }
    let timeouts = &record.worker().shared.timeouts;
    let idle_ns = timeouts.response_idle.map(|d| d.as_nanos() as u64);
    let total_ns =
        timeouts.total.map(|d| record.started().mono_ns.saturating_add(d.as_nanos() as u64));
    let total_ns = total_ns.unwrap_or(u64::MAX);
    stream.set_deadline(total_ns);
    let (upload, answer_deadline) =
        upload.map(|upload| (upload.progress, upload.answer_deadline)).unzip();
    let mut download = Download {
        first,
        rest,
        pooled: Some(pooled),
        stream,
        upload,
        record,
        grpc: plan.grpc,
        http2: over_http2,
        idle_ns,
        silent_ns: u64::MAX,
        answer_deadline: answer_deadline.filter(|_| !uploaded),
        stalled: false,
        total_ns,
        is_duplex: !uploaded,
        is_over: whole.is_some(),
        uploaded: 0,
    };
    match whole {
        Some(body) => {
            send_rest(download);
            body
        }
        None => {
            download.let_go_of_upstream();
            download.into_body()
        }
    }
}
