//! Whether a publication that leaves fewer active keys does so on purpose. Sidecars take a sudden
//! loss of keys for an accident and keep what they have, unless the manifest acknowledges it.
//! Without that, a revocation of the last keys would never come into force. Imports the registry
//! and table.

use std::collections::HashSet;

use super::super::error::Result;
use super::compare::{Ours, Standing};
use super::losses::Acknowledged;
use crate::core::{KeyId, KeyStatus};
use crate::table::{Acknowledge, KeySet};

/// What a manifest acknowledges in addition to the options: that keys are gone, if ours accounts
/// for every active record of `standing` that it no longer admits. Ours accounts for a record in
/// three ways: it states the key as revoked or disabled, it states the key without this secret, or
/// the key's id was named to be dropped. Whatever else is missing still counts as an accident.
///
/// `after`: active records of ours, patch and table together.
pub fn on_purpose(
    standing: &Standing,
    ours: &Ours<'_>,
    after: u64,
    meant: &Acknowledged,
) -> Result<Vec<Acknowledge>> {
    let Some(stated) = standing.stated_active() else { return Ok(Vec::new()) };
    let acknowledge = match after {
        0 => vec![Acknowledge::Empty, Acknowledge::Shrink],
        _ => vec![Acknowledge::Shrink],
    };
    // A sidecar that missed the previous publication sees both changes together.
    let is_continued = standing.all().any(|(_, m)| m.acknowledges(Acknowledge::Shrink));
    if !standing.is_patched() && after >= stated {
        return Ok(if is_continued { acknowledge } else { Vec::new() });
    }
    let Some(keys) = standing.keys()? else { return Ok(Vec::new()) };
    let before = keys.counts().active;
    let ended = if after < before { ended(&keys, ours, meant)? } else { 0 };
    match before <= after + ended && (ended > 0 || is_continued) {
        true => Ok(acknowledge),
        false => Ok(Vec::new()),
    }
}

/// How many active records of `theirs` ours ends explicitly.
fn ended(theirs: &KeySet, ours: &Ours<'_>, meant: &Acknowledged) -> Result<u64> {
    let is_active = |status| status == KeyStatus::Active;
    let mut ended = 0;
    let mut stated: HashSet<KeyId> = HashSet::new();
    let mut kept = HashSet::new();
    ours.each(&mut |spec| {
        stated.insert(spec.id);
        if let Some(there) = theirs.find_digest(&spec.digest) {
            kept.insert(spec.digest);
            let was = is_active(there.view.grant.status);
            ended += u64::from(was && !is_active(spec.grant.status));
        }
        Ok(())
    })?;
    let gone = theirs.iter().filter(|there| {
        let id = there.view.id;
        is_active(there.view.grant.status)
            && !kept.contains(&there.digest)
            && (stated.contains(&id) || meant.drop.contains(&id))
    });
    Ok(ended + gone.count() as u64)
}
