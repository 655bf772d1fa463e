//! One interface to the connections of both databases, with the method names of SQLite's driver.
//! Statements are written once, and the code that reads rows is written once.

use rusqlite::params_from_iter;

use super::super::audit::AuditHead;
use super::super::error::StoreError;
use super::dialect;
use super::fault::SqlError;
use super::server::{ServerConnection, TransactionKind};
use super::value::{BoundValues, FromColumn, Params, SqlValue};

/// One thread's connection to a database.
#[derive(Debug)]
pub(in super::super) enum SqlConnection {
    Sqlite(rusqlite::Connection),
    Server(Box<ServerConnection>),
}

/// The index that a server offers for searches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum SearchIndex {
    /// SQLite's own, in a table of its own.
    Fts,
    /// `pg_trgm`.
    Trigrams,
    /// No index: searches find names, ids and starts of secrets by their first characters.
    Prefixes,
}

/// A statement that is ready to be run.
pub(in super::super) enum SqlStatement<'c> {
    Sqlite(rusqlite::CachedStatement<'c>),
    Server {
        connection: &'c ServerConnection,
        sql: String,
    },
    /// Planned again each time, for its values.
    ServerPlanned {
        connection: &'c ServerConnection,
        sql: String,
    },
}

/// The rows of a statement, one after the other.
pub(in super::super) enum SqlRows<'s> {
    Sqlite(rusqlite::Rows<'s>),
    Server { rows: Vec<tokio_postgres::Row>, next: usize },
}

#[derive(Clone, Copy)]
pub(in super::super) enum SqlRow<'r> {
    Sqlite(&'r rusqlite::Row<'r>),
    Server(&'r tokio_postgres::Row),
}

/// One state of the database, for several statements to read.
pub(in super::super) struct SqlView<'c> {
    connection: &'c SqlConnection,
    /// A server's readers are in a transaction already.
    _transaction: Option<rusqlite::Transaction<'c>>,
}

/// A column by its place or by its name.
pub(in super::super) trait ColumnIndex:
    rusqlite::RowIndex + tokio_postgres::row::RowIndex + std::fmt::Display
{
}

impl<I> ColumnIndex for I where
    I: rusqlite::RowIndex + tokio_postgres::row::RowIndex + std::fmt::Display
{
}

// === impl SqlConnection ===

