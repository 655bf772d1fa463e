//! Changes at a service: their requests, how they are sent again, and what is said of them.

use http::Method;
use serde_json::{Value, json};

use super::answers::{RemoteKey, ToldChange};
use super::requests::{new_key, patch, plans_of, rotation};
use super::{RemoteKeys, TRIES, good, refuse_publishing};
use crate::core::KeyId;
use crate::exit::Exit;
use crate::manage::error::{Error, Result};
use crate::manage::keys::create::{Create, print_issued};
use crate::manage::keys::edit::{Edit, KeySelection, became, state};
use crate::manage::keys::list::to_json;
use crate::manage::keys::refused::{option_of, refused, warning};
use crate::manage::keys::rotate::Rotate;
use crate::manage::operation::{
    self, KeyAdvice, OperationSettings, RandomSource as _, StatusChange,
};
use crate::manage::registry::entry::RegistryEntry;
use crate::manage::service::{ServiceAnswer, path_segment, told_text};
use crate::manage::session::{Session, SystemRandomness};
use crate::manage::time;
use crate::wording::visible::one_line;

/// A change of a service, before it is sent.
struct RemoteChange {
    method: Method,
    path: String,
    body: Value,
    if_match: Option<u64>,
    answer: AnswerWhen,
}

/// When a change is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AnswerWhen {
    Kept,
    /// If that does not take long.
    Published,
}

// === impl RemoteKeys ===

impl RemoteKeys {
    pub(super) fn create(&self, create: Create, session: &mut Session) -> Result<()> {
        session.output.refuse_closed()?;
        refuse_publishing(&create.publish)?;
        let body = new_key(&create, session.now())?;
        let keys = format!("/v1/orgs/{}/keys", path_segment(create.org.as_str()));
        let change = RemoteChange {
            method: Method::POST,
            path: keys,
            body,
            if_match: None,
            answer: AnswerWhen::Kept,
        };
        let told: ToldChange = self.send(&change)?;
        let serial = told.serial;
        self.show_issued(told, None, session)?;
        self.judge_publication(serial).map(drop)
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
        let mut told: ToldChange = self.send(&change)?;
        let (serial, replaced) = (told.serial, told.replaced.take());
        let new = self.show_issued(told, Some(&old), session)?;
        let replaced = replaced.map(|key| RemoteKey::of(key, self.server())).transpose()?;
        let ends = match &replaced {
            Some(old) => old.entry.expires,
            None => new.entry.previous.map(|previous| previous.expires),
        };
        let ends = time::show(ends.unwrap_or(now));
        session.output.note(&format!("the old secret is valid until {ends}"));
        let advice = KeyAdvice::of(Some(&old.entry), &new.entry);
        advice.iter().for_each(|advice| session.output.warn(&warning(advice)));
        self.judge_publication(serial).map(drop)
    }

    /// Shows a secret once, or takes the key back that nobody has the secret of. `old`: what was
    /// rotated, as it was before.
    fn show_issued(
        &self,
        told: ToldChange,
        old: Option<&RemoteKey>,
        session: &mut Session,
    ) -> Result<RemoteKey> {
        let key = RemoteKey::of(told.key, self.server())?;
        let id = key.entry.id;
        let Some(secret) = told.secret else {
            // The first try was carried out, and this is the answer of a second one.
            let message = format!(
                "{}: the answer with the secret of {id} got lost\nhint: {}",
                self.server(),
                self.take_back(&key, old)
            );
            return Err(Error::Added { message, exit: Exit::TryAgain });
        };
        let text = String::from_utf8_lossy(secret.expose());
        let printed = print_issued(&key.entry, &text, told.serial, None, session)
            .and_then(|()| session.output.flush());
        let Err(e) = printed else { return Ok(key) };
        Err(Error::SecretLost { id, source: Box::new(e), then: self.take_back(&key, old) })
    }

    /// Undoes what has made a secret that nobody has seen, as far as that can be; says what is left to
    /// do.
    fn take_back(&self, key: &RemoteKey, old: Option<&RemoteKey>) -> String {
        let id = key.entry.id;
        if old.is_some_and(|old| old.entry.id == id) {
            // A pair: to revoke it would end what its callers use.
            let until = match key.entry.previous {
                Some(former) => format!("until {}", time::show(former.expires)),
                None => "no longer".to_owned(),
            };
            return format!(
                "the former secret of {id} is valid {until}; `keygatectl keys rotate {id} \
                 --drop-previous` makes another, and ends the former at once"
            );
        }
        if let Err(e) = self.status(key, StatusChange::Revoke, AnswerWhen::Kept) {
            return format!("nobody has its secret: `keygatectl keys revoke {id}` ends it ({e})");
        }
        let Some(old) = old else {
            return format!("{id} was revoked; the same command makes another key");
        };
        match self.end_as_before(old) {
            Ok(()) => format!(
                "{id} was revoked, and {} is as before; the same command rotates it",
                old.entry.id
            ),
            Err(e) => {
                let before = old.entry.expires.map_or_else(|| "never".to_owned(), time::show);
                format!(
                    "{id} was revoked; `keygatectl keys edit {} --expires {before}` gives the key \
                     that was rotated its end back ({e})",
                    old.entry.id
                )
            }
        }
    }

