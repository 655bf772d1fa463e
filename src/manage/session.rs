//! What every command is handed: the time, randomness, where to speak, on whose behalf.

use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};

use super::error::{Error, Result};
use super::output::Output;
use super::registry::audit::{self, AuditStamp, Record};
use super::time;
use crate::clock::Clock;
use crate::core::format::KeyFormat;
use crate::core::{Digest, Environment, KeyId, Secret};

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
}

/// One run of the program.
#[derive(Debug)]
pub struct Session {
    pub clock: Clock,
    pub output: Output,
    pub registry: PathBuf,
    pub patience: Duration,
    who: String,
}

/// A secret just made, with what may be kept of it.
#[derive(Debug)]
pub struct Issued {
    pub secret: Secret,
    pub digest: Digest,
    /// The first symbols behind prefix and environment.
    pub key_prefix: Box<str>,
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
        Self {
            clock,
            output,
            registry,
            patience: common.lock_timeout,
            who: audit::who(common.actor.as_deref()),
        }
    }

    /// For commands inside a command: says nothing.
    pub fn silent(common: &Common, clock: Clock) -> Self {
        Self { output: Output::sink(), ..Self::new(common, clock) }
    }

    /// Another one for the same registry.
    pub fn silent_like(other: &Self) -> Self {
        Self {
            clock: other.clock.clone(),
            output: Output::sink(),
            registry: other.registry.clone(),
            patience: other.patience,
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

/// `key_` and 12 symbols: 60 bits, generated again in the unlikely case that it is in use.
pub fn new_key_id() -> Result<KeyId> {
    const SYMBOLS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    let mut text = String::from(KeyId::PREFIX);
    for byte in random::<12>()? {
        text.push(char::from(*SYMBOLS.get(usize::from(byte & 31)).unwrap_or(&b'0')));
    }
    KeyId::parse(&text).map_err(|_| Error::Random)
}

/// A new secret in this form.
pub fn issue(format: &KeyFormat, environment: Option<Environment>) -> Result<Issued> {
    // About one byte in four is passed over; 1 KiB is far beyond the longest form.
    let secret = format.encode(environment, *zeroize::Zeroizing::new(random::<1024>()?));
    let secret = secret.ok_or(Error::Random)?;
    let rest = secret.expose().get(format.head_of(secret.expose())..).unwrap_or_default();
    let key_prefix = start_of(rest, KeyFormat::SHOWN);
    Ok(Issued { digest: secret.digest(), key_prefix, secret })
}

/// A public id in the manner of the form: shorter, without checksum. It need not be secret.
pub fn new_public_id(format: &KeyFormat, environment: Option<Environment>) -> Result<Box<str>> {
    let form = KeyFormat {
        random: if format.group == 0 { 16 } else { format.group.saturating_mul(4) },
        checksum: 0,
        checksummed: false,
        ..format.clone()
    };
    let id = form.encode(environment, random::<1024>()?).ok_or(Error::Random)?;
    Ok(String::from_utf8_lossy(id.expose()).into())
}

/// The first `count` characters, as far as they are visible ASCII.
pub fn start_of(secret: &[u8], count: usize) -> Box<str> {
    let shown = secret.iter().take(count).take_while(|b| b.is_ascii_graphic());
    shown.map(|b| char::from(*b)).collect::<String>().into()
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| Error::Random)?;
    Ok(bytes)
}
