//! `keygatectl --server URL keys …`: the same commands over the API of a management service, with
//! the same answers and exit codes. The service decides; this code writes requests and reads
//! answers into registry entries. Imports the client, operations and this room.

pub mod answers;
mod changes;
mod find;
mod issued;
mod requests;
mod views;

use std::time::Duration;

use http::Method;
use serde_json::Value;

use self::answers::{RemoteKey, ToldPublication, ToldWho};
use super::super::error::{Error, Result};
use super::super::operation::StatusChange;
use super::super::publish::PublishArgs;
use super::super::service::{ServiceAnswer, ServiceClient, path_segment, told_line};
use super::super::session::Session;
use super::KeysCommand;
use crate::core::{KeyId, OrgId};
use crate::exit::Exit;

/// Longest answer: a page of 200 keys with everything that they may state.
const LONGEST: u64 = 16 << 20;

/// How often a request without an answer is sent.
const TRIES: u32 = 3;

/// Pause between two tries if the service does not state one; and the longest pause that it may
/// state.
const REST: Duration = Duration::from_millis(500);
const LONGEST_REST: Duration = Duration::from_secs(5);

/// Tolerated clock difference, in seconds, if a service does not state the time.
const SKEW: u64 = 60;

/// A service, and our credential for it.
#[derive(Debug)]
pub struct RemoteKeys {
    client: ServiceClient,
    audience: String,
    /// The org of the credential.
    org: Option<String>,
    /// When the command began, by the service's clock if known (Unix seconds).
    began: u64,
}

/// Carries out a command at the session's service.
///
/// # Errors
///
/// What the service refuses, in the words of the same command over files; commands that are only
/// for files.
pub fn run(command: KeysCommand, session: &mut Session) -> Result<()> {
    if let Some(name) = for_files_alone(&command) {
        let why =
            format!("`keys {name}` works on a registry in files; at a service {}", instead(name));
        return Err(Error::argument("--server", why));
    }
    let keys = RemoteKeys::open(session)?;
    match command {
        KeysCommand::Create(create) => keys.create(create, session),
        KeysCommand::Disable(target) => keys.set(target, StatusChange::Disable, session),
        KeysCommand::Edit(edit) => keys.edit(edit, session),
        KeysCommand::Enable(target) => keys.set(target, StatusChange::Enable, session),
        KeysCommand::List(list) => list.of_service(&keys, session),
        KeysCommand::Revoke(revoke) if revoke.former => {
            keys.set(revoke.target, StatusChange::RevokeFormer, session)
        }
        KeysCommand::Revoke(revoke) => keys.set(revoke.target, StatusChange::Revoke, session),
        KeysCommand::Rotate(rotate) => keys.rotate(rotate, session),
        KeysCommand::SafeToRevoke(question) => question.of_service(&keys, session),
        KeysCommand::Show(show) => show.of_service(&keys, session),
        KeysCommand::Unused(unused) => unused.of_service(&keys, session),
        // Refused above.
        KeysCommand::Canary(_)
        | KeysCommand::Check
        | KeysCommand::Compact
        | KeysCommand::Export(_)
        | KeysCommand::Fold(_)
        | KeysCommand::Import(_)
        | KeysCommand::Init(_) => Ok(()),
    }
}

const fn for_files_alone(command: &KeysCommand) -> Option<&'static str> {
    Some(match command {
        KeysCommand::Canary(_) => "canary",
        KeysCommand::Check => "check",
        KeysCommand::Compact => "compact",
        KeysCommand::Export(_) => "export",
        KeysCommand::Fold(_) => "fold",
        KeysCommand::Import(_) => "import",
        KeysCommand::Init(_) => "init",
        _ => return None,
    })
}

fn instead(name: &str) -> &'static str {
    match name {
        "canary" => "`keygatectl keys create --canary` makes a canary",
        "check" => "`keygatectl admin check` on its host looks at everything",
        "export" => "`keygatectl admin export` on its host writes them",
        "import" => "`keygatectl admin import` on its host takes them in",
        "init" => "`keygatectl admin migrate` on its host makes the database",
        _ => "nothing takes its place, nor is needed",
    }
}

// === impl RemoteKeys ===

impl RemoteKeys {
    fn open(session: &Session) -> Result<Self> {
        let client = session.service.client()?;
        let unknown = Self { client, audience: String::new(), org: None, began: 0 };
        let answer = unknown.asked(&Method::GET, "/v1/whoami", None, &[])?;
        let ToldWho { audience, org } = good(&unknown.client, &answer)?;
        let began = answer.date().unwrap_or_else(|| session.now().saturating_sub(SKEW));
        Ok(Self { audience, org, began, ..unknown })
    }

