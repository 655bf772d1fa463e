//! Who may do what, row by row.

mod chains;

use std::net::IpAddr;
use std::time::Duration;

use super::super::super::registry::entry::tests::full;
use super::super::super::time::When;
use super::super::tests::{Counting, Shop};
use super::super::{
    CreateRequest, DetailRequest, EditRequest, FormerSecret, OwnerChange, RotateRequest, create,
    edit, rotate,
};
use super::*;
use crate::core::{KeyId, KeyStatus, OrgId, PermissionSet};

const NOW: u64 = 1_795_232_000;
const DAY: u64 = 86_400;
const WORDS: [&str; 9] = [
    "send",
    "read",
    "*",
    "keys:read",
    "keys:write",
    "keys:revoke",
    "usage:read",
    "audit:read",
    "embed:create",
];

fn word(text: &str) -> Permission {
    Permission::parse(text).unwrap()
}

fn set(words: &[&str]) -> PermissionSet {
    PermissionSet::new(words.iter().map(|text| word(text)))
}

fn rules() -> AccessRules {
    AccessRules {
        words: ManagementWords::standard().unwrap(),
        star: StarCovers::ProductOnly,
        member: set(&["send", "read"]),
        offered: None,
    }
}

fn org(text: &str) -> OrgId {
    OrgId::parse(text).unwrap()
}

fn person(subject: &str) -> Owner {
    Owner::new(subject, "", "").unwrap()
}

/// A key of `acme` with these words, no restriction and no owner.
fn key(id: &str, words: &[&str]) -> RegistryEntry {
    RegistryEntry {
        id: KeyId::parse(id).unwrap(),
        status: KeyStatus::Active,
        environment: None,
        permissions: words.iter().map(|text| word(text)).collect(),
        networks: Vec::new(),
        created: Some(NOW - DAY),
        not_before: None,
        expires: None,
        sunset: None,
        owner: None,
        plan: None,
        public_id: None,
        previous: None,
        ..full()
    }
}

fn owned(subject: &str, entry: RegistryEntry) -> RegistryEntry {
    RegistryEntry { owner: Some(person(subject)), ..entry }
}

fn actor(role: PersonRole) -> Actor {
    Actor::Person { role, org: org("acme"), owner: person("kim"), holds: HeldRights::everything() }
}

fn by(entry: &RegistryEntry) -> Actor {
    Actor::of_key(entry, NOW).unwrap()
}

fn may(actor: &Actor, action: KeyAction<'_>, entry: &RegistryEntry) -> Result<(), NotAllowed> {
    let (rules, policy) = (rules(), OrgPolicy::default());
    Access { rules: &rules, policy: &policy, now: NOW }.may(actor, action, entry)
}

/// Everything that can be done with a key that would become `to`.
fn actions(to: &RegistryEntry) -> [KeyAction<'_>; 11] {
    [
        KeyAction::See,
        KeyAction::SeeUsage,
        KeyAction::SeeAudit,
        KeyAction::Create { living: 0 },
        KeyAction::Edit { to, living: 0 },
        KeyAction::Rotate { to, living: 0 },
        KeyAction::SetStatus(StatusChange::Enable),
        KeyAction::SetStatus(StatusChange::Disable),
        KeyAction::SetStatus(StatusChange::Revoke),
        KeyAction::SetStatus(StatusChange::RevokeFormer),
        KeyAction::SetStatus(StatusChange::Canary),
    ]
}

/// One letter for each of [`actions`] that is allowed.
fn allowed(actor: &Actor, entry: &RegistryEntry) -> String {
    let letters = "sua".chars().chain("CERedrfc".chars());
    let all = actions(entry).into_iter().zip(letters);
    all.filter(|(action, _)| may(actor, *action, entry).is_ok()).map(|(_, letter)| letter).collect()
}

