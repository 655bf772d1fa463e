//! The calls for keys that products document, by their own clients, from end to end: a real sidecar
//! with the product's sample in front, a real management service after it on a Unix socket, and the
//! product's own service for everything else.

mod page;
mod used;

use std::path::{Path, PathBuf};

use super::*;
use crate::support::gate::keygatectl;
use crate::support::process::Process;

/// A product whose keys are managed by a management service.
struct Managed {
    product: Product,
    /// A key from before the service, with `archives:read`.
    spare: String,
    registrar: Registrar,
}

/// The product's management service.
struct Registrar {
    folder: PathBuf,
    /// Its configured address, and that of the product's own service.
    listen: String,
    upstream: String,
    /// The URL of its sidecar's admin listener; `None`: there is no sidecar yet.
    sidecar: Option<String>,
    /// `None`: it is down.
    process: Option<Process>,
}

/// The org of a product's page.
fn org_of(name: &str) -> &'static str {
    match name {
        "wa-gateway" => "org_acme",
        "we-link" => "client-crm",
        "weshape" => "company-1",
        _ => "my-organization",
    }
}

/// The token of a fleet, where a test adds one.
const FLEET_TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// A token that Whatomate gives to people with this role.
fn jwt(role: &str) -> String {
    let script = "import jwt, sys, time\n\
                  print(jwt.encode({'user_id': 'user-7', 'organization_id': 'my-organization', \
                  'email': 'kim@example.com', 'role': sys.argv[1], 'exp': int(time.time()) + 600}, \
                  'jwt-secret-of-the-service-0123456789', algorithm='HS256'))";
    run(tools::python().args(["-c", script, role])).trim().to_owned()
}

/// What `answer` holds at this place, as text.
fn text<'a>(answer: &'a Value, pointer: &str) -> &'a str {
    answer.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("{pointer}: {answer}"))
}

// === impl Registrar ===

impl Registrar {
    fn command(&self, arguments: &[&str]) -> std::process::Command {
        let uid = rustix::process::getuid().as_raw().to_string();
        let mut command = keygatectl(&self.folder);
        command.args(["admin", "--config", "admin.toml"]).args(arguments);
        let session = format!("{}/api/auth/session", self.upstream);
        command.env("KEYGATE_ADMIN_LISTEN", &self.listen).env("KEYGATE_UID", uid);
        command.env("KEYGATE_SESSION_URL", session);
        // Nothing answers at that port.
        let nobody = "http://127.0.0.1:9".to_owned();
        command.env("KEYGATE_SIDECAR", self.sidecar.as_ref().unwrap_or(&nobody));
        command
    }

    /// Starts it, or starts it again with its current configuration.
    fn serve(&mut self) {
        self.process = None;
        let process = Process::start(&mut self.command(&["serve"]));
        process.wait_for_line("listening on");
        self.process = Some(process);
    }

    /// `http://127.0.0.1:PORT`
    fn url(&self) -> String {
        let line = self.process.as_ref().unwrap().wait_for_line("listening on");
        line.rsplit(' ').next().unwrap().to_owned()
    }
}

// === impl Managed ===

impl Managed {
    /// The service has the keys of the product's registry, as after a migration.
    fn over(name: &'static str, upstream: &Upstream) -> Self {
        Self::with(name, upstream, "")
    }

    /// With an addition to its configuration.
    fn with(name: &'static str, upstream: &Upstream, more: &str) -> Self {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples");
        let folder = Folder::empty();
        let copy = |from: &str, to: &str| {
            std::fs::copy(examples.join(from), folder.file(to)).unwrap();
        };
        copy(&format!("{name}.toml"), "keygate.toml");
        copy(&format!("{name}.keys.toml"), "keys.toml");
        let admin = std::fs::read_to_string(examples.join(format!("{name}.admin.toml"))).unwrap();
        folder.write("admin.toml", &format!("{admin}{more}"));
        folder.write_secret(&format!("{name}.jwt-secret"), JWT_SECRET);
        folder.write_secret("fleet.token", FLEET_TOKEN);
        folder.signer("signer");
        let create = ["keys", "create", "--json", "--registry", "keys.toml", "--org", org_of(name)];
        let rest = ["--name", "Mobile App - iOS", "--permission", "archives:read"];
        let environment: &[&str] = if name == "weshape" { &["--env", "live"] } else { &[] };
        let owner =
            ["--owner", "user-1", "--owner-email", "a@example.com", "--owner-role", "admin"];
        let made =
            folder.ctl(&[&create[..], &rest, environment, &owner, &["--no-publish"]].concat());
        let made: Value = serde_json::from_str(made.lines().next().unwrap()).unwrap();
        let spare = made["secret"].as_str().unwrap().to_owned();
        // Those with documented endpoints are behind their sidecar. The others have a page.
        let socket = format!("unix:{}", folder.file("registrar.sock").display());
        let has_endpoints = matches!(name, "weshape" | "whatomate");
        let listen = if has_endpoints { socket.clone() } else { "127.0.0.1:0".to_owned() };
        let mut registrar = Registrar {
            folder: folder.path().to_owned(),
            listen,
            upstream: format!("http://{}", upstream.address),
            sidecar: None,
            process: None,
        };
        run(&mut registrar.command(&["migrate"]));
        run(&mut registrar.command(&["import", "keys.toml"]));
        registrar.serve();
        let table = folder.file(&format!("{name}.kgt"));
        let process = registrar.process.as_ref().unwrap();
        process.eventually("the first table", || table.exists());
        let gate = Gate::serve_with(
            folder,
            &[
                ("KEYGATE_LISTEN", "127.0.0.1:0"),
                ("KEYGATE_ADMIN", "127.0.0.1:0"),
                ("KEYGATE_UPSTREAM", &registrar.upstream),
                ("KEYGATE_REGISTRAR", &socket),
                ("KEYGATE_SIGNER", "signer.pub"),
            ],
        );
        gate.wait_ready();
        let product = Product { gate, name };
        // From now on the service knows where the sidecar is.
        registrar.sidecar = Some(format!("http://{}", product.gate.admin));
        registrar.serve();
        Self { product, spare, registrar }
    }

