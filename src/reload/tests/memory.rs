//! The state file over restarts.

use std::fs;

use super::*;

#[test]
fn a_restart_is_no_way_back() {
    let folder = Folder::new();
    let base = table(5);
    folder.publish("t.kgt", &base);
    folder.publish("p.kgp", &revoking(6, &base, &[1]));
    drop(folder.start());
    // An attacker puts back what was there before.
    folder.publish("t.kgt", &table(4));
    let error = folder.load().err().unwrap();
    assert!(error.to_string().contains("below 6"), "{error}");
    // Or removes the patch: what it revoked stays revoked.
    folder.publish("t.kgt", &base);
    fs::remove_file(folder.at("p.kgp")).unwrap();
    let running = folder.start();
    assert_eq!((running.serial(), running.patch()), (Some(5), Some(6)));
    assert!(!running.has(1) && running.has(2));
    assert_eq!(running.metric("keygate_state_persistent"), 1.0);
    assert_eq!(running.cell.load().state.floor, 6);
}

#[test]
fn a_lost_or_damaged_state_file_leaves_min_serial() {
    for damage in ["", "{\"version\":1", "garbage"] {
        let folder = Folder::new();
        folder.configure("min_serial = 3\n");
        folder.publish("t.kgt", &table(5));
        drop(folder.start());
        match damage {
            "" => fs::remove_file(folder.at("state/ledger")).unwrap(),
            text => fs::write(folder.at("state/ledger"), text).unwrap(),
        }
        folder.publish("t.kgt", &table(2));
        let error = folder.load().err().unwrap();
        assert!(error.to_string().contains("below 3"), "{error}");
        folder.publish("t.kgt", &table(4));
        let running = folder.start();
        assert_eq!(running.serial(), Some(4));
        assert_eq!(running.metric("keygate_state_persistent"), 1.0, "written anew");
        assert_eq!(folder.at("state/ledger.corrupt").exists(), !damage.is_empty());
    }
}

#[test]
fn what_is_in_force_has_its_use_cells_from_the_moment_it_was_verified() {
    let folder = Folder::new();
    let base = table(5);
    folder.publish("t.kgt", &base);
    folder.publish("p.kgp", &revoking(6, &base, &[1]));
    let cells = |keys: &KeySet| keys.use_blocks().map(|block| block.len()).collect::<Vec<_>>();
    // No swap and no thread start in between: acceptance alone has nothing left to allocate.
    let (loaded, ..) = folder.load().unwrap();
    assert_eq!(cells(&loaded.keys().unwrap()), [0, 3], "a removal has no cell");
    drop(loaded);
    let running = folder.start();
    let adds = {
        let mut draft = PatchDraft::over(&opened(&base));
        draft.put(spec(9));
        let signer = Signer::new(1);
        sealed(draft.build(now(7, &[&signer])).unwrap(), &[&signer])
    };
    folder.publish("p.kgp", &adds);
    running.until_patch(7);
    assert_eq!(cells(&running.store.load().keys.clone().unwrap()), [1, 3]);
    // From the state file, without the file that it was published in.
    drop(running);
    fs::remove_file(folder.at("p.kgp")).unwrap();
    let (loaded, ..) = folder.load().unwrap();
    assert_eq!(cells(&loaded.keys().unwrap()), [1, 3]);
}

#[test]
fn nowhere_to_write_is_survived_and_shown() {
    let folder = Folder::new();
    folder.publish("t.kgt", &table(5));
    // A file instead of a directory: not writable, even for root.
    folder.configure("state_file = \"blocked/ledger\"\n");
    fs::write(folder.at("blocked"), "").unwrap();
    let running = folder.start();
    assert_eq!(running.serial(), Some(5));
    assert_eq!(running.metric("keygate_state_persistent"), 0.0);
    let problem = running.cell.load().state.problem.clone().unwrap();
    assert!(problem.contains("cannot be"), "{problem}");
    // During the life of the process nothing is forgotten.
    folder.publish("t.kgt", &table(4));
    running.until("refused", |r| r.failures("table", "rollback") == 1.0);
    // Once it can be written, it is, without another table.
    fs::remove_file(folder.at("blocked")).unwrap();
    fs::create_dir(folder.at("blocked")).unwrap();
    running.until("written", |r| r.metric("keygate_state_persistent") == 1.0);
    drop(running);
    assert!(folder.load().is_err(), "table 4 is refused by the state that was written late");
}

#[test]
fn a_state_file_that_is_removed_is_written_again_and_none_that_cannot_be_counts() {
    let folder = Folder::new();
    folder.publish("t.kgt", &table(5));
    let running = folder.start();
    let state = folder.at("state/ledger");
    fs::remove_file(&state).unwrap();
    running.until("written again", |_| state.exists());
    assert_eq!(running.metric("keygate_state_persistent"), 1.0);
    // The directory is gone, and a file in its place keeps even root from writing.
    fs::remove_dir_all(folder.at("state")).unwrap();
    fs::write(folder.at("state"), "").unwrap();
    running.until("noticed", |r| r.metric("keygate_state_persistent") == 0.0);
    assert!(running.cell.load().state.problem.is_some());
    fs::remove_file(folder.at("state")).unwrap();
    fs::create_dir(folder.at("state")).unwrap();
    running.until("written", |r| r.metric("keygate_state_persistent") == 1.0);
    // The end of the process finds it missing, too.
    fs::remove_file(&state).unwrap();
    drop(running);
    folder.publish("t.kgt", &table(4));
    assert!(folder.load().is_err(), "an older table is refused");
}

#[test]
fn without_a_state_file_it_is_said() {
    let folder = Folder::new();
    folder.configure("state_file = \"\"\n");
    folder.publish("t.kgt", &table(5));
    let running = folder.start();
    assert_eq!(running.metric("keygate_state_persistent"), 0.0);
    assert_eq!(running.cell.load().state.problem.as_deref(), Some("no `state_file` is configured"));
}
