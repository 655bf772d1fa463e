//! `[upstream.credential]`: an unmodified service gets a credential that it knows, for the right
//! caller and nobody else, on every way to it. And the secret stays where it is.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::assertion::{claims, new_key};
use crate::support::client::{Client, exchange};
use crate::support::gate::{Folder, Gate, Key, READER, Setup, keygate};
use crate::support::h2raw::{H2, get};
use crate::support::h2upstream::{Http2Upstream, Reply};
use crate::support::process::run;
use crate::support::tools;
use crate::support::upstream::{Step, Upstream, answer, send};

const SECRET: &str = "whatomate-jwt-secret-0123456789abcdef";
const OTHER_SECRET: &str = "another-jwt-secret-0123456789abcdefgh";

const ADMIN: &str = "wa_Admin0123456789abcdefghijkl";
const ONCE: &str = "wa_Once00123456789abcdefghijk";
const OWNER: &str = "owner = { subject = \"5f1c\", email = \"kim@example.com\", role = \"admin\" }";

/// The claims of Whatomate's own tokens.
const JWT: &str = r#"[upstream.credential]
kind = "jwt"
algorithm = "HS256"
secret_file = "jwt-secret"
claims = '{"user_id":"$owner.subject","organization_id":"$org","email":"$owner.email","role":"$owner.role","exp":"$exp"}'
"#;

/// With a key that belongs to kim, who has everything that the claims need.
fn setup(setup: Setup, section: &str) -> Folder {
    let kim = Key::new("key_admin", ADMIN).of_org("org-1").may("*").with(OWNER);
    let folder = setup.key(kim).format_2().upstream_option(section).folder();
    folder.write_secret("jwt-secret", &format!("{SECRET}\n"));
    folder
}

fn start(upstream: &Upstream) -> Gate {
    let gate = Gate::serve(setup(Gate::before(upstream), JWT));
    gate.wait_ready();
    gate
}

fn request(path: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: a\r\n{fields}\r\n")
}

fn keyed(path: &str, key: &str) -> String {
    request(path, &format!("x-api-key: {key}\r\n"))
}

/// The token of the one request that arrived.
fn token(values: &[String]) -> String {
    assert_eq!(values.len(), 1, "{values:?}");
    values[0].strip_prefix("Bearer ").unwrap_or_else(|| panic!("{values:?}")).to_owned()
}

/// How pyjwt reads a token, with this secret or public key.
fn pyjwt(token: &str, secret: &str, algorithm: &str) -> Value {
    let script = "import json, jwt, sys\n\
                  print(json.dumps(jwt.decode(sys.argv[1], sys.argv[2], algorithms=[sys.argv[3]], \
                  options={'require': ['exp']})))";
    let said = run(tools::python().args(["-c", script, token, secret, algorithm]));
    serde_json::from_str(&said).unwrap()
}

#[test]
fn whatomates_claims_are_verified_by_pyjwt() {
    let upstream = Upstream::start();
    let gate = start(&upstream);
    assert_eq!(exchange(gate.address, keyed("/v1/a", ADMIN)).status(), 200);
    let got = upstream.only();
    let mut said = pyjwt(&token(&got.all("authorization")), SECRET, "HS256");
    assert!(said["exp"].take().is_u64());
    assert_eq!(
        said,
        json!({
            "user_id": "5f1c", "organization_id": "org-1", "email": "kim@example.com",
            "role": "admin", "exp": null,
        })
    );
    assert!(got.all("x-api-key").is_empty());
    assert_eq!(got.one("x-org-id").as_deref(), Some("org-1"));
}

