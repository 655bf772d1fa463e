//! Keys with a new secret: made at a service, shown once, and taken back if nobody has the secret.

use http::Method;
use serde_json::{Value, json};

use super::answers::{RemoteKey, ToldAbout, ToldChange, ToldName};
use super::changes::{AnswerWhen, RemoteChange, path_of};
use super::requests::{new_key, rotation};
use super::{RemoteKeys, refuse_publishing};
use crate::core::{KeyId, OrgId};
use crate::exit::Exit;
use crate::manage::error::{Error, Result};
use crate::manage::keys::create::{Create, print_issued};
use crate::manage::keys::refused::warning;
use crate::manage::keys::rotate::Rotate;
use crate::manage::operation::{KeyAdvice, StatusChange};
use crate::manage::service::ServiceAnswer;
use crate::manage::session::Session;
use crate::manage::time;
use crate::wording::shell::quoted;

/// The reason for a new secret.
#[derive(Clone, Copy, Debug)]
enum SecretWish<'a> {
    Key {
        org: &'a OrgId,
        name: &'a str,
    },
    /// A rotation of this key, in its former state.
    Rotation(&'a RemoteKey),
}

// === impl RemoteKeys ===

impl RemoteKeys {
    pub(super) fn create(&self, create: Create, session: &mut Session) -> Result<()> {
        session.output.refuse_closed()?;
        refuse_publishing(&create.publish)?;
        let org = OrgId::parse(&self.org(create.org.as_ref())?)
            .map_err(|e| Error::argument("--org", e))?;
        let change = RemoteChange {
            method: Method::POST,
            path: Self::keys_of(org.as_str()),
            body: new_key(&create, session.now())?,
            if_match: None,
            answer: AnswerWhen::Kept,
        };
        let (told, _) =
            self.issue(&change, SecretWish::Key { org: &org, name: &create.name }, session)?;
        self.judge_publication(told.serial)
    }

    pub(super) fn rotate(&self, rotate: Rotate, session: &mut Session) -> Result<()> {
        session.output.refuse_closed()?;
        refuse_publishing(&rotate.publish)?;
        let now = session.now();
        let old = self.select(&rotate.key, rotate.org.as_ref(), now)?;
        let change = RemoteChange {
            method: Method::POST,
            path: format!("{}/rotate", path_of(&old)),
            body: rotation(&rotate, now)?,
            if_match: Some(old.version),
            answer: AnswerWhen::Kept,
        };
        let (told, new) = self.issue(&change, SecretWish::Rotation(&old), session)?;
        let ends = match told.replaced {
            Some(key) => {
                let key = RemoteKey::of(key, self.server())?;
                self.is_key(&key, old.entry.id, old.entry.org.as_str())?;
                key.entry.expires
            }
            None => new.entry.previous.map(|previous| previous.expires),
        };
        let ends = time::show(ends.unwrap_or(now));
        session.output.note(&format!("the old secret is valid until {ends}"));
        let advice = KeyAdvice::of(Some(&old.entry), &new.entry);
        advice.iter().for_each(|advice| session.output.warn(&warning(advice)));
        self.judge_publication(told.serial)
    }

    /// Has a secret made and shows it once, or takes back a key whose secret nobody has.
    fn issue(
        &self,
        change: &RemoteChange,
        asked: SecretWish<'_>,
        session: &mut Session,
    ) -> Result<(ToldChange, RemoteKey)> {
        let answer = self.send(change).map_err(|e| match e {
            Error::OutcomeUnknown { why, .. } => {
                Error::OutcomeUnknown { why, then: self.look(asked) }
            }
            e => e,
        })?;
        let (mut told, key) = match self.read(&answer, asked) {
            Ok(read) => read,
            // The service made the key all the same, and its secret is in the unreadable answer.
            Err(e) => {
                let then = match self.name_in(&answer, asked) {
                    Some(id) => self.take_back(id, asked, &answer),
                    None => self.look(asked),
                };
                let message = e.to_string();
                // One hint: the remaining task comes first.
                let message = match message.split_once("\nhint: ") {
                    Some((why, also)) => format!("{why}\nhint: {then}; {also}"),
                    None => format!("{message}\nhint: {then}"),
                };
                return Err(Error::Added { message, exit: Exit::Data });
            }
        };
        let id = key.entry.id;
        let Some(secret) = told.secret.take() else {
            // The first try was carried out, and this is the answer to a second one.
            let message = format!(
                "{}: the answer with the secret of {id} got lost\nhint: {}",
                self.server(),
                self.take_back(id, asked, &answer)
            );
            return Err(Error::Added { message, exit: Exit::TryAgain });
        };
        let text = String::from_utf8_lossy(secret.expose());
        let printed = print_issued(&key.entry, &text, told.serial, None, session)
            .and_then(|()| session.output.flush());
        let Err(e) = printed else { return Ok((told, key)) };
        let then = self.take_back(id, asked, &answer);
        Err(Error::SecretLost { id, source: Box::new(e), then })
    }

