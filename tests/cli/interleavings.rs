//! A model of two publishers: whatever they do in whatever order, with every flag but an
//! acknowledgement, nothing that is published against a key is undone by one who does not know of
//! it, and sidecars accept what a command says is published.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;

use keygate::core::{KeyStatus, Now, Permission};
use keygate::table::{AcceptRules, Acceptance, Bounds, KeySet, Patch, Refusal, Table, Trust};
use proptest::prelude::*;

use crate::support::{Issued, Room, holder};

const UNDONE: i32 = 77;

/// One step of one of the two publishers.
#[derive(Clone, Debug)]
struct Step {
    /// Which of the two.
    publisher: usize,
    action: Action,
    /// Flags that a publication may have; none of them acknowledges anything.
    flags: Vec<&'static str>,
}

#[derive(Clone, Copy, Debug)]
enum Action {
    /// Puts the draft in its place.
    Attach,
    Change(&'static str, usize),
    /// A table that waits for its signature.
    Draft,
    /// A change and a patch in a place that the others do not look for.
    Emergency(&'static str, usize),
    /// The same in another folder than the table's.
    Far(&'static str, usize),
    /// Takes in what is published.
    Fold,
    /// The registry is lost, and begun anew from the secrets.
    Lose,
    /// A `keys.jsonl` is merged line by line with the other's.
    Merge,
    Patch,
    /// A change and its table in one step.
    Publish(&'static str, usize),
    /// The registry goes back to the copy that both began with.
    Restore,
    /// A table in another place, to look at.
    Review,
    Table,
}

/// What a caller may: anything, and `send`; of the sidecar with each patch.
type Admitted = [[bool; 2]; PATCHES.len()];

/// One publisher as the model knows it.
#[derive(Clone, Debug)]
struct Known {
    /// What was in force when it published last or took in what is published.
    synced: Vec<Admitted>,
    /// The same of its draft.
    drafted: Option<Vec<Admitted>>,
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

    /// Runs it. The exit code; `None` where no command of ours runs.
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
            // By name: a registry that was begun anew has other ids.
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
                // No [publish] says which table it is to replace, so that it cannot tell by itself
                // that it ends most keys on purpose.
                let unsigned = [
                    ["--unsigned", "--acknowledge", "empty"],
                    ["--acknowledge", "shrink", "--signer-public=signer.pub"],
                ]
                .concat();
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

    /// What a sidecar has in force that reads this patch and has just been started.
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

    fn admitted(&self, key: &Issued) -> Admitted {
        PATCHES.map(|patch| self.admitted_with(patch, key))
    }

    fn admitted_with(&self, patch: &str, key: &Issued) -> [bool; 2] {
        let send = Permission::parse("send").unwrap();
        let keys = self.in_force(patch);
        let grant = holder(&keys, &key.secret).map(|view| view.grant);
        let grant = grant.filter(|grant| grant.status == KeyStatus::Active);
        [grant.is_some(), grant.is_some_and(|grant| grant.permissions.holds(&send))]
    }

    /// What the table says without any patch.
    fn by_table(&self) -> Vec<[bool; 2]> {
        self.keys.iter().map(|key| self.admitted_with("none.kgp", key)).collect()
    }

    fn all_admitted(&self) -> Vec<Admitted> {
        self.keys.iter().map(|key| self.admitted(key)).collect()
    }

    fn is_revoked(&self, key: &Issued, patch: &str) -> bool {
        let keys = self.in_force(patch);
        holder(&keys, &key.secret).is_some_and(|view| view.grant.status == KeyStatus::Revoked)
    }

    /// What running sidecars say to what is there now.
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

/// Whether a step, when it succeeds, makes its publisher know what is published.
fn is_sync(action: Action) -> bool {
    use Action::{Attach, Emergency, Far, Fold, Patch, Publish, Table};
    matches!(action, Attach | Emergency(..) | Far(..) | Fold | Patch | Publish(..) | Table)
}

fn play(extension: &str, steps: &[Step]) -> Result<(), TestCaseError> {
    let mut world = World::new(extension);
    world.refused();
    let mut before = world.all_admitted();
    let mut by_table = world.by_table();
    let first = before.clone();
    let known = Known { synced: before.clone(), drafted: None };
    let mut known = [known.clone(), known];
    let mut revoked = BTreeSet::new();
    let mut serial = 100;
    for step in steps {
        serial += 100;
        let ran = world.run(step, &serial.to_string());
        let at = step.publisher;
        if let Some((code, told)) = &ran {
            let codes = [0, 64, 65, 66, 75, UNDONE];
            prop_assert!(codes.contains(code), "{step:?}: {code}: {told}");
        }
        let is_done = ran.as_ref().is_some_and(|(code, _)| *code == 0);
        let refused = world.refused();
        let is_braked =
            |refusal: &Refusal| matches!(refusal, Refusal::Empty | Refusal::Shrink { .. });
        prop_assert!(!refused.iter().any(is_braked), "{step:?}: {refused:?}");
        let after = world.all_admitted();
        let base = match step.action {
            Action::Attach => known[at].drafted.clone().unwrap_or_else(|| known[at].synced.clone()),
            _ => known[at].synced.clone(),
        };
        for (n, key) in world.keys.iter().enumerate() {
            for (sidecar, what) in (0..PATCHES.len()).flat_map(|at| [(at, 0), (at, 1)]) {
                let is_back = after[n][sidecar][what] && !before[n][sidecar][what];
                // Its publisher knew that this was refused somewhere, and changed its mind.
                let is_own = base[n].iter().any(|with| !with[what]);
                // What the table refuses, a patch that is published behind it admits.
                let is_later = !by_table[n][what] && before[n].iter().any(|with| with[what]);
                let is_known = is_own || is_later;
                prop_assert!(
                    !is_back || is_known,
                    "{step:?}: {} with {}",
                    key.id,
                    PATCHES[sidecar]
                );
            }
            for (sidecar, patch) in PATCHES.iter().enumerate() {
                if world.is_revoked(key, patch) {
                    revoked.insert((n, sidecar));
                }
                let is_final = !after[n][sidecar][0] || !revoked.contains(&(n, sidecar));
                prop_assert!(is_final, "{step:?}: {} was revoked", key.id);
            }
        }
        match step.action {
            Action::Restore => known[at] = Known { synced: first.clone(), drafted: None },
            Action::Lose => {
                // It knows of nothing, so it may undo nothing.
                known[at] = Known {
                    synced: vec![[[true; 2]; PATCHES.len()]; world.keys.len()],
                    drafted: None,
                };
            }
            Action::Merge if extension == "jsonl" => {
                // Its registry now says what the other one knows: to change that is a decision.
                let theirs = known[1 - at].synced.clone();
                for (ours, theirs) in
                    known[at].synced.iter_mut().flatten().zip(theirs.iter().flatten())
                {
                    for (ours, theirs) in ours.iter_mut().zip(theirs) {
                        *ours &= theirs;
                    }
                }
            }
            Action::Draft if is_done => known[at].drafted = Some(known[at].synced.clone()),
            action if is_done && is_sync(action) => known[at].synced.clone_from(&after),
            _ => {}
        }
        before = after;
        by_table = world.by_table();
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 24, failure_persistence: None, max_shrink_iters: 40, ..ProptestConfig::default()
    })]

    #[test]
    fn no_interleaving_admits_again(steps in prop::collection::vec(step(), 4..14)) {
        play("toml", &steps)?;
    }

    #[test]
    fn no_interleaving_of_lines_admits_again(steps in prop::collection::vec(step(), 4..12)) {
        play("jsonl", &steps)?;
    }
}
