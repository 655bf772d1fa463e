//! One key as the registry holds it: the text ([`RawEntry`]) and its meaning
//! ([`RegistryEntry`]).

use std::borrow::Cow;
use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::super::time;
use super::plans::{AppliedPlan, PlanName, overridden, own_part};
use super::raw_limits::{parse_limits, raw_limit, raw_limits};
use super::uid::Uid;
use super::words::taken;
pub use super::words::{
    FieldFault, check_name, check_public_id, parse_digest, parse_limit, show_digest, show_limit,
    show_limits, show_network,
};
use crate::core::address::parse_network;
use crate::core::{
    Digest, Environment, Grant, KeyId, KeyKind, KeySpec, KeyStatus, LimitSet, NetworkSet, OrgId,
    Owner, Permission, PermissionSet,
};

/// Longest `key_prefix` that a registry may hold: keygatectl records eight characters, and an older
/// one put the prefix in front of them.
pub const MAX_KEY_PREFIX: usize = 64;

/// A key with all its words parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryEntry {
    pub id: KeyId,
    pub org: OrgId,
    pub name: Box<str>,
    pub status: KeyStatus,
    pub environment: Option<Environment>,
    pub permissions: Vec<Permission>,
    pub networks: Vec<IpNet>,
    /// The key's own limits, by policy; they override those of its plan.
    pub limits: LimitSet,
    pub plan: Option<AppliedPlan>,
    /// Unix seconds, as all times here.
    pub created: Option<u64>,
    pub not_before: Option<u64>,
    pub expires: Option<u64>,
    /// When it is due to go out of use: keygate tells its callers, and refuses nothing.
    pub sunset: Option<u64>,
    /// Who issued it.
    pub owner: Option<Owner>,
    /// Which of the registry's prefixes the secret was issued with.
    pub prefix: Option<Box<str>>,
    /// First characters of the secret after its prefix, for people who look for a key. Entries by
    /// an older keygatectl have the prefix in front.
    pub key_prefix: Box<str>,
    /// The id that the caller of a pair presents. `Some` makes the key a pair.
    pub public_id: Option<Box<str>>,
    pub digest: Digest,
    /// The pair's former secret while both are valid.
    pub previous: Option<Previous>,
    /// The key that this one succeeds.
    pub replaces: Option<KeyId>,
    /// Its UUID, where that is not [`Uid::of_key`].
    pub uid: Option<Uid>,
    /// Free text for those who read the registry. Never in a table.
    pub note: Box<str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Previous {
    pub digest: Digest,
    pub expires: u64,
}

/// A key as written in TOML or JSON. The order of the fields is the order in which they are
/// written.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawEntry<'a> {
    #[serde(borrow)]
    pub id: Cow<'a, str>,
    #[serde(borrow)]
    pub org: Cow<'a, str>,
    #[serde(borrow, default)]
    pub name: Cow<'a, str>,
    #[serde(default)]
    pub permissions: Vec<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Cow<'a, str>>,
    /// By policy; `limit` is that of `per-key`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, String>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<RawTime>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<RawTime>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<RawTime>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sunset: Option<RawTime>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<RawOwner<'a>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<Cow<'a, str>>,
    /// Formerly named `start`.
    #[serde(borrow, default, alias = "start", skip_serializing_if = "Option::is_none")]
    pub key_prefix: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub public_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub digest: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<RawPrevious<'a>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub note: Option<Cow<'a, str>>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawPrevious<'a> {
    #[serde(borrow)]
    pub digest: Cow<'a, str>,
    pub expires: RawTime,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawOwner<'a> {
    #[serde(borrow)]
    pub subject: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "str::is_empty")]
    pub email: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "str::is_empty")]
    pub role: Cow<'a, str>,
}

/// A time in a registry: an RFC 3339 string, or TOML's own offset date-time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawTime(pub String);

// === impl RawEntry ===

