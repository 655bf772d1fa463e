//! A connection to a database on a server, for one thread. Statements are sent one after the other;
//! those whose outcome can wait are sent without waiting for it.
//!
//! Everything happens inside transactions, and nothing stays on the server's side between them: no
//! setting, no prepared statement, no lock. So a pooler may give each transaction another session. A
//! connection that broke is made anew with the next transaction.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::BytesMut;
use tokio::runtime::Runtime;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, Row, SimpleQueryMessage};

use super::dialect::ServerStatement;
use super::fault::{ServerError, SqlError};
use super::value::{BoundValues, SqlValue};
use crate::clock::Clock;

/// How much longer than the server's own limit an answer is waited for: the network may be gone.
const BEYOND: Duration = Duration::from_secs(5);
/// Of one step of the schema.
const MIGRATION: Duration = Duration::from_secs(3600);
/// After a connection that could not be made, the next one is tried so much later.
const REST: Duration = Duration::from_millis(250);
/// How often the outcome of a commit is asked whose answer got lost.
const ASKED: u32 = 8;
/// Rows that a cursor gives at a time.
const FETCHED: usize = 512;

/// Makes connections.
#[async_trait]
pub(in super::super) trait DialServer: fmt::Debug + Send + Sync {
    async fn dial(&self) -> Result<Client, ServerError>;
}

/// How transactions are made.
#[derive(Clone, Debug)]
pub(in super::super) struct ServerTerms {
    pub(in super::super) dial: Arc<dyn DialServer>,
    /// Of one statement.
    pub(in super::super) statement_timeout: Duration,
    /// How long a change waits while others write.
    pub(in super::super) lock_timeout: Duration,
    pub(in super::super) clock: Clock,
}

/// One thread's.
pub(in super::super) struct ServerConnection {
    terms: ServerTerms,
    runtime: Runtime,
    session: RefCell<Option<Arc<Client>>>,
    /// Statements as they were rewritten, by what they were written from.
    texts: RefCell<HashMap<String, Arc<ServerStatement>>>,
    /// What was sent and not waited for.
    later: RefCell<VecDeque<SentStatement>>,
    /// Of the transaction that writes: by which the server tells later what became of it.
    transaction: RefCell<Option<Box<str>>>,
    /// Names of cursors; each is used once.
    cursors: RefCell<u64>,
    /// How long an answer is waited for.
    limit: Cell<Duration>,
    /// When no connection could be made.
    failed_ns: RefCell<Option<u64>>,
}

type SentStatement = Pin<Box<dyn Future<Output = Result<u64, tokio_postgres::Error>> + Send>>;

/// What becomes of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum TransactionKind {
    /// Sees one state of the database and changes nothing.
    Read,
    /// Nobody else writes meanwhile.
    Write,
    /// Without the lock of those that write: it makes the tables that they need.
    Migrate,
}

// === impl ServerConnection ===

impl fmt::Debug for ServerConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerConnection").field("terms", &self.terms).finish_non_exhaustive()
    }
}

