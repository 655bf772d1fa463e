//! `/metrics`, `/livez` and `/readyz`, on a listener of their own. It has nothing else, and nothing
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

use super::desk::DistributorDesk;
use crate::serving::{ConnectionPlaces, HeadBounds, accept_until, serve_connection};

const HEAD: HeadBounds = HeadBounds { time: Duration::from_secs(10), length: 8 * 1024 };

/// Simultaneous connections; a further one replaces the one that has been idle for longest.
const MOST: usize = 64;

/// Serves until `stop` becomes true.
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
            // How it ends matters only to the client.
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
                let is_ready = desk.is_ready();
                let status =
                    if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                text(status, format!("{awaited}\n"))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artefacts::ArtefactName;
    use crate::clock::Clock;
    use crate::distributor::desk::DeskOptions;
    use crate::distributor::judge::ArtefactJudge;
    use crate::distributor::options::{AccessLines, OriginArtefact};
    use crate::table::Buffer;

    /// Table and patch of each.
    fn desk_of(audiences: &[&str], clock: &Clock) -> DistributorDesk {
        let names = [ArtefactName::Table, ArtefactName::Patch];
        let files = audiences.iter().flat_map(|a| names.map(|name| (*a, name)));
        let artefacts = files.map(|(audience, name)| OriginArtefact {
            audience: audience.into(),
            name,
            url: "http://a".into(),
            judge: ArtefactJudge::new(audience, name, None).unwrap(),
        });
        DistributorDesk::new(DeskOptions {
            artefacts: artefacts.collect(),
            fleets: Vec::new(),
            most_waiting: 1,
            access_log: AccessLines::Off,
            tls: None,
            clock: clock.clone(),
        })
    }

    /// A wrong URL and an origin without a table look the same: no sidecar gets keys there.
    #[test]
    fn without_a_table_it_is_not_ready() {
        let clock = Clock::manual(1_000);
        let desk = desk_of(&["shop"], &clock);
        let ready = || page(&desk, &Method::GET, "/readyz").status().as_u16();
        [0, 1].into_iter().for_each(|at| desk.missing(at));
        clock.advance(Duration::from_secs(60));
        assert_eq!(ready(), 503);
        desk.arrived(0, 7, Buffer::from(b"a table".to_vec()));
        assert_eq!(ready(), 200, "there need be no patch");
        desk.missing(0);
        assert_eq!(ready(), 200, "it is served on");
    }

    /// An audience that the origin does not provide must not take the others' sidecars with it.
    #[test]
    fn one_audience_does_not_keep_it_unready_for_ever() {
        let clock = Clock::manual(1_000);
        let desk = desk_of(&["shop", "billing"], &clock);
        let ready = || page(&desk, &Method::GET, "/readyz").status().as_u16();
        let minute = Duration::from_secs(60);
        let arrived = |at| desk.arrived(at, 7, Buffer::from(b"a table".to_vec()));
        arrived(0);
        clock.advance(minute);
        assert_eq!(ready(), 503, "of no audience everything is known");
        desk.missing(2);
        assert_eq!(ready(), 503, "a table");
        desk.missing(1);
        assert_eq!(ready(), 200, "all of one, and there was time for the other");
        desk.missing(3);
        assert_eq!(ready(), 200);
        assert_eq!(desk.awaited().as_deref(), Some("the origin has no table of billing"));
        arrived(2);
        assert_eq!(ready(), 200);
        desk.leave(Duration::ZERO);
        assert_eq!(ready(), 503);
    }
}
