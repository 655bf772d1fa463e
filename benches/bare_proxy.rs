//! The floor that `make bench` compares keygate with: a reverse proxy of the same hyper, tokio and
//! allocator that looks up `X-Api-Key`, removes it, sets `X-Org-Id` and forwards, and does nothing
//! else. No time-outs, no log, no metrics, no path check: never put it on a network. Imports
//! nothing of this crate.

use std::cell::RefCell;
use std::collections::HashMap;
use std::error::Error;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use clap::Parser;
use http::header::{CONNECTION, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{Either, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio_rustls::TlsAcceptor;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Failure = Box<dyn Error + Send + Sync>;

#[derive(Parser)]
struct Args {
    /// Address for HTTP/1.1.
    #[arg(long)]
    http1: Option<String>,
    /// Address for HTTP/2 by prior knowledge.
    #[arg(long)]
    http2: Option<String>,
    /// Address for HTTP/1.1 over TLS.
    #[arg(long, requires_all = ["cert", "key"])]
    tls: Option<String>,
    #[arg(long)]
    cert: Option<PathBuf>,
    #[arg(long)]
    key: Option<PathBuf>,
    /// `host:port`, or `unix:/path`.
    #[arg(long)]
    upstream: String,
    /// Lines of `secret org`.
    #[arg(long)]
    keys: PathBuf,
}

struct Proxy {
    keys: HashMap<Box<[u8]>, HeaderValue>,
    upstream: String,
    idle: RefCell<Vec<SendRequest<Incoming>>>,
}

/// A response body that returns its connection when it has ended.
struct Returning {
    body: Incoming,
    lent: Option<(Rc<Proxy>, SendRequest<Incoming>)>,
}

#[tokio::main(flavor = "local")]
async fn main() -> Result<(), Failure> {
    let args = Args::parse();
    let proxy = Rc::new(Proxy {
        keys: read_keys(&args.keys)?,
        upstream: args.upstream.clone(),
        idle: RefCell::default(),
    });
    if let Some(address) = &args.http2 {
        let listener = TcpListener::bind(address).await?;
        let proxy = Rc::clone(&proxy);
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                tokio::task::spawn_local(serve_http2(Rc::clone(&proxy), stream));
            }
        });
    }
    if let (Some(address), Some(cert), Some(key)) = (&args.tls, &args.cert, &args.key) {
        let listener = TcpListener::bind(address).await?;
        let acceptor = acceptor(cert, key)?;
        let proxy = Rc::clone(&proxy);
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let (proxy, handshake) = (Rc::clone(&proxy), acceptor.accept(stream));
                tokio::task::spawn_local(async move {
                    if let Ok(stream) = handshake.await {
                        serve_http1(proxy, stream).await;
                    }
                });
            }
        });
    }
    // Ends normally, so that an instrumented build writes its profile.
    let mut end = signal(SignalKind::terminate())?;
    let Some(address) = &args.http1 else {
        end.recv().await;
        return Ok(());
    };
    let listener = TcpListener::bind(address).await?;
    loop {
        let (stream, _) = tokio::select! {
            accepted = listener.accept() => accepted?,
            _ = end.recv() => return Ok(()),
        };
        let _ = stream.set_nodelay(true);
        tokio::task::spawn_local(serve_http1(Rc::clone(&proxy), stream));
    }
}

fn read_keys(path: &PathBuf) -> Result<HashMap<Box<[u8]>, HeaderValue>, Failure> {
    let mut orgs: HashMap<Box<str>, HeaderValue> = HashMap::new();
    let mut keys = HashMap::new();
    for line in BufReader::new(std::fs::File::open(path)?).lines() {
        let line = line?;
        let (secret, org) = line.split_once(' ').ok_or("a line is `secret org`")?;
        let org = match orgs.get(org) {
            Some(known) => known.clone(),
            None => {
                let value = HeaderValue::from_str(org)?;
                orgs.insert(org.into(), value.clone());
                value
            }
        };
        keys.insert(secret.as_bytes().into(), org);
    }
    Ok(keys)
}

fn acceptor(cert: &PathBuf, key: &PathBuf) -> Result<TlsAcceptor, Failure> {
    let chain = CertificateDer::pem_file_iter(cert)?.collect::<Result<Vec<_>, _>>()?;
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(key)?)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn serve_http1(proxy: Rc<Proxy>, stream: impl AsyncRead + AsyncWrite + Unpin) {
    let service = service_fn(move |request| handle(Rc::clone(&proxy), request));
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn serve_http2(proxy: Rc<Proxy>, stream: TcpStream) {
    let service = service_fn(move |request| handle(Rc::clone(&proxy), request));
    let _ = hyper::server::conn::http2::Builder::new(Local)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

#[derive(Clone, Copy)]
struct Local;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

type Answer = Response<Either<Returning, Full<Bytes>>>;

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const ORG: HeaderName = HeaderName::from_static("x-org-id");

async fn handle(proxy: Rc<Proxy>, mut request: Request<Incoming>) -> Result<Answer, Failure> {
    let secret = request.headers_mut().remove(API_KEY);
    let Some(org) = secret.and_then(|s| proxy.keys.get(s.as_bytes()).cloned()) else {
        let mut answer = Response::new(Either::Right(Full::from("unauthorized\n")));
        *answer.status_mut() = StatusCode::UNAUTHORIZED;
        return Ok(answer);
    };
    let headers = request.headers_mut();
    headers.insert(ORG, org);
    for hop in [CONNECTION, TRANSFER_ENCODING, UPGRADE, TE] {
        headers.remove(hop);
    }
    if let Some(authority) = request.uri().authority() {
        let host = HeaderValue::from_str(authority.as_str())?;
        request.headers_mut().insert(http::header::HOST, host);
        let path = request.uri().path_and_query().map_or("/", |p| p.as_str());
        *request.uri_mut() = path.parse::<Uri>()?;
    }
    *request.version_mut() = http::Version::HTTP_11;
    let mut sender = proxy.connection().await?;
    let (mut head, body) = sender.send_request(request).await?.into_parts();
    for hop in [CONNECTION, TRANSFER_ENCODING, UPGRADE] {
        head.headers.remove(hop);
    }
    let mut body = Returning { body, lent: Some((proxy, sender)) };
    body.give_back_if_ended();
    Ok(Response::from_parts(head, Either::Left(body)))
}

// === impl Proxy ===

impl Proxy {
    async fn connection(&self) -> Result<SendRequest<Incoming>, Failure> {
        while let Some(sender) = self.idle.borrow_mut().pop() {
            if sender.is_ready() {
                return Ok(sender);
            }
        }
        if let Some(path) = self.upstream.strip_prefix("unix:") {
            connect(UnixStream::connect(path).await?).await
        } else {
            let stream = TcpStream::connect(&self.upstream).await?;
            stream.set_nodelay(true)?;
            connect(stream).await
        }
    }
}

async fn connect(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
) -> Result<SendRequest<Incoming>, Failure> {
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::task::spawn_local(connection);
    Ok(sender)
}

// === impl Returning ===

impl Returning {
    fn give_back_if_ended(&mut self) {
        if self.body.is_end_stream()
            && let Some((proxy, sender)) = self.lent.take()
        {
            proxy.idle.borrow_mut().push(sender);
        }
    }
}

impl Body for Returning {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        self.give_back_if_ended();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
