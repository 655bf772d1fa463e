//! `keygate` as scripts use it: arguments, exit codes, and which stream gets what.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// RFC 8032 §7.1, test 1.
const SIGNER: &str = "ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";

struct Said {
    code: i32,
    out: String,
    err: String,
}

fn keygate(folder: &Path, arguments: &[&str], input: &str) -> Said {
    let mut child = Command::new(env!("CARGO_BIN_EXE_keygate"))
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may end without reading.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}

fn folder(extra: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let config = format!(
        "[listen]\naddress = \"127.0.0.1:0\"\n\
         [upstream]\nurl = \"http://127.0.0.1:9\"\n\
         [table]\npath = \"keys.kgt\"\naudience = \"orders\"\ntrusted_signers = [\"{SIGNER}\"]\n\
         state_file = \"state\"\n\
         [[credentials]]\nsource = \"header\"\nname = \"x-api-key\"\n\
         [[routes]]\npath = \"/*\"\n{extra}"
    );
    std::fs::write(dir.path().join("keygate.toml"), config).unwrap();
    dir
}

#[test]
fn wrong_arguments_end_with_64_and_a_hint() {
    let dir = folder("");
    let cases: [&[&str]; 9] = [
        &[],
        &["frobnicate"],
        &["serve", "--confg", "x"],
        &["serve", "extra"],
        &["explain"],
        &["explain", "--path", "/", "--key-id", "abc"],
        &["explain", "--path", "/", "--key-id", "key_a", "--no-key"],
        &["explain", "--path", "/", "--at", "soon"],
        &["check", "--config-only", "--table", "x"],
    ];
    for arguments in cases {
        let said = keygate(dir.path(), arguments, "");
        assert_eq!(said.code, 64, "{arguments:?}: {}", said.err);
        assert!(said.out.is_empty(), "{arguments:?}");
        let hint = said.err.contains("Usage: keygate") || said.err.contains("--help");
        assert!(hint, "{arguments:?}: {}", said.err);
    }
}

#[test]
fn help_and_version_go_to_standard_output() {
    let dir = folder("");
    for arguments in [&["--help"][..], &["help", "explain"], &["check", "--help"]] {
        let said = keygate(dir.path(), arguments, "");
        assert_eq!((said.code, said.err.as_str()), (0, ""), "{arguments:?}");
        assert!(said.out.contains("Usage: keygate"), "{}", said.out);
        assert!(!said.out.contains("--secret") && !said.out.contains("--key "), "{}", said.out);
    }
    let said = keygate(dir.path(), &["version", "--json"], "");
    let version: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(keygate(dir.path(), &["--version"], "").code, 0);
}

#[test]
fn every_error_of_the_configuration_at_once() {
    let dir = folder("acess = \"key\"\n[timeouts]\nidle = 75\n");
    for command in ["check", "serve", "drain"] {
        let said = keygate(dir.path(), &[command], "");
        assert_eq!(said.code, 78, "{command}: {}", said.err);
        assert!(said.out.is_empty(), "{command}");
        assert!(
            said.err.contains(
                "keygate.toml:15:1: routes[0].acess: unknown key\nhint: did you mean `access`?"
            ),
            "{command}: {}",
            said.err
        );
        assert!(
            said.err.contains("keygate.toml:17:1: timeouts.idle: must be a string"),
            "{}",
            said.err
        );
    }
    let said = keygate(dir.path(), &["check", "--json"], "");
    assert_eq!((said.code, said.err.as_str()), (78, ""));
    let report: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(report["errors"][0]["key"], "routes[0].acess");
    assert_eq!(report["errors"][0]["line"], 15);
    let said = keygate(dir.path(), &["check", "--config", "nowhere.toml"], "");
    assert_eq!(said.code, 78, "{}", said.err);
    assert!(said.err.contains("nowhere.toml cannot be read"), "{}", said.err);
    assert_eq!(said.err.matches("os error").count(), 1, "a cause is told once: {}", said.err);
}

#[test]
fn check_without_and_with_warnings() {
    let dir = folder("");
    let said = keygate(dir.path(), &["check", "--config-only", "--strict"], "");
    assert_eq!((said.code, said.err.as_str()), (0, ""));
    assert!(said.out.ends_with("ok\n"), "{}", said.out);
    let dir = folder("[observe]\n");
    let said = keygate(dir.path(), &["check", "--config-only"], "");
    assert_eq!(said.code, 0);
    assert!(
        said.out.contains("warning: observe: keygate lets every request through, admitted or not"),
        "{}",
        said.out
    );
    assert_eq!(keygate(dir.path(), &["check", "--config-only", "--strict"], "").code, 65);
}

