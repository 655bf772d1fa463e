//! A model of two publishers, who do anything in any order, with every flag except an
//! acknowledgement. A publisher whose own registry does not say the same never undoes a published
//! restriction of a key. A revoked key stays revoked. What a publisher's registry refuses, its
//! publication refuses, also after two branches of a `keys.jsonl` were merged. And no running
//! sidecar treats as an accident what a command reports as published.

mod stories;

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;

use keygate::core::{KeyStatus, Now, Permission};
use keygate::table::{
    AcceptRules, Acceptance, Bounds, KeySet, Manifest, Patch, Refusal, Table, Trust,
};
use proptest::prelude::*;

use crate::support::{Issued, Room, holder};

const UNDONE: i32 = 77;

/// One step of one of the two publishers.
#[derive(Clone, Debug)]
struct Step {
    /// Which of the two.
    publisher: usize,
    action: Action,
    /// Flags that a publication may have. None of them acknowledges anything.
    flags: Vec<&'static str>,
}

#[derive(Clone, Copy, Debug)]
enum Action {
    /// Puts the draft in its place.
    Attach,
    Change(&'static str, usize),
    /// A table that waits for its signature.
    Draft,
    /// A change and a patch in a place where the others do not look.
    Emergency(&'static str, usize),
    /// The same in a folder other than the table's.
    Far(&'static str, usize),
    /// Folds in what is published.
    Fold,
    /// The registry is lost, and started again from the secrets.
    Lose,
    /// A `keys.jsonl` is merged line by line with the other's.
    Merge,
    Patch,
    /// A change and its table in one step.
    Publish(&'static str, usize),
    /// The registry is restored from the copy that both began with.
    Restore,
    /// A table in another place, to look at.
    Review,
    Table,
}

/// What somebody states about a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Said {
    /// Active, disabled or final.
    status: KeyStatus,
    /// Whether it holds `send`, whatever its status is.
    may_send: bool,
}

/// What can be refused to the callers of a key, each separately.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Refused {
    all: bool,
    send: bool,
}

/// One publisher as the model knows it.
#[derive(Clone, Debug)]
struct Known {
    /// What its registry has refused at some time since it last published or folded: admitting that
    /// again is its own decision.
    refused: Vec<Refused>,
    /// The same for its draft.
    drafted: Option<Vec<Refused>>,
}

/// Two copies of one registry, one place to publish to, and a sidecar for each place of a patch.
struct World {
    room: Room,
    registries: [String; 2],
    keys: Vec<Issued>,
    trust: Trust,
    sidecars: [Acceptance; PATCHES.len()],
}

const PATCHES: [&str; 3] = ["t.kgp", "hot.kgp", "far/t.kgp"];

fn step() -> impl Strategy<Value = Step> {
    let change = prop::sample::select(vec!["revoke", "disable", "enable", "narrow", "widen"]);
    let change = (change, 0..2usize);
    let action = prop_oneof![
        5 => change.clone().prop_map(|(change, key)| Action::Change(change, key)),
        2 => change.clone().prop_map(|(change, key)| Action::Publish(change, key)),
        1 => change.clone().prop_map(|(change, key)| Action::Emergency(change, key)),
        1 => change.prop_map(|(change, key)| Action::Far(change, key)),
        4 => Just(Action::Table),
        2 => Just(Action::Patch),
        2 => Just(Action::Fold),
        1 => Just(Action::Restore),
        1 => Just(Action::Review),
        1 => Just(Action::Draft),
        1 => Just(Action::Attach),
        1 => Just(Action::Lose),
        1 => Just(Action::Merge),
    ];
    let flags = prop::sample::select(vec![
        vec![],
        vec!["--serial", "above"],
        vec!["--serial", "above"],
        vec!["--serial", "above", "--on-bad-line", "skip"],
        vec!["--serial", "above", "--fold-patch", "t.kgp"],
        vec!["--expires", "never"],
    ]);
    (0..2usize, action, flags).prop_map(|(publisher, action, flags)| Step {
        publisher,
        action,
        flags,
    })
}

// === impl World ===

impl World {
    fn new(extension: &str) -> Self {
        let room = Room::new();
        fs::create_dir(room.path("far")).unwrap();
        room.ok(&["signer", "new", "--public-out", "signer.pub"]);
        let registries = ["keys", "copy"].map(|name| format!("{name}.{extension}"));
        let first = registries[0].as_str();
        room.ok(&["-r", first, "keys", "init", "--audience", "shop"]);
        let keys: Vec<Issued> = (0..2)
            .map(|n| {
                let name = format!("p{n}");
                let key = ["-r", first, "--name", &name, "--permission", "read,send"];
                room.create(&[&key[..], &["--limit", "10/s"]].concat())
            })
            .collect();
        room.ok(&["-r", first, "table", "build", "-o", "t.kgt", "--signer", "signer.pem"]);
        for copy in [registries[1].as_str(), "first"] {
            fs::copy(room.path(first), room.path(copy)).unwrap();
        }
        let secrets = keys.iter().enumerate();
        let secrets = secrets.map(|(n, key)| format!("acme,p{n},\"read,send\",{}\n", key.secret));
        room.write(
            "lost.csv",
            format!("org,name,permissions,key\n{}", secrets.collect::<String>()),
        );
        let trust = room.trust("signer.pem");
        let sidecars = PATCHES.map(|_| Acceptance::new(AcceptRules::default()));
        Self { room, registries, keys, trust, sidecars }
    }

    /// Runs it. Returns the exit code, or `None` if it runs no command of ours.
    fn run(&self, step: &Step, serial: &str) -> Option<(i32, String)> {
        let own = self.registries[step.publisher].as_str();
        let other = self.registries[1 - step.publisher].as_str();
        let room = &self.room;
        if let Action::Restore = step.action {
            fs::copy(room.path("first"), room.path(own)).unwrap();
            return None;
        }
        if let Action::Lose = step.action {
            fs::remove_file(room.path(own)).unwrap();
            for beside in ["unpublished.jsonl", "audit.jsonl"] {
                fs::remove_file(room.path(own).with_extension(beside)).ok();
            }
            room.ok(&["-r", own, "keys", "init", "--audience", "shop"]);
            room.ok(&["-r", own, "keys", "import", "lost.csv"]);
            return None;
        }
        if let Action::Merge = step.action {
            if own.ends_with("jsonl") {
                let (mut text, theirs) = (room.read(own), room.read(other));
                for line in theirs.lines().filter(|line| !text.contains(*line)).collect::<Vec<_>>()
                {
                    text.push_str(line);
                    text.push('\n');
                }
                room.write(own, text);
            }
            return None;
        }
        let arguments = self.arguments(step, own, serial);
        let ran = room.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        Some((ran.code, ran.stderr))
    }

    fn arguments(&self, step: &Step, own: &str, serial: &str) -> Vec<String> {
        let of = |words: &[&str]| -> Vec<String> {
            [&["-r", own], words].concat().into_iter().map(str::to_owned).collect()
        };
        let signed = ["--signer", "signer.pem"];
        let change = |change: &str, key: usize, more: &[&str]| {
            // By name: a registry that was started again has other ids.
            let name = if key == 0 { "p0" } else { "p1" };
            match change {
                "narrow" => of(&[&["keys", "edit", name, "--permission", "read"], more].concat()),
                "widen" => {
                    of(&[&["keys", "edit", name, "--permission", "read,send"], more].concat())
                }
                word => of(&[&["keys", word, name], more].concat()),
            }
        };
        let is_patch = matches!(step.action, Action::Patch);
        let flags =
            step.flags.iter().filter(|flag| !is_patch || ["--serial", "above"].contains(flag));
        let flags: Vec<&str> =
            flags.map(|flag| if *flag == "above" { serial } else { *flag }).collect();
        let build = |out: &str| of(&[&["table", "build", "-o", out], &signed[..], &flags].concat());
        let draft = format!("draft{}.kgt", step.publisher);
        match step.action {
            Action::Change(word, key) => change(word, key, &[]),
            Action::Publish(word, key) => {
                change(word, key, &[&["--publish", "t.kgt"], &signed[..]].concat())
            }
            Action::Emergency(word, key) => {
                let patch = ["--publish-patch", "hot.kgp", "--base", "t.kgt"];
                change(word, key, &[&patch, &signed[..]].concat())
            }
            Action::Far(word, key) => {
                let patch = ["--publish-patch", "far/t.kgp", "--base", "t.kgt"];
                change(word, key, &[&patch, &signed[..]].concat())
            }
            Action::Table => build("t.kgt"),
            Action::Review => build("review.kgt"),
            Action::Draft => {
                let unsigned = ["--unsigned", "--signer-public=signer.pub"];
                of(&[&["table", "build", "-o", &draft], &unsigned[..], &flags].concat())
            }
            Action::Attach => {
                let attach = ["table", "attach-signature", &draft, "-o", "t.kgt"];
                of(&[&attach, &signed[..]].concat())
            }
            Action::Patch => {
                let patch = ["patch", "-o", "t.kgp", "--base", "t.kgt"];
                of(&[&patch, &signed[..], &flags].concat())
            }
            Action::Fold => of(&["keys", "fold", "t.kgt"]),
            Action::Lose | Action::Merge | Action::Restore => Vec::new(),
        }
    }

    /// What a sidecar that reads this patch and has just started has in force.
    fn in_force(&self, patch: &str) -> KeySet {
        let (room, bounds) = (&self.room, Bounds::default());
        let table = fs::read(room.path("t.kgt")).unwrap();
        let table = Table::open(table, &self.trust, &bounds).unwrap();
        let patch = fs::read(room.path(patch)).ok();
        let patch = patch.map(|patch| Arc::new(Patch::open(patch, &self.trust, &bounds).unwrap()));
        let patch = patch.filter(|patch| patch.serial() > table.manifest().includes_through);
        let held: Vec<_> = patch.iter().filter(|patch| !patch.is_over(&table)).cloned().collect();
        KeySet::new(Arc::new(table), patch, &held, None)
    }

    /// Whether the table does not include this patch, so that a sidecar that reads the patch obeys
    /// it.
    fn is_live(&self, patch: &str) -> bool {
        let table = fs::read(self.room.path("t.kgt")).unwrap();
        let table = Manifest::unverified(&table).unwrap();
        let patch = fs::read(self.room.path(patch)).ok();
        let patch = patch.map(|patch| Manifest::unverified(&patch).unwrap());
        patch.is_some_and(|patch| patch.serial > table.includes_through)
    }

    fn said_with(&self, patch: &str, key: &Issued) -> Said {
        let keys = self.in_force(patch);
        holder(&keys, &key.secret).map_or(Said::GONE, |view| Said {
            status: view.grant.status,
            may_send: view.grant.permissions.holds(&Permission::parse("send").unwrap()),
        })
    }

    /// What the table says without any patch.
    fn by_table(&self) -> Vec<Said> {
        self.keys.iter().map(|key| self.said_with("none.kgp", key)).collect()
    }

    /// What every sidecar has in force for every key.
    fn in_force_everywhere(&self) -> Vec<[Said; PATCHES.len()]> {
        self.keys.iter().map(|key| PATCHES.map(|patch| self.said_with(patch, key))).collect()
    }

    /// What a registry refuses. `None`: it has to be repaired first.
    fn refused_by(&self, publisher: usize) -> Option<Vec<Refused>> {
        let own = self.registries[publisher].as_str();
        let ran = self.room.run(&["-r", own, "keys", "list", "--json"]);
        if ran.code != 0 {
            return None;
        }
        let list: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
        let refused = (0..self.keys.len()).map(|n| {
            let name = format!("p{n}");
            let named = list.as_array().unwrap().iter().filter(|key| key["name"] == *name);
            let (mut all, mut send) = (true, true);
            for key in named {
                all &= key["status"] != "active";
                send &= !key["permissions"].as_array().unwrap().iter().any(|word| word == "send");
            }
            Refused { all, send }
        });
        Some(refused.collect())
    }

    /// What running sidecars say about what is there now.
    fn refused(&mut self) -> Vec<Refusal> {
        let mut refused = Vec::new();
        let (bounds, now) = (Bounds::default(), Now { unix_ms: 0, mono_ns: 0 });
        for (sidecar, patch) in self.sidecars.iter_mut().zip(PATCHES) {
            let table = fs::read(self.room.path("t.kgt")).unwrap();
            let table = Arc::new(Table::open(table, &self.trust, &bounds).unwrap());
            refused.extend(sidecar.offer_table(table, now).err());
            if let Ok(patch) = fs::read(self.room.path(patch)) {
                let patch = Arc::new(Patch::open(patch, &self.trust, &bounds).unwrap());
                refused.extend(sidecar.offer_patch(patch, now).err());
            }
        }
        refused
    }
}

// === impl Said ===

impl Said {
    const GONE: Self = Self { status: KeyStatus::Disabled, may_send: false };

    fn refused(self) -> Refused {
        Refused { all: self.status != KeyStatus::Active, send: !self.may_send }
    }
}

// === impl Refused ===

impl Refused {
    /// What this one refuses and the other one does not.
    fn without(self, other: Self) -> Self {
        Self { all: self.all && !other.all, send: self.send && !other.send }
    }

    fn or(self, other: Self) -> Self {
        Self { all: self.all || other.all, send: self.send || other.send }
    }

    fn and(self, other: Self) -> Self {
        Self { all: self.all && other.all, send: self.send && other.send }
    }
}

/// Where a step publishes if it succeeds. `None` if it does not publish.
fn target(action: Action) -> Option<&'static str> {
    match action {
        Action::Emergency(..) => Some("hot.kgp"),
        Action::Far(..) => Some("far/t.kgp"),
        Action::Patch => Some("t.kgp"),
        Action::Attach | Action::Publish(..) | Action::Table => Some("t.kgt"),
        Action::Change(..)
        | Action::Draft
        | Action::Fold
        | Action::Lose
        | Action::Merge
        | Action::Restore
        | Action::Review => None,
    }
}

fn play(extension: &str, steps: &[Step]) -> Result<(), TestCaseError> {
    let mut world = World::new(extension);
    world.refused();
    let mut before = world.in_force_everywhere();
    let nothing = vec![Refused::default(); world.keys.len()];
    let known = Known { refused: nothing.clone(), drafted: None };
    let mut known = [known.clone(), known];
    let mut revoked = BTreeSet::new();
    let mut serial = 100;
    for step in steps {
        serial += 100;
        let at = step.publisher;
        let by_table = world.by_table();
        let live: Vec<bool> = PATCHES.iter().map(|patch| world.is_live(patch)).collect();
        let place = target(step.action);
        let content = |world: &World| place.map(|place| fs::read(world.room.path(place)).ok());
        let there = content(&world);
        let ran = world.run(step, &serial.to_string());
        // A change that was already made publishes nothing.
        let is_published = content(&world) != there;
        if let Some((code, told)) = &ran {
            let codes = [0, 64, 65, 66, 75, UNDONE];
            prop_assert!(codes.contains(code), "{step:?}: {code}: {told}");
        }
        let is_done = ran.as_ref().is_some_and(|(code, _)| *code == 0);
        let refused = world.refused();
        let is_braked =
            |refusal: &Refusal| matches!(refusal, Refusal::Empty | Refusal::Shrink { .. });
        prop_assert!(!refused.iter().any(is_braked), "{step:?}: {refused:?}");
        let after = world.in_force_everywhere();
        let own = match step.action {
            Action::Attach => known[at].drafted.as_ref().unwrap_or(&nothing),
            _ => &known[at].refused,
        };
        for (n, key) in world.keys.iter().enumerate() {
            // What the table refuses, patches that are published behind it admit, all of them.
            let patched = before[n].iter().zip(&live).filter(|(_, is_live)| **is_live);
            let later = patched.map(|(said, _)| by_table[n].refused().without(said.refused()));
            let later = later.reduce(Refused::and).unwrap_or_default();
            for (sidecar, patch) in PATCHES.iter().enumerate() {
                let (was, is) = (before[n][sidecar], after[n][sidecar]);
                let back = was.refused().without(is.refused()).without(own[n].or(later));
                // A revoked key may state anything about what it may no longer do.
                let is_harmless = back == Refused::default() || is.status.is_final();
                prop_assert!(is_harmless, "{step:?}: {back:?} of {} with {patch}", key.id);
                if is.status == KeyStatus::Revoked {
                    revoked.insert((n, sidecar));
                }
                let is_kept = is.status != KeyStatus::Active || !revoked.contains(&(n, sidecar));
                prop_assert!(is_kept, "{step:?}: {} was revoked", key.id);
            }
        }
        let says = world.refused_by(at);
        if let (true, Some(place), Some(says)) = (is_done && is_published, place, &says) {
            // A draft contains what its registry said at that time.
            let is_whole = !matches!(step.action, Action::Attach);
            for (n, key) in world.keys.iter().enumerate().filter(|_| is_whole) {
                let is = if place == "t.kgt" {
                    by_table_now(&world, n)
                } else {
                    world.said_with(place, key)
                };
                let lost = says[n].without(is.refused());
                prop_assert!(lost == Refused::default(), "{step:?}: {lost:?} of {}", key.id);
            }
        }
        let drafted = known[at].drafted.take();
        known[at] = match (step.action, says) {
            (Action::Restore | Action::Lose, says) => {
                Known { refused: says.unwrap_or_else(|| nothing.clone()), drafted: None }
            }
            // For what both did before, only the merged registry counts.
            (Action::Merge, Some(says)) => Known { refused: says, drafted },
            (Action::Draft, Some(says)) if is_done => {
                let refused = join(&known[at].refused, &says);
                Known { refused: refused.clone(), drafted: Some(refused) }
            }
            (action, Some(says)) if is_done && (is_published || is_fold(action)) => {
                Known { refused: says, drafted }
            }
            (_, Some(says)) => Known { refused: join(&known[at].refused, &says), drafted },
            (_, None) => Known { refused: known[at].refused.clone(), drafted },
        };
        before = after;
    }
    Ok(())
}

fn by_table_now(world: &World, n: usize) -> Said {
    world.said_with("none.kgp", &world.keys[n])
}

fn is_fold(action: Action) -> bool {
    matches!(action, Action::Fold)
}

fn join(one: &[Refused], other: &[Refused]) -> Vec<Refused> {
    one.iter().zip(other).map(|(one, other)| one.or(*other)).collect()
}
