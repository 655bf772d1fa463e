//! The key of a row.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::super::driver::SqlRow;
use super::super::rows::{AudienceSettings, NumberedKey};
use super::super::value::FromColumn;
use crate::core::{
    Digest, Environment, KeyId, KeyStatus, Limit, LimitSet, NamedLimit, OrgId, Owner, Permission,
    PolicyName,
};
use crate::manage::registry::entry::{Previous, RegistryEntry};
use crate::manage::registry::plans::{AppliedPlan, PlanName};
use crate::registrar::store::error::StoreError;
use crate::registrar::store::names::{AudienceName, Uid};
use crate::registrar::store::rows::{KeyRow, LastUse};

/// Reads columns one after the other. By name, each would be looked for among all of the row.
struct RowReader<'r> {
    row: &'r SqlRow<'r>,
    next: usize,
}

// === impl RowReader ===

impl RowReader<'_> {
    /// The next column, which is the one with this name.
    fn next<T: FromColumn>(&mut self, name: &str) -> Result<T, StoreError> {
        debug_assert_eq!(self.row.name(self.next), Some(name), "column {}", self.next);
        let value = self.row.get(self.next)?;
        self.next += 1;
        Ok(value)
    }

    fn text(&mut self, name: &str) -> Result<String, StoreError> {
        self.next(name).map_err(|_| odd(name))
    }

    /// Seconds of a column in milliseconds.
    fn seconds(&mut self, name: &str) -> Result<Option<u64>, StoreError> {
        Ok(self.next::<Option<u64>>(name)?.map(|ms| ms / 1000))
    }
}

/// The key of a row that begins with [`super::COLUMNS`].
pub(in super::super) fn decode(
    row: &SqlRow<'_>,
    settings: &AudienceSettings,
) -> Result<NumberedKey, StoreError> {
    let mut columns = RowReader { row, next: 0 };
    let number = columns.next("row")?;
    let id = KeyId::parse(&columns.text("id")?).map_err(|_| odd("id"))?;
    let uid = Uid(columns.next("uid")?);
    let audience =
        AudienceName::parse(&columns.text("audience")?).ok_or_else(|| odd("audience"))?;
    let org = OrgId::parse(&columns.text("org")?).map_err(|_| odd("org"))?;
    let name = columns.text("name")?.into();
    let status = KeyStatus::parse(&columns.text("status")?).map_err(|_| odd("status"))?;
    let environment = columns
        .next::<Option<String>>("environment")?
        .map(|word| Environment::parse(&word).map_err(|_| odd("environment")))
        .transpose()?;
    let permissions = permissions_of(&columns.text("permissions")?)?;
    let networks = networks_of(&columns.text("networks")?)?;
    let limits = limits_of(&columns.text("limits")?)?;
    let plan = match columns.next::<Option<String>>("plan")? {
        Some(name) => {
            let name = PlanName::parse(&name).map_err(|_| odd("plan"))?;
            let resolved = AppliedPlan::of(&name, &settings.registry.plans);
            Some(resolved.unwrap_or_else(|_| AppliedPlan::unresolved(name)))
        }
        None => None,
    };
    let created = columns.seconds("created")?;
    let not_before = columns.seconds("not_before")?;
    let expires = columns.seconds("expires")?;
    let sunset = columns.seconds("sunset")?;
    let subject: Option<String> = columns.next("owner_subject")?;
    let email: Option<String> = columns.next("owner_email")?;
    let role: Option<String> = columns.next("owner_role")?;
    let owner = match subject {
        Some(subject) => {
            let (email, role) = (email.unwrap_or_default(), role.unwrap_or_default());
            Some(Owner::new(&subject, &email, &role).map_err(|_| odd("owner_subject"))?)
        }
        None => None,
    };
    let prefix = columns.next::<Option<String>>("prefix")?.map(Into::into);
    let key_prefix = columns.text("start")?.into();
    let public_id = columns.next::<Option<String>>("public_id")?.map(Into::into);
    let replaces = columns
        .next::<Option<String>>("replaces")?
        .map(|id| KeyId::parse(&id).map_err(|_| odd("replaces")))
        .transpose()?;
    let note = columns.text("note")?.into();
    let version = columns.next("version")?;
    let changed = columns.next("changed")?;
    let changed_ms = columns.next("changed_at")?;
    let digest = Digest(columns.next::<Option<_>>("digest")?.ok_or_else(|| odd("digest"))?);
    let former: Option<[u8; 32]> = columns.next("former")?;
    let former_expires = columns.seconds("former_expires")?;
    let used: Option<u64> = columns.next("used")?;
    let used_from: Option<String> = columns.next("used_from")?;
    let entry = RegistryEntry {
        id,
        org,
        name,
        status,
        environment,
        permissions,
        networks,
        limits,
        plan,
        created,
        not_before,
        expires,
        sunset,
        owner,
        prefix,
        key_prefix,
        public_id,
        digest,
        previous: former
            .map(Digest)
            .map(|digest| Previous { digest, expires: former_expires.unwrap_or_default() }),
        replaces,
        uid: (uid != Uid::of_key(audience.as_str(), id)).then_some(uid),
        note,
    };
    let last_use =
        used.map(|at_ms| LastUse { at_ms, network: used_from.unwrap_or_default().into() });
    let key = KeyRow { audience, uid, entry, version, changed, changed_ms, last_use };
    Ok(NumberedKey { row: number, key })
}

/// A value that no program of ours wrote. The error names its column, not the value.
fn odd(column: &str) -> StoreError {
    StoreError::broken(format!("a key has a strange `{column}`"))
}

fn permissions_of(text: &str) -> Result<Vec<Permission>, StoreError> {
    let words: Vec<String> = serde_json::from_str(text).map_err(|_| odd("permissions"))?;
    words.iter().map(|w| Permission::parse(w).map_err(|_| odd("permissions"))).collect()
}

fn networks_of(text: &str) -> Result<Vec<IpNet>, StoreError> {
    serde_json::from_str(text).map_err(|_| odd("networks"))
}

fn limits_of(text: &str) -> Result<LimitSet, StoreError> {
    let limits: BTreeMap<String, String> = serde_json::from_str(text).map_err(|_| odd("limits"))?;
    let one = |(policy, limit): (String, String)| {
        let policy = PolicyName::parse(&policy).map_err(|_| odd("limits"))?;
        let limit = Limit::parse(&limit).map_err(|_| odd("limits"))?;
        Ok(NamedLimit { policy, limit })
    };
    Ok(LimitSet::new(limits.into_iter().map(one).collect::<Result<Vec<_>, StoreError>>()?))
}
