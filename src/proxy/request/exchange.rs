//! One exchange with the upstream: connection, request, head of the response, and a retry where
//! that is safe.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use hyper::body::{Body, Incoming};

use super::record::RequestRecord;
use crate::core::Reason;
use crate::proxy::answer_deadline::AnswerDeadline;
use crate::proxy::net::io::ClientAddr;
use crate::proxy::outbound::UpstreamRequest;
use crate::proxy::streams::Stream;
use crate::proxy::upstream::{AnswerContent, AnswerHeadSource, PooledConnection, Reuse};

/// The most connections tried for one request: an upstream that closes each of them immediately
/// must not be hammered.
const MOST_TRIES: usize = 4;

/// Sends the request and waits for the head of the response.
///
/// hyper returns a request that it has not started to send; that one is always retried. A request
/// that may have reached the upstream is retried only if it has no body, and either the upstream
/// declared that it did not process it (GOAWAY, REFUSED_STREAM), or it is idempotent and the
/// connection was a kept-alive one (hyperium/hyper#2136: the upstream closed it at the same
/// moment).
pub(crate) async fn send(
    mut request: UpstreamRequest,
    stream: &Stream,
    answer_deadline: &AnswerDeadline,
    client: &ClientAddr,
    record: &mut RequestRecord,
) -> Result<(AnswerHeadSource, AnswerContent, PooledConnection), Reason> {
    let mut reuse = Reuse::IfPossible;
    for _ in 0..MOST_TRIES {
        let (before, needs) = (record.last_ns(), request.needs());
        let checked_out = record.upstream().pool.checkout(needs, reuse, before, client).await;
        let mut pooled = match checked_out {
            Ok(pooled) => pooled,
            Err(reason) => {
                let now = record.now_ns();
                record.waited_for_upstream(before, now);
                return Err(reason);
            }
        };
        let now = pooled.begun_ns;
        record.waited_for_upstream(before, now);
        record.sent_upstream(now);
        stream.set_deadline(answer_deadline.begin(now));
        let failure = match pooled.send(&mut request, stream, answer_deadline).await {
            Ok((head, content)) => return Ok((head, content, pooled)),
            Err(failure) => failure,
        };
        let nothing_done = failure.unprocessed || failure.stale && request.is_idempotent();
        if !(failure.unsent || nothing_done && request.is_repeatable()) {
            return Err(answer_deadline.blame(failure.reason));
        }
        record.upstream().meter.retried();
        reuse = Reuse::Never;
    }
    Err(Reason::UpstreamClosed)
}

/// The part of a short body that arrived together with the head.
pub(crate) fn first_frame(incoming: &mut Incoming, length: u64) -> Option<Bytes> {
    if length > WHOLE {
        return None;
    }
    let mut cx = Context::from_waker(Waker::noop());
    match Pin::new(&mut *incoming).poll_frame(&mut cx) {
        Poll::Ready(Some(Ok(frame))) => frame.into_data().ok(),
        _ => None,
    }
}

/// keygate looks for bodies of up to this length in the bytes that arrived with the head.
const WHOLE: u64 = 8 * 1024;