impl ServerConnection {
    pub(in super::super) fn new(terms: ServerTerms) -> Result<Self, SqlError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| SqlError::Server(ServerError::Strange { what: e.to_string() }))?;
        let limit = Cell::new(terms.statement_timeout + terms.lock_timeout + BEYOND);
        Ok(Self {
            terms,
            runtime,
            limit,
            session: RefCell::default(),
            texts: RefCell::default(),
            later: RefCell::default(),
            transaction: RefCell::default(),
            cursors: RefCell::default(),
            failed_ns: RefCell::default(),
        })
    }

    /// Begins a transaction, over a new connection if there is none.
    pub(in super::super) fn begin(&self, kind: TransactionKind) -> Result<(), SqlError> {
        self.later.borrow_mut().clear();
        self.transaction.replace(None);
        let (statement, lock) =
            (self.terms.statement_timeout.as_millis(), self.terms.lock_timeout.as_millis());
        let sql = match kind {
            TransactionKind::Read => format!(
                "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; \
                 SET LOCAL statement_timeout = {statement}"
            ),
            // The head of the log is locked by every change in any case. To take it first of all makes
            // an order of those that write, as a file has it: none sees half of another, and no two
            // wait for each other.
            TransactionKind::Write => format!(
                "BEGIN; SET LOCAL lock_timeout = {lock}; SET LOCAL statement_timeout = {}; \
                 SELECT txid_current() FROM audit_head WHERE one = 1 FOR UPDATE; \
                 SET LOCAL statement_timeout = {statement}",
                lock + statement
            ),
            TransactionKind::Migrate => format!("BEGIN; SET LOCAL lock_timeout = {lock}"),
        };
        self.limit.set(match kind {
            // Indexes of large tables take their time.
            TransactionKind::Migrate => MIGRATION,
            _ => self.terms.statement_timeout + self.terms.lock_timeout + BEYOND,
        });
        // What was idle may have been cut meanwhile, unnoticed.
        let kept = self.session.borrow().is_some();
        let begun = match self.simple(&sql) {
            Err(e) if kept && e.is_away() => self.simple(&sql),
            begun => begun,
        };
        match begun {
            Ok(answers) => {
                let number = answers.iter().find_map(|answer| match answer {
                    SimpleQueryMessage::Row(row) => row.get(0),
                    _ => None,
                });
                self.transaction.replace(number.map(Box::from));
                Ok(())
            }
            Err(e) => {
                self.roll_back();
                Err(e.into())
            }
        }
    }

    /// Ends the transaction, and says whether all of it is there.
    pub(in super::super) fn commit(&self) -> Result<(), SqlError> {
        self.settle()?;
        let number = self.transaction.replace(None);
        match (self.simple("COMMIT"), number) {
            (Ok(_), _) => Ok(()),
            (Err(e), Some(number)) if e.is_away() => self.outcome(&number),
            (Err(e), _) => Err(e.into()),
        }
    }

    /// Nothing of the transaction stays. A connection that broke has done so already.
    pub(in super::super) fn roll_back(&self) {
        self.later.borrow_mut().clear();
        self.transaction.replace(None);
        if self.session.borrow().is_some() && self.simple("ROLLBACK").is_err() {
            self.session.replace(None);
        }
    }

    /// The answer to a commit was lost: the server knows what came of it.
    fn outcome(&self, number: &str) -> Result<(), SqlError> {
        let sql = format!("SELECT pg_xact_status('{number}'::xid8)");
        let mut last = ServerError::Away { why: String::new() };
        for _ in 0..ASKED {
            match self.simple(&sql) {
                Ok(answers) => {
                    let said = answers.iter().find_map(|answer| match answer {
                        SimpleQueryMessage::Row(row) => row.get(0),
                        _ => None,
                    });
                    match said {
                        Some("committed") => return Ok(()),
                        // Its session ends as soon as the server sees that nobody is there.
                        Some("in progress") => {}
                        _ => break,
                    }
                }
                Err(e) => last = e,
            }
            self.runtime.block_on(tokio::time::sleep(REST));
        }
        let why = match last {
            ServerError::Away { why } if !why.is_empty() => why,
            _ => "the transaction was taken back".to_owned(),
        };
        Err(SqlError::Server(ServerError::Away { why }))
    }

    /// Why the transaction cannot go on; `None`: it can.
    pub(in super::super) fn lost(&self) -> Option<ServerError> {
        match self.session.borrow().is_some() {
            true => None,
            false => Some(ServerError::Away { why: "the connection broke".to_owned() }),
        }
    }

    /// Statements without values.
    pub(in super::super) fn batch(&self, sql: &str) -> Result<(), SqlError> {
        self.settle()?;
        self.simple(sql)?;
        Ok(())
    }

    /// Sends statements without values, and does not wait.
    pub(in super::super) fn batch_later(&self, sql: &'static str) -> Result<(), SqlError> {
        let client = self.open()?;
        self.send(Box::pin(async move { client.batch_execute(sql).await.map(|()| 0) }));
        Ok(())
    }

    /// The rows of a statement.
    pub(super) fn query(&self, sql: &str, values: BoundValues<'_>) -> Result<Vec<Row>, SqlError> {
        let statement = self.text(sql);
        let values = ordered(&statement, values)?;
        let values: Vec<(&(dyn ToSql + Sync), Type)> =
            values.iter().map(|value| (value as _, value.server_type())).collect();
        let client = self.open()?;
        // Sent before the others are waited for: one way there and back for all of them.
        let asked = client.query_typed(&statement.text, &values);
        self.in_turn(asked)
    }

    pub(super) fn execute(&self, sql: &str, values: BoundValues<'_>) -> Result<u64, SqlError> {
        let statement = self.text(sql);
        let values = ordered(&statement, values)?;
        let values: Vec<(&(dyn ToSql + Sync), Type)> =
            values.iter().map(|value| (value as _, value.server_type())).collect();
        let client = self.open()?;
        let asked = client.execute_typed(&statement.text, &values);
        self.in_turn(asked)
    }

    /// Sends a statement without waiting. What is wrong with it is told by the next one.
    pub(super) fn execute_later(&self, sql: &str, values: BoundValues<'_>) -> Result<(), SqlError> {
        let statement = self.text(sql);
        let values = ordered(&statement, values)?;
        let values: Vec<_> = values.into_iter().map(SqlValue::into_owned).collect();
        let client = self.open()?;
        self.send(Box::pin(async move {
            let values: Vec<(&(dyn ToSql + Sync), Type)> =
                values.iter().map(|value| (value as _, value.server_type())).collect();
            client.execute_typed(&statement.text, &values).await
        }));
        Ok(())
    }

    /// Every row, a few at a time, until `each` has had enough of them.
    pub(super) fn stream(
        &self,
        sql: &str,
        values: BoundValues<'_>,
        each: &mut dyn FnMut(&Row) -> Result<bool, SqlError>,
    ) -> Result<(), SqlError> {
        let cursor = {
            let mut known = self.cursors.borrow_mut();
            *known += 1;
            format!("keygate_{known}")
        };
        self.execute(&format!("DECLARE {cursor} NO SCROLL CURSOR FOR {sql}"), values)?;
        let fetch = format!("FETCH FORWARD {FETCHED} FROM {cursor}");
        loop {
            let rows = self.query(&fetch, BoundValues::Ordered(Vec::new()))?;
            let is_last = rows.len() < FETCHED;
            for row in &rows {
                if !each(row)? {
                    return Ok(());
                }
            }
            if is_last {
                // It ends with the transaction; what follows in this one has no use for it.
                return self.batch(&format!("CLOSE {cursor}"));
            }
        }
    }

    /// Waits for all that was sent. The first that failed is what is wrong.
    pub(in super::super) fn settle(&self) -> Result<(), SqlError> {
        self.in_turn(std::future::ready(Ok(())))
    }

    fn text(&self, sql: &str) -> Arc<ServerStatement> {
        if let Some(known) = self.texts.borrow().get(sql) {
            return Arc::clone(known);
        }
        let statement = Arc::new(ServerStatement::of(sql));
        let mut texts = self.texts.borrow_mut();
        // Pages of lists have as many texts as there are filters, and no more.
        if texts.len() > 1000 {
            texts.clear();
        }
        texts.insert(sql.to_owned(), Arc::clone(&statement));
        statement
    }

    fn send(&self, mut statement: SentStatement) {
        // Sent with the first look at it, and answered later.
        let first = self.runtime.block_on(std::future::poll_fn(|context| {
            std::task::Poll::Ready(statement.as_mut().poll(context))
        }));
        let statement = match first {
            std::task::Poll::Ready(done) => Box::pin(std::future::ready(done)),
            std::task::Poll::Pending => statement,
        };
        self.later.borrow_mut().push_back(statement);
    }

    /// Waits for what was sent before, and then for this.
    fn in_turn<T>(
        &self,
        asked: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, SqlError> {
        let before = self.later.take();
        let limit = self.limit.get();
        let waited = self.runtime.block_on(async {
            tokio::pin!(asked);
            let mut early = None;
            // Its request is to go out now, not when the others are answered.
            std::future::poll_fn(|context| {
                if let std::task::Poll::Ready(done) = asked.as_mut().poll(context) {
                    early = Some(done);
                }
                std::task::Poll::Ready(())
            })
            .await;
            tokio::time::timeout(limit, async {
                let mut failed = None;
                for statement in before {
                    if let Err(e) = statement.await
                        && failed.is_none()
                    {
                        failed = Some(e);
                    }
                }
                let done = match early {
                    Some(done) => done,
                    None => asked.await,
                };
                // What came behind one that failed was refused because of it.
                match failed {
                    Some(e) => Err(e),
                    None => done,
                }
            })
            .await
        });
        self.heard(waited).map_err(SqlError::Server)
    }

    fn heard<T>(
        &self,
        waited: Result<Result<T, tokio_postgres::Error>, tokio::time::error::Elapsed>,
    ) -> Result<T, ServerError> {
        let error = match waited {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(e)) => ServerError::from(e),
            Err(_) => ServerError::Away { why: "the server does not answer".to_owned() },
        };
        if error.is_away() {
            self.session.replace(None);
        }
        Err(error)
    }

    fn simple(&self, sql: &str) -> Result<Vec<SimpleQueryMessage>, ServerError> {
        let client = self.open()?;
        let limit = self.limit.get();
        let waited = self
            .runtime
            .block_on(async { tokio::time::timeout(limit, client.simple_query(sql)).await });
        self.heard(waited)
    }

    /// The session, or a new one where a transaction begins.
    fn open(&self) -> Result<Arc<Client>, ServerError> {
        if let Some(session) = &*self.session.borrow() {
            return Ok(Arc::clone(session));
        }
        let now = self.terms.clock.now().mono_ns;
        let rested = |failed: u64| now.saturating_sub(failed) >= REST.as_nanos() as u64;
        if self.failed_ns.borrow().is_some_and(|failed| !rested(failed)) {
            let why = "no connection could be made a moment ago".to_owned();
            return Err(ServerError::Away { why });
        }
        let dialled = self.runtime.block_on(self.terms.dial.dial());
        match dialled {
            Ok(client) => {
                let client = Arc::new(client);
                self.failed_ns.replace(None);
                self.session.replace(Some(Arc::clone(&client)));
                Ok(client)
            }
            Err(e) => {
                self.failed_ns.replace(Some(self.terms.clock.now().mono_ns));
                Err(e)
            }
        }
    }
}

