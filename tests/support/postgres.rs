//! A PostgreSQL server for the tests of a process, and PgBouncer in front of it. It is started with
//! the first test that needs it, on a socket in a separate folder and on a free port of 127.0.0.1,
//! and ended with the process.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tempfile::TempDir;

/// Nothing on a test machine takes this long.
const PATIENCE: Duration = Duration::from_secs(120);

/// Files of its home.
const TLS: &[&str] =
    &["-c", "ssl=on", "-c", "ssl_cert_file=../server.pem", "-c", "ssl_key_file=../server.key"];

/// What happens to committed data when a server crashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TestDisk {
    /// It is still there.
    Flushed,
    /// It is unknown.
    Unflushed,
}

/// A running server.
pub(crate) struct TestServer {
    directory: TempDir,
    port: u16,
    process: Mutex<Option<Child>>,
    disk: TestDisk,
    /// More arguments.
    settings: &'static [&'static str],
}

/// PgBouncer in transaction mode in front of it, with three sessions for each database.
pub(crate) struct Pooler {
    child: Mutex<Child>,
    port: u16,
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        child.kill().ok();
        child.wait().ok();
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The server of this process. The shell that waits for the process's end removes its folder.
pub(crate) fn server() -> &'static TestServer {
    static SERVER: OnceLock<TestServer> = OnceLock::new();
    SERVER.get_or_init(|| {
        let server = TestServer::start(TestDisk::Unflushed);
        let process = server.process.lock().unwrap_or_else(PoisonError::into_inner);
        let pid = process.as_ref().map(Child::id).unwrap();
        drop(process);
        end_with_process(pid, server.directory.path());
        server
    })
}

/// Where the programs are: those of Debian's packages, the newest first, otherwise those of the
/// machine.
fn programs() -> PathBuf {
    let mut found: Vec<_> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("bin"))
        .filter(|bin| bin.join("initdb").exists())
        .collect();
    found.sort();
    found.pop().unwrap_or_else(|| {
        let local = PathBuf::from("/usr/local/bin");
        assert!(local.join("initdb").exists(), "no PostgreSQL\nhint: `make tools` installs it");
        local
    })
}

fn unprivileged() -> &'static str {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    ["postgres", "nobody"]
        .into_iter()
        .find(|user| passwd.lines().any(|line| line.starts_with(&format!("{user}:"))))
        .expect("no user that is not root")
}

/// Runs a command of the server as a user other than root, because it refuses to be root.
fn as_postgres(program: &Path, folder: &Path) -> Command {
    if !rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let user = unprivileged();
    let owned = Command::new("chown").arg(user).arg(folder).status().unwrap();
    assert!(owned.success());
    let mut command = Command::new("setpriv");
    command.args(["--reuid", user, "--regid", "nogroup", "--clear-groups", "--no-new-privs"]);
    command.arg(program);
    command
}

impl TestServer {
    pub(crate) fn start(disk: TestDisk) -> Self {
        let server = Self::made(disk, &[]);
        server.run();
        server
    }

    /// One that shows a certificate for this name, by the authority in `ca.pem`.
    pub(crate) fn with_certificate(name: &str) -> Self {
        let server = Self::made(TestDisk::Unflushed, TLS);
        let authority_key = rcgen::KeyPair::generate().unwrap();
        let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = authority.self_signed(&authority_key).unwrap();
        let issuer = rcgen::Issuer::new(authority, authority_key);
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        let home = server.home();
        fs::write(home.join("ca.pem"), ca.pem()).unwrap();
        fs::write(home.join("server.pem"), certificate.pem()).unwrap();
        fs::write(home.join("server.key"), key.serialize_pem()).unwrap();
        fs::set_permissions(home.join("server.key"), fs::Permissions::from_mode(0o600)).unwrap();
        if rustix::process::geteuid().is_root() {
            let key = home.join("server.key");
            let owned = Command::new("chown").arg(unprivileged()).arg(key).status().unwrap();
            assert!(owned.success());
        }
        server.run();
        server
    }

