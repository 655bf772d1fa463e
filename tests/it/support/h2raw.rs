//! HTTP/2 frame by frame, right or wrong: what a well-behaved library would never send.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::client::PATIENCE;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// One connection.
pub(crate) struct H2 {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// Frames of streams that nobody has requested yet.
    kept: Vec<Frame>,
    /// SETTINGS and PING of the peer are answered, and windows are opened as bytes arrive.
    pub(crate) polite: bool,
}

/// What arrived on one stream until its end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    /// Of the first header block that is not interim.
    pub(crate) status: Option<u16>,
    pub(crate) header_blocks: usize,
    /// The blocks as they arrived, HPACK encoded.
    pub(crate) blocks: Vec<u8>,
    pub(crate) body: Vec<u8>,
    /// Error code of a RST_STREAM.
    pub(crate) reset: Option<u32>,
    /// Error code of a GOAWAY.
    pub(crate) goaway: Option<u32>,
    /// The stream ended as it should.
    pub(crate) ended: bool,
    pub(crate) closed: bool,
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A header block of literals without indexing: every byte unchanged.
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        literal(&mut out, name.as_bytes(), value.as_bytes());
    }
    out
}

pub(crate) fn literal(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.push(0);
    for text in [name, value] {
        integer(out, text.len());
        out.extend(text);
    }
}

fn integer(out: &mut Vec<u8>, mut n: usize) {
    if n < 127 {
        out.push(n as u8);
        return;
    }
    out.push(127);
    n -= 127;
    while n >= 128 {
        out.push((n % 128) as u8 | 128);
        n /= 128;
    }
    out.push(n as u8);
}

/// The fields of a plain GET with a key.
pub(crate) fn get<'a>(path: &'a str, key: &'a str) -> Vec<(&'a str, &'a str)> {
    request("GET", path, key)
}

pub(crate) fn request<'a>(method: &'a str, path: &'a str, key: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        (":method", method),
        (":scheme", "http"),
        (":path", path),
        (":authority", "a"),
        ("x-api-key", key),
    ]
}

// === impl H2 ===

impl H2 {
    /// Preface and SETTINGS by prior knowledge.
    pub(crate) fn connect(to: SocketAddr) -> Self {
        Self::with_settings(to, &[])
    }

    pub(crate) fn with_settings(to: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let mut h2 = Self::silent(to);
        let payload: Vec<u8> = settings
            .iter()
            .flat_map(|(id, v)| [&id.to_be_bytes()[..], &v.to_be_bytes()[..]].concat())
            .collect();
        h2.send(&[PREFACE, &frame(SETTINGS, 0, 0, &payload)].concat());
        h2
    }

