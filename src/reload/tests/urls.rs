//! Sources behind a URL: a real nginx, and a small server that misbehaves.

mod server;

use std::fs;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use self::server::{Answer, Server};
use super::*;

/// nginx over a folder of static files.
struct Nginx {
    child: Child,
    url: String,
    log: PathBuf,
}

impl Nginx {
    /// `None`: it is not installed, and this is not a CI run.
    fn start(root: &Path) -> Option<Self> {
        // Between this and nginx's own bind, another process could take the port. Then nginx
        // reports that and the test fails.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let conf = root.join("nginx.conf");
        let log = root.join("access.log");
        fs::write(
            &conf,
            format!(
                "daemon off;\nmaster_process off;\npid {root}/nginx.pid;\nerror_log stderr error;\n\
                 events {{ worker_connections 64; }}\n\
                 http {{\n  log_format status '$request_uri $status';\n  \
                 access_log {log} status;\n  client_body_temp_path {root}/b;\n  \
                 proxy_temp_path {root}/p;\n  fastcgi_temp_path {root}/f;\n  \
                 uwsgi_temp_path {root}/u;\n  scgi_temp_path {root}/s;\n  \
                 server {{ listen 127.0.0.1:{port}; root {root}/www; }}\n}}\n",
                root = root.display(),
                log = log.display(),
            ),
        )
        .unwrap();
        let path = format!("{}:/usr/sbin", std::env::var_os("PATH").unwrap().display());
        let child = Command::new("nginx")
            .env("PATH", &path)
            .arg("-p")
            .arg(root)
            .arg("-c")
            .arg(&conf)
            .stderr(Stdio::piped())
            .spawn();
        let child = match child {
            Ok(child) => child,
            Err(error) if std::env::var_os("CI").is_none() => {
                eprintln!("SKIPPED: nginx (`make tools` installs it): {error}");
                return None;
            }
            Err(error) => panic!("nginx (`make tools` installs it): {error}"),
        };
        let nginx = Self { child, url: format!("http://127.0.0.1:{port}"), log };
        let clock = Clock::system();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(u128::from(clock.now().mono_ns) < PATIENCE.as_nanos(), "nginx never listened");
            std::thread::sleep(Duration::from_millis(10));
        }
        Some(nginx)
    }

    /// How often a file was answered with this status.
    fn answers(&self, path: &str, status: u16) -> usize {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().filter(|l| *l == format!("{path} {status}")).count()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A folder whose table and patch are at `base`.
fn folder(base: &str, more: &str) -> Folder {
    let folder = Folder::new();
    let patch = match more.contains("patch = ") {
        true => String::new(),
        false => format!("patch = \"{base}/p.kgp\"\n"),
    };
    folder.configure(&format!(
        "url = \"{base}/t.kgt\"\n{patch}poll = \"1s\"\npatch_poll = \"1s\"\n\
         cache_dir = \"cache\"\n{more}"
    ));
    fs::create_dir_all(folder.at("cache")).unwrap();
    folder
}

#[test]
fn static_files_of_a_real_nginx() {
    let site = tempfile::tempdir().unwrap();
    fs::create_dir(site.path().join("www")).unwrap();
    let publish = |name: &str, bytes: &[u8]| {
        let temporary = site.path().join("new");
        fs::write(&temporary, bytes).unwrap();
        fs::rename(&temporary, site.path().join("www").join(name)).unwrap();
    };
    let base = table(1);
    publish("t.kgt", &base);
    let Some(nginx) = Nginx::start(site.path()) else { return };
    let folder = folder(&nginx.url, "");
    let running = folder.start();
    assert_eq!(running.serial(), Some(1));
    // Nothing new: the server says so without sending it.
    running.until("not modified", |_| nginx.answers("/t.kgt", 304) >= 2);
    assert_eq!(nginx.answers("/t.kgt", 200), 1);
    // A missing patch is not a failure.
    assert!(nginx.answers("/p.kgp", 404) >= 1);
    assert_eq!(running.failures("patch", "status"), 0.0);
    publish("p.kgp", &revoking(2, &base, &[1]));
    running.until_patch(2);
    assert!(!running.has(1));
    publish("t.kgt", &table_of(3, &[spec(2), spec(3)]));
    running.until_serial(3);
    assert_eq!(nginx.answers("/t.kgt", 200), 2);
    // A damaged publication: refused, requested again, and corrected.
    publish("t.kgt", &table(4)[..500]);
    running.until("refused", |r| r.failures("table", "truncated") >= 1.0);
    assert_eq!(running.serial(), Some(3));
    publish("t.kgt", &table_of(5, &[spec(2), spec(3)]));
    running.until_serial(5);

    // The URL is down: what is in force stays in force, also over a restart.
    drop(nginx);
    running.until("down", |r| r.failures("table", "network") >= 1.0);
    assert_eq!(running.serial(), Some(5));
    drop(running);
    let again = folder.start();
    assert_eq!(again.serial(), Some(5), "from the copy on disk");
    assert!(!again.has(1));
}

#[test]
fn a_start_without_url_and_without_copy_says_try_again() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let folder = folder(&format!("http://{closed}"), "");
    let error = folder.load().err().unwrap();
    assert_eq!(error.exit(), 75, "{error}");
    // A modified copy is no better than a modified table.
    let mut bytes = table(1);
    let last = bytes.len() - 5;
    bytes[last] ^= 1;
    folder.publish("cache/table.kgt", &bytes);
    let error = folder.load().err().unwrap();
    assert!(error.to_string().contains("SHA-256 differs"), "{error}");
}

