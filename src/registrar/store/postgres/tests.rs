//! The contract on PostgreSQL, directly and through a pooler that gives each transaction another
//! session. Also what only a server can do: go away, be slow, lose an answer, belong to another
//! program.

mod away;
mod crash;
mod pooled;
mod schema;

use std::sync::Arc;
use std::time::Duration;

use super::PostgresStore;
use super::fixture::{TestDisk, TestServer, options, server};
use crate::registrar::store::suite::{
    self, NOW, StoreFixture, admin, audience, create, new_key, org, request, store_suite,
};
use crate::registrar::store::{ChainFault, KeyChange, KeyQuery, Store, StoreError};

struct PostgresFixture {
    store: Arc<dyn Store>,
}

impl StoreFixture for PostgresFixture {
    fn make() -> Self {
        Self { store: open(server(), &server().database()) }
    }

    fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store)
    }
}

store_suite!(PostgresFixture);

fn open(server: &TestServer, database: &str) -> Arc<dyn Store> {
    Arc::new(PostgresStore::open(options(&server.url(database))).unwrap())
}

fn try_create(store: &Arc<dyn Store>, name: &str) -> Result<u64, StoreError> {
    let change = KeyChange::Create(Box::new(new_key(name)));
    suite::run(store.change(request(admin("kim"), change))).map(|made| made.serial)
}

/// By somebody who has the database.
#[test]
fn harm_to_the_log_is_found() {
    for (harm, want) in [
        ("UPDATE audit SET actor = 'x' WHERE seq = 2", ChainFault::Changed { seq: 2 }),
        ("DELETE FROM audit WHERE seq = 2", ChainFault::Missing { from: 2, to: 2 }),
        ("DELETE FROM audit WHERE seq = 3", ChainFault::TailCut { found: 2, known: 3 }),
    ] {
        let database = server().database();
        let store = open(server(), &database);
        for n in 0..3 {
            suite::run(create(&store, &format!("key {n}")));
        }
        assert_eq!(suite::run(store.unlogged_keys(9)).unwrap(), []);
        server().execute(&database, harm);
        assert_eq!(suite::run(store.verify_audit(Vec::new())).unwrap(), [want], "{harm}");
        server().execute(&database, "UPDATE key SET id = 'key_forged' WHERE row = 1");
        let named = suite::run(store.unlogged_keys(9)).unwrap();
        assert!(named.iter().any(|id| id.to_string() == "key_forged"), "{named:?}");
    }
}

/// Two stores on one database, as two instances have them. Their changes have one order, and each
/// learns of the other's changes immediately.
#[test]
fn changes_of_two_stores_have_one_order() {
    let database = server().database();
    let (a, b) = (open(server(), &database), open(server(), &database));
    let mut news = b.watch();
    suite::run(async {
        let mut callers = tokio::task::JoinSet::new();
        for caller in 0..16 {
            let store = if caller % 2 == 0 { Arc::clone(&a) } else { Arc::clone(&b) };
            callers.spawn(async move {
                let mut serials = Vec::new();
                for n in 0..8 {
                    serials.push(create(&store, &format!("key {caller}.{n}")).await.serial);
                }
                serials
            });
        }
        let mut serials: Vec<_> = callers.join_all().await.into_iter().flatten().collect();
        serials.sort_unstable();
        assert_eq!(serials, (1..=128).collect::<Vec<u64>>());
    });
    assert_eq!(suite::run(a.verify_audit(Vec::new())).unwrap(), []);
    news.mark_unchanged();
    let serial = suite::run(create(&a, "last")).serial;
    let heard = async {
        while news.borrow_and_update().of(&audience()) < serial {
            news.changed().await.unwrap();
        }
    };
    let patience = Duration::from_secs(60);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(patience, heard).await }).unwrap();
}

#[test]
fn what_the_database_refuses_takes_nothing_from_the_others() {
    let database = server().database();
    let store = open(server(), &database);
    let check = "ALTER TABLE audit ADD CHECK (detail NOT LIKE '%poison%')";
    server().execute(&database, check);
    suite::run(suite::changes::what_the_database_refuses_takes_nothing_from_the_others(store));
}

#[test]
fn a_search_without_the_extension_finds_what_begins_so() {
    let database = server().database();
    drop(open(server(), &database));
    server().execute(&database, "DROP EXTENSION pg_trgm CASCADE");
    let store = open(server(), &database);
    for name in ["Production", "Reproduction", "100 %"] {
        suite::run(create(&store, name));
    }
    let found = |store: &Arc<dyn Store>, text: &str| -> Vec<String> {
        let all = KeyQuery::all(audience(), Some(org("acme")), NOW);
        let page = suite::run(store.keys(KeyQuery { search: Some(text.into()), ..all })).unwrap();
        page.keys.iter().map(|key| key.entry.name.to_string()).collect()
    };
    assert_eq!(found(&store, "produ"), ["Production"]);
    assert_eq!(found(&store, "%"), Vec::<String>::new());
    // `admin migrate` makes the index as soon as it can.
    let options = options(&server().url(&database));
    PostgresStore::migrate(&options.server, options.clock).unwrap();
    let store = open(server(), &database);
    assert_eq!(found(&store, "produ"), ["Reproduction", "Production"]);
    assert_eq!(found(&store, "0 %"), ["100 %"], "a character of patterns is one of the name");
    let all = KeyQuery::all(audience(), Some(org("acme")), NOW);
    let refused = suite::run(store.keys(KeyQuery { search: Some("a\0b".into()), ..all }));
    assert!(matches!(refused, Err(StoreError::Invalid { .. })), "{refused:?}");
}

#[test]
fn a_server_shows_a_certificate_of_its_name() {
    let server = TestServer::with_certificate("localhost");
    let database = server.database();
    let ca = server.home().join("ca.pem");
    let at = |host: &str| {
        format!("postgres://postgres@{host}:{}/{database}?sslmode=verify-full", server.port())
    };
    let open = |host: &str, ca: Option<&std::path::Path>| {
        let mut options = options(&at(host));
        options.server.ca_file = ca.map(Into::into);
        PostgresStore::open(options)
    };
    let store: Arc<dyn Store> = Arc::new(open("localhost", Some(&ca)).unwrap());
    assert_eq!(try_create(&store, "over TLS").unwrap(), 1);
    let sessions = "SELECT count(*) FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) \
                    WHERE a.application_name = 'keygate' AND NOT s.ssl";
    assert_eq!(server.execute(&database, sessions), [["0"]]);
    for (host, ca) in [("localhost", None), ("127.0.0.1", Some(&*ca))] {
        let refused = open(host, ca).unwrap_err();
        assert!(refused.to_string().contains("certificate"), "{host}: {refused}");
    }
}

/// Neither the database nor its log contains a secret, only the digest.
#[test]
fn no_secret_is_in_any_file() {
    let server = TestServer::start(TestDisk::Unflushed);
    let store = open(&server, &server.database());
    let secrets: Vec<_> =
        (0..20).map(|_| suite::run(create(&store, "CRM")).secret.unwrap()).collect();
    drop(store);
    server.end();
    let mut bytes = Vec::new();
    let mut folders = vec![server.home().join("data")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => bytes.extend(std::fs::read(path).unwrap_or_default()),
            }
        }
    }
    for secret in &secrets {
        // The part to show (8 characters) is stored; 12 are not.
        let tail = secret.expose().len() - 12;
        assert!(memchr::memmem::find(&bytes, &secret.expose()[tail..]).is_none());
    }
    let digest = secrets[0].digest().0;
    assert!(memchr::memmem::find(&bytes, &digest).is_some(), "the search finds what is there");
}
