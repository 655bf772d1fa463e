//! A change, inside its savepoint: first the serial, then the rows that the change concerns, the
//! rules of `manage`, the new rows, the audit lines, and the row that lets a caller send the
//! request again.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use super::super::change::{
    ChangeRequest, Changed, IdempotencyKey, KeyChange, KeyRef, Replay, StoreActor,
};
use super::super::decide;
use super::super::error::StoreError;
use super::super::names::{AudienceName, Uid, owner_subject};
use super::super::rows::KeyRow;
use super::connection::{StoreConnection, standard_access};
use super::crash::point;
use super::fault::OptionalExtension as _;
use super::keys::{self, ChangeStamp};
use super::log::{self, Occasion, Subject};
use super::people::MembersOf;
use super::rows::{AudienceSettings, NumberedKey};
use super::writer::Work;
use crate::core::{Digest, OrgId, Secret};
use crate::manage::operation::may::{Access, AccessRules, Actor, KeyAction};
use crate::manage::operation::{self, KeyField, RandomSource, StatusChange};
use crate::manage::registry::audit::difference;
use crate::manage::registry::entry::{RawEntry, RegistryEntry};

/// How long a caller can send a request again, in milliseconds.
const IDEMPOTENCY_MS: u64 = 24 * 3_600_000;

/// The change under way, with everything that it needs.
struct Change<'a> {
    store: &'a StoreConnection,
    request: &'a ChangeRequest,
    settings: Arc<AudienceSettings>,
    stamp: ChangeStamp,
    actor: Actor,
    access: AccessRules,
}

/// What to write for one key.
struct Written {
    before: Option<NumberedKey>,
    after: KeyRow,
}

/// A change that was carried out before, as the row of its idempotency key has it.
#[derive(Deserialize, Serialize)]
struct StoredAnswer {
    serial: u64,
    before: Option<StoredKey>,
    key: StoredKey,
    replaced: Option<StoredKey>,
}

#[derive(Deserialize, Serialize)]
struct StoredKey {
    uid: String,
    version: u64,
    changed: u64,
    changed_ms: u64,
    entry: Json,
}

