//! The four documented products, from end to end: each page's own example requests, as printed, with
//! only scheme, host and key replaced, through `config/examples/` in front of an unmodified service.
//!
//! What the clients print is checked as well as the exact bytes at the service: a documented client
//! must not notice that the check moved out of the product.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::client::exchange;
use crate::support::gate::{Folder, Gate};
use crate::support::nginx::Nginx;
use crate::support::process::run;
use crate::support::tools;
use crate::support::upstream::{Recorded, Upstream, answer};

/// A product behind keygate: its sample configuration and registry, as they lie in the repository.
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
        folder.signer("signer");
        folder.build();
        let gate = Gate::serve_with(
            folder,
            &[
                ("KEYGATE_LISTEN", "127.0.0.1:0"),
                ("KEYGATE_ADMIN", "127.0.0.1:0"),
                ("KEYGATE_UPSTREAM", upstream),
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

    /// `keygatectl keys …`, published at once; waits until it is in force.
    fn keys(&self, arguments: &[&str]) -> Value {
        let publish = ["--json", "--publish", "keys.kgt", "--signer", "signer.pem"];
        let said = self.gate.folder.ctl(&[&["keys"], arguments, &publish].concat());
        let first = said.lines().next().unwrap_or_default();
        let said: Value = serde_json::from_str(first).unwrap_or_else(|e| panic!("{e}: {said}"));
        let serial = said["serial"].as_u64().unwrap_or_else(|| panic!("no serial in {said}"));
        self.gate.wait_serial(serial);
        said
    }

    /// A request of bash that prints what `curl -i` prints.
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

/// The identity fields that arrived, and no credential.
fn identity(got: &Recorded) -> Vec<String> {
    for carrier in ["authorization", "x-api-key", "x-api-secret"] {
        assert!(got.all(carrier).is_empty(), "{carrier} arrived");
    }
    let ours =
        ["x-org-id", "x-key-id", "x-key-name", "x-permissions", "x-environment", "x-anonymous"];
    ours.iter().flat_map(|n| got.all(n).into_iter().map(move |v| format!("{n}: {v}"))).collect()
}

// We-Link: a pair.

const WE_LINK_BODY: &str = r#"{
"email": "user@example.com",
"password": "securePassword123",
"proxy": {
"location": "US"
}
}"#;

#[test]
fn we_link_as_documented() {
    let upstream = service();
    let product = Product::over("we-link", &upstream);
    // The page's request, byte for byte, with its own example pair.
    let printed = format!(
        "POST /api/v1/login_v2 HTTP/1.1\r\nHost: api.we-link.ai\r\nContent-Type: application/json\r\n\
         x-api-key: 12345-abcde-67890-fghij\r\nx-api-secret: 98765-zyxwv-43210-utsrq\r\n\
         Content-Length: {}\r\n\r\n{WE_LINK_BODY}",
        WE_LINK_BODY.len()
    );
    assert_eq!(exchange(product.gate.address, &printed).status(), 200);
    let got = upstream.only();
    assert_eq!(got.first_line(), "POST /api/v1/login_v2 HTTP/1.1");
    assert_eq!(got.body_text(), WE_LINK_BODY);
    assert_eq!(
        identity(&got),
        [
            "x-org-id: client-crm",
            "x-key-id: key_crm",
            "x-key-name: Client CRM integration",
            "x-permissions: get_profile send_message",
        ]
    );
    assert!(!upstream.saw(b"98765-zyxwv") && !upstream.saw(b"12345-abcde"));

    let pair = |path: &str, id: &str, secret: &str| {
        format!(
            "curl -X POST {}{path} -H 'x-api-key: {id}' -H 'x-api-secret: {secret}' \
             -H 'Content-Type: application/json' -d '{WE_LINK_BODY}'",
            product.url()
        )
    };
    let (id, secret) = ("12345-abcde-67890-fghij", "98765-zyxwv-43210-utsrq");
    // Allowed actions.
    assert_eq!(product.curl(&pair("/api/v1/messages/1", id, secret)).status, 200);
    upstream.only();
    let refused = product.curl(&pair("/api/v1/followups/1", id, secret));
    product.refused(403, "insufficient_permission", &refused);
    assert!(refused.body.contains("trigger_followup"), "{}", refused.body);
    // Wrong secret and unknown key read alike.
    for (id, secret) in [(id, "98765-zyxwv-43210-wrong"), ("00000-aaaaa-00000-aaaaa", secret)] {
        product.refused(401, "invalid_key", &product.curl(&pair("/api/v1/login_v2", id, secret)));
    }
    assert!(upstream.take().is_empty());
    // With requests, as Python integrations do.
    let python = format!(
        "import requests, json\n\
         r = requests.post('{}/api/v1/login_v2', headers={{'x-api-key': '{id}', 'x-api-secret': '{secret}'}},\n\
         json={{'email': 'user@example.com', 'password': 'securePassword123', 'proxy': {{'location': 'US'}}}})\n\
         r.raise_for_status()\nprint(r.json()['did'])\n",
        product.url()
    );
    assert_eq!(run(tools::python().args(["-c", &python])).trim(), "POST /api/v1/login_v2 HTTP/1.1");
    upstream.only();
}

/// "Create API key", "IP restrictions", shown once, rotated without an outage, revoked by name.
#[test]
fn we_link_life_of_a_pair() {
    let upstream = service();
    let product = Product::over("we-link", &upstream);
    let created = product.keys(&[
        "create",
        "--pair",
        "--org",
        "client-crm",
        "--name",
        "Internal staging key 2",
        "--permission",
        "send_message",
        "--allow-ip",
        "127.0.0.0/8",
    ]);
    let text =
        |v: &Value, f: &str| v[f].as_str().unwrap_or_else(|| panic!("no {f} in {v}")).to_owned();
    let (public, secret) = (text(&created, "public_id"), text(&created, "secret"));
    // Dashed groups of five, and at least 128 random bits: 25 symbols of 36.
    let groups: Vec<_> = secret.split('-').collect();
    assert!(groups.len() >= 5 && groups.iter().all(|g| g.len() == 5), "{secret}");
    assert!(!product.gate.folder.read("keys.toml").contains(&secret), "shown once, kept never");
    let status = |id: &str, secret: &str| {
        let request = format!(
            "POST /api/v1/messages/1 HTTP/1.1\r\nhost: a\r\nx-api-key: {id}\r\nx-api-secret: {secret}\r\n\r\n"
        );
        exchange(product.gate.address, request).status()
    };
    assert_eq!(status(&public, &secret), 200);
    // Rotation: the id stays, both secrets are good for the overlap.
    let rotated = product.keys(&["rotate", "Internal staging key 2", "--overlap", "7d"]);
    assert_eq!(text(&rotated, "public_id"), public);
    let second = text(&rotated, "secret");
    assert_eq!((status(&public, &secret), status(&public, &second)), (200, 200));
    // Bound to an address that this is not.
    product.keys(&["edit", "Internal staging key 2", "--allow-ip", "203.0.113.0/24"]);
    assert_eq!(status(&public, &second), 403);
    product.keys(&["edit", "Internal staging key 2", "--any-ip"]);
    assert_eq!(status(&public, &second), 200);
    // Revoked by name: both secrets are dead.
    product.keys(&["revoke", "Internal staging key 2"]);
    assert_eq!((status(&public, &secret), status(&public, &second)), (401, 401));
}

// wa gateway: Bearer or x-api-key, beside user tokens.

/// As printed on the page.
const WA_PAGE: [&str; 2] = [
    "curl https://your-gateway/api/v1/sessions \\\n-H \"Authorization: Bearer wa_...\"",
    "curl https://your-gateway/api/v1/sessions \\\n-H \"x-api-key: wa_...\"",
];

#[test]
fn wa_gateway_as_documented() {
    let upstream = service();
    let product = Product::over("wa-gateway", &upstream);
    let page = |printed: &str, key: &str| {
        printed.replace("https://your-gateway", &product.url()).replace("wa_...", key)
    };
    for printed in WA_PAGE {
        let answer = product.curl(&page(printed, "wa_example_dashboard"));
        assert_eq!(answer.status, 200, "{}", answer.body);
        let got = upstream.only();
        assert_eq!(got.first_line(), "GET /api/v1/sessions HTTP/1.1");
        assert_eq!(
            identity(&got),
            [
                "x-org-id: org_acme",
                "x-key-id: key_dashboard",
                "x-key-name: Reporting",
                "x-permissions: events manage read",
            ]
        );
        assert!(!upstream.saw(b"wa_example"));
        product.refused(401, "invalid_key", &product.curl(&page(printed, "wa_wrong")));
        let lacking = product.curl(&page(printed, "wa_example_notifier"));
        product.refused(403, "insufficient_permission", &lacking);
        assert!(upstream.take().is_empty());
    }
    // "The gateway's endpoints accept either an API key or a user token … no different URLs."
    let token = WA_PAGE[0].replace("wa_...", "eyJhbGciOiJIUzI1NiJ9.e30.sig");
    assert_eq!(product.curl(&page(&token, "")).status, 200);
    let got = upstream.only();
    assert_eq!(got.all("authorization"), ["Bearer eyJhbGciOiJIUzI1NiJ9.e30.sig"]);
    assert_eq!(got.all("x-anonymous"), ["true"]);
}

/// "A key carries a set of permissions. The gateway checks them on every action."
#[test]
fn wa_gateway_permissions_and_revocation() {
    let upstream = service();
    let product = Product::over("wa-gateway", &upstream);
    let actions = [
        ("read", "GET /api/v1/sessions/1/chats"),
        ("send", "POST /api/v1/sessions/1/messages"),
        ("send", "DELETE /api/v1/sessions/1/messages/7"),
        ("manage", "POST /api/v1/sessions"),
        ("manage", "PUT /api/v1/webhooks/3"),
    ];
    for permission in ["read", "send", "manage"] {
        let name = format!("only {permission}");
        let created = product.keys(&[
            "create",
            "--org",
            "org_other",
            "--name",
            &name,
            "--permission",
            permission,
        ]);
        let secret = created["secret"].as_str().unwrap().to_owned();
        assert!(secret.starts_with("wa_") && secret.len() >= 32, "{secret}");
        let ask = |action: &str| {
            let request =
                format!("{action} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {secret}\r\n\r\n");
            exchange(product.gate.address, request)
        };
        for (needs, action) in actions {
            let answer = ask(action);
            assert_eq!(
                answer.status(),
                if needs == permission { 200 } else { 403 },
                "{name}: {action}"
            );
            if answer.status() == 200 {
                // "A key belongs to exactly one organization."
                assert_eq!(upstream.only().all("x-org-id"), ["org_other"]);
            }
        }
        assert!(upstream.take().is_empty());
        // "Find the key by its name and click Revoke. The key stops working immediately."
        product.keys(&["revoke", &name]);
        for (_, action) in actions {
            assert_eq!(ask(action).status(), 401, "{name} is revoked: {action}");
        }
    }
}

// Whatomate: X-API-Key beside JWT, envelopes.

const WHATOMATE_PAGE: &str = "curl -X GET \"http://your-server:8080/api/contacts\" \\\n\
                              -H \"X-API-Key: whm_a1b2c3d4e5f6g7h8i9j0k1l2m3n4o5p6\"";

#[test]
fn whatomate_as_documented() {
    let upstream = service();
    let product = Product::over("whatomate", &upstream);
    // The page's own key is not hexadecimal, whatever the page says; it must work.
    let printed = WHATOMATE_PAGE.replace("http://your-server:8080", &product.url());
    assert_eq!(product.curl(&printed).status, 200);
    let got = upstream.only();
    assert_eq!(got.first_line(), "GET /api/contacts HTTP/1.1");
    assert_eq!(
        identity(&got),
        [
            "x-org-id: my-organization",
            "x-key-id: key_integration",
            "x-key-name: Production Integration"
        ]
    );
    // Errors come in the product's envelope.
    let wrong = product.curl(&printed.replace("whm_a1b2", "whm_zzzz"));
    assert_eq!(wrong.status, 401);
    let body = wrong.json();
    assert_eq!(body["status"], "error", "{body}");
    assert!(body["message"].as_str().is_some_and(|m| !m.is_empty()), "{body}");
    // A signed-in user's token goes on untouched, on the same URL.
    let user =
        format!("curl {}/api/contacts -H 'Authorization: Bearer eyJ.user.jwt'", product.url());
    assert_eq!(product.curl(&user).status, 200);
    let got = upstream.only();
    assert_eq!(got.all("authorization"), ["Bearer eyJ.user.jwt"]);
    assert_eq!(got.all("x-anonymous"), ["true"]);
}

/// `expires_at` may be null or RFC 3339; deletion is immediate.
#[test]
fn whatomate_expiry_and_deletion() {
    let upstream = service();
    let product = Product::over("whatomate", &upstream);
    let status = |secret: &str| {
        let request =
            format!("GET /api/contacts HTTP/1.1\r\nhost: a\r\nX-API-Key: {secret}\r\n\r\n");
        exchange(product.gate.address, request).status()
    };
    let never = product.keys(&["create", "--org", "my-organization", "--name", "CI/CD Pipeline"]);
    let secret = never["secret"].as_str().unwrap().to_owned();
    // whm_ and 32 of a-z, 0-9.
    let (prefix, rest) = secret.split_at(4);
    assert_eq!((prefix, rest.len()), ("whm_", 32), "{secret}");
    assert!(rest.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()), "{secret}");
    assert!(never["expires"].is_null());
    assert_eq!(status(&secret), 200);
    let soon =
        product.keys(&["create", "--org", "my-organization", "--name", "Short", "--expires", "3s"]);
    let short = soon["secret"].as_str().unwrap().to_owned();
    assert_eq!(status(&short), 200);
    product.gate.process.eventually("its expiry", || status(&short) == 401);
    let expired = format!("GET /api/contacts HTTP/1.1\r\nhost: a\r\nX-API-Key: {short}\r\n\r\n");
    assert_eq!(exchange(product.gate.address, expired).code(), "expired_key");
    product.keys(&["revoke", "CI/CD Pipeline"]);
    assert_eq!(status(&secret), 401);
}

