//! Versions of the schema on PostgreSQL, a file each. Each is put in force in one transaction
//! together with the row that says so, while nobody else migrates. A step that concerns one
//! database alone does not exist for the other, so the numbers differ from SQLite's.

use super::super::error::StoreError;
use super::super::sql::driver::{SearchIndex, SqlConnection};
use super::super::sql::server::{ServerConnection, TransactionKind};
use super::super::sql::{Migration, SchemaState};

/// Earlier servers lack the function that tells the outcome of a commit whose answer was lost.
const OLDEST: u64 = 130_000;

/// The number of the lock that migrating processes wait for: "kgrg".
const LOCK: u32 = 0x6b67_7267;

const SEARCH: &str = include_str!("002.sql");
const SEARCH_ORDER: &str = include_str!("003.sql");

pub(super) const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, serves: 1, sql: include_str!("001.sql") },
    Migration { version: 2, serves: 2, sql: SEARCH },
    Migration { version: 3, serves: 2, sql: SEARCH_ORDER },
];

fn server(connection: &SqlConnection) -> Result<&ServerConnection, StoreError> {
    match connection {
        SqlConnection::Server(server) => Ok(server.as_ref()),
        SqlConnection::Sqlite(_) => Err(StoreError::broken("another database was expected")),
    }
}

/// The version of the schema. Refuses one that this program cannot work on. Call it in a
/// transaction.
pub(super) fn state(
    connection: &SqlConnection,
    migrations: &[Migration],
) -> Result<SchemaState, StoreError> {
    let known = migrations.last().map_or(0, |m| m.version);
    let version: String =
        connection
            .query_row("SELECT current_setting('server_version_num')", [], |row| row.get(0))?;
    if version.parse::<u64>().is_ok_and(|version| version < OLDEST) {
        let what = "the server is older than PostgreSQL 13\nhint: upgrade it";
        return Err(StoreError::Broken { what: what.to_owned() });
    }
    let has = |name: &str| {
        let sql = "SELECT count(*) FROM pg_class WHERE oid = to_regclass(?1)";
        connection.query_row(sql, [name], |row| row.get::<_, bool>(0))
    };
    match (has("schema_version")?, has("audit_head")?) {
        (true, true) => {}
        (false, false) => return Ok(SchemaState { found: 0, known }),
        _ => {
            return Err(StoreError::Broken {
                what:
                    "it is a database of another program\nhint: make one for this service alone: \
                       CREATE DATABASE keygate"
                        .to_owned(),
            });
        }
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
    connection: &SqlConnection,
    migrations: &[Migration],
    now_ms: u64,
) -> Result<Vec<u32>, StoreError> {
    let mut done = Vec::new();
    for migration in migrations {
        let put = step(connection, |connection| {
            if state(connection, migrations)?.found >= migration.version {
                return Ok(false);
            }
            let server = server(connection)?;
            server.batch(
                "CREATE TABLE IF NOT EXISTS schema_version (version BIGINT PRIMARY KEY, \
                 serves BIGINT NOT NULL, at BIGINT NOT NULL)",
            )?;
            server.batch(migration.sql)?;
            connection.execute(
                "INSERT INTO schema_version (version, serves, at) VALUES (?1, ?2, ?3)",
                (migration.version, migration.serves, now_ms),
            )?;
            Ok(true)
        })?;
        if put {
            done.push(migration.version);
        }
    }
    Ok(done)
}

/// The index that a search uses. Call it in a transaction.
pub(super) fn search(connection: &SqlConnection) -> Result<SearchIndex, StoreError> {
    let sql = "SELECT count(*) FROM pg_class WHERE oid = to_regclass('key_text')";
    let has = connection.query_row(sql, [], |row| row.get::<_, bool>(0))?;
    Ok(if has { SearchIndex::Trigrams } else { SearchIndex::Prefixes })
}

/// Creates the search's index if its extension was installed after the schema.
pub(super) fn add_search(connection: &SqlConnection) -> Result<SearchIndex, StoreError> {
    step(connection, |connection| {
        if search(connection)? == SearchIndex::Prefixes {
            let server = server(connection)?;
            server.batch(SEARCH)?;
            server.batch(SEARCH_ORDER)?;
        }
        search(connection)
    })
}

/// Runs one step in one transaction, during which nobody else migrates.
fn step<T>(
    connection: &SqlConnection,
    work: impl FnOnce(&SqlConnection) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let server = server(connection)?;
    server.begin(TransactionKind::Migrate)?;
    let lock = format!("SELECT pg_advisory_xact_lock({LOCK})");
    let done = server.batch(&lock).map_err(StoreError::from).and_then(|()| work(connection));
    match done {
        Ok(done) => {
            server.commit()?;
            Ok(done)
        }
        Err(e) => {
            server.roll_back();
            Err(e)
        }
    }
}
