//! The signer behind its socket: what it signs, what it refuses, what it survives, and how it
//! treats intruders.

mod attacks;
mod chance;
mod given;
mod kept;
mod later;
mod words;

use std::fs;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use std::result::Result;
use std::sync::Arc;

use tempfile::TempDir;

use super::ask::{ask_checkpoint, ask_file, ask_key};
use super::keeper::{KeeperTerms, SigningKeeper};
use super::ledger::HIGH_WATER;
use super::rules::SigningRules;
use super::wire::AskedCheckpoint;
use super::*;
use crate::core::{KeySpec, KeyStatus};
use crate::manage::output::Output;
use crate::manage::signer::signs::{SignFault, SigningReason, SigningRefusal, UnsignedFile as _};
use crate::manage::signer::{Signer, table_key};
use crate::table::testkit::{body, body_in, issue, pair_spec, spec};
use crate::table::write::{Draft, PatchDraft};
use crate::table::{Acknowledge, Bounds, Buffer, Issue, PublicKey, Table, TableFormat, Trust};

type Signed = Result<[u8; 64], SigningReason>;

/// A signer's host: key, state, and a manual clock.
struct House {
    root: TempDir,
    public: PublicKey,
}

/// An unsigned file.
struct Paper(Draft<Cursor<Vec<u8>>>);

// === impl House ===

impl House {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let key = root.path().join("signer.pem");
        crate::manage::signer::new(&key, None, &mut Output::sink()).unwrap();
        let public = table_key(Signer::load(&key).unwrap().public()).unwrap();
        Self { root, public }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn terms(&self) -> KeeperTerms {
        let (key, state) = (self.path("signer.pem"), self.root.path());
        testkit::keeper_terms(&key, state, crate::table::testkit::AUDIENCE)
    }

    fn keeper(&self) -> SigningKeeper {
        SigningKeeper::open(self.terms()).unwrap()
    }

    /// Behind a socket, for this user.
    fn desk(&self) -> PathBuf {
        self.desk_for(vec![testkit::us()])
    }

    fn desk_for(&self, uids: Vec<u32>) -> PathBuf {
        testkit::desk(self.terms(), self.path("signer.sock"), uids)
    }

    fn issue(&self, serial: u64) -> Issue {
        let acknowledge = vec![Acknowledge::Empty, Acknowledge::Shrink];
        Issue { signers: vec![self.public.id()], acknowledge, ..issue(serial, &[]) }
    }

    /// A table with the named keys.
    fn table(&self, serial: u64, keys: std::ops::Range<u32>) -> Paper {
        let specs: Vec<_> = keys.map(spec).collect();
        Paper(body(&specs).into_table(self.issue(serial)).unwrap())
    }

    /// A patch over a table that leaves exactly the named keys.
    fn patch(&self, serial: u64, over: &mut Paper, keys: std::ops::Range<u32>) -> Paper {
        let table = over.opened();
        let draft = PatchDraft::difference(&table, keys.map(spec));
        Paper(draft.build(self.issue(serial)).unwrap())
    }

    fn allow(&self, pass: AllowedPass, until_ms: u64) {
        Allowance { pass, until_ms, by: "kim".into() }.give(self.root.path()).unwrap();
    }
}

// === impl Paper ===

impl Paper {
    fn bytes(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.0.write_to(&mut bytes).unwrap();
        assert_eq!(bytes.len() as u64, self.0.file_bytes());
        bytes
    }

    fn opened(&mut self) -> Table {
        Table::open(self.bytes(), &Trust::for_inspection(), &Bounds::default()).unwrap()
    }

    /// Straight to the key, without a socket.
    fn by(&mut self, keeper: &mut SigningKeeper) -> Signed {
        let made = keeper.sign_file(Buffer::from(self.bytes()), NOW);
        made.map(|made| made.bytes).map_err(|refusal| refusal.reason)
    }
}

/// When the tests take place: after every manifest's time, in milliseconds.
const NOW: u64 = 2_000_000;

fn fall(least: u64) -> AllowedPass {
    AllowedPass::Fall { audience: crate::table::testkit::AUDIENCE.into(), least }
}

