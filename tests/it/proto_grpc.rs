//! gRPC end to end, with the public Python packages on both sides.

use std::time::{Duration, Instant};

use crate::support::gate::{Folder, Gate, Key, READER, Setup};
use crate::support::h2raw::*;
use crate::support::process::{Process, run};
use crate::support::tools;

const SOON: Duration = Duration::from_secs(5);

const ROUTES: &str = r#"
[[credentials]]
source = "header"
name = "x-api-key"
[[routes]]
path = "/echo.Echo/*"
methods = ["POST"]
permissions = ["read"]
[[routes]]
path = "/echo.Admin/*"
methods = ["POST"]
permissions = ["manage"]
"#;

fn script(name: &str) -> String {
    format!("{}/tests/it/py/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// The service, and where it listens.
fn service(arguments: &[&str]) -> (Process, String) {
    let process = Process::start(tools::python().arg(script("grpc_service.py")).args(arguments));
    let line = process.wait_for_line("listening ");
    let port = line.rsplit(' ').next().unwrap().to_owned();
    (process, port)
}

fn before(url: &str, more: &str) -> Setup {
    // `url` is alone in its table. What follows it belongs to the same table.
    Gate::before_url(&format!("{url}\"\nprotocol = \"http2\"\n{more}#"))
        .rules(ROUTES)
        .key(Key::new("key_limited", LIMITED).may("read").with("limit = \"2/min\""))
}

const LIMITED: &str = "wa_live_Limited0123456789abcdefg";

#[test]
fn grpc_in_clear() {
    let (_service, port) = service(&[]);
    let gate = before(&format!("http://127.0.0.1:{port}"), "").start();
    run(tools::python().arg(script("grpc_client.py")).args([&gate.address.to_string(), READER]));
    assert!(gate.metrics().contains("keygate_panics_total 0"));
}

#[test]
fn grpc_over_tls_on_both_sides() {
    let files = Folder::empty();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    files.write("cert.pem", &made.cert.pem());
    files.write("key.pem", &made.signing_key.serialize_pem());
    let path = |name: &str| files.file(name).display().to_string();
    let (_service, port) = service(&[&path("cert.pem"), &path("key.pem")]);
    let tls =
        format!("[upstream.tls]\nca = \"{}\"\nserver_name = \"localhost\"\n", path("cert.pem"));
    let gate = before(&format!("https://127.0.0.1:{port}"), &tls)
        .listen(&format!(
            "address = \"127.0.0.1:0\"\n[listen.tls]\ncertificate = \"{}\"\nkey = \"{}\"",
            path("cert.pem"),
            path("key.pem")
        ))
        .start();
    run(tools::python().arg(script("grpc_client.py")).args([
        &gate.address.to_string(),
        READER,
        &path("cert.pem"),
    ]));
}

/// No service: UNAVAILABLE, which clients retry.
#[test]
fn a_service_that_is_down_is_unavailable() {
    let gate = before("http://127.0.0.1:1", "").start();
    let mut h2 = H2::connect(gate.address);
    let answer = call(&mut h2, 1, "/echo.Echo/Unary", READER);
    assert_eq!((answer.status, answer.header_blocks, answer.ended), (Some(200), 1, true));
    let said = run(tools::python().args([
        "-c",
        "import grpc, sys\n\
         try: grpc.insecure_channel(sys.argv[1]).unary_unary('/echo.Echo/Unary')\
         (b'', metadata=(('x-api-key', sys.argv[2]),), timeout=5)\n\
         except grpc.RpcError as e: print(e.code(), e.details())",
        &gate.address.to_string(),
        READER,
    ]));
    assert!(said.starts_with("StatusCode.UNAVAILABLE "), "{said}");
}

fn call(h2: &mut H2, stream: u32, path: &str, key: &str) -> Answer {
    start(h2, stream, path, key);
    h2.answer(stream)
}

fn start(h2: &mut H2, stream: u32, path: &str, key: &str) {
    let mut fields = request("POST", path, key);
    fields.extend([("content-type", "application/grpc"), ("te", "trailers")]);
    h2.headers(stream, 0, &fields);
    // One message of one byte.
    h2.data(stream, END_STREAM, &[0, 0, 0, 0, 1, b'0']);
}

/// A stream whose key ends learns that from trailers; one that does not read is reset. The other
/// streams of both connections continue.
#[test]
fn streams_end_unauthenticated() {
    let (service, port) = service(&[]);
    let gate = before(&format!("http://127.0.0.1:{port}"), "").start();
    let mut h2 = H2::connect(gate.address);
    start(&mut h2, 1, "/echo.Echo/Tick", READER);
    start(&mut h2, 3, "/echo.Echo/Tick", crate::support::gate::MANAGER);
    let first = h2.next_of(1, SOON);
    let second = h2.next_of(1, SOON);
    assert_eq!(second.as_ref().map(|f| f.kind), Some(DATA), "{first:?} {second:?}");
    let watching = std::thread::spawn(move || {
        let answer = h2.answer(1);
        (h2, answer, Instant::now())
    });
    gate.folder.ctl(&[
        "keys",
        "revoke",
        "key_reader",
        "--registry",
        "keys.toml",
        "--publish",
        "keys.kgt",
        "--signer",
        "signer.pem",
    ]);
    gate.wait_serial(2);
    let swap = Instant::now();
    let (mut h2, answer, at) = watching.join().unwrap();
    assert!(at.saturating_duration_since(swap) < Duration::from_millis(200));
    assert!(answer.ended && answer.reset.is_none(), "trailers, not a reset: {answer:?}");
    // "16", either literally or in Huffman's code, after the name grpc-status.
    let trailers = &answer.blocks;
    assert!(
        trailers.windows(2).any(|w| w == b"16" || w == [0x0b, 0x9f] || w == [0x82, 0x0b]),
        "{trailers:?}"
    );
    // What was kept of the other one ends before the swap. Then it continues.
    let until = Instant::now() + Duration::from_millis(300);
    while Instant::now() < until {
        let frame = h2.next_of(3, SOON).expect("the other stream goes on");
        assert!(matches!(frame.kind, HEADERS | DATA) && frame.flags & END_STREAM == 0);
    }
    drop(service);
}

/// The same seen by grpcio, in a call that both sides are talking in.
#[test]
fn grpcio_is_told_unauthenticated() {
    let (_service, port) = service(&[]);
    let gate = before(&format!("http://127.0.0.1:{port}"), "").start();
    let client =
        Process::start(tools::python().args(["-c", LONG_CALL, &gate.address.to_string(), READER]));
    client.wait_for_line("talking");
    gate.folder.ctl(&[
        "keys",
        "revoke",
        "key_reader",
        "--registry",
        "keys.toml",
        "--publish",
        "keys.kgt",
        "--signer",
        "signer.pem",
    ]);
    let said = client.wait_for_line("ended");
    assert!(said.contains("UNAUTHENTICATED"), "{said}");
}

const LONG_CALL: &str = r#"
import grpc, sys, time
call = grpc.insecure_channel(sys.argv[1]).stream_stream("/echo.Echo/Both")
def questions():
    while True:
        yield b"x"
        time.sleep(0.02)
try:
    for n, _ in enumerate(call(questions(), metadata=(("x-api-key", sys.argv[2]),), timeout=20)):
        if n == 3:
            print("talking", flush=True)
except grpc.RpcError as error:
    print("ended", error.code(), error.details(), flush=True)
"#;
