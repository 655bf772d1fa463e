//! What may reach the upstream, and what a client may be answered; without the crate's parsers but the
//! path's.

use keygate::core::path;

/// A request as the upstream reads it.
pub struct Request<'r> {
    head: &'r [u8],
    pub method: &'r str,
    pub target: &'r str,
    /// What keygate calls it.
    pub id: &'r str,
    /// Its length, once all of it is there.
    pub end: Option<usize>,
}

impl<'r> Request<'r> {
    /// `None`: its head is not complete.
    pub fn read(bytes: &'r [u8]) -> Option<Self> {
        let length = find(bytes, b"\r\n\r\n")?;
        let (head, body) = (&bytes[..length], &bytes[length + 4..]);
        let shown = || head.escape_ascii().to_string();
        let line = std::str::from_utf8(lines(head)[0]).expect("a request line in ASCII");
        let words: Vec<&str> = line.split(' ').collect();
        assert!(words.len() == 3 && words[2] == "HTTP/1.1", "request line: {}", shown());
        let field = |name: &[u8]| lines(head).into_iter().find_map(|l| l.strip_prefix(name));
        let text = |value: &'r [u8]| std::str::from_utf8(value).expect("ASCII");
        let id = text(field(b"x-request-id: ").unwrap_or_else(|| panic!("no id: {}", shown())));
        let end = if let Some(digits) = field(b"content-length: ") {
            let length: usize = text(digits).parse().expect("a length");
            (body.len() >= length).then_some(length)
        } else if let Some(coding) = field(b"transfer-encoding: ") {
            assert_eq!(coding, b"chunked", "{}", shown());
            chunked(body)
        } else {
            Some(0)
        };
        let end = end.map(|end| length + 4 + end);
        Some(Self { head, method: words[0], target: words[1], id, end })
    }

    pub fn shown(&self) -> String {
        self.head.escape_ascii().to_string()
    }
}

/// The length of a chunked body, once all of it is there.
fn chunked(body: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let line = find(&body[at..], b"\r\n")?;
        let digits = std::str::from_utf8(&body[at..at + line]).expect("ASCII");
        let size = usize::from_str_radix(digits, 16).expect("a chunk's size");
        at += line + 2;
        if size == 0 {
            let end = body.get(at..at + 2)?;
            assert_eq!(end, b"\r\n", "no trailers: {}", body.escape_ascii());
            return Some(at + 2);
        }
        let end = body.get(at + size..at + size + 2)?;
        assert_eq!(end, b"\r\n", "a chunk's end: {}", body.escape_ascii());
        at += size + 2;
    }
}

/// Each request that one connection to the upstream was sent. Returns the names of those that may be
/// sent only once.
pub fn judge(mut bytes: &[u8], with_key: bool) -> Vec<&str> {
    let mut once = Vec::new();
    while !bytes.is_empty() {
        let shown = || bytes.escape_ascii().to_string();
        let Some(request) = Request::read(bytes) else { panic!("half a head: {}", shown()) };
        judge_one(&request, with_key);
        if !["GET", "HEAD", "PUT", "DELETE", "OPTIONS"].contains(&request.method) {
            once.push(request.id);
        }
        let Some(end) = request.end else { break };
        bytes = &bytes[end..];
    }
    once
}

/// Each answer over HTTP/1 is that to its request.
pub fn judge_answers(mut bytes: &[u8]) {
    while let Some(end) = find(bytes, b"\r\n\r\n") {
        let (head, behind) = (&bytes[..end], &bytes[end + 4..]);
        bytes = behind;
        let shown = || format!("{} | {}", head.escape_ascii(), behind.escape_ascii());
        let field = |name: &[u8]| lines(head).into_iter().find_map(|l| l.strip_prefix(name));
        let Some(echo) = field(b"x-echo: ") else { continue };
        assert_eq!(field(b"x-request-id: "), Some(echo), "another's answer: {}", shown());
        if field(b"content-length: ").is_some() && field(b"x-way: ") == Some(b"body") {
            let own = behind.starts_with(echo) || echo.starts_with(behind);
            assert!(own, "another's body: {}", shown());
        }
    }
}

pub fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|w| w == what)
}

fn lines(head: &[u8]) -> Vec<&[u8]> {
    let mut lines = Vec::new();
    let mut rest = head;
    while let Some(at) = find(rest, b"\r\n") {
        lines.push(&rest[..at]);
        rest = &rest[at + 2..];
    }
    lines.push(rest);
    lines
}

