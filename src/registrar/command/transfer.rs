//! `admin import` and `admin export`: keys between a registry's file and the database, in batches.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use tokio::runtime::Runtime;

use super::super::config::AdminToml;
use super::super::publish::behind::Behind;
use super::super::publish::{ComparedAudience, compare, is_behind};
use super::super::store::{AudienceName, Channel, ImportBatch, ImportPart, Store, StoreError};
use super::fault::of_store;
use super::{OpenState, audience_of, host_user, open_as_it_is};
use crate::exit::Exit;
use crate::manage::error::{Error, Result};
use crate::manage::files::Replacement;
use crate::manage::output::count;
use crate::manage::registry::entry::{RawEntry, RegistryEntry};
use crate::manage::registry::settings::{RawPublish, RawSettings};
use crate::manage::registry::{Filter, Registry};
use crate::manage::session::Session;
use crate::manage::signing::source::SignerSource;

/// Keys per transaction.
const BATCH: usize = 1000;

#[derive(Debug, clap::Args)]
pub(super) struct Import {
    /// Registry to read: keys.toml or keys.jsonl
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Audience that gets the keys [default: the only one]
    #[arg(long, value_name = "NAME")]
    audience: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Export {
    /// File to write; `.jsonl` [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Audience whose keys are written [default: the only one]
    #[arg(long, value_name = "NAME")]
    audience: Option<String>,
}

/// A line of `keys.jsonl` that holds a key.
#[derive(Serialize)]
struct KeyLine<'a> {
    serial: u64,
    key: RawEntry<'a>,
}

/// The result of an import so far.
#[derive(Default)]
struct ImportedSoFar {
    added: u64,
    known: u64,
    serial: u64,
    sent_settings: bool,
}

// === impl Import ===

impl Import {
    pub(super) fn run(
        self,
        runtime: &Runtime,
        config: AdminToml,
        session: &mut Session,
    ) -> Result<()> {
        let audience = audience_of(&config, self.audience.as_deref())?;
        let registry = Registry::open(&self.file)?;
        let settings = registry.settings.raw();
        if let Some(theirs) = settings.audience.as_deref().filter(|a| *a != audience.as_str()) {
            return Err(Error::audience(&self.file, theirs, audience.as_str()));
        }
        let above = registry.settings.serial;
        let opened = open_to_import(config, &audience, above, session);
        let OpenedToImport { store, early } = runtime.block_on(opened)?;
        let mut done = ImportedSoFar::default();
        let mut batch: Vec<RegistryEntry> = Vec::with_capacity(BATCH);
        let send = |entries: Vec<RegistryEntry>, part, done: &mut ImportedSoFar| -> Result<()> {
            let first = !std::mem::replace(&mut done.sent_settings, true);
            let batch = ImportBatch {
                audience: audience.clone(),
                actor: host_user(session),
                channel: Channel::default(),
                at_ms: session.clock.now().unix_ms,
                settings: first.then(|| Box::new(settings.clone())),
                above,
                part,
                entries,
            };
            let imported = runtime.block_on(store.import(batch)).map_err(|e| match e {
                StoreError::Conflict { why } => Error::Added {
                    message: format!(
                        "{}: {why}\nhint: the keys before it are in; export what is there and \
                         compare, then import again: what is the same is passed over",
                        self.file.display()
                    ),
                    exit: Exit::Data,
                },
                e => of_store(e),
            })?;
            done.added += imported.added;
            done.known += imported.known;
            done.serial = imported.serial;
            Ok(())
        };
        registry.scan(&Filter::default(), &mut |located| {
            // Only what comes after a batch shows that it is not the last one.
            if batch.len() == BATCH {
                let full = std::mem::replace(&mut batch, Vec::with_capacity(BATCH));
                send(full, early, &mut done)?;
            }
            batch.push(located.entry);
            Ok(())
        })?;
        send(batch, ImportPart::Last, &mut done)?;
        let ImportedSoFar { added, known, serial, .. } = done;
        if session.output.json {
            let answer = serde_json::json!({"added": added, "known": known, "serial": serial});
            return session.output.json_line(&answer);
        }
        let known = match known {
            0 => String::new(),
            n => format!(", {} were there", count(n, "key")),
        };
        session.output.line(&format!("{} added{known}; serial {serial}", count(added, "key")))
    }
}