    /// Gives a key that was rotated back what the rotation has taken from it.
    fn end_as_before(&self, old: &RemoteKey) -> Result<()> {
        let is_now = self.select(&old.entry.id.to_string(), Some(&old.entry.org), 0)?;
        let mut body = json!({ "expires": old.entry.expires.map(time::show) });
        if is_now.entry.sunset != old.entry.sunset
            && let Value::Object(body) = &mut body
        {
            body.insert("sunset".into(), old.entry.sunset.map(time::show).into());
        }
        let (path, if_match) = (path_of(old), Some(is_now.version));
        let change =
            RemoteChange { method: Method::PATCH, path, body, if_match, answer: AnswerWhen::Kept };
        self.send::<ToldChange>(&change).map(drop)
    }

    pub(super) fn edit(&self, edit: Edit, session: &mut Session) -> Result<()> {
        refuse_publishing(&edit.publish)?;
        let request = edit.request()?;
        let now = session.now();
        let mut left = TRIES;
        loop {
            let old = self.select(&edit.key, edit.org.as_ref(), now)?;
            if let Some(plans) = plans_of(&request, &old) {
                // What is wrong is told in the same words, and what is so already is not asked for.
                let settings = OperationSettings {
                    prefixes: &Default::default(),
                    shown: &Default::default(),
                    default_prefix: None,
                    plans: &plans,
                };
                let new = operation::edit(&settings, &old.entry, &request, now).map_err(refused)?;
                if new == old.entry {
                    let id = new.id;
                    session.output.note(&format!("{id} is so already; nothing was changed"));
                    return self.judge_publication(old.serial).map(drop);
                }
            }
            let body = patch(&request, &edit.details, &old, now)?;
            let (path, if_match) = (path_of(&old), Some(old.version));
            let change = RemoteChange {
                method: Method::PATCH,
                path,
                body,
                if_match,
                answer: AnswerWhen::Published,
            };
            let answer = self.send_once(&change)?;
            left -= 1;
            // Somebody else was first: what is added and taken away is worked out anew.
            if answer.status == 412 && left > 0 {
                continue;
            }
            let told: ToldChange = self.judged(&answer)?;
            let new = RemoteKey::of(told.key.clone(), self.server())?;
            let advice = KeyAdvice::of(Some(&old.entry), &new.entry);
            advice.iter().for_each(|advice| session.output.warn(&warning(advice)));
            tell(&told, &new, "changed", session)?;
            return self.end_told(&told, session);
        }
    }

    pub(super) fn set(
        &self,
        target: KeySelection,
        turn: StatusChange,
        session: &mut Session,
    ) -> Result<()> {
        refuse_publishing(&target.publish)?;
        if target.secret_stdin {
            let why = "is for files: a service looks nothing up by a secret; give the key's id";
            return Err(Error::argument("--secret-stdin", why));
        }
        let now = session.now();
        let mut found: Vec<RemoteKey> = Vec::new();
        for key in &target.keys {
            let key = match turn {
                StatusChange::RevokeFormer => self.former(key, target.org.as_ref(), now)?,
                _ => self.select(key, target.org.as_ref(), now)?,
            };
            if !found.iter().any(|other| other.entry.id == key.entry.id) {
                found.push(key);
            }
        }
        // Before the first is changed: what is wrong with one of them is wrong with all.
        let newest = found.iter().map(|key| key.serial).max();
        let mut wanted = Vec::new();
        for key in found {
            match turn.apply(&key.entry, now).map_err(refused)? {
                Some(_) => wanted.push(key),
                None => {
                    session.output.note(&format!("{} is {} already", key.entry.id, state(turn)));
                }
            }
        }
        if let (true, Some(serial)) = (wanted.is_empty(), newest) {
            // Whoever tries again wants to know whether it is published by now.
            return self.judge_publication(serial).map(drop);
        }
        let mut last = None;
        for key in wanted {
            let told = self.status(&key, turn, AnswerWhen::Published)?;
            let new = RemoteKey::of(told.key.clone(), self.server())?;
            let became = became(turn, &new.entry);
            tell(&told, &new, became, session)?;
            last = Some(told);
        }
        last.map_or(Ok(()), |told| self.end_told(&told, session))
    }

