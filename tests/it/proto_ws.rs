//! WebSockets: the handshake is judged, the tunnel opens with the service's own 101 and not before,
//! over HTTP/1.1 and in streams of HTTP/2 (RFC 8441).

use std::net::SocketAddr;
use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::support::client::{Client, exchange};
use crate::support::gate::{Gate, MANAGER, READER};
use crate::support::h2raw::*;
use crate::support::http::Message;
use crate::support::tools;
use crate::support::upstream::{Step, Upstream, ok, send};

const SOON: Duration = Duration::from_secs(5);
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// RFC 6455 section 4.2.2.
pub(crate) fn accept(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    BASE64_STANDARD.encode(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()))
}

pub(crate) fn handshake(path: &str, more: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: {KEY}\r\n{more}\r\n"
    )
}

/// A tunnel over HTTP/1.1.
pub(crate) fn open(to: SocketAddr, path: &str, key: &str) -> Client {
    let mut client = Client::connect(to);
    client.send(handshake(path, &format!("x-api-key: {key}\r\n")));
    let answer = client.response_head();
    assert_eq!(answer.status(), 101);
    assert_eq!(answer.one("sec-websocket-accept").unwrap(), accept(KEY));
    client
}

fn connect_fields<'a>(path: &'a str, key: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "a"),
        ("x-api-key", key),
        ("sec-websocket-version", "13"),
    ]
}

/// A tunnel in a stream.
pub(crate) fn open_in_stream(h2: &mut H2, stream: u32, path: &str, key: &str) {
    h2.headers(stream, 0, &connect_fields(path, key));
    let head = h2.next_of(stream, SOON).expect("an answer");
    assert_eq!((head.kind, head.payload[0]), (HEADERS, 0x88), "200: {head:?}");
}

/// A masked text frame, as a client sends it; the mask is zero.
pub(crate) fn text(words: &str) -> Vec<u8> {
    [&[0x81, 0x80 | words.len() as u8, 0, 0, 0, 0][..], words.as_bytes()].concat()
}

/// The next frame from the server: first byte and payload, at most 125 bytes of it.
pub(crate) fn frame(client: &mut Client) -> (u8, Vec<u8>) {
    // An echo of our own frames has the same mask.
    let head = |pending: &[u8]| pending.get(1).map(|b| (2 + 4 * usize::from(b >> 7), b & 0x7f));
    let (skip, length) = loop {
        if let Some((skip, length)) = head(client.pending())
            && client.pending().len() >= skip + usize::from(length)
        {
            break (skip, usize::from(length));
        }
        assert!(!client.read_some().is_empty(), "closed instead of a frame");
    };
    let frame = client.take(skip + length);
    (frame[0], frame[skip..].to_vec())
}

/// 101 and an echo. `sec-websocket-protocol` has the value of `x-select`.
fn echo() -> Upstream {
    Upstream::answering(|m: &Message| {
        let Some(key) = m.one("sec-websocket-key") else { return ok() };
        let select = m.one("x-select").map(|s| format!("sec-websocket-protocol: {s}\r\n"));
        let mut steps = send(format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             {}Sec-WebSocket-Accept: {}\r\n\r\n",
            select.unwrap_or_default(),
            accept(&key)
        ));
        // Bytes in the same packet as the 101 belong to the tunnel.
        if let Some(Step::Send(bytes)) = steps.last_mut() {
            bytes.extend([0x81, 2, b'h', b'i']);
        }
        steps.push(Step::Echo);
        steps
    })
}