    /// The service fetches the sidecar's counts every 15 s, and when it starts.
    fn fetch_usage(&mut self) {
        self.registrar.serve();
    }

    /// A request with curl, with this method, credential and body.
    fn call(&self, method: &str, path: &str, credential: &str, body: &str) -> Answer {
        let body = match body {
            "" => String::new(),
            body => format!("-H 'Content-Type: application/json' -d '{body}'"),
        };
        let url = self.product.url();
        self.product.curl(&format!("curl -X {method} '{url}{path}' -H '{credential}' {body}"))
    }

    /// Waits until a request with this key gets this answer.
    fn eventually(&self, method: &str, path: &str, key: &str, status: u16) {
        let field = format!("X-API-Key: {key}");
        let is_so = || self.call(method, path, &field, "").status == status;
        self.product.gate.process.eventually(path, is_so);
    }
}

/// "List, create, delete", on the product's own URLs, with a person's token and with a key.
#[test]
fn whatomates_keys_from_creation_to_deletion() {
    let upstream = service();
    let product = Managed::over("whatomate", &upstream);
    let admin = format!("Authorization: Bearer {}", jwt("admin"));
    let body = r#"{"name": "Production Integration", "expires_at": "2031-12-31T23:59:59Z"}"#;
    let made = product.call("POST", "/api/api-keys", &admin, body);
    assert_eq!(made.status, 200, "{}", made.body);
    let told = made.json();
    let (id, secret) = (text(&told, "/data/id").to_owned(), text(&told, "/data/key").to_owned());
    let created = text(&told, "/data/created_at");
    let start = &secret[4..12];
    let want = format!(
        r#"{{"status":"success","data":{{"id":"{id}","name":"Production Integration","key":"{secret}","key_prefix":"{start}","expires_at":"2031-12-31T23:59:59Z","created_at":"{created}"}}}}"#
    );
    assert_eq!(made.body, want);
    // The service is called in the name of the person who created the key.
    let key = format!("X-API-Key: {secret}");
    assert_eq!(product.call("GET", "/api/contacts", &key, "").status, 200);
    let got = upstream.wait_for(1).pop().unwrap();
    assert_eq!(got.first_line(), "GET /api/contacts HTTP/1.1");
    let claims = token(&got);
    assert_eq!((&claims["user_id"], &claims["role"]), (&json!("user-7"), &json!("admin")));
    // With the key itself, as the page's clients do it.
    let list = product.call("GET", "/api/api-keys", &key, "");
    assert_eq!(list.status, 200, "{}", list.body);
    let first = format!(
        r#"{{"status":"success","data":[{{"id":"{id}","name":"Production Integration","key_prefix":"{start}","#
    );
    assert!(list.body.starts_with(&first), "{}", list.body);
    // Together with those of the registry.
    assert_eq!(list.json()["data"].as_array().unwrap().len(), 4, "{}", list.body);
    // Other people of the product may not, and requests that do not concern us continue as before.
    let agent = format!("Authorization: Bearer {}", jwt("agent"));
    let refused = product.call("GET", "/api/api-keys", &agent, "");
    let want = r#"{"status":"error","message":"Admin access required","data":null}"#;
    assert_eq!((refused.status, &*refused.body), (403, want));
    assert_eq!(product.call("GET", "/api/contacts", &agent, "").status, 200);
    let forged = "Authorization: Bearer eyJhbGciOiJub25lIn0.eyJyb2xlIjoiYWRtaW4ifQ.";
    assert_eq!(product.call("GET", "/api/api-keys", forged, "").status, 401);
    let stranger = "x-key-id: key_integration";
    assert_eq!(product.call("GET", "/api/api-keys", stranger, "").status, 401);
    let path = format!("/api/api-keys/{id}");
    let gone = product.call("DELETE", &path, &key, "");
    let want = r#"{"status":"success","data":{"message":"API key deleted successfully"}}"#;
    assert_eq!((gone.status, &*gone.body), (200, want));
    product.eventually("GET", "/api/contacts", &secret, 401);
    let list = product.call("GET", "/api/api-keys", &admin, "");
    assert!(!list.body.contains(&id), "{}", list.body);
    let again = product.call("DELETE", &path, &admin, "");
    let want = r#"{"status":"error","message":"API key not found","data":null}"#;
    assert_eq!((again.status, &*again.body), (404, want));
}

