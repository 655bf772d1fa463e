//! What `keygate check` and `keygate explain` report about user tokens, and what tokens cost the
//! build.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};

use crate::support::gate::{Gate, READER, keygate};
use crate::support::upstream::Upstream;
use crate::tokens::{ROUTES, Signer, jwks, now, tokens};

/// User tokens added two packages to the sidecar.
#[test]
fn the_dependencies_of_tokens_are_two() {
    let lock: toml::Table = include_str!("../../Cargo.lock").parse().unwrap();
    let packages = lock["package"].as_array().unwrap();
    let reached = |without: &str| {
        let mut seen = std::collections::BTreeSet::new();
        let mut open = vec!["keygate".to_owned()];
        while let Some(name) = open.pop() {
            let bare = name.split(' ').next().unwrap().to_owned();
            if bare == without || !seen.insert(bare.clone()) {
                continue;
            }
            for package in packages.iter().filter(|p| p["name"].as_str() == Some(&bare)) {
                let needs = package.get("dependencies").and_then(|d| d.as_array());
                let needs = needs.into_iter().flatten().filter_map(|d| d.as_str());
                open.extend(needs.map(str::to_owned));
            }
        }
        seen
    };
    let (all, others) = (reached(""), reached("jsonwebtoken"));
    let more: Vec<_> = all.difference(&others).map(String::as_str).collect();
    assert_eq!(more, ["jsonwebtoken", "signature"]);
}

#[test]
fn check_names_each_fault_with_its_line_and_a_remedy() {
    let upstream = Upstream::start();
    let issuer = Signer::new(1);
    let check = |rules: &str, tokens: &str, set: &str| {
        let folder = Gate::before(&upstream).rules(rules).also(tokens).folder();
        folder.write("jwks.json", set);
        let mut command = keygate(folder.path());
        let said = command.args(["check", "--config", "keygate.toml", "--config-only"]).output();
        let said = said.unwrap();
        let text = String::from_utf8_lossy(&said.stderr).into_owned();
        (said.status.code(), text + &String::from_utf8_lossy(&said.stdout))
    };
    let set = jwks(&[issuer.jwk("one")]);
    let good = tokens("jwks.json", "");
    let (code, said) = check(ROUTES, &good, &set);
    assert_eq!(code, Some(0), "{said}");
    let bearer = "prefixes = [\"wa_\"]\n";
    let url = "https://idp.example/jwks";
    for (name, rules, tokens, set, want) in [
        ("no issuer", ROUTES.to_owned(), String::new(), set.as_str(), "no issuer is configured"),
        ("every bearer", ROUTES.replace(bearer, ""), good.clone(), &set, "counts as a key"),
        ("HMAC", ROUTES.into(), good.replace("EdDSA", "HS256"), &set, "make one"),
        ("clear text", ROUTES.into(), tokens("http://idp.example/", ""), &set, "https://"),
        ("a slash", ROUTES.into(), tokens("https:/idp.example/", ""), &set, "is not a URL"),
        ("no such file", ROUTES.into(), tokens("nowhere.json", ""), &set, "nowhere.json"),
        ("no set", ROUTES.into(), good.clone(), "{}", "not a JWK Set"),
        (
            "a secret",
            ROUTES.into(),
            good.clone(),
            r#"{"keys":[{"kty":"oct","k":"AA"}]}"#,
            "symmetric",
        ),
        (
            "a cost above the burst",
            ROUTES.replace("\"token\"\n", "\"token\"\ncost = 3\n"),
            tokens("jwks.json", "limit = \"60/min burst 2\""),
            &set,
            "3 is above the burst of tokens.limit of `https://idp.example/`, which is 2",
        ),
        (
            "a long life",
            ROUTES.into(),
            tokens("jwks.json", "max_life = \"90d\""),
            &set,
            "at most 30d",
        ),
        (
            "a copy of a file",
            ROUTES.into(),
            tokens("jwks.json", "jwks_copy = \"x\""),
            &set,
            "from a URL",
        ),
        ("no CA", ROUTES.into(), tokens(url, "jwks_ca = \"no.pem\""), &set, "no.pem"),
        ("orgs", ROUTES.into(), tokens("jwks.json", "orgs = \"some\""), &set, "`any`, `table`"),
        ("a limit", ROUTES.into(), tokens("jwks.json", "limit = \"many\""), &set, "tokens"),
        ("twice", ROUTES.into(), format!("{good}{good}"), &set, "earlier [[tokens]]"),
        ("no audience", ROUTES.into(), good.replace("[\"orders\"]", "[]"), &set, "is empty"),
        ("no claim", ROUTES.into(), good.replace("org_claim = \"org\"\n", ""), &set, "org_claim"),
        ("a typo", ROUTES.into(), tokens("jwks.json", "forwrad = true"), &set, "`forward`"),
        ("a word", ROUTES.into(), good.replace("orders:read\" =", "a b\" ="), &set, "one word"),
        ("no map", ROUTES.into(), good.replace("permissions = {", "#"), &set, "permissions"),
    ] {
        let (code, said) = check(&rules, &tokens, set);
        assert_eq!(code, Some(78), "{name}: {said}");
        assert!(said.contains(want), "{name}: {said}");
        assert!(said.contains("keygate.toml:"), "{name}: {said}");
        // For those two, the message itself says what is allowed there.
        let says_it = ["a limit", "orgs"].contains(&name);
        assert!(said.contains("hint: ") || says_it, "{name}: {said}");
    }
}

