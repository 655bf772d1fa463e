//! What is used to make a release.

use std::fs;
use std::process::Command;

use serde_json::Value;

use super::root;
use crate::support::process::run;
use crate::support::tools;

/// Valid by the published schema, with everything that is linked in and without what only tests
/// use.
#[test]
fn the_sbom_is_cyclonedx_and_names_what_ships() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str| {
        let path = folder.path().join(name);
        run(tools::python().arg(root().join("deploy/sbom.py")).arg(&path));
        fs::read_to_string(&path).unwrap()
    };
    let text = write("keygate.cdx.json");
    assert_eq!(text, write("again.cdx.json"), "the same sources, the same file");
    let check = "import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
fault = JsonStrictValidator(SchemaVersion.V1_5).validate_str(open(sys.argv[1]).read())
sys.exit(str(fault) if fault else 0)";
    let file = folder.path().join("keygate.cdx.json");
    run(tools::python().args(["-c", check]).arg(&file));
    let bom: Value = serde_json::from_str(&text).unwrap();
    let names: Vec<_> =
        bom["components"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    for shipped in ["hyper", "rustls", "aws-lc-sys", "libmimalloc-sys", "clap_derive"] {
        assert!(names.contains(&shipped), "{shipped} is missing");
    }
    for tool in ["proptest", "trycmd", "criterion", "governor", "rcgen"] {
        assert!(!names.contains(&tool), "{tool} does not ship");
    }
    let known: Vec<_> = bom["dependencies"].as_array().unwrap().iter().map(|d| &d["ref"]).collect();
    for component in bom["components"].as_array().unwrap() {
        assert!(known.contains(&&component["bom-ref"]));
        assert!(component["hashes"][0]["content"].as_str().is_some_and(|h| h.len() == 64));
        assert!(component["licenses"][0]["expression"].is_string(), "{component}");
    }
}

/// What deploy/build-static.sh checks after a profile-guided build. If the build selected other
/// targets, the names in a library end with a hash that differs from those in the profile.
#[test]
fn a_profile_that_does_not_fit_fails_the_build() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let crates = ["keygate", "tokio", "hyper", "h2", "rustls"];
    let mut profile = String::from("# IR level Instrumentation Flag\n:ir\n");
    let mut messages = String::new();
    for name in crates {
        let length = name.len();
        for (function, counter) in [("admit", 7), ("refuse", 1), ("never", 0)] {
            let mangled =
                format!("_ZN{length}{name}5proxy{}{function}17h0011223344556677E", function.len());
            profile.push_str(&format!(
                "{mangled}\n# Func Hash:\n742261418966908927\n# Num Counters:\n2\n\
                 # Counter Values:\n0\n{counter}\n\n"
            ));
        }
        let library = file(&format!("lib{name}.rlib"));
        fs::write(
            &library,
            format!("!<arch>\n_ZN{length}{name}5proxy5admit17h0011223344556677E_ZN"),
        )
        .unwrap();
        let message = serde_json::json!({
            "reason": "compiler-artifact",
            "target": {"name": name, "kind": ["lib"]},
            "filenames": [library],
        });
        messages.push_str(&format!("{message}\n"));
    }
    fs::write(file("profile"), profile).unwrap();
    fs::write(file("messages"), messages).unwrap();
    let judge = || {
        let mut command = tools::command("python3");
        command
            .arg(root().join("deploy/profile-fits.py"))
            .args([file("profile"), file("messages")]);
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, said) = judge();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("keygate: 1 of 2 functions that ran"), "{said}");
    let other = "_ZN7keygate5proxy5admit17h8899aabbccddeeffE";
    fs::write(file("libkeygate.rlib"), other).unwrap();
    let (code, said) = judge();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("keygate: 0 of 2"), "{said}");
}

#[test]
fn release_notes_are_a_section_of_the_changelog() {
    let script = root().join("deploy/release-notes.sh");
    let notes = run(Command::new(&script).arg("Unreleased"));
    assert!(notes.starts_with("# keygate Unreleased\n"), "{notes}");
    assert!(notes.lines().filter(|l| l.starts_with("- ")).count() > 10, "{notes}");
    let none = Command::new(&script).arg("0.0.0-none").output().unwrap();
    assert_eq!(none.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&none.stderr).contains("Unreleased"));
}
