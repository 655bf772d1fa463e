//! `keygatectl demo`: a guided tour in a temporary folder, with the real programs.
//!
//! The sidecar is a child process, `keygate serve`, from the directory of the running binary: this
//! room does not know the proxy. The management service is one too, if this program includes it:
//! this room does not know that either. The upstream is a few lines of our own, so that the tour
//! can show what reached it.

pub mod child;
pub mod managed;
pub mod tour;
pub mod upstream;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use self::child::{Sidecar, wait_for_interrupt};
use self::managed::{ManagedDemo, ManagedTour};
use self::tour::Tour;
use self::upstream::DemoUpstream;
use super::error::{Error, Result};
use super::files;
use super::service::ServiceArgs;
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
    /// Run a program after the tour, which finds the addresses in its environment:
    /// KEYGATE_DEMO_PAGE, KEYGATE_DEMO_SIGN_IN and KEYGATE_DEMO_SERVICE. Exit with 1 if it fails
    #[arg(long, value_name = "PROGRAM")]
    pub then: Option<PathBuf>,
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
        let mut rows = tour.walk()?;
        let mut managed = None;
        if ManagedDemo::IS_BUILT {
            let keygate = tour.keygate();
            let demo = ManagedDemo::start(&root.join("managed"), keygate, &upstream)?;
            rows.extend(ManagedTour::new(&tour, &demo).walk()?);
            managed = Some(demo);
        }
        let mut kept = tour::print(&rows, session)?;
        session.output.flush()?;
        if let Some(program) = &self.then {
            kept &= then(program, managed.as_ref())?;
        }
        if self.once {
            return if kept { Ok(()) } else { Err(Error::NotAsPromised) };
        }
        tour.invite(root, session)?;
        match &managed {
            Some(managed) => managed.invite(session)?,
            None => session.output.note(
                "the management service and its page are in programs that were built with \
                 --features admin",
            ),
        }
        session.output.flush()?;
        let mut processes = vec![sidecar.process()];
        processes.extend(managed.iter_mut().flat_map(ManagedDemo::processes));
        wait_for_interrupt(processes)?;
        session.output.note("stopped; the temporary folder is removed");
        Ok(())
    }
}

/// Runs `program` alongside the demo. Returns whether it reports success.
fn then(program: &Path, managed: Option<&ManagedDemo>) -> Result<bool> {
    let mut command = Command::new(program);
    if let Some(managed) = managed {
        let link = managed.sign_in_link()?;
        command.env("KEYGATE_DEMO_PAGE", managed.page());
        command.env("KEYGATE_DEMO_SIGN_IN", link.as_str());
        command.env("KEYGATE_DEMO_SERVICE", managed.service());
    }
    Ok(command.status().map_err(Error::read(program))?.success())
}

/// A session for a command that the demo runs in its own folder.
fn session_in(root: &Path) -> Session {
    let common = Common {
        registry: Some(root.join("keys.toml")),
        json: false,
        actor: Some("demo".to_owned()),
        lock_timeout: std::time::Duration::from_secs(10),
        service: ServiceArgs::default(),
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
