//! The rules of acceptance, one by one.

use std::sync::Arc;

use crate::core::{KeyId, KeyLookup, KeySpec, KeyStatus, LimitSet, Now};
use crate::table::testkit::*;
use crate::table::write::{PatchDraft, RemovalOf};
use crate::table::*;

pub(super) const NOW: Now = Now { unix_ms: 5_000_000, mono_ns: 0 };

pub(super) fn specs(range: std::ops::Range<u32>) -> Vec<KeySpec> {
    range.map(spec).collect()
}

/// A table of these keys; `change` adjusts what its publisher states.
fn stated(serial: u64, keys: &[KeySpec], change: impl FnOnce(&mut Issue)) -> Arc<Table> {
    let signer = Signer::new(1);
    let mut issue = issue(serial, &[&signer]);
    change(&mut issue);
    let file = table_file(keys, issue, &[&signer]);
    Arc::new(Table::open(file, &signer.trust(), &Bounds::default()).unwrap())
}

pub(super) fn plain(serial: u64, keys: &[KeySpec]) -> Arc<Table> {
    stated(serial, keys, |_| {})
}

/// The patch that turns `base` into `keys`.
fn patch_to(base: &Table, serial: u64, includes: u64, keys: &[KeySpec]) -> Arc<Patch> {
    let draft = PatchDraft::difference(base, keys.iter().cloned());
    let issue = Issue { includes_through: includes, ..issue(serial, &[&Signer::new(1)]) };
    Arc::new(patch(draft, issue))
}

fn reason(result: Result<AcceptOutcome, Refusal>) -> &'static str {
    match result {
        Ok(_) => "accepted",
        Err(refusal) => refusal.reason(),
    }
}

pub(super) fn desk_with(table: &Arc<Table>) -> Acceptance {
    let mut desk = Acceptance::new(AcceptRules::default());
    assert_eq!(desk.offer_table(table.clone(), NOW), Ok(AcceptOutcome::InForce));
    desk
}

fn restarted(desk: &Acceptance) -> Acceptance {
    let ledger = Ledger::parse(&desk.ledger().to_text()).unwrap();
    assert_eq!(ledger, desk.ledger());
    let trust = Signer::new(1).trust();
    let (desk, dropped) =
        Acceptance::restore(AcceptRules::default(), ledger, &trust, &Bounds::default());
    assert_eq!(dropped, []);
    desk
}

pub(super) fn admits(desk: &Acceptance, n: u32) -> bool {
    let found = desk.current().and_then(|set| set.any(&spec(n).digest));
    found.is_some_and(|view| view.grant.status == KeyStatus::Active)
}

#[test]
fn a_draft_that_nobody_has_signed_never_comes_into_force() {
    let (signer, any) = (Signer::new(1), Trust::for_inspection());
    let file = table_file(&specs(0..3), issue(1, &[&signer]), &[]);
    let draft = Arc::new(Table::open(file, &any, &Bounds::default()).unwrap());
    let mut desk = Acceptance::new(AcceptRules::default());
    assert_eq!(reason(desk.offer_table(draft, NOW)), "unsigned");
    assert!(desk.current().is_none());
    assert_eq!(desk.ledger(), Ledger::default());
    let base = plain(1, &specs(0..3));
    let mut desk = desk_with(&base);
    let before = desk.ledger();
    let changes = PatchDraft::difference(&base, specs(0..2));
    let file = sealed(changes.build(issue(2, &[&signer])).unwrap(), &[]);
    let draft = Arc::new(Patch::open(file, &any, &Bounds::default()).unwrap());
    assert_eq!(reason(desk.offer_patch(draft, NOW)), "unsigned");
    assert_eq!(desk.ledger(), before);
    assert!(admits(&desk, 2), "not even its removals hold");
}

