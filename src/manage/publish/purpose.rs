//! Whether a publication that leaves fewer active keys means it. Sidecars take a sudden loss of
//! keys for an accident and keep what they have, unless the manifest says otherwise: then a
//! revocation of the last keys would never come into force. Imports the registry and table.

use std::collections::HashSet;

use super::super::error::Result;
use super::compare::{Ours, Standing};
use super::losses::Acknowledged;
use crate::core::{KeyId, KeyStatus};
use crate::table::{Acknowledge, KeySet};

/// What a manifest acknowledges beside what options say: that keys are gone, if ours accounts for
/// every active record of `standing` that it no longer admits. It states the key as revoked or
/// disabled, or without this secret, or its id was named to be dropped. What is missing beyond
/// those is an accident still.
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
    // A sidecar that missed the publication before sees both changes at once.
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

/// How many active records of `theirs` ours ends by saying so.
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
