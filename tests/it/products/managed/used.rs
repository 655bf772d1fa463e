//! When a key was last used: counted by a real sidecar, fetched by the service, shown in each form.

use super::*;

/// Waits until the answer to `ask` has something in that place, which must be from this day.
fn soon(product: &Managed, pointer: &str, ask: impl Fn() -> Answer) {
    let found = || ask().json().pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let process = product.registrar.process.as_ref().unwrap();
    process.eventually(pointer, || found().is_some());
    let (at, now) = (found().unwrap(), run(tools::command("date").args(["-u", "+%Y-%m-%dT%H"])));
    // A use is known to the minute, but never before its key; the hour may change during a test.
    assert!(at.ends_with('Z') && at <= format!("{}:59:59Z", now.trim()), "{at}");
    assert!(at[..10] == now[..10] || now.contains("T00"), "{at}, and now is {now}");
}

/// `last_used_at`: omitted for an unused key, as in the product's service.
#[test]
fn whatomate_tells_when_a_key_was_last_used() {
    let upstream = service();
    let mut product = Managed::over("whatomate", &upstream);
    let admin = format!("Authorization: Bearer {}", jwt("admin"));
    let body = r#"{"name": "Used", "expires_at": null}"#;
    let made = product.call("POST", "/api/api-keys", &admin, body);
    let secret = text(&made.json(), "/data/key").to_owned();
    let list = || product.call("GET", "/api/api-keys", &admin, "");
    let first = list().json()["data"][0].clone();
    assert_eq!(first["name"], "Used");
    assert!(first.get("last_used_at").is_none(), "{first}");
    product.eventually("GET", "/api/contacts", &secret, 200);
    product.fetch_usage();
    let list = || product.call("GET", "/api/api-keys", &admin, "");
    soon(&product, "/data/0/last_used_at", list);
    let first = list().json()["data"][0].clone();
    assert!(first["key_prefix"].is_string() && first["is_active"] == true, "{first}");
}

/// `lastUsed`: null for an unused key.
#[test]
fn weshape_tells_when_a_key_was_last_used() {
    let upstream = service();
    let mut product = Managed::over("weshape", &upstream);
    let spare = product.spare.clone();
    product.eventually("GET", "/api/v3/archives", &spare, 200);
    product.fetch_usage();
    let key = "X-Api-Key: wsk_live_your_api_key_here";
    let list = || product.call("GET", "/api/auth/apikeys", key, "");
    let keys = list().json()["apiKeys"].as_array().unwrap().clone();
    let at = keys.iter().position(|key| key["name"] == "Mobile App - iOS").unwrap();
    soon(&product, &format!("/apiKeys/{at}/lastUsed"), list);
    let unused = keys.iter().find(|key| key["name"] == "Development Key").unwrap();
    assert!(unused["lastUsed"].is_null(), "{unused}");
}
