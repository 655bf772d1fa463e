//! `admin recover`: brings published keys into a database that was restored from a backup.

use std::path::PathBuf;

use serde_json::{Map, json};
use tokio::runtime::Runtime;

use super::super::checkpoints::{CheckpointFault, CheckpointKeeper, LostLines};
use super::super::config::AdminToml;
use super::super::publish::behind::{Behind, Evidence};
use super::super::publish::recover::{
    MissingFiles, PublishedKeys, RecoveredCounts, RecoveryTerms, are_missing, by_audience,
};
use super::super::publish::{ComparedAudience, compare, is_behind, settle_high_water};
use super::super::store::{AudienceName, AuditEvent, Channel, Serials, Store};
use super::fault::of_store;
use super::{OpenState, host_user, open_as_it_is};
use crate::core::KeyId;
use crate::exit::Exit;
use crate::manage::error::{Error, Result};
use crate::manage::output::count;
use crate::manage::session::Session;

/// How many keys a warning names.
const SHOWN: usize = 20;

#[derive(Debug, clap::Args)]
pub(super) struct Recover {
    /// Published table or patch that is at no target, such as a sidecar's copy; repeatable, for
    /// each audience its own
    #[arg(long = "file", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Go on although something newer was published than what is at hand
    #[arg(long)]
    accept_loss: bool,
    /// Have a recovery signed whose signature failed, of a database that is not behind any more
    #[arg(long)]
    sign_audit: bool,
}

// === impl Recover ===

impl Recover {
    pub(super) fn run(
        self,
        runtime: &Runtime,
        config: AdminToml,
        session: &mut Session,
    ) -> Result<()> {
        let OpenState { config, store } = open_as_it_is(config, session)?;
        let at_ms = session.clock.now().unix_ms;
        let actor = host_user(session);
        let mut given = by_audience(&self.files, &config)?;
        runtime.block_on(async {
            let compared = compare(&config, &store, &session.clock).await?;
            // What is published counts as older than the database then, and would bring none of the
            // missing keys.
            let is_import = |behind: &&Behind| matches!(behind, Behind::Import { .. });
            if let Some(behind) =
                compared.iter().filter_map(|found| found.behind.as_ref()).find(is_import)
            {
                return Err(is_behind(behind));
            }
            let mut keeper = CheckpointKeeper::of(&config)?;
            let lost = match &keeper {
                Some(keeper) => keeper.lost(&*store).await.map_err(unsigned)?,
                None => None,
            };
            if compared.iter().all(|compared| compared.behind.is_none()) {
                return self.sign_later(&*store, keeper.as_mut().zip(lost), session).await;
            }
            let (mut plans, mut missing) = (Vec::new(), Vec::new());
            for ComparedAudience { audience, behind, evidence } in compared {
                let files = given.remove(&audience).unwrap_or_default();
                if behind.is_none() {
                    if !files.is_empty() {
                        let why = format!("{audience} is not behind: its files are not needed");
                        session.output.note(&why);
                    }
                    continue;
                }
                let published = match config.audience(&audience) {
                    Some(known) => PublishedKeys::of_audience(known, &files, &*store).await?,
                    None => PublishedKeys::default(),
                };
                let newest = evidence.iter().max_by_key(|evidence| evidence.serial).cloned();
                if let Some(seen) = &newest
                    && seen.serial > published.serial
                {
                    let (audience, at_hand) = (audience.clone(), published.serial);
                    missing.push(MissingFiles { audience, at_hand, seen: seen.clone() });
                }
                plans.push((audience, published, newest));
            }
            if !missing.is_empty() && !self.accept_loss {
                return Err(are_missing(&missing));
            }
            for lost in &missing {
                session.output.warn(&format!("{lost}: what was changed between the two is lost"));
            }
            // If signed lines are lost, the log goes on only with a signature that says so.
            let keeper = keeper.filter(|_| lost.is_some());
            if let Some(keeper) = &keeper {
                keeper.would_recover().await.map_err(unsigned)?;
            }
            // Everything has been read and judged. From here on the database changes.
            let kept = store.audit_head().await.map_err(of_store)?.seq;
            let mut above = Serials::default();
            let mut told = Vec::new();
            for (audience, published, newest) in plans {
                let seen = newest.map_or(0, |Evidence { serial, .. }| serial);
                let terms = RecoveryTerms {
                    audience: audience.clone(),
                    actor: actor.clone(),
                    at_ms,
                    above: seen.max(published.serial),
                };
                let snapshot = store.snapshot(&audience, 0).await.map_err(of_store)?;
                if (1..snapshot.serial).contains(&published.serial) {
                    session.output.note(&format!(
                        "{audience}: the database has serial {}, and the newest file at hand {}: only \
                         revocations are taken from it",
                        snapshot.serial, published.serial
                    ));
                }
                let counts = published.recover(&*store, snapshot, terms).await?;
                above.0.insert(audience.clone(), counts.serial);
                told.push((audience, counts));
            }
            let mut detail = Map::new();
            for (audience, counts) in &told {
                detail.insert(audience.to_string(), shown(counts));
            }
            let event = AuditEvent {
                at_ms,
                audience: None,
                org: None,
                actor,
                channel: Channel::default(),
                action: "recover",
                object: "".into(),
                detail,
            };
            let epoch = store.begin_epoch(above, event).await.map_err(of_store)?;
            let head = store.audit_head().await.map_err(of_store)?;
            settle_high_water(&config.state, head)?;
            if let Some(mut keeper) = keeper
                && let Err(fault) = keeper.recovered(head, kept, at_ms).await
            {
                session.output.warn(&format!(
                    "{fault}\nhint: `keygatectl admin recover --sign-audit` asks again. Until then \
                     checkpoints that were made after the backup are faults to `admin verify-audit`, \
                     and the service signs nothing of the audit log"
                ));
            }
            if session.output.json {
                let audiences: Map<_, _> =
                    told.iter().map(|(name, counts)| (name.to_string(), shown(counts))).collect();
                return session.output.json_line(&json!({"epoch": epoch, "audiences": audiences}));
            }
            let mut differing = Vec::new();
            for (audience, counts) in told {
                session.output.line(&format!(
                    "{audience}: {} returned, {} as published, {} revoked; serial {}",
                    count(counts.returned, "key"),
                    counts.changed,
                    counts.revoked,
                    counts.serial
                ))?;
                if !counts.differing.is_empty() {
                    differing.push((audience, counts.differing));
                }
            }
            for (audience, ids) in differing {
                session.output.warn(&stay_different(&audience, &ids));
            }
            session.output.note(
                "every session has ended; the service makes a new table when it starts, or now if it \
                 runs. `keygatectl admin check --running` says whether that is published",
            );
            Ok(())
        })
    }

