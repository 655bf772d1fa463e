//! The signer behind the management service: what reaches sidecars, what waits, what an operator
//! sees.

use super::*;
use crate::support::client::exchange;
use crate::support::http::Message;

/// The token of the second signer's program.
const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// With keys `CRM` and `ERP`, a signer, and targets for tables.
fn service(folder: &Folder, signer: &str) -> (Process, String) {
    folder.write(
        "admin.toml",
        &format!(
            "state = \"state\"\n\n[listen]\naddress = \"127.0.0.1:0\"\n\n[[audiences]]\n\
                 name = \"shop\"\n{signer}\n\n[[audiences.targets]]\ndirectory = \"out\"\n"
        ),
    );
    std::fs::create_dir(folder.file("out")).unwrap();
    folder.ctl(&["admin", "migrate"]);
    folder.ctl(&["-r", "keys.jsonl", "keys", "init", "--audience", "shop", "--prefix", "kg"]);
    for name in ["CRM", "ERP", "CI"] {
        folder.ctl(&["-r", "keys.jsonl", "keys", "create", "--org", "acme", "--name", name]);
    }
    folder.ctl(&["admin", "import", "keys.jsonl"]);
    let process = Process::start(keygatectl(folder.path()).args(["admin", "serve"]));
    let line = process.wait_for_line("listening on http://");
    let address = line.rsplit('/').next().unwrap().trim().to_owned();
    (process, format!("http://{address}"))
}

fn id_of(folder: &Folder, name: &str) -> String {
    let list = folder.ctl(&["-r", "keys.jsonl", "keys", "list", "--name", name, "--json"]);
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    list[0]["id"].as_str().unwrap().to_owned()
}

/// Killed in between and started again: changes made meanwhile are published, and the same process
/// signs the audit log.
#[test]
fn a_service_publishes_through_a_signer_of_its_own() {
    let folder = Folder::empty();
    signer_in(&folder, &us());
    let socket = folder.file("signer.sock");
    let signer =
        format!("signer = \"unix:{}\"\nsigner_public = \"signer.pub.pem\"", socket.display());
    let process = serve_signer(&folder);
    let (service, _) = service(&folder, &signer);
    process.wait_for_line("signed the table of serial");
    process.wait_for_line("of the audit log");
    service.eventually("a patch", || folder.file("out/keys.kgp").exists());
    // Abruptly, as in a power cut.
    drop(process);
    let id = id_of(&folder, "CRM");
    let told = fails(&folder, 75, &["admin", "revoke", &id]);
    assert!(told.contains("signer.sock") && told.contains(WITHOUT), "{told}");
    let process = serve_signer(&folder);
    process.wait_for_line("signed the patch of serial");
    let verify = ["table", "verify", "out/keys.kgt", "--audience", "shop", "--signer"];
    folder.ctl(&[&verify[..], &["signer.pub.pem"]].concat());
    service.eventually("the revocation", || {
        let shown = keygatectl(folder.path())
            .args(["table", "inspect", "out/keys.kgp", "--json"])
            .output()
            .unwrap();
        String::from_utf8_lossy(&shown.stdout).contains("\"active\": 2")
            || String::from_utf8_lossy(&shown.stdout).contains(&id)
    });
    folder.ctl(&["admin", "verify-audit"]);
    // Two of three are removed, which is more than half. The caller learns that the key is still
    // valid, and what ends it.
    let allow = allow_with(&folder, "--audience shop --least 1");
    let told = fails(&folder, 75, &["admin", "revoke", &id_of(&folder, "ERP")]);
    assert!(told.contains(&allow), "{told}");
    assert!(told.contains(WITHOUT), "{told}");
    process.wait_for_line("not signed (brake)");
    process.wait_for_line(&allow);
    // On the host, a command also reports this for as long as it is true.
    let check = || keygatectl(folder.path()).args(["admin", "check"]).output().unwrap();
    service.eventually("the reason", || {
        let told = check();
        let why = String::from_utf8_lossy(&told.stderr).into_owned();
        told.status.code() == Some(75)
            && why.contains("shop: not published")
            && why.contains(&allow)
    });
    folder.ctl(&["signer", "allow", "--audience", "shop", "--least", "1"]);
    process.wait_for_line("has allowed");
    service.eventually("published", || check().status.success());
    assert!(folder.ctl(&["admin", "check", "--running"]).contains("all published"));
    // The same command again reports that it is in force now.
    folder.ctl(&["admin", "revoke", &id_of(&folder, "ERP")]);
    // The database is written first, so a directory that accepts nothing still prevents publishing.
    let (out, away) = (folder.file("out"), folder.file("away"));
    std::fs::rename(&out, &away).unwrap();
    folder.write("one.toml", &ADDED.replace("added", "before").replace("4e07", "4e08"));
    folder.ctl(&["admin", "import", "one.toml"]);
    service.eventually("the directory", || {
        let told = check();
        told.status.code() == Some(75)
            && String::from_utf8_lossy(&told.stdout).contains("not published everywhere")
    });
    fails(&folder, 75, &["admin", "revoke", &id_of(&folder, "ERP")]);
    std::fs::rename(&away, &out).unwrap();
    service.eventually("published", || check().status.success());
    // While nobody publishes and nothing prevents it, the service will when it starts. With the
    // signer away, it would not.
    drop(service);
    folder.ctl(&["admin", "check"]);
    let told = fails(&folder, 75, &["admin", "check", "--running"]);
    assert!(told.contains("no service runs on "), "{told}");
    folder.write("one.toml", ADDED);
    folder.ctl(&["admin", "import", "one.toml"]);
    let told = folder.ctl(&["admin", "check"]);
    assert!(told.contains("not published: the service publishes when it starts"), "{told}");
    drop(process);
    let told = fails(&folder, 75, &["admin", "check"]);
    assert!(told.contains("signer.sock") && told.contains("not published"), "{told}");
}

