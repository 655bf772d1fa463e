//! Two listeners: reviews over TLS, and probes with metrics in clear. No client can keep another
//! one out: when the maximum number of connections is reached, the one that has been idle for
//! longest is closed.

use std::convert::Infallible;
use std::error::Error as _;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::metrics::{HandshakeFault, WebhookReadiness};
use super::service::WebhookState;
use crate::serving::{ConnectionPlaces, HeadBounds, accept_until, serve_connection};

/// Connections of the listener for reviews; API servers open one per review in progress.
const CONNECTIONS: usize = 1024;

/// How many of these may be from one address. Several API servers may share one.
const OF_ONE_ADDRESS: usize = 512;

/// Connections of the listener for probes, and how many of them may be from one address.
const PROBES: [usize; 2] = [64, 16];

/// Time for a handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Time from a handshake to the head of the first request.
const FIRST: Duration = Duration::from_secs(10);

/// Go, in which API servers are written, keeps idle connections for 90 s. The side that closes
/// first loses a request that is just being sent.
const HEAD: HeadBounds = HeadBounds { time: Duration::from_secs(120), length: 16 * 1024 };

const PROBE_HEAD: HeadBounds = HeadBounds { time: Duration::from_secs(5), length: 16 * 1024 };

/// A client that has acknowledged nothing of an answer for this long is gone.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// Time for answers in progress, after a stop: together with the delay before it less than the 30 s
/// that the kubelet waits.
const LEAVE: Duration = Duration::from_secs(20);

/// Answers reviews until `stop` becomes true, then lets those in progress end.
pub async fn serve_reviews(
    listener: TcpListener,
    state: Arc<WebhookState>,
    stop: watch::Receiver<bool>,
) {
    let places = ConnectionPlaces::new(CONNECTIONS, OF_ONE_ADDRESS);
    let (alive, mut all_gone) = mpsc::channel::<Infallible>(1);
    accept_until(stop.clone(), || async {
        let (stream, peer) = accept(&listener).await?;
        // A client that arrives before the certificate exists is not kept waiting.
        let Some(tls) = state.certificate.current() else { return Ok(()) };
        let (place, give_way) = places.take(peer.ip());
        let (state, stop, alive) = (Arc::clone(&state), stop.clone(), alive.clone());
        tokio::spawn(async move {
            let asked = AtomicBool::new(false);
            let touch = || {
                asked.store(true, Ordering::Relaxed);
                place.touch();
            };
            tokio::select! {
                () = secured(stream, TlsAcceptor::from(tls), &state, touch, stop) => {}
                // Dropping the sender signals it.
                _ = give_way => {}
                () = silence(&asked) => state.metrics.handshake_failed(HandshakeFault::Timeout),
            }
            drop(alive);
        });
        Ok(())
    })
    .await;
    drop((listener, alive));
    if timeout(LEAVE, all_gone.recv()).await.is_err() {
        tracing::warn!("some reviews had not been answered and were cut");
    }
}

/// Answers probes and scrapes until `stop` becomes true.
pub async fn serve_probes(
    listener: TcpListener,
    state: Arc<WebhookState>,
    stop: watch::Receiver<bool>,
) {
    let [most, of_one_address] = PROBES;
    let places = ConnectionPlaces::new(most, of_one_address);
    accept_until(stop.clone(), || async {
        let (stream, peer) = accept(&listener).await?;
        let (place, give_way) = places.take(peer.ip());
        let (state, stop) = (Arc::clone(&state), stop.clone());
        tokio::spawn(async move {
            let service = service_fn(|request: Request<Incoming>| {
                place.touch();
                let answer = probe(&state, &request);
                async move { Ok::<_, Infallible>(answer) }
            });
            tokio::select! {
                _ = serve_connection(stream, service, PROBE_HEAD, stop) => {}
                _ = give_way => {}
            }
        });
        Ok(())
    })
    .await;
}

async fn accept(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let (stream, peer) = listener.accept().await?;
    stream.set_nodelay(true)?;
    socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    Ok((stream, peer))
}

/// The handshake, and the requests after it.
async fn secured(
    stream: TcpStream,
    tls: TlsAcceptor,
    state: &WebhookState,
    touch: impl Fn(),
    stop: watch::Receiver<bool>,
) {
    let stream = match timeout(HANDSHAKE, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return handshake_failed(state, &error),
        Err(_) => return state.metrics.handshake_failed(HandshakeFault::Timeout),
    };
    let service = service_fn(|request| {
        touch();
        async move { Ok::<_, Infallible>(state.answer(request).await) }
    });
    if let Err(error) = serve_connection(stream, service, HEAD, stop).await
        && let Some(error) = error.source().and_then(|source| source.downcast_ref::<io::Error>())
        && refuses_certificate(error)
    {
        // With TLS 1.3 the client reports this only after the server's half of the handshake.
        handshake_failed(state, error);
    }
}

fn handshake_failed(state: &WebhookState, error: &io::Error) {
    if !refuses_certificate(error) {
        state.metrics.handshake_failed(HandshakeFault::Tls);
        return;
    }
    state.metrics.handshake_failed(HandshakeFault::CertificateRefused);
    if state.tells_refusal() {
        tracing::warn!(
            %error,
            "a client refuses the webhook's certificate\n\
             hint: if it is the API server, caBundle of the MutatingWebhookConfiguration lacks the \
             certificate's authority, or the names of the certificate lack SERVICE.NAMESPACE.svc"
        );
    }
}

fn refuses_certificate(error: &io::Error) -> bool {
    use rustls::AlertDescription as Alert;
    let error = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(
        error,
        Some(rustls::Error::AlertReceived(
            Alert::BadCertificate
                | Alert::CertificateExpired
                | Alert::CertificateUnknown
                | Alert::UnknownCA
                | Alert::UnsupportedCertificate
        ))
    )
}

/// Ends if a client has connected and asks nothing.
async fn silence(asked: &AtomicBool) {
    sleep(HANDSHAKE + FIRST).await;
    if asked.load(Ordering::Relaxed) {
        pending::<()>().await;
    }
}

/// `/livez`: the process answers. `/readyz`: it has a certificate and is not draining.
fn probe(state: &WebhookState, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    const TEXT: &str = "text/plain; charset=utf-8";
    const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";
    let (status, form, text) = match request.uri().path() {
        _ if !matches!(*request.method(), Method::GET | Method::HEAD) => {
            (StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD are\n".to_owned())
        }
        "/livez" => (StatusCode::OK, TEXT, "ok\n".to_owned()),
        "/readyz" => match state.readiness() {
            WebhookReadiness::Ready => (StatusCode::OK, TEXT, "ok\n".to_owned()),
            WebhookReadiness::Draining => {
                (StatusCode::SERVICE_UNAVAILABLE, TEXT, "it drains\n".to_owned())
            }
            WebhookReadiness::NoCertificate => {
                (StatusCode::SERVICE_UNAVAILABLE, TEXT, "there is no certificate yet\n".to_owned())
            }
        },
        "/metrics" => (StatusCode::OK, EXPOSITION, state.metrics.render(state.readiness())),
        _ => (StatusCode::NOT_FOUND, TEXT, "there is nothing here\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static(form));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        fields.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}
