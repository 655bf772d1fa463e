//! What an old format has no place for: reported, never lost. Imports core only.

use super::fault::{BuildError, Unheld};
use crate::core::{KeySpec, KeyStatus, LimitSet, OrgId, PolicyName};
use crate::table::format::TableFormat;

/// How many an error names.
const SHOWN: usize = 20;

/// Collects what a format has no place for.
#[derive(Debug)]
pub struct UnheldBy {
    format: TableFormat,
    shown: Vec<Unheld>,
    more: u64,
}

// === impl UnheldBy ===

impl UnheldBy {
    pub fn new(format: TableFormat) -> Self {
        Self { format, shown: Vec::new(), more: 0 }
    }

    pub fn key(&mut self, spec: &KeySpec) {
        if self.format == TableFormat::V1 {
            let has = beyond_v1(spec);
            for what in has.into_iter().flatten() {
                self.add(&spec.id.to_string(), what);
            }
        }
    }

    pub fn org(&mut self, org: &OrgId) {
        if self.format == TableFormat::V1 {
            self.add(org.as_str(), "limits of an org");
        }
    }

    /// The error that names all of it, if there is any.
    pub fn refuse(&mut self) -> Result<(), BuildError> {
        match std::mem::take(&mut self.shown) {
            none if none.is_empty() => Ok(()),
            shown => Err(BuildError::Format { shown, more: self.more }),
        }
    }

    fn add(&mut self, whose: &str, what: &'static str) {
        let unheld = Unheld { whose: whose.into(), what };
        // The two secrets of a pair report the same.
        match self.shown.contains(&unheld) {
            true => {}
            false if self.shown.len() < SHOWN => self.shown.push(unheld),
            false => self.more += 1,
        }
    }
}

fn beyond_v1(spec: &KeySpec) -> [Option<&'static str>; 4] {
    let grant = &spec.grant;
    let is_plain =
        |limits: &LimitSet| limits.iter().all(|n| n.policy.as_str() == PolicyName::PER_KEY);
    [
        (grant.status == KeyStatus::Canary).then_some("canary"),
        (!is_plain(&grant.limits)).then_some("limits of other policies than per-key"),
        grant.sunset.is_some().then_some("sunset"),
        spec.owner.is_some().then_some("owner"),
    ]
}