/// "This action is immediate": by the time of the answer, a new key opens the product and a deleted one
/// does not, with the files as they are shipped.
#[test]
fn whatomates_changes_count_when_they_are_answered() {
    let upstream = service();
    let product = Managed::over("whatomate", &upstream);
    let admin = format!("Authorization: Bearer {}", jwt("admin"));
    for round in 0..5 {
        let body = format!(r#"{{"name": "Round {round}"}}"#);
        let made = product.call("POST", "/api/api-keys", &admin, &body);
        assert_eq!(made.status, 200, "{}", made.body);
        let told = made.json();
        let key = format!("X-API-Key: {}", text(&told, "/data/key"));
        assert_eq!(product.call("GET", "/api/contacts", &key, "").status, 200, "round {round}");
        let path = format!("/api/api-keys/{}", text(&told, "/data/id"));
        assert_eq!(product.call("DELETE", &path, &admin, "").status, 200);
        assert_eq!(product.call("GET", "/api/contacts", &key, "").status, 401, "round {round}");
    }
    // What is below the documented URLs is answered in the same form.
    for path in ["/api/api-keys/", "/api/api-keys/x/y"] {
        let answer = product.call("GET", path, &admin, "");
        let want = r#"{"status":"error","message":"There is nothing at this URL","data":null}"#;
        assert_eq!((answer.status, &*answer.body), (404, want), "{path}");
    }
}

/// "Retrieve all API keys for your company", and the permissions of one.
#[test]
fn weshapes_keys_and_their_permissions() {
    let upstream = service();
    let product = Managed::over("weshape", &upstream);
    // The page's own key, which is from the registry.
    let key = "X-Api-Key: wsk_live_your_api_key_here";
    let list = product.call("GET", "/api/auth/apikeys", key, "");
    assert_eq!(list.status, 200, "{}", list.body);
    let printed = r#"{"id":"key_def456","name":"Development Key","createdAt":"2026-02-01T14:00:00Z","lastUsed":null}"#;
    assert!(list.body.starts_with(r#"{"apiKeys":[{"id":"key_"#), "{}", list.body);
    assert!(list.body.contains(printed), "{}", list.body);
    let secret = &product.spare;
    let keys = list.json();
    let ios = keys["apiKeys"].as_array().unwrap().iter().find(|k| k["name"] == "Mobile App - iOS");
    let id = ios.unwrap()["id"].as_str().unwrap();
    let path = format!("/api/v3/companies/company-1/api-keys/{id}/permissions");
    let answer = product.call("GET", &path, key, "");
    assert_eq!((answer.status, &*answer.body), (200, r#"{"permissions":["archives:read"]}"#));
    let write = "/api/v3/archives";
    let own = format!("X-Api-Key: {secret}");
    assert_eq!(product.call("POST", write, &own, "").status, 403);
    let more = r#"{"permissions":["archives:read","archives:write"]}"#;
    let answer = product.call("PUT", &path, key, more);
    assert_eq!((answer.status, &*answer.body), (200, more));
    assert_eq!(product.call("POST", write, &own, "").status, 200, "the answer says it is in force");
    // As the page writes the URL.
    let printed = path.replace("/api/v3/", "/v3/");
    let answer = product.call("GET", &printed, key, "");
    assert_eq!((answer.status, &*answer.body), (200, more));
    let answer = product.call("PUT", &printed, key, r#"{"permissions":["archives:read"]}"#);
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(product.call("POST", write, &own, "").status, 403);
    assert_eq!(product.call("GET", &printed, &own, "").status, 403);
    // Nobody gains anything from it.
    let cases = [
        (key, r#"{"permissions":["apikeys:write"]}"#, 403, "Forbidden"),
        (key, r#"{"permissions":["archives:burn"]}"#, 400, "Bad Request"),
        (&*own, r#"{"permissions":["archives:read"]}"#, 403, "Forbidden"),
    ];
    for (key, body, status, error) in cases {
        let answer = product.call("PUT", &path, key, body);
        assert_eq!(answer.status, status, "{}", answer.body);
        assert_eq!(answer.json()["error"], error, "{}", answer.body);
        assert!(answer.json()["errorMessage"].is_string(), "{}", answer.body);
    }
    let foreign = path.replace("company-1", "company-2");
    let answer = product.call("GET", &foreign, key, "");
    let json = answer.json();
    assert_eq!(answer.status, 404, "{json}");
    for (name, want) in
        [("error", "Not Found"), ("errorMessage", "API key not found"), ("code", "no_such_key")]
    {
        assert_eq!(json[name], want, "{json}");
    }
}
