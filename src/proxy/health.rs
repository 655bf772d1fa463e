//! The active health check: one small request per interval, on a thread of its own. It reports
//! whether the upstream answers, and never decides about a request.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};

use http::{Request, header};
use hyper_util::rt::TokioIo;

use super::body::RequestBody;
use super::upstream::Connector;
use super::worker::Shared;
use super::worker_upstream::SharedUpstream;
use crate::config::UpstreamProtocol;
use crate::proxy::executor::LocalExecutor;
use crate::proxy::net::io::ClientAddr;
use crate::telemetry::{UpstreamMeter, WorkerCells};

/// Requests `path` from `upstream` at its interval, and passes each result to `report`, until the
/// other end of `stop` is gone. Any status below 500 is healthy: a service that answers 401 or 404
/// is alive.
pub fn watch(
    shared: &Shared,
    upstream: &SharedUpstream,
    path: &str,
    stop: &Receiver<()>,
    mut report: impl FnMut(Result<(), String>),
) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build_local(tokio::runtime::LocalOptions::default())?;
    // Its connections are not the workers'. Nothing reads these cells.
    let meter = UpstreamMeter::new(Arc::new(WorkerCells::default()), 0);
    let connector = upstream.connector(&shared.timeouts, &shared.clock, meter);
    let interval = upstream.config.health_interval;
    let host = match (&upstream.config.host, &upstream.config.address) {
        (Some(host), _) => host.clone(),
        (None, crate::config::UpstreamAddress::Tcp { host, .. }) => {
            http::HeaderValue::from_str(host).unwrap_or(LOCALHOST)
        }
        (None, crate::config::UpstreamAddress::Unix(_)) => LOCALHOST,
    };
    loop {
        let limit = shared.timeouts.connect.saturating_add(interval);
        let result = runtime.block_on(async {
            tokio::time::timeout(limit, ask(&connector, path, &host))
                .await
                .unwrap_or_else(|_| Err(format!("no answer within {limit:?}")))
        });
        report(result);
        if let Err(RecvTimeoutError::Disconnected) = stop.recv_timeout(interval) {
            return Ok(());
        }
    }
}

const LOCALHOST: http::HeaderValue = http::HeaderValue::from_static("localhost");

async fn ask(connector: &Connector, path: &str, host: &http::HeaderValue) -> Result<(), String> {
    let ourselves = ClientAddr { peer: None, local: None };
    let io = connector.connect(&ourselves).await.map_err(|r| r.as_str().to_owned())?;
    let mut request = Request::new(RequestBody::Empty);
    request.headers_mut().insert(header::USER_AGENT, USER_AGENT);
    let say = |error: hyper::Error| error.to_string();
    let status = match connector.protocol() {
        UpstreamProtocol::Http1 => {
            request.headers_mut().insert(header::HOST, host.clone());
            *request.uri_mut() = path.parse().map_err(|_| "health_path is no path".to_owned())?;
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(io)).await.map_err(say)?;
            tokio::task::spawn_local(connection);
            sender.send_request(request).await.map_err(say)?.status()
        }
        UpstreamProtocol::Http2 => {
            let authority = host.to_str().unwrap_or("localhost");
            *request.uri_mut() = format!("http://{authority}{path}")
                .parse()
                .map_err(|_| "health_path is no path".to_owned())?;
            let executor = LocalExecutor::default();
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(executor, TokioIo::new(io))
                    .await
                    .map_err(say)?;
            tokio::task::spawn_local(connection);
            sender.send_request(request).await.map_err(say)?.status()
        }
    };
    if status.is_server_error() { Err(format!("answered {}", status.as_u16())) } else { Ok(()) }
}

const USER_AGENT: http::HeaderValue = http::HeaderValue::from_static("keygate-health-check");
