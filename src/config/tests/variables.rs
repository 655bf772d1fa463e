//! Variables from a directory, and probes of the service.

use std::path::Path;

use super::{SMALL, faults, machine, parse};
use crate::config::{Config, ConfigError, Noted};

#[test]
fn a_file_goes_before_the_environment() {
    let address = |files: &[(&str, &str)], directory: &str| {
        let mut machine = machine();
        machine.variables.insert("KEYGATE_VARIABLES".into(), directory.into());
        for (path, text) in files {
            machine.files.insert((*path).into(), text.as_bytes().to_vec());
        }
        let host = Noted::new(&machine);
        let config = Config::parse(&host, Path::new("/etc/keygate/keygate.toml"), SMALL).unwrap();
        let is_watched = host.files().contains(&"/vars/PORT".into());
        (format!("{:?}", config.listeners[0].bind), is_watched)
    };
    let port = |text: &str| (format!("Tcp(0.0.0.0:{text})"), true);
    assert_eq!(address(&[("/vars/PORT", "1234\n")], "/vars"), port("1234"));
    // Empty or missing: the environment's value counts, and the file is watched until it appears.
    assert_eq!(address(&[("/vars/PORT", "\n")], "/vars"), port("8080"));
    assert_eq!(address(&[], "/vars"), port("8080"));
    assert_eq!(address(&[], ""), (port("8080").0, false));
}

/// A name is the name of a file in the directory, and leads nowhere else.
#[test]
fn a_variable_leads_out_of_no_directory() {
    let mut machine = machine();
    machine.variables.insert("KEYGATE_VARIABLES".into(), "/vars".into());
    machine.files.insert("/vars/../etc/keygate/token".into(), b"1234".to_vec());
    let text = SMALL.replace("${PORT}", "${../etc/keygate/token}");
    let said = match Config::parse(&machine, Path::new("/etc/keygate/keygate.toml"), &text) {
        Err(ConfigError::Invalid { faults, .. }) => faults[0].to_string(),
        other => panic!("{other:?}"),
    };
    assert!(said.contains("is not set"), "{said}");
}

#[test]
fn probes_are_of_this_host_and_have_their_own_paths() {
    let probe = |text: &str| format!("{SMALL}[[admin.probes]]\n{text}\n");
    let good = probe("path = \"/probe/a\"\nurl = \"http://127.0.0.1:1/x\"\nheaders = [\"X-A: 1\"]");
    assert_eq!(parse(&good).unwrap().admin.probes.len(), 1);
    for (text, want) in [
        ("path = \"/probe/a\"", "admin.probes[0].url: is missing"),
        ("url = \"tcp://127.0.0.1:1\"", "admin.probes[0].path: is missing"),
        (
            "path = \"/status\"\nurl = \"tcp://127.0.0.1:1\"",
            "admin.probes[0].path: is no path of a probe",
        ),
        (
            "path = \"/probe/a\"\nurl = \"http://169.254.169.254:80/\"",
            "admin.probes[0].url: is not on this host",
        ),
        (
            "path = \"/probe/a\"\nurl = \"tcp://127.0.0.1:1\"\nheaders = [\"A: b\"]",
            "admin.probes[0].headers: are for http:// alone",
        ),
        (
            "path = \"/probe/a\"\nurl = \"tcp://127.0.0.1:1\"\ntimeout = \"2m\"",
            "admin.probes[0].timeout: is longer than a minute",
        ),
        (
            "path = \"/probe/a\"\nurl = \"tcp://127.0.0.1:1\"\n[[admin.probes]]\npath = \
             \"/probe/a\"\nurl = \"tcp://127.0.0.1:2\"",
            "admin.probes[1].path: is the path of another probe",
        ),
    ] {
        let said = faults(&probe(text)).join("\n");
        assert!(said.contains(want), "{want}\n{said}");
    }
}

#[test]
fn observing_nobody_and_forwarding_nothing_is_not_observing() {
    let observe =
        |text: &str| parse(&format!("{SMALL}[observe]\n{text}\n")).unwrap().settings.policy;
    assert!(observe("enforce = \"100%\"\ncredentials = \"strip\"").observe.is_none());
    assert!(observe("enforce = \"100%\"").observe.is_some());
    assert!(observe("enforce = \"99%\"\ncredentials = \"strip\"").observe.is_some());
}
