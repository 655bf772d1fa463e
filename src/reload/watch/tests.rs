//! Tests of the watch against real directories.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use super::*;

fn watch(paths: Vec<PathBuf>) -> (Watch, Receiver<Stir>) {
    let (sender, stirs) = channel();
    let mut watch = Watch::new(paths, move |what| {
        let _ = sender.send(what);
    });
    assert!(watch.refresh());
    assert!(watch.is_armed());
    (watch, stirs)
}

/// Everything that arrives until nothing has arrived for a while.
fn settle(stirs: &Receiver<Stir>) -> Vec<Stir> {
    let mut seen = Vec::new();
    while let Ok(what) = stirs.recv_timeout(Duration::from_millis(150)) {
        seen.push(what);
    }
    seen
}

fn wakes(stirs: &Receiver<Stir>) {
    let first = stirs.recv_timeout(Duration::from_secs(5));
    assert!(first.is_ok(), "nothing woke");
    settle(stirs);
}

#[test]
fn reading_does_not_wake() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.kgt");
    fs::write(&path, "x").unwrap();
    let (mut watch, stirs) = watch(vec![path.clone()]);
    settle(&stirs);
    for _ in 0..10 {
        fs::read(&path).unwrap();
        fs::metadata(&path).unwrap();
        fs::read_dir(dir.path()).unwrap().count();
    }
    assert_eq!(settle(&stirs), []);
    assert!(!watch.refresh());
}

#[test]
fn an_in_place_write_is_partial_and_then_complete() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.kgt");
    fs::write(&path, "x").unwrap();
    let (_watch, stirs) = watch(vec![path.clone()]);
    settle(&stirs);
    fs::write(&path, "y").unwrap();
    let seen = settle(&stirs);
    assert_eq!(seen.first(), Some(&Stir::Partial));
    assert_eq!(seen.last(), Some(&Stir::Complete));
}

#[test]
fn other_peoples_files_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.kgt");
    fs::write(&path, "x").unwrap();
    let (_watch, stirs) = watch(vec![path.clone()]);
    settle(&stirs);
    // A log that is constantly written.
    let mut log = fs::File::create(dir.path().join("access.log")).unwrap();
    for _ in 0..10 {
        std::io::Write::write_all(&mut log, b"line\n").unwrap();
    }
    assert_eq!(settle(&stirs), []);
    drop(log);
    assert_eq!(settle(&stirs), [Stir::Elsewhere]);
}

#[test]
fn every_way_to_publish_wakes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.kgt");
    fs::write(&path, "x").unwrap();
    let (_watch, stirs) = watch(vec![path.clone()]);
    settle(&stirs);

    fs::write(dir.path().join("new"), "y").unwrap();
    settle(&stirs);
    fs::rename(dir.path().join("new"), &path).unwrap();
    wakes(&stirs);
    fs::remove_file(&path).unwrap();
    wakes(&stirs);
    fs::write(&path, "z").unwrap();
    wakes(&stirs);
}

#[test]
fn a_data_swap_wakes_and_arms_the_new_directory() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    fs::create_dir(root.join("..1")).unwrap();
    fs::write(root.join("..1/t.kgt"), "1").unwrap();
    symlink("..1", root.join("..data")).unwrap();
    symlink("..data/t.kgt", root.join("t.kgt")).unwrap();
    let path = root.join("t.kgt");
    let (mut watch, stirs) = watch(vec![path.clone()]);
    settle(&stirs);

    fs::create_dir(root.join("..2")).unwrap();
    fs::write(root.join("..2/t.kgt"), "2").unwrap();
    symlink("..2", root.join("..data_tmp")).unwrap();
    fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
    fs::remove_dir_all(root.join("..1")).unwrap();
    wakes(&stirs);
    assert!(watch.refresh(), "the file lies in another directory now");
    settle(&stirs);
    // The new directory is watched as well.
    fs::write(root.join("..2/t.kgt"), "3").unwrap();
    wakes(&stirs);
}

#[test]
fn a_replaced_directory_is_armed_again() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("keys");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("t.kgt"), "1").unwrap();
    let (mut watch, stirs) = watch(vec![dir.join("t.kgt")]);
    settle(&stirs);

    fs::rename(&dir, root.path().join("old")).unwrap();
    wakes(&stirs);
    assert!(watch.refresh(), "its parent is watched until it comes back");
    fs::create_dir(&dir).unwrap();
    wakes(&stirs);
    assert!(watch.refresh());
    settle(&stirs);
    fs::write(dir.join("t.kgt"), "2").unwrap();
    wakes(&stirs);
    // The watch of the old directory is gone.
    fs::write(root.path().join("old/t.kgt"), "x").unwrap();
    assert_eq!(settle(&stirs), []);
}

#[test]
fn links_are_followed_to_where_the_file_lies() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path().canonicalize().unwrap();
    fs::create_dir_all(root.join("a/b")).unwrap();
    fs::create_dir_all(root.join("store")).unwrap();
    fs::write(root.join("store/t.kgt"), "1").unwrap();
    symlink("../../store/t.kgt", root.join("a/b/t.kgt")).unwrap();
    let follow = |path: PathBuf| {
        let mut way = Way::default();
        way.follow(&path);
        way
    };
    symlink("b", root.join("a/now")).unwrap();
    let way = follow(root.join("a/now/t.kgt"));
    let found: Vec<_> = way.directories.into_iter().map(|d| d.canonicalize().unwrap()).collect();
    assert_eq!(found, [root.join("a"), root.join("a/b"), root.join("store")]);
    assert_eq!(way.names, ["now", "t.kgt"].map(OsString::from).into());
    // A loop terminates.
    symlink("x", root.join("y")).unwrap();
    symlink("y", root.join("x")).unwrap();
    assert!(!follow(root.join("x")).directories.is_empty());
}
