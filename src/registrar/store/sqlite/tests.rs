//! The contract on SQLite, and what only SQLite can meet: a process that ends, a full disk, a file
//! that somebody else has locked or changed.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;
use tempfile::TempDir;

use super::{SqliteOptions, SqliteStore};
use crate::clock::Clock;
use crate::core::Digest;
use crate::manage::registry::entry::RawEntry;
use crate::registrar::store::sql::SqlStore;
use crate::registrar::store::sql::crash::in_tests::VARIABLE;
use crate::registrar::store::sql::driver::SqlConnection;
use crate::registrar::store::suite::{self, StoreFixture, audience, create, store_suite, terms};
use crate::registrar::store::{
    ArtefactHead, ArtefactKind, ArtefactState, AuditEvent, AuditQuery, ChainFault, ImportBatch,
    ImportPart, KeyQuery, KeyRef, KeyRow, OrgRules, Store, StoreError, StoredArtefact, Uid,
};

struct SqliteFixture {
    _directory: TempDir,
    store: Arc<dyn Store>,
}

impl StoreFixture for SqliteFixture {
    fn make() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(open(&directory.path().join("keys.db"), 5000).unwrap());
        Self { _directory: directory, store }
    }

    fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store)
    }
}

store_suite!(SqliteFixture);

fn open(path: &Path, busy_ms: u64) -> Result<SqlStore, StoreError> {
    SqliteStore::open(SqliteOptions {
        path: path.to_owned(),
        audiences: vec![terms()],
        rules: OrgRules::default(),
        busy_timeout: Duration::from_millis(busy_ms),
        clock: Clock::system(),
    })
}

fn serial(store: &Arc<dyn Store>) -> u64 {
    suite::run(store.publication(&audience())).unwrap().serial
}

/// Each round: a child makes changes until it is killed at a point. Every acknowledged change is
/// there; any other is there as a whole or not at all.
#[test]
fn a_process_that_ends_at_any_point_loses_nothing_acknowledged() {
    for (point, count) in [
        ("after serial", 3),
        ("after rows", 4),
        ("after audit", 5),
        ("before commit", 3),
        ("before commit", 9),
        ("after commit", 1),
        ("after commit", 6),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.db");
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "registrar::store::sqlite::tests::child", "--ignored", "--nocapture"])
            .env(VARIABLE, format!("{point}:{count}"))
            .env("KEYGATE_TEST_DATABASE", &path)
            .output()
            .unwrap();
        assert!(!child.status.success(), "{point}: the child was not ended");
        let told = String::from_utf8_lossy(&child.stdout);
        // `ID SERIAL` of each answer.
        let acknowledged: Vec<_> = told
            .lines()
            .filter_map(|line| line.strip_prefix("made ")?.split_once(' '))
            .map(|(id, serial)| {
                (crate::core::KeyId::parse(id).unwrap(), serial.parse::<u64>().unwrap())
            })
            .collect();
        let store: Arc<dyn Store> = Arc::new(open(&path, 5000).unwrap());
        for (id, serial) in &acknowledged {
            let found = suite::run(store.key(&audience(), None, KeyRef::Id(*id))).unwrap();
            assert_eq!(found.changed, *serial, "{point}:{count}");
        }
        let last = serial(&store);
        let most = acknowledged.iter().map(|(_, serial)| *serial).max().unwrap_or_default();
        assert!(last >= most && last <= most + 8, "{point}:{count}: {last} after {most}");
        // A key, a line and a serial for each, or none of them.
        let query = AuditQuery { limit: 200, ..AuditQuery::default() };
        let lines = suite::run(store.audit(query)).unwrap().lines;
        let serials: Vec<u64> = lines.iter().rev().map(|line| line.serial).collect();
        assert_eq!(serials, (1..=last).collect::<Vec<_>>(), "{point}:{count}");
        for line in &lines {
            let id = crate::core::KeyId::parse(&line.object).unwrap();
            let found = suite::run(store.key(&audience(), None, KeyRef::Id(id))).unwrap();
            assert_eq!(found.changed, line.serial, "{point}:{count}");
        }
        assert_eq!(suite::run(store.verify_audit(Vec::new())).unwrap(), []);
        assert_eq!(suite::run(create(&store, "next")).serial, last + 1, "{point}:{count}");
    }
}

