//! An HTTP server of a few lines that does what a test says.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// What a client requested.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) path: String,
    fields: Vec<(String, String)>,
}

/// What the client gets.
pub(super) struct Answer {
    status: u16,
    fields: Vec<(String, String)>,
    body: Vec<u8>,
    endless: bool,
}

pub(super) struct Server {
    url: String,
    requests: Arc<Mutex<Vec<Request>>>,
    versions: Arc<Versions>,
}

/// Files with ETags. A request that prefers to wait does.
#[derive(Default)]
struct Versions {
    files: Mutex<HashMap<String, (u64, Vec<u8>)>>,
    changed: Condvar,
    waiting: AtomicUsize,
    silent: AtomicBool,
    /// In milliseconds. 0: as long as the client prefers.
    longest: AtomicU64,
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

impl Request {
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    fn read(stream: &mut dyn Stream) -> Option<Self> {
        let mut lines = BufReader::new(stream).lines();
        let path = lines.next()?.ok()?.split(' ').nth(1)?.to_owned();
        let mut fields = Vec::new();
        for line in lines {
            let line = line.ok()?;
            let Some((name, value)) = line.split_once(':') else { break };
            fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        Some(Self { path, fields })
    }
}

impl Answer {
    pub(super) fn new(status: u16) -> Self {
        Self { status, fields: Vec::new(), body: Vec::new(), endless: false }
    }

    pub(super) fn field(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(super) fn body(mut self, body: &[u8]) -> Self {
        self.body = body.to_vec();
        self
    }

    /// Chunks without an end.
    pub(super) fn endless(mut self) -> Self {
        self.endless = true;
        self
    }

    fn write(self, stream: &mut dyn Stream) -> std::io::Result<()> {
        let mut head = format!("HTTP/1.1 {} X\r\nconnection: close\r\n", self.status);
        for (name, value) in &self.fields {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if self.endless {
            head.push_str("transfer-encoding: chunked\r\n");
        } else if !self.fields.iter().any(|(n, _)| n == "content-length") && self.status != 304 {
            head.push_str(&format!("content-length: {}\r\n", self.body.len()));
        }
        stream.write_all(head.as_bytes())?;
        stream.write_all(b"\r\n")?;
        stream.write_all(&self.body)?;
        if !self.endless {
            return stream.flush();
        }
        loop {
            stream.write_all(b"1000\r\n")?;
            stream.write_all(&[0; 0x1000])?;
            stream.write_all(b"\r\n")?;
        }
    }
}

impl Server {
    pub(super) fn scripted(answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        Self::start(Arc::default(), answer, |stream| Some(Box::new(stream)))
    }

    /// One file. [`Self::put`] adds more.
    pub(super) fn versioned(path: &str, body: &[u8]) -> Self {
        let versions = Arc::<Versions>::default();
        let its = Arc::clone(&versions);
        let server = Self::start(versions, move |r| its.answer(r), |stream| Some(Box::new(stream)));
        server.put(path, body);
        server
    }

    /// One file over TLS. The second part is the certificate that has signed it, as PEM.
    pub(super) fn tls(name: &str, body: &[u8]) -> (Self, String) {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        let pem = made.cert.pem();
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.unwrap())
            .unwrap();
        let config = Arc::new(config);
        let body = body.to_vec();
        let server = Self::start(
            Arc::default(),
            move |_| Answer::new(200).body(&body),
            move |stream| {
                let session = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
                Some(Box::new(rustls::StreamOwned::new(session, stream)))
            },
        );
        (server, pem)
    }

    fn start(
        versions: Arc<Versions>,
        answer: impl Fn(&Request) -> Answer + Send + Sync + 'static,
        wrap: impl Fn(TcpStream) -> Option<Box<dyn Stream>> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::<Mutex<Vec<Request>>>::default();
        let seen = Arc::clone(&requests);
        let both = Arc::new((answer, wrap));
        // Ends with the test's process. It holds only a port.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (both, seen) = (Arc::clone(&both), Arc::clone(&seen));
                std::thread::spawn(move || {
                    let _ = stream.set_read_timeout(Some(Duration::from_secs(30)));
                    let _ = stream.set_write_timeout(Some(Duration::from_secs(30)));
                    let Some(mut stream) = both.1(stream) else { return };
                    let Some(request) = Request::read(&mut *stream) else { return };
                    seen.lock().unwrap().push(request.clone());
                    // A client that has seen enough closes.
                    let _ = both.0(&request).write(&mut *stream);
                });
            }
        });
        Self { url, requests, versions }
    }

    pub(super) fn url(&self) -> String {
        self.url.clone()
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    pub(super) fn put(&self, path: &str, body: &[u8]) {
        let mut files = self.versions.files.lock().unwrap();
        let version = files.get(path).map_or(1, |(v, _)| v + 1);
        files.insert(path.to_owned(), (version, body.to_vec()));
        self.versions.changed.notify_all();
    }

    /// Holds answers back without saying so.
    pub(super) fn say_nothing_of_waits(&self) {
        self.versions.silent.store(true, Ordering::Relaxed);
    }

    /// Holds no answer back for longer, whatever a client prefers.
    pub(super) fn let_go_after(&self, longest: Duration) {
        self.versions.longest.store(longest.as_millis() as u64, Ordering::Relaxed);
    }

    /// Requests that are held back now.
    pub(super) fn waiting(&self) -> usize {
        self.versions.waiting.load(Ordering::SeqCst)
    }
}

impl Versions {
    fn answer(&self, request: &Request) -> Answer {
        let mut files = self.files.lock().unwrap();
        let known = request.field("if-none-match").map(str::to_owned);
        let wait = request.field("prefer").and_then(|p| p.strip_prefix("wait=")?.parse().ok());
        let longest = match self.longest.load(Ordering::Relaxed) {
            0 => Duration::MAX,
            ms => Duration::from_millis(ms),
        };
        if let Some(wait) = wait {
            let wait = longest.min(Duration::from_secs(wait));
            self.waiting.fetch_add(1, Ordering::SeqCst);
            let is_known = |files: &mut HashMap<String, (u64, Vec<u8>)>| {
                files.get(&request.path).map(|(v, _)| format!("\"{v}\"")) == known
            };
            (files, _) = self.changed.wait_timeout_while(files, wait, is_known).unwrap();
            self.waiting.fetch_sub(1, Ordering::SeqCst);
        }
        let says = |answer: Answer| match wait {
            Some(_) if !self.silent.load(Ordering::Relaxed) => {
                answer.field("preference-applied", "wait")
            }
            _ => answer,
        };
        let Some((version, body)) = files.get(&request.path) else { return says(Answer::new(404)) };
        let etag = format!("\"{version}\"");
        let answer = match known.as_ref() == Some(&etag) {
            true => Answer::new(304),
            false => Answer::new(200).body(body),
        };
        says(answer.field("etag", &etag))
    }
}
