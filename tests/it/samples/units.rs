//! The units of systemd.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{Kind, of_kind, root};
use crate::support::gate::keygate;
use crate::support::process::run;

#[test]
fn the_unit_is_valid_and_hardened() {
    for file in of_kind(Kind::Unit).into_iter().filter(|file| !is_of_keygatectl(file)) {
        let text = fs::read_to_string(&file).unwrap();
        let value = |key: &str| {
            let found: Vec<_> =
                text.lines().filter_map(|l| l.strip_prefix(&format!("{key}="))).collect();
            assert!(found.len() < 2, "{key} stands twice");
            found.first().copied().unwrap_or_else(|| panic!("no {key}"))
        };
        assert_eq!(value("DynamicUser"), "yes");
        assert_eq!(value("NoNewPrivileges"), "yes");
        assert_eq!(value("ProtectSystem"), "strict");
        assert_eq!(value("CapabilityBoundingSet"), "");
        assert_eq!(value("Type"), "notify-reload");
        // The configuration is checked first, and a faulty one is not sent.
        let reload: Vec<_> =
            text.lines().filter_map(|line| line.strip_prefix("ExecReload=")).collect();
        let [check, signal] = reload[..] else { panic!("{reload:?}") };
        assert_eq!(signal, "/bin/kill -HUP $MAINPID");
        let words: Vec<_> = check.split_whitespace().collect();
        assert_eq!(words[1], "check");
        run(keygate(root()).args(&words[1..3]).arg("--help"));
        for directory in ["State", "Cache", "Logs", "Runtime"] {
            assert_eq!(value(&format!("{directory}Directory")), "keygate");
        }
        assert_eq!(value("RuntimeDirectoryPreserve"), "yes", "sockets outlive the service");
        let start = value("ExecStart");
        let arguments: Vec<_> = start.split_whitespace().collect();
        run(keygate(root()).args(&arguments[1..2]).arg("--help"));
        // The machine's own judgement, if it has systemd.
        let folder = tempfile::tempdir().unwrap();
        let copy = folder.path().join(file.file_name().unwrap());
        let here = env!("CARGO_BIN_EXE_keygate");
        let mut text = text.replace(arguments[0], here);
        if systemd_version().is_some_and(|version| version < 253) {
            // As the unit says.
            text = text.replace("Type=notify-reload", "Type=notify");
        }
        fs::write(&copy, text).unwrap();
        let socket = file.with_extension("socket");
        fs::copy(&socket, folder.path().join(socket.file_name().unwrap())).unwrap();
        let verify =
            Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&copy).output();
        if let Err(error) = &verify {
            eprintln!("SKIPPED: systemd-analyze: {error}");
        }
        if let Ok(verify) = verify {
            let said = String::from_utf8_lossy(&verify.stderr).into_owned();
            assert!(verify.status.success() && said.is_empty(), "{said}");
            refuse_exposed(&copy);
        }
    }
}

/// Programs other than the sidecar, each as a user of its own.
fn is_of_keygatectl(unit: &Path) -> bool {
    unit.ends_with("keygate-admin.service") || unit.ends_with("keygate-signer.service")
}

/// What they have in common, and what is specific: the signer has no network, the service has its
/// sockets.
#[test]
fn units_of_service_and_signer_are_valid_and_hardened() {
    let common = [
        "CapabilityBoundingSet=",
        "LimitCORE=0",
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        "RuntimeDirectoryMode=0750",
        "StateDirectoryMode=0700",
        "UMask=0077",
    ];
    let units = [
        (
            "keygate-admin.service",
            &["User=keygate", "Group=keygate", "RuntimeDirectory=keygate-admin"][..],
        ),
        ("keygate-signer.service", &["User=keygate-signer", "Group=keygate", "PrivateNetwork=yes"]),
    ];
    let files: Vec<_> = of_kind(Kind::Unit).into_iter().filter(|u| is_of_keygatectl(u)).collect();
    assert_eq!(files.len(), units.len());
    let folder = tempfile::tempdir().unwrap();
    for (name, own) in units {
        let unit = files.iter().find(|file| file.ends_with(name)).unwrap();
        let text = fs::read_to_string(unit).unwrap();
        for line in common.iter().chain(own) {
            assert!(text.lines().any(|found| found == *line), "{name}: no {line}");
        }
        let start = text.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
        let program = start.split_whitespace().next().unwrap();
        let copy = folder.path().join(name);
        fs::write(&copy, text.replace(program, env!("CARGO_BIN_EXE_keygatectl"))).unwrap();
        match Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&copy).output() {
            Err(error) => eprintln!("SKIPPED: systemd-analyze: {error}"),
            Ok(verify) => {
                let said = String::from_utf8_lossy(&verify.stderr).into_owned();
                assert!(verify.status.success() && said.is_empty(), "{name}: {said}");
                refuse_exposed(&copy);
            }
        }
    }
}

/// By systemd's own count.
fn refuse_exposed(unit: &Path) {
    let security = Command::new("systemd-analyze")
        .args(["security", "--offline=yes", "--threshold=20", "--no-pager"])
        .arg(unit)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&security.stdout);
    assert!(security.status.success(), "exposure above 2.0:\n{said}");
}

/// `None`: this machine has no systemd.
fn systemd_version() -> Option<u32> {
    let output = Command::new("systemd-analyze").arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace().nth(1)?.parse().ok()
}

/// Its sockets are those of a configuration that a sidecar would accept.
#[test]
fn the_socket_unit_fits_the_sample_configuration() {
    let mut seen = 0;
    for file in of_kind(Kind::SocketUnit) {
        let text = fs::read_to_string(&file).unwrap();
        let sockets: Vec<_> =
            text.lines().filter_map(|line| line.strip_prefix("ListenStream=")).collect();
        let config = fs::read_to_string(root().join("config/keygate.toml")).unwrap();
        let config: toml::Table = config.parse().unwrap();
        let of = |section: &str, default: &str| {
            let address = config.get(section).and_then(|table| table.get("address"));
            let text = address.and_then(|address| address.as_str()).unwrap_or(default);
            // `${NAME:-default}`
            let text = text.split_once(":-").map_or(text, |(_, default)| default);
            text.trim_end_matches('}').to_owned()
        };
        assert_eq!(sockets, [of("listen", ""), of("admin", "127.0.0.1:9901")]);
        assert!(file.with_extension("service").exists(), "the service of the same name");
        seen += 1;
    }
    assert_eq!(seen, 1);
}
