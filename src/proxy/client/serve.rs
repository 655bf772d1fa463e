//! One client connection: PROXY header → TLS → preface → HTTP, and its end.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Version};
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use super::linger::end_clean;
use super::plain::{self, HYPER_HEADERS};
use super::turn::Turn;
use crate::core::{NetworkSet, Now, Reason, address};
use crate::proxy::body::Unread;
use crate::proxy::executor::LocalExecutor;
use crate::proxy::future_size::at_most;
use crate::proxy::http1::request_refuse::{ForHyper, unfinished};
use crate::proxy::load::Counted;
use crate::proxy::memory::holding::Holding;
use crate::proxy::memory::rule::ChargedTo;
use crate::proxy::net::accepted::About;
use crate::proxy::net::connections::Registered;
use crate::proxy::net::io::{Activity, ClientAddr, CutReason, Io};
use crate::proxy::net::proxy_protocol;
use crate::proxy::net::transport::{Plain, Rewound, Transport};
use crate::proxy::request::connection::ClientConnection;
use crate::proxy::request::service::Gate;
use crate::proxy::worker::Worker;
use crate::telemetry::{Shortage, TurnedAway};
use crate::tls;

/// Makes a task of an accepted connection. The task ends on its own.
pub(crate) fn start(
    worker: &Rc<Worker>,
    plain: Plain,
    peer: Option<SocketAddr>,
    about: Arc<About>,
    counted: Counted,
) {
    let worker = Rc::clone(worker);
    // Boxed: tokio copies a task's future as a whole when it is spawned, and twice when it ends
    // (tokio-rs/tokio#4487).
    tokio::task::spawn_local(Box::pin(at_most::<CONNECTION_BYTES, _>(async move {
        let _counted = counted;
        worker.cells.connection_opened(about.slot);
        let _open = Open { worker: Rc::clone(&worker), slot: about.slot };
        serve(&worker, plain, peer, &about).await;
    })));
}

/// The largest future of a connection's task, in bytes: there may be tens of thousands of idle
/// ones.
const CONNECTION_BYTES: usize = 4928;

struct Open {
    worker: Rc<Worker>,
    slot: u32,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.worker.cells.connection_closed(self.slot);
        if std::thread::panicking() {
            self.worker.cells.panicked();
        }
    }
}

