//! What needs an allowance on the signer's host: falls, leaps, and audit logs that do not continue.

use super::super::active::STEP_MS;
use super::super::ask::ask_recovery;
use super::super::numbers::MOST_AT_ONCE;
use super::*;

#[test]
fn audit_logs_are_signed_forwards_alone() {
    let house = House::new();
    let socket = house.desk();
    let end = |seq, hash| AskedCheckpoint { seq, hash: [hash; 32], recovered_from: None };
    let signature = ask_checkpoint(&socket, end(7, 1)).unwrap();
    let message = checkpoint::checkpoint_message(7, &[1; 32], None);
    assert!(house.public.verify(&message, &signature));
    assert_eq!(ask_checkpoint(&socket, end(7, 1)).unwrap(), signature);
    for back in [end(7, 2), end(6, 1), end(0, 0), end(1 << 60, 1)] {
        let fault = ask_checkpoint(&socket, back).unwrap_err();
        assert_eq!(reason(fault), SigningReason::Checkpoint, "{back:?}");
    }
    let recovered = AskedCheckpoint { recovered_from: Some(3), ..end(5, 5) };
    let fault = ask_checkpoint(&socket, recovered).unwrap_err();
    assert!(fault.to_string().contains("signer allow --recovery"), "{fault}");
    assert_eq!(reason(ask_recovery(&socket).unwrap_err()), SigningReason::Checkpoint);
    house.allow(AllowedPass::Recovery, u64::MAX);
    ask_recovery(&socket).unwrap();
    ask_recovery(&socket).expect("the question uses nothing up");
    let signature = ask_checkpoint(&socket, recovered).unwrap();
    assert!(ask_recovery(&socket).is_err(), "used up");
    assert_eq!(ask_checkpoint(&socket, recovered).unwrap(), signature, "an answer that was lost");
    assert!(house.public.verify(&checkpoint::checkpoint_message(5, &[5; 32], Some(3)), &signature));
    ask_checkpoint(&socket, end(6, 6)).unwrap();
    let other = House::new();
    let mut keeper =
        SigningKeeper::open(KeeperTerms { checkpoints: false, ..other.terms() }).unwrap();
    let refusal = keeper.sign_checkpoint(end(1, 1), NOW).unwrap_err();
    assert_eq!(refusal.reason, SigningReason::Checkpoint);
}

/// A key that expires, begins later, or is no longer active: in a table and in a patch.
#[test]
fn keys_that_cannot_be_used_are_gone() {
    let now = NOW / 1000;
    let with = |change: &dyn Fn(&mut KeySpec)| {
        let changed = |n| {
            let mut spec = spec(n);
            change(&mut spec);
            spec
        };
        (0..10).map(changed).collect::<Vec<_>>()
    };
    for (what, specs) in [
        ("expired long ago", with(&|spec| spec.expires = Some(7))),
        ("expired now", with(&|spec| spec.expires = Some(now))),
        ("expires in a moment", with(&|spec| spec.expires = Some(now + 10))),
        ("expires within a day", with(&|spec| spec.expires = Some(now + 20 * 3600))),
        ("begins in years", with(&|spec| spec.grant.not_before = Some(4_000_000_000))),
        ("begins in a minute", with(&|spec| spec.grant.not_before = Some(now + 60))),
        ("disabled", with(&|spec| spec.grant.status = KeyStatus::Disabled)),
    ] {
        let house = House::new();
        let mut keeper = house.keeper();
        let mut table = house.table(3, 0..10);
        table.by(&mut keeper).unwrap();
        let mut next = Paper(body(&specs).into_table(house.issue(4)).unwrap());
        assert_eq!(next.by(&mut keeper), Err(SigningReason::Brake), "a table, {what}");
        let patch = PatchDraft::difference(&table.opened(), specs).build(house.issue(4)).unwrap();
        assert_eq!(Paper(patch).by(&mut keeper), Err(SigningReason::Brake), "a patch, {what}");
        drop(keeper);
        // Nor after a restart, nor over the former of two tables.
        let mut keeper = house.keeper();
        next.by(&mut keeper).unwrap_err();
        let mut newer = house.table(5, 0..10);
        house.patch(4, &mut table, 0..11).by(&mut keeper).unwrap();
        newer.by(&mut keeper).unwrap();
        let mut gone: Vec<KeySpec> = (0..10).map(spec).collect();
        gone.iter_mut().for_each(|spec| spec.grant.status = KeyStatus::Revoked);
        let patch = PatchDraft::difference(&table.opened(), gone).build(house.issue(6)).unwrap();
        assert_eq!(Paper(patch).by(&mut keeper), Err(SigningReason::Brake), "{what}");
    }
}