// WeShape: environments, permissions, its own error bodies, limits to back off by.

/// As printed on the page, with the placeholders that it prints.
const WESHAPE_CURL: [(&str, &str); 3] = [
    (
        "curl https://v2.weshape.today/api/v3/archives \\\n  -H \"X-Api-Key: wsk_live_your_api_key_here\"",
        "GET /api/v3/archives HTTP/1.1",
    ),
    (
        "curl -X GET https://v2.weshape.today/api/v3/archives \\\n  -H \"X-Api-Key: wsk_live_your_api_key_here\" \\\n  -H \"Content-Type: application/json\"",
        "GET /api/v3/archives HTTP/1.1",
    ),
    (
        "curl https://v2.weshape.today/api/v3/users/me/company \\\n  -H \"X-Api-Key: wsk_live_your_api_key_here\"",
        "GET /api/v3/users/me/company HTTP/1.1",
    ),
];

const WESHAPE_PYTHON: &str = "
import os
import requests
 
WESHAPE_API_KEY = os.environ.get('WESHAPE_API_KEY')
BASE_URL = 'https://v2.weshape.today/api'
 
def get_archives():
    response = requests.get(
        f'{BASE_URL}/v3/archives',
        headers={
            'X-Api-Key': WESHAPE_API_KEY,
            'Content-Type': 'application/json'
        }
    )
    response.raise_for_status()
    return response.json()
