//! An HTTP/2 upstream by prior knowledge that records each request as its library reads it:
//! fields in order, body, trailers. (What a raw socket would show is HPACK.)

use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, Uri};

use super::client::PATIENCE;

/// A request as it arrived, to its end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) target: Uri,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
    /// False: the stream was reset.
    pub(crate) complete: bool,
}

/// What it answers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) fields: Vec<(&'static str, &'static str)>,
    pub(crate) body: &'static str,
    pub(crate) trailers: Vec<(&'static str, &'static str)>,
}

type Script = dyn Fn(&Seen) -> Reply + Send + Sync;

#[derive(Default)]
struct Record {
    seen: Mutex<Vec<Seen>>,
    arrived: Condvar,
}

pub(crate) struct Http2Upstream {
    pub(crate) address: SocketAddr,
    record: Arc<Record>,
    /// Its thread ends when this is dropped.
    _stop: tokio::sync::oneshot::Sender<()>,
}

// === impl Reply ===

impl Reply {
    pub(crate) fn ok(body: &'static str) -> Self {
        Self { status: 200, body, ..Self::default() }
    }
}

// === impl Seen ===

impl Seen {
    /// Every value of a field.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str()).collect()
    }
}

// === impl Http2Upstream ===

impl Http2Upstream {
    pub(crate) fn answering(script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let record = Arc::new(Record::default());
        let script: Arc<Script> = Arc::new(script);
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let kept = Arc::clone(&record);
        thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                let accept = async {
                    while let Ok((stream, _)) = listener.accept().await {
                        tokio::spawn(serve(stream, Arc::clone(&kept), Arc::clone(&script)));
                    }
                };
                tokio::select! {
                    () = accept => {}
                    _ = stopped => {}
                }
            });
        });
        Self { address, record, _stop: stop }
    }

    /// `[upstream]` of a gate before it.
    pub(crate) fn url(&self) -> String {
        format!("http://{}\"\nprotocol = \"http2\"\n#", self.address)
    }

    /// Everything that arrived since the last call.
    pub(crate) fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.record.seen.lock().unwrap())
    }

    /// The one request that arrived since the last take; waits for it.
    pub(crate) fn only(&self) -> Seen {
        let seen = self.record.seen.lock().unwrap();
        let (mut seen, _) =
            self.record.arrived.wait_timeout_while(seen, PATIENCE, |s| s.is_empty()).unwrap();
        assert_eq!(seen.len(), 1, "{seen:?}");
        seen.remove(0)
    }
}

async fn serve(stream: tokio::net::TcpStream, record: Arc<Record>, script: Arc<Script>) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let (record, script) = (Arc::clone(&record), Arc::clone(&script));
        tokio::spawn(async move {
            let (head, mut body) = request.into_parts();
            let mut seen = Seen {
                method: head.method,
                target: head.uri,
                fields: pairs(&head.headers),
                ..Seen::default()
            };
            seen.complete = read(&mut body, &mut seen).await.is_ok();
            let reply = script(&seen);
            record.seen.lock().unwrap().push(seen);
            record.arrived.notify_all();
            let mut response = Response::builder().status(reply.status);
            for (name, value) in &reply.fields {
                response = response.header(*name, *value);
            }
            let ends = reply.body.is_empty() && reply.trailers.is_empty();
            let Ok(mut out) = respond.send_response(response.body(()).unwrap(), ends) else {
                return;
            };
            if ends {
                return;
            }
            let _ = out.send_data(reply.body.into(), reply.trailers.is_empty());
            if !reply.trailers.is_empty() {
                let one = |(n, v): &(&'static str, &'static str)| {
                    (HeaderName::from_static(n), HeaderValue::from_static(v))
                };
                let _ = out.send_trailers(reply.trailers.iter().map(one).collect());
            }
        });
    }
}

async fn read(body: &mut h2::RecvStream, seen: &mut Seen) -> Result<(), h2::Error> {
    while let Some(data) = body.data().await {
        let data = data?;
        let _ = body.flow_control().release_capacity(data.len());
        seen.body.extend(data);
    }
    if let Some(trailers) = body.trailers().await? {
        seen.trailers = pairs(&trailers);
    }
    Ok(())
}

fn pairs(fields: &HeaderMap) -> Vec<(String, String)> {
    let text = |v: &HeaderValue| String::from_utf8_lossy(v.as_bytes()).into_owned();
    fields.iter().map(|(n, v)| (n.to_string(), text(v))).collect()
}
