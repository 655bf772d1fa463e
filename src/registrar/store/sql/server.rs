//! A connection to a database server, for one thread. It sends statements one after the other, and
//! does not wait for the answer of a statement whose outcome can wait.
//!
//! Everything happens inside transactions, and no setting and no lock stays on the server between
//! them. Frequent statements are prepared, except where a pooler may give each transaction another
//! session. If a connection breaks, the next transaction makes a new one.

mod asked;
mod terms;
mod texts;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio_postgres::{Row, SimpleQueryMessage};

use self::asked::{AskedStatement, ordered};
pub(in super::super) use self::terms::{DialServer, DialledServer, ServerTerms, TransactionKind};
use self::texts::{KnownStatement, ServerTexts};
use super::super::audit::{AuditHead, ChainHash};
use super::fault::{ServerError, SqlError};
use super::value::{BoundValues, SqlValue};

/// How much longer than the server's own limit to wait for an answer: the network may be gone.
const BEYOND: Duration = Duration::from_secs(5);
/// For one step of the schema.
const MIGRATION: Duration = Duration::from_secs(3600);
/// After a failed attempt to connect, the next attempt waits this long.
const REST: Duration = Duration::from_millis(250);
/// How often to ask for the outcome of a commit whose answer was lost.
const ASKED: u32 = 8;
/// Rows that a cursor returns at a time.
const FETCHED: usize = 512;

const BROKEN: &str = "the connection broke";

/// One thread's connection.
pub(in super::super) struct ServerConnection {
    terms: ServerTerms,
    runtime: Runtime,
    session: RefCell<Option<Arc<DialledServer>>>,
    texts: ServerTexts,
    /// Statements that were sent and not waited for.
    later: RefCell<VecDeque<SentStatement>>,
    /// The writing transaction's number, by which the server can say later whether it was
    /// committed.
    transaction: RefCell<Option<Box<str>>>,
    /// How many cursors are open. Their numbers are their names.
    cursors: Cell<u32>,
    /// How long to wait for an answer.
    limit: Cell<Duration>,
    /// How many of the sent statements may have written something.
    sent: Cell<u64>,
    /// The server refused a statement since the transaction began or was rolled back to a
    /// savepoint.
    has_failed: Cell<bool>,
    /// When an attempt to connect failed.
    failed_ns: RefCell<Option<u64>>,
}

type SentStatement = Pin<Box<dyn Future<Output = Result<u64, tokio_postgres::Error>> + Send>>;

/// Whether a statement's plan may be used for other values as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PlanKind {
    Kept,
    OfValues,
}

