//! WebSocket and other protocol switches: asked for by the client, allowed by the route, granted by
//! the upstream's own 101, and only then a tunnel.

use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Method, Response};
use hyper::body::Incoming;

use super::body::ResponseBody;
use super::credentials::Carried;
use super::facts::{self, Outgoing};
use super::io::Io;
use super::record::RequestRecord;
use super::streams::{End as StreamEnd, Stream};
use super::subprotocol::Offer;
use super::tunnel::{Cut, End, Framing, Limits, Tunnel};
use super::upstream::Lease;
use super::worker::Worker;
use crate::config::Settings;
use crate::core::{Reason, Route, Source};

/// An upgrade that may be passed on.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// Lower-case.
    pub(crate) protocol: HeaderValue,
    offer: Offer,
    close_code: u16,
}

/// Both sides have switched; waits for the client's connection to be free of HTTP.
#[derive(Debug)]
pub(crate) struct Upgraded {
    upstream: Io,
    from_upstream: Bytes,
    framing: Framing,
    stream: Stream,
    close_code: u16,
    record: Option<RequestRecord>,
}

/// The upgrade that the request asks for, if its route allows it. Any other is dropped without a
/// word, as a server does that does not know it (RFC 9110 §7.8).
pub(crate) fn asked(
    parts: &Parts,
    outgoing: &mut Outgoing,
    route: &Route,
    settings: &Settings,
    carried: Carried,
) -> Option<Asked> {
    let token = facts::read_upgrade(parts, outgoing)?;
    // A body and a switch in one request is how bytes get past a gate (Pingora CVE-2026-2833).
    let bodiless = !parts.headers.contains_key(header::TRANSFER_ENCODING)
        && parts.headers.get(header::CONTENT_LENGTH).is_none_or(|v| v.as_bytes() == b"0");
    let websocket = token == "websocket";
    if !route.upgrades.iter().any(|u| **u == *token)
        || !bodiless
        || (websocket && parts.method != Method::GET)
    {
        return None;
    }
    let protocol = HeaderValue::from_str(&token).ok()?;
    let mut offer = Offer::default();
    if websocket {
        let markers = markers(settings);
        let values = parts.headers.get_all(header::SEC_WEBSOCKET_PROTOCOL);
        offer = Offer::new(values, &markers).ok()?;
        if carried.in_subprotocol {
            outgoing.subprotocols = Some(offer.forward.clone());
        }
    }
    Some(Asked { protocol, offer, close_code: settings.close_code })
}

fn markers(settings: &Settings) -> Vec<&str> {
    settings
        .sources
        .iter()
        .filter_map(|s| match s {
            Source::Subprotocol { marker } => Some(&**marker),
            _ => None,
        })
        .collect()
}

/// The upstream's 101: to be believed only if it grants what was asked.
pub(crate) fn accept(
    response: Response<Incoming>,
    lease: Lease,
    stream: Stream,
    asked: Option<Asked>,
    settings: &Settings,
) -> Result<(Response<ResponseBody>, Upgraded), Reason> {
    let bad = Reason::UpstreamBadResponse;
    let asked = asked.ok_or(bad)?;
    let (mut head, _) = response.into_parts();
    let granted = head.headers.get(header::UPGRADE).ok_or(bad)?;
    if !granted.as_bytes().eq_ignore_ascii_case(asked.protocol.as_bytes()) {
        return Err(bad);
    }
    super::rewrite::to_client(&mut head.headers, settings);
    head.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    head.headers.insert(header::UPGRADE, asked.protocol.clone());
    let websocket = asked.protocol == "websocket";
    if websocket {
        answer_subprotocol(&mut head.headers, &asked.offer).map_err(|_| bad)?;
    }
    let (upstream, from_upstream) = lease.into_upgraded().ok_or(bad)?;
    stream.set_deadline(u64::MAX);
    let upgraded = Upgraded {
        upstream,
        from_upstream,
        framing: if websocket { Framing::WebSocket } else { Framing::Opaque },
        stream,
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

    /// The tunnel, to its end. `ahead` was read from the client behind its request.
    pub(crate) async fn run(self, worker: &Rc<Worker>, mut client: Io, ahead: Bytes) {
        let Self { upstream, from_upstream, framing, stream, close_code, record } = self;
        let timeouts = &worker.shared.timeouts;
        let moments = Rc::clone(client.moments());
        // The tunnel has deadlines of its own; only the drain still cuts from outside.
        moments.blocked_at.set(0);
        moments.raw.set(true);
        let close = |code, reason| Cut::Close { code, reason };
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
                moments.watch(cx);
                match stream.poll_end(cx) {
                    Some(StreamEnd::Key(_)) => Poll::Ready(close(close_code, "key ended")),
                    Some(StreamEnd::Deadline) => Poll::Ready(close(1001, "time is up")),
                    None if moments.cut.get().is_some() => {
                        Poll::Ready(close(1001, "shutting down"))
                    }
                    None => Poll::Pending,
                }
            })
            .await;
        worker.cells.stream_closed();
        if ended.must_reset {
            client.reset_on_drop();
        }
        if let Some(mut record) = record {
            record.bytes_in = ended.to_upstream;
            record.bytes_out = ended.to_client;
            match (ended.end, stream.ended()) {
                (End::Cut, Some(StreamEnd::Key(reason))) => record.ended_early(reason),
                (End::Upstream(_), _) => record.upstream_broke(),
                _ => {}
            }
        }
    }
}
