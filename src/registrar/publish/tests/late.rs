//! Drafts that are not signed in time, or whose number of signers changes in the meantime.

use super::several::{key, sign_over};
use super::signed::{behind_a_socket, configure};
use super::*;
use crate::manage::signer::{Signer, table_key};
use crate::registrar::store::{ArtefactKind, ArtefactState, Changed, Publication};

const SIGNER: &str = "signer = \"signer.pem\"";

/// A service that signs first, and several who may sign after it.
struct Circle {
    house: House,
    others: Vec<(&'static str, Signer)>,
}

// === impl Circle ===

impl Circle {
    fn new(required: usize, names: &[&'static str]) -> Self {
        let house = House::new();
        let others: Vec<_> = names.iter().map(|name| (*name, key(&house, name))).collect();
        let mut text = format!("{SIGNER}\nrequired_signers = {required}\n");
        for name in names {
            text += &of_signer(name);
        }
        configure(&house, SIGNER, &text);
        Self { house, others }
    }

    /// Signs what `name` has to sign, of one kind or both. Returns how many files those were.
    async fn sign(&self, service: &Service, name: &str, kinds: &[ArtefactKind]) -> usize {
        let drafts = service.state().drafts;
        let mut signed = 0;
        for draft in drafts.iter().filter(|draft| kinds.contains(&draft.kind)) {
            let kept = service.store.artefact(&audience(), draft.kind, draft.serial).await.unwrap();
            let kept = service
                .store
                .sign_draft(sign_over(self.signer(name), kept.unwrap()))
                .await
                .unwrap();
            assert!(kept.is_some(), "{draft:?}");
            signed += 1;
        }
        signed
    }

    /// Puts a table and a patch in force, with keys in them, and returns one of the keys.
    async fn begun(&self, service: &Service, names: &[&str]) -> Changed {
        import(&service.store, 3).await;
        let made = create(&service.store, "CRM").await;
        let signing = async {
            loop {
                for draft in service.state().drafts {
                    let kept = service.store.artefact(&audience(), draft.kind, draft.serial).await;
                    // It was published between the two.
                    let Some(mut kept) = kept.unwrap() else { continue };
                    for name in names {
                        kept = sign_over(self.signer(name), kept);
                    }
                    service.store.sign_draft(kept).await.unwrap();
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::select! {
            () = service.published(made.serial) => {}
            () = signing => {}
        }
        service.until(|state| state.drafts.is_empty()).await;
        made
    }

    fn signer(&self, name: &str) -> &Signer {
        &self.others.iter().find(|(other, _)| *other == name).unwrap().1
    }

    /// The trust of sidecars that require that many signatures.
    fn trust(&self, required: usize) -> Trust {
        let own = self.house.settings().audiences[0].signer.clone().unwrap().public().unwrap();
        let others = self.others.iter().map(|(_, signer)| table_key(signer.public()).unwrap());
        Trust::new([own].into_iter().chain(others), required, "shop").unwrap()
    }
}

const BOTH: [ArtefactKind; 2] = [ArtefactKind::Table, ArtefactKind::Patch];

fn of_signer(name: &str) -> String {
    format!("[[audiences.co_signers]]\nname = \"{name}\"\npublic = \"{name}.pub.pem\"\n")
}

fn now_s() -> u64 {
    Clock::system().now().unix_ms / 1000
}

fn is_revoked(house: &House, made: &Changed) -> bool {
    let mut sidecar = house.sidecar();
    sidecar.look(house).unwrap();
    sidecar.status(&made.key.entry.digest) == Some(KeyStatus::Revoked)
}

/// A signer that does not know the table under a patch never signs the patch. They get a table,
/// although nobody changes anything else.
#[test]
fn a_patch_that_nobody_signs_becomes_a_table_without_another_change() {
    let circle = Circle::new(2, &["security", "operations"]);
    let clock = Clock::manual(now_s());
    run(async {
        let service = circle.house.serve_at(clock.clone()).await;
        let made = circle.begun(&service, &["security"]).await;
        let revoked = revoke(&service.store, made.key.entry.id).await.unwrap();
        service.until(|state| state.drafts.len() == 1).await;
        let draft = service.state().drafts.remove(0);
        assert_eq!((draft.kind, draft.serial), (ArtefactKind::Patch, revoked));
        clock.advance(Duration::from_secs(61));
        service.until(|state| state.drafts.len() == 2).await;
        let drafts = service.state().drafts;
        assert_eq!((drafts[0].kind, drafts[0].serial), (ArtefactKind::Table, revoked + 1));
        circle.sign(&service, "operations", &BOTH).await;
        service.published(revoked).await;
        assert!(is_revoked(&circle.house, &made));
        // The next change is a patch over it.
        let next = create(&service.store, "ERP").await;
        service.until(|state| state.drafts.len() == 1).await;
        circle.sign(&service, "operations", &BOTH).await;
        service.published(next.serial).await;
        service.publisher.stop();
    });
}

/// One has signed the patch, one does not know its table, and one is away.
#[test]
fn a_patch_that_too_few_sign_becomes_a_table() {
    let circle = Circle::new(3, &["security", "operations", "audit"]);
    let clock = Clock::manual(now_s());
    run(async {
        let service = circle.house.serve_at(clock.clone()).await;
        let made = circle.begun(&service, &["security", "operations"]).await;
        let revoked = revoke(&service.store, made.key.entry.id).await.unwrap();
        service.until(|state| state.drafts.len() == 1).await;
        circle.sign(&service, "security", &BOTH).await;
        let missing = [Box::from("operations"), Box::from("audit")];
        service.until(|state| state.drafts.iter().all(|draft| draft.missing == missing)).await;
        clock.advance(Duration::from_secs(3601));
        service.until(|state| state.drafts.len() == 2).await;
        for name in ["security", "audit"] {
            assert_eq!(circle.sign(&service, name, &BOTH).await, 2);
        }
        service.published(revoked).await;
        assert!(is_revoked(&circle.house, &made));
        service.publisher.stop();
    });
}

/// Enough had signed the table, but more have to before it is in force.
#[test]
fn a_table_waits_for_as_many_as_have_to_sign_now() {
    let circle = Circle::new(2, &["security", "operations"]);
    run(async {
        let service = circle.house.serve().await;
        service.until(|state| state.drafts.len() == 2).await;
        circle.sign(&service, "security", &[ArtefactKind::Table]).await;
        service.until(|state| state.drafts.len() == 1).await;
        service.publisher.stop();
        // As after a crash between the two files, or with an earlier version of the service.
        let head = service.store.publication(&audience()).await.unwrap().table.unwrap();
        let mut kept = service.store.artefact(&audience(), head.kind, head.serial).await.unwrap();
        kept.as_mut().unwrap().head.state = ArtefactState::Signed;
        let kept = service.store.sign_draft(kept.unwrap()).await.unwrap().unwrap();
        assert_eq!(kept.head.state, ArtefactState::Signed);
        close(&circle.house, service.store).await;
        configure(&circle.house, "required_signers = 2", "required_signers = 3");
        let service = circle.house.serve().await;
        service.until(|state| state.drafts.len() == 2).await;
        assert_eq!(service.state().drafts[0].missing, [Box::from("operations")]);
        for name in ["security", "operations"] {
            circle.sign(&service, name, &[ArtefactKind::Patch]).await;
        }
        service.until(|state| state.drafts.len() == 1).await;
        assert_eq!(service.state().drafts[0].kind, ArtefactKind::Table);
        assert!(!circle.house.root.join("out/keys.kgt").exists());
        circle.sign(&service, "operations", &BOTH).await;
        service.until(|state| state.published > 0).await;
        let file = |name| fs::read(circle.house.root.join("out").join(name)).unwrap();
        Table::open(file("keys.kgt"), &circle.trust(3), &Bounds::default()).unwrap();
        Patch::open(file("keys.kgp"), &circle.trust(3), &Bounds::default()).unwrap();
        service.publisher.stop();
    });
}

/// The clock was ahead when a draft was made. The draft does not wait until that time comes.
#[test]
fn a_draft_of_a_clock_that_was_ahead_is_made_anew() {
    let circle = Circle::new(2, &["security"]);
    let now = now_s();
    run(async {
        let service = circle.house.serve_at(Clock::manual(now)).await;
        let made = circle.begun(&service, &["security"]).await;
        service.publisher.stop();
        let ahead = circle.house.serve_at(Clock::manual(now + 10 * 365 * 86_400)).await;
        let revoked = revoke(&ahead.store, made.key.entry.id).await.unwrap();
        ahead.until(|state| state.drafts.iter().any(|draft| draft.serial >= revoked)).await;
        let draft = ahead.state().drafts.pop().unwrap();
        ahead.publisher.stop();
        let service = circle.house.serve_at(Clock::manual(now)).await;
        service.until(|state| state.drafts.len() == 2).await;
        service.until(|state| state.drafts[0].serial > draft.serial).await;
        circle.sign(&service, "security", &BOTH).await;
        service.published(revoked).await;
        assert!(is_revoked(&circle.house, &made));
        service.publisher.stop();
    });
}

/// A draft for other signers has to be made again while the service's own signer is away. No serial
/// is used up in the meantime, and signers named by both may sign the existing draft.
#[test]
fn a_draft_waits_until_another_is_in_its_place() {
    let circle = Circle::new(2, &["security", "operations"]);
    behind_a_socket(&circle.house);
    run(async {
        let service = circle.house.serve().await;
        let made = circle.begun(&service, &["security"]).await;
        let revoked = revoke(&service.store, made.key.entry.id).await.unwrap();
        service.until(|state| state.drafts.len() == 1).await;
        service.publisher.stop();
        let at = |name| circle.house.root.join(name);
        fs::rename(at("signer.sock"), at("away.sock")).unwrap();
        configure(&circle.house, &of_signer("operations"), "");
        let service = circle.house.serve().await;
        let hindered = |reason| move |state: &PublicationState| state.hindrance() == Some(reason);
        service.until(hindered(UnpublishedReason::SignerUnreachable)).await;
        service.until(hindered(UnpublishedReason::AwaitingSignatures)).await;
        let state = service.state();
        assert_eq!((state.drafts.len(), state.drafts[0].serial), (1, revoked));
        let publication = service.store.publication(&audience()).await.unwrap();
        assert_eq!(publication.serial, revoked, "none was used up");
        circle.sign(&service, "security", &BOTH).await;
        service.published(revoked).await;
        assert!(is_revoked(&circle.house, &made));
        fs::rename(at("away.sock"), at("signer.sock")).unwrap();
        service.publisher.stop();
    });
}

/// Neither a revocation nor a table.
#[test]
fn a_target_that_cannot_be_written_keeps_nothing_from_the_others() {
    let house = House::new();
    let first = "directory = \"out\"";
    let both = format!("{first}\n[[audiences.targets]]\ndirectory = \"full\"");
    configure(&house, first, &both);
    fs::create_dir_all(house.root.join("full/keys.kgt/in-the-way")).unwrap();
    let mut sidecar = house.sidecar();
    run(async {
        let service = house.serve().await;
        // What the database says: the state of the publisher is that of the worst target.
        let until = async |is: &dyn Fn(&Publication) -> bool| {
            let reached = async {
                loop {
                    let found = service.store.publication(&audience()).await.unwrap();
                    if is(&found) {
                        return found;
                    }
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            let found = tokio::time::timeout(DEADLINE, reached).await;
            found.unwrap_or_else(|_| panic!("{:?}", service.state()))
        };
        let base = until(&|found| found.published > 0).await.base;
        let leaked = create(&service.store, "leaked").await;
        let serial = revoke(&service.store, leaked.key.entry.id).await.unwrap();
        until(&|found| found.published >= serial).await;
        change_settings(&service.store, 1).await;
        let table = until(&|found| found.base > base).await.base;
        until(&|found| found.published >= table).await;
        service.until(|state| state.unpublished.is_some()).await;
        let reason = service.state().unpublished.unwrap().reason;
        assert_eq!(reason, UnpublishedReason::Target);
        sidecar.look(&house).unwrap();
        assert_eq!(sidecar.status(&leaked.key.entry.digest), Some(KeyStatus::Revoked));
        service.publisher.stop();
    });
}

/// Such an audience has no targets. Sidecars that fetch get what was published.
#[test]
fn what_was_published_is_served_on_without_a_signer() {
    let house = House::on_server();
    let other = house.beside();
    run(async {
        let signing = house.serve().await;
        let made = create(&signing.store, "CRM").await;
        signing.published(made.serial).await;
        let targets = format!("{SIGNER}\n[[audiences.targets]]\ndirectory = \"out\"\n");
        configure(&other, &targets, "");
        let serving = other.serve().await;
        let serves = async |serial: u64| {
            let reached = async {
                let shelf = &serving.shelf;
                let is_there = || {
                    let served = shelf.get("shop");
                    served.table.served().is_some()
                        && served.patch.served().is_some_and(|patch| patch.tag.serial >= serial)
                };
                while !is_there() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            tokio::time::timeout(DEADLINE, reached).await.expect("it is served");
        };
        serves(made.serial).await;
        // What another instance signs, too.
        let serial = revoke(&signing.store, made.key.entry.id).await.unwrap();
        signing.published(serial).await;
        serves(serial).await;
        [signing, serving].into_iter().for_each(|service| service.publisher.stop());
    });
}
