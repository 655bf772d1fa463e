//! Answers that the service breaks off: whatever its protocol and however it ends, no client may
//! mistake half an answer for the whole.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use crate::support::client::{Client, PATIENCE};
use crate::support::gate::{Gate, READER, Setup};
use crate::support::h2raw::{self, DATA, END_HEADERS, END_STREAM, GOAWAY, H2, HEADERS, RST_STREAM};
use crate::support::h2raw::{SETTINGS, frame};
use crate::support::upstream::{Step, Upstream, answer};

const HALF: &str = "half of it";

/// How a service of HTTP/2 ends the answer whose half it has sent: the frames, behind which it closes
/// the connection or not.
struct Http2End {
    name: &'static str,
    frames: Vec<u8>,
    closes: bool,
    /// No end that HTTP/2 knows of a body of unknown length.
    cuts_unmeasured: bool,
}

fn http2_ends() -> Vec<Http2End> {
    let reset = |code: u32| frame(RST_STREAM, 0, 1, &code.to_be_bytes());
    let goaway = |last: u32, code: u32| {
        frame(GOAWAY, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat())
    };
    let end = |name, frames, closes| Http2End { name, frames, closes, cuts_unmeasured: true };
    vec![
        end("RST_STREAM(NO_ERROR)", reset(0), false),
        end("RST_STREAM(INTERNAL_ERROR)", reset(2), false),
        end("RST_STREAM(CANCEL)", reset(8), false),
        end("a close", Vec::new(), true),
        end("GOAWAY(NO_ERROR) and a close", goaway(1, 0), true),
        end("GOAWAY(NO_ERROR) of an older stream and a close", goaway(0, 0), true),
        end("GOAWAY(INTERNAL_ERROR) and a close", goaway(1, 2), true),
        Http2End {
            cuts_unmeasured: false,
            ..end("END_STREAM before its time", frame(DATA, END_STREAM, 1, b""), false)
        },
    ]
}

/// Serves `connections`, one request on each: the head, half of the body, the end.
fn http2_service(fields: &[(&str, &str)], end: &Http2End, connections: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let head = h2raw::block(&[&[(":status", "200")], fields].concat());
    let (frames, closes) = (end.frames.clone(), end.closes);
    let says = [frame(HEADERS, END_HEADERS, 1, &head), frame(DATA, 0, 1, HALF.as_bytes()), frames]
        .concat();
    std::thread::spawn(move || {
        for stream in listener.incoming().take(connections).flatten() {
            let says = says.clone();
            std::thread::spawn(move || serve_http2(stream, &says, closes));
        }
    });
    address
}

fn serve_http2(mut stream: TcpStream, says: &[u8], closes: bool) -> Option<()> {
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(&frame(SETTINGS, 0, 0, b"")).ok()?;
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).ok()?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        std::io::copy(&mut (&mut stream).take(length.into()), &mut std::io::sink()).ok()?;
        if head[3] == HEADERS {
            break;
        }
    }
    stream.write_all(says).ok()?;
    if closes {
        stream.shutdown(Shutdown::Write).ok()?;
    }
    std::io::copy(&mut stream, &mut std::io::sink()).ok()?;
    Some(())
}

fn get(version: &str, fields: &str) -> String {
    format!("GET /v1/a HTTP/{version}\r\nhost: a\r\nx-api-key: {READER}\r\n{fields}\r\n")
}

/// One whose requests keygate reads by itself, and one whose requests hyper reads.
const HTTP1_CLIENTS: [&str; 2] = ["", "te: trailers\r\nconnection: te\r\n"];

/// Whether the connection ends with a reset. Everything is read before that.
fn ends_with_reset(gate: &Gate, request: &str) -> bool {
    let mut client = TcpStream::connect(gate.address).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(request.as_bytes()).unwrap();
    is_reset(&mut client)
}

