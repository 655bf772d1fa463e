//! Which keys are still to follow a change of a role. A row of its own for each member says so from
//! the transaction that changes the role until the keys are dealt with.

use serde_json::{Value as Json, json};

use super::super::change::StoreActor;
use super::super::error::StoreError;
use super::super::names::{AudienceName, PersonId};
use super::super::people::{KeysDue, MemberChange};
use super::connection::StoreConnection;
use super::writer::Work;
use crate::core::OrgId;

/// Names of such rows begin with it.
const NAME: &str = "keys due ";

/// Notes that the keys of a member are to follow. What was due before and is not done stays due.
pub(super) fn note(store: &StoreConnection, change: &MemberChange) -> Result<(), StoreError> {
    let MemberChange { org, id, within, actor, at_ms, .. } = change;
    let known = all(store)?.into_iter().find(|due| due.org == *org && due.id == *id);
    let within = match known {
        Some(known) if known.within != *within => None,
        _ => within.clone(),
    };
    let by = match actor {
        StoreActor::HostUser(name) => name.clone(),
        actor => actor.label().into(),
    };
    let due = KeysDue { org: org.clone(), id: id.clone(), within, by, since_ms: *at_ms };
    store.connection.execute(
        "INSERT INTO meta (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = ?2",
        (name(&due), value(&due)),
    )?;
    Ok(())
}

pub(super) fn all(store: &StoreConnection) -> Result<Vec<KeysDue>, StoreError> {
    let mut statement = store
        .connection
        .prepare_cached("SELECT name, value FROM meta WHERE name LIKE ?1 ORDER BY name")?;
    let like = format!("{NAME}%");
    let mut rows = statement.query([&*like])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let (name, value): (String, String) = (row.get(0)?, row.get(1)?);
        match parsed(&name, &value) {
            Some(due) => found.push(due),
            // Nobody else's keys wait for it.
            None => tracing::error!(name, "a note of keys that are due cannot be read"),
        }
    }
    Ok(found)
}

/// They are dealt with. If the role has changed again since, other work is due now, and stays.
pub(super) fn settle(store: &StoreConnection, due: &KeysDue) -> Result<Work<()>, StoreError> {
    store
        .connection
        .execute("DELETE FROM meta WHERE name = ?1 AND value = ?2", (name(due), value(due)))?;
    Ok(Work::Keep(()))
}

fn name(due: &KeysDue) -> String {
    format!("{NAME}{}", json!([due.org.as_str(), due.id.iss, due.id.sub]))
}

fn value(due: &KeysDue) -> String {
    let within = due.within.as_ref().map(AudienceName::as_str);
    json!({"within": within, "by": due.by, "since": due.since_ms}).to_string()
}

fn parsed(name: &str, value: &str) -> Option<KeysDue> {
    let (org, iss, sub): (String, Box<str>, Box<str>) =
        serde_json::from_str(name.strip_prefix(NAME)?).ok()?;
    let value: Json = serde_json::from_str(value).ok()?;
    let within = match value.get("within")? {
        Json::Null => None,
        name => Some(AudienceName::parse(name.as_str()?)?),
    };
    Some(KeysDue {
        org: OrgId::parse(&org).ok()?,
        id: PersonId { iss, sub },
        within,
        by: value.get("by")?.as_str()?.into(),
        since_ms: value.get("since")?.as_u64()?,
    })
}
