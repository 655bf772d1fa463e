//! Tests of path sources against real files.

use std::fs;

use super::*;

/// Long after any file was created: nothing is fresh.
const LATER: u64 = 9_000_000_000_000;

fn source(path: &Path) -> PathSource {
    PathSource::new(path, "kgt", 1000)
}

fn take(source: &mut PathSource) -> Vec<u8> {
    let contents = source.read(LATER).unwrap();
    source.processed(contents.seen);
    contents.bytes.to_vec()
}

#[test]
fn a_file_is_read_again_only_when_its_stamp_changed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.kgt");
    fs::write(&path, "one").unwrap();
    let mut source = source(&path);
    assert!(source.may_differ(LATER).unwrap());
    assert_eq!(take(&mut source), b"one");
    assert!(!source.may_differ(LATER).unwrap());
    // Reading by anyone changes nothing.
    fs::read(&path).unwrap();
    assert!(!source.may_differ(LATER).unwrap());

    let other = dir.path().join("new");
    fs::write(&other, "two").unwrap();
    fs::rename(&other, &path).unwrap();
    assert!(source.may_differ(LATER).unwrap(), "renamed into place");
    assert_eq!(take(&mut source), b"two");

    std::thread::sleep(Duration::from_millis(20));
    fs::write(&path, "six").unwrap();
    assert!(source.may_differ(LATER).unwrap(), "same length, written in place");
    assert_eq!(take(&mut source), b"six");
    source.forget();
    assert!(source.may_differ(LATER).unwrap(), "forced");
}

#[test]
fn a_stamp_that_is_too_fresh_proves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.kgt");
    fs::write(&path, "one").unwrap();
    let meta = fs::metadata(&path).unwrap();
    let written_ms = meta.ctime() as u64 * 1000 + meta.ctime_nsec() as u64 / 1_000_000;
    let mut source = source(&path);
    source.processed(source.read(written_ms + 1).unwrap().seen);
    assert!(!source.may_differ(written_ms + 1).unwrap(), "its head is the same");
    // Another write in the same tick: same length, same times.
    fs::write(&path, "two").unwrap();
    let mut seen = source.read(written_ms + 1).unwrap().seen;
    seen.head = Digest::of(b"one").0;
    source.processed(seen);
    assert!(source.may_differ(written_ms + 1).unwrap(), "its head is another");
    seen.fresh = false;
    source.processed(seen);
    assert!(!source.may_differ(written_ms + 1).unwrap(), "times that prove it are believed");
}

#[test]
fn a_directory_holds_one() {
    let dir = tempfile::tempdir().unwrap();
    let source = source(dir.path());
    let missing = source.read(LATER).unwrap_err();
    assert_eq!(missing.reason(), "missing");
    fs::write(dir.path().join("a.kgt"), "a").unwrap();
    fs::write(dir.path().join(".b.kgt"), "temporary").unwrap();
    fs::write(dir.path().join("p.kgp"), "patch").unwrap();
    assert_eq!(source.read(LATER).unwrap().bytes[..], *b"a");
    fs::write(dir.path().join("b.kgt"), "b").unwrap();
    let several = source.read(LATER).unwrap_err();
    assert_eq!(several.reason(), "several");
    assert!(several.to_string().contains("holds 2 files"), "{several}");
}

#[test]
fn what_is_no_file_or_too_long_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let long = dir.path().join("long");
    fs::write(&long, [0; 1001]).unwrap();
    assert_eq!(source(&long).read(LATER).unwrap_err().reason(), "too_large");
    fs::write(&long, [0; 1000]).unwrap();
    assert_eq!(source(&long).read(LATER).unwrap().bytes.len(), 1000);
    assert_eq!(source(Path::new("/dev/null")).read(LATER).unwrap_err().reason(), "not_regular");
    let absent = source(&dir.path().join("absent")).read(LATER).unwrap_err();
    assert_eq!(absent.reason(), "missing");
    let pipe = dir.path().join("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    // Must not wait for a writer.
    assert_eq!(source(&pipe).read(LATER).unwrap_err().reason(), "not_regular");
}

#[test]
fn every_reason_is_listed() {
    assert!(SourceError::REASONS.is_sorted());
    assert!(SourceError::REASONS.contains(&SourceError::Changing.reason()));
}
