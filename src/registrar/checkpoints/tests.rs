//! When the log is signed, and what a signature reveals: above all a database that somebody has
//! completely rewritten, with a chain without a fault.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::clock::Clock;
use crate::config::ThisHost;
use crate::manage::output::Output;
use crate::registrar::store::sqlite::{SqliteOptions, SqliteStore};
use crate::registrar::store::suite::{self, create, host};
use crate::registrar::store::{AuditEvent, ChainFault, Channel};
use crate::table::testkit::Signer;

const NOW: u64 = suite::NOW;
const HOUR: u64 = 3_600_000;

struct Signed {
    root: TempDir,
    store: Arc<dyn Store>,
}

impl Signed {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("state")).unwrap();
        let signer = root.path().join("signer.pem");
        crate::manage::signer::new(&signer, None, &mut Output::sink()).unwrap();
        let text = "state = \"state\"\n[listen]\naddress = \"127.0.0.1:0\"\n[[audiences]]\n\
                    name = \"shop\"\nsigner = \"signer.pem\"\n";
        fs::write(root.path().join("admin.toml"), text).unwrap();
        let store = Arc::new(
            SqliteStore::open(SqliteOptions {
                path: root.path().join("state/registrar.db"),
                audiences: vec![suite::terms()],
                rules: crate::registrar::store::OrgRules::default(),
                busy_timeout: Duration::from_secs(5),
                clock: Clock::system(),
            })
            .unwrap(),
        );
        Self { root, store }
    }

    fn settings(&self) -> AdminToml {
        AdminToml::load(&ThisHost, &self.root.path().join("admin.toml")).unwrap()
    }

    fn keeper(&self) -> CheckpointKeeper {
        CheckpointKeeper::of(&self.settings()).unwrap().unwrap()
    }

    /// The faults of the log, compared with what is signed outside the database.
    async fn faults(&self) -> (Vec<ChainFault>, JudgedCheckpoints) {
        let settings = self.settings();
        let trusted: Vec<_> = settings.signers().map(|signer| signer.public().unwrap()).collect();
        let kept = KeptCheckpoints::read(&settings.checkpoints).unwrap();
        let judged = judged(&*self.store, kept, &trusted).await.unwrap();
        (self.store.verify_audit(judged.ends.clone()).await.unwrap(), judged)
    }

    /// All lines as somebody else would like to have them, in a new chain.
    async fn write_anew(&self) {
        let query = AuditQuery { limit: 200, ..AuditQuery::default() };
        let lines = self.store.audit(query).await.unwrap().lines;
        let database = Connection::open(self.root.path().join("state/registrar.db")).unwrap();
        let mut head = AuditHead::default();
        for mut line in lines.into_iter().rev() {
            line.actor = "somebody else".into();
            let line = line.behind(head);
            head = line.head();
            let sql = "UPDATE audit SET actor = ?2, prev = ?3, hash = ?4 WHERE seq = ?1";
            database.execute(sql, (line.seq, &*line.actor, line.prev.0, line.hash.0)).unwrap();
        }
        let sql = "UPDATE audit_head SET seq = ?1, hash = ?2";
        database.execute(sql, (head.seq, head.hash.0)).unwrap();
        database.execute("DELETE FROM checkpoint", []).unwrap();
    }

    async fn note(&self) -> AuditHead {
        let event = AuditEvent {
            at_ms: NOW,
            audience: None,
            org: None,
            actor: host(),
            channel: Channel::default(),
            action: "sign-in",
            object: "".into(),
            detail: serde_json::Map::new(),
        };
        self.store.note(event).await.unwrap()
    }
}

#[test]
fn the_log_is_signed_each_hour_and_each_thousand_lines() {
    suite::run(async {
        let log = Signed::new();
        let mut keeper = log.keeper();
        let look = async |keeper: &mut CheckpointKeeper, at| {
            let (signed, unsigned) = keeper.look(&*log.store, at).await.unwrap();
            (signed.map(|head| head.seq), unsigned)
        };
        assert_eq!(look(&mut keeper, NOW).await, (None, 0), "an empty log");
        log.note().await;
        assert_eq!(look(&mut keeper, NOW).await, (Some(1), 0));
        log.note().await;
        assert_eq!(look(&mut keeper, NOW + HOUR - 1).await, (None, 1));
        assert_eq!(look(&mut keeper, NOW + HOUR).await, (Some(2), 0));
        assert_eq!(look(&mut keeper, NOW + 9 * HOUR).await, (None, 0), "nothing is new");
        let next = NOW + 9 * HOUR;
        log.note().await;
        assert_eq!(look(&mut keeper, next).await, (Some(3), 0));
        for _ in 0..1000 {
            log.note().await;
        }
        // Another process, which knows the former checkpoints from their file.
        assert_eq!(look(&mut log.keeper(), next + 1).await, (Some(1003), 0));
        let kept = KeptCheckpoints::read(&log.settings().checkpoints).unwrap();
        assert_eq!(kept.all.len(), 4);
        let (faults, judged) = log.faults().await;
        assert_eq!((faults, judged.faults.len()), (vec![], 0));
    });
}

