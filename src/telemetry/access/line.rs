//! How a line of the access log is written. Imports `wording` and
//! `telemetry::access`.

use std::time::Duration;

use super::AccessLine;
use crate::core::address::AddressText;
use crate::wording::visible;

/// Lines of one worker that were not handed over yet.
#[derive(Debug, Default)]
pub(super) struct LineBuffer {
    pub(super) bytes: Vec<u8>,
    pub(super) lines: u64,
    /// The second that `date` shows.
    second: u64,
    date: [u8; 19],
}

// === impl LineBuffer ===

impl LineBuffer {
    pub(super) fn json(&mut self, line: &AccessLine<'_>) {
        self.put("{\"time\":\"");
        self.time(line.unix_ms);
        self.put("\",\"request_id\":\"");
        self.escaped_ascii(line.request_id);
        self.put("\",\"client\":\"");
        self.bytes(AddressText::of(line.client).as_bytes());
        self.put("\",\"protocol\":\"");
        self.bytes(line.protocol.as_bytes());
        self.put("\",\"method\":\"");
        self.escaped(line.method);
        self.put("\",\"path\":\"");
        self.escaped(line.path);
        self.put("\",\"status\":");
        self.number(line.status);
        self.put(",\"verdict\":\"");
        self.bytes(line.decided.as_str().as_bytes());
        self.put("\"");
        if let Some(reason) = line.reason {
            self.put(",\"reason\":\"");
            self.bytes(reason.as_str().as_bytes());
            self.put("\"");
        }
        if let Some(failure) = line.failure {
            self.put(",\"failure\":\"");
            self.bytes(failure.as_str().as_bytes());
            self.put("\"");
        }
        if let Some(id) = line.key_id {
            self.put(",\"key_id\":\"key_");
            self.bytes(id.suffix_bytes());
            self.put("\"");
        }
        self.word(",\"org\":\"", line.org);
        self.word(",\"issuer\":\"", line.issuer);
        self.word(",\"subject\":\"", line.subject);
        self.word(",\"route\":\"", line.route);
        self.word(",\"upstream\":\"", line.upstream);
        self.word(",\"trace_id\":\"", line.trace_id);
        self.word(",\"host\":\"", line.host);
        self.word(",\"user_agent\":\"", line.user_agent);
        self.amount(",\"table_serial\":", line.table_serial);
        self.amount(",\"patch_serial\":", line.patch_serial);
        self.amount(",\"duration_us\":", Some(line.duration_ns / 1000));
        self.amount(",\"connect_us\":", line.connect_ns.map(|ns| ns / 1000));
        self.amount(",\"upstream_us\":", line.upstream_ns.map(|ns| ns / 1000));
        self.amount(",\"bytes_in\":", Some(line.bytes_in));
        self.amount(",\"bytes_out\":", Some(line.bytes_out));
        self.put("}\n");
    }

    pub(super) fn text(&mut self, line: &AccessLine<'_>) {
        self.time(line.unix_ms);
        self.put(" ");
        self.bytes(AddressText::of(line.client).as_bytes());
        self.put(" \"");
        self.escaped(line.method);
        self.put(" ");
        self.escaped(line.path);
        self.put(" ");
        self.bytes(line.protocol.as_bytes());
        self.put("\" ");
        self.number(line.status);
        self.put(" ");
        self.bytes(line.decided.as_str().as_bytes());
        if let Some(reason) = line.reason {
            self.put(" reason=");
            self.bytes(reason.as_str().as_bytes());
        }
        if let Some(failure) = line.failure {
            self.put(" failure=");
            self.bytes(failure.as_str().as_bytes());
        }
        if let Some(id) = line.key_id {
            self.put(" key_id=key_");
            self.bytes(id.suffix_bytes());
        }
        self.word(" org=\"", line.org);
        self.word(" issuer=\"", line.issuer);
        self.word(" subject=\"", line.subject);
        self.word(" route=\"", line.route);
        self.word(" upstream=\"", line.upstream);
        self.put(" request_id=\"");
        self.escaped_ascii(line.request_id);
        self.put("\"");
        self.word(" trace_id=\"", line.trace_id);
        self.word(" host=\"", line.host);
        self.word(" user_agent=\"", line.user_agent);
        self.amount(" table_serial=", line.table_serial);
        self.amount(" patch_serial=", line.patch_serial);
        self.amount(" duration_us=", Some(line.duration_ns / 1000));
        self.amount(" connect_us=", line.connect_ns.map(|ns| ns / 1000));
        self.amount(" upstream_us=", line.upstream_ns.map(|ns| ns / 1000));
        self.amount(" bytes_in=", Some(line.bytes_in));
        self.amount(" bytes_out=", Some(line.bytes_out));
        self.put("\n");
    }