#[test]
fn each_role_may_what_it_is_for() {
    let kims = owned("kim", key("key_a", &["send"]));
    let others = owned("lee", key("key_b", &["send"]));
    let nobodys = key("key_c", &["send"]);
    let foreign = RegistryEntry { org: org("other"), ..kims.clone() };
    let all = "suaCERedrfc";
    for (role, own, another, ownerless, abroad) in [
        (PersonRole::Owner, all, all, all, ""),
        (PersonRole::Admin, all, all, all, ""),
        (PersonRole::Auditor, "sua", "sua", "sua", ""),
        (PersonRole::Member, all, "", "", ""),
        (PersonRole::Operator, "suadrfc", "suadrfc", "suadrfc", "suadrfc"),
    ] {
        let actor = actor(role);
        assert_eq!(allowed(&actor, &kims), own, "{role:?}, their own");
        assert_eq!(allowed(&actor, &others), another, "{role:?}, another's");
        assert_eq!(allowed(&actor, &nobodys), ownerless, "{role:?}, nobody's");
        assert_eq!(allowed(&actor, &foreign), abroad, "{role:?}, of another org");
    }
    assert_eq!(allowed(&Actor::Host, &foreign), all);
    let unseen = may(&actor(PersonRole::Member), KeyAction::See, &others);
    assert_eq!(unseen, Err(NotAllowed::Unseen), "a member is told of no such key");
}

#[test]
fn a_key_may_what_its_words_say() {
    let target = key("key_t", &["send"]);
    for (words, want) in [
        (&["send"][..], ""),
        (&["send", "keys:read"], "s"),
        (&["send", "usage:read"], "u"),
        (&["send", "audit:read"], "a"),
        (&["send", "keys:write"], "CERed"),
        (&["send", "keys:revoke"], "drfc"),
        (&["*"], ""),
        (&["*", "keys:write", "keys:revoke"], "CERedrfc"),
        (&["read", "keys:write", "keys:revoke"], ""),
    ] {
        let actor = by(&key("key_k", words));
        assert_eq!(allowed(&actor, &target), want, "{words:?}");
        let foreign = RegistryEntry { org: org("other"), ..target.clone() };
        assert_eq!(allowed(&actor, &foreign), "", "{words:?}");
        let own = key("key_k", words);
        for action in actions(&own).into_iter().filter(|action| is_end_or_look(*action)) {
            assert_eq!(may(&actor, action, &own), Ok(()), "{words:?}: {action:?} of itself");
        }
    }
}

#[test]
fn a_star_covers_management_only_where_it_is_said() {
    let (full, target) = (key("key_k", &["*"]), key("key_t", &["*"]));
    let policy = OrgPolicy::default();
    for (star, want) in [(StarCovers::ProductOnly, false), (StarCovers::Everything, true)] {
        let rules = AccessRules { star, ..rules() };
        let access = Access { rules: &rules, policy: &policy, now: NOW };
        for action in actions(&target) {
            let is_allowed = access.may(&by(&full), action, &target).is_ok();
            assert_eq!(is_allowed, want, "{star:?}: {action:?}");
        }
        // Even when named literally, they are only for people to grant.
        let manager = key("key_t", &["keys:write"]);
        let made = access.may(&by(&full), KeyAction::Create { living: 0 }, &manager);
        assert!(made.is_err(), "{star:?}: {made:?}");
    }
}

