//! What is published, and when, compared with what a sidecar accepts.

mod crash;
mod failover;
mod forgotten;
mod imported;
mod instances;
mod late;
mod recovered;
mod restored;
mod several;
mod signed;

use std::fs;
use std::path::{Path, PathBuf};
use std::result::Result;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use super::fleet::SidecarBook;
use super::high_water::HighWaterFile;
use super::host::publish_change;
use super::*;
use crate::artefacts::{ArtefactName, ArtefactPoll, ArtefactTag};
use crate::config::ThisHost;
use crate::core::{Digest, KeyId, KeyStatus, Now};
use crate::manage::operation::StatusChange;
use crate::manage::output::Output;
use crate::manage::registry::entry::RegistryEntry;
use crate::manage::registry::settings::RawSettings;
use crate::registrar::store::postgres::PostgresStore;
use crate::registrar::store::postgres::fixture;
use crate::registrar::store::sqlite::{SqliteOptions, SqliteStore};
use crate::registrar::store::suite::{self, audience, create, host, new_key, request, set};
use crate::registrar::store::{Channel, ImportBatch, ImportPart, OrgRules, StoreError};
use crate::table::manifest::MAX_CHOSEN_SERIAL;
use crate::table::{AcceptRules, Acceptance, Bounds, Patch, Refusal, SignedHead, Table, Trust};

/// For something that has to happen, and usually happens within milliseconds.
const DEADLINE: Duration = Duration::from_secs(20);

/// A service's directory: `state`, `out`, `signer.pem`, `admin.toml`.
struct House {
    root: PathBuf,
    _directory: Option<TempDir>,
}

/// A service that publishes.
struct Service {
    publisher: Publisher,
    store: Arc<dyn Store>,
    shelf: ArtefactShelf,
    book: SidecarBook,
}

/// What a sidecar that reads the files in `out` has in force.
struct Sidecar {
    out: PathBuf,
    acceptance: Acceptance,
}

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(test)
}

// === impl House ===

impl House {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().to_owned();
        fs::create_dir(root.join("state")).unwrap();
        fs::create_dir(root.join("out")).unwrap();
        let signer = root.join("signer.pem");
        crate::manage::signer::new(&signer, None, &mut Output::sink()).unwrap();
        let text = "state = \"state\"\n[listen]\naddress = \"127.0.0.1:0\"\n[[audiences]]\n\
                    name = \"shop\"\nsigner = \"signer.pem\"\n[[audiences.targets]]\n\
                    directory = \"out\"\n";
        fs::write(root.join("admin.toml"), text).unwrap();
        Self { root, _directory: Some(directory) }
    }

    /// With its database on a server.
    fn on_server() -> Self {
        let server = fixture::server();
        Self::new().with_database(&server.url(&server.database()))
    }

    /// Another instance on the same database, with the same signer.
    fn beside(&self) -> Self {
        let text = fs::read_to_string(self.root.join("admin.toml")).unwrap();
        let url = text.split("database = \"").nth(1).unwrap().split('"').next().unwrap();
        let other = Self::new().with_database(url);
        fs::copy(self.root.join("signer.pem"), other.root.join("signer.pem")).unwrap();
        other
    }

    fn with_database(self, url: &str) -> Self {
        let file = self.root.join("admin.toml");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(file, format!("{text}[store]\ndatabase = \"{url}\"\n")).unwrap();
        self
    }

    fn at(root: &Path) -> Self {
        Self { root: root.to_owned(), _directory: None }
    }

    fn settings(&self) -> Arc<AdminToml> {
        Arc::new(AdminToml::load(&ThisHost, &self.root.join("admin.toml")).unwrap())
    }

    fn database(&self) -> PathBuf {
        self.root.join("state/registrar.db")
    }

    fn store(&self) -> Arc<dyn Store> {
        let settings = self.settings();
        if let Some(server) = settings.store.server() {
            let options = crate::registrar::store::postgres::PostgresOptions {
                server,
                audiences: vec![suite::terms()],
                rules: OrgRules::default(),
                clock: Clock::system(),
            };
            return Arc::new(PostgresStore::open(options).unwrap());
        }
        let options = SqliteOptions {
            path: self.database(),
            audiences: vec![suite::terms()],
            rules: OrgRules::default(),
            busy_timeout: settings.store.busy_timeout,
            clock: Clock::system(),
        };
        Arc::new(SqliteStore::open(options).unwrap())
    }

    async fn serve(&self) -> Service {
        self.serve_at(Clock::system()).await
    }

    async fn serve_at(&self, clock: Clock) -> Service {
        let (store, shelf, book) = (self.store(), ArtefactShelf::default(), SidecarBook::default());
        let options = PublisherOptions {
            store: Arc::clone(&store),
            settings: self.settings(),
            shelf: shelf.clone(),
            book: book.clone(),
            clock,
        };
        let publisher = Publisher::start(options).await.unwrap();
        Service { publisher, store, shelf, book }
    }

    fn trust(&self) -> Trust {
        let signer = self.settings().audiences[0].signer.clone().unwrap();
        Trust::new([signer.public().unwrap()], 1, "shop").unwrap()
    }

    fn sidecar(&self) -> Sidecar {
        let acceptance = Acceptance::new(AcceptRules::default());
        Sidecar { out: self.root.join("out"), acceptance }
    }
}

