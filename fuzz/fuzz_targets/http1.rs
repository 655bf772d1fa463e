//! Raw HTTP/1 bytes through the whole service. The first byte: whether there are keys, and what the
//! upstream does ([`service::run`]).

#![cfg_attr(fuzzing, no_main)]

mod service;

#[cfg(fuzzing)]
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Some((first, input)) = data.split_first() {
        service::run(*first, input);
    }
});
