//! Statements as a server reads them, and those that it has prepared: it need not parse and plan them
//! each time. Where a pooler gives each transaction another session none is prepared.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::Arc;

use tokio_postgres::Statement;
use tokio_postgres::types::Type;

use super::super::dialect::ServerStatement;

/// Texts that are known at a time. Pages of lists have as many as there are filters, and no more.
const MOST: usize = 1000;

/// A plan was made for tables of their size then. After so many uses it is made anew.
const USES: u32 = 500;

/// A statement that is known, and what to do with it.
#[derive(Clone, Debug)]
pub(super) enum KnownStatement {
    /// With its types, as it is.
    Plain(Arc<ServerStatement>),
    /// It is used often, and is to be prepared.
    Unprepared(Arc<ServerStatement>),
    Prepared(Arc<ServerStatement>, Statement),
}

/// Of one connection.
#[derive(Debug)]
pub(super) struct ServerTexts {
    /// By what they were written from.
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

    /// The statement, for one use.
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
        // What is used once need not be prepared.
        KnownStatement::Plain(statement)
    }

    pub(super) fn put(&self, sql: &str, statement: Statement) {
        if let Some(text) = self.known.borrow_mut().get_mut(sql) {
            text.prepared = Some(PreparedText { statement, left: USES });
        }
    }

    /// The transaction that begins is in this session. If that is another one, somebody stands in between
    /// whom nobody has told the service of: what is prepared here under a name may be another's.
    pub(super) fn is_in(&self, session: Option<Box<str>>) {
        let Some(session) = session else { return };
        let before = self.session.replace(Some(session.clone()));
        if before.is_some_and(|before| before != session) {
            self.forget_prepared();
            self.prepare_none();
        }
    }

    /// From now on: the connection has more than one session.
    pub(super) fn prepare_none(&self) {
        self.prepares.set(false);
    }

    /// A new connection has none of them.
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

/// A place may be a number today and a text tomorrow: what was prepared is of one type each.
pub(super) fn fits(statement: &Statement, types: impl Iterator<Item = Type>) -> bool {
    statement.params().iter().cloned().eq(types)
}