#[test]
fn a_table_that_is_refused_does_not_replace_the_copy() {
    let server = Server::versioned("/t.kgt", &table(5));
    let folder = folder(&server.url(), "patch = \"\"\n");
    drop(folder.start());
    let copy = fs::read(folder.at("cache/table.kgt")).unwrap();
    // Genuine, but older than what was accepted.
    server.put("/t.kgt", &table(4));
    let error = folder.load().err().unwrap();
    assert!(error.to_string().contains("below 5"), "{error}");
    assert_eq!(fs::read(folder.at("cache/table.kgt")).unwrap(), copy);
    server.put("/t.kgt", &table(6));
    let running = folder.start();
    server.put("/t.kgt", &table(3));
    running.until("refused", |r| r.failures("table", "rollback") >= 1.0);
    assert_eq!(opened(&fs::read(folder.at("cache/table.kgt")).unwrap()).serial(), 6);
}

/// Two processes of one configuration, where one replaces the other, share the copy.
#[test]
fn a_copy_is_never_replaced_by_an_older_one() {
    let server = Server::versioned("/t.kgt", &table(5));
    let folder = folder(&server.url(), "patch = \"\"\n");
    let running = folder.start();
    let copy = || fs::read(folder.at("cache/table.kgt")).unwrap();
    assert_eq!(opened(&copy()).serial(), 5);
    // The other one was faster, and has a newer table.
    folder.publish("cache/table.kgt", &table(7));
    server.put("/t.kgt", &table(6));
    running.until_serial(6);
    running.until("asked again", |r| {
        r.metric("keygate_source_fetches_total{artefact=\"table\",result=\"unchanged\"}") >= 1.0
    });
    assert_eq!(opened(&copy()).serial(), 7);
    server.put("/t.kgt", &table(8));
    running.until("a newer copy", |_| opened(&copy()).serial() == 8);
    // A file without a trusted signature does not keep its place.
    let mut forged = table(20);
    forged[40] ^= 1;
    folder.publish("cache/table.kgt", &forged);
    server.put("/t.kgt", &table(9));
    running.until("a good copy", |_| copy() != forged);
    assert_eq!(opened(&copy()).serial(), 9);
}

/// A folder whose table and patch are on a server that may hold answers back. Polling alone would
/// take ten minutes.
fn waiting_folder(server: &Server) -> Folder {
    let folder = Folder::new();
    folder.configure(&format!(
        "url = \"{0}/t.kgt\"\npatch = \"{0}/p.kgp\"\npoll = \"10m\"\npatch_poll = \"10m\"\n\
         [table.http]\nlong_poll = \"20s\"\n",
        server.url()
    ));
    folder
}

/// What the last request for `path` said that it has.
fn last_has(server: &Server, path: &str) -> Option<String> {
    let asked = server.requests();
    let last = asked.iter().rfind(|r| r.path == path).unwrap();
    last.field("if-none-match").map(str::to_owned)
}

#[test]
fn a_server_that_waits_is_asked_again_at_once() {
    let base = table(1);
    let server = Server::versioned("/t.kgt", &base);
    server.put("/p.kgp", &revoking(2, &base, &[3]));
    let folder = waiting_folder(&server);
    let running = folder.start();
    running.until("waiting", |_| server.waiting() == 2);
    let asked = server.requests();
    let waits = asked.iter().find(|r| r.field("prefer").is_some()).unwrap();
    assert_eq!(waits.field("prefer"), Some("wait=20"));
    assert_eq!(waits.field("if-none-match"), Some("\"1\""));
    assert!(asked.iter().all(|r| r.field("keygate-instance") == Some("sidecar-1")), "{asked:?}");
    for n in 3..=40 {
        // Whether or not it is held back by then.
        server.put("/p.kgp", &revoking(n, &base, &[1]));
        running.until_patch(n);
    }
    assert!(!running.has(1));
    server.put("/t.kgt", &table_of(41, &[spec(2)]));
    running.until_serial(41);
    // A table causes a look at the patch, and then keygate waits for both again.
    running.until("waiting", |_| server.waiting() == 2);
    assert_eq!(last_has(&server, "/t.kgt").as_deref(), Some("\"2\""));
}