#[test]
fn a_table_that_is_missing_or_no_table() {
    let dir = folder("");
    for command in [&["check"][..], &["explain", "--path", "/", "--no-key"]] {
        let said = keygate(dir.path(), command, "");
        assert_eq!(said.code, 66, "{command:?}: {}", said.err);
        assert!(said.err.contains("keys.kgt cannot be read"), "{}", said.err);
    }
    std::fs::write(dir.path().join("keys.kgt"), "junk").unwrap();
    for command in [&["check"][..], &["explain", "--path", "/", "--no-key"]] {
        let said = keygate(dir.path(), command, "");
        assert_eq!(said.code, 65, "{command:?}: {}", said.err);
        assert!(said.err.contains("keys.kgt is refused ("), "{}", said.err);
    }
}

#[test]
fn drain_without_a_sidecar_may_be_tried_again() {
    // Nothing listens on the port that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let dir = folder(&format!("[admin]\naddress = \"{free}\"\n"));
    let said = keygate(dir.path(), &["drain"], "");
    assert_eq!(said.code, 75, "{}", said.err);
    assert!(said.err.contains(&free.to_string()) && said.err.contains("hint: "), "{}", said.err);
}

/// `-c`, `KEYGATE_CONFIG` and the commit: what people try first.
#[test]
fn what_people_expect_of_a_command_line() {
    let dir = folder("");
    std::fs::rename(dir.path().join("keygate.toml"), dir.path().join("other.toml")).unwrap();
    let check = |arguments: &[&str], variable: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keygate"));
        command.arg("check").arg("--config-only").args(arguments).current_dir(dir.path());
        if let Some(value) = variable {
            command.env("KEYGATE_CONFIG", value);
        }
        let output = command.output().unwrap();
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    assert_eq!(check(&["-c", "other.toml"], None).0, 0);
    assert_eq!(check(&[], Some("other.toml")).0, 0);
    assert_eq!(check(&["-c", "other.toml"], Some("none.toml")).0, 0, "the argument wins");
    assert_eq!(check(&[], None).0, 78);
    let said = check(&["-c", "other.toml"], None).1;
    assert!(said.contains(": 1 route, 1 credential source\n"), "{said}");
    // Both programs name the same version, and the commit where this was built from a repository.
    let version = |program: &str| {
        let output = Command::new(program).arg("--version").output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.trim().split_once(' ').unwrap().1.to_owned()
    };
    let ours = version(env!("CARGO_BIN_EXE_keygate"));
    assert_eq!(ours, version(env!("CARGO_BIN_EXE_keygatectl")));
    let number = env!("CARGO_PKG_VERSION");
    match ours.strip_prefix(number).unwrap() {
        "" => {
            let mut git = Command::new("git");
            git.args(["rev-parse", "HEAD"]).current_dir(env!("CARGO_MANIFEST_DIR"));
            assert!(git.output().map_or(true, |o| !o.status.success()), "no commit");
        }
        commit => {
            let commit = commit.strip_prefix(" (").unwrap().strip_suffix(')').unwrap();
            let hex = commit.bytes().all(|b| b.is_ascii_hexdigit());
            assert!(hex && (7..=12).contains(&commit.len()), "{commit}");
        }
    }
}

/// The remedy fits the actual fault, not the usual one.
#[test]
fn hints_fit_the_fault() {
    let dir = folder("");
    std::fs::create_dir(dir.path().join("folder")).unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
    write("a.yaml", b"listen:\n  address: 127.0.0.1:0\n");
    write("a.json", b"{\n  \"listen\": { \"address\": \"127.0.0.1:0\" }\n}\n");
    write("yaml.toml", b"# a comment\n---\nlisten:\n  - address: x\n");
    write("latin.toml", b"# caf\xe9\n");
    for (file, message, hint) in [
        ("none.toml", "cannot be read", "name it with --config"),
        ("folder", "cannot be read", "name the file in it"),
        ("latin.toml", "cannot be read", "save it as UTF-8"),
        ("a.yaml", "a.yaml:1:1: is YAML, and keygate reads TOML", "docs/config.md"),
        ("yaml.toml", "yaml.toml:1:1: is YAML, and keygate reads TOML", "docs/config.md"),
        ("a.json", "a.json:1:1: is JSON, and keygate reads TOML", "docs/config.md"),
    ] {
        for command in ["check", "serve"] {
            let said = keygate(dir.path(), &[command, "-c", file], "");
            assert_eq!(said.code, 78, "{command} {file}: {}", said.err);
            assert!(said.err.starts_with("error: "), "{command} {file}: {}", said.err);
            assert!(said.err.contains(message), "{command} {file}: {}", said.err);
            let told = said.err.split_once("\nhint: ").map(|(_, hint)| hint).unwrap_or_default();
            assert!(told.contains(hint), "{command} {file}: {}", said.err);
        }
    }
}
