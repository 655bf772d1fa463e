//! Interleavings by name, and random ones.

use super::*;

fn of(publisher: usize, action: Action) -> Step {
    Step { publisher, action, flags: Vec::new() }
}

fn above(publisher: usize, action: Action) -> Step {
    Step { publisher, action, flags: vec!["--serial", "above"] }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 24, failure_persistence: None, max_shrink_iters: 40, ..ProptestConfig::default()
    })]

    #[test]
    fn no_interleaving_admits_again(steps in prop::collection::vec(step(), 4..14)) {
        play("toml", &steps)?;
    }

    #[test]
    fn no_interleaving_of_lines_admits_again(steps in prop::collection::vec(step(), 4..12)) {
        play("jsonl", &steps)?;
    }
}

/// Both forms of registry.
fn holds(steps: &[Step]) {
    for extension in ["toml", "jsonl"] {
        play(extension, steps).unwrap();
    }
}

#[test]
fn a_draft_that_waited_undoes_nothing() {
    holds(&[
        of(0, Action::Change("disable", 1)),
        above(0, Action::Draft),
        of(1, Action::Publish("revoke", 0)),
        of(0, Action::Attach),
        above(0, Action::Table),
    ]);
}

/// No setting says which table the draft should replace, so it does not state any intention.
#[test]
fn a_draft_that_ends_every_key_is_not_put_in_its_place() {
    let steps = [
        of(0, Action::Change("revoke", 0)),
        of(0, Action::Change("revoke", 1)),
        of(0, Action::Draft),
        of(0, Action::Attach),
    ];
    holds(&steps);
    let world = World::new("toml");
    let codes: Vec<_> = steps.iter().map(|step| world.run(step, "100").unwrap()).collect();
    assert!(codes[..3].iter().all(|(code, _)| *code == 0), "{codes:?}");
    assert!(codes[3].0 == 65 && codes[3].1.contains("--acknowledge empty"), "{codes:?}");
}

#[test]
fn a_table_to_look_at_is_no_publication() {
    holds(&[
        of(1, Action::Publish("narrow", 0)),
        of(0, Action::Review),
        of(0, Action::Change("enable", 0)),
        above(0, Action::Table),
    ]);
}

#[test]
fn a_patch_in_any_place_is_not_undone() {
    for emergency in [Action::Far("revoke", 0), Action::Emergency("disable", 0)] {
        holds(&[
            of(0, emergency),
            of(1, Action::Change("narrow", 1)),
            above(1, Action::Table),
            above(1, Action::Patch),
            of(1, Action::Fold),
            above(1, Action::Table),
        ]);
    }
}

/// A registry that was started again has other key ids: what its patch says about a secret prevails
/// over the table of a publisher who has that secret under another id.
#[test]
fn an_emergency_patch_is_not_undone_by_who_has_not_made_it() {
    for change in ["revoke", "disable", "narrow"] {
        holds(&[
            of(0, Action::Lose),
            of(0, Action::Fold),
            of(0, Action::Emergency(change, 0)),
            above(1, Action::Publish("revoke", 1)),
        ]);
    }
}

/// The table refuses what a patch after it admits: folding in both admits it for those who read
/// only the table.
#[test]
fn what_a_later_patch_admits_is_admitted_by_the_next_table() {
    holds(&[
        of(0, Action::Publish("disable", 0)),
        of(0, Action::Emergency("enable", 0)),
        of(1, Action::Fold),
        above(1, Action::Table),
    ]);
}

#[test]
fn who_refused_something_in_one_place_changes_its_mind_in_all() {
    holds(&[
        of(0, Action::Emergency("disable", 0)),
        of(0, Action::Far("narrow", 0)),
        of(0, Action::Change("enable", 0)),
        of(0, Action::Publish("widen", 0)),
    ]);
}

#[test]
fn a_restored_or_lost_registry_undoes_nothing() {
    for back in [Action::Restore, Action::Lose] {
        holds(&[
            of(0, Action::Publish("revoke", 0)),
            of(0, Action::Publish("narrow", 1)),
            of(0, back),
            of(0, Action::Change("disable", 1)),
            above(0, Action::Table),
            of(0, Action::Change("enable", 1)),
            above(0, Action::Patch),
            of(0, Action::Fold),
            above(0, Action::Table),
        ]);
    }
}

/// Lines of both are in one file: the next table and patch refuse what either refuses, whatever
/// length of the file the last publication was made from.
#[test]
fn merged_lines_are_published_whole() {
    for publish in [Action::Table, Action::Patch] {
        holds(&[
            of(0, Action::Publish("disable", 0)),
            of(1, Action::Change("narrow", 1)),
            of(1, Action::Merge),
            of(1, publish),
            of(1, Action::Change("enable", 0)),
            above(1, publish),
            of(0, Action::Merge),
            above(0, publish),
        ]);
    }
}

/// A publisher who merged knows what the merged registry refuses, and nothing that it refused
/// before.
#[test]
fn two_edits_of_one_key_are_no_leave_to_admit_it() {
    holds(&[
        of(0, Action::Publish("narrow", 0)),
        of(1, Action::Change("disable", 0)),
        of(1, Action::Merge),
        of(1, Action::Change("enable", 0)),
        above(1, Action::Table),
    ]);
}

/// The model itself: what is already in force is not published again.
#[test]
fn a_change_that_is_made_already_may_publish_nothing() {
    holds(&[
        of(1, Action::Change("narrow", 0)),
        of(1, Action::Patch),
        of(1, Action::Publish("enable", 0)),
        of(0, Action::Change("revoke", 0)),
    ]);
}