/// Decodes up to what is no letter of it.
fn base64(text: &str) -> Vec<u8> {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bits, mut have, mut out) = (0u32, 0, Vec::new());
    for byte in text.bytes() {
        let Some(value) = LETTERS.iter().position(|l| *l == byte) else { break };
        bits = bits << 6 | value as u32;
        have += 6;
        if have >= 8 {
            have -= 8;
            out.push((bits >> have) as u8);
        }
    }
    out
}

fn judge_one(request: &Request<'_>, with_key: bool) {
    let shown = request.shown();
    let head = request.head;
    assert!(head.iter().all(|b| !matches!(b, 0 | 0x7f)), "control byte: {shown}");
    let lines = lines(head);
    assert!(lines.iter().all(|l| !l.contains(&b'\r') && !l.contains(&b'\n')), "bare end: {shown}");
    let (path, query) = request.target.split_once('?').unwrap_or((request.target, ""));
    let below = |folder: &str| {
        path.strip_prefix(folder).is_some_and(|r| matches!(r.bytes().next(), None | Some(b'/')))
    };
    path::scan(path.as_bytes()).expect("the path that is sent is one that was judged");
    let mut identified = false;
    let mut anonymous = false;
    let mut framing = 0;
    let mut hosts = 0;
    for line in &lines[1..] {
        let colon = line.iter().position(|b| *b == b':').unwrap_or_else(|| panic!("{shown}"));
        let name = line[..colon].to_ascii_lowercase();
        let value = line[colon + 1..].trim_ascii();
        assert!(!name.is_empty() && !name.contains(&b'_') && !name.contains(&b' '), "{shown}");
        // As a lenient server reads it.
        let folded: String = name
            .iter()
            .map(|b| if b.is_ascii_alphanumeric() { char::from(*b) } else { '-' })
            .collect();
        match folded.as_str() {
            "x-org-id" => assert_eq!(value, b"acme", "{shown}"),
            "x-key-id" => assert!([&b"key_fuzz"[..], b"key_pair"].contains(&value), "{shown}"),
            "x-key-name" => assert_eq!(value, b"Fuzz", "{shown}"),
            "x-permissions" => assert_eq!(value, b"read", "{shown}"),
            "x-forwarded-for" | "x-real-ip" => assert_eq!(value, b"192.0.2.7", "{shown}"),
            "x-anonymous" => {
                assert_eq!(value, b"true", "{shown}");
                anonymous = true;
            }
            "x-api-key"
            | "x-pair-id"
            | "x-pair-secret"
            | "proxy-authorization"
            | "te"
            | "trailer" => {
                panic!("{folded}: {shown}")
            }
            "upgrade" => assert!(below("/ws"), "{shown}"),
            "sec-websocket-protocol" => {
                let ours = |entry: &[u8]| entry.trim_ascii().starts_with(b"keygate.key.");
                assert!(!value.split(|b| *b == b',').any(ours), "{shown}");
            }
            "authorization" => {
                let text = String::from_utf8_lossy(value);
                let (scheme, token) = text.split_once(' ').unwrap_or((&text, ""));
                let token = token.trim();
                match scheme.to_ascii_lowercase().as_str() {
                    "bearer" => assert!(!token.starts_with("wa_"), "{shown}"),
                    "basic" => assert!(!base64(token).starts_with(b"wa_"), "{shown}"),
                    _ => {}
                }
            }
            "cookie" => {
                for cookie in value.split(|b| *b == b';') {
                    // Whitespace around a name is no part of it; inside, it makes another name.
                    let name = cookie.split(|b| *b == b'=').next().unwrap_or_default();
                    assert!(name.trim_ascii() != b"key" || !cookie.contains(&b'='), "{shown}");
                }
            }
            "content-length" | "transfer-encoding" => framing += 1,
            "host" => hosts += 1,
            _ => {}
        }
        identified |= matches!(folded.as_str(), "x-org-id" | "x-key-id");
    }
    assert!(framing <= 1 && hosts == 1, "framing or Host: {shown}");
    let ours = |pair: &str| {
        let decoded = percent_encoding::percent_decode_str(pair).collect::<Vec<_>>();
        decoded.starts_with(b"api_key=")
    };
    assert!(!query.split('&').any(ours), "{shown}");
    assert!(!identified || with_key, "identity without a key: {shown}");
    assert!(identified != anonymous, "somebody or nobody: {shown}");
    assert!(
        identified || ["/open", "/either", "/watched"].into_iter().any(below),
        "nobody was admitted: {shown}"
    );
}
