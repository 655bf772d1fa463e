//! Rows of orgs, people, memberships, sessions and sign-ins.

use std::sync::Arc;

use serde_json::{Map, Value as Json, json};

use super::super::decide;
use super::super::error::StoreError;
use super::super::names::{AudienceName, PersonId};
use super::super::people::{
    Member, MemberChange, OrgChange, OrgRow, OrgRules, Person, SessionKind, SessionRow, SignIn,
};
use super::connection::StoreConnection;
use super::driver::{SqlRow, SqlRows};
use super::due;
use super::fault::OptionalExtension as _;
use super::log::{self, Occasion, Subject};
use super::writer::Work;
use crate::core::{Digest, OrgId};
use crate::manage::operation::may::{Access, OrgAction, PersonRole};
use crate::registrar::store::StoreActor;

const SESSION: &str = "digest, id, kind, iss, sub, org, detail, epoch, created, seen, ends, \
    address, agent";

/// The same row; changes of keys read it only once.
pub(super) fn known_org(store: &StoreConnection, id: &OrgId) -> Result<Arc<OrgRow>, StoreError> {
    if let Some(known) = store.known.org(id) {
        return Ok(known);
    }
    let row = Arc::new(org(store, id)?);
    store.known.put_org(&row);
    Ok(row)
}