#[test]
fn rollback_and_equal_serials() {
    let mut desk = desk_with(&plain(5, &specs(0..4)));
    assert_eq!(reason(desk.offer_table(plain(4, &specs(0..4)), NOW)), "rollback");
    assert_eq!(reason(desk.offer_table(plain(5, &specs(0..5)), NOW)), "equal_serial");
    assert_eq!(desk.offer_table(plain(5, &specs(0..4)), NOW), Ok(AcceptOutcome::Unchanged));
    assert_eq!(desk.current().unwrap().serial(), 5);

    let mut desk = restarted(&desk);
    assert!(desk.current().is_none(), "no table is in force before one was read");
    assert_eq!(reason(desk.offer_table(plain(4, &specs(0..4)), NOW)), "rollback");
    assert_eq!(reason(desk.offer_table(plain(5, &specs(0..5)), NOW)), "equal_serial");
    assert_eq!(desk.offer_table(plain(5, &specs(0..4)), NOW), Ok(AcceptOutcome::InForce));
    assert_eq!(desk.offer_table(plain(6, &specs(0..4)), NOW), Ok(AcceptOutcome::InForce));
}

#[test]
fn a_serial_is_a_tables_or_a_patchs() {
    let base = plain(5, &specs(0..4));
    let mut desk = desk_with(&base);
    assert_eq!(
        desk.offer_patch(patch_to(&base, 6, 6, &specs(1..4)), NOW),
        Ok(AcceptOutcome::InForce)
    );
    assert_eq!(reason(desk.offer_table(plain(6, &specs(0..4)), NOW)), "equal_serial");
    // The patch includes everything through 6: a table below is old news.
    let unaware = |issue: &mut Issue| issue.includes_through = 5;
    let mut other = desk_with(&base);
    other.offer_patch(patch_to(&base, 8, 8, &specs(1..4)), NOW).unwrap();
    assert_eq!(reason(other.offer_table(stated(7, &specs(0..4), unaware), NOW)), "rollback");
}

#[test]
fn min_serial_is_the_floor_where_there_is_no_ledger() {
    let mut desk = Acceptance::new(AcceptRules { min_serial: 7, ..AcceptRules::default() });
    assert_eq!(reason(desk.offer_table(plain(6, &specs(0..4)), NOW)), "rollback");
    assert_eq!(reason(desk.offer_table(plain(7, &specs(0..4)), NOW)), "accepted");
}

#[test]
fn an_older_registry_is_stale() {
    let mut desk = desk_with(&plain(5, &specs(0..4)));
    let older = stated(6, &specs(0..4), |issue| issue.includes_through = 4);
    assert_eq!(reason(desk.offer_table(older, NOW)), "stale");
}

#[test]
fn freeze() {
    let expired = stated(5, &specs(0..4), |issue| issue.expires_at = Some(5_000));
    let mut desk = Acceptance::new(AcceptRules::default());
    assert_eq!(reason(desk.offer_table(expired.clone(), NOW)), "expired");
    let earlier = Now { unix_ms: 4_999_000, mono_ns: 0 };
    assert_eq!(desk.offer_table(expired.clone(), earlier), Ok(AcceptOutcome::InForce));
    assert_eq!(desk.offer_table(expired.clone(), NOW), Ok(AcceptOutcome::Unchanged));
    // A restart with the same table is not an outage.
    assert_eq!(restarted(&desk).offer_table(expired.clone(), NOW), Ok(AcceptOutcome::InForce));
    assert_eq!(desk.current().unwrap().refuse_from(), None, "it serves on");

    let rules = AcceptRules { refuse_after: Some(60), ..AcceptRules::default() };
    desk.set_rules(rules);
    assert_eq!(desk.current().unwrap().refuse_from(), Some(5_060), "or refuses after a grace");
    // A patch is judged in the same way.
    let patch = PatchDraft::difference(&expired, specs(1..4));
    let stale = Issue { expires_at: Some(4_000), ..issue(6, &[&Signer::new(1)]) };
    assert_eq!(
        reason(desk.offer_patch(Arc::new(crate::table::testkit::patch(patch, stale)), NOW)),
        "expired"
    );
}

