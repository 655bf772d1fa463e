//! A server that goes away and returns, one that others have locked, and one whose answer is lost.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

#[test]
fn a_server_that_is_away_refuses_and_recovers_by_itself() {
    let server = TestServer::start(TestDisk::Flushed);
    let database = server.database();
    let store = open(&server, &database);
    assert_eq!(try_create(&store, "before").unwrap(), 1);
    for round in 1..=3_u64 {
        // Like a crash of the server's host.
        server.stop();
        for _ in 0..3 {
            let refused = try_create(&store, "meanwhile").unwrap_err();
            assert!(matches!(refused, StoreError::Away { .. }), "{refused}");
            assert!(refused.retry_after().is_some());
            let refused = suite::run(store.publication(&audience())).unwrap_err();
            assert!(matches!(refused, StoreError::Away { .. }), "{refused}");
        }
        server.run();
        let again = (0..600).find_map(|_| {
            std::thread::sleep(Duration::from_millis(100));
            try_create(&store, "after").ok()
        });
        assert_eq!(again, Some(round + 1), "nothing of what was refused is there");
        assert_eq!(suite::run(store.publication(&audience())).unwrap().serial, round + 1);
    }
    assert_eq!(suite::run(store.verify_audit(Vec::new())).unwrap(), []);
}

#[test]
fn sessions_that_a_server_ends_are_replaced_unnoticed() {
    let database = server().database();
    let store = open(server(), &database);
    for n in 1..=3 {
        assert_eq!(try_create(&store, "key").unwrap(), n);
        let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                   WHERE datname = current_database() AND application_name = 'keygate'";
        server().execute(&database, end);
    }
    assert_eq!(suite::run(store.publication(&audience())).unwrap().serial, 3);
}

#[test]
fn a_change_waits_for_others_that_write_and_not_for_ever() {
    let database = server().database();
    let store = open(server(), &database);
    let mut hasty = options(&server().url(&database));
    hasty.server.busy_timeout = Duration::from_millis(50);
    let hasty: Arc<dyn Store> = Arc::new(PostgresStore::open(hasty).unwrap());
    let held = Arc::new(AtomicBool::new(true));
    let (begun, is_held) = std::sync::mpsc::channel();
    let holder = std::thread::spawn({
        let (held, url) = (Arc::clone(&held), server().url(&database));
        move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let config: tokio_postgres::Config = url.parse().unwrap();
                let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
                tokio::spawn(connection);
                let lock = "BEGIN; SELECT seq FROM audit_head FOR UPDATE";
                client.batch_execute(lock).await.unwrap();
                begun.send(()).unwrap();
                while held.load(Ordering::SeqCst) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                client.batch_execute("ROLLBACK").await.unwrap();
            });
        }
    });
    is_held.recv().unwrap();
    let refused = try_create(&hasty, "meanwhile").unwrap_err();
    assert!(matches!(refused, StoreError::Busy { .. }), "{refused}");
    assert_eq!(suite::run(store.publication(&audience())).unwrap().serial, 0, "reading goes on");
    held.store(false, Ordering::SeqCst);
    holder.join().unwrap();
    assert_eq!(try_create(&store, "after").unwrap(), 1);
    assert_eq!(try_create(&hasty, "after").unwrap(), 2);
}

/// An error by a proxy in between, in a class of its own, and a message that the session is ready.
const REFUSED: &[u8] = b"E\0\0\0\x26SFATAL\0VFATAL\0C58000\0Mit is gone\0\0Z\0\0\0\x05I";

/// A proxy between the store and its server.
struct Between {
    port: u16,
    /// Loses the answer to the next commit, and the connection with it.
    loses: Arc<AtomicBool>,
    /// The same, but says that the commit was refused.
    refuses: Arc<AtomicBool>,
    /// Withholds all answers from the next lock on; the connection stays.
    withholds: Arc<AtomicBool>,
}