/// The child process that the test above kills.
#[test]
#[ignore = "is run by the test above, as a process of its own"]
fn child() {
    let path = std::env::var_os("KEYGATE_TEST_DATABASE").map(PathBuf::from).unwrap();
    let store: Arc<dyn Store> = Arc::new(open(&path, 5000).unwrap());
    suite::run(async {
        let mut callers = tokio::task::JoinSet::new();
        for caller in 0..8 {
            let store = Arc::clone(&store);
            callers.spawn(async move {
                for n in 0..10 {
                    let made = create(&store, &format!("key {caller}.{n}")).await;
                    println!("made {} {}", made.key.entry.id, made.serial);
                }
            });
        }
        callers.join_all().await;
    });
}

#[test]
fn a_locked_database_is_busy_and_nothing_is_half_done() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.db");
    // A busy machine takes its time. The short time-out is only for what must not succeed.
    let store: Arc<dyn Store> = Arc::new(open(&path, 60_000).unwrap());
    suite::run(create(&store, "before"));
    let hasty = open(&path, 20).unwrap();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let change = crate::registrar::store::KeyChange::Create(Box::new(suite::new_key("meanwhile")));
    let refused = suite::run(hasty.change(suite::request(suite::admin("kim"), change)));
    match refused {
        Err(e @ StoreError::Busy { .. }) => assert!(e.retry_after().is_some()),
        other => panic!("{other:?}"),
    }
    assert_eq!(serial(&store), 1, "reading goes on");
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(suite::run(create(&store, "after")).serial, 2);
}

/// Runs one pragma on the writer's connection.
fn harm(store: &SqlStore, pragma: &'static str) {
    suite::run(store.harm(move |connection| {
        let SqlConnection::Sqlite(file) = connection else { unreachable!() };
        Ok(file.execute_batch(pragma)?)
    }))
    .unwrap();
}

fn try_create(store: &SqlStore, name: &str) -> Result<u64, StoreError> {
    let change = crate::registrar::store::KeyChange::Create(Box::new(suite::new_key(name)));
    let request = suite::request(suite::admin("kim"), change);
    suite::run(store.change(request)).map(|made| made.serial)
}

#[test]
fn a_full_disk_refuses_changes_and_leaves_nothing_half_done() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.db");
    let store = open(&path, 5000).unwrap();
    harm(&store, "PRAGMA max_page_count = 1");
    let mut made = 0;
    let refused = loop {
        match try_create(&store, &format!("key {made} {}", "x".repeat(100))) {
            Ok(serial) => {
                made += 1;
                assert_eq!(serial, made);
            }
            Err(e) => break e,
        }
        assert!(made < 2000, "the disk is never full");
    };
    assert!(matches!(refused, StoreError::ReadOnly { .. }), "{refused:?}");
    assert!(refused.retry_after().is_some());
    harm(&store, "PRAGMA max_page_count = 1000000");
    assert_eq!(try_create(&store, "after").unwrap(), made + 1);
    assert_eq!(suite::run(store.verify_audit(Vec::new())).unwrap(), []);
    assert_eq!(suite::run(store.audit_head()).unwrap().seq, made + 1);
}

#[test]
fn what_the_database_refuses_takes_nothing_from_the_others() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory.path().join("keys.db"), 5000).unwrap();
    let trigger = "CREATE TRIGGER poison BEFORE INSERT ON audit WHEN new.detail LIKE '%poison%' \
                   BEGIN SELECT RAISE(ABORT, 'poison'); END";
    harm(&store, trigger);
    let others = suite::changes::what_the_database_refuses_takes_nothing_from_the_others;
    suite::run(others(Arc::new(store)));
}

#[test]
fn a_read_only_disk_refuses_changes_and_shows_keys() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory.path().join("keys.db"), 5000).unwrap();
    try_create(&store, "before").unwrap();
    harm(&store, "PRAGMA query_only = 1");
    let refused = try_create(&store, "meanwhile").unwrap_err();
    assert!(matches!(refused, StoreError::ReadOnly { .. }), "{refused:?}");
    assert_eq!(suite::run(store.publication(&audience())).unwrap().serial, 1);
}