/// Keys end as their owner intended, and changes continue: of the remaining keys, of a patch over
/// the table that has all of them, and if a key begins while the table is in memory.
#[test]
fn what_ends_by_itself_stops_no_change() {
    let house = House::new();
    let mut keeper = house.keeper();
    let start = NOW / 1000;
    let (end, begin) = (start + 30 * 3600, start + 600);
    let specs = |left: u32| {
        let key = move |n| match n {
            0 => KeySpec { id: spec(99).id, digest: spec(99).digest, ..spec(0) },
            n if n < 9 => KeySpec { expires: Some(end), ..spec(n) },
            n => spec(n),
        };
        (0..left).map(key).collect::<Vec<_>>()
    };
    let mut table = Paper(body(&specs(12)).into_table(house.issue(3)).unwrap());
    table.by(&mut keeper).unwrap();
    let opened = table.opened();
    let mut serial = 3;
    let mut sign = |keeper: &mut SigningKeeper, specs: Vec<KeySpec>, now_ms| {
        serial += 1;
        let draft = PatchDraft::difference(&opened, specs).build(house.issue(serial)).unwrap();
        let made = keeper.sign_file(Buffer::from(Paper(draft).bytes()), now_ms);
        made.map(|made| made.told).map_err(|refusal| refusal.reason)
    };
    for hours in [1, 5, 28, 29, 31, 40, 100] {
        let told = sign(&mut keeper, specs(13), NOW + hours * 3_600_000).unwrap();
        let active = if hours < 30 { "13 keys" } else { "5 keys" };
        assert!(told.contains(active), "{hours}: {told}");
    }
    // Four more go, of five.
    let late = NOW + 101 * 3_600_000;
    assert_eq!(sign(&mut keeper, specs(1), late), Err(SigningReason::Brake));
    // A key that begins ten minutes after the table was read counts from then on.
    let mut keys = specs(13);
    keys.iter_mut().for_each(|spec| spec.grant.not_before = Some(late / 1000 + (begin - start)));
    assert_eq!(sign(&mut keeper, keys.clone(), late), Err(SigningReason::Brake), "not yet");
    assert!(late % STEP_MS < STEP_MS - 700_000, "within a step");
    let told = sign(&mut keeper, keys, late + 601_000).unwrap();
    assert!(told.contains("5 keys"), "{told}");
}

/// An allowance for as many keys as are left is valid, although all of them end by their own time
/// tonight.
#[test]
fn a_word_is_about_keys_that_go_and_not_about_those_that_end() {
    let house = House::new();
    let mut keeper = house.keeper();
    let ending = |keys: std::ops::Range<u32>| {
        let end = Some(NOW / 1000 + 10 * 3600);
        keys.map(|n| KeySpec { expires: end, ..spec(n) }).collect::<Vec<_>>()
    };
    let table =
        |serial, specs: Vec<KeySpec>| Paper(body(&specs).into_table(house.issue(serial)).unwrap());
    table(3, ending(0..10)).by(&mut keeper).unwrap();
    assert_eq!(table(4, ending(0..3)).by(&mut keeper), Err(SigningReason::Brake));
    house.allow(fall(4), NOW);
    assert_eq!(table(4, ending(0..3)).by(&mut keeper), Err(SigningReason::Brake), "too few");
    house.allow(fall(3), NOW);
    table(4, ending(0..3)).by(&mut keeper).unwrap();
}

#[test]
fn a_leap_needs_a_word_that_is_good_once() {
    let house = House::new();
    let mut keeper = house.keeper();
    let allow = |from| {
        let audience = crate::table::testkit::AUDIENCE.into();
        house.allow(AllowedPass::Serial { audience, from }, NOW);
    };
    house.table(3, 0..10).by(&mut keeper).unwrap();
    // What an intruder has signed.
    for far in [(1 << 53) - 1, 1 << 52, 3 * MOST_AT_ONCE] {
        assert_eq!(house.table(far, 0..10).by(&mut keeper), Err(SigningReason::Leap), "{far}");
    }
    let mut leap = house.table(MOST_AT_ONCE, 0..10);
    leap.by(&mut keeper).unwrap();
    drop(keeper);
    let mut keeper = house.keeper();
    let far = MOST_AT_ONCE * 3 / 2;
    assert_eq!(house.table(far, 0..10).by(&mut keeper), Err(SigningReason::Leap), "noted");
    // And what the service has, which knows nothing of that.
    let mut honest = house.table(4, 0..10);
    assert_eq!(honest.by(&mut keeper), Err(SigningReason::Serial));
    allow(5);
    assert_eq!(honest.by(&mut keeper), Err(SigningReason::Serial), "below what was said");
    house.table(5, 0..10).by(&mut keeper).unwrap();
    house.table(6, 0..10).by(&mut keeper).expect("and goes on");
    assert_eq!(honest.by(&mut keeper), Err(SigningReason::Serial), "used up");
    // It does not allow a fall as well.
    allow(4);
    assert_eq!(house.table(4, 0..1).by(&mut keeper), Err(SigningReason::Brake));
    house.allow(fall(1), NOW);
    house.table(4, 0..1).by(&mut keeper).unwrap();
}
