//! A real `keygate serve` in front of an upstream: configuration, registry, signer and table are
//! made in a separate folder, the system chooses the ports, and the process ends with the value.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use keygate::core::Digest;
use tempfile::TempDir;

use super::client::{Client, exchange};
use super::http::Message;
use super::process::{Process, run};
use super::upstream::{Recorded, Upstream, Watch};

/// Secret of `key_reader`: org acme, permission `read`, environment live.
pub(crate) const READER: &str = "wa_live_Reader0123456789abcdefgh";
/// Secret of `key_manager`: every permission, no environment.
pub(crate) const MANAGER: &str = "wa_Manager0123456789abcdefghijk";

pub(crate) const AUDIENCE: &str = "tests";

/// Credentials and routes of most tests.
const HOUSE_RULES: &str = r#"
[[credentials]]
source = "header"
name = "x-api-key"
[[credentials]]
source = "bearer"
prefixes = ["wa_"]
[[credentials]]
source = "query"
name = "api_key"
[[credentials]]
source = "cookie"
name = "kg_key"

[[routes]]
id = "v1"
path = "/v1/*"
methods = ["GET", "HEAD", "POST", "PUT"]
permissions = ["read"]
[[routes]]
id = "admin"
path = "/admin/*"
permissions = ["manage"]
[[routes]]
id = "public"
path = "/public/*"
access = "public"
[[routes]]
id = "either"
path = "/either/*"
access = "key-or-pass"
permissions = ["read"]
[[routes]]
id = "loose"
path = "/loose/*"
allow_encoded_slash = true
allow_semicolon = true
allow_double_encoding = true
[[routes]]
id = "browser"
path = "/browser/*"
methods = ["POST"]
preflight = true
[[routes]]
id = "ws"
path = "/ws/*"
methods = ["GET"]
permissions = ["read"]
upgrade = ["websocket"]
[[routes]]
id = "small"
path = "/small/*"
methods = ["POST"]
body_limit = "10B"
[[routes]]
id = "watched"
path = "/watched/*"
permissions = ["manage"]
"#;

/// One key of the registry.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    id: String,
    secret: String,
    fields: Vec<String>,
    org: String,
    name: String,
    permissions: Vec<String>,
}

/// What will be started.
pub(crate) struct Setup {
    upstream: String,
    upstream_options: String,
    watch: Option<Watch>,
    top: String,
    rules: String,
    also: String,
    table_options: String,
    listen: String,
    keys: Vec<Key>,
    has_table: bool,
    /// Of the table: 1 or 2.
    format: &'static str,
}

/// A running sidecar.
pub(crate) struct Gate {
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) process: Process,
    pub(crate) folder: Folder,
    watch: Option<Watch>,
}

/// The files of one sidecar.
pub(crate) struct Folder {
    dir: TempDir,
}

// === impl Key ===

impl Key {
    pub(crate) fn new(id: &str, secret: &str) -> Self {
        Self {
            id: id.into(),
            secret: secret.into(),
            fields: Vec::new(),
            org: "acme".into(),
            name: String::new(),
            permissions: Vec::new(),
        }
    }

    pub(crate) fn named(mut self, name: &str) -> Self {
        self.name = name.into();
        self
    }

    pub(crate) fn of_org(mut self, org: &str) -> Self {
        self.org = org.into();
        self
    }

    /// Adds a permission.
    pub(crate) fn may(mut self, permission: &str) -> Self {
        self.permissions.push(permission.into());
        self
    }

    /// Any other field of the registry, as TOML: `networks = ["10.0.0.0/8"]`.
    pub(crate) fn with(mut self, field: &str) -> Self {
        self.fields.push(field.into());
        self
    }

    pub(crate) fn toml(&self) -> String {
        let words: Vec<_> = self.permissions.iter().map(|p| format!("{p:?}")).collect();
        format!(
            "\n[[key]]\nid = {:?}\norg = {:?}\nname = {}\npermissions = [{}]\ndigest = {:?}\n{}\n",
            self.id,
            self.org,
            serde_json::to_string(&self.name).unwrap(),
            words.join(", "),
            digest(&self.secret),
            self.fields.join("\n"),
        )
    }
}

/// A digest as the registry writes it.
pub(crate) fn digest(secret: &str) -> String {
    let hex: String = Digest::of(secret.as_bytes()).0.iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{hex}")
}

// === impl Setup ===

impl Setup {
    /// Keys at the top of the file, before every table.
    pub(crate) fn top(mut self, toml: &str) -> Self {
        self.top.push_str(toml);
        self.top.push('\n');
        self
    }

    /// Replaces the credentials and routes of [`HOUSE_RULES`].
    pub(crate) fn rules(mut self, toml: &str) -> Self {
        self.rules = toml.into();
        self
    }

    /// More tables: `[timeouts]`, `[limits]`, …
    pub(crate) fn also(mut self, toml: &str) -> Self {
        self.also.push_str(toml);
        self.also.push('\n');
        self
    }