/// In the order of the statement's places.
fn ordered<'a>(
    statement: &ServerStatement,
    values: BoundValues<'a>,
) -> Result<Vec<SqlValue<'a>>, SqlError> {
    let values = match values {
        BoundValues::Ordered(values) => values,
        BoundValues::Named(mut values) => {
            let mut ordered = Vec::with_capacity(statement.names.len());
            for name in &statement.names {
                let Some(at) = values.iter().position(|(known, _)| known == name) else {
                    let what = format!("a statement has no value for {name}");
                    return Err(SqlError::Server(ServerError::Strange { what }));
                };
                ordered.push(values.swap_remove(at).1);
            }
            ordered
        }
    };
    if values.iter().any(|value| matches!(value, SqlValue::TooLarge)) {
        let what = "a number is too large for a column".to_owned();
        return Err(SqlError::Server(ServerError::Strange { what }));
    }
    Ok(values)
}

impl From<ServerError> for SqlError {
    fn from(error: ServerError) -> Self {
        Self::Server(error)
    }
}

impl ToSql for SqlValue<'_> {
    fn to_sql(
        &self,
        ty: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Self::Integer(number) => number.to_sql(ty, out),
            Self::Text(text) => text.as_deref().to_sql(ty, out),
            Self::Blob(bytes) => bytes.as_deref().to_sql(ty, out),
            Self::TooLarge => Err("a number is too large for a column".into()),
        }
    }

    fn accepts(ty: &Type) -> bool {
        [Type::INT8, Type::TEXT, Type::BYTEA].contains(ty)
    }

    to_sql_checked!();
}
