//! What signals do, and that nothing prevents the process from ending: not a log that nobody reads,
//! and not a start that waits for somebody.

use std::io::{BufRead, BufReader, PipeReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::client::{Client, PATIENCE, exchange};
use crate::support::gate::{Folder, Gate, READER, keygate};
use crate::support::process::Process;
use crate::support::upstream::{Step, Upstream, send};

fn get() -> String {
    format!("GET /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n\r\n")
}

fn serve(folder: &Folder) -> Command {
    let mut command = keygate(folder.path());
    command.args(["serve", "--config", "keygate.toml"]);
    command
}

/// A process whose standard output and error are one pipe, which the test reads only as far as it
/// says.
struct Unread {
    child: Child,
    log: BufReader<PipeReader>,
}

impl Unread {
    fn start(mut command: Command) -> Self {
        let (log, writer) = std::io::pipe().unwrap();
        command.stdin(Stdio::null()).stdout(writer.try_clone().unwrap()).stderr(writer);
        let child = command.spawn().unwrap();
        Self { child, log: BufReader::with_capacity(1, log) }
    }

    /// Where clients and admins connect.
    fn addresses(&mut self) -> (SocketAddr, SocketAddr) {
        let mut line = String::new();
        while !line.contains("\"listening\"") {
            line.clear();
            assert!(self.log.read_line(&mut line).unwrap() > 0, "it ended");
        }
        let said: serde_json::Value = serde_json::from_str(&line).unwrap();
        let address = |name: &str| said[name].as_str().unwrap().parse().unwrap();
        (address("addresses"), address("admin"))
    }

    /// Bytes that wait in the pipe.
    fn waiting(&self) -> u64 {
        rustix::io::ioctl_fionread(self.log.get_ref()).unwrap()
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.child.id() as i32).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    fn end(&mut self) -> Option<ExitStatus> {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Some(status);
            }
            thread::sleep(Duration::from_millis(5));
        }
        None
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Refusals fill the pipe until nothing more fits.
fn fill(unread: &Unread, address: SocketAddr) {
    const PIPE: u64 = 64 * 1024;
    let until = Instant::now() + PATIENCE;
    let mut client = Client::connect(address);
    while unread.waiting() + 4096 < PIPE {
        assert!(Instant::now() < until, "{} bytes in the pipe", unread.waiting());
        for _ in 0..100 {
            client.send("GET /v1/a HTTP/1.1\r\nhost: a\r\n\r\n");
            assert_eq!(client.response().status(), 401);
        }
    }
    // There are more than the pipe can hold.
    for _ in 0..1000 {
        client.send("GET /v1/a HTTP/1.1\r\nhost: a\r\n\r\n");
        assert_eq!(client.response().status(), 401, "requests do not wait for the log");
    }
}

#[test]
fn a_log_that_nobody_reads_does_not_keep_the_process() {
    let upstream = Upstream::start();
    for workers in [1, 2] {
        let folder = Gate::before(&upstream).also(&format!("[workers]\ncount = {workers}\n"));
        let folder = folder.folder();
        let mut gate = Unread::start(serve(&folder));
        let (address, _) = gate.addresses();
        fill(&gate, address);
        assert_eq!(exchange(address, get()).status(), 200);
        gate.signal(rustix::process::Signal::TERM);
        assert_eq!(gate.end().and_then(|s| s.code()), Some(0), "{workers} workers");
    }
}

#[test]
fn nor_does_it_a_second_sigterm() {
    let upstream = Upstream::answering(|_| {
        [send("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"), vec![Step::Drain]].concat()
    });
    let folder = Gate::before(&upstream).also("[drain]\ndeadline = \"1h\"\n").folder();
    let mut gate = Unread::start(serve(&folder));
    let (address, admin) = gate.addresses();
    fill(&gate, address);
    let mut running = Client::connect(address);
    running.send(get());
    assert_eq!(running.response_head().status(), 200);
    gate.signal(rustix::process::Signal::TERM);
    let probe = "GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    while exchange(admin, probe).status() == 200 {
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(gate.child.try_wait().unwrap(), None, "it waits for what runs");
    gate.signal(rustix::process::Signal::TERM);
    assert_eq!(gate.end().and_then(|s| s.code()), Some(0));
}

/// Its last log lines cannot be written.
#[test]
fn a_start_that_fails_ends_although_nobody_reads_why() {
    let folder = Gate::before_url("http://127.0.0.1:9").folder();
    folder.write("keygate.toml", "[listen]\n");
    let (reader, mut writer) = std::io::pipe().unwrap();
    let full = rustix::pipe::fcntl_getpipe_size(&writer).unwrap();
    writer.write_all(&vec![b'x'; full]).unwrap();
    let mut command = serve(&folder);
    command.stdin(Stdio::null()).stdout(writer.try_clone().unwrap()).stderr(writer);
    let child = command.spawn().unwrap();
    let mut gate = Unread { child, log: BufReader::new(reader) };
    assert_eq!(gate.end().and_then(|s| s.code()), Some(78));
}

/// Signals that the process catches at this time, as a mask (proc_pid_status(5)).
fn caught(process: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
    u64::from_str_radix(mask.trim(), 16).unwrap()
}

/// The table's server accepts the request and never answers.
#[test]
fn a_start_that_waits_is_ended_by_sigterm_and_by_nothing_less() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let folder = Gate::before_url("http://127.0.0.1:9").folder();
    let text = folder.read("keygate.toml");
    let url = format!("url = \"http://{address}/keys.kgt\"");
    folder.write("keygate.toml", &text.replace("path = \"keys.kgt\"", &url));
    let process = Process::start(&mut serve(&folder));
    let (_asked, _) = silent.accept().unwrap();
    const USR2: u64 = 1 << 11;
    assert!(caught(&process) & USR2 != 0);
    for name in ["HUP", "USR1", "USR2", "PIPE"] {
        process.signal(name);
    }
    assert!(process.wait(Duration::from_millis(200)).is_none(), "{}", process.output());
    process.signal("TERM");
    let status = process.wait(PATIENCE).expect("it ends");
    assert_eq!(status.code(), Some(0), "{}", process.output());
}