    /// What was made, if it is what was asked for.
    fn read(
        &self,
        answer: &ServiceAnswer,
        asked: SecretWish<'_>,
    ) -> Result<(ToldChange, RemoteKey)> {
        let told: ToldChange = answer.json(self.server())?;
        let key = RemoteKey::of(told.key.clone(), self.server())?;
        let entry = &key.entry;
        let is_asked_for = match asked {
            SecretWish::Key { org, name } => entry.org == *org && *entry.name == *name,
            SecretWish::Rotation(RemoteKey { entry: old, .. }) => {
                let is_of_it = entry.id == old.id || entry.replaces == Some(old.id);
                entry.org == old.org && is_of_it
            }
        };
        if is_asked_for {
            return Ok((told, key));
        }
        let message = format!(
            "{}: its answer is about {} in {}, which was not asked for",
            self.server(),
            entry.id,
            entry.org.as_str()
        );
        Err(Error::Added { message, exit: Exit::Data })
    }

    /// The id of what was made, if the answer is about what was asked for: nothing else is taken back.
    fn name_in(&self, answer: &ServiceAnswer, asked: SecretWish<'_>) -> Option<KeyId> {
        let ToldAbout { key, .. } = answer.json(self.server()).ok()?;
        let ToldName { id, org, name, replaces } = key;
        let id = KeyId::parse(&id).ok()?;
        let is_asked_for = match asked {
            SecretWish::Key { org: asked, name: wanted } => org == asked.as_str() && name == wanted,
            SecretWish::Rotation(RemoteKey { entry: old, .. }) => {
                let is_of_it = id == old.id || replaces == Some(old.id.to_string());
                org == old.org.as_str() && is_of_it
            }
        };
        is_asked_for.then_some(id)
    }

    // --- taking back

    /// Undoes, as far as possible, a change that made a secret which nobody has seen. Says what is
    /// left to do.
    fn take_back(&self, id: KeyId, asked: SecretWish<'_>, answer: &ServiceAnswer) -> String {
        let org = match asked {
            SecretWish::Key { org, .. } => org.as_str(),
            // Revoking a pair would end what its callers use.
            SecretWish::Rotation(old) if old.entry.id == id => return self.of_pair(old),
            SecretWish::Rotation(old) => old.entry.org.as_str(),
        };
        let (is_revoked, ended) = self.end_unseen(id, org);
        let SecretWish::Rotation(old) = asked else {
            return match is_revoked {
                true => format!("{ended}; the same command makes another key"),
                false => ended,
            };
        };
        let rotated = old.entry.id;
        let told: Option<ToldAbout> = answer.json(self.server()).ok();
        let left = told.and_then(|told| told.version_left(rotated));
        match self.end_as_before(old, left) {
            Ok(true) if is_revoked => {
                format!("{ended}, and {rotated} is as before; the same command rotates it")
            }
            Ok(true) => format!("{ended}; {rotated} is as before"),
            Ok(false) => format!(
                "{ended}; {rotated} may have changed since it was rotated: look at `keygatectl keys \
                 show {rotated}`, and if it has the end of the rotation, {}",
                give_back(old)
            ),
            Err(e) => format!("{ended}; {} ({})", give_back(old), first_line(&e)),
        }
    }

    /// Ends a key whose secret nobody has: permanently, or, if that is not allowed, by suspending
    /// it. Says what happened to it, and whether that is all.
    fn end_unseen(&self, id: KeyId, org: &str) -> (bool, String) {
        let end = |turn| {
            let answer = self.turn(id, org, turn, AnswerWhen::Kept)?;
            // Whatever else a newer service states: it is enough that this is the right key.
            let ToldAbout { key, .. } = answer.json(self.server())?;
            self.is_about((&key.id, &key.org), id, org)
        };
        let Err(e) = end(StatusChange::Revoke) else {
            return (true, format!("{id} was revoked"));
        };
        let why = first_line(&e);
        // A caller that may not revoke may still be allowed to disable.
        let is_refused = e.exit() != Exit::TryAgain.code();
        let left = match is_refused && end(StatusChange::Disable).is_ok() {
            true => format!("nobody has the secret of {id}, which was disabled"),
            false => format!("nobody has the secret of {id}"),
        };
        (false, format!("{left}: `keygatectl keys revoke {id}` ends it ({why})"))
    }