#[test]
fn what_is_granted_lies_within_what_the_actor_holds() {
    let net = |text: &str| vec![text.parse().unwrap()];
    let holder = RegistryEntry {
        networks: net("10.0.0.0/8"),
        environment: Some(Environment::Live),
        expires: Some(NOW + 30 * DAY),
        ..key("key_k", &["send", "keys:write", "keys:revoke"])
    };
    let within = RegistryEntry {
        networks: net("10.1.0.0/16"),
        environment: Some(Environment::Live),
        expires: Some(NOW + 30 * DAY),
        ..key("key_t", &["send"])
    };
    let actor = by(&holder);
    let create = |entry: &RegistryEntry| may(&actor, KeyAction::Create { living: 0 }, entry);
    assert_eq!(create(&within), Ok(()));
    let and = |change: &dyn Fn(&mut RegistryEntry)| {
        let mut entry = within.clone();
        change(&mut entry);
        entry
    };
    for (entry, field) in [
        (and(&|e| e.permissions.push(word("read"))), KeyField::Permissions),
        (and(&|e| e.permissions.push(word("*"))), KeyField::Permissions),
        (and(&|e| e.permissions.push(word("keys:write"))), KeyField::Permissions),
        (and(&|e| e.networks.clear()), KeyField::Networks),
        (and(&|e| e.networks = net("0.0.0.0/0")), KeyField::Networks),
        (and(&|e| e.networks = net("::/0")), KeyField::Networks),
        (and(&|e| e.environment = None), KeyField::Environment),
        (and(&|e| e.environment = Some(Environment::Test)), KeyField::Environment),
        (and(&|e| e.expires = None), KeyField::Expires),
        (and(&|e| e.expires = Some(NOW + 30 * DAY + 1)), KeyField::Expires),
        (and(&|e| e.owner = Some(person("boss"))), KeyField::Owner),
    ] {
        assert_eq!(create(&entry).unwrap_err().field(), Some(field), "{entry:?}");
        let edited = may(&actor, KeyAction::Edit { to: &entry, living: 0 }, &within);
        assert_eq!(edited.unwrap_err().field(), Some(field), "{entry:?}");
        let touched = may(&actor, KeyAction::Edit { to: &within, living: 0 }, &entry);
        let is_told = matches!(touched, Err(NotAllowed::HoldsMore(_)));
        // Removing a management word, or naming no owner, grants nothing.
        let is_less = entry.owner.is_some() || entry.permissions.contains(&word("keys:write"));
        assert!(is_told || is_less && touched.is_ok(), "{entry:?}: {touched:?}");
        let rotated = may(&actor, KeyAction::Rotate { to: &entry, living: 0 }, &entry);
        assert!(rotated.is_err(), "a secret of {entry:?}");
    }
    // A key that ends later can be ended by one that ends sooner, but not by one with fewer rights.
    let revoke = KeyAction::SetStatus(StatusChange::Revoke);
    assert_eq!(may(&actor, revoke, &and(&|e| e.expires = None)), Ok(()));
    let stronger = and(&|e| e.permissions.push(word("read")));
    assert!(matches!(may(&actor, revoke, &stronger), Err(NotAllowed::HoldsMore(_))));
}

#[test]
fn two_networks_that_make_one_are_one() {
    let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    let halves = RegistryEntry {
        networks: nets(&["10.0.0.0/9", "10.128.0.0/9"]),
        ..key("key_k", &["send", "keys:write"])
    };
    let whole = RegistryEntry { networks: nets(&["10.0.0.0/8"]), ..key("key_t", &["send"]) };
    assert_eq!(may(&by(&halves), KeyAction::Create { living: 0 }, &whole), Ok(()));
}

#[test]
fn a_key_that_has_ended_asks_for_nothing() {
    let entry = key("key_k", &["send", "keys:write"]);
    for (ended, state) in [
        (RegistryEntry { status: KeyStatus::Revoked, ..entry.clone() }, "revoked"),
        (RegistryEntry { status: KeyStatus::Disabled, ..entry.clone() }, "disabled"),
        (RegistryEntry { status: KeyStatus::Canary, ..entry.clone() }, "canary"),
        (RegistryEntry { expires: Some(NOW), ..entry.clone() }, "expired"),
        (RegistryEntry { not_before: Some(NOW + 1), ..entry.clone() }, "not yet valid"),
    ] {
        assert_eq!(Actor::of_key(&ended, NOW), Err(NotAllowed::ActorEnded(state)));
    }
}

#[test]
fn a_member_stays_within_the_set_and_issues_for_nobody_else() {
    let member = actor(PersonRole::Member);
    let create = |entry| may(&member, KeyAction::Create { living: 0 }, &entry);
    assert_eq!(create(owned("kim", key("key_t", &["send"]))), Ok(()));
    for entry in [
        owned("kim", key("key_t", &["pay"])),
        owned("kim", key("key_t", &["keys:write"])),
        owned("lee", key("key_t", &["send"])),
        key("key_t", &["send"]),
        RegistryEntry { owner: Owner::new("kim", "", "admin").ok(), ..key("key_t", &["send"]) },
    ] {
        assert!(create(entry.clone()).is_err(), "{entry:?}");
    }
    // An admin has given it more than members have: its owner can end it, and nothing else.
    let stronger = owned("kim", key("key_t", &["send", "pay"]));
    assert_eq!(allowed(&member, &stronger), "suadrfc");
}

