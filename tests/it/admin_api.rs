//! The API of the management service, as its document describes it: schemathesis sends what it
//! allows and what it does not, in each role. No answer is a 5xx, or one that the document does not
//! declare.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::support::client::exchange;
use crate::support::gate::{Folder, keygatectl};
use crate::support::process::Process;

/// If set, all roles are tested, for as long as it takes.
const FULL: &str = "KEYGATE_ADMIN_FULL";

const SETTINGS: &str = "state = \"state\"\n\n[listen]\naddress = \"127.0.0.1:0\"\n\n\
    [[audiences]]\nname = \"shop\"\nmember_permissions = [\"read\"]\n\n\
    [[audiences.permissions]]\nword = \"read\"\nsentence = \"See orders\"\n\n\
    [[fleets]]\nname = \"web\"\naudiences = [\"shop\"]\nbearer_file = \"fleet.token\"\n";

/// A running service with a key that may do everything that keys may do.
struct Service {
    folder: Folder,
    process: Process,
    address: std::net::SocketAddr,
    key: String,
}

// === impl Service ===

impl Service {
    fn start() -> Self {
        let folder = Folder::empty();
        folder.write("admin.toml", SETTINGS);
        folder.write_secret("fleet.token", "0123456789abcdef0123456789abcdef");
        folder.ctl(&["admin", "migrate"]);
        folder.ctl(&["-r", "keys.jsonl", "keys", "init", "--audience", "shop", "--prefix", "kg"]);
        let words = "read,keys:read,keys:write,keys:revoke,usage:read,audit:read";
        let create = ["-r", "keys.jsonl", "keys", "create", "--org", "acme", "--name", "all"];
        let made = folder.ctl(&[&create[..], &["--permission", words, "--json"]].concat());
        let made: serde_json::Value = serde_json::from_str(&made).unwrap();
        folder.ctl(&["admin", "import", "keys.jsonl"]);
        let process = Process::start(keygatectl(folder.path()).args(["admin", "serve"]));
        let line = process.wait_for_line("listening on http://");
        let address = line.rsplit('/').next().unwrap().trim().parse().unwrap();
        let key = made["secret"].as_str().unwrap().to_owned();
        Self { folder, process, address, key }
    }

    /// The cookie of a person who has signed in with a link.
    fn cookie(&self, arguments: &[&str]) -> String {
        let link = self.folder.ctl(&[&["admin", "bootstrap"][..], arguments].concat());
        let token = link.lines().next().unwrap().split('#').nth(1).unwrap();
        let body = format!("token={token}");
        let told = exchange(
            self.address,
            format!(
                "POST /sign-in HTTP/1.1\r\nhost: {}\r\nsec-fetch-site: same-origin\r\n\
                 content-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\n{body}",
                self.address,
                body.len()
            ),
        );
        assert_eq!(told.status(), 303, "{}", told.body_text());
        told.one("set-cookie").unwrap().split(';').next().unwrap().to_owned()
    }

    /// What schemathesis finds in `time`, with these fields in every request.
    fn try_as(&self, role: &str, fields: &[String], time: Duration) {
        let tool =
            concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/schemathesis/bin/schemathesis");
        assert!(Path::new(tool).exists(), "{tool} is missing\nhint: make tools");
        let url = format!("http://{}", self.address);
        let mut command = Command::new(tool);
        command
            .current_dir(self.folder.path())
            .env("NO_PROXY", "*")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env(
                "SCHEMATHESIS_HOOKS",
                concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/py/ndjson_hook.py"),
            )
            .args(["run", &format!("{url}/v1/openapi.json"), "--no-color", "--seed", "1"])
            .args(["--phases", "coverage,fuzzing", "--max-examples", "10"])
            .args(["--max-time", &time.as_secs().to_string(), "--request-timeout", "30"])
            .args(["--suppress-health-check", "all", "--warnings", "off"])
            .arg("--continue-on-failure")
            .args([
                "--checks",
                "not_a_server_error,status_code_conformance,content_type_conformance,\
                 response_schema_conformance,response_headers_conformance",
            ]);
        for field in fields {
            command.args(["--header", field]);
        }
        let output = command.output().unwrap();
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "as {role}:\n{told}\n{}", self.process.output());
        assert!(told.contains("Test cases:"), "it has tried nothing:\n{told}");
    }
}

#[test]
fn no_answer_is_one_that_the_document_does_not_declare() {
    let service = Service::start();
    let full = std::env::var_os(FULL).is_some();
    let time = Duration::from_secs(if full { 180 } else { 15 });
    let person = |arguments: &[&str]| {
        vec![format!("cookie:{}", service.cookie(arguments)), "sec-fetch-site:same-origin".into()]
    };
    service.try_as("owner", &person(&["--org", "acme"]), time);
    service.try_as("key", &[format!("x-api-key:{}", service.key)], time);
    if full {
        for role in ["admin", "member", "auditor"] {
            let arguments = ["--org", "acme", "--role", role, "--name", role];
            service.try_as(role, &person(&arguments), time);
        }
        service.try_as("operator", &person(&["--name", "operator"]), time);
        service.try_as("foreign owner", &person(&["--org", "globex", "--name", "foreign"]), time);
        let fleet = "authorization:Bearer 0123456789abcdef0123456789abcdef".to_owned();
        service.try_as("fleet", &[fleet], time);
        service.try_as("nobody", &[], time);
    }
}

#[test]
fn the_document_that_is_served_is_the_one_in_docs() {
    let service = Service::start();
    let told = exchange(
        service.address,
        format!("GET /v1/openapi.json HTTP/1.1\r\nhost: {}\r\n\r\n", service.address),
    );
    let served: serde_json::Value = serde_json::from_slice(&told.body).unwrap();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");
    let docs: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    assert_eq!(served, docs);
    let database = service.folder.path().join("state/registrar.db");
    assert_eq!(std::fs::metadata(database).unwrap().permissions().mode() & 0o777, 0o600);
}
