//! Whether a signer signs, without anything around it: no file, no socket, no clock.

use super::super::active::CountedSpans;
use super::super::numbers::MOST_AT_ONCE;
use super::super::wire::AskedCheckpoint;
use super::*;
use crate::table::Acknowledge;

const NOW: u64 = 1_795_230_000_000;
const HOUR: u64 = 3_600_000;

fn rules() -> SigningRules {
    SigningRules::standard("shop".into())
}

fn us() -> SignerId {
    SignerId::parse("ed25519:0011223344556677").unwrap()
}

fn table(serial: u64, body: u8) -> Manifest {
    Manifest {
        format: 2,
        kind: FileKind::Table,
        serial,
        includes_through: serial,
        issued_at_ms: NOW,
        expires_at: None,
        audience: "shop".into(),
        signers: vec![us()],
        keys: 9,
        active: 9,
        removed: 0,
        base: None,
        body_bytes: 9,
        body_sha256: BodyHash([body; 32]),
        acknowledge: vec![Acknowledge::Empty, Acknowledge::Shrink],
    }
}

fn patch(serial: u64, over: &Manifest) -> Manifest {
    Manifest { kind: FileKind::Patch, base: Some(over.as_base()), ..table(serial, 99) }
}

/// This many keys that do not expire.
fn forever(keys: u64, at_ms: u64) -> ActiveCourse {
    let mut counted = CountedSpans::none(at_ms);
    counted.add(&(0..u64::MAX), i64::try_from(keys).unwrap());
    counted.course()
}

/// Nothing else says anything about its keys.
fn counted<'f>(manifest: &'f Manifest, active: &'f ActiveCourse) -> CountedFile<'f> {
    CountedFile { manifest, meant: active, lasting: active, unheld: active, lost: None }
}

/// A signer that signs or says why not; nobody allows a fall.
struct Hand(SignedMark);

impl Hand {
    fn sign(&mut self, file: &Manifest, active: u64, at: u64) -> Result<(), SigningReason> {
        self.sign_by(&rules(), file, active, at)
    }

    fn sign_by(
        &mut self,
        rules: &SigningRules,
        file: &Manifest,
        active: u64,
        at: u64,
    ) -> Result<(), SigningReason> {
        let active = forever(active, at);
        let reason = |refusal: SigningRefusal| refusal.reason;
        if self.0.is_again(rules, file, us(), at).map_err(reason)? {
            return Ok(());
        }
        match self.0.judge(rules, counted(file, &active), at).map_err(reason)? {
            SigningVerdict::New(mark) => {
                self.0 = mark;
                Ok(())
            }
            SigningVerdict::IfAllowed { needed, .. } => Err(needed[0].refusal.reason),
        }
    }
}

#[test]
fn serials_rise_and_have_one_content() {
    let mut hand = Hand(SignedMark::default());
    let first = table(5, 1);
    hand.sign(&first, 9, NOW).unwrap();
    hand.sign(&first, 9, NOW).expect("an answer that was lost");
    hand.sign(&Manifest { issued_at_ms: NOW + 9, ..first.clone() }, 9, NOW).unwrap();
    let other = table(5, 2);
    assert_eq!(hand.sign(&other, 9, NOW), Err(SigningReason::OtherContent));
    let narrower = Manifest { includes_through: 4, ..first.clone() };
    assert_eq!(hand.sign(&narrower, 9, NOW), Err(SigningReason::OtherContent));
    assert_eq!(hand.sign(&table(4, 1), 9, NOW), Err(SigningReason::Serial));
    hand.sign(&patch(6, &first), 9, NOW).unwrap();
    assert_eq!(hand.sign(&first, 9, NOW), Err(SigningReason::Serial), "signed, and older");
    assert_eq!(hand.sign(&table(6, 9), 9, NOW), Err(SigningReason::OtherContent));
    let stale = Manifest { includes_through: 4, ..table(7, 3) };
    assert_eq!(hand.sign(&stale, 9, NOW), Err(SigningReason::Stale));
    let floor = SigningRules { min_serial: 100, ..rules() };
    assert_eq!(hand.sign_by(&floor, &table(99, 3), 9, NOW), Err(SigningReason::Stale));
    hand.sign_by(&floor, &table(100, 3), 9, NOW).unwrap();
}