#[test]
fn a_clock_behind_the_publisher_is_told() {
    let table = stated(5, &specs(0..1), |issue| issue.issued_at_ms = NOW.unix_ms + 1_500);
    assert_eq!(clock_behind_ms(table.manifest(), NOW), Some(1_500));
    assert_eq!(reason(Acceptance::new(AcceptRules::default()).offer_table(table, NOW)), "accepted");
}

#[test]
fn shrink_brake() {
    let ack = |issue: &mut Issue| issue.acknowledge = vec![Acknowledge::Shrink];
    let mut desk = desk_with(&plain(1, &specs(0..10)));
    assert_eq!(reason(desk.offer_table(plain(2, &specs(0..4)), NOW)), "shrink");
    assert_eq!(reason(restarted(&desk).offer_table(plain(2, &specs(0..4)), NOW)), "shrink");
    assert_eq!(reason(desk.clone().offer_table(plain(2, &specs(0..5)), NOW)), "accepted");
    assert_eq!(reason(desk.offer_table(stated(3, &specs(0..4), ack), NOW)), "accepted");

    let base = plain(1, &specs(0..10));
    let mut desk = desk_with(&base);
    assert_eq!(reason(desk.offer_patch(patch_to(&base, 2, 2, &specs(0..4)), NOW)), "shrink");
    assert!(admits(&desk, 9), "a refused patch changes nothing");
    let acked = Issue { acknowledge: vec![Acknowledge::Shrink], ..issue(3, &[&Signer::new(1)]) };
    let acked = patch(PatchDraft::difference(&base, specs(0..4)), acked);
    assert_eq!(desk.offer_patch(Arc::new(acked), NOW), Ok(AcceptOutcome::InForce));
    assert!(!admits(&desk, 9) && admits(&desk, 3));

    let rules = AcceptRules { shrink_brake: 0.05, ..AcceptRules::default() };
    let mut tight = Acceptance::new(rules);
    tight.offer_table(base, NOW).unwrap();
    assert_eq!(reason(tight.offer_table(plain(2, &specs(0..9)), NOW)), "shrink");
}

#[test]
fn empty_needs_acknowledgement() {
    let mut desk = Acceptance::new(AcceptRules::default());
    assert_eq!(reason(desk.offer_table(plain(1, &[]), NOW)), "empty");
    let mut revoked = spec(1);
    revoked.grant.status = KeyStatus::Revoked;
    assert_eq!(reason(desk.offer_table(plain(1, &[revoked]), NOW)), "empty");
    let ack = |issue: &mut Issue| issue.acknowledge = vec![Acknowledge::Empty];
    assert_eq!(reason(desk.offer_table(stated(1, &[], ack), NOW)), "accepted");
    assert_eq!(desk.current().unwrap().counts(), Counts::default());
}

#[test]
fn a_patch_of_a_lower_serial() {
    let base = plain(1, &specs(0..10));
    let mut desk = desk_with(&base);
    desk.offer_patch(patch_to(&base, 5, 5, &specs(1..10)), NOW).unwrap();
    assert_eq!(reason(desk.offer_patch(patch_to(&base, 4, 4, &specs(0..10)), NOW)), "rollback");
    let twin = patch_to(&base, 5, 5, &specs(2..10));
    assert_eq!(reason(desk.offer_patch(twin, NOW)), "equal_serial");
    assert_eq!(desk.current().unwrap().patch_serial(), Some(5));
    // A later one replaces it: patches are cumulative, so anything that it does not state does not
    // hold.
    desk.offer_patch(patch_to(&base, 6, 6, &specs(0..9)), NOW).unwrap();
    assert!(admits(&desk, 0) && !admits(&desk, 9));
}

