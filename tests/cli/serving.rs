//! `keygatectl admin serve` as curl sees it: signing in, keys, a socket, the end.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
};

use crate::support::{Ran, Room};

const ADMIN: &str =
    "state = \"state\"\n[listen]\naddress = \"ADDRESS\"\n[[audiences]]\nname = \"shop\"\n";

/// The running service. Killed when the test fails.
struct Service {
    child: Child,
    /// `http://127.0.0.1:PORT`, or `unix:PATH`.
    url: String,
}

// === impl Service ===

impl Service {
    fn start(room: &Room, address: &str) -> Self {
        Self::start_with(room, &ADMIN.replace("ADDRESS", address))
    }

    fn start_with(room: &Room, settings: &str) -> Self {
        room.write("admin.toml", settings);
        room.ok(&["admin", "migrate"]);
        let mut command = room.command(&["admin", "serve"]);
        let log = std::fs::File::create(room.path("serve.log")).unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.strip_prefix("listening on ").unwrap_or_else(|| {
            panic!("{line:?} {}", room.read("serve.log"));
        });
        Self { child, url: url.trim().to_owned() }
    }

    /// Ends it as a service manager would. Returns its exit code.
    fn stop(mut self) -> Option<i32> {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        self.child.wait().unwrap().code()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What curl prints: the body, and the status on a line of its own.
fn curl(room: &Room, arguments: &[&str]) -> String {
    let mut command = Command::new("curl");
    command.args(["-sS", "--max-time", "20", "-w", "\n%{http_code}"]).args(arguments);
    let ran = Ran::of(command.current_dir(room.root()).output().unwrap());
    assert_eq!(ran.code, 0, "{arguments:?}\n{}", ran.stderr);
    ran.stdout
}

fn status(answer: &str) -> &str {
    answer.rsplit('\n').next().unwrap_or_default()
}

/// What the page puts into its forms.
fn form_token(cookie: &str) -> String {
    let hash = digest::digest(&digest::SHA256, format!("keygate form\0{cookie}").as_bytes());
    BASE64_URL_SAFE_NO_PAD.encode(hash.as_ref())
}

#[test]
fn somebody_signs_in_by_a_link_and_out_again() {
    let room = Room::new();
    let service = Service::start(&room, "127.0.0.1:0");
    let url = |path: &str| format!("{}{path}", service.url);
    assert_eq!(curl(&room, &[&url("/healthz")]), "ok\n\n200");
    let told = room.json(&["admin", "bootstrap", "--org", "acme", "--name", "kim"]);
    assert_eq!((&told["role"], &told["org"]), (&"owner".into(), &"acme".into()), "{told}");
    let link = told["url"].as_str().unwrap();
    let (_, token) = link.split_once("/sign-in#").unwrap();
    let page = curl(&room, &[&url("/sign-in")]);
    assert!(page.contains(r#"name="token""#) && page.contains("Sign in</button>"), "{page}");
    assert_eq!(status(&page), "200");
    assert!(curl(&room, &[&url("/page.js")]).contains("location.hash"));
    let (data, origin) = (format!("token={token}"), format!("origin: {}", service.url));
    // Without the field that every browser sends, nobody is signed in, and the link stays valid.
    let forged = curl(&room, &["-d", &data, &url("/sign-in")]);
    assert!(forged.contains("\"cross_site\"") && status(&forged) == "403", "{forged}");
    let jar = ["-c", "jar", "-b", "jar"];
    let sign_in = url("/sign-in");
    let entered = [&jar[..], &["-d", &data, "-H", &origin, &sign_in]].concat();
    assert_eq!(status(&curl(&room, &entered)), "303");
    let again = curl(&room, &["-d", &data, "-H", &origin, &url("/sign-in")]);
    assert_eq!(status(&again), "401", "{again}");
    let kept = room.read("jar");
    let cookie = kept.lines().find(|line| line.contains("__Host-keygate")).unwrap();
    let cookie = cookie.rsplit('\t').next().unwrap().to_owned();
    assert!(!room.read("serve.log").contains(&cookie), "no secret in the log");
    for file in ["state/registrar.db", "state/registrar.db-wal"] {
        let bytes = std::fs::read(room.path(file)).unwrap_or_default();
        for secret in [&cookie, token] {
            let is_there = bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
            assert!(!is_there, "{file} holds a secret");
        }
    }
    let field = format!("cookie: __Host-keygate={cookie}");
    let form = format!("form={}&org=acme", form_token(&cookie));
    let choose = |more: &[&str]| {
        curl(&room, &[&["-H", &field, "-d", &form][..], more, &[&url("/session/org")]].concat())
    };
    assert_eq!(status(&choose(&[])), "403", "no origin");
    assert_eq!(status(&choose(&["-H", "origin: https://evil.example"])), "403");
    assert_eq!(status(&choose(&["-H", "sec-fetch-site: same-site"])), "403");
    assert_eq!(status(&choose(&["-H", &origin])), "303");
    let out = ["-H", &field, "-d", &form, "-H", &origin];
    let out = curl(&room, &[&out[..], &["-D", "-", &url("/sign-out")]].concat());
    assert!(out.contains("Max-Age=0") && status(&out) == "303", "{out}");
    assert_eq!(status(&choose(&["-H", &origin])), "401", "the session has ended");
    let address = service.url.strip_prefix("http://").unwrap().to_owned();
    assert_eq!(service.stop(), Some(0));
    assert!(std::net::TcpStream::connect(address).is_err(), "nobody listens any more");
    let lines = room.ok(&["admin", "verify-audit"]);
    assert!(lines.contains("lines, the last with hash"), "{lines}");
}

/// A key that is revoked on the command line is refused by the service a moment later.
#[test]
fn a_revoked_key_is_refused_at_once() {
    let room = Room::with_registry();
    let issued = room.create(&["--name", "CRM", "--permission", "keys:read"]);
    room.write("admin.toml", ADMIN.replace("ADDRESS", "127.0.0.1:0"));
    room.ok(&["admin", "migrate"]);
    room.ok(&["admin", "import", "keys.toml"]);
    let service = Service::start(&room, "127.0.0.1:0");
    // The only place of the plain service that asks who the caller is: a key has no session.
    let url = format!("{}/session/org", service.url);
    let bearer = format!("authorization: Bearer {}", issued.secret);
    let ask = || curl(&room, &["-H", &bearer, "-d", "org=acme", &url]);
    assert!(ask().contains("\"no_credential\""), "let in, and has no session");
    let wrong = curl(&room, &["-H", "x-api-key: nonsense", "-d", "org=acme", &url]);
    assert!(wrong.contains("\"invalid_credential\""), "{wrong}");
    let who = format!("{}/v1/whoami?say={}", service.url, issued.secret);
    assert_eq!(status(&curl(&room, &["-H", &bearer, &who])), "200");
    // Refused here immediately, and by sidecars once somebody publishes: this audience has no
    // signer.
    let told = room.fails(75, &["admin", "revoke", &issued.id]);
    assert!(told.contains("no signer is configured"), "{told}");
    assert!(ask().contains("\"invalid_credential\""));
    let cookie = format!("cookie: __Host-keygate={}", issued.secret);
    assert_eq!(status(&curl(&room, &["-H", &cookie, &who])), "401");
    assert_eq!(service.stop(), Some(0));
    let log = room.read("serve.log");
    assert!(!log.contains(&issued.secret), "{log}");
    let lines: Vec<serde_json::Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |route: &str, status: u64| {
        let found = |line: &&serde_json::Value| line["route"] == route && line["status"] == status;
        lines.iter().find(found).unwrap_or_else(|| panic!("{route} {status}:\n{log}"))
    };
    let known = of("/v1/whoami", 200);
    assert_eq!((&known["caller"], &known["target"]), (&"key".into(), &"access".into()), "{known}");
    assert_eq!((&known["method"], &known["client"]), (&"GET".into(), &"127.0.0.1".into()));
    assert!(known["duration_us"].is_u64(), "{known}");
    assert_eq!(known["request_id"].as_str().map(str::len), Some(32), "{known}");
    assert!(of("/v1/whoami", 401)["caller"].is_null());
}

#[test]
fn a_unix_socket_is_there_while_the_service_is() {
    let room = Room::new();
    let socket = room.path("registrar.sock");
    let address = format!("unix:{}", socket.display());
    let service = Service::start(&room, &address);
    assert_eq!(service.url, address);
    let socket_of = socket.to_str().unwrap();
    let told = curl(&room, &["--unix-socket", socket_of, "http://registrar/healthz"]);
    assert_eq!(status(&told), "200");
    let taken = room.run(&["admin", "serve"]);
    assert_eq!(taken.code, 73, "{}", taken.stderr);
    assert!(taken.stderr.contains("hint: set another `listen.address`"), "{}", taken.stderr);
    assert_eq!(service.stop(), Some(0));
    assert!(!socket.exists());
}

/// An authority's certificates for the service, for its sidecar and for somebody else.
fn certificates(room: &Room) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "authority");
    room.write("ca.pem", params.self_signed(&key).unwrap().pem());
    let issuer = Issuer::new(params, key);
    for name in ["service", "edge", "other"] {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        room.write(&format!("{name}.pem"), params.signed_by(&key, &issuer).unwrap().pem());
        room.write(&format!("{name}.key"), key.serialize_pem());
    }
}

#[test]
fn a_sidecar_is_known_by_its_certificate() {
    let room = Room::new();
    certificates(&room);
    let settings = ADMIN.replace("ADDRESS", "127.0.0.1:0").replace(
        "[[audiences]]",
        "[listen.tls]\ncertificate = \"service.pem\"\nkey = \"service.key\"\n\
         client_ca = \"ca.pem\"\n[[people.sidecars]]\nsubjects = [\"CN=edge\"]\n[[audiences]]",
    );
    let service = Service::start_with(&room, &settings);
    let url = format!("{}/session/org", service.url);
    assert!(url.starts_with("https://127.0.0.1:"), "{url}");
    let ask = |more: &[&str]| {
        let said = ["--cacert", "ca.pem", "-H", "x-key-id: key_none", "-H", "x-org-id: acme"];
        curl(&room, &[&said[..], &["-d", "org=acme", &url], more].concat())
    };
    let edge = ask(&["--cert", "edge.pem", "--key", "edge.key"]);
    assert!(edge.contains("\"invalid_credential\""), "its word counts: no such key. {edge}");
    let other = ask(&["--cert", "other.pem", "--key", "other.key"]);
    assert!(other.contains("\"no_credential\""), "another's does not: {other}");
    assert!(ask(&[]).contains("\"no_credential\""), "nor that of nobody");
    // A new authority and certificate, without a restart. Before that, an unusable file.
    let old = ["--cacert", "old.pem"];
    room.write("old.pem", room.read("ca.pem"));
    room.write("service.pem", "nothing");
    let until = |what: &str, done: &dyn Fn() -> bool| {
        for _ in 0..600 {
            if done() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        panic!("{what}");
    };
    let metrics = format!("{}/metrics", service.url);
    // Empty if the certificate was not issued by that authority.
    let shown = |ca: &[&str]| {
        let mut command = Command::new("curl");
        command.args(["-sS", "--max-time", "20", "-w", "\n%{http_code}"]).args(ca).arg(&metrics);
        let ran = Ran::of(command.current_dir(room.root()).output().unwrap());
        if ran.code == 0 { ran.stdout } else { String::new() }
    };
    until("a file of no use is told", &|| {
        shown(&old).contains("keygate_admin_certificate_reloads_total{result=\"failed\"}")
    });
    assert_eq!(status(&shown(&old)), "200", "what was in force stays");
    certificates(&room);
    let new = ["--cacert", "ca.pem"];
    until("the new certificate is served", &|| !shown(&new).is_empty());
    assert!(shown(&old).is_empty(), "the old one is not");
    let text = shown(&new);
    let line = "keygate_admin_certificate_expiry_timestamp_seconds{name=\"";
    assert!(text.contains(line) && text.contains("service.pem\"}"), "{text}");
    let edge = ask(&["--cert", "edge.pem", "--key", "edge.key"]);
    assert!(edge.contains("\"invalid_credential\""), "of the new authority: {edge}");
    assert_eq!(service.stop(), Some(0));
}