fn reason(fault: SignFault) -> SigningReason {
    match fault {
        SignFault::Refused(SigningRefusal { reason, .. }) => reason,
        SignFault::Away(why) => panic!("away: {why}"),
    }
}

/// A publisher's day: a table, patches, a new table, an answer that got lost.
#[test]
fn what_goes_forward_is_signed_and_verifies() {
    let house = House::new();
    let socket = house.desk();
    assert_eq!(ask_key(&socket).unwrap(), *house.public.as_bytes());
    let (mut first, mut second) = (house.table(3, 0..10), house.table(7, 0..12));
    let mut patches = [
        house.patch(4, &mut first, 0..11),
        house.patch(5, &mut first, 1..12),
        house.patch(8, &mut second, 1..12),
    ];
    let [one, two, three] = &mut patches;
    for paper in [&mut first, one, two, &mut second, three] {
        let signature = ask_file(&socket, &mut paper.0).unwrap();
        assert!(house.public.verify(paper.0.message(), &signature));
        let again = ask_file(&socket, &mut paper.0).unwrap();
        assert_eq!(signature, again, "an answer that was lost");
        paper.0.attach(&house.public, &signature).unwrap();
    }
    let kept: Vec<_> = fs::read_dir(house.root.path()).unwrap().flatten().collect();
    let tables = kept.iter().filter(|entry| entry.path().extension().is_some_and(|e| e == "kgt"));
    assert_eq!(tables.count(), 2, "the table in force, and the one before");
}

/// At the key itself: only what is on the disk counts.
#[test]
fn the_high_water_mark_survives_a_restart() {
    let house = House::new();
    let mut table = house.table(3, 0..10);
    let mut patch = house.patch(4, &mut table, 0..11);
    let mut other = house.table(4, 0..10);
    let mut keeper = house.keeper();
    let signature = table.by(&mut keeper).unwrap();
    patch.by(&mut keeper).unwrap();
    drop(keeper);
    let mut keeper = house.keeper();
    assert_eq!(keeper.serial("test"), 4);
    assert_eq!(other.by(&mut keeper), Err(SigningReason::OtherContent));
    assert_eq!(table.by(&mut keeper), Err(SigningReason::Serial));
    patch.by(&mut keeper).unwrap();
    // The table is on the disk as well: after a restart, a patch over it is still judged.
    house.patch(5, &mut table, 0..9).by(&mut keeper).unwrap();
    assert_eq!(house.patch(6, &mut table, 0..4).by(&mut keeper), Err(SigningReason::Brake));
    assert!(house.public.verify(table.0.message(), &signature));
}

/// The power fails between the note on the disk and the answer. The question is asked again, and
/// nothing else is signed with its serial.
#[test]
fn a_power_cut_before_the_answer_loses_nothing() {
    let house = House::new();
    let mut table = house.table(3, 0..10);
    let mut other = house.table(3, 0..11);
    // As a service makes them: it has every change up to the last serial before its own.
    let mut behind = given::table_of(&house, 2, 1, &(0..10).map(spec).collect::<Vec<_>>());
    // Nobody has seen these signatures.
    for paper in [&mut behind, &mut table] {
        let lost = paper.by(&mut house.keeper()).unwrap();
        assert_eq!(paper.by(&mut house.keeper()), Ok(lost), "asked again");
    }
    let mut keeper = house.keeper();
    assert_eq!(other.by(&mut keeper), Err(SigningReason::OtherContent));
    let signature = table.by(&mut keeper).unwrap();
    assert!(house.public.verify(table.0.message(), &signature));
    drop(keeper);
    // The other way round: if nothing can be noted, nothing is signed.
    let mut next = house.table(4, 0..10);
    let mut keeper = house.keeper();
    let note = house.path(HIGH_WATER);
    let before = fs::read(&note).unwrap();
    fs::remove_file(&note).unwrap();
    fs::create_dir(&note).unwrap();
    fs::write(note.join("x"), "in the way").unwrap();
    assert_eq!(next.by(&mut keeper), Err(SigningReason::Unavailable));
    fs::remove_dir_all(&note).unwrap();
    fs::write(&note, before).unwrap();
    next.by(&mut keeper).unwrap();
}

