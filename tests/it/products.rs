//! The four documented products, from end to end: each page's own example requests, as printed, with
//! only scheme, host and key replaced, through `config/examples/` in front of an unmodified service.
//!
//! What the clients print is checked as well as the exact bytes at the service: a documented client
//! must not notice that the check moved out of the product.

#[cfg(feature = "admin")]
mod managed;
mod wa_gateway;
mod we_link;
mod weshape;
mod whatomate;

use std::path::Path;

use serde_json::{Value, json};

use crate::support::client::exchange;
use crate::support::gate::{Folder, Gate};
use crate::support::nginx::Nginx;
use crate::support::process::run;
use crate::support::tools;
use crate::support::upstream::{Recorded, Upstream, answer};

/// A product behind keygate, with its sample configuration and registry from the repository.
struct Product {
    gate: Gate,
    name: &'static str,
}

fn service() -> Upstream {
    Upstream::answering(|m| {
        let line = m.first_line();
        answer("200 OK", "content-type: application/json\r\n", &json!({ "did": line }).to_string())
    })
}

// === impl Product ===

impl Product {
    fn before(name: &'static str, upstream: &str) -> Self {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples");
        let folder = Folder::empty();
        std::fs::copy(examples.join(format!("{name}.toml")), folder.file("keygate.toml")).unwrap();
        std::fs::copy(examples.join(format!("{name}.keys.toml")), folder.file("keys.toml"))
            .unwrap();
        folder.write_secret(&format!("{name}.jwt-secret"), JWT_SECRET);
        folder.signer("signer");
        folder.build();
        let gate = Gate::serve_with(
            folder,
            &[
                ("KEYGATE_LISTEN", "127.0.0.1:0"),
                ("KEYGATE_ADMIN", "127.0.0.1:0"),
                ("KEYGATE_UPSTREAM", upstream),
                // Calls about keys are answered there too. The service's own tests check the
                // answers.
                ("KEYGATE_REGISTRAR", upstream),
                ("KEYGATE_TABLE", "keys.kgt"),
                ("KEYGATE_SIGNER", "signer.pub"),
                ("KEYGATE_STATE", "state"),
            ],
        );
        gate.wait_ready();
        Self { gate, name }
    }

    fn over(name: &'static str, upstream: &Upstream) -> Self {
        Self::before(name, &format!("http://{}", upstream.address))
    }

    fn url(&self) -> String {
        format!("http://{}", self.gate.address)
    }

    /// Runs `keygatectl keys …`, publishes immediately, and waits until it is in force.
    fn keys(&self, arguments: &[&str]) -> Value {
        let publish = ["--json", "--publish", "keys.kgt", "--signer", "signer.pem"];
        let owner: &[&str] = match arguments.first() {
            Some(&"create") if self.name != "we-link" => &[
                "--owner",
                "user-1",
                "--owner-email",
                "admin@example.com",
                "--owner-role",
                "admin",
            ],
            _ => &[],
        };
        let said = self.gate.folder.ctl(&[&["keys"], arguments, owner, &publish].concat());
        let first = said.lines().next().unwrap_or_default();
        let said: Value = serde_json::from_str(first).unwrap_or_else(|e| panic!("{e}: {said}"));
        let serial = said["serial"].as_u64().unwrap_or_else(|| panic!("no serial in {said}"));
        self.gate.wait_serial(serial);
        said
    }

    /// A request in bash that prints what `curl -i` prints.
    fn curl(&self, printed: &str) -> Answer {
        // Options that change only what is shown, from outside the printed command.
        self.gate.folder.write(".curlrc", "silent\nshow-error\ninclude\n");
        let mut bash = tools::command("bash");
        bash.args(["-eu", "-c", printed])
            .env("CURL_HOME", self.gate.folder.path())
            .env("NO_PROXY", "*");
        Answer::parse(&run(&mut bash))
    }

