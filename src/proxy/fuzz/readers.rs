//! What our HTTP/1 readers and hyper's find in the same bytes. Whatever ours accept, hyper's must
//! accept too, and read the same. Whatever we leave to hyper, it must accept, and find the same
//! end.

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::proxy::http1::answer_body::AnswerBody;
use crate::proxy::http1::answer_read::{
    FieldRoom, LONGEST_HEAD, MOST_FIELDS, RequestMethod, find_head,
};
use crate::proxy::http1::chunks::{BODY_END, ChunkForm};
use crate::proxy::http1::length::BodyLength;
use crate::proxy::http1::request_read::{Parsed, parse};
use crate::proxy::http1::request_refuse::{ForHyper, HeadBounds, Judged, judge};
use crate::proxy::http1::request_span::SpanBytes;
use crate::proxy::http1::target::RequestTarget;

/// An answer, read to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadAnswer {
    pub status: u16,
    pub fields: Vec<(Vec<u8>, Vec<u8>)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A request, read to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadRequest {
    pub method: String,
    pub target: String,
    pub fields: Vec<(Vec<u8>, Vec<u8>)>,
    pub body: Vec<u8>,
}

/// The most bytes that the head of a request may have here.
const LONGEST_REQUEST_HEAD: usize = 64 * 1024;

fn sorted(fields: impl Iterator<Item = (Vec<u8>, Vec<u8>)>) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut fields: Vec<(Vec<u8>, Vec<u8>)> = fields.collect();
    // Stable: fields of one name keep their order.
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    fields
}

fn list(map: &http::HeaderMap) -> Vec<(Vec<u8>, Vec<u8>)> {
    sorted(map.iter().map(|(n, v)| (n.as_str().as_bytes().to_vec(), v.as_bytes().to_vec())))
}

/// The final answer in `bytes`, after which the connection is closed, as our reader finds it in
/// reads that end after `cut` bytes of the body. `None`: it is not an answer, or not complete.
pub fn our_answer(bytes: &[u8], cut: usize) -> Option<ReadAnswer> {
    let mut rest = bytes;
    let (found, head) = loop {
        let found = find_head(rest, RequestMethod::Other, &mut FieldRoom::default()).ok()??;
        let (head, behind) = rest.split_at_checked(found.length)?;
        rest = behind;
        if found.status == http::StatusCode::SWITCHING_PROTOCOLS {
            return None;
        }
        if !found.status.is_informational() {
            break (found, head);
        }
    };
    let mut reader = AnswerBody::new(found.body, ChunkForm::Data);
    let body = kept(&mut reader, rest, cut)?;
    reader.close().ok()?;
    if found.body == BodyLength::Chunked {
        let mut of_chunks = AnswerBody::new(found.body, ChunkForm::Chunks);
        let chunks = [&*kept(&mut of_chunks, rest, cut)?, BODY_END].concat();
        let mut again = AnswerBody::new(BodyLength::Chunked, ChunkForm::Data);
        // Read like a client that gets the chunks.
        if kept(&mut again, &chunks, chunks.len())? != body || !again.is_over() {
            return Some(ReadAnswer {
                status: 0,
                fields: Vec::new(),
                body: chunks,
                trailers: Vec::new(),
            });
        }
    }
    let trailers = reader.take_trailers().ok()?.map(|map| list(&map)).unwrap_or_default();
    let status = found.status.as_u16();
    let head = found.with(head.to_vec());
    let fields = sorted(head.fields().map(|field| (field.name.to_vec(), field.value.to_vec())));
    Some(ReadAnswer { status, fields, body, trailers })
}

/// What is kept of a body that arrives in two pieces.
fn kept(reader: &mut AnswerBody, bytes: &[u8], cut: usize) -> Option<Vec<u8>> {
    let mut all = Vec::new();
    let (first, second) = bytes.split_at(cut.min(bytes.len()));
    for piece in [first, second] {
        let room = reader.room();
        let mut piece = [&vec![b'!'; room][..], piece].concat();
        let found = reader.read(&mut piece, room).ok()?;
        all.extend_from_slice(piece.get(found.kept)?);
    }
    Some(all)
}

