//! What every store has to do, whichever database is behind it. A database's tests pass a fixture
//! to [`store_suite!`] and get all of these tests.

pub(crate) mod changes;
pub(crate) mod lists;
pub(crate) mod people;
pub(crate) mod publishing;
pub(crate) mod usage;

use std::future::Future;
use std::sync::Arc;

use super::change::{AuditEvent, ChangeRequest, Changed, Channel, KeyChange, KeyRef, StoreActor};
use super::names::{AudienceName, PersonId};
use super::sql::AudienceTerms;
use super::{Store, StoreError};
use crate::core::{KeyId, KeyKind, OrgId, Owner, Permission, PermissionSet};
use crate::manage::operation::may::{
    AccessRules, HeldRights, ManagementWords, PersonRole, StarCovers,
};
use crate::manage::operation::{CreateRequest, EditRequest, RotateRequest, StatusChange};

/// An empty store for one test.
pub(crate) trait StoreFixture: Sized {
    /// Uses [`terms`] as its configuration.
    fn make() -> Self;
    fn store(&self) -> Arc<dyn Store>;
}

/// All tests of the contract, on stores of this fixture.
macro_rules! store_suite {
    ($fixture:ty: $($part:ident::{$($test:ident),* $(,)?}),* $(,)?) => {$($(
        #[test]
        fn $test() {
            let fixture = <$fixture as $crate::registrar::store::suite::StoreFixture>::make();
            let store = $crate::registrar::store::suite::StoreFixture::store(&fixture);
            $crate::registrar::store::suite::run($crate::registrar::store::suite::$part::$test(store));
        }
    )*)*};
    ($fixture:ty) => {
        $crate::registrar::store::suite::store_suite!($fixture:
            changes::{
                a_key_lives_from_creation_to_revocation,
                sixty_four_callers_get_serials_without_gaps,
                a_change_that_fails_takes_nothing_from_the_others,
                of_two_editors_the_second_learns_of_the_first,
                the_same_request_twice_makes_one_key,
                an_idempotency_key_is_one_callers_for_a_day,
                a_foreign_key_is_none,
                a_key_that_asks_is_looked_up_in_the_transaction,
                of_what_a_key_holds_the_changes_before_count,
                a_policy_caps_what_is_new,
                a_change_of_nothing_has_no_serial,
                an_import_goes_in_as_a_whole,
                an_import_that_has_not_ended_is_known,
                an_import_of_nothing_new_has_no_serial,
                a_key_keeps_its_uuid_in_an_import,
            },
            lists::{
                pages_show_every_key_once,
                searches_find_parts_of_names_and_ids,
                states_and_grants_choose,
                a_new_key_is_not_unused_since_long_ago,
            },
            people::{
                sessions_end,
                a_sign_in_is_used_once,
                a_key_that_makes_an_embed_token_is_looked_up_in_the_transaction,
                an_org_keeps_an_owner,
                an_epoch_ends_what_was_before,
            },
            publishing::{
                a_snapshot_is_of_one_serial,
                removed_secrets_stay_until_the_next_table,
                the_first_artefact_of_a_serial_stays,
                a_draft_gets_more_signatures_and_never_fewer,
                a_draft_gives_way_to_the_next,
                what_is_published_never_goes_back,
                sidecars_are_known_by_their_last_word,
                a_lease_has_one_holder,
                what_was_about_to_be_signed_is_kept,
                the_log_tells_of_every_change_in_order,
            },
            usage::{
                repeats_and_disorder_add_nothing,
                no_key_is_used_before_it_is_made,
                a_report_of_strangers_keys_adds_nothing,
                what_stands_out_is_found,
                usage_is_forgotten_by_the_holder_of_the_lease,
                who_reports_is_known_and_since_when,
                a_part_of_a_record_proves_nothing,
            },
        );
    };
}
pub(crate) use store_suite;

pub(crate) fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(test)
}

/// The time at which tests happen, in milliseconds.
pub(crate) const NOW: u64 = 1_795_230_000_000;

pub(crate) fn audience() -> AudienceName {
    AudienceName::parse("shop").unwrap()
}

