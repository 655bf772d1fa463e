//! What every command gets: time, randomness, output, and the person it acts for.

use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};

use super::error::{Error, Result};
use super::operation::{NoRandomness, RandomSource};
use super::output::Output;
use super::registry::audit::{self, AuditStamp, Record};
use super::service::ServiceArgs;
use super::time;
use crate::clock::Clock;

/// Options of every command that works on a registry.
#[derive(Clone, Debug, clap::Args)]
pub struct Common {
    /// Registry of keys; `.toml` or `.jsonl` [default: keys.toml, or keys.jsonl if only that
    /// exists]
    #[arg(long, short, global = true, value_name = "FILE")]
    pub registry: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// Who makes the change, for the audit file [default: the user]
    #[arg(long, global = true, value_name = "NAME")]
    pub actor: Option<String>,
    /// How long to wait while another keygatectl writes
    #[arg(long, global = true, value_name = "DURATION", default_value = "30s", value_parser = time::duration)]
    pub lock_timeout: Duration,
    // Last: its options have a heading, which would also apply to those after it.
    #[command(flatten)]
    pub service: ServiceArgs,
}

/// Where a command can be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandPlace {
    Files,
    FilesOrService,
}

/// One run of the program.
#[derive(Debug)]
pub struct Session {
    pub clock: Clock,
    pub output: Output,
    pub registry: PathBuf,
    pub lock_timeout: Duration,
    /// Where keys are, if not in a registry.
    pub service: ServiceArgs,
    who: String,
}

/// The random source of the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemRandomness;

// === impl Common ===

impl Common {
    /// Refuses options that a command would ignore, given where its keys are.
    ///
    /// # Errors
    ///
    /// The option, and where it belongs.
    pub fn judge_place(&self, place: CommandPlace) -> Result<()> {
        let Some(given) = self.service.given() else { return Ok(()) };
        if place == CommandPlace::Files {
            let why =
                "is for `keys` and `signer co-sign`: other commands work on files of this host";
            return Err(Error::argument(given, why));
        }
        if self.service.server.is_none() {
            return Err(Error::argument(
                given,
                "is for a management service: give --server as well",
            ));
        }
        if self.registry.is_some() {
            let why = "is for files, and --server for keys of a service: give one of them";
            return Err(Error::argument("--registry", why));
        }
        if self.actor.is_some() {
            let why = "is for files: a service notes whose credential it is";
            return Err(Error::argument("--actor", why));
        }
        Ok(())
    }
}

// === impl Session ===

impl Session {
    pub fn new(common: &Common, clock: Clock) -> Self {
        let registry = common.registry.clone().unwrap_or_else(|| {
            let (toml, lines) = (Path::new("keys.toml"), Path::new("keys.jsonl"));
            if !toml.exists() && lines.exists() { lines } else { toml }.to_owned()
        });
        let mut output = Output::standard();
        output.json = common.json;
        output.work_at(common.service.shown());
        Self {
            clock,
            output,
            registry,
            lock_timeout: common.lock_timeout,
            service: common.service.clone(),
            who: audit::who(common.actor.as_deref()),
        }
    }

    /// For commands inside a command: prints nothing.
    pub fn silent(common: &Common, clock: Clock) -> Self {
        Self { output: Output::sink(), ..Self::new(common, clock) }
    }

    /// Another one for the same registry.
    pub fn silent_like(other: &Self) -> Self {
        Self {
            clock: other.clock.clone(),
            output: Output::sink(),
            registry: other.registry.clone(),
            lock_timeout: other.lock_timeout,
            service: other.service.clone(),
            who: other.who.clone(),
        }
    }

    pub fn now(&self) -> u64 {
        self.clock.now().unix_secs()
    }

    /// What the audit records of one change share.
    pub fn stamp(&self, serial: u64) -> AuditStamp<'_> {
        AuditStamp { now: self.now(), serial, who: &self.who }
    }

    /// A record that is not about one key.
    pub fn record(&self, serial: u64, action: &'static str, what: serde_json::Value) -> Record {
        let what = match what {
            serde_json::Value::Object(map) => map,
            _ => serde_json::Map::new(),
        };
        let stamp = self.stamp(serial);
        Record {
            time: time::show(stamp.now),
            serial,
            who: stamp.who.to_owned(),
            action,
            key: None,
            what,
        }
    }
}

// === impl SystemRandomness ===

impl RandomSource for SystemRandomness {
    fn fill(&mut self, to: &mut [u8]) -> std::result::Result<(), NoRandomness> {
        SystemRandom::new().fill(to).map_err(|_| NoRandomness)
    }
}
