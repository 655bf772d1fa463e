//! A process takes over from another: sockets that a parent passes on, messages to the service
//! manager, and the state file of two processes of one configuration. docs/upgrade.md is executed.

use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::client::{Client, PATIENCE, exchange};
use crate::support::gate::{Folder, Gate, MANAGER, READER, Setup, keygate};
use crate::support::process::{Process, run};
use crate::support::upstream::{Step, Upstream, ok, send};

fn get(path: &str, key: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: a\r\nx-api-key: {key}\r\n\r\n")
}

/// Streams under /v1/stream never end. Everything else is answered immediately.
fn upstream() -> Upstream {
    Upstream::answering(|message| match message.first_line().contains("/v1/stream") {
        false => ok(),
        true => {
            let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n";
            [send(head), vec![Step::Drain]].concat()
        }
    })
}

/// A block of docs/upgrade.md.
fn block(language: &str) -> String {
    let page = std::fs::read_to_string(
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/upgrade.md"),
    );
    let page = page.unwrap();
    let (_, rest) = page.split_once(&format!("```{language}\n")).expect("a block");
    rest.split_once("```").expect("its end").0.to_owned()
}

/// The parent of the page, started by the page's own command line, with its keygates.
struct Parent {
    process: Process,
    address: SocketAddr,
}

impl Parent {
    fn start(folder: &Folder) -> Self {
        folder.write("keygate-parent.py", &block("python"));
        let line = block("sh").replace("\\\n", " ");
        let line = line.split(" &\n").next().unwrap();
        // Ports that the system chooses instead of those of a real host.
        let line = line.replace("0.0.0.0:8080", "127.0.0.1:0").replace(":9901", ":0");
        assert!(line.matches("127.0.0.1:0").count() == 2, "{line}");
        let mut command = Command::new("sh");
        command.args(["-c", &format!("exec {line}")]).current_dir(folder.path());
        let here = std::path::Path::new(env!("CARGO_BIN_EXE_keygate")).parent().unwrap();
        let path = std::env::var("PATH").unwrap();
        command.env("PATH", format!("{}:{path}", here.display()));
        let process = Process::start(&mut command);
        let line = process.wait_for_line("listen 127.0.0.1:");
        let address = line.split(' ').nth(1).unwrap().parse().unwrap();
        let parent = Self { process, address };
        parent.process.wait_for_line("ready ");
        parent
    }

    /// Every keygate that was ready, in order.
    fn ready(&self) -> Vec<u32> {
        let output = self.process.output();
        let ready = output.lines().filter_map(|line| line.strip_prefix("ready ")?.parse().ok());
        ready.collect()
    }

    fn replace(&self) {
        let before = self.ready().len();
        self.process.signal("HUP");
        self.process.eventually("a successor", || self.ready().len() > before);
    }

    fn has_ended(&self, pid: u32) -> bool {
        self.process.output().contains(&format!("ended {pid} "))
    }
}

fn kill(pid: u32) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid as i32) {
        // It may have ended already.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        let ended = |pid: &u32| self.has_ended(*pid);
        let left: Vec<_> = self.ready().into_iter().filter(|pid| !ended(pid)).collect();
        left.into_iter().for_each(kill);
    }
}

/// A setup that keeps the old process running: its drain would take an hour.
fn setup(upstream: &Upstream) -> Setup {
    Gate::before(upstream)
        .also("[drain]\ndelay = \"1h\"\ndeadline = \"1h\"\n[workers]\ncount = 2\n")
        .table("patch = \"keys.kgp\"")
}