#[test]
fn a_tunnel_carries_frames_both_ways() {
    let upstream = echo();
    let gate = Gate::before(&upstream).start();
    let mut client = Client::connect(gate.address);
    client.send(handshake("/ws/a", &format!("x-api-key: {READER}\r\n")));
    let answer = client.response_head();
    assert_eq!(answer.status(), 101);
    assert_eq!(answer.one("upgrade").as_deref(), Some("websocket"));
    assert_eq!(frame(&mut client), (0x81, b"hi".to_vec()));
    client.send(text("hello"));
    // The service echoes the frame unchanged: masked.
    client.read_some();
    assert!(client.pending().ends_with(b"hello"));
    let got = upstream.only();
    assert_eq!(got.one("upgrade").as_deref(), Some("websocket"));
    assert_eq!(got.one("connection").as_deref(), Some("upgrade"));
    assert_eq!(got.one("sec-websocket-key").as_deref(), Some(KEY));
    assert_eq!(got.one("x-org-id").as_deref(), Some("acme"));
    assert!(!upstream.saw(READER.as_bytes()));
    gate.process
        .eventually("one open stream", || gate.metrics().contains("keygate_streams_open 1"));
    client.finish();
    assert!(upstream.wait_closed(1, SOON));
}

#[test]
fn the_permission_is_checked_at_the_handshake() {
    let upstream = echo();
    let gate = Gate::before(&upstream).start();
    gate.refuses("no key", handshake("/ws/a", ""), 401, "missing_key");
    gate.refuses(
        "unknown key",
        handshake("/ws/a", "x-api-key: wa_no_such_key_0123456789\r\n"),
        401,
        "invalid_key",
    );
    let other = "wa_live_Sender0123456789abcdefgh";
    let gate = Gate::before(&upstream)
        .key(crate::support::gate::Key::new("key_sender", other).may("send"))
        .start();
    gate.refuses(
        "no permission",
        handshake("/ws/a", &format!("x-api-key: {other}\r\n")),
        403,
        "insufficient_permission",
    );
}

/// Envoy CVE-2026-73548, Pingora CVE-2026-2833: what follows the handshake stays HTTP, or nothing,
/// until the service has switched.
#[test]
fn bytes_before_the_101_stay_here() {
    let upstream = Upstream::answering(|m| {
        if m.one("upgrade").is_none() {
            return ok();
        }
        vec![
            Step::Wait(Duration::from_millis(200)),
            Step::Send(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno".to_vec()),
        ]
    });
    let gate = Gate::before(&upstream).start();
    let mut client = Client::connect(gate.address);
    let smuggled = "GET /admin/secret HTTP/1.1\r\nhost: a\r\nx-org-id: evil\r\n\r\n";
    client.send(handshake("/ws/a", &format!("x-api-key: {READER}\r\n")) + smuggled);
    assert_eq!(client.response().status(), 403);
    // The rest was one more request, and was judged as one.
    assert_eq!(client.response().status(), 401);
    assert!(!upstream.saw(b"evil") && !upstream.saw(b"/admin"));
}

/// Only the route determines what may be upgraded.
#[test]
fn elsewhere_an_upgrade_is_an_ordinary_request() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    let asks = |path: &str, more: &str| {
        let answer =
            exchange(gate.address, handshake(path, &format!("x-api-key: {READER}\r\n{more}")));
        (answer.status(), upstream.only())
    };
    let (status, got) = asks("/v1/a", "");
    assert_eq!((status, got.one("upgrade"), got.one("connection")), (200, None, None));
    let h2c = format!(
        "GET /ws/a HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\nconnection: upgrade, http2-settings\r\n\
         upgrade: h2c\r\nhttp2-settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n\r\n"
    );
    assert_eq!(exchange(gate.address, h2c).status(), 200);
    let got = upstream.only();
    assert_eq!((got.one("upgrade"), got.one("http2-settings")), (None, None));
    // A body and a switch in one request: the body is served, the switch is not.
    let both = handshake("/ws/a", &format!("x-api-key: {READER}\r\ncontent-length: 5\r\n"));
    assert_eq!(exchange(gate.address, both + "hello").status(), 200);
    assert_eq!(upstream.only().one("upgrade"), None);
}

