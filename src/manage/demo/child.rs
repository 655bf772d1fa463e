//! The sidecar as a child process.

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
const PATIENCE: Duration = Duration::from_secs(20);

/// A running `keygate serve`. Ended on drop.
#[derive(Debug)]
pub struct Sidecar {
    child: Child,
    address: SocketAddr,
    admin: SocketAddr,
    log: PathBuf,
}

/// The line of the operator log that tells where the sidecar listens.
#[derive(Debug, Deserialize)]
struct ListeningLine {
    addresses: String,
    admin: SocketAddr,
}

// === impl Sidecar ===

impl Sidecar {
    pub fn start(program: &Path, root: &Path) -> Result<Self> {
        let log = root.join("keygate.log");
        let file = File::create(&log).map_err(Error::write(&log))?;
        let second = file.try_clone().map_err(Error::write(&log))?;
        let mut child = Command::new(program)
            .args(["serve", "--config"])
            .arg(root.join("keygate.toml"))
            .current_dir(root)
            .stdin(Stdio::null())
            .stdout(second)
            .stderr(file)
            .spawn()
            .map_err(Error::read(program))?;
        let mut waited = Duration::ZERO;
        loop {
            let text = fs::read_to_string(&log).unwrap_or_default();
            if let Some((address, admin)) = listening(&text)
                && ready(admin)
            {
                return Ok(Self { child, address, admin, log });
            }
            let ended = child.try_wait().map_err(Error::read(program))?;
            if ended.is_some() || waited >= PATIENCE {
                child.kill().ok();
                child.wait().ok();
                return Err(Error::Sidecar { program: program.to_owned(), log: tail(&text) });
            }
            std::thread::sleep(POLL);
            waited += POLL;
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Asks it to end, and waits for it.
    pub fn stop(&mut self) {
        if let Ok(pid) = i32::try_from(self.child.id())
            && let Some(pid) = Pid::from_raw(pid)
        {
            kill_process(pid, Signal::TERM).ok();
        }
        let mut waited = Duration::ZERO;
        while waited < PATIENCE && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(POLL);
            waited += POLL;
        }
        self.child.kill().ok();
        self.child.wait().ok();
    }

    /// Until Ctrl-C or SIGTERM, or until the sidecar ends by itself.
    pub fn wait_for_interrupt(&mut self) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::read(Path::new("signals")))?;
        let ended_by_itself = runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let failed = Error::read(Path::new("signals"));
            let mut terminate = match signal(SignalKind::terminate()) {
                Ok(signal) => signal,
                Err(e) => return Err(failed(e)),
            };
            loop {
                tokio::select! {
                    _ = tokio::signal::ctrl_c() => return Ok(false),
                    _ = terminate.recv() => return Ok(false),
                    () = tokio::time::sleep(Duration::from_millis(200)) => {
                        if !matches!(self.child.try_wait(), Ok(None)) {
                            return Ok(true);
                        }
                    }
                }
            }
        })?;
        if ended_by_itself {
            let text = fs::read_to_string(&self.log).unwrap_or_default();
            return Err(Error::Sidecar { program: "keygate".into(), log: tail(&text) });
        }
        self.stop();
        Ok(())
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.stop();
        }
    }
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