";

const WESHAPE_JAVASCRIPT: &str = r"
const WESHAPE_API_KEY = process.env.WESHAPE_API_KEY;
const BASE_URL = 'https://v2.weshape.today/api';
 
async function getArchives() {
  const response = await fetch(`${BASE_URL}/v3/archives`, {
    method: 'GET',
    headers: {
      'X-Api-Key': WESHAPE_API_KEY,
      'Content-Type': 'application/json'
    }
  });
  
  if (!response.ok) {
    throw new Error(`API Error: ${response.status}`);
  }
  
  return await response.json();
}

async function makeApiRequest(endpoint) {
  try {
    const response = await fetch(`${BASE_URL}${endpoint}`, {
      headers: { 'X-Api-Key': WESHAPE_API_KEY }
    });
    
    if (response.status === 401) {
      throw new Error('Invalid API key. Please check your credentials.');
    }
    
    if (response.status === 403) {
      throw new Error('Insufficient permissions. Contact your administrator.');
    }
    
    if (response.status === 429) {
      throw new Error('Rate limit exceeded. Please retry after some time.');
    }
    
    if (!response.ok) {
      throw new Error(`API Error: ${response.status}`);
    }
    
    return await response.json();
  } catch (error) {
    console.error('API request failed:', error);
    throw error;
  }
}

