//! Probes of the service for a platform that cannot reach it. Each configured path stands for one
//! question to one address on this host. The answer shows whether the service is healthy and
//! nothing else about it. Imports `config`.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Version, header};
use http_body_util::{BodyExt as _, Empty, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::config::{PassedProbe, ProbedTarget};

/// The most probes under way at the same time: strangers can probe too, and must not be able to
/// load the service.
const AT_ONCE: usize = 16;

/// Longest answer of a health service: a field with one number, and space for additions.
const GRPC_ANSWER: usize = 4096;

/// Services that distinguish probes from clients look for this.
const AGENT: &str = "kube-probe/keygate";

/// `SERVING` of `grpc.health.v1.HealthCheckResponse`.
const SERVING: u64 = 1;

/// The configured probes.
#[derive(Debug)]
pub struct ProbePassages {
    probes: Vec<PassedProbe>,
    places: Semaphore,
}

/// Why a probe failed, in words for the platform's events.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProbeFailure {
    #[error("too many probes at once")]
    Busy,
    #[error("no answer within {0:?}")]
    Late(std::time::Duration),
    #[error("the service is not reached: {0}")]
    Unreached(#[from] std::io::Error),
    #[error("the service's answer is none: {0}")]
    Unanswered(#[from] hyper::Error),
    #[error("the service answers {0}")]
    Status(u16),
    #[error("the health service says {0}")]
    NotServing(Box<str>),
}

// === impl ProbePassages ===

impl ProbePassages {
    pub fn new(probes: Vec<PassedProbe>) -> Arc<Self> {
        Arc::new(Self { probes, places: Semaphore::new(AT_ONCE) })
    }

    /// The probe with this path.
    pub(super) fn of_path(&self, path: &str) -> Option<&PassedProbe> {
        self.probes.iter().find(|probe| *probe.path == *path)
    }

    /// Asks the service.
    pub(super) async fn ask(&self, probe: &PassedProbe) -> Result<(), ProbeFailure> {
        let Ok(_place) = self.places.try_acquire() else { return Err(ProbeFailure::Busy) };
        let asked = tokio::time::timeout(probe.timeout, ask(probe)).await;
        asked.unwrap_or(Err(ProbeFailure::Late(probe.timeout)))
    }
}

async fn ask(probe: &PassedProbe) -> Result<(), ProbeFailure> {
    match &probe.target {
        ProbedTarget::Tcp { address } => {
            TcpStream::connect(address).await?;
            Ok(())
        }
        ProbedTarget::Http { address, target } => http(*address, target, &probe.headers).await,
        ProbedTarget::Grpc { address, service } => grpc(*address, service).await,
    }
}

async fn http(
    address: SocketAddr,
    target: &str,
    fields: &[(header::HeaderName, HeaderValue)],
) -> Result<(), ProbeFailure> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(16 * 1024)
        .handshake(TokioIo::new(stream))
        .await?;
    let mut request = Request::new(Empty::<Bytes>::new());
    // Checked with the configuration.
    *request.uri_mut() = target.parse().unwrap_or_default();
    let headers = request.headers_mut();
    headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static(AGENT));
    if let Ok(host) = HeaderValue::from_str(&address.to_string()) {
        headers.insert(header::HOST, host);
    }
    let mut own = HeaderMap::new();
    own.extend(fields.iter().cloned().map(|(name, value)| (Some(name), value)));
    // Like the kubelet: a probe's own fields replace those.
    for name in own.keys() {
        headers.remove(name);
    }
    headers.extend(own);
    // Beside the answer, not in a race with it: a service that closes ends both at once.
    let mut running = JoinSet::new();
    running.spawn(async { drop(connection.await) });
    let answer = sender.send_request(request).await?;
    match answer.status().as_u16() {
        200..400 => Ok(()),
        status => Err(ProbeFailure::Status(status)),
    }
}

