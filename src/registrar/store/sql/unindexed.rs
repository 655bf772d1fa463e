//! Keys that a transaction has added to a database in a file, and not to its index of searches. The
//! index writes its part of the file anew for every statement that adds to it, so all keys are
//! added by one, before the transaction ends. A server does without.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::super::names::AudienceName;
use super::driver::SqlConnection;
use super::fault::SqlError;
use super::value::{SqlValue, ToValue as _};
use crate::core::{KeyId, OrgId};

/// For one connection.
#[derive(Debug, Default)]
pub(super) struct Unindexed(RefCell<AddedKeys>);

/// In the order in which they were added.
pub(super) type AddedKeys = Vec<Arc<AddedKey>>;

#[derive(Debug)]
pub(super) struct AddedKey {
    audience: AudienceName,
    org: OrgId,
    id: KeyId,
}

// === impl Unindexed ===

impl Unindexed {
    /// Those so far.
    pub(super) fn added(&self) -> AddedKeys {
        self.0.borrow().clone()
    }

    /// Goes back to those: everything since then was taken back, also in the index.
    pub(super) fn restore(&self, added: AddedKeys) {
        self.0.replace(added);
    }

    /// A key is about to be inserted.
    pub(super) fn add(
        &self,
        connection: &SqlConnection,
        audience: &AudienceName,
        (org, id): (&OrgId, KeyId),
    ) -> Result<(), SqlError> {
        if connection.is_server() {
            return Ok(());
        }
        let mut added = self.0.borrow_mut();
        if added.is_empty() {
            connection.execute(
                "INSERT INTO meta (name, value) VALUES ('index later', '') ON CONFLICT DO NOTHING",
                [],
            )?;
        }
        added.push(Arc::new(AddedKey { audience: audience.clone(), org: org.clone(), id }));
        Ok(())
    }