    pub fn server(&self) -> &str {
        self.client.base()
    }

    fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<T> {
        let answer = self.asked(&Method::GET, path, None, &[])?;
        good(&self.client, &answer)
    }

    /// Asks until there is an answer. All tries of a change share one idempotency key, so that it
    /// is made once.
    ///
    /// # Errors
    ///
    /// [`Error::OutcomeUnknown`]: one of the tries may have made the change, and the last does not
    /// say so.
    fn asked(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Value>,
        fields: &[(&'static str, &str)],
    ) -> Result<ServiceAnswer> {
        let mut left = TRIES;
        let mut is_open = false;
        let answer = loop {
            let answer = self.client.ask(method.clone(), path, body, fields, LONGEST);
            left -= 1;
            let (rest, leaves_open) = match &answer {
                Err(e) => {
                    let is_away = e.exit() == Exit::TryAgain.code();
                    (is_away.then_some(REST), is_away)
                }
                Ok(answer) => {
                    let rest = answer.retry_after().unwrap_or(REST).min(LONGEST_REST);
                    (matches!(answer.status, 502..=504).then_some(rest), answer.leaves_open())
                }
            };
            is_open |= leaves_open && *method != Method::GET;
            match rest {
                Some(rest) if left > 0 => std::thread::sleep(rest),
                _ => break answer,
            }
        };
        // A success is the result of whichever try was carried out.
        if !is_open || answer.as_ref().is_ok_and(ServiceAnswer::is_success) {
            return answer;
        }
        let why = answer.map_or_else(|e| e.to_string(), |told| told.told(self.server()).line);
        Err(Error::OutcomeUnknown { why, then: "look before you try again".into() })
    }

    /// Refuses an answer about a different key than the command asked about: its content is
    /// useless.
    fn is_key(&self, told: &RemoteKey, id: KeyId, org: &str) -> Result<()> {
        self.is_about((&told.entry.id.to_string(), told.entry.org.as_str()), id, org)
    }

    /// The same, by the id and org in an answer.
    fn is_about(&self, told: (&str, &str), id: KeyId, org: &str) -> Result<()> {
        if told == (&id.to_string(), org) {
            return Ok(());
        }
        let message = format!(
            "{}: its answer is about {} in {}, and {id} in {} was asked about\nhint: something \
             between here and the service mixes up answers",
            self.server(),
            told_line(told.0),
            told_line(told.1),
            told_line(org)
        );
        Err(Error::Added { message, exit: Exit::Data })
    }

    /// The org of a command, or that of the credential.
    fn org(&self, given: Option<&OrgId>) -> Result<String> {
        match (given, &self.org) {
            (Some(org), _) => Ok(org.as_str().to_owned()),
            (None, Some(org)) => Ok(org.clone()),
            (None, None) => Err(Error::Missing {
                what: "the organization",
                hint: "give --org: the credential is in none, or in several",
            }),
        }
    }

    fn keys_of(org: &str) -> String {
        format!("/v1/orgs/{}/keys", path_segment(org))
    }

    /// Up to which serial changes are published, and why no further.
    fn publication(&self) -> Result<ToldPublication> {
        self.get(&format!("/v1/audiences/{}/publications", path_segment(&self.audience)))
    }
}

/// The content of an answer, unless it is a refusal.
fn good<T: serde::de::DeserializeOwned>(
    client: &ServiceClient,
    answer: &ServiceAnswer,
) -> Result<T> {
    match answer.is_success() {
        true => answer.json(client.base()),
        false => Err(answer.refusal(client.base())),
    }
}

/// A service publishes on its own.
fn refuse_publishing(publish: &PublishArgs) -> Result<()> {
    let PublishArgs { publish, publish_patch, no_publish, base, signers, meant } = publish;
    let given = [
        ("--publish", publish.is_some()),
        ("--publish-patch", publish_patch.is_some()),
        ("--no-publish", *no_publish),
        ("--base", base.is_some()),
        ("--signer", !signers.is_empty()),
        ("--readmit", !meant.readmit.is_empty()),
        ("--drop", !meant.drop.is_empty()),
        ("--readmit-org", !meant.readmit_org.is_empty()),
        ("--fewer-signatures", meant.fewer_signatures),
        ("--new-signer", meant.new_signer),
    ];
    match given.into_iter().find(|(_, is_given)| *is_given) {
        Some((option, _)) => {
            Err(Error::argument(option, "is for files: the service publishes every change itself"))
        }
        None => Ok(()),
    }
}
