//! The database of a configuration, of either kind: a file, or one on a server.

use std::sync::Arc;

use super::config::AdminToml;
use super::store::postgres::{PostgresOptions, PostgresStore};
use super::store::sqlite::SqliteStore;
use super::store::{SchemaState, Store, StoreError};
use crate::clock::Clock;

/// Opens it, creates it if it does not exist, and brings its schema up to date.
///
/// # Errors
///
/// Those of [`SqliteStore::open`] and [`PostgresStore::open`].
pub fn open(config: &AdminToml, clock: Clock) -> Result<Arc<dyn Store>, StoreError> {
    let Some(server) = config.store.server() else {
        return Ok(Arc::new(SqliteStore::open(config.store_options(clock))?));
    };
    let options = PostgresOptions {
        server,
        audiences: config.audiences.iter().map(super::config::AudienceConfig::terms).collect(),
        rules: config.policy.clone(),
        clock,
    };
    Ok(Arc::new(PostgresStore::open(options)?))
}

/// The version of its schema, without changing anything; `None`: there is no database.
///
/// # Errors
///
/// A schema that this program cannot work on; a database that is not ours.
pub fn schema(config: &AdminToml, clock: Clock) -> Result<Option<SchemaState>, StoreError> {
    let found = match config.store.server() {
        Some(server) => PostgresStore::schema(&server, clock)?,
        None if !config.database().exists() => return Ok(None),
        None => SqliteStore::schema(&config.database(), config.store.busy_timeout)?,
    };
    Ok(Some(found).filter(|schema| schema.found > 0))
}

/// Creates it, or brings its schema up to date. Returns the versions that it put in force.
///
/// # Errors
///
/// A newer schema; a database of another program; a place that cannot be written.
pub fn migrate(config: &AdminToml, clock: Clock) -> Result<Vec<u32>, StoreError> {
    match config.store.server() {
        Some(server) => PostgresStore::migrate(&server, clock),
        None => {
            let now_ms = clock.now().unix_ms;
            SqliteStore::migrate(&config.database(), config.store.busy_timeout, now_ms)
        }
    }
}

/// Its name for people: the file, or the URL without a password.
pub fn name(config: &AdminToml) -> String {
    match &config.store.database {
        Some(url) => url.to_string(),
        None => config.database().display().to_string(),
    }
}
