//! The texts of statements for a server, and the prepared ones, which it need not parse and plan
//! each time. Where a pooler gives each transaction another session, none is prepared.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::Arc;

use tokio_postgres::Statement;
use tokio_postgres::types::Type;

use super::super::dialect::ServerStatement;

/// The most texts known at a time. Pages of lists have as many as there are filters, and no more.
const MOST: usize = 1000;

/// A plan suits the sizes that tables had when it was made. After this many uses, make a new one.
const USES: u32 = 500;

/// A known statement, and how to run it.
#[derive(Clone, Debug)]
pub(super) enum KnownStatement {
    /// Run as it is, with its types.
    Plain(Arc<ServerStatement>),
    /// Used often, and to be prepared.
    Unprepared(Arc<ServerStatement>),
    Prepared(Arc<ServerStatement>, Statement),
}

/// For one connection.
#[derive(Debug)]
pub(super) struct ServerTexts {
    /// By the SQL they were translated from.
    known: RefCell<HashMap<String, KnownText>>,
    prepares: Cell<bool>,
    /// The session in which they were prepared.
    session: RefCell<Option<Box<str>>>,
}

#[derive(Debug)]
struct KnownText {
    statement: Arc<ServerStatement>,
    prepared: Option<PreparedText>,
}

#[derive(Debug)]
struct PreparedText {
    statement: Statement,
    left: u32,
}

// === impl ServerTexts ===

impl ServerTexts {
    pub(super) fn new() -> Self {
        Self { known: RefCell::default(), prepares: Cell::new(true), session: RefCell::default() }
    }

    /// Gets the statement, for one use.
    pub(super) fn get(&self, sql: &str) -> KnownStatement {
        let mut known = self.known.borrow_mut();
        if let Some(text) = known.get_mut(sql) {
            let statement = Arc::clone(&text.statement);
            if !self.prepares.get() {
                return KnownStatement::Plain(statement);
            }
            return match &mut text.prepared {
                Some(PreparedText { statement: prepared, left }) if *left > 0 => {
                    *left -= 1;
                    KnownStatement::Prepared(statement, prepared.clone())
                }
                _ => KnownStatement::Unprepared(statement),
            };
        }
        if known.len() > MOST {
            known.clear();
        }
        let statement = Arc::new(ServerStatement::of(sql));
        let text = KnownText { statement: Arc::clone(&statement), prepared: None };
        known.insert(sql.to_owned(), text);
        // A statement that is used once need not be prepared.
        KnownStatement::Plain(statement)
    }

    pub(super) fn put(&self, sql: &str, statement: Statement) {
        if let Some(text) = self.known.borrow_mut().get_mut(sql) {
            text.prepared = Some(PreparedText { statement, left: USES });
        }
    }

    /// The beginning transaction is in this session. If it was another one before, there is a
    /// pooler that the service does not know of: a name prepared here may belong to somebody else's
    /// statement.
    pub(super) fn is_in(&self, session: Option<Box<str>>) {
        let Some(session) = session else { return };
        let before = self.session.replace(Some(session.clone()));
        if before.is_some_and(|before| before != session) {
            self.forget_prepared();
            self.prepare_none();
        }
    }

    /// From now on, because the connection has more than one session.
    pub(super) fn prepare_none(&self) {
        self.prepares.set(false);
    }

    /// A new connection has no prepared statements.
    pub(super) fn begin(&self) {
        self.session.replace(None);
        self.forget_prepared();
    }

    fn forget_prepared(&self) {
        for text in self.known.borrow_mut().values_mut() {
            text.prepared = None;
        }
    }
}

// === impl KnownStatement ===

impl KnownStatement {
    pub(super) fn text(&self) -> &ServerStatement {
        match self {
            Self::Plain(text) | Self::Unprepared(text) | Self::Prepared(text, _) => text,
        }
    }
}

/// A place may hold a number today and a text tomorrow, but a prepared statement has fixed types.
pub(super) fn fits(statement: &Statement, types: impl Iterator<Item = Type>) -> bool {
    statement.params().iter().cloned().eq(types)
}
