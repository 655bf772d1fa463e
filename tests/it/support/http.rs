//! Just enough of HTTP/1.1 to read what a peer sent, without repairing any of it.

use std::io::{self, Read};

/// One message as it arrived: the head's exact bytes, the body decoded, and whether it ended as its
/// framing says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Message {
    /// First line to the empty line, inclusive.
    pub(crate) head: Vec<u8>,
    pub(crate) body: Vec<u8>,
    /// Lines of the trailer section of a chunked body.
    pub(crate) trailers: Vec<String>,
    /// False when the peer closed before the framing was fulfilled.
    pub(crate) complete: bool,
}

// === impl Message ===

impl Message {
    /// The request line or status line.
    pub(crate) fn first_line(&self) -> String {
        self.lines().next().unwrap_or_default()
    }

    /// The lines of the head, without the empty one.
    pub(crate) fn lines(&self) -> impl Iterator<Item = String> + '_ {
        let text = String::from_utf8_lossy(&self.head).into_owned();
        let lines: Vec<_> = text.split("\r\n").map(String::from).collect();
        lines.into_iter().filter(|l| !l.is_empty())
    }

    /// All values of a field, by name as spelt on the wire, letters of any case.
    pub(crate) fn all(&self, name: &str) -> Vec<String> {
        self.lines()
            .skip(1)
            .filter_map(|l| l.split_once(':').map(|(n, v)| (n.to_owned(), v.trim().to_owned())))
            .filter(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| v)
            .collect()
    }

    /// The one value of a field. `None` if it is missing. More than one is a fault of the test's
    /// peer.
    pub(crate) fn one(&self, name: &str) -> Option<String> {
        let mut all = self.all(name);
        assert!(all.len() < 2, "several `{name}` in\n{}", String::from_utf8_lossy(&self.head));
        all.pop()
    }

    /// Names of all fields as spelt on the wire, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self
            .lines()
            .skip(1)
            .filter_map(|l| l.split_once(':').map(|(n, _)| n.to_owned()))
            .collect();
        names.sort();
        names
    }

    pub(crate) fn status(&self) -> u16 {
        let line = self.first_line();
        line.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or_else(|| {
            panic!("not a status line: {line:?}");
        })
    }

    pub(crate) fn body_text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("{e} in {:?}", self.body_text()))
    }

    /// `code` (or, in profiles without one, nothing) of a refusal body.
    pub(crate) fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// Reads messages from one direction of a connection, keeping every byte that arrived.
#[derive(Debug)]
pub(crate) struct Reader<R> {
    from: R,
    /// Everything that was ever received.
    pub(crate) seen: Vec<u8>,
    at: usize,
}

impl<R: Read> Reader<R> {
    pub(crate) fn new(from: R) -> Self {
        Self { from, seen: Vec::new(), at: 0 }
    }

    /// Reads more bytes. False at the end of the stream (an abortive close counts as the end).
    pub(crate) fn fill(&mut self) -> io::Result<bool> {
        let mut buffer = [0u8; 16 * 1024];
        match self.from.read(&mut buffer) {
            Ok(0) => Ok(false),
            Ok(n) => {
                self.seen.extend_from_slice(&buffer[..n]);
                Ok(true)
            }
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// What arrived and was not yet taken.
    pub(crate) fn pending(&self) -> &[u8] {
        &self.seen[self.at..]
    }

    pub(crate) fn take(&mut self, n: usize) -> Vec<u8> {
        let bytes = self.seen[self.at..self.at + n].to_vec();
        self.at += n;
        bytes
    }

    /// The next head. `None` if the stream ended cleanly before it. Bytes of an unfinished head are
    /// returned as an incomplete message.
    pub(crate) fn head(&mut self) -> io::Result<Option<Message>> {
        loop {
            if let Some(end) = find(self.pending(), b"\r\n\r\n") {
                let head = self.take(end + 4);
                return Ok(Some(Message { head, ..Message::default() }));
            }
            if !self.fill()? {
                let rest = self.take(self.pending().len());
                return Ok(
                    (!rest.is_empty()).then_some(Message { head: rest, ..Default::default() })
                );
            }
        }
    }

    /// Reads the body that the head announces into `message`.
    pub(crate) fn body(&mut self, message: &mut Message, framing: Framing) -> io::Result<()> {
        match framing {
            Framing::None => message.complete = true,
            Framing::Length(n) => {
                while self.pending().len() < n && self.fill()? {}
                let have = n.min(self.pending().len());
                message.body = self.take(have);
                message.complete = have == n;
            }
            Framing::Chunked => message.complete = self.chunks(message)?,
            Framing::UntilClose => {
                while self.fill()? {}
                message.body = self.take(self.pending().len());
                message.complete = true;
            }
        }
        Ok(())
    }

    fn chunks(&mut self, message: &mut Message) -> io::Result<bool> {
        loop {
            let Some(line) = self.line()? else { return Ok(false) };
            let size = line.split(';').next().unwrap_or_default().trim();
            let Ok(size) = usize::from_str_radix(size, 16) else {
                panic!("bad chunk size {line:?}");
            };
            if size == 0 {
                loop {
                    match self.line()? {
                        None => return Ok(false),
                        Some(line) if line.is_empty() => return Ok(true),
                        Some(line) => message.trailers.push(line),
                    }
                }
            }
            while self.pending().len() < size + 2 && self.fill()? {}
            if self.pending().len() < size + 2 {
                let rest = self.take(self.pending().len());
                message.body.extend(rest);
                return Ok(false);
            }
            let chunk = self.take(size + 2);
            assert!(chunk.ends_with(b"\r\n"), "chunk data does not end with CRLF");
            message.body.extend_from_slice(&chunk[..size]);
        }
    }

    fn line(&mut self) -> io::Result<Option<String>> {
        loop {
            if let Some(end) = find(self.pending(), b"\r\n") {
                let line = self.take(end + 2);
                return Ok(Some(String::from_utf8_lossy(&line[..end]).into_owned()));
            }
            if !self.fill()? {
                return Ok(None);
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    Chunked,
    Length(usize),
    None,
    UntilClose,
}

impl Framing {
    /// The framing of a request (RFC 9112 §6.3). A head that can be read in two ways fails the
    /// test: nothing like that may reach an upstream.
    pub(crate) fn of_request(head: &Message) -> Self {
        let (te, cl) = (head.all("transfer-encoding"), head.all("content-length"));
        match (te.as_slice(), cl.as_slice()) {
            ([], []) => Self::None,
            ([te], []) if te == "chunked" => Self::Chunked,
            ([], [n]) => Self::Length(n.parse().expect("a length")),
            other => panic!("framing with more than one reading: {other:?}"),
        }
    }

    pub(crate) fn of_response(head: &Message, to_head: bool) -> Self {
        let status = head.status();
        if to_head || matches!(status, 100..200 | 204 | 304) {
            return Self::None;
        }
        match (head.one("transfer-encoding"), head.one("content-length")) {
            (Some(te), None) if te.eq_ignore_ascii_case("chunked") => Self::Chunked,
            (None, Some(n)) => Self::Length(n.parse().expect("a length")),
            (None, None) => Self::UntilClose,
            other => panic!("framing with more than one reading: {other:?}"),
        }
    }
}

pub(crate) fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w == needle)
}