/// A database to import into.
struct OpenedToImport {
    store: Arc<dyn Store>,
    /// What batches before the last one are. Where the database publishes tables already and is not
    /// behind, keys that are still missing end nowhere, and each batch stands for itself: one that
    /// is refused must not keep the audience from changes.
    early: ImportPart,
}

/// Opens a database to import into it. A registry whose tables are published brings the database up
/// to them; a registry older than what is published does not, and is refused.
///
/// The audience is judged alone. In a database to which an installation moves all are behind, and if
/// one waited for another, none could be the first. Those that stay behind take no changes.
async fn open_to_import(
    config: AdminToml,
    audience: &AudienceName,
    above: u64,
    session: &Session,
) -> Result<OpenedToImport> {
    let OpenState { config, store } = open_as_it_is(config, session)?;
    let compared = compare(&config, &store, &session.clock).await?;
    let ours = compared.into_iter().find(|compared| compared.audience == *audience);
    let publishes = store.publication(audience).await.map_err(of_store)?.base > 0;
    let mut early = if publishes { ImportPart::Last } else { ImportPart::Early };
    if let Some(ComparedAudience { behind: Some(behind), evidence, .. }) = ours {
        let newest = evidence.iter().map(|evidence| evidence.serial).max().unwrap_or_default();
        match behind {
            Behind::Import { of } if of > above => return Err(is_behind(&behind)),
            _ if newest > above => return Err(is_older(above, newest, &behind)),
            _ => {}
        }
        store.refuse_changes(audience, None);
        early = ImportPart::Early;
    }
    Ok(OpenedToImport { store, early })
}

/// What is to be imported would not bring the database up to what is published.
fn is_older(above: u64, newest: u64, behind: &Behind) -> Error {
    let message = format!(
        "the file is of serial {above}, and of its audience serial {newest} was published \
         ({behind})\nhint: import one that was written after that. Only if there is none, \
         `keygatectl admin recover` takes in what was published; keys that the database does not know \
         get no names"
    );
    Error::Added { message, exit: Exit::TryAgain }
}

// === impl Export ===

impl Export {
    pub(super) fn run(
        self,
        runtime: &Runtime,
        config: AdminToml,
        session: &mut Session,
    ) -> Result<()> {
        let audience = audience_of(&config, self.audience.as_deref())?;
        let OpenState { store, config } = open_as_it_is(config, session)?;
        let mut settings = runtime.block_on(store.settings(&audience)).map_err(of_store)?;
        let signer = config.audience(&audience).and_then(|audience| audience.signer.as_ref());
        let is_elsewhere =
            matches!(signer, Some(SignerSource::Command { .. } | SignerSource::Socket { .. }));
        if is_elsewhere && settings.publish != RawPublish::default() {
            // The file commands would sign with a key that they do not have, or with another one.
            settings.publish = RawPublish::default();
            session.output.note(
                "without [publish]: a socket or a command signs, and commands of files take neither; \
                 docs/management.md, \"Back to files\", says what to set",
            );
        }
        let mut snapshot = runtime.block_on(store.snapshot(&audience, 0)).map_err(of_store)?;
        let mut file = self.out.as_deref().map(Replacement::of).transpose()?;
        let settings = RawSettings { serial: snapshot.serial, ..settings };
        let mut keys = 0;
        let mut write = |line: String| -> Result<()> {
            match (&mut file, self.out.as_deref()) {
                (Some(file), Some(path)) => writeln!(file, "{line}").map_err(Error::write(path)),
                _ => session.output.text(&format!("{line}\n")),
            }
        };
        let json =
            |e: serde_json::Error| Error::Added { message: e.to_string(), exit: Exit::Internal };
        write(serde_json::to_string(&settings).map_err(json)?)?;
        while let Some(batch) = runtime.block_on(snapshot.keys.recv()) {
            for key in batch.map_err(of_store)? {
                let line = KeyLine { serial: key.changed, key: key.entry.raw() };
                write(serde_json::to_string(&line).map_err(json)?)?;
                keys += 1;
            }
        }
        if let Some(file) = file {
            file.commit()?;
        }
        session.output.note(&format!("{} of serial {}", count(keys, "key"), settings.serial));
        Ok(())
    }
}