/// Carries the change out.
pub(super) fn change(
    store: &StoreConnection,
    request: &ChangeRequest,
    random: &mut dyn RandomSource,
) -> Result<Work<Changed>, StoreError> {
    let serial = store.raise(&request.audience)?;
    point("after serial");
    if let Some(replayed) = replayed(store, request)? {
        return Ok(Work::Undo(replayed));
    }
    let settings = store.settings(&request.audience)?;
    let stamp = ChangeStamp { serial, at_ms: request.at_ms };
    let ChangeRequest { audience, org, actor, at_ms, .. } = request;
    let actor = acting(store, audience, org.as_ref(), actor, *at_ms)?;
    let access = match (&settings.access, &actor) {
        (Some(access), _) => access.clone(),
        (None, Actor::Host) => standard_access()?,
        (None, _) => return Err(StoreError::NoSuchAudience),
    };
    let change = Change { store, request, settings, stamp, actor, access };
    let done = match &request.change {
        KeyChange::Create(wanted) => {
            let org = request.org.as_ref();
            if org.is_some_and(|org| *org != wanted.org) {
                return Err(StoreError::NoSuchKey);
            }
            let made =
                operation::create(&change.settings.operation(), wanted, change.now(), random)
                    .map_err(decide::refused)?;
            let living = change.living(&made.entry)?;
            change.permit(KeyAction::Create { living }, &made.entry)?;
            change.knows_owner(None, &made.entry)?;
            let written = change.add(&made.entry)?;
            Done { serial, written, replaced: None, secret: Some(made.issued.secret) }
        }
        KeyChange::Edit { key, if_match, request: wanted } => {
            let old = change.load(*key, |to| KeyAction::Edit { to, living: 0 }, *if_match)?;
            let entry =
                operation::edit(&change.settings.operation(), &old.key.entry, wanted, change.now())
                    .map_err(decide::refused)?;
            let living = change.living(&old.key.entry)?;
            change.permit(KeyAction::Edit { to: &entry, living }, &old.key.entry)?;
            change.knows_owner(Some(&old.key.entry), &entry)?;
            if entry == old.key.entry {
                return Ok(Work::Undo(unchanged(serial, old)));
            }
            let written = change.put(old, &entry)?;
            Done { serial, written, replaced: None, secret: None }
        }
        KeyChange::Rotate { key, if_match, request: wanted } => {
            // The rules of a rotation need the successor. A caller who may not admit the key cannot
            // rotate it either, and learns nothing about its state.
            let admit = KeyAction::SetStatus(StatusChange::Enable);
            let old = change.load(*key, |_| admit, *if_match)?;
            let rotated = operation::rotate(
                &change.settings.operation(),
                &old.key.entry,
                wanted,
                change.now(),
                random,
            )
            .map_err(decide::refused)?;
            let to = &rotated.shown.entry;
            let living = change.living(&old.key.entry)?;
            change.permit(KeyAction::Rotate { to, living }, &old.key.entry)?;
            let secret = Some(rotated.shown.issued.secret);
            match &rotated.added {
                None => {
                    let written = change.put(old, &rotated.changed)?;
                    Done { serial, written, replaced: None, secret }
                }
                Some(successor) => {
                    let replaced = change.put(old, &rotated.changed)?;
                    let written = change.add(successor)?;
                    Done { serial, written, replaced: Some(replaced), secret }
                }
            }
        }
        KeyChange::SetStatus { key, if_match, status } => {
            let old = change.load(*key, |_| KeyAction::SetStatus(*status), *if_match)?;
            let entry = status.apply(&old.key.entry, change.now()).map_err(decide::refused)?;
            match entry {
                None => return Ok(Work::Undo(unchanged(serial, old))),
                Some(entry) => {
                    let written = change.put(old, &entry)?;
                    Done { serial, written, replaced: None, secret: None }
                }
            }
        }
    };
    point("after rows");
    for written in std::iter::once(&done.written).chain(&done.replaced) {
        change.log(written)?;
    }
    point("after audit");
    let done = done.told();
    if let Some(name) = &request.idempotency {
        remember(store, request, name, &done)?;
    }
    Ok(Work::Keep(done))
}

/// A change that was carried out.
struct Done {
    serial: u64,
    written: Written,
    replaced: Option<Written>,
    secret: Option<Secret>,
}

// === impl Done ===

impl Done {
    fn told(self) -> Changed {
        let replaced = self.replaced.map(|written| Box::new(written.after));
        Changed {
            serial: self.serial,
            before: self.written.before.map(|old| Box::new(old.key)),
            key: Box::new(self.written.after),
            replaced,
            secret: self.secret,
            replay: Replay::Fresh,
        }
    }
}

// === impl Change ===