    /// For a database that is not behind: has a recovery of the audit log signed, if the options
    /// ask for it.
    async fn sign_later(
        &self,
        store: &dyn Store,
        lost: Option<(&mut CheckpointKeeper, LostLines)>,
        session: &mut Session,
    ) -> Result<()> {
        let Some((keeper, LostLines { kept, signed })) = lost else {
            session.output.note("the database is not behind: nothing is to be recovered");
            return Ok(());
        };
        if !self.sign_audit {
            let message = format!(
                "the database is not behind, and line {signed} of the audit log is not the one that \
                 was signed\nhint: if a backup was restored, and its recovery was not signed, \
                 --sign-audit has that signed. If none was, somebody has written the log anew: \
                 compare it with copies of the checkpoints first"
            );
            return Err(Error::Added { message, exit: Exit::Data });
        }
        let head = store.audit_head().await.map_err(of_store)?;
        keeper.recovered(head, kept, session.clock.now().unix_ms).await.map_err(unsigned)?;
        if session.output.json {
            return session.output.json_line(&json!({"signed_through": head.seq, "kept": kept}));
        }
        session.output.line(&format!(
            "the audit log is signed through line {}; of the lines that were signed before, those \
             after line {kept} are lost",
            head.seq
        ))
    }
}

/// The database has gone on since the files were published, or another way: only people know.
fn stay_different(audience: &AudienceName, ids: &[KeyId]) -> String {
    let shown: Vec<_> = ids.iter().take(SHOWN).map(KeyId::to_string).collect();
    let more = match ids.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!(
        "{audience}: the older files differ in {}, left as in the database: {}{more}\n\
         hint: look whether one of them was disabled, narrowed or rotated in what was lost",
        count(ids.len() as u64, "key"),
        shown.join(", ")
    )
}

/// Nothing was changed.
fn unsigned(fault: CheckpointFault) -> Error {
    let hint = match fault {
        CheckpointFault::Signer(_) => {
            "\nhint: nothing has changed. A signer of its own has to run, and signs this once it is \
             allowed on its host; then run this again"
        }
        _ => "",
    };
    Error::Added { message: format!("{fault}{hint}"), exit: Exit::TryAgain }
}

fn shown(counts: &RecoveredCounts) -> serde_json::Value {
    let RecoveredCounts { serial, changed, revoked, returned, differing } = counts;
    let differing: Vec<_> = differing.iter().map(KeyId::to_string).collect();
    json!({
        "serial": serial, "changed": changed, "revoked": revoked, "returned": returned,
        "differing": differing,
    })
}