impl RawEntry<'_> {
    /// Parses every word and reports all faults together.
    pub fn parse(&self) -> Result<RegistryEntry, Vec<FieldFault>> {
        let mut faults = Vec::new();
        let entry = self.parse_into(&mut faults);
        match entry {
            Some(entry) if faults.is_empty() => Ok(entry),
            _ => Err(faults),
        }
    }

    fn parse_into(&self, faults: &mut Vec<FieldFault>) -> Option<RegistryEntry> {
        let id = taken("id", KeyId::parse(&self.id), faults);
        let org = taken("org", OrgId::parse(&self.org), faults);
        let digest = taken("digest", parse_digest(&self.digest), faults);
        let status = match &self.status {
            Some(text) => taken("status", KeyStatus::parse(text), faults),
            None => Some(KeyStatus::Active),
        };
        let permissions: Vec<_> = self
            .permissions
            .iter()
            .filter_map(|word| taken("permissions", Permission::parse(word), faults))
            .collect();
        let networks: Vec<_> = self
            .networks
            .iter()
            .filter_map(|text| taken("networks", parse_network(text), faults))
            .collect();
        let previous = self.previous.as_ref().and_then(|previous| {
            let digest = taken("previous.digest", parse_digest(&previous.digest), faults)?;
            let expires = taken("previous.expires", time::instant(&previous.expires.0), faults)?;
            Some(Previous { digest, expires })
        });
        if let Err(why) = check_name(&self.name) {
            faults.push(FieldFault::new("name", why));
        }
        if let Some(id) = &self.public_id
            && let Err(why) = check_public_id(id)
        {
            faults.push(FieldFault::new("public_id", why));
        }
        if self.previous.is_some() && self.public_id.is_none() {
            let why = "only a pair (with `public_id`) has two secrets";
            faults.push(FieldFault::new("previous", why));
        }
        let key_prefix = self.key_prefix.as_deref().unwrap_or_default();
        if key_prefix.len() > MAX_KEY_PREFIX || !key_prefix.bytes().all(|b| b.is_ascii_graphic()) {
            let why =
                format!("must be the first few characters of the secret, at most {MAX_KEY_PREFIX}");
            faults.push(FieldFault::new("key_prefix", why));
        }
        if self.note.as_deref().is_some_and(|n| n.chars().any(char::is_control)) {
            let why = "must be one line without control characters";
            faults.push(FieldFault::new("note", why));
        }
        let time = |field, stamp: &Option<RawTime>, faults: &mut Vec<FieldFault>| {
            stamp.as_ref().and_then(|s| taken(field, time::instant(&s.0), faults))
        };
        Some(RegistryEntry {
            created: time("created", &self.created, faults),
            not_before: time("not_before", &self.not_before, faults),
            expires: time("expires", &self.expires, faults),
            environment: self
                .environment
                .as_ref()
                .and_then(|text| taken("environment", Environment::parse(text), faults)),
            sunset: time("sunset", &self.sunset, faults),
            owner: self.owner.as_ref().and_then(|owner| {
                let RawOwner { subject, email, role } = owner;
                taken("owner", Owner::new(subject, email, role), faults)
            }),
            limits: parse_limits(self.limit.as_deref(), &self.limits, faults),
            plan: self.plan.as_ref().and_then(|name| {
                taken("plan", PlanName::parse(name), faults).map(AppliedPlan::unresolved)
            }),
            replaces: self
                .replaces
                .as_ref()
                .and_then(|t| taken("replaces", KeyId::parse(t), faults)),
            uid: self.uid.as_ref().and_then(|text| {
                let uid = Uid::parse(text).ok_or("must be a UUID: 36 characters");
                taken("uid", uid, faults)
            }),
            name: self.name.as_ref().into(),
            permissions,
            networks,
            prefix: self.prefix.as_deref().map(Into::into),
            key_prefix: key_prefix.into(),
            public_id: self.public_id.as_deref().map(Into::into),
            previous,
            note: self.note.as_deref().unwrap_or_default().into(),
            status: status?,
            id: id?,
            org: org?,
            digest: digest?,
        })
    }
}

// === impl RegistryEntry ===