/// What happened to a transaction.
enum CommitOutcome {
    Committed,
    TakenBack,
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
        let texts = ServerTexts::new();
        if !terms.prepares {
            texts.prepare_none();
        }
        Ok(Self {
            terms,
            runtime,
            limit,
            session: RefCell::default(),
            texts,
            later: RefCell::default(),
            transaction: RefCell::default(),
            cursors: Cell::default(),
            sent: Cell::default(),
            has_failed: Cell::default(),
            failed_ns: RefCell::default(),
        })
    }

    /// Begins a transaction, over a new connection if there is none. One that writes has locked the
    /// head of the log, and this returns where that is.
    pub(in super::super) fn begin(
        &self,
        kind: TransactionKind,
    ) -> Result<Option<AuditHead>, SqlError> {
        self.later.borrow_mut().clear();
        self.has_failed.set(false);
        self.cursors.set(0);
        self.transaction.replace(None);
        let sql = self.terms.beginning(kind);
        let of_statements = match kind {
            // Building indexes of large tables takes time.
            TransactionKind::Migrate => MIGRATION,
            _ => self.terms.statement_timeout + self.terms.lock_timeout + BEYOND,
        };
        // The beginning waits for a lock at most. So a server that says nothing is noticed, and the
        // caller told to come again, before the caller's own time is over.
        self.limit.set(self.terms.lock_timeout + BEYOND);
        // An idle connection may have been cut unnoticed.
        let kept = self.session.borrow().is_some();
        let begun = match self.simple_anew(&sql) {
            Err(e) if kept && e.is_away() => self.simple_anew(&sql),
            begun => begun,
        };
        self.limit.set(of_statements);
        match begun {
            Ok(answers) => {
                let of = |name: &str| {
                    answers.iter().find_map(|answer| match answer {
                        SimpleQueryMessage::Row(row) => row.try_get(name).ok().flatten(),
                        _ => None,
                    })
                };
                self.texts.is_in(of("session").map(Box::from));
                self.transaction.replace(of("number").map(Box::from));
                Ok(of("seq").zip(of("hash")).and_then(|(seq, hash)| {
                    Some(AuditHead { seq: seq.parse().ok()?, hash: ChainHash::of_hex(hash)? })
                }))
            }
            Err(e) => {
                self.roll_back();
                Err(e.into())
            }
        }
    }

    /// Ends the transaction, and returns whether all of it was committed.
    pub(in super::super) fn commit(&self) -> Result<(), SqlError> {
        // Follows what was sent before, without waiting for it. If a statement has failed, the
        // server answers the commit with a rollback, and the failure is reported.
        self.batch_later("COMMIT")?;
        let number = self.transaction.replace(None);
        let (error, number) = match (self.settle(), number) {
            (Err(SqlError::Server(error)), Some(number)) => (error, number),
            (done, _) => return done,
        };
        if !error.is_certain() {
            self.drop_session();
        }
        // A proxy in between may report a failure for what the server has done, so always ask.
        match self.outcome(&number)? {
            CommitOutcome::Committed => Ok(()),
            CommitOutcome::TakenBack if error.is_certain() => Err(error.into()),
            CommitOutcome::TakenBack => {
                Err(ServerError::Away { why: "the transaction was taken back".to_owned() }.into())
            }
        }
    }

    /// Takes the whole transaction back. A connection that broke has done so already.
    pub(in super::super) fn roll_back(&self) {
        self.later.borrow_mut().clear();
        self.transaction.replace(None);
        if self.session.borrow().is_some() && self.simple("ROLLBACK").is_err() {
            self.drop_session();
        }
    }

    /// What the server knows about a transaction whose commit was not confirmed.
    fn outcome(&self, number: &str) -> Result<CommitOutcome, ServerError> {
        let sql = format!("SELECT pg_xact_status('{number}'::xid8)");
        let mut last = String::new();
        for _ in 0..ASKED {
            match self.simple_anew(&sql) {
                Ok(answers) => {
                    let said = answers.iter().find_map(|answer| match answer {
                        SimpleQueryMessage::Row(row) => row.get(0),
                        _ => None,
                    });
                    match said {
                        Some("committed") => return Ok(CommitOutcome::Committed),
                        Some("aborted") => return Ok(CommitOutcome::TakenBack),
                        // Its session ends as soon as the server sees that the client is gone.
                        _ => "the server has not said what became of it".clone_into(&mut last),
                    }
                }
                Err(ServerError::Away { why } | ServerError::Strange { what: why }) => last = why,
                Err(ServerError::Said { sentence, .. }) => last = sentence,
            }
            self.runtime.block_on(tokio::time::sleep(REST));
        }
        Err(ServerError::Away { why: last })
    }

    /// Why the transaction cannot go on; `None`: it can.
    pub(in super::super) fn lost(&self) -> Option<ServerError> {
        match self.session.borrow().is_some() {
            true => None,
            false => Some(ServerError::Away { why: BROKEN.to_owned() }),
        }
    }

    pub(in super::super) const fn sent(&self) -> u64 {
        self.sent.get()
    }

    pub(in super::super) const fn has_failed(&self) -> bool {
        self.has_failed.get()
    }

    /// Discards what was sent since the savepoint, including anything that failed.
    pub(in super::super) fn undo(&self, sql: &str) -> Result<(), SqlError> {
        // What went wrong before has been reported already.
        self.settle().ok();
        self.simple(sql)?;
        self.has_failed.set(false);
        Ok(())
    }

    /// Runs statements without values.
    pub(in super::super) fn batch(&self, sql: &str) -> Result<(), SqlError> {
        self.settle()?;
        self.simple(sql)?;
        Ok(())
    }

    /// Sends statements without values, without waiting.
    pub(in super::super) fn batch_later(&self, sql: &'static str) -> Result<(), SqlError> {
        let session = self.session()?;
        self.send(Box::pin(async move { session.client.batch_execute(sql).await.map(|()| 0) }))
    }

    /// The rows of a statement.
    pub(super) fn query(&self, sql: &str, values: BoundValues<'_>) -> Result<Vec<Row>, SqlError> {
        if !sql.starts_with("SELECT ") {
            self.sent.set(self.sent.get() + 1);
        }
        let asked = self.ask(sql, values, PlanKind::Kept)?;
        let session = self.session()?;
        // Sent before waiting for the others: one round trip for all of them.
        match &asked.prepared {
            Some(statement) => self.in_turn(session.client.query(statement, &asked.values())),
            None => self.in_turn(session.client.query_typed(&asked.text.text, &asked.typed())),
        }
    }

    /// The rows of a statement, planned for these values.
    pub(super) fn query_planned(
        &self,
        sql: &str,
        values: BoundValues<'_>,
    ) -> Result<Vec<Row>, SqlError> {
        let asked = self.ask(sql, values, PlanKind::OfValues)?;
        let session = self.session()?;
        self.in_turn(session.client.query_typed(&asked.text.text, &asked.typed()))
    }

    pub(super) fn execute(&self, sql: &str, values: BoundValues<'_>) -> Result<u64, SqlError> {
        self.sent.set(self.sent.get() + 1);
        let asked = self.ask(sql, values, PlanKind::Kept)?;
        let session = self.session()?;
        match &asked.prepared {
            Some(statement) => self.in_turn(session.client.execute(statement, &asked.values())),
            None => self.in_turn(session.client.execute_typed(&asked.text.text, &asked.typed())),
        }
    }

    /// Sends a statement without waiting. The next one reports what is wrong with it.
    pub(super) fn execute_later(&self, sql: &str, values: BoundValues<'_>) -> Result<(), SqlError> {
        self.sent.set(self.sent.get() + 1);
        let asked = self.ask(sql, values, PlanKind::Kept)?.into_owned();
        let session = self.session()?;
        self.send(Box::pin(async move {
            let client = &session.client;
            match &asked.prepared {
                Some(statement) => client.execute(statement, &asked.values()).await,
                None => client.execute_typed(&asked.text.text, &asked.typed()).await,
            }
        }))
    }

    /// A statement with its values in their order, prepared if it is used often.
    fn ask<'a>(
        &self,
        sql: &str,
        values: BoundValues<'a>,
        plan: PlanKind,
    ) -> Result<AskedStatement<'a>, SqlError> {
        let known = self.texts.get(sql);
        let values = ordered(known.text(), values)?;
        let types = || values.iter().map(SqlValue::server_type);
        let (text, prepared) = match known {
            KnownStatement::Plain(text) => (text, None),
            KnownStatement::Unprepared(text) | KnownStatement::Prepared(text, _)
                if plan == PlanKind::OfValues =>
            {
                (text, None)
            }
            KnownStatement::Unprepared(text) => {
                let types: Vec<_> = types().collect();
                let session = self.session()?;
                let statement = self.in_turn(session.client.prepare_typed(&text.text, &types))?;
                self.texts.put(sql, statement.clone());
                (text, Some(statement))
            }
            KnownStatement::Prepared(text, statement) => {
                let fits = texts::fits(&statement, types());
                (text, Some(statement).filter(|_| fits))
            }
        };
        Ok(AskedStatement { text, prepared, values })
    }

    /// Passes each row to `each`, a few at a time, until `each` wants no more.
    pub(super) fn stream(
        &self,
        sql: &str,
        values: BoundValues<'_>,
        each: &mut dyn FnMut(&Row) -> Result<bool, SqlError>,
    ) -> Result<(), SqlError> {
        let open = self.cursors.get();
        self.cursors.set(open + 1);
        let cursor = format!("keygate_{open}");
        self.execute(&format!("DECLARE {cursor} NO SCROLL CURSOR FOR {sql}"), values)?;
        let fetch = format!("FETCH FORWARD {FETCHED} FROM {cursor}");
        loop {
            let rows = self.query_planned(&fetch, BoundValues::Ordered(Vec::new()))?;
            let mut goes_on = rows.len() == FETCHED;
            for row in &rows {
                if !each(row)? {
                    goes_on = false;
                    break;
                }
            }
            if !goes_on {
                self.batch(&format!("CLOSE {cursor}"))?;
                self.cursors.set(open);
                return Ok(());
            }
        }
    }

    /// Waits for everything that was sent, and returns the first failure.
    pub(in super::super) fn settle(&self) -> Result<(), SqlError> {
        self.in_turn(std::future::ready(Ok(())))
    }

    fn send(&self, mut statement: SentStatement) -> Result<(), SqlError> {
        // The first poll hands the statement over; the answer comes later.
        let first = self.runtime.block_on(std::future::poll_fn(|context| {
            std::task::Poll::Ready(statement.as_mut().poll(context))
        }));
        match first {
            // It cannot be sent, and nothing after it may be carried out without it.
            std::task::Poll::Ready(done) => Ok(self.heard(Ok(done)).map(drop)?),
            std::task::Poll::Pending => {
                self.later.borrow_mut().push_back(statement);
                Ok(())
            }
        }
    }

    /// Waits for everything that was sent before, and then for this.
    fn in_turn<T>(
        &self,
        asked: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, SqlError> {
        let before = self.later.take();
        let limit = self.limit.get();
        let waited = self.runtime.block_on(async {
            tokio::pin!(asked);
            let mut early = None;
            // Send its request now, not only when the others are answered.
            std::future::poll_fn(|context| {
                if let std::task::Poll::Ready(done) = asked.as_mut().poll(context) {
                    early = Some(done);
                }
                std::task::Poll::Ready(())
            })
            .await;
            // The server's time limit holds for each statement.
            let mut failed = None;
            for statement in before {
                if let Err(e) = tokio::time::timeout(limit, statement).await?
                    && failed.is_none()
                {
                    failed = Some(e);
                }
            }
            let done = match early {
                Some(done) => done,
                None => tokio::time::timeout(limit, asked).await?,
            };
            // Statements after a failed one were refused because of it.
            Ok(match failed {
                Some(e) => Err(e),
                None => done,
            })
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
        self.has_failed.set(true);
        if error.is_away() {
            self.drop_session();
        }
        if error.names_another_session() {
            self.texts.prepare_none();
        }
        Err(error)
    }

    fn simple(&self, sql: &str) -> Result<Vec<SimpleQueryMessage>, ServerError> {
        let session = self.session()?;
        let limit = self.limit.get();
        let waited = self.runtime.block_on(async {
            tokio::time::timeout(limit, session.client.simple_query(sql)).await
        });
        self.heard(waited)
    }

    /// Outside a transaction: over a new connection if there is none.
    fn simple_anew(&self, sql: &str) -> Result<Vec<SimpleQueryMessage>, ServerError> {
        self.open()?;
        self.simple(sql)
    }

    /// The session of the transaction. A statement of one transaction must never go to another
    /// session.
    fn session(&self) -> Result<Arc<DialledServer>, ServerError> {
        let session = self.session.borrow().as_ref().map(Arc::clone);
        session.ok_or_else(|| ServerError::Away { why: BROKEN.to_owned() })
    }

    /// Closes the connection now, so that the server releases what it holds.
    fn drop_session(&self) {
        self.later.borrow_mut().clear();
        if let Some(session) = self.session.replace(None) {
            session.drive.abort();
            // The task ends, and its socket with it, when the runtime next gets a turn.
            self.runtime.block_on(tokio::task::yield_now());
        }
    }

    /// Makes sure that there is a session.
    fn open(&self) -> Result<(), ServerError> {
        if self.session.borrow().is_some() {
            return Ok(());
        }
        let now = self.terms.clock.now().mono_ns;
        let rested = |failed: u64| now.saturating_sub(failed) >= REST.as_nanos() as u64;
        if self.failed_ns.borrow().is_some_and(|failed| !rested(failed)) {
            let why = "no connection could be made a moment ago".to_owned();
            return Err(ServerError::Away { why });
        }
        let dialled = self.runtime.block_on(self.terms.dial.dial());
        match dialled {
            Ok(session) => {
                self.failed_ns.replace(None);
                self.texts.begin();
                self.session.replace(Some(Arc::new(session)));
                Ok(())
            }
            Err(e) => {
                self.failed_ns.replace(Some(self.terms.clock.now().mono_ns));
                Err(e)
            }
        }
    }
}

impl From<ServerError> for SqlError {
    fn from(error: ServerError) -> Self {
        Self::Server(error)
    }
}