async fn grpc(address: SocketAddr, service: &str) -> Result<(), ProbeFailure> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    let body = Full::new(health_request(service));
    let mut request = Request::new(body);
    *request.method_mut() = Method::POST;
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() =
        format!("http://{address}/grpc.health.v1.Health/Check").parse().unwrap_or_default();
    let headers = request.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static(AGENT));
    let exchange = async {
        let answer = sender.send_request(request).await?;
        if answer.status() != StatusCode::OK {
            return Err(ProbeFailure::Status(answer.status().as_u16()));
        }
        // An answer without a body has the result in its head.
        let at_once = grpc_status(answer.headers());
        let body = Limited::new(answer.into_body(), GRPC_ANSWER).collect().await;
        let Ok(body) = body else {
            return Err(ProbeFailure::NotServing("more than it should".into()));
        };
        let status = at_once.or_else(|| body.trailers().and_then(grpc_status));
        match (status.as_deref(), health_status(body.to_bytes())) {
            (Some("0"), Some(SERVING)) => Ok(()),
            (Some("0"), status) => {
                let status = status.unwrap_or_default();
                Err(ProbeFailure::NotServing(format!("status {status}").into()))
            }
            (Some(code), _) => Err(ProbeFailure::NotServing(format!("grpc-status {code}").into())),
            (None, _) => Err(ProbeFailure::NotServing("nothing of gRPC".into())),
        }
    };
    let mut running = JoinSet::new();
    running.spawn(async { drop(connection.await) });
    exchange.await
}

fn grpc_status(fields: &HeaderMap) -> Option<Box<str>> {
    let status = fields.get("grpc-status")?.to_str().ok()?;
    (status.len() <= 3).then(|| status.into())
}

/// `grpc.health.v1.HealthCheckRequest`, framed: a flag, a length, and field 1, the service.
fn health_request(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        varint(service.len(), &mut message);
        message.extend(service.as_bytes());
    }
    let mut framed = vec![0];
    framed.extend((message.len() as u32).to_be_bytes());
    framed.extend(message);
    framed.into()
}

fn varint(mut number: usize, to: &mut Vec<u8>) {
    while number >= 0x80 {
        to.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    to.push(number as u8);
}

/// Field 1 of a framed `grpc.health.v1.HealthCheckResponse`. `None`: it is not such a response.
fn health_status(mut framed: Bytes) -> Option<u64> {
    if framed.len() < 5 || framed.get_u8() != 0 {
        return None;
    }
    let length = framed.get_u32() as usize;
    let mut message = framed.get(..length)?;
    let mut status = 0;
    while !message.is_empty() {
        let key = read_varint(&mut message)?;
        match (key >> 3, key & 7) {
            (1, 0) => status = read_varint(&mut message)?,
            (_, 0) => drop(read_varint(&mut message)?),
            (_, 2) => {
                let length = usize::try_from(read_varint(&mut message)?).ok()?;
                message = message.get(length..)?;
            }
            _ => return None,
        }
    }
    Some(status)
}

fn read_varint(from: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = from.split_first()?;
        *from = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_messages() {
        assert_eq!(health_request("").as_ref(), [0, 0, 0, 0, 0]);
        assert_eq!(health_request("ab").as_ref(), [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let long = "x".repeat(200);
        assert_eq!(health_request(&long)[5..8], [0x0a, 0xc8, 0x01]);
        for (bytes, want) in [
            (&[0, 0, 0, 0, 2, 8, 1][..], Some(1)),
            (&[0, 0, 0, 0, 0], Some(0)),
            (&[0, 0, 0, 0, 6, 0x12, 2, 9, 9, 8, 1], Some(1)),
            (&[0, 0, 0, 0, 9, 8, 1], None),
            (&[1, 0, 0, 0, 2, 8, 1], None),
            (&[0, 0], None),
            (&[0, 0, 0, 0, 1, 8], None),
            (&[0, 0, 0, 0, 3, 0x12, 0xff, 1], None),
        ] {
            assert_eq!(health_status(Bytes::copy_from_slice(bytes)), want, "{bytes:?}");
        }
    }
}