#[test]
fn ten_thousand_new_connections_across_a_replacement() {
    const CONNECTIONS: usize = 10_000;
    let upstream = upstream();
    let folder = setup(&upstream).folder();
    let parent = Parent::start(&folder);
    let mut stream = Client::connect(parent.address);
    stream.send(get("/v1/stream", MANAGER));
    assert_eq!(stream.response_head().status(), 200);

    let done = Arc::new(AtomicUsize::new(0));
    let address = parent.address;
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let done = Arc::clone(&done);
            thread::spawn(move || {
                while done.fetch_add(1, Ordering::SeqCst) < CONNECTIONS {
                    // Fails the test when it is refused, reset or closed without an answer.
                    assert_eq!(exchange(address, get("/v1/a", READER)).status(), 200);
                }
            })
        })
        .collect();
    let reached = |n: usize| {
        while done.load(Ordering::SeqCst) < n && !clients.iter().all(|c| c.is_finished()) {
            thread::sleep(Duration::from_millis(5));
        }
    };
    reached(CONNECTIONS / 5);
    parent.replace();
    reached(CONNECTIONS / 2);
    // And again: the successor of a successor.
    parent.replace();
    for client in clients {
        client.join().expect("no connection was refused or reset");
    }
    assert!(done.load(Ordering::SeqCst) >= CONNECTIONS);
    let [first, second, third] = parent.ready()[..] else { panic!("{:?}", parent.ready()) };
    parent.process.eventually("the second has ended", || parent.has_ended(second));
    assert!(!parent.has_ended(first) && !parent.has_ended(third), "a stream runs in the first");
    drop(stream);
    parent.process.eventually("the first has ended", || parent.has_ended(first));
    let well = format!("ended {first} 0\n");
    parent.process.eventually("a good end", || parent.process.output().contains(&well));
    assert_eq!(exchange(address, get("/v1/a", READER)).status(), 200);
}

#[test]
fn a_revocation_during_the_hand_over_outlives_a_restart() {
    let upstream = upstream();
    let folder = setup(&upstream).folder();
    let parent = Parent::start(&folder);
    let mut stream = Client::connect(parent.address);
    stream.send(get("/v1/stream", MANAGER));
    assert_eq!(stream.response_head().status(), 200);
    parent.replace();
    // The first one drains, as long as the stream runs. Both accept the patch.
    let registry = ["--registry", "keys.toml"];
    let revoke = |key: &str| {
        folder.ctl(&[&registry[..], &["keys", "revoke", key]].concat());
        let patch = ["patch", "--out", "keys.kgp", "--base", "keys.kgt", "--signer", "signer.pem"];
        folder.ctl(&[&registry[..], &patch].concat());
    };
    revoke("key_reader");
    let in_force = || parent.process.output().matches("\"patch in force\"").count();
    parent.process.eventually("both have taken it", || in_force() == 2);
    assert_eq!(exchange(parent.address, get("/v1/a", READER)).status(), 401);
    let state = || std::fs::read(folder.file("state")).unwrap();
    let written = state();

    // The successor is gone. The one that drains must not record what it accepts.
    let [first, second] = parent.ready()[..] else { panic!("{:?}", parent.ready()) };
    kill(second);
    folder.write("keys.toml", &folder.read("keys.toml").replace("Operations", "Operators"));
    let patch = ["patch", "--out", "keys.kgp", "--base", "keys.kgt", "--signer", "signer.pem"];
    folder.ctl(&[&registry[..], &patch].concat());
    let log = || parent.process.output();
    assert!(parent.process.soon(PATIENCE, || in_force() == 3), "{}", log());
    assert_eq!(state(), written, "a process that drains writes nothing");
    kill(first);
    drop(parent);

    // The patch is gone, as if it had never existed, but the state file remembers it.
    std::fs::remove_file(folder.file("keys.kgp")).unwrap();
    let gate = Gate::serve(folder);
    gate.wait_ready();
    assert_eq!(exchange(gate.address, get("/v1/a", READER)).status(), 401);
    assert_eq!(exchange(gate.address, get("/v1/a", MANAGER)).status(), 200);
}

/// `keygate serve` with these sockets from a parent.
fn activated(folder: &Folder, names: &str, sockets: &[&str]) -> Command {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/py/activate.py");
    let mut command = Command::new("python3");
    command.current_dir(folder.path()).args([script, "keygate.toml", names]).args(sockets);
    command.args(["--", env!("CARGO_BIN_EXE_keygate"), "serve", "--config", "keygate.toml"]);
    command
}

#[test]
fn sockets_are_taken_by_address_and_given_up_at_once() {
    let upstream = upstream();
    let listen = "address = \"@1@\"\n[[listen]]\naddress = \"@0@\"";
    let folder = Gate::before(&upstream).also("[drain]\ndelay = \"1h\"\n").listen(listen).folder();
    let text = folder.read("keygate.toml").replacen("[listen]", "[[listen]]", 1);
    let text = text.replace("[admin]\naddress = \"127.0.0.1:0\"", "[admin]\naddress = \"@2@\"");
    folder.write("keygate.toml", &text);
    let path = folder.file("http.sock").to_str().unwrap().to_owned();
    let sockets = [&*format!("unix:{path}"), "127.0.0.1:0", "127.0.0.1:0"];
    let command = activated(&folder, "-", &sockets);
    let gate = Gate::serve_by(folder, command);
    gate.wait_ready();
    assert_eq!(exchange(gate.address, get("/v1/a", READER)).status(), 200);
    let mut unix = UnixStream::connect(&path).unwrap();
    unix.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = get("/v1/a", READER).replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n");
    std::io::Write::write_all(&mut unix, request.as_bytes()).unwrap();
    let mut answer = String::new();
    unix.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(gate.log().contains(&format!("\"admin\":\"{}\"", gate.admin)));
    // No load balancer has to notice anything, so there is no delay.
    gate.process.signal("TERM");
    assert_eq!(gate.process.wait(PATIENCE).and_then(|s| s.code()), Some(0), "{}", gate.log());
    assert!(std::path::Path::new(&path).exists(), "the file is the parent's");
}

