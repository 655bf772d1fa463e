//! What an attacker in control of the service does with files that the signer has signed: a sidecar
//! built from the crate's own parts gets some of them, in an order of the attacker's choice.

use super::*;
use crate::core::{Digest, Environment, KeyLookup, Now, PairLookup};
use crate::table::write::RemovalOf;
use crate::table::{AcceptRules, Acceptance, FileKind, Manifest, Patch};

/// A signed file.
pub(super) type Signed = Vec<u8>;

pub(super) struct Sidecar {
    acceptance: Acceptance,
    trust: Trust,
    environment: Option<Environment>,
}

impl Sidecar {
    pub(super) fn new(house: &House) -> Self {
        let trust = Trust::new([house.public], 1, crate::table::testkit::AUDIENCE).unwrap();
        Self { acceptance: Acceptance::new(AcceptRules::default()), trust, environment: None }
    }

    pub(super) fn of(house: &House, environment: Option<Environment>) -> Self {
        Self { environment, ..Self::new(house) }
    }

    pub(super) fn offer(&mut self, file: &Signed, now_ms: u64) -> String {
        let now = Now { unix_ms: now_ms, mono_ns: 0 };
        let (trust, bounds) = (&self.trust, Bounds::default());
        let outcome = match Manifest::unverified(file).unwrap().kind {
            FileKind::Table => {
                let table = Table::open(file.clone(), trust, &bounds).unwrap();
                self.acceptance.offer_table(Arc::new(table), now)
            }
            FileKind::Patch => {
                let patch = Patch::open(file.clone(), trust, &bounds).unwrap();
                self.acceptance.offer_patch(Arc::new(patch), now)
            }
        };
        format!("{outcome:?}")
    }

    pub(super) fn takes(&self, key: &KeySpec, now_ms: u64) -> bool {
        let Some(set) = self.acceptance.current() else { return false };
        let view = match &key.public_id {
            None => set.single(&key.digest),
            Some(id) => match set.pair(id.as_bytes(), &key.digest) {
                PairLookup::Found(view) => Some(view),
                _ => None,
            },
        };
        let now = now_ms / 1000;
        view.is_some_and(|view| {
            view.grant.status == KeyStatus::Active
                && view.grant.not_before.is_none_or(|at| at <= now)
                && view.expires.is_none_or(|at| at > now)
                && (self.environment.is_none()
                    || view.grant.environment.is_none()
                    || view.grant.environment == self.environment)
        })
    }

    pub(super) fn count(&self, keys: &[KeySpec], now_ms: u64) -> usize {
        keys.iter().filter(|key| self.takes(key, now_ms)).count()
    }
}

pub(super) fn sign(
    house: &House,
    keeper: &mut SigningKeeper,
    paper: &mut Paper,
    now_ms: u64,
) -> Result<Signed, SigningRefusal> {
    let made = keeper.sign_file(Buffer::from(paper.bytes()), now_ms)?;
    paper.0.attach(&house.public, &made.bytes).unwrap();
    let mut bytes = Vec::new();
    paper.0.write(&mut bytes).unwrap();
    Ok(bytes)
}

pub(super) fn table_of(house: &House, serial: u64, includes: u64, specs: &[KeySpec]) -> Paper {
    let issue = Issue { includes_through: includes, ..house.issue(serial) };
    Paper(body(specs).into_table(issue).unwrap())
}

pub(super) fn patch_of(
    house: &House,
    serial: u64,
    over: &Table,
    draft: impl FnOnce(&mut PatchDraft),
) -> Paper {
    let mut patch = PatchDraft::over(over);
    draft(&mut patch);
    Paper(patch.build(house.issue(serial)).unwrap())
}

pub(super) fn specs(keys: std::ops::Range<u32>, change: impl Fn(&mut KeySpec)) -> Vec<KeySpec> {
    keys.map(|n| {
        let mut spec = spec(n);
        change(&mut spec);
        spec
    })
    .collect()
}

/// What was signed; `None`: it was refused, for exactly this reason.
pub(super) fn unless(
    meant: SigningReason,
    signed: Result<Signed, SigningRefusal>,
) -> Option<Signed> {
    match signed {
        Ok(signed) => Some(signed),
        Err(refusal) if refusal.reason == meant => None,
        Err(refusal) => panic!("{}: {refusal}", refusal.reason.as_str()),
    }
}

