//! WebSocket and other protocol switches: asked for by the client, allowed by the route, granted by
//! the upstream's own 101, and only then a tunnel. Over HTTP/2 a client asks with an extended CONNECT
//! (RFC 8441); the upstream sees an HTTP/1.1 upgrade.

mod stream;

use std::rc::Rc;
use std::task::Poll;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Method, Response, StatusCode, Version, response};
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;
use tokio::io::{AsyncRead, AsyncWrite};

use self::stream::InStream;

use super::credentials::Carried;
use super::facts::{self, Outgoing};
use super::record::RequestRecord;
use super::subprotocol::Offer;
use crate::config::Settings;
use crate::core::{CredentialSource, Reason, Route};
use crate::proxy::body::ResponseBody;
use crate::proxy::http1::head::Head;
use crate::proxy::net::io::{Cut as IoCut, Io, Moments};
use crate::proxy::streams::{End as StreamEnd, Stream};
use crate::proxy::tunnel::{Cut, End, Framing, Limits, Tunnel};
use crate::proxy::upstream::Lease;
use crate::proxy::worker::Worker;

/// An upgrade that may be passed on.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// Lower-case.
    pub(crate) protocol: HeaderValue,
    /// `Sec-WebSocket-Key`, made here when the client asked over HTTP/2 and so has none.
    pub(crate) key: Option<HeaderValue>,
    offer: Offer,
    close_code: u16,
}

/// The client's side of a tunnel.
trait ClientSide: AsyncRead + AsyncWrite + Unpin {
    /// The connection's moments, if it is the tunnel's alone.
    fn own_moments(&self) -> Option<Rc<Moments>> {
        None
    }

    /// A clean end would tell the client a lie.
    fn reset(&self);
}

impl ClientSide for Io {
    fn own_moments(&self) -> Option<Rc<Moments>> {
        Some(Rc::clone(self.moments()))
    }

    fn reset(&self) {
        self.reset_on_drop();
    }
}

/// Both sides have switched; waits for the client's connection to be free of HTTP.
#[derive(Debug)]
pub(crate) struct Upgraded {
    upstream: Io,
    from_upstream: Bytes,
    framing: Framing,
    stream: Rc<Stream>,
    close_code: u16,
    record: Option<RequestRecord>,
}

/// The upgrade that the request asks for, if its route allows it. Any other is dropped without a
/// word, as a server does that does not know it (RFC 9110 §7.8).
pub(crate) fn asked(
    head: &Head,
    outgoing: &mut Outgoing,
    route: &Route,
    settings: &Settings,
    carried: Carried,
) -> Option<Asked> {
    let token = facts::read_upgrade(head, outgoing)?;
    // A body and a switch in one request is how bytes get past a gate (Pingora CVE-2026-2833).
    let bodiless = !head.fields.has(header::TRANSFER_ENCODING)
        && head.fields.get(header::CONTENT_LENGTH).is_none_or(|v| v == b"0");
    let websocket = token == "websocket";
    if !route.upgrades.iter().any(|u| **u == *token)
        || !bodiless
        // A preflight comes without a key: it opens nothing but itself.
        || head.method == Method::OPTIONS
        || (websocket && head.method != Method::GET)
    {
        return None;
    }
    let protocol = HeaderValue::from_str(&token).ok()?;
    let key = is_extended_connect(head).then(websocket_key);
    let mut offer = Offer::default();
    if websocket {
        let markers = markers(settings);
        let values = head.fields.all(&header::SEC_WEBSOCKET_PROTOCOL);
        let values: Vec<_> = values.filter_map(|v| HeaderValue::from_bytes(v).ok()).collect();
        offer = Offer::new(&values, &markers).ok()?;
        if carried.in_subprotocol {
            outgoing.subprotocols = Some(offer.forward.clone());
        }
    }
    Some(Asked { protocol, key, offer, close_code: settings.close_code })
}

/// Whether the request asks for an upgrade, allowed or not.
pub(crate) fn is_asked(head: &Head) -> bool {
    head.fields.has(header::UPGRADE) || is_extended_connect(head)
}

