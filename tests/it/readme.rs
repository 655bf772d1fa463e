//! The README's quick start, typed exactly as printed. Only the ports differ, and whatever would
//! outlive the test is ended.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use crate::support::process::run;
use crate::support::tools;

#[test]
fn the_quick_start_works_as_typed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let section = readme.split("## Quick start").nth(1).expect("a quick start");
    let section = section.split("\n## ").next().unwrap();
    let blocks: Vec<_> =
        section.split("```sh\n").skip(1).map(|b| b.split("```").next().unwrap()).collect();
    assert!(blocks.len() >= 5, "the blocks of the quick start were not found");
    let folder = tempfile::tempdir().unwrap();
    let programs = Path::new(env!("CARGO_BIN_EXE_keygate")).parent().unwrap();
    // The first block builds; that was done for this test.
    let typed = blocks[1..].join("echo ---\n");
    let free = || TcpListener::bind("127.0.0.1:0").unwrap();
    let (a, b, c) = (free(), free(), free());
    let port = |l: &TcpListener| l.local_addr().unwrap().port().to_string();
    let typed = typed.replace("9000", &port(&a)).replace("8080", &port(&b)).replace(
        "[[routes]]",
        &format!("[admin]\naddress = \"127.0.0.1:{}\"\n[[routes]]", port(&c)),
    );
    drop((a, b, c));
    let script = format!("set -eu\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{typed}\n");
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap_or_default());
    let mut bash: Command = tools::command("bash");
    bash.args(["-c", &script]).current_dir(folder.path()).env("PATH", path).env("NO_PROXY", "*");
    let said = run(&mut bash);
    let statuses: Vec<_> = said
        .lines()
        .filter(|l| l.starts_with("HTTP/1.1 "))
        .filter_map(|l| l.split(' ').nth(1))
        .collect();
    assert_eq!(statuses, ["200", "200", "401", "401"], "{said}");
    assert!(said.contains("\"code\":\"missing_key\"") && said.contains("invalid_key"), "{said}");
}
