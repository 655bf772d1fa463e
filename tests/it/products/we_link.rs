//! We-Link: a pair.

use super::*;

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
    // Wrong secret and unknown key look alike.
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
    // Rotation: the id stays, and both secrets are valid during the overlap.
    let rotated = product.keys(&["rotate", "Internal staging key 2", "--overlap", "7d"]);
    assert_eq!(text(&rotated, "public_id"), public);
    let second = text(&rotated, "secret");
    assert_eq!((status(&public, &secret), status(&public, &second)), (200, 200));
    // Bound to an address that is not this one.
    product.keys(&["edit", "Internal staging key 2", "--allow-ip", "203.0.113.0/24"]);
    assert_eq!(status(&public, &second), 403);
    product.keys(&["edit", "Internal staging key 2", "--any-ip"]);
    assert_eq!(status(&public, &second), 200);
    // Revoked by name: both secrets are dead.
    product.keys(&["revoke", "Internal staging key 2"]);
    assert_eq!((status(&public, &secret), status(&public, &second)), (401, 401));
}
