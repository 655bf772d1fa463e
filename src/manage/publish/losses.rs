//! What a publication would undo of what somebody else has published. Pure: key by key, from what
//! the publisher published last (base), what is published now (theirs) and what is about to be
//! published (ours). Every publication is checked against it. Recovery after a crash or from a
//! backup is the same question. Imports core, and this room's words for the message.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::super::registry::words::{show_limit, show_network};
use super::super::time;
use crate::core::{
    Environment, KeyId, KeySpec, KeyStatus, Limit, LimitSet, NamedLimit, NetworkSet, OrgId, Owner,
    Permission, PermissionSet, PolicyName,
};

/// One key in three publications: a record per secret, and no record where the key is absent.
#[derive(Clone, Debug)]
pub struct ThreeWayKey {
    pub id: KeyId,
    pub base: Baseline,
    /// Records with this id, and records of other ids that have a secret of ours.
    pub theirs: Vec<KeySpec>,
    pub ours: Vec<KeySpec>,
}

/// What the publisher knows of its last publication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Baseline {
    /// Ours contains what is published, whatever that says: it is the base. Only keys that theirs
    /// has permanently ended are still asked about.
    Contained,
    /// The key as it was; no record means it was not there.
    Known(Vec<KeySpec>),
    /// The registry was lost, or never recorded it. Theirs is then the base: ours may allow nothing
    /// that theirs does not.
    Unknown,
}

/// A key for which ours would lose something that theirs says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    pub id: KeyId,
    pub org: OrgId,
    pub name: Box<str>,
    /// Keys there with another id that have a secret of ours.
    pub namesakes: Vec<KeyId>,
    /// At least one.
    pub differences: Vec<Difference>,
}

/// One thing that ours would lose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// Theirs asks for a different public id, or asks for one where ours does not.
    Carrier,
    /// Theirs ended a secret of the key that ours still has.
    EndedSecret,
    /// Theirs is for other deployments; `None`: for all that require no environment.
    Environment(Option<Environment>),
    /// Theirs ends the key earlier. Unix seconds.
    Expires(u64),
    /// Theirs admits fewer requests under this policy.
    Limit(NamedLimit),
    Networks(NetworkSet),
    /// Theirs begins later. Unix seconds.
    NotBefore(u64),
    /// Ours does not have the key at all.
    OnlyTheirs(KeyStatus),
    /// Ours lacks this secret of the key, which theirs rotated.
    OnlyTheirsSecret,
    /// Theirs gave the key to this organization.
    Org(OrgId),
    /// Theirs gave the key to a different owner: the service may mistake its callers for that
    /// person.
    Owner(Option<Owner>),
    /// Theirs removed these.
    Permissions(Vec<Permission>),
    /// Theirs no longer has the key.
    Removed,
    Status(KeyStatus),
}

/// What a publisher undoes on purpose, key by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acknowledged {
    /// Keys that may again do what theirs prevents.
    pub readmit: BTreeSet<KeyId>,
    /// Keys, or secrets of keys, that only theirs has and that may be dropped.
    pub drop: BTreeSet<KeyId>,
    /// Orgs that may again do more than theirs allows.
    pub orgs: BTreeSet<OrgId>,
    /// Fewer signers may sign than have signed the file to be replaced.
    pub fewer_signatures: bool,
    /// Sidecars trust signers that no published file names.
    pub new_signer: bool,
}

/// An org for which ours would lose a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrgLoss {
    pub org: OrgId,
    /// What theirs allows, where ours allows more.
    pub limits: LimitSet,
}

/// Orgs that may do less by `theirs` than by `ours`, under some policy.
pub fn org_losses(
    theirs: &BTreeMap<OrgId, LimitSet>,
    ours: &BTreeMap<OrgId, LimitSet>,
    meant: &Acknowledged,
) -> Vec<OrgLoss> {
    let asked = theirs.iter().filter(|(org, _)| !meant.orgs.contains(*org));
    let lost = asked.map(|(org, stated)| {
        let own = |named: &NamedLimit| ours.get(org)?.get(named.policy.as_str());
        let limits = stated.iter().filter(|named| slower(None, named.limit, own(named)));
        OrgLoss { org: org.clone(), limits: LimitSet::new(limits.cloned()) }
    });
    lost.filter(|loss| !loss.limits.is_empty()).collect()
}

