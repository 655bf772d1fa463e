//! Clients with bad intentions, with or without permission to connect.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::result::Result;
use std::time::Duration;

use super::super::wire::{ANSWER_HEAD, QuestionHead, SigningQuestion, answer_length, read_answer};
use super::*;
use crate::core::Environment;
use crate::table::SignedHead;
use crate::table::write::RemovalOf;

/// So that nothing hangs.
const PATIENCE: Duration = Duration::from_secs(60);

fn connect(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// The answer to these bytes; `None`: the connection was closed without one.
fn told(stream: &mut UnixStream) -> Option<Result<Vec<u8>, SigningRefusal>> {
    let mut head = [0; ANSWER_HEAD];
    stream.read_exact(&mut head).ok()?;
    let mut said = vec![0; answer_length(&head).unwrap()];
    stream.read_exact(&mut said).unwrap();
    Some(read_answer(&head, said).unwrap())
}

fn asked(socket: &Path, bytes: &[u8]) -> Option<Result<Vec<u8>, SigningRefusal>> {
    let mut stream = connect(socket);
    // A signer that refuses early does not wait for the rest.
    stream.write_all(bytes).ok();
    stream.shutdown(std::net::Shutdown::Write).ok();
    told(&mut stream)
}

fn question(question: SigningQuestion, body: &[u8]) -> Vec<u8> {
    let length = body.len() as u64;
    [&QuestionHead { question, length }.to_bytes(), body].concat()
}

/// The signer continues after each of them, and signs what is right.
#[test]
fn garbage_gets_no_signature() {
    let house = House::new();
    let socket = house.desk();
    let mut good = house.table(3, 0..10);
    let file = good.bytes();
    let head =
        |length| QuestionHead { question: SigningQuestion::File, length }.to_bytes().to_vec();
    let long = u64::MAX;
    let reason = |answer: Option<Result<Vec<u8>, SigningRefusal>>| {
        answer.map(|answer| answer.unwrap_err().reason)
    };
    let (file_odd, large) = (Some(SigningReason::File), Some(SigningReason::TooLarge));
    for (what, bytes, want) in [
        ("nothing", Vec::new(), None),
        ("half a head", head(9)[..7].to_vec(), None),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), file_odd),
        ("a huge length", head(long), large),
        ("one byte more than is taken", head((64 << 20) + 1), large),
        ("a body that breaks off", [head(file.len() as u64), file[..50].to_vec()].concat(), None),
        ("no body", head(0), file_odd),
        ("zeros", question(SigningQuestion::File, &[0; 4096]), file_odd),
        ("half a file", question(SigningQuestion::File, &file[..file.len() / 2]), file_odd),
        (
            "a file and more",
            question(SigningQuestion::File, &[file.clone(), vec![0; 64]].concat()),
            file_odd,
        ),
        ("a checkpoint as a file", question(SigningQuestion::File, b"kg-audit"), file_odd),
        (
            "a message as a checkpoint",
            question(SigningQuestion::Checkpoint, good.0.message()),
            Some(SigningReason::Checkpoint),
        ),
        ("a long checkpoint", question(SigningQuestion::Checkpoint, &[0; 2000]), large),
    ] {
        assert_eq!(reason(asked(&socket, &bytes)), want, "{what}");
    }
    // Every byte of the body counts. The manifest in front of it states what the signer judges.
    let body_at = SignedHead::bytes_of(&file).unwrap().len();
    for at in (body_at..file.len()).step_by(7) {
        let mut bad = file.clone();
        bad[at] ^= 1;
        let answer = asked(&socket, &question(SigningQuestion::File, &bad)).unwrap();
        if let Ok(signature) = answer {
            panic!("byte {at} was turned over, and signed: {signature:?}");
        }
    }
    ask_file(&socket, &mut good.0).expect("the good one");
}

/// The manifest of one body, and another body with the stated hash: its counts are not true.
#[test]
fn a_manifest_that_lies_of_its_body_is_refused() {
    let house = House::new();
    let mut keeper = house.keeper();
    house.table(3, 0..10).by(&mut keeper).unwrap();
    let file = house.table(4, 0..2).bytes();
    let text = String::from_utf8_lossy(&file).into_owned();
    let at = text.find("\"active\":2").unwrap();
    let mut forged = file.clone();
    forged[at..at + 10].copy_from_slice(b"\"active\":9");
    let refusal = keeper.sign_file(Buffer::from(forged), NOW).unwrap_err();
    assert_eq!(refusal.reason, SigningReason::File, "{refusal}");
    let refusal = keeper.sign_file(Buffer::from(file), NOW).unwrap_err();
    assert_eq!(refusal.reason, SigningReason::Brake, "{refusal}");
}