/// It need not tell the client: RFC 7240 section 3.
#[test]
fn a_server_may_wait_and_not_say_so() {
    let base = table(1);
    let server = Server::versioned("/t.kgt", &base);
    server.say_nothing_of_waits();
    server.let_go_after(Duration::from_millis(2_100));
    let folder = waiting_folder(&server);
    let running = folder.start();
    running.until("held twice", |_| {
        server.requests().iter().filter(|r| r.path == "/p.kgp").count() >= 3
            && server.waiting() == 2
    });
    server.put("/p.kgp", &revoking(2, &base, &[1]));
    running.until_patch(2);
    server.put("/p.kgp", &revoking(3, &base, &[1, 2]));
    running.until_patch(3);
}

#[test]
fn a_patch_that_is_not_there_is_waited_for() {
    let base = table(1);
    let server = Server::versioned("/t.kgt", &base);
    let folder = waiting_folder(&server);
    let running = folder.start();
    running.until("waiting", |_| server.waiting() == 2);
    let asked = server.requests();
    let patch = asked.iter().rfind(|r| r.path == "/p.kgp").unwrap();
    assert_eq!((patch.field("prefer"), patch.field("if-none-match")), (Some("wait=20"), None));
    server.put("/p.kgp", &revoking(2, &base, &[1]));
    running.until_patch(2);
    assert!(!running.has(1));
    assert_eq!(running.failures("patch", "status"), 0.0);
}

#[test]
fn a_table_that_is_not_there_is_waited_for() {
    let base = table(1);
    let server = Server::versioned("/else", b"");
    let folder = Folder::new();
    folder.configure(&format!(
        "url = \"{}/t.kgt\"\npatch = \"\"\npoll = \"10m\"\nwait_for_table = true\n\
         [table.http]\nlong_poll = \"20s\"\n",
        server.url()
    ));
    let running = folder.start();
    running.until("waiting", |_| server.waiting() == 1);
    server.put("/t.kgt", &base);
    running.until_serial(1);
    running.until("waiting", |_| server.waiting() == 1);
    assert_eq!(last_has(&server, "/t.kgt").as_deref(), Some("\"1\""));
}

/// What a sidecar says that it has is in force, so that the server can rely on it.
#[test]
fn what_was_refused_is_not_named_as_taken() {
    let base = table(5);
    let server = Server::versioned("/t.kgt", &base);
    server.put("/p.kgp", &revoking(6, &base, &[1]));
    let folder = folder(&server.url(), "[table.http]\nlong_poll = \"20s\"\n");
    let running = folder.start();
    running.until("waiting", |_| server.waiting() == 2);
    assert_eq!(last_has(&server, "/t.kgt").as_deref(), Some("\"1\""));
    // Genuine, and older than what is in force.
    server.put("/t.kgt", &table(4));
    running.until("refused", |r| r.failures("table", "rollback") >= 1.0);
    let before = server.requests().len();
    running.until("asked again", |_| {
        server.requests().iter().skip(before).any(|r| r.path == "/t.kgt")
    });
    assert_eq!(last_has(&server, "/t.kgt").as_deref(), Some("\"1\""));
    assert_eq!((running.serial(), running.patch()), (Some(5), Some(6)));
    server.put("/t.kgt", &table_of(7, &[spec(2)]));
    running.until_serial(7);
    running.until("waiting", |_| server.waiting() == 2);
    assert_eq!(last_has(&server, "/t.kgt").as_deref(), Some("\"3\""));
}

/// How many requests arrive in two seconds, from the fifth one on.
fn asked_in_two_seconds(server: &Server, more: &str) -> usize {
    let folder = folder(&server.url(), more);
    let running = folder.start();
    running.until("asked", |_| server.requests().len() >= 5);
    let before = server.requests().len();
    std::thread::sleep(Duration::from_secs(2));
    server.requests().len() - before
}