#[test]
fn eddsa_and_a_fixed_value() {
    let upstream = Upstream::start();
    let section = JWT.replace("HS256", "EdDSA") + "key_id = \"gate-1\"\nlife = \"10s\"\n";
    let folder = setup(Gate::before(&upstream), &section);
    folder.write_secret("jwt-secret", &new_key());
    let public = run(tools::command("openssl")
        .args(["pkey", "-in", "jwt-secret", "-pubout"])
        .current_dir(folder.path()));
    let gate = Gate::serve(folder);
    gate.wait_ready();
    assert_eq!(exchange(gate.address, keyed("/v1/a", ADMIN)).status(), 200);
    let said = pyjwt(&token(&upstream.only().all("authorization")), &public, "EdDSA");
    assert_eq!(said["organization_id"], "org-1");
    drop(gate);
    let fixed = "[upstream.credential]\nkind = \"fixed\"\nsecret_file = \"jwt-secret\"\n\
                 field = \"X-Service-Token\"\n";
    let rules = "[[credentials]]\nsource = \"header\"\nname = \"x-api-key\"\n\
                 [[routes]]\npath = \"/*\"\naccess = \"key-or-pass\"\n";
    let folder = setup(Gate::before(&upstream).rules(rules), fixed);
    folder.write_secret("jwt-secret", "s3rvice t0ken\n");
    let gate = Gate::serve(folder);
    gate.wait_ready();
    // No owner is needed, and nobody else can write a field of keygate's own.
    for (key, sent) in [(READER, vec!["s3rvice t0ken".to_owned()]), ("", Vec::new())] {
        let fields =
            format!("x-api-key: {key}\r\nX-Service-Token: mine\r\nauthorization: Basic YTpi\r\n");
        assert_eq!(exchange(gate.address, request("/either/a", &fields)).status(), 200);
        let got = upstream.only();
        assert_eq!(got.all("x-service-token"), sent);
        assert_eq!(got.all("authorization"), ["Basic YTpi"], "it is not the credential's field");
    }
}

#[test]
fn a_key_without_an_owner_is_refused_and_listed() {
    let upstream = Upstream::start();
    let half = Key::new("key_half", "wa_Half0123456789abcdefghijklm")
        .may("*")
        .with("owner = { subject = \"u-2\" }\nlimit = \"2/h\"");
    let folder = setup(Gate::before(&upstream).key(half), JWT);
    let gate = Gate::serve(folder);
    gate.wait_ready();
    for (key, missing) in
        [(READER, "owner.subject"), ("wa_Half0123456789abcdefghijklm", "owner.email")]
    {
        for _ in 0..4 {
            let refused = exchange(gate.address, keyed("/v1/a", key));
            assert_eq!((refused.status(), refused.code().as_str()), (403, "no_upstream_identity"));
            assert!(refused.body_text().contains(missing), "{}", refused.body_text());
            // Refused before anything is charged.
            assert!(refused.all("ratelimit").is_empty());
        }
    }
    assert!(upstream.take().is_empty(), "no request without the claim");
    let metrics = gate.metrics();
    let refused = "decision=\"rejected\",reason=\"no_upstream_identity\",route=\"v1\"} 8";
    assert!(metrics.contains(refused), "{metrics}");
    assert!(gate.log_soon("\"no_upstream_identity\""));
    // `check` lists the keys, and `explain` says what is missing.
    let said =
        keygate(gate.folder.path()).args(["check", "--config", "keygate.toml"]).output().unwrap();
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    for wanted in ["key_reader (owner.subject)", "key_half (owner.email)", "no_upstream_identity"] {
        assert!(text.contains(wanted), "{text}");
    }
    assert!(!text.contains("key_admin ("), "{text}");
    let explain =
        ["explain", "--config", "keygate.toml", "--key-id", "key_half", "--path", "/v1/a"];
    let said = keygate(gate.folder.path()).args(explain).output().unwrap();
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(text.contains("no_upstream_identity") && text.contains("$owner.email"), "{text}");
}

