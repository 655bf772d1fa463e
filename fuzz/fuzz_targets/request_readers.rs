//! Whatever our reader of requests takes, hyper's server must read with the same method, target,
//! fields and body.

#![no_main]

use std::sync::OnceLock;

use keygate::proxy::fuzz::readers::{hypers_request, our_request};
use libfuzzer_sys::fuzz_target;
use tokio::runtime::{Builder, Runtime};

fuzz_target!(|data: &[u8]| {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| Builder::new_current_thread().build().unwrap());
    if let Some(ours) = our_request(data) {
        assert_eq!(runtime.block_on(hypers_request(data)), Some(ours));
    }
});