#[test]
fn a_101_that_nobody_asked_for_is_502() {
    let upstream = Upstream::answering(|m| {
        let other = m.first_line().contains("/ws/other");
        send(format!(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: {}\r\n\r\nsecret",
            if other { "tcp" } else { "websocket" }
        ))
    });
    let gate = Gate::before(&upstream).start();
    let plain = format!("GET /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n\r\n");
    for request in [plain, handshake("/ws/other", &format!("x-api-key: {READER}\r\n"))] {
        let mut client = Client::connect(gate.address);
        client.send(request);
        let answer = client.response();
        assert_eq!((answer.status(), answer.code().as_str()), (502, "bad_gateway"));
        assert!(!answer.body_text().contains("secret"));
    }
    let mut h2 = H2::connect(gate.address);
    assert_eq!(h2.exchange(1, &get("/v1/a", READER)).status, Some(502));
    // Switched, but without the proof that the key was read.
    let mut h2 = H2::connect(gate.address);
    h2.headers(1, 0, &connect_fields("/ws/a", READER));
    assert_eq!(h2.answer(1).status, Some(502));
}

const CARRIERS: &str = r#"
[[credentials]]
source = "subprotocol"
marker = "api-key."
[[credentials]]
source = "query"
name = "api_key"
[[routes]]
path = "/ws/*"
methods = ["GET"]
permissions = ["read"]
upgrade = ["websocket"]
"#;

/// Browsers can set neither header nor cookie for another origin: the key is in the offer of
/// subprotocols, or in the query, and leaves no trace at the service.
#[test]
fn browser_carriers() {
    let upstream = echo();
    let gate = Gate::before(&upstream).rules(CARRIERS).start();
    let shake = |path: &str, more: &str| {
        let mut client = Client::connect(gate.address);
        client.send(handshake(path, more));
        let answer = client.response_head();
        (answer, upstream.take())
    };
    let offer = |rest: &str| format!("sec-websocket-protocol: {rest}\r\n");
    let key = format!("api-key.{READER}");
    // The service chooses one of the others.
    let (answer, got) =
        shake("/ws/a", &(offer(&format!("chat, {key}, superchat")) + "x-select: superchat\r\n"));
    assert_eq!(answer.status(), 101);
    assert_eq!(answer.one("sec-websocket-protocol").as_deref(), Some("superchat"));
    assert_eq!(got[0].all("sec-websocket-protocol"), ["chat, superchat"]);
    // It chooses none: a browser fails a connection that selects nothing of an offer, so keygate
    // selects the entry that it took, but never with the key in it.
    let (answer, got) = shake("/ws/a", &offer(&format!("api-key, {key}")));
    assert_eq!(answer.status(), 101);
    assert!(!String::from_utf8_lossy(&answer.head).contains(READER));
    assert!(!got[0].all("sec-websocket-protocol").concat().contains("wa_"));
    // It chooses what it was not offered.
    let (answer, _) = shake("/ws/a", &(offer(&format!("chat, {key}")) + "x-select: other\r\n"));
    assert_eq!(answer.status(), 502);
    // Twice, in both carriers, and a wrong one.
    let (answer, got) = shake("/ws/a", &offer(&format!("{key}, {key}")));
    assert_eq!((answer.status(), got.len()), (400, 0));
    let (answer, got) = shake(&format!("/ws/a?api_key={MANAGER}"), &offer(&key));
    assert_eq!((answer.status(), got.len()), (400, 0));
    let (answer, got) = shake("/ws/a", &offer("chat, api-key.wa_no_such_key_0123456789"));
    assert_eq!((answer.status(), got.len()), (401, 0));
    // The query.
    let (answer, got) = shake(&format!("/ws/a?x=1&api_key={READER}&y=2"), "");
    assert_eq!(answer.status(), 101);
    assert_eq!(got[0].first_line(), "GET /ws/a?x=1&y=2 HTTP/1.1");
    assert!(!upstream.saw(READER.as_bytes()));
    assert!(!gate.log().contains(READER));
}