// === impl Service ===

impl Service {
    fn state(&self) -> PublicationState {
        self.publisher.handle().state(&audience()).unwrap()
    }

    /// Waits until the change with this serial is published.
    async fn published(&self, serial: u64) {
        let handle = self.publisher.handle();
        let found = handle.in_force(&audience(), serial, DEADLINE).await;
        assert!(found.published, "{serial}: {:?}", self.state());
    }

    /// Waits until the state is as `is` says.
    async fn until(&self, is: impl Fn(&PublicationState) -> bool) {
        let mut watch = self.publisher.handle().watch(&audience()).unwrap();
        let found = tokio::time::timeout(DEADLINE, watch.wait_for(|state| is(state))).await;
        assert!(found.is_ok(), "{:?}", self.state());
    }
}

// === impl Sidecar ===

impl Sidecar {
    /// Takes what is published, like a sidecar that reads one file and then the other.
    fn look(&mut self, house: &House) -> Result<(), Refusal> {
        self.look_at_patch(house)?;
        self.look_at_table(house)
    }

    fn look_at_patch(&mut self, house: &House) -> Result<(), Refusal> {
        let (trust, bounds) = (house.trust(), Bounds::default());
        let now = Now { unix_ms: Clock::system().now().unix_ms, mono_ns: 0 };
        if let Ok(bytes) = fs::read(self.out.join("keys.kgp")) {
            let patch = Arc::new(Patch::open(bytes, &trust, &bounds)?);
            self.acceptance.offer_patch(patch, now)?;
        }
        Ok(())
    }

    fn look_at_table(&mut self, house: &House) -> Result<(), Refusal> {
        let (trust, bounds) = (house.trust(), Bounds::default());
        let now = Now { unix_ms: Clock::system().now().unix_ms, mono_ns: 0 };
        let bytes = fs::read(self.out.join("keys.kgt")).unwrap();
        self.acceptance.offer_table(Arc::new(Table::open(bytes, &trust, &bounds)?), now)?;
        Ok(())
    }

    fn status(&self, digest: &Digest) -> Option<KeyStatus> {
        let set = self.acceptance.current()?;
        Some(set.find_digest(digest)?.view.grant.status)
    }
}

/// Settings that no table has been made with yet: both instances have to make a new one.
async fn change_settings(store: &Arc<dyn Store>, n: usize) {
    let settings = store.settings(&audience()).await.unwrap();
    let mut raw = serde_json::to_value(settings).unwrap();
    let limit = format!("{}/s", 100 + n);
    raw["org"] = serde_json::json!([{"id": "acme", "limits": {"requests": limit}}]);
    let settings: RawSettings = serde_json::from_value(raw).unwrap();
    let batch = ImportBatch {
        audience: audience(),
        actor: host(),
        channel: Channel::default(),
        at_ms: suite::NOW,
        settings: Some(Box::new(settings)),
        above: 0,
        part: ImportPart::Last,
        entries: Vec::new(),
    };
    store.import(batch).await.unwrap();
}

