//! WebSocket and other protocol switches: the client asks, the route allows, and the upstream
//! grants with its own 101. Only then is there a tunnel. Over HTTP/2 a client asks with an extended
//! CONNECT (RFC 8441); the upstream sees an HTTP/1.1 upgrade.

mod stream;

use std::rc::Rc;
use std::task::Poll;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Response, StatusCode, response};
use hyper::upgrade::OnUpgrade;

use self::stream::{ClientSide, InStream};

use super::download::ResponseBody;
use super::record::RequestRecord;
use super::rewrite::answer;
use super::subprotocol::Offer;
use super::upgrade_request::UpgradeRequest;
use crate::config::Settings;
use crate::core::Reason;
use crate::proxy::net::io::{CutReason, Io};
use crate::proxy::streams::{RequestEnd, Stream};
use crate::proxy::tunnel::{Framing, Limits, Tunnel, TunnelCut, TunnelEnd};
use crate::proxy::upstream::PooledConnection;
use crate::proxy::worker::Worker;

/// Both sides have switched. Waits until HTTP has released the client's connection.
#[derive(Debug)]
pub(crate) struct Upgraded {
    upstream: Io,
    from_upstream: Bytes,
    framing: Framing,
    stream: Rc<Stream>,
    close_code: u16,
    record: Option<RequestRecord>,
}

/// The `Sec-WebSocket-Accept` that proves the key was read (RFC 6455 section 4.2.2).
fn websocket_accept(key: &HeaderValue) -> String {
    let mut hash = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key.as_bytes());
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    BASE64_STANDARD.encode(hash.finish())
}

/// Checks the upstream's 101, which counts only if it grants what was asked.
pub(crate) fn accept(
    mut head: response::Parts,
    pooled: PooledConnection,
    stream: Stream,
    asked: Option<Box<UpgradeRequest>>,
    settings: &Settings,
) -> Result<(Response<ResponseBody>, Upgraded), Reason> {
    let bad = Reason::UpstreamBadResponse;
    let asked = asked.ok_or(bad)?;
    let granted = head.headers.get(header::UPGRADE).ok_or(bad)?;
    if !granted.as_bytes().eq_ignore_ascii_case(asked.protocol.as_bytes()) {
        return Err(bad);
    }
    let dropped = answer::Trailers::Dropped;
    answer::to_client(&mut head.headers, settings, dropped);
    if let Some(key) = &asked.key {
        // The client has no key, so keygate must check the proof.
        let accept = head.headers.remove(header::SEC_WEBSOCKET_ACCEPT).ok_or(bad)?;
        if accept.as_bytes() != websocket_accept(key).as_bytes() {
            return Err(bad);
        }
        head.status = StatusCode::OK;
    } else {
        head.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        head.headers.insert(header::UPGRADE, asked.protocol.clone());
    }
    let websocket = asked.protocol == "websocket";
    if websocket {
        answer_subprotocol(&mut head.headers, &asked.offer).map_err(|_| bad)?;
    }
    let (upstream, from_upstream) = pooled.into_upgraded().ok_or(bad)?;
    stream.set_deadline(u64::MAX);
    let upgraded = Upgraded {
        upstream,
        from_upstream,
        framing: if websocket { Framing::WebSocket } else { Framing::Opaque },
        stream: Rc::new(stream),
        close_code: asked.close_code,
        record: None,
    };
    Ok((Response::from_parts(head, ResponseBody::Empty), upgraded))
}

fn answer_subprotocol(
    headers: &mut HeaderMap,
    offer: &Offer,
) -> Result<(), super::subprotocol::Unoffered> {
    let answer = offer.answer(headers.get_all(header::SEC_WEBSOCKET_PROTOCOL))?;
    match answer {
        Some(value) => headers.insert(header::SEC_WEBSOCKET_PROTOCOL, value),
        None => headers.remove(header::SEC_WEBSOCKET_PROTOCOL),
    };
    Ok(())
}

// === impl Upgraded ===

impl Upgraded {
    pub(crate) fn with(mut self, record: RequestRecord) -> Self {
        self.record = Some(record);
        self
    }

    /// Runs the tunnel to its end. `ahead` was read from the client after its request.
    pub(crate) async fn run(self, worker: &Rc<Worker>, client: Io, ahead: Bytes) {
        // The tunnel has deadlines of its own.
        client.activity().blocked_at.set(0);
        client.activity().raw.set(true);
        self.copy(worker, client, ahead).await;
    }

    /// The same in a stream of an HTTP/2 connection, once hyper has answered the CONNECT.
    pub(crate) fn run_in_stream(self, worker: &Rc<Worker>, connect: OnUpgrade) {
        let worker = Rc::clone(worker);
        tokio::task::spawn_local(async move {
            // The client may have left meanwhile. Then there is nothing to tunnel.
            let Ok(upgraded) = connect.await else { return };
            let write_ns = worker.shared.timeouts.write.as_nanos() as u64;
            let stream = Rc::clone(&self.stream);
            let client = InStream::new(upgraded, stream, worker.clock.clone(), write_ns);
            self.copy(&worker, client, Bytes::new()).await;
        });
    }

    async fn copy(self, worker: &Rc<Worker>, mut client: impl ClientSide, ahead: Bytes) {
        let Self { upstream, from_upstream, framing, stream, close_code, record } = self;
        let timeouts = &worker.shared.timeouts;
        let activity = client.own_moments();
        let close = |code, reason| TunnelCut::Close { code, reason };
        worker.cells.stream_opened();
        let tunnel = Tunnel {
            client: &mut client,
            upstream,
            framing,
            from_client: ahead,
            from_upstream,
            limits: Limits {
                idle: timeouts.response_idle,
                half_closed: Some(timeouts.half_closed),
                write: timeouts.write,
            },
        };
        let ended = tunnel
            .run(|cx| {
                let cut = activity.as_ref().map_or(Poll::Pending, |activity| activity.poll_cut(cx));
                match (stream.poll_end(cx), cut) {
                    (Some(RequestEnd::Key(_)), _) => Poll::Ready(close(close_code, "key ended")),
                    // The only deadline of a tunnel is that of a client that does not read.
                    (Some(_), _) | (None, Poll::Ready(CutReason::Memory | CutReason::Write)) => {
                        Poll::Ready(TunnelCut::Abrupt)
                    }
                    (None, Poll::Ready(_)) => Poll::Ready(close(1001, "shutting down")),
                    (None, Poll::Pending) => Poll::Pending,
                }
            })
            .await;
        worker.cells.stream_closed();
        if ended.must_reset {
            client.reset();
        }
        if let Some(mut record) = record {
            record.bytes_in = ended.to_upstream;
            record.bytes_out = ended.to_client;
            match (ended.end, stream.ended()) {
                (TunnelEnd::Cut, Some(RequestEnd::Key(reason))) => record.ended_early(reason),
                (TunnelEnd::Upstream(_), _) => record.upstream_broke(),
                _ => {}
            }
        }
    }
}