#[test]
fn a_server_that_says_it_waits_and_does_not_is_not_asked_in_a_loop() {
    for claim in ["wait=20", "none"] {
        let bytes = table(1);
        let server = Server::scripted(move |request| {
            let answer = match (&*request.path, request.field("if-none-match")) {
                ("/t.kgt", Some(_)) => Answer::new(304),
                ("/t.kgt", None) => Answer::new(200).field("etag", "\"1\"").body(&bytes),
                _ => Answer::new(404),
            };
            answer.field("preference-applied", claim)
        });
        let asked = asked_in_two_seconds(&server, "[table.http]\nlong_poll = \"20s\"\n");
        // Two sources that poll each second, and the one request each that is forgiven.
        assert!(asked <= 8, "{asked} requests in two seconds ({claim})");
    }
}

/// A server without validators sends the same again and again, and one with another fault has
/// something new at every request.
#[test]
fn no_server_is_asked_more_than_fifty_times_a_second() {
    let bytes = table(1);
    let server = Server::scripted(move |request| match &*request.path {
        "/t.kgt" => Answer::new(200).field("preference-applied", "wait=20").body(&bytes),
        _ => Answer::new(404),
    });
    let asked = asked_in_two_seconds(&server, "[table.http]\nlong_poll = \"20s\"\n");
    assert!(asked <= 8, "{asked} tables in two seconds that are no news");

    let base = table(1);
    let serial = std::sync::atomic::AtomicU64::new(1);
    let its = base.clone();
    let server = Server::scripted(move |request| match &*request.path {
        "/t.kgt" => Answer::new(200).body(&its),
        _ => {
            let serial = serial.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
            let etag = format!("\"{serial}\"");
            Answer::new(200)
                .field("etag", &etag)
                .field("preference-applied", "wait")
                .body(&revoking(serial, &its, &[1]))
        }
    });
    let asked = asked_in_two_seconds(&server, "[table.http]\nlong_poll = \"20s\"\n");
    assert!(asked <= 110, "{asked} requests in two seconds, all with news");
}

#[test]
fn redirects_are_followed_but_not_for_ever() {
    let bytes = table(1);
    let target = Server::scripted(move |request| match &*request.path {
        "/real" => Answer::new(200).body(&bytes),
        _ => Answer::new(404),
    });
    let elsewhere = format!("{}/real", target.url());
    let server = Server::scripted(move |request| match &*request.path {
        "/t.kgt" => Answer::new(302).field("location", "/hop"),
        "/hop" => Answer::new(307).field("location", &elsewhere),
        _ => Answer::new(302).field("location", "/loop"),
    });
    let folder = folder(&server.url(), "patch = \"\"\n");
    fs::write(folder.at("token"), "hunter2-token\n").unwrap();
    folder.configure(&format!(
        "url = \"{}/t.kgt\"\npatch = \"\"\n[table.http]\nbearer_file = \"token\"\n",
        server.url()
    ));
    let running = folder.start();
    assert_eq!(running.serial(), Some(1));
    assert_eq!(server.requests()[0].field("authorization"), Some("Bearer hunter2-token"));
    assert_eq!(
        target.requests()[0].field("authorization"),
        None,
        "the credential is not shown to another host"
    );
    let shown = format!("{:?}{}", running.cell.load(), running.metrics.render());
    assert!(!shown.contains("hunter2"));
    drop(running);
    folder.configure(&format!("url = \"{}/loop\"\npatch = \"\"\n", server.url()));
    let error = folder.load().err().unwrap();
    assert!(error.to_string().contains("redirects"), "{error}");
    assert_eq!(error.exit(), 75);
    assert!(server.requests().iter().filter(|r| r.path == "/loop").count() <= 6);
}

#[test]
fn what_is_too_long_is_not_read_on() {
    for endless in [false, true] {
        let server = Server::scripted(move |_| match endless {
            true => Answer::new(200).endless(),
            false => Answer::new(200).field("content-length", "99999999999").body(b"x"),
        });
        let folder = folder(&server.url(), "max_bytes = \"64KiB\"\n");
        let error = folder.load().err().unwrap();
        assert!(error.to_string().contains("at most 65536"), "{error}");
        assert_eq!(error.exit(), 65);
    }
}