/// A publisher that dies between a new table and the patch over it continues over the former one.
#[test]
fn patches_are_over_tables_that_were_signed_lately() {
    let mut hand = Hand(SignedMark::default());
    let tables: Vec<_> = (1..=4).map(|n| table(n * 10, n as u8)).collect();
    assert_eq!(hand.sign(&patch(9, &table(1, 1)), 9, NOW), Err(SigningReason::Base));
    hand.sign(&tables[0], 9, NOW).unwrap();
    hand.sign(&patch(11, &tables[0]), 9, NOW).unwrap();
    for lost in &tables[1..3] {
        hand.sign(lost, 9, NOW).unwrap();
    }
    // The signed table says that it has every change through 30.
    let over_old = Manifest { includes_through: 31, ..patch(31, &tables[0]) };
    hand.sign(&over_old, 9, NOW).unwrap();
    hand.sign(&patch(32, &tables[1]), 9, NOW).unwrap();
    hand.sign(&patch(33, &tables[2]), 9, NOW).unwrap();
    hand.sign(&patch(34, &tables[0]), 9, NOW).unwrap();
    hand.sign(&tables[3], 9, NOW).unwrap();
    hand.sign(&patch(41, &tables[3]), 9, NOW).unwrap();
    hand.sign(&patch(42, &tables[0]), 9, NOW).unwrap();
    assert_eq!(hand.sign(&patch(43, &tables[1]), 9, NOW), Err(SigningReason::Base));
    assert_eq!(hand.0.tables().count(), 3);
}

/// Whatever the manifest acknowledges, in one step or in slices, and at whatever hour.
#[test]
fn most_keys_do_not_go_within_a_day() {
    let mut hand = Hand(SignedMark::default());
    let mut serial = 0;
    let mut next = || {
        serial += 1;
        table(serial, serial as u8)
    };
    hand.sign(&next(), 0, NOW).expect("a new audience");
    hand.sign(&next(), 100, NOW).unwrap();
    assert_eq!(hand.sign(&next(), 0, NOW), Err(SigningReason::Brake));
    assert_eq!(hand.sign(&next(), 49, NOW), Err(SigningReason::Brake));
    hand.sign(&next(), 60, NOW).unwrap();
    for at in [0, 1, 11, 13, 23] {
        let found = hand.sign(&next(), 40, NOW + at * HOUR);
        assert_eq!(found, Err(SigningReason::Brake), "{at}");
    }
    hand.sign(&next(), 60, NOW + 13 * HOUR).unwrap();
    assert_eq!(hand.sign(&next(), 40, NOW + 14 * HOUR), Err(SigningReason::Brake));
    hand.sign(&next(), 40, NOW + 26 * HOUR).unwrap();
    assert_eq!(hand.sign(&next(), 29, NOW + 26 * HOUR), Err(SigningReason::Brake));
    // After days of silence the last count still counts.
    hand.sign(&next(), 20, NOW + 100 * HOUR).unwrap();
    assert_eq!(hand.sign(&next(), 19, NOW + 100 * HOUR), Err(SigningReason::Brake));
    assert_eq!(hand.sign(&next(), 0, NOW + 500 * HOUR), Err(SigningReason::Brake));
    let open = SigningRules { shrink_brake: 1.0, ..rules() };
    assert_eq!(hand.sign_by(&open, &next(), 0, NOW + 500 * HOUR), Err(SigningReason::Brake), "all");
    hand.sign_by(&open, &next(), 1, NOW + 500 * HOUR).unwrap();
}

#[test]
fn what_was_allowed_is_the_new_measure() {
    let mut hand = Hand(SignedMark::default());
    hand.sign(&table(1, 1), 100, NOW).unwrap();
    let fall = table(2, 2);
    let active = forever(10, NOW);
    let verdict = hand.0.judge(&rules(), counted(&fall, &active), NOW).unwrap();
    let SigningVerdict::IfAllowed { mark, needed } = verdict else { panic!("{verdict:?}") };
    let [NeededWord { what: AllowedPart::Fall { active: 10 }, refusal }] = needed.as_slice() else {
        panic!("{needed:?}")
    };
    assert!(refusal.why.contains("10 keys") && refusal.why.contains("100"), "{refusal}");
    hand.0 = mark;
    hand.sign(&fall, 10, NOW).expect("an answer that was lost");
    hand.sign(&table(3, 3), 6, NOW).unwrap();
    assert_eq!(hand.sign(&table(4, 4), 4, NOW), Err(SigningReason::Brake));
}

#[test]
fn a_manifest_is_what_the_signer_was_told_to_sign() {
    let limited = SigningRules {
        longest_life: Some(3600),
        shortest_life: 600,
        format: Some(TableFormat::V2),
        ..rules()
    };
    let good = Manifest { expires_at: Some(NOW / 1000 + 3600), ..table(1, 1) };
    let cases = [
        (Manifest { audience: "other".into(), ..good.clone() }, SigningReason::Audience),
        (Manifest { signers: Vec::new(), ..good.clone() }, SigningReason::NotNamed),
        (Manifest { format: 1, ..good.clone() }, SigningReason::File),
        (Manifest { expires_at: None, ..good.clone() }, SigningReason::Life),
        (Manifest { expires_at: Some(NOW / 1000 + 3601), ..good.clone() }, SigningReason::Life),
        (Manifest { expires_at: Some(NOW / 1000), ..good.clone() }, SigningReason::Life),
        (Manifest { expires_at: Some(7), ..good.clone() }, SigningReason::Life),
        (Manifest { expires_at: Some(NOW / 1000 + 599), ..good.clone() }, SigningReason::Life),
        (Manifest { issued_at_ms: NOW + AHEAD_MS + 1, ..good.clone() }, SigningReason::Life),
    ];
    for (file, why) in cases {
        let mut hand = Hand(SignedMark::default());
        assert_eq!(hand.sign_by(&limited, &file, 9, NOW), Err(why), "{file:?}");
    }
    let mut hand = Hand(SignedMark::default());
    hand.sign_by(&limited, &good, 9, NOW).unwrap();
}

