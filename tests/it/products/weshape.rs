//! WeShape: environments, permissions, its own error bodies, limits for back-off.

use super::*;

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

pub(super) const WESHAPE_KEY: &str = "wsk_live_your_api_key_here";

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

/// People sign in and create keys without one. Everything else under the API needs an existing key.
#[test]
fn weshape_sign_in_and_paths_without_a_rule() {
    let upstream = service();
    let product = Product::over("weshape", &upstream);
    let ask = |line: &str, fields: &str| {
        let bytes = format!("{line} HTTP/1.1\r\nhost: a\r\n{fields}\r\n");
        exchange(product.gate.address, bytes)
    };
    let preflight = "origin: https://app.example\r\naccess-control-request-method: GET\r\n";
    for (line, fields) in [
        ("POST /api/auth/login", "content-length: 0\r\n"),
        ("GET /api/auth/google/callback?code=a&state=b", ""),
        ("POST /api/auth/apikeys", "cookie: session=s\r\ncontent-length: 0\r\n"),
        ("OPTIONS /api/v3/archives", preflight),
    ] {
        let answer = ask(line, fields);
        assert_eq!(answer.status(), 200, "{line}: {}", answer.body_text());
        upstream.only();
    }
    // No key would help there, so none is required, but a wrong one is still wrong.
    for (line, fields, status, code) in [
        ("GET /api/v3/nothing", "", 403, "no_route"),
        ("GET /wp-login.php", "", 403, "no_route"),
        ("PUT /api/auth/apikeys/../x", "", 400, "bad_path"),
        ("POST /api/v3/users/me/company", "content-length: 0\r\n", 405, "method_not_allowed"),
        ("GET /api/v3/nothing", "x-api-key: wsk_live_wrong\r\n", 401, "invalid_key"),
        ("GET /api/v3/archives", "", 401, "missing_key"),
    ] {
        let answer = ask(line, fields);
        assert_eq!((answer.status(), answer.code()), (status, code.into()), "{line}");
    }
    assert!(upstream.take().is_empty());
}
