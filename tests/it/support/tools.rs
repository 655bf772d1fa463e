//! Programs of the machine. The tests need them: a missing one causes a failure with a remedy.

use std::path::PathBuf;
use std::process::Command;

/// A program by name, from PATH or where Debian keeps daemons.
pub(crate) fn command(name: &str) -> Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    let found = folders.map(|f: PathBuf| f.join(name)).find(|p| p.is_file());
    Command::new(found.unwrap_or_else(|| panic!("`{name}` is missing\nhint: make tools")))
}

/// Node, with the packages of tests/tools.sh available to a script in `folder`.
pub(crate) fn node_in(folder: &std::path::Path) -> Command {
    let modules = concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/js/node_modules");
    assert!(std::path::Path::new(modules).exists(), "{modules} is missing\nhint: make tools");
    let link = folder.join("node_modules");
    if !link.exists() {
        std::os::unix::fs::symlink(modules, link).expect("a link to the packages");
    }
    let mut command = command("node");
    command.current_dir(folder).env("NO_PROXY", "*");
    command
}

/// Python with the packages of tests/tools.sh.
pub(crate) fn python() -> Command {
    let python = concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/venv/bin/python");
    assert!(std::path::Path::new(python).exists(), "{python} is missing\nhint: make tools");
    let mut command = Command::new(python);
    command.env("NO_PROXY", "*").env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// Python with `oidc-provider-mock`.
#[cfg(feature = "admin")]
pub(crate) fn oidc_python() -> Command {
    let python = concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/oidc/bin/python");
    assert!(std::path::Path::new(python).exists(), "{python} is missing\nhint: make tools");
    let mut command = Command::new(python);
    command.env("NO_PROXY", "*").env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// Python with Helm, from 3.12 on. `None`, and a line that says so, if none is available. In CI
/// that fails.
pub(crate) fn helm() -> Option<Command> {
    let python = concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/helm/bin/python");
    if !std::path::Path::new(python).exists() {
        eprintln!("chart: NOT RUN, needs Python 3.12");
        let is_ci = std::env::var("CI").is_ok_and(|value| value == "true");
        assert!(!is_ci, "no Python 3.12 runs, for the tests of the chart\nhint: make tools");
        return None;
    }
    let mut command = Command::new(python);
    command.env("NO_PROXY", "*").env("PYTHONDONTWRITEBYTECODE", "1");
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/py/helm.py"));
    Some(command)
}

/// Where browsers leave pictures for people to look at.
#[cfg(feature = "admin")]
pub(crate) fn pictures() -> &'static str {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/target/screens");
    std::fs::create_dir_all(folder).expect("a folder of pictures");
    folder
}

/// Node with a script of tests/node and the packages of its lock file.
pub(crate) fn node(script: &str) -> Command {
    let modules = concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/node/node_modules");
    assert!(std::path::Path::new(modules).exists(), "{modules} is missing\nhint: make tools");
    let mut command = self::command("node");
    let script = format!("{}/tests/node/{script}", env!("CARGO_MANIFEST_DIR"));
    command.env("NODE_PATH", modules).arg(script);
    command
}