/// The same as hyper's client reads it. `None`: hyper does not take it for an answer, or takes it
/// for a broken one.
pub async fn hypers_answer(bytes: &[u8]) -> Option<ReadAnswer> {
    let (near, mut far) = tokio::io::duplex(64 * 1024);
    let mut builder = hyper::client::conn::http1::Builder::new();
    builder.max_headers(MOST_FIELDS).max_buf_size(LONGEST_HEAD);
    let (mut sender, connection) = builder.handshake(TokioIo::new(near)).await.ok()?;
    let request = Request::builder().header("host", "a").body(Empty::<Bytes>::new()).ok()?;
    let answer = async {
        let (head, body) = sender.send_request(request).await.ok()?.into_parts();
        let body = body.collect().await.ok()?;
        let trailers = body.trailers().map(list).unwrap_or_default();
        let (status, fields) = (head.status.as_u16(), list(&head.headers));
        Some(ReadAnswer { status, fields, body: body.to_bytes().to_vec(), trailers })
    };
    let service = async {
        // Only what follows a request is an answer.
        let mut request = [0; 256];
        let _ = far.read(&mut request).await;
        let _ = far.write_all(bytes).await;
        let _ = far.shutdown().await;
        drop(far);
        std::future::pending::<()>().await;
    };
    let connection = async {
        let _ = connection.await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        answer = answer => answer,
        () = service => None,
        () = connection => None,
    }
}

/// The first request in `bytes` as we read it. `None`: it is hyper's to read, or not complete.
pub fn our_request(bytes: &[u8]) -> Option<ReadRequest> {
    let Parsed::Asked(asked, used) = parse(bytes, LONGEST_REQUEST_HEAD) else { return None };
    let left = usize::try_from(asked.left).ok()?;
    let rest = bytes.get(used..)?.get(..left)?;
    let head = asked.head;
    Some(ReadRequest {
        method: head.method.as_str().to_owned(),
        target: as_uri(&head.target),
        fields: sorted(head.fields.iter().map(|(n, v)| (n.to_ascii_lowercase(), v.to_vec()))),
        body: [&*asked.body, rest].concat(),
    })
}

/// A target with `!` in place of each character that hyper does not accept.
fn as_uri(target: &RequestTarget) -> String {
    let mut target = target.clone();
    let query = target.query().map(|query| query.replace(NOT_FOR_HYPER, "!"));
    target.set_query(query.as_deref());
    target.to_uri().map(|uri| uri.to_string()).unwrap_or_default()
}

const NOT_FOR_HYPER: &[char] = &['"', '<', '>'];

/// The same in the first line of `bytes`, after its first `?`.
fn with_uri(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let begin = bytes.iter().position(|b| !matches!(b, b'\r' | b'\n')).unwrap_or(0);
    let line = bytes.get_mut(begin..).unwrap_or_default();
    let line = line.split_mut(|b| *b == b'\n').next().unwrap_or_default();
    for byte in line.iter_mut().skip_while(|b| **b != b'?') {
        if NOT_FOR_HYPER.contains(&char::from(*byte)) {
            *byte = b'!';
        }
    }
    bytes
}