/// The end of an attack: how many keys a sidecar accepted before and accepts now. Fails if most are
/// refused.
pub(super) fn most_stay(what: &str, before: usize, after: usize) {
    assert!(after * 2 >= before, "{what}: {before} keys were taken, and {after} are");
}

/// Every pair keeps its id and secret, and gets another public id.
#[test]
fn public_ids_that_callers_do_not_know_count() {
    let house = House::new();
    let mut keeper = house.keeper();
    let pairs: Vec<_> = (0..100).map(pair_spec).collect();
    let mut first = table_of(&house, 1, 1, &pairs);
    let first = sign(&house, &mut keeper, &mut first, NOW).unwrap();
    let mut sidecar = Sidecar::new(&house);
    sidecar.offer(&first, NOW);
    let before = sidecar.count(&pairs, NOW);
    let renamed: Vec<_> = (0..100u32)
        .map(|n| KeySpec { public_id: Some(format!("x-{n}").into()), ..pair_spec(n) })
        .collect();
    let mut second = table_of(&house, 2, 2, &renamed);
    let signed = sign(&house, &mut keeper, &mut second, NOW);
    let Some(second) = unless(SigningReason::Brake, signed) else { return };
    sidecar.offer(&second, NOW);
    most_stay("other public ids", before, sidecar.count(&pairs, NOW));
}

/// After an honest rotation of all keys: a table that lags behind the patch that rotated them. The
/// sidecar continues to hold the patch, which restricts the successors by the keys' ids.
#[test]
fn a_table_that_lags_behind_a_rotation() {
    let house = House::new();
    let mut keeper = house.keeper();
    let (hour, at) = (3_600_000, |n: u64| NOW + n * 3_600_000);
    let pairs: Vec<_> = (0..100).map(pair_spec).collect();
    let mut first = table_of(&house, 1, 1, &pairs);
    let signed_first = sign(&house, &mut keeper, &mut first, NOW).unwrap();
    let base = first.opened();
    let former = |n: u32| KeySpec { expires: Some((NOW + hour) / 1000), ..pair_spec(n) };
    let successor =
        |n: u32| KeySpec { digest: Digest::of(format!("s {n}").as_bytes()), ..pair_spec(n) };
    let successors: Vec<_> = (0..100).map(successor).collect();
    let mut rotating = patch_of(&house, 2, &base, |draft| {
        (0..100).for_each(|n| draft.put(former(n)));
        (0..100).for_each(|n| draft.put(successor(n)));
    });
    let rotating = sign(&house, &mut keeper, &mut rotating, NOW).unwrap();
    let mut sidecar = Sidecar::new(&house);
    sidecar.offer(&signed_first, NOW);
    sidecar.offer(&rotating, NOW);
    let before = sidecar.count(&successors, at(2));
    // The keys that exist by then: only the successors. It says that it knows of nothing after the
    // first.
    let mut lagging = table_of(&house, 3, 1, &successors);
    let signed = sign(&house, &mut keeper, &mut lagging, at(2));
    let Some(lagging) = unless(SigningReason::Stale, signed) else { return };
    sidecar.offer(&lagging, at(2));
    most_stay("a rotation", before, sidecar.count(&successors, at(2)));
}

/// A patch removes secrets that nobody has yet. Then the keys are made, and a table that lags behind
/// that patch makes the sidecar hold it.
#[test]
fn an_end_that_is_signed_before_the_key_is_there() {
    let house = House::new();
    let mut keeper = house.keeper();
    let mut first = house.table(1, 0..10);
    let signed_first = sign(&house, &mut keeper, &mut first, NOW).unwrap();
    let base = first.opened();
    let mut before_all = patch_of(&house, 2, &base, |draft| {
        (10..100).for_each(|n| draft.remove(spec(n).digest, spec(n).id, RemovalOf::Key));
    });
    let before_all = sign(&house, &mut keeper, &mut before_all, NOW).unwrap();
    // Owners make ninety keys.
    let all: Vec<_> = (0..100).map(spec).collect();
    let made = sign(&house, &mut keeper, &mut house.patch(3, &mut first, 0..100), NOW).unwrap();
    let mut sidecar = Sidecar::new(&house);
    sidecar.offer(&signed_first, NOW);
    sidecar.offer(&made, NOW);
    let before = sidecar.count(&all, NOW);
    let mut lagging = table_of(&house, 4, 1, &all);
    let signed = sign(&house, &mut keeper, &mut lagging, NOW);
    let Some(lagging) = unless(SigningReason::Stale, signed) else { return };
    sidecar.offer(&lagging, NOW);
    sidecar.offer(&before_all, NOW);
    most_stay("keys that were not there yet", before, sidecar.count(&all, NOW));
}

