//! Whatomate: X-API-Key in addition to JWT, envelopes.

use super::*;

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
    // An unmodified Whatomate gets a token like those of its own users: that of the key's owner.
    let mut claims = token(&got);
    assert!(claims["exp"].take().is_u64());
    assert_eq!(
        claims,
        json!({
            "user_id": "user-1", "organization_id": "my-organization",
            "email": "admin@example.com", "role": "admin", "exp": null,
        })
    );
    // Errors come in the product's envelope.
    let wrong = product.curl(&printed.replace("whm_a1b2", "whm_zzzz"));
    assert_eq!(wrong.status, 401);
    let body = wrong.json();
    assert_eq!(body["status"], "error", "{body}");
    assert!(body["message"].as_str().is_some_and(|m| !m.is_empty()), "{body}");
    // A signed-in user's token is forwarded unchanged, on the same URL.
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
    // "whm_ followed by 32 hexadecimal characters".
    let (prefix, rest) = secret.split_at(4);
    assert_eq!((prefix, rest.len()), ("whm_", 32), "{secret}");
    assert!(rest.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')), "{secret}");
    // "key_prefix": the page's own key, and a new one.
    let listed = product.gate.folder.ctl(&["keys", "list", "--json"]);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let prefix_of = |name: &str| {
        let found = listed.as_array().unwrap().iter().find(|key| key["name"] == name).unwrap();
        found["key_prefix"].as_str().unwrap().to_owned()
    };
    assert_eq!(prefix_of("Production Integration"), "a1b2c3d4");
    assert_eq!(prefix_of("CI/CD Pipeline"), &rest[..8]);
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

/// People in addition to keys: pages, sign-in, callbacks, the management of keys, preflights.
#[test]
fn whatomate_dashboard() {
    let upstream = service();
    let product = Product::over("whatomate", &upstream);
    let token = "authorization: Bearer eyJ.user.jwt\r\n";
    let preflight = "origin: https://app.example\r\naccess-control-request-method: DELETE\r\n";
    for (line, fields) in [
        ("GET /", ""),
        ("GET /assets/index.css", ""),
        ("POST /api/auth/login", "content-length: 0\r\n"),
        ("GET /api/auth/sso/callback?code=a&state=b", ""),
        ("GET /api/api-keys", token),
        ("DELETE /api/api-keys/5f1c", token),
        ("OPTIONS /api/api-keys/5f1c", preflight),
        ("OPTIONS /api/contacts", ""),
    ] {
        let bytes = format!("{line} HTTP/1.1\r\nhost: a\r\n{fields}\r\n");
        let answer = exchange(product.gate.address, bytes);
        assert_eq!(answer.status(), 200, "{line}: {}", answer.body_text());
        assert_eq!(upstream.only().first_line(), format!("{line} HTTP/1.1"));
    }
}
