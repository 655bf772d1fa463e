//! `/metrics`, `/livez` and `/readyz`, on a listener of their own. Nothing else is there, and nothing
//! on it changes anything.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::desk::{DistributorDesk, word};
use crate::serving::{ConnectionPlaces, HeadBounds, accept_until, serve_connection};

const HEAD: HeadBounds = HeadBounds { time: Duration::from_secs(10), length: 8 * 1024 };

/// Connections at a time; the idlest gives way to one more.
const MOST: usize = 64;

/// Until `stop` says true.
pub(super) async fn serve(
    listener: TcpListener,
    desk: DistributorDesk,
    stop: watch::Receiver<bool>,
) {
    let places = ConnectionPlaces::new(MOST, MOST);
    accept_until(stop.clone(), || accept(&listener, &desk, &places, &stop)).await;
}

async fn accept(
    listener: &TcpListener,
    desk: &DistributorDesk,
    places: &ConnectionPlaces,
    stop: &watch::Receiver<bool>,
) -> io::Result<()> {
    let (stream, address) = listener.accept().await?;
    let (place, gives_way) = places.take(address.ip());
    let (desk, stop) = (desk.clone(), stop.clone());
    tokio::spawn(async move {
        let service = service_fn(|request: Request<Incoming>| {
            place.touch();
            let answer = page(&desk, request.method(), request.uri().path());
            async move { Ok::<_, Infallible>(answer) }
        });
        tokio::select! {
            // How it ends concerns the client alone.
            _ = serve_connection(stream, service, HEAD, stop) => {}
            _ = gives_way => {}
        }
    });
    Ok(())
}

fn page(desk: &DistributorDesk, method: &Method, path: &str) -> Response<Full<Bytes>> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are\n".to_owned());
        answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return answer;
    }
    match path {
        "/metrics" => {
            let mut answer = text(StatusCode::OK, desk.metrics());
            let form = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            answer.headers_mut().insert(header::CONTENT_TYPE, form);
            answer
        }
        "/livez" => text(StatusCode::OK, "ok\n".to_owned()),
        "/readyz" => match (desk.is_leaving(), desk.awaited()) {
            (true, _) => text(StatusCode::SERVICE_UNAVAILABLE, "draining\n".to_owned()),
            (false, Some(awaited)) => {
                let (audience, what) = (&awaited.audience, word(awaited.name));
                let why = format!("the origin has said nothing yet of the {what} of {audience}\n");
                text(StatusCode::SERVICE_UNAVAILABLE, why)
            }
            (false, None) => text(StatusCode::OK, "ok\n".to_owned()),
        },
        _ => text(StatusCode::NOT_FOUND, "there is nothing here\n".to_owned()),
    }
}

fn text(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::from(text)));
    *answer.status_mut() = status;
    let fields = answer.headers_mut();
    let form = HeaderValue::from_static("text/plain; charset=utf-8");
    fields.insert(header::CONTENT_TYPE, form);
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
