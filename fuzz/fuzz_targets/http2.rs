//! HTTP/2 frames through the whole service. The first byte: whether there are keys, and what the
//! upstream does ([`service::run`]).

#![cfg_attr(fuzzing, no_main)]

mod service;

#[cfg(fuzzing)]
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((first, frames)) = data.split_first() else { return };
    let mut input = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    // A client's empty SETTINGS.
    input.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
    input.extend(frames);
    service::run(*first, &input);
});