/// Everything that ours would undo without an acknowledgement, in the order of `keys`.
pub fn losses(keys: impl IntoIterator<Item = ThreeWayKey>, meant: &Acknowledged) -> Vec<Loss> {
    keys.into_iter().filter_map(|key| key.loss(meant)).collect()
}

// === impl ThreeWayKey ===

impl ThreeWayKey {
    fn loss(&self, meant: &Acknowledged) -> Option<Loss> {
        let mut differences = self.differences();
        differences.retain(|difference| !difference.is_meant(self.id, meant));
        let shown = self.theirs.first().or(self.ours.first())?;
        let (org, name) = (shown.org.clone(), shown.name.clone());
        let others = self.theirs.iter().map(|spec| spec.id).filter(|id| *id != self.id);
        let namesakes = others.collect();
        let loss = Loss { id: self.id, org, name, namesakes, differences };
        (!loss.differences.is_empty()).then_some(loss)
    }

    fn differences(&self) -> Vec<Difference> {
        match (self.theirs.first(), self.ours.is_empty()) {
            _ if self.base == Baseline::Contained => self.revived(),
            (None, true) => Vec::new(),
            // Ours removed what both had: its author's decision.
            (Some(_), true) if self.base == Baseline::Known(self.theirs.clone()) => Vec::new(),
            (Some(theirs), true) => vec![Difference::OnlyTheirs(theirs.grant.status)],
            // A key that ours ends permanently is not admitted again in any way.
            (_, false) if self.ours.iter().all(is_final) => Vec::new(),
            (None, false) => match &self.base {
                // A new key of ours.
                Baseline::Known(base) if base.is_empty() => Vec::new(),
                _ => vec![Difference::Removed],
            },
            (Some(_), false) => self.of_both(),
        }
    }

    fn revived(&self) -> Vec<Difference> {
        // A canary is as final as a revocation: a thief has a secret that raised the alarm.
        let ended = self.theirs.iter().map(|spec| spec.grant.status).filter(|s| s.is_final()).max();
        match ended {
            Some(status) if !self.ours.iter().all(is_final) => vec![Difference::Status(status)],
            _ => Vec::new(),
        }
    }

    /// The record of this id that ends last: in a rotation, that of the current secret.
    fn longest_there(&self) -> Option<&KeySpec> {
        longest(self.theirs.iter().filter(|spec| spec.id == self.id))
    }

    /// The differences of a key that both have.
    fn of_both(&self) -> Vec<Difference> {
        // A key that the base lacked, and that theirs got from elsewhere: whatever theirs says
        // against it is news.
        let base = match &self.base {
            Baseline::Known(base) if !base.is_empty() => Some(base.as_slice()),
            _ => None,
        };
        let mut found = Vec::new();
        for ours in &self.ours {
            let same = |specs: &[KeySpec]| specs.iter().find(|s| s.digest == ours.digest).cloned();
            let (was, is) = (base.and_then(same), same(&self.theirs));
            if is.is_none() && (base.is_none() || was.is_some()) {
                add(&mut found, Difference::EndedSecret);
            }
            let was = was.or_else(|| base.and_then(longest).cloned());
            if let Some(is) = &is {
                compare(was.as_ref(), is, ours, &mut found);
            }
            // What theirs says against a key also applies to a secret that theirs has not seen, or
            // that another key has there.
            if is.is_none_or(|is| is.id != self.id)
                && let Some(is) = self.longest_there()
            {
                compare(was.as_ref(), is, ours, &mut found);
            }
        }
        let has = |specs: &[KeySpec], wanted: &KeySpec| {
            specs.iter().any(|spec| spec.digest == wanted.digest)
        };
        for theirs in self.theirs.iter().filter(|spec| spec.id == self.id) {
            let is_ended = theirs.grant.status.is_final();
            if !is_ended && !has(&self.ours, theirs) && !base.is_some_and(|base| has(base, theirs))
            {
                add(&mut found, Difference::OnlyTheirsSecret);
            }
        }
        found
    }
}

// === impl Difference ===

impl Difference {
    /// Whether only theirs has it, as opposed to something that theirs removed.
    pub fn is_drop(&self) -> bool {
        matches!(self, Self::OnlyTheirs(_) | Self::OnlyTheirsSecret)
    }

