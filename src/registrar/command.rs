//! `keygatectl admin …`: commands that run and maintain the management service. The binary adds
//! them to the commands of `manage`, which do not know of them.

mod audit;
mod fault;
mod process;
mod recover;
mod serving;
mod transfer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{ArgMatches, Args, FromArgMatches, Subcommand};
use serde_json::json;

use self::audit::VerifyAudit;
use self::fault::{of_config, of_store};
use super::config::AdminToml;
use super::database;
use super::publish::fleet::SidecarBook;
use super::publish::host::{PUBLISHED_WITHIN, is_served, publish_change};
use super::publish::{PublisherOptions, compare, hindrance, is_behind};
use super::store::postgres::PostgresUrlError;
use super::store::sqlite::SqliteStore;
use super::store::{
    AudienceName, ChangeRequest, Channel, KeyChange, KeyRef, Store, StoreActor, Uid,
};
use crate::artefacts::ArtefactShelf;
use crate::config::ThisHost;
use crate::core::{KeyId, OrgId};
use crate::exit::Exit;
use crate::manage::AddedCommand;
use crate::manage::error::{Error, Result};
use crate::manage::files;
use crate::manage::operation::StatusChange;
use crate::manage::output::count;
use crate::manage::session::Session;

/// The most keys that `check` names.
const NAMED: usize = 20;

/// Between two looks that `check` takes at a service that is about to publish.
const SETTLE_LOOK: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
struct Admin {
    /// Configuration of the service
    #[arg(long, short, global = true, value_name = "FILE", default_value = "admin.toml")]
    config: PathBuf,
    /// Database on a server, in place of `store.database`: postgres://USER@HOST/NAME
    #[arg(long, global = true, value_name = "URL")]
    database: Option<String>,
    #[command(subcommand)]
    command: AdminCommand,
}

#[derive(Debug, Subcommand)]
enum AdminCommand {
    /// Copy the database into one file while it is in use, and write down what the copy holds
    Backup {
        /// File of the copy; never overwritten
        #[arg(value_name = "FILE")]
        to: PathBuf,
    },
    /// Print a link by which somebody signs in: once, within 15 minutes
    Bootstrap(serving::Bootstrap),
    /// Look whether configuration and database are well; change nothing
    Check(Check),
    /// Write the keys of an audience as a registry of JSON Lines
    Export(transfer::Export),
    /// Put the keys of a registry into the database, as they are
    Import(transfer::Import),
    /// Make the database, or bring it up to this program's schema
    Migrate,
    /// Take what was published into a database that was restored from a backup
    Recover(recover::Recover),
    /// Revoke a key in the database, also while the service is down
    Revoke {
        /// Id or UUID of the key
        #[arg(value_name = "KEY", value_parser = key_ref)]
        key: KeyRef,
        /// Audience of the key [default: the only one]
        #[arg(long, value_name = "NAME")]
        audience: Option<String>,
        /// Refuse unless the key is of this organization
        #[arg(long, value_parser = OrgId::parse)]
        org: Option<OrgId>,
    },
    /// Run the service until SIGTERM or SIGINT
    Serve,
    /// Look for lines of the audit log that were changed, taken out, put in or cut off, and for a log
    /// that was written anew
    VerifyAudit(VerifyAudit),
}

#[derive(Clone, Copy, Debug, Args)]
struct Check {
    /// End with 75 also unless a service runs here and has published everything
    #[arg(long)]
    running: bool,
}

/// A configuration together with the database that it names.
struct OpenState {
    config: Arc<AdminToml>,
    store: Arc<dyn Store>,
}

/// For the binary.
pub fn added() -> AddedCommand {
    let about = "Run and look after the management service";
    AddedCommand::of::<Admin>("admin", about, run)
}

