//! Whatever our reader of answers takes, hyper's client must read with the same status, fields,
//! body and trailers. The first byte: where the second read of the body begins.

#![cfg_attr(fuzzing, no_main)]

use std::sync::OnceLock;

use keygate::proxy::fuzz::readers::{hypers_answer, our_answer};
#[cfg(fuzzing)]
use libfuzzer_sys::fuzz_target;
use tokio::runtime::{Builder, Runtime};

fuzz_target!(|data: &[u8]| {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| Builder::new_current_thread().build().unwrap());
    if let Some((cut, bytes)) = data.split_first()
        && let Some(ours) = our_answer(bytes, usize::from(*cut))
    {
        assert_eq!(runtime.block_on(hypers_answer(bytes)), Some(ours));
    }
});
