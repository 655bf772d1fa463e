//! The store on PostgreSQL: the same statements as on SQLite, over connections that are
//! re-established when they break. Several instances of the service may work on one database.
//!
//! A writer holds the head of the audit log until commit, so that changes of all instances have one
//! order. A session keeps no state between two transactions.

mod dial;
#[cfg(test)]
pub(in crate::registrar) mod fixture;
mod listen;
mod schema;
#[cfg(test)]
mod tests;
mod url;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use self::dial::ServerAddress;
pub use self::url::{PasswordInUrl, PostgresUrl, PostgresUrlError, ServerPassword};
use super::error::StoreError;
use super::people::OrgRules;
use super::sql::driver::{SearchIndex, SqlConnection};
use super::sql::server::{ServerConnection, ServerTerms};
use super::sql::{
    AudienceTerms, ConnectionPurpose, Database, ReadyDatabase, SchemaState, SqlStore,
};
use crate::clock::Clock;

/// Where a database is, and how to use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostgresServer {
    pub url: PostgresUrl,
    pub password: Option<ServerPassword>,
    /// PEM of the authorities that may issue the server's certificate; `None`: the public ones.
    pub ca_file: Option<PathBuf>,
    /// The URL is a pooler's: no connection stays ours, so none can receive notifications of
    /// changes.
    pub is_pooled: bool,
    /// The longest that one statement may take. 15 s is usual.
    pub statement_timeout: Duration,
    /// How long a change waits while others write. 5 s is usual.
    pub busy_timeout: Duration,
}

/// How to open a database.
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    pub server: PostgresServer,
    /// From the configuration. Opening adds rows for new ones.
    pub audiences: Vec<AudienceTerms>,
    /// For orgs that have set none.
    pub rules: OrgRules,
    pub clock: Clock,
}

/// Databases on servers.
#[derive(Clone, Copy, Debug)]
pub struct PostgresStore;

/// One of them.
#[derive(Debug)]
struct DatabaseOnServer {
    terms: ServerTerms,
}

// === impl PostgresStore ===

impl PostgresStore {
    /// Opens the database and brings its schema up to date.
    ///
    /// # Errors
    ///
    /// A server that cannot be reached; a newer schema, a database of another program.
    pub fn open(options: PostgresOptions) -> Result<SqlStore, StoreError> {
        apart(move || {
            let PostgresOptions { server, audiences, rules, clock } = options;
            let (address, terms) = server.terms(clock.clone());
            let database = Arc::new(DatabaseOnServer { terms });
            let connection = database.connect(ConnectionPurpose::Write)?;
            schema::migrate(&connection, schema::MIGRATIONS, clock.now().unix_ms)?;
            let search = reading(&connection, |connection| {
                schema::state(connection, schema::MIGRATIONS)?;
                schema::search(connection)
            })?;
            drop(connection);
            if search == SearchIndex::Prefixes {
                tracing::warn!(
                    "the database has no pg_trgm: a search finds names, ids and keys by their first \
                     characters alone; install the extension, then `keygatectl admin migrate`"
                );
            }
            let is_shared = true;
            let ready = ReadyDatabase { database, audiences, rules, search, is_shared, clock };
            let store = SqlStore::start(ready)?;
            if !server.is_pooled {
                listen::start(address, store.serials())?;
            }
            Ok(store)
        })
    }

    /// The version of a database's schema, without changing anything.
    ///
    /// # Errors
    ///
    /// A schema that this program cannot work on; a database that is not ours.
    pub fn schema(server: &PostgresServer, clock: Clock) -> Result<SchemaState, StoreError> {
        let (_, terms) = server.terms(clock);
        apart(move || {
            let connection = DatabaseOnServer { terms }.connect(ConnectionPurpose::Read)?;
            reading(&connection, |connection| schema::state(connection, schema::MIGRATIONS))
        })
    }

    /// Brings the schema up to date. Returns the versions that it put in force.
    pub fn migrate(server: &PostgresServer, clock: Clock) -> Result<Vec<u32>, StoreError> {
        let (_, terms) = server.terms(clock);
        apart(move || {
            let now_ms = terms.clock.now().unix_ms;
            let connection = DatabaseOnServer { terms }.connect(ConnectionPurpose::Write)?;
            let done = schema::migrate(&connection, schema::MIGRATIONS, now_ms)?;
            schema::add_search(&connection)?;
            Ok(done)
        })
    }
}

// === impl PostgresServer ===

impl PostgresServer {
    fn terms(&self, clock: Clock) -> (ServerAddress, ServerTerms) {
        let address = ServerAddress::new(&self.url, self.password.as_ref(), self.ca_file.clone());
        let terms = ServerTerms {
            dial: Arc::new(address.clone()),
            statement_timeout: self.statement_timeout,
            lock_timeout: self.busy_timeout,
            prepares: !self.is_pooled,
            clock,
        };
        (address, terms)
    }
}

// === impl DatabaseOnServer ===

impl Database for DatabaseOnServer {
    fn connect(&self, _: ConnectionPurpose) -> Result<SqlConnection, StoreError> {
        Ok(SqlConnection::Server(Box::new(ServerConnection::new(self.terms.clone())?)))
    }
}

fn reading<T>(
    connection: &SqlConnection,
    read: impl FnOnce(&SqlConnection) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    connection.begin_reading()?;
    let done = read(connection);
    connection.end_reading();
    done
}

/// Runs on a thread of its own: connections have their own runtimes, and the caller may be a task
/// of another one.
fn apart<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let thread = std::thread::Builder::new().name("store-open".to_owned()).spawn(work);
    let done = thread.map_err(StoreError::broken)?.join();
    done.unwrap_or_else(|_| Err(StoreError::broken("opening the database has panicked")))
}