#[test]
fn a_patch_over_what_cannot_become_current() {
    let (old, new) = (plain(1, &specs(0..10)), plain(5, &specs(0..10)));
    let mut desk = desk_with(&old);
    desk.offer_table(new.clone(), NOW).unwrap();
    // The table in force includes it: there is nothing to do.
    let included = patch_to(&old, 4, 4, &specs(1..10));
    assert_eq!(desk.offer_patch(included, NOW), Ok(AcceptOutcome::Included));
    // It does not include this one, so what it forbids counts, and what it adds does not.
    let mut wanted = specs(1..12);
    wanted[0].grant.permissions = permissions(&[]);
    let late = patch_to(&old, 6, 1, &wanted);
    let Ok(AcceptOutcome::Restricted(refusal)) = desk.offer_patch(late, NOW) else {
        panic!("its restrictions hold");
    };
    assert_eq!(refusal.reason(), "base");
    let set = desk.current().unwrap();
    assert_eq!((set.patch_serial(), set.held_patches()), (None, 1));
    assert!(!admits(&desk, 0), "removed");
    assert!(!admits(&desk, 11), "additions of a patch that is not in force do not count");
    let edited = set.any(&spec(1).digest).unwrap();
    assert_eq!(edited.grant.permissions.joined(), "");
    // The same serial, but another table.
    let mut desk = desk_with(&new);
    let twin = plain(5, &specs(3..10));
    let Ok(AcceptOutcome::Restricted(refusal)) =
        desk.offer_patch(patch_to(&twin, 7, 7, &specs(4..10)), NOW)
    else {
        panic!("its restrictions hold");
    };
    assert_eq!(refusal.reason(), "base");
    assert!(!admits(&desk, 3) && admits(&desk, 4));
}

#[test]
fn a_patch_before_its_base() {
    let (old, new) = (plain(1, &specs(0..10)), plain(2, &specs(0..10)));
    let mut desk = desk_with(&old);
    let early = patch_to(&new, 3, 3, &specs(1..11));
    assert_eq!(desk.offer_patch(early.clone(), NOW), Ok(AcceptOutcome::Held));
    assert_eq!(desk.awaiting(), Some(3));
    assert!(!admits(&desk, 0), "what it removes is removed at once");
    assert!(!admits(&desk, 10), "what it adds waits for its base");
    assert_eq!(desk.offer_patch(early, NOW), Ok(AcceptOutcome::Unchanged));

    for mut desk in [desk.clone(), restarted(&desk)] {
        assert_eq!(desk.offer_table(new.clone(), NOW), Ok(AcceptOutcome::InForce));
        assert_eq!(desk.current().unwrap().patch_serial(), Some(3));
        assert_eq!(desk.awaiting(), None);
        assert!(!admits(&desk, 0) && admits(&desk, 10));
    }
}

#[test]
fn a_patch_before_any_table() {
    let base = plain(1, &specs(0..10));
    let mut desk = Acceptance::new(AcceptRules::default());
    let early = patch_to(&base, 2, 2, &specs(1..10));
    assert_eq!(desk.offer_patch(early, NOW), Ok(AcceptOutcome::Held));
    assert!(desk.current().is_none());
    desk.offer_table(base, NOW).unwrap();
    assert_eq!(desk.current().unwrap().patch_serial(), Some(2));
}

