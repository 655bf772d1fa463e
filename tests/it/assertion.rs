//! The signed assertion: verified by the documented programs while its key changes. It is never
//! made by a client, and never states what a key has lost.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::support::client::{Client, exchange};
use crate::support::gate::{Folder, Gate, MANAGER, READER, Setup, keygate};
use crate::support::h2raw::{H2, get};
use crate::support::process::run;
use crate::support::tools;
use crate::support::upstream::Upstream;

const FIELD: &str = "x-identity-assertion";
const SECTION: &str = "[assertion]\nkey_file = \"assertion.pem\"\naudience = \"orders\"\n";

/// A new Ed25519 key, as operators make it.
pub(crate) fn new_key() -> String {
    run(tools::command("openssl").args(["genpkey", "-algorithm", "ed25519"]))
}

fn start_with(setup: Setup, section: &str) -> Gate {
    let folder = setup.also(section).folder();
    folder.write_secret("assertion.pem", &new_key());
    let gate = Gate::serve(folder);
    gate.wait_ready();
    gate
}

/// Claims, not verified.
pub(crate) fn claims(token: &str) -> Value {
    part(token, 1)
}

fn part(token: &str, at: usize) -> Value {
    let part = token.split('.').nth(at).unwrap_or_else(|| panic!("no token: {token}"));
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

/// The one assertion that the service got for a request with `key`.
fn assertion(gate: &Gate, upstream: &Upstream, key: &str) -> String {
    let request = format!("GET /v1/a?b=c HTTP/1.1\r\nhost: a\r\nx-api-key: {key}\r\n\r\n");
    assert_eq!(exchange(gate.address, request).status(), 200);
    upstream.only().one(FIELD).expect("an assertion")
}

fn key_ids(gate: &Gate) -> Vec<String> {
    let answer = gate.probe("/jwks.json");
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.one("content-type").as_deref(), Some("application/jwk-set+json"));
    let keys = answer.json()["keys"].as_array().unwrap().clone();
    keys.iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}

/// A program of docs/assertion.md that runs until it is dropped.
struct Verifier {
    name: &'static str,
    child: Child,
    input: ChildStdin,
    answers: Receiver<String>,
}

/// The code block of this language.
fn documented(language: &str) -> String {
    let page = include_str!("../../docs/assertion.md");
    let begin = format!("\n```{language}\n");
    let (_, code) = page.split_once(&begin).expect("a block of this language");
    assert!(!code.contains(&begin), "two blocks of {language}");
    code.split_once("\n```\n").expect("its end").0.to_owned()
}

fn verifiers(folder: &Path, jwks: &str) -> Vec<Verifier> {
    for (language, file) in [("python", "verify.py"), ("js", "verify.mjs"), ("go", "verify.go")] {
        std::fs::write(folder.join(file), documented(language)).unwrap();
    }
    let cache = concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/go-cache");
    let mut build = tools::command("go");
    build.args(["build", "-o", "verify-go", "verify.go"]).current_dir(folder);
    run(build
        .env("GOCACHE", cache)
        .env("GO111MODULE", "off")
        .env("GOFLAGS", "")
        .env("HOME", folder));
    let mut python = tools::python();
    python.arg("verify.py").current_dir(folder);
    let mut node = tools::node_in(folder);
    node.arg("verify.mjs");
    let go = Command::new(folder.join("verify-go"));
    [("python", python), ("node", node), ("go", go)]
        .into_iter()
        .map(|(name, mut command)| Verifier::start(name, command.env("JWKS", jwks)))
        .collect()
}

impl Verifier {
    fn start(name: &'static str, command: &mut Command) -> Self {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).env("NO_PROXY", "*");
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{name}: {e}"));
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (said, answers) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = said.send(line);
            }
        });
        Self { name, child, input, answers }
    }

    fn ask(&mut self, token: &str) -> String {
        writeln!(self.input, "{token}").unwrap();
        let answer = self.answers.recv_timeout(Duration::from_secs(60));
        answer.unwrap_or_else(|e| panic!("{}: {e}", self.name))
    }

    fn believes(&mut self, token: &str) -> Value {
        let answer = self.ask(token);
        serde_json::from_str(&answer).unwrap_or_else(|_| panic!("{}: {answer}", self.name))
    }

    fn refuses(&mut self, why: &str, token: &str) {
        let answer = self.ask(token);
        assert!(answer.starts_with("refused: "), "{}, {why}: {answer}", self.name);
    }
}