#[test]
fn a_secret_of_somebody_elses_key_speaks_for_them() {
    let manager = owned("kim", key("key_k", &["send", "keys:write"]));
    let rotate = |entry: RegistryEntry| {
        may(&by(&manager), KeyAction::Rotate { to: &entry, living: 0 }, &entry)
    };
    assert_eq!(rotate(owned("kim", key("key_t", &["send"]))), Ok(()));
    assert_eq!(rotate(key("key_t", &["send"])), Ok(()));
    let theirs = rotate(owned("boss", key("key_t", &["send"])));
    assert_eq!(theirs, Err(NotAllowed::HoldsMore(Excess::Owner)));
}

fn speaking(subject: &str, role: &str, entry: RegistryEntry) -> RegistryEntry {
    RegistryEntry { owner: Owner::new(subject, "", role).ok(), ..entry }
}

/// The service behind may trust the owner's role of a key, so a secret with a stronger role can do
/// more than the permissions say.
#[test]
fn nobody_makes_or_gets_a_key_with_a_stronger_voice() {
    let plain = key("key_t", &["send"]);
    let voice = |role: &str| speaking("lee", role, plain.clone());
    for (role, said, may_state, may_rotate) in [
        (PersonRole::Owner, "", true, true),
        (PersonRole::Owner, "owner", true, true),
        (PersonRole::Owner, "operator", false, false),
        // Nobody can rank roles that are not ours: the host may have given them.
        (PersonRole::Owner, "super_admin", false, true),
        (PersonRole::Admin, "", true, true),
        (PersonRole::Admin, "member", true, true),
        (PersonRole::Admin, "admin", true, true),
        (PersonRole::Admin, "owner", false, false),
        (PersonRole::Admin, "super_admin", false, true),
    ] {
        let (actor, spoken) = (actor(role), voice(said));
        let create = may(&actor, KeyAction::Create { living: 0 }, &spoken);
        assert_eq!(create.is_ok(), may_state, "{role:?} creates {said:?}: {create:?}");
        let edit = may(&actor, KeyAction::Edit { to: &spoken, living: 0 }, &plain);
        assert_eq!(edit.is_ok(), may_state, "{role:?} states {said:?}: {edit:?}");
        let rotate = may(&actor, KeyAction::Rotate { to: &spoken, living: 0 }, &spoken);
        assert_eq!(rotate.is_ok(), may_rotate, "{role:?} rotates {said:?}: {rotate:?}");
        // A new name reveals no secret and grants nothing.
        let renamed = RegistryEntry { name: "new".into(), ..spoken.clone() };
        assert_eq!(may(&actor, KeyAction::Edit { to: &renamed, living: 0 }, &spoken), Ok(()));
    }
    // A former admin has a key that still states the old role.
    let former = speaking("kim", "admin", plain.clone());
    let rotate =
        may(&actor(PersonRole::Member), KeyAction::Rotate { to: &former, living: 0 }, &former);
    assert!(matches!(rotate, Err(NotAllowed::HoldsMore(Excess::Role(_)))), "{rotate:?}");
}

#[test]
fn a_key_gets_no_stronger_voice_and_takes_nobodys() {
    let words = ["send", "keys:write"];
    let manager = by(&speaking("kim", "member", key("key_k", &words)));
    let rotate =
        |entry: &RegistryEntry| may(&manager, KeyAction::Rotate { to: entry, living: 0 }, entry);
    let target = |subject: &str, role: &str| speaking(subject, role, key("key_t", &["send"]));
    assert_eq!(rotate(&target("kim", "member")), Ok(()));
    assert_eq!(rotate(&target("kim", "")), Ok(()));
    for role in ["admin", "owner", "super_admin"] {
        assert!(rotate(&target("kim", role)).is_err(), "{role}");
    }
    assert!(rotate(&target("lee", "")).is_err());
    // No detours either: not even a key without an owner can be made from somebody else's.
    let lees = target("lee", "member");
    for owner in [None, Owner::new("kim", "", "member").ok()] {
        let to = RegistryEntry { owner, ..lees.clone() };
        let edit = may(&manager, KeyAction::Edit { to: &to, living: 0 }, &lees);
        assert_eq!(edit, Err(NotAllowed::HoldsMore(Excess::Owner)));
    }
}