    /// Keys of `[upstream]`.
    pub(crate) fn upstream_option(mut self, toml: &str) -> Self {
        self.upstream_options.push_str(toml);
        self.upstream_options.push('\n');
        self
    }

    /// Keys of `[table]`.
    pub(crate) fn table(mut self, toml: &str) -> Self {
        self.table_options.push_str(toml);
        self.table_options.push('\n');
        self
    }

    /// The `[listen]` table, instead of a port on 127.0.0.1.
    pub(crate) fn listen(mut self, toml: &str) -> Self {
        self.listen = toml.into();
        self
    }

    pub(crate) fn key(mut self, key: Key) -> Self {
        self.keys.push(key);
        self
    }

    /// The table is of format 2, which has owners.
    pub(crate) fn format_2(mut self) -> Self {
        self.format = "2";
        self
    }

    pub(crate) fn without_table(mut self) -> Self {
        self.has_table = false;
        self.table("wait_for_table = true")
    }

    /// Writes every file, starts nothing.
    pub(crate) fn folder(&self) -> Folder {
        let folder = Folder::empty();
        folder.signer("signer");
        let keys: String = self.keys.iter().map(Key::toml).collect();
        folder.write(
            "keys.toml",
            &format!("registry = 1\nserial = 0\naudience = \"{AUDIENCE}\"\n{keys}"),
        );
        if self.has_table {
            folder.build_as("keys.kgt", &["--format", self.format]);
        }
        folder.write("keygate.toml", &self.config());
        folder
    }

    fn config(&self) -> String {
        format!(
            "{}\n[listen]\n{}\n[admin]\naddress = \"127.0.0.1:0\"\n[upstream]\nurl = \"{}\"\n{}\
             [table]\npath = \"keys.kgt\"\naudience = \"{AUDIENCE}\"\n\
             trusted_signers = [\"signer.pub\"]\nstate_file = \"state\"\n{}\n{}\n{}",
            self.top,
            self.listen,
            self.upstream,
            self.upstream_options,
            self.table_options,
            self.also,
            self.rules,
        )
    }

    /// Starts and waits until it is ready.
    pub(crate) fn start(self) -> Gate {
        let gate = self.start_unready();
        gate.wait_ready();
        gate
    }

    /// Starts and waits until it listens.
    pub(crate) fn start_unready(self) -> Gate {
        let mut gate = Gate::serve(self.folder());
        gate.watch = self.watch;
        gate
    }
}

// === impl Folder ===

impl Folder {
    pub(crate) fn empty() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary folder") }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.file(name), text).expect("write");
    }

    /// Puts a file for its owner alone in place, by rename.
    pub(crate) fn write_secret(&self, name: &str, text: &str) {
        use std::os::unix::fs::PermissionsExt as _;
        let new = format!("{name}.new");
        self.write(&new, text);
        fs::set_permissions(self.file(&new), fs::Permissions::from_mode(0o600)).expect("chmod");
        fs::rename(self.file(&new), self.file(name)).expect("rename");
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.file(name)).expect("read")
    }

    /// A new signer: `NAME.pem`, and its public half as `NAME.pub`.
    pub(crate) fn signer(&self, name: &str) {
        let public = self.ctl(&["signer", "new", "--out", &format!("{name}.pem")]);
        self.write(&format!("{name}.pub"), &public);
    }

    /// Builds the table from the current registry.
    pub(crate) fn build(&self) {
        self.build_as("keys.kgt", &[]);
    }

    /// Builds a table of this name, with these options.
    pub(crate) fn build_as(&self, table: &str, options: &[&str]) {
        let build =
            ["table", "build", "--registry", "keys.toml", "--signer", "signer.pem", "--out"];
        self.ctl(&[&build[..], &[table], options].concat());
    }

    /// Runs one `keygatectl` command in this folder. Returns what it printed.
    pub(crate) fn ctl(&self, arguments: &[&str]) -> String {
        run(keygatectl(self.path()).args(arguments))
    }
}

pub(crate) fn keygatectl(folder: &Path) -> std::process::Command {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_keygatectl"));
    command.current_dir(folder);
    command
}

pub(crate) fn keygate(folder: &Path) -> std::process::Command {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_keygate"));
    command.current_dir(folder);
    command
}

// === impl Gate ===

impl Gate {
    /// A sidecar in front of `upstream`, with the house rules and two keys.
    pub(crate) fn before(upstream: &Upstream) -> Setup {
        let mut setup = Self::before_address(upstream.address);
        setup.watch = Some(upstream.watch());
        setup
    }

    pub(crate) fn before_address(upstream: SocketAddr) -> Setup {
        Self::before_url(&format!("http://{upstream}"))
    }