/// What a command says about a change that is not published.
const WITHOUT: &str = "hint: sidecars do not know of it until it is.";

/// Somebody has the lock of this file.
fn held(folder: &Folder, name: &str) -> std::fs::File {
    let lock = std::fs::File::create(folder.file(&format!("{name}.lock"))).unwrap();
    lock.lock().unwrap();
    lock
}

/// A predecessor that is about to end, or a command on the host, prevents no start.
#[test]
fn a_start_waits_for_whoever_has_the_state_directory() {
    let folder = Folder::empty();
    signer_in(&folder, &us());
    let before = held(&folder, "signer/signer-high-water.json");
    let start = |arguments: &[&str]| Process::start(keygatectl(folder.path()).args(arguments));
    let process = start(&["signer", "serve"]);
    process.wait_for_line("another signer works with it; waiting for its end");
    drop(before);
    process.wait_for_line("listens on unix:");
    let socket = folder.file("signer.sock");
    let signer =
        format!("signer = \"unix:{}\"\nsigner_public = \"signer.pub.pem\"", socket.display());
    drop(service(&folder, &signer));
    let before = held(&folder, "state/publisher");
    let again = start(&["admin", "serve"]);
    again.wait_for_line("another process publishes from here; waiting for its end");
    drop(before);
    again.wait_for_line("listening on http://");
}

/// A registry with one key more.
const ADDED: &str = "registry = 1\nserial = 1\naudience = \"shop\"\n\n[[key]]\nid = \
        \"key_added\"\norg = \"acme\"\nname = \"added\"\ndigest = \
        \"sha256:4e0740856f3d1b2c9a8e7d6c5b4a39281706f5e4d3c2b1a0918273645546372a\"\n";

/// Replaces the database by the backup.
fn restore(folder: &Folder) {
    for suffix in ["-wal", "-shm"] {
        std::fs::remove_file(folder.file(&format!("state/registrar.db{suffix}"))).ok();
    }
    std::fs::copy(folder.file("backup.db"), folder.file("state/registrar.db")).unwrap();
}

/// Must fail with this code. Returns what it says.
fn fails(folder: &Folder, code: i32, arguments: &[&str]) -> String {
    let output = keygatectl(folder.path()).args(arguments).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {told}");
    told
}

/// A backup that lacks signed lines, with its signer running.
fn restored(folder: &Folder) -> Process {
    signer_in(folder, &us());
    let socket = folder.file("signer.sock");
    let signer =
        format!("signer = \"unix:{}\"\nsigner_public = \"signer.pub.pem\"", socket.display());
    let process = serve_signer(folder);
    let backup = folder.file("backup.db");
    let (running, _) = service(folder, &signer);
    process.wait_for_line("of the audit log");
    running.eventually("a patch", || folder.file("out/keys.kgp").exists());
    drop(running);
    folder.ctl(&["admin", "backup", &backup.display().to_string()]);
    folder.ctl(&["admin", "revoke", &id_of(folder, "CRM")]);
    // Somebody signs in, and the hour is over: the service signs the new end.
    let kept = std::fs::read_to_string(folder.file("state/checkpoints.jsonl")).unwrap();
    let early = kept.replace("\"at_ms\":1", "\"at_ms\":");
    assert_ne!(kept, early);
    std::fs::write(folder.file("state/checkpoints.jsonl"), early).unwrap();
    let running = Process::start(keygatectl(folder.path()).args(["admin", "serve"]));
    process.wait_for_line("of the audit log");
    running.eventually("the checkpoint", || {
        let kept = std::fs::read_to_string(folder.file("state/checkpoints.jsonl")).unwrap();
        kept.lines().count() == 2
    });
    drop(running);
    restore(folder);
    fails(folder, 75, &["admin", "check"]);
    process
}

