//! Credentials in every carrier of a whole head: four parts of the input, cut at 0xff, are the query
//! and the values of `X-Api-Key`, `Authorization` and `Cookie`; an empty one is left out.

#![cfg_attr(fuzzing, no_main)]

mod service;

#[cfg(fuzzing)]
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((first, rest)) = data.split_first() else { return };
    let mut parts = rest.split(|b| *b == 0xff);
    let query = parts.next().unwrap_or_default();
    let path: &[u8] = if first & 2 == 0 { b"/a?" } else { b"/open/a?" };
    let mut head =
        [b"GET ", path, query, b" HTTP/1.1\r\nhost: a\r\nconnection: close\r\n"].concat();
    for (name, value) in [&b"x-api-key: "[..], b"authorization: ", b"cookie: "].iter().zip(parts) {
        if !value.is_empty() {
            head.extend([name, value, b"\r\n"].concat());
        }
    }
    head.extend(b"\r\n");
    service::run(*first, &head);
});
