//! Sources of the keys of user tokens: files, URLs, copies on disk; slow, gone or malicious.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;

use crate::support::client::{Client, exchange};
use crate::support::gate::{Gate, READER, keygate};
use crate::support::upstream::{Step, Upstream, answer};
use crate::tokens::{ROUTES, Signer, bearer, code, jwks, now, tokens, with_file};

/// The issuer answers only when it is asked to by the test. Until then nobody has waited for it.
#[test]
fn no_request_waits_for_an_issuer() {
    let upstream = Upstream::start();
    let issuer = Signer::new(1);
    let released = Arc::new(AtomicBool::new(false));
    let (its, set) = (Arc::clone(&released), jwks(&[issuer.jwk("one")]));
    let idp = Upstream::answering(move |_| {
        for _ in 0..800 {
            if its.load(Ordering::SeqCst) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        answer("200 OK", "", &set)
    });
    let source = format!("http://{}/jwks", idp.address);
    let gate = Gate::before(&upstream).rules(ROUTES).also(&tokens(&source, "")).start();
    let token = issuer.token("one", json!({}));
    for _ in 0..5 {
        let refused = exchange(gate.address, bearer("/both/a", &token));
        assert_eq!((refused.status(), code(&refused.body_text())), (503, "unavailable".into()));
        assert!(refused.one("retry-after").is_some());
    }
    assert!(!released.load(Ordering::SeqCst), "the issuer was still silent");
    assert_eq!(exchange(gate.address, bearer("/both/a", READER)).status(), 200, "keys do not care");
    released.store(true, Ordering::SeqCst);
    gate.process.eventually("the keys are there", || {
        exchange(gate.address, bearer("/both/a", &token)).status() == 200
    });
}

#[test]
fn a_copy_on_disk_serves_while_the_issuer_is_down() {
    let upstream = Upstream::start();
    let issuer = Signer::new(1);
    // Nothing listens there.
    let source = "http://127.0.0.1:1/jwks";
    let also = tokens(source, "jwks_copy = \"idp.json\"");
    let folder = Gate::before(&upstream).rules(ROUTES).also(&also).folder();
    let copy = |url: &str| {
        let set = json!({"keys": [issuer.jwk("one")]});
        json!({"issuer": "https://idp.example/", "url": url, "fetched": now(), "jwks": set})
    };
    folder.write("idp.json", &copy(source).to_string());
    let gate = Gate::serve(folder);
    gate.wait_ready();
    let token = issuer.token("one", json!({}));
    assert_eq!(exchange(gate.address, bearer("/both/a", &token)).status(), 200);
    assert!(gate.log_soon("cannot get its signing keys"));
    // Keys of a URL that the operator has replaced are no longer believed.
    let folder = Gate::before(&upstream).rules(ROUTES).also(&also).folder();
    folder.write("idp.json", &copy("http://127.0.0.1:1/old").to_string());
    let gate = Gate::serve(folder);
    gate.wait_ready();
    assert_eq!(exchange(gate.address, bearer("/both/a", &token)).status(), 503);
    assert!(gate.log_soon("is ignored"));
}

#[test]
fn a_copy_never_takes_the_place_of_another_file() {
    let upstream = Upstream::start();
    let url = "https://idp.example/jwks";
    let check = |tokens: &str, top: &str| {
        let folder = Gate::before(&upstream).rules(ROUTES).also(tokens).top(top).folder();
        let mut command = keygate(folder.path());
        let said = command.args(["check", "--config", "keygate.toml", "--config-only"]).output();
        let said = said.unwrap();
        let text = String::from_utf8_lossy(&said.stderr).into_owned();
        (said.status.code(), text + &String::from_utf8_lossy(&said.stdout))
    };
    let copy = |name: &str| tokens(url, &format!("jwks_copy = \"{name}\""));
    let twice = copy("c.json") + &copy("./c.json").replace("//idp.", "//other.");
    for tokens in [twice, copy("keygate.toml"), copy("keys.kgt"), copy("./keys.kgt")] {
        let (code, said) = check(&tokens, "");
        assert_eq!(code, Some(78), "{tokens}{said}");
        assert!(said.contains("as well"), "{said}");
        assert!(said.contains("hint: give every copy a file of its own"), "{said}");
    }
    let (code, said) = check(&copy("c.json"), "");
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("jwks_stale") && !said.contains("trusted_proxies"), "{said}");
    let stale = copy("c.json") + "jwks_stale = \"10m\"\n";
    let (code, said) = check(&stale, "trusted_proxies = [\"0.0.0.0/0\"]");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("between two fetches") && said.contains("every client"), "{said}");
    let two = copy("c.json") + &copy("d.json").replace("//idp.", "//other.");
    let (code, said) = check(&(two + "[identity]\nissuer = false\n"), "");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("identity.issuer") && said.contains("cannot tell a subject"), "{said}");
    for name in ["authorization", "origin", "user-agent", "cookie", "host", "x_api_key"] {
        for key in ["subject", "issuer", "org"] {
            let named = format!("{}[identity]\n{key} = \"{name}\"\n", copy("c.json"));
            let (code, said) = check(&named, "");
            assert_eq!(code, Some(78), "{name}: {said}");
        }
    }
}

