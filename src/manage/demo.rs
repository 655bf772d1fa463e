//! `keygatectl demo`: a guided tour in a temporary folder, with the real programs.
//!
//! The sidecar is a child process, `keygate serve`, from the directory of the running binary: this
//! room does not know the proxy. The upstream is a few lines of our own, so that the tour can say
//! what reached it.

pub mod child;
pub mod tour;
pub mod upstream;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::child::Sidecar;
use self::tour::Tour;
use self::upstream::DemoUpstream;
use super::error::{Error, Result};
use super::files;
use super::session::{Common, Session};
use super::signer::{self, Signer};
use crate::clock::Clock;

#[derive(Debug, clap::Args)]
pub struct Demo {
    /// Exit after the tour, with 1 if a row does not show what it should
    #[arg(long)]
    pub once: bool,
    /// Sidecar to start [default: `keygate` beside this program]
    #[arg(long, value_name = "FILE")]
    pub keygate: Option<PathBuf>,
}

// === impl Demo ===

impl Demo {
    pub fn run(self, session: &mut Session) -> Result<()> {
        let keygate = match self.keygate {
            Some(path) => path,
            None => beside_this_program()?,
        };
        let folder = tempfile::Builder::new()
            .prefix("keygate-demo-")
            .tempdir()
            .map_err(Error::write(&std::env::temp_dir()))?;
        let root = folder.path();
        session.output.note(&format!("signer, registry, keys and table in {}", root.display()));
        let upstream = DemoUpstream::start().map_err(Error::write(Path::new("127.0.0.1:0")))?;
        let mut tour = Tour::prepare(root, &upstream)?;
        let mut sidecar = Sidecar::start(&keygate, root)?;
        tour.meet(&sidecar, keygate);
        session.output.note(&format!(
            "upstream {} (knows nothing of keys), keygate {}\n",
            upstream.address(),
            sidecar.address()
        ));
        let kept = tour.walk(session)?;
        session.output.flush()?;
        if self.once {
            sidecar.stop();
            return if kept { Ok(()) } else { Err(Error::NotAsPromised) };
        }
        tour.invite(root, session)?;
        session.output.flush()?;
        sidecar.wait_for_interrupt()?;
        session.output.note("stopped; the temporary folder is removed");
        Ok(())
    }
}

/// A session of a command that the demo runs in its own folder.
fn session_in(root: &Path) -> Session {
    let common = Common {
        registry: Some(root.join("keys.toml")),
        json: false,
        actor: Some("demo".to_owned()),
        lock_timeout: std::time::Duration::from_secs(10),
    };
    Session::silent(&common, Clock::system())
}

/// Signer, registry and configuration.
fn write_files(root: &Path, upstream: &Arc<DemoUpstream>) -> Result<()> {
    let private = root.join("signer.pem");
    let mut silent = session_in(root);
    signer::new(&private, Some(&root.join("signer.pub")), &mut silent.output)?;
    Signer::load(&private)?;
    files::replace(&root.join("keys.toml"), REGISTRY.as_bytes())?;
    let config = CONFIG.replace("UPSTREAM", &upstream.address().to_string());
    files::replace(&root.join("keygate.toml"), config.as_bytes())
}

fn beside_this_program() -> Result<PathBuf> {
    let this = Path::new("this program");
    let program = std::env::current_exe().map_err(Error::read(this))?;
    let keygate = program.with_file_name("keygate");
    match keygate.exists() {
        true => Ok(keygate),
        false => Err(Error::Missing {
            what: "the program `keygate` beside this one",
            hint: "`make build` makes both; or give --keygate FILE",
        }),
    }
}

const REGISTRY: &str = r#"# Keys of the demo: digests, never secrets.
registry = 1
serial = 0
audience = "demo"

[prefixes.demo]
prefix = "demo_"
environment = true
random = 32
checksum = 6
checksummed = true

[publish]
signer = "signer.pem"
table = "table.kgt"
patch = "table.kgp"
on_change = "patch"
"#;

const CONFIG: &str = r#"# What keygate does in front of the service of this demo.
environment = "live"

[listen]
address = "127.0.0.1:0"

[upstream]
url = "http://UPSTREAM"

[table]
path = "table.kgt"
patch = "table.kgp"
audience = "demo"
trusted_signers = ["signer.pub"]
state_file = "keygate.state"

[admin]
address = "127.0.0.1:0"

[[credentials]]
source = "header"
name = "x-api-key"

[[credentials]]
source = "bearer"
prefixes = ["demo_"]

[[routes]]
path = "/api/*"
methods = ["GET"]
permissions = ["read"]

[[routes]]
path = "/api/*"
methods = ["POST"]
permissions = ["send"]
"#;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manage::registry::Registry;

    #[test]
    fn the_demo_registry_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.toml");
        std::fs::write(&path, REGISTRY).unwrap();
        let registry = Registry::open(&path).unwrap();
        assert_eq!(registry.settings.audience.as_deref(), Some("demo"));
    }
}
