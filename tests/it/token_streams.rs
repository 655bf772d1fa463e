//! Streams that a user token has opened, while the rules of its issuer and the table change: each
//! continues for as long as a request with its token would be let through.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::gate::{Gate, Key, READER};
use crate::support::upstream::{Step, Upstream};
use crate::tokens::{ROUTES, Signer, bearer, now, tokens, with_file};

/// An event every 50 ms, for as long as a test may take.
fn service() -> Upstream {
    Upstream::answering(|_| {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
        let mut steps = vec![Step::Send(head.into())];
        for _ in 0..600 {
            steps.push(Step::Send("data: 1\n\n".into()));
            steps.push(Step::Wait(Duration::from_millis(50)));
        }
        steps
    })
}

fn open(gate: &Gate, path: &str, token: &str) -> Client {
    let mut stream = Client::connect(gate.address);
    stream.send(bearer(path, token));
    assert_eq!(stream.response_head().status(), 200, "{path}");
    stream
}

fn ended(gate: &Gate, reason: &str) {
    let line = format!("keygate_streams_ended_total{{reason=\"{reason}\"}} 1");
    gate.process.eventually(&line, || gate.metrics().contains(&line));
}

/// Something arrives again and again.
fn goes_on(name: &str, stream: &mut Client) {
    for _ in 0..20 {
        assert!(!stream.read_some().is_empty(), "{name}: it has ended");
    }
}

