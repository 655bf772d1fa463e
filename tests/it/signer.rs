//! `keygatectl signer serve` as a process: the management service behind it, and in front of it
//! users who may ask and users who may not. Also: tables that several sign.

#[cfg(feature = "admin")]
mod with_the_service;

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use crate::support::gate::{Folder, keygatectl};
use crate::support::process::Process;

/// A folder with a signer's key, state and configuration, and who may ask.
fn signer_in(folder: &Folder, uids: &str) {
    let state = folder.file("signer");
    std::fs::create_dir(&state).unwrap();
    std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o700)).unwrap();
    folder.ctl(&["signer", "new", "--out", "signer/signer.pem", "--public-out", "signer.pub.pem"]);
    let socket = folder.file("signer.sock");
    let socket = socket.display();
    folder.write(
        "signer.toml",
        &format!(
            "key = \"signer/signer.pem\"\nsocket = \"{socket}\"\nsocket_mode = \"0666\"\n\
             uids = [{uids}]\ncheckpoints = true\n\n[[audiences]]\nname = \"shop\"\n"
        ),
    );
}

fn serve_signer(folder: &Folder) -> Process {
    let process = Process::start(keygatectl(folder.path()).args(["signer", "serve"]));
    process.wait_for_line("listens on unix:");
    process
}

/// The command that a refusal prints.
#[cfg(feature = "admin")]
fn allow_with(folder: &Folder, options: &str) -> String {
    let config = folder.path().join("signer.toml");
    format!("`keygatectl signer allow -c {} {options}`", config.display())
}

fn us() -> String {
    format!("\"{}\"", rustix::process::geteuid().as_raw())
}

/// The kernel says who asks: another user gets nothing, although the file lets everybody connect.
#[test]
fn only_configured_users_are_answered() {
    let folder = Folder::empty();
    signer_in(&folder, &us());
    let process = serve_signer(&folder);
    let socket = format!("unix:{}", folder.file("signer.sock").display());
    let shown = folder.ctl(&["signer", "show", &socket]);
    assert_eq!(shown, folder.read("signer.pub.pem"));
    if !rustix::process::geteuid().is_root() {
        // It is impossible to become another user here. The test in `manage::signing` configures
        // another uid.
        return;
    }
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let other = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .arg(env!("CARGO_BIN_EXE_keygatectl"))
        .args(["signer", "show", &socket])
        .current_dir(folder.path())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&other.stderr).into_owned();
    assert!(!other.status.success() && other.stdout.is_empty(), "{told}");
    process.wait_for_line("refused user 65534");
    // Nor may a user other than the signer's allow anything.
    let allow = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .arg(env!("CARGO_BIN_EXE_keygatectl"))
        .args(["signer", "allow", "--audience", "shop", "--least", "0"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(!allow.status.success(), "{allow:?}");
    folder.ctl(&["signer", "allow", "--audience", "shop", "--least", "0"]);
    // One process at a time.
    let second = keygatectl(folder.path()).args(["signer", "serve"]).output().unwrap();
    let told = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(75), "{told}");
    assert!(told.contains("another signer"), "{told}");
}

/// Neither starts if others could change what was signed or allowed, or hold the lock.
#[test]
fn a_state_directory_of_others_stops_the_start() {
    let folder = Folder::empty();
    signer_in(&folder, &us());
    folder.ctl(&["signer", "allow", "--recovery"]);
    let set = |name: &str, mode| {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(folder.file(name), mode).unwrap();
    };
    let mode = std::fs::metadata(folder.file("signer/allowed")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    for name in ["signer", "signer/allowed"] {
        for open in [0o755, 0o750, 0o777] {
            set(name, open);
            let output = keygatectl(folder.path()).args(["signer", "serve"]).output().unwrap();
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success(), "{name} {open:o}");
            assert!(told.contains("others can use it") && told.contains("chmod 700"), "{told}");
        }
        set(name, 0o700);
    }
    serve_signer(&folder);
}

#[test]
fn what_is_allowed_is_shown_and_taken_back() {
    let folder = Folder::empty();
    let told = refused(&folder, &["signer", "allow", "--list"]);
    assert!(told.contains("signer.toml") && told.contains("hint: name it with -c FILE"), "{told}");
    signer_in(&folder, &us());
    let list = || folder.ctl(&["signer", "allow", "--list"]);
    assert_eq!(list(), "");
    folder.ctl(&["signer", "allow", "--audience", "shop", "--least", "3", "--serial", "7"]);
    folder.ctl(&["signer", "allow", "--recovery"]);
    let listed = list();
    assert_eq!(listed.lines().count(), 3, "{listed}");
    assert!(
        listed.contains("for shop that leaves 3 active keys or more is signed, once"),
        "{listed}"
    );
    let gone = folder.ctl(&["signer", "allow", "--withdraw", "--recovery"]);
    assert!(gone.contains("restored from a backup is taken back"), "{gone}");
    assert_eq!(list().lines().count(), 2);
    let told = refused(&folder, &["signer", "allow", "--withdraw", "--audience", "shap"]);
    assert!(told.contains("none of those signed for (shop)"), "{told}");
    let gone = folder.ctl(&["signer", "allow", "--withdraw", "--json"]);
    assert_eq!(
        gone.lines().filter(|line| line.contains("\"audience\":\"shop\"")).count(),
        2,
        "{gone}"
    );
    assert_eq!((list(), folder.ctl(&["signer", "allow", "--withdraw"])), Default::default());
    refused(&folder, &["signer", "allow", "--list", "--least", "3"]);
    refused(&folder, &["signer", "allow", "--withdraw", "--for", "1h"]);
}

