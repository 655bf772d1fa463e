//! How connections to a server are made, and how their transactions begin.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::task::AbortHandle;
use tokio_postgres::Client;

use super::super::fault::ServerError;
use crate::clock::Clock;

/// After a transaction that writes has asked nothing for so long the server ends it: its program may be
/// gone with its host, and everybody else waits for the lock.
const IDLE: Duration = Duration::from_secs(60);

/// Makes connections.
#[async_trait]
pub(in crate::registrar::store) trait DialServer:
    fmt::Debug + Send + Sync
{
    async fn dial(&self) -> Result<DialledServer, ServerError>;
}

/// A connection, and the task that moves its bytes.
#[derive(Debug)]
pub(in crate::registrar::store) struct DialledServer {
    pub(in crate::registrar::store) client: Client,
    pub(in crate::registrar::store) drive: AbortHandle,
}

/// How transactions are made.
#[derive(Clone, Debug)]
pub(in crate::registrar::store) struct ServerTerms {
    pub(in crate::registrar::store) dial: Arc<dyn DialServer>,
    /// Of one statement.
    pub(in crate::registrar::store) statement_timeout: Duration,
    /// How long a change waits while others write.
    pub(in crate::registrar::store) lock_timeout: Duration,
    /// A connection has one session as long as it lives, and statements stay prepared in it.
    pub(in crate::registrar::store) prepares: bool,
    pub(in crate::registrar::store) clock: Clock,
}

/// What becomes of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::registrar::store) enum TransactionKind {
    /// Sees one state of the database and changes nothing.
    Read,
    /// Nobody else writes meanwhile.
    Write,
    /// Without the lock of those that write: it makes the tables that they need.
    Migrate,
}

// === impl ServerTerms ===

impl ServerTerms {
    /// The statements that begin a transaction. All that they set ends with it.
    pub(super) fn beginning(&self, kind: TransactionKind) -> String {
        let (statement, lock) = (self.statement_timeout.as_millis(), self.lock_timeout.as_millis());
        match kind {
            TransactionKind::Read => format!(
                "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; \
                 SET LOCAL statement_timeout = {statement}; SELECT pg_backend_pid() AS session"
            ),
            // The head of the log is locked by every change in any case. To take it first of all makes
            // an order of those that write, as a file has it: none sees half of another, and no two
            // wait for each other.
            TransactionKind::Write => format!(
                "BEGIN; SET LOCAL lock_timeout = {lock}; SET LOCAL statement_timeout = {}; \
                 SET LOCAL idle_in_transaction_session_timeout = {}; \
                 SELECT pg_backend_pid() AS session, txid_current() AS number, seq, \
                 encode(hash, 'hex') AS hash FROM audit_head WHERE one = 1 FOR UPDATE; \
                 SET LOCAL statement_timeout = {statement}",
                lock + statement,
                IDLE.as_millis()
            ),
            TransactionKind::Migrate => format!("BEGIN; SET LOCAL lock_timeout = {lock}"),
        }
    }
}