/// Two orgs, many connections, over both workers: the token always belongs to the key.
#[test]
fn two_orgs_never_get_each_others_token() {
    let upstream = Upstream::answering(|m| {
        let org = |value: Option<String>| value.unwrap_or_default();
        let of_token =
            m.one("authorization").map(|value| claims(&value)["organization_id"].to_string());
        let same = of_token == m.one("x-org-id").map(|org| format!("{org:?}"));
        let status = if same { "200 OK" } else { "500 Mixed" };
        answer(status, &format!("x-of: {}\r\n", org(m.one("x-org-id"))), "")
    });
    let other = Key::new("key_other", "wa_Other0123456789abcdefghijkl")
        .of_org("org-2")
        .may("*")
        .with(&OWNER.replace("5f1c", "77aa"));
    let setup_two = Gate::before(&upstream).key(other).also("[workers]\ncount = 2");
    let folder = setup(setup_two, JWT);
    let gate = Gate::serve(folder);
    gate.wait_ready();
    let answered = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (gate, answered) = (&gate, &answered);
            scope.spawn(move || {
                let mut client = Client::connect(gate.address);
                for n in 0..150 {
                    // Two keys alternate on one connection.
                    let (key, org) = match (thread + n) % 2 {
                        0 => (ADMIN, "org-1"),
                        _ => ("wa_Other0123456789abcdefghijkl", "org-2"),
                    };
                    let got = client.send(keyed("/v1/a", key)).response();
                    assert_eq!((got.status(), got.one("x-of").as_deref()), (200, Some(org)));
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // New tables meanwhile, so that caches are emptied under load.
        for serial in 2..6 {
            gate.folder.build_as("keys.kgt", &["--format", "2", "--serial", &serial.to_string()]);
            gate.wait_serial(serial);
        }
    });
    assert_eq!(answered.load(Ordering::Relaxed), 8 * 150);
}

#[test]
fn a_strangers_token_passes_untouched_and_gets_none() {
    let upstream = Upstream::start();
    let gate = start(&upstream);
    let stranger = "authorization: Bearer eyJ.user.jwt\r\n";
    for (path, key) in [("/either/a", ""), ("/public/a", ""), ("/public/a", ADMIN)] {
        let fields = format!("x-api-key: {key}\r\n{stranger}");
        assert_eq!(exchange(gate.address, request(path, &fields)).status(), 200);
        assert_eq!(upstream.only().all("authorization"), ["Bearer eyJ.user.jwt"], "{path} {key}");
    }
    assert_eq!(exchange(gate.address, request("/either/a", "")).status(), 200);
    assert!(upstream.only().all("authorization").is_empty());
    // Together with a key for keygate, whatever is there is removed, in every spelling.
    for name in ["authorization", "Authorization", "AUTHORIZATION"] {
        let fields = format!("x-api-key: {ADMIN}\r\n{name}: Bearer eyJ.user.jwt\r\n");
        assert_eq!(exchange(gate.address, request("/either/a", &fields)).status(), 200);
        let sent = token(&upstream.only().all("authorization"));
        assert_eq!(claims(&sent)["user_id"], "5f1c");
    }
    // The key itself, where it is a bearer.
    let fields = format!("authorization: Bearer {ADMIN}\r\n");
    assert_eq!(exchange(gate.address, request("/v1/a", &fields)).status(), 200);
    let sent = token(&upstream.only().all("authorization"));
    assert_eq!(claims(&sent)["organization_id"], "org-1");
    assert!(!upstream.saw(ADMIN.as_bytes()));
}

/// While the service gets the caller's own credential, it gets none of ours, whoever is enforced.
#[test]
fn none_while_the_service_gets_the_callers_own() {
    for (observe, ours) in [
        ("", false),
        ("enforce = \"100%\"\n", false),
        ("until = 2020-01-01T00:00:00Z\n", false),
        ("credentials = \"strip\"\n", true),
        ("enforce = \"100%\"\ncredentials = \"strip\"\n", true),
    ] {
        let upstream = Upstream::start();
        let setup_observing = Gate::before(&upstream).also(&format!("[observe]\n{observe}"));
        let gate = Gate::serve(setup(setup_observing, JWT));
        gate.wait_ready();
        // The reader's key has no owner, and would be refused.
        for key in [ADMIN, READER] {
            let fields = format!("x-api-key: {key}\r\nauthorization: Bearer eyJ.user.jwt\r\n");
            let answer = exchange(gate.address, request("/v1/a", &fields));
            if ours && key == READER && observe.contains("100%") {
                assert_eq!(answer.code(), "no_upstream_identity");
                continue;
            }
            assert_eq!(answer.status(), 200, "{observe} {key}: {}", answer.body_text());
            let sent = upstream.only().all("authorization");
            match ours {
                // Its claims have no value: it gets neither another's credential nor one of ours.
                true if key == READER => assert!(!format!("{sent:?}").contains("organization_id")),
                true => assert_eq!(claims(&token(&sent))["user_id"], "5f1c"),
                false => assert_eq!(sent, ["Bearer eyJ.user.jwt"], "{observe} {key}"),
            }
        }
    }
}

/// hyper's way, because of names in the client's spelling; HTTP/2; upgrades.
#[test]
fn every_way_to_the_service() {
    let upstream = Upstream::start();
    let spelt = format!("preserve_header_case = true\n{JWT}");
    let gate = Gate::serve(setup(Gate::before(&upstream), &spelt));
    gate.wait_ready();
    let fields =
        format!("X-Api-Key: {ADMIN}\r\nAUTHORIZATION: Bearer eyJ.user.jwt\r\nX-Other: 1\r\n");
    assert_eq!(exchange(gate.address, request("/v1/a", &fields)).status(), 200);
    assert_eq!(claims(&token(&upstream.only().all("authorization")))["user_id"], "5f1c");
    drop(gate);

    let http2 = Http2Upstream::answering(|_| Reply::ok("hello"));
    let gate = Gate::serve(setup(Gate::before_url(&http2.url()), JWT));
    gate.wait_ready();
    let fields = format!("x-api-key: {ADMIN}\r\nauthorization: Bearer eyJ.user.jwt\r\n");
    assert_eq!(exchange(gate.address, request("/v1/a", &fields)).status(), 200);
    let seen = http2.only();
    let sent: Vec<String> = seen.all("authorization").iter().map(|v| (*v).to_owned()).collect();
    assert_eq!(claims(&token(&sent))["user_id"], "5f1c");
    let mut h2 = H2::connect(gate.address);
    assert_eq!(h2.exchange(1, &get("/v1/a", ADMIN)).status, Some(200));
    let seen = http2.only();
    let sent: Vec<String> = seen.all("authorization").iter().map(|v| (*v).to_owned()).collect();
    assert_eq!(claims(&token(&sent))["user_id"], "5f1c");
    drop(gate);

    let upstream = Upstream::answering(|m| {
        let accept = super::proto_ws::accept(&m.one("sec-websocket-key").unwrap_or_default());
        let mut steps = send(format!(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-accept: {accept}\r\n\r\n"
        ));
        steps.push(Step::Echo);
        steps
    });
    let gate = start(&upstream);
    drop(super::proto_ws::open(gate.address, "/ws/a", ADMIN));
    assert_eq!(claims(&token(&upstream.only().all("authorization")))["user_id"], "5f1c");
}

#[test]
fn the_secret_is_watched_and_shown_nowhere() {
    let upstream = Upstream::start();
    let gate = start(&upstream);
    let sent = || {
        assert_eq!(exchange(gate.address, keyed("/v1/a", ADMIN)).status(), 200);
        token(&upstream.only().all("authorization"))
    };
    let first = sent();
    assert_eq!(sent(), first, "used again");
    assert_eq!(pyjwt(&first, SECRET, "HS256")["role"], "admin");
    // Readable by others, or too short: the old one stays in force.
    gate.folder.write("open", OTHER_SECRET);
    run(tools::command("chmod").args(["644", "open"]).current_dir(gate.folder.path()));
    std::fs::rename(gate.folder.file("open"), gate.folder.file("jwt-secret")).unwrap();
    assert!(gate.log_soon("its mode is 0644"), "{}", gate.log());
    assert_eq!(pyjwt(&sent(), SECRET, "HS256")["role"], "admin");
    gate.folder.write_secret("jwt-secret", "short-s3cret");
    assert!(gate.log_soon("shorter than 16 bytes"), "{}", gate.log());
    assert_eq!(pyjwt(&sent(), SECRET, "HS256")["role"], "admin");
    gate.folder.write_secret("jwt-secret", OTHER_SECRET);
    // Another token proves nothing: each worker makes its own.
    let is_in_force = || gate.log().contains("configuration in force");
    gate.process.eventually("the new secret in force", is_in_force);
    assert_eq!(pyjwt(&sent(), OTHER_SECRET, "HS256")["role"], "admin");
    let status = gate.probe("/status").body_text();
    let shown = format!("{}{status}{}", gate.log(), gate.metrics());
    for secret in [SECRET, OTHER_SECRET, "short-s3cret", &first] {
        assert!(!shown.contains(secret), "{secret} is shown");
    }
}

/// It is our fault, not the caller's: counted, and logged once.
#[test]
fn a_401_of_the_service_is_counted() {
    let upstream = Upstream::answering(|_| answer("401 Unauthorized", "", ""));
    let gate = start(&upstream);
    for _ in 0..3 {
        assert_eq!(exchange(gate.address, keyed("/v1/a", ADMIN)).status(), 401);
    }
    // A stranger's token is a stranger's fault.
    let stranger = request("/either/a", "authorization: Bearer eyJ.user.jwt\r\n");
    assert_eq!(exchange(gate.address, stranger).status(), 401);
    let metrics = gate.metrics();
    assert!(metrics.contains("\nkeygate_upstream_credential_refused_total 3\n"), "{metrics}");
    assert!(gate.log_soon("the service answered 401 to the credential"));
}

/// A narrowed key, or a revoked one, never gets an earlier token.
#[test]
fn a_changed_key_never_meets_an_old_token() {
    let upstream = Upstream::start();
    let gate = start(&upstream);
    let sent = || {
        assert_eq!(exchange(gate.address, keyed("/v1/a", ADMIN)).status(), 200);
        claims(&token(&upstream.only().all("authorization")))
    };
    assert_eq!(sent()["role"], "admin");
    let registry = gate.folder.read("keys.toml");
    gate.folder.write("keys.toml", &registry.replace("role = \"admin\"", "role = \"agent\""));
    gate.folder.build_as("keys.kgt", &["--format", "2", "--serial", "2"]);
    gate.wait_serial(2);
    assert_eq!(sent()["role"], "agent");
}

/// Metrics say what the service got: a request that is refused after all was sent no token.
#[test]
fn only_tokens_that_are_sent_are_counted() {
    let upstream = Upstream::start();
    let limited = Key::new("key_once", ONCE).of_org("org-1").may("*").with(OWNER);
    let setup = Gate::before(&upstream).key(limited.with("limit = \"1/h\""));
    let gate = Gate::serve(self::setup(setup, JWT));
    gate.wait_ready();
    assert_eq!(exchange(gate.address, keyed("/v1/a", ONCE)).status(), 200);
    for _ in 0..3 {
        assert_eq!(exchange(gate.address, keyed("/v1/a", ONCE)).status(), 429);
    }
    let metrics = gate.metrics();
    let counted = metrics
        .lines()
        .filter(|line| line.starts_with("keygate_upstream_credentials_total"))
        .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap());
    assert!((counted.sum::<f64>() - 1.0).abs() < f64::EPSILON, "{metrics}");
}

/// The owner's subject, only where the configuration names a field for it. Nobody else sets it.
#[test]
fn the_owner_is_sent_in_a_field_of_its_own_if_one_is_named() {
    for (section, wanted) in
        [("", None), ("[identity]\nowner = \"x-key-owner\"\n", Some("5f1c".to_owned()))]
    {
        let upstream = Upstream::start();
        let gate = Gate::serve(setup(Gate::before(&upstream).also(section), JWT));
        gate.wait_ready();
        let asked = request("/v1/a", &format!("x-api-key: {ADMIN}\r\nx-key-owner: root\r\n"));
        assert_eq!(exchange(gate.address, asked).status(), 200);
        let seen = upstream.only().all("x-key-owner");
        match wanted {
            Some(subject) => assert_eq!(seen, [subject]),
            None => assert_eq!(seen, ["root"], "not keygate's field"),
        }
    }
}