impl Drop for Verifier {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An unsigned token, and one "signed" by HMAC with the public key.
fn forgeries(token: &str, public: &[u8]) -> [String; 2] {
    let body = token.split('.').nth(1).unwrap();
    let kid = part(token, 0)["kid"].clone();
    let head = |alg: &str| {
        BASE64_URL_SAFE_NO_PAD.encode(json!({ "alg": alg, "kid": kid, "typ": "JWT" }).to_string())
    };
    let signed = format!("{}.{body}", head("HS256"));
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, public);
    let tag = aws_lc_rs::hmac::sign(&key, signed.as_bytes());
    let tag = BASE64_URL_SAFE_NO_PAD.encode(tag.as_ref());
    [format!("{}.{body}.", head("none")), format!("{signed}.{tag}")]
}

#[test]
fn python_node_and_go_verify_it_while_the_key_changes() {
    let upstream = Upstream::start();
    let gate = start_with(Gate::before(&upstream), SECTION);
    let jwks = format!("http://{}/jwks.json", gate.admin);
    let mut verifiers = verifiers(gate.folder.path(), &jwks);
    let first = assertion(&gate, &upstream, READER);
    for verifier in &mut verifiers {
        let said = verifier.believes(&first);
        let expected = [
            ("iss", "keygate"),
            ("aud", "orders"),
            ("sub", "key_reader"),
            ("org", "acme"),
            ("scope", "read"),
            ("env", "live"),
        ];
        for (claim, value) in expected {
            assert_eq!(said[claim], value, "{}", verifier.name);
        }
        let life = said["exp"].as_u64().unwrap() - said["iat"].as_u64().unwrap();
        assert_eq!(life, 60, "{}", verifier.name);
    }
    // A new key in the same file.
    assert_eq!(key_ids(&gate).len(), 1);
    gate.folder.write_secret("assertion.pem", &new_key());
    gate.process.eventually("both keys", || key_ids(&gate).len() == 2);
    gate.process.eventually("the new key signs", || {
        let token = assertion(&gate, &upstream, READER);
        part(&token, 0)["kid"] != part(&first, 0)["kid"]
    });
    let second = assertion(&gate, &upstream, READER);
    assert_eq!(
        key_ids(&gate)[0],
        part(&second, 0)["kid"].as_str().unwrap(),
        "the signing one first"
    );
    for verifier in &mut verifiers {
        // None of them fetches keys twice in a second.
        let soon = std::time::Instant::now() + Duration::from_secs(10);
        while verifier.ask(&second).starts_with("refused: ") && std::time::Instant::now() < soon {
            std::thread::sleep(Duration::from_millis(200));
        }
        assert_eq!(verifier.believes(&second)["sub"], "key_reader");
        // An assertion that is on its way when the key changes.
        assert_eq!(verifier.believes(&first)["sub"], "key_reader");
    }
    // The key belongs to nobody else.
    let spki = run(tools::command("openssl")
        .args(["pkey", "-in", "assertion.pem", "-pubout"])
        .current_dir(gate.folder.path()));
    let der: String = spki.lines().filter(|line| !line.starts_with("--")).collect();
    let raw = BASE64_STANDARD.decode(der).unwrap().split_off(12);
    let [none, hmac] = forgeries(&second, &raw);
    let [_, hmac_pem] = forgeries(&second, spki.as_bytes());
    let mut changed = second.clone().into_bytes();
    let at = second.find('.').unwrap() + 20;
    changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
    let changed = String::from_utf8(changed).unwrap();
    for verifier in &mut verifiers {
        verifier.refuses("alg none", &none);
        verifier.refuses("the public key as a secret", &hmac);
        verifier.refuses("its PEM as a secret", &hmac_pem);
        verifier.refuses("changed claims", &changed);
        verifier.refuses("no token", "hello");
    }
}

