//! The answer to a head that keygate cannot serve: it has a code, a request id and a log line like
//! every other refusal.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::answer::{AnswerFraming, finish};
use crate::core::Rejection;
use crate::proxy::client::linger::end_clean;
use crate::proxy::http1::answer_write::Writer;
use crate::proxy::http1::request_refuse::RefusedHead;
use crate::proxy::net::io::Io;
use crate::proxy::request::connection::ClientConnection;
use crate::proxy::request::download::ResponseBody;
use crate::proxy::request::record::RequestRecord;
use crate::proxy::request::reply::{self, RefusalContext, Reply};
use crate::proxy::worker::Worker;

/// The answer is short: if a client takes nothing of it for this long, keygate stops waiting.
const LONGEST_WRITE: Duration = Duration::from_secs(1);

/// Refuses the head and ends the connection. Nobody reads what follows the head.
pub(in crate::proxy::client) async fn refuse(
    worker: &Rc<Worker>,
    client: &ClientConnection,
    mut io: Io,
    refused: RefusedHead,
) {
    let RefusedHead { head, rejection } = refused;
    let address = client.address.ip();
    // The time for the head may be over. The time for its answer begins.
    client.activity.cut.set(None);
    let mut record = RequestRecord::begin(worker, &client.activity, &head, address);
    let text = write(worker, client, &rejection, &mut record);
    let sending = async {
        io.write_all(&text).await?;
        io.flush().await
    };
    match timeout(worker.shared.timeouts.write.min(LONGEST_WRITE), sending).await {
        Ok(Ok(())) => {}
        Ok(Err(_)) | Err(_) => record.client_gone(),
    }
    drop(record);
    // The client may still be sending, and must be able to read the answer first.
    client.activity.body_open.set(true);
    end_clean(worker, address, io).await;
}

/// The whole answer, in the usual form.
fn write(
    worker: &Worker,
    client: &ClientConnection,
    rejection: &Rejection,
    record: &mut RequestRecord,
) -> Vec<u8> {
    record.failed(rejection.reason);
    record.refused_while_observing(rejection.reason);
    let snapshot = worker.shared.store.load();
    let asked = RefusalContext {
        method: record.method(),
        grpc: false,
        profile: None,
        request_id: &record.request_id,
        cors: &[],
    };
    let status = reply::status_of(rejection, &asked);
    let reply = reply::refuse(rejection, &snapshot.settings, Writer::Plain, &asked);
    record.status = status;
    let Reply::Lines(mut lines, body) = reply else { return Vec::new() };
    lines.closes = true;
    let body = match body {
        ResponseBody::Full(body) => body,
        _ => Bytes::new(),
    };
    let length = body.len() as u64;
    let mut text = finish(worker, client, lines, AnswerFraming::Counted(length));
    if *record.method() != Method::HEAD {
        text.extend_from_slice(&body);
        record.bytes_out = length;
    }
    text
}