async function apiRequestWithRetry(endpoint, maxRetries = 3) {
  for (let i = 0; i < maxRetries; i++) {
    try {
      const response = await fetch(`${BASE_URL}${endpoint}`, {
        headers: { 'X-Api-Key': WESHAPE_API_KEY }
      });
      
      if (response.status === 429) {
        const waitTime = Math.pow(2, i) * 1000; // Exponential backoff
        await new Promise(resolve => setTimeout(resolve, waitTime));
        continue;
      }
      
      return await response.json();
    } catch (error) {
      if (i === maxRetries - 1) throw error;
    }
  }
}
";

const WESHAPE_KEY: &str = "wsk_live_your_api_key_here";

fn weshape_node(product: &Product, key: &str, call: &str) -> (bool, String) {
    let script = WESHAPE_JAVASCRIPT.replace("https://v2.weshape.today", &product.url())
        + &format!(
            "\n{call}.then(r => console.log(JSON.stringify(r)), e => {{ console.log(e.message); process.exit(1) }});\n"
        );
    let output =
        tools::command("node").args(["-e", &script]).env("WESHAPE_API_KEY", key).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[test]
fn weshape_as_documented() {
    let upstream = service();
    let product = Product::over("weshape", &upstream);
    let whole = [
        "x-org-id: company-1",
        "x-key-id: key_abc123",
        "x-key-name: Production Server - Inventory Sync",
        "x-permissions: apikeys:read apikeys:write archives:read archives:write",
        "x-environment: live",
    ];
    for (printed, line) in WESHAPE_CURL {
        let answer = product.curl(&printed.replace("https://v2.weshape.today", &product.url()));
        assert_eq!((answer.status, &answer.json()["did"]), (200, &json!(line)));
        let got = upstream.only();
        assert_eq!(got.first_line(), line);
        assert_eq!(identity(&got), whole);
    }
    let python = WESHAPE_PYTHON.replace("https://v2.weshape.today", &product.url())
        + "\nimport sys\ntry:\n    print(get_archives()['did'])\nexcept requests.HTTPError as e:\n    sys.exit(str(e))\n";
    let ask = |key: &str| {
        tools::python().args(["-c", &python]).env("WESHAPE_API_KEY", key).output().unwrap()
    };
    let output = ask(WESHAPE_KEY);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(identity(&upstream.only()), whole);
    let wrong = ask("wsk_live_wrong");
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("401"), "raise_for_status");
    let (ok, said) = weshape_node(&product, WESHAPE_KEY, "getArchives()");
    assert!(ok && said.contains("GET /api/v3/archives"), "{said}");
    assert_eq!(identity(&upstream.only()), whole);
    // The rest of the page: listing keys, and one key's permissions.
    for (request, line) in [
        ("GET /api/auth/apikeys", "GET /api/auth/apikeys HTTP/1.1"),
        (
            "PUT /api/v3/companies/1/api-keys/2/permissions",
            "PUT /api/v3/companies/1/api-keys/2/permissions HTTP/1.1",
        ),
    ] {
        let bytes = format!(
            "{request} HTTP/1.1\r\nHost: v2.weshape.today\r\nX-Api-Key: {WESHAPE_KEY}\r\n\r\n"
        );
        assert_eq!(exchange(product.gate.address, bytes).status(), 200, "{request}");
        assert_eq!(upstream.only().first_line(), line);
    }
}

