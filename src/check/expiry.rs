//! A table that has expired: a start takes it when the state file says that it was in force before.
//! Imports config, core, reload and table.

use super::Finding;
use crate::config::AfterExpiry;
use crate::core::observe::{EnforcedShare, Observe, ObserveReach};
use crate::core::{KeyLookup as _, Now};
use crate::reload::Time;
use crate::table::KeySet;

/// What an expired table means here.
#[derive(Debug, Default)]
pub(super) struct ExpiryFindings {
    /// Requests are refused.
    pub(super) error: Option<Finding>,
    /// They are served, or still are.
    pub(super) warning: Option<Finding>,
}

pub(super) fn look(
    after: AfterExpiry,
    observe: Option<&Observe>,
    keys: &KeySet,
    now: Now,
) -> ExpiryFindings {
    let mut found = ExpiryFindings::default();
    let secs = now.unix_secs();
    let Some(at) = keys.table().manifest().expires_at.filter(|at| secs >= *at) else {
        return found;
    };
    let finding = |then: String| Finding {
        kind: "table_expired",
        subject: "table".to_owned(),
        message: format!("it expired at {}: {then}", Time::of_secs(at)),
        hint: Some(
            "build and publish a fresh one; if it is fresh, correct this machine's clock"
                .to_owned(),
        ),
    };
    // A lookup that finds nothing leaves no key that could be in the enforced share.
    let is_observed = observe.is_some_and(|observe| {
        observe.reach == ObserveReach::WholeGate && observe.share_at(now) < EnforcedShare::ALL
    });
    match (after, keys.refuse_from()) {
        (AfterExpiry::Refuse, Some(from)) if secs >= from && is_observed => {
            let then = "requests pass while [observe] lets them, but keygate is not ready after a \
                        start, and refuses every request that it enforces, because \
                        `table.after_expiry` is refuse";
            found.warning = Some(finding(then.to_owned()));
        }
        (AfterExpiry::Refuse, Some(from)) if secs >= from => {
            let then = "every request is refused with 503, because `table.after_expiry` is refuse";
            found.error = Some(finding(then.to_owned()));
        }
        (AfterExpiry::Refuse, Some(from)) => {
            let then = format!(
                "from {} on, every request is refused with 503, because `table.after_expiry` is \
                 refuse",
                Time::of_secs(from)
            );
            found.warning = Some(finding(then));
        }
        (AfterExpiry::Serve | AfterExpiry::Refuse, _) => {
            let then = "its keys are served all the same, because `table.after_expiry` is serve";
            found.warning = Some(finding(then.to_owned()));
        }
    }
    found
}
