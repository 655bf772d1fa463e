//! The image runs as Kubernetes' "restricted" and a read-only root require, in a container of runc:
//! no capability, no user of the machine, nothing written outside the volume for it.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::client::exchange;
use crate::support::gate::{Folder, Gate, READER};
use crate::support::process::run;
use crate::support::tools;
use crate::support::upstream::Upstream;

/// The user of the image.
const USER: u32 = 65532;

/// A bundle of runc, and the container that ends with the value.
struct Container {
    folder: tempfile::TempDir,
}

// === impl Container ===

impl Container {
    /// With the sidecar's configuration of `folder`, and a volume for its state.
    fn new(folder: &Folder) -> Self {
        let container = Self { folder: tempfile::tempdir().unwrap() };
        fs::create_dir_all(container.file("rootfs")).unwrap();
        for needed in needed_files() {
            let inside = container.file("rootfs").join(needed.at.strip_prefix("/").unwrap());
            fs::create_dir_all(inside.parent().unwrap()).unwrap();
            fs::copy(needed.from, inside).unwrap();
        }
        fs::create_dir(container.file("state")).unwrap();
        chown(container.file("state"), Some(USER), Some(USER)).unwrap();
        let image = image();
        let arguments = [image.entry, image.arguments].concat();
        let bind = |at: &str, from: &Path, options: &[&str]| {
            let options = [&["rbind"], options].concat();
            json!({"destination": at, "type": "bind", "source": from, "options": options})
        };
        let none: [&str; 0] = [];
        let sets = ["bounding", "effective", "inheritable", "permitted", "ambient"];
        let capabilities: Value =
            sets.into_iter().map(|set| (set.to_owned(), json!(none))).collect();
        let namespaces = ["pid", "mount", "ipc", "uts"].map(|kind| json!({"type": kind}));
        let config = json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": image.user, "gid": image.user},
                "args": arguments,
                "cwd": "/",
                "capabilities": capabilities,
                "noNewPrivileges": true,
            },
            "root": {"path": "rootfs", "readonly": true},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                bind("/etc/keygate", folder.path(), &["ro"]),
                bind("/var/lib/keygate", &container.file("state"), &["rw"]),
            ],
            // The test's network: upstream and client are on its loopback.
            "linux": {"namespaces": namespaces},
        });
        fs::write(container.file("config.json"), config.to_string()).unwrap();
        container
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn runc(&self) -> Command {
        let mut command = tools::command("runc");
        command.arg("--root").arg(self.file("runc"));
        command
    }

    /// Its process, as the machine numbers it.
    fn pid(&self) -> u64 {
        let state: Value = serde_json::from_str(&run(self.runc().args(["state", "gate"]))).unwrap();
        state["pid"].as_u64().unwrap()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.runc().args(["delete", "--force", "gate"]).output();
    }
}

/// As deploy/Containerfile has it.
struct Image {
    entry: Vec<String>,
    arguments: Vec<String>,
    user: u32,
}

fn image() -> Image {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/Containerfile");
    let text = fs::read_to_string(file).unwrap();
    let of = |word: &str| text.lines().find_map(|line| line.strip_prefix(word)).unwrap().trim();
    let (user, group) = of("USER").split_once(':').unwrap();
    assert_eq!((user, group), ("65532", "65532"));
    Image {
        entry: serde_json::from_str(of("ENTRYPOINT")).unwrap(),
        arguments: serde_json::from_str(of("CMD")).unwrap(),
        user: user.parse().unwrap(),
    }
}

struct Needed {
    from: PathBuf,
    at: PathBuf,
}

/// The static program, if `make release` has built this version. Otherwise the one of the tests,
/// with the libraries that it loads: the rest of the test is the same.
fn needed_files() -> Vec<Needed> {
    let tested = Path::new(env!("CARGO_BIN_EXE_keygate"));
    let released = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/static/keygate");
    let version = |program: &Path| Command::new(program).arg("--version").output().ok();
    let is_same =
        version(&released).is_some_and(|of| Some(of.stdout) == version(tested).map(|o| o.stdout));
    if is_same {
        return vec![Needed { from: released, at: "/keygate".into() }];
    }
    let libraries = run(tools::command("ldd").arg(tested));
    let libraries = libraries.split_whitespace().filter(|word| word.starts_with('/'));
    let libraries = libraries.map(|path| Needed { from: path.into(), at: path.into() });
    libraries.chain([Needed { from: tested.into(), at: "/keygate".into() }]).collect()
}

#[test]
fn the_image_serves_with_a_read_only_root_and_no_rights() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("image: NOT RUN, needs root for runc");
        assert!(!std::env::var("CI").is_ok_and(|ci| ci == "true"), "CI runs it as root");
        return;
    }
    let upstream = Upstream::start();
    let folder = Gate::before(&upstream).folder();
    let config = folder.read("keygate.toml");
    let config =
        config.replace("state_file = \"state\"", "state_file = \"/var/lib/keygate/state\"");
    folder.write("keygate.toml", &config.replace("\"keys.kgt\"", "\"/etc/keygate/keys.kgt\""));
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();

    let container = Container::new(&folder);
    let mut command = container.runc();
    command.arg("run").arg("--bundle").arg(container.folder.path()).arg("gate");
    let gate = Gate::serve_by(folder, command);
    gate.wait_ready();
    let get = |key: &str| {
        let head = format!("GET /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {key}\r\n");
        exchange(gate.address, format!("{head}connection: close\r\n\r\n")).status()
    };
    assert_eq!((get(READER), get("wrong")), (200, 401));

    // What the kernel reports about the process.
    let proc = PathBuf::from(format!("/proc/{}", container.pid()));
    let status = fs::read_to_string(proc.join("status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap()
    };
    assert_eq!((field("Uid:"), field("Gid:")), ("65532", "65532"));
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!(field("NoNewPrivs:"), "1");
    let mounts = fs::read_to_string(proc.join("mountinfo")).unwrap();
    let writable: Vec<_> = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .filter(|fields| fields[5].split(',').any(|option| option == "rw"))
        .map(|fields| fields[4])
        .collect();
    assert_eq!(writable, ["/proc", "/var/lib/keygate"]);

    // A table that is published outside is visible inside, and its serial is kept in the volume.
    gate.folder.build_as("next.kgt", &["--serial", "7"]);
    fs::rename(gate.folder.file("next.kgt"), gate.folder.file("keys.kgt")).unwrap();
    let before = names(gate.folder.path());
    gate.wait_serial(7);
    gate.process.eventually("the state", || container.file("state/state").exists());

    gate.process.signal("TERM");
    let ended = gate.process.wait(Duration::from_secs(30)).expect("SIGTERM ends it");
    assert_eq!(ended.code(), Some(0), "{}", gate.log());
    for word in ["Read-only file system", "Permission denied", "os error 30", "os error 13"] {
        assert!(!gate.log().contains(word), "{}", gate.log());
    }
    assert_eq!(names(&container.file("state")), [".state.lock", "state"]);
    assert_eq!(names(gate.folder.path()), before);
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
