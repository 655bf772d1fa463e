//! One limit that two sidecars share, counted in a store, if this machine has one.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::super::super::error::{Error, Result};
use super::super::super::files;
use super::super::child::{DemoProcess, Sidecar};
use super::{DEADLINE, POLL, Row, Tour, code_of, status};

/// Programs that speak the protocol.
const STORES: [&str; 2] = ["valkey-server", "redis-server"];

/// The store and the two sidecars. Dropping the value ends them.
struct SharedPair {
    sidecars: [Sidecar; 2],
    _store: DemoProcess,
}

impl Tour {
    /// The third request of a key with 2/min, after two sidecars admitted one each.
    pub(super) fn shared_limit(&self) -> Result<Row> {
        let row = |status: String, kept| Row {
            what: "the same limit of two sidecars ([shared])".to_owned(),
            request: "GET /api/orders".to_owned(),
            status,
            saw: "nothing".to_owned(),
            kept,
        };
        if !cfg!(feature = "shared-limits") {
            return Ok(row("not shown: built without `shared-limits`".to_owned(), true));
        }
        let Some(store) = STORES.iter().find_map(|name| on_path(name)) else {
            let names = STORES.join(" or ");
            return Ok(row(format!("not shown: this machine has no {names}"), true));
        };
        let pair = SharedPair::start(self, &store)?;
        let [one, two] = pair.sidecars.each_ref().map(Sidecar::address);
        let fields = [("x-api-key", self.limited.secret.as_str())];
        let first = self.send_to(one, "GET", &fields)?.status;
        let second = self.send_to(two, "GET", &fields)?.status;
        self.upstream.take();
        let third = self.send_to(one, "GET", &fields)?;
        let seen = self.upstream.take();
        let code = code_of(&third.body);
        let kept = (first, second, third.status) == (200, 200, 429) && seen.is_none();
        Ok(row(status(&third, code.as_deref()), kept))
    }
}

// === impl SharedPair ===

impl SharedPair {
    fn start(tour: &Tour, program: &Path) -> Result<Self> {
        let registry = &tour.session.registry;
        let root = registry.parent().unwrap_or(Path::new("."));
        let socket = root.join("store.sock");
        let mut command = Command::new(program);
        command.args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"]);
        command.arg(&socket);
        let mut store = DemoProcess::start(command, root, "store.log")?;
        store.up(|log| log.contains("eady to accept connections").then_some(()))?;
        let path = registry.with_file_name("keygate.toml");
        let text = std::fs::read_to_string(&path).map_err(Error::read(&path))?;
        // Two processes cannot share one state file.
        let text = text.replace("state_file = \"keygate.state\"\n", "");
        let shared =
            format!("\n[shared]\nurl = \"unix://{}\"\ntimeout = \"1s\"\n", socket.display());
        let start = |name: &str| {
            let folder = root.join(name);
            std::fs::create_dir(&folder).map_err(Error::write(&folder))?;
            let mut text = format!("{text}{shared}");
            for file in ["table.kgt", "table.kgp", "signer.pub"] {
                text = text.replace(&format!("\"{file}\""), &format!("\"../{file}\""));
            }
            files::replace(&folder.join("keygate.toml"), text.as_bytes())?;
            let sidecar = Sidecar::start(&tour.keygate, &folder)?;
            tour.reaches_store(sidecar.admin())?;
            Ok(sidecar)
        };
        Ok(Self { sidecars: [start("shared-1")?, start("shared-2")?], _store: store })
    }
}

impl Tour {
    fn reaches_store(&self, admin: SocketAddr) -> Result<()> {
        let begin = self.session.clock.now().mono_ns;
        loop {
            let page = self.agent.get(format!("http://{admin}/status")).call();
            let page = page.and_then(|mut page| page.body_mut().read_to_string());
            let status = serde_json::from_str::<serde_json::Value>(&page.unwrap_or_default());
            if status.is_ok_and(|status| status["shared_limits"]["up"] == true) {
                return Ok(());
            }
            let took_ns = self.session.clock.now().mono_ns - begin;
            if u128::from(took_ns) > DEADLINE.as_nanos() {
                let why = "a sidecar does not reach the store of shared limits".to_owned();
                return Err(Error::NotInForce(why));
            }
            std::thread::sleep(POLL);
        }
    }
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}
