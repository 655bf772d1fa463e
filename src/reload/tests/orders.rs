//! Publishers, arrivals and restarts in random orders, over real files and the real thread. The
//! exhaustive walk over the rules alone is in `table`. This one also covers the files, the state
//! file and the watch.

use proptest::prelude::*;
use proptest::test_runner::{Config as Cases, TestRunner};

use super::*;

#[derive(Clone, Copy, Debug)]
enum Step {
    /// All changes become a new table, which is not yet delivered.
    BuildTable,
    DeliverPatch,
    DeliverTable,
    /// A copy of the table before the last is put back.
    PutBack,
    RemovePatch,
    Restart,
    /// One more key is revoked, by a patch over the newest table, which is not yet delivered.
    Revoke,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => Just(Step::BuildTable),
        3 => Just(Step::DeliverPatch),
        3 => Just(Step::DeliverTable),
        1 => Just(Step::PutBack),
        1 => Just(Step::RemovePatch),
        2 => Just(Step::Restart),
        4 => Just(Step::Revoke),
    ]
}

/// A publisher who knows about everything, and which parts of it have reached the folder.
struct World {
    folder: Folder,
    running: Option<Running>,
    serial: u64,
    /// Keys that are still good.
    good: Vec<u32>,
    tables: Vec<Vec<u8>>,
    /// Revoked since the newest table.
    pending: Vec<u32>,
    patch: Option<Vec<u8>>,
    /// What the sidecar has been seen to refuse.
    dead: Vec<u32>,
}

impl World {
    fn new() -> Self {
        let folder = Folder::new();
        // Every key may be removed in this walk. The brakes are tested elsewhere.
        folder.configure("shrink_brake = \"100%\"\n");
        let good: Vec<u32> = (1..=12).collect();
        let first = table_of(1, &good.iter().map(|n| spec(*n)).collect::<Vec<_>>());
        folder.publish("t.kgt", &first);
        let running = Some(folder.start());
        let (tables, pending) = (vec![first], Vec::new());
        Self { folder, running, serial: 1, good, tables, pending, patch: None, dead: Vec::new() }
    }

    fn running(&self) -> &Running {
        self.running.as_ref().unwrap()
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::BuildTable => {
                self.serial += 1;
                let specs: Vec<_> = self.good.iter().map(|n| spec(*n)).collect();
                self.tables.push(table_of(self.serial, &specs));
                self.pending.clear();
            }
            Step::DeliverPatch => {
                if let Some(patch) = self.patch.clone() {
                    self.folder.publish("p.kgp", &patch);
                    self.settle();
                }
            }
            Step::DeliverTable => {
                let newest = self.tables.last().unwrap().clone();
                self.folder.publish("t.kgt", &newest);
                self.settle();
            }
            Step::PutBack => {
                if let [.., older, _] = &self.tables[..] {
                    let older = older.clone();
                    self.folder.publish("t.kgt", &older);
                    self.settle();
                }
            }
            Step::RemovePatch => {
                let _ = std::fs::remove_file(self.folder.at("p.kgp"));
            }
            Step::Restart => {
                self.running = None;
                // An older table prevents a restart from serving. That is correct, and the walk
                // continues with the newest.
                if self.folder.load().is_err() {
                    let newest = self.tables.last().unwrap().clone();
                    self.folder.publish("t.kgt", &newest);
                }
                self.running = Some(self.folder.start());
            }
            Step::Revoke => {
                if self.good.len() > 1 {
                    self.serial += 1;
                    self.pending.push(self.good.remove(0));
                    let newest = self.tables.last().unwrap();
                    self.patch = Some(revoking(self.serial, newest, &self.pending));
                }
            }
        }
        self.check(step);
    }

    /// Waits until the thread has looked at what was published: it reads the configuration for the
    /// second signal after it has looked for the first.
    fn settle(&self) {
        let read = |r: &Running| r.metric("keygate_config_reloads_total{result=\"succeeded\"}");
        let before = read(self.running());
        self.running().trigger();
        self.running().trigger();
        self.running().until("looked", |r| read(r) >= before + 2.0);
    }

    /// Whatever was once refused stays refused, and nothing opens that was never good.
    fn check(&mut self, step: Step) {
        let running = self.running.as_ref().unwrap();
        for n in &self.dead {
            assert!(!running.has(*n), "key {n} came back by {step:?}");
        }
        for n in 1..=12 {
            if !running.has(n) && !self.dead.contains(&n) {
                assert!(!self.good.contains(&n), "key {n} is good and refused after {step:?}");
                self.dead.push(n);
            }
        }
    }

    /// Once everything has arrived, exactly the good keys open.
    fn finish(&mut self) {
        self.take(Step::BuildTable);
        self.take(Step::DeliverTable);
        let (serial, good) = (self.serial, self.good.clone());
        self.running().until_serial(serial);
        let running = self.running();
        for n in 1..=12 {
            assert_eq!(running.has(n), good.contains(&n), "key {n}");
        }
        running.until("ready", |r| r.readiness.is_ready());
    }
}

#[test]
fn no_order_brings_a_key_back_or_gets_stuck() {
    let mut runner = TestRunner::new(Cases {
        cases: 24,
        failure_persistence: None,
        max_shrink_iters: 20,
        ..Cases::default()
    });
    let walk = prop::collection::vec(step(), 4..14);
    let result = runner.run(&walk, |steps| {
        let mut world = World::new();
        for step in steps {
            world.take(step);
        }
        world.finish();
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

/// Revocations that are published while a large table is on its way: each takes effect at once.
#[test]
fn a_slow_table_keeps_no_revocation_waiting() {
    let mut world = World::new();
    world.take(Step::BuildTable);
    while world.good.len() > 1 {
        let next = world.good[0];
        world.take(Step::Revoke);
        world.take(Step::DeliverPatch);
        assert!(!world.running().has(next), "key {next} is still admitted");
        if world.good.len() == 6 {
            world.take(Step::Restart);
        }
    }
    assert!(world.dead.len() > 8, "more than the shelf has places for");
    world.finish();
}
