//! What sidecars say, and how long it counts.

use super::*;
use crate::artefacts::ArtefactTag;
use crate::core::Digest;

fn poll(instance: &str, name: ArtefactName, serial: Option<u64>) -> ArtefactPoll {
    ArtefactPoll {
        fleet: "web".into(),
        audience: "shop".into(),
        name,
        instance: (!instance.is_empty()).then(|| instance.into()),
        peer: Some("192.0.2.9".parse().unwrap()),
        has: serial.map(|serial| ArtefactTag::of(serial, &Digest::of(b"x"))),
        head: None,
    }
}

#[test]
fn what_a_sidecar_has_is_known_by_its_last_word() {
    let (book, shop) = (SidecarBook::default(), AudienceName::parse("shop").unwrap());
    let mut moved = book.watch();
    book.publishes(&shop, 9);
    book.heard(&poll("a", ArtefactName::Table, None), 1_000);
    assert!(!moved.has_changed().unwrap(), "it has nothing yet");
    book.heard(&poll("a", ArtefactName::Table, Some(5)), 2_000);
    book.heard(&poll("a", ArtefactName::Patch, Some(9)), 3_000);
    book.heard(&poll("", ArtefactName::Patch, Some(8)), 3_000);
    book.heard(&poll("a", ArtefactName::Patch, Some(u64::MAX)), 3_000);
    assert!(moved.has_changed().unwrap());
    moved.mark_unchanged();
    let shown = |now| -> Vec<_> {
        let known = book.known(&shop, now).into_iter();
        known.map(|r| (r.instance.to_string(), r.serial, r.base)).collect()
    };
    let both = [("192.0.2.9".to_owned(), 8, 0), ("a".to_owned(), 9, 5)];
    assert_eq!(shown(4_000), both);
    assert_eq!(book.take_news(&shop).len(), 2);
    book.heard(&poll("a", ArtefactName::Patch, Some(9)), 4_000);
    assert!(book.take_news(&shop).is_empty() && !moved.has_changed().unwrap());
    book.heard(&poll("a", ArtefactName::Patch, Some(9)), 70_000);
    assert_eq!(book.take_news(&shop).len(), 1, "once a minute");
    assert_eq!(shown(3_001 + KNOWN_MS).len(), 1, "the other is silent");
    assert_eq!(book.all(&shop).len(), 2);
}

/// `keygate check` and curl ask once, and nobody waits for them.
#[test]
fn who_has_neither_name_nor_table_is_no_sidecar() {
    let (book, shop) = (SidecarBook::default(), AudienceName::parse("shop").unwrap());
    book.publishes(&shop, 9);
    book.heard(&poll("", ArtefactName::Table, None), 1_000);
    assert!(book.all(&shop).is_empty());
    book.heard(&poll("", ArtefactName::Table, Some(8)), 1_000);
    assert_eq!(book.all(&shop).len(), 1);
}

/// Anybody who has a fleet's token can claim anything.
#[test]
fn what_was_never_published_here_is_not_believed_without_proof() {
    let (book, shop) = (SidecarBook::default(), AudienceName::parse("shop").unwrap());
    book.publishes(&shop, 9);
    book.heard(&poll("a", ArtefactName::Patch, Some(8)), 1_000);
    let mut moved = book.watch();
    for serial in [10, MAX_CHOSEN_SERIAL] {
        for name in [ArtefactName::Patch, ArtefactName::Table] {
            let made_up = ArtefactPoll {
                head: Some(Box::from(*b"KGT made up")),
                ..poll("a", name, Some(serial))
            };
            book.heard(&made_up, 2_000);
        }
    }
    assert!(!moved.has_changed().unwrap());
    let [report] = &*book.all(&shop) else { panic!("{:?}", book.all(&shop)) };
    assert_eq!((report.serial, report.base, report.seen_ms), (8, 0, 2_000));
    assert!(report.error.as_ref().unwrap().contains("does not prove"), "{report:?}");
    book.heard(&poll("a", ArtefactName::Patch, Some(9)), 3_000);
    assert_eq!(book.all(&shop)[0].error, None);
    moved.mark_unchanged();
    // Nor does it count after a restart, if an earlier version has written it down.
    let again = SidecarBook::default();
    again.publishes(&shop, 9);
    let told = SidecarReport { serial: 10, ..book.all(&shop)[0].clone() };
    again.remember(vec![told], 3_000, |_| false);
    assert!(again.all(&shop).is_empty());
    again.remember(book.all(&shop), 3_000, |_| false);
    assert_eq!(again.all(&shop).len(), 1);
}