/// All by name, whatever their addresses.
#[test]
fn the_public_admin_socket_is_taken_by_name() {
    let upstream = upstream();
    let folder = Gate::before(&upstream).also("[drain]\ndelay = \"1h\"\n").folder();
    let text = folder.read("keygate.toml").replace(
        "[admin]\n",
        "[admin]\npublic_address = \"127.0.0.1:1\"\n\
         # listen @2@\n# admin @0@\n# public @1@\n",
    );
    folder.write("keygate.toml", &text);
    let sockets = ["127.0.0.1:0"; 3];
    let command = activated(&folder, "admin:admin-public:listen", &sockets);
    let gate = Gate::serve_by(folder, command);
    gate.wait_ready();
    let text = gate.folder.read("keygate.toml");
    let passed = |name: &str| -> SocketAddr {
        let (_, rest) = text.split_once(&format!("# {name} ")).unwrap();
        rest.split('\n').next().unwrap().parse().unwrap()
    };
    assert_eq!((gate.address, gate.admin), (passed("listen"), passed("admin")));
    let public = passed("public");
    assert!(gate.log().contains(&format!("\"public_admin\":\"{public}\"")), "{}", gate.log());
    let get = |path: &str| {
        let head = format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n");
        exchange(public, head).status()
    };
    assert_eq!([get("/readyz"), get("/metrics"), get("/status")], [200, 200, 404]);
    gate.process.signal("TERM");
    assert_eq!(gate.process.wait(PATIENCE).and_then(|s| s.code()), Some(0), "{}", gate.log());
}

/// As much of systemd as unit files need, with the services that it has started.
struct Units(Process);

impl Drop for Units {
    fn drop(&mut self) {
        for line in self.0.output().lines().filter_map(|line| line.strip_prefix("main pid ")) {
            // The stopped ones were waited for: another process may have their number.
            let (unit, pid) = line.split_once(' ').unwrap();
            if !self.0.output().contains(&format!("systemctl stop {unit} -> ")) {
                kill(pid.parse().unwrap());
            }
        }
    }
}

/// The page's commands, with the unit files that ship.
#[test]
fn a_second_unit_takes_over_from_the_first() {
    let upstream = upstream();
    let (address, admin) = (free(), free());
    let folder = setup(&upstream).listen(&format!("address = \"{address}\"")).folder();
    let admin_line = |address: &str| format!("[admin]\naddress = \"{address}\"");
    let text = folder.read("keygate.toml");
    folder.write(
        "keygate.toml",
        &text.replace(&admin_line("127.0.0.1:0"), &admin_line(&admin.to_string())),
    );
    let config = folder.file("keygate.toml").display().to_string();
    for unit in ["keygate.socket", "keygate.service"] {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(unit);
        let text = std::fs::read_to_string(path).unwrap();
        let text = text
            .replace("0.0.0.0:8080", &address.to_string())
            .replace("127.0.0.1:9901", &admin.to_string())
            .replace("/usr/local/bin/keygate", env!("CARGO_BIN_EXE_keygate"))
            .replace("/etc/keygate/keygate.toml", &config);
        folder.write(unit, &text);
    }
    folder.write(
        "bin",
        "#!/bin/sh\necho \"$*\" > systemctl\nread -r answer < answer\n\
         [ \"$answer\" = ok ] || { echo \"$answer\" >&2; exit 1; }\n",
    );
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/py/units.py");
    let mut command = Command::new("python3");
    let units =
        Units(Process::start(command.current_dir(folder.path()).args([script, "keygate.socket"])));
    units.0.wait_for_line("units are loaded");
    let shell = |text: &str| {
        let text = format!("set -e; systemctl() {{ sh ./bin \"$@\"; }}\n{text}");
        let mut command = Command::new("sh");
        command.current_dir(folder.path()).args(["-c", &text]);
        command
    };
    run(&mut shell("systemctl start keygate.service"));
    let mut stream = Client::connect(address);
    stream.send(get("/v1/stream", MANAGER));
    assert_eq!(stream.response_head().status(), 200);

    let page = block("shell").replace("/etc/systemd/system", ".");
    let mut steps = shell(&page);
    let steps = Process::start(&mut steps);
    units.0.wait_for_line("systemctl start keygate-next.service -> ok");
    for _ in 0..50 {
        assert_eq!(exchange(address, get("/v1/a", READER)).status(), 200);
    }
    // The first one finishes what is running, and the admin listener belongs to the second one.
    let probe = "GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    units.0.eventually("ready", || exchange(admin, probe).status() == 200);
    assert!(steps.wait(Duration::ZERO).is_none(), "{}", steps.output());
    drop(stream);
    let status = steps.wait(PATIENCE).expect("it ends");
    assert!(status.success(), "{}\n{}", steps.output(), units.0.output());
    assert_eq!(exchange(address, get("/v1/a", READER)).status(), 200);
    // The other direction.
    run(&mut shell("systemctl start keygate.service; systemctl stop keygate-next.service"));
    assert_eq!(exchange(address, get("/v1/a", READER)).status(), 200);
    assert_eq!(exchange(admin, probe).status(), 200);
    run(&mut shell("systemctl stop keygate.service"));
    assert_sound(&folder);
}