impl RegistryEntry {
    /// The form in which a file holds it.
    pub fn raw(&self) -> RawEntry<'_> {
        let stamp = |at: Option<u64>| at.map(RawTime::of);
        let text = |text: &'_ str| (!text.is_empty()).then(|| Cow::Owned(text.to_owned()));
        RawEntry {
            id: self.id.to_string().into(),
            org: self.org.as_str().into(),
            name: self.name.as_ref().into(),
            permissions: self.permissions.iter().map(|p| p.as_str().into()).collect(),
            environment: self.environment.map(|e| e.as_str().into()),
            networks: self.networks.iter().map(|n| show_network(n).into()).collect(),
            plan: self.plan.as_ref().map(|plan| plan.name.as_str().into()),
            limit: raw_limit(&self.limits).map(Into::into),
            limits: raw_limits(&self.limits),
            status: (self.status != KeyStatus::Active).then(|| self.status.as_str().into()),
            created: stamp(self.created),
            not_before: stamp(self.not_before),
            expires: stamp(self.expires),
            sunset: stamp(self.sunset),
            owner: self.owner.as_ref().map(|owner| {
                let view = owner.view();
                RawOwner {
                    subject: view.subject.into(),
                    email: view.email.into(),
                    role: view.role.into(),
                }
            }),
            prefix: self.prefix.as_deref().map(Into::into),
            key_prefix: text(&self.key_prefix),
            public_id: self.public_id.as_deref().map(Into::into),
            digest: show_digest(&self.digest).into(),
            previous: self.previous.map(|p| RawPrevious {
                digest: show_digest(&p.digest).into(),
                expires: RawTime::of(p.expires),
            }),
            replaces: self.replaces.map(|id| id.to_string().into()),
            uid: self.uid.map(|uid| uid.to_string().into()),
            note: text(&self.note),
        }
    }

    /// Its limits merged with those of its plan: what a table states.
    pub fn limits_in_force(&self) -> LimitSet {
        match &self.plan {
            Some(plan) => overridden(&plan.limits, &self.limits),
            None => self.limits.clone(),
        }
    }

    /// Gives it exactly these limits. The plan is removed if it limits a policy that `limits` does
    /// not.
    pub fn set_limits_in_force(&mut self, limits: LimitSet) {
        let own = self.plan.as_ref().map(|plan| own_part(&plan.limits, &self.limits, &limits));
        match own {
            Some(Some(own)) => self.limits = own,
            Some(None) | None => {
                self.limits = limits;
                self.plan = None;
            }
        }
    }

    /// The same key with the limits of its plan as its own: for readers that do not know the plan.
    #[must_use]
    pub fn without_plan(&self) -> Self {
        Self { limits: self.limits_in_force(), plan: None, ..self.clone() }
    }

    /// Takes the limits of its plan from `plans`.
    pub fn resolve_plan(&mut self, plans: &BTreeMap<PlanName, LimitSet>) -> Result<(), FieldFault> {
        let Some(plan) = &mut self.plan else { return Ok(()) };
        *plan = AppliedPlan::of(&plan.name, plans).map_err(|why| FieldFault::new("plan", why))?;
        match self.limits_in_force().len() > LimitSet::MOST {
            true => {
                let why = format!("at most {} limits, with those of its plan", LimitSet::MOST);
                Err(FieldFault::new("limits", why))
            }
            false => Ok(()),
        }
    }

    pub fn kind(&self) -> KeyKind {
        if self.public_id.is_some() { KeyKind::Pair } else { KeyKind::Single }
    }

    /// What a table is built from: one record per secret.
    pub fn specs(&self) -> impl Iterator<Item = KeySpec> {
        let limits = self.limits_in_force();
        let spec = |digest, expires| KeySpec {
            id: self.id,
            org: self.org.clone(),
            name: self.name.clone(),
            digest,
            public_id: self.public_id.clone(),
            expires,
            grant: Grant {
                status: self.status,
                kind: self.kind(),
                environment: self.environment,
                not_before: self.not_before,
                permissions: PermissionSet::new(self.permissions.iter().cloned()),
                networks: NetworkSet::new(self.networks.iter().copied()),
                limits: limits.clone(),
                sunset: self.sunset,
            },
            owner: self.owner.clone(),
        };
        let former = self.previous.map(|previous| {
            let end = self.expires.map_or(previous.expires, |e| e.min(previous.expires));
            spec(previous.digest, Some(end))
        });
        std::iter::once(spec(self.digest, self.expires)).chain(former)
    }

    /// Enough to distinguish it from other keys of the same name.
    pub fn describe(&self) -> String {
        let date = |at: u64| time::show(at).split('T').next().unwrap_or_default().to_owned();
        let created = self.created.map(|at| format!(", created {}", date(at)));
        let expires = self.expires.map(|at| format!(", expires {}", date(at)));
        let replaces = self.replaces.map(|former| format!(", replaces {former}"));
        format!(
            "{} ({}, {}{}{}{})",
            self.id,
            self.org.as_str(),
            self.status.as_str(),
            created.unwrap_or_default(),
            expires.unwrap_or_default(),
            replaces.unwrap_or_default()
        )
    }

    /// Whether a pair has a second secret at `now` (Unix seconds).
    pub fn has_former_secret(&self, now: u64) -> bool {
        self.previous.is_some_and(|previous| previous.expires > now)
    }

    /// The status that a caller sees at `now`: the stored one, or what the clock makes of it.
    pub fn state(&self, now: u64) -> &'static str {
        match self.status {
            KeyStatus::Active if self.expires.is_some_and(|at| now >= at) => "expired",
            KeyStatus::Active if self.not_before.is_some_and(|at| now < at) => "not yet valid",
            status => status.as_str(),
        }
    }
}