/// "Error handling": the statuses of its table, the bodies of its example, seen by its own client.
#[test]
fn weshape_errors() {
    let upstream = service();
    let product = Product::over("weshape", &upstream);
    let ask = |key: Option<&str>, path: &str| {
        let key = key.map(|k| format!("X-Api-Key: {k}\r\n")).unwrap_or_default();
        exchange(product.gate.address, format!("GET {path} HTTP/1.1\r\nHost: a\r\n{key}\r\n"))
    };
    let told = |answer: &crate::support::http::Message, status: u16, error: &str| {
        assert_eq!(answer.status(), status, "{}", answer.body_text());
        let body = answer.json();
        assert_eq!(body["error"], error, "{body}");
        assert!(body["errorMessage"].as_str().is_some_and(|m| !m.is_empty()), "{body}");
    };
    told(&ask(None, "/api/v3/archives"), 401, "Unauthorized");
    told(&ask(Some("wsk_live_wrong"), "/api/v3/archives"), 401, "Unauthorized");
    // A key of the test environment at the live service.
    told(&ask(Some("wsk_test_your_development_key"), "/api/v3/archives"), 401, "Unauthorized");
    let narrow = product.keys(&[
        "create",
        "--org",
        "company-1",
        "--name",
        "Mobile App - iOS",
        "--permission",
        "apikeys:read",
        "--env",
        "live",
        "--limit",
        "2/min",
    ]);
    let key = narrow["secret"].as_str().unwrap().to_owned();
    assert!(key.starts_with("wsk_live_"), "{key}");
    told(&ask(Some(&key), "/api/v3/archives"), 403, "Forbidden");
    assert_eq!(ask(Some(&key), "/api/auth/apikeys").status(), 200);
    assert_eq!(ask(Some(&key), "/api/auth/apikeys").status(), 200);
    let limited = ask(Some(&key), "/api/auth/apikeys");
    told(&limited, 429, "Too Many Requests");
    for field in ["retry-after", "ratelimit", "x-ratelimit-limit", "x-ratelimit-remaining"] {
        assert!(limited.one(field).is_some(), "{field}");
    }
    upstream.take();
    for (key, path, message) in [
        ("wsk_live_wrong", "/v3/archives", "Invalid API key. Please check your credentials."),
        (&*key, "/v3/archives", "Insufficient permissions. Contact your administrator."),
        (&*key, "/auth/apikeys", "Rate limit exceeded. Please retry after some time."),
    ] {
        let (ok, said) = weshape_node(&product, key, &format!("makeApiRequest('{path}')"));
        assert!(!ok && said == message, "{said}");
    }
    assert!(upstream.take().is_empty());
}