/// Without an allowance nothing changes. With one, the log continues.
#[test]
fn a_recovery_asks_the_signer_before_anything_changes() {
    let folder = Folder::empty();
    let process = restored(&folder);
    for _ in 0..2 {
        let told = fails(&folder, 75, &["admin", "recover"]);
        assert!(told.contains(&allow_with(&folder, "--recovery")), "{told}");
        assert!(told.contains("nothing has changed"), "{told}");
        fails(&folder, 75, &["admin", "check"]);
    }
    // Nor while the signer is away.
    drop(process);
    fails(&folder, 75, &["admin", "recover"]);
    let process = serve_signer(&folder);
    folder.ctl(&["signer", "allow", "--recovery"]);
    folder.ctl(&["admin", "recover"]);
    process.wait_for_line("has allowed");
    folder.ctl(&["admin", "check"]);
    folder.ctl(&["admin", "verify-audit"]);
}

/// A recovery whose signature was lost is signed later, on its own.
#[test]
fn a_recovery_is_signed_later() {
    let folder = Folder::empty();
    let process = restored(&folder);
    folder.ctl(&["signer", "allow", "--recovery"]);
    // The signature reaches the service, but not its file.
    let kept = folder.file("state/checkpoints.jsonl");
    let before = std::fs::read(&kept).unwrap();
    folder.ctl(&["admin", "recover"]);
    std::fs::write(&kept, before).unwrap();
    fails(&folder, 65, &["admin", "verify-audit"]);
    let told = fails(&folder, 65, &["admin", "recover"]);
    assert!(told.contains("--sign-audit"), "{told}");
    // The log has continued meanwhile: not only an answer was lost.
    folder.ctl(&["signer", "allow", "--audience", "shop", "--least", "1"]);
    folder.ctl(&["admin", "revoke", &id_of(&folder, "ERP")]);
    let told = fails(&folder, 75, &["admin", "recover", "--sign-audit"]);
    assert!(told.contains(&allow_with(&folder, "--recovery")), "{told}");
    folder.ctl(&["signer", "allow", "--recovery"]);
    let told = folder.ctl(&["admin", "recover", "--sign-audit"]);
    assert!(told.contains("are lost"), "{told}");
    process.wait_for_line("has allowed");
    folder.ctl(&["admin", "verify-audit"]);
    let again = folder.ctl(&["admin", "recover", "--sign-audit"]);
    assert_eq!(again, "", "there is nothing to sign");
}

/// Asks the API with the token of a co-signer.
fn ask(server: &str, method: &str, path: &str, body: &str) -> Message {
    let address = server.strip_prefix("http://").unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {TOKEN}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    exchange(address.parse().unwrap(), head + body)
}

