//! What counts as published if several sign: for a recovery, and as proof that a database is
//! behind.

use super::several::{Pair, kept};
use super::*;
use crate::registrar::config::AudienceConfig;
use crate::registrar::publish::recover::PublishedKeys;

/// The audience without targets: only the given files are available.
pub(super) fn fetched(house: &House) -> AudienceConfig {
    let audience = house.settings().audiences[0].clone();
    AudienceConfig { targets: Vec::new(), ..audience }
}

/// Copies of what is published, as a sidecar has them.
pub(super) fn copies(house: &House) -> [PathBuf; 2] {
    ["keys.kgt", "keys.kgp"].map(|name| {
        let copy = house.root.join("copy").join(name);
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::copy(house.root.join("out").join(name), &copy).unwrap();
        copy
    })
}

/// The service's own signature is on every draft.
#[test]
fn a_draft_is_nothing_that_was_published() {
    let pair = Pair::new();
    run(async {
        let service = pair.house.serve().await;
        service.until(|state| state.drafts.len() == 2).await;
        pair.co_sign(&service).await;
        service.until(|state| state.published > 0 && state.drafts.is_empty()).await;
        let published = service.state().published;
        let [table, patch] = copies(&pair.house);
        let made = create(&service.store, "CRM").await;
        service.until(|state| state.drafts.len() == 1).await;
        let draft = pair.house.root.join("draft.kgp");
        fs::write(&draft, kept(&service).await.body).unwrap();
        let (config, store) = (fetched(&pair.house), &*service.store);
        let given = [table.clone(), patch.clone(), draft];
        let refused = PublishedKeys::of_audience(&config, &given, store).await.unwrap_err();
        assert_eq!(refused.exit(), Exit::Data.code());
        let said = refused.to_string();
        assert!(said.contains("draft.kgp: 1 of the signers of shop signed it, and 2"), "{said}");
        let found = PublishedKeys::of_audience(&config, &given[..2], store).await.unwrap();
        assert_eq!(found.serial, published);
        // Once both have signed it, it is not a draft any more.
        pair.co_sign(&service).await;
        service.published(made.serial).await;
        let [table, patch] = copies(&pair.house);
        // In a database that knows nothing of it.
        let twin = House::new();
        let (given, store) = ([patch, table], twin.store());
        let found = PublishedKeys::of_audience(&config, &given, &*store).await.unwrap();
        assert!(found.serial >= made.serial);
        service.publisher.stop();
    });
}

/// Until now one had to sign; from now on two have to.
#[test]
fn what_one_signed_before_two_had_to_is_found_in_its_places() {
    let house = House::new();
    run(async {
        let service = house.serve().await;
        let made = create(&service.store, "CRM").await;
        service.published(made.serial).await;
        service.publisher.stop();
        let given = copies(&house);
        let pair = Pair::of(house);
        let (settings, twin) = (pair.house.settings(), House::new());
        let elsewhere = twin.store();
        // From the service's own targets.
        let found = PublishedKeys::of_audience(&settings.audiences[0], &[], &*elsewhere).await;
        let published = found.unwrap().serial;
        assert!(published >= made.serial);
        // From a sidecar, while the database has them too.
        let config = fetched(&pair.house);
        let found = PublishedKeys::of_audience(&config, &given, &*service.store).await.unwrap();
        assert_eq!(found.serial, published);
        // From a sidecar, and nobody here knows whether they were published.
        let refused = PublishedKeys::of_audience(&config, &given, &*elsewhere).await.unwrap_err();
        assert_eq!(refused.exit(), Exit::Data.code());
        assert!(refused.to_string().contains("`required_signers` of that time"), "{refused}");
        // A file that somebody else has signed is not accepted from a target either.
        fs::copy(pair.house.root.join("second.pem"), pair.house.root.join("signer.pem")).unwrap();
        let co_signer = "\nrequired_signers = 2\n[[audiences.co_signers]]\nname = \"second\"\n\
                         public = \"second.pub.pem\"";
        super::signed::configure(&pair.house, co_signer, "");
        let audience = &pair.house.settings().audiences[0];
        let refused = PublishedKeys::of_audience(audience, &[], &*service.store).await;
        assert!(refused.unwrap_err().to_string().contains("keys.kgt"));
    });
}

#[test]
fn files_of_an_audience_that_nobody_signs_here_are_refused() {
    let house = House::new();
    run(async {
        let service = house.serve().await;
        service.until(|state| state.published > 0).await;
        service.publisher.stop();
        let config = AudienceConfig { signer: None, ..fetched(&house) };
        let given = copies(&house);
        let refused = PublishedKeys::of_audience(&config, &given, &*service.store).await;
        let refused = refused.unwrap_err();
        assert!(refused.to_string().contains("nobody signs here"), "{refused}");
        let found = PublishedKeys::of_audience(&config, &[], &*service.store).await.unwrap();
        assert_eq!(found.serial, 0);
    });
}

/// A sidecar accepts what two have signed. It cannot have in force what only one has signed.
#[test]
fn as_many_signatures_prove_what_a_sidecar_has_as_it_asks_for() {
    let pair = Pair::new();
    let twin = Pair::new();
    for file in ["signer.pem", "second.pub.pem"] {
        fs::copy(pair.house.root.join(file), twin.house.root.join(file)).unwrap();
    }
    let twin = Pair { house: twin.house, second: pair.load_second() };
    run(async {
        let service = pair.house.serve().await;
        service.until(|state| state.drafts.len() == 2).await;
        pair.co_sign(&service).await;
        service.until(|state| state.published > 0 && state.drafts.is_empty()).await;
        let serial = service.state().serial;
        // The same service, as it might have developed after its backup.
        let other = twin.house.serve().await;
        other.until(|state| state.drafts.len() == 2).await;
        twin.co_sign(&other).await;
        other.until(|state| state.published > 0 && state.drafts.is_empty()).await;
        for _ in 0..9 {
            let made = create(&other.store, "since the backup").await;
            twin.co_sign_until(&other, made.serial).await;
        }
        create(&other.store, "the last").await;
        other.until(|state| state.drafts.len() == 1).await;
        let draft = kept(&other).await;
        assert!(draft.head.serial > serial);
        other.publisher.stop();
        let show = |file: &[u8]| {
            let poll = ArtefactPoll {
                fleet: "web".into(),
                audience: "shop".into(),
                name: ArtefactName::Patch,
                instance: Some("a".into()),
                peer: None,
                has: Some(ArtefactTag::of(draft.head.serial, &Digest::of(b"x"))),
                head: SignedHead::bytes_of(file).map(Into::into),
            };
            service.book.heard(&poll, Clock::system().now().unix_ms);
        };
        show(&draft.body);
        let [report] = &*service.book.all(&audience()) else { panic!("one sidecar") };
        assert_eq!(report.serial, 0);
        assert!(report.error.as_ref().unwrap().contains("does not prove"), "{report:?}");
        show(&twin.signed(draft.clone()).body);
        service.until(|state| state.behind.is_some()).await;
        service.publisher.stop();
    });
}
