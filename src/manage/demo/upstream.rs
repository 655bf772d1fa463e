//! A service that knows nothing about keys: it answers every request and remembers what it saw.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

const MAX_HEAD: usize = 64 * 1024;

#[derive(Debug)]
pub struct DemoUpstream {
    address: SocketAddr,
    seen: Mutex<Option<Seen>>,
}

/// The last request that came through.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path: String,
    /// Lower-case names.
    pub fields: Vec<(String, String)>,
}

// === impl DemoUpstream ===

impl DemoUpstream {
    /// Serves on a port of its own until the program ends.
    pub fn start() -> io::Result<Arc<Self>> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let upstream = Arc::new(Self { address: listener.local_addr()?, seen: Mutex::new(None) });
        let shared = Arc::clone(&upstream);
        std::thread::Builder::new().name("demo-upstream".into()).spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                // A broken connection is its client's problem.
                std::thread::spawn(move || shared.serve(stream).ok());
            }
        })?;
        Ok(upstream)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What has come through since the last call.
    pub fn take(&self) -> Option<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(3600)))?;
        let mut buffer = Vec::new();
        loop {
            let Some((seen, body)) = read_head(&mut stream, &mut buffer)? else { return Ok(()) };
            skip(&mut stream, &mut buffer, body)?;
            let text = seen.answer();
            *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(seen);
            write!(
                stream,
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{text}",
                text.len()
            )?;
        }
    }
}

/// How a request's body ends.
enum Body {
    Chunked,
    Length(usize),
}

fn read_head(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<Option<(Seen, Body)>> {
    loop {
        let mut fields = [httparse::EMPTY_HEADER; 100];
        let mut request = httparse::Request::new(&mut fields);
        let parsed = request.parse(buffer).map_err(io::Error::other)?;
        if let httparse::Status::Complete(length) = parsed {
            let field = |f: &httparse::Header<'_>| {
                (f.name.to_ascii_lowercase(), String::from_utf8_lossy(f.value).into_owned())
            };
            let seen = Seen {
                method: request.method.unwrap_or_default().to_owned(),
                path: request.path.unwrap_or_default().to_owned(),
                fields: request.headers.iter().map(field).collect(),
            };
            let body = match seen.field("content-length").and_then(|v| v.parse().ok()) {
                Some(length) => Body::Length(length),
                None if seen.field("transfer-encoding").is_some() => Body::Chunked,
                None => Body::Length(0),
            };
            buffer.drain(..length);
            return Ok(Some((seen, body)));
        }
        if buffer.len() > MAX_HEAD || more(stream, buffer)? == 0 {
            return Ok(None);
        }
    }
}

fn skip(stream: &mut TcpStream, buffer: &mut Vec<u8>, body: Body) -> io::Result<()> {
    match body {
        Body::Length(length) => {
            while buffer.len() < length {
                if more(stream, buffer)? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            buffer.drain(..length);
        }
        Body::Chunked => {
            const END: &[u8] = b"0\r\n\r\n";
            loop {
                if let Some(at) = buffer.windows(END.len()).position(|w| w == END) {
                    buffer.drain(..at + END.len());
                    break;
                }
                if more(stream, buffer)? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
        }
    }
    Ok(())
}

fn more(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<usize> {
    let mut part = [0; 4096];
    let read = stream.read(&mut part)?;
    buffer.extend_from_slice(part.get(..read).unwrap_or_default());
    Ok(read)
}

// === impl Seen ===

impl Seen {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The service's answer: what keygate passed on to it.
    fn answer(&self) -> String {
        let fields: serde_json::Map<_, _> =
            self.fields.iter().map(|(n, v)| (n.clone(), v.clone().into())).collect();
        let value = serde_json::json!({
            "upstream": "hello",
            "method": self.method,
            "path": self.path,
            "headers": fields,
        });
        format!("{value:#}\n")
    }
}
