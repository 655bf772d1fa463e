//! Request bodies that nobody reads, over HTTP/2: a legal client sends all of its upload whatever
//! the answer is. Neither its connection nor anything else on it suffers (RFC 9113 section 8.1).

use std::collections::BTreeMap;
use std::time::Duration;

use crate::support::gate::{Gate, READER};
use crate::support::h2raw::*;
use crate::support::upstream::{Step, Upstream, answer, send};

const SOON: Duration = Duration::from_secs(10);
const UPLOAD: usize = 60_000;
/// Together with the event stream, as many as `http2.max_streams` allows.
const AT_ONCE: usize = 99;
const EVENTS: u32 = 1;
const NO_ERROR: u32 = 0;

/// A client that respects the connection's window and never stops an upload itself.
struct Uploader {
    h2: H2,
    window: usize,
    next: u32,
    /// Bytes of the event stream.
    events: usize,
}

/// One upload under way.
struct Upload {
    left: usize,
    /// The window of its stream.
    window: usize,
    status: Option<u16>,
    answered: bool,
}

/// Whether the head gives the length of the body.
#[derive(Clone, Copy)]
enum Length {
    Declared,
    Unknown,
}

impl Uploader {
    /// With a running event stream.
    fn start(gate: &Gate) -> Self {
        // Without HPACK's table, every status is literal in its frame.
        let mut h2 = H2::with_settings(gate.address, &[(1, 0)]);
        h2.headers(EVENTS, END_STREAM, &get("/v1/events", READER));
        let mut uploader = Self { h2, window: 65_535, next: EVENTS + 2, events: 0 };
        uploader.expect_events();
        uploader
    }

    fn expect_events(&mut self) {
        let before = self.events;
        while self.events == before {
            let frame = self.h2.next(SOON).expect("the event stream goes on");
            self.took(&frame, &mut BTreeMap::new());
        }
    }

    fn took(&mut self, frame: &Frame, open: &mut BTreeMap<u32, Upload>) {
        assert_ne!(frame.kind, GOAWAY, "{}", String::from_utf8_lossy(&frame.payload));
        if frame.stream == EVENTS {
            assert!(frame.kind != RST_STREAM && frame.flags & END_STREAM == 0, "{frame:?}");
            self.events += if frame.kind == DATA { frame.payload.len() } else { 0 };
        }
        if frame.kind == WINDOW_UPDATE && frame.stream == 0 {
            let more = u32::from_be_bytes(frame.payload[..4].try_into().unwrap());
            self.window += more as usize;
        }
        let Some(upload) = open.get_mut(&frame.stream) else { return };
        match frame.kind {
            WINDOW_UPDATE => {
                let more = u32::from_be_bytes(frame.payload[..4].try_into().unwrap());
                upload.window += more as usize;
            }
            HEADERS => upload.status = upload.status.or(status_of(&frame.payload)),
            RST_STREAM => {
                let code = u32::from_be_bytes(frame.payload[..4].try_into().unwrap());
                assert_eq!((code, upload.answered), (NO_ERROR, true), "stream {}", frame.stream);
                upload.left = 0;
            }
            _ => {}
        }
        upload.answered |= frame.flags & END_STREAM != 0 && matches!(frame.kind, DATA | HEADERS);
    }

    /// Makes this many uploads and expects this answer to each.
    fn upload(&mut self, count: usize, path: &str, key: &str, length: Length, status: u16) {
        self.upload_each(count, UPLOAD, &request("POST", path, key), length, status);
    }

    fn upload_each(
        &mut self,
        count: usize,
        bytes: usize,
        fields: &[(&str, &str)],
        length: Length,
        status: u16,
    ) {
        let mut fields = fields.to_vec();
        let path = fields[2].1;
        let declared = bytes.to_string();
        if matches!(length, Length::Declared) {
            fields.push(("content-length", &declared));
        }
        let mut open: BTreeMap<u32, Upload> = BTreeMap::new();
        let mut begun = 0;
        loop {
            while open.len() < AT_ONCE && begun < count {
                assert!(self.h2.headers(self.next, 0, &fields), "{path}: the connection is gone");
                open.insert(
                    self.next,
                    Upload { left: bytes, window: 65_535, status: None, answered: false },
                );
                self.next += 2;
                begun += 1;
            }
            if open.is_empty() {
                break;
            }
            let mut idle = true;
            for (stream, upload) in open.iter_mut().filter(|(_, u)| u.left > 0) {
                let size = upload.left.min(self.window).min(upload.window).min(16_384);
                if size > 0 {
                    idle = false;
                    upload.left -= size;
                    upload.window -= size;
                    self.window -= size;
                    let last = if upload.left == 0 { END_STREAM } else { 0 };
                    assert!(self.h2.data(*stream, last, &vec![b'u'; size]), "{path}: gone");
                }
            }
            if idle {
                let frame = self.h2.next(SOON);
                self.took(&frame.expect("an answer to each"), &mut open);
            }
            while let Some(frame) = self.h2.next(Duration::from_millis(1)) {
                self.took(&frame, &mut open);
            }
            open.retain(|_, upload| {
                let over = upload.answered && upload.left == 0;
                assert!(!over || upload.status == Some(status), "{path}: {:?}", upload.status);
                !over
            });
        }
    }
}

