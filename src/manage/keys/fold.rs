//! `keys fold`: takes what somebody else has published into the registry.

use std::path::PathBuf;

use super::super::error::{Error, Result};
use super::super::publish::trusted::TrustedArgs;
use super::super::publish::{PublishArgs, fold};
use super::super::registry::change::Check;
use super::super::session::Session;
use super::edit::finish;

#[derive(Debug, clap::Args)]
pub struct Fold {
    /// Table or patch that another copy of the registry has published
    /// [default: `table` of the registry's [publish]]
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    #[command(flatten)]
    pub trusted: TrustedArgs,
    #[command(flatten)]
    pub publish: PublishArgs,
}

// === impl Fold ===

impl Fold {
    pub fn run(self, session: &mut Session) -> Result<()> {
        let mut change = super::begin(session, Check::All)?;
        self.publish.check(change.registry(), session)?;
        let own = change.settings().publish.table.as_deref();
        let own = own.map(|path| change.registry().relative(path));
        let file = self.file.clone().or(own).ok_or(Error::Missing {
            what: "the table to take in",
            hint: "name it, or set `table` under [publish] in the registry",
        })?;
        let meant = self.publish.meant.acknowledged();
        let signing = self.publish.signing()?;
        let trusted = self.trusted.signers(change.registry(), &signing)?;
        let folded = fold::fold(&file, &mut change, &trusted, &meant, session)?;
        if !folded.is_news {
            let why = "was published from this registry; there is nothing to take in";
            session.output.note(&format!("{} {why}", file.display()));
            return Ok(());
        }
        change = change.behind(folded.serial, &file)?;
        let mut records = change.records("keys fold", &session.stamp(change.serial()));
        if records.is_empty() {
            let what = serde_json::json!({ "file": file.display().to_string() });
            records.push(session.record(change.serial(), "keys fold", what));
        }
        let committed = self.publish.commit(change, records, session)?;
        session.output.note(&format!(
            "{} holds what {} says; serial {}",
            session.registry.display(),
            file.display(),
            committed.serial
        ));
        finish(&committed, |_| "taken over", &self.publish, session)
    }
}