/// Two keys in the file: the first signs, and both are published.
#[test]
fn a_key_is_published_before_it_signs() {
    let upstream = Upstream::start();
    let (old, new) = (new_key(), new_key());
    let folder = Gate::before(&upstream).also(SECTION).folder();
    folder.write_secret("assertion.pem", &format!("{old}{new}"));
    let gate = Gate::serve(folder);
    gate.wait_ready();
    let ids = key_ids(&gate);
    assert_eq!(ids.len(), 2);
    assert_eq!(part(&assertion(&gate, &upstream, READER), 0)["kid"], *ids[0]);
    gate.folder.write_secret("assertion.pem", &format!("{new}{old}"));
    gate.process.eventually("the other signs", || {
        part(&assertion(&gate, &upstream, READER), 0)["kid"] == *ids[1]
    });
    assert_eq!(key_ids(&gate), [ids[1].as_str(), ids[0].as_str()]);
}

/// An unusable file changes nothing, and the next good one is used.
#[test]
fn a_bad_key_file_leaves_the_old_key_in_force() {
    let upstream = Upstream::start();
    let gate = start_with(Gate::before(&upstream), SECTION);
    let before = key_ids(&gate);
    let signer = gate.folder.read("signer.pem");
    for (text, why) in
        [("no key", "no PKCS#8 private key"), (signer.as_str(), "is a trusted signer of tables")]
    {
        gate.folder.write_secret("assertion.pem", text);
        assert!(gate.log_soon(why), "{}", gate.log());
        assert_eq!(key_ids(&gate), before);
        assert_eq!(part(&assertion(&gate, &upstream, READER), 0)["kid"], *before[0]);
        let error = gate.probe("/status").json()["config"]["error"].to_string();
        assert!(error.contains(why), "{error}");
    }
    gate.folder.write_secret("assertion.pem", &new_key());
    gate.process.eventually("another key", || key_ids(&gate)[0] != before[0]);
}

/// A client's own field is removed in every spelling, on every kind of route, also in trailers.
#[test]
fn nobody_else_writes_it() {
    let upstream = Upstream::start();
    let gate = start_with(Gate::before(&upstream).top("underscores = \"allow\""), SECTION);
    let forged = "eyJmb3JnZWQiOnRydWV9";
    for path in ["/v1/a", "/public/a", "/either/a"] {
        for name in [FIELD, "X-Identity-Assertion", "x_identity_assertion", "X-Identity.Assertion"]
        {
            for key in [READER, ""] {
                let request = format!(
                    "POST {path} HTTP/1.1\r\nhost: a\r\nx-api-key: {key}\r\n{name}: {forged}\r\n\
                     transfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n{name}: {forged}\r\n\r\n"
                );
                let answer = exchange(gate.address, request);
                for got in upstream.take() {
                    let admitted = got.one("x-key-id").is_some();
                    let mine = got.all(FIELD);
                    assert_eq!(
                        mine.len(),
                        usize::from(admitted),
                        "{path} {name}: {:?}",
                        got.names()
                    );
                    assert_eq!(answer.status(), 200);
                }
            }
        }
    }
    assert!(!upstream.saw(forged.as_bytes()), "a forged one arrived");
    let mut h2 = H2::connect(gate.address);
    let mut fields = get("/public/a", "");
    fields.push((FIELD, forged));
    assert_eq!(h2.exchange(1, &fields).status, Some(200));
    assert!(upstream.only().all(FIELD).is_empty());
    // Naming it in `Connection` would remove it without our knowledge.
    let named = format!(
        "GET /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\nconnection: {FIELD}\r\n\r\n"
    );
    let refused = exchange(gate.address, named);
    assert_eq!((refused.status(), refused.code().as_str()), (400, "bad_connection_header"));
    assert!(upstream.take().is_empty());
}

