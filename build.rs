//! The commit that `--version` names. A build without git, or from an archive, names none, which
//! does no harm. Runs again when a commit, a checkout or this file changes, not with every build.

use std::path::Path;
use std::process::Command;

/// The version, with the commit where it is known.
const VERSION: &str = "KEYGATE_VERSION";
/// Set by packagers who build without a repository.
const COMMIT: &str = "KEYGATE_COMMIT";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={COMMIT}");
    let commit = variable(COMMIT).or_else(head).unwrap_or_default();
    // It is used unchanged in `--version` and JSON.
    let is_commit =
        (7..=64).contains(&commit.len()) && commit.bytes().all(|b| b.is_ascii_hexdigit());
    let commit = if is_commit { commit.get(..12).unwrap_or(&commit) } else { "" };
    let version = variable("CARGO_PKG_VERSION").unwrap_or_default();
    let shown = if commit.is_empty() { version } else { format!("{version} ({commit})") };
    println!("cargo::rustc-env={VERSION}={shown}");
    println!("cargo::rustc-env={COMMIT}={commit}");
}

/// The commit of this folder's own repository. A repository around it says nothing about us.
fn head() -> Option<String> {
    let top = git(&["rev-parse", "--show-toplevel"])?;
    let here = variable("CARGO_MANIFEST_DIR")?;
    if Path::new(&top).canonicalize().ok()? != Path::new(&here).canonicalize().ok()? {
        return None;
    }
    let commit = git(&["rev-parse", "HEAD"])?;
    // The log of HEAD grows with every commit and checkout. If a file is missing, each build would
    // run this again.
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"])?;
    if Path::new(&log).exists() {
        println!("cargo::rerun-if-changed={log}");
    }
    Some(commit)
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned()).filter(|text| !text.is_empty())
}

#[expect(clippy::disallowed_methods, reason = "a build script is told everything by variables")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
