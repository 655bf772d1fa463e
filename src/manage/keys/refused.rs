//! What an operation has refused, in the command line's terms: options in place of fields, and what
//! to do about it.

use super::super::error::Error;
use super::super::operation::{
    FieldError, KeyAdvice, KeyField, OperationError, RequestFault, WrongState,
};

/// The error that ends the command.
pub fn refused(error: OperationError) -> Error {
    match error {
        OperationError::Invalid(faults) => invalid(&faults),
        OperationError::NoRandomness => Error::Random,
        OperationError::State { id, state } => {
            Error::State { id, state: state.to_string(), hint: hint_of(state) }
        }
    }
}

/// A warning with what to do about it.
pub fn warning(advice: &KeyAdvice) -> String {
    match advice {
        KeyAdvice::SunsetAfterEnd { id, .. } => format!(
            "{advice}\nhint: `keygatectl keys edit {id} --sunset WHEN` says an earlier day, \
             `--sunset never` takes it back"
        ),
    }
}

/// All faults, then what to do about them.
fn invalid(faults: &[RequestFault]) -> Error {
    let (Some(first), hints) = (faults.first(), faults.iter().filter_map(hint)) else {
        return Error::argument("request", "cannot be carried out");
    };
    if let Some(missing) = missing(&first.why) {
        return missing;
    }
    let mut why = first.why.to_string();
    for RequestFault { field, why: more } in faults.iter().skip(1) {
        why.push_str(&format!("\n{}: {more}", option(*field)));
    }
    for hint in hints {
        why.push_str(&format!("\nhint: {hint}"));
    }
    Error::argument(option(first.field), why)
}

fn missing(why: &FieldError) -> Option<Error> {
    match why {
        FieldError::NoPrefix => Some(Error::Missing {
            what: "the prefix of the new secret",
            hint: "give --prefix, or set `default_prefix` in the registry",
        }),
        FieldError::OwnerWithoutSubject => Some(Error::Missing {
            what: "the owner's subject",
            hint: "give --owner as well: email and role alone name nobody",
        }),
        _ => None,
    }
}

fn hint(fault: &RequestFault) -> Option<String> {
    match (&fault.why, fault.field) {
        (FieldError::OwnerRemovedAndStated, _) => Some(
            "leave out --owner-email and --owner-role, or give the subject of the new owner".into(),
        ),
        (FieldError::SunsetAfterEnd { .. }, _) => {
            Some("give an earlier --sunset, or a later --expires as well".into())
        }
        (FieldError::InPast, KeyField::Sunset) => Some(
            "a sunset only announces an end: --expires ends a key, and `keygatectl keys revoke` at \
             once"
                .into(),
        ),
        (FieldError::UnknownPrefix { known, .. }, _) => Some(match known.is_empty() {
            true => "the registry has no [prefixes] at all; docs/registry.md shows some".into(),
            false => format!("the registry has {}", known.join(", ")),
        }),
        _ => None,
    }
}

const fn hint_of(state: WrongState) -> &'static str {
    match state {
        WrongState::Canary | WrongState::Revoked => "`keygatectl keys create` issues a new key",
        WrongState::DisabledPair => "`keygatectl keys enable` first",
        WrongState::Expired => "give the successor an end of its own with --expires",
        WrongState::InRotation { .. } => {
            "wait until then, or end the former secret now with --drop-previous"
        }
    }
}

/// The option of a command for this member of a request to a service.
pub fn option_of(member: &str) -> Option<&'static str> {
    Some(match member {
        "environment" => option(KeyField::Environment),
        "expires" => option(KeyField::Expires),
        "limits" => option(KeyField::Limits),
        "name" => option(KeyField::Name),
        "networks" => option(KeyField::Networks),
        "not_before" => option(KeyField::NotBefore),
        "note" => option(KeyField::Note),
        "org" => option(KeyField::Org),
        "overlap" => option(KeyField::Overlap),
        "owner" => option(KeyField::Owner),
        "permissions" | "permission" => option(KeyField::Permissions),
        "plan" => option(KeyField::Plan),
        "prefix" => option(KeyField::Prefix),
        "sunset" => option(KeyField::Sunset),
        _ => return None,
    })
}

/// The option of a command for this field.
const fn option(field: KeyField) -> &'static str {
    match field {
        KeyField::AddPermissions => "--add-permission",
        KeyField::Environment => "--env",
        KeyField::Expires => "--expires",
        KeyField::Limits => "--limit",
        KeyField::Name => "--name",
        KeyField::Networks => "--allow-ip",
        KeyField::NotBefore => "--not-before",
        KeyField::Note => "--note",
        KeyField::Org => "--org",
        KeyField::Overlap => "--overlap",
        KeyField::Owner => "--owner",
        KeyField::Permissions => "--permission",
        KeyField::Plan => "--plan",
        KeyField::Prefix => "--prefix",
        KeyField::RemovePermissions => "--remove-permission",
        KeyField::Sunset => "--sunset",
    }
}