/// The second one's key is behind a separate signer.
#[test]
fn two_signers_sign_and_the_second_by_its_own_program() {
    let folder = Folder::empty();
    signer_in(&folder, &us());
    let socket = format!("unix:{}", folder.file("signer.sock").display());
    let second = serve_signer(&folder);
    folder.ctl(&["signer", "new", "--out", "first.pem", "--public-out", "first.pub.pem"]);
    folder.write_secret("second.token", TOKEN);
    let signer = "signer = \"first.pem\"\nrequired_signers = 2\n\n[[audiences.co_signers]]\n\
                      name = \"second\"\npublic = \"signer.pub.pem\"\n\
                      bearer_file = \"second.token\"";
    let (service, server) = service(&folder, signer);
    let co_sign = |token: &str, audience: &str| {
        let mut command = keygatectl(folder.path());
        command.args(["--server", &server, "--credential-file", token, "signer", "co-sign"]);
        command.args(["--audience", audience, "--signer", &socket]);
        command.args(["--signer-public", "signer.pub.pem"]);
        command
    };
    folder.write_secret("wrong.token", "fedcba9876543210fedcba9876543210");
    for (token, audience) in [("wrong.token", "shop"), ("second.token", "else")] {
        let told = co_sign(token, audience).output().unwrap();
        assert!(!told.status.success(), "{token} {audience}: {told:?}");
    }
    // A server is meant for this command alone.
    let told = keygatectl(folder.path())
        .args(["--server", &server, "table", "inspect", "first.pem"])
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&told.stderr).contains("--server"), "{told:?}");
    let drafts = "/v1/audiences/shop/drafts";
    let list = || ask(&server, "GET", drafts, "").json();
    service.eventually("a table and a patch that wait", || {
        list()["drafts"].as_array().is_some_and(|drafts| drafts.len() == 2)
    });
    let listed = list();
    assert_eq!(listed["drafts"][0]["missing"], serde_json::json!(["second"]), "{listed}");
    // Invalid signatures, by somebody else, or over something else.
    let serial = listed["drafts"][1]["serial"].as_u64().unwrap();
    let sign = |serial: u64, signer: &str| {
        let body = serde_json::json!({"signer": signer, "signature": "A".repeat(86) + "=="});
        let path = format!("{drafts}/patch/{serial}/signatures");
        let told = ask(&server, "POST", &path, &body.to_string());
        (told.status(), told.json())
    };
    let shown = keygatectl(folder.path()).args(["signer", "show", "signer.pub.pem"]).output();
    let shown = String::from_utf8(shown.unwrap().stderr).unwrap();
    let is_id = |word: &&str| word.starts_with("ed25519:") && word.len() == 24;
    let id = shown.split_whitespace().find(is_id).expect(&shown);
    for (signer, place, why) in [
        ("ed25519:0011223344556677", "/signer", "none of audiences.co_signers"),
        (id, "/signature", "no signature by second over this draft"),
    ] {
        let (status, told) = sign(serial, signer);
        assert_eq!((status, &told["errors"][0]["pointer"]), (422, &place.into()), "{told}");
        assert!(told["errors"][0]["detail"].as_str().unwrap().contains(why), "{told}");
    }
    assert_eq!(sign(serial + 1000, id).0, 404);
    let file =
        |serial: String| ask(&server, "GET", &format!("{drafts}/patch/{serial}"), "").status();
    assert_eq!(file(serial.to_string()), 200);
    // A serial has one name.
    assert_eq!((file(format!("0{serial}")), file(format!("+{serial}"))), (404, 404));
    assert!(!folder.file("out/keys.kgt").exists());
    let told = co_sign("second.token", "shop").output().unwrap();
    assert!(told.status.success(), "{told:?}");
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.contains("3 active") && told.contains("2 of 2 have"), "{told}");
    second.wait_for_line("signed the table of serial");
    service.eventually("both files", || {
        folder.file("out/keys.kgt").exists() && folder.file("out/keys.kgp").exists()
    });
    let verify = ["table", "verify", "out/keys.kgt", "--audience", "shop", "--required", "2"];
    let signers = ["--signer", "first.pub.pem", "--signer", "signer.pub.pem"];
    folder.ctl(&[&verify[..], &signers[..]].concat());
    // It is published: a signature is too late.
    let (status, told) = sign(serial, id);
    assert_eq!((status, &told["code"]), (409, &"conflict".into()), "{told}");
    assert!(told["detail"].as_str().unwrap().contains("waits for no signature any more"), "{told}");
    // A revocation in an emergency, on the host, also waits for the second signer.
    let revoked = id_of(&folder, "CRM");
    let told = fails(&folder, 75, &["admin", "revoke", &revoked]);
    assert!(told.contains("by 1 of 2, and not yet by second"), "{told}");
    assert!(told.contains("`keygatectl signer co-sign`; the service publishes"), "{told}");
    let beside = Process::start(co_sign("second.token", "shop").args(["--every", "1s"]));
    beside.wait_for_line("signed the patch of serial");
    service.eventually("the revocation", || {
        folder.ctl(&["table", "inspect", "out/keys.kgp", "--json"]).contains(&revoked)
    });
    drop(beside);
    // Without a service: it is in the database, and the message says who has to sign.
    drop(service);
    let told = keygatectl(folder.path())
        .args(["admin", "revoke", &id_of(&folder, "ERP")])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&told.stderr).into_owned();
    assert_eq!(told.status.code(), Some(75), "{said}");
    assert!(said.contains("by 1 of 2, and not yet by second"), "{said}");
}