// === impl RawTime ===

impl RawTime {
    pub fn of(seconds: u64) -> Self {
        Self(time::show(seconds))
    }
}

impl<'de> Deserialize<'de> for RawTime {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Text(String),
            Toml(toml::value::Datetime),
        }
        match Either::deserialize(from) {
            Ok(Either::Text(text)) => Ok(Self(text)),
            Ok(Either::Toml(datetime)) => Ok(Self(datetime.to_string())),
            Err(_) => Err(de::Error::custom(time::TimeError::Instant)),
        }
    }
}

impl Serialize for RawTime {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.0)
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn full() -> RegistryEntry {
        RegistryEntry {
            id: KeyId::parse("key_full").unwrap(),
            org: OrgId::parse("acme").unwrap(),
            name: "Käse \"CRM\"".into(),
            status: KeyStatus::Disabled,
            environment: Some(Environment::Live),
            permissions: vec![
                Permission::parse("send").unwrap(),
                Permission::parse("read").unwrap(),
            ],
            networks: vec!["203.0.113.0/24".parse().unwrap(), "2001:db8::1/128".parse().unwrap()],
            limits: LimitSet::of_key(Some(parse_limit("600/min burst 50").unwrap())).with(
                crate::core::PolicyName::parse("search").unwrap(),
                parse_limit("2/s").unwrap(),
            ),
            plan: Some(AppliedPlan::unresolved(PlanName::parse("gold").unwrap())),
            created: Some(1_795_230_000),
            not_before: Some(1_795_230_001),
            expires: Some(1_795_240_000),
            sunset: Some(1_795_239_000),
            owner: Some(Owner::new("u-17", "kim@example.com", "admin").unwrap()),
            prefix: Some("wa".into()),
            key_prefix: "Ab3dE5f6".into(),
            public_id: Some("12345-abcde".into()),
            digest: Digest::of(b"new"),
            previous: Some(Previous { digest: Digest::of(b"old"), expires: 1_795_231_000 }),
            replaces: Some(KeyId::parse("key_old").unwrap()),
            uid: None,
            note: "asked for by Kim".into(),
        }
    }

    #[test]
    fn an_entry_survives_json() {
        let entry = full();
        let text = serde_json::to_string(&entry.raw()).unwrap();
        let raw: RawEntry<'_> = serde_json::from_str(&text).unwrap();
        assert_eq!(raw.parse().unwrap(), entry);
    }

    #[test]
    fn a_rotated_pair_is_two_records() {
        let specs: Vec<_> = full().specs().collect();
        assert_eq!(specs.len(), 2);
        assert_eq!(specs[0].expires, Some(1_795_240_000));
        assert_eq!(specs[1].expires, Some(1_795_231_000));
        assert!(specs.iter().all(|s| s.public_id.as_deref() == Some("12345-abcde")));
        assert_eq!(specs[0].grant, specs[1].grant);
    }

    #[test]
    fn all_faults_are_told_and_none_shows_the_value() {
        let raw = RawEntry {
            id: "acme".into(),
            org: "".into(),
            permissions: vec!["a b".into()],
            status: Some("gone".into()),
            digest: "wa_live_hunter2hunter2".into(),
            expires: Some(RawTime("tomorrow".into())),
            networks: vec!["::ffff:10.0.0.0/104".into()],
            ..RawEntry::default()
        };
        let faults = raw.parse().unwrap_err();
        let fields: Vec<_> = faults.iter().map(|fault| fault.field).collect();
        for field in ["id", "org", "permissions", "status", "digest", "expires", "networks"] {
            assert!(fields.contains(&field), "{field}: {fields:?}");
        }
        assert!(faults.iter().all(|fault| !fault.why.contains("hunter2")));
    }

    #[test]
    fn state_follows_the_clock() {
        let mut entry = full();
        assert_eq!(entry.state(1_795_235_000), "disabled");
        entry.status = KeyStatus::Active;
        assert_eq!(entry.state(1_795_230_000), "not yet valid");
        assert_eq!(entry.state(1_795_235_000), "active");
        assert_eq!(entry.state(1_795_240_000), "expired");
    }
}
