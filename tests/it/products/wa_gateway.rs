//! wa gateway: Bearer or x-api-key, in addition to user tokens.

use super::*;

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
        assert_eq!(token(&got)["org"], "org_acme");
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

/// "The dashboard signs people in with a session cookie": pages, files, sign-in, callback, then the
/// API as a person. Its scripts send preflights from another origin.
#[test]
fn wa_gateway_dashboard() {
    let upstream = service();
    let product = Product::over("wa-gateway", &upstream);
    let ask = |line: &str, fields: &str| {
        let bytes = format!("{line} HTTP/1.1\r\nhost: a\r\n{fields}\r\n");
        exchange(product.gate.address, bytes)
    };
    let session = "cookie: session=s3ss10n\r\n";
    let preflight = "origin: https://app.example\r\naccess-control-request-method: POST\r\n";
    for (line, fields) in [
        ("GET /", ""),
        ("GET /login", ""),
        ("GET /assets/app.4f2a.js", ""),
        ("POST /login", "content-length: 0\r\n"),
        ("POST /api/v1/auth/login", "content-length: 0\r\n"),
        ("GET /api/v1/auth/callback/google?code=4%2F0Ab&state=xyz", ""),
        ("GET /auth/callback?code=abc&state=xyz", ""),
        ("GET /api/v1/sessions", session),
        ("POST /api/v1/sessions", "cookie: session=s3ss10n\r\ncontent-length: 0\r\n"),
        ("DELETE /api/v1/api-keys/7", session),
        ("OPTIONS /api/v1/sessions/1/messages", preflight),
        ("OPTIONS /api/v1/auth/login", preflight),
        ("OPTIONS /api/v1/sessions", ""),
    ] {
        let answer = ask(line, fields);
        assert_eq!(answer.status(), 200, "{line}: {}", answer.body_text());
        let got = upstream.only();
        assert_eq!(got.first_line(), format!("{line} HTTP/1.1"));
        assert!(got.all("x-org-id").is_empty(), "{line}");
        if fields.contains("cookie") {
            assert_eq!(got.all("cookie"), ["session=s3ss10n"], "{line}");
        }
    }
    // A key is judged by its permissions everywhere in the API, and never by the rule of the
    // dashboard.
    let key = "authorization: Bearer wa_example_notifier\r\n";
    product_refuses(&ask("DELETE /api/v1/api-keys/7", key), 403, "insufficient_permission");
    product_refuses(&ask("POST /api/v1/contacts", "x-api-key: wa_nope\r\n"), 401, "invalid_key");
    assert!(upstream.take().is_empty());
}

fn product_refuses(answer: &crate::support::http::Message, status: u16, code: &str) {
    assert_eq!((answer.status(), answer.code()), (status, code.into()), "{}", answer.body_text());
}