#[test]
fn the_most_keys_of_an_org_are_the_most_however_they_come() {
    let rules = rules();
    let policy = OrgPolicy { most_keys: Some(2), ..OrgPolicy::default() };
    let access = Access { rules: &rules, policy: &policy, now: NOW };
    let owner = actor(PersonRole::Owner);
    let old = key("key_t", &["send"]);
    let successor = key("key_u", &["send"]);
    let expired = RegistryEntry { expires: Some(NOW), ..old.clone() };
    let create = |living| access.may(&owner, KeyAction::Create { living }, &successor);
    let rotate = |to: &RegistryEntry, from: &RegistryEntry, living| {
        access.may(&owner, KeyAction::Rotate { to, living }, from)
    };
    let edit = |to: &RegistryEntry, from: &RegistryEntry, living| {
        access.may(&owner, KeyAction::Edit { to, living }, from)
    };
    let full = Err(NotAllowed::Policy(PolicyFault::TooManyKeys { most: 2 }));
    assert_eq!((create(1), create(2)), (Ok(()), full.clone()));
    // A key in rotation exists twice, but never three times.
    assert_eq!((rotate(&successor, &old, 2), rotate(&successor, &old, 3)), (Ok(()), full.clone()));
    assert_eq!(rotate(&successor, &expired, 2), full.clone(), "it did not count any more");
    assert_eq!(edit(&old, &expired, 2), full.clone(), "back from the dead");
    assert_eq!((edit(&old, &expired, 1), edit(&expired, &old, 9)), (Ok(()), Ok(())));
    let renamed = RegistryEntry { name: "new".into(), ..old.clone() };
    assert_eq!(edit(&renamed, &old, 9), Ok(()));
    // A pair gets its second secret in place.
    assert_eq!((rotate(&old, &old, 9), rotate(&old, &expired, 2)), (Ok(()), full));
}

/// A caller who has to name networks cannot name the whole Internet.
#[test]
fn networks_that_are_required_are_not_everywhere() {
    let rules = rules();
    let policy = OrgPolicy { networks: RequiredNetworks::Required, ..OrgPolicy::default() };
    let access = Access { rules: &rules, policy: &policy, now: NOW };
    let with = |networks: &[&str]| {
        let networks = networks.iter().map(|text| text.parse().unwrap()).collect();
        RegistryEntry { networks, ..key("key_t", &["send"]) }
    };
    for (networks, want) in [
        (&["192.0.2.0/24"][..], true),
        (&["128.0.0.0/1"], true),
        (&[], false),
        (&["0.0.0.0/0"], false),
        (&["192.0.2.0/24", "::/0"], false),
        (&["0.0.0.0/1", "128.0.0.0/1"], false),
        (&["0.0.0.0/1", "128.0.0.0/2", "192.0.0.0/2"], false),
    ] {
        let wanted = with(networks);
        let made = access.may(&actor(PersonRole::Owner), KeyAction::Create { living: 0 }, &wanted);
        assert_eq!(made.is_ok(), want, "{networks:?}");
    }
}

