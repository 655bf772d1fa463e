//! `keygatectl keys …`: issue, change and list keys.

pub mod create;
pub mod details;
pub mod edit;
pub mod export;
pub mod fold;
pub mod former;
pub mod import;
pub mod init;
pub mod list;
pub mod lookup;
pub mod refused;
pub mod remote;
pub mod rotate;
pub mod unused;

use super::error::Result;
use super::operation::{OperationSettings, StatusChange};
use super::output::count;
use super::publish::PublishArgs;
use super::registry::Registry;
use super::registry::change::{Change, Check, Committed, read_all};
use super::registry::settings::RegistrySettings;
use super::session::Session;

#[derive(Debug, clap::Subcommand)]
pub enum KeysCommand {
    /// Turn keys into canaries: never valid, and an alarm when somebody uses them
    Canary(edit::KeySelection),
    /// Check the whole registry and report every fault
    Check,
    /// Drop superseded lines of a keys.jsonl
    Compact,
    /// Issue a key and print its secret once
    Create(create::Create),
    /// Suspend a key
    Disable(edit::KeySelection),
    /// Change what a key may do
    Edit(edit::Edit),
    /// Admit a suspended key again
    Enable(edit::KeySelection),
    /// Write all keys, without secrets, as TOML, JSON Lines or CSV
    Export(export::Export),
    /// Merge what another copy of the registry has published
    Fold(fold::Fold),
    /// Import keys from another program
    Import(import::Import),
    /// Create a registry
    Init(init::Init),
    /// Show all keys, or some
    List(list::List),
    /// End a key for good
    Revoke(edit::Revoke),
    /// Issue a successor and let the old secret expire
    Rotate(rotate::Rotate),
    /// Ask the usage records whether anybody still uses a key
    SafeToRevoke(unused::SafeToRevoke),
    /// Show everything about one key
    Show(list::Show),
    /// Show keys that nobody has used for a while, by the usage records
    Unused(unused::Unused),
}

impl KeysCommand {
    pub fn run(self, session: &mut Session) -> Result<()> {
        if session.service.server.is_some() {
            return remote::run(self, session);
        }
        match self {
            Self::Canary(target) => target.set(StatusChange::Canary, session),
            Self::Check => check(session),
            Self::Compact => compact(session),
            Self::Create(create) => create.run(session),
            Self::Disable(target) => target.set(StatusChange::Disable, session),
            Self::Edit(edit) => edit.run(session),
            Self::Enable(target) => target.set(StatusChange::Enable, session),
            Self::Export(export) => export.run(session),
            Self::Fold(fold) => fold.run(session),
            Self::Import(import) => import.run(session),
            Self::Init(init) => init.run(session),
            Self::List(list) => list.run(session),
            Self::Revoke(revoke) => revoke.run(session),
            Self::Rotate(rotate) => rotate.run(session),
            Self::SafeToRevoke(question) => question.run(session),
            Self::Show(show) => show.run(session),
            Self::Unused(unused) => unused.run(session),
        }
    }
}

/// What operations need to know about a registry.
pub fn operation_settings(settings: &RegistrySettings) -> OperationSettings<'_> {
    OperationSettings {
        prefixes: &settings.prefixes,
        shown: &settings.shown,
        default_prefix: settings.default_prefix.as_deref(),
        plans: &settings.plans,
    }
}

/// Begins a change of the session's registry.
fn begin(session: &Session, check: Check) -> Result<Change> {
    Change::begin(&session.registry, session.lock_timeout, check, &session.output)
}

/// Writes a change that can be published, with the same record for every key that it adds or edits.
fn commit(
    change: Change,
    action: &'static str,
    publish: &PublishArgs,
    session: &Session,
) -> Result<Committed> {
    let records = change.records(action, &session.stamp(change.serial()));
    publish.commit(change, records, session)
}

fn check(session: &mut Session) -> Result<()> {
    let registry = Registry::open(&session.registry)?;
    let keys = read_all(&registry)?.count();
    let serial = registry.settings.serial;
    if session.output.json {
        return session.output.json(&serde_json::json!({ "keys": keys, "serial": serial }));
    }
    let path = session.registry.display().to_string();
    session
        .output
        .line(&format!("{path}: {}, serial {serial}, no faults", count(keys as u64, "key")))
}

fn compact(session: &mut Session) -> Result<()> {
    let change = begin(session, Check::All)?;
    let serial = change.serial();
    let record = session.record(serial, "keys compact", serde_json::Value::Null);
    let (before, after) = change.compact(&[record])?;
    session
        .output
        .note(&format!("{} before, {after} after; serial {serial}", count(before, "byte")));
    Ok(())
}
