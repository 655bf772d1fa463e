//! Several signers: nothing is in force before enough have signed, and no change is lost in the
//! meantime.

use super::signed::{behind_a_socket, configure};
use super::*;
use crate::manage::publish::cosigned::{message_of, signers_of, with_signature};
use crate::manage::signer::{Signer, table_key};
use crate::registrar::store::{ArtefactHead, ArtefactKind, StoredArtefact};
use crate::table::PublicKey;

/// A service that signs first, and somebody who signs after it.
pub(super) struct Pair {
    pub(super) house: House,
    pub(super) second: Signer,
}

// === impl Pair ===

impl Pair {
    pub(super) fn new() -> Self {
        Self::of(House::new())
    }

    pub(super) fn of(house: House) -> Self {
        let second = key(&house, "second");
        configure(&house, "signer = \"signer.pem\"", &two("signer = \"signer.pem\"", "second"));
        Self { house, second }
    }

    pub(super) fn load_second(&self) -> Signer {
        Signer::load(&self.house.root.join("second.pem")).unwrap()
    }

    /// Another instance on the same database.
    fn beside(&self) -> House {
        let other = self.house.beside();
        for file in ["second.pub.pem", "signer.pem"] {
            fs::copy(self.house.root.join(file), other.root.join(file)).unwrap();
        }
        configure(&other, "signer = \"signer.pem\"", &two("signer = \"signer.pem\"", "second"));
        other
    }

    fn second_key(&self) -> PublicKey {
        table_key(self.second.public()).unwrap()
    }

    /// The trust of a sidecar that requires two signatures.
    fn trust(&self) -> Trust {
        let own = self.house.settings().audiences[0].signer.clone().unwrap().public().unwrap();
        Trust::new([own, self.second_key()], 2, "shop").unwrap()
    }

    /// What sidecars with this directory accept.
    fn taken(&self, house: &House) -> (Table, Patch) {
        let file = |name| fs::read(house.root.join("out").join(name)).unwrap();
        let table = Table::open(file("keys.kgt"), &self.trust(), &Bounds::default()).unwrap();
        let patch = Patch::open(file("keys.kgp"), &self.trust(), &Bounds::default()).unwrap();
        assert!(patch.is_over(&table));
        (table, patch)
    }

    /// A draft that the second signer has read, with their signature.
    pub(super) fn signed(&self, draft: StoredArtefact) -> StoredArtefact {
        sign_over(&self.second, draft)
    }

    /// Adds the second signature to everything that waits.
    pub(super) async fn co_sign(&self, service: &Service) {
        for draft in service.state().drafts {
            let kept = service.store.artefact(&audience(), draft.kind, draft.serial).await.unwrap();
            // Another instance may have found it signed, and published it.
            let Some(kept) = kept else { continue };
            service.store.sign_draft(self.signed(kept)).await.unwrap();
        }
    }

