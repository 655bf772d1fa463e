//! How connections to a server are made, and how their transactions begin.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::task::AbortHandle;
use tokio_postgres::Client;

use super::super::fault::ServerError;
use crate::clock::Clock;

/// The server ends a writing transaction that has sent nothing for this long: its program may be
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

/// How to run transactions.
#[derive(Clone, Debug)]
pub(in crate::registrar::store) struct ServerTerms {
    pub(in crate::registrar::store) dial: Arc<dyn DialServer>,
    /// For one statement.
    pub(in crate::registrar::store) statement_timeout: Duration,
    /// How long a change waits while others write.
    pub(in crate::registrar::store) lock_timeout: Duration,
    /// A connection keeps one session as long as it lives, so statements stay prepared in it.
    pub(in crate::registrar::store) prepares: bool,
    pub(in crate::registrar::store) clock: Clock,
}

/// What a transaction is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::registrar::store) enum TransactionKind {
    /// Sees one state of the database and changes nothing.
    Read,
    /// Nobody else writes in the meantime.
    Write,
    /// Without the lock that writers take: it creates the tables that they need.
    Migrate,
}

// === impl ServerTerms ===

impl ServerTerms {
    /// The statements that begin a transaction. Everything that they set ends with it.
    pub(super) fn beginning(&self, kind: TransactionKind) -> String {
        let (statement, lock) = (self.statement_timeout.as_millis(), self.lock_timeout.as_millis());
        match kind {
            TransactionKind::Read => format!(
                "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; \
                 SET LOCAL statement_timeout = {statement}; SELECT pg_backend_pid() AS session"
            ),
            // Every change locks the head of the log in any case. Taking that lock first puts
            // writers into one order, as a file does: none sees half of another's work, and no two
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