fn run(matches: &ArgMatches, session: &mut Session) -> Result<()> {
    let Admin { config, database, command } = Admin::from_arg_matches(matches)
        .map_err(|e| Error::Added { message: e.to_string(), exit: Exit::Usage })?;
    let mut config = AdminToml::load(&ThisHost, &config).map_err(of_config)?;
    if let Some(url) = database {
        let named = config.store.name_database(&url);
        let said = |e: PostgresUrlError| format!("{}\nhint: {}", e.what, e.hint);
        named.map_err(|e| Error::argument("--database", said(e)))?;
    }
    for warning in &config.warnings {
        session.output.warn(&warning.to_string());
    }
    if matches!(command, AdminCommand::Serve) {
        return serving::serve(config, session);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .map_err(|e| Error::Added { message: e.to_string(), exit: Exit::Internal })?;
    match command {
        AdminCommand::Migrate => migrate(&config, session),
        AdminCommand::Check(asked) => runtime.block_on(check(config, asked, session)),
        AdminCommand::VerifyAudit(verify) => runtime.block_on(verify.run(config, session)),
        AdminCommand::Serve => Ok(()),
        AdminCommand::Bootstrap(bootstrap) => runtime.block_on(bootstrap.run(config, session)),
        AdminCommand::Backup { to } => backup(&config, &to, session),
        AdminCommand::Import(import) => import.run(&runtime, config, session),
        AdminCommand::Export(export) => export.run(&runtime, config, session),
        AdminCommand::Recover(recover) => recover.run(&runtime, config, session),
        AdminCommand::Revoke { key, audience, org } => {
            let audience = audience_of(&config, audience.as_deref())?;
            runtime.block_on(revoke(config, RevokedKey { key, audience, org }, session))
        }
    }
}

/// Opens a database to change it. Refuses one that is behind what was published.
async fn open_to_change(config: AdminToml, session: &Session) -> Result<OpenState> {
    let state = open_as_it_is(config, session)?;
    refuse_behind(&state, session).await?;
    Ok(state)
}

async fn refuse_behind(OpenState { config, store }: &OpenState, session: &Session) -> Result<()> {
    let compared = compare(config, store, &session.clock).await?;
    match compared.into_iter().find_map(|compared| compared.behind) {
        Some(behind) => Err(is_behind(&behind)),
        None => Ok(()),
    }
}

/// The database must exist already, so that a mistyped state directory is not created.
fn open_as_it_is(config: AdminToml, session: &Session) -> Result<OpenState> {
    if database::schema(&config, session.clock.clone()).map_err(of_store)?.is_none() {
        let message = format!(
            "{}: there is no database\nhint: `keygatectl admin migrate` makes it, if that is the \
             right place",
            database::name(&config)
        );
        return Err(Error::Added { message, exit: Exit::NoInput });
    }
    let store = database::open(&config, session.clock.clone()).map_err(of_store)?;
    Ok(OpenState { config: Arc::new(config), store })
}

/// The named audience, or the configuration's only one.
fn audience_of(config: &AdminToml, named: Option<&str>) -> Result<AudienceName> {
    let known = || {
        let names = config.audiences.iter().map(|a| a.name.to_string());
        names.collect::<Vec<_>>().join(", ")
    };
    match (named, config.audiences.as_slice()) {
        (None, [only]) => Ok(only.name.clone()),
        (None, _) => {
            let why = format!("is needed: the configuration has {}", known());
            Err(Error::argument("--audience", why))
        }
        (Some(name), audiences) => {
            let found = audiences.iter().find(|audience| audience.name.as_str() == name);
            found.map(|audience| audience.name.clone()).ok_or_else(|| {
                let why = format!("the configuration has no such one\nhint: it has {}", known());
                Error::argument("--audience", why)
            })
        }
    }
}

fn migrate(config: &AdminToml, session: &mut Session) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&config.state)
        .map_err(Error::write(&config.state))?;
    let done = database::migrate(config, session.clock.clone()).map_err(of_store)?;
    let schema = database::schema(config, session.clock.clone()).map_err(of_store)?;
    let (name, schema) = (database::name(config), schema.map_or(0, |schema| schema.found));
    if session.output.json {
        let answer = json!({"database": name, "schema": schema, "put_in_force": done});
        return session.output.json_line(&answer);
    }
    let what = match done.is_empty() {
        true => "was there already",
        false => "is in force now",
    };
    session.output.line(&format!("{name}: schema {schema} {what}"))
}