/// Whether this is an extended CONNECT for a WebSocket (RFC 8441) that [`extended_connect`] has
/// turned into the GET that it stands for.
pub(crate) fn is_extended_connect(head: &Head) -> bool {
    head.version == Version::HTTP_2
        && head.method == Method::GET
        && head.extensions.get::<Protocol>().is_some()
}

/// What opens the tunnel of an extended CONNECT. Its head is judged as the GET of an HTTP/1.1
/// upgrade would be. Other protocols than `websocket`, and plain CONNECT, stay what they are.
pub(crate) fn extended_connect(parts: &mut Parts) -> Option<OnUpgrade> {
    if parts.version != Version::HTTP_2 || parts.method != Method::CONNECT {
        return None;
    }
    let websocket = parts.extensions.get::<Protocol>()?.as_str() == "websocket";
    let connect = parts.extensions.remove::<OnUpgrade>().filter(|_| websocket)?;
    parts.method = Method::GET;
    Some(connect)
}

/// 16 random bytes in Base64. Random so that nothing cached can answer (RFC 6455 section 1.3).
fn websocket_key() -> HeaderValue {
    let mut random = [0; 16];
    // Without randomness the key is only less useful: it guards against nothing here.
    let _ = aws_lc_rs::rand::fill(&mut random);
    HeaderValue::from_str(&BASE64_STANDARD.encode(random)).unwrap_or(HeaderValue::from_static(""))
}

/// The `Sec-WebSocket-Accept` that proves the key was read (RFC 6455 section 4.2.2).
fn websocket_accept(key: &HeaderValue) -> String {
    let mut hash = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key.as_bytes());
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    BASE64_STANDARD.encode(hash.finish())
}

fn markers(settings: &Settings) -> Vec<&str> {
    settings
        .sources
        .iter()
        .filter_map(|s| match s {
            CredentialSource::Subprotocol { marker } => Some(&**marker),
            _ => None,
        })
        .collect()
}

/// The upstream's 101: to be believed only if it grants what was asked.
pub(crate) fn accept(
    mut head: response::Parts,
    lease: Lease,
    stream: Stream,
    asked: Option<Asked>,
    settings: &Settings,
) -> Result<(Response<ResponseBody>, Upgraded), Reason> {
    let bad = Reason::UpstreamBadResponse;
    let asked = asked.ok_or(bad)?;
    let granted = head.headers.get(header::UPGRADE).ok_or(bad)?;
    if !granted.as_bytes().eq_ignore_ascii_case(asked.protocol.as_bytes()) {
        return Err(bad);
    }
    crate::proxy::request::rewrite::answer::to_client(&mut head.headers, settings);
    if let Some(key) = &asked.key {
        // The client has no key, so the proof is for us to check.
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
    let (upstream, from_upstream) = lease.into_upgraded().ok_or(bad)?;
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

    /// The tunnel, to its end. `ahead` was read from the client behind its request.
    pub(crate) async fn run(self, worker: &Rc<Worker>, client: Io, ahead: Bytes) {
        // The tunnel has deadlines of its own.
        client.moments().blocked_at.set(0);
        client.moments().raw.set(true);
        self.copy(worker, client, ahead).await;
    }

    /// The same in a stream of an HTTP/2 connection, once hyper has answered the CONNECT.
    pub(crate) fn run_in_stream(self, worker: &Rc<Worker>, connect: OnUpgrade) {
        let worker = Rc::clone(worker);
        tokio::task::spawn_local(async move {
            // The client may be gone meanwhile; then there is nothing to tunnel.
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
        let moments = client.own_moments();
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
                if let Some(moments) = &moments {
                    moments.watch(cx);
                }
                let cut = moments.as_ref().and_then(|m| m.cut.get());
                match (stream.poll_end(cx), cut) {
                    (Some(StreamEnd::Key(_)), _) => Poll::Ready(close(close_code, "key ended")),
                    // The only deadline of a tunnel is that of a client that does not read.
                    (Some(_), _) | (None, Some(IoCut::Write)) => Poll::Ready(Cut::Abrupt),
                    (None, Some(_)) => Poll::Ready(close(1001, "shutting down")),
                    (None, None) => Poll::Pending,
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
                (End::Cut, Some(StreamEnd::Key(reason))) => record.ended_early(reason),
                (End::Upstream(_), _) => record.upstream_broke(),
                _ => {}
            }
        }
    }
}