impl SqlConnection {
    pub(in super::super) fn prepare_cached(&self, sql: &str) -> Result<SqlStatement<'_>, SqlError> {
        Ok(match self {
            Self::Sqlite(connection) => SqlStatement::Sqlite(connection.prepare_cached(sql)?),
            Self::Server(connection) => SqlStatement::Server { connection, sql: sql.to_owned() },
        })
    }

    /// For statements whose best plan depends on the values, as a search's does.
    pub(in super::super) fn prepare_planned(
        &self,
        sql: &str,
    ) -> Result<SqlStatement<'_>, SqlError> {
        Ok(match self {
            Self::Sqlite(connection) => SqlStatement::Sqlite(connection.prepare_cached(sql)?),
            Self::Server(connection) => {
                SqlStatement::ServerPlanned { connection, sql: sql.to_owned() }
            }
        })
    }

    pub(in super::super) fn execute<'a>(
        &self,
        sql: &str,
        params: impl Params<'a>,
    ) -> Result<usize, SqlError> {
        self.prepare_cached(sql)?.execute(params)
    }

    /// Runs the statement for each row. On a server it runs once, with all of them: places are in
    /// its `VALUES (…)` alone, and no two rows may conflict in one row of the table. The caller
    /// need not wait for the outcome.
    pub(in super::super) fn execute_rows<const N: usize>(
        &self,
        sql: &str,
        rows: Vec<[SqlValue<'_>; N]>,
    ) -> Result<(), SqlError> {
        if rows.is_empty() {
            return Ok(());
        }
        match self {
            Self::Sqlite(connection) => {
                let mut statement = connection.prepare_cached(sql)?;
                rows.into_iter()
                    .try_for_each(|row| statement.execute(params_from_iter(row)).map(drop))?;
                Ok(())
            }
            // As written: for one row, a server has less to do than with columns.
            Self::Server(connection) if rows.len() == 1 => {
                let values = rows.into_iter().flatten().collect();
                connection.execute_later(sql, BoundValues::Ordered(values))
            }
            Self::Server(connection) => {
                let mut columns: [_; N] = std::array::from_fn(|_| Vec::with_capacity(rows.len()));
                for row in rows {
                    for (column, value) in columns.iter_mut().zip(row) {
                        column.push(value);
                    }
                }
                let columns: Vec<_> = columns.into_iter().map(SqlValue::column).collect();
                let sql = dialect::of_columns(sql, &columns);
                connection.execute_later(&sql, BoundValues::Ordered(columns))
            }
        }
    }

    pub(in super::super) fn query_row<'a, T>(
        &self,
        sql: &str,
        params: impl Params<'a>,
        read: impl FnOnce(&SqlRow<'_>) -> Result<T, SqlError>,
    ) -> Result<T, SqlError> {
        self.prepare_cached(sql)?.query_row(params, read)
    }

    /// Passes each row to `each`, a few at a time, until `each` wants no more.
    pub(in super::super) fn stream<'a>(
        &self,
        sql: &str,
        params: impl Params<'a>,
        mut each: impl FnMut(&SqlRow<'_>) -> Result<bool, SqlError>,
    ) -> Result<(), SqlError> {
        match self {
            Self::Sqlite(_) => {
                let mut statement = self.prepare_cached(sql)?;
                let mut rows = statement.query(params)?;
                while let Some(row) = rows.next()? {
                    if !each(&row)? {
                        break;
                    }
                }
                Ok(())
            }
            Self::Server(connection) => {
                connection.stream(sql, params.bound(), &mut |row| each(&SqlRow::Server(row)))
            }
        }
    }

    /// Makes several statements read one state of the database.
    pub(in super::super) fn view(&self) -> Result<SqlView<'_>, SqlError> {
        let transaction = match self {
            Self::Sqlite(connection) => Some(connection.unchecked_transaction()?),
            Self::Server(_) => None,
        };
        Ok(SqlView { connection: self, _transaction: transaction })
    }

    /// Waits until everything that was sent is done.
    pub(in super::super) fn settle(&self) -> Result<(), SqlError> {
        match self {
            Self::Sqlite(_) => Ok(()),
            Self::Server(connection) => connection.settle(),
        }
    }

    pub(in super::super) const fn is_server(&self) -> bool {
        matches!(self, Self::Server(_))
    }

    /// Begins a transaction for one reader.
    pub(in super::super) fn begin_reading(&self) -> Result<(), SqlError> {
        match self {
            // Each statement sees the last commit. Readers that need more take a view.
            Self::Sqlite(_) => Ok(()),
            Self::Server(connection) => connection.begin(TransactionKind::Read).map(drop),
        }
    }

    pub(in super::super) fn end_reading(&self) {
        if let Self::Server(connection) = self
            && connection.lost().is_none()
        {
            connection.roll_back();
        }
    }

    /// Begins a transaction for several readers that share one state of the database.
    pub(in super::super) fn begin_sharing(&self) -> Result<(), SqlError> {
        match self {
            Self::Sqlite(connection) => Ok(control(connection, "BEGIN")?),
            Self::Server(connection) => connection.begin(TransactionKind::Read).map(drop),
        }
    }

    pub(in super::super) fn end_sharing(&self) {
        match self {
            Self::Sqlite(connection) => {
                if control(connection, "COMMIT").is_err() {
                    self.roll_back();
                }
            }
            Self::Server(_) => self.end_reading(),
        }
    }

    /// Begins a transaction during which nobody else writes. Returns where the log ends, if the
    /// server sent that with its answer.
    pub(in super::super) fn begin_writing(&self) -> Result<Option<AuditHead>, SqlError> {
        match self {
            Self::Sqlite(connection) => {
                control(connection, "BEGIN IMMEDIATE")?;
                Ok(None)
            }
            Self::Server(connection) => connection.begin(TransactionKind::Write),
        }
    }

    pub(in super::super) fn commit(&self) -> Result<(), SqlError> {
        match self {
            Self::Sqlite(connection) => Ok(control(connection, "COMMIT")?),
            Self::Server(connection) => connection.commit(),
        }
    }

    /// The transaction may have ended already.
    pub(in super::super) fn roll_back(&self) {
        match self {
            Self::Sqlite(connection) => drop(connection.execute_batch("ROLLBACK")),
            Self::Server(connection) => connection.roll_back(),
        }
    }

    pub(in super::super) fn set_savepoint(&self) -> Result<(), SqlError> {
        match self {
            Self::Sqlite(connection) => Ok(control(connection, "SAVEPOINT change")?),
            Self::Server(connection) => connection.batch_later("SAVEPOINT change"),
        }
    }

    /// Takes back what was written since the savepoint.
    pub(in super::super) fn undo_to_savepoint(&self) -> Result<(), SqlError> {
        match self {
            Self::Sqlite(connection) => {
                Ok(connection.execute_batch("ROLLBACK TO change; RELEASE change")?)
            }
            Self::Server(connection) => connection.undo("ROLLBACK TO change; RELEASE change"),
        }
    }

    pub(in super::super) fn release_savepoint(&self) -> Result<(), SqlError> {
        match self {
            Self::Sqlite(connection) => Ok(control(connection, "RELEASE change")?),
            Self::Server(connection) => connection.batch_later("RELEASE change"),
        }
    }

    /// Runs it under a savepoint of its own, and takes it back if it fails.
    pub(in super::super) fn nested(
        &self,
        name: &str,
        work: impl FnOnce() -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.batch(&format!("SAVEPOINT {name}"))?;
        let done = work();
        match done {
            Ok(()) => self.batch(&format!("RELEASE {name}"))?,
            // The savepoint may have gone with the whole transaction.
            Err(_) if self.lost().is_some() => {}
            Err(_) => {
                let sql = format!("ROLLBACK TO {name}; RELEASE {name}");
                match self {
                    Self::Sqlite(connection) => {
                        connection.execute_batch(&sql).map_err(SqlError::from)?
                    }
                    Self::Server(connection) => connection.undo(&sql)?,
                }
            }
        }
        done
    }

    fn batch(&self, sql: &str) -> Result<(), SqlError> {
        match self {
            Self::Sqlite(connection) => Ok(connection.execute_batch(sql)?),
            Self::Server(connection) => connection.batch(sql),
        }
    }

    /// How much this connection has written, or may have written. Only rises.
    pub(in super::super) fn written(&self) -> u64 {
        match self {
            Self::Sqlite(connection) => connection.total_changes(),
            Self::Server(connection) => connection.sent(),
        }
    }

    /// Whether a statement has failed, and with it everything in the transaction since the last
    /// savepoint.
    pub(in super::super) fn has_failed(&self) -> bool {
        match self {
            Self::Sqlite(_) => false,
            Self::Server(connection) => connection.has_failed(),
        }
    }

    /// Why the whole transaction is gone; `None`: it is not.
    pub(in super::super) fn lost(&self) -> Option<StoreError> {
        match self {
            Self::Sqlite(connection) if connection.is_autocommit() => {
                // A full or failing disk ends the whole transaction.
                let why = "the disk is full or fails".to_owned();
                Some(StoreError::ReadOnly { why })
            }
            Self::Sqlite(_) => None,
            Self::Server(connection) => connection.lost().map(Into::into),
        }
    }
}