/// Keys with an end are renewed before it. A patch that states the former end, which did not count
/// as an end then, is held over a table that lags behind it.
#[test]
fn a_renewal_that_an_older_patch_takes_back() {
    let house = House::new();
    let mut keeper = house.keeper();
    let until =
        |days: u64| specs(0..100, move |spec| spec.expires = Some(NOW / 1000 + days * 86_400));
    let mut first = table_of(&house, 1, 1, &until(2));
    let signed_first = sign(&house, &mut keeper, &mut first, NOW).unwrap();
    let base = first.opened();
    let mut states = patch_of(&house, 2, &base, |draft| {
        until(2).into_iter().for_each(|spec| draft.put(spec));
    });
    let states = sign(&house, &mut keeper, &mut states, NOW).unwrap();
    let mut renews = patch_of(&house, 3, &base, |draft| {
        until(90).into_iter().for_each(|spec| draft.put(spec));
    });
    let renews = sign(&house, &mut keeper, &mut renews, NOW + 86_400_000).unwrap();
    let later = NOW + 2 * 86_400_000 + 5 * 3_600_000;
    let mut sidecar = Sidecar::new(&house);
    sidecar.offer(&signed_first, NOW);
    sidecar.offer(&renews, later);
    let before = sidecar.count(&until(90), later);
    let mut lagging = table_of(&house, 4, 1, &until(90));
    let signed = sign(&house, &mut keeper, &mut lagging, later);
    let Some(lagging) = unless(SigningReason::Stale, signed) else { return };
    sidecar.offer(&lagging, later);
    sidecar.offer(&states, later);
    most_stay("renewed keys", before, sidecar.count(&until(90), later));
}

/// Keys that were suspended long ago are resumed. A patch that restricts them was signed while they
/// were suspended, so it did not count as an end.
#[test]
fn what_restricts_a_suspended_key_counts_once_it_is_resumed() {
    let house = House::new();
    let mut keeper = house.keeper();
    let day = 86_400_000;
    let with = |status| {
        specs(0..100, move |spec| {
            if spec.id != super::spec(0).id && spec.id != super::spec(1).id {
                spec.grant.status = status;
            }
        })
    };
    let (off, on) = (with(KeyStatus::Disabled), with(KeyStatus::Active));
    let mut first = table_of(&house, 1, 1, &off);
    let signed_first = sign(&house, &mut keeper, &mut first, NOW).unwrap();
    let base = first.opened();
    let mut restricts = patch_of(&house, 2, &base, |draft| {
        off.iter().for_each(|spec| draft.put(spec.clone()));
    });
    let restricts = sign(&house, &mut keeper, &mut restricts, NOW + day).unwrap();
    let mut resumes = patch_of(&house, 3, &base, |draft| {
        on.iter().for_each(|spec| draft.put(spec.clone()));
    });
    let resumes = sign(&house, &mut keeper, &mut resumes, NOW + 2 * day).unwrap();
    let mut sidecar = Sidecar::new(&house);
    sidecar.offer(&signed_first, NOW);
    sidecar.offer(&resumes, NOW + 2 * day);
    let before = sidecar.count(&on, NOW + 2 * day);
    let mut lagging = table_of(&house, 4, 1, &on);
    let signed = sign(&house, &mut keeper, &mut lagging, NOW + 2 * day);
    let Some(lagging) = unless(SigningReason::Stale, signed) else { return };
    sidecar.offer(&lagging, NOW + 2 * day);
    sidecar.offer(&restricts, NOW + 2 * day);
    most_stay("resumed keys", before, sidecar.count(&on, NOW + 2 * day));
}

