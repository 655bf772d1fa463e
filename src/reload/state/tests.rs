//! What the state file remembers, and what becomes of a file that is not what it was.

use std::fs;

use super::*;

#[test]
fn a_damaged_file_is_put_aside() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    for text in ["", "{", "{\"version\":2}", "\0\0\0"] {
        fs::write(&path, text).unwrap();
        let mut state = StateFile::open(Some(&path));
        let ledger = state.take_remembered();
        assert_eq!(ledger, Ledger::default());
        assert!(!path.exists() && dir.path().join("state.corrupt").exists());
        let placed = state.place(&ledger).unwrap();
        state.forced(placed.force());
        assert!(state.is_persistent() && state.is_settled());
        assert!(state.place(&ledger).is_none(), "nothing changed");
        let mut again = StateFile::open(Some(&path));
        let ledger = again.take_remembered();
        assert_eq!((ledger, again.is_settled()), (Ledger::default(), true));
    }
}

#[test]
fn a_directory_that_cannot_be_written_is_survived_and_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("later/state");
    let mut state = StateFile::open(Some(&path));
    let ledger = state.take_remembered();
    assert!(state.place(&ledger).is_none());
    assert!(!state.is_persistent() && !state.is_settled());
    assert!(state.problem().unwrap().contains("cannot be written"));
    fs::create_dir(dir.path().join("later")).unwrap();
    let placed = state.place(&ledger).unwrap();
    state.forced(placed.force());
    assert!(state.is_persistent() && state.is_settled());
}

#[test]
fn what_could_not_be_forced_is_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = StateFile::open(Some(&dir.path().join("state")));
    let ledger = state.take_remembered();
    for _ in 0..2 {
        assert!(state.place(&ledger).is_some());
        state.forced(Err(io::ErrorKind::StorageFull.into()));
        assert!(!state.is_settled() && !state.is_persistent());
        assert!(state.problem().unwrap().contains("cannot be forced to the disk"));
    }
    let placed = state.place(&ledger).unwrap();
    assert!(!state.is_persistent(), "written, but that it was before");
    state.forced(placed.force());
    assert!(state.is_settled() && state.is_persistent());
    assert!(state.place(&ledger).is_none());
}

#[test]
fn nowhere_to_write_is_no_persistence() {
    let mut state = StateFile::open(None);
    let ledger = state.take_remembered();
    assert!(state.place(&ledger).is_none());
    assert!(state.is_settled() && !state.is_persistent());
}

/// A ledger of a table in force, by its text.
fn ledger(table: u64, patch: u64) -> Ledger {
    let base = |serial| format!("{{\"serial\":{serial},\"body_sha256\":\"{:064x}\"}}", serial);
    Ledger::parse(&format!(
        "{{\"version\":1,\"table\":{},\"table_includes\":{table},\"patch\":{},\"floor\":{table},\
         \"active\":1,\"shelf\":[]}}",
        base(table),
        base(patch)
    ))
    .unwrap()
}

fn serials(path: &Path) -> (u64, u64) {
    let there = Ledger::parse(&fs::read_to_string(path).unwrap()).unwrap();
    (there.table_serial().unwrap(), there.patch_serial().unwrap())
}

#[test]
fn two_processes_write_only_upwards() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let mut old = StateFile::open(Some(&path));
    let mut new = StateFile::open(Some(&path));
    assert!(old.place(&ledger(3, 4)).is_some());
    assert!(new.place(&ledger(5, 2)).is_some());
    assert_eq!(serials(&path), (5, 4), "the higher of both");
    assert!(old.place(&ledger(3, 6)).is_some());
    assert_eq!(serials(&path), (5, 6));
    assert!(old.place(&ledger(3, 6)).is_none(), "nothing changed");
    // It may lower its own serials, but those of the other process only on purpose.
    assert!(new.place(&ledger(5, 2)).is_none());
    new.begin_anew();
    assert!(new.place(&ledger(1, 1)).is_some());
    assert_eq!(serials(&path), (1, 1));
    old.leave();
    assert!(old.place(&ledger(9, 9)).is_none() && old.is_settled());
    assert_eq!(serials(&path), (1, 1), "a process that drains writes nothing");
}