    fn refused(&self, status: u16, code: &str, answer: &Answer) {
        assert_eq!(answer.status, status, "{}: {}", self.name, answer.body);
        assert_eq!(answer.json()["code"], code, "{}: {}", self.name, answer.body);
    }
}

/// What a client of a page printed.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

// === impl Answer ===

impl Answer {
    fn parse(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {text}"));
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("status");
        Self { status, head: head.to_lowercase(), body: body.into() }
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }
}

/// What the samples' services verify their tokens with.
const JWT_SECRET: &str = "jwt-secret-of-the-service-0123456789";

/// The claims of the one token that keygate has made for the service.
fn token(got: &Recorded) -> Value {
    let sent = got.all("authorization");
    assert_eq!(sent.len(), 1, "{sent:?}");
    let token = sent[0].strip_prefix("Bearer ").unwrap_or_else(|| panic!("{sent:?}"));
    let script = "import json, jwt, sys\n\
                  print(json.dumps(jwt.decode(sys.argv[1], sys.argv[2], algorithms=['HS256'])))";
    serde_json::from_str(&run(tools::python().args(["-c", script, token, JWT_SECRET]))).unwrap()
}

/// The identity fields that arrived, and no credential of the caller.
fn identity(got: &Recorded) -> Vec<String> {
    for carrier in ["x-api-key", "x-api-secret"] {
        assert!(got.all(carrier).is_empty(), "{carrier} arrived");
    }
    if !got.all("authorization").is_empty() {
        // One that the service's own secret verifies, so not one that a caller sent.
        token(got);
    }
    let ours = [
        "x-org-id",
        "x-key-id",
        "x-key-name",
        "x-permissions",
        "x-environment",
        "x-anonymous",
        "x-subject",
        "x-token-issuer",
        "x-credential",
        "x-identity-assertion",
    ];
    ours.iter().flat_map(|n| got.all(n).into_iter().map(move |v| format!("{n}: {v}"))).collect()
}

// A service that we did not write.

/// All four in front of a real nginx, which reports what it received.
#[test]
fn in_front_of_a_real_nginx() {
    let nginx = Nginx::start();
    for (name, printed, key, org) in [
        (
            "we-link",
            "curl -X POST HOST/api/v1/login_v2 -H 'x-api-key: 12345-abcde-67890-fghij' -H 'x-api-secret: KEY' -d '{}'",
            "98765-zyxwv-43210-utsrq",
            "client-crm",
        ),
        (
            "wa-gateway",
            "curl HOST/api/v1/sessions -H \"Authorization: Bearer KEY\"",
            "wa_example_dashboard",
            "org_acme",
        ),
        (
            "whatomate",
            "curl -X GET \"HOST/api/contacts\" -H \"X-API-Key: KEY\"",
            "whm_a1b2c3d4e5f6g7h8i9j0k1l2m3n4o5p6",
            "my-organization",
        ),
        (
            "weshape",
            "curl HOST/api/v3/archives -H \"X-Api-Key: KEY\"",
            weshape::WESHAPE_KEY,
            "company-1",
        ),
    ] {
        let product = Product::before(name, &nginx.url());
        let answer = product.curl(&printed.replace("HOST", &product.url()).replace("KEY", key));
        assert_eq!(answer.status, 200, "{name}: {}", answer.body);
        assert!(answer.head.contains("server: nginx"), "{name}: {}", answer.head);
        let body = answer.body.as_str();
        match name {
            "we-link" => assert_eq!(body, format!("org={org} key= auth= secret=\n"), "{name}"),
            // A token for the service, and nothing of the caller's.
            _ => {
                assert!(body.starts_with(&format!("org={org} key= auth=Bearer eyJ")), "{body}");
                assert!(body.ends_with(" secret=\n") && !body.contains(key), "{body}");
            }
        }
        let refused =
            product.curl(&printed.replace("HOST", &product.url()).replace("KEY", "wa_nope"));
        assert_eq!(refused.status, 401, "{name}");
        assert!(!refused.head.contains("nginx"), "{name}: keygate answers, not the service");
    }
}
