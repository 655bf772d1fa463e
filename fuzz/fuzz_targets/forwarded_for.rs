//! X-Forwarded-For: nothing to the left of the first stranger matters.

#![cfg_attr(fuzzing, no_main)]

use std::net::IpAddr;
use std::sync::LazyLock;

use keygate::core::{NetworkSet, address};
#[cfg(fuzzing)]
use libfuzzer_sys::fuzz_target;

static TRUSTED: LazyLock<NetworkSet> =
    LazyLock::new(|| NetworkSet::new([address::parse_network("10.0.0.0/8").expect("a network")]));

fuzz_target!(|text: &str| {
    let near: IpAddr = [10, 0, 0, 1].into();
    let stranger: IpAddr = [192, 0, 2, 7].into();
    let walk = |peer, text: &str| address::client_address(peer, text.split(','), &TRUSTED);
    assert_eq!(walk(stranger, text), stranger, "a stranger's word counts");
    let client = walk(near, text);
    assert_eq!(client, address::canonical(client));
    if !TRUSTED.allows(client) {
        // Whatever a client writes before what our proxy wrote changes nothing.
        assert_eq!(walk(near, &format!("10.0.0.2,6.6.6.6,{text}")), client);
    }
    assert_eq!(walk(near, &format!("{text},192.0.2.7")), stranger, "the rightmost hop was passed");
});