/// The same as hyper's server reads it. `None`: hyper refuses it.
pub async fn hypers_request(bytes: &[u8]) -> Option<ReadRequest> {
    let bytes = &*with_uri(bytes);
    let (near, mut far) = tokio::io::duplex(bytes.len().max(1));
    let read = Arc::new(Mutex::new(None));
    let service = service_fn(|request: Request<hyper::body::Incoming>| {
        let read = Arc::clone(&read);
        async move {
            let (head, body) = request.into_parts();
            if let Ok(body) = body.collect().await {
                let mut read = read.lock().unwrap_or_else(PoisonError::into_inner);
                // The first of them.
                read.get_or_insert(ReadRequest {
                    method: head.method.as_str().to_owned(),
                    target: head.uri.to_string(),
                    fields: list(&head.headers),
                    body: body.to_bytes().to_vec(),
                });
            }
            let close = Response::builder().header("connection", "close");
            Ok::<_, Infallible>(close.body(Empty::<Bytes>::new()).unwrap_or_default())
        }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    // The end of the bytes is not the end of the client.
    let connection = builder.half_close(true).serve_connection(TokioIo::new(near), service);
    let client = async {
        let _ = far.write_all(bytes).await;
        let _ = far.shutdown().await;
        let mut answer = [0; 1024];
        while far.read(&mut answer).await.is_ok_and(|count| count > 0) {}
    };
    let (_, ()) = tokio::join!(connection, client);
    read.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Where a request that hyper's server reads ends, and its path and query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadSpan {
    /// Bytes of the request, from the first byte of its head.
    pub length: usize,
    pub target: String,
}

/// What hyper's server makes of the first request in some bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HypersSpan {
    /// hyper refuses its head, or waits for more of it.
    NoHead,
    BadBody,
    Whole(ReadSpan),
}

/// The first request in `bytes`, if it is hyper's to read: where we find its end, and what hyper
/// gets. `None`: it is ours, refused, or not complete.
pub fn our_span(bytes: &[u8]) -> Option<(ReadSpan, Vec<u8>)> {
    let bounds = HeadBounds { bytes: LONGEST_REQUEST_HEAD, fields: 100 };
    // In two pieces if the head is in the first, as from a socket.
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let (judged, first, second) = match judge(first, bounds) {
        Judged::Servable(head) => (Judged::Servable(head), first, second),
        _ => (judge(bytes, bounds), bytes, &[][..]),
    };
    let Judged::Servable(head) = judged else { return None };
    let ForHyper { bytes, behind, mut span, judged } =
        head.hand_over(Bytes::copy_from_slice(first));
    let mut handed = bytes.to_vec();
    let mut rest = [&*behind, second].concat();
    if !span.is_over() {
        let SpanBytes { used, trailers } = span.read(second).ok()?;
        handed.extend_from_slice(second.get(..trailers.start)?);
        handed.extend_from_slice(second.get(trailers.end..used)?);
        rest = second.get(used..)?.to_vec();
    }
    let length = handed.len();
    handed.append(&mut rest);
    let target = &judged.target;
    let target = if target.is_uri() { target.as_str().to_owned() } else { "*".to_owned() };
    span.is_over().then_some((ReadSpan { length, target }, handed))
}

/// The same as hyper's server reads it.
pub async fn hypers_span(bytes: &[u8]) -> HypersSpan {
    let (near, mut far) = tokio::io::duplex(bytes.len().max(1));
    let target = Arc::new(Mutex::new(None));
    let service = service_fn(|request: Request<hyper::body::Incoming>| {
        let found = Arc::clone(&target);
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let is_whole = body.collect().await.is_ok();
            let query = head.uri.query().map(|q| format!("?{q}")).unwrap_or_default();
            let target = format!("{}{query}", head.uri.path());
            *found.lock().unwrap_or_else(PoisonError::into_inner) = Some((target, is_whole));
            let close = Response::builder().header("connection", "close");
            Ok::<_, Infallible>(close.body(Empty::<Bytes>::new()).unwrap_or_default())
        })
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.half_close(true);
    let mut connection = builder.serve_connection(TokioIo::new(near), service);
    let client = async {
        let _ = far.write_all(bytes).await;
        let _ = far.shutdown().await;
        let mut answer = [0; 1024];
        // The end of the answer: hyper does not close the connection here.
        while far.read(&mut answer).await.is_ok_and(|count| count > 0) {}
    };
    let server = std::future::poll_fn(|cx| connection.poll_without_shutdown(cx));
    tokio::select! {
        () = client => {}
        _ = server => {}
    }
    let parts = connection.into_parts();
    let mut rest = parts.read_buf.to_vec();
    // The bytes that hyper has not even read.
    let mut near = parts.io.into_inner();
    drop(far);
    let _ = near.read_to_end(&mut rest).await;
    let found = target.lock().unwrap_or_else(PoisonError::into_inner).take();
    match found {
        None => HypersSpan::NoHead,
        Some((_, false)) => HypersSpan::BadBody,
        Some((target, true)) => {
            HypersSpan::Whole(ReadSpan { length: bytes.len().saturating_sub(rest.len()), target })
        }
    }
}
