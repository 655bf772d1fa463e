//! Changes of existing keys, how any change is sent again, and what is reported about it.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use super::answers::{RemoteKey, ToldChange, ToldHindrance};
use super::requests::{patch, plans_of};
use super::{RemoteKeys, TRIES, refuse_publishing};
use crate::core::KeyId;
use crate::exit::Exit;
use crate::manage::error::{Error, Result};
use crate::manage::keys::edit::{Edit, KeySelection, became, state};
use crate::manage::keys::list::to_json;
use crate::manage::keys::refused::{option_of, refused, warning};
use crate::manage::operation::{
    self, KeyAdvice, OperationSettings, RandomSource as _, StatusChange,
};
use crate::manage::registry::entry::RegistryEntry;
use crate::manage::service::{ServiceAnswer, ToldText, path_segment, told_line, told_text};
use crate::manage::session::{Session, SystemRandomness};
use crate::wording::visible::one_line;

/// How long a command waits at most until its change is published.
const PUBLISHED_WITHIN: Duration = Duration::from_secs(10);

/// Pause between two checks whether it is.
const LOOK: Duration = Duration::from_millis(250);

const WHAT_HELPS: &str = "the service goes on trying; docs/management.md, \"Why something is not \
                          published\", says what helps";

const LOOK_AGAIN: &str = "sidecars may take the key as before; the same command, given again, says \
                          whether it is published";

/// A change for a service, before it is sent.
pub(super) struct RemoteChange {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) body: Value,
    pub(super) if_match: Option<u64>,
    pub(super) answer: AnswerWhen,
}

/// When a change is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AnswerWhen {
    Kept,
    /// If that does not take long.
    Published,
}

// === impl RemoteKeys ===

