//! A client with one kept-alive connection: the measured cost is the service's, not a library's.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::Failed;

pub(super) struct Client {
    stream: TcpStream,
    host: String,
    /// `name: value`, each with its line end.
    fields: String,
}

pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: String,
    pub(super) took: Duration,
}

// === impl Client ===

impl Client {
    pub(super) fn new(address: &str, fields: &[&str]) -> Result<Self, Failed> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let fields = fields.iter().map(|field| format!("{field}\r\n")).collect();
        Ok(Self { stream, host: address.to_owned(), fields })
    }

    pub(super) fn get(&mut self, path: &str) -> Result<Answer, Failed> {
        self.send("GET", path, "", "")
    }

    pub(super) fn post(&mut self, path: &str, form: &str, body: &str) -> Result<Answer, Failed> {
        self.send("POST", path, &format!("content-type: {form}\r\n"), body)
    }

    fn send(&mut self, method: &str, path: &str, more: &str, body: &str) -> Result<Answer, Failed> {
        let Self { host, fields, .. } = self;
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {host}\r\n{fields}{more}content-length: {length}\r\n\r\n"
        );
        let began = Instant::now();
        self.stream.write_all(&[head.as_bytes(), body.as_bytes()].concat())?;
        let mut answer = Vec::new();
        let mut piece = [0; 16 * 1024];
        loop {
            let read = self.stream.read(&mut piece)?;
            if read == 0 {
                return Err("the service has closed the connection".into());
            }
            answer.extend_from_slice(piece.get(..read).unwrap_or_default());
            let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else {
                continue;
            };
            let (head, rest) = answer.split_at(end + 4);
            let head = String::from_utf8_lossy(head);
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
            });
            if rest.len() < length.unwrap_or(0_usize) {
                continue;
            }
            let took = began.elapsed();
            let status = head.split(' ').nth(1).ok_or("no status")?.parse()?;
            return Ok(Answer { status, body: String::from_utf8_lossy(rest).into_owned(), took });
        }
    }
}

// === impl Answer ===

impl Answer {
    /// Returns an error unless the status is this one.
    pub(super) fn must_be(self, status: u16) -> Result<Self, Failed> {
        match self.status == status {
            true => Ok(self),
            false => Err(format!("{} in place of {status}: {}", self.status, self.body).into()),
        }
    }

    pub(super) fn json(&self) -> Result<serde_json::Value, Failed> {
        Ok(serde_json::from_str(&self.body)?)
    }
}