    fn is_meant(&self, id: KeyId, meant: &Acknowledged) -> bool {
        let list = if self.is_drop() { &meant.drop } else { &meant.readmit };
        list.contains(&id)
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.id)?;
        match &*self.name {
            "" => write!(f, " ({})", self.org.as_str())?,
            name => write!(f, " ({name}, {})", self.org.as_str())?,
        }
        for (n, other) in self.namesakes.iter().enumerate() {
            write!(f, "{} {other}", if n == 0 { ", whose secret is that of" } else { " and" })?;
        }
        for (n, difference) in self.differences.iter().enumerate() {
            write!(f, "{} {difference}", if n == 0 { ":" } else { "," })?;
        }
        Ok(())
    }
}

impl fmt::Display for OrgLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the org {}", self.org.as_str())?;
        for (n, named) in self.limits.iter().enumerate() {
            let limit = Difference::Limit(named.clone());
            write!(f, "{} {limit}", if n == 0 { ":" } else { "," })?;
        }
        Ok(())
    }
}

/// What theirs says.
impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Carrier => f.write_str("has another public id there"),
            Self::EndedSecret => f.write_str("has lost a secret there"),
            Self::Environment(None) => f.write_str("has no environment there"),
            Self::Environment(Some(environment)) => {
                write!(f, "is for {} only there", environment.as_str())
            }
            Self::Expires(at) => write!(f, "ends {} there", time::show(*at)),
            Self::Limit(NamedLimit { policy, limit }) => {
                let limit = show_limit(*limit);
                match policy.as_str() {
                    PolicyName::PER_KEY => write!(f, "has the limit {limit} there"),
                    policy => write!(f, "has the limit {limit} for {policy} there"),
                }
            }
            Self::Networks(networks) => {
                let networks: Vec<_> = networks.iter().map(show_network).collect();
                write!(f, "is for {} only there", networks.join(" "))
            }
            Self::NotBefore(at) => write!(f, "begins {} there", time::show(*at)),
            Self::OnlyTheirs(KeyStatus::Active) => f.write_str("is only there"),
            Self::OnlyTheirs(status) => write!(f, "is only there, and is {}", status.as_str()),
            Self::OnlyTheirsSecret => f.write_str("has a new secret there"),
            Self::Owner(None) => f.write_str("has no owner there"),
            Self::Owner(Some(owner)) => write!(f, "belongs to {} there", owner.view()),
            Self::Org(org) => write!(f, "belongs to {} there", org.as_str()),
            Self::Permissions(words) => {
                let words: Vec<_> = words.iter().map(Permission::as_str).collect();
                write!(f, "does not hold `{}` there", words.join(" "))
            }
            Self::Removed => f.write_str("is not there"),
            Self::Status(status) => write!(f, "is {} there", status.as_str()),
        }
    }
}

fn add(to: &mut Vec<Difference>, difference: Difference) {
    if !to.contains(&difference) {
        to.push(difference);
    }
}

fn is_final(spec: &KeySpec) -> bool {
    spec.grant.status.is_final()
}

/// The record that ends last: in a rotation, that of the current secret.
fn longest<'s>(specs: impl IntoIterator<Item = &'s KeySpec>) -> Option<&'s KeySpec> {
    specs.into_iter().max_by_key(|spec| spec.expires.unwrap_or(u64::MAX))
}

/// In every dimension: what the base allowed (without a base: anything), theirs no longer does, and
/// ours does.
fn compare(was: Option<&KeySpec>, is: &KeySpec, ours: &KeySpec, to: &mut Vec<Difference>) {
    let (grant, own) = (&is.grant, &ours.grant);
    let status = was.map_or(KeyStatus::Active, |was| was.grant.status);
    if grant.status > status && own.status < grant.status {
        add(to, Difference::Status(grant.status));
    }
    let end = |spec: &KeySpec| spec.expires.unwrap_or(u64::MAX);
    if end(is) < was.map_or(u64::MAX, end) && end(ours) > end(is) {
        add(to, Difference::Expires(end(is)));
    }
    let begin = |spec: &KeySpec| spec.grant.not_before.unwrap_or(0);
    if begin(is) > was.map_or(0, begin) && begin(ours) < begin(is) {
        add(to, Difference::NotBefore(begin(is)));
    }
    let before = was.map_or(u8::MAX, |was| deployments(was.grant.environment));
    if before & !deployments(grant.environment) & deployments(own.environment) != 0 {
        add(to, Difference::Environment(grant.environment));
    }
    let taken =
        permissions(was.map(|was| &was.grant.permissions), &grant.permissions, &own.permissions);
    if !taken.is_empty() {
        add(to, Difference::Permissions(taken));
    }
    if networks(was.map(|was| &was.grant.networks), &grant.networks, &own.networks) {
        add(to, Difference::Networks(grant.networks.clone()));
    }
    for named in grant.limits.iter() {
        let of = |limits: &LimitSet| limits.get(named.policy.as_str());
        if slower(was.map(|was| of(&was.grant.limits)), named.limit, of(&own.limits)) {
            add(to, Difference::Limit(named.clone()));
        }
    }
    let carrier = |spec: &KeySpec| (spec.grant.kind, spec.public_id.clone());
    let (kept, there) = (carrier(ours), carrier(is));
    if kept != there && was.is_none_or(|was| carrier(was) == kept) {
        add(to, Difference::Carrier);
    }
    if ours.org != is.org && was.is_none_or(|was| was.org == ours.org) {
        add(to, Difference::Org(is.org.clone()));
    }
    if ours.owner != is.owner && was.is_none_or(|was| was.owner == ours.owner) {
        add(to, Difference::Owner(is.owner.clone()));
    }
}