async fn serve(worker: &Rc<Worker>, plain: Plain, peer: Option<SocketAddr>, about: &About) {
    let holding = Holding::new(&worker.shared.memory, &worker.connections.pressed);
    let activity = Activity::holding(worker.clock.clone(), holding);
    if about.proxy_from.is_none() {
        belongs_to(worker, &activity, peer);
    }
    if about.tls.is_some() {
        activity.held().inspect(|held| held.with_tls());
    }
    activity.settle();
    let registered = worker.connections.register(Rc::clone(&activity));
    // This is one more system call, which only an outgoing PROXY header needs.
    let local = if worker.shared.sends_proxy() { plain.local() } else { None };
    let address = ClientAddr { peer, local };
    let arrived = if about.needs_handshake() {
        // Boxed here and below because it is rare: a connection is as large as its largest state.
        let arriving = Box::pin(arrive(plain, address, about, worker.clock.now()));
        let arriving = unless_cut(&activity, arriving);
        match timeout(worker.shared.timeouts.handshake, arriving).await {
            Ok(None) => return,
            Ok(Some(Ok(arrived))) => arrived,
            Ok(Some(Err(turned))) => return worker.cells.connection_turned_away(turned),
            Err(_) => return worker.cells.connection_turned_away(TurnedAway::HandshakeTimeout),
        }
    } else {
        Arrived::plain(plain, address)
    };
    let Arrived { mut transport, mut ahead, address, subject, http2 } = arrived;
    if about.proxy_from.is_some() {
        belongs_to(worker, &activity, address.peer);
    }
    activity.grow();
    let https = matches!(transport, Transport::Tls(_));
    // The client begins with something that may still become HTTP/2, and sends no more.
    let mut late = None;
    let http2 = http2
        || (!https && worker.shared.http2.prior_knowledge && {
            let deadline = worker.shared.timeouts.header;
            let mut first = BytesMut::from(std::mem::take(&mut ahead));
            let sniffed = {
                let sniffing = Box::pin(sniff(&mut transport, &mut first));
                timeout(deadline, unless_cut(&activity, sniffing)).await
            };
            ahead = first.freeze();
            match sniffed.map(Option::flatten) {
                Ok(Some(http2)) => http2,
                Ok(None) => return,
                // The client has asked for nothing: there is nothing to answer or to count.
                Err(_) if ahead.is_empty() => return,
                // Less than one whole head: answer as for any head that did not arrive.
                Err(_) => {
                    late = Some(Box::new(unfinished(&ahead, Reason::HeaderTimeout)));
                    false
                }
            }
        });
    let io = Io::new(transport, ahead, Rc::clone(&activity));
    let client = Rc::new(ClientConnection {
        address,
        https,
        http2,
        subject,
        unread: http2.then(|| Unread::new(&activity)),
        activity,
        upgraded: RefCell::default(),
        judged: RefCell::default(),
        running: Cell::default(),
        until_close: Cell::default(),
    });
    if let Some(late) = late {
        Box::pin(plain::refuse(worker, &client, io, *late)).await;
    } else if http2 {
        Box::pin(serve_http2(worker, io, &client)).await;
    } else {
        serve_http1(worker, io, &client).await;
    }
    drop::<Registered>(registered);
}

/// Whose part of the memory budget a connection counts for.
fn belongs_to(worker: &Worker, activity: &Activity, peer: Option<SocketAddr>) {
    let holder = peer.map_or(ChargedTo::Nobody, |peer| {
        let ip = address::canonical(peer.ip());
        let snapshot = worker.shared.store.load();
        let trusted = &snapshot.settings.trusted_proxies;
        // An empty set allows everybody, so it says nothing about proxies.
        let is_proxy = !trusted.is_empty() && trusted.allows(ip);
        if is_proxy { ChargedTo::Proxy(ip) } else { ChargedTo::Address(ip) }
    });
    if let Some(held) = activity.held() {
        held.belongs_to(holder);
        activity.settle();
        if held.account().is_over_share(holder) {
            activity.give_way(Shortage::Address);
        }
    }
}

/// The future's result. `None`: the memory budget has no room for the connection.
async fn unless_cut<F: Future + Unpin>(activity: &Activity, mut future: F) -> Option<F::Output> {
    poll_fn(|cx| {
        if activity.poll_cut(cx) == Poll::Ready(CutReason::Memory) {
            return Poll::Ready(None);
        }
        Pin::new(&mut future).poll(cx).map(Some)
    })
    .await
}

/// A connection that has passed the protocols below HTTP.
struct Arrived {
    transport: Transport,
    ahead: Bytes,
    address: ClientAddr,
    subject: Option<HeaderValue>,
    /// Chosen by ALPN.
    http2: bool,
}

impl Arrived {
    fn plain(plain: Plain, address: ClientAddr) -> Self {
        let transport = Transport::Plain(plain);
        Self { transport, ahead: Bytes::new(), address, subject: None, http2: false }
    }
}