    /// Adds them to the index.
    pub(super) fn index(&self, connection: &SqlConnection) -> Result<(), SqlError> {
        let added = self.0.take();
        if added.is_empty() {
            return Ok(());
        }
        let orgs: BTreeSet<_> = added.iter().map(|key| (&key.audience, &key.org)).collect();
        let mut number = connection.prepare_cached(
            "INSERT INTO key_org (audience, org) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
        )?;
        for (audience, org) in orgs {
            number.execute((audience.as_str(), org.as_str()))?;
        }
        let mut keys: BTreeMap<&AudienceName, Vec<String>> = BTreeMap::new();
        for key in &added {
            keys.entry(&key.audience).or_default().push(key.id.to_string());
        }
        for (audience, ids) in keys {
            let values = vec![audience.as_str().to_value(), SqlValue::texts(ids)];
            connection
                .prepare_cached(
                    "INSERT INTO key_text (rowid, folded, id, start) \
                     SELECT (o.number << 36) + k.row, k.folded, k.id, k.start \
                     FROM json_each(?2) i CROSS JOIN key k ON k.audience = ?1 AND k.id = i.value \
                     CROSS JOIN key_org o ON o.audience = k.audience AND o.org = k.org",
                )?
                .execute(values)?;
        }
        connection.execute("DELETE FROM meta WHERE name = 'index later'", [])?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::super::connection::StoreConnection;
    use super::super::writer::Work;
    use super::super::{SqlStore, SystemRandom, apply};
    use crate::clock::Clock;
    use crate::core::KeyId;
    use crate::manage::operation::EditRequest;
    use crate::registrar::store::error::StoreError;
    use crate::registrar::store::sqlite::{SqliteOptions, SqliteStore};
    use crate::registrar::store::suite::{self, admin, audience, new_key, org, terms};
    use crate::registrar::store::{
        ChangeRequest, KeyChange, KeyQuery, KeyRef, OrgRules, Store as _,
    };

    fn create(name: &str) -> ChangeRequest {
        suite::request(admin("kim"), KeyChange::Create(Box::new(new_key(name))))
    }

    fn change(store: &StoreConnection, wanted: &ChangeRequest) -> Result<(), StoreError> {
        match apply::change(store, wanted, &mut SystemRandom)? {
            Work::Keep(_) => Ok(()),
            Work::Undo(_) => panic!("nothing to do"),
        }
    }

    fn rename(store: &StoreConnection, from: &str, to: &str) -> Result<(), StoreError> {
        let id: String =
            store
                .connection
                .query_row("SELECT id FROM key WHERE name = ?1", [from], |row| row.get(0))?;
        let wanted = EditRequest { name: Some(to.to_owned()), ..EditRequest::default() };
        let key = KeyRef::Id(KeyId::parse(&id).unwrap());
        let change_of = KeyChange::Edit { key, if_match: None, request: Box::new(wanted) };
        change(store, &suite::request(admin("kim"), change_of))
    }

    async fn found(store: &SqlStore, text: &str) -> Vec<String> {
        let query = KeyQuery {
            search: Some(text.into()),
            ..KeyQuery::all(audience(), Some(org("acme")), suite::NOW)
        };
        let page = store.keys(query).await.unwrap();
        page.keys.iter().map(|row| row.entry.name.to_string()).collect()
    }

    /// Some are taken back, some renamed, some wait behind work that cannot be run twice.
    #[test]
    fn keys_are_found_whatever_else_their_transaction_does() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.db");
        let store = SqliteStore::open(SqliteOptions {
            path: path.clone(),
            audiences: vec![terms()],
            rules: OrgRules::default(),
            busy_timeout: Duration::from_secs(5),
            clock: Clock::system(),
        })
        .unwrap();
        suite::run(async {
            let (go, wait) = mpsc::channel::<()>();
            // The others are sent while it waits, and share its transaction.
            let first = store.change_key(move |_| {
                wait.recv().ok();
                Ok(Work::Undo(()))
            });
            let kept = store.change(create("kept early"));
            let undone = store.write(|store| {
                change(store, &create("gone"))?;
                rename(store, "kept early", "nowhere")?;
                change(store, &create("gone too"))?;
                Ok(Work::Undo(()))
            });
            let renamed = store.write(|store| {
                change(store, &create("before"))?;
                rename(store, "before", "afterwards")?;
                Ok(Work::Keep(()))
            });
            let late = store.change(create("kept late"));
            let begin = async { go.send(()).unwrap() };
            let done = tokio::join!(first, kept, undone, renamed, late, begin);
            assert!(done.0.is_ok() && done.1.is_ok() && done.2.is_ok(), "{done:?}");
            assert!(done.3.is_ok() && done.4.is_ok(), "{done:?}");

            let mut kept = found(&store, "kept").await;
            kept.sort();
            assert_eq!(kept, ["kept early", "kept late"]);
            assert_eq!(found(&store, "afterwards").await, ["afterwards"]);
            for gone in ["gone", "nowhere", "before"] {
                assert_eq!(found(&store, gone).await, [""; 0], "{gone}");
            }
        });
        // What is not told apart by a search: entries of rows that were taken back.
        let raw = rusqlite::Connection::open(&path).unwrap();
        let count = |sql: &str| raw.query_row(sql, [], |row| row.get::<_, u64>(0)).unwrap();
        assert_eq!(count("SELECT count(*) FROM key_text"), count("SELECT count(*) FROM key"));
        assert_eq!(count("SELECT count(*) FROM meta WHERE name = 'index later'"), 0);
    }

    /// A program of the release before adds keys to this schema, too.
    #[test]
    fn a_program_that_knows_nothing_of_it_indexes_what_it_adds() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.db");
        let store = SqliteStore::open(SqliteOptions {
            path: path.clone(),
            audiences: vec![terms()],
            rules: OrgRules::default(),
            busy_timeout: Duration::from_secs(5),
            clock: Clock::system(),
        })
        .unwrap();
        suite::run(store.change(create("ours"))).unwrap();
        let raw = rusqlite::Connection::open(&path).unwrap();
        raw.execute_batch(
            "INSERT INTO key (id, uid, audience, org, name, folded, status, permissions, networks, \
             limits, since, start, note, version, changed, changed_at) SELECT 'key_000000000001', \
             X'00', audience, org, 'theirs', 'theirs', status, permissions, networks, limits, since, \
             'other', note, 1, changed, changed_at FROM key; \
             INSERT INTO secret (audience, digest, key, place) SELECT audience, X'01', row, 0 \
             FROM key WHERE name = 'theirs'; UPDATE secret SET digest = zeroblob(32) \
             WHERE digest = X'01';",
        )
        .unwrap();
        assert_eq!(
            raw.query_row("SELECT count(*) FROM key_text('theirs')", [], |row| row
                .get::<_, u64>(0))
                .unwrap(),
            1
        );
    }
}
