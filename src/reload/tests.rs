//! The room as a whole: real directories, real servers, the real thread.

mod delivery;
mod manual;
mod memory;
mod orders;
mod start;
mod urls;
mod vectors;

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use super::*;
use crate::config::{Config, Noted, ThisHost};
use crate::core::{KeyId, KeyLookup, KeySpec};
use crate::snapshot::Snapshot;
use crate::table::testkit::{Signer, issue, sealed, spec, table_file};
use crate::table::write::{PatchDraft, RemovalOf};
use crate::table::{Bounds, Issue, Table};

/// Long enough for a loaded machine. Nothing waits this long when all is well.
const PATIENCE: Duration = Duration::from_secs(20);

/// A folder with a configuration, a place for a table and one for a patch.
struct Folder {
    dir: tempfile::TempDir,
    clock: Clock,
}

/// A reload thread over a folder.
struct Running {
    store: Arc<Store>,
    cell: StatusCell,
    metrics: Metrics,
    readiness: Readiness,
    reloader: Option<Reloader>,
    hooked: Arc<Mutex<Vec<&'static str>>>,
}

// === impl Folder ===

impl Folder {
    fn new() -> Self {
        let folder = Self { dir: tempfile::tempdir().unwrap(), clock: Clock::system() };
        folder.configure("");
        folder
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes the configuration: table, patch and state in the folder, polled so seldom that only
    /// the watch can be fast. `more` goes into `[table]`, and replaces what it names.
    fn configure(&self, more: &str) {
        let defaults = [
            ("path", "\"t.kgt\"".to_owned()),
            ("patch", "\"p.kgp\"".to_owned()),
            ("audience", "\"test\"".to_owned()),
            ("state_file", "\"state/ledger\"".to_owned()),
            ("trusted_signers", format!("[\"{}\"]", Signer::new(1).key)),
            ("poll", "\"10m\"".to_owned()),
            ("patch_poll", "\"10m\"".to_owned()),
        ];
        let named =
            |key: &str| more.lines().any(|l| l.trim_start().starts_with(&format!("{key} ")));
        let mut table = String::from("[table]\n");
        for (key, value) in defaults {
            if !(named(key) || key == "path" && named("url")) {
                table.push_str(&format!("{key} = {value}\n"));
            }
        }
        let off = more.replace("patch = \"\"\n", "").replace("state_file = \"\"\n", "");
        let text = format!(
            "[listen]\naddress = \"127.0.0.1:0\"\n[upstream]\nurl = \"http://127.0.0.1:9\"\n\
             [[credentials]]\nsource = \"header\"\nname = \"X-Api-Key\"\n\
             [[routes]]\npath = \"/*\"\n{table}{off}\n"
        );
        std::fs::create_dir_all(self.at("state")).unwrap();
        let temporary = self.at(".keygate.toml.new");
        std::fs::write(&temporary, text).unwrap();
        std::fs::rename(temporary, self.at("keygate.toml")).unwrap();
    }

    fn config(&self) -> Config {
        load(&self.at("keygate.toml")).unwrap()
    }

    /// By rename, as a publisher does.
    fn publish(&self, name: &str, bytes: &[u8]) {
        let temporary = self.at(".publishing");
        std::fs::write(&temporary, bytes).unwrap();
        std::fs::rename(temporary, self.at(name)).unwrap();
    }

    fn load(&self) -> Result<(LoadedSources, Metrics, Readiness), FirstLoadError> {
        let (metrics, readiness) = (Metrics::new(1), Readiness::new());
        let config = self.config();
        let (clock, uses) = (self.clock.clone(), UseCounting::On);
        let loaded =
            load_first(&config.table, uses, clock, metrics.clone(), &readiness, "sidecar-1")?;
        Ok((loaded, metrics, readiness))
    }

    fn start(&self) -> Running {
        let (loaded, metrics, readiness) = self.load().unwrap();
        let cell = loaded.status();
        let config = self.config();
        let read = config.read_files();
        let store = Arc::new(Store::new(Snapshot {
            settings: Arc::new(config.settings),
            keys: loaded.keys(),
            route_slots: Box::default(),
        }));
        let hooked = Arc::new(Mutex::new(Vec::new()));
        let file = self.at("keygate.toml");
        let (told, also) = (Arc::clone(&hooked), Arc::clone(&hooked));
        let its = file.clone();
        let hooks = Hooks {
            uses: None,
            reconfigure: Box::new(move || {
                told.lock().unwrap().push("config");
                let host = Noted::new(&ThisHost);
                let config = Config::load_on(&host, &its);
                let config =
                    config.map_err(|e| Unusable { error: e.to_string(), files: host.files() })?;
                let (watched, read) = (config.watched_files(), config.read_files());
                Ok(Reconfigured {
                    settings: Arc::new(config.settings),
                    route_slots: Box::new([7]),
                    watched,
                    read,
                    variables: config.variable_files,
                    table: config.table,
                    needs_restart: Vec::new(),
                })
            }),
            files: vec![FileHook {
                paths: vec![self.at("cert.pem")],
                changed: Box::new(move || also.lock().unwrap().push("cert")),
            }],
            watched: Vec::new(),
            read,
            variables: Vec::new(),
        };
        let reloader = loaded.start(Arc::clone(&store), file, hooks).unwrap();
        let running = Running { store, cell, metrics, readiness, reloader: Some(reloader), hooked };
        // Armed, and the first look done.
        running.until("started", |r| r.cell.load().config.loaded_at.is_some());
        running.until("watching", |r| !r.cell.load().sources.is_empty());
        running
    }
}

fn load(file: &Path) -> Result<Config, crate::config::ConfigError> {
    Config::load_on(&ThisHost, file)
}

// === impl Running ===

impl Running {
    fn serial(&self) -> Option<u64> {
        self.store.load().keys.as_ref().map(|k| k.serial())
    }