async fn arrive(
    mut plain: Plain,
    mut address: ClientAddr,
    about: &About,
    now: Now,
) -> Result<Arrived, TurnedAway> {
    let peer = address.peer;
    let mut ahead = Bytes::new();
    if let Some(from) = &about.proxy_from {
        if !may_send_proxy(from, peer) {
            return Err(TurnedAway::ProxyHeader);
        }
        let (source, rest) = proxy_protocol::read_header(&mut plain).await.map_err(|error| {
            tracing::info!(%error, "PROXY header refused");
            TurnedAway::ProxyHeader
        })?;
        // LOCAL and UNKNOWN: the proxy speaks for itself.
        address.peer = source.or(peer);
        ahead = rest;
    }
    let Some(tls) = &about.tls else {
        return Ok(Arrived { ahead, ..Arrived::plain(plain, address) });
    };
    let acceptor = tokio_rustls::TlsAcceptor::from(tls.current());
    let stream = acceptor.accept(Rewound::new(plain, ahead)).await.map_err(|error| {
        tracing::debug!(%error, "TLS handshake failed");
        TurnedAway::Tls
    })?;
    let session = stream.get_ref().1;
    let http2 = session.alpn_protocol() == Some(b"h2");
    let subject = tls::client_subject(session, now).map_err(|error| {
        tracing::info!(%error, "client certificate refused");
        TurnedAway::Tls
    })?;
    let transport = Transport::Tls(Box::new(stream.into()));
    Ok(Arrived { transport, ahead: Bytes::new(), address, subject, http2 })
}