/// systemd's own judgement of the second unit, if the machine has systemd.
fn assert_sound(folder: &Folder) {
    let unit = folder.read("keygate-next.service");
    assert!(unit.contains("[Service]\nSockets=keygate.socket\n"), "{unit}");
    // `notify-reload` is of systemd 253; the unit says what to write before.
    for name in ["keygate.service", "keygate-next.service"] {
        folder.write(name, &folder.read(name).replace("=notify-reload", "=notify"));
    }
    let verify = Command::new("systemd-analyze")
        .args(["verify", "--man=no", "keygate-next.service"])
        .current_dir(folder.path())
        .output();
    match verify {
        Ok(verify) => {
            let said = String::from_utf8_lossy(&verify.stderr).into_owned();
            assert!(verify.status.success() && said.is_empty(), "{said}");
        }
        Err(error) => eprintln!("SKIPPED: systemd-analyze: {error}"),
    }
}

#[test]
fn what_cannot_be_taken_ends_the_start() {
    let folder = Gate::before_url("http://127.0.0.1:9").folder();
    let text = folder.read("keygate.toml");
    let public = "[admin]\npublic_address = \"127.0.0.1:0\"\n";
    folder.write("keygate.toml", &text.replace("[admin]\n", public));
    for (names, socket, word) in [
        ("web", "127.0.0.1:0", "belongs to no listener"),
        ("web", "file:some.txt", "is no listening stream socket"),
        ("admin", "unix:admin.sock", "takes TCP only"),
        ("admin-public", "unix:public.sock", "pass a TCP socket as `admin-public`"),
    ] {
        let process = Process::start(&mut activated(&folder, names, &[socket]));
        let status = process.wait(PATIENCE).expect("it ends");
        assert_eq!(status.code(), Some(78), "{}", process.output());
        // Its output may still be on its way to us.
        for word in [word, "hint: "] {
            let said = process.soon(PATIENCE, || process.output().contains(word));
            assert!(said, "{word}: {}", process.output());
        }
    }
    // Neither ignored nor mistaken for a port that somebody else has.
    for (variable, value) in [
        ("LISTEN_FDS", "abc"),
        ("LISTEN_FDS", "-1"),
        ("LISTEN_FDS", "4294967297"),
        ("LISTEN_PID", "me"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keygate"));
        command.current_dir(folder.path()).args(["serve", "--config", "keygate.toml"]);
        command.env("LISTEN_FDS", "1").env(variable, value);
        let process = Process::start(&mut command);
        let status = process.wait(PATIENCE).expect("it ends");
        assert_eq!(status.code(), Some(78), "{variable}={value}: {}", process.output());
        for word in [variable, value, "hint: "] {
            let said = process.soon(PATIENCE, || process.output().contains(word));
            assert!(said, "{word}: {}", process.output());
        }
    }
    // Meant for another process, so they are not ours.
    let mut command = activated(&folder, "web", &["127.0.0.1:0"]);
    command.env("LISTEN_PID", "1");
    let gate = Gate::serve_by(folder, command);
    gate.wait_ready();
}

#[test]
fn the_service_manager_is_told() {
    let upstream = upstream();
    let name = format!("keygate-it-{}", std::process::id());
    for kind in ["path", "abstract"] {
        let folder = Gate::before(&upstream).without_table().folder();
        let path = folder.file("notify");
        let (socket, named) = match kind {
            "path" => (UnixDatagram::bind(&path).unwrap(), path.to_str().unwrap().to_owned()),
            _ => {
                let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
                (UnixDatagram::bind_addr(&address).unwrap(), format!("@{name}"))
            }
        };
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let gate = Gate::serve_with(folder, &[("NOTIFY_SOCKET", &named)]);
        let heard = |word: &str| {
            let mut bytes = [0; 4096];
            loop {
                let n = socket.recv(&mut bytes).unwrap_or_else(|e| panic!("no {word}: {e}"));
                let text = String::from_utf8_lossy(&bytes[..n]).into_owned();
                if text.lines().any(|line| line.starts_with(word)) {
                    return text;
                }
                assert!(!text.contains("READY=1"), "before {word}: {text}");
            }
        };
        // Not ready as long as a predecessor should not be asked to leave.
        assert_eq!(heard("STATUS="), "STATUS=waiting for a table");
        gate.folder.build();
        assert_eq!(heard("READY=1"), "READY=1\nSTATUS=serving by table 1");
        gate.folder.build();
        assert_eq!(heard("STATUS="), "STATUS=serving by table 2");

        let before = monotonic_us();
        gate.process.signal("HUP");
        let said = heard("RELOADING=1");
        let at = said.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).unwrap();
        assert!((before..=monotonic_us()).contains(&at.parse().unwrap()), "{said}");
        assert_eq!(heard("READY=1"), "READY=1\nSTATUS=serving by table 2");
        let good = gate.folder.read("keygate.toml");
        gate.folder.write("keygate.toml", "[listen]\n");
        gate.process.signal("HUP");
        heard("RELOADING=1");
        let said = heard("READY=1");
        assert!(said.contains("the configuration stays as it was"), "{said}");
        gate.folder.write("keygate.toml", &good);

        gate.process.signal("TERM");
        heard("STOPPING=1");
        assert_eq!(gate.process.wait(PATIENCE).and_then(|s| s.code()), Some(0), "{}", gate.log());
    }
}

