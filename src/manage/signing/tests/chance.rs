//! Signed files by chance, and sidecars that are given some of them in any order.

use std::collections::HashSet;
use std::ops::Range;

use super::given::{Sidecar, Signed, sign, table_of};
use super::*;
use crate::core::{Digest, Environment, KeyKind};
use crate::table::write::RemovalOf;

/// Whether second secrets of pairs come and go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rotates {
    Nothing,
    Pairs,
}

struct Dice(u64);

// === impl Dice ===

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides
    }
}

const KEYS: u32 = 8;

/// Histories of an audience; each is made by its number.
const WORLDS: Range<u64> = 1..40;

/// What takes minutes.
const MANY_WORLDS: Range<u64> = 1..400;

fn original(n: u32) -> KeySpec {
    let mut key = if n.is_multiple_of(2) { spec(n) } else { pair_spec(n) };
    key.grant.environment = None;
    key
}

fn second(n: u32) -> KeySpec {
    KeySpec { digest: Digest::of(format!("second {n}").as_bytes()), ..original(n) }
}

/// What somebody makes of a key. `None`: it is gone.
fn changed(dice: &mut Dice, n: u32, now_ms: u64) -> Vec<KeySpec> {
    let mut key = original(n);
    let now = now_ms / 1000;
    match dice.roll(11) {
        0 | 1 => return Vec::new(),
        2 => key.grant.status = KeyStatus::Disabled,
        3 => key.grant.status = KeyStatus::Revoked,
        4 => key.expires = Some(now + 3600 * (1 + dice.roll(20))),
        5 => key.expires = Some(now + 86_400 * 5),
        6 => key.grant.not_before = Some(now + 3600 * (1 + dice.roll(20))),
        7 => key.grant.kind = KeyKind::Single,
        8 => key.id = spec(n + 100).id,
        9 => key.grant.environment = Some(Environment::Live),
        10 => key.grant.environment = Some(Environment::Test),
        _ => {}
    }
    if key.grant.kind == KeyKind::Single {
        key.public_id = None;
    }
    vec![key]
}

/// What somebody makes of all keys.
fn edited(dice: &mut Dice, now_ms: u64, rotates: Rotates) -> Vec<KeySpec> {
    let mut keys: Vec<_> = (0..KEYS).map(original).collect();
    for _ in 0..dice.roll(5) {
        let n = u32::try_from(dice.roll(u64::from(KEYS))).unwrap();
        let is_of = |key: &KeySpec| [original(n).digest, second(n).digest].contains(&key.digest);
        keys.retain(|key| !is_of(key));
        let of_key = changed(dice, n, now_ms);
        // A pair in rotation has one id.
        let is_pair = of_key.iter().all(|key| key.id == original(n).id && key.public_id.is_some());
        if rotates == Rotates::Pairs && is_pair && !n.is_multiple_of(2) && dice.roll(2) == 0 {
            keys.push(second(n));
        }
        keys.extend(of_key);
    }
    keys
}

/// A patch over one of the last tables, which may end secrets that nobody has.
fn patch_by(
    dice: &mut Dice,
    house: &House,
    tables: &[Table],
    serial: u64,
    keys: Vec<KeySpec>,
) -> Option<Paper> {
    let back = usize::try_from(dice.roll(tables.len().min(3) as u64)).unwrap();
    let mut draft = PatchDraft::difference(&tables[tables.len() - 1 - back], keys);
    if dice.roll(2) == 0 {
        let n = u32::try_from(dice.roll(u64::from(KEYS))).unwrap();
        let of = if dice.roll(2) == 0 { RemovalOf::Key } else { RemovalOf::Secret };
        draft.remove(Digest::of(format!("nobody's {n}").as_bytes()), spec(n).id, of);
    }
    draft.build(house.issue(serial)).ok().map(Paper)
}

/// Files that a signer has signed, and the time after the last of them.
fn signed(dice: &mut Dice, rotates: Rotates) -> (Vec<(String, Signed)>, House, u64) {
    let house = House::new();
    let mut keeper = house.keeper();
    let originals: Vec<_> = (0..KEYS).map(original).collect();
    let mut first = table_of(&house, 1, 1, &originals);
    let mut files =
        vec![("table 1".to_owned(), sign(&house, &mut keeper, &mut first, NOW).unwrap())];
    let mut tables = vec![first.opened()];
    let (mut now, mut includes) = (NOW, 1u64);
    for serial in 2..6 + dice.roll(10) {
        now += dice.roll(3) * dice.roll(3) * 1_700_000;
        let keys = edited(dice, now, rotates);
        let is_table = dice.roll(3) == 0;
        let paper = match is_table {
            true => {
                let through = includes + dice.roll(serial - includes + 1);
                Some(table_of(&house, serial, through, &keys))
            }
            false => patch_by(dice, &house, &tables, serial, keys),
        };
        let Some(mut paper) = paper else { continue };
        let Ok(file) = sign(&house, &mut keeper, &mut paper, now) else { continue };
        if is_table {
            includes = paper.0.manifest().includes_through;
            tables.push(paper.opened());
        }
        files.push((format!("{:?}", paper.0.manifest()), file));
        if dice.roll(6) == 0 {
            drop(keeper);
            keeper = house.keeper();
        }
    }
    (files, house, now)
}