    /// Signs whatever appears until the change is published.
    pub(super) async fn co_sign_until(&self, service: &Service, serial: u64) {
        let signing = async {
            loop {
                self.co_sign(service).await;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::select! {
            () = service.published(serial) => {}
            () = signing => {}
        }
    }
}

/// A draft with one more signature.
pub(super) fn sign_over(signer: &Signer, draft: StoredArtefact) -> StoredArtefact {
    let signature = signer.sign(&message_of(&draft.body).unwrap()).unwrap();
    let key = table_key(signer.public()).unwrap();
    let body = with_signature(&draft.body, &key, &signature).unwrap();
    let StoredArtefact { head, .. } = draft;
    let head = ArtefactHead { sha256: Digest::of(&body), bytes: body.len() as u64, ..head };
    StoredArtefact { head, body }
}

/// The first draft that waits, as the database has it.
pub(super) async fn kept(service: &Service) -> StoredArtefact {
    let draft = service.state().drafts.remove(0);
    service.store.artefact(&audience(), draft.kind, draft.serial).await.unwrap().unwrap()
}

/// Somebody's key, and its public half.
pub(super) fn key(house: &House, name: &str) -> Signer {
    let private = house.root.join(format!("{name}.pem"));
    let public = house.root.join(format!("{name}.pub.pem"));
    crate::manage::signer::new(&private, Some(&public), &mut Output::sink()).unwrap();
    Signer::load(&private).unwrap()
}

fn two(signer: &str, other: &str) -> String {
    format!(
        "{signer}\nrequired_signers = 2\n[[audiences.co_signers]]\nname = \"{other}\"\n\
         public = \"{other}.pub.pem\""
    )
}

fn reason(service: &Service) -> Option<UnpublishedReason> {
    service.state().unpublished.map(|unpublished| unpublished.reason)
}

fn is_offered(service: &Service) -> bool {
    service.shelf.get("shop").table.served().is_some()
}

#[test]
fn two_of_two_sign_and_nothing_is_in_force_before() {
    let pair = Pair::new();
    run(async {
        let service = pair.house.serve().await;
        service.until(|state| state.drafts.len() == 2 && state.unpublished.is_some()).await;
        assert_eq!(reason(&service), Some(UnpublishedReason::AwaitingSignatures));
        let state = service.state();
        assert_eq!((state.failures, state.published), (0, 0), "nothing has failed");
        assert!(state.unpublished.unwrap().why.ends_with("by 1 of 2, and not yet by second"));
        assert_eq!(state.drafts[0].missing, [Box::from("second")]);
        assert_eq!(
            state.drafts.iter().map(|draft| draft.kind).collect::<Vec<_>>(),
            [ArtefactKind::Table, ArtefactKind::Patch]
        );
        assert!(!pair.house.root.join("out/keys.kgt").exists() && !is_offered(&service));
        let signers = service.store.signers().await.unwrap();
        assert_eq!(signers.len(), 2, "{signers:?}");
        pair.co_sign(&service).await;
        service.until(|state| state.published > 0 && state.drafts.is_empty()).await;
        let made = create(&service.store, "CRM").await;
        service.until(|state| state.drafts.len() == 1).await;
        // A restart forgets neither the draft nor what is in force.
        service.publisher.stop();
        let before = fs::read(pair.house.root.join("out/keys.kgp")).unwrap();
        let service = pair.house.serve().await;
        service.until(|state| state.drafts.len() == 1).await;
        let served = service.shelf.get("shop");
        assert_eq!(served.patch.served().unwrap().bytes, before);
        assert!(service.state().published < made.serial);
        pair.co_sign(&service).await;
        service.published(made.serial).await;
        service.until(|state| state.unpublished.is_none() && state.drafts.is_empty()).await;
        let (_, patch) = pair.taken(&pair.house);
        assert!(patch.serial() >= made.serial);
        service.publisher.stop();
    });
}

/// A signer that was replaced, as after a leak, is not shown as one that signs.
#[test]
fn a_signer_that_is_not_named_any_more_has_retired() {
    let pair = Pair::new();
    run(async {
        let states = async |service: &Service| -> Vec<(String, bool)> {
            let signers = service.store.signers().await.unwrap();
            let state = |signer: &SignerRow| (signer.note.to_string(), signer.retired_ms.is_some());
            let mut states: Vec<_> = signers.iter().map(state).collect();
            states.sort();
            states
        };
        let is = |who: &str, retired: bool| (who.to_owned(), retired);
        let service = pair.house.serve().await;
        assert_eq!(states(&service).await, [is("second", false), is("this service", false)]);
        service.publisher.stop();
        key(&pair.house, "third");
        configure(&pair.house, "second", "third");
        let service = pair.house.serve().await;
        let three = [is("second", true), is("third", false), is("this service", false)];
        assert_eq!(states(&service).await, three);
        let when = |service: &Service| {
            let store = Arc::clone(&service.store);
            async move { store.signers().await.unwrap().iter().find_map(|s| s.retired_ms).unwrap() }
        };
        let since = when(&service).await;
        service.publisher.stop();
        // Of another start the time stays, and one that comes back is active again.
        let service = pair.house.serve().await;
        assert_eq!((states(&service).await, when(&service).await), (three.into(), since));
        service.publisher.stop();
        configure(&pair.house, "third", "second");
        let service = pair.house.serve().await;
        let back = [is("second", false), is("third", true), is("this service", false)];
        assert_eq!(states(&service).await, back);
        service.publisher.stop();
    });
}

/// Only one of a table and the patch over it is signed: sidecars get neither.
#[test]
fn half_a_pair_is_not_in_force() {
    let pair = Pair::new();
    run(async {
        let service = pair.house.serve().await;
        service.until(|state| state.drafts.len() == 2).await;
        let table = service.state().drafts.remove(0);
        let kept = service.store.artefact(&audience(), table.kind, table.serial).await.unwrap();
        service.store.sign_draft(pair.signed(kept.unwrap())).await.unwrap();
        service.until(|state| state.drafts.len() == 1).await;
        assert_eq!(service.state().drafts[0].kind, ArtefactKind::Patch);
        assert!(!pair.house.root.join("out/keys.kgt").exists() && !is_offered(&service));
        assert_eq!(service.store.publication(&audience()).await.unwrap().base, 0);
        service.publisher.stop();
        // Not after a restart either.
        let service = pair.house.serve().await;
        service.until(|state| state.drafts.len() == 1).await;
        assert!(!pair.house.root.join("out/keys.kgt").exists() && !is_offered(&service));
        pair.co_sign(&service).await;
        service.until(|state| state.published > 0).await;
        pair.taken(&pair.house);
        service.publisher.stop();
    });
}

/// Nobody signs. After a draft's time, newer changes replace it, and a signature over it is too
/// late.
#[test]
fn newer_changes_take_the_place_of_a_draft_that_nobody_signs() {
    let pair = Pair::new();
    let clock = Clock::manual(Clock::system().now().unix_ms / 1000);
    run(async {
        let service = pair.house.serve_at(clock.clone()).await;
        service.until(|state| state.drafts.len() == 2).await;
        pair.co_sign(&service).await;
        service.until(|state| state.published > 0 && state.drafts.is_empty()).await;
        let first = create(&service.store, "CRM").await;
        service.until(|state| state.drafts.len() == 1).await;
        let draft = service.state().drafts.remove(0);
        let read = service.store.artefact(&audience(), draft.kind, draft.serial).await.unwrap();
        let revoked = revoke(&service.store, first.key.entry.id).await.unwrap();
        service.until(|state| state.serial >= revoked).await;
        assert_eq!(service.state().drafts[0].serial, draft.serial, "it stands for a while");
        clock.advance(Duration::from_secs(61));
        service.until(|state| state.drafts.iter().any(|other| other.serial > draft.serial)).await;
        let late = service.store.sign_draft(pair.signed(read.unwrap())).await.unwrap();
        assert_eq!(late, None);
        pair.co_sign_until(&service, revoked).await;
        let (_, patch) = pair.taken(&pair.house);
        assert!(patch.serial() >= revoked);
        let mut sidecar = pair.house.sidecar();
        sidecar.look(&pair.house).unwrap();
        let status = sidecar.status(&first.key.entry.digest);
        assert_eq!(status, Some(KeyStatus::Revoked), "nothing was lost");
        service.publisher.stop();
    });
}

/// One signer has published until now. Sidecars that require two signatures need a table with both.
#[test]
fn a_second_signer_gets_a_table_of_its_own() {
    let house = House::new();
    run(async {
        let service = house.serve().await;
        let made = create(&service.store, "CRM").await;
        service.published(made.serial).await;
        let base = service.state().base;
        service.publisher.stop();
        let pair = Pair::of(house);
        let service = pair.house.serve().await;
        service.until(|state| state.drafts.len() == 2).await;
        assert_eq!(service.state().base, base, "what was published stays in force");
        pair.co_sign(&service).await;
        service.until(|state| state.base > base && state.drafts.is_empty()).await;
        pair.taken(&pair.house);
        let before = service.state().published;
        service.publisher.stop();
        // And somebody else in place of the second.
        let third = key(&pair.house, "third");
        configure(&pair.house, "name = \"second\"", "name = \"third\"");
        configure(&pair.house, "second.pub.pem", "third.pub.pem");
        let pair = Pair { house: pair.house, second: third };
        let service = pair.house.serve().await;
        let missing = |state: &PublicationState| {
            state.drafts.iter().filter(|draft| draft.missing == [Box::from("third")]).count()
        };
        service.until(|state| missing(state) == 2).await;
        assert_eq!(service.state().published, before);
        pair.co_sign(&service).await;
        service.until(|state| state.published > before).await;
        pair.taken(&pair.house);
        service.publisher.stop();
    });
}

/// A draft names those who may sign it. Others have replaced them before they did.
#[test]
fn a_draft_for_former_signers_is_made_anew() {
    let pair = Pair::new();
    let clock = Clock::manual(Clock::system().now().unix_ms / 1000);
    run(async {
        let service = pair.house.serve_at(clock.clone()).await;
        service.until(|state| state.drafts.len() == 2).await;
        let former = service.state().drafts[1].serial;
        service.publisher.stop();
        let third = key(&pair.house, "third");
        configure(&pair.house, "second.pub.pem", "third.pub.pem");
        let pair = Pair { house: pair.house, second: third };
        clock.advance(Duration::from_secs(61));
        let service = pair.house.serve_at(clock).await;
        service.until(|state| state.drafts.len() == 2 && state.drafts[0].serial > former).await;
        pair.co_sign(&service).await;
        service.until(|state| state.published > 0).await;
        pair.taken(&pair.house);
        service.publisher.stop();
    });
}

/// The service's own key is in a `signer serve`, which is away for a while.
#[test]
fn a_service_whose_signer_judges_waits_as_well() {
    let pair = Pair::new();
    behind_a_socket(&pair.house);
    run(async {
        let service = pair.house.serve().await;
        service.until(|state| state.drafts.len() == 2).await;
        pair.co_sign(&service).await;
        service.until(|state| state.published > 0).await;
        let (socket, away) =
            (pair.house.root.join("signer.sock"), pair.house.root.join("away.sock"));
        fs::rename(&socket, &away).unwrap();
        let made = create(&service.store, "CRM").await;
        service.until(|state| state.unpublished.is_some()).await;
        assert_eq!(reason(&service), Some(UnpublishedReason::SignerUnreachable));
        fs::rename(&away, &socket).unwrap();
        service
            .until(|state| state.hindrance() == Some(UnpublishedReason::AwaitingSignatures))
            .await;
        assert_eq!(service.state().drafts.len(), 1);
        pair.co_sign(&service).await;
        service.published(made.serial).await;
        pair.taken(&pair.house);
        service.publisher.stop();
    });
}

/// Both instances wait for the same draft, whichever has made it, and both publish it once it is
/// signed.
#[test]
fn two_instances_wait_for_the_same_signatures() {
    let a = Pair::of(House::on_server());
    let b = a.beside();
    run(async {
        let services = [a.house.serve().await, b.serve().await];
        for service in &services {
            service.until(|state| state.drafts.len() == 2).await;
            assert!(!is_offered(service));
        }
        a.co_sign_until(&services[1], 1).await;
        for (n, service) in services.iter().enumerate() {
            service.until(|state| state.published > 0).await;
            let made = create(&service.store, &format!("key {n}")).await;
            for service in &services {
                service.until(|state| state.drafts.len() == 1).await;
                assert!(service.state().published < made.serial);
            }
            // Through the instance that has not made the change.
            let other = &services[1 - n];
            a.co_sign_until(other, made.serial).await;
            for (service, house) in services.iter().zip([&a.house, &b]) {
                service.published(made.serial).await;
                service.until(|state| state.drafts.is_empty()).await;
                let (_, patch) = a.taken(house);
                assert!(patch.serial() >= made.serial);
                let bytes = service.shelf.get("shop").patch.served().unwrap().bytes.clone();
                assert_eq!(signers_of(&bytes).unwrap().len(), 2);
            }
        }
        for service in services {
            assert_eq!(service.state().behind, None);
            service.publisher.stop();
        }
    });
}