    pub(crate) fn before_url(upstream: &str) -> Setup {
        let reader = Key::new("key_reader", READER).named("Production CRM").may("read");
        let manager = Key::new("key_manager", MANAGER).named("Operations").may("*");
        Setup {
            upstream: upstream.into(),
            upstream_options: String::new(),
            watch: None,
            top: "environment = \"live\"\n".into(),
            rules: HOUSE_RULES.into(),
            also: String::new(),
            table_options: String::new(),
            listen: "address = \"127.0.0.1:0\"".into(),
            keys: vec![reader.with("environment = \"live\""), manager],
            has_table: true,
            format: "1",
        }
    }

    /// Starts `keygate serve` over the files of `folder` and waits until it says where it listens.
    pub(crate) fn serve(folder: Folder) -> Self {
        Self::serve_with(folder, &[])
    }

    /// The same with variables that the configuration uses.
    pub(crate) fn serve_with(folder: Folder, variables: &[(&str, &str)]) -> Self {
        let mut command = keygate(folder.path());
        command.envs(variables.iter().copied());
        command.args(["serve", "--config", "keygate.toml"]);
        Self::serve_by(folder, command)
    }

    /// The same with a command that becomes `keygate serve`, or starts it.
    pub(crate) fn serve_by(folder: Folder, mut command: std::process::Command) -> Self {
        let process = Process::start(&mut command);
        let line = process.wait_for_line("\"listening\"");
        let said: serde_json::Value = serde_json::from_str(&line).expect("a JSON log line");
        let address = |name: &str| {
            // Several listeners are separated by commas; the first one is the test's.
            let text = said[name].as_str().and_then(|t| t.split([',', ' ']).next());
            text.and_then(|t| t.parse().ok())
                .unwrap_or_else(|| panic!("no `{name}` address in {line}"))
        };
        Self {
            address: address("addresses"),
            admin: address("admin"),
            process,
            folder,
            watch: None,
        }
    }

    pub(crate) fn wait_ready(&self) {
        self.process.eventually("ready", || self.probe("/readyz").status() == 200);
    }

    /// GET on the admin listener.
    pub(crate) fn probe(&self, path: &str) -> Message {
        exchange(
            self.admin,
            format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n"),
        )
    }

    pub(crate) fn metrics(&self) -> String {
        let answer = self.probe("/metrics");
        assert_eq!(answer.status(), 200);
        answer.body_text()
    }

    /// Waits until the table in force has this serial.
    pub(crate) fn wait_serial(&self, serial: u64) {
        self.process.eventually("the new serial", || {
            self.probe("/status").json()["table"]["serial"].as_u64() == Some(serial)
        });
    }

    /// Everything logged so far.
    pub(crate) fn log(&self) -> String {
        self.process.output()
    }

    /// Whether `word` is logged, or soon will be (the writer flushes on a tick).
    pub(crate) fn log_soon(&self, word: &str) -> bool {
        self.process.soon(Duration::from_secs(3), || self.log().contains(word))
    }

    /// Sends `request`. It must be answered with `status` and `code`, and must not reach the
    /// upstream.
    pub(crate) fn refuses(
        &self,
        name: &str,
        request: impl AsRef<[u8]>,
        status: u16,
        code: &str,
    ) -> Message {
        let answer = self.refuses_bytes(name, request.as_ref(), status);
        assert_eq!(answer.code(), code, "{name}: {}", answer.body_text());
        answer
    }

    /// As [`Gate::refuses`], with any code.
    pub(crate) fn refuses_bytes(&self, name: &str, request: &[u8], status: u16) -> Message {
        let watch = self.watch.as_ref().expect("a gate in front of a recording upstream");
        let before = watch.bytes();
        let mut client = Client::connect(self.address);
        let answer = client.send(request).try_response(false).expect("an answer in time");
        let answer = answer.unwrap_or_else(|| panic!("{name}: closed without an answer"));
        assert_eq!(answer.status(), status, "{name}: {}", answer.body_text());
        assert_eq!(watch.bytes(), before, "{name}: bytes reached the upstream");
        assert!(!answer.body.is_empty(), "{name}: no body says why");
        assert!(answer.one("x-request-id").is_some(), "{name}: no request id");
        answer
    }
}

/// Exactly these lines (in any order) reached the upstream, and no others. `x-request-id`, which
/// differs between runs, is only checked for its form.
pub(crate) fn expect_request(got: &Recorded, line: &str, fields: &[&str]) {
    assert_eq!(got.first_line(), line);
    let id = got.one("x-request-id").expect("x-request-id");
    assert!(!id.is_empty() && id.bytes().all(|b| b.is_ascii_graphic()), "{id:?}");
    let mut lines: Vec<_> =
        got.lines().skip(1).filter(|l| !l.starts_with("x-request-id: ")).collect();
    lines.sort();
    let mut want: Vec<_> = fields.iter().map(|f| (*f).to_owned()).collect();
    want.sort();
    assert_eq!(lines, want);
}
