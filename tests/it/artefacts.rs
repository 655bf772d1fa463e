//! Tables and patches over HTTP to real sidecars, which wait for the next one.

use std::sync::{Arc, Mutex};

use keygate::artefacts::{
    ArtefactFleet, ArtefactName, ArtefactPoll, ArtefactService, ArtefactShelf, ServedArtefact,
    ServedArtefacts,
};
use keygate::core::Digest;

use crate::support::client::exchange;
use crate::support::gate::{AUDIENCE, Folder, Gate, READER};
use crate::support::origin::ArtefactOrigin;
use crate::support::upstream::Upstream;

const TOKEN: &str = "a-token-of-the-fleet-1";

/// Serves a shelf until it is dropped.
struct Server {
    origin: ArtefactOrigin,
    shelf: ArtefactShelf,
    told: Arc<Mutex<Vec<ArtefactPoll>>>,
}

impl Server {
    fn start() -> Self {
        let told: Arc<Mutex<Vec<ArtefactPoll>>> = Arc::default();
        let shelf = ArtefactShelf::default();
        let fleet = ArtefactFleet {
            name: "web".into(),
            audiences: vec![AUDIENCE.into()],
            bearer: Some(Digest::of(TOKEN.as_bytes())),
        };
        let polls = Arc::clone(&told);
        let service = ArtefactService::new(shelf.clone(), vec![fleet], move |poll| {
            polls.lock().unwrap().push(poll);
        });
        let origin = ArtefactOrigin::start(service);
        Self { origin, shelf, told }
    }

    /// Serves the contents of the folder.
    fn put(&self, folder: &Folder, table: u64, patch: Option<u64>) {
        let served = |name: &str, serial| {
            ServedArtefact::new(serial, std::fs::read(folder.file(name)).unwrap())
        };
        let artefacts = ServedArtefacts {
            table: Some(served("keys.kgt", table)).into(),
            patch: patch.map(|serial| served("keys.kgp", serial)).into(),
        };
        self.shelf.put(AUDIENCE, artefacts);
    }

    /// The serial that the sidecar last said it has.
    fn has(&self, name: ArtefactName) -> Option<u64> {
        let told = self.told.lock().unwrap();
        let poll = told.iter().rfind(|poll| poll.name == name && poll.has.is_some())?;
        assert_eq!(poll.instance.as_deref(), Some("gate-1"), "{poll:?}");
        poll.has.as_ref().map(|has| has.serial)
    }
}

/// The sidecar waits for a patch that does not exist yet, gets each change immediately, and what it
/// says it has is in force. Polling alone would take ten minutes.
#[test]
fn a_sidecar_gets_each_change_while_it_waits() {
    let upstream = Upstream::start();
    let server = Server::start();
    let folder = Gate::before(&upstream).folder();
    let url = format!("http://{}/artefacts/{AUDIENCE}", server.origin.address);
    let config = folder.read("keygate.toml").replace(
        "path = \"keys.kgt\"",
        &format!(
            "url = \"{url}/table.kgt\"\npatch = \"{url}/patch.kgp\"\n\
             poll = \"10m\"\npatch_poll = \"10m\""
        ),
    );
    let more = "\n[table.http]\nlong_poll = \"20s\"\nbearer_file = \"token\"\n\
                [usage]\ninstance = \"gate-1\"\n";
    folder.write("keygate.toml", &format!("{config}{more}"));
    folder.write_secret("token", TOKEN);
    let table = serial(&folder);
    server.put(&folder, table, None);
    let gate = Gate::serve(folder);
    gate.wait_ready();
    let request = format!("GET /v1/x HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n\r\n");
    let status = || exchange(gate.address, &request).status();
    assert_eq!(status(), 200);
    let in_force = |name, serial| {
        gate.process.eventually("the artefact in force", || server.has(name) == Some(serial));
    };
    in_force(ArtefactName::Table, table);
    for (command, wanted) in [("disable", 401), ("enable", 200), ("revoke", 401)] {
        let registry = ["--registry", "keys.toml", "--signer", "signer.pem"];
        let publish = ["--publish-patch", "keys.kgp", "--base", "keys.kgt"];
        gate.folder.ctl(&[&["keys", command, "key_reader"], &registry[..], &publish].concat());
        let serial = serial(&gate.folder);
        server.put(&gate.folder, table, Some(serial));
        in_force(ArtefactName::Patch, serial);
        assert_eq!(status(), wanted, "{command}");
    }
}

/// Of the last change of the registry.
fn serial(folder: &Folder) -> u64 {
    let registry = folder.read("keys.toml");
    let line = registry.lines().find_map(|line| line.strip_prefix("serial = ")).unwrap();
    line.trim().parse().unwrap()
}