#[test]
fn bad_answers_are_told_apart() {
    let bytes = table(1);
    let half = bytes.len() / 2;
    type Make = Box<dyn Fn() -> Answer + Send + Sync>;
    let cases: [(&str, Make); 4] = [
        ("status", Box::new(|| Answer::new(500))),
        ("encoding", Box::new(|| Answer::new(200).field("content-encoding", "gzip").body(b"x"))),
        ("network", {
            let (length, part) = (bytes.len().to_string(), bytes[..half].to_vec());
            Box::new(move || Answer::new(200).field("content-length", &length).body(&part))
        }),
        // The request named no version that could be unmodified.
        ("status", Box::new(|| Answer::new(304))),
    ];
    for (reason, make) in cases {
        let server = Server::scripted(move |_| make());
        let folder = folder(&server.url(), "patch = \"\"\n");
        let FirstLoadError::Keys { failure, .. } = folder.load().err().unwrap() else { panic!() };
        assert_eq!(failure.reason(), reason, "{failure}");
    }
}

#[test]
fn a_failing_server_is_asked_less_and_less() {
    let bytes = table(1);
    let down = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let its = Arc::clone(&down);
    let server = Server::scripted(move |_| match its.load(std::sync::atomic::Ordering::Relaxed) {
        true => Answer::new(503),
        false => Answer::new(200).body(&bytes),
    });
    let folder = folder(&server.url(), "patch = \"\"\n");
    let running = folder.start();
    down.store(true, std::sync::atomic::Ordering::Relaxed);
    running.until("failing", |r| r.failures("table", "status") >= 1.0);
    let before = server.requests().len();
    std::thread::sleep(Duration::from_secs(5));
    let asked = server.requests().len() - before;
    assert!(asked <= 3, "{asked} requests in five seconds; pauses are 2, 4, 8 s");
    assert_eq!(running.serial(), Some(1));
    // When triggered, it asks immediately.
    down.store(false, std::sync::atomic::Ordering::Relaxed);
    running.trigger();
    running.until("right again", |r| r.metric("keygate_table_last_reload_successful") == 1.0);
}

#[test]
fn tls_with_a_ca_of_ones_own() {
    let (server, ca) = Server::tls("localhost", &table(1));
    let port = server.url().rsplit(':').next().unwrap().to_owned();
    let folder = Folder::new();
    fs::write(folder.at("ca.pem"), &ca).unwrap();
    fs::write(folder.at("user"), "kg:hunter2").unwrap();
    let configure = |more: &str| {
        folder.configure(&format!(
            "url = \"https://localhost:{port}/t.kgt\"\npatch = \"\"\n[table.http]\n\
             basic_file = \"user\"\n{more}"
        ));
    };
    configure("");
    let error = folder.load().err().unwrap();
    assert_eq!(error.exit(), 75, "signed by nobody who is known: {error}");
    configure("ca = \"ca.pem\"\n");
    let running = folder.start();
    assert_eq!(running.serial(), Some(1));
    let sent = server.requests();
    let authorized = sent.iter().find(|r| r.field("authorization").is_some()).unwrap();
    assert_eq!(authorized.field("authorization"), Some("Basic a2c6aHVudGVyMg=="));
}

#[test]
fn validators_other_than_etags() {
    let bytes = table(1);
    let server = Server::scripted(move |request| match request.field("if-modified-since") {
        Some("Thu, 21 Nov 2024 03:00:00 GMT") => Answer::new(304),
        Some(_) => Answer::new(400),
        None => {
            Answer::new(200).field("last-modified", "Thu, 21 Nov 2024 03:00:00 GMT").body(&bytes)
        }
    });
    let folder = folder(&server.url(), "patch = \"\"\n");
    let running = folder.start();
    running.until("unchanged", |r| {
        r.metric("keygate_source_fetches_total{artefact=\"table\",result=\"unchanged\"}") >= 2.0
    });
    assert_eq!(running.failures("table", "status"), 0.0);
    let full = server.requests().iter().filter(|r| r.field("if-modified-since").is_none()).count();
    assert_eq!(full, 1);
}

/// Nobody signs what a server calls a version. With a false name, honest servers would hold back
/// all that follows.
#[test]
fn a_false_name_is_not_repeated() {
    for false_name in ["\"9000000000000000-00000000000000000000000000000000\"", "*"] {
        let serial = Arc::new(AtomicU64::new(1));
        let newest = Arc::clone(&serial);
        let server = Server::scripted(move |request| match request.field("if-none-match") {
            Some(_) => Answer::new(304),
            None => Answer::new(200)
                .field("etag", false_name)
                .field("last-modified", "Fri, 31 Dec 9999 23:59:59 GMT")
                .body(&table(newest.load(Ordering::Relaxed))),
        });
        let folder = folder(&server.url(), "patch = \"\"\n");
        let running = folder.start();
        running.until_serial(1);
        serial.store(2, Ordering::Relaxed);
        running.until_serial(2);
        assert!(server.requests().iter().all(|r| r.field("if-modified-since").is_none()));
    }
}