/// By somebody who has the file.
#[test]
fn harm_to_the_log_is_found() {
    let cases: [(&str, ChainFault); 5] = [
        (
            "UPDATE audit SET actor = 'https://idp.example lee' WHERE seq = 2",
            ChainFault::Changed { seq: 2 },
        ),
        ("DELETE FROM audit WHERE seq = 2", ChainFault::Missing { from: 2, to: 2 }),
        ("DELETE FROM audit WHERE seq = 3", ChainFault::TailCut { found: 2, known: 3 }),
        (
            "DELETE FROM audit WHERE seq = 3; UPDATE audit_head SET seq = 2",
            ChainFault::OtherTail { seq: 2 },
        ),
        ("UPDATE audit SET serial = 9 WHERE seq = 1", ChainFault::Changed { seq: 1 }),
    ];
    for (harm, want) in cases {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.db");
        let store: Arc<dyn Store> = Arc::new(open(&path, 5000).unwrap());
        for n in 0..3 {
            suite::run(create(&store, &format!("key {n}")));
        }
        Connection::open(&path).unwrap().execute_batch(harm).unwrap();
        assert_eq!(suite::run(store.verify_audit(Vec::new())).unwrap(), [want], "{harm}");
    }
}

/// Export and import: callers know keys by their UUIDs.
#[test]
fn every_key_has_its_uuid_in_the_next_database() {
    let directory = tempfile::tempdir().unwrap();
    let [from, to] = ["from.db", "to.db"].map(|name| directory.path().join(name));
    let [from_store, to_store]: [Arc<dyn Store>; 2] =
        [&from, &to].map(|path| Arc::new(open(path, 5000).unwrap()) as Arc<dyn Store>);
    let derived = suite::run(create(&from_store, "derived")).key;
    let random = suite::run(create(&from_store, "of an earlier release")).key;
    let random_uid = *b"0123456789abcdef";
    Connection::open(&from)
        .unwrap()
        .execute("UPDATE key SET uid = ?1 WHERE id = ?2", (random_uid, random.entry.id.to_string()))
        .unwrap();
    let entries = |store: &Arc<dyn Store>| {
        let query = KeyQuery::all(audience(), None, suite::NOW);
        let mut keys = suite::run(store.keys(query)).unwrap().keys;
        keys.sort_by_key(|key| key.entry.id);
        keys
    };
    let before = entries(&from_store);
    let lines: Vec<_> = before.iter().map(|key| serde_json::to_string(&key.entry.raw())).collect();
    let read = |line: &String| serde_json::from_str::<RawEntry<'_>>(line).unwrap().parse().unwrap();
    suite::run(to_store.import(ImportBatch {
        audience: audience(),
        actor: suite::host(),
        channel: Default::default(),
        at_ms: suite::NOW,
        settings: None,
        above: 0,
        part: ImportPart::Last,
        entries: lines.iter().map(|line| read(line.as_ref().unwrap())).collect(),
    }))
    .unwrap();
    let uids = |keys: &[KeyRow]| keys.iter().map(|key| (key.entry.id, key.uid)).collect::<Vec<_>>();
    assert_eq!(uids(&entries(&to_store)), uids(&before));
    assert!(uids(&before).contains(&(derived.entry.id, derived.uid)));
    assert!(uids(&before).contains(&(random.entry.id, Uid(random_uid))));
    let stated = lines.iter().filter(|line| line.as_ref().unwrap().contains("\"uid\":")).count();
    assert_eq!(stated, 1, "older programs read the others");
}

/// The log cannot be written for a while: then the signature does not count either, and the same
/// request again has its line.
#[test]
fn a_signature_of_somebody_else_has_its_line() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.db");
    let store: Arc<dyn Store> = Arc::new(open(&path, 5000).unwrap());
    suite::run(create(&store, "CRM"));
    let draft = |body: &[u8]| StoredArtefact {
        head: ArtefactHead {
            audience: audience(),
            kind: ArtefactKind::Patch,
            serial: 6,
            base: 0,
            state: ArtefactState::Draft,
            sha256: Digest::of(body),
            bytes: body.len() as u64,
            made_ms: suite::NOW,
        },
        body: body.to_vec(),
    };
    let (first, more) = (draft(b"draft"), draft(b"draft and"));
    suite::run(store.put_artefact(first.clone())).unwrap();
    let sign = || {
        let event = AuditEvent {
            at_ms: suite::NOW,
            audience: Some(audience()),
            org: None,
            actor: suite::host(),
            channel: Default::default(),
            action: "co-sign",
            object: "patch 6".into(),
            detail: serde_json::Map::new(),
        };
        suite::run(store.co_sign(more.clone(), event))
    };
    let kept = || suite::run(store.artefact(&audience(), ArtefactKind::Patch, 6)).unwrap();
    let lines = || suite::run(store.audit_head()).unwrap().seq;
    let before = lines();
    let meddle = |sql| Connection::open(&path).unwrap().execute_batch(sql).unwrap();
    meddle(
        "CREATE TRIGGER away BEFORE INSERT ON audit \
         BEGIN SELECT abs(-9223372036854775807 - 1); END",
    );
    sign().unwrap_err();
    assert_eq!(kept(), Some(first));
    meddle("DROP TRIGGER away");
    for what in ["again", "once more, and nothing changes"] {
        assert_eq!(sign().unwrap(), Some(more.clone()), "{what}");
        assert_eq!(lines(), before + 1, "{what}");
    }
    assert_eq!(kept(), Some(more));
}

