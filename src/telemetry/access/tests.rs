//! Tests of the file of the same name above.

use std::sync::Mutex;

use super::*;

/// What was written, for a test to read.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A disk that hangs until told otherwise.
struct Stuck(Receiver<()>);

impl Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.0.recv();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Broken;

impl Write for Broken {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::StorageFull.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn line<'a>(path: &'a str) -> AccessLine<'a> {
    AccessLine {
        unix_ms: 1_700_000_000_007,
        request_id: b"01J",
        client: "203.0.113.9".parse().unwrap(),
        protocol: "HTTP/1.1",
        method: "GET",
        path,
        route: Some("messages"),
        upstream: None,
        status: 403,
        decided: Decided::Rejected,
        reason: Some(Reason::Permission),
        failure: None,
        key_id: Some(KeyId::parse("key_abc").unwrap()),
        org: Some("acme"),
        issuer: None,
        subject: None,
        trace_id: None,
        host: None,
        user_agent: None,
        table_serial: Some(7),
        patch_serial: Some(9),
        duration_ns: 1_234_567,
        connect_ns: None,
        upstream_ns: None,
        bytes_in: 0,
        bytes_out: 99,
    }
}

fn written(format: LogFormat, lines: &[AccessLine<'_>]) -> String {
    let sink = Written::default();
    let logs =
        AccessLogs::with_sink(LogSink::Test(Box::new(sink.clone())), format, &Metrics::new(1))
            .unwrap();
    let log = logs.worker();
    for line in lines {
        log.write(line);
    }
    log.flush();
    logs.stop();
    String::from_utf8(sink.0.lock().unwrap().clone()).unwrap()
}

#[test]
fn json_line() {
    assert_eq!(
        written(LogFormat::Json, &[line("/v1/messages")]),
        concat!(
            r#"{"time":"2023-11-14T22:13:20.007Z","request_id":"01J","client":"203.0.113.9","#,
            r#""protocol":"HTTP/1.1","method":"GET","path":"/v1/messages","status":403,"#,
            r#""verdict":"rejected","reason":"permission","key_id":"key_abc","org":"acme","#,
            r#""route":"messages","table_serial":7,"patch_serial":9,"duration_us":1234,"#,
            r#""bytes_in":0,"bytes_out":99}"#,
            "\n"
        )
    );
}

#[test]
fn text_line() {
    assert_eq!(
        written(LogFormat::Text, &[line("/v1/messages")]),
        concat!(
            r#"2023-11-14T22:13:20.007Z 203.0.113.9 "GET /v1/messages HTTP/1.1" 403 rejected "#,
            r#"reason=permission key_id=key_abc org="acme" route="messages" request_id="01J" "#,
            "table_serial=7 patch_serial=9 duration_us=1234 bytes_in=0 bytes_out=99\n"
        )
    );
}

#[test]
fn what_a_client_sent_cannot_forge_a_line_or_a_field() {
    let hostile = "/a\",\"status\":200,\"x\":\"\r\n\u{1b}[2J\u{7f}\u{85}\u{2028}\u{202e}\u{2066}\u{e0041}\\é\t\0";
    for format in [LogFormat::Json, LogFormat::Text] {
        let out = written(format, &[line(hostile), line("/next")]);
        assert_eq!(out.lines().count(), 2, "{out}");
        assert!(
            out.chars().all(|c| c == '\n' || !crate::wording::visible::is_deceptive(c)),
            "{out}"
        );
    }
    let out = written(LogFormat::Json, &[line(hostile)]);
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(value["path"], hostile);
    assert_eq!(value["status"], 403);
}

#[test]
fn the_date_follows_the_second() {
    let mut later = line("/");
    later.unix_ms += 61_000;
    let mut epoch = line("/");
    epoch.unix_ms = 5;
    let out = written(LogFormat::Text, &[epoch, line("/"), later]);
    let times: Vec<_> = out.lines().map(|l| &l[..24]).collect();
    assert_eq!(
        times,
        ["1970-01-01T00:00:00.005Z", "2023-11-14T22:13:20.007Z", "2023-11-14T22:14:21.007Z"]
    );
}

#[test]
fn a_slow_disk_loses_lines_and_says_how_many() {
    let metrics = Metrics::new(1);
    let (free, stuck) = sync_channel(1);
    let logs =
        AccessLogs::with_sink(LogSink::Test(Box::new(Stuck(stuck))), LogFormat::Json, &metrics)
            .unwrap();
    let log = logs.worker();
    // More than the queue can hold. Each flush is one buffer. Nothing here may block.
    for _ in 0..QUEUE + 20 {
        log.write(&line("/"));
        log.flush();
    }
    let text = metrics.render();
    let shown = text
        .lines()
        .find_map(|l| l.strip_prefix("keygate_log_lines_dropped_total{log=\"access\"} "))
        .unwrap();
    // The writer holds at most one buffer.
    assert!(matches!(shown.parse(), Ok(19..=20)), "{shown}");
    drop(free);
    logs.stop();
}

#[test]
fn lines_that_cannot_be_written_are_counted() {
    let metrics = Metrics::new(1);
    let logs =
        AccessLogs::with_sink(LogSink::Test(Box::new(Broken)), LogFormat::Json, &metrics).unwrap();
    let log = logs.worker();
    log.write(&line("/"));
    log.write(&line("/"));
    log.flush();
    logs.stop();
    assert!(metrics.render().contains("keygate_log_lines_dropped_total{log=\"access\"} 2\n"));
}

#[test]
fn a_rotated_file_is_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let logs = AccessLogs::start(Some(&path), LogFormat::Text, &Metrics::new(1)).unwrap();
    let log = logs.worker();
    log.write(&line("/before"));
    log.flush();
    wait_for(&path, "/before");
    let old = dir.path().join("access.log.1");
    std::fs::rename(&path, &old).unwrap();
    logs.reopen();
    wait_for(&path, "");
    log.write(&line("/after"));
    log.flush();
    logs.stop();
    assert!(std::fs::read_to_string(&path).unwrap().contains("/after"));
    assert!(!std::fs::read_to_string(&old).unwrap().contains("/after"));
}

