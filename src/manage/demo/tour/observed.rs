//! The end of the tour: `[observe]`, and who would break.

use std::path::PathBuf;
use std::process::Command;

use super::super::super::error::{Error, Result};
use super::super::super::files;
use super::{DEADLINE, POLL, Row, Tour, saw};
use crate::exit::Exit;

const OBSERVE: &str = "\n[observe]\n";

impl Tour {
    /// A request that would be refused passes while keygate observes, and the report names it.
    pub(super) fn observed(&self) -> Result<[Row; 2]> {
        let path = self.configuration();
        let text = std::fs::read_to_string(&path).map_err(Error::read(&path))?;
        files::replace(&path, format!("{text}{OBSERVE}").as_bytes())?;
        let passes = self.without_a_key(200)?;
        let seen = self.upstream.take();
        let reported = self.report()?;
        files::replace(&path, text.as_bytes())?;
        let enforced = self.without_a_key(401)?;
        self.upstream.take();
        let passed = Row {
            what: "no key, while keygate only observes ([observe])".to_owned(),
            request: "GET /api/orders".to_owned(),
            status: passes.to_string(),
            saw: saw(seen.as_ref()),
            kept: (passes, enforced) == (200, 401) && seen.is_some(),
        };
        Ok([passed, reported])
    }

    /// What `keygate observe-report URL` reports about this one sidecar.
    fn report(&self) -> Result<Row> {
        let mut command = Command::new(&self.keygate);
        command.args(["observe-report", &format!("http://{}", self.admin)]);
        let output = command.output().map_err(Error::read(&self.keygate))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let row = text.lines().find(|line| line.starts_with("BREAKS"));
        let words: Vec<_> = row.unwrap_or_default().split_whitespace().take(5).collect();
        let code = output.status.code();
        Ok(Row {
            what: "keygate observe-report".to_owned(),
            request: "GET /observe".to_owned(),
            status: words.join(" "),
            saw: "nothing".to_owned(),
            kept: code == Some(i32::from(Exit::WouldBreak.code()))
                && words.get(1..3) == Some(&["deny", "missing"][..]),
        })
    }

    fn configuration(&self) -> PathBuf {
        self.session.registry.with_file_name("keygate.toml")
    }

    /// Asks without a key until the answer has this status. Returns the last status.
    fn without_a_key(&self, wanted: u16) -> Result<u16> {
        let begin = self.session.clock.now().mono_ns;
        loop {
            self.upstream.take();
            let status = self.send("GET", &[])?.status;
            let took_ns = self.session.clock.now().mono_ns - begin;
            if status == wanted || u128::from(took_ns) > DEADLINE.as_nanos() {
                return Ok(status);
            }
            std::thread::sleep(POLL);
        }
    }
}