#[test]
fn old_equal_foreign_and_empty_are_refused() {
    let house = House::new();
    let socket = house.desk();
    let mut first = house.table(5, 0..10);
    ask_file(&socket, &mut first.0).unwrap();
    ask_file(&socket, &mut house.table(6, 0..10).0).unwrap();
    let refused = |paper: &mut Paper| reason(ask_file(&socket, &mut paper.0).unwrap_err());
    assert_eq!(refused(&mut house.table(4, 0..10)), SigningReason::Serial);
    assert_eq!(refused(&mut first), SigningReason::Serial, "it was signed once");
    assert_eq!(refused(&mut house.table(6, 0..11)), SigningReason::OtherContent);
    assert_eq!(refused(&mut house.table(7, 0..0)), SigningReason::Brake);
    assert_eq!(refused(&mut house.table(7, 0..4)), SigningReason::Brake);
    let mut stranger = house.table(1, 0..3);
    assert_eq!(refused(&mut house.patch(7, &mut stranger, 0..9)), SigningReason::Base);
    let specs = [spec(1)];
    let of = |issue: Issue| Paper(body(&specs).into_table(issue).unwrap());
    let foreign = Issue { audience: "other".into(), ..house.issue(7) };
    assert_eq!(refused(&mut of(foreign)), SigningReason::Audience);
    let unnamed = Issue { signers: Vec::new(), ..house.issue(7) };
    assert_eq!(refused(&mut of(unnamed)), SigningReason::NotNamed);
    let late = Issue { issued_at_ms: u64::MAX / 2, ..house.issue(7) };
    assert_eq!(refused(&mut of(late)), SigningReason::Life);
    let mut keeper = SigningKeeper::open(KeeperTerms {
        rules: vec![SigningRules {
            format: Some(TableFormat::V2),
            ..House::new().terms().rules.remove(0)
        }],
        ..House::new().terms()
    })
    .unwrap();
    let old = body_in(TableFormat::V1, &specs).into_table(house.issue(7)).unwrap();
    let refused = Paper(old).by(&mut keeper);
    assert!(matches!(refused, Err(SigningReason::File | SigningReason::NotNamed)), "{refused:?}");
}