/// What the process that waits for the end of the other one accepts in addition is no damage.
#[test]
fn a_patch_that_another_process_replaced_is_not_missed() {
    use crate::table::testkit::{Signer, issue, patch, spec, table};
    use crate::table::write::{PatchDraft, RemovalOf};
    use crate::table::{AcceptRules, Acceptance};
    let now = crate::core::Now { unix_ms: 5_000_000, mono_ns: 0 };
    let base = std::sync::Arc::new(table(1, &[0, 1, 2, 3, 4, 5].map(spec)));
    let with = |serial, removed: &[u32]| {
        let mut draft = PatchDraft::over(&base);
        for n in removed {
            draft.remove(spec(*n).digest, spec(*n).id, RemovalOf::Key);
        }
        let patch = patch(draft, issue(serial, &[&Signer::new(1)]));
        // Even one process alone waits for the base.
        let waits = || Acceptance::new(AcceptRules::default());
        let [mut early, mut late] = [waits(), waits()];
        late.offer_table(base.clone(), now).unwrap();
        let patch = std::sync::Arc::new(patch);
        [&mut early, &mut late].map(|desk| {
            desk.offer_patch(patch.clone(), now).unwrap();
            desk.ledger()
        })
    };
    let [first, first_in_force] = with(2, &[0]);
    let [both, both_in_force] = with(3, &[0, 1]);
    let [other, other_in_force] = with(3, &[1]);
    let covers = [
        (&first, &both, true),
        (&first, &other, false),
        (&both, &first, false),
        (&first_in_force, &both_in_force, true),
        // It is in force, and its publisher knew of the first one.
        (&first_in_force, &other_in_force, true),
        (&other_in_force, &first_in_force, false),
    ];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    for (n, (ours, theirs, covered)) in covers.into_iter().enumerate() {
        let mut state = StateFile::open(None);
        state.path = Some(path.clone());
        state.begin_anew();
        assert!(state.place(ours).is_some());
        fs::write(&path, theirs.to_text()).unwrap();
        let damage = state.damage(|| ours.clone());
        assert_eq!(damage.is_none(), covered, "{n}: {damage:?}");
    }
}

#[test]
fn a_file_that_is_gone_or_taken_back_is_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let (mut state, ours) = (StateFile::open(Some(&path)), ledger(5, 6));
    assert!(state.place(&ours).is_some());
    let before = fs::read(&path).unwrap();
    let damages: [(&str, &dyn Fn()); 4] = [
        ("is gone", &|| fs::remove_file(&path).unwrap()),
        ("was replaced", &|| fs::write(&path, ledger(3, 4).to_text()).unwrap()),
        ("was replaced", &|| fs::write(&path, "{").unwrap()),
        // Nobody may read it, so anything may be in it.
        ("cannot be read", &|| {
            fs::remove_file(&path).unwrap();
            fs::create_dir(&path).unwrap();
        }),
    ];
    for (what, damage) in damages {
        state.look_after(|| ours.clone());
        assert!(state.is_settled() && state.place(&ours).is_none(), "nothing changed");
        damage();
        assert!(state.place(&ours).is_none(), "nobody has looked yet");
        let said = state.damage(|| ours.clone()).map(|damage| damage.to_string());
        assert!(said.as_ref().is_some_and(|said| said.starts_with(what)), "{said:?}");
        if path.is_dir() {
            fs::remove_dir(&path).unwrap();
        }
        state.look_after(|| ours.clone());
        assert!(!state.is_settled());
        assert!(state.place(&ours).is_some());
        assert_eq!(fs::read(&path).unwrap(), before);
    }
    // What another process has added is no damage.
    let mut other = StateFile::open(Some(&path));
    assert!(other.place(&ledger(7, 8)).is_some());
    state.look_after(|| ours.clone());
    assert!(state.is_settled());
    assert_eq!(serials(&path), (7, 8));
    // Nor is anything that happens once a successor writes.
    state.leave();
    fs::remove_file(&path).unwrap();
    state.look_after(|| ours.clone());
    assert!(state.place(&ours).is_none() && state.is_settled());
}
