//! A running `keygatectl distributor`, and a fleet's view of it.

use std::net::SocketAddr;
use std::path::Path;

use super::client::exchange;
use super::gate::keygatectl;
use super::http::Message;
use super::process::Process;

pub(crate) struct Distributor {
    pub(crate) process: Process,
    pub(crate) address: SocketAddr,
    pub(crate) probes: SocketAddr,
}

// === impl Distributor ===

impl Distributor {
    /// On ports that the system chooses. `options` may name others.
    pub(crate) fn start(folder: &Path, options: &[&str]) -> Self {
        let mut command = keygatectl(folder);
        command.args(["distributor", "--admin-listen", "127.0.0.1:0"]);
        if !options.contains(&"--listen") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        let process = Process::start(command.args(options));
        let address = |word: &str| {
            let line = process.wait_for_line(word);
            line.rsplit('/').next().unwrap().trim().parse().unwrap()
        };
        let (address, probes) = (address("listening on http"), address("probes and metrics on"));
        Self { process, address, probes }
    }

    pub(crate) fn probe(&self, path: &str) -> Message {
        exchange(
            self.probes,
            format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"),
        )
    }

    pub(crate) fn wait_ready(&self) {
        self.process.eventually("ready", || self.probe("/readyz").status() == 200);
    }

    /// The sum of a metric's series with these labels.
    pub(crate) fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let page = self.probe("/metrics").body_text();
        let series = page.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']))
                && labels.iter().all(|label| line.contains(label))
        });
        series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}
