//! Writes the head of a request that goes to an HTTP/1.1 service.

use super::head::RequestHead;
use super::text_span::LineRun;

/// The client's part of a head as sent over an HTTP/1.1 connection, with space for what follows.
/// Every part was checked when its type was made, so none can end a line.
pub(crate) fn write_head(head: &RequestHead, body_length: usize) -> Vec<u8> {
    let (method, target) = (head.method.as_str(), head.target.as_str());
    let room =
        method.len() + target.len() + head.fields.wire_length() + 16 + ADDED_BYTES + body_length;
    let mut out = Vec::with_capacity(room);
    for part in [method, " ", target, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    // Unchanged lines that follow one another are copied as one piece.
    let mut run = LineRun::default();
    for (name, value, line) in head.fields.lines() {
        match line {
            Some(line) if run.goes_on(line) => {}
            Some(line) => {
                out.extend_from_slice(head.fields.text(std::mem::replace(&mut run, line)));
            }
            None => {
                out.extend_from_slice(head.fields.text(std::mem::take(&mut run)));
                put_line(&mut out, name, value);
            }
        }
    }
    out.extend_from_slice(head.fields.text(run));
    out
}

pub(crate) fn put_line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Space for the lines that are added.
const ADDED_BYTES: usize = 512;

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;
    use crate::proxy::http1::request_read::{Parsed, parse};

    /// Whichever lines are copied unchanged, the head is the same as one that is written line by
    /// line.
    #[test]
    fn lines_that_are_copied_are_those_that_would_be_written() {
        let head = "GET /a HTTP/1.1\r\nHost: a\r\nX-One: 1\r\nX-Two:2\r\nX-Three:  3 \r\n\
                    X-Four: 4\r\nx-five: 5: 5\r\nX-Six:\t6\r\nX-Seven: 7\r\n\r\n";
        let names = ["host", "x-one", "x-two", "x-three", "x-four", "x-five", "x-six", "x-seven"];
        let values = ["a", "1", "2", "3", "4", "5: 5", "6", "7"];
        for without in 0..1 << names.len() {
            let Parsed::Asked(asked, _) = parse(head.as_bytes(), 1 << 16) else {
                panic!("not plain")
            };
            let mut head = asked.head;
            let mut want = "GET /a HTTP/1.1\r\n".to_owned();
            for (at, (name, value)) in names.iter().zip(values).enumerate() {
                match without & 1 << at {
                    0 => want.push_str(&format!("{name}: {value}\r\n")),
                    _ => head.fields.remove(HeaderName::from_static(name)),
                }
            }
            head.fields.push(b"x-added", b"8");
            want.push_str("x-added: 8\r\n");
            assert_eq!(String::from_utf8(write_head(&head, 0)).unwrap(), want);
        }
    }
}
