//! Whatomate: X-API-Key beside JWT, envelopes.

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
