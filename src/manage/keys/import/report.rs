//! What an import reports.

use serde::Serialize;

use super::super::super::error::{FileFault, Result};
use super::super::super::output::count;
use super::super::super::session::Session;
use crate::wording::shell::quoted;

/// What was done, or would be.
#[derive(Debug, Default, Serialize)]
pub struct ImportReport {
    pub format: &'static str,
    pub dry_run: bool,
    pub imported: u64,
    /// Keys that the registry already has.
    pub present: u64,
    pub refused: Vec<ReportLine>,
    /// What the file states and a key cannot hold.
    pub not_carried: Vec<ReportLine>,
    /// What the other program refuses and keygate would admit.
    pub wider: Vec<Widened>,
    pub warnings: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<u64>,
    /// `Some(false)`: no publication follows, and `publish_with` is the command that publishes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub published: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publish_with: Option<String>,
}

/// A restriction that is lost, and the name by which `--allow-wider` allows it.
#[derive(Debug, Serialize)]
pub struct Widened {
    pub name: String,
    pub allowed: bool,
    #[serde(flatten)]
    pub at: ReportLine,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ReportLine {
    pub line: u64,
    #[serde(rename = "where")]
    pub place: String,
    pub why: String,
}

// === impl ImportReport ===

impl ImportReport {
    pub fn print(&self, session: &mut Session) -> Result<()> {
        if session.output.json {
            return session.output.json(self);
        }
        let would = if self.dry_run { "would be " } else { "" };
        session.output.line(&format!("{} {would}imported", count(self.imported, "key")))?;
        if self.present > 0 {
            session
                .output
                .line(&format!("{} in the registry already", count(self.present, "key")))?;
        }
        for (title, lines) in
            [("could not be carried", &self.not_carried), ("cannot be imported", &self.refused)]
        {
            if lines.is_empty() {
                continue;
            }
            session.output.line(&format!("{} {title}:", lines.len()))?;
            for line in lines {
                session.output.line(&format!("  {}", line.text()))?;
            }
        }
        for (title, allowed) in [("would be lost", false), ("lost, as allowed", true)] {
            let lines: Vec<_> = self.wider.iter().filter(|w| w.allowed == allowed).collect();
            if lines.is_empty() {
                continue;
            }
            let restrictions = count(lines.len() as u64, "restriction");
            session.output.line(&format!("{restrictions} {title}:"))?;
            for line in lines {
                session.output.line(&format!("  {} ({})", line.at.text(), quoted(&line.name)))?;
            }
        }
        for warning in &self.warnings {
            session.output.line(&format!("warning: {warning}"))?;
        }
        match self.serial {
            Some(serial) => session.output.line(&format!("serial {serial}")),
            None => session.output.line("nothing was changed"),
        }
    }
}

// === impl ReportLine ===

impl ReportLine {
    pub fn of(fault: &FileFault) -> Self {
        Self { line: fault.line, place: fault.field.clone(), why: fault.why.clone() }
    }

    fn text(&self) -> String {
        match (self.line, self.place.as_str()) {
            (0, "") => self.why.clone(),
            (0, place) => format!("{place}: {}", self.why),
            (line, "") => format!("line {line}: {}", self.why),
            (line, place) => format!("line {line}: {place}: {}", self.why),
        }
    }
}