    fn status(
        &self,
        key: &RemoteKey,
        turn: StatusChange,
        answer: AnswerWhen,
    ) -> Result<ToldChange> {
        let word = match turn {
            StatusChange::Disable => "disable",
            StatusChange::Enable => "enable",
            StatusChange::Canary | StatusChange::Revoke | StatusChange::RevokeFormer => "revoke",
        };
        let path = format!("{}/{word}", path_of(key));
        let change =
            RemoteChange { method: Method::POST, path, body: json!({}), if_match: None, answer };
        self.send(&change)
    }

    /// The end of a command that has told of its changes: whether the last is published.
    fn end_told(&self, told: &ToldChange, session: &mut Session) -> Result<()> {
        if !self.judge_publication(told.serial)? {
            session.output.note("kept, and published as soon as the service comes to it");
        }
        Ok(())
    }

    /// Whether the serial is published. What cannot be asked now is no fault of the change.
    ///
    /// # Errors
    ///
    /// Why it is not, or not wherever it should be.
    fn judge_publication(&self, serial: u64) -> Result<bool> {
        let Ok(told) = self.publication() else { return Ok(false) };
        let Some(why) = told.unpublished else { return Ok(told.published >= serial) };
        let message = format!(
            "{}: the change is kept with serial {serial}, but is not published everywhere: {}\nhint: \
             the service goes on trying; docs/management.md, \"Why something is not published\", says \
             what helps",
            self.server(),
            one_line(&why.reason)
        );
        Err(Error::Added { message, exit: Exit::TryAgain })
    }

    // --- sending

    fn send<T: serde::de::DeserializeOwned>(&self, change: &RemoteChange) -> Result<T> {
        let answer = self.send_once(change)?;
        self.judged(&answer)
    }

    fn judged<T: serde::de::DeserializeOwned>(&self, answer: &ServiceAnswer) -> Result<T> {
        match answer.status {
            400 | 403 | 409 | 422 => Err(self.in_options(answer)),
            _ => good(&self.client, answer),
        }
    }

    /// Sends a change until there is an answer. All tries have one name, so that it is made once.
    fn send_once(&self, change: &RemoteChange) -> Result<ServiceAnswer> {
        let mut random = [0u8; 16];
        SystemRandomness.fill(&mut random).map_err(|_| Error::Random)?;
        let name: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let matched = change.if_match.map(|version| format!("\"{version}\""));
        let mut fields = vec![("idempotency-key", name.as_str())];
        if let Some(matched) = &matched {
            fields.push(("if-match", matched.as_str()));
        }
        if change.answer == AnswerWhen::Published {
            fields.push(("prefer", "wait=2"));
        }
        self.asked(&change.method, &change.path, Some(&change.body), &fields)
    }

    /// A refusal, with the options of the command in place of the members of the request.
    fn in_options(&self, answer: &ServiceAnswer) -> Error {
        let told = answer.problem();
        let mut places = told.errors.iter().filter_map(|fault| {
            let member = fault.pointer.as_deref()?.trim_start_matches('/');
            let member = member.split('/').next().unwrap_or(member);
            Some((option_of(member)?, told_text(&fault.detail)))
        });
        let Some((first, mut why)) = places.next() else {
            return match told.code.as_str() {
                "conflict" => {
                    let why = told_text(&told.detail);
                    let message = match why.contains("\nhint: ") {
                        true => why,
                        false => format!("{why}\nhint: `keygatectl keys show` says its state"),
                    };
                    Error::Added { message, exit: Exit::Data }
                }
                _ => answer.refusal(self.server()),
            };
        };
        for (option, more) in places {
            why.push_str(&format!("\n{option}: {more}"));
        }
        match answer.status {
            403 => Error::Added { message: format!("{first}: {why}"), exit: Exit::Data },
            _ => Error::argument(first, why),
        }
    }
}

/// A change as a line of JSON.
fn to_line(told: &ToldChange, key: &RegistryEntry, now: u64) -> Value {
    json!({
        "serial": told.serial,
        "key": to_json(key, now),
        "published": told.in_force.as_ref().is_some_and(|force| force.published),
        "publish_with": null,
    })
}

fn tell(told: &ToldChange, key: &RemoteKey, became: &str, session: &mut Session) -> Result<()> {
    let entry = &key.entry;
    if session.output.json {
        let line = to_line(told, entry, session.now());
        return session.output.json_line(&line);
    }
    let name = match &*entry.name {
        "" => String::new(),
        name => format!(" ({name})"),
    };
    session.output.line(&format!("{}{name} {became}; serial {}", entry.id, told.serial))?;
    session.output.flush()
}

fn path_of(key: &RemoteKey) -> String {
    let id: KeyId = key.entry.id;
    format!("/v1/orgs/{}/keys/{id}", path_segment(key.entry.org.as_str()))
}
