//! Completions and man pages are generated from the definitions that the programs themselves use.

use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::support::Ran;

/// The paths of all commands below this one: `keygatectl-keys-list` and so on.
fn paths(command: &clap::Command, path: &str, into: &mut Vec<String>) {
    into.push(path.to_owned());
    for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
        paths(below, &format!("{path}-{}", below.get_name()), into);
    }
}

fn programs() -> [(clap::Command, &'static str); 2] {
    [
        (keygate::cli::definition(), env!("CARGO_BIN_EXE_keygate")),
        (keygate::manage::definition(&[]), env!("CARGO_BIN_EXE_keygatectl")),
    ]
}

#[test]
fn each_shell_gets_a_script_that_knows_every_command() {
    for (definition, program) in programs() {
        for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
            let ran = Ran::of(Command::new(program).args(["completion", shell]).output().unwrap());
            assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{program} {shell}");
            for below in definition.get_subcommands() {
                assert!(ran.stdout.contains(below.get_name()), "{program} {shell}: {below}");
            }
            if shell == "bash" {
                let mut bash =
                    Command::new("bash").arg("-n").stdin(Stdio::piped()).spawn().unwrap();
                bash.stdin.take().unwrap().write_all(ran.stdout.as_bytes()).unwrap();
                assert!(bash.wait().unwrap().success(), "{program}: bash -n");
            }
        }
        let ran = Ran::of(Command::new(program).args(["completion", "tcsh"]).output().unwrap());
        assert_eq!(ran.code, 64, "{}", ran.stderr);
        assert!(ran.stderr.contains("bash"), "{}", ran.stderr);
    }
}

/// What bash offers after `keygatectl keys re`.
#[test]
fn bash_completes_a_command() {
    let script = "source <(\"$1\" completion bash); COMP_WORDS=(keygatectl keys re); COMP_CWORD=2; \
                  _keygatectl keygatectl re keys; echo \"${COMPREPLY[@]}\"";
    let program = env!("CARGO_BIN_EXE_keygatectl");
    let ran = Ran::of(Command::new("bash").args(["-c", script, "-", program]).output().unwrap());
    assert_eq!(ran.stdout.trim(), "revoke", "{}", ran.stderr);
}

#[test]
fn each_command_has_a_man_page() {
    let directory = tempfile::tempdir().unwrap();
    for (definition, program) in programs() {
        clap_mangen::generate_to(definition.clone(), directory.path()).unwrap();
        let mut all = Vec::new();
        paths(&definition, definition.get_name(), &mut all);
        assert!(all.len() > 5, "{program}: {all:?}");
        for path in all {
            let page = directory.path().join(format!("{path}.1"));
            let text = std::fs::read_to_string(&page).unwrap_or_else(|e| panic!("{path}: {e}"));
            assert!(text.contains(".SH SYNOPSIS") && text.contains(".SH NAME"), "{path}");
        }
    }
}
