//! `timeouts.header` for a head whose first bytes arrive with the request before it, and
//! connections to the service that are used once.

use std::time::Duration;

use crate::support::client::{Client, exchange};
use crate::support::gate::{Gate, READER};
use crate::support::upstream::Upstream;

const TIMES: &str = "[timeouts]\nheader = \"500ms\"\nidle = \"5m\"\n";

/// Each way to read a request: without hyper, or by hyper because of its body, its method or its
/// names.
#[test]
fn the_time_of_a_head_begins_with_its_first_byte() {
    let upstream = Upstream::start();
    let key = format!("host: a\r\nx-api-key: {READER}\r\n");
    let chunked = "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    for (option, first) in [
        ("", format!("GET /v1/a HTTP/1.1\r\n{key}\r\n")),
        ("", format!("POST /v1/a HTTP/1.1\r\n{key}content-length: 3\r\n\r\nabc")),
        ("", format!("POST /v1/a HTTP/1.1\r\n{key}{chunked}")),
        ("preserve_header_case = true", format!("GET /v1/a HTTP/1.1\r\n{key}\r\n")),
        ("preserve_header_case = true", format!("POST /v1/a HTTP/1.1\r\n{key}{chunked}")),
    ] {
        let gate = Gate::before(&upstream).also(TIMES).upstream_option(option).start();
        for before in 1..3 {
            let mut client = Client::connect(gate.address);
            let requests = first.repeat(before);
            client.send(format!("{requests}GET /v1/b HTTP/1.1\r\nhost"));
            for _ in 0..before {
                assert_eq!(client.response().status(), 200, "{option} {first}");
            }
            let answer = client.try_response(false).expect("an end in time");
            assert_eq!(answer.map(|a| a.status()), Some(408), "{option} {before}: {first}");
        }
        // A connection that is merely idle stays.
        let mut client = Client::connect(gate.address);
        client.send(&first);
        assert_eq!(client.response().status(), 200);
        std::thread::sleep(Duration::from_millis(1500));
        client.send(&first);
        assert_eq!(client.response().status(), 200, "{option} {first}");
    }
}

#[test]
fn a_service_that_is_not_trusted_gets_each_request_on_its_own_connection() {
    for (option, connections) in [("", 1), ("reuse = \"never\"", 3)] {
        let upstream = Upstream::start();
        let one = "[workers]\ncount = 1\n";
        let gate = Gate::before(&upstream).also(one).upstream_option(option).start();
        for _ in 0..3 {
            let request = format!("GET /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n\r\n");
            assert_eq!(exchange(gate.address, request).status(), 200);
        }
        assert_eq!(upstream.connections(), connections, "{option}");
    }
}