#[test]
fn over_http2_the_service_sees_an_upgrade() {
    let upstream = echo();
    let gate = Gate::before(&upstream).start();
    let mut h2 = H2::connect(gate.address);
    // Announced: SETTINGS_ENABLE_CONNECT_PROTOCOL = 1.
    let settings = h2.next(SOON).unwrap();
    assert_eq!(settings.kind, SETTINGS);
    assert!(settings.payload.chunks(6).any(|s| s == [0, 8, 0, 0, 0, 1]), "{settings:?}");
    let mut fields = connect_fields("/ws/a?b=c", READER);
    // Fields that HTTP/2 does not use are not passed on either.
    fields.push(("sec-websocket-key", "ZXZpbGV2aWxldmlsZXZpbA=="));
    h2.headers(1, 0, &fields);
    let head = h2.next_of(1, SOON).unwrap();
    assert_eq!((head.kind, head.payload[0]), (HEADERS, 0x88), "{head:?}");
    assert_eq!(h2.next_of(1, SOON).unwrap().payload, [0x81, 2, b'h', b'i']);
    h2.data(1, 0, &text("hello"));
    assert!(h2.next_of(1, SOON).unwrap().payload.ends_with(b"hello"));
    let got = upstream.only();
    assert_eq!(got.first_line(), "GET /ws/a?b=c HTTP/1.1");
    assert_eq!(got.one("upgrade").as_deref(), Some("websocket"));
    assert_eq!(got.one("sec-websocket-version").as_deref(), Some("13"));
    let key = got.one("sec-websocket-key").unwrap();
    assert!(key.len() == 24 && !key.starts_with("ZXZpbG"), "{key}");
    assert_eq!(got.one("x-org-id").as_deref(), Some("acme"));
    // Other streams of the connection.
    assert_eq!(h2.exchange(3, &get("/v1/a", READER)).status, Some(200));
    upstream.take();
    // The end of one half, and then of both.
    h2.data(1, END_STREAM, b"");
    let rest = h2.answer(1);
    assert!(rest.ended || rest.reset.is_some(), "{rest:?}");
    assert!(upstream.wait_closed(1, SOON));
}

#[test]
fn extended_connect_is_judged_like_the_upgrade() {
    let upstream = echo();
    let gate = Gate::before(&upstream).start();
    let ask = |fields: &[(&str, &str)]| {
        let mut h2 = H2::connect(gate.address);
        h2.headers(1, 0, fields);
        let answer = h2.answer(1);
        assert!(upstream.take().is_empty(), "{fields:?} reached the service");
        answer.status.unwrap_or(0)
    };
    assert_eq!(ask(&connect_fields("/ws/a", "wa_no_such_key_0123456789")), 401);
    assert_eq!(ask(&connect_fields("/v1/a", READER)), 405, "no upgrade on this route");
    assert_eq!(ask(&connect_fields("/nowhere", READER)), 403);
    assert_eq!(ask(&connect_fields("/ws/../v1/a", READER)), 400);
    let mut other = connect_fields("/ws/a", READER);
    other[1].1 = "connect-udp";
    assert_eq!(ask(&other), 405);
    let plain = [(":method", "CONNECT"), (":authority", "a:443"), ("x-api-key", READER)];
    assert_eq!(ask(&plain), 405);
    // A 200 of a service that does not switch must not become a tunnel.
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    let mut h2 = H2::connect(gate.address);
    h2.headers(1, 0, &connect_fields("/ws/a", READER));
    assert_eq!(h2.answer(1).status, Some(502));
}

/// The flow on the wa product's page, with the package that it names.
#[test]
fn python_websockets() {
    let port = PYTHON_ECHO;
    let server = crate::support::process::Process::start(tools::python().args(["-c", port]));
    let line = server.wait_for_line("listening ");
    let port = line.rsplit(' ').next().unwrap();
    let gate = Gate::before_url(&format!("http://127.0.0.1:{port}"))
        .rules(
            "[[credentials]]\nsource = \"bearer\"\nprefixes = [\"wa_\"]\n\
             [[credentials]]\nsource = \"header\"\nname = \"x-api-key\"\n\
             [[credentials]]\nsource = \"subprotocol\"\nmarker = \"api-key.\"\n\
             [[routes]]\npath = \"/api/v1/events\"\nmethods = [\"GET\"]\n\
             permissions = [\"events\"]\nupgrade = [\"websocket\"]\n",
        )
        .key(
            crate::support::gate::Key::new("key_events", "wa_Events0123456789abcdefghijkl")
                .may("events"),
        )
        .start();
    crate::support::process::run(tools::python().args([
        "-c",
        PYTHON_CLIENT,
        &gate.address.to_string(),
        "wa_Events0123456789abcdefghijkl",
        READER,
    ]));
}