    /// Gives a rotated key its former end back, if it is still as the rotation has left it: an end
    /// that somebody else has chosen since stays. Returns whether it is as before.
    fn end_as_before(&self, old: &RemoteKey, left: Option<u64>) -> Result<bool> {
        let is_now = self.select(&old.entry.id.to_string(), Some(&old.entry.org), 0)?;
        if left != Some(is_now.version) {
            return Ok(false);
        }
        let mut body = json!({ "expires": old.entry.expires.map(time::show) });
        if is_now.entry.sunset != old.entry.sunset
            && let Value::Object(body) = &mut body
        {
            body.insert("sunset".into(), old.entry.sunset.map(time::show).into());
        }
        let (path, if_match) = (path_of(old), left);
        let change =
            RemoteChange { method: Method::PATCH, path, body, if_match, answer: AnswerWhen::Kept };
        let answer = self.send_once(&change)?;
        if answer.status == 412 {
            return Ok(false);
        }
        self.judge(&answer)?;
        let ToldAbout { key, .. } = answer.json(self.server())?;
        self.is_about((&key.id, &key.org), old.entry.id, old.entry.org.as_str()).map(|()| true)
    }

    fn of_pair(&self, old: &RemoteKey) -> String {
        let id = old.entry.id;
        let is_now = self.select(&id.to_string(), Some(&old.entry.org), 0).ok();
        let until = match is_now.map(|key| key.entry.previous) {
            Some(Some(former)) => format!("until {}", time::show(former.expires)),
            Some(None) => "no longer".to_owned(),
            None => format!("as long as `keygatectl keys show {id}` says"),
        };
        format!(
            "the former secret of {id} is valid {until}; `keygatectl keys rotate {id} \
             --drop-previous` makes another, and ends the former at once"
        )
    }

    // --- where nobody knows

    /// What can be seen of a change whose outcome is unknown, and where to look.
    fn look(&self, asked: SecretWish<'_>) -> String {
        match asked {
            SecretWish::Key { org, name } => self.look_for_key(org, name),
            SecretWish::Rotation(old) => self.look_for_rotation(old),
        }
    }

    fn look_for_key(&self, org: &OrgId, name: &str) -> String {
        let list = format!(
            "`keygatectl keys list --org {} --name {}`",
            quoted(org.as_str()),
            quoted(name)
        );
        let Ok(found) = self.named(name, Some(org)) else {
            return format!(
                "look at {list} before you try again: nobody has the secret of a new key"
            );
        };
        match self.come_since(found.iter()) {
            Some(id) => format!(
                "{id} of this name has come meanwhile; unless somebody else has made it, nobody has \
                 its secret, and `keygatectl keys revoke {id}` ends it"
            ),
            None => format!("there is no such key so far; look at {list} before you try again"),
        }
    }

    fn look_for_rotation(&self, old: &RemoteKey) -> String {
        let id = old.entry.id;
        let look = format!("look at `keygatectl keys show {id}` before you try again");
        let Ok(is_now) = self.select(&id.to_string(), Some(&old.entry.org), 0) else {
            return format!("{look}: nobody has the new secret");
        };
        if is_now.version == old.version {
            return format!("{id} is as before so far; {look}");
        }
        if old.entry.public_id.is_some() {
            return format!("{id} has changed meanwhile; {}", self.of_pair(old));
        }
        let all = self.all(Some(&old.entry.org)).unwrap_or_default();
        let replacing = all.iter().filter(|key| key.entry.replaces == Some(id));
        match self.come_since(replacing) {
            Some(new) => format!(
                "{new} replaces {id} now; unless somebody else has rotated it, nobody has the new \
                 secret: `keygatectl keys revoke {new}` ends it, and {}",
                give_back(old)
            ),
            None => format!("{id} has changed meanwhile; {look}; {}", give_back(old)),
        }
    }

    /// The last of the living keys that were made since this command began.
    fn come_since<'k>(&self, keys: impl Iterator<Item = &'k RemoteKey>) -> Option<KeyId> {
        let last = keys
            .filter(|key| !key.entry.status.is_final())
            .filter(|key| key.entry.created.is_some_and(|created| created >= self.began))
            .max_by_key(|key| key.entry.created);
        last.map(|key| key.entry.id)
    }
}

/// How to give a key back the end that a rotation has shortened.
fn give_back(old: &RemoteKey) -> String {
    let shown = |at: Option<u64>| at.map_or_else(|| "never".to_owned(), time::show);
    let sunset = match old.entry.sunset {
        Some(at) => format!(" --sunset {}", time::show(at)),
        None => String::new(),
    };
    format!(
        "`keygatectl keys edit {} --expires {}{sunset}` gives the key that was rotated its end back",
        old.entry.id,
        shown(old.entry.expires)
    )
}

/// Why, without what to do about it.
fn first_line(error: &Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