/// What is wrong with a key file, which issuer it belongs to, and what to do about it.
#[test]
fn check_says_what_a_key_file_lacks() {
    let upstream = Upstream::start();
    let issuer = Signer::new(1);
    let check = |set: &str, mode: u32| {
        let folder = Gate::before(&upstream).rules(ROUTES).also(&tokens("jwks.json", "")).folder();
        if !set.is_empty() {
            folder.write("jwks.json", set);
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(folder.file("jwks.json"), permissions).unwrap();
        }
        let mut command = keygate(folder.path());
        let said = command.args(["check", "--config", "keygate.toml"]).output().unwrap();
        let text = String::from_utf8_lossy(&said.stderr).into_owned();
        (said.status.code(), text + &String::from_utf8_lossy(&said.stdout))
    };
    let good = issuer.jwk("one");
    let other =
        json!({"kty": "EC", "crv": "P-256", "kid": "two", "alg": "ES256", "x": "AA", "y": "AA"});
    let leaked = json!({"kty": "oct", "kid": "three", "k": "AA"});
    for (name, set, words) in [
        ("nothing", String::new(), ["jwks.json: it does not exist", "the issuer's JWK Set"]),
        ("no key", jwks(&[]), ["no key in it is for EdDSA: it is empty", "jwks_uri"]),
        (
            "another algorithm",
            jwks(std::slice::from_ref(&other)),
            [
                r#"it has kid "two" (kty "EC", crv "P-256", alg "ES256")"#,
                "add the alg of its keys to tokens.algorithms",
            ],
        ),
        (
            "one kid twice",
            jwks(&[good.clone(), Signer::new(2).jwk("one")]),
            [r#"two keys have the kid "one""#, "keep one key of each kid in "],
        ),
        ("a secret", jwks(&[leaked]), ["symmetric", "its public part alone"]),
    ] {
        let (code, said) = check(&set, 0o600);
        assert_eq!(code, Some(78), "{name}: {said}");
        for word in words {
            assert!(said.contains(word), "{name}: {said}");
        }
        assert!(!said.contains("table there") && said.contains("jwks.json"), "{name}: {said}");
    }
    for (mode, who) in [(0o666, Some("everybody")), (0o664, Some("its group")), (0o644, None)] {
        let (code, said) = check(&jwks(std::slice::from_ref(&good)), mode);
        assert_eq!(code, Some(0), "{said}");
        assert_eq!(said.contains("may write"), who.is_some(), "{said}");
        if let Some(who) = who {
            assert!(said.contains(who) && said.contains("chmod go-w "), "{said}");
            assert!(said.contains("sign as every user of the issuer"), "{said}");
        }
    }
}

#[test]
fn explain_judges_a_token_without_its_issuer() {
    let upstream = Upstream::start();
    let issuer = Signer::new(1);
    let folder = Gate::before(&upstream)
        .rules(ROUTES)
        .also(&tokens("jwks.json", "limit = \"600/min\""))
        .folder();
    folder.write("jwks.json", &jwks(&[issuer.jwk("one")]));
    let explain = |path: &str, token: &str| {
        folder.write("token", token);
        let input = std::fs::File::open(folder.file("token")).unwrap();
        let mut command = keygate(folder.path());
        command
            .args(["explain", "--config", "keygate.toml", "--path", path, "--json"])
            .stdin(input);
        serde_json::from_slice::<Value>(&command.output().unwrap().stdout).unwrap()
    };
    let told = explain("/both/a", &issuer.token("one", json!({})));
    assert_eq!(told["verdict"], "admitted", "{told}");
    assert_eq!(told["token"]["subject"], "user-7");
    assert_eq!(told["charges"][0]["scope"], "subject", "{told}");
    assert!(
        told["headers"].as_array().unwrap().contains(&json!(["x-credential", "token"])),
        "{told}"
    );
    // The message for people who have sent a token mentions a token.
    let lacking = explain("/admin/a", &issuer.token("one", json!({})));
    assert_eq!(lacking["reason"], "permission", "{lacking}");
    assert_eq!(lacking["token"]["subject"], "user-7", "{lacking}");
    let body = lacking["refusal"]["body"].as_str().unwrap();
    assert!(body.contains("Token lacks required permissions: manage"), "{body}");
    assert!(!lacking["refusal"].to_string().contains("key"), "{lacking}");
    let over = explain("/both/a", &issuer.token("one", json!({"exp": now() - 5})));
    assert_eq!((&over["verdict"], &over["reason"]), (&json!("rejected"), &json!("token_expired")));
    let forged = explain("/both/a", &Signer::new(2).token("one", json!({})));
    assert_eq!(forged["reason"], "token_invalid", "{forged}");
    assert_eq!(explain("/keys/a", &issuer.token("one", json!({})))["reason"], "foreign");
    assert_eq!(explain("/pass/a", &issuer.token("one", json!({})))["verdict"], "passed");
    let key = explain("/both/a", READER);
    assert_eq!((&key["verdict"], &key["key"]["id"]), (&json!("admitted"), &json!("key_reader")));
}
