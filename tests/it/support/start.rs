//! A folder for which `check` and `serve` report what is wrong.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::process::run;

/// A folder with a signer, a table, and a configuration whose listener and the like a test chooses.
pub(crate) struct StartFolder {
    folder: tempfile::TempDir,
}

pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

pub(crate) const LISTEN: &str = "address = \"127.0.0.1:0\"\n";
pub(crate) const ADMIN: &str = "[admin]\naddress = \"127.0.0.1:0\"\n";

impl StartFolder {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ctl = |arguments: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_keygatectl"));
            run(command.args(arguments).current_dir(folder.path()))
        };
        let public = ctl(&["signer", "new", "--out", "signer.pem"]);
        fs::write(folder.path().join("signer.pub"), public).unwrap();
        fs::write(
            folder.path().join("keys.toml"),
            format!(
                "registry = 1\nserial = 1\naudience = \"a\"\n[[key]]\nid = \"key_a\"\norg = \"o\"\n\
                 digest = \"sha256:{:064x}\"\n",
                7
            ),
        )
        .unwrap();
        let build = ["table", "build", "--registry", "keys.toml", "--signer", "signer.pem"];
        ctl(&[&build[..], &["--out", "k.kgt"]].concat());
        let setup = Self { folder };
        setup.configure(LISTEN, "state_file = \"state\"\n", ADMIN);
        setup
    }

    pub(crate) fn configure(&self, listen: &str, table: &str, more: &str) {
        let text = format!(
            "[listen]\n{listen}\n[upstream]\nurl = \"http://127.0.0.1:9\"\n\
             [table]\npath = \"k.kgt\"\naudience = \"a\"\ntrusted_signers = [\"signer.pub\"]\n{table}\
             [[credentials]]\nsource = \"header\"\nname = \"x-api-key\"\n[[routes]]\npath = \"/*\"\n{more}"
        );
        self.write("keygate.toml", text.as_bytes());
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path().join(name), bytes).unwrap();
    }

    /// In the way in which a key is stored.
    pub(crate) fn write_key(&self, name: &str, bytes: &[u8]) {
        self.write(name, bytes);
        self.allow(name, 0o640);
    }

    pub(crate) fn allow(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path().join(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn check(&self, arguments: &[&str]) -> Said {
        self.keygate(&[&["check"], arguments].concat())
    }

    /// `serve` when it should end without a signal.
    pub(crate) fn serve(&self) -> Said {
        self.keygate(&["serve"])
    }

    /// `serve` until its log says this.
    pub(crate) fn serve_until(&self, wanted: &str) {
        let log = fs::File::create(self.path().join("log")).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_keygate"))
            .arg("serve")
            .current_dir(self.path())
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            let log = fs::read_to_string(self.path().join("log")).unwrap();
            let is_over = child.try_wait().unwrap().is_some() || Instant::now() >= end;
            if log.contains(wanted) || is_over {
                child.kill().ok();
                child.wait().unwrap();
                assert!(log.contains(wanted), "{wanted}: {log}");
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn keygate(&self, arguments: &[&str]) -> Said {
        let mut child = Command::new(env!("CARGO_BIN_EXE_keygate"))
            .args(arguments)
            .current_dir(self.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let end = Instant::now() + Duration::from_secs(20);
        while child.try_wait().unwrap().is_none() {
            if Instant::now() >= end {
                child.kill().unwrap();
                let said = child.wait_with_output().unwrap();
                panic!("{arguments:?} goes on: {}", String::from_utf8_lossy(&said.stderr));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let said = child.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Said { code: said.status.code().unwrap(), out: text(said.stdout), err: text(said.stderr) }
    }
}