    fn made(disk: TestDisk, settings: &'static [&'static str]) -> Self {
        // Short: a socket's name has 107 bytes at most.
        let directory = tempfile::Builder::new().prefix("kg-pg-").tempdir_in("/tmp").unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let home = directory.path().join("home");
        fs::create_dir(&home).unwrap();
        let made = as_postgres(&programs().join("initdb"), &home)
            .args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8"])
            .args(["--no-sync", "--pgdata"])
            .arg(home.join("data"))
            .current_dir(&home)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Self { directory, port: free_port(), process: Mutex::new(None), disk, settings }
    }

    /// Starts it, again after [`TestServer::stop`].
    pub(crate) fn run(&self) {
        let home = self.home();
        // One that flushes does everything that a real one does.
        let (fsync, vacuum) = match self.disk {
            TestDisk::Flushed => ("fsync=on", "autovacuum=on"),
            TestDisk::Unflushed => ("fsync=off", "autovacuum=off"),
        };
        let child = as_postgres(&programs().join("postgres"), &home)
            .arg("-D")
            .arg(home.join("data"))
            .arg("-k")
            .arg(&home)
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-c", fsync])
            .args(["-c", "max_connections=400", "-c", "shared_buffers=32MB"])
            .args(["-c", "logging_collector=off", "-c", vacuum])
            .args(self.settings)
            .current_dir(&home)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(self.directory.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        until_it_answers(self.url("postgres"), &self.directory.path().join("log"));
    }

    /// Immediately, as in a crash.
    pub(crate) fn stop(&self) {
        self.signal(rustix::process::Signal::QUIT);
    }

    /// After everything in memory was written to its files.
    pub(crate) fn end(&self) {
        self.signal(rustix::process::Signal::INT);
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mut child) = process.take() {
            // Its own processes end with it.
            let pid = rustix::process::Pid::from_child(&child);
            rustix::process::kill_process(pid, signal).ok();
            child.wait().ok();
        }
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.directory.path().join("home")
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Of one of its databases, over its socket.
    pub(crate) fn url(&self, database: &str) -> String {
        let home = self.home().display().to_string();
        format!("postgres://postgres@/{database}?host={home}&port={}", self.port)
    }

    /// Creates a new and empty database. Returns its name.
    pub(crate) fn database(&self) -> String {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::SeqCst);
        let name = format!("keys_{}_{count}", std::process::id());
        self.execute("postgres", &format!("CREATE DATABASE {name}"));
        name
    }

    /// Statements of somebody who has the database.
    pub(crate) fn execute(&self, database: &str, sql: &str) -> Vec<Vec<String>> {
        execute(self.url(database), sql.to_owned())
    }
}

// === impl Pooler ===

impl Pooler {
    /// Ends with the server.
    pub(crate) fn start(server: &TestServer) -> Self {
        let (home, port) = (server.home(), free_port());
        let config = home.join("pgbouncer.ini");
        let text = format!(
            "[databases]\n* = host={} port={} user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = transaction\n\
             default_pool_size = 3\nmax_client_conn = 1000\nlogfile = {}/pgbouncer.log\n",
            home.display(),
            server.port(),
            home.display(),
        );
        fs::write(&config, text).unwrap();
        let program = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"];
        let program = program.into_iter().map(Path::new).find(|path| path.exists());
        let program = program.expect("no pgbouncer\nhint: `make tools` installs it");
        let child = as_postgres(program, &home)
            .args(["-q"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let pooler = Self { child: Mutex::new(child), port };
        end_with_process(pooler.child.lock().unwrap().id(), Path::new("/nonexistent"));
        until_it_answers(pooler.url("postgres"), &home.join("pgbouncer.log"));
        pooler
    }

    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    pub(crate) fn execute(&self, database: &str, sql: &str) -> Vec<Vec<String>> {
        execute(self.url(database), sql.to_owned())
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn suite_runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// A static is never dropped: a shell waits for this process, ends the other one, and removes its
/// folder.
fn end_with_process(pid: u32, folder: &Path) {
    let script = "while kill -0 \"$1\" 2>/dev/null; do sleep 0.2; done; kill -QUIT \"$2\"; \
                  while kill -0 \"$2\" 2>/dev/null; do sleep 0.1; done; rm -rf \"$3\"";
    let mut watcher = Command::new("sh")
        .args(["-c", script, "sh", &std::process::id().to_string(), &pid.to_string()])
        .arg(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // It ends after this process does.
    std::thread::spawn(move || watcher.wait());
}

fn until_it_answers(url: String, log: &Path) {
    let asking = std::thread::spawn(move || {
        suite_runtime().block_on(async {
            let answers = async {
                let config: tokio_postgres::Config = url.parse().unwrap();
                while config.connect(tokio_postgres::NoTls).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            tokio::time::timeout(PATIENCE, answers).await.is_ok()
        })
    });
    let answers = asking.join().unwrap();
    assert!(answers, "{}", fs::read_to_string(log).unwrap_or_default());
}

/// Statements of somebody else, and the rows that they give.
fn execute(url: String, sql: String) -> Vec<Vec<String>> {
    let run = move || {
        suite_runtime().block_on(async {
            let config: tokio_postgres::Config = url.parse().unwrap();
            let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
            tokio::spawn(connection);
            let answers = client.simple_query(&sql).await.unwrap();
            let row = |answer| match answer {
                tokio_postgres::SimpleQueryMessage::Row(row) => Some(
                    (0..row.len()).map(|at| row.get(at).unwrap_or_default().to_owned()).collect(),
                ),
                _ => None,
            };
            answers.into_iter().filter_map(row).collect()
        })
    };
    std::thread::spawn(run).join().unwrap()
}