async fn check(config: AdminToml, asked: Check, session: &mut Session) -> Result<()> {
    match database::schema(&config, session.clock.clone()).map_err(of_store)? {
        Some(schema) if schema.found < schema.known => {
            let message = format!(
                "{}: has schema {}, and this program works on {}\nhint: back it up, then \
                 `keygatectl admin migrate`",
                database::name(&config),
                schema.found,
                schema.known
            );
            return Err(Error::Added { message, exit: Exit::TryAgain });
        }
        Some(_) => {}
        None => {
            session.output.note("the configuration is well; there is no database yet");
            return asked.refuse_idle(&config);
        }
    }
    let OpenState { config, store } = open_as_it_is(config, session)?;
    let compared = compare(&config, &store, &session.clock).await?;
    let is_running = is_served(&config.state)?;
    if is_running && asked.running {
        settle(&config, &*store).await?;
    }
    let noted = is_running.then(|| hindrance::noted(&config.state));
    let (mut told, mut hindered) = (Vec::new(), Vec::new());
    for (audience, compared) in config.audiences.iter().zip(&compared) {
        let publication = store.publication(&audience.name).await.map_err(of_store)?;
        let unpublished = publication.serial.saturating_sub(publication.published);
        let name = audience.name.as_str();
        // A target that cannot be written hinders what the database counts as published.
        let known = noted.as_ref().and_then(|noted| noted.get(name));
        let why = match (&noted, unpublished) {
            _ if known.is_some() => known.map(|known| known.why.to_string()),
            (_, 0) => None,
            (Some(_), _) => {
                let seconds = PUBLISHED_WITHIN.as_secs();
                asked.running.then(|| format!("the service has not done it within {seconds} s"))
            }
            (None, _) => hindrance::obstacle(audience),
        };
        told.push(json!({
            "audience": name,
            "serial": publication.serial,
            "published": publication.published,
            "unpublished": why,
        }));
        if !session.output.json {
            let unpublished = match (&compared.behind, unpublished) {
                (Some(_), _) => "behind what is published".to_owned(),
                (None, 0) if why.is_some() => "not published everywhere".to_owned(),
                (None, 0) => "all published".to_owned(),
                (None, n) => {
                    let then = match (&why, &noted) {
                        (Some(_), _) => "",
                        (None, Some(_)) => ": the service is about to",
                        (None, None) => ": the service publishes when it starts",
                    };
                    format!("{} not published{then}", count(n, "change"))
                }
            };
            let serial = publication.serial;
            session.output.line(&format!("{}: serial {serial}, {unpublished}", audience.name))?;
        }
        hindered.extend(why.map(|why| format!("{name}: not published: {why}")));
        if !audience.targets.is_empty() && !config.knows_a_sidecar(&audience.name) {
            session.output.warn(&format!(
                "{name}: no sidecar is known, so changes are answered before any sidecar has them\n\
                 hint: [[status.pull]] names the `/status` of each sidecar that reads the files of \
                 [[audiences.targets]]; [[fleets]] is for those that fetch"
            ));
        }
    }
    if let Some(behind) = compared.into_iter().find_map(|compared| compared.behind) {
        return Err(is_behind(&behind));
    }
    let faults = VerifyAudit::default().verify(&config, &*store).await?.faults;
    let strange = store.unlogged_keys(NAMED).await.map_err(of_store)?;
    if session.output.json {
        let strange: Vec<_> = strange.iter().map(ToString::to_string).collect();
        let answer = json!({"audiences": told, "audit": faults, "keys_not_in_audit": strange,
            "running": is_running});
        session.output.json_line(&answer)?;
    }
    if !strange.is_empty() {
        let ids: Vec<_> = strange.iter().map(|id| format!("\n  {id}")).collect();
        let message = format!(
            "keys that no line of the audit log tells of:{}\nhint: somebody wrote them into the \
             database; `keygatectl admin revoke KEY` ends one",
            ids.concat()
        );
        return Err(Error::Added { message, exit: Exit::Data });
    }
    audit::refuse(&faults)?;
    if hindered.is_empty() && is_running {
        return Ok(());
    }
    if hindered.is_empty() {
        session.output.note("no service runs here: what is changed is published when it starts");
        return asked.refuse_idle(&config);
    }
    let message = format!(
        "{}\nhint: sidecars do not know of these changes, revocations among them. \
         docs/management.md, \"Why something is not published\", says what to do",
        hindered.join("\n")
    );
    Err(Error::Added { message, exit: Exit::TryAgain })
}