#[test]
fn sigusr1_opens_the_access_log_anew() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).also("[log]\naccess_file = \"access.log\"\n").start();
    let lines = |name: &str| {
        let text = std::fs::read_to_string(gate.folder.file(name)).unwrap_or_default();
        text.lines().count()
    };
    exchange(gate.address, get());
    gate.process.eventually("a line", || lines("access.log") == 1);
    std::fs::rename(gate.folder.file("access.log"), gate.folder.file("access.log.1")).unwrap();
    gate.process.signal("USR1");
    gate.process.eventually("a new file", || gate.folder.file("access.log").exists());
    exchange(gate.address, get());
    gate.process.eventually("a line", || lines("access.log") == 1);
    assert_eq!(lines("access.log.1"), 1, "nothing went to the old one");
    // Nothing except the logs was reopened.
    assert!(!gate.log().contains("rereading configuration"), "{}", gate.log());
}

#[test]
fn no_other_signal_ends_a_running_sidecar() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    for name in ["USR1", "USR2", "PIPE", "HUP", "USR1", "USR2"] {
        gate.process.signal(name);
        assert_eq!(exchange(gate.address, get()).status(), 200, "{name}");
    }
    gate.process.eventually("the reload", || gate.log().contains("rereading configuration"));
    assert!(gate.process.wait(Duration::from_millis(100)).is_none(), "{}", gate.log());
    // nginx uses it for a graceful end.
    gate.process.signal("QUIT");
    assert_eq!(gate.process.wait(PATIENCE).and_then(|s| s.code()), Some(0), "{}", gate.log());
    assert!(gate.log_soon("\"stopped\""), "the last line is there:\n{}", gate.log());
}