/// By somebody who has the file, and wants a key that nobody has asked for.
#[test]
fn a_key_that_no_line_tells_of_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.db");
    let store: Arc<dyn Store> = Arc::new(open(&path, 5000).unwrap());
    let real = suite::run(create(&store, "CRM")).key.entry.id;
    let mut imported = crate::manage::registry::entry::tests::full();
    imported.plan = None;
    suite::run(store.import(ImportBatch {
        audience: audience(),
        actor: suite::host(),
        channel: Default::default(),
        at_ms: suite::NOW,
        settings: None,
        above: 0,
        part: ImportPart::Last,
        entries: vec![imported],
    }))
    .unwrap();
    assert_eq!(suite::run(store.unlogged_keys(10)).unwrap(), []);
    let forged = "UPDATE key SET id = 'key_forged' WHERE id = ?1";
    Connection::open(&path).unwrap().execute(forged, [real.to_string()]).unwrap();
    let named = suite::run(store.unlogged_keys(10)).unwrap();
    assert_eq!(named, [crate::core::KeyId::parse("key_forged").unwrap()]);
}

#[test]
fn a_newer_schema_is_refused_at_start() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.db");
    drop(open(&path, 5000).unwrap());
    let newer = "INSERT INTO schema_version (version, serves, at) VALUES (99, 99, 0)";
    Connection::open(&path).unwrap().execute_batch(newer).unwrap();
    let refused = open(&path, 5000).unwrap_err();
    assert!(matches!(refused, StoreError::NewerSchema { found: 99, .. }), "{refused}");
}

/// Neither the database nor its log contains a secret, only the digest.
#[test]
fn no_secret_is_in_any_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.db");
    let store: Arc<dyn Store> = Arc::new(open(&path, 5000).unwrap());
    let mut secrets = Vec::new();
    for n in 0..20 {
        let mut request = suite::request(
            suite::admin("kim"),
            crate::registrar::store::KeyChange::Create(Box::new(suite::new_key("CRM"))),
        );
        request.idempotency = Some(crate::registrar::store::IdempotencyKey {
            name: format!("form {n}").into(),
            body: crate::core::Digest::of(b"a"),
        });
        let made = suite::run(store.change(request)).unwrap();
        let shown = format!("{made:?}");
        let secret = made.secret.unwrap();
        assert!(!shown.contains(&String::from_utf8_lossy(secret.expose()).into_owned()));
        secrets.push(secret);
    }
    let mut bytes = Vec::new();
    for file in std::fs::read_dir(directory.path()).unwrap() {
        bytes.extend(std::fs::read(file.unwrap().path()).unwrap());
    }
    for secret in &secrets {
        // The part to show (8 characters) is stored; 12 are not.
        let tail = secret.expose().len() - 12;
        assert!(memchr::memmem::find(&bytes, &secret.expose()[tail..]).is_none());
    }
    let digest = secrets[0].digest().0;
    assert!(memchr::memmem::find(&bytes, &digest).is_some(), "the search finds what is there");
}

#[test]
fn a_backup_is_a_database() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.db");
    let store: Arc<dyn Store> = Arc::new(open(&path, 5000).unwrap());
    let made = suite::run(create(&store, "CRM"));
    let copy = directory.path().join("copy.db");
    let manifest = SqliteStore::backup(&path, &copy, Duration::from_secs(5), 7).unwrap();
    assert_eq!(manifest.serials["shop"], 1);
    assert_eq!((manifest.audit_seq, manifest.schema), (1, 3));
    let restored: Arc<dyn Store> = Arc::new(open(&copy, 5000).unwrap());
    let found = suite::run(restored.key(&audience(), None, KeyRef::Id(made.key.entry.id)));
    assert_eq!(found.unwrap().entry, made.key.entry);
    let again = SqliteStore::backup(&path, &copy, Duration::from_secs(5), 7);
    assert!(again.unwrap_err().to_string().contains("exists"), "it is not written over");
}