/// Events for a minute, or until the peer is gone.
fn events() -> Vec<Step> {
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let event =
        || [Step::Send(b"6\r\nevent\n\r\n".to_vec()), Step::Wait(Duration::from_millis(50))];
    send(head).into_iter().chain((0..1_200).flat_map(|_| event())).collect()
}

/// Whoever refuses, and whenever: the event stream continues during the uploads.
#[test]
fn refused_uploads_leave_their_connection_alive() {
    let upstream = Upstream::answering(|request| {
        let path = request.first_line().split(' ').nth(1).unwrap_or_default().to_owned();
        match &*path {
            "/v1/events" => events(),
            // An answer before the body was read, and no answer at all.
            "/v1/early" => answer("413 Content Too Large", "", "no")
                .into_iter()
                .chain([Step::ReadBody])
                .collect(),
            "/v1/fails" => vec![Step::Wait(Duration::ZERO), Step::Close, Step::ReadBody],
            _ => answer("200 OK", "", "ok"),
        }
    });
    let gate = Gate::before(&upstream).also("[workers]\ncount = 1\n").start();
    let mut client = Uploader::start(&gate);
    client.upload(1_000, "/v1/a", "wa_no_such_key_0123456789", Length::Unknown, 401);
    client.expect_events();
    // Longer than what keygate reads of each.
    let refused = request("POST", "/v1/a", "wa_no_such_key_0123456789");
    client.upload_each(200, 1 << 20, &refused, Length::Unknown, 401);
    client.expect_events();
    client.upload(300, "/admin/a", READER, Length::Declared, 403);
    client.upload(300, "/small/a", READER, Length::Declared, 413);
    client.upload(300, "/small/a", READER, Length::Unknown, 413);
    client.expect_events();
    client.upload(300, "/v1/early", READER, Length::Declared, 413);
    client.upload(300, "/v1/early", READER, Length::Unknown, 413);
    client.expect_events();
    client.upload(300, "/v1/fails", READER, Length::Declared, 502);
    client.upload(300, "/v1/a", READER, Length::Declared, 200);
    client.expect_events();
    assert!(gate.metrics().contains("keygate_panics_total 0"));
}

/// An endless body after a refusal: some of it is read, and then the stream is reset without blame.
/// One that stops is not waited for either.
#[test]
fn endless_bodies_are_reset_behind_their_answer() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    let mut h2 = H2::connect(gate.address);
    h2.polite = false;
    let refused = request("POST", "/v1/a", "wa_no_such_key_0123456789");
    h2.headers(1, 0, &refused);
    let answer = h2.answer(1);
    assert_eq!((answer.status, answer.ended, answer.reset), (Some(401), true, None));
    let (mut window, mut sent) = (65_535_usize, 0_usize);
    let code = loop {
        let size = window.min(16_384);
        window -= size;
        sent += size;
        assert!(sent < 1 << 20, "never reset");
        if size > 0 {
            assert!(h2.data(1, 0, &vec![b'u'; size]));
        }
        let wait = if window == 0 { SOON } else { Duration::from_millis(20) };
        match h2.next(wait) {
            Some(frame) if frame.kind == WINDOW_UPDATE && frame.stream == 1 => {
                window += u32::from_be_bytes(frame.payload[..4].try_into().unwrap()) as usize;
            }
            Some(frame) if frame.kind == RST_STREAM => break frame.payload,
            Some(frame) => assert_ne!(frame.kind, GOAWAY),
            None => assert!(window > 0, "neither a window nor a reset"),
        }
    };
    assert_eq!(code, NO_ERROR.to_be_bytes());
    assert!(sent > 200 * 1024, "only {sent} bytes were read");
    // Nothing comes of this one.
    h2.headers(3, 0, &refused);
    let answer = h2.answer(3);
    assert!(answer.ended, "{answer:?}");
    let reset = h2.next_of(3, SOON).expect("a reset");
    assert_eq!((reset.kind, &*reset.payload), (RST_STREAM, &NO_ERROR.to_be_bytes()[..]));
    assert_eq!(h2.exchange(5, &get("/v1/a", READER)).status, Some(200));
    assert_eq!(upstream.take().len(), 1);
}
