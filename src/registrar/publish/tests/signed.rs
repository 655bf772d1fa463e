//! Another process signs, and judges what it signs.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::manage::signer::signs::{SigningReason, SigningRefusal};
use crate::manage::signing::allowance::{Allowance, AllowedPass};
use crate::manage::signing::testkit;
use crate::manage::signing::wire::{QUESTION_HEAD, QuestionHead, SigningQuestion, answer_bytes};
use crate::registrar::publish::high_water::HighWaterFile;
use crate::registrar::publish::outbox::{Outbox, OutboxParts};
use crate::registrar::store::KeyChange;

/// A signer of a version that cannot say how far it has signed. Counts how often it is asked.
fn an_older_signer(house: &House) -> Arc<AtomicUsize> {
    let socket = house.root.join("signer.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let signer = format!("signer = \"unix:{}\"\nsigner_public = \"signer.pem\"", socket.display());
    configure(house, "signer = \"signer.pem\"", &signer);
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = [0; QUESTION_HEAD];
            stream.read_exact(&mut head).unwrap();
            let QuestionHead { question, .. } = QuestionHead::parse(&head).unwrap();
            count.fetch_add(usize::from(question == SigningQuestion::Serial), Ordering::SeqCst);
            let refusal = SigningRefusal::new(SigningReason::File, "not a question to a signer");
            stream.write_all(&answer_bytes(&Err(refusal))).ok();
        }
    });
    asked
}

