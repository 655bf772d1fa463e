//! `keygatectl signer`: keys that sign, and the process that holds one for a management service. It
//! runs as another user, judges what it is asked to sign, and never signs a step back. Whoever
//! breaks into the service can issue keys, but can neither roll sidecars back nor empty them.
//!
//! Imports signers, files and errors of this room, the configuration's reader, and table.

pub mod active;
pub mod allowance;
pub mod ask;
pub mod checkpoint;
pub mod co_sign;
pub mod ended;
pub mod ends;
pub mod held;
pub mod keeper;
pub mod ledger;
pub mod meant;
pub mod numbers;
pub mod opened;
pub mod rules;
pub mod serve;
pub mod settings;
pub mod source;
#[cfg(test)]
pub(crate) mod testkit;
#[cfg(test)]
mod tests;
pub mod timed;
pub mod wire;

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use self::allowance::{Allowance, AllowedPass};
use self::keeper::SigningKeeper;
use self::rules::SigningRules;
use self::serve::SignerDesk;
use self::settings::SignerSettings;
use super::error::{Error, Result};
use super::session::Session;
use super::signer;
use super::time;
use crate::core::SignerKey;
use crate::exit::Exit;
use crate::wording::shell::quoted_path;

/// The longest that an allowance is valid.
const LONGEST_WORD: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, clap::Subcommand)]
pub enum SignerCommand {
    /// Create an Ed25519 key pair (PKCS#8 PEM, mode 0600) and print its public key
    New {
        /// File for the private key; never overwritten
        #[arg(long, short, value_name = "FILE", default_value = "signer.pem")]
        out: PathBuf,
        /// Also write the public key to this file
        #[arg(long, value_name = "FILE")]
        public_out: Option<PathBuf>,
    },
    /// Print the public key and the id of a signer
    Show {
        /// Private or public key in PEM, `ed25519:BASE64`, or `unix:PATH` of a `signer serve`
        #[arg(value_name = "KEY")]
        key: String,
    },
    /// Hold a key, and sign what only goes forward for users of a Unix socket
    Serve(ServeSigner),
    /// Let a signer sign once what it would refuse: fewer active keys, a leap of serials, or a restored
    /// audit log
    Allow(AllowOnce),
    /// Sign what waits at a management service for several signers
    CoSign(co_sign::CoSign),
}

#[derive(Debug, clap::Args)]
pub struct ServeSigner {
    /// Configuration of the signer
    #[arg(long, short, value_name = "FILE", default_value = "signer.toml")]
    config: PathBuf,
}

#[derive(Debug, clap::Args)]
pub struct AllowOnce {
    /// Configuration of the signer
    #[arg(long, short, value_name = "FILE", default_value = "signer.toml")]
    config: PathBuf,
    /// Audience whose next table or patch may be what the signer would refuse
    #[arg(long, value_name = "NAME", required_unless_present_any = ["recovery", "list", "withdraw"])]
    audience: Option<String>,
    /// It may end more keys than the brake lets pass, and has to leave so many active; 0: none at all
    #[arg(long, value_name = "COUNT", requires = "audience")]
    least: Option<u64>,
    /// Serials go on from this one, although a higher one was signed or it is far ahead
    #[arg(long, value_name = "SERIAL", requires = "audience")]
    serial: Option<u64>,
    /// Let the audit log of a database that was restored from a backup be signed, or one that goes back
    /// or too far ahead
    #[arg(long, conflicts_with = "audience")]
    recovery: bool,
    /// How long it is allowed, at most 1d
    #[arg(long = "for", value_name = "DURATION", default_value = "15m", value_parser = time::duration)]
    life: Duration,
    /// Show what is allowed and not used yet
    #[arg(long, conflicts_with_all = ["audience", "least", "serial", "recovery", "life", "withdraw"])]
    list: bool,
    /// Take back what is allowed: all of it, or that of --audience or --recovery
    #[arg(long, conflicts_with_all = ["least", "serial", "life"])]
    withdraw: bool,
}