#[test]
fn made_up_kids_do_not_flood_the_issuer() {
    let upstream = Upstream::start();
    let issuer = Signer::new(1);
    let asked = Arc::new(AtomicUsize::new(0));
    let (count, set) = (Arc::clone(&asked), jwks(&[issuer.jwk("one")]));
    let idp = Upstream::answering(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        answer("200 OK", "", &set)
    });
    let source = format!("http://{}/jwks", idp.address);
    let gate = Gate::before(&upstream).rules(ROUTES).also(&tokens(&source, "")).start();
    let good = issuer.token("one", json!({}));
    gate.process.eventually("the keys are there", || {
        exchange(gate.address, bearer("/both/a", &good)).status() == 200
    });
    let began = std::time::Instant::now();
    let mut client = Client::connect(gate.address);
    for n in 0..10_000 {
        let token = issuer.token(&format!("kid-{n}"), json!({}));
        assert_eq!(client.send(bearer("/both/a", &token)).response().status(), 401);
    }
    assert_eq!(client.send(bearer("/both/a", &good)).response().status(), 200);
    // The first fetch, and one for every half minute that this took on a busy machine.
    let (asked, took) = (asked.load(Ordering::SeqCst), began.elapsed());
    assert!(asked as u64 <= 2 + took.as_secs() / 30, "{asked} in {took:?}");
}

/// Rotation under load: a caller with a valid token at any moment is served, and the old key's
/// tokens and streams end when it leaves the set.
#[test]
fn keys_rotate_under_load_and_streams_end_with_them() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
    let upstream =
        Upstream::answering(move |request| match request.first_line().contains("stream") {
            true => vec![Step::Send(format!("{head}data: 1\n\n").into()), Step::Drain],
            false => answer("200 OK", "", "ok"),
        });
    let (old, new) = (Signer::new(1), Signer::new(2));
    let gate = with_file(Gate::before(&upstream), &[old.jwk("old")], "");
    let (old_token, new_token) = (old.token("old", json!({})), new.token("new", json!({})));
    let mut stream = Client::connect(gate.address);
    stream.send(bearer("/both/stream", &old_token));
    assert_eq!(stream.response_head().status(), 200);
    let failures = Arc::new(Mutex::new(Vec::new()));
    let stop = Arc::new(AtomicBool::new(false));
    let load = {
        let (failures, stop, address) = (Arc::clone(&failures), Arc::clone(&stop), gate.address);
        let token = old_token.clone();
        std::thread::spawn(move || {
            let mut client = Client::connect(address);
            while !stop.load(Ordering::SeqCst) {
                let status = client.send(bearer("/both/a", &token)).response().status();
                if status != 200 {
                    failures.lock().unwrap().push(status);
                }
            }
        })
    };
    assert_eq!(exchange(gate.address, bearer("/both/a", &new_token)).status(), 401);
    gate.folder.write("jwks.json", &jwks(&[old.jwk("old"), new.jwk("new")]));
    gate.process.eventually("the new key counts", || {
        exchange(gate.address, bearer("/both/a", &new_token)).status() == 200
    });
    stop.store(true, Ordering::SeqCst);
    load.join().unwrap();
    assert!(failures.lock().unwrap().is_empty(), "{failures:?}");
    gate.folder.write("jwks.json", &jwks(&[new.jwk("new")]));
    gate.process.eventually("the old key is gone", || {
        exchange(gate.address, bearer("/both/a", &old_token)).status() == 401
    });
    while !stream.read_some().is_empty() {}
    assert_eq!(exchange(gate.address, bearer("/both/a", &new_token)).status(), 200);
    let ended = r#"keygate_streams_ended_total{reason="token_key_unknown"} 1"#;
    gate.process.eventually("the stream is counted", || gate.metrics().contains(ended));
}

#[test]
fn issuers_come_and_go_with_the_configuration() {
    let upstream = Upstream::start();
    let issuer = Signer::new(1);
    let gate = with_file(Gate::before(&upstream), &[issuer.jwk("one")], "");
    let token = issuer.token("one", json!({}));
    assert_eq!(exchange(gate.address, bearer("/both/a", &token)).status(), 200);
    let config = gate.folder.read("keygate.toml");
    gate.folder.write("keygate.toml", &config.replace("[\"orders\"]", "[\"billing\"]"));
    gate.process.eventually("the audience is another", || {
        exchange(gate.address, bearer("/both/a", &token)).status() == 401
    });
    let billing = issuer.token("one", json!({"aud": "billing"}));
    gate.process.eventually("and its tokens are taken", || {
        exchange(gate.address, bearer("/both/a", &billing)).status() == 200
    });
}