/// The service does not ask it again each second, with a new thread each time.
#[test]
fn a_signer_that_does_not_know_the_question_is_asked_once() {
    let house = House::new();
    let asked = an_older_signer(&house);
    run(async {
        let (store, settings) = (house.store(), house.settings());
        let options = PublisherOptions {
            store,
            settings: Arc::clone(&settings),
            shelf: ArtefactShelf::default(),
            book: SidecarBook::default(),
            clock: Clock::system(),
        };
        let high_water = HighWaterFile::open(&house.root.join("state")).unwrap();
        let high_water = Arc::new(std::sync::Mutex::new(high_water));
        let (state, _shown) = tokio::sync::watch::channel(PublicationState::default());
        let parts = OutboxParts {
            options: &options,
            audience: &settings.audiences[0],
            state,
            high_water: &high_water,
        };
        let mut outbox = Outbox::new(parts);
        for _ in 0..3 {
            outbox.begin().await.unwrap();
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    });
}

/// Puts a signer with the house's key behind a socket, and has the service ask it.
pub(super) fn behind_a_socket(house: &House) {
    let key = house.root.join("signer.pem");
    let terms = testkit::keeper_terms(&key, &house.root.join("signer"), "shop");
    let socket = testkit::desk(terms, house.root.join("signer.sock"), vec![testkit::us()]);
    let signer = format!("signer = \"unix:{}\"\nsigner_public = \"signer.pem\"", socket.display());
    configure(house, "signer = \"signer.pem\"", &signer);
}

/// The signer after a restart: a new one, which has nothing but its files.
fn start_signer_again(house: &House) {
    let (state, after) = (house.root.join("signer"), house.root.join("signer-after"));
    let key = house.root.join("signer.pem");
    let terms = testkit::keeper_terms(&key, &after, "shop");
    for file in fs::read_dir(&state).unwrap().flatten() {
        if file.file_type().unwrap().is_file() {
            fs::copy(file.path(), after.join(file.file_name())).unwrap();
        }
    }
    testkit::desk(terms, house.root.join("after.sock"), vec![testkit::us()]);
    configure(house, "signer.sock", "after.sock");
}

pub(super) fn configure(house: &House, from: &str, to: &str) {
    let file = house.root.join("admin.toml");
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(&file, text.replace(from, to)).unwrap();
}

#[test]
fn a_signer_at_a_socket_signs_and_loses_no_change_while_it_is_away() {
    let house = House::new();
    behind_a_socket(&house);
    run(async {
        let service = house.serve().await;
        service.until(|state| state.published > 0).await;
        let mut sidecar = house.sidecar();
        sidecar.look(&house).unwrap();
        let first = create(&service.store, "CRM").await;
        service.published(first.serial).await;
        let (socket, away) = (house.root.join("signer.sock"), house.root.join("away.sock"));
        fs::rename(&socket, &away).unwrap();
        let second = create(&service.store, "ERP").await;
        service.until(|state| state.unpublished.is_some()).await;
        let unpublished = service.state().unpublished.unwrap();
        assert_eq!(unpublished.reason, UnpublishedReason::SignerUnreachable, "{unpublished:?}");
        // A restart serves what is signed, whether more can be signed or not.
        service.publisher.stop();
        let service = house.serve().await;
        service.until(|state| state.unpublished.is_some()).await;
        let served = service.shelf.get("shop");
        assert!(served.table.served().is_some() && served.patch.served().is_some());
        assert_eq!(service.state().published, first.serial);
        fs::rename(&away, &socket).unwrap();
        service.published(second.serial).await;
        service.until(|state| state.unpublished.is_none()).await;
        sidecar.look(&house).unwrap();
        for made in [&first, &second] {
            let digest = made.key.entry.digest;
            assert_eq!(sidecar.status(&digest), Some(KeyStatus::Active));
        }
        service.publisher.stop();
    });
}

/// A key that has signed from a file until now: the signer knows no table, and gets a new one.
#[test]
fn a_signer_that_knows_no_table_gets_one() {
    let house = House::new();
    let mut sidecar = house.sidecar();
    run(async {
        let service = house.serve().await;
        let made = create(&service.store, "CRM").await;
        service.published(made.serial).await;
        let base = service.state().base;
        sidecar.look(&house).unwrap();
        service.publisher.stop();
        behind_a_socket(&house);
        let service = house.serve().await;
        let next = create(&service.store, "ERP").await;
        service.published(next.serial).await;
        assert!(service.state().base > base, "{:?}", service.state());
        sidecar.look(&house).unwrap();
        assert_eq!(sidecar.status(&next.key.entry.digest), Some(KeyStatus::Active));
        service.publisher.stop();
    });
}

/// Puts the database, the high-water file and the targets back to an earlier state, while the
/// signer has signed since. Returns the key that was revoked in between, and the signer's serial.
/// `leap`: how much serials rise in between.
async fn put_back(house: &House, leap: u64) -> (crate::registrar::store::Changed, u64) {
    let service = house.serve().await;
    let made = create(&service.store, "CRM").await;
    import(&service.store, 3).await;
    service.until(|state| state.published > made.serial).await;
    let copies = house.root.join("copies");
    fs::create_dir(&copies).unwrap();
    let copy = copies.join("registrar.db");
    SqliteStore::backup(&house.database(), &copy, Duration::from_secs(5), 7).unwrap();
    for name in ["state/high-water.json", "out/keys.kgt", "out/keys.kgp"] {
        let copy = copies.join(Path::new(name).file_name().unwrap());
        // There may be no patch yet.
        fs::copy(house.root.join(name), copy).ok();
    }
    if leap > 0 {
        service.store.claim_serials(&audience(), leap).await.unwrap();
        change_settings(&service.store, 1).await;
        let base = service.state().base;
        service.until(|state| state.base > base + leap).await;
    }
    let serial = revoke(&service.store, made.key.entry.id).await.unwrap();
    service.published(serial).await;
    let signed = service.state().published;
    service.publisher.stop();
    close(house, service.store).await;
    for name in ["state/registrar.db-wal", "state/registrar.db-shm"] {
        fs::remove_file(house.root.join(name)).ok();
    }
    fs::rename(&copy, house.database()).unwrap();
    for name in ["state/high-water.json", "out/keys.kgt", "out/keys.kgp"] {
        let copy = copies.join(Path::new(name).file_name().unwrap());
        fs::remove_file(house.root.join(name)).ok();
        fs::rename(copy, house.root.join(name)).ok();
    }
    (made, signed)
}

/// Only the signer knows that the key was revoked. It says so at the start, and nobody changes,
/// publishes or gets anything before somebody has looked, even after a restart. If the signer is
/// away, it does not hold the start up, and says so later.
#[test]
fn a_signer_that_is_ahead_shows_that_the_database_is_behind() {
    for (leap, is_away) in [(0, false), (1, false), (900, false), (1, true)] {
        let house = House::new();
        behind_a_socket(&house);
        let mut sidecar = house.sidecar();
        run(async {
            let (made, signed) = put_back(&house, leap).await;
            let (socket, away) = (house.root.join("signer.sock"), house.root.join("away.sock"));
            if is_away {
                fs::rename(&socket, &away).unwrap();
            }
            let service = house.serve().await;
            assert_eq!(service.state().behind.is_none(), is_away, "{leap}");
            if is_away {
                fs::rename(&away, &socket).unwrap();
                service.until(|state| state.behind.is_some()).await;
            } else {
                assert!(service.shelf.get("shop").table.served().is_none(), "nothing is served");
            }
            let said = service.state().behind.unwrap().to_string();
            assert!(said.contains(&format!("its signer at least at {signed}")), "{said}");
            let before = service.state().published;
            let late = request(host(), KeyChange::Create(Box::new(new_key("ERP"))));
            assert!(service.store.change(late).await.is_err(), "{leap}");
            let late = revoke(&service.store, made.key.entry.id).await;
            assert!(matches!(late, Err(StoreError::ReadOnly { .. })), "{leap}: {late:?}");
            assert_eq!(service.state().published, before, "{leap}");
            // A start knows it from this, even if the signer is away.
            let is_noted = || {
                let file = HighWaterFile::open(&house.root.join("state")).unwrap();
                file.mark(audience().as_str()).serial == signed
            };
            let noted = async {
                while !is_noted() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(DEADLINE, noted).await.expect("it is noted");
            sidecar.look(&house).unwrap();
            let digest = made.key.entry.digest;
            assert_eq!(sidecar.status(&digest), Some(KeyStatus::Active), "as it was put back");
            service.publisher.stop();
        });
    }
}

/// A table was signed, but the service ended before it was stored. The database says that it was
/// about to be, and changes are published above it.
#[test]
fn a_table_that_was_signed_and_not_kept_is_passed_over() {
    let house = House::new();
    behind_a_socket(&house);
    let mut sidecar = house.sidecar();
    run(async {
        let (made, signed) = put_back(&house, 900).await;
        house.store().note_signing(&audience(), signed).await.unwrap();
        let service = house.serve().await;
        assert!(service.state().behind.is_none());
        let serial = revoke(&service.store, made.key.entry.id).await.unwrap();
        service.published(serial).await;
        service.until(|state| state.published > signed).await;
        sidecar.look(&house).unwrap();
        assert_eq!(sidecar.status(&made.key.entry.digest), Some(KeyStatus::Revoked));
        service.publisher.stop();
    });
}

/// The same, if a table is due and nobody changes anything, and if the signer has restarted since.
/// No clock moves: nothing waits for a minute.
#[test]
fn a_table_that_was_not_kept_is_passed_over_without_a_change() {
    for restarted in [false, true] {
        let house = House::new();
        behind_a_socket(&house);
        run(async {
            let (_, signed) = put_back(&house, 900).await;
            house.store().note_signing(&audience(), signed).await.unwrap();
            if restarted {
                start_signer_again(&house);
            }
            // Half of the life of the table in force has passed.
            configure(&house, "name = \"shop\"", "name = \"shop\"\ntable_life = \"2m\"");
            let later = Clock::system().now().unix_ms / 1000 + 100;
            let service = house.serve_at(Clock::manual(later)).await;
            assert!(service.state().behind.is_none(), "{restarted}");
            service.until(|state| state.base > signed).await;
            service.until(|state| state.unpublished.is_none()).await;
            service.publisher.stop();
        });
    }
}

#[test]
fn a_fall_waits_until_it_is_allowed_on_the_signers_host() {
    let house = House::new();
    behind_a_socket(&house);
    run(async {
        let service = house.serve().await;
        let entries = import(&service.store, 10).await;
        let made = create(&service.store, "CRM").await;
        service.published(made.serial).await;
        let mut serial = 0;
        for entry in &entries[..7] {
            serial = revoke(&service.store, entry.id).await.unwrap();
        }
        service.until(|state| state.unpublished.is_some()).await;
        let unpublished = service.state().unpublished.unwrap();
        assert_eq!(unpublished.reason, UnpublishedReason::SignerRefuses, "{unpublished:?}");
        assert!(unpublished.why.contains("signer allow"), "{unpublished:?}");
        let pass = AllowedPass::Fall { audience: "shop".into(), least: 4 };
        let allowance = Allowance { pass, until_ms: u64::MAX, by: "kim".into() };
        allowance.give(&house.root.join("signer")).unwrap();
        service.published(serial).await;
        let mut sidecar = house.sidecar();
        sidecar.look(&house).unwrap();
        assert_eq!(sidecar.status(&entries[6].digest), Some(KeyStatus::Revoked));
        assert_eq!(sidecar.status(&entries[7].digest), Some(KeyStatus::Active));
        service.publisher.stop();
    });
}
