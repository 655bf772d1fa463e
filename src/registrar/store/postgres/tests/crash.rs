//! A process that ends at each point of a change.

use std::process::Command;

use super::*;
use crate::core::KeyId;
use crate::registrar::store::sql::crash::in_tests::VARIABLE;
use crate::registrar::store::{AuditQuery, KeyRef};

const POINTS: [(&str, u64); 7] = [
    ("after serial", 3),
    ("after rows", 4),
    ("after audit", 5),
    ("before commit", 3),
    ("before commit", 9),
    ("after commit", 1),
    ("after commit", 6),
];

/// A child makes changes until it is killed at a point. Every acknowledged change is there; any
/// other is there as a whole or not at all.
fn crash_round(point: &str, count: u64) {
    let database = server().database();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "registrar::store::postgres::tests::crash::child", "--ignored"])
        .arg("--nocapture")
        .env(VARIABLE, format!("{point}:{count}"))
        .env("KEYGATE_TEST_DATABASE", server().url(&database))
        .output()
        .unwrap();
    assert!(!child.status.success(), "{point}: the child was not ended");
    let told = String::from_utf8_lossy(&child.stdout).into_owned();
    // `ID SERIAL` of each answer.
    let acknowledged: Vec<_> = told
        .lines()
        .filter_map(|line| line.strip_prefix("made ")?.split_once(' '))
        .map(|(id, serial)| (KeyId::parse(id).unwrap(), serial.parse::<u64>().unwrap()))
        .collect();
    let store = open(server(), &database);
    // The server may not have noticed yet that the client is gone; this waits for it.
    let next = try_create(&store, "next").unwrap();
    for (id, serial) in &acknowledged {
        let found = suite::run(store.key(&audience(), None, KeyRef::Id(*id))).unwrap();
        assert_eq!(found.changed, *serial, "{point}:{count}");
    }
    let most = acknowledged.iter().map(|(_, serial)| *serial).max().unwrap_or_default();
    assert!(next > most && next <= most + 9, "{point}:{count}: {next} after {most}");
    // A key, a line and a serial for each, or none of them.
    let query = AuditQuery { limit: 200, ..AuditQuery::default() };
    let lines = suite::run(store.audit(query)).unwrap().lines;
    let serials: Vec<u64> = lines.iter().rev().map(|line| line.serial).collect();
    assert_eq!(serials, (1..=next).collect::<Vec<_>>(), "{point}:{count}");
    for line in &lines {
        let id = KeyId::parse(&line.object).unwrap();
        let found = suite::run(store.key(&audience(), None, KeyRef::Id(id))).unwrap();
        assert_eq!(found.changed, line.serial, "{point}:{count}");
    }
    assert_eq!(suite::run(store.verify_audit(Vec::new())).unwrap(), []);
}

#[test]
fn a_process_that_ends_at_any_point_loses_nothing_acknowledged() {
    for (point, count) in POINTS {
        crash_round(point, count);
    }
}

#[test]
#[ignore = "takes minutes: `make test-admin-full`"]
fn a_process_that_ends_at_any_point_loses_nothing_in_many_rounds() {
    for round in 0..200_u64 {
        let (point, count) = POINTS[round as usize % POINTS.len()];
        crash_round(point, count + round / 7 % 5);
    }
}

/// The child process that the tests above kill.
#[test]
#[ignore = "is run by the tests above, as a process of its own"]
fn child() {
    let url = std::env::var_os("KEYGATE_TEST_DATABASE").unwrap().into_string().unwrap();
    let store: Arc<dyn Store> = Arc::new(PostgresStore::open(options(&url)).unwrap());
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
