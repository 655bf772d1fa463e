//! What the builder refuses, and what happens when the disk is full.

use std::cell::Cell;
use std::io::{self, Cursor, Read, Seek, SeekFrom, Write};
use std::rc::Rc;

use crate::core::{Digest, KeySpec};
use crate::table::testkit::*;
use crate::table::write::{BodyBuilder, BuildError, Draft, InMemory, SealError, Spool};
use crate::table::*;

fn refusal(specs: &[KeySpec]) -> String {
    let mut builder = BodyBuilder::new(InMemory, 1 << 20);
    let built = specs
        .iter()
        .try_for_each(|spec| builder.push(spec))
        .and_then(|()| builder.finish().map(|_| ()));
    built.map_or_else(|e| e.to_string(), |()| "built".into())
}

#[test]
fn keys_that_make_no_table() {
    let edited = |spec: KeySpec, edit: &dyn Fn(&mut KeySpec)| {
        let mut spec = spec;
        edit(&mut spec);
        spec
    };
    let (one, two) = (spec(1), pair_spec(2));
    let second = edited(two.clone(), &|s| s.digest = spec(77).digest);
    let third = edited(two.clone(), &|s| s.digest = spec(78).digest);
    let cases: [(&str, Vec<KeySpec>, &str); 13] = [
        (
            "one digest",
            vec![one.clone(), edited(spec(3), &|s| s.digest = spec(1).digest)],
            "one digest",
        ),
        ("one id", vec![one.clone(), edited(spec(3), &|s| s.id = spec(1).id)], "id of two keys"),
        ("a pair's id", vec![two.clone(), edited(spec(3), &|s| s.id = two.id)], "id of two keys"),
        (
            "one public id",
            vec![two.clone(), edited(pair_spec(3), &|s| s.public_id = pair_spec(2).public_id)],
            "one public id",
        ),
        ("a rotation", vec![two.clone(), second.clone()], "built"),
        ("a third secret", vec![two.clone(), second, third], "at most two secrets"),
        ("late expiry", vec![edited(one.clone(), &|s| s.expires = Some(1 << 32))], "2106"),
        (
            "latest expiry",
            vec![edited(one.clone(), &|s| s.expires = Some(u32::MAX.into()))],
            "built",
        ),
        ("long name", vec![edited(one.clone(), &|s| s.name = "x".repeat(201).into())], "200 bytes"),
        ("line feed", vec![edited(one.clone(), &|s| s.name = "a\nb".into())], "control"),
        ("pair without id", vec![edited(two.clone(), &|s| s.public_id = None)], "public id"),
        (
            "single with id",
            vec![edited(one.clone(), &|s| s.public_id = Some("x".into()))],
            "public id",
        ),
        (
            "space in an id",
            vec![edited(two, &|s| s.public_id = Some("a b".into()))],
            "visible ASCII",
        ),
    ];
    for (name, specs, want) in cases {
        let said = refusal(&specs);
        assert!(said.contains(want), "{name}: {said}");
    }
}

#[test]
fn expired_at_the_epoch_is_not_never() {
    let mut old = spec(1);
    old.expires = Some(0);
    let set = KeySet::new(std::sync::Arc::new(table(1, &[old])), None, &[], None);
    assert_eq!(set.iter().next().unwrap().view.expires, Some(1));
}

/// A disk with this many bytes left.
struct Full(Rc<Cell<u64>>);

struct Nearly {
    left: Rc<Cell<u64>>,
    file: Cursor<Vec<u8>>,
}

impl Spool for Full {
    type File = Nearly;

    fn fresh(&mut self) -> io::Result<Nearly> {
        Ok(Nearly { left: self.0.clone(), file: Cursor::default() })
    }
}

impl Write for Nearly {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.left.get().checked_sub(bytes.len() as u64) {
            Some(left) => self.left.set(left),
            None => return Err(io::ErrorKind::StorageFull.into()),
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Nearly {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.file.read(bytes)
    }
}

impl Seek for Nearly {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

#[test]
fn a_full_disk_ends_the_build_wherever_it_strikes() {
    let build = |bytes: u64| {
        let left = Rc::new(Cell::new(bytes));
        let mut builder = BodyBuilder::with_memory(Full(left.clone()), 4096);
        let built = (0..200).try_for_each(|n| builder.push(&pair_spec(n)));
        (built.and_then(|()| builder.finish().map(|body| body.keys())), bytes - left.get())
    };
    let (done, needed) = build(u64::MAX);
    assert!(matches!(done, Ok(200)));
    for bytes in (0..needed).step_by(needed as usize / 50) {
        let (refused, _) = build(bytes);
        assert!(matches!(refused, Err(BuildError::Io(_))), "{bytes} of {needed} bytes");
    }
}

#[test]
fn a_file_is_signed_later_and_elsewhere() {
    let (one, two) = (Signer::new(1), Signer::new(2));
    let unsigned = table_file(&[spec(1)], issue(3, &[&one, &two]), &[]);
    let both = Trust::new([one.key, two.key], 2, AUDIENCE).unwrap();
    let mut file = unsigned;
    for signer in [&two, &one] {
        assert!(Table::open(file.clone(), &both, &Bounds::default()).is_err());
        let mut draft = Draft::read(Cursor::new(file)).unwrap();
        let signature = signer.sign(draft.message());
        draft.attach(&signer.key, &signature).unwrap();
        file = Vec::new();
        draft.write(&mut file).unwrap();
    }
    assert!(Table::open(file.clone(), &both, &Bounds::default()).is_ok());
    // The message is the beginning of the file, as `openssl pkeyutl -rawin` would get it.
    let draft = Draft::read(Cursor::new(file.clone())).unwrap();
    assert!(file.starts_with(draft.message()));
    assert_eq!(draft.signed_by().count(), 2);
    // Nobody is asked to sign a damaged body.
    let last = file.len() - 1;
    file[last] ^= 1;
    assert!(matches!(Draft::read(Cursor::new(file)), Err(SealError::Refused(Refusal::BodyHash))));
}

#[test]
fn what_readers_would_refuse_is_not_drafted() {
    let bad = Issue { includes_through: 4, ..issue(3, &[]) };
    assert!(body(&[spec(1)]).into_table(bad).is_err());
    let long = Issue { audience: "x".repeat(5000).into(), ..issue(3, &[]) };
    assert!(body(&[spec(1)]).into_table(long).is_err());
}

#[test]
fn debug_shows_no_digest() {
    let table = table(1, &[spec(1)]);
    let hex = BodyHash(Digest::of(&1u32.to_le_bytes()).0).to_string();
    let shown = format!("{table:?} {:?}", spec(1));
    assert!(!shown.contains(&hex[..8]), "{shown}");
}