/// Must fail. Returns what it says.
fn refused(folder: &Folder, arguments: &[&str]) -> String {
    let output = keygatectl(folder.path()).args(arguments).output().unwrap();
    assert!(!output.status.success() && output.stdout.is_empty(), "{arguments:?}: {output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A socket, or its directory, that is for a group.
#[test]
fn who_may_not_connect_is_told_the_group() {
    if !rustix::process::geteuid().is_root() {
        // It is impossible to become another user here.
        return;
    }
    let folder = Folder::empty();
    signer_in(&folder, "\"65534\"");
    let config = folder.read("signer.toml").replace("0666", "0660");
    std::fs::create_dir(folder.file("run")).unwrap();
    folder.write("signer.toml", &config.replace("signer.sock", "run/signer.sock"));
    let _process = serve_signer(&folder);
    let mode = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(folder.path(), 0o755);
    std::os::unix::fs::chown(folder.file("run/signer.sock"), None, Some(4711)).unwrap();
    std::os::unix::fs::chown(folder.file("run"), None, Some(4712)).unwrap();
    let socket = format!("unix:{}", folder.file("run/signer.sock").display());
    for (open, group) in [(0o755, "4711"), (0o750, "4712")] {
        mode(&folder.file("run"), open);
        let asked = Command::new("setpriv")
            .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
            .arg(env!("CARGO_BIN_EXE_keygatectl"))
            .args(["signer", "show", &socket])
            .current_dir(folder.path())
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&asked.stderr).into_owned();
        assert_eq!(asked.status.code(), Some(75), "{told}");
        let remedy = format!("`usermod -aG {group} USER`");
        assert!(told.contains("Permission denied") && told.contains(&remedy), "{told}");
    }
}

/// The scripts of docs/signer.md, in order.
fn scripts() -> Vec<String> {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/signer.md"));
    let page = page.unwrap();
    let blocks = page.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    blocks.filter(|block| block.starts_with("#!")).map(str::to_owned).collect()
}

/// Runs a script with `message` on standard input. Returns what it writes.
fn run_script(folder: &Folder, script: &str, argument: &str, message: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    folder.write("sign", script);
    let mut child = Command::new("sh")
        .args(["sign", argument])
        .env("KMS_CONFIG", folder.file("kms.curl"))
        .env("no_proxy", "*")
        .current_dir(folder.path())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(message).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    output.stdout
}

/// Whether openssl accepts it as a signature of the folder's signer.
fn verifies(folder: &Folder, message: &[u8], signature: &[u8]) -> bool {
    std::fs::write(folder.file("message"), message).unwrap();
    std::fs::write(folder.file("signature"), signature).unwrap();
    Command::new("openssl")
        .args(["pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", "signer.pub.pem"])
        .args(["-sigfile", "signature", "-in", "message"])
        .current_dir(folder.path())
        .output()
        .unwrap()
        .status
        .success()
}

#[test]
fn scripts_of_the_page_sign() {
    use std::io::{Read as _, Write as _};
    let folder = Folder::empty();
    folder.ctl(&["signer", "new", "--out", "signer.pem", "--public-out", "signer.pub.pem"]);
    let scripts = scripts();
    let [pkcs11, kms] = scripts.as_slice() else { panic!("{scripts:?}") };
    let message = b"a head of a table\0with any bytes\xff";
    let signature = run_script(&folder, pkcs11, "signer.pem", message);
    assert_eq!(signature.len(), 64);
    assert!(verifies(&folder, message, &signature));
    // A KMS that has the same key, and requires a token.
    folder.write_secret("kms.curl", "header = \"Authorization: Bearer of-the-kms\"\n");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (root, seen) = (folder.path().to_owned(), std::sync::mpsc::channel());
    let (asked, was_asked) = seen;
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut text = String::new();
        let mut bytes = [0; 4096];
        while !text.contains("\"}") {
            let read = stream.read(&mut bytes).unwrap();
            assert!(read > 0, "the request breaks off: {text}");
            text.push_str(&String::from_utf8_lossy(&bytes[..read]));
        }
        let encoded = text.split("{\"message\":\"").nth(1).unwrap().split('"').next().unwrap();
        let shell = "printf %s \"$1\" | base64 -d > asked && openssl pkeyutl -sign -rawin -inkey \
                     signer.pem -in asked | base64 -w0";
        let signed = Command::new("sh")
            .args(["-c", shell, "sh", encoded])
            .current_dir(root)
            .output()
            .unwrap();
        let signature = String::from_utf8(signed.stdout).unwrap();
        let body = format!("{{\"key\": \"7\", \"signature\": \"{signature}\"}}");
        let length = body.len();
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
             connection: close\r\n\r\n{body}"
        );
        stream.write_all(answer.as_bytes()).unwrap();
        asked.send(text).unwrap();
    });
    let url = format!("http://{address}/v1/keys/keygate:sign");
    let answer = run_script(&folder, kms, &url, message);
    answering.join().unwrap();
    let asked = was_asked.recv().unwrap().to_ascii_lowercase();
    assert!(asked.contains("authorization: bearer of-the-kms"), "{asked}");
    std::fs::write(folder.file("base64"), answer).unwrap();
    let decoded = Command::new("base64").args(["-d", "base64"]).current_dir(folder.path()).output();
    let signature = decoded.unwrap().stdout;
    assert_eq!(signature.len(), 64);
    assert!(verifies(&folder, message, &signature));
}
