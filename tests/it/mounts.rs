//! A file that is mounted alone never sees a file that is renamed to its place outside: keygate
//! reports that at start, in `/status` and in `check`. Runs in a mount namespace of its own.

use std::os::unix::fs::symlink;
use std::process::Command;

use crate::support::client::exchange;
use crate::support::gate::{Folder, Gate, READER, keygatectl};
use crate::support::upstream::Upstream;

/// `keygate` with these arguments, in a namespace where two files are mounted alone.
fn mounted(folder: &Folder, arguments: &str) -> Command {
    let script = format!(
        "mount --bind outside/keys.kgt 'in a mount/keys.kgt' && \
         mount --bind outside/signer.pub 'in a mount/signer.pub' && \
         exec '{}' {arguments} --config keygate.toml",
        env!("CARGO_BIN_EXE_keygate")
    );
    let mut command = Command::new("unshare");
    // Also in a user namespace if the tests do not run as root.
    command.args(["--map-root-user", "--mount", "sh", "-ec", &script]);
    command.current_dir(folder.path());
    command
}

/// What the links lead to matters. The kernel writes the blanks as `\040`.
fn folder(gate: crate::support::gate::Setup) -> Folder {
    let folder = gate.folder();
    for name in ["outside", "in a mount"] {
        std::fs::create_dir(folder.file(name)).unwrap();
    }
    for name in ["keys.kgt", "signer.pub"] {
        std::fs::rename(folder.file(name), folder.file("outside").join(name)).unwrap();
        folder.write(&format!("in a mount/{name}"), "");
        symlink(format!("in a mount/{name}"), folder.file(name)).unwrap();
    }
    folder
}

fn publish_outside(folder: &Folder) {
    let built = ["table", "build", "--registry", "keys.toml", "--signer", "signer.pem"];
    folder.ctl(&[&built[..], &["--out", "outside/keys.kgt"]].concat());
}

#[test]
fn a_file_that_is_mounted_alone_is_told_of() {
    let upstream = Upstream::start();
    let folder = folder(Gate::before(&upstream));
    let point = folder.file("in a mount/keys.kgt").canonicalize().unwrap();
    let point = point.to_str().unwrap().to_owned();

    let check = |arguments: &str| mounted(&folder, arguments).output().unwrap();
    let checked = check("check");
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert_eq!(checked.status.code(), Some(0), "{said}{:?}", checked.stderr);
    let line = format!("warning: table.path: {point} is a mount of its own");
    assert!(said.contains(&line), "{said}");
    assert!(said.contains("warning: table.trusted_signers: "), "{said}");
    assert!(said.contains("hint: mount the directory that holds it"), "{said}");
    assert_eq!(check("check --strict").status.code(), Some(65));

    let command = mounted(&folder, "serve");
    let gate = Gate::serve_by(folder, command);
    gate.wait_ready();
    let told = || gate.log().matches("will never see a replacement").count();
    gate.process.eventually("both are told", || told() == 2);
    let status = gate.probe("/status").json();
    let files = status["mounted_files"].as_array().unwrap();
    let keys: Vec<_> = files.iter().map(|file| file["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["table.path", "table.trusted_signers"], "{status}");
    assert_eq!(files[0]["path"].as_str(), Some(&*point));

    // Revoked outside, but never visible inside: `keygatectl status --serial` shows it.
    let without = gate.folder.read("keys.toml").replace("key_reader", "key_other");
    gate.folder.write("keys.toml", &without);
    publish_outside(&gate.folder);
    gate.process.signal("HUP");
    gate.process.eventually("looked again", || gate.log().contains("rereading configuration"));
    let mut status = keygatectl(gate.folder.path());
    status.args(["status", "--serial", "2", &gate.admin.to_string()]);
    let status = status.output().unwrap();
    let said = String::from_utf8_lossy(&status.stdout).into_owned();
    assert_eq!(status.status.code(), Some(75), "{said}");
    assert!(said.contains("will never see a replacement"), "{said}");
    let get = format!("GET /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n\r\n");
    assert_eq!(exchange(gate.address, get).status(), 200, "what the mount holds is in force");
    assert_eq!(told(), 2, "once each:\n{}", gate.log());
}

#[test]
fn a_mounted_directory_is_none() {
    let upstream = Upstream::start();
    let folder = Gate::before(&upstream).folder();
    let script = format!(
        "mount --bind . . && cd \"$PWD\" && exec '{}' serve --config keygate.toml",
        env!("CARGO_BIN_EXE_keygate")
    );
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount", "sh", "-ec", &script]);
    command.current_dir(folder.path());
    let gate = Gate::serve_by(folder, command);
    gate.wait_ready();
    gate.folder.build();
    gate.wait_serial(2);
    assert_eq!(gate.probe("/status").json()["mounted_files"].as_array().map(Vec::len), Some(0));
    assert!(!gate.log().contains("will never see"), "{}", gate.log());
}