pub(super) fn org(store: &StoreConnection, org: &OrgId) -> Result<OrgRow, StoreError> {
    let found: Option<(String, u64)> = store
        .connection
        .prepare_cached("SELECT policy, version FROM org WHERE id = ?1")?
        .query_row([org.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let (rules, version) = match found {
        Some((text, version)) => {
            let rules = OrgRules::of_json(&text);
            (rules.ok_or_else(|| StoreError::broken("an org has a strange policy"))?, version)
        }
        None => (store.standard_rules(), 0),
    };
    Ok(OrgRow { id: org.clone(), rules, version })
}

pub(super) fn change_org(
    store: &StoreConnection,
    change: &OrgChange,
) -> Result<Work<OrgRow>, StoreError> {
    let old = org(store, &change.org)?;
    permit(store, &change.actor, OrgAction::ChangePolicy, &change.org)?;
    if change.if_match.is_some_and(|version| version != old.version) {
        return Err(StoreError::OrgVersionMismatch { current: old.version });
    }
    if change.rules == old.rules && old.version > 0 {
        return Ok(Work::Undo(old));
    }
    let new =
        OrgRow { id: change.org.clone(), rules: change.rules.clone(), version: old.version + 1 };
    store.connection.execute(
        "INSERT INTO org (id, policy, version, changed) VALUES (?1, ?2, ?3, ?4) \
         ON CONFLICT (id) DO UPDATE SET policy = ?2, version = ?3, changed = ?4",
        (new.id.as_str(), new.rules.to_json().to_string(), new.version, change.at_ms),
    )?;
    let mut detail = Map::new();
    detail.insert("policy".to_owned(), json!([old.rules.to_json(), new.rules.to_json()]));
    let occasion = Occasion {
        at_ms: change.at_ms,
        audience: "",
        serial: 0,
        actor: &change.actor,
        channel: &change.channel,
        action: "set policy",
    };
    let org = change.org.as_str();
    log::append(store, occasion, Subject { org, object: org, detail: &detail })?;
    Ok(Work::Keep(new))
}

pub(super) fn put_person(store: &StoreConnection, person: &Person) -> Result<Work<()>, StoreError> {
    // The person no longer operates the installation. Their session for it would count again if
    // they got the role back.
    if !person.operator && is_operator(store, &person.id)? {
        end_open_sessions(store, &person.id)?;
    }
    store.connection.execute(
        "INSERT INTO person (iss, sub, name, email, operator, added, seen) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6) ON CONFLICT (iss, sub) DO UPDATE SET \
         name = ?3, email = ?4, operator = ?5, seen = max(person.seen, ?6)",
        (
            &*person.id.iss,
            &*person.id.sub,
            &*person.name,
            &*person.email,
            person.operator,
            person.seen_ms,
        ),
    )?;
    Ok(Work::Keep(()))
}

pub(super) fn person(store: &StoreConnection, id: &PersonId) -> Result<Option<Person>, StoreError> {
    let mut statement = store.connection.prepare_cached(
        "SELECT name, email, operator, seen FROM person WHERE iss = ?1 AND sub = ?2",
    )?;
    let found = statement.query_row((&*id.iss, &*id.sub), |row| {
        Ok(Person {
            id: id.clone(),
            name: row.get::<_, String>(0)?.into(),
            email: row.get::<_, String>(1)?.into(),
            operator: row.get(2)?,
            seen_ms: row.get(3)?,
        })
    });
    Ok(found.optional()?)
}

fn is_operator(store: &StoreConnection, id: &PersonId) -> Result<bool, StoreError> {
    Ok(person(store, id)?.is_some_and(|person| person.operator))
}

/// Ends a person's sessions that are in no org.
fn end_open_sessions(store: &StoreConnection, id: &PersonId) -> Result<(), StoreError> {
    store.connection.execute(
        "DELETE FROM session WHERE iss = ?1 AND sub = ?2 AND org IS NULL",
        (&*id.iss, &*id.sub),
    )?;
    Ok(())
}

/// Whether a person still has the role with which the request began. Somebody who loses it while a
/// request is under way can do nothing more with that request. For a product's people the product
/// says what they are, and the list of members follows.
pub(super) fn still_has_role(
    store: &StoreConnection,
    actor: &StoreActor,
    org: Option<&OrgId>,
) -> Result<(), StoreError> {
    let StoreActor::Person { id, role: claimed, .. } = actor else { return Ok(()) };
    if id.product().is_some() {
        return Ok(());
    }
    let has_it = match (claimed, org) {
        (PersonRole::Operator, _) => person(store, id)?.is_some_and(|person| person.operator),
        (_, Some(org)) => role_in(store, org, id)? == Some(*claimed),
        (_, None) => false,
    };
    match has_it {
        true => Ok(()),
        false => Err(StoreError::Forbidden {
            why: "your role has changed meanwhile".to_owned(),
            field: None,
        }),
    }
}

fn role_in(
    store: &StoreConnection,
    org: &OrgId,
    id: &PersonId,
) -> Result<Option<PersonRole>, StoreError> {
    let found: Option<String> = store
        .connection
        .prepare_cached("SELECT role FROM member WHERE org = ?1 AND iss = ?2 AND sub = ?3")?
        .query_row((org.as_str(), &*id.iss, &*id.sub), |row| row.get(0))
        .optional()?;
    found.map(|text| role(&text)).transpose()
}

/// Whether the actor may do this in the org. No key may, whatever it holds.
fn permit(
    store: &StoreConnection,
    actor: &StoreActor,
    action: OrgAction<'_>,
    org: &OrgId,
) -> Result<(), StoreError> {
    still_has_role(store, actor, Some(org))?;
    let rules = store.any_access()?;
    let access = Access { rules: &rules, policy: &Default::default(), now: 0 };
    decide::may_in(&access, actor, action, org)
}

/// For an org, or for a person.
#[derive(Clone, Copy, Debug)]
pub(super) enum MembersOf<'a> {
    Org(&'a OrgId),
    Person(&'a PersonId),
}

pub(super) fn members(
    store: &StoreConnection,
    of: MembersOf<'_>,
) -> Result<Vec<Member>, StoreError> {
    const SQL: &str = "SELECT m.org, m.iss, m.sub, m.role, p.name, p.email, p.seen FROM member m \
        JOIN person p ON p.iss = m.iss AND p.sub = m.sub WHERE";
    let mut found = Vec::new();
    let mut take = |mut rows: SqlRows<'_>| -> Result<(), StoreError> {
        while let Some(row) = rows.next()? {
            found.push(member(&row)?);
        }
        Ok(())
    };
    match of {
        MembersOf::Org(org) => {
            let sql = format!("{SQL} m.org = ?1 ORDER BY p.name, m.iss, m.sub");
            take(store.connection.prepare_cached(&sql)?.query([org.as_str()])?)?;
        }
        MembersOf::Person(id) => {
            let sql = format!("{SQL} m.iss = ?1 AND m.sub = ?2 ORDER BY m.org");
            take(store.connection.prepare_cached(&sql)?.query((&*id.iss, &*id.sub))?)?;
        }
    }
    Ok(found)
}

fn member(row: &SqlRow<'_>) -> Result<Member, StoreError> {
    let text = |column: usize| row.get::<_, String>(column);
    Ok(Member {
        org: OrgId::parse(&text(0)?).map_err(|_| StoreError::broken("a strange org"))?,
        id: PersonId { iss: text(1)?.into(), sub: text(2)?.into() },
        role: role(&text(3)?)?,
        name: text(4)?.into(),
        email: text(5)?.into(),
        seen_ms: row.get(6)?,
    })
}

fn role(text: &str) -> Result<PersonRole, StoreError> {
    PersonRole::parse(text).ok_or_else(|| StoreError::broken("a strange role"))
}

pub(super) fn change_member(
    store: &StoreConnection,
    change: &MemberChange,
) -> Result<Work<()>, StoreError> {
    let MemberChange { org, id, role: new, about, actor, channel, at_ms, .. } = change;
    let old = role_in(store, org, id)?;
    let owners: u64 = store.connection.query_row(
        "SELECT count(*) FROM member WHERE org = ?1 AND role = 'owner'",
        [org.as_str()],
        |row| row.get(0),
    )?;
    permit(store, actor, OrgAction::ChangeMember { from: old, to: *new, owners }, org)?;
    if old == *new {
        return Ok(Work::Undo(()));
    }
    match new {
        Some(role) => {
            if person(store, id)?.is_none() {
                return Err(StoreError::invalid("person", "is not known"));
            }
            store.connection.execute(
                "INSERT INTO member (org, iss, sub, role, added) VALUES (?1, ?2, ?3, ?4, ?5) \
                 ON CONFLICT (org, iss, sub) DO UPDATE SET role = ?4",
                (org.as_str(), &*id.iss, &*id.sub, role.as_str(), at_ms),
            )?;
        }
        None => {
            store.connection.execute(
                "DELETE FROM member WHERE org = ?1 AND iss = ?2 AND sub = ?3",
                (org.as_str(), &*id.iss, &*id.sub),
            )?;
        }
    }
    if old.is_some() {
        due::note(store, change)?;
    }
    // A role is looked up with each request, but a component's token was made with the former one.
    store.connection.execute(
        "DELETE FROM session WHERE iss = ?1 AND sub = ?2 AND org = ?3",
        (&*id.iss, &*id.sub, org.as_str()),
    )?;
    // A session that is in no org yet belongs to the role that the person had. If it stayed, it
    // would open what a later role allows. Operators are in no org on purpose.
    if old.is_some() && !is_operator(store, id)? {
        end_open_sessions(store, id)?;
    }
    let shown = |role: Option<PersonRole>| role.map_or(Json::Null, |role| role.as_str().into());
    let mut detail = Map::new();
    detail.insert("role".to_owned(), Json::Array(vec![shown(old), shown(*new)]));
    let about = about.as_ref().map(AudienceName::as_str);
    let audience = about.or_else(|| id.product()).unwrap_or_default();
    let occasion =
        Occasion { at_ms: *at_ms, audience, serial: 0, actor, channel, action: "set member" };
    let object = id.to_string();
    let subject = Subject { org: org.as_str(), object: &object, detail: &detail };
    log::append(store, occasion, subject)?;
    Ok(Work::Keep(()))
}

/// The database's epoch.
pub(super) fn epoch(store: &StoreConnection) -> Result<u64, StoreError> {
    let text: String = store
        .connection
        .prepare_cached("SELECT value FROM meta WHERE name = 'epoch'")?
        .query_row([], |row| row.get(0))?;
    text.parse().map_err(|_| StoreError::broken("a strange epoch"))
}

pub(super) fn put_session(
    store: &StoreConnection,
    session: &SessionRow,
) -> Result<Work<()>, StoreError> {
    let epoch = epoch(store)?;
    // Nobody asks for sessions that have ended, so this is the place to forget them.
    store
        .connection
        .prepare_cached("DELETE FROM session WHERE ends <= ?1")?
        .execute([session.created_ms])?;
    store
        .connection
        .prepare_cached(&format!(
            "INSERT INTO session ({SESSION}) VALUES \
             (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)"
        ))?
        .execute((
            session.digest.0,
            &*session.id,
            session.kind.as_str(),
            &*session.person.iss,
            &*session.person.sub,
            session.org.as_ref().map(OrgId::as_str),
            session.detail.to_string(),
            epoch,
            session.created_ms,
            session.seen_ms,
            session.ends_ms,
            &*session.address,
            &*session.agent,
        ))?;
    Ok(Work::Keep(()))
}

pub(super) fn session(
    store: &StoreConnection,
    digest: &Digest,
    now_ms: u64,
) -> Result<Option<SessionRow>, StoreError> {
    let sql =
        format!("SELECT {SESSION} FROM session WHERE digest = ?1 AND ends > ?2 AND epoch = ?3");
    let mut statement = store.connection.prepare_cached(&sql)?;
    let mut rows = statement.query((digest.0, now_ms, epoch(store)?))?;
    rows.next()?.map(|row| session_of(&row)).transpose()
}

pub(super) fn sessions(
    store: &StoreConnection,
    id: &PersonId,
    now_ms: u64,
) -> Result<Vec<SessionRow>, StoreError> {
    let sql = format!(
        "SELECT {SESSION} FROM session WHERE iss = ?1 AND sub = ?2 AND ends > ?3 AND epoch = ?4 \
         ORDER BY created DESC, id"
    );
    let mut statement = store.connection.prepare_cached(&sql)?;
    let mut rows = statement.query((&*id.iss, &*id.sub, now_ms, epoch(store)?))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(session_of(&row)?);
    }
    Ok(found)
}

fn session_of(row: &SqlRow<'_>) -> Result<SessionRow, StoreError> {
    let odd = |what| move || StoreError::broken(format!("a session has a strange {what}"));
    let text = |column: &str| row.get::<_, String>(column);
    let org = row.get::<_, Option<String>>("org")?;
    Ok(SessionRow {
        digest: Digest(row.get("digest")?),
        id: text("id")?.into(),
        kind: SessionKind::parse(&text("kind")?).ok_or_else(odd("kind"))?,
        person: PersonId { iss: text("iss")?.into(), sub: text("sub")?.into() },
        org: org.map(|org| OrgId::parse(&org).map_err(|_| odd("org")())).transpose()?,
        detail: serde_json::from_str(&text("detail")?).map_err(|_| odd("detail")())?,
        epoch: row.get("epoch")?,
        created_ms: row.get("created")?,
        seen_ms: row.get("seen")?,
        ends_ms: row.get("ends")?,
        address: text("address")?.into(),
        agent: text("agent")?.into(),
    })
}

pub(super) fn touch_session(
    store: &StoreConnection,
    digest: &Digest,
    now_ms: u64,
    org: Option<&OrgId>,
) -> Result<Work<()>, StoreError> {
    store
        .connection
        .prepare_cached(
            "UPDATE session SET seen = max(seen, ?2), org = coalesce(?3, org) WHERE digest = ?1",
        )?
        .execute((digest.0, now_ms, org.map(OrgId::as_str)))?;
    Ok(Work::Keep(()))
}

pub(super) fn end_session(
    store: &StoreConnection,
    id: &PersonId,
    session: &str,
) -> Result<Work<bool>, StoreError> {
    let ended = store.connection.execute(
        "DELETE FROM session WHERE iss = ?1 AND sub = ?2 AND id = ?3",
        (&*id.iss, &*id.sub, session),
    )?;
    Ok(Work::Keep(ended > 0))
}

pub(super) fn end_sessions(
    store: &StoreConnection,
    id: &PersonId,
) -> Result<Work<u64>, StoreError> {
    let ended = store
        .connection
        .execute("DELETE FROM session WHERE iss = ?1 AND sub = ?2", (&*id.iss, &*id.sub))?;
    Ok(Work::Keep(ended as u64))
}

pub(super) fn put_sign_in(
    store: &StoreConnection,
    sign_in: &SignIn,
) -> Result<Work<()>, StoreError> {
    let epoch = epoch(store)?;
    store.connection.execute("DELETE FROM signin WHERE ends <= ?1", [sign_in.created_ms])?;
    store.connection.execute(
        "INSERT INTO signin (digest, kind, detail, epoch, created, ends) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        (
            sign_in.digest.0,
            &*sign_in.kind,
            sign_in.detail.to_string(),
            epoch,
            sign_in.created_ms,
            sign_in.ends_ms,
        ),
    )?;
    Ok(Work::Keep(()))
}

/// Removes the sign-in, even if it had ended.
pub(super) fn take_sign_in(
    store: &StoreConnection,
    digest: &Digest,
    now_ms: u64,
) -> Result<Work<Option<SignIn>>, StoreError> {
    let found: Option<(String, String, u64, u64, u64)> = store
        .connection
        .prepare_cached(
            "DELETE FROM signin WHERE digest = ?1 RETURNING kind, detail, epoch, created, ends",
        )?
        .query_row([digest.0], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
        })
        .optional()?;
    let Some((kind, detail, made_in, created_ms, ends_ms)) = found else {
        return Ok(Work::Undo(None));
    };
    if made_in != epoch(store)? || ends_ms <= now_ms {
        return Ok(Work::Keep(None));
    }
    let detail = serde_json::from_str(&detail).map_err(StoreError::broken)?;
    let kind = kind.into();
    Ok(Work::Keep(Some(SignIn { digest: *digest, kind, detail, created_ms, ends_ms })))
}