#[test]
fn a_table_that_does_not_include_the_patch() {
    let base = plain(1, &specs(0..10));
    let mut desk = desk_with(&base);
    let mut disabled = spec(1);
    disabled.grant.status = KeyStatus::Disabled;
    let after: Vec<_> = [disabled].into_iter().chain(specs(2..10)).collect();
    desk.offer_patch(patch_to(&base, 3, 3, &after), NOW).unwrap();
    // Built from the registry before the patch, published after it.
    let slow = stated(4, &specs(0..12), |issue| issue.includes_through = 2);
    desk.offer_table(slow, NOW).unwrap();
    assert!(!admits(&desk, 0) && !admits(&desk, 1), "revoked and disabled stay so");
    assert!(admits(&desk, 11));
    let mut again = restarted(&desk);
    again.offer_table(stated(4, &specs(0..12), |issue| issue.includes_through = 2), NOW).unwrap();
    assert!(!admits(&again, 0) && !admits(&again, 1), "over a restart as well");
    // A table that claims to include the patch decides, whichever it is.
    desk.offer_table(plain(5, &specs(0..12)), NOW).unwrap();
    assert_eq!(desk.current().unwrap().held_patches(), 0);
    assert!(admits(&desk, 0) && admits(&desk, 1));
}

/// Two registries may have imported one secret under two ids: it is the same caller.
#[test]
fn what_a_patch_forbids_a_secret_holds_under_another_id() {
    let base = plain(1, &specs(0..4));
    let mut desk = desk_with(&base);
    let mut stated_so = specs(0..4);
    for (n, spec) in stated_so.iter_mut().enumerate().take(3) {
        spec.id = KeyId::parse(&format!("key_other_{n}")).unwrap();
    }
    stated_so[0].grant.status = KeyStatus::Revoked;
    stated_so[1].grant.permissions = permissions(&[]);
    stated_so[2].expires = Some(1);
    desk.offer_patch(patch_to(&base, 3, 3, &stated_so), NOW).unwrap();
    for mut desk in [restarted(&desk), desk] {
        let slow = stated(4, &specs(0..4), |issue| issue.includes_through = 2);
        desk.offer_table(slow, NOW).unwrap();
        let set = desk.current().unwrap();
        assert_eq!((set.patch_serial(), set.held_patches()), (None, 1));
        assert!(!admits(&desk, 0) && admits(&desk, 3));
        assert_eq!(set.any(&spec(1).digest).unwrap().grant.permissions.joined(), "");
        assert_eq!(set.any(&spec(2).digest).unwrap().expires, Some(1));
        assert_eq!(set.counts().active, 3);
    }
}

#[test]
fn a_key_that_is_gone_stays_gone_under_another_secret() {
    let base = plain(1, &[spec(0), spec(1), pair_spec(2)]);
    let mut desk = desk_with(&base);
    desk.offer_patch(patch_to(&base, 3, 3, &[spec(1), pair_spec(2)]), NOW).unwrap();
    // A publisher that had not heard of it gave the key a new secret meanwhile.
    let rotated = KeySpec { digest: spec(77).digest, ..spec(0) };
    let keys = [rotated, spec(1), pair_spec(2)];
    desk.offer_table(stated(4, &keys, |issue| issue.includes_through = 1), NOW).unwrap();
    assert!(!admits(&desk, 77));
    assert!(admits(&desk, 1));
}

#[test]
fn a_pair_that_ended_its_rotation_is_not_gone() {
    let second = KeySpec { digest: spec(77).digest, ..pair_spec(2) };
    let base = plain(1, &[spec(1), pair_spec(2), second.clone()]);
    let mut desk = desk_with(&base);
    desk.offer_patch(patch_to(&base, 3, 3, &[spec(1), second.clone()]), NOW).unwrap();
    assert!(!admits(&desk, 2) && admits(&desk, 77));
    let keys = [spec(1), pair_spec(2), second];
    desk.offer_table(stated(4, &keys, |issue| issue.includes_through = 1), NOW).unwrap();
    assert!(!admits(&desk, 2), "the old secret is gone");
    assert!(admits(&desk, 77), "the new one is not");
}