/// A statement that begins or ends a transaction.
fn control(connection: &rusqlite::Connection, sql: &str) -> rusqlite::Result<()> {
    connection.prepare_cached(sql)?.execute([]).map(drop)
}

// === impl SqlStatement ===

impl SqlStatement<'_> {
    pub(in super::super) fn execute<'a>(
        &mut self,
        params: impl Params<'a>,
    ) -> Result<usize, SqlError> {
        match self {
            Self::Sqlite(statement) => match params.bound() {
                BoundValues::Ordered(values) => Ok(statement.execute(params_from_iter(values))?),
                named => {
                    bind(statement, named)?;
                    Ok(statement.raw_execute()?)
                }
            },
            Self::Server { connection, sql } | Self::ServerPlanned { connection, sql } => {
                let changed = connection.execute(sql, params.bound())?;
                Ok(usize::try_from(changed).unwrap_or(usize::MAX))
            }
        }
    }

    /// For a statement whose outcome can wait: a later statement, or the end, reports what went
    /// wrong.
    pub(in super::super) fn execute_later<'a>(
        &mut self,
        params: impl Params<'a>,
    ) -> Result<(), SqlError> {
        match self {
            Self::Sqlite(_) => self.execute(params).map(|_| ()),
            Self::Server { connection, sql } | Self::ServerPlanned { connection, sql } => {
                connection.execute_later(sql, params.bound())
            }
        }
    }

    pub(in super::super) fn query<'a>(
        &mut self,
        params: impl Params<'a>,
    ) -> Result<SqlRows<'_>, SqlError> {
        match self {
            Self::Sqlite(statement) => match params.bound() {
                BoundValues::Ordered(values) => {
                    Ok(SqlRows::Sqlite(statement.query(params_from_iter(values))?))
                }
                named => {
                    bind(statement, named)?;
                    Ok(SqlRows::Sqlite(statement.raw_query()))
                }
            },
            Self::Server { connection, sql } => {
                Ok(SqlRows::Server { rows: connection.query(sql, params.bound())?, next: 0 })
            }
            Self::ServerPlanned { connection, sql } => {
                let rows = connection.query_planned(sql, params.bound())?;
                Ok(SqlRows::Server { rows, next: 0 })
            }
        }
    }

    pub(in super::super) fn query_row<'a, T>(
        &mut self,
        params: impl Params<'a>,
        read: impl FnOnce(&SqlRow<'_>) -> Result<T, SqlError>,
    ) -> Result<T, SqlError> {
        let mut rows = self.query(params)?;
        match rows.next()? {
            Some(row) => read(&row),
            None => Err(SqlError::NoRow),
        }
    }

    /// All rows. For many rows, use [`SqlConnection::stream`].
    pub(in super::super) fn query_all<'a, T>(
        &mut self,
        params: impl Params<'a>,
        mut read: impl FnMut(&SqlRow<'_>) -> Result<T, SqlError>,
    ) -> Result<Vec<T>, SqlError> {
        let mut rows = self.query(params)?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            found.push(read(&row)?);
        }
        Ok(found)
    }
}