    fn patch(&self) -> Option<u64> {
        self.store.load().keys.as_ref().and_then(|k| k.patch_serial())
    }

    /// Whether key `n` would be found.
    fn has(&self, n: u32) -> bool {
        let snapshot = self.store.load();
        snapshot.keys.as_ref().is_some_and(|k| k.single(&spec(n).digest).is_some())
    }

    fn until(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let clock = Clock::system();
        while !done(self) {
            assert!(
                u128::from(clock.now().mono_ns) < PATIENCE.as_nanos(),
                "waited for: {what}; is: {:#?}",
                self.cell.load()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn until_serial(&self, serial: u64) {
        self.until(&format!("table {serial}"), |r| r.serial() == Some(serial));
    }

    fn until_patch(&self, serial: u64) {
        self.until(&format!("patch {serial}"), |r| r.patch() == Some(serial));
    }

    /// Value of a series in `/metrics`.
    fn metric(&self, series: &str) -> f64 {
        metric(&self.metrics, series)
    }

    fn failures(&self, artefact: &str, reason: &str) -> f64 {
        self.metric(&format!(
            "keygate_table_reload_failures_total{{artefact=\"{artefact}\",reason=\"{reason}\"}}"
        ))
    }

    fn trigger(&self) {
        self.reloader.as_ref().unwrap().trigger();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(reloader) = self.reloader.take() {
            reloader.stop();
        }
    }
}

/// A series that does not exist yet is NaN, which equals nothing.
fn metric(metrics: &Metrics, series: &str) -> f64 {
    let text = metrics.render();
    let line = text.lines().find_map(|l| l.strip_prefix(series)?.strip_prefix(' '));
    line.map_or(f64::NAN, |value| value.parse().unwrap())
}

/// Keys 1 to 3, issued now.
fn table(serial: u64) -> Vec<u8> {
    table_of(serial, &[spec(1), spec(2), spec(3)])
}

fn table_of(serial: u64, specs: &[KeySpec]) -> Vec<u8> {
    let signer = Signer::new(1);
    table_file(specs, now(serial, &[&signer]), &[&signer])
}

fn now(serial: u64, signers: &[&Signer]) -> Issue {
    Issue { issued_at_ms: Clock::system().now().unix_ms, ..issue(serial, signers) }
}

fn opened(file: &[u8]) -> Table {
    Table::open(file.to_vec(), &Signer::new(1).trust(), &Bounds::default()).unwrap()
}

/// A patch over a table file that removes these keys.
fn revoking(serial: u64, base: &[u8], gone: &[u32]) -> Vec<u8> {
    let mut draft = PatchDraft::over(&opened(base));
    for n in gone {
        draft.remove(
            spec(*n).digest,
            KeyId::parse(&format!("key_{n:08}")).unwrap(),
            RemovalOf::Key,
        );
    }
    let signer = Signer::new(1);
    sealed(draft.build(now(serial, &[&signer])).unwrap(), &[&signer])
}
