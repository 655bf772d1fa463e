//! A small fleet of simulated sidecars, whose fetchers are the real ones, behind real distributors:
//! all of them get what was published, whatever has failed in between. `make bench-fleet` measures
//! how soon.

use std::sync::Arc;
use std::time::{Duration, Instant};

use keygate::artefacts::{
    ArtefactFleet, ArtefactName, ArtefactService, ArtefactShelf, ServedArtefact, ServedArtefacts,
};
use keygate::clock::Clock;
use keygate::config::{AfterExpiry, TableConfig, TableSource, UrlOptions};
use keygate::core::Digest;
use keygate::reload::SimulatedSidecar;
use keygate::table::PublicKey;
use keygate::telemetry::Metrics;

use crate::support::distributor::Distributor;
use crate::support::gate::{AUDIENCE, Folder, Gate};
use crate::support::origin::ArtefactOrigin;
use crate::support::upstream::Upstream;

const SIDECARS: usize = 200;

/// Generous: the machine may be busy with all other tests.
const SOON: Duration = Duration::from_secs(60);

const TOKEN: &str = "a-token-of-the-fleet-1";

/// Published files, and who has them.
struct Fleet {
    folder: Folder,
    shelf: ArtefactShelf,
    origin: ArtefactOrigin,
    sidecars: Vec<SimulatedSidecar>,
    table: u64,
}

// === impl Fleet ===

impl Fleet {
    fn new() -> Self {
        let folder = Gate::before(&Upstream::start()).folder();
        folder.write_secret("token", TOKEN);
        let shelf = ArtefactShelf::default();
        let fleet = ArtefactFleet {
            name: "all".into(),
            audiences: vec![AUDIENCE.into()],
            bearer: Some(Digest::of(TOKEN.as_bytes())),
        };
        let service = ArtefactService::new(shelf.clone(), vec![fleet], |_| {});
        let origin = ArtefactOrigin::start(service);
        let mut fleet = Self { folder, shelf, origin, sidecars: Vec::new(), table: 0 };
        fleet.table = fleet.serial();
        fleet.put(None);
        fleet
    }

    fn put(&self, patch: Option<u64>) {
        let served = |name: &str, serial| {
            ServedArtefact::new(serial, std::fs::read(self.folder.file(name)).unwrap())
        };
        let table = Some(served("keys.kgt", self.table)).into();
        let patch = patch.map(|serial| served("keys.kgp", serial)).into();
        self.shelf.put(AUDIENCE, ServedArtefacts { table, patch });
    }

    fn serial(&self) -> u64 {
        let registry = self.folder.read("keys.toml");
        let line = registry.lines().find_map(|line| line.strip_prefix("serial = ")).unwrap();
        line.trim().parse().unwrap()
    }

    /// Changes a key. Returns the serial that all should have.
    fn publish(&self, command: &str) -> u64 {
        let registry = ["--registry", "keys.toml", "--signer", "signer.pem"];
        let publish = ["--publish-patch", "keys.kgp", "--base", "keys.kgt"];
        self.folder.ctl(&[&["keys", command, "key_reader"], &registry[..], &publish].concat());
        let serial = self.serial();
        self.put(Some(serial));
        serial
    }

    fn distributor(&self, listen: &str) -> Distributor {
        let origin = format!("http://{}/artefacts", self.origin.address);
        let from = ["--origin", &origin, "--audience", AUDIENCE, "--origin-bearer-file", "token"];
        let to = ["--fleet", "all=token", "--listen", listen, "--share-address"];
        let rest = ["--trusted-signer", "signer.pub", "--drain", "2s"];
        let distributor = Distributor::start(self.folder.path(), &[&from[..], &to, &rest].concat());
        distributor.wait_ready();
        distributor
    }

    /// Sidecars that ask this address, whoever listens there.
    fn begin(&mut self, listen: &str) {
        let url = |name: ArtefactName| {
            TableSource::Url(format!("http://{listen}/artefacts/{AUDIENCE}/{}", name.file()).into())
        };
        let signer = PublicKey::parse(&self.folder.read("signer.pub")).unwrap();
        let config = Arc::new(TableConfig {
            source: url(ArtefactName::Table),
            patch: Some(url(ArtefactName::Patch)),
            audience: AUDIENCE.into(),
            trusted_signers: vec![*signer.as_bytes()],
            signer_files: Vec::new(),
            required_signers: 1,
            state_file: None,
            min_serial: 0,
            after_expiry: AfterExpiry::Serve,
            grace: Duration::ZERO,
            max_bytes: 1 << 20,
            shrink_brake: 1.0,
            poll: Duration::from_secs(5),
            patch_poll: Duration::from_secs(5),
            wait_for_table: true,
            cache_dir: None,
            url: UrlOptions {
                bearer_file: Some(self.folder.file("token")),
                long_poll: Duration::from_secs(30),
                ..UrlOptions::default()
            },
        });
        let (clock, metrics) = (Clock::system(), Metrics::new(1));
        self.sidecars = (0..SIDECARS)
            .map(|n| {
                let (config, name) = (Arc::clone(&config), format!("sidecar-{n}"));
                SimulatedSidecar::start(config, &name, clock.clone(), metrics.clone()).unwrap()
            })
            .collect();
    }

    fn all_have(&self, serial: u64, when: &str) {
        let until = Instant::now() + SOON;
        loop {
            let late = self.sidecars.iter().filter(|s| s.keys().serial() < serial).count();
            if late == 0 {
                return;
            }
            assert!(Instant::now() < until, "{late} of {SIDECARS} without {serial}: {when}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn every_sidecar_has_every_change() {
    let mut fleet = Fleet::new();
    let mut first = fleet.distributor("127.0.0.1:0");
    let listen = first.address.to_string();
    let second = fleet.distributor(&listen);
    fleet.begin(&listen);
    fleet.all_have(fleet.table, "a start of all at once");
    let waiting =
        |distributor: &Distributor| distributor.metric("keygate_distributor_waiting", &[]);
    let all = (2 * SIDECARS) as f64;
    assert!(first.process.soon(SOON, || waiting(&first) + waiting(&second) == all));
    for command in ["disable", "enable", "disable"] {
        fleet.all_have(fleet.publish(command), "all is well");
    }
    // One dies, and the other one has all the sidecars.
    drop(first);
    fleet.all_have(fleet.publish("enable"), "a distributor is dead");
    assert!(second.process.soon(SOON, || waiting(&second) == all));
    // The origin is away. What it publishes meanwhile arrives once it is back.
    fleet.origin.goes();
    let failed =
        || second.metric("keygate_distributor_origin_fetches_total", &["result=\"failed\""]);
    assert!(second.process.soon(SOON, || failed() >= 2.0));
    let serial = fleet.publish("disable");
    std::thread::sleep(Duration::from_millis(500));
    assert!(fleet.sidecars.iter().all(|sidecar| sidecar.keys().serial() < serial));
    fleet.origin.is_back();
    fleet.all_have(serial, "the origin is back");
    // A new one takes over from one that is asked to end, while changes continue.
    first = fleet.distributor(&listen);
    second.process.signal("TERM");
    for command in ["enable", "disable", "enable"] {
        fleet.all_have(fleet.publish(command), "a distributor ends");
    }
    assert!(first.process.soon(SOON, || waiting(&first) == all));
    assert_eq!(second.process.wait(SOON).expect("an end").code(), Some(0));
    fleet.all_have(fleet.publish("revoke"), "the last one");
}
