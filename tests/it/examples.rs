//! The examples of the four documented products, with the tables of their own registries: built by
//! `keygatectl`, checked and explained by `keygate`.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::process::run;

const PRODUCTS: [&str; 4] = ["we-link", "wa-gateway", "whatomate", "weshape"];

/// A folder with the examples, a signer, and a table of each registry.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples");
    for entry in fs::read_dir(examples).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    for product in ["wa-gateway", "whatomate", "weshape"] {
        let secret = dir.path().join(format!("{product}.jwt-secret"));
        fs::write(&secret, "jwt-secret-of-the-service-0123456789").unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    }
    let ctl = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keygatectl"));
        command.current_dir(dir.path());
        command
    };
    run(ctl().args(["signer", "new", "--out", "signer.pem", "--public-out", "signer.pub"]));
    for product in PRODUCTS {
        let (registry, table) = (format!("{product}.keys.toml"), format!("{product}.kgt"));
        run(ctl().args(["--registry", &registry, "table", "build"]).args([
            "--signer",
            "signer.pem",
            "--out",
            &table,
        ]));
    }
    dir
}

fn explain(folder: &Path, product: &str, arguments: &[&str], secret: &str) -> Value {
    let mut child = Command::new(env!("CARGO_BIN_EXE_keygate"))
        .args(["explain", "--json", "--config", &format!("{product}.toml")])
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // With --key-id it is not read.
    let _ = child.stdin.take().unwrap().write_all(secret.as_bytes());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{product} {arguments:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn examples_check_without_a_warning() {
    let dir = folder();
    for product in PRODUCTS.into_iter().chain(["wa-gateway-tokens"]) {
        let config = format!("{product}.toml");
        let said = run(Command::new(env!("CARGO_BIN_EXE_keygate"))
            .args(["check", "--strict", "--config", &config])
            .current_dir(dir.path()));
        assert!(said.contains("table: serial ") && said.ends_with("ok\n"), "{said}");
    }
}

#[test]
fn examples_decide_as_their_pages_say() {
    let dir = folder();
    let login: &[&str] =
        &["--pair-id", "12345-abcde-67890-fghij", "--method", "POST", "--path", "/api/v1/login_v2"];
    let staging = |from: &'static str| {
        ["--key-id", "key_staging", "--path", "/api/v1/profiles/7", "--from", from]
    };
    let sessions: &[&str] = &["--path", "/api/v1/sessions"];
    type Case<'a> = (&'a str, &'a [&'a str], &'a str, &'a str, Option<&'a str>);
    let cases: [Case<'_>; 18] = [
        ("we-link", login, "98765-zyxwv-43210-utsrq\n", "admitted", None),
        ("we-link", login, "98765-zyxwv-43210-utsrQ", "rejected", Some("wrong_secret")),
        ("we-link", &staging("203.0.113.9"), "", "admitted", None),
        ("we-link", &staging("::ffff:203.0.113.9"), "", "admitted", None),
        ("we-link", &staging("198.51.100.1"), "", "rejected", Some("ip")),
        ("wa-gateway", sessions, "wa_example_dashboard", "admitted", None),
        ("wa-gateway", sessions, "wa_example_notifier", "rejected", Some("permission")),
        ("wa-gateway", sessions, "eyJhbGciOi.user.token", "passed", None),
        ("wa-gateway-tokens", sessions, "wa_example_dashboard", "admitted", None),
        ("wa-gateway-tokens", sessions, "wa_example_notifier", "rejected", Some("permission")),
        ("wa-gateway", &["--path", "/api/v1/events"], "wa_example_dashboard", "admitted", None),
        (
            "whatomate",
            &["--path", "/api/contacts"],
            "whm_a1b2c3d4e5f6g7h8i9j0k1l2m3n4o5p6",
            "admitted",
            None,
        ),
        (
            "whatomate",
            &["--key-id", "key_old", "--path", "/api/contacts"],
            "",
            "rejected",
            Some("expired"),
        ),
        ("whatomate", &["--path", "/api/contacts", "--no-key"], "", "passed", None),
        (
            "weshape",
            &["--path", "/api/v3/archives"],
            "wsk_live_your_api_key_here",
            "admitted",
            None,
        ),
        (
            "weshape",
            &["--path", "/api/v3/users/me/company"],
            "wsk_live_your_api_key_here",
            "admitted",
            None,
        ),
        (
            "weshape",
            &["--path", "/api/v3/archives"],
            "wsk_test_your_development_key",
            "rejected",
            Some("wrong_environment"),
        ),
        ("weshape", &["--path", "/api/v3/archives", "--no-key"], "", "rejected", Some("missing")),
    ];
    for (product, arguments, secret, verdict, reason) in cases {
        let answer = explain(dir.path(), product, arguments, secret);
        assert_eq!(answer["verdict"], verdict, "{product} {arguments:?}: {answer:#}");
        assert_eq!(answer["reason"].as_str(), reason, "{product} {arguments:?}");
    }
}