pub(crate) fn org(name: &str) -> OrgId {
    OrgId::parse(name).unwrap()
}

pub(crate) fn words(words: &[&str]) -> Vec<Permission> {
    words.iter().map(|word| Permission::parse(word).unwrap()).collect()
}

/// The audience's configuration.
pub(crate) fn terms() -> AudienceTerms {
    AudienceTerms {
        name: audience(),
        prefixes: std::collections::BTreeMap::new(),
        default_prefix: None,
        shown: std::collections::BTreeMap::new(),
        access: AccessRules {
            words: ManagementWords::standard().unwrap(),
            star: StarCovers::ProductOnly,
            member: PermissionSet::new(words(&["read"])),
            offered: None,
        },
    }
}

pub(crate) fn host() -> StoreActor {
    StoreActor::HostUser("root (uid 0)".into())
}

/// The audit event of a recovery.
pub(crate) fn recovery() -> AuditEvent {
    AuditEvent {
        at_ms: NOW,
        audience: None,
        org: None,
        actor: host(),
        channel: Channel::default(),
        action: "recover",
        object: "".into(),
        detail: serde_json::Map::new(),
    }
}

pub(crate) fn person(sub: &str) -> PersonId {
    PersonId { iss: "https://idp.example".into(), sub: sub.into() }
}

/// One of the product's people; the product says what they are.
pub(crate) fn admin(sub: &str) -> StoreActor {
    StoreActor::Person {
        id: PersonId::of_product(&audience(), sub),
        role: PersonRole::Admin,
        owner: Owner::new(sub, "", "").unwrap(),
        holds: HeldRights::everything(),
    }
}

pub(crate) fn request(actor: StoreActor, change: KeyChange) -> ChangeRequest {
    ChangeRequest {
        audience: audience(),
        org: Some(org("acme")),
        actor,
        channel: Channel { address: Some([192, 0, 2, 7].into()), request_id: "r-1".into() },
        at_ms: NOW,
        idempotency: None,
        change,
    }
}

/// A new key of `acme`.
pub(crate) fn new_key(name: &str) -> CreateRequest {
    CreateRequest {
        name: name.to_owned(),
        permissions: words(&["read"]),
        ..CreateRequest::plain(org("acme"))
    }
}

pub(crate) async fn create(store: &Arc<dyn Store>, name: &str) -> Changed {
    let change = KeyChange::Create(Box::new(new_key(name)));
    store.change(request(admin("kim"), change)).await.unwrap()
}

pub(crate) async fn create_pair(store: &Arc<dyn Store>, name: &str) -> Changed {
    let wanted = CreateRequest { kind: KeyKind::Pair, ..new_key(name) };
    store.change(request(admin("kim"), KeyChange::Create(Box::new(wanted)))).await.unwrap()
}

pub(crate) async fn rename(
    store: &Arc<dyn Store>,
    key: KeyId,
    name: &str,
    if_match: Option<u64>,
) -> Result<Changed, StoreError> {
    let wanted = EditRequest { name: Some(name.to_owned()), ..EditRequest::default() };
    let key = KeyRef::Id(key);
    let change = KeyChange::Edit { key, if_match, request: Box::new(wanted) };
    store.change(request(admin("kim"), change)).await
}

pub(crate) fn set(key: KeyId, status: StatusChange) -> KeyChange {
    KeyChange::SetStatus { key: KeyRef::Id(key), if_match: None, status }
}

pub(crate) async fn revoke(store: &Arc<dyn Store>, key: KeyId) -> Changed {
    store.change(request(admin("kim"), set(key, StatusChange::Revoke))).await.unwrap()
}

pub(crate) fn rotation(key: KeyId, overlap_secs: u64) -> KeyChange {
    let wanted = RotateRequest {
        overlap: std::time::Duration::from_secs(overlap_secs),
        expires: None,
        prefix: None,
        former: crate::manage::operation::FormerSecret::Keep,
    };
    KeyChange::Rotate { key: KeyRef::Id(key), if_match: None, request: Box::new(wanted) }
}
