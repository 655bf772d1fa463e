//! The contract through PgBouncer in transaction mode, with fewer sessions than connections: whatever
//! was left in a session would be another one's.

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
                current_setting('lock_timeout'), current_setting('statement_timeout')";
    for _ in 0..8 {
        // One session of the pool after the other.
        let found = pooler().execute(&database, left);
        assert_eq!(found, [["0", "0", "0", "0", "0"]]);
    }
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()";
    let sessions = &server().execute(&database, sessions)[0][0];
    assert!(sessions.parse::<u64>().unwrap() <= 4, "{sessions} sessions of a pool of three");
}