fn wait_for(path: &Path, text: &str) {
    for _ in 0..500 {
        if std::fs::read_to_string(path).is_ok_and(|t| t.contains(text)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{} never held {text:?}", path.display());
}

#[test]
fn samples_one_in_so_many() {
    let log = AccessLog::off();
    let taken = |every| (0..12).filter(|_| log.samples(every)).count();
    assert_eq!((taken(0), taken(1), taken(3)), (0, 12, 4));
}

/// docs/logs.md has a row for each field, in the order of the line, and no other.
#[test]
fn every_field_is_documented() {
    let whole = AccessLine {
        failure: Some(Reason::UpstreamClosed),
        upstream: Some("keys"),
        issuer: Some("https://idp.example/"),
        subject: Some("user-7"),
        trace_id: Some("0af7651916cd43dd8448eb211c80319c"),
        host: Some("api.example"),
        user_agent: Some("curl/8"),
        connect_ns: Some(1_000),
        upstream_ns: Some(2_000),
        ..line("/v1/messages")
    };
    let text = written(LogFormat::Json, &[whole]);
    let keys: Vec<&str> = text
        .split("\",\"")
        .flat_map(|part| part.split(",\""))
        .filter_map(|part| part.trim_start_matches("{\"").split_once("\":").map(|(key, _)| key))
        .collect();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(keys.len(), value.as_object().unwrap().len(), "{keys:?}");
    let page = include_str!("../../../docs/logs.md");
    let section = page.split("\n## ").find(|s| s.starts_with("The access log")).unwrap();
    let documented: Vec<&str> = section
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`').map(|(key, _)| key))
        .collect();
    assert_eq!(documented, keys);
}

/// Text that a client chose cannot end a line or move a terminal's cursor.
#[test]
fn chosen_fields_are_escaped() {
    for format in [LogFormat::Json, LogFormat::Text] {
        let evil = AccessLine { user_agent: Some("a\"b\nc\u{1b}[2J\\"), ..line("/") };
        let text = written(format, &[evil]);
        assert_eq!(text.matches('\n').count(), 1, "{text:?}");
        assert!(text.contains(r#"a\"b\u000ac\u001b[2J\\"#), "{text:?}");
    }
}

#[test]
fn a_log_that_cannot_be_written_names_its_file_and_what_helps() {
    let text = lost_lines(
        &LogSink::File { path: "/var/log/a".into(), file: File::open("/dev/null").unwrap() },
        &io::ErrorKind::StorageFull.into(),
    );
    assert!(text.contains("/var/log/a") && text.contains("\nhint: free some space"), "{text}");
    let text = lost_lines(&LogSink::Stderr, &io::ErrorKind::BrokenPipe.into());
    assert!(text.contains("standard error") && text.contains("\nhint: "), "{text}");
}