/// Waits until a running service has published everything, or has said what is in its way.
async fn settle(config: &AdminToml, store: &dyn Store) -> Result<()> {
    let mut waited = Duration::ZERO;
    while waited < PUBLISHED_WITHIN {
        let noted = hindrance::noted(&config.state);
        let mut is_due = false;
        for audience in &config.audiences {
            let publication = store.publication(&audience.name).await.map_err(of_store)?;
            let is_left = publication.published < publication.serial;
            is_due |= is_left && !noted.contains_key(audience.name.as_str());
        }
        if !is_due {
            break;
        }
        tokio::time::sleep(SETTLE_LOOK).await;
        waited += SETTLE_LOOK;
    }
    Ok(())
}

// === impl Check ===

impl Check {
    /// Refuses where no service runs.
    fn refuse_idle(self, config: &AdminToml) -> Result<()> {
        if !self.running {
            return Ok(());
        }
        let message = format!(
            "no service runs on {}: nothing that is changed is published, and nobody is answered\n\
             hint: start it, or run this without --running",
            config.state.display()
        );
        Err(Error::Added { message, exit: Exit::TryAgain })
    }
}

fn backup(config: &AdminToml, to: &Path, session: &mut Session) -> Result<()> {
    if let Some(url) = &config.store.database {
        let message = format!(
            "{url}: PostgreSQL has backups of its own\nhint: `pg_dump --format=custom`, or base \
             backups with an archive of its log; docs/management.md"
        );
        return Err(Error::Added { message, exit: Exit::Usage });
    }
    let path = config.database();
    if !path.exists() {
        let message = format!("{}: there is no database to copy", path.display());
        return Err(Error::Added { message, exit: Exit::NoInput });
    }
    if to.exists() {
        let hint = "give another file; a backup is never overwritten";
        return Err(Error::Exists { path: to.to_owned(), hint });
    }
    let manifest = SqliteStore::backup(&path, to, config.store.busy_timeout, session.now());
    let manifest = manifest.map_err(of_store)?;
    let beside = files::beside(to, ".json");
    let text = serde_json::to_string_pretty(&manifest)
        .map_err(|e| Error::Added { message: e.to_string(), exit: Exit::Internal })?;
    files::replace(&beside, format!("{text}\n").as_bytes())?;
    if session.output.json {
        return session.output.json_line(&manifest);
    }
    let size = count(manifest.bytes, "byte");
    session.output.line(&format!("{}: {size}, sound", to.display()))?;
    session.output.line(&format!("{}: what it holds", beside.display()))
}

/// The key to revoke.
struct RevokedKey {
    key: KeyRef,
    audience: AudienceName,
    org: Option<OrgId>,
}

async fn revoke(config: AdminToml, revoked: RevokedKey, session: &mut Session) -> Result<()> {
    let OpenState { store, config } = open_to_change(config, session).await?;
    let RevokedKey { key, audience, org } = revoked;
    let request = ChangeRequest {
        audience: audience.clone(),
        org,
        actor: host_user(session),
        channel: Channel::default(),
        at_ms: session.clock.now().unix_ms,
        idempotency: None,
        change: KeyChange::SetStatus { key, if_match: None, status: StatusChange::Revoke },
    };
    let changed = store.change(request).await.map_err(of_store)?;
    let (entry, serial) = (&changed.key.entry, changed.serial);
    if !session.output.json {
        session.output.line(&format!("{}: revoked, serial {serial}", entry.describe()))?;
        session.output.flush()?;
    }
    let options = PublisherOptions {
        store,
        settings: config,
        shelf: ArtefactShelf::default(),
        book: SidecarBook::default(),
        clock: session.clock.clone(),
    };
    let published = publish_change(&options, &audience, serial).await;
    if session.output.json {
        let (id, status) = (entry.id.to_string(), entry.status.as_str());
        let answer =
            json!({"id": id, "status": status, "serial": serial, "published": published.is_ok()});
        session.output.json_line(&answer)?;
        return published;
    }
    published?;
    session.output.note(match is_served(&options.settings.state)? {
        true => "published",
        false => "published into the directories of its targets",
    });
    Ok(())
}

/// The person at the keyboard.
fn host_user(session: &Session) -> StoreActor {
    StoreActor::HostUser(session.stamp(0).who.into())
}

/// An id or a UUID.
fn key_ref(text: &str) -> std::result::Result<KeyRef, String> {
    match Uid::parse(text) {
        Some(uid) => Ok(KeyRef::Uid(uid)),
        None => KeyId::parse(text).map(KeyRef::Id).map_err(|e| e.to_string()),
    }
}
