//! Walks every interleaving of two publishers, of arrivals at a sidecar, and of its restarts, up to
//! a bound, and checks every state on the way:
//!
//! 1. a revoked key that the sidecar has refused is never admitted again;
//! 2. a key that nobody touched is admitted whenever a table is in force;
//! 3. the sidecar is never stuck: the next publication by somebody who knows the registry puts
//!    exactly the registry in force, table or patch, in whatever order the two arrive;
//! 4. of the patches over one base that it holds, none was made by somebody who knew of another, so
//!    a publisher who knows of its own patches never fills the shelf.
//!
//! Publishers read the registry, work on it for however long, and publish under the next serial
//! without another look. Everything that was ever published may arrive at any time, repeatedly and
//! in any order: that covers caches, mirrors, slow file systems, and somebody who replays.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use crate::core::{KeyLookup, KeySpec, KeyStatus, Now};
use crate::table::testkit::*;
use crate::table::write::PatchDraft;
use crate::table::*;

const NOW: Now = Now { unix_ms: 5_000_000, mono_ns: 0 };
/// May be revoked.
const MORTAL: [u32; 2] = [0, 1];
/// Nobody touches them.
const STEADY: [u32; 2] = [2, 3];

/// Keys that are revoked, and through which serial the registry's changes are known.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Known {
    revoked: BTreeSet<u32>,
    through: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Step {
    /// The key is revoked in the registry. Not yet published.
    Revoke(u32),
    /// A publisher reads the registry.
    Read(usize),
    /// It publishes what it has read.
    PublishTable(usize),
    /// It publishes what it has read, over the table that was published last.
    PublishPatch(usize),
    /// Something that was published arrives.
    Arrive(usize),
    /// Everything but the ledger is lost.
    Restart,
}

#[derive(Clone, Debug)]
enum File {
    Patch(Arc<Patch>),
    Table(Arc<Table>),
}

#[derive(Clone)]
struct World {
    revoked: BTreeSet<u32>,
    serial: u64,
    publishers: [Option<Known>; 2],
    files: Vec<File>,
    desk: Acceptance,
    /// Revoked keys that the sidecar has refused with a table in force.
    refused: BTreeSet<u32>,
    path: Vec<Step>,
}

/// Files are signed once for each content.
#[derive(Default)]
struct Press {
    tables: HashMap<(u64, u64, BTreeSet<u32>), Arc<Table>>,
    patches: HashMap<(u64, u64, BTreeSet<u32>, Base), Arc<Patch>>,
}

// === impl Press ===

impl Press {
    fn table(&mut self, serial: u64, includes: u64, revoked: &BTreeSet<u32>) -> Arc<Table> {
        let key = (serial, includes, revoked.clone());
        let made = self.tables.entry(key).or_insert_with(|| {
            let signer = Signer::new(1);
            let issue = Issue { includes_through: includes, ..issue(serial, &[&signer]) };
            let file = table_file(&content(revoked), issue, &[&signer]);
            Arc::new(Table::open(file, &signer.trust(), &Bounds::default()).unwrap())
        });
        made.clone()
    }

    fn patch(
        &mut self,
        serial: u64,
        includes: u64,
        revoked: &BTreeSet<u32>,
        base: &Table,
    ) -> Arc<Patch> {
        let key = (serial, includes, revoked.clone(), base.manifest().as_base());
        let made = self.patches.entry(key).or_insert_with(|| {
            let draft = PatchDraft::difference(base, content(revoked));
            let issue = Issue { includes_through: includes, ..issue(serial, &[&Signer::new(1)]) };
            Arc::new(patch(draft, issue))
        });
        made.clone()
    }
}

/// The first revoked key is left out, the second is stated as revoked: both occur in practice.
fn content(revoked: &BTreeSet<u32>) -> Vec<KeySpec> {
    let keys = MORTAL.into_iter().chain(STEADY);
    keys.filter(|n| *n != 0 || !revoked.contains(n))
        .map(|n| {
            let mut key = spec(n);
            if revoked.contains(&n) {
                key.grant.status = KeyStatus::Revoked;
            }
            key
        })
        .collect()
}

fn admits(set: &KeySet, n: u32) -> bool {
    set.single(&spec(n).digest).is_some_and(|view| view.grant.status == KeyStatus::Active)
}

// === impl World ===

impl World {
    fn steps(&self) -> Vec<Step> {
        let mut steps = vec![Step::Restart];
        steps.extend(MORTAL.into_iter().filter(|n| !self.revoked.contains(n)).map(Step::Revoke));
        for (who, known) in self.publishers.iter().enumerate() {
            let now = Known { revoked: self.revoked.clone(), through: self.serial };
            if known.as_ref() != Some(&now) {
                steps.push(Step::Read(who));
            }
            if known.is_some() {
                steps.extend([Step::PublishTable(who), Step::PublishPatch(who)]);
            }
        }
        steps.extend((0..self.files.len()).map(Step::Arrive));
        steps
    }

    fn take(&self, step: &Step, press: &mut Press) -> Self {
        let mut next = self.clone();
        next.path.push(step.clone());
        match *step {
            Step::Revoke(key) => {
                next.revoked.insert(key);
            }
            Step::Read(who) => {
                let known = Known { revoked: self.revoked.clone(), through: self.serial };
                next.publishers[who] = Some(known);
            }
            Step::PublishTable(who) => {
                let (serial, includes, revoked) = next.publish(who);
                next.files.push(File::Table(press.table(serial, includes, &revoked)));
            }
            Step::PublishPatch(who) => {
                let (serial, includes, revoked) = next.publish(who);
                let base = next.last_table();
                next.files.push(File::Patch(press.patch(serial, includes, &revoked, &base)));
            }
            Step::Arrive(at) => next.arrive(&self.files[at]),
            Step::Restart => {
                let ledger = Ledger::parse(&self.desk.ledger().to_text()).unwrap();
                let trust = Signer::new(1).trust();
                let bounds = Bounds::default();
                next.desk = Acceptance::restore(AcceptRules::default(), ledger, &trust, &bounds).0;
            }
        }
        next.look();
        next
    }