/// A third is suspended and resumed. Three days later, fewer than half of the rest are: whether
/// that is a fall depends on exactly what was counted.
#[test]
fn after_days_the_count_is_against_what_was_left() {
    let house = House::new();
    let mut keeper = house.keeper();
    let mut at = 0;
    let mut table = house.table(1, 0..100);
    sign(&house, &mut keeper, &mut table, NOW).unwrap();
    let mut serial = 1;
    let mut patch = |keeper: &mut SigningKeeper, keys: std::ops::Range<u32>, hours: u64| {
        (serial, at) = (serial + 1, NOW + hours * 3_600_000);
        sign(&house, keeper, &mut house.patch(serial, &mut table, keys), at).map(drop)
    };
    patch(&mut keeper, 30..100, 1).unwrap();
    patch(&mut keeper, 0..100, 2).unwrap();
    for day in 1..4 {
        patch(&mut keeper, 0..100, day * 24 + 2).unwrap();
    }
    // 70 never went; 45 of them stay.
    patch(&mut keeper, 0..75, 4 * 24).unwrap();
}

/// The clock jumps ahead while a question is refused, and is set right again: the disk still has what
/// was ended, and memory does not.
#[test]
fn a_clock_that_was_ahead_for_a_moment_loses_nothing() {
    let house = House::new();
    let mut keeper = house.keeper();
    let mut table = house.table(1, 0..100);
    sign(&house, &mut keeper, &mut table, NOW).unwrap();
    sign(&house, &mut keeper, &mut house.patch(2, &mut table, 45..100), NOW).unwrap();
    sign(&house, &mut keeper, &mut house.patch(3, &mut table, 0..100), NOW).unwrap();
    let ahead = NOW + 30 * 86_400_000;
    sign(&house, &mut keeper, &mut house.patch(2, &mut table, 0..100), ahead).unwrap_err();
    let rest = sign(&house, &mut keeper, &mut house.patch(4, &mut table, 0..55), NOW);
    assert!(rest.is_err(), "what the journal has counts");
}

/// A new sidecar was given one half, and gets the other.
#[test]
fn a_new_sidecar_is_given_two_halves() {
    let house = House::new();
    let mut keeper = house.keeper();
    let all: Vec<_> = (0..100).map(spec).collect();
    let mut first = house.table(1, 0..100);
    sign(&house, &mut keeper, &mut first, NOW).unwrap();
    let signed = sign(&house, &mut keeper, &mut house.table(2, 0..50), NOW);
    let Some(half) = unless(SigningReason::Brake, signed) else { return };
    let signed = sign(&house, &mut keeper, &mut house.table(3, 50..100), NOW);
    let Some(other) = unless(SigningReason::Brake, signed) else { return };
    let mut sidecar = Sidecar::new(&house);
    sidecar.offer(&half, NOW);
    let took: Vec<_> = all.iter().filter(|key| sidecar.takes(key, NOW)).cloned().collect();
    sidecar.offer(&other, NOW);
    most_stay("a new sidecar", took.len(), sidecar.count(&took, NOW));
}

/// Most keys are suspended with an allowance, and resumed. Ordinary changes continue without
/// another one.
#[test]
fn after_a_word_ordinary_changes_go_on() {
    for least in [0, 10, 40] {
        let house = House::new();
        let mut keeper = house.keeper();
        let mut table = house.table(1, 0..100);
        sign(&house, &mut keeper, &mut table, NOW).unwrap();
        house.allow(fall(u64::from(least)), NOW);
        sign(&house, &mut keeper, &mut house.patch(2, &mut table, 0..least), NOW).unwrap();
        let mut refused = Vec::new();
        for n in 0..8 {
            // Everything is back, and one more key is made each hour.
            let at = NOW + (n + 1) * 3_600_000;
            let mut patch = house.patch(3 + n, &mut table, 0..100 + n as u32);
            if sign(&house, &mut keeper, &mut patch, at).is_err() {
                refused.push(n);
                house.allow(fall(0), at);
                sign(&house, &mut keeper, &mut patch, at).unwrap();
            }
        }
        assert!(refused.is_empty(), "{least} {refused:?}");
    }
}

