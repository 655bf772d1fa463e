//! Writes the head of a request that goes to an HTTP/1.1 service.

use super::head::RequestHead;

/// The client's part of a head as it goes over an HTTP/1.1 connection, with room for what comes behind
/// it. Every part was checked when its type was made, so none can end a line.
pub(crate) fn write_head(head: &RequestHead, body_length: usize) -> Vec<u8> {
    let (method, target) = (head.method.as_str(), head.target.as_str());
    let room =
        method.len() + target.len() + head.fields.wire_length() + 16 + ADDED_BYTES + body_length;
    let mut out = Vec::with_capacity(room);
    for part in [method, " ", target, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    for (name, value) in head.fields.iter() {
        put_line(&mut out, name, value);
    }
    out
}

pub(crate) fn put_line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Room for the lines that are added.
const ADDED_BYTES: usize = 512;