impl Change<'_> {
    /// Unix seconds.
    fn now(&self) -> u64 {
        self.request.at_ms / 1000
    }

    /// The key, if the actor may do this to it. Checks that before it reveals anything of the key's
    /// state.
    fn load(
        &self,
        key: KeyRef,
        action: impl for<'e> FnOnce(&'e RegistryEntry) -> KeyAction<'e>,
        if_match: Option<u64>,
    ) -> Result<NumberedKey, StoreError> {
        let request = self.request;
        let found = keys::load(self.store, &request.audience, request.org.as_ref(), key)?;
        self.permit(action(&found.key.entry), &found.key.entry)?;
        match if_match {
            Some(version) if version != found.key.version => {
                Err(StoreError::VersionMismatch { current: Box::new(found.key) })
            }
            _ => Ok(found),
        }
    }

    fn permit(&self, action: KeyAction<'_>, entry: &RegistryEntry) -> Result<(), StoreError> {
        let org = super::people::known_org(self.store, &entry.org)?;
        let access = Access { rules: &self.access, policy: &org.rules.policy, now: self.now() };
        access.may(&self.actor, action, entry).map_err(decide::forbidden)
    }

    /// How many keys of the org of `entry` are live, if its policy limits them.
    fn living(&self, entry: &RegistryEntry) -> Result<u64, StoreError> {
        match super::people::known_org(self.store, &entry.org)?.rules.policy.most_keys {
            None => Ok(0),
            Some(_) => {
                let ChangeRequest { audience, at_ms, .. } = self.request;
                keys::living(self.store, audience, &entry.org, *at_ms)
            }
        }
    }

    /// A person may let a key speak only for somebody of its org. The key may say about that owner
    /// only what the list of members says, because the service may get a credential in their name.
    fn knows_owner(
        &self,
        before: Option<&RegistryEntry>,
        entry: &RegistryEntry,
    ) -> Result<(), StoreError> {
        let (Actor::Person { owner: own, .. }, Some(owner)) = (&self.actor, &entry.owner) else {
            return Ok(());
        };
        if owner == own || before.is_some_and(|before| before.owner.as_ref() == Some(owner)) {
            return Ok(());
        }
        let stated = owner.view();
        let known = super::people::members(self.store, MembersOf::Org(&entry.org))?;
        let is_it = known.iter().any(|member| {
            owner_subject(&member.id) == stated.subject
                && member.id.product().is_none_or(|of| of == self.request.audience.as_str())
                && ["", member.role.as_str()].contains(&stated.role)
                && ["", &*member.email].contains(&stated.email)
        });
        match is_it {
            true => Ok(()),
            false => Err(StoreError::Forbidden {
                why: "the owner is no member of the organization, or has another role or email \
                      there"
                    .to_owned(),
                field: Some(KeyField::Owner.name().into()),
            }),
        }
    }

    fn add(&self, entry: &RegistryEntry) -> Result<Written, StoreError> {
        let audience = &self.request.audience;
        keys::insert(self.store, audience, &[entry], self.stamp)?;
        let after = keys::new_row(audience, entry, self.stamp);
        Ok(Written { before: None, after })
    }

    fn put(&self, old: NumberedKey, entry: &RegistryEntry) -> Result<Written, StoreError> {
        let after = keys::update(self.store, &old, entry, self.stamp)?;
        Ok(Written { before: Some(old), after })
    }

    fn log(&self, written: &Written) -> Result<(), StoreError> {
        let ChangeRequest { audience, actor, channel, change, .. } = self.request;
        let entry = &written.after.entry;
        let before = written.before.as_ref().map(|old| &old.key.entry);
        let detail: Map<String, Json> = difference(before, entry);
        let occasion = Occasion {
            at_ms: self.stamp.at_ms,
            audience: audience.as_str(),
            serial: self.stamp.serial,
            actor,
            channel,
            action: change.action(),
        };
        let object = entry.id.to_string();
        let subject = Subject { org: entry.org.as_str(), object: &object, detail: &detail };
        log::append(self.store, occasion, subject).map(|_| ())
    }
}

/// The actor, with the rights that they hold now.
pub(super) fn acting(
    store: &StoreConnection,
    audience: &AudienceName,
    org: Option<&OrgId>,
    asking: &StoreActor,
    at_ms: u64,
) -> Result<Actor, StoreError> {
    if let Some(actor) = asking.in_org(org) {
        super::people::still_has_role(store, asking, org)?;
        return Ok(actor);
    }
    let StoreActor::Key(id) = asking else {
        return Err(StoreError::broken("an actor without rights"));
    };
    match keys::load_caller(store, audience, *id) {
        Ok(found) => Actor::of_key(&found.key.entry, at_ms / 1000).map_err(decide::forbidden),
        Err(StoreError::NoSuchKey) => {
            let why = "the key that asks is not there".to_owned();
            Err(StoreError::Forbidden { why, field: None })
        }
        Err(e) => Err(e),
    }
}