/// Keys of one environment; a table that names none, which nobody gets; a patch over it that names
/// the other environment. Held over the first table, it leaves nothing.
#[test]
fn environments_that_meet_over_a_table_that_nobody_gets() {
    let house = House::new();
    let mut keeper = house.keeper();
    let of = |environment| specs(0..100, move |spec| spec.grant.environment = environment);
    let live = of(Some(Environment::Live));
    let mut first = table_of(&house, 1, 1, &live);
    let first = sign(&house, &mut keeper, &mut first, NOW).unwrap();
    let mut sidecar = Sidecar::new(&house);
    sidecar.offer(&first, NOW);
    let before = sidecar.count(&live, NOW);
    let mut second = table_of(&house, 2, 2, &of(None));
    let signed = sign(&house, &mut keeper, &mut second, NOW);
    let Some(_withheld) = unless(SigningReason::Brake, signed) else { return };
    let second = second.opened();
    let mut patch = patch_of(&house, 3, &second, |draft| {
        of(Some(Environment::Test)).into_iter().for_each(|spec| draft.put(spec));
    });
    let signed = sign(&house, &mut keeper, &mut patch, NOW);
    let Some(patch) = unless(SigningReason::Brake, signed) else { return };
    sidecar.offer(&patch, NOW);
    most_stay("another environment", before, sidecar.count(&live, NOW));
}

/// Keys without an environment get one that the sidecar (`environment = "live"`) is not in.
#[test]
fn an_environment_for_keys_that_had_none() {
    let house = House::new();
    let mut keeper = house.keeper();
    let of = |environment| specs(0..100, move |spec| spec.grant.environment = environment);
    let any = of(None);
    let first = sign(&house, &mut keeper, &mut table_of(&house, 1, 1, &any), NOW).unwrap();
    let mut sidecar = Sidecar::of(&house, Some(Environment::Live));
    sidecar.offer(&first, NOW);
    let before = sidecar.count(&any, NOW);
    let mut second = table_of(&house, 2, 2, &of(Some(Environment::Test)));
    let signed = sign(&house, &mut keeper, &mut second, NOW);
    let Some(second) = unless(SigningReason::Brake, signed) else { return };
    sidecar.offer(&second, NOW);
    most_stay("an environment", before, sidecar.count(&any, NOW));
}

/// If the file of the previous table is lost, nobody knows what the next table ends.
#[test]
fn a_lost_table_needs_a_word() {
    let house = House::new();
    house.table(1, 0..100).by(&mut house.keeper()).unwrap();
    for entry in fs::read_dir(house.root.path()).unwrap().flatten() {
        if entry.path().extension().is_some_and(|end| end == "kgt") {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    let mut keeper = house.keeper();
    let mut table = house.table(2, 0..100);
    let refusal = sign(&house, &mut keeper, &mut table, NOW).unwrap_err();
    assert_eq!(refusal.reason, SigningReason::Brake);
    let why = &refusal.why;
    assert!(why.contains("lost the table of serial 1") && !why.contains("no key"), "{why}");
    assert!(why.contains("signer allow --audience test --least 0"), "{why}");
    house.allow(fall(0), NOW);
    table.by(&mut keeper).unwrap();
    assert_eq!(house.patch(3, &mut table, 0..40).by(&mut keeper), Err(SigningReason::Brake));
    house.patch(3, &mut table, 0..60).by(&mut keeper).unwrap();
}

/// An allowance stays if the disk did not take the note about what was to be signed.
#[test]
fn a_word_outlives_a_full_disk() {
    let house = House::new();
    let mut keeper = house.keeper();
    let mut table = house.table(1, 0..100);
    table.by(&mut keeper).unwrap();
    house.allow(fall(10), NOW);
    let names = fs::read_dir(house.root.path()).unwrap().flatten().map(|entry| entry.file_name());
    let names = names.map(|name| name.into_string().unwrap());
    let of_table = names.into_iter().find(|name| name.ends_with(".kgt")).unwrap();
    let audience = of_table.split('-').nth(1).unwrap();
    let in_the_way = house.path(&format!("patch-{audience}-2.kgp"));
    fs::create_dir(&in_the_way).unwrap();
    let mut patch = house.patch(2, &mut table, 0..10);
    assert_eq!(patch.by(&mut keeper), Err(SigningReason::Unavailable));
    fs::remove_dir(&in_the_way).unwrap();
    patch.by(&mut keeper).unwrap();
    assert_eq!(house.patch(3, &mut table, 0..4).by(&mut keeper), Err(SigningReason::Brake));
}