    /// A TCP connection on which nothing was sent.
    pub(crate) fn silent(to: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&to, PATIENCE).expect("connect");
        stream.set_nodelay(true).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream, buffer: Vec::new(), kept: Vec::new(), polite: true }
    }

    /// False: the peer takes no more.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    pub(crate) fn headers(&mut self, stream: u32, flags: u8, fields: &[(&str, &str)]) -> bool {
        self.send(&frame(HEADERS, flags | END_HEADERS, stream, &block(fields)))
    }

    pub(crate) fn data(&mut self, stream: u32, flags: u8, bytes: &[u8]) -> bool {
        self.send(&frame(DATA, flags, stream, bytes))
    }

    /// The next frame. `None`: closed, or nothing arrived in time.
    pub(crate) fn next(&mut self, within: Duration) -> Option<Frame> {
        let until = Instant::now() + within;
        loop {
            if let Some(frame) = self.take() {
                if self.polite {
                    self.be_polite(&frame);
                }
                return Some(frame);
            }
            let left = until.checked_duration_since(Instant::now())?;
            self.stream.set_read_timeout(Some(left.max(Duration::from_millis(1)))).unwrap();
            let mut chunk = [0; 16 * 1024];
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(n) => self.buffer.extend(&chunk[..n]),
                Err(_) => return None,
            }
        }
    }

    fn take(&mut self) -> Option<Frame> {
        let head = self.buffer.get(..9)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        if self.buffer.len() < 9 + length {
            return None;
        }
        let bytes: Vec<u8> = self.buffer.drain(..9 + length).collect();
        let stream = u32::from_be_bytes([bytes[5], bytes[6], bytes[7], bytes[8]]) & 0x7fff_ffff;
        Some(Frame { kind: bytes[3], flags: bytes[4], stream, payload: bytes[9..].to_vec() })
    }

    fn be_polite(&mut self, frame_seen: &Frame) {
        match frame_seen.kind {
            SETTINGS if frame_seen.flags & ACK == 0 => {
                self.send(&frame(SETTINGS, ACK, 0, b""));
            }
            PING if frame_seen.flags & ACK == 0 => {
                self.send(&frame(PING, ACK, 0, &frame_seen.payload));
            }
            DATA if !frame_seen.payload.is_empty() => {
                let more = (frame_seen.payload.len() as u32).to_be_bytes();
                self.send(&frame(WINDOW_UPDATE, 0, 0, &more));
                if frame_seen.flags & END_STREAM == 0 {
                    self.send(&frame(WINDOW_UPDATE, 0, frame_seen.stream, &more));
                }
            }
            _ => {}
        }
    }

    /// The next frame of this stream (or the connection's end, as GOAWAY); others are kept.
    pub(crate) fn next_of(&mut self, stream: u32, within: Duration) -> Option<Frame> {
        if let Some(at) = self.kept.iter().position(|f| f.stream == stream) {
            return Some(self.kept.remove(at));
        }
        let until = Instant::now() + within;
        loop {
            let left = until.checked_duration_since(Instant::now())?;
            let frame = self.next(left)?;
            if frame.stream == stream || frame.kind == GOAWAY {
                return Some(frame);
            }
            if frame.stream != 0 {
                self.kept.push(frame);
            }
        }
    }

    /// Everything of one stream, to its end.
    pub(crate) fn answer(&mut self, stream: u32) -> Answer {
        self.answer_within(stream, PATIENCE)
    }

    pub(crate) fn answer_within(&mut self, stream: u32, within: Duration) -> Answer {
        let mut answer = Answer::default();
        let until = Instant::now() + within;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            let Some(frame) = self.next_of(stream, left) else {
                answer.closed = true;
                return answer;
            };
            match frame.kind {
                GOAWAY => {
                    let code = frame.payload[4..8].try_into().unwrap();
                    answer.goaway = Some(u32::from_be_bytes(code));
                    if answer.goaway != Some(0) {
                        return answer;
                    }
                    continue;
                }
                HEADERS => {
                    answer.header_blocks += 1;
                    let status = status_of(&frame.payload);
                    if answer.status.is_none_or(|s| s < 200) && status.is_some() {
                        answer.status = status;
                    }
                    answer.blocks.extend(&frame.payload);
                }
                DATA => answer.body.extend(&frame.payload),
                RST_STREAM => {
                    let code = frame.payload[..4].try_into().unwrap();
                    answer.reset = Some(u32::from_be_bytes(code));
                    return answer;
                }
                _ => continue,
            }
            if frame.flags & END_STREAM != 0 && matches!(frame.kind, DATA | HEADERS) {
                answer.ended = true;
                return answer;
            }
        }
        answer
    }

    /// One whole request without a body.
    pub(crate) fn exchange(&mut self, stream: u32, fields: &[(&str, &str)]) -> Answer {
        self.headers(stream, END_STREAM, fields);
        self.answer(stream)
    }

    /// Waits for the end of the connection; the error code of its last GOAWAY.
    pub(crate) fn end(&mut self, within: Duration) -> (bool, Option<u32>) {
        let until = Instant::now() + within;
        let mut code = None;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            match self.next(left) {
                Some(frame) if frame.kind == GOAWAY => {
                    code = Some(u32::from_be_bytes(frame.payload[4..8].try_into().unwrap()));
                }
                Some(_) => {}
                None => return (Instant::now() < until, code),
            }
        }
        (false, code)
    }
}

/// `:status` of a header block, which every server puts first.
pub(crate) fn status_of(block: &[u8]) -> Option<u16> {
    const INDEXED: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    // Size updates of the dynamic table may precede it.
    let start = block.iter().position(|b| b & 0xe0 != 0x20)?;
    let block = &block[start..];
    match *block.first()? {
        indexed @ 0x88..=0x8e => Some(INDEXED[usize::from(indexed - 0x88)]),
        0x08 | 0x18 | 0x48 => {
            let length = *block.get(1)?;
            let text = block.get(2..2 + usize::from(length & 0x7f))?;
            if length & 0x80 == 0 {
                return std::str::from_utf8(text).ok()?.parse().ok();
            }
            digits(text)
        }
        _ => None,
    }
}

/// Three digits in HPACK's Huffman code: 0, 1 and 2 take five bits, the others six.
fn digits(text: &[u8]) -> Option<u16> {
    let bits: Vec<u16> =
        text.iter().flat_map(|b| (0..8).rev().map(move |n| u16::from(b >> n & 1))).collect();
    let take = |at: usize, n: usize| {
        bits.get(at..at + n).map(|bits| bits.iter().fold(0, |sum, bit| sum * 2 + bit))
    };
    let (mut at, mut number) = (0, 0);
    for _ in 0..3 {
        let short = take(at, 5)?;
        if short < 3 {
            number = number * 10 + short;
            at += 5;
        } else {
            number = number * 10 + (take(at, 6)?.checked_sub(0x19)? + 3);
            at += 6;
        }
    }
    Some(number)
}
