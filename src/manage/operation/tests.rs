//! Operations on keys: each field and state that they refuse, and their results.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::registry::entry::tests::full;
use super::super::registry::entry::{RegistryEntry, parse_limit};
use super::super::registry::plans::PlanName;
use super::super::time::When;
use super::*;
use crate::core::{
    Environment, KeyKind, KeyStatus, LimitSet, OrgId, Permission, PolicyName, Secret,
};

const NOW: u64 = 1_795_232_000;
const DAY: u64 = 86_400;

/// Counts up, so that a test knows the result.
#[derive(Debug, Default)]
pub(super) struct Counting(u8);

/// A broken source.
struct Empty;

impl RandomSource for Counting {
    fn fill(&mut self, to: &mut [u8]) -> Result<(), NoRandomness> {
        for byte in to {
            self.0 = self.0.wrapping_mul(5).wrapping_add(17);
            *byte = self.0;
        }
        self.0 = self.0.wrapping_add(1);
        Ok(())
    }
}

impl RandomSource for Empty {
    fn fill(&mut self, _: &mut [u8]) -> Result<(), NoRandomness> {
        Err(NoRandomness)
    }
}

/// One prefix and one plan.
pub(super) struct Shop {
    prefixes: BTreeMap<String, KeyFormat>,
    shown: BTreeMap<String, usize>,
    plans: BTreeMap<PlanName, LimitSet>,
}

impl Shop {
    pub(super) fn new() -> Self {
        let limits = LimitSet::of_key(Some(parse_limit("9/s").unwrap()));
        Self {
            prefixes: [("wa".to_owned(), KeyFormat::standard("wa_"))].into(),
            shown: BTreeMap::new(),
            plans: [(PlanName::parse("gold").unwrap(), limits)].into(),
        }
    }

    pub(super) fn settings(&self) -> OperationSettings<'_> {
        OperationSettings {
            prefixes: &self.prefixes,
            shown: &self.shown,
            default_prefix: None,
            plans: &self.plans,
        }
    }
}

fn asked() -> CreateRequest {
    CreateRequest::plain(OrgId::parse("acme").unwrap())
}

fn word(text: &str) -> Permission {
    Permission::parse(text).unwrap()
}

fn overlap(days: u64) -> RotateRequest {
    RotateRequest {
        overlap: Duration::from_secs(days * DAY),
        expires: None,
        prefix: None,
        former: FormerSecret::Keep,
    }
}

fn created(request: &CreateRequest) -> Result<IssuedKey, OperationError> {
    create(&Shop::new().settings(), request, NOW, &mut Counting::default())
}

fn edited(entry: &RegistryEntry, request: &EditRequest) -> Result<RegistryEntry, OperationError> {
    edit(&Shop::new().settings(), entry, request, NOW)
}

fn rotated(entry: &RegistryEntry, request: &RotateRequest) -> Result<RotatedKey, OperationError> {
    rotate(&Shop::new().settings(), entry, request, NOW, &mut Counting::default())
}

/// `full` as a single key that is in force at `NOW`.
fn single() -> RegistryEntry {
    RegistryEntry {
        status: KeyStatus::Active,
        public_id: None,
        previous: None,
        expires: Some(NOW + 30 * DAY),
        sunset: None,
        ..full()
    }
}

fn pair() -> RegistryEntry {
    RegistryEntry { public_id: full().public_id, ..single() }
}

/// The fields that are at fault, in the order in which they are reported.
fn fields<T: std::fmt::Debug>(result: Result<T, OperationError>) -> Vec<&'static str> {
    match result.unwrap_err() {
        OperationError::Invalid(faults) => faults.iter().map(|f| f.field.name()).collect(),
        other => panic!("{other:?}"),
    }
}