/// Waits until the database and its write-ahead log are closed, which its own threads do.
async fn close(house: &House, store: Arc<dyn Store>) {
    drop(store);
    let wal = house.root.join("state/registrar.db-wal");
    let closed = async {
        while wal.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
            // Two connections that close at the same moment both leave it to the other.
            let last = rusqlite::Connection::open(house.database()).unwrap();
            last.query_row("PRAGMA user_version", [], |row| row.get::<_, u64>(0)).ok();
        }
    };
    tokio::time::timeout(DEADLINE, closed).await.expect("the database is closed");
}

async fn revoke(store: &Arc<dyn Store>, id: KeyId) -> Result<u64, StoreError> {
    let change = request(host(), set(id, StatusChange::Revoke));
    Ok(store.change(change).await?.serial)
}

/// Many keys with one serial.
async fn import(store: &Arc<dyn Store>, count: usize) -> Vec<RegistryEntry> {
    let full = crate::manage::registry::entry::tests::full();
    let entries: Vec<_> = (0..count)
        .map(|n| RegistryEntry {
            id: KeyId::parse(&format!("key_{n}")).unwrap(),
            digest: Digest::of(format!("{n}").as_bytes()),
            plan: None,
            public_id: None,
            previous: None,
            replaces: None,
            expires: None,
            status: KeyStatus::Active,
            ..full.clone()
        })
        .collect();
    let batch = ImportBatch {
        audience: audience(),
        actor: host(),
        channel: Channel::default(),
        at_ms: suite::NOW,
        settings: None,
        above: 0,
        part: ImportPart::Last,
        entries: entries.clone(),
    };
    store.import(batch).await.unwrap();
    entries
}

#[test]
fn every_change_is_published_and_a_sidecar_takes_it() {
    let house = House::new();
    let mut sidecar = house.sidecar();
    run(async {
        let service = house.serve().await;
        service.until(|state| state.published > 0).await;
        sidecar.look(&house).expect("an audience without a key");
        let (first, second) =
            (create(&service.store, "CRM").await, create(&service.store, "ERP").await);
        service.published(second.serial).await;
        sidecar.look(&house).unwrap();
        for made in [&first, &second] {
            let digest = made.key.entry.digest;
            assert_eq!(sidecar.status(&digest), Some(KeyStatus::Active));
        }
        // The last key as well: a revocation by somebody is not an accident.
        for made in [&first, &second] {
            let serial = revoke(&service.store, made.key.entry.id).await.unwrap();
            service.published(serial).await;
            sidecar.look(&house).unwrap();
            assert_eq!(sidecar.status(&made.key.entry.digest), Some(KeyStatus::Revoked));
        }
        let state = service.state();
        assert_eq!((state.published, state.unpublished), (state.serial, None));
        assert_eq!((state.tables, state.patch_keys), (1, 2), "one table, and one patch over it");
        // Both are also served from memory.
        let served = service.shelf.get("shop");
        let file = |name| fs::read(house.root.join("out").join(name)).unwrap();
        assert_eq!(served.patch.served().unwrap().bytes, file("keys.kgp"));
        assert_eq!(served.table.served().unwrap().bytes, file("keys.kgt"));
        service.publisher.stop();
        // The next start continues, and changes nothing.
        let again = house.serve().await;
        again.until(|state| state.published_ms.is_some()).await;
        assert_eq!(again.state().published, state.published);
        assert!(again.shelf.get("shop").table.served().is_some());
        sidecar.look(&house).unwrap();
        let third = create(&again.store, "third").await;
        again.published(third.serial).await;
        sidecar.look(&house).unwrap();
        assert_eq!(sidecar.status(&third.key.entry.digest), Some(KeyStatus::Active));
        again.publisher.stop();
    });
}