/// One change of `[[tokens]]`, the stream that it ends, and one that it leaves alone.
struct RuleChange {
    name: &'static str,
    change: [&'static str; 2],
    ended: [&'static str; 2],
    token: Value,
    reason: &'static str,
    goes_on: Value,
    header: Value,
}

#[test]
fn streams_end_when_the_rules_would_refuse_their_token() {
    let issuer = Signer::new(1);
    let plain = json!({"alg": "EdDSA", "kid": "one"});
    let typed = json!({"alg": "EdDSA", "kid": "one", "typ": "application/AT+JWT"});
    let change = |name, change, token, reason, goes_on| RuleChange {
        name,
        change,
        ended: ["/both/a", "/both/b"],
        token,
        reason,
        goes_on,
        header: plain.clone(),
    };
    let (none, twice) = (json!({}), json!({"aud": ["orders", "billing"]}));
    let changes = [
        change("audience", ["[\"orders\"]", "[\"billing\"]"], none.clone(), "token_invalid", twice),
        RuleChange {
            ended: ["/both/a", "/users/a"],
            ..change("map", ["[\"read\"] }", "[\"send\"] }"], none.clone(), "permission", json!({}))
        },
        change(
            "narrower map",
            ["\"orders:read\" =", "\"orders:all\" ="],
            none.clone(),
            "permission",
            json!({"scope": ["orders:read", "orders:all"]}),
        ),
        change(
            "known orgs",
            ["org_claim", "orgs = \"table\"\norg_claim"],
            json!({"org": "nobody"}),
            "token_org",
            json!({}),
        ),
        change(
            "life",
            ["org_claim", "max_life = \"5m\"\norg_claim"],
            json!({"iat": now()}),
            "token_invalid",
            json!({"iat": now(), "exp": now() + 299}),
        ),
        RuleChange {
            header: typed,
            ..change(
                "types",
                ["org_claim", "types = [\"at+jwt\"]\norg_claim"],
                none.clone(),
                "token_invalid",
                json!({}),
            )
        },
    ];
    for RuleChange {
        name,
        change: [from, to],
        ended: [path, other],
        token,
        reason,
        goes_on: good,
        header,
    } in changes
    {
        let upstream = service();
        let gate = with_file(Gate::before(&upstream), &[issuer.jwk("one")], "");
        let mut bad = open(&gate, path, &issuer.token_with(&plain, token));
        let mut good = open(&gate, other, &issuer.token_with(&header, good));
        let mut key = open(&gate, "/both/a", READER);
        let config = gate.folder.read("keygate.toml");
        assert!(config.contains(from), "{name}");
        gate.folder.write("keygate.toml", &config.replacen(from, to, 1));
        gate.process.signal("HUP");
        ended(&gate, reason);
        while !bad.read_some().is_empty() {}
        goes_on(name, &mut good);
        goes_on(name, &mut key);
    }
}

#[test]
fn streams_end_with_their_issuer_and_wider_rules_end_none() {
    let upstream = service();
    let issuer = Signer::new(1);
    let gate = with_file(Gate::before(&upstream), &[issuer.jwk("one")], "");
    let mut stream = open(&gate, "/both/a", &issuer.token("one", json!({})));
    let config = gate.folder.read("keygate.toml");
    let wider = config
        .replace("[\"orders\"]", "[\"billing\", \"orders\"]")
        .replace("[\"EdDSA\"]", "[\"ES256\", \"EdDSA\"]")
        .replace("[\"read\"] }", "[\"read\", \"send\"] }");
    gate.folder.write("keygate.toml", &wider);
    gate.process.signal("HUP");
    let billing = issuer.token("one", json!({"aud": "billing"}));
    gate.process.eventually("the wider rules", || {
        let mut probe = Client::connect(gate.address);
        probe.send(bearer("/both/a", &billing)).response_head().status() == 200
    });
    goes_on("wider", &mut stream);
    // Another issuer has replaced it, with the same keys.
    let other = wider.replace("https://idp.example/", "https://new.example/");
    gate.folder.write("keygate.toml", &other);
    gate.process.signal("HUP");
    while !stream.read_some().is_empty() {}
    let line = "keygate_streams_ended_total{reason=\"token_invalid\"}";
    gate.process.eventually(line, || gate.metrics().contains(line));
    // No alert for the former one fires for ever.
    let over = "keygate_jwks_age_seconds{issuer=\"https://idp.example/\"} NaN";
    gate.process.eventually(over, || gate.metrics().contains(over));
    // The new one is listed once its keys were looked for.
    let issuers = || gate.probe("/status").json()["issuers"].clone();
    gate.process.eventually("one issuer", || issuers().as_array().is_some_and(|i| i.len() == 1));
    let issuers = issuers();
    assert_eq!(issuers[0]["issuer"], "https://new.example/");
    assert_eq!((&issuers[0]["keys"], &issuers[0]["stale"]), (&json!(1), &json!(false)));
    assert!(issuers[0]["from"].as_str().unwrap().ends_with("jwks.json"), "{issuers}");
}

#[test]
fn streams_end_when_the_table_forgets_their_org() {
    let upstream = service();
    let issuer = Signer::new(1);
    let folder = Gate::before(&upstream)
        .key(Key::new("key_beta", "wa_b0123456789abcdefghijklmn").of_org("beta"))
        .rules(ROUTES)
        .also(&tokens("jwks.json", "orgs = \"table\""))
        .folder();
    folder.write("jwks.json", &crate::tokens::jwks(&[issuer.jwk("one")]));
    let gate = Gate::serve(folder);
    gate.wait_ready();
    let mut beta = open(&gate, "/both/a", &issuer.token("one", json!({"org": "beta"})));
    let mut acme = open(&gate, "/both/b", &issuer.token("one", json!({})));
    let registry = gate.folder.read("keys.toml");
    let (kept, _) = registry.split_once("[[key]]\nid = \"key_beta\"").expect("key_beta");
    gate.folder.write("keys.toml", kept);
    gate.folder.build();
    ended(&gate, "token_org");
    while !beta.read_some().is_empty() {}
    goes_on("acme", &mut acme);
}

/// A stream that was opened while there was no table yet is judged, when observing ends, like a new
/// request with its token.
#[test]
fn a_token_that_was_observed_before_there_was_a_table_keeps_its_stream() {
    let upstream = service();
    let issuer = Signer::new(1);
    let observing = tokens("jwks.json", "") + "[observe]\n";
    let folder = Gate::before(&upstream).rules(ROUTES).also(&observing).without_table().folder();
    folder.write("jwks.json", &crate::tokens::jwks(&[issuer.jwk("one")]));
    let gate = Gate::serve(folder);
    let token = issuer.token("one", json!({}));
    let lacking = issuer.token("one", json!({"scope": []}));
    gate.process.eventually("the issuer's keys", || {
        gate.probe("/status").body_text().contains("\"one\"") || gate.log().contains("one")
    });
    let (mut stays, mut ends) = (open(&gate, "/both/a", &token), open(&gate, "/both/b", &lacking));
    gate.folder.build();
    gate.wait_ready();
    let config = gate.folder.read("keygate.toml");
    gate.folder.write("keygate.toml", &config.replace("[observe]", ""));
    gate.process.signal("HUP");
    ended(&gate, "permission");
    while !ends.read_some().is_empty() {}
    goes_on("a valid token", &mut stays);
}