impl Between {
    fn start(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let [loses, refuses, withholds] = <[Arc<AtomicBool>; 3]>::default();
        let asked = [&loses, &refuses, &withholds].map(Arc::clone);
        // Ends with the process.
        std::thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                let server = TcpStream::connect(("127.0.0.1", server)).unwrap();
                let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let withheld = Arc::new(AtomicBool::new(false));
                let [loses, refuses, withholds] = asked.clone();
                let is_withheld = Arc::clone(&withheld);
                std::thread::spawn(move || {
                    let mut piece = [0; 1 << 16];
                    while let Ok(read @ 1..) = from.read(&mut piece) {
                        let locks = memchr::memmem::find(&piece[..read], b"FOR UPDATE").is_some();
                        if locks && withholds.swap(false, Ordering::SeqCst) {
                            is_withheld.store(true, Ordering::SeqCst);
                        }
                        if to.write_all(&piece[..read]).is_err() {
                            break;
                        }
                    }
                    to.shutdown(Shutdown::Both).ok();
                });
                std::thread::spawn(move || {
                    let (mut from, mut to) = (server, client);
                    let mut piece = [0; 1 << 16];
                    while let Ok(read @ 1..) = from.read(&mut piece) {
                        if withheld.load(Ordering::SeqCst) {
                            continue;
                        }
                        // The server has answered, but nobody hears it. Its answers before that
                        // belong to the statements that were sent together with the commit.
                        let Some(tag) = memchr::memmem::find(&piece[..read], b"COMMIT\0") else {
                            if to.write_all(&piece[..read]).is_err() {
                                break;
                            }
                            continue;
                        };
                        if loses.swap(false, Ordering::SeqCst) {
                            break;
                        }
                        let told = match refuses.swap(false, Ordering::SeqCst) {
                            true => [&piece[..tag - 5], REFUSED].concat(),
                            false => piece[..read].to_vec(),
                        };
                        if to.write_all(&told).is_err() {
                            break;
                        }
                    }
                    to.shutdown(Shutdown::Both).ok();
                });
            }
        });
        Self { port, loses, refuses, withholds }
    }
}

/// The lock ends with the connection, which nobody uses any more.
#[test]
fn a_transaction_without_an_answer_holds_nobody_up() {
    let between = Between::start(server().port());
    let database = server().database();
    let url = format!("postgres://postgres@127.0.0.1:{}/{database}", between.port);
    let mut options = options(&url);
    options.server.busy_timeout = Duration::from_secs(1);
    let store: Arc<dyn Store> = Arc::new(PostgresStore::open(options).unwrap());
    assert_eq!(try_create(&store, "before").unwrap(), 1);
    between.withholds.store(true, Ordering::SeqCst);
    assert_eq!(try_create(&store, "after").unwrap(), 2, "over another connection");
    assert!(!between.withholds.load(Ordering::SeqCst), "an answer was withheld");
}

/// Like a pooler that is paused.
#[test]
fn a_server_that_takes_connections_and_says_nothing_is_away() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let url = format!("postgres://postgres@127.0.0.1:{port}/keys?connect_timeout=1");
    let refused = PostgresStore::open(options(&url)).unwrap_err();
    assert!(matches!(refused, StoreError::Away { .. }), "{refused}");
}

#[test]
fn a_commit_whose_answer_is_lost_is_asked_for() {
    let between = Between::start(server().port());
    let database = server().database();
    let url = format!("postgres://postgres@127.0.0.1:{}/{database}", between.port);
    let mut options = options(&url);
    options.server.is_pooled = true;
    let store: Arc<dyn Store> = Arc::new(PostgresStore::open(options).unwrap());
    for n in 1..=4 {
        between.loses.store(n % 2 == 0, Ordering::SeqCst);
        assert_eq!(try_create(&store, "key").unwrap(), n, "it is there, and is told so");
        assert!(!between.loses.load(Ordering::SeqCst), "the answer was lost");
    }
    assert_eq!(suite::run(store.verify_audit(Vec::new())).unwrap(), []);
}

/// If it were done again, it would be done twice.
#[test]
fn a_commit_that_somebody_in_between_refuses_is_asked_for() {
    let between = Between::start(server().port());
    let database = server().database();
    let url = format!("postgres://postgres@127.0.0.1:{}/{database}", between.port);
    let store: Arc<dyn Store> = Arc::new(PostgresStore::open(options(&url)).unwrap());
    for n in 1..=4 {
        between.refuses.store(n % 2 == 0, Ordering::SeqCst);
        assert_eq!(try_create(&store, "key").unwrap(), n, "it is there, and is told so");
        assert!(!between.refuses.load(Ordering::SeqCst), "the answer was replaced");
    }
    let all = KeyQuery::all(audience(), Some(org("acme")), NOW);
    assert_eq!(suite::run(store.keys(all)).unwrap().keys.len(), 4, "each is there once");
}
