//! A new key. Imports the registry's entries.

use ipnet::IpNet;

use super::super::registry::entry::RegistryEntry;
use super::super::registry::words::check_given_name;
use super::super::time::When;
use super::OperationSettings;
use super::details::{DetailRequest, LimitChange, each_once};
use super::fault::{FieldError, KeyField, OperationError, RequestFaults};
use super::secret::{IssuedSecret, RandomSource, new_key_id, new_public_id};
use crate::core::{Environment, KeyKind, KeyStatus, LimitSet, OrgId, Permission};

/// The key that somebody asks for.
#[derive(Clone, Debug)]
pub struct CreateRequest {
    pub org: OrgId,
    /// At most 200 bytes of UTF-8 without control characters, at least one of them visible. Empty:
    /// the key has none.
    pub name: String,
    pub permissions: Vec<Permission>,
    /// Empty: everywhere.
    pub networks: Vec<IpNet>,
    pub expires: Option<When>,
    pub not_before: Option<When>,
    pub limits: Vec<LimitChange>,
    pub environment: Option<Environment>,
    /// A pair gets a public id in addition to its secret.
    pub kind: KeyKind,
    /// From the settings; `None`: the default.
    pub prefix: Option<String>,
    /// One line.
    pub note: String,
    /// Whether the key is a canary: never valid, and an alarm when somebody uses it.
    pub canary: bool,
    pub details: DetailRequest,
}

/// A key whose secret nobody has seen yet. The secret is shown once and stored nowhere.
#[derive(Debug)]
pub struct IssuedKey {
    pub entry: RegistryEntry,
    pub issued: IssuedSecret,
}

// === impl CreateRequest ===

impl CreateRequest {
    /// A request for a single key of `org` that has no permissions and no end.
    pub fn plain(org: OrgId) -> Self {
        Self {
            org,
            name: String::new(),
            permissions: Vec::new(),
            networks: Vec::new(),
            expires: None,
            not_before: None,
            limits: Vec::new(),
            environment: None,
            kind: KeyKind::Single,
            prefix: None,
            note: String::new(),
            canary: false,
            details: DetailRequest::default(),
        }
    }
}

/// The key as it will be, at `now` (Unix seconds). Its id is random: the caller that stores it
/// finds out whether the id is taken.
///
/// # Errors
///
/// All invalid fields together; or a random source that has no bytes to give.
pub fn create(
    settings: &OperationSettings<'_>,
    request: &CreateRequest,
    now: u64,
    random: &mut dyn RandomSource,
) -> Result<IssuedKey, OperationError> {
    let mut faults = RequestFaults::default();
    if !request.name.is_empty()
        && let Err(why) = check_given_name(&request.name)
    {
        faults.add(KeyField::Name, FieldError::Name(why));
    }
    check_note(&request.note, &mut faults);
    let form = faults.taken(KeyField::Prefix, settings.form(request.prefix.as_deref()));
    let limits = LimitChange::apply(&request.limits, &LimitSet::default());
    let limits = faults.taken(KeyField::Limits, limits);
    let not_before = instant(KeyField::NotBefore, request.not_before, now, &mut faults);
    let expires = instant(KeyField::Expires, request.expires, now, &mut faults);
    if expires.is_some_and(|at| at <= now) {
        faults.add(KeyField::Expires, FieldError::InPast);
    } else if expires.zip(not_before).is_some_and(|(end, begin)| end <= begin) {
        faults.add(KeyField::NotBefore, FieldError::EndsBeforeItBegins);
    }
    let Some(form) = form else { return faults.none_or(None) };
    let issued = IssuedSecret::new(&form, request.environment, random)?;
    let public_id = match request.kind {
        KeyKind::Pair => Some(new_public_id(&form.format, request.environment, random)?),
        KeyKind::Single => None,
    };
    let mut entry = RegistryEntry {
        id: new_key_id(random)?,
        org: request.org.clone(),
        name: request.name.as_str().into(),
        status: if request.canary { KeyStatus::Canary } else { KeyStatus::Active },
        environment: request.environment,
        permissions: each_once(&request.permissions),
        networks: each_once(&request.networks),
        limits: limits.unwrap_or_default(),
        plan: None,
        created: Some(now),
        not_before,
        expires,
        sunset: None,
        owner: None,
        prefix: form.prefix,
        key_prefix: issued.key_prefix.clone(),
        public_id,
        digest: issued.digest,
        previous: None,
        replaces: None,
        uid: None,
        note: request.note.as_str().into(),
    };
    request.details.apply(&mut entry, settings, now, &mut faults);
    faults.none_or(Some(IssuedKey { entry, issued }))
}

/// A point in time of the request, in Unix seconds.
pub(super) fn instant(
    field: KeyField,
    when: Option<When>,
    now: u64,
    faults: &mut RequestFaults,
) -> Option<u64> {
    faults.taken(field, when?.resolve(now).map_err(FieldError::from)).flatten()
}

pub(super) fn check_note(note: &str, faults: &mut RequestFaults) {
    if note.chars().any(char::is_control) {
        faults.add(KeyField::Note, FieldError::NotOneLine);
    }
}
