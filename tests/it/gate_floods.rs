//! HTTP/2 frames without end: floods cost their sender, and nobody else.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::support::gate::{Gate, READER};
use crate::support::h2raw::*;
use crate::support::upstream::Upstream;

const SOON: Duration = Duration::from_secs(5);

/// CVE-2023-44487 and its kin: the flood ends with GOAWAY, the service sees little of it, and
/// others are served meanwhile.
#[test]
fn floods_end_their_connection() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).also("[workers]\ncount = 1\n").start();
    let floods: [(&str, Flood, u32); 4] = [
        (
            "rapid reset",
            |h2, n| {
                let stream = n * 2 + 1;
                h2.headers(stream, END_STREAM, &get("/v1/a", READER))
                    && h2.send(&frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()))
            },
            CALM,
        ),
        (
            "made you reset",
            |h2, n| {
                // A window update of zero makes the server reset at least the stream.
                let stream = n * 2 + 1;
                h2.headers(stream, 0, &request("POST", "/v1/a", READER))
                    && h2.send(&frame(WINDOW_UPDATE, 0, stream, &0u32.to_be_bytes()))
            },
            PROTOCOL_ERROR,
        ),
        (
            "continuation",
            |h2, n| match n {
                0 => h2.send(&frame(HEADERS, END_STREAM, 1, &block(&get("/v1/a", READER)))),
                _ => h2.send(&frame(CONTINUATION, 0, 1, &block(&[("x-a", "b")]))),
            },
            CALM,
        ),
        (
            "empty data",
            |h2, n| match n {
                0 => h2.headers(1, 0, &request("POST", "/v1/a", READER)),
                _ => h2.data(1, 0, b""),
            },
            CALM,
        ),
    ];
    for (name, flood, code) in floods {
        let before = memory(&gate);
        let others = Others::ask(gate.address);
        let mut h2 = H2::connect(gate.address);
        // Nothing is read: answers to the flood would accumulate.
        h2.polite = false;
        let sent = (0..50_000).take_while(|n| flood(&mut h2, *n)).count();
        let (closed, goaway) = h2.end(SOON);
        others.were_served();
        assert!(closed, "{name}: {sent} and still welcome");
        // A reset that follows may take the GOAWAY with it.
        assert!(goaway.is_none_or(|c| c == code), "{name}: {goaway:?}");
        let after = memory(&gate);
        assert!(after < before + 32 * 1024, "{name}: {before} KiB became {after} KiB");
        let reached = upstream.take().len();
        assert!(reached < 20_000, "{name}: {reached} requests reached the service");
    }
    assert!(gate.metrics().contains("keygate_panics_total 0"));
}

/// Frames that each require an answer: a client that reads the answers costs no memory. One that
/// does not is reset after the write time-out.
#[test]
fn floods_of_ping_and_settings_are_answered_or_reset() {
    let upstream = Upstream::start();
    let setup = "[workers]\ncount = 1\n[timeouts]\nwrite = \"500ms\"\n";
    let gate = Gate::before(&upstream).also(setup).start();
    for (name, one) in [
        ("settings", frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0])),
        ("ping", frame(PING, 0, 0, b"12345678")),
    ] {
        let before = memory(&gate);
        let others = Others::ask(gate.address);
        let mut reads = H2::connect(gate.address);
        for _ in 0..20 {
            assert!(reads.send(&one.repeat(500)), "{name}: ended");
            let mut acks = 0;
            while acks < 500 {
                let got = reads.next(SOON).expect("an answer to each");
                acks += u32::from(got.kind == one[3] && got.flags & ACK != 0);
            }
        }
        let mut deaf = H2::connect(gate.address);
        // More than any two sockets can hold.
        let many = one.repeat(5_000);
        let sent = (0..400).take_while(|_| deaf.send(&many)).count();
        assert!(sent < 400 || deaf.end(SOON).0, "{name}: never read, and still welcome");
        others.were_served();
        let after = memory(&gate);
        assert!(after < before + 32 * 1024, "{name}: {before} KiB became {after} KiB");
    }
    assert!(upstream.take().iter().all(|r| r.first_line() == "GET /v1/a HTTP/1.1"));
}

type Flood = fn(&mut H2, u32) -> bool;

const PROTOCOL_ERROR: u32 = 1;
/// ENHANCE_YOUR_CALM.
const CALM: u32 = 11;

/// Another client of the same worker that sends requests during a flood.
struct Others {
    stop: Arc<AtomicBool>,
    asking: JoinHandle<u32>,
}

impl Others {
    fn ask(to: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&stop);
        let asking = std::thread::spawn(move || {
            let mut client = H2::connect(to);
            let mut served = 0;
            while served == 0 || !over.load(Ordering::Relaxed) {
                let answer = client.exchange(served * 2 + 1, &get("/v1/a", READER));
                assert_eq!(answer.status, Some(200), "others wait: {answer:?}");
                served += 1;
                std::thread::sleep(Duration::from_millis(5));
            }
            served
        });
        Self { stop, asking }
    }

    fn were_served(self) {
        self.stop.store(true, Ordering::Relaxed);
        assert!(self.asking.join().expect("others are served") > 0);
    }
}

/// Resident memory in KiB.
fn memory(gate: &Gate) -> u64 {
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", gate.process.id())).expect("status");
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number")
}