#[test]
fn the_shelf_is_bounded() {
    let old = plain(1, &specs(0..20));
    let mut desk = desk_with(&plain(2, &specs(0..20)));
    for n in 0..8 {
        // Publishers who know nothing of one another.
        let patch = patch_to(&old, 10 + n, 1, &specs(n as u32 + 1..20));
        assert!(matches!(desk.offer_patch(patch, NOW), Ok(AcceptOutcome::Restricted(_))));
    }
    let one_more = patch_to(&old, 20, 1, &specs(9..20));
    assert_eq!(reason(desk.offer_patch(one_more, NOW)), "hold_full");
    assert_eq!(reason(desk.offer_table(plain(21, &specs(0..20)), NOW)), "accepted");
    assert_eq!(desk.current().unwrap().held_patches(), 0);
}

/// However many revocations a publisher publishes while its table is on the way, all take effect.
#[test]
fn patches_held_for_a_table_replace_one_another() {
    let (old, new) = (plain(1, &specs(0..40)), plain(2, &specs(0..40)));
    let mut waiting = Acceptance::new(AcceptRules::default());
    let mut desk = desk_with(&old);
    for n in 0..20 {
        let patch = patch_to(&new, 3 + n, 3 + n, &specs(n as u32 + 1..41));
        for desk in [&mut desk, &mut waiting] {
            assert_eq!(desk.offer_patch(patch.clone(), NOW), Ok(AcceptOutcome::Held), "{n}");
            assert_eq!(desk.shelf().len(), 1, "{n}");
        }
        assert!(!admits(&desk, n as u32) && admits(&desk, n as u32 + 1) && !admits(&desk, 40));
        if n == 10 {
            desk = restarted(&desk);
            desk.offer_table(old.clone(), NOW).unwrap();
            assert!(!admits(&desk, 10) && admits(&desk, 11));
        }
    }
    // An earlier one arrives late: what it states is stated already.
    let before = desk.ledger();
    let late = patch_to(&new, 9, 9, &specs(7..41));
    assert_eq!(reason(desk.offer_patch(late, NOW)), "rollback");
    assert_eq!(desk.ledger(), before);
    for mut desk in [waiting, restarted(&desk), desk] {
        assert_eq!(desk.offer_table(new.clone(), NOW), Ok(AcceptOutcome::InForce));
        let set = desk.current().unwrap();
        assert_eq!((set.patch_serial(), set.held_patches()), (Some(22), 0));
        assert!(!admits(&desk, 19) && admits(&desk, 20) && admits(&desk, 40));
    }
}