/// A listener that expects PROXY headers accepts nothing from other peers. A peer on a Unix socket
/// is local, and whoever may open the socket may send one.
fn may_send_proxy(from: &NetworkSet, peer: Option<SocketAddr>) -> bool {
    peer.is_none_or(|p| !from.is_empty() && from.allows(address::canonical(p.ip())))
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Whether the connection begins with the HTTP/2 preface. Reads only until that is certain, and
/// leaves the bytes in `ahead`. `None`: closed before.
async fn sniff(transport: &mut Transport, ahead: &mut BytesMut) -> Option<bool> {
    loop {
        let looked_at = ahead.len().min(PREFACE.len());
        if ahead.get(..looked_at) != PREFACE.get(..looked_at) {
            return Some(false);
        }
        if looked_at == PREFACE.len() {
            return Some(true);
        }
        ahead.reserve(FIRST_READ);
        match transport.read_buf(ahead).await {
            Ok(0) | Err(_) => return None,
            Ok(_) => {}
        }
    }
}

/// Holds the head of most requests. Returned once its bytes were handed on.
const FIRST_READ: usize = 2048;

/// How a connection's HTTP ended.
enum ConnectionEnd {
    Cut(CutReason),
    Done(Result<(), hyper::Error>),
    /// It waits for the next request.
    Idle,
}

/// HTTP/1, by turns: [plain] requests without hyper, and hyper for the others.
async fn serve_http1(worker: &Rc<Worker>, mut io: Io, client: &Rc<ClientConnection>) {
    loop {
        let for_hyper;
        match plain::converse(worker, io, client).await {
            plain::TurnEnd::Done(io) if io.ends_by_itself() => return,
            plain::TurnEnd::Done(io) => {
                return Box::pin(end_clean(worker, client.address.ip(), io)).await;
            }
            plain::TurnEnd::Cut(io, cut) => return end_cut(&io, cut),
            plain::TurnEnd::Refused(io, refused) => {
                return Box::pin(plain::refuse(worker, client, io, *refused)).await;
            }
            plain::TurnEnd::Hyper(rest, request) => (io, for_hyper) = (rest, request),
            plain::TurnEnd::Nothing => return,
        }
        // Boxed: most connections never need it.
        let end = Box::pin(serve_by_hyper(worker, io, for_hyper, client)).await;
        match end {
            Some(idle) => io = idle,
            None => return,
        }
    }
}

/// One request that is not [plain]. Returns the connection after the answer, with what has arrived
/// of the next request.
async fn serve_by_hyper(
    worker: &Rc<Worker>,
    io: Io,
    request: ForHyper,
    client: &Rc<ClientConnection>,
) -> Option<Io> {
    let caps = &worker.shared.caps;
    let mut builder = http1::Builder::new();
    builder
        // We keep our own deadlines; see `Activity`.
        .header_read_timeout(None)
        .max_header_size(caps.head_bytes)
        .max_buf_size(caps.head_bytes.max(READ_BUFFER))
        .preserve_header_case(worker.keeps_case);
    if caps.headers > HYPER_HEADERS {
        builder.max_headers(caps.headers);
    }
    *client.judged.borrow_mut() = Some(request.judged.clone());
    let turn = Turn::new(io, request);
    let is_read = turn.over();
    let gate = Gate::new(worker, client, Rc::clone(&is_read));
    let mut conn = builder.serve_connection(TokioIo::new(turn), gate);
    let activity = &client.activity;
    let sent_before = activity.bytes_out.get();
    let mut closing = false;
    let end = poll_fn(|cx| {
        if let Poll::Ready(cut) = activity.poll_cut(cx) {
            return Poll::Ready(ConnectionEnd::Cut(cut));
        }
        if let Poll::Ready(result) = conn.poll_without_shutdown(cx) {
            return Poll::Ready(ConnectionEnd::Done(result));
        }
        if worker.draining.get() && !closing {
            closing = true;
            Pin::new(&mut conn).graceful_shutdown();
            if let Poll::Ready(result) = conn.poll_without_shutdown(cx) {
                return Poll::Ready(ConnectionEnd::Done(result));
            }
        }
        if let Poll::Ready(cut) = client.poll_abandoned(&worker.streams) {
            return Poll::Ready(ConnectionEnd::Cut(cut));
        }
        // hyper flushes whenever it is polled, so what is still unsent then shows in `blocked_at`.
        // But it yields after a long answer, with the last of it in its buffer: ask until nothing
        // moves.
        let mut sent = sent_before;
        while activity.bytes_out.get() > sent && activity.running.get() == 0 {
            sent = activity.bytes_out.get();
            if let Poll::Ready(result) = conn.poll_without_shutdown(cx) {
                return Poll::Ready(ConnectionEnd::Done(result));
            }
        }
        let answered = activity.bytes_out.get() > sent_before && activity.blocked_at.get() == 0;
        if answered && activity.running.get() == 0 {
            activity.is_answering.set(false);
        }
        if answered && !closing && is_read.get() && activity.is_idle() {
            return Poll::Ready(ConnectionEnd::Idle);
        }
        // After an answer without a body, hyper does not always read the end of the stream.
        if answered && activity.is_through() {
            return Poll::Ready(ConnectionEnd::Done(Ok(())));
        }
        Poll::Pending
    })
    .await;
    let parts = conn.into_parts();
    let mut io = parts.io.into_inner().into_io();
    drop(parts.service);
    match end {
        // Without a reset, the client would take the part that it has for the whole answer. Over
        // TLS, the missing goodbye shows the same.
        ConnectionEnd::Cut(_) | ConnectionEnd::Done(Err(_)) if client.until_close.get() => {
            io.reset_on_drop()
        }
        ConnectionEnd::Cut(cut) => end_cut(&io, cut),
        ConnectionEnd::Done(Ok(())) => match client.upgraded.take() {
            Some(upgraded) => Box::pin(upgraded.run(worker, io, parts.read_buf)).await,
            None => {
                io.put_back(parts.read_buf);
                end_clean(worker, client.address.ip(), io).await;
            }
        },
        ConnectionEnd::Done(Err(error)) => {
            note_error(worker, client, &error);
            io.put_back(parts.read_buf);
            end_clean(worker, client.address.ip(), io).await;
        }
        // Bytes of the request that hyper has not taken must not be parsed as the next one.
        ConnectionEnd::Idle if !parts.read_buf.is_empty() => {
            io.put_back(parts.read_buf);
            end_clean(worker, client.address.ip(), io).await;
        }
        ConnectionEnd::Idle => {
            activity.body_open.set(false);
            if io.holds_ahead() {
                activity.head_begins();
            }
            return Some(io);
        }
    }
    None
}

/// The most that is read ahead of an upload. hyper's buffer grows to it only while reads fill it.
/// With less, a large upload costs more system calls.
const READ_BUFFER: usize = 256 * 1024;

async fn serve_http2(worker: &Rc<Worker>, io: Io, client: &Rc<ClientConnection>) {
    let config = &worker.shared.http2;
    client.activity.raw.set(true);
    let executor = LocalExecutor::watching(&worker.streams, &worker.cells, &client.activity);
    let mut builder = http2::Builder::new(executor);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(config.max_streams)
        .max_header_list_size(config.header_list_bytes.saturating_add(HEAD_MARGIN))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        // For WebSockets in streams (RFC 8441). A client gets one only on a route that allows them.
        .enable_connect_protocol()
        // Rapid reset (CVE-2023-44487) and MadeYouReset (CVE-2025-8671).
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(128);
    let unsent = client.activity.held().map(Holding::with_http2);
    client.activity.grow();
    let gate = Gate::counting(worker, client, unsent);
    let mut conn = std::pin::pin!(builder.serve_connection(TokioIo::new(io), gate));
    let activity = &client.activity;
    let mut closing = false;
    let end = poll_fn(|cx| {
        match activity.poll_cut(cx) {
            // An idle connection gets GOAWAY, and then ends within a round trip.
            Poll::Ready(CutReason::Idle) if !closing => {
                closing = true;
                activity.cut.set(None);
                conn.as_mut().graceful_shutdown();
            }
            Poll::Ready(cut) => return Poll::Ready(ConnectionEnd::Cut(cut)),
            Poll::Pending => {}
        }
        if worker.draining.get() && !closing {
            closing = true;
            conn.as_mut().graceful_shutdown();
        }
        let done = conn.as_mut().poll(cx).map(ConnectionEnd::Done);
        if let Some(unread) = &client.unread
            && done.is_pending()
        {
            unread.poll(cx);
        }
        done
    })
    .await;
    if let Some(unread) = &client.unread {
        unread.end();
    }
    match end {
        // Dropping the connection drops its streams' channels, so their tasks end.
        ConnectionEnd::Cut(_) | ConnectionEnd::Done(Ok(())) | ConnectionEnd::Idle => {}
        ConnectionEnd::Done(Err(error)) => note_error(worker, client, &error),
    }
}

/// How many bytes more than our limit h2 allows for a head: within this margin keygate refuses the
/// head with an answer of its own, where h2 would only send a bare 431.
const HEAD_MARGIN: u32 = 16 * 1024;
/// Bytes that a client may send per stream, and per connection, before we read them. A stream's
/// window limits how much one client can make us hold.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// The most bytes of a response that wait for a client's window.
const SEND_BUFFER: usize = 64 * 1024;

/// hyper itself answers a head that it cannot parse, with an empty body. keygate can only count it.
/// Over HTTP/1 hyper should never see one, because keygate judges each head first.
fn note_error(worker: &Worker, client: &ClientConnection, error: &hyper::Error) {
    let reason = if error.is_parse_too_large() {
        Reason::HeadersTooLarge
    } else if error.is_parse() {
        Reason::BadHeader
    } else {
        tracing::trace!(%error, "connection ended");
        return;
    };
    note(worker, client, reason);
}

fn note(worker: &Worker, client: &ClientConnection, reason: Reason) {
    let version = if client.http2 { Version::HTTP_2 } else { Version::HTTP_11 };
    crate::proxy::request::record::note_unread(worker, client.address.ip(), version, reason);
}

/// Ends a connection whose time is up.
fn end_cut(io: &Io, cut: CutReason) {
    tracing::debug!(why = cut.as_str(), "connection ended");
    match cut {
        // A client that never sends anything may be a health check.
        CutReason::Idle | CutReason::HalfClosed | CutReason::Header => {}
        CutReason::Drain | CutReason::Key | CutReason::Memory | CutReason::Write => {
            io.reset_on_drop()
        }
    }
}