/// The kinds of deployment in which a key of this environment is valid, one bit each: without an
/// environment, live, test, live and test that require one. [`crate::core::decide`] judges by the
/// same rule.
fn deployments(environment: Option<Environment>) -> u8 {
    match environment {
        None => 0b00111,
        Some(Environment::Live) => 0b01011,
        Some(Environment::Test) => 0b10101,
    }
}

/// Words that `was` held, `is` does not and `own` does.
fn permissions(
    was: Option<&PermissionSet>,
    is: &PermissionSet,
    own: &PermissionSet,
) -> Vec<Permission> {
    let held = |set: Option<&PermissionSet>, word: &Permission| set.is_none_or(|s| s.holds(word));
    // `*` also stands for words that neither list names.
    let words = own.iter().chain(was.into_iter().flat_map(PermissionSet::iter));
    let mut taken: Vec<_> = words
        .filter(|word| held(was, word) && own.holds(word) && !is.holds(word))
        .cloned()
        .collect();
    taken.sort_unstable();
    taken.dedup();
    taken
}

/// Whether there is an address from which `was` and `own` admit and `is` does not.
fn networks(was: Option<&NetworkSet>, is: &NetworkSet, own: &NetworkSet) -> bool {
    if is.is_empty() {
        return false;
    }
    let (was, own) = (was.map_or_else(everywhere, all_of), all_of(own));
    let is = all_of(is);
    // Two networks are disjoint, or one lies in the other.
    let inside = |a: &[IpNet], b: &[IpNet]| -> Vec<IpNet> {
        a.iter().filter(|net| b.iter().any(|other| other.contains(*net))).copied().collect()
    };
    [inside(&was, &own), inside(&own, &was)].concat().into_iter().any(|net| !covers(&is, net))
}

fn all_of(set: &NetworkSet) -> Vec<IpNet> {
    if set.is_empty() { everywhere() } else { set.iter().copied().collect() }
}

fn everywhere() -> Vec<IpNet> {
    vec![IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())]
}

/// Whether every address of `net` is in one of `nets`.
fn covers(nets: &[IpNet], net: IpNet) -> bool {
    if nets.iter().any(|other| other.contains(&net)) {
        return true;
    }
    let within: Vec<_> = nets.iter().filter(|other| net.contains(*other)).copied().collect();
    match net.subnets(net.prefix_len().saturating_add(1)) {
        Ok(mut halves) if !within.is_empty() => halves.all(|half| covers(&within, half)),
        _ => false,
    }
}

/// Whether `is` admits fewer requests than `was`, steadily or in a burst, and `own` more than `is`.
pub(super) fn slower(was: Option<Option<Limit>>, is: Limit, own: Option<Limit>) -> bool {
    let was = was.flatten();
    let rate = |limit: Limit, other: Limit| u128::from(limit.count()) * other.window().as_millis();
    let is_below = |limit: Option<Limit>| {
        let Some(limit) = limit else { return (true, true) };
        (rate(is, limit) < rate(limit, is), is.burst() < limit.burst())
    };
    let (then, now) = (is_below(was), is_below(own));
    then.0 && now.0 || then.1 && now.1
}

#[cfg(test)]
pub(crate) mod tests;