/// 100, 51 and 26 of them: the first two in any hour, the third before a day is over.
#[test]
fn halves_within_a_day_are_one_fall() {
    for from in 0..24 {
        let start = NOW + from * HOUR;
        let mut hand = Hand(SignedMark::default());
        hand.sign(&table(1, 1), 100, start).unwrap();
        hand.sign(&table(2, 2), 51, start + 60_000).unwrap();
        for minutes in [1, 59, 719, 721, 1100, 1439] {
            let found = hand.sign(&table(3, 3), 26, start + minutes * 60_000);
            assert_eq!(found, Err(SigningReason::Brake), "{from} {minutes}");
        }
        hand.sign(&table(3, 3), 26, start + 29 * HOUR).unwrap();
    }
}

/// What was in force for weeks was active until a moment ago.
#[test]
fn halves_after_a_silence_are_one_fall() {
    for days in [0, 1, 2, 3, 30, 99, 150, 400] {
        let after = NOW + days * 24 * HOUR + 30 * 60_000;
        let mut hand = Hand(SignedMark::default());
        hand.sign(&table(1, 1), 100, NOW).unwrap();
        hand.sign(&table(2, 2), 51, after).unwrap();
        for minutes in [0, 1, 719, 1100, 1439] {
            let found = hand.sign(&table(3, 3), 26, after + minutes * 60_000);
            assert_eq!(found, Err(SigningReason::Brake), "{days} {minutes}");
        }
        hand.sign(&table(3, 3), 26, after + 29 * HOUR).unwrap();
    }
}

/// One question must not use up what all later changes need.
#[test]
fn serials_rise_by_a_step_and_to_an_end() {
    let mut hand = Hand(SignedMark::default());
    for (serial, what) in [
        ((1 << 53) - 1, "the highest of all"),
        (HIGHEST + 1, "above what anybody chooses"),
        (HIGHEST, "the highest that is chosen"),
        (MOST_AT_ONCE + 1, "a step too far"),
    ] {
        assert_eq!(hand.sign(&table(serial, 1), 9, NOW), Err(SigningReason::Leap), "{what}");
    }
    hand.sign(&table(5, 1), 9, NOW).expect("an honest one");
    // The time of day in milliseconds, as somebody may have chosen.
    hand.sign(&table(NOW, 2), 9, NOW).unwrap();
    hand.sign(&table(MOST_AT_ONCE, 3), 9, NOW).unwrap();
    assert_eq!(hand.sign(&table(MOST_AT_ONCE + 1, 4), 9, NOW), Err(SigningReason::Leap));
    // A second later the next changes pass, but never everything that is left.
    hand.sign(&table(MOST_AT_ONCE + 10_000, 4), 9, NOW + 1000).unwrap();
    let year = 365 * 24 * HOUR;
    for n in 1..100u64 {
        let serial = (n + 1) * MOST_AT_ONCE;
        let found = hand.sign(&table(serial + 2_000_000, 5), 9, NOW + n * year);
        assert_eq!(found, Err(SigningReason::Leap), "{n}");
        hand.sign(&table(serial, 5), 9, NOW + n * year).unwrap();
    }
    // The configuration moves the floor, and with it the step.
    let floor = SigningRules { min_serial: 1 << 51, ..rules() };
    let mut hand = Hand(SignedMark::default());
    hand.sign_by(&floor, &table((1 << 51) + MOST_AT_ONCE, 1), 9, NOW).unwrap();
}

