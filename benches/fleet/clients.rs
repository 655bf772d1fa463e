//! Processes of simulated sidecars, and their answers: one line for each question.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use keygate::clock::Clock;
use keygate::config::{AfterExpiry, TableConfig, TableSource, UrlOptions};
use keygate::reload::SimulatedSidecar;
use keygate::table::PublicKey;
use keygate::telemetry::Metrics;

use super::{Failed, SAMPLE, SOON};

/// A process with sidecars. It ends with the value.
pub(crate) struct ClientProcess {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

/// Whether sidecars have a serial.
pub(crate) struct ClientsTold {
    /// How many sidecars do not.
    pub(crate) late: usize,
    /// When each sample had it, in microseconds of CLOCK_MONOTONIC.
    pub(crate) since_us: Vec<u64>,
}

// === impl ClientProcess ===

impl ClientProcess {
    pub(crate) fn start(
        root: &Path,
        first: usize,
        count: usize,
        address: &str,
    ) -> Result<Self, Failed> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["clients", &first.to_string(), &count.to_string(), address])
            .current_dir(root)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let to = child.stdin.take().ok_or("no input")?;
        let from = BufReader::new(child.stdout.take().ok_or("no output")?);
        Ok(Self { child, to, from })
    }

    /// Asks for a serial. [`Self::told`] returns the answer.
    pub(crate) fn ask(&mut self, serial: u64) -> Result<(), Failed> {
        writeln!(self.to, "wait {serial}")?;
        Ok(self.to.flush()?)
    }

    pub(crate) fn told(&mut self) -> Result<ClientsTold, Failed> {
        let mut line = String::new();
        self.from.read_line(&mut line)?;
        let mut numbers = line.split_whitespace().map(str::parse);
        let late = numbers.next().ok_or("the clients have ended")??;
        Ok(ClientsTold { late: late as usize, since_us: numbers.collect::<Result<_, _>>()? })
    }

    /// How many have a serial now.
    pub(crate) fn count(&mut self, serial: u64) -> Result<usize, Failed> {
        writeln!(self.to, "count {serial}")?;
        self.to.flush()?;
        Ok(self.told()?.late)
    }
}

impl Drop for ClientProcess {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What such a process does: `FIRST COUNT ADDRESS`, in the folder of the house.
pub(crate) fn run(arguments: &[String]) -> Result<(), Failed> {
    let [first, count, address] = arguments else { return Err("FIRST COUNT ADDRESS".into()) };
    let (first, count): (usize, usize) = (first.parse()?, count.parse()?);
    let url =
        |file: &str| TableSource::Url(format!("http://{address}/artefacts/shop/{file}").into());
    let signer = PublicKey::parse(&std::fs::read_to_string("signer.pub")?)?;
    let config = Arc::new(TableConfig {
        source: url("table.kgt"),
        patch: Some(url("patch.kgp")),
        audience: "shop".into(),
        trusted_signers: vec![*signer.as_bytes()],
        signer_files: Vec::new(),
        required_signers: 1,
        state_file: None,
        min_serial: 0,
        after_expiry: AfterExpiry::Serve,
        grace: Duration::ZERO,
        max_bytes: 64 << 20,
        shrink_brake: 0.5,
        poll: Duration::from_secs(10),
        patch_poll: Duration::from_secs(1),
        wait_for_table: true,
        cache_dir: None,
        url: UrlOptions {
            bearer_file: Some("token".into()),
            long_poll: Duration::from_secs(30),
            ..UrlOptions::default()
        },
    });
    let (clock, metrics) = (Clock::system(), Metrics::new(1));
    let mut sidecars = Vec::new();
    for n in first..first + count {
        let (config, name) = (Arc::clone(&config), format!("sidecar-{n}"));
        let (clock, metrics) = (clock.clone(), metrics.clone());
        sidecars.push(SimulatedSidecar::start(config, &name, clock, metrics)?);
    }
    let mut output = std::io::stdout();
    for line in std::io::stdin().lines() {
        let line = line?;
        let (question, serial) = line.split_once(' ').ok_or("a question and a serial")?;
        let serial: u64 = serial.parse()?;
        let late = || sidecars.iter().filter(|s| s.keys().serial() < serial).count();
        if question == "count" {
            writeln!(output, "{}", sidecars.len() - late())?;
            continue;
        }
        let until = Instant::now() + SOON;
        while late() > 0 && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(50));
        }
        let mut told = late().to_string();
        for sidecar in sidecars.iter().step_by(SAMPLE) {
            told.push_str(&format!(" {}", sidecar.keys().since_us()));
        }
        writeln!(output, "{told}")?;
    }
    Ok(())
}