/// "Implement exponential backoff": the page's own loop gets through.
#[test]
fn weshape_back_off_works() {
    let upstream = service();
    let product = Product::over("weshape", &upstream);
    let one = product.keys(&[
        "create",
        "--org",
        "company-1",
        "--name",
        "Key 1",
        "--permission",
        "archives:read",
        "--env",
        "live",
        "--limit",
        "1/2s",
    ]);
    let key = one["secret"].as_str().unwrap();
    let call =
        "apiRequestWithRetry('/v3/archives').then(() => apiRequestWithRetry('/v3/archives'))";
    let (ok, said) = weshape_node(&product, key, call);
    assert!(ok && said.contains("GET /api/v3/archives"), "{said}");
    assert_eq!(upstream.take().len(), 2);
}

/// "Rotate keys regularly": create, switch, test, revoke.
#[test]
fn weshape_rotation() {
    let upstream = service();
    let product = Product::over("weshape", &upstream);
    let works = |key: &str| weshape_node(&product, key, "getArchives()").0;
    let new = product.keys(&[
        "create",
        "--org",
        "company-1",
        "--name",
        "Production Server 2",
        "--permission",
        "archives:read",
        "--env",
        "live",
    ]);
    let new = new["secret"].as_str().unwrap().to_owned();
    assert!(works(WESHAPE_KEY) && works(&new));
    product.keys(&["revoke", "Production Server - Inventory Sync"]);
    assert!(!works(WESHAPE_KEY) && works(&new));
    // The same in one step, with an overlap.
    let rotated = product.keys(&["rotate", "Production Server 2", "--overlap", "2s"]);
    let newest = rotated["secret"].as_str().unwrap().to_owned();
    assert!(works(&newest));
    product.gate.process.eventually("the end of the overlap", || !works(&new));
    assert!(works(&newest));
}

// A service that nobody here wrote.

/// All four in front of a real nginx, which tells what it received.
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
        ("weshape", "curl HOST/api/v3/archives -H \"X-Api-Key: KEY\"", WESHAPE_KEY, "company-1"),
    ] {
        let product = Product::before(name, &nginx.url());
        let answer = product.curl(&printed.replace("HOST", &product.url()).replace("KEY", key));
        assert_eq!(answer.status, 200, "{name}: {}", answer.body);
        assert!(answer.head.contains("server: nginx"), "{name}: {}", answer.head);
        assert_eq!(answer.body, format!("org={org} key= auth= secret=\n"), "{name}");
        let refused =
            product.curl(&printed.replace("HOST", &product.url()).replace("KEY", "wa_nope"));
        assert_eq!(refused.status, 401, "{name}");
        assert!(!refused.head.contains("nginx"), "{name}: keygate answers, not the service");
    }
}
