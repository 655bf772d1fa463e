//! Raw HTTP/1 bytes through the whole service. An odd first byte: the table has the key.

#![no_main]

mod service;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Some((first, input)) = data.split_first() {
        service::run(first & 1 == 1, input);
    }
});
