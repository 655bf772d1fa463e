//! Versions of the schema. Each is a file, put in force in one transaction together with the row
//! that says so. After a crash the database has a version as a whole or not at all.

use rusqlite::{Connection, TransactionBehavior};

use super::super::error::StoreError;
use super::super::sql::{Migration, SchemaState};

pub(super) const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, serves: 1, sql: include_str!("001.sql") },
    // A program for schema 1 would find nothing with the new index.
    Migration { version: 2, serves: 2, sql: include_str!("002.sql") },
    Migration { version: 3, serves: 2, sql: include_str!("003.sql") },
];

/// The version of the schema. Refuses one that this program cannot work on.
pub(super) fn state(
    connection: &Connection,
    migrations: &[Migration],
) -> Result<SchemaState, StoreError> {
    let known = migrations.last().map_or(0, |m| m.version);
    let exists: bool = connection.query_row(
        "SELECT count(*) > 0 FROM sqlite_schema WHERE name = 'schema_version'",
        [],
        |row| row.get(0),
    )?;
    if !exists {
        return Ok(SchemaState { found: 0, known });
    }
    let (found, serves): (u32, u32) = connection.query_row(
        "SELECT version, serves FROM schema_version ORDER BY version DESC LIMIT 1",
        [],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    match serves > known {
        true => Err(StoreError::NewerSchema { found, known }),
        false => Ok(SchemaState { found, known }),
    }
}

/// Brings the schema up to the last of `migrations`, at `now_ms`. Returns the versions it added.
pub(super) fn migrate(
    connection: &mut Connection,
    migrations: &[Migration],
    now_ms: u64,
) -> Result<Vec<u32>, StoreError> {
    let mut done = Vec::new();
    for migration in migrations {
        // Another process may be doing the same: only the version seen under the lock counts.
        let step = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if state(&step, migrations)?.found >= migration.version {
            continue;
        }
        step.execute_batch(
            "CREATE TABLE IF NOT EXISTS schema_version (
                 version INTEGER PRIMARY KEY, serves INTEGER NOT NULL, at INTEGER NOT NULL
             ) STRICT;",
        )?;
        step.execute_batch(migration.sql)?;
        step.execute(
            "INSERT INTO schema_version (version, serves, at) VALUES (?1, ?2, ?3)",
            (migration.version, migration.serves, now_ms),
        )?;
        step.commit()?;
        done.push(migration.version);
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registrar::store::sql::driver::SqlConnection;
    use crate::registrar::store::sql::log;

    #[test]
    fn each_version_is_put_in_force_once() {
        let mut connection = Connection::open_in_memory().unwrap();
        assert_eq!(state(&connection, MIGRATIONS).unwrap().found, 0);
        assert_eq!(migrate(&mut connection, MIGRATIONS, 5).unwrap(), [1, 2, 3]);
        assert!(migrate(&mut connection, MIGRATIONS, 6).unwrap().is_empty());
        assert_eq!(state(&connection, MIGRATIONS).unwrap(), SchemaState { found: 3, known: 3 });
    }

    #[test]
    fn a_step_that_fails_leaves_nothing() {
        let mut connection = Connection::open_in_memory().unwrap();
        let broken = [
            MIGRATIONS[0],
            Migration { version: 2, serves: 1, sql: "CREATE TABLE extra (a); SELECT nonsense;" },
        ];
        migrate(&mut connection, &broken, 5).unwrap_err();
        assert_eq!(state(&connection, &broken).unwrap(), SchemaState { found: 1, known: 2 });
        let extra = "SELECT count(*) FROM sqlite_schema WHERE name = 'extra'";
        assert_eq!(connection.query_row(extra, [], |r| r.get::<_, u64>(0)).unwrap(), 0);
    }

    /// Steps that a release has already put in force somewhere: version, and SHA-256 of the file.
    const RELEASED: &[(u32, &str)] = &[
        (1, "3d4a66485e24ff71f1edc993fd453e0e68971c11eb1595b1ec5ae7957fc2f04e"),
        (2, "724a9a40d4b0139b9589fc3a6c5d6301761797c2502dd457dc041337ce389917"),
        (3, "1b3bfe8da08b1f7b0d643b692ea6d829f2eb4867018630f9db45b407bc44954e"),
    ];

    /// A database of each version, with something in most of its tables. Later versions have the
    /// same tables and another index.
    const CONTENT: &[&str] = &[include_str!("released/001.sql"); 3];

    #[test]
    fn a_released_step_never_changes() {
        for (migration, (version, wanted)) in MIGRATIONS.iter().zip(RELEASED) {
            let digest = crate::core::Digest::of(migration.sql.as_bytes());
            let is: String = digest.0.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(
                (migration.version, &*is),
                (*version, *wanted),
                "databases have this step already, and never get another one in its place: take the \
                 change back, and write a further step"
            );
        }
        let all = MIGRATIONS.len();
        assert_eq!(RELEASED.len(), all, "note the new step's hash here, once it is released");
        assert_eq!(CONTENT.len(), all, "and keep a database of it");
    }

    /// Whichever release made it: its schema becomes that of a new database, and nothing is lost.
    #[test]
    fn a_database_of_each_released_schema_is_brought_up() {
        let schema = |connection: &Connection| -> Vec<(String, String)> {
            let sql = "SELECT name, coalesce(sql, '') FROM sqlite_schema ORDER BY name";
            let mut statement = connection.prepare(sql).unwrap();
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
            rows.collect::<Result<_, _>>().unwrap()
        };
        let mut fresh = Connection::open_in_memory().unwrap();
        migrate(&mut fresh, MIGRATIONS, 5).unwrap();
        for (released, content) in CONTENT.iter().enumerate() {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("keys.db");
            super::super::open::prepare(&path).unwrap();
            let write = super::super::ConnectionPurpose::Write;
            let wait = std::time::Duration::ZERO;
            let mut old = super::super::open::connect(&path, write, wait).unwrap();
            migrate(&mut old, &MIGRATIONS[..=released], 5).unwrap();
            old.execute_batch(content).unwrap();
            drop(old);
            let mut old = super::super::open::connect(&path, write, wait).unwrap();
            migrate(&mut old, MIGRATIONS, 6).unwrap();
            assert_eq!(schema(&old), schema(&fresh), "{released}");
            let broken: u64 = old
                .query_row("SELECT count(*) FROM pragma_foreign_key_check", [], |row| row.get(0))
                .unwrap();
            assert_eq!(broken, 0);
            let old = SqlConnection::Sqlite(old);
            assert_eq!(log::verify(&old, &[]).unwrap(), []);
            assert_eq!(log::unlogged_keys(&old, 9).unwrap(), []);
            let found = |sql: &str| old.query_row(sql, [], |row| row.get::<_, u64>(0)).unwrap();
            assert_eq!(found("SELECT count(*) FROM key"), 3);
            assert_eq!(found("SELECT count(*) FROM secret WHERE removed IS NULL"), 3);
            let search = "SELECT count(*) FROM key_text WHERE key_text MATCH 'nightly'";
            assert_eq!(found(search), 1, "it is searched as before");
        }
    }

    /// The previous release runs on the next schema; the one before that does not.
    #[test]
    fn a_newer_schema_is_refused_once_it_says_so() {
        let mut connection = Connection::open_in_memory().unwrap();
        let next = [
            MIGRATIONS[0],
            Migration { version: 2, serves: 1, sql: "CREATE TABLE extra (a);" },
            Migration { version: 3, serves: 2, sql: "DROP TABLE extra;" },
        ];
        migrate(&mut connection, &next[..2], 5).unwrap();
        assert_eq!(state(&connection, &next[..1]).unwrap(), SchemaState { found: 2, known: 1 });
        migrate(&mut connection, &next, 5).unwrap();
        let refused = state(&connection, &next[..1]).unwrap_err();
        assert!(matches!(refused, StoreError::NewerSchema { found: 3, known: 1 }), "{refused}");
        state(&connection, &next[..2]).unwrap();
    }
}
