//! Programs of the demo as child processes.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;

use super::super::error::{Error, Result};

const POLL: Duration = Duration::from_millis(10);
/// Longest wait for the start, and for the end.
const DEADLINE: Duration = Duration::from_secs(20);

/// A running program of the demo. Dropping it ends the program.
#[derive(Debug)]
pub struct DemoProcess {
    child: Child,
    program: PathBuf,
    log: PathBuf,
}

/// A running `keygate serve`.
#[derive(Debug)]
pub struct Sidecar {
    process: DemoProcess,
    address: SocketAddr,
    admin: SocketAddr,
}

/// The line of the operator log that shows where the sidecar listens.
#[derive(Debug, Deserialize)]
struct ListeningLine {
    addresses: String,
    admin: SocketAddr,
}

// === impl DemoProcess ===

impl DemoProcess {
    /// Starts the command in `root`; its output goes to the file `log` there.
    pub fn start(mut command: Command, root: &Path, log: &str) -> Result<Self> {
        let log = root.join(log);
        let program = PathBuf::from(command.get_program());
        let file = File::create(&log).map_err(Error::write(&log))?;
        let second = file.try_clone().map_err(Error::write(&log))?;
        let child = command
            .current_dir(root)
            .stdin(Stdio::null())
            .stdout(second)
            .stderr(file)
            .spawn()
            .map_err(Error::read(&program))?;
        Ok(Self { child, program, log })
    }

    /// Watches its log until that shows that it is up.
    ///
    /// # Errors
    /// [`Error::Sidecar`]: it has ended, or is not up after 20 s.
    pub fn up<T>(&mut self, is_up: impl Fn(&str) -> Option<T>) -> Result<T> {
        let mut waited = Duration::ZERO;
        loop {
            let text = fs::read_to_string(&self.log).unwrap_or_default();
            if let Some(found) = is_up(&text) {
                return Ok(found);
            }
            if self.has_ended() || waited >= DEADLINE {
                return Err(self.failed());
            }
            std::thread::sleep(POLL);
            waited += POLL;
        }
    }

    /// Asks it to end, and waits for it.
    pub fn stop(&mut self) {
        if let Ok(pid) = i32::try_from(self.child.id())
            && let Some(pid) = Pid::from_raw(pid)
        {
            kill_process(pid, Signal::TERM).ok();
        }
        let mut waited = Duration::ZERO;
        while waited < DEADLINE && !self.has_ended() {
            std::thread::sleep(POLL);
            waited += POLL;
        }
        self.child.kill().ok();
        self.child.wait().ok();
    }

    fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    fn failed(&self) -> Error {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        Error::Sidecar { program: self.program.clone(), log: tail(&text) }
    }
}

impl Drop for DemoProcess {
    fn drop(&mut self) {
        if !self.has_ended() {
            self.stop();
        }
    }
}

// === impl Sidecar ===

impl Sidecar {
    pub fn start(program: &Path, root: &Path) -> Result<Self> {
        let mut command = Command::new(program);
        command.args(["serve", "--config"]).arg(root.join("keygate.toml"));
        let mut process = DemoProcess::start(command, root, "keygate.log")?;
        let (address, admin) =
            process.up(|log| listening(log).filter(|(_, admin)| ready(*admin)))?;
        Ok(Self { process, address, admin })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    pub fn process(&mut self) -> &mut DemoProcess {
        &mut self.process
    }
}

/// Waits for Ctrl-C or SIGTERM, or for one of the processes to end on its own.
pub fn wait_for_interrupt(mut processes: Vec<&mut DemoProcess>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::read(Path::new("signals")))?;
    runtime.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        let failed = Error::read(Path::new("signals"));
        let mut terminate = match signal(SignalKind::terminate()) {
            Ok(signal) => signal,
            Err(e) => return Err(failed(e)),
        };
        loop {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => return Ok(()),
                _ = terminate.recv() => return Ok(()),
                () = tokio::time::sleep(Duration::from_millis(200)) => {
                    for process in &mut processes {
                        if process.has_ended() {
                            return Err(process.failed());
                        }
                    }
                }
            }
        }
    })
}

fn listening(log: &str) -> Option<(SocketAddr, SocketAddr)> {
    let found = log.lines().find_map(|line| serde_json::from_str::<ListeningLine>(line).ok())?;
    let address = found.addresses.split(',').next()?.parse().ok()?;
    Some((address, found.admin))
}

fn ready(admin: SocketAddr) -> bool {
    ureq::get(format!("http://{admin}/readyz")).call().is_ok_and(|r| r.status() == 200)
}

fn tail(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    let from = lines.len().saturating_sub(10);
    lines.get(from..).unwrap_or_default().join("\n")
}