/// There was nothing to do. Takes the raised serial back.
fn unchanged(serial: u64, old: NumberedKey) -> Changed {
    Changed {
        serial: serial.saturating_sub(1),
        before: Some(Box::new(old.key.clone())),
        key: Box::new(old.key),
        replaced: None,
        secret: None,
        replay: Replay::Fresh,
    }
}

/// The earlier result of the same request.
fn replayed(
    store: &StoreConnection,
    request: &ChangeRequest,
) -> Result<Option<Changed>, StoreError> {
    let Some(IdempotencyKey { name, body }) = &request.idempotency else { return Ok(None) };
    let found: Option<([u8; 32], String)> = store
        .connection
        .prepare_cached(
            "SELECT body, answer FROM idempotency WHERE caller = ?1 AND name = ?2 AND at > ?3",
        )?
        .query_row(
            (caller(request), &**name, request.at_ms.saturating_sub(IDEMPOTENCY_MS)),
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()?;
    let Some((known, answer)) = found else { return Ok(None) };
    if !Digest(known).matches(body) {
        return Err(StoreError::IdempotencyConflict);
    }
    let settings = store.settings(&request.audience)?;
    let answer: StoredAnswer = serde_json::from_str(&answer).map_err(StoreError::broken)?;
    let key = |stored: StoredKey| stored.row(&request.audience, &settings).map(Box::new);
    Ok(Some(Changed {
        serial: answer.serial,
        before: answer.before.map(key).transpose()?,
        key: key(answer.key)?,
        replaced: answer.replaced.map(key).transpose()?,
        secret: None,
        replay: Replay::Replayed,
    }))
}

/// Stores the answer, without the secret, and forgets answers that are too old.
fn remember(
    store: &StoreConnection,
    request: &ChangeRequest,
    name: &IdempotencyKey,
    done: &Changed,
) -> Result<(), StoreError> {
    let answer = StoredAnswer {
        serial: done.serial,
        before: done.before.as_deref().map(StoredKey::of),
        key: StoredKey::of(&done.key),
        replaced: done.replaced.as_deref().map(StoredKey::of),
    };
    let answer = serde_json::to_string(&answer).map_err(StoreError::broken)?;
    let old = request.at_ms.saturating_sub(IDEMPOTENCY_MS);
    store
        .connection
        .prepare_cached("DELETE FROM idempotency WHERE at <= ?1")?
        .execute_later([old])?;
    store
        .connection
        .prepare_cached(
            "INSERT INTO idempotency (caller, name, body, answer, at) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute_later((caller(request), &*name.name, name.body.0, answer, request.at_ms))?;
    Ok(())
}

/// Whose idempotency keys these are. Two callers, audiences or orgs never share one.
fn caller(request: &ChangeRequest) -> String {
    let org = request.org.as_ref().map_or("", OrgId::as_str);
    let actor = &request.actor;
    format!("{} {} {} {}", request.audience, org, actor.kind(), actor.name())
}

// === impl StoredKey ===

impl StoredKey {
    fn of(row: &KeyRow) -> Self {
        Self {
            uid: row.uid.to_string(),
            version: row.version,
            changed: row.changed,
            changed_ms: row.changed_ms,
            entry: serde_json::to_value(row.entry.raw()).unwrap_or_default(),
        }
    }

    fn row(
        &self,
        audience: &AudienceName,
        settings: &AudienceSettings,
    ) -> Result<KeyRow, StoreError> {
        let odd = || StoreError::broken("a stored answer cannot be read");
        let text = self.entry.to_string();
        let raw: RawEntry<'_> = serde_json::from_str(&text).map_err(|_| odd())?;
        let mut entry = raw.parse().map_err(|_| odd())?;
        // A plan that no longer exists is shown by its name alone.
        entry.resolve_plan(&settings.registry.plans).ok();
        Ok(KeyRow {
            audience: audience.clone(),
            uid: Uid::parse(&self.uid).ok_or_else(odd)?,
            entry,
            version: self.version,
            changed: self.changed,
            changed_ms: self.changed_ms,
            last_use: None,
        })
    }
}