/// The forms that the pages print or that the products' clients know.
#[test]
fn examples_refuse_in_the_form_of_their_product() {
    let dir = folder();
    let refused = |product: &str| -> Value {
        let answer = explain(dir.path(), product, &["--path", "/api/v3/archives"], "wrong");
        assert_eq!(answer["refusal"]["status"], 401);
        serde_json::from_str(answer["refusal"]["body"].as_str().unwrap()).unwrap()
    };
    let weshape = refused("weshape");
    assert_eq!(weshape["error"], "Unauthorized");
    assert_eq!(weshape["errorMessage"], "Invalid API key provided");
    let whatomate = refused("whatomate");
    assert_eq!(whatomate["status"], "error");
    assert_eq!(whatomate["message"], "Invalid API key provided");
}

#[test]
fn a_key_that_the_table_does_not_have() {
    let dir = folder();
    let output = Command::new(env!("CARGO_BIN_EXE_keygate"))
        .args(["explain", "--config", "weshape.toml", "--key-id", "key_none", "--path", "/"])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(66));
    assert!(String::from_utf8_lossy(&output.stderr).contains("has no key key_none"));
}

/// The other side of each product: who manages its keys, and how. Every permission that a route of
/// the sidecar needs is offered, with an explanation.
#[cfg(feature = "admin")]
#[test]
fn examples_of_the_management_service_fit_the_sidecars() {
    let dir = folder();
    for product in PRODUCTS {
        let config = format!("{product}.admin.toml");
        let output = Command::new(env!("CARGO_BIN_EXE_keygatectl"))
            .args(["admin", "check", "--config", &config])
            .current_dir(dir.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !said.contains("warning"), "{config}: {said}");
        let read = |name: &str| -> toml::Table {
            fs::read_to_string(dir.path().join(name)).unwrap().parse().unwrap()
        };
        let (admin, sidecar) = (read(&config), read(&format!("{product}.toml")));
        let audience = &admin["audiences"].as_array().unwrap()[0];
        assert_eq!(audience["name"], sidecar["table"]["audience"], "{product}");
        let offered: Vec<_> = audience["permissions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|offered| {
                assert!(offered["sentence"].as_str().is_some_and(|text| text.len() > 4));
                offered["word"].as_str().unwrap()
            })
            .collect();
        for route in sidecar["routes"].as_array().unwrap() {
            let asked = route.get("permissions").and_then(|words| words.as_array());
            for word in asked.into_iter().flatten() {
                assert!(offered.contains(&word.as_str().unwrap()), "{product}: {word}");
            }
        }
        // What the service publishes is what the sidecar watches.
        let target = &audience["targets"].as_array().unwrap()[0];
        for (of_service, of_sidecar) in [("table", "path"), ("patch", "patch")] {
            let file = target[of_service].as_str().unwrap();
            let watched = sidecar["table"][of_sidecar].as_str().unwrap();
            assert!(watched.ends_with(&format!(":-{file}}}")), "{product}: {watched}");
        }
    }
}