fn is_reset(client: &mut impl Read) -> bool {
    let mut seen = Vec::new();
    match client.read_to_end(&mut seen) {
        Ok(_) => false,
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => true,
        Err(error) => panic!("{error} behind {:?}", String::from_utf8_lossy(&seen)),
    }
}

#[test]
fn half_an_answer_over_http2_is_no_whole_one() {
    for end in http2_ends() {
        for fields in [&[][..], &[("content-length", "20")]] {
            let is_counted = !fields.is_empty();
            if !is_counted && !end.cuts_unmeasured {
                continue;
            }
            let about = format!("{}, counted: {is_counted}", end.name);
            let service = http2_service(fields, &end, HTTP1_CLIENTS.len() + 2);
            let options = "protocol = \"http2\"\nreuse = \"never\"";
            let gate = Gate::before_address(service).upstream_option(options).start();
            for client in HTTP1_CLIENTS {
                let request = get("1.1", client);
                let got = Client::connect(gate.address).send(request).try_response(false).unwrap();
                assert!(got.is_none_or(|got| !got.complete), "{about}: {client:?}");
            }
            let got = H2::connect(gate.address).exchange(1, &h2raw::get("/v1/a", READER));
            assert!(!got.ended, "{about}: HTTP/2 got {got:?}");
            if is_counted {
                let request = get("1.0", "");
                let got = Client::connect(gate.address).send(request).try_response(false).unwrap();
                assert!(got.is_none_or(|got| !got.complete), "{about}: HTTP/1.0");
            } else {
                assert!(ends_with_reset(&gate, &get("1.0", "")), "{about}: HTTP/1.0");
            }
        }
    }
}

fn before(steps: Vec<Step>) -> (Upstream, Setup) {
    let upstream = Upstream::answering(move |_| steps.clone());
    let setup = Gate::before(&upstream);
    (upstream, setup)
}

fn says(text: &str) -> Step {
    Step::Send(text.as_bytes().to_vec())
}

/// A client of HTTP/1.0 finds the end of an answer of unknown length by the end of the connection:
/// a cut answer ends with a reset, whoever cut it.
#[test]
fn http10_clients_get_a_reset_for_an_answer_that_was_cut() {
    let chunked = says("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n");
    let until = says("HTTP/1.1 200 OK\r\n\r\nhello");
    let pause = Step::Wait(Duration::from_millis(50));
    let cuts: [(&str, Vec<Step>, &str); 5] = [
        ("closed between chunks", vec![chunked.clone(), Step::Close], ""),
        ("closed in a chunk", vec![chunked.clone(), says("9\r\nworl"), Step::Close], ""),
        ("no chunk", vec![chunked.clone(), pause.clone(), says("zz\r\n"), Step::Drain], ""),
        ("reset", vec![until.clone(), pause, Step::Reset, Step::Close], ""),
        ("silent", vec![until.clone(), Step::Drain], "[timeouts]\nresponse_idle = \"300ms\"\n"),
    ];
    for (name, steps, also) in cuts {
        let (_upstream, setup) = before(steps);
        let gate = setup.also(also).start();
        for fields in ["", "connection: keep-alive\r\n"] {
            assert!(ends_with_reset(&gate, &get("1.0", fields)), "{name}: {fields:?}");
        }
    }
    let whole: [(&str, Vec<Step>); 3] = [
        ("chunked", vec![chunked.clone(), says("0\r\n\r\n")]),
        ("until the end", vec![until.clone(), Step::Close]),
        ("counted", answer("200 OK", "", "hello")),
    ];
    for (name, steps) in whole {
        let (_upstream, setup) = before(steps);
        let gate = setup.start();
        assert!(!ends_with_reset(&gate, &get("1.0", "")), "{name}");
    }
    // Half-closed, and the rest of the answer does not arrive in time.
    let (_upstream, setup) = before(vec![until, Step::Drain]);
    let gate = setup.also("[timeouts]\nhalf_closed = \"300ms\"\n").start();
    let mut client = TcpStream::connect(gate.address).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(get("1.0", "").as_bytes()).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert!(is_reset(&mut client));
}
