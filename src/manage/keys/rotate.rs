//! `keys rotate`: a successor for a single secret, a second secret for a pair.

use std::time::Duration;

use super::super::error::{Error, Result};
use super::super::operation::{
    self, FormerSecret, IssuedKey, KeyAdvice, RotateRequest, RotatedKey,
};
use super::super::publish::PublishArgs;
use super::super::registry::change::Check;
use super::super::session::{Session, SystemRandomness};
use super::super::time::{self, When};
use super::create::Shown;
use super::refused::{refused, warning};
use crate::core::OrgId;

#[derive(Debug, clap::Args)]
pub struct Rotate {
    /// Key id, or a name that only one key has
    #[arg(value_name = "KEY")]
    pub key: String,
    /// Look for the name only among the keys of this organization
    #[arg(long, value_parser = OrgId::parse)]
    pub org: Option<OrgId>,
    /// How long the old secret stays valid; `0s` ends it at once
    #[arg(long, value_name = "DURATION", default_value = "7d", value_parser = time::duration)]
    pub overlap: Duration,
    /// When the successor ends [default: when the old key would have]
    #[arg(long, value_name = "WHEN", value_parser = When::parse)]
    pub expires: Option<When>,
    /// Issue the successor with another prefix of the registry
    #[arg(long, value_name = "NAME")]
    pub prefix: Option<String>,
    /// End the former secret of an earlier rotation that is still valid
    #[arg(long)]
    pub drop_previous: bool,
    #[command(flatten)]
    pub publish: PublishArgs,
}

// === impl Rotate ===

impl Rotate {
    pub fn run(self, session: &mut Session) -> Result<()> {
        session.output.refuse_closed()?;
        let now = session.now();
        let mut change = super::begin(session, Check::Touched)?;
        self.publish.check(change.registry(), session)?;
        let located = change.registry().select(&self.key, self.org.as_ref(), now)?;
        let request = RotateRequest {
            overlap: self.overlap,
            expires: self.expires,
            prefix: self.prefix.clone(),
            former: if self.drop_previous { FormerSecret::Drop } else { FormerSecret::Keep },
        };
        let settings = super::operation_settings(change.settings());
        let old = &located.entry;
        let rotated = operation::rotate(&settings, old, &request, now, &mut SystemRandomness);
        let RotatedKey { shown, changed, added, old_ends } = rotated.map_err(refused)?;
        let IssuedKey { entry, issued } = shown;
        let advice = KeyAdvice::of(Some(old), &entry);
        change.replace(located, changed);
        if added.is_some_and(|successor| !change.add(successor)) {
            return Err(Error::Random);
        }
        let committed = super::commit(change, "keys rotate", &self.publish, session)?;
        let shown = Shown { entry, issued, serial: committed.serial };
        let committed =
            shown.show(self.publish.left_to_do(&committed.registry)?, committed, session)?;
        session.output.note(&format!("the old secret is valid until {}", time::show(old_ends)));
        advice.iter().for_each(|advice| session.output.warn(&warning(advice)));
        self.publish.after(&committed, session)
    }
}