/// With an allowance, serials continue from where they are, be it lower or far ahead. They never
/// repeat with other content, or leave the range between floor and end.
#[test]
fn a_word_lets_serials_go_on() {
    let judged = |mark: &SignedMark, file: &Manifest| {
        let active = forever(9, NOW);
        mark.judge(&rules(), counted(file, &active), NOW)
    };
    let allowed = |mark: &SignedMark, file: &Manifest| match judged(mark, file).unwrap() {
        SigningVerdict::IfAllowed { mark, needed } => {
            let serial = file.serial;
            assert_eq!(needed.len(), 1);
            assert_eq!(needed[0].what, AllowedPart::Serial { serial });
            let why = &needed[0].refusal.why;
            assert!(why.contains(&format!("--audience shop --serial {serial}`")), "{why}");
            if serial < mark.serial() {
                assert!(why.find("admin recover") < why.find("signer allow"), "{why}");
            }
            mark
        }
        other => panic!("{other:?}"),
    };
    let mut hand = Hand(SignedMark::default());
    hand.sign(&table(50, 1), 9, NOW).unwrap();
    // An intruder uses serials up.
    hand.sign(&table(MOST_AT_ONCE, 2), 9, NOW).unwrap();
    hand.0 = allowed(&hand.0, &table(51, 3));
    assert_eq!(hand.0.serial(), 51);
    hand.sign(&patch(52, &table(51, 3)), 9, NOW).unwrap();
    assert_eq!(hand.sign(&table(52, 4), 9, NOW), Err(SigningReason::OtherContent));
    hand.0 = allowed(&hand.0, &table(HIGHEST - 10, 5));
    hand.sign(&table(HIGHEST - 9, 6), 9, NOW).expect("in the same moment");
    assert_eq!(judged(&hand.0, &table(HIGHEST + 1, 7)).unwrap_err().reason, SigningReason::Leap);
    let floor = SigningRules { min_serial: 100, ..rules() };
    let (low, active) = (table(99, 8), forever(9, NOW));
    assert!(hand.0.judge(&floor, counted(&low, &active), NOW).is_err());
    // A leap and a fall need an allowance each.
    let mut hand = Hand(SignedMark::default());
    hand.sign(&table(5, 1), 100, NOW).unwrap();
    match judged(&hand.0, &table(4, 2)).unwrap() {
        SigningVerdict::IfAllowed { needed, .. } => assert_eq!(needed.len(), 2, "{needed:?}"),
        other => panic!("{other:?}"),
    }
}

/// A name that a shell would not read as one word.
#[test]
fn what_a_refusal_says_can_be_typed() {
    let name = "a shop; $(x)";
    let rules = SigningRules::standard(name.into());
    let of = |file: Manifest| Manifest { audience: name.into(), ..file };
    let mut hand = Hand(SignedMark::default());
    hand.sign_by(&rules, &of(table(5, 1)), 100, NOW).unwrap();
    let active = forever(1, NOW);
    let verdict = hand.0.judge(&rules, counted(&of(table(4, 2)), &active), NOW).unwrap();
    let SigningVerdict::IfAllowed { needed, .. } = verdict else { panic!("{verdict:?}") };
    assert_eq!(needed.len(), 2);
    for NeededWord { refusal, .. } in needed {
        assert!(refusal.why.contains("--audience 'a shop; $(x)' --"), "{refusal}");
    }
}

#[test]
fn an_audit_log_does_not_go_back_nor_too_far() {
    let end = |seq, hash| AskedCheckpoint { seq, hash: [hash; 32], recovered_from: None };
    let signed = |mark: &AuditMark, asked| match mark.judge(asked, NOW).unwrap() {
        CheckpointVerdict::New(mark) => mark,
        other => panic!("{other:?}"),
    };
    let allowed = |mark: &AuditMark, asked| match mark.judge(asked, NOW).unwrap() {
        CheckpointVerdict::IfAllowed { mark, refusal } => {
            assert_eq!(refusal.reason, SigningReason::Checkpoint);
            assert!(refusal.why.contains("signer allow --recovery"), "{refusal}");
            mark
        }
        other => panic!("{other:?}"),
    };
    let none = AuditMark::default();
    for no_line in [0, HIGHEST + 1, 1 << 63, u64::MAX] {
        assert!(none.judge(end(no_line, 1), NOW).is_err(), "{no_line}");
    }
    let mark = signed(&none, end(5, 1));
    assert_eq!(mark.judge(end(5, 1), NOW), Ok(CheckpointVerdict::Again));
    for odd in [end(5, 2), end(4, 1), end(6 + MOST_AT_ONCE, 1), end(HIGHEST, 1)] {
        allowed(&mark, odd);
    }
    assert_eq!(signed(&mark, end(6, 7)).seq(), 6);
    let far = signed(&mark, end(MOST_AT_ONCE, 7));
    allowed(&far, end(MOST_AT_ONCE + 6, 7));
    // It has been used up, and the log continues where it is.
    let back = allowed(&far, end(7, 8));
    assert_eq!(signed(&back, end(8, 9)).seq(), 8);
    let recovered = AskedCheckpoint { recovered_from: Some(2), ..end(3, 3) };
    let next = allowed(&mark, recovered);
    assert_eq!(next.judge(recovered, NOW), Ok(CheckpointVerdict::Again), "the answer was lost");
    assert_eq!(signed(&next, end(4, 4)).seq(), 4);
}