fn monotonic_us() -> u64 {
    keygate::clock::monotonic_us()
}

/// A port that nobody has now.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[test]
fn a_shared_port_is_of_one_audience() {
    let upstream = upstream();
    let (address, admin) = (free(), free());
    let folder = Gate::before(&upstream)
        .listen(&format!("address = \"{address}\"\nreuse_port = true"))
        .folder();
    let text = folder.read("keygate.toml");
    let text = text
        .replace("[admin]\naddress = \"127.0.0.1:0\"", &format!("[admin]\naddress = \"{admin}\""));
    folder.write("keygate.toml", &text);
    folder.write("other.toml", &text.replace("audience = \"tests\"", "audience = \"others\""));
    let serve = |folder: &Folder, config: &str| {
        let mut command = keygate(folder.path());
        command.args(["serve", "--config", config]);
        Process::start(&mut command)
    };
    let first = Gate::serve(folder);
    first.wait_ready();
    let second = serve(&first.folder, "keygate.toml");
    second.wait_for_line("\"listening\"");

    let other = serve(&first.folder, "other.toml");
    let status = other.wait(PATIENCE).expect("it ends");
    assert_eq!(status.code(), Some(73), "{}", other.output());
    let word = "is served for the audience tests already";
    assert!(other.soon(PATIENCE, || other.output().contains(word)), "{}", other.output());

    first.process.signal("TERM");
    assert!(first.process.wait(PATIENCE).is_some(), "{}", first.log());
    assert_eq!(exchange(address, get("/v1/a", READER)).status(), 200);
    assert!(second.wait(Duration::ZERO).is_none(), "{}", second.output());
    // Nobody is left, so another process may have the address.
    second.signal("TERM");
    assert!(second.wait(PATIENCE).is_some());
    let other = serve(&first.folder, "other.toml");
    assert_eq!(other.wait(PATIENCE).and_then(|s| s.code()), Some(65), "{}", other.output());
}