    /// The next serial, and what the publisher knows. The publisher then forgets it, like a process
    /// that ends.
    fn publish(&mut self, who: usize) -> (u64, u64, BTreeSet<u32>) {
        let known = self.publishers[who].take().unwrap();
        self.serial += 1;
        // With nothing published in between, it knows everything through its own serial.
        let aware = known.through + 1 == self.serial;
        let includes = if aware { self.serial } else { known.through };
        (self.serial, includes, known.revoked)
    }

    fn last_table(&self) -> Arc<Table> {
        let table = self.files.iter().rev().find_map(|file| match file {
            File::Table(table) => Some(table.clone()),
            File::Patch(_) => None,
        });
        table.unwrap()
    }

    fn arrive(&mut self, file: &File) {
        // A refusal must leave everything as it was before.
        let before = self.desk.clone();
        let result = match file {
            File::Table(table) => self.desk.offer_table(table.clone(), NOW),
            File::Patch(patch) => self.desk.offer_patch(patch.clone(), NOW),
        };
        if result.is_err() {
            assert_eq!(self.desk.ledger(), before.ledger(), "{:?}", self.path);
        }
    }

    fn look(&mut self) {
        for older in self.desk.shelf().iter().map(|patch| patch.manifest()) {
            let knows = |newer: &&Arc<Patch>| {
                let newer = newer.manifest();
                let same = newer.base == older.base && newer.serial > older.serial;
                same && newer.includes_through >= older.serial
            };
            let newer = self.desk.shelf().iter().find(knows);
            assert!(newer.is_none(), "{} is held needlessly: {:?}", older.serial, self.path);
        }
        let Some(set) = self.desk.current() else { return };
        for key in STEADY {
            assert!(admits(set, key), "an untouched key is refused: {:?}", self.path);
        }
        for key in MORTAL {
            if !self.revoked.contains(&key) {
                assert!(admits(set, key), "a key that is not revoked is refused: {:?}", self.path);
            } else if !admits(set, key) {
                self.refused.insert(key);
            } else {
                assert!(!self.refused.contains(&key), "key {key} came back: {:?}", self.path);
            }
        }
    }

    /// Property 3, from this state.
    fn is_not_stuck(&self, press: &mut Press) {
        let wanted = |world: &Self| {
            let set = world.desk.current().unwrap();
            for key in MORTAL {
                let revoked = self.revoked.contains(&key);
                assert_eq!(admits(set, key), !revoked, "stuck: {:?}", world.path);
            }
            assert_eq!(set.held_patches(), 0, "stuck: {:?}", world.path);
        };
        let [mut tables, mut patched, mut early] = [self.clone(), self.clone(), self.clone()];
        for step in [Step::Read(0), Step::PublishTable(0), Step::Arrive(self.files.len())] {
            tables = tables.take(&step, press);
        }
        wanted(&tables);
        let publish = [Step::Read(0), Step::PublishTable(0), Step::Read(0), Step::PublishPatch(0)];
        for step in publish {
            patched = patched.take(&step, press);
            early = early.take(&step, press);
        }
        let (table, patch) = (Step::Arrive(self.files.len()), Step::Arrive(self.files.len() + 1));
        for step in [&table, &patch] {
            patched = patched.take(step, press);
        }
        for step in [&patch, &table] {
            early = early.take(step, press);
        }
        wanted(&patched);
        wanted(&early);
        assert_eq!(early.desk.current().unwrap().patch_serial(), Some(self.serial + 2));
    }

    /// Worlds with the same key are indistinguishable.
    fn key(&self) -> String {
        let files: Vec<_> = self
            .files
            .iter()
            .map(|file| match file {
                File::Table(t) => (t.manifest().as_base(), t.manifest().includes_through),
                File::Patch(p) => (p.manifest().as_base(), p.manifest().includes_through),
            })
            .collect();
        let set = self.desk.current();
        // The publishers are interchangeable.
        let mut publishers = self.publishers.clone().map(|known| format!("{known:?}"));
        publishers.sort();
        format!(
            "{:?} {} {publishers:?} {files:?} {:?} {:?} {}",
            self.revoked,
            self.serial,
            self.refused,
            set.map(|set| (set.serial(), set.patch_serial())),
            self.desk.ledger().to_text(),
        )
    }
}

/// Visits every state that `steps` lead to.
fn walk(steps: usize) -> usize {
    let mut press = Press::default();
    let first = press.table(1, 1, &BTreeSet::new());
    let mut start = World {
        revoked: BTreeSet::new(),
        serial: 1,
        publishers: [None, None],
        files: vec![File::Table(first.clone())],
        desk: Acceptance::new(AcceptRules::default()),
        refused: BTreeSet::new(),
        path: Vec::new(),
    };
    start.arrive(&File::Table(first));
    let mut seen = HashSet::from([start.key()]);
    let mut queue = VecDeque::from([start]);
    while let Some(world) = queue.pop_front() {
        world.is_not_stuck(&mut press);
        if world.path.len() == steps {
            continue;
        }
        for step in world.steps() {
            let next = world.take(&step, &mut press);
            if seen.insert(next.key()) {
                queue.push_back(next);
            }
        }
    }
    seen.len()
}

#[test]
fn no_interleaving_brings_a_revoked_key_back_or_gets_a_sidecar_stuck() {
    let states = walk(8);
    assert!(states > 1_000, "{states} states are hardly every interleaving");
}
