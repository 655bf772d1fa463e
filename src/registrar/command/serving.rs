//! `admin serve` and `admin bootstrap`: the running service, and the first way into it.

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::fault::of_store;
use super::{OpenState, open_as_it_is, process};
use crate::artefacts::{ArtefactFleet, ArtefactService, ArtefactShelf, BehindCaller, WaitLimits};
use crate::config::Bind;
use crate::core::OrgId;
use crate::exit::Exit;
use crate::manage::error::{Error, Result};
use crate::manage::operation::may::PersonRole;
use crate::manage::session::Session;
use crate::registrar::app::{App, Publishing};
use crate::registrar::checkpoints::{self, CheckpointKeeper};
use crate::registrar::config::AdminToml;
use crate::registrar::people::{AuthError, BootstrapFor, bootstrap_link, keep_finishing};
use crate::registrar::publish::fleet::SidecarBook;
use crate::registrar::publish::hindrance;
use crate::registrar::publish::status;
use crate::registrar::publish::{Publisher, PublisherOptions};
use crate::registrar::serve::{
    CertificateWatch, ServiceListener, ServiceTls, router, serve as serve_connections,
};
use crate::registrar::usage;
use crate::telemetry::log::{self, LogError, LogTerms, OperatorLog};
use crate::tls::TlsError;

/// With one line per request, and without. `log.level` is about everything else.
const ACCESS_DIRECTIVES: (&str, &str) = ("access=info", "access=off");

/// What a link lacks if nothing says where people reach the service.
const NO_HOST: &str = "the link has no host: `listen.address` is a Unix socket, and \
                       `listen.public_url` is missing\nhint: set `listen.public_url` to the URL at \
                       which people reach the service, such as https://keys.example.com; put the \
                       beginning of that URL before this link";