fn bind(
    statement: &mut rusqlite::CachedStatement<'_>,
    values: BoundValues<'_>,
) -> Result<(), SqlError> {
    let BoundValues::Named(values) = values else { return Ok(()) };
    for (name, value) in values {
        if let Some(index) = statement.parameter_index(name)? {
            statement.raw_bind_parameter(index, value)?;
        }
    }
    Ok(())
}

// === impl SqlRows ===

impl SqlRows<'_> {
    pub(in super::super) fn next(&mut self) -> Result<Option<SqlRow<'_>>, SqlError> {
        match self {
            Self::Sqlite(rows) => Ok(rows.next()?.map(SqlRow::Sqlite)),
            Self::Server { rows, next } => {
                let row = rows.get(*next).map(SqlRow::Server);
                *next += 1;
                Ok(row)
            }
        }
    }
}

// === impl SqlRow ===

impl SqlRow<'_> {
    pub(in super::super) fn get<I: ColumnIndex, T: FromColumn>(
        &self,
        column: I,
    ) -> Result<T, SqlError> {
        match self {
            Self::Sqlite(row) => T::of_sqlite(row, column),
            Self::Server(row) => T::of_server(row, column),
        }
    }

    pub(in super::super) fn name(&self, column: usize) -> Option<&str> {
        match self {
            Self::Sqlite(row) => row.as_ref().column_name(column).ok(),
            Self::Server(row) => row.columns().get(column).map(|column| column.name()),
        }
    }
}

// === impl SqlView ===

impl std::ops::Deref for SqlView<'_> {
    type Target = SqlConnection;

    fn deref(&self) -> &SqlConnection {
        self.connection
    }
}
