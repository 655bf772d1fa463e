//! What is written is what is read, for keys of every shape, in both forms and through edits.

use std::path::Path;

use proptest::prelude::*;

use super::entry::{Previous, RawEntry, RegistryEntry, parse_limit};
use super::plans::{AppliedPlan, PlanName};
use super::toml::{self, Piece};
use super::uid::Uid;
use crate::core::{
    Digest, Environment, KeyId, KeyStatus, Limit, LimitSet, OrgId, Owner, Permission, PolicyName,
};

fn entries() -> impl Strategy<Value = RegistryEntry> {
    let words = (
        "key_[a-z0-9]{1,12}",
        "[!-~]{1,40}",
        "\\PC{0,40}".prop_filter("control", |n| !n.chars().any(char::is_control)),
        prop::collection::vec("[!#-\\[\\]-~]{1,20}", 0..4),
        prop::option::of("[!-9;-~]{1,30}"),
        "[!-~]{0,12}",
        "[^\\p{C}]{0,30}".prop_filter("control", |n| !n.chars().any(char::is_control)),
    );
    let facts = (
        prop::sample::select(vec![
            KeyStatus::Active,
            KeyStatus::Disabled,
            KeyStatus::Revoked,
            KeyStatus::Canary,
        ]),
        prop::option::of(prop::sample::select(vec![Environment::Live, Environment::Test])),
        prop::collection::vec(any::<(u32, u8)>(), 0..3),
        prop::option::of((1u32..100_000, 1u64..100_000, 1u32..100)),
        prop::array::uniform4(prop::option::of(0..=u64::from(u32::MAX))),
        any::<[u8; 32]>(),
        prop::option::of((any::<[u8; 32]>(), 0..=u64::from(u32::MAX))),
    );
    let limit = prop::sample::select(vec!["1/s", "600/min burst 5", "9/30s"]);
    let limit = limit.prop_map(|text| parse_limit(text).unwrap());
    let more = (
        prop::collection::vec(("[a-z0-9_-]{1,10}", limit), 0..4),
        prop::option::of(prop::array::uniform3("[^\\p{C}]{0,20}")),
        prop::option::of("[a-z0-9_-]{5,10}"),
        prop::option::of(any::<[u8; 16]>().prop_map(Uid)),
    );
    (words, facts, more).prop_map(|(words, facts, (limits, owner, plan, uid))| {
        let (id, org, name, permissions, public_id, key_prefix, note) = words;
        let (status, environment, networks, limit, times, digest, previous) = facts;
        let network = |(address, length): (u32, u8)| {
            let network = ipnet::Ipv4Net::new(address.into(), length % 33).unwrap();
            ipnet::IpNet::from(network.trunc())
        };
        let limit = limit.and_then(|(count, seconds, burst)| {
            let window = std::time::Duration::from_secs(seconds);
            Limit::new(count, window, burst.min(count)).ok()
        });
        RegistryEntry {
            id: KeyId::parse(&id).unwrap(),
            org: OrgId::parse(&org).unwrap(),
            name: name.into(),
            status,
            environment,
            permissions: permissions.iter().map(|w| Permission::parse(w).unwrap()).collect(),
            networks: networks.into_iter().map(network).collect(),
            limits: limits.into_iter().fold(LimitSet::of_key(limit), |set, (name, limit)| {
                set.with(PolicyName::parse(&name).unwrap(), limit)
            }),
            plan: plan.map(|name| AppliedPlan::unresolved(PlanName::parse(&name).unwrap())),
            sunset: times[3],
            owner: owner
                .and_then(|[subject, email, role]| Owner::new(&subject, &email, &role).ok()),
            created: times[0],
            not_before: times[1],
            expires: times[2],
            prefix: None,
            key_prefix: key_prefix.into(),
            previous: public_id
                .as_ref()
                .and(previous)
                .map(|(digest, expires)| Previous { digest: Digest(digest), expires }),
            public_id: public_id.map(Into::into),
            digest: Digest(digest),
            replaces: None,
            uid,
            note: note.into(),
        }
    })
}

fn reread(text: String) -> RegistryEntry {
    toml::parse(&Piece { line: 1, text }, Path::new("keys.toml")).unwrap()
}

proptest! {
    #[test]
    fn toml_and_json_are_read_as_they_were_written(entry in entries()) {
        prop_assert_eq!(&reread(toml::print(&entry)), &entry);
        let json = serde_json::to_string(&entry.raw()).unwrap();
        let raw: RawEntry<'_> = serde_json::from_str(&json).unwrap();
        prop_assert_eq!(&raw.parse().unwrap(), &entry);
    }

    #[test]
    fn an_edit_leads_from_any_key_to_any_other(old in entries(), new in entries()) {
        let text = toml::edit(&toml::print(&old), &old, &new).unwrap();
        prop_assert_eq!(reread(text), new);
    }

    #[test]
    fn no_text_breaks_the_reader(text in "\\PC{0,200}|(\\[\\[key\\]\\]|id = \"key_a\"|\n|\"\"\"|[ -~]){0,20}") {
        let mut pieces = toml::Pieces::new(text.as_bytes());
        let mut joined = String::new();
        while let Ok(Some(piece)) = pieces.advance() {
            let _ = toml::parse(&piece, Path::new("keys.toml"));
            joined.push_str(&piece.text);
        }
        prop_assert_eq!(joined, text);
    }
}