/// A thousand connections that say nothing, and one that sends a byte now and then: others are told
/// to come again, and are served once those are gone.
#[test]
fn many_who_say_nothing_keep_nobody_out_for_long() {
    let house = House::new();
    let socket = house.desk();
    let mut idle = Vec::new();
    let mut told_busy = 0;
    for _ in 0..1000 {
        let Ok(mut stream) = UnixStream::connect(&socket) else { continue };
        stream.write_all(b"KG").ok();
        idle.push(stream);
    }
    for stream in &mut idle {
        stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        if let Some(Err(SigningRefusal { reason: SigningReason::Busy, .. })) = told(stream) {
            told_busy += 1;
        }
    }
    assert!(told_busy > 500, "{told_busy} were told to come again");
    drop(idle);
    let mut table = house.table(3, 0..10);
    // Until the last of them is noticed.
    for _ in 0..200 {
        match ask_file(&socket, &mut table.0) {
            Ok(_) => return,
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
    panic!("nobody is served any more");
}

/// Slower than the time for a head: the connection ends, and the place is free.
#[test]
fn who_speaks_too_slowly_is_let_go() {
    let house = House::new();
    let socket = house.desk();
    let mut slow = connect(&socket);
    for byte in b"KGSIGN" {
        if slow.write_all(&[*byte]).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    // Ends without an answer, long before the test's patience does.
    assert_eq!(told(&mut slow), None);
    ask_file(&socket, &mut house.table(3, 0..10).0).unwrap();
}

/// The kernel says who is at the other end, whoever the file's mode lets connect.
#[test]
fn another_user_is_not_heard() {
    let house = House::new();
    let us = rustix::process::geteuid().as_raw();
    let socket = house.desk_for(vec![us + 1]);
    let mut table = house.table(3, 0..10);
    let answer = asked(&socket, &question(SigningQuestion::File, &table.bytes()));
    assert_eq!(answer, None);
    assert!(matches!(ask_file(&socket, &mut table.0), Err(SignFault::Away(_))));
    assert!(!house.path(HIGH_WATER).exists(), "nothing was signed");
}

/// Of the length that is taken one at a time, sent by several clients together.
#[test]
fn large_files_are_taken_one_after_the_other() {
    let house = House::new();
    let socket = house.desk();
    let hands: Vec<_> = (1..4)
        .map(|serial| {
            let mut table = house.table(serial, 0..20_000);
            assert!(table.0.file_bytes() > 1 << 20);
            let socket = socket.clone();
            std::thread::spawn(move || ask_file(&socket, &mut table.0).is_ok())
        })
        .collect();
    let signed = hands.into_iter().map(|hand| hand.join().unwrap());
    assert!(signed.filter(|is_signed| *is_signed).count() >= 1);
    ask_file(&socket, &mut house.table(9, 0..20_000).0).unwrap();
}

/// Sidecars add up what they hold. Two patches that each end half the keys, or a patch and a table,
/// would end them all. So would a table after a restart of the signer, which then knows no patch.
#[test]
fn halves_do_not_add_up() {
    let house = House::new();
    let mut keeper = house.keeper();
    let mut table = house.table(11, 0..10);
    table.by(&mut keeper).unwrap();
    house.patch(21, &mut table, 5..10).by(&mut keeper).unwrap();
    let lagging = |serial: u64| Issue { includes_through: 11, ..house.issue(serial) };
    let other = PatchDraft::difference(&table.opened(), (0..5).map(spec));
    let mut other = Paper(other.build(lagging(22)).unwrap());
    assert_eq!(other.by(&mut keeper), Err(SigningReason::Stale));
    let rest: Vec<_> = (0..5).map(spec).collect();
    let half = || Paper(body(&rest).into_table(lagging(30)).unwrap());
    assert_eq!(half().by(&mut keeper), Err(SigningReason::Stale), "with the patch it leaves none");
    drop(keeper);
    let mut keeper = house.keeper();
    assert_eq!(half().by(&mut keeper), Err(SigningReason::Stale), "it has not read all patches");
    drop(keeper);
    for file in fs::read_dir(house.root.path()).unwrap().flatten() {
        if file.path().extension().is_some_and(|end| end == "kgp") {
            fs::remove_file(file.path()).unwrap();
        }
    }
    let mut keeper = house.keeper();
    assert_eq!(half().by(&mut keeper), Err(SigningReason::Stale), "it has lost a patch");
    let patch = house.patch(31, &mut table, 1..10).by(&mut keeper);
    assert_eq!(patch, Err(SigningReason::Base), "nor what sidecars have over the table");
    // A table that includes everything signed, with the keys that patches have not ended.
    let all: Vec<_> = (0..10).map(spec).collect();
    let whole = Issue { includes_through: 21, ..house.issue(40) };
    Paper(body(&all).into_table(whole).unwrap()).by(&mut keeper).unwrap();
}

/// A patch that removes secrets that nobody has, under the ids of existing keys.
fn phantoms(house: &House, serial: u64, over: &mut Paper, ids: std::ops::Range<u32>) -> Paper {
    let mut draft = PatchDraft::over(&over.opened());
    for n in ids {
        let digest = crate::core::Digest::of(format!("nobody's {n}").as_bytes());
        draft.remove(digest, spec(n).id, RemovalOf::Key);
    }
    Paper(draft.build(house.issue(serial)).unwrap())
}

/// Whoever controls the service decides which of the signed files a sidecar gets: an older table,
/// and what later patches forbid. However they choose, most keys that should be active are active.
#[test]
fn what_is_withheld_counts_as_well() {
    let ends = |house: &House, serial: u64, over: &mut Paper, keys: std::ops::Range<u32>| {
        let left = (0..100).filter(|n| !keys.contains(n)).map(spec);
        let draft = PatchDraft::difference(&over.opened(), left);
        Paper(draft.build(house.issue(serial)).unwrap())
    };
    for restarted in [false, true] {
        let again = |house: &House, keeper: SigningKeeper| match restarted {
            true => {
                drop(keeper);
                house.keeper()
            }
            false => keeper,
        };
        let two_tables = |house: &House, between: &mut dyn FnMut(&mut Paper) -> Option<Paper>| {
            let mut keeper = house.keeper();
            let mut old = house.table(1, 0..100);
            old.by(&mut keeper).unwrap();
            if let Some(mut patch) = between(&mut old) {
                patch.by(&mut keeper).unwrap();
            }
            let mut new = house.table(3, 0..100);
            new.by(&mut keeper).unwrap();
            (again(house, keeper), old, new)
        };
        // Over the newest table in force, and then over the one before.
        let house = House::new();
        let (mut keeper, mut old, mut new) = two_tables(&house, &mut |_| None);
        ends(&house, 4, &mut new, 0..45).by(&mut keeper).unwrap();
        let mut keeper = again(&house, keeper);
        let rest = ends(&house, 5, &mut old, 45..90).by(&mut keeper);
        assert_eq!(rest, Err(SigningReason::Brake), "{restarted}");
        // Several over the one before, which are held together.
        let house = House::new();
        let (mut keeper, mut old, _) = two_tables(&house, &mut |_| None);
        ends(&house, 4, &mut old, 0..33).by(&mut keeper).unwrap();
        let mut keeper = again(&house, keeper);
        let rest = ends(&house, 5, &mut old, 33..66).by(&mut keeper);
        assert_eq!(rest, Err(SigningReason::Brake), "{restarted}");
        // The newer table brings back what a patch over the one before has ended, and nobody gets it.
        let house = House::new();
        let first = |old: &mut Paper| Some(ends(&house, 2, old, 0..45));
        let (mut keeper, _, mut new) = two_tables(&house, &mut { first });
        let rest = ends(&house, 4, &mut new, 45..90).by(&mut keeper);
        assert_eq!(rest, Err(SigningReason::Brake), "{restarted}");
        // A table leaves them out, and the newer one brings them back.
        let house = House::new();
        let mut keeper = house.keeper();
        house.table(1, 0..100).by(&mut keeper).unwrap();
        house.table(2, 45..100).by(&mut keeper).unwrap();
        let mut keeper = again(&house, keeper);
        let mut new = house.table(3, 0..100);
        new.by(&mut keeper).unwrap();
        assert_eq!(
            ends(&house, 4, &mut new, 45..90).by(&mut keeper),
            Err(SigningReason::Brake),
            "{restarted}"
        );
        // A patch does so, and the tables that it is over are no longer kept.
        let house = House::new();
        let (mut keeper, _, mut new) = two_tables(&house, &mut |_| None);
        ends(&house, 4, &mut new, 0..45).by(&mut keeper).unwrap();
        for serial in 5..9 {
            new = house.table(serial, 0..100);
            new.by(&mut keeper).unwrap();
        }
        let mut keeper = again(&house, keeper);
        let rest = ends(&house, 9, &mut new, 45..90).by(&mut keeper);
        assert_eq!(rest, Err(SigningReason::Brake), "{restarted}");
        // A patch adds keys, the next one over the same table lacks them, and the table has them.
        let house = House::new();
        let mut keeper = house.keeper();
        let mut few = house.table(1, 0..55);
        few.by(&mut keeper).unwrap();
        house.patch(2, &mut few, 0..100).by(&mut keeper).unwrap();
        house.patch(3, &mut few, 0..55).by(&mut keeper).unwrap();
        let mut new = house.table(4, 0..100);
        new.by(&mut keeper).unwrap();
        let mut keeper = again(&house, keeper);
        let rest = ends(&house, 5, &mut new, 10..55).by(&mut keeper);
        assert_eq!(rest, Err(SigningReason::Brake), "{restarted}");
        // Somebody has allowed that most keys go.
        let house = House::new();
        let (mut keeper, _, mut new) = two_tables(&house, &mut |_| None);
        house.allow(fall(40), NOW);
        ends(&house, 4, &mut new, 0..60).by(&mut keeper).unwrap();
        house.table(5, 0..100).by(&mut keeper).unwrap();
        let mut keeper = again(&house, keeper);
        let rest = |serial, keys| house.table(serial, keys);
        assert_eq!(rest(6, 0..61).by(&mut keeper), Err(SigningReason::Brake), "{restarted}");
        assert_eq!(rest(6, 60..100).by(&mut keeper), Err(SigningReason::Brake), "{restarted}");
        // Only by ids.
        let house = House::new();
        let (mut keeper, _, mut new) = two_tables(&house, &mut |_| None);
        let rest = phantoms(&house, 4, &mut new, 0..99).by(&mut keeper);
        assert_eq!(rest, Err(SigningReason::Brake), "{restarted}");
        phantoms(&house, 4, &mut new, 0..40).by(&mut keeper).unwrap();
    }
}

/// A sidecar with the older table is left with what both say about a key, which is nothing.
#[test]
fn records_that_have_nothing_in_common_count() {
    let house = House::new();
    let mut keeper = house.keeper();
    let of = |n: u32, environment| {
        let mut spec = spec(n);
        spec.grant.environment = Some(environment);
        spec
    };
    let live: Vec<_> = (0..100).map(|n| of(n, Environment::Live)).collect();
    let mut tables =
        [1, 3].map(|serial| Paper(body(&live).into_table(house.issue(serial)).unwrap()));
    for table in &mut tables {
        table.by(&mut keeper).unwrap();
    }
    let mut draft = PatchDraft::over(&tables[1].opened());
    (0..99).for_each(|n| draft.put(of(n, Environment::Test)));
    let mut patch = Paper(draft.build(house.issue(4)).unwrap());
    assert_eq!(patch.by(&mut keeper), Err(SigningReason::Brake));
}

/// A week later, the end is too long ago, and then keys that are back count.
#[test]
fn what_is_back_counts_after_a_week() {
    let house = House::new();
    let mut keeper = house.keeper();
    let hour = 3_600_000;
    let mut signed = |paper: &mut Paper, hours: u64| {
        let made = keeper.sign_file(Buffer::from(paper.bytes()), NOW + hours * hour);
        made.map(drop)
    };
    let mut table = house.table(1, 0..100);
    signed(&mut table, 0).unwrap();
    signed(&mut house.patch(2, &mut table, 45..100), 1).unwrap();
    signed(&mut house.patch(3, &mut table, 0..100), 2).unwrap();
    let mut serial = 3;
    let mut rest = |hours: u64| {
        serial += 1;
        signed(&mut house.patch(serial, &mut table, 0..55), hours)
    };
    for hours in [3, 30, 7 * 24] {
        let refusal = rest(hours).unwrap_err();
        assert_eq!(refusal.reason, SigningReason::Brake, "{hours}");
        assert!(refusal.why.contains("10 keys would be active within a day"), "{refusal}");
        assert!(refusal.why.contains("that are back do not count"), "{refusal}");
    }
    rest(9 * 24).unwrap();
}

/// After a leak: every key gets a new secret, and the former one ends within the hour.
#[test]
fn a_rotation_of_all_keys_needs_no_word() {
    let house = House::new();
    let mut keeper = house.keeper();
    let pairs: Vec<_> = (0..10).map(pair_spec).collect();
    let mut table = Paper(body(&pairs).into_table(house.issue(1)).unwrap());
    table.by(&mut keeper).unwrap();
    let base = table.opened();
    let former = |n: u32| KeySpec { expires: Some(NOW / 1000 + 3600), ..pair_spec(n) };
    let successor = |n: u32| {
        let secret = format!("successor {n}");
        KeySpec { digest: crate::core::Digest::of(secret.as_bytes()), ..pair_spec(n) }
    };
    let patch = |serial: u64, put: &[KeySpec], gone: &[KeySpec]| {
        let mut draft = PatchDraft::over(&base);
        put.iter().for_each(|key| draft.put(key.clone()));
        gone.iter().for_each(|key| draft.remove(key.digest, key.id, RemovalOf::Secret));
        Paper(draft.build(house.issue(serial)).unwrap())
    };
    let rotated: Vec<_> = (0..10).flat_map(|n| [former(n), successor(n)]).collect();
    patch(2, &rotated[..12], &[]).by(&mut keeper).unwrap();
    patch(3, &rotated, &[]).by(&mut keeper).unwrap();
    let successors: Vec<_> = (0..10).map(successor).collect();
    let formers: Vec<_> = (0..10).map(former).collect();
    patch(4, &successors, &formers).by(&mut keeper).unwrap();
    // The successors are keys like any others.
    let ended = patch(5, &successors[..4], &formers).by(&mut keeper);
    assert_eq!(ended, Err(SigningReason::Brake));
}

/// An ordinary life: keys are revoked, made, rotated and brought back, over one table after the other.
#[test]
fn what_owners_do_needs_no_word() {
    let house = House::new();
    let mut keeper = house.keeper();
    let mut serial = 0;
    let mut next = move || {
        serial += 1;
        serial
    };
    let mut keys = 0..20;
    for _ in 0..6 {
        let mut table = house.table(next(), keys.clone());
        table.by(&mut keeper).unwrap();
        for _ in 0..5 {
            // One is made, and one is revoked.
            keys = keys.start + 1..keys.end + 1;
            house.patch(next(), &mut table, keys.clone()).by(&mut keeper).unwrap();
        }
        let most = keys.start + 2..keys.end;
        house.patch(next(), &mut table, most).by(&mut keeper).unwrap();
        house.patch(next(), &mut table, keys.clone()).by(&mut keeper).unwrap();
        keeper = {
            drop(keeper);
            house.keeper()
        };
    }
}
