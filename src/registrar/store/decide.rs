//! Asks the rules of `manage`, and turns their refusals into errors for a caller of the store.

use super::change::StoreActor;
use super::error::{ChangeFault, StoreError};
use crate::core::OrgId;
use crate::manage::operation::OperationError;
use crate::manage::operation::may::{Access, NotAllowed, OrgAction};

/// Checks whether the rules let somebody do this in the org.
///
/// # Errors
/// The error for a caller who may not.
pub fn may_in(
    access: &Access<'_>,
    asking: &StoreActor,
    action: OrgAction<'_>,
    org: &OrgId,
) -> Result<(), StoreError> {
    let actor = asking.in_org(Some(org)).ok_or(StoreError::NoSuchKey)?;
    access.may_in(&actor, action, org).map_err(forbidden)
}

/// The error for a caller who may not do this.
pub(super) fn forbidden(why: NotAllowed) -> StoreError {
    match why {
        NotAllowed::Unseen => StoreError::NoSuchKey,
        NotAllowed::LastOwner => StoreError::LastOwner,
        why => StoreError::Forbidden {
            field: why.field().map(|field| field.name().into()),
            why: why.to_string(),
        },
    }
}

/// The error for a caller whose request makes no sense.
pub(super) fn refused(error: OperationError) -> StoreError {
    match error {
        OperationError::Invalid(faults) => StoreError::Invalid {
            faults: faults
                .iter()
                .map(|fault| ChangeFault {
                    field: fault.field.name().into(),
                    why: fault.why.to_string().into(),
                })
                .collect(),
        },
        error @ OperationError::NoRandomness => StoreError::broken(error),
        error @ OperationError::State { .. } => StoreError::Conflict { why: error.to_string() },
    }
}
