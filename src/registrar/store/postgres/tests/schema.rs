//! The schema: the same as SQLite's, put in force once, and refused if it is newer.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::registrar::store::postgres::schema::MIGRATIONS;
use crate::registrar::store::sqlite::SqliteStore;

/// For a table: a column's name, its type as SQLite calls it, and whether it may be null.
type Columns = Vec<(String, String, bool)>;

fn of_postgres(database: &str) -> BTreeMap<String, Columns> {
    let sql = "SELECT table_name, column_name, data_type, is_nullable, \
               coalesce(collation_name, '') FROM information_schema.columns \
               WHERE table_schema = current_schema() ORDER BY table_name, ordinal_position";
    let mut tables: BTreeMap<String, Columns> = BTreeMap::new();
    for row in server().execute(database, sql) {
        let [table, column, kind, nullable, collation] = row.try_into().unwrap();
        let kind = match &*kind {
            "bigint" => "INTEGER",
            "bytea" => "BLOB",
            "text" => "TEXT",
            other => panic!("{table}.{column}: {other}"),
        };
        let want = if kind == "TEXT" { "C" } else { "" };
        assert_eq!(collation, want, "{table}.{column}: in the order of bytes");
        tables.entry(table).or_default().push((column, kind.to_owned(), nullable == "YES"));
    }
    tables
}

fn of_sqlite() -> BTreeMap<String, Columns> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.db");
    SqliteStore::migrate(&path, Duration::ZERO, NOW).unwrap();
    let file = rusqlite::Connection::open(&path).unwrap();
    let sql = "SELECT t.name, c.name, c.type, c.\"notnull\" = 0 AND c.pk = 0 \
               FROM pragma_table_list t JOIN pragma_table_info(t.name) c \
               WHERE t.schema = 'main' AND t.type = 'table' ORDER BY t.name, c.cid";
    let mut tables: BTreeMap<String, Columns> = BTreeMap::new();
    let mut statement = file.prepare(sql).unwrap();
    let mut rows = statement.query([]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        let column = (row.get(1).unwrap(), row.get(2).unwrap(), row.get(3).unwrap());
        tables.entry(row.get(0).unwrap()).or_default().push(column);
    }
    // SQLite's own tables, and one that only its search uses.
    tables.retain(|name, _| !name.starts_with("sqlite_") && name != "key_org");
    tables
}

#[test]
fn both_databases_have_the_same_columns() {
    let database = server().database();
    drop(open(server(), &database));
    let (postgres, sqlite) = (of_postgres(&database), of_sqlite());
    assert!(sqlite.len() > 20, "{sqlite:?}");
    assert_eq!(postgres.keys().collect::<Vec<_>>(), sqlite.keys().collect::<Vec<_>>());
    for (table, columns) in &sqlite {
        assert_eq!(postgres.get(table), Some(columns), "{table}");
    }
}

/// Steps that a release has already put in force somewhere: version, and SHA-256 of the file.
const RELEASED: &[(u32, &str)] = &[
    (1, "f5fe3de68d3e5129796beb9c5d388f324154efa87170aab73774d0b881d909a0"),
    (2, "722127a9a13612e7a597443f28180e9cdd89168dfde345d4d35c63c1f6229ea1"),
    (3, "eca4043071a108d3d1f207285cbecf2e3a3b792c87f9e159d84e0f5cc78539c5"),
];

#[test]
fn a_released_step_never_changes() {
    for (migration, (version, wanted)) in MIGRATIONS.iter().zip(RELEASED) {
        let digest = crate::core::Digest::of(migration.sql.as_bytes());
        let is: String = digest.0.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!((migration.version, &*is), (*version, *wanted), "write a further step instead");
    }
    assert_eq!(RELEASED.len(), MIGRATIONS.len(), "note the new step's hash here");
}

#[test]
fn instances_that_start_together_make_the_schema_once() {
    let database = server().database();
    let stores: Vec<Arc<dyn Store>> = std::thread::scope(|scope| {
        let opening: Vec<_> = (0..6).map(|_| scope.spawn(|| open(server(), &database))).collect();
        opening.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for (n, store) in stores.iter().enumerate() {
        assert_eq!(try_create(store, "key").unwrap(), n as u64 + 1);
    }
    let steps = "SELECT count(*) FROM schema_version";
    assert_eq!(server().execute(&database, steps), [[MIGRATIONS.len().to_string()]]);
    let options = options(&server().url(&database));
    let found = PostgresStore::schema(&options.server, options.clock.clone()).unwrap();
    assert_eq!((found.found, found.known), (3, 3));
    assert!(PostgresStore::migrate(&options.server, options.clock).unwrap().is_empty());
}

#[test]
fn what_is_not_ours_or_newer_is_refused() {
    let database = server().database();
    let options = options(&server().url(&database));
    let empty = PostgresStore::schema(&options.server, options.clock.clone()).unwrap();
    assert_eq!(empty.found, 0);
    drop(open(server(), &database));
    let newer = "INSERT INTO schema_version (version, serves, at) VALUES (99, 99, 0)";
    server().execute(&database, newer);
    let refused = PostgresStore::open(options).unwrap_err();
    assert!(matches!(refused, StoreError::NewerSchema { found: 99, .. }), "{refused}");

    let foreign = server().database();
    server().execute(&foreign, "CREATE TABLE schema_version (version text)");
    let refused = PostgresStore::open(super::options(&server().url(&foreign))).unwrap_err();
    assert!(refused.to_string().contains("another program"), "{refused}");
}
