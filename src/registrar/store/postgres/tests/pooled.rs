//! The contract through PgBouncer in transaction mode, with fewer sessions than connections:
//! anything left in a session would reach another client.

use std::sync::OnceLock;

use super::super::fixture::Pooler;
use super::*;

struct PooledFixture {
    store: Arc<dyn Store>,
}

fn pooler() -> &'static Pooler {
    static POOLER: OnceLock<Pooler> = OnceLock::new();
    POOLER.get_or_init(|| Pooler::start(server()))
}

impl StoreFixture for PooledFixture {
    fn make() -> Self {
        let mut options = options(&pooler().url(&server().database()));
        options.server.is_pooled = true;
        Self { store: Arc::new(PostgresStore::open(options).unwrap()) }
    }

    fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store)
    }
}

store_suite!(PooledFixture);

/// The service does not know of the pooler: it must not use statements prepared for another
/// session.
#[test]
fn a_pooler_that_nobody_told_of_mixes_nothing_up() {
    let database = server().database();
    let url = pooler().url(&database);
    let open = || -> Arc<dyn Store> { Arc::new(PostgresStore::open(options(&url)).unwrap()) };
    let stores = [open(), open()];
    for n in 0..30 {
        let store = &stores[n % 2];
        // A session that turns out to be another client's costs one attempt at most.
        let made = (0..5).find_map(|_| try_create(store, &format!("key {n}")).ok());
        assert_eq!(made, Some(n as u64 + 1));
        for store in &stores {
            let read = |store: &Arc<dyn Store>| suite::run(store.publication(&audience())).ok();
            let found = (0..5).find_map(|_| read(store));
            assert_eq!(found.map(|found| found.serial), Some(n as u64 + 1));
        }
    }
    assert_eq!(suite::run(stores[0].verify_audit(Vec::new())).unwrap(), []);
    assert_eq!(suite::run(stores[0].unlogged_keys(9)).unwrap(), []);
}

/// No setting, prepared statement or subscription stays behind.
#[test]
fn nothing_stays_in_a_session() {
    let database = server().database();
    let mut options = options(&pooler().url(&database));
    options.server.is_pooled = true;
    let store: Arc<dyn Store> = Arc::new(PostgresStore::open(options).unwrap());
    for n in 0..20 {
        suite::run(create(&store, &format!("key {n}")));
        suite::run(store.publication(&audience())).unwrap();
    }
    let left = "SELECT (SELECT count(*) FROM pg_prepared_statements), \
                (SELECT count(*) FROM pg_cursors), (SELECT count(*) FROM pg_listening_channels()), \
                current_setting('lock_timeout'), current_setting('statement_timeout'), \
                current_setting('idle_in_transaction_session_timeout')";
    for _ in 0..8 {
        // One session of the pool after the other.
        let found = pooler().execute(&database, left);
        assert_eq!(found, [["0", "0", "0", "0", "0", "0"]]);
    }
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()";
    let sessions = &server().execute(&database, sessions)[0][0];
    assert!(sessions.parse::<u64>().unwrap() <= 4, "{sessions} sessions of a pool of three");
}