#[derive(Debug, clap::Args)]
pub(super) struct Bootstrap {
    /// Organization of the person; without it an operator of the installation
    #[arg(long, value_parser = OrgId::parse)]
    org: Option<OrgId>,
    /// Role in the organization
    #[arg(long, requires = "org", value_parser = role, default_value = "owner")]
    role: PersonRole,
    /// What the person is called; the same name is the same person [default: the user]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

fn role(text: &str) -> std::result::Result<PersonRole, String> {
    let found = PersonRole::parse(text).filter(|role| *role != PersonRole::Operator);
    found.ok_or_else(|| "must be owner, admin, member or auditor".to_owned())
}

// === impl Bootstrap ===

impl Bootstrap {
    pub(super) async fn run(self, config: AdminToml, session: &mut Session) -> Result<()> {
        session.output.refuse_closed()?;
        let url = config.reached_at();
        if url.is_empty() {
            session.output.warn(NO_HOST);
        }
        let OpenState { store, .. } = open_as_it_is(config, session)?;
        let by: Box<str> = session.stamp(0).who.into();
        let name = match &self.name {
            Some(name) => name.trim().to_owned(),
            None => by.split(" (uid").next().unwrap_or_default().to_owned(),
        };
        if name.is_empty() || name.len() > 100 || name.chars().any(char::is_control) {
            return Err(Error::argument("--name", "must be one line of 1 to 100 bytes"));
        }
        let role = match &self.org {
            Some(_) => self.role,
            None => PersonRole::Operator,
        };
        let wanted = BootstrapFor {
            name: name.into(),
            org: self.org.as_ref().map(|org| org.as_str().to_owned()),
            role: role.as_str().to_owned(),
            by,
        };
        let now_ms = session.clock.now().unix_ms;
        let link = bootstrap_link(&*store, &url, &wanted, now_ms).await.map_err(of_auth)?;
        if session.output.json {
            let answer = serde_json::json!({"url": *link, "name": wanted.name,
                "org": wanted.org, "role": wanted.role});
            return session.output.json_line(&answer);
        }
        session.output.line(&link)?;
        let whom = match &self.org {
            Some(org) => format!("as {} of {}", role.as_str(), org.as_str()),
            None => "as an operator".to_owned(),
        };
        let note = format!("signs `{}` in {whom}; good once, within 15 minutes", wanted.name);
        session.output.note(&note);
        Ok(())
    }
}

fn of_auth(error: AuthError) -> Error {
    match error {
        AuthError::Store(error) => of_store(error),
        other => Error::Added { message: other.to_string(), exit: Exit::Internal },
    }
}

/// What is wrong with `[listen.tls]`.
pub(super) fn of_tls(error: TlsError) -> Error {
    let text = error.to_string();
    let message = match text.contains("\nhint: ") {
        true => text,
        false => format!("{text}\nhint: listen.tls names certificate, key and authorities"),
    };
    Error::Added { message, exit: Exit::Config }
}

/// Logs to standard error, on a thread of its own. `None`: a test's process has a log already.
fn start_log(app: &App) -> Result<Option<OperatorLog>> {
    let config = app.settings.log;
    let started = log::start(LogTerms {
        format: config.format,
        level: config.level,
        also: if config.access { ACCESS_DIRECTIVES.0 } else { ACCESS_DIRECTIVES.1 },
        dropped: app.metrics.log_lines_dropped(),
    });
    match started {
        Ok(log) => Ok(Some(log)),
        Err(LogError::Started) => Ok(None),
        Err(error) => Err(Error::Added { message: error.to_string(), exit: Exit::Internal }),
    }
}

/// Runs for ever.
async fn count_dropped(log: Option<&OperatorLog>) {
    let mut tick = tokio::time::interval(Duration::from_secs(5));
    loop {
        tick.tick().await;
        log.into_iter().for_each(OperatorLog::count_dropped);
    }
}

/// Runs until a signal says to stop.
pub(super) fn serve(config: AdminToml, session: &mut Session) -> Result<()> {
    let internal =
        |error: std::io::Error| Error::Added { message: error.to_string(), exit: Exit::Internal };
    process::prepare();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_name("registrar")
        .enable_all()
        .build()
        .map_err(internal)?;
    let OpenState { config, store } = open_as_it_is(config, session)?;
    let tls = config.tls.as_ref();
    let tls = tls.map(|files| ServiceTls::load(files, session.clock.clone()));
    let tls = tls.transpose().map_err(of_tls)?;
    runtime.block_on(async {
        let listener =
            ServiceListener::bind(&config.listen, config.socket, tls.clone()).map_err(|error| {
                let at = match &config.listen {
                    Bind::Tcp(address) => address.to_string(),
                    Bind::Unix(path) => format!("unix:{}", path.display()),
                };
                let hint = listen_hint(&config.listen, &error);
                let message = format!("cannot listen on {at}: {error}\nhint: {hint}");
                Error::Added { message, exit: Exit::CannotCreate }
            })?;
        let mut terminate = signal(SignalKind::terminate()).map_err(internal)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(internal)?;
        let mut app = App::new(store, config, session.clock.clone());
        let log = start_log(&app)?;
        let (shelf, book) = (ArtefactShelf::default(), SidecarBook::default());
        let starting = Publisher::start(PublisherOptions {
            store: Arc::clone(&app.store),
            settings: Arc::clone(&app.settings),
            shelf: shelf.clone(),
            book: book.clone(),
            clock: app.clock.clone(),
        });
        let publisher = tokio::select! {
            started = starting => started?,
            // The start may be waiting for another process to end.
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        };
        let artefacts = artefacts(&app, shelf.clone(), book.clone());
        app.publishing = Some(Publishing { publisher: publisher.handle(), artefacts });
        let keeper = CheckpointKeeper::of(&app.settings)?;
        let watch = tls.map(|tls| tls.watch(app.clock.clone(), Arc::clone(&app.metrics)));
        let _watch: Option<CertificateWatch> = watch.transpose().map_err(internal)?;
        let (stop, stopped) = watch::channel(false);
        session.output.line(&format!("listening on {listener}"))?;
        session.output.flush()?;
        let routes = router(app.clone());
        let caring = tokio::spawn(usage::run(app.clone()));
        let finishing = tokio::spawn(keep_finishing(app.people.clone()));
        let asked = app.settings.status_pulls.iter().cloned();
        let asking: Vec<_> = asked
            .map(|sidecar| {
                let (handle, clock) = (publisher.handle(), app.clock.clone());
                tokio::spawn(status::keep_asking(sidecar, handle, book.clone(), clock))
            })
            .collect();
        let noting =
            tokio::spawn(hindrance::keep_noting(publisher.handle(), app.settings.state.clone()));
        let signing = keeper.map(|keeper| tokio::spawn(checkpoints::run(app.clone(), keeper)));
        let served = tokio::spawn(serve_connections(app, listener, routes, stopped));
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = count_dropped(log.as_ref()) => {}
        }
        tracing::info!("stopping");
        stop.send_replace(true);
        // Releases sidecars that are waiting for artefacts.
        shelf.close();
        caring.abort();
        finishing.abort();
        noting.abort();
        signing.iter().chain(&asking).for_each(tokio::task::JoinHandle::abort);
        // A panic of that task has been reported already.
        let _ = served.await;
        publisher.stop();
        Ok(())
    })
}

/// What to do if the service cannot listen.
fn listen_hint(listen: &Bind, error: &std::io::Error) -> String {
    let other = "or set another `listen.address`";
    match (listen, error.kind()) {
        (Bind::Tcp(address), std::io::ErrorKind::AddrInUse) => {
            let port = address.port();
            format!("another process listens there: `ss -ltnp 'sport = :{port}'` names it; {other}")
        }
        (Bind::Unix(_), std::io::ErrorKind::NotFound) => {
            format!("create the directory of the socket, {other}")
        }
        _ => "set another `listen.address`".to_owned(),
    }
}

/// What fleets may fetch, and where their reports are noted.
fn artefacts(app: &App, shelf: ArtefactShelf, book: SidecarBook) -> ArtefactService {
    let fleets = app.settings.fleets.iter().map(|fleet| ArtefactFleet {
        name: fleet.name.clone(),
        audiences: fleet.audiences.iter().map(|name| name.as_str().into()).collect(),
        bearer: Some(fleet.bearer),
    });
    let fleets: Vec<_> = fleets.collect();
    // A distributor waits for all files of its fleet, under one name.
    let files = fleets.iter().map(|fleet| fleet.audiences.len() * 2).max().unwrap_or(0);
    let limits = WaitLimits::default().for_files(files);
    let clock = app.clock.clone();
    let behind = match app.store.is_shared() {
        // Another instance has published it, and this one is about to learn of it.
        true => BehindCaller::Withheld,
        false => BehindCaller::Sent,
    };
    ArtefactService::with_terms(shelf, fleets, limits, behind, move |poll| {
        book.heard(&poll, clock.now().unix_ms);
    })
}
