//! An empty directory with the program in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use keygate::core::{Digest, KeyLookup, KeyView};
use keygate::table::{Bounds, KeySet, Patch, PublicKey, Table, Trust};
use serde_json::Value;
use tempfile::TempDir;

/// A directory of one test, removed at its end.
pub(crate) struct Room {
    directory: TempDir,
}

/// The outcome of a run of the program.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A key just issued.
pub(crate) struct Issued {
    pub(crate) id: String,
    pub(crate) secret: String,
    pub(crate) public_id: Option<String>,
}

// === impl Room ===

impl Room {
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    /// With a signer and a registry `keys.toml` for the audience `shop` and the prefix `kg`.
    pub(crate) fn with_registry() -> Self {
        let room = Self::new();
        room.ok(&["signer", "new"]);
        room.ok(&["keys", "init", "--audience", "shop"]);
        room
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn root(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keygatectl"));
        command.args(arguments).current_dir(self.root()).stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        Ran::of(self.command(arguments).output().unwrap())
    }

    /// Must succeed; its standard output.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let ran = self.run(arguments);
        assert_eq!(ran.code, 0, "{arguments:?}\n{}\n{}", ran.stdout, ran.stderr);
        ran.stdout
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let text = self.ok(&[arguments, &["--json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }

    /// Must fail with this code; its standard error.
    pub(crate) fn fails(&self, code: i32, arguments: &[&str]) -> String {
        let ran = self.run(arguments);
        assert_eq!(ran.code, code, "{arguments:?}\n{}\n{}", ran.stdout, ran.stderr);
        ran.stderr
    }

    pub(crate) fn create(&self, arguments: &[&str]) -> Issued {
        let value = self.json(&[&["keys", "create", "--org", "acme"], arguments].concat());
        Issued {
            id: value["id"].as_str().unwrap().to_owned(),
            secret: value["secret"].as_str().unwrap().to_owned(),
            public_id: value["public_id"].as_str().map(str::to_owned),
        }
    }

    /// What a sidecar that trusts `signer.pem` would have in force.
    pub(crate) fn in_force(&self, table: &str, patch: Option<&str>) -> KeySet {
        let trust = self.trust("signer.pem");
        let bounds = Bounds::default();
        let table = Table::open(fs::read(self.path(table)).unwrap(), &trust, &bounds).unwrap();
        let patch = patch.map(|patch| {
            let file = fs::read(self.path(patch)).unwrap();
            let patch = Patch::open(file, &trust, &bounds).unwrap();
            assert!(patch.is_over(&table), "the patch is over another table");
            Arc::new(patch)
        });
        KeySet::new(Arc::new(table), patch, &[], None)
    }

    pub(crate) fn trust(&self, signer: &str) -> Trust {
        Trust::new([self.public_key(signer)], 1, "shop").unwrap()
    }

    pub(crate) fn public_key(&self, signer: &str) -> PublicKey {
        let value = self.json(&["signer", "show", signer]);
        PublicKey::parse(value["public_key"].as_str().unwrap()).unwrap()
    }
}

// === impl Ran ===

impl Ran {
    pub(crate) fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// The key that a caller with this secret would be.
pub(crate) fn holder<'k>(keys: &'k KeySet, secret: &str) -> Option<KeyView<'k>> {
    keys.plausible(secret.as_bytes()).then(|| keys.single(&Digest::of(secret.as_bytes())))?
}

/// `openssl`, which the recipes are written for; `make test` installs it.
pub(crate) fn openssl(room: &Room, arguments: &[&str]) {
    let output = Command::new("openssl").args(arguments).current_dir(room.root()).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}