fn shop() -> AudienceName {
    AudienceName::parse("shop").unwrap()
}

fn names(reports: &[SidecarReport]) -> Vec<&str> {
    reports.iter().map(|report| &*report.instance).collect()
}

/// A pod has another name after each rollout.
#[test]
fn who_is_silent_for_a_day_is_forgotten_unless_somebody_asks_for_it() {
    let book = SidecarBook::default();
    book.publishes(&shop(), 9);
    let asked = |report: &SidecarReport| *report.instance == *"asked";
    for (name, at) in [("old", 1), ("asked", 2), ("young", 3)] {
        book.heard(&poll(name, ArtefactName::Patch, Some(9)), at);
    }
    assert_eq!(book.take_news(&shop()).len(), 3);
    book.forget(&shop(), FORGET_MS + 1, asked);
    assert_eq!(names(&book.all(&shop())), ["asked", "old", "young"]);
    assert!(book.take_gone(&shop()).is_empty());
    book.forget(&shop(), FORGET_MS + 3, asked);
    assert_eq!(names(&book.all(&shop())), ["asked", "young"]);
    assert_eq!(names(&book.take_gone(&shop())), ["old"]);
    assert!(book.take_gone(&shop()).is_empty(), "each of them once");
    // Nor is it remembered at the next start, or learned from another instance.
    let again = SidecarBook::default();
    again.publishes(&shop(), 9);
    let written = |name: &str, seen_ms| SidecarReport {
        instance: name.into(),
        seen_ms,
        ..book.all(&shop())[0].clone()
    };
    let rows = vec![written("old", 1), written("asked", 0), written("young", 3)];
    again.remember(rows.clone(), FORGET_MS + 3, asked);
    assert_eq!(names(&again.all(&shop())), ["asked", "young"]);
    assert_eq!(names(&again.take_gone(&shop())), ["old"]);
    again.learn(rows, FORGET_MS + 3);
    assert_eq!(names(&again.all(&shop())), ["asked", "young"]);
}

/// Whoever has the token of one fleet can make up any number of names.
#[test]
fn a_full_page_hides_no_sidecar_of_another_fleet_or_audience() {
    let book = SidecarBook::default();
    let say = |fleet: &str, audience: &str, name: &str, at| {
        let said = poll(name, ArtefactName::Patch, Some(0));
        book.heard(&ArtefactPoll { fleet: fleet.into(), audience: audience.into(), ..said }, at);
    };
    let (early, now) = (10 * KNOWN_MS, 11 * KNOWN_MS + 1);
    say("web", "shop", "silent", early - 1);
    say("web", "shop", "quiet", early);
    for n in 0..MOST - 2 {
        say("web", "shop", &format!("made-up-{n}"), now);
    }
    assert!(book.overfull(&shop(), now).is_empty());
    say("mobile", "shop", "a", now);
    say("web", "news", "b", now);
    let news = AudienceName::parse("news").unwrap();
    assert_eq!(names(&book.known(&news, now)), ["b"]);
    assert!(book.known(&shop(), now).iter().any(|report| *report.fleet == *"mobile"));
    // Nobody waits for the longest silent one.
    say("web", "shop", "real", now);
    assert_eq!(names(&book.take_gone(&shop())), ["silent"]);
    assert!(names(&book.known(&shop(), now)).contains(&"real"));
    say("web", "shop", "more", now);
    assert_eq!(names(&book.take_gone(&shop())), ["quiet"]);
    assert!(book.overfull(&shop(), now).is_empty());
    // All have just been heard: who comes now is not known, and that is known.
    say("web", "shop", "too many", now);
    assert!(!names(&book.all(&shop())).contains(&"too many"));
    assert_eq!(book.overfull(&shop(), now), [Box::from("web")]);
    assert!(book.overfull(&news, now).is_empty());
    assert_eq!(book.overfull(&shop(), now + KNOWN_MS), [Box::from("web")]);
    assert!(book.overfull(&shop(), now + KNOWN_MS + 1).is_empty(), "it has not come again");
    // What the store has of others makes nobody leave who is heard of.
    let old = SidecarReport { seen_ms: early, ..book.all(&shop())[1].clone() };
    book.learn(vec![SidecarReport { instance: "from the store".into(), ..old }], now);
    assert_eq!(names(&book.take_gone(&shop())), ["from the store"]);
    assert_eq!(book.overfull(&shop(), now).len(), 1);
}