// === impl SignerCommand ===

impl SignerCommand {
    pub fn run(self, session: &mut Session) -> Result<()> {
        match self {
            Self::New { out, public_out } => {
                signer::new(&out, public_out.as_deref(), &mut session.output)
            }
            Self::Show { key } => match key.strip_prefix("unix:") {
                Some(path) => {
                    let raw = ask::ask_key(path.as_ref()).map_err(|e| Error::Added {
                        message: format!(
                            "{e}\nhint: look whether the signer runs, and whether `uids` in its \
                             configuration has you"
                        ),
                        exit: Exit::TryAgain,
                    })?;
                    let key = SignerKey::from_bytes(raw).map_err(|e| Error::argument("KEY", e))?;
                    signer::show(&signer::inline(&key), &mut session.output)
                }
                None => signer::show(&key, &mut session.output),
            },
            Self::Serve(serve) => serve.run(session),
            Self::Allow(allow) => allow.run(session),
            Self::CoSign(co_sign) => co_sign.run(session),
        }
    }
}

// === impl ServeSigner ===

impl ServeSigner {
    /// Runs until a signal says to stop.
    fn run(self, session: &mut Session) -> Result<()> {
        let internal =
            |e: std::io::Error| Error::Added { message: e.to_string(), exit: Exit::Internal };
        // The key is in memory: keep it out of core files and away from other processes of this
        // user.
        setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })
            .and_then(|()| set_dumpable_behavior(DumpableBehavior::NotDumpable))
            .map_err(|e| internal(e.into()))?;
        let settings = SignerSettings::load(&self.config)?;
        let keeper = SigningKeeper::open(settings.terms()?)?;
        let listener =
            serve::listen(&settings.socket, settings.file).map_err(|e| Error::Added {
                message: format!(
                    "cannot listen on {}: {e}\nhint: {}",
                    settings.socket.display(),
                    listen_hint(&settings.socket, &self.config)
                ),
                exit: Exit::CannotCreate,
            })?;
        for rules in &settings.rules {
            let (name, serial) = (&rules.audience, keeper.serial(&rules.audience));
            session.output.note(&match serial {
                0 => {
                    format!("{name}: nothing was signed yet, at least serial {}", rules.min_serial)
                }
                serial => format!("{name}: signed up to serial {serial}"),
            });
        }
        let id = keeper.public().id();
        // Absolute, because the operator who allows something works in another directory.
        let config = std::path::absolute(&self.config).unwrap_or_else(|_| self.config.clone());
        let path = settings.socket.display();
        session.output.line(&format!("signer {id} listens on unix:{path}"))?;
        session.output.flush()?;
        let SignerSettings { uids, max_bytes, .. } = settings.clone();
        let desk =
            SignerDesk::new(keeper, uids, max_bytes, session.clock.clone()).of_config(&config);
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(internal)?;
        let stopped = runtime.block_on(async {
            let mut terminate = signal(SignalKind::terminate())?;
            let mut interrupt = signal(SignalKind::interrupt())?;
            // The thread ends with the process: only what is on the disk counts.
            std::thread::Builder::new()
                .name("desk".to_owned())
                .spawn(move || desk.serve(&listener))?;
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            Ok(())
        });
        std::fs::remove_file(&settings.socket).ok();
        stopped.map_err(internal)
    }
}

/// What to do if the signer cannot listen.
fn listen_hint(socket: &Path, config: &Path) -> String {
    let config = quoted_path(config);
    match socket
        .parent()
        .filter(|directory| !directory.as_os_str().is_empty() && !directory.exists())
    {
        Some(directory) => format!(
            "create the directory {}, or set another `socket` in {config}",
            quoted_path(directory)
        ),
        None => format!("set another `socket` in {config}"),
    }
}

// === impl AllowOnce ===