#[test]
fn a_policy_caps_whoever_asks() {
    let rules = AccessRules { offered: Some(set(&["send", "read"])), ..rules() };
    let policy = OrgPolicy {
        longest_life: Some(90 * DAY),
        networks: RequiredNetworks::Required,
        most_keys: Some(3),
        permissions: Some(set(&["send", "keys:read"])),
    };
    let access = Access { rules: &rules, policy: &policy, now: NOW };
    let good = RegistryEntry {
        created: Some(NOW),
        expires: Some(NOW + 90 * DAY),
        networks: vec!["10.0.0.0/8".parse().unwrap()],
        ..owned("kim", key("key_t", &["send", "keys:read"]))
    };
    let too_long = RegistryEntry { expires: Some(NOW + 90 * DAY + 1), ..good.clone() };
    let endless = RegistryEntry { expires: None, ..good.clone() };
    let open = RegistryEntry { networks: Vec::new(), ..good.clone() };
    let not_offered = RegistryEntry { permissions: vec![word("read")], ..good.clone() };
    let unknown = RegistryEntry { permissions: vec![word("pay")], ..good.clone() };
    let star = RegistryEntry { permissions: vec![word("*")], ..good.clone() };
    for actor in [Actor::Host, actor(PersonRole::Owner), actor(PersonRole::Admin)] {
        let create = |living, entry| access.may(&actor, KeyAction::Create { living }, entry);
        assert_eq!(create(2, &good), Ok(()));
        let most = NotAllowed::Policy(PolicyFault::TooManyKeys { most: 3 });
        assert_eq!(create(3, &good), Err(most));
        assert_eq!(access.may(&actor, KeyAction::Rotate { to: &good, living: 0 }, &good), Ok(()));
        for bad in [&too_long, &endless, &open, &not_offered, &unknown, &star] {
            assert!(matches!(create(0, bad), Err(NotAllowed::Policy(_))), "{bad:?}");
            let to = |to| access.may(&actor, KeyAction::Edit { to, living: 0 }, &good);
            assert!(matches!(to(bad), Err(NotAllowed::Policy(_))), "{bad:?}");
            let rotated = access.may(&actor, KeyAction::Rotate { to: bad, living: 0 }, bad);
            assert!(matches!(rotated, Err(NotAllowed::Policy(_))), "{bad:?}");
            // A key from before the policy can be renamed, ended, and changed to comply with it.
            let renamed = RegistryEntry { name: "new".into(), ..bad.clone() };
            assert_eq!(
                access.may(&actor, KeyAction::Edit { to: &renamed, living: 0 }, bad),
                Ok(())
            );
            assert_eq!(access.may(&actor, KeyAction::Edit { to: &good, living: 0 }, bad), Ok(()));
            let revoke = KeyAction::SetStatus(StatusChange::Revoke);
            assert_eq!(access.may(&actor, revoke, bad), Ok(()));
        }
    }
    // A little longer each time is still longer.
    let old = RegistryEntry { created: Some(NOW - 60 * DAY), expires: Some(NOW + DAY), ..good };
    let longer = RegistryEntry { expires: Some(NOW + 60 * DAY), ..old.clone() };
    let edit = access.may(&Actor::Host, KeyAction::Edit { to: &longer, living: 0 }, &old);
    assert!(matches!(edit, Err(NotAllowed::Policy(PolicyFault::LifeTooLong { .. }))));
    assert_eq!(
        access.may(&Actor::Host, KeyAction::Rotate { to: &longer, living: 0 }, &old),
        Ok(())
    );
}

#[test]
fn people_manage_people_below_them_and_an_owner_stays() {
    let (rules, policy) = (rules(), OrgPolicy::default());
    let access = Access { rules: &rules, policy: &policy, now: NOW };
    let change = |role, from, to, owners| {
        let action = OrgAction::ChangeMember { from, to, owners };
        access.may_in(&actor(role), action, &org("acme"))
    };
    let (admin, member) = (Some(PersonRole::Admin), Some(PersonRole::Member));
    let (auditor, owner) = (Some(PersonRole::Auditor), Some(PersonRole::Owner));
    assert_eq!(change(PersonRole::Admin, None, member, 1), Ok(()));
    assert_eq!(change(PersonRole::Admin, member, auditor, 1), Ok(()));
    for (from, to) in [(None, admin), (member, owner), (owner, None), (admin, member)] {
        assert!(change(PersonRole::Admin, from, to, 2).is_err(), "{from:?} → {to:?}");
        assert!(change(PersonRole::Owner, from, to, 2).is_ok(), "{from:?} → {to:?}");
        for role in [PersonRole::Member, PersonRole::Auditor, PersonRole::Operator] {
            assert!(change(role, from, to, 2).is_err(), "{role:?}: {from:?} → {to:?}");
        }
    }
    assert!(change(PersonRole::Owner, None, Some(PersonRole::Operator), 2).is_err());
    assert_eq!(change(PersonRole::Owner, owner, admin, 1), Err(NotAllowed::LastOwner));
    assert_eq!(change(PersonRole::Owner, owner, owner, 1), Ok(()));
    let alone = OrgAction::ChangeMember { from: owner, to: None, owners: 1 };
    assert_eq!(access.may_in(&Actor::Host, alone, &org("acme")), Err(NotAllowed::LastOwner));
    let embed = set(&["send"]);
    let embed = OrgAction::MakeEmbedToken(&embed);
    let holder = by(&key("key_k", &["send", "embed:create"]));
    assert_eq!(access.may_in(&holder, embed, &org("acme")), Ok(()));
    assert_eq!(access.may_in(&holder, embed, &org("other")), Err(NotAllowed::Unseen));
    let less = by(&key("key_k", &["read", "embed:create"]));
    assert!(access.may_in(&less, embed, &org("acme")).is_err());
    assert!(access.may_in(&by(&key("key_k", &["send"])), embed, &org("acme")).is_err());
}
