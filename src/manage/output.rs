//! What a command prints: data to standard output, everything else to standard error.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use super::error::{Error, Result, STANDARD_OUTPUT};
use super::progress::ProgressLine;
pub use crate::wording::count::count;
use crate::wording::visible::{Visible, visible};

/// Where a command's answer goes. `json` is the choice of `--json`.
pub struct Output {
    pub json: bool,
    to: Box<dyn Write>,
    /// Standard error; nothing in unit tests.
    notes: Box<dyn Write>,
    /// Suppresses all output.
    mute: bool,
    /// Options of the service whose keys the command works on: commands in hints need them too.
    service: Option<String>,
}

/// Rows with aligned columns for people.
#[derive(Debug, Default)]
pub struct Columns {
    rows: Vec<Vec<String>>,
}

// === impl Output ===

impl Output {
    /// Writes to the streams of this process, as text.
    pub fn standard() -> Self {
        Self {
            json: false,
            to: Box::new(io::BufWriter::new(io::stdout())),
            notes: Box::new(io::stderr()),
            mute: false,
            service: None,
        }
    }

    /// Says nothing.
    pub fn sink() -> Self {
        let (to, notes) = (Box::new(io::sink()), Box::new(io::sink()));
        Self { json: false, to, notes, mute: true, service: None }
    }

    /// From now on, commands on keys in notes and warnings get these options.
    pub fn work_at(&mut self, service: Option<String>) {
        self.service = service;
    }

    /// Refuses to make a secret that nobody would see: standard output was closed before the
    /// program began. In that case, the runtime opens `/dev/null` in its place, for reading as
    /// well, which no shell does.
    pub fn refuse_closed(&self) -> Result<()> {
        let to = std::fs::read_link("/proc/self/fd/1").unwrap_or_default();
        let info = std::fs::read_to_string("/proc/self/fdinfo/1").unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let is_read = flags.is_some_and(|flags| flags.trim().ends_with('2'));
        match !self.mute && is_read && to == std::path::Path::new("/dev/null") {
            true => Err(broken(io::Error::other("it is closed, and a secret is shown only once"))),
            false => Ok(()),
        }
    }

    /// Prints data unchanged.
    pub fn text(&mut self, text: &str) -> Result<()> {
        self.to.write_all(text.as_bytes()).map_err(broken)
    }

    pub fn line(&mut self, text: &str) -> Result<()> {
        writeln!(self.to, "{}", visible(text)).map_err(broken)
    }

    /// One indented JSON value.
    pub fn json(&mut self, value: &impl Serialize) -> Result<()> {
        serde_json::to_writer_pretty(Visible(&mut self.to), value).map_err(|e| broken(e.into()))?;
        self.to.write_all(b"\n").map_err(broken)
    }

    /// One JSON value on one line.
    pub fn json_line(&mut self, value: &impl Serialize) -> Result<()> {
        serde_json::to_writer(Visible(&mut self.to), value).map_err(|e| broken(e.into()))?;
        self.to.write_all(b"\n").map_err(broken)
    }

    /// One JSON value without a line end.
    pub fn json_raw(&mut self, value: &impl Serialize) -> Result<()> {
        serde_json::to_writer(Visible(&mut self.to), value).map_err(|e| broken(e.into()))
    }

    /// In addition to the data: what happened, for people. A closed standard error is no reason to
    /// fail.
    pub fn note(&mut self, text: &str) {
        self.to.flush().ok();
        let text = at_service(text, self.service.as_deref());
        writeln!(self.notes, "{}", visible(&text)).ok();
    }

    /// A warning on standard error that does not stop the command; `text` without `warning: `. A
    /// command inside another command stays silent.
    pub fn warn(&self, text: &str) {
        if !self.mute {
            warn(&at_service(text, self.service.as_deref()));
        }
    }

    /// Shows the progress of long work, if a person is watching.
    pub fn progress(&self) -> ProgressLine {
        if self.json || self.mute { ProgressLine::none() } else { ProgressLine::standard() }
    }

    pub fn flush(&mut self) -> Result<()> {
        self.to.flush().map_err(broken)
    }

    pub fn writer(&mut self) -> &mut dyn Write {
        &mut self.to
    }
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Output").field("json", &self.json).finish_non_exhaustive()
    }
}

// === impl Columns ===

impl Columns {
    pub fn titled(titles: &[&str]) -> Self {
        Self { rows: vec![titles.iter().map(ToString::to_string).collect()] }
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub fn print(&self, output: &mut Output) -> Result<()> {
        // Before they are measured: escaped text is longer.
        let shown = |cell: &String| visible(cell).into_owned();
        let rows: Vec<Vec<String>> =
            self.rows.iter().map(|row| row.iter().map(shown).collect()).collect();
        let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
        let width =
            |n: usize| rows.iter().filter_map(|r| r.get(n)).map(|c| c.chars().count()).max();
        let widths: Vec<usize> = (0..columns).map(|n| width(n).unwrap_or_default()).collect();
        for row in &rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(cell);
                let pad = width.saturating_sub(cell.chars().count()) + 2;
                line.extend(std::iter::repeat_n(' ', pad));
            }
            output.line(line.trim_end())?;
        }
        Ok(())
    }
}

/// Adds the service's options to the commands on keys in a text: hints are written once, for files.
fn at_service<'t>(text: &'t str, options: Option<&str>) -> Cow<'t, str> {
    const COMMAND: &str = "`keygatectl keys ";
    match options {
        Some(options) if text.contains(COMMAND) => {
            text.replace(COMMAND, &format!("`keygatectl {options} keys ")).into()
        }
        _ => text.into(),
    }
}

/// Prints a warning on standard error that does not stop the command; `text` without `warning: `. A
/// repeated warning is printed once: a command reads its signers and its registry more than once.
pub fn warn(text: &str) {
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    if said.insert(text.to_owned()) {
        eprintln!("warning: {}", visible(text));
    }
}

/// A reader that has gone away (`| head`) is a normal end: [`super::run`] recognizes this error by
/// its path.
pub fn broken(source: io::Error) -> Error {
    Error::Write { path: STANDARD_OUTPUT.into(), source }
}