fn state<T: std::fmt::Debug>(result: Result<T, OperationError>) -> WrongState {
    match result.unwrap_err() {
        OperationError::State { state, .. } => state,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_new_key_is_what_was_asked_for() {
    let request = CreateRequest {
        name: "CRM".into(),
        permissions: vec![word("send")],
        networks: vec!["203.0.113.0/24".parse().unwrap()],
        expires: Some(When::In(Duration::from_secs(90 * DAY))),
        environment: Some(Environment::Live),
        kind: KeyKind::Pair,
        details: DetailRequest {
            plan: Some(PlanChange::parse("gold").unwrap()),
            sunset: Some(When::In(Duration::from_secs(60 * DAY))),
            owner: OwnerChange::State { subject: Some("u-1".into()), email: None, role: None },
        },
        ..asked()
    };
    let IssuedKey { entry, issued } = created(&request).unwrap();
    assert_eq!(entry.digest, issued.secret.digest());
    assert_eq!((entry.created, entry.expires), (Some(NOW), Some(NOW + 90 * DAY)));
    assert_eq!(entry.sunset, Some(NOW + 60 * DAY));
    assert_eq!(
        entry.limits_in_force(),
        Shop::new().settings().plans.values().next().unwrap().clone()
    );
    assert_eq!(entry.prefix.as_deref(), Some("wa"));
    assert!(entry.public_id.is_some() && entry.replaces.is_none());
    assert_eq!(entry.owner.unwrap().view().subject, "u-1");
    let secret = String::from_utf8_lossy(issued.secret.expose()).into_owned();
    let shown = secret.strip_prefix("wa_live_").unwrap();
    assert!(shown.starts_with(&*entry.key_prefix) && entry.key_prefix.len() == 8);
    assert!(!format!("{issued:?}").contains(&*entry.key_prefix.repeat(2)));
    assert_eq!(format!("{:?}", Secret::new(*b"x")), "Secret(..)", "the secret has no `Debug`");
}

#[test]
fn a_prefix_says_how_much_of_its_secrets_is_shown() {
    for shown in [0, 4, 12] {
        let shop = Shop { shown: [("wa".to_owned(), shown)].into(), ..Shop::new() };
        let made = create(&shop.settings(), &asked(), NOW, &mut Counting::default()).unwrap();
        assert_eq!(made.entry.key_prefix.len(), shown);
        let secret = String::from_utf8_lossy(made.issued.secret.expose()).into_owned();
        assert!(secret.starts_with(&format!("wa_{}", made.entry.key_prefix)));
    }
}

#[test]
fn every_fault_of_a_request_is_told_with_its_field() {
    let request = CreateRequest {
        name: "two\nlines".into(),
        note: "two\nlines".into(),
        prefix: Some("ours".into()),
        expires: Some(When::At(NOW)),
        limits: vec![LimitChange::parse("1/s").unwrap(), LimitChange::parse("2/s").unwrap()],
        ..asked()
    };
    assert_eq!(fields(created(&request)), ["name", "note", "prefix", "limits", "expires"]);
    let request = CreateRequest {
        not_before: Some(When::At(NOW + DAY)),
        expires: Some(When::At(NOW + DAY)),
        details: DetailRequest {
            plan: Some(PlanChange::parse("silver").unwrap()),
            sunset: Some(When::At(NOW)),
            owner: OwnerChange::State { subject: None, email: Some("a@b".into()), role: None },
        },
        ..asked()
    };
    assert_eq!(fields(created(&request)), ["not_before", "plan", "sunset", "owner"]);
    for field in KeyField::ALL {
        assert_eq!(field.pointer(), format!("/{}", field.name()));
        assert_eq!(KeyField::ALL.iter().filter(|f| f.name() == field.name()).count(), 1);
    }
}

#[test]
fn without_random_bytes_nothing_is_made() {
    let shop = Shop::new();
    let made = create(&shop.settings(), &asked(), NOW, &mut Empty);
    assert_eq!(made.unwrap_err(), OperationError::NoRandomness);
    let made = rotate(&shop.settings(), &single(), &overlap(7), NOW, &mut Empty);
    assert_eq!(made.unwrap_err(), OperationError::NoRandomness);
}

/// In two spellings a network is the same one.
#[test]
fn what_is_said_twice_is_kept_once() {
    let words = || ["send", "read", "send"].map(word).to_vec();
    let networks = || {
        let texts = ["203.0.113.7", "2001:db8::/32", "203.0.113.7/32", "2001:DB8:0::/32"];
        texts.map(|text| crate::core::address::parse_network(text).unwrap()).to_vec()
    };
    let request = CreateRequest { permissions: words(), networks: networks(), ..asked() };
    let made = created(&request).unwrap().entry;
    let request = EditRequest {
        permissions: Some(words()),
        add_permissions: vec![word("read"), word("pay"), word("pay")],
        networks: Some(networks()),
        ..EditRequest::default()
    };
    let changed = edited(&single(), &request).unwrap();
    assert_eq!(made.permissions, ["send", "read"].map(word));
    assert_eq!(changed.permissions, ["send", "read", "pay"].map(word));
    for entry in [made, changed] {
        assert_eq!(entry.networks, [networks()[0], networks()[1]]);
    }
}

#[test]
fn a_successor_does_not_have_the_uuid_of_another_key() {
    let uid = Some(crate::manage::registry::uid::Uid(*b"0123456789abcdef"));
    let old = RegistryEntry { uid, ..single() };
    let done = rotated(&old, &overlap(7)).unwrap();
    assert_eq!((done.changed.uid, done.added.unwrap().uid), (uid, None));
    let old = RegistryEntry { uid, ..pair() };
    assert_eq!(rotated(&old, &overlap(7)).unwrap().changed.uid, uid, "a pair is the same key");
}

#[test]
fn an_edit_changes_what_it_says_and_nothing_else() {
    let entry = single();
    assert_eq!(edited(&entry, &EditRequest::default()).unwrap(), {
        let mut same = entry.clone();
        same.resolve_plan(Shop::new().settings().plans).unwrap();
        same
    });
    let request = EditRequest {
        permissions: Some(Vec::new()),
        add_permissions: vec![word("pay")],
        networks: Some(Vec::new()),
        expires: Some(When::Never),
        environment: Some(None),
        limits: vec![LimitChange::parse("search=none").unwrap()],
        details: DetailRequest { owner: OwnerChange::Remove, ..DetailRequest::default() },
        ..EditRequest::default()
    };
    let new = edited(&entry, &request).unwrap();
    assert_eq!((new.permissions, new.networks.len()), (vec![word("pay")], 0));
    assert_eq!((new.expires, new.environment, new.owner), (None, None, None));
    assert!(new.limits.get("search").is_none() && new.limits.get(PolicyName::PER_KEY).is_some());
    assert_eq!((new.name, new.digest, new.id), (entry.name, entry.digest, entry.id));
}

#[test]
fn an_edit_refuses_what_cannot_be() {
    let edit = |request| fields(edited(&single(), &request));
    let ask = EditRequest::default;
    assert_eq!(
        edit(EditRequest { remove_permissions: vec![word("pay")], ..ask() }),
        ["remove_permissions"]
    );
    let at = |at| Some(When::At(at));
    assert_eq!(edit(EditRequest { expires: at(1), ..ask() }), ["expires"], "before it begins");
    assert_eq!(edit(EditRequest { not_before: at(NOW + 31 * DAY), ..ask() }), ["not_before"]);
    assert_eq!(edit(EditRequest { name: Some("x".repeat(201)), ..ask() }), ["name"]);
    let sunset = |at| DetailRequest { sunset: Some(When::At(at)), ..DetailRequest::default() };
    assert_eq!(edit(EditRequest { details: sunset(NOW), ..ask() }), ["sunset"], "in the past");
    let late = EditRequest { details: sunset(NOW + 31 * DAY), ..ask() };
    assert_eq!(edit(late.clone()), ["sunset"], "after the end");
    let both = EditRequest { expires: at(NOW + 40 * DAY), ..late };
    assert_eq!(edited(&single(), &both).unwrap().sunset, Some(NOW + 31 * DAY));
    let revoked = RegistryEntry { status: KeyStatus::Revoked, ..single() };
    assert_eq!(state(edited(&revoked, &ask())), WrongState::Revoked);
}

#[test]
fn an_end_that_moves_before_the_sunset_is_told() {
    let entry = RegistryEntry { sunset: Some(NOW + 20 * DAY), ..single() };
    assert_eq!(KeyAdvice::of(None, &entry), []);
    let request = EditRequest { expires: Some(When::At(NOW + DAY)), ..EditRequest::default() };
    let new = edited(&entry, &request).unwrap();
    assert_eq!(KeyAdvice::of(Some(&entry), &new).len(), 1);
    let renamed = RegistryEntry { name: "other".into(), ..new.clone() };
    assert_eq!(KeyAdvice::of(Some(&new), &renamed), [], "it was told before");
}

#[test]
fn a_single_key_gets_a_successor() {
    let old =
        RegistryEntry { status: KeyStatus::Disabled, sunset: Some(NOW + 20 * DAY), ..single() };
    let RotatedKey { shown, changed, added, old_ends } = rotated(&old, &overlap(7)).unwrap();
    assert_eq!(old_ends, NOW + 7 * DAY);
    assert_eq!((changed.id, changed.expires), (old.id, Some(old_ends)));
    assert_eq!(changed.sunset, Some(old_ends), "no later day than its last");
    assert_eq!(changed.digest, old.digest);
    let added = added.unwrap();
    assert_eq!(added, shown.entry);
    assert_eq!((added.replaces, added.created), (Some(old.id), Some(NOW)));
    assert_eq!((added.status, added.sunset), (KeyStatus::Active, None));
    assert_eq!((added.expires, added.permissions), (old.expires, old.permissions));
    assert_ne!(added.digest, old.digest);
    let near = RegistryEntry { expires: Some(NOW + DAY), ..single() };
    assert_eq!(rotated(&near, &overlap(7)).unwrap().old_ends, NOW + DAY, "no longer than it was");
}

#[test]
fn a_pair_gets_a_second_secret() {
    let old = pair();
    let RotatedKey { shown, changed, added, .. } = rotated(&old, &overlap(7)).unwrap();
    assert!(added.is_none());
    assert_eq!(changed, shown.entry);
    assert_eq!((changed.id, &changed.public_id), (old.id, &old.public_id));
    assert_eq!(changed.previous.unwrap().digest, old.digest);
    assert_eq!(rotated(&old, &overlap(0)).unwrap().changed.previous, None);
    let until = changed.previous.unwrap().expires;
    assert_eq!(state(rotated(&changed, &overlap(7))), WrongState::InRotation { until });
    let drop = RotateRequest { former: FormerSecret::Drop, ..overlap(7) };
    assert_eq!(rotated(&changed, &drop).unwrap().changed.previous.unwrap().digest, changed.digest);
}

#[test]
fn a_rotation_refuses_what_cannot_be() {
    let with = |status, entry| RegistryEntry { status, ..entry };
    for (entry, want) in [
        (with(KeyStatus::Revoked, single()), WrongState::Revoked),
        (with(KeyStatus::Canary, single()), WrongState::Canary),
        (with(KeyStatus::Disabled, pair()), WrongState::DisabledPair),
        (RegistryEntry { expires: Some(NOW), ..single() }, WrongState::Expired),
    ] {
        assert_eq!(state(rotated(&entry, &overlap(7))), want);
    }
    let ended = RegistryEntry { expires: Some(NOW), ..single() };
    let new_end = |at| RotateRequest { expires: Some(When::At(at)), ..overlap(7) };
    assert!(rotated(&ended, &new_end(NOW + DAY)).is_ok());
    assert_eq!(fields(rotated(&ended, &new_end(NOW))), ["expires"], "in the past");
    let prefix = RotateRequest { prefix: Some("ours".into()), ..overlap(7) };
    assert_eq!(fields(rotated(&single(), &prefix)), ["prefix"]);
    assert_eq!(fields(rotated(&single(), &overlap(50_000))), ["overlap"], "beyond a record");
}

#[test]
fn what_is_final_stays_so() {
    for last in [KeyStatus::Revoked, KeyStatus::Canary] {
        let entry = RegistryEntry { status: last, ..single() };
        for change in [StatusChange::Enable, StatusChange::Disable] {
            assert!(change.apply(&entry, NOW).is_err(), "{change:?} of {last:?}");
        }
        for change in [StatusChange::Revoke, StatusChange::Canary, StatusChange::RevokeFormer] {
            let after = change.apply(&entry, NOW).unwrap().map_or(last, |entry| entry.status);
            assert!(after.is_final(), "{change:?} of {last:?}");
        }
    }
    let entry = single();
    let disabled = StatusChange::Disable.apply(&entry, NOW).unwrap().unwrap();
    assert_eq!(StatusChange::Enable.apply(&disabled, NOW).unwrap(), Some(entry.clone()));
    assert_eq!(StatusChange::Enable.apply(&entry, NOW).unwrap(), None, "so already");
    let pair = rotated(&pair(), &overlap(7)).unwrap().changed;
    let former = StatusChange::RevokeFormer.apply(&pair, NOW).unwrap().unwrap();
    assert_eq!((former.status, former.previous), (KeyStatus::Active, None));
    let later = StatusChange::RevokeFormer.apply(&pair, NOW + 8 * DAY).unwrap().unwrap();
    assert_eq!(later.status, KeyStatus::Revoked, "there is no former secret any more");
}
