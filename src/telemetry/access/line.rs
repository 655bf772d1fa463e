//! How a line of the access log is written. Imports `telemetry::access`.

use std::io::Write as _;
use std::time::Duration;

use super::AccessLine;
use crate::core::visible;

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
        self.escaped(line.request_id);
        self.put("\",\"client\":\"");
        self.address(line.client);
        self.put("\",\"protocol\":\"");
        self.put(line.protocol);
        self.put("\",\"method\":\"");
        self.escaped(line.method);
        self.put("\",\"path\":\"");
        self.escaped(line.path);
        self.put("\",\"status\":");
        self.number(u64::from(line.status));
        self.put(",\"verdict\":\"");
        self.put(line.decided.as_str());
        self.put("\"");
        if let Some(reason) = line.reason {
            self.put(",\"reason\":\"");
            self.put(reason.as_str());
            self.put("\"");
        }
        if let Some(id) = line.key_id {
            self.put(",\"key_id\":\"key_");
            self.put(id.suffix());
            self.put("\"");
        }
        let words = [
            (",\"org\":\"", line.org),
            (",\"route\":\"", line.route),
            (",\"trace_id\":\"", line.trace_id),
            (",\"host\":\"", line.host),
            (",\"user_agent\":\"", line.user_agent),
        ];
        for (name, value) in words {
            if let Some(value) = value {
                self.put(name);
                self.escaped(value);
                self.put("\"");
            }
        }
        let numbers = [
            (",\"table_serial\":", line.table_serial),
            (",\"patch_serial\":", line.patch_serial),
            (",\"duration_us\":", Some(line.duration_ns / 1000)),
            (",\"connect_us\":", line.connect_ns.map(|ns| ns / 1000)),
            (",\"upstream_us\":", line.upstream_ns.map(|ns| ns / 1000)),
            (",\"bytes_in\":", Some(line.bytes_in)),
            (",\"bytes_out\":", Some(line.bytes_out)),
        ];
        for (name, value) in numbers {
            if let Some(value) = value {
                self.put(name);
                self.number(value);
            }
        }
        self.put("}\n");
    }

    pub(super) fn text(&mut self, line: &AccessLine<'_>) {
        self.time(line.unix_ms);
        self.put(" ");
        self.address(line.client);
        self.put(" \"");
        self.escaped(line.method);
        self.put(" ");
        self.escaped(line.path);
        self.put(" ");
        self.put(line.protocol);
        self.put("\" ");
        self.number(u64::from(line.status));
        self.put(" ");
        self.put(line.decided.as_str());
        if let Some(reason) = line.reason {
            self.put(" reason=");
            self.put(reason.as_str());
        }
        if let Some(id) = line.key_id {
            self.put(" key_id=key_");
            self.put(id.suffix());
        }
        let words = [
            (" org=\"", line.org),
            (" route=\"", line.route),
            (" request_id=\"", Some(line.request_id)),
            (" trace_id=\"", line.trace_id),
            (" host=\"", line.host),
            (" user_agent=\"", line.user_agent),
        ];
        for (name, value) in words {
            if let Some(value) = value {
                self.put(name);
                self.escaped(value);
                self.put("\"");
            }
        }
        let numbers = [
            (" table_serial=", line.table_serial),
            (" patch_serial=", line.patch_serial),
            (" duration_us=", Some(line.duration_ns / 1000)),
            (" connect_us=", line.connect_ns.map(|ns| ns / 1000)),
            (" upstream_us=", line.upstream_ns.map(|ns| ns / 1000)),
            (" bytes_in=", Some(line.bytes_in)),
            (" bytes_out=", Some(line.bytes_out)),
        ];
        for (name, value) in numbers {
            if let Some(value) = value {
                self.put(name);
                self.number(value);
            }
        }
        self.put("\n");
    }

    fn put(&mut self, text: &str) {
        self.bytes.extend_from_slice(text.as_bytes());
    }

    fn number(&mut self, n: u64) {
        self.put(itoa::Buffer::new().format(n));
    }

    /// `Display` of an address costs a third of the whole line.
    fn address(&mut self, address: std::net::IpAddr) {
        match address {
            std::net::IpAddr::V4(v4) => {
                for (at, octet) in v4.octets().into_iter().enumerate() {
                    if at > 0 {
                        self.put(".");
                    }
                    self.number(u64::from(octet));
                }
            }
            std::net::IpAddr::V6(v6) => self.display(v6),
        }
    }

    fn display(&mut self, value: impl std::fmt::Display) {
        // Writing to a `Vec` cannot fail.
        let _ = write!(self.bytes, "{value}");
    }

    /// What JSON wants escaped, and what would show a reader something else than is there.
    fn escaped(&mut self, text: &str) {
        let special = |b: u8| !(b' '..=b'~').contains(&b) | (b == b'"') | (b == b'\\');
        // Not `any`: without an early end it is done on many bytes at once.
        if !text.bytes().fold(false, |any, b| any | special(b)) {
            return self.put(text);
        }
        for c in text.chars() {
            match c {
                '"' => self.put("\\\""),
                '\\' => self.put("\\\\"),
                c if visible::is_deceptive(c) => {
                    let mut text = String::new();
                    visible::escape(c, &mut text);
                    self.put(&text);
                }
                c => self.put(c.encode_utf8(&mut [0; 4])),
            }
        }
    }

    /// RFC 3339 with milliseconds, UTC. The date is worked out once a second.
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
