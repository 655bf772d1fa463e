//! Whatever our reader of requests takes, hyper's server must read with the same method, target,
//! fields and body. Whatever is left to hyper it must take, and end where we found the end.

#![cfg_attr(fuzzing, no_main)]

use std::sync::OnceLock;

use keygate::proxy::fuzz::readers::{
    HypersSpan, hypers_request, hypers_span, our_request, our_span,
};
#[cfg(fuzzing)]
use libfuzzer_sys::fuzz_target;
use tokio::runtime::{Builder, Runtime};

fuzz_target!(|data: &[u8]| {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| Builder::new_current_thread().build().unwrap());
    if let Some(ours) = our_request(data) {
        assert_eq!(runtime.block_on(hypers_request(data)), Some(ours));
    }
    if let Some((ours, bytes)) = our_span(data) {
        let hypers = runtime.block_on(hypers_span(&bytes));
        assert!(
            [HypersSpan::Whole(ours.clone()), HypersSpan::BadBody].contains(&hypers),
            "{ours:?}, but hyper {hypers:?}"
        );
    }
});