impl RemoteKeys {
    pub(super) fn edit(&self, edit: Edit, session: &mut Session) -> Result<()> {
        refuse_publishing(&edit.publish)?;
        let request = edit.request()?;
        let now = session.now();
        let mut left = TRIES;
        loop {
            let old = self.select(&edit.key, edit.org.as_ref(), now)?;
            if let Some(plans) = plans_of(&request, &old) {
                // Faults are reported in the same words, and a change that is already made is not
                // requested.
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
                    return self.judge_publication(old.serial);
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
            let answer = self.send_once(&change).map_err(|e| once_more(e, old.entry.id))?;
            left -= 1;
            // Somebody else was first: work out again what to add and remove.
            if answer.status == 412 && left > 0 {
                continue;
            }
            self.judge(&answer)?;
            let told: ToldChange = answer.json(self.server())?;
            let new = RemoteKey::of(told.key.clone(), self.server())?;
            self.is_key(&new, old.entry.id, old.entry.org.as_str())?;
            let advice = KeyAdvice::of(Some(&old.entry), &new.entry);
            advice.iter().for_each(|advice| session.output.warn(&warning(advice)));
            tell(&told, &new, "changed", session)?;
            return self.end_told(&told);
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
        // Before the first change: what is wrong with one of them is wrong with all.
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
            // A user who tries again wants to know whether it is published by now.
            return self.judge_publication(serial);
        }
        let mut last = None;
        for key in wanted {
            let (id, org) = (key.entry.id, key.entry.org.as_str());
            let answer =
                self.turn(id, org, turn, AnswerWhen::Published).map_err(|e| once_more(e, id))?;
            let told: ToldChange = answer.json(self.server())?;
            let new = RemoteKey::of(told.key.clone(), self.server())?;
            self.is_key(&new, id, org)?;
            let became = became(turn, &new.entry);
            tell(&told, &new, became, session)?;
            last = Some(told);
        }
        last.map_or(Ok(()), |told| self.end_told(&told))
    }

    /// The answer to a change of state, which was made.
    pub(super) fn turn(
        &self,
        id: KeyId,
        org: &str,
        turn: StatusChange,
        answer: AnswerWhen,
    ) -> Result<ServiceAnswer> {
        let word = match turn {
            StatusChange::Disable => "disable",
            StatusChange::Enable => "enable",
            StatusChange::Canary | StatusChange::Revoke | StatusChange::RevokeFormer => "revoke",
        };
        let path = format!("{}/{id}/{word}", Self::keys_of(org));
        let change =
            RemoteChange { method: Method::POST, path, body: json!({}), if_match: None, answer };
        self.send(&change)
    }

    /// Ends a command that has reported its changes: the last one is published.
    ///
    /// # Errors
    ///
    /// It is not, or its state is unknown.
    fn end_told(&self, told: &ToldChange) -> Result<()> {
        match self.publication_of(told.serial)? {
            // The change was answered once it was published.
            Some(_) if told.in_force.as_ref().is_some_and(|force| force.published) => Ok(()),
            unknown => self.refuse_unknown(told.serial, unknown),
        }
    }

    /// Waits until the serial is published.
    ///
    /// # Errors
    ///
    /// Why it is not published, or not everywhere it should be; or that its state is unknown.
    pub(super) fn judge_publication(&self, serial: u64) -> Result<()> {
        let unknown = self.publication_of(serial)?;
        self.refuse_unknown(serial, unknown)
    }

    fn refuse_unknown(&self, serial: u64, unknown: Option<Error>) -> Result<()> {
        let Some(unknown) = unknown else { return Ok(()) };
        let message = format!(
            "{}: the change is kept with serial {serial}, and whether it is published cannot be asked: \
             {}\nhint: {LOOK_AGAIN}",
            self.server(),
            unknown.to_string().lines().next().unwrap_or_default()
        );
        Err(Error::Added { message, exit: Exit::TryAgain })
    }

    /// Waits until the serial is published. If that cannot be asked now, the change is not at
    /// fault: returns why.
    ///
    /// # Errors
    ///
    /// Why it is not published, or not everywhere it should be.
    fn publication_of(&self, serial: u64) -> Result<Option<Error>> {
        let mut waited = Duration::ZERO;
        let (why, then) = loop {
            let told = match self.publication() {
                Ok(told) => told,
                Err(unknown) => return Ok(Some(unknown)),
            };
            if let Some(ToldHindrance { reason, detail }) = told.unpublished {
                let reason = one_line(&reason).into_owned();
                let why = match detail {
                    // Operators get full detail.
                    Some(detail) => format!(
                        " everywhere: {reason}: {}",
                        told_line(detail.lines().next().unwrap_or_default())
                    ),
                    None => format!(" everywhere: {reason}"),
                };
                break (why, WHAT_HELPS);
            }
            if told.published >= serial {
                return Ok(None);
            }
            if waited >= PUBLISHED_WITHIN {
                break (format!(" within {} s", PUBLISHED_WITHIN.as_secs()), LOOK_AGAIN);
            }
            std::thread::sleep(LOOK);
            waited += LOOK;
        };
        let message = format!(
            "{}: the change is kept with serial {serial}, but is not published{why}\nhint: {then}",
            self.server()
        );
        Err(Error::Added { message, exit: Exit::TryAgain })
    }

    // --- sending

    /// The answer to a change that was made.
    pub(super) fn send(&self, change: &RemoteChange) -> Result<ServiceAnswer> {
        let answer = self.send_once(change)?;
        self.judge(&answer).map(|()| answer)
    }

    pub(super) fn judge(&self, answer: &ServiceAnswer) -> Result<()> {
        match answer.status {
            200..=299 => Ok(()),
            400 | 403 | 409 | 422 => Err(self.in_options(answer)),
            _ => Err(answer.refusal(self.server())),
        }
    }

    /// Sends a change until there is an answer. All tries share one idempotency key, so that it is
    /// made once.
    pub(super) fn send_once(&self, change: &RemoteChange) -> Result<ServiceAnswer> {
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
            Some((option_of(member)?, told_line(&fault.detail)))
        });
        let Some((first, mut why)) = places.next() else {
            return match told.code.as_str() {
                "conflict" => {
                    let ToldText { line, hint } = told_text(&told.detail);
                    let hint =
                        hint.unwrap_or_else(|| "`keygatectl keys show` says its state".to_owned());
                    Error::Added { message: format!("{line}\nhint: {hint}"), exit: Exit::Data }
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

/// What to do if it is unknown whether a change was made that is safe to repeat.
fn once_more(error: Error, id: KeyId) -> Error {
    match error {
        Error::OutcomeUnknown { why, .. } => Error::OutcomeUnknown {
            why,
            then: format!("`keygatectl keys show {id}` says; the same command may be given again"),
        },
        error => error,
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

pub(super) fn path_of(key: &RemoteKey) -> String {
    let id: KeyId = key.entry.id;
    format!("/v1/orgs/{}/keys/{id}", path_segment(key.entry.org.as_str()))
}