/// The secrets that a sidecar takes, as whichever kind they are stated.
fn taken_by(sidecar: &Sidecar, now: u64) -> HashSet<(u32, Digest)> {
    let all = (0..KEYS).flat_map(|n| [(n, original(n)), (n, second(n))]);
    let taken = all.filter(|(_, key)| {
        let single = KeySpec { public_id: None, ..key.clone() };
        sidecar.takes(key, now) || sidecar.takes(&single, now)
    });
    taken.map(|(n, key)| (n, key.digest)).collect()
}

/// What came of a history: a test that no file reaches shows nothing.
#[derive(Clone, Copy, Debug, Default)]
struct Played {
    /// Files that were signed after the first table.
    signed: usize,
    /// Sidecars that took keys, and that refused some of them later.
    took: usize,
    refused: usize,
}

/// Gives sidecars some of the files of a history in any order; what was given to one that refuses most of
/// what it took.
fn harmed(seed: u64, rotates: Rotates, played: &mut Played) -> Option<String> {
    let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) + 1);
    for _ in 0..20 {
        dice.roll(2);
    }
    let (files, house, now) = signed(&mut dice, rotates);
    played.signed += files.len() - 1;
    for n in 0..150 {
        let environment = [None, Some(Environment::Live), Some(Environment::Test)][n % 3];
        let mut sidecar = Sidecar::of(&house, environment);
        let (mut taken, mut told) = (HashSet::new(), Vec::new());
        let mut takes = HashSet::new();
        for _ in 0..7 {
            let (what, file) = &files[usize::try_from(dice.roll(files.len() as u64)).unwrap()];
            told.push(format!("{what} -> {}", sidecar.offer(file, now)));
            takes = taken_by(&sidecar, now);
            taken.extend(takes.iter().copied());
            let keys =
                |of: &HashSet<(u32, Digest)>| of.iter().map(|(n, _)| *n).collect::<HashSet<_>>();
            let most = KEYS as usize / 2;
            let is_harmed = match rotates {
                Rotates::Nothing => taken.difference(&takes).count() > most,
                // A secret counts, and a pair in rotation has two: half of the secrets, twice.
                Rotates::Pairs => keys(&taken).len() > most && keys(&takes).len() * 2 < most,
            };
            if is_harmed {
                let takes = takes.len();
                return Some(format!(
                    "{seed}: {} were taken, {takes} are, {environment:?}\n{}",
                    taken.len(),
                    told.join("\n")
                ));
            }
        }
        played.took += usize::from(!taken.is_empty());
        played.refused += usize::from(taken.len() > takes.len());
    }
    None
}

fn nobody_is_harmed(worlds: Range<u64>, rotates: Rotates) {
    let mut played = Played::default();
    let harmed: Vec<_> =
        worlds.clone().filter_map(|seed| harmed(seed, rotates, &mut played)).collect();
    let shortest = harmed.iter().min_by_key(|told| told.len());
    assert!(
        harmed.is_empty(),
        "{} of {worlds:?}; the shortest:\n{}",
        harmed.len(),
        shortest.unwrap()
    );
    let worlds = worlds.count();
    assert!(played.signed > 2 * worlds, "{played:?}");
    assert!(played.took > 100 * worlds && played.refused > 20 * worlds, "{played:?}");
}

/// Status, spans, ids, kinds and environments.
#[test]
fn no_order_ends_most_keys() {
    nobody_is_harmed(WORLDS, Rotates::Nothing);
}

#[test]
fn no_order_ends_most_pairs_in_rotation() {
    nobody_is_harmed(WORLDS, Rotates::Pairs);
}

#[test]
#[ignore = "takes minutes: `make test-admin-full`"]
fn no_order_ends_most_keys_in_many_rounds() {
    nobody_is_harmed(MANY_WORLDS, Rotates::Nothing);
    nobody_is_harmed(MANY_WORLDS, Rotates::Pairs);
}
