//! `keygatectl patch`: all differences between the registry and the published table, as one small
//! file.

use std::path::PathBuf;

use serde_json::json;

use super::super::error::{Error, Result};
use super::super::files;
use super::super::publish::compare::MeantArgs;
use super::super::publish::head::head;
use super::super::publish::target::{Destination, PublishOrigin};
use super::super::publish::terms::{SigningArgs, Terms};
use super::super::publish::{self, PatchOver};
use super::super::registry::change::{Change, Check};
use super::super::session::Session;
use super::build::Meant;
use crate::table::{FileKind, TableFormat};

#[derive(Debug, clap::Args)]
pub struct MakePatch {
    /// File to write [default: `patch` of the registry's [publish]]
    #[arg(long, short, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Table that the patch applies to [default: `table` of the registry's [publish]]
    #[arg(long, value_name = "FILE")]
    pub base: Option<PathBuf>,
    #[command(flatten)]
    pub signing: SigningArgs,
    /// Continue from this serial, after a publication from elsewhere
    #[arg(long, value_name = "N")]
    pub serial: Option<u64>,
    /// Version of the table format [default: that of the table that the patch is over]
    #[arg(long, value_name = "N", value_parser = super::build::format)]
    pub format: Option<TableFormat>,
    /// State that this is meant: `empty` (no active key), `shrink` (most are gone); repeatable
    #[arg(long, value_name = "WHAT", value_enum, value_delimiter = ',')]
    pub acknowledge: Vec<Meant>,
    #[command(flatten)]
    pub meant: MeantArgs,
}

// === impl MakePatch ===

impl MakePatch {
    /// With everything from the registry's settings.
    pub fn of_settings() -> Self {
        Self {
            out: None,
            base: None,
            signing: SigningArgs::default(),
            serial: None,
            format: None,
            acknowledge: Vec::new(),
            meant: MeantArgs::default(),
        }
    }

    pub fn run(self, session: &mut Session) -> Result<()> {
        self.signing.check()?;
        let change = Change::begin(
            &session.registry,
            session.lock_timeout,
            Check::Touched,
            &session.output,
        )?;
        let registry = change.registry();
        let publish = &registry.settings.publish;
        let place = |given: &Option<PathBuf>, set: &Option<PathBuf>, what, hint| {
            let set = set.as_deref().map(|path| registry.relative(path));
            given.clone().or(set).ok_or(Error::Missing { what, hint })
        };
        let out = place(
            &self.out,
            &publish.patch,
            "the file to write",
            "give --out, or set `patch` under [publish] in the registry",
        )?;
        files::refuse_no_directory(&out)?;
        let base = place(
            &self.base,
            &publish.table,
            "the table that the patch is over",
            "give --base, or set `table` under [publish] in the registry",
        )?;
        let acknowledge = self.acknowledge.iter().map(|meant| meant.word()).collect();
        let signers = self.signing.signers(Some(registry))?;
        let named = self.signing.named(&signers)?;
        let message = self.signing.message.clone();
        let terms = Terms::signed_by(registry, signers, session)?;
        let terms = Terms { named, format: self.format, acknowledge, message, ..terms };
        head(&base)?;
        let change = match self.serial {
            Some(serial) => change.at_serial(serial)?,
            None => change,
        };
        let meant = self.meant.acknowledged();
        let source = PublishOrigin::Held(change.registry());
        let place = Destination { out: &out, base: Some(&base), source, meant: &meant };
        place.refuse_signers_of(&terms)?;
        place.refuse_rollback(FileKind::Patch, &terms.audience, change.serial())?;
        place.refuse_losses_of(&change, &session.output)?;
        let what = self.meant.record(json!({
            "file": out.display().to_string(),
            "base": base.display().to_string(),
        }));
        let record = session.record(change.serial(), "patch", what);
        let committed = change.commit(&[record])?;
        // The lock is held: the next patch must not be put in place before this one.
        let published = publish::patch(
            &committed.registry,
            PatchOver { out: &out, base: &base },
            &meant,
            &terms,
            session,
        )?;
        published.answer(session)
    }
}