/// One signature for many requests of a key. A key that loses something never gets an old
/// assertion.
#[test]
fn a_narrowed_key_never_meets_an_old_assertion() {
    let upstream = Upstream::start();
    let setup = Gate::before(&upstream).also("[workers]\ncount = 1");
    let gate = start_with(setup, SECTION);
    let first = assertion(&gate, &upstream, MANAGER);
    let reader = assertion(&gate, &upstream, READER);
    assert_eq!(
        (claims(&first)["scope"].as_str(), claims(&reader)["sub"].as_str()),
        (Some("*"), Some("key_reader"))
    );
    assert!(claims(&first).get("env").is_none());
    for _ in 0..5 {
        assert_eq!(assertion(&gate, &upstream, MANAGER), first);
        assert_eq!(assertion(&gate, &upstream, READER), reader);
    }
    let metrics = gate.metrics();
    for line in [
        "\nkeygate_assertions_total{result=\"cached\"} 10\n",
        "\nkeygate_assertions_total{result=\"signed\"} 2\n",
    ] {
        assert!(metrics.contains(line), "{metrics}");
    }
    let registry = gate.folder.read("keys.toml");
    let narrowed = registry.replace("permissions = [\"*\"]", "permissions = [\"read\"]");
    assert_ne!(narrowed, registry);
    gate.folder.write("keys.toml", &narrowed);
    gate.folder.build_as("keys.kgt", &["--serial", "2"]);
    gate.wait_serial(2);
    assert_eq!(claims(&assertion(&gate, &upstream, MANAGER))["scope"], "read");
}

#[test]
fn bound_to_one_request() {
    let upstream = Upstream::start();
    let gate = start_with(Gate::before(&upstream), &format!("{SECTION}bind = \"request\"\n"));
    let first = assertion(&gate, &upstream, READER);
    let second = assertion(&gate, &upstream, READER);
    assert_ne!(first, second);
    let request = format!("PUT /v1/a%20b?c=d HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n\r\n");
    let answer = exchange(gate.address, request);
    let got = upstream.only();
    let said = claims(&got.one(FIELD).unwrap());
    assert_eq!((&said["method"], &said["path"]), (&json!("PUT"), &json!("/v1/a%20b")));
    assert_eq!(said["request_id"].as_str(), answer.one("x-request-id").as_deref());
    assert_eq!(got.one("x-request-id").as_deref(), said["request_id"].as_str());
    assert!(gate.metrics().contains("\nkeygate_assertions_total{result=\"cached\"} 0\n"));
}

/// Everybody who reaches either admin listener may read the public keys; nothing private is there.
#[test]
fn public_keys_are_for_everybody() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    assert_eq!(gate.probe("/jwks.json").status(), 404);
    drop(gate);
    let gate = start_with(Gate::before(&upstream), SECTION);
    let text = gate.probe("/jwks.json").body_text();
    let mut members: Vec<String> = Vec::new();
    for key in serde_json::from_str::<Value>(&text).unwrap()["keys"].as_array().unwrap() {
        members.extend(key.as_object().unwrap().keys().cloned());
    }
    members.sort();
    assert_eq!(members, ["alg", "crv", "kid", "kty", "use", "x"]);
    let mut client = Client::connect(gate.admin);
    client.send("POST /jwks.json HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 0\r\n\r\n");
    assert_eq!(client.response().status(), 405);
}

#[test]
fn check_refuses_a_trusted_signer() {
    let folder: Folder = Gate::before_url("http://127.0.0.1:9").also(SECTION).folder();
    folder.write_secret("assertion.pem", &folder.read("signer.pem"));
    let said = keygate(folder.path()).args(["check", "--config", "keygate.toml"]).output().unwrap();
    let text = String::from_utf8_lossy(&said.stderr).into_owned();
    assert_eq!(said.status.code(), Some(78), "{text}");
    let line =
        folder.read("keygate.toml").lines().position(|l| l.starts_with("key_file")).unwrap() + 1;
    assert!(text.contains(&format!("keygate.toml:{line}:")), "{text}");
    assert!(text.contains("is a trusted signer of tables") && text.contains("\nhint: "), "{text}");
}