const PYTHON_ECHO: &str = r#"
import asyncio, websockets
async def handler(ws):
    assert "wa_" not in str(ws.request.headers), ws.request.headers
    await ws.send(ws.request.headers["x-org-id"])
    async for message in ws:
        await ws.send(message)
async def main():
    select = lambda ws, offered: "wa.v1" if "wa.v1" in offered else None
    async with websockets.serve(handler, "127.0.0.1", 0, select_subprotocol=select) as server:
        print("listening", server.sockets[0].getsockname()[1], flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"#;

const PYTHON_CLIENT: &str = r#"
import asyncio, sys, websockets
address, key, other = sys.argv[1:]
url = f"ws://{address}/api/v1/events"
async def main():
    for extra in ({"additional_headers": {"Authorization": f"Bearer {key}"}},
                  {"additional_headers": {"X-API-Key": key}},
                  {"subprotocols": ["wa.v1", "api-key." + key]}):
        async with websockets.connect(url, **extra) as ws:
            assert await ws.recv() == "acme"
            big = "x" * 300_000
            for message in ("hello", big, b"\x00\xff"):
                await ws.send(message)
                assert await ws.recv() == message
            await (await ws.ping())
            if "subprotocols" in extra:
                assert ws.subprotocol == "wa.v1", ws.subprotocol
    for headers, status in (({}, 401), ({"X-API-Key": other}, 403), ({"X-API-Key": "wa_no"}, 401)):
        try:
            async with websockets.connect(url, additional_headers=headers):
                raise SystemExit("admitted")
        except websockets.InvalidStatus as refused:
            assert refused.response.status_code == status, refused
try:
    asyncio.run(main())
except websockets.InvalidStatus as refused:
    raise SystemExit(f"{refused}: {refused.response.body}")
"#;

/// A preflight passes without a key, so it must not lead to a tunnel.
#[test]
fn a_preflight_is_never_upgraded() {
    let upstream = Upstream::answering(|request| {
        let upgrade = request.one("upgrade").is_some();
        let granted = "HTTP/1.1 101 OK\r\nconnection: upgrade\r\nupgrade: tcp\r\n\r\n";
        if upgrade { [send(granted), vec![Step::Echo]].concat() } else { ok() }
    });
    let rules = "[[credentials]]\nsource = \"header\"\nname = \"x-api-key\"\n[[routes]]\n\
                 path = \"/tunnel/*\"\nmethods = [\"POST\"]\nupgrade = [\"tcp\"]\npreflight = true\n";
    let gate = Gate::before(&upstream).rules(rules).start();
    let upgrade = "connection: upgrade\r\nupgrade: tcp\r\n";
    let preflight = exchange(
        gate.address,
        format!(
            "OPTIONS /tunnel/a HTTP/1.1\r\nhost: a\r\norigin: http://b\r\n\
             access-control-request-method: POST\r\n{upgrade}\r\n"
        ),
    );
    assert_eq!(preflight.status(), 200);
    let got = upstream.only();
    assert!(got.one("upgrade").is_none() && got.one("connection").is_none());
    let post = |key: &str| format!("POST /tunnel/a HTTP/1.1\r\nhost: a\r\n{upgrade}{key}\r\n");
    assert_eq!(exchange(gate.address, post("")).status(), 401);
    let mut client = Client::connect(gate.address);
    client.send(post(&format!("x-api-key: {MANAGER}\r\n")));
    assert_eq!(client.response_head().status(), 101, "with a key it is a tunnel");
}