/// What a held patch forbids is undone by a later one that says so, and by no other.
#[test]
fn a_held_patch_goes_if_all_that_it_states_is_stated_anew() {
    let limited = named("org", "5/s");
    let (old, new) = (plain(1, &specs(0..10)), plain(2, &specs(0..10)));
    let disabled = |n: u32| {
        let mut key = spec(n);
        key.grant.status = KeyStatus::Disabled;
        key
    };
    type Draft<'d> = &'d dyn Fn(&mut PatchDraft);
    let first: Draft<'_> = &|draft| {
        draft.put(disabled(0));
        draft.remove(spec(1).digest, spec(1).id, RemovalOf::Key);
        draft.state_org_limits(spec(0).org, LimitSet::new([limited.clone()]));
    };
    let unlimited: Draft<'_> = &|draft| draft.state_org_limits(spec(0).org, LimitSet::default());
    let gone = |draft: &mut PatchDraft, n: u32, of| draft.remove(spec(n).digest, spec(n).id, of);
    let cases: [(&str, bool, Draft<'_>); 7] = [
        ("all, as it was", true, first),
        ("one is enabled again", true, &|draft| {
            draft.put(spec(0));
            gone(draft, 1, RemovalOf::Key);
            unlimited(draft);
        }),
        ("a key that was gone is back", true, &|draft| {
            gone(draft, 0, RemovalOf::Key);
            draft.put(spec(1));
            unlimited(draft);
        }),
        ("a secret is left out", false, &|draft| {
            gone(draft, 1, RemovalOf::Key);
            unlimited(draft);
        }),
        ("a removal is left out", false, &|draft| {
            draft.put(disabled(0));
            unlimited(draft);
        }),
        ("the key is not gone as a whole", false, &|draft| {
            draft.put(disabled(0));
            gone(draft, 1, RemovalOf::Secret);
            unlimited(draft);
        }),
        ("an org is left out", false, &|draft| {
            draft.put(disabled(0));
            gone(draft, 1, RemovalOf::Key);
        }),
    ];
    let made = |serial, includes, base: &Table, change: Draft<'_>| {
        let mut draft = PatchDraft::over(base);
        change(&mut draft);
        let issue = Issue { includes_through: includes, ..issue(serial, &[&Signer::new(1)]) };
        Arc::new(patch(draft, issue))
    };
    for (name, goes, change) in cases {
        let mut desk = desk_with(&old);
        desk.offer_patch(made(5, 5, &new, first), NOW).unwrap();
        desk.offer_patch(made(6, 6, &new, change), NOW).unwrap();
        assert_eq!(desk.shelf().len(), if goes { 1 } else { 2 }, "{name}");
        assert!(goes || !admits(&desk, 0) && !admits(&desk, 1), "{name}");
        // Two processes with one state file keep no more than either.
        let [mut one, mut two] = [desk_with(&old), desk_with(&old)];
        one.offer_patch(made(5, 5, &new, first), NOW).unwrap();
        two.offer_patch(made(6, 6, &new, change), NOW).unwrap();
        let both = [one.ledger().raised_by(&two.ledger()), two.ledger().raised_by(&one.ledger())];
        for ledger in both {
            let (trust, rules) = (Signer::new(1).trust(), AcceptRules::default());
            let (desk, _) = Acceptance::restore(rules, ledger, &trust, &Bounds::default());
            assert_eq!(desk.shelf().len(), if goes { 1 } else { 2 }, "{name}");
        }
    }
    // Nor by a publisher who did not know of it, nor over another base.
    let other = plain(3, &specs(0..10));
    for unaware in [made(6, 4, &new, first), made(6, 6, &other, first)] {
        let mut desk = desk_with(&old);
        desk.offer_patch(made(5, 5, &new, first), NOW).unwrap();
        desk.offer_patch(unaware, NOW).unwrap();
        assert_eq!(desk.shelf().len(), 2);
    }
}

#[test]
fn a_signer_that_is_no_longer_trusted_loses_its_table() {
    let (one, two) = (Signer::new(1), Signer::new(2));
    let base = plain(1 << 40, &specs(0..10));
    let mut desk = desk_with(&base);
    assert_eq!(desk.set_trust(&Trust::new([one.key, two.key], 1, AUDIENCE).unwrap()), []);
    assert!(desk.current().is_some());
    let dropped = desk.set_trust(&two.trust());
    assert_eq!(dropped.len(), 1);
    assert_eq!(
        (dropped[0].0, dropped[0].1.reason()),
        (base.manifest().as_base(), "unknown_signer")
    );
    assert!(desk.current().is_none());
    // Its serials do not bind the new signer.
    let file = table_file(&specs(0..10), issue(2, &[&two]), &[&two]);
    let table = Table::open(file, &two.trust(), &Bounds::default()).unwrap();
    assert_eq!(desk.offer_table(Arc::new(table), NOW), Ok(AcceptOutcome::InForce));
}

#[test]
fn ledgers_that_are_not_ours() {
    let good = desk_with(&plain(1, &specs(0..2))).ledger().to_text();
    assert!(Ledger::parse(&good).is_ok());
    for (name, text) in [
        ("empty", String::new()),
        ("cut", good[..good.len() / 2].into()),
        ("another version", good.replace("\"version\":1", "\"version\":2")),
        ("unknown field", good.replace("\"floor\"", "\"flour\"")),
        ("no base64", good.replace("\"shelf\":[]", "\"shelf\":[\"*\"]")),
    ] {
        assert!(Ledger::parse(&text).is_err(), "{name}");
    }
}