impl AllowOnce {
    fn run(self, session: &mut Session) -> Result<()> {
        let settings = SignerSettings::load(&self.config)?;
        if self.list {
            let given = Allowance::given(&settings.state, session.clock.now().unix_ms)?;
            return tell(&given, "is signed, once,", "nothing is allowed", session);
        }
        if self.withdraw {
            return self.take_back(&settings, session);
        }
        if self.life > LONGEST_WORD || self.life.is_zero() {
            return Err(Error::argument("--for", "must be more than nothing and at most 1d"));
        }
        let passes = self.passes(&settings)?;
        let now = session.clock.now();
        let life = u64::try_from(self.life.as_millis()).unwrap_or(u64::MAX);
        let until_ms = now.unix_ms.saturating_add(life);
        let by = session.stamp(0).who.to_owned();
        let mut given = Vec::new();
        for pass in passes {
            let allowance = Allowance { pass, until_ms, by: by.clone() };
            allowance.give(&settings.state)?;
            given.push(allowance);
        }
        tell(&given, "is signed, once,", "", session)
    }

    fn take_back(&self, settings: &SignerSettings, session: &mut Session) -> Result<()> {
        if let Some(audience) = &self.audience {
            rules_of(settings, audience)?;
        }
        let meant = |word: &Allowance| match (&self.audience, self.recovery) {
            (Some(audience), _) => word.pass.audience() == Some(audience),
            (None, true) => word.pass == AllowedPass::Recovery,
            (None, false) => true,
        };
        let now_ms = session.clock.now().unix_ms;
        let gone = Allowance::withdraw(&settings.state, now_ms, meant)?;
        tell(&gone, "is taken back; it was allowed", "nothing was allowed", session)
    }

    /// The passes that the options ask for. At least one.
    fn passes(&self, settings: &SignerSettings) -> Result<Vec<AllowedPass>> {
        let Some(audience) = self.audience.clone() else { return Ok(vec![AllowedPass::Recovery]) };
        let rules = rules_of(settings, &audience)?;
        if let Some(serial) = self.serial
            && !(rules.min_serial.max(1)..=numbers::HIGHEST).contains(&serial)
        {
            let why = format!(
                "must be from {} to {}: nothing else is signed, whatever is allowed",
                rules.min_serial.max(1),
                numbers::HIGHEST
            );
            return Err(Error::argument("--serial", why));
        }
        let of = || audience.clone();
        let fall = self.least.map(|least| AllowedPass::Fall { audience: of(), least });
        let serial = self.serial.map(|from| AllowedPass::Serial { audience: of(), from });
        let passes: Vec<_> = fall.into_iter().chain(serial).collect();
        if passes.is_empty() {
            let why = "needs --least or --serial: what the next table or patch may do";
            return Err(Error::argument("--audience", why));
        }
        Ok(passes)
    }
}

/// The rules for signing for this audience.
fn rules_of<'s>(settings: &'s SignerSettings, audience: &str) -> Result<&'s SigningRules> {
    settings.rules.iter().find(|rules| *rules.audience == *audience).ok_or_else(|| {
        let names: Vec<_> = settings.rules.iter().map(|r| &*r.audience).collect();
        let why = format!("is none of those signed for ({})", names.join(", "));
        Error::argument("--audience", why)
    })
}

/// Prints a line for each; `none` if there are none.
fn tell(allowed: &[Allowance], what: &str, none: &str, session: &mut Session) -> Result<()> {
    for allowance in allowed {
        if session.output.json {
            session.output.json_line(allowance)?;
            continue;
        }
        let Allowance { pass, until_ms, by } = allowance;
        let until = time::show(until_ms / 1000);
        session.output.line(&format!("{pass} {what} until {until}, as {by} has allowed"))?;
    }
    if allowed.is_empty() && !none.is_empty() {
        session.output.note(none);
    }
    Ok(())
}