/// A sidecar that starts with both files, and reads the table first.
#[test]
fn a_patch_without_a_change_over_a_table_without_a_key_is_taken() {
    let house = House::new();
    run(async {
        let service = house.serve().await;
        let there = async {
            // The patch is written before its table.
            while !["out/keys.kgp", "out/keys.kgt"].iter().all(|at| house.root.join(at).exists()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(DEADLINE, there).await.expect("a first table and patch");
        let mut sidecar = house.sidecar();
        sidecar.look_at_table(&house).unwrap();
        sidecar.look_at_patch(&house).unwrap();
        service.publisher.stop();
    });
}

/// Among them are keys that change while the table is built, and a secret that was replaced before.
#[test]
fn a_long_patch_becomes_a_table_and_loses_nothing() {
    let house = House::new();
    let mut sidecar = house.sidecar();
    run(async {
        let service = house.serve().await;
        service.until(|state| state.published > 0).await;
        sidecar.look(&house).unwrap();
        let first = service.state().base;
        let entries = import(&service.store, 4097).await;
        let mut revoked = Vec::new();
        for entry in &entries[..20] {
            let serial = revoke(&service.store, entry.id).await.unwrap();
            service.published(serial).await;
            sidecar.look(&house).unwrap();
            revoked.push(entry.digest);
        }
        service.until(|state| state.base > first && state.patch_keys < 100).await;
        sidecar.look(&house).unwrap();
        let state = service.state();
        assert_eq!((state.tables, state.unpublished), (2, None));
        for entry in &entries {
            let wanted = match revoked.contains(&entry.digest) {
                true => KeyStatus::Revoked,
                false => KeyStatus::Active,
            };
            assert_eq!(sidecar.status(&entry.digest), Some(wanted), "{}", entry.id);
        }
        // A sidecar that starts now has the same keys.
        let mut fresh = house.sidecar();
        fresh.look(&house).unwrap();
        assert_eq!(fresh.status(&revoked[19]), Some(KeyStatus::Revoked));
        let serial = revoke(&service.store, entries[30].id).await.unwrap();
        service.published(serial).await;
        sidecar.look(&house).unwrap();
        assert_eq!(sidecar.status(&entries[30].digest), Some(KeyStatus::Revoked));
        service.publisher.stop();
    });
}

#[test]
fn a_signer_that_is_away_loses_no_change() {
    let house = House::new();
    run(async {
        let service = house.serve().await;
        service.until(|state| state.published > 0).await;
        let (pem, away) = (house.root.join("signer.pem"), house.root.join("away.pem"));
        fs::rename(&pem, &away).unwrap();
        let made = create(&service.store, "CRM").await;
        service.until(|state| state.unpublished.is_some()).await;
        let state = service.state();
        let unpublished = state.unpublished.unwrap();
        assert!(unpublished.why.contains("signer.pem"), "{unpublished:?}");
        assert_eq!(unpublished.reason, UnpublishedReason::SignerUnreachable);
        assert!(state.published < made.serial && unpublished.since_ms > 0);
        let waited = service.publisher.handle();
        let waited = waited.in_force(&audience(), made.serial, Duration::from_millis(20)).await;
        assert!(!waited.published);
        fs::rename(&away, &pem).unwrap();
        service.published(made.serial).await;
        service.until(|state| state.unpublished.is_none()).await;
        let mut sidecar = house.sidecar();
        sidecar.look(&house).unwrap();
        assert_eq!(sidecar.status(&made.key.entry.digest), Some(KeyStatus::Active));
        service.publisher.stop();
    });
}

/// They would otherwise ask forever whether they may go on, and take a processor for it.
#[test]
fn threads_end_with_a_publisher_that_nobody_has_stopped() {
    let house = House::new();
    run(async {
        let service = house.serve().await;
        service.until(|state| state.published > 0).await;
        let Publisher { stop, threads, .. } = service.publisher;
        assert!(!threads.is_empty());
        drop(stop);
        let ended = async {
            while !threads.iter().all(std::thread::JoinHandle::is_finished) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(DEADLINE, ended).await.expect("the threads go on");
    });
}

#[test]
fn a_change_is_in_force_when_every_known_sidecar_has_it() {
    let house = House::new();
    run(async {
        let service = house.serve().await;
        service.until(|state| state.published > 0).await;
        let made = create(&service.store, "CRM").await;
        service.published(made.serial).await;
        let handle = service.publisher.handle();
        let patch = service.shelf.get("shop").patch.served().cloned().unwrap();
        let head: Box<[u8]> = SignedHead::bytes_of(&patch.bytes).unwrap().into();
        let show = |instance: &str, serial, head: Option<&[u8]>| {
            let poll = ArtefactPoll {
                fleet: "web".into(),
                audience: "shop".into(),
                name: ArtefactName::Patch,
                instance: Some(instance.into()),
                peer: None,
                has: Some(ArtefactTag::of(serial, &Digest::of(b"x"))),
                head: head.map(Into::into),
            };
            service.book.heard(&poll, Clock::system().now().unix_ms);
        };
        let heard = |instance: &str, serial| show(instance, serial, None);
        heard("a", made.serial);
        heard("b", made.serial - 1);
        let now = handle.in_force(&audience(), made.serial, Duration::ZERO).await;
        assert_eq!((now.sidecars, &*now.late[0]), (2, "web/b"));
        let shop = audience();
        let wait = handle.in_force(&shop, made.serial, DEADLINE);
        let (found, ()) = tokio::join!(wait, async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            heard("b", made.serial);
        });
        assert!(found.is_complete(), "{found:?}");
        // Anybody who has the fleet's token can claim more than was ever published here.
        heard("b", made.serial + 1);
        show("b", made.serial + 1, Some(&head));
        heard("c", MAX_CHOSEN_SERIAL);
        let next = create(&service.store, "next").await;
        service.published(next.serial).await;
        assert_eq!(service.state().behind, None);
        // A file that the signer has signed proves it: the database is an older one.
        let twin = House::new();
        fs::copy(house.root.join("signer.pem"), twin.root.join("signer.pem")).unwrap();
        let other = twin.serve().await;
        other.until(|state| state.published > 0).await;
        for _ in 0..9 {
            let made = create(&other.store, "of the other database").await;
            other.published(made.serial).await;
        }
        let patch = other.shelf.get("shop").patch.served().cloned().unwrap();
        let proof = SignedHead::bytes_of(&patch.bytes).unwrap();
        assert!(patch.tag.serial > next.serial);
        show("b", patch.tag.serial + 1, Some(proof));
        assert_eq!(
            service.book.all(&audience()).iter().filter(|r| r.serial > next.serial).count(),
            0
        );
        show("b", patch.tag.serial, Some(proof));
        service.until(|state| state.behind.is_some()).await;
        other.publisher.stop();
        let refused = revoke(&service.store, made.key.entry.id).await.unwrap_err();
        assert!(refused.to_string().contains("sidecar b of fleet web"), "{refused}");
        service.publisher.stop();
        // The next start does not wait until the sidecar says so again.
        let mark = HighWaterFile::open(&house.root.join("state")).unwrap().mark("shop");
        assert_eq!(mark.serial, patch.tag.serial);
    });
}

#[test]
fn one_process_publishes_at_a_time() {
    let house = House::new();
    run(async {
        let service = house.serve().await;
        let options = PublisherOptions {
            store: Arc::clone(&service.store),
            settings: house.settings(),
            shelf: ArtefactShelf::default(),
            book: SidecarBook::default(),
            clock: Clock::system(),
        };
        let error = ServiceLock::take(&options.settings.state, Duration::ZERO).await.unwrap_err();
        assert_eq!(error.exit(), Exit::TryAgain.code());
        let mut sidecar = house.sidecar();
        let mut look = |digest| {
            sidecar.look(&house).unwrap();
            sidecar.status(digest)
        };
        // The service publishes it.
        let made = create(&service.store, "CRM").await;
        publish_change(&options, &audience(), made.serial).await.unwrap();
        service.published(made.serial).await;
        assert_eq!(look(&made.key.entry.digest), Some(KeyStatus::Active));
        service.publisher.stop();
        // Nobody else does.
        let made = create(&service.store, "ERP").await;
        publish_change(&options, &audience(), made.serial).await.unwrap();
        assert_eq!(look(&made.key.entry.digest), Some(KeyStatus::Active));
    });
}

fn suite_ref(id: KeyId) -> crate::registrar::store::KeyRef {
    crate::registrar::store::KeyRef::Id(id)
}