    /// Adds our own text. Inlined, so that the compiler knows its length and stores it with a move
    /// or two instead of a call: a line has forty of them, which were most of its cost.
    #[inline(always)]
    fn put(&mut self, text: &'static str) {
        self.bytes.extend_from_slice(text.as_bytes());
    }

    /// Adds bytes that need no escape.
    fn bytes(&mut self, text: &[u8]) {
        self.bytes.extend_from_slice(text);
    }

    #[inline(always)]
    fn word(&mut self, name: &'static str, value: Option<&str>) {
        if let Some(value) = value {
            self.put(name);
            self.escaped(value);
            self.put("\"");
        }
    }

    #[inline(always)]
    fn amount(&mut self, name: &'static str, value: Option<u64>) {
        if let Some(value) = value {
            self.put(name);
            self.number(value);
        }
    }

    fn number(&mut self, n: impl itoa::Integer) {
        self.bytes(itoa::Buffer::new().format(n).as_bytes());
    }

    /// Escapes what JSON requires, and what would look different to a reader from what it is.
    fn escaped(&mut self, text: &str) {
        match needs_escape(text.as_bytes()) {
            true => self.escape_chars(text),
            false => self.bytes(text.as_bytes()),
        }
    }

    /// The same for visible ASCII. Not a `str`, because making one costs as much as everything else
    /// about an id.
    fn escaped_ascii(&mut self, text: &[u8]) {
        match needs_escape(text) {
            true => self.escape_chars(&String::from_utf8_lossy(text)),
            false => self.bytes(text),
        }
    }

    fn escape_chars(&mut self, text: &str) {
        for c in text.chars() {
            match c {
                '"' => self.put("\\\""),
                '\\' => self.put("\\\\"),
                c if visible::is_deceptive(c) => {
                    let mut text = String::new();
                    visible::escape(c, &mut text);
                    self.bytes(text.as_bytes());
                }
                c => self.bytes(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
    }

    /// RFC 3339 with milliseconds, UTC. The date is computed once a second.
    fn time(&mut self, unix_ms: u64) {
        let second = unix_ms / 1000;
        if self.second != second || self.date[0] == 0 {
            let at = std::time::UNIX_EPOCH + Duration::from_secs(second);
            let text = humantime::format_rfc3339_seconds(at).to_string();
            if let Some(date) = text.as_bytes().first_chunk() {
                self.date = *date;
                self.second = second;
            }
        }
        let date = self.date;
        self.bytes.extend_from_slice(&date);
        let ms = (unix_ms % 1000) as u16;
        let digit = |n: u16| b'0' + (n % 10) as u8;
        self.bytes.extend_from_slice(&[b'.', digit(ms / 100), digit(ms / 10), digit(ms), b'Z']);
    }
}

/// Whether any byte is outside visible ASCII, or needs an escape in JSON.
fn needs_escape(text: &[u8]) -> bool {
    let special = |b: &u8| !(b' '..=b'~').contains(b) | (*b == b'"') | (*b == b'\\');
    // Not `any`: without an early exit, many bytes can be checked at the same time.
    text.iter().fold(false, |any, b| any | special(b))
}
