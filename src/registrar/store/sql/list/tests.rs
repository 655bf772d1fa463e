//! The cost of a search in SQLite.

use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, StatementStatus, params_from_iter};

use super::super::connection::StoreTerms;
use super::super::driver::{SearchIndex, SqlConnection};
use super::*;
use crate::clock::Clock;
use crate::manage::operation::CreateRequest;
use crate::registrar::store::sqlite::{SqliteOptions, SqliteStore};
use crate::registrar::store::suite::{self, NOW, audience, org};
use crate::registrar::store::{ChangeRequest, KeyChange, OrgRules, Store};

/// The cost of a page of a search, in instructions of SQLite, and how many keys the page has.
fn cost(store: &StoreConnection, query: &KeyQuery) -> (i32, usize) {
    let ListStatement { sql, values } = statement(store, query, 50).unwrap();
    let SqlConnection::Sqlite(connection) = &store.connection else { unreachable!() };
    let mut statement = connection.prepare(&sql).unwrap();
    let mut rows = statement.query(params_from_iter(values)).unwrap();
    let mut found = 0;
    while rows.next().unwrap().is_some() {
        found += 1;
    }
    drop(rows);
    (statement.get_status(StatementStatus::VmStep), found)
}

#[test]
fn a_search_costs_what_matches_in_the_org_and_no_more() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.db");
    let store: Arc<dyn Store> = Arc::new(
        SqliteStore::open(SqliteOptions {
            path: path.clone(),
            audiences: vec![suite::terms()],
            rules: OrgRules::default(),
            busy_timeout: Duration::from_secs(5),
            clock: Clock::system(),
        })
        .unwrap(),
    );
    let make = |of: &'static str, count: usize| {
        suite::run(async {
            for n in 0..count {
                let name = format!("Production {of} {n}");
                let wanted = CreateRequest { org: org(of), ..suite::new_key(&name) };
                let change = KeyChange::Create(Box::new(wanted));
                let request = suite::request(suite::host(), change);
                store.change(ChangeRequest { org: None, ..request }).await.unwrap();
            }
        });
    };
    let connection = SqlConnection::Sqlite(Connection::open(&path).unwrap());
    let terms = StoreTerms {
        audiences: vec![suite::terms()],
        rules: OrgRules::default(),
        search: SearchIndex::Fts,
    };
    let reader = StoreConnection::new(connection, Arc::new(terms));
    let query = |of: &str, text: &str| KeyQuery {
        search: Some(text.into()),
        ..KeyQuery::all(audience(), Some(org(of)), NOW)
    };
    make("globex", 20);
    make("acme", 3);
    let (before, found) = cost(&reader, &query("acme", "roduction"));
    assert_eq!(found, 3);
    make("globex", 200);
    let (after, found) = cost(&reader, &query("acme", "roduction"));
    assert_eq!((after, found), (before, 3), "other orgs' keys cost nothing");
    let (of_globex, found) = cost(&reader, &query("globex", "roduction"));
    assert!(of_globex > 10 * after && found == 51, "{of_globex} for its own");
    assert_eq!(cost(&reader, &query("acme", "acme 2")).1, 1);
    assert_eq!(cost(&reader, &query("initech", "roduction")).1, 0, "an org without keys");
    let everywhere = KeyQuery { org: None, ..query("acme", "acme 2") };
    assert_eq!(cost(&reader, &everywhere).1, 1, "an operator finds all");
}