#[test]
fn a_database_that_was_written_anew_is_found_out() {
    suite::run(async {
        let log = Signed::new();
        for n in 0..5 {
            create(&log.store, &format!("key {n}")).await;
        }
        let mut keeper = log.keeper();
        keeper.look(&*log.store, NOW).await.unwrap();
        create(&log.store, "later").await;
        log.write_anew().await;
        let own = log.store.verify_audit(Vec::new()).await.unwrap();
        assert_eq!(own, [], "by itself it has no fault");
        let (faults, judged) = log.faults().await;
        assert_eq!(faults, [ChainFault::OtherTail { seq: 5 }]);
        assert!(judged.faults.is_empty(), "{judged:?}");
        // It does not get a signature, however long it waits.
        for keeper in [&mut keeper, &mut log.keeper()] {
            let refused = keeper.look(&*log.store, NOW + 2 * HOUR).await.unwrap_err();
            assert!(matches!(refused, CheckpointFault::OtherLog(5)), "{refused}");
        }
        // A key of their own does not help either.
        let stranger = Signer::new(7);
        let head = log.store.audit_head().await.unwrap();
        let forged = Checkpoint {
            head,
            signer: stranger.key.id().to_string().into(),
            signature: stranger.sign(&SignedCheckpoint::message(head, None)).to_vec(),
            at_ms: NOW,
        };
        log.store.put_checkpoint(forged).await.unwrap();
        let (_, judged) = log.faults().await;
        assert!(judged.faults[0].contains("no trusted key has signed it"), "{judged:?}");
    });
}

#[test]
fn a_log_that_a_recovery_has_cut_is_well_and_says_what_is_lost() {
    suite::run(async {
        let log = Signed::new();
        let copy = log.root.path().join("copy.db");
        let database = log.root.path().join("state/registrar.db");
        create(&log.store, "kept").await;
        SqliteStore::backup(&database, &copy, Duration::from_secs(5), 7).unwrap();
        create(&log.store, "lost").await;
        let mut keeper = log.keeper();
        keeper.look(&*log.store, NOW).await.unwrap();
        let options = SqliteOptions {
            path: copy,
            audiences: vec![suite::terms()],
            rules: crate::registrar::store::OrgRules::default(),
            busy_timeout: Duration::from_secs(5),
            clock: Clock::system(),
        };
        let log = Signed { store: Arc::new(SqliteStore::open(options).unwrap()), ..log };
        let (faults, _) = log.faults().await;
        assert_eq!(faults, [ChainFault::TailCut { found: 1, known: 2 }]);
        let head = log.note().await;
        log.keeper().recovered(head, 1, NOW).await.unwrap();
        let (faults, judged) = log.faults().await;
        assert_eq!((faults, judged.faults.len(), judged.lost), (vec![], 0, vec![(1, 2)]));
        // The signer of the lost lines continues after the recovery.
        log.note().await;
        let (signed, _) = keeper.look(&*log.store, NOW + HOUR).await.unwrap();
        assert_eq!(signed.map(|head| head.seq), Some(3));
        assert_eq!(log.faults().await.0, []);
    });
}

#[test]
fn a_signer_that_is_away_leaves_lines_for_later() {
    suite::run(async {
        let log = Signed::new();
        let mut keeper = log.keeper();
        log.note().await;
        let (pem, away) = (log.root.path().join("signer.pem"), log.root.path().join("away.pem"));
        fs::rename(&pem, &away).unwrap();
        let fault = keeper.look(&*log.store, NOW).await.unwrap_err();
        assert!(fault.to_string().contains("signer.pem"), "{fault}");
        fs::rename(&away, &pem).unwrap();
        assert_eq!(keeper.look(&*log.store, NOW).await.unwrap().1, 0);
        // A crash in the middle of a line costs that line.
        let path = log.settings().checkpoints;
        fs::write(&path, [&fs::read(&path).unwrap()[..], b"{\"seq\":2"].concat()).unwrap();
        log.note().await;
        log.keeper().look(&*log.store, NOW + HOUR).await.unwrap();
        let kept = KeptCheckpoints::read(&path).unwrap();
        assert_eq!((kept.all.len(), kept.unread), (2, 1));
    });
}
