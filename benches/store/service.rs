//! `keygatectl admin …` as a process, and what it costs.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::Failed;
use super::client::Client;

/// A running service. It ends with the value.
pub(super) struct Service {
    child: Child,
    pub(super) address: String,
    /// From its start to its first answer.
    pub(super) started: Duration,
}

/// Where its files and the programs are.
pub(super) struct Place<'p> {
    pub(super) root: &'p Path,
    pub(super) programs: PathBuf,
}

impl Place<'_> {
    /// Runs a command that ends. Returns how long it took, and its output.
    pub(super) fn run(&self, arguments: &[&str]) -> Result<(Duration, String), Failed> {
        let began = Instant::now();
        let mut command = Command::new(self.programs.join("keygatectl"));
        let done = command.args(arguments).current_dir(self.root).output()?;
        match done.status.success() {
            true => Ok((began.elapsed(), String::from_utf8(done.stdout)?)),
            false => {
                Err(format!("{arguments:?}: {}", String::from_utf8_lossy(&done.stderr)).into())
            }
        }
    }

    pub(super) fn serve(&self) -> Result<Service, Failed> {
        let log = std::fs::File::create(self.root.join("serve.log"))?;
        let began = Instant::now();
        let mut child = Command::new(self.programs.join("keygatectl"))
            .args(["admin", "serve"])
            .current_dir(self.root)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()?;
        let mut line = String::new();
        let output = child.stdout.take().ok_or("no output")?;
        BufReader::new(output).read_line(&mut line)?;
        let mut service = Service { child, address: String::new(), started: Duration::ZERO };
        let Some(address) = line.trim().strip_prefix("listening on http://") else {
            return Err(std::fs::read_to_string(self.root.join("serve.log"))?.into());
        };
        address.clone_into(&mut service.address);
        Client::new(address, &[])?.get("/healthz")?.must_be(200)?;
        service.started = began.elapsed();
        Ok(service)
    }
}

// === impl Service ===

impl Service {
    /// In MiB: now, and at most since its start.
    pub(super) fn memory(&self) -> Result<(f64, f64), Failed> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let of = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().trim_end_matches(" kB").parse::<f64>().ok()
        };
        let (now, most) = (of("VmRSS:"), of("VmHWM:"));
        Ok((now.ok_or("no VmRSS")? / 1024.0, most.ok_or("no VmHWM")? / 1024.0))
    }

    /// All of its threads', in user and kernel mode, since its start.
    pub(super) fn processor_time(&self) -> Result<Duration, Failed> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // proc_pid_stat(5): fields 14 and 15, in ticks of 10 ms; the second one may have spaces.
        let fields = stat.rsplit(") ").next().ok_or("no stat")?;
        let ticks = fields.split(' ').skip(11).take(2).map(str::parse::<u64>);
        let ticks: u64 = ticks.sum::<Result<_, _>>()?;
        Ok(Duration::from_millis(ticks * 10))
    }

    /// The value of a metric of the audience.
    pub(super) fn metric(&self, name: &str) -> Result<f64, Failed> {
        let text = Client::new(&self.address, &[])?.get("/metrics")?.must_be(200)?.body;
        let line = text.lines().find(|line| line.starts_with(&format!("{name}{{")));
        let value = line.and_then(|line| line.rsplit(' ').next()).ok_or("no such metric")?;
        Ok(value.parse()?)
    }

    /// Waits until everything is published.
    pub(super) fn published(&self) -> Result<(), Failed> {
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(300) {
            let serial = self.metric("keygate_admin_serial")?;
            if serial > 0.0 && self.metric("keygate_admin_published_serial")? >= serial {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err("not published within five minutes".into())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