#[test]
fn a_fall_needs_a_word_on_the_host_that_is_good_once() {
    let house = House::new();
    let mut keeper = house.keeper();
    let mut table = house.table(3, 0..10);
    table.by(&mut keeper).unwrap();
    let mut serial = 3;
    let mut patch = |keeper: &mut SigningKeeper, left: u32| {
        serial += 1;
        house.patch(serial, &mut table, 0..left).by(keeper)
    };
    assert_eq!(patch(&mut keeper, 0), Err(SigningReason::Brake));
    assert_eq!(patch(&mut keeper, 4), Err(SigningReason::Brake));
    house.allow(fall(5), NOW + 1);
    assert_eq!(patch(&mut keeper, 4), Err(SigningReason::Brake), "fewer than was said");
    house.allow(fall(4), NOW - 1);
    assert_eq!(patch(&mut keeper, 4), Err(SigningReason::Brake), "too late");
    house.allow(fall(4), NOW);
    patch(&mut keeper, 4).unwrap();
    assert_eq!(patch(&mut keeper, 1), Err(SigningReason::Brake), "used up");
    patch(&mut keeper, 3).unwrap();
    house.allow(fall(0), NOW);
    patch(&mut keeper, 0).unwrap();
    patch(&mut keeper, 0).unwrap();
    // Revoked keys count as gone.
    patch(&mut keeper, 9).unwrap();
    let revoked = |n: u32| {
        let mut gone = spec(n);
        gone.grant.status = KeyStatus::Revoked;
        gone
    };
    let specs: Vec<KeySpec> = (0..10).map(revoked).collect();
    let mut revoking =
        Paper(PatchDraft::difference(&table.opened(), specs).build(house.issue(90)).unwrap());
    assert_eq!(revoking.by(&mut keeper), Err(SigningReason::Brake));
}

/// A patch over an older table with many more keys: sidecars that have the newer table obey the
/// ends in it all the same.
#[test]
fn a_patch_over_the_former_table_does_not_empty_the_newer() {
    let house = House::new();
    let mut keeper = house.keeper();
    let (mut wide, mut now) = (house.table(3, 0..40), house.table(5, 0..10));
    wide.by(&mut keeper).unwrap();
    house.patch(4, &mut wide, 0..39).by(&mut keeper).unwrap();
    house.allow(fall(1), NOW);
    now.by(&mut keeper).unwrap();
    let ends_the_ten = house.patch(6, &mut wide, 10..40);
    let Paper(mut draft) = ends_the_ten;
    let mut bytes = Vec::new();
    draft.write_to(&mut bytes).unwrap();
    let refusal = keeper.sign_file(Buffer::from(bytes), NOW).unwrap_err();
    assert_eq!(refusal.reason, SigningReason::Brake, "{refusal}");
}

/// Two instances of a service ask at the same time: each serial gets one content, whichever comes
/// first.
#[test]
fn two_who_ask_at_once_get_one_content_each_serial() {
    let house = House::new();
    let socket: Arc<Path> = house.desk().into();
    let mut first = house.table(1, 0..10);
    ask_file(&socket, &mut first.0).unwrap();
    let mut hands = Vec::new();
    for hand in 0..2u32 {
        let papers: Vec<_> =
            (2..12).map(|serial| house.patch(serial, &mut first, hand..10 + hand)).collect();
        let socket = Arc::clone(&socket);
        hands.push(std::thread::spawn(move || {
            let signed = papers.into_iter().map(|Paper(mut draft)| {
                let serial = draft.manifest().serial;
                ask_file(&socket, &mut draft).ok().map(|_| serial)
            });
            signed.flatten().collect::<Vec<_>>()
        }));
    }
    let mut all: Vec<_> = hands.into_iter().flat_map(|hand| hand.join().unwrap()).collect();
    all.sort_unstable();
    assert!(all.windows(2).all(|pair| pair[0] < pair[1]), "a serial was signed twice: {all:?}");
    assert_eq!(all.last(), Some(&11));
}
