//! Another grant, name or end for an existing key. Imports the registry's entries.

use ipnet::IpNet;

use super::super::registry::entry::RegistryEntry;
use super::super::registry::words::check_given_name;
use super::super::time::When;
use super::OperationSettings;
use super::create::check_note;
use super::details::{DetailRequest, LimitChange, each_once};
use super::fault::{FieldError, KeyField, OperationError, RequestFaults, WrongState};
use crate::core::{Environment, KeyStatus, Permission};

/// What is to change. Everything else stays.
#[derive(Clone, Debug, Default)]
pub struct EditRequest {
    pub name: Option<String>,
    /// These replace the permissions that the key has.
    pub permissions: Option<Vec<Permission>>,
    pub add_permissions: Vec<Permission>,
    pub remove_permissions: Vec<Permission>,
    /// These replace the networks that the key has; empty: everywhere.
    pub networks: Option<Vec<IpNet>>,
    pub expires: Option<When>,
    pub not_before: Option<When>,
    pub limits: Vec<LimitChange>,
    /// `Some(None)`: the key no longer belongs to an environment.
    pub environment: Option<Option<Environment>>,
    pub note: Option<String>,
    pub details: DetailRequest,
}

/// The key as it will be, at `now` (Unix seconds); equal to `entry` if the request changes nothing.
///
/// # Errors
///
/// All invalid fields together; or a key that is revoked.
pub fn edit(
    settings: &OperationSettings<'_>,
    entry: &RegistryEntry,
    request: &EditRequest,
    now: u64,
) -> Result<RegistryEntry, OperationError> {
    let mut faults = RequestFaults::default();
    if let Some(note) = &request.note {
        check_note(note, &mut faults);
    }
    if entry.status == KeyStatus::Revoked {
        return Err(OperationError::State { id: entry.id, state: WrongState::Revoked });
    }
    let mut new = entry.clone();
    if let Some(name) = &request.name {
        if let Err(why) = check_given_name(name) {
            faults.add(KeyField::Name, FieldError::Name(why));
        }
        new.name = name.as_str().into();
    }
    edit_permissions(&mut new, request, &mut faults);
    if let Some(networks) = &request.networks {
        new.networks = each_once(networks);
    }
    edit_window(&mut new, request, now, &mut faults);
    let limits = LimitChange::apply(&request.limits, &new.limits);
    if let Some(limits) = faults.taken(KeyField::Limits, limits) {
        new.limits = limits;
    }
    request.details.apply(&mut new, settings, now, &mut faults);
    if let Some(environment) = request.environment {
        new.environment = environment;
    }
    if let Some(note) = &request.note {
        new.note = note.as_str().into();
    }
    faults.none_or(Some(new))
}

fn edit_permissions(new: &mut RegistryEntry, request: &EditRequest, faults: &mut RequestFaults) {
    if let Some(permissions) = &request.permissions {
        new.permissions = each_once(permissions);
    }
    for permission in &request.add_permissions {
        if !new.permissions.contains(permission) {
            new.permissions.push(permission.clone());
        }
    }
    for permission in &request.remove_permissions {
        if !new.permissions.contains(permission) {
            let why = FieldError::NotHeld { id: new.id, permission: permission.clone() };
            faults.add(KeyField::RemovePermissions, why);
        }
        new.permissions.retain(|p| p != permission);
    }
}

fn edit_window(
    new: &mut RegistryEntry,
    request: &EditRequest,
    now: u64,
    faults: &mut RequestFaults,
) {
    let moved = |field, when: Option<When>, to: &mut Option<u64>, faults: &mut RequestFaults| {
        let resolved = when.map(|when| when.resolve(now).map_err(FieldError::from));
        if let Some(at) = resolved.and_then(|resolved| faults.taken(field, resolved)) {
            *to = at;
        }
    };
    moved(KeyField::Expires, request.expires, &mut new.expires, faults);
    moved(KeyField::NotBefore, request.not_before, &mut new.not_before, faults);
    let is_moved = request.expires.is_some() || request.not_before.is_some();
    if is_moved && new.expires.zip(new.not_before).is_some_and(|(end, begin)| end <= begin) {
        let field = match request.not_before {
            Some(_) => KeyField::NotBefore,
            None => KeyField::Expires,
        };
        faults.add(field, FieldError::EndsBeforeItBegins);
    }
}
