//! What many records have in common, interned: grants, orgs, limits, owners. Imports core only.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;

use super::fault::BuildError;
use crate::core::{Grant, LimitSet, OrgId, Owner};
use crate::table::format::TableFormat;
use crate::table::layout::{
    NONE, RawGrant, RawLimit, RawNetwork, RawOrgLimits, environment_code, kind_code, status_code,
};

/// Numbers for values, in the order of their first appearance.
pub(super) struct Interner<T> {
    numbers: HashMap<T, u32>,
}

/// What is interned while keys arrive.
#[derive(Default)]
pub(super) struct Sections {
    pub orgs: Interner<Box<str>>,
    pub grants: Interner<Grant>,
    pub owners: Interner<Owner>,
}

/// The side tables in their final order, and the new values of the interners' numbers.
pub(super) struct Interned {
    pub grants: Vec<RawGrant>,
    pub grant_of: Vec<u32>,
    /// By final index.
    pub states: Vec<Grant>,
    pub networks: Vec<RawNetwork>,
    pub permissions: Vec<u8>,
    pub orgs: Vec<u8>,
    pub org_of: Vec<u32>,
    pub policies: Vec<u8>,
    pub limits: Vec<RawLimit>,
    pub org_limits: Vec<RawOrgLimits>,
    pub owners: Vec<u8>,
    owner_of: Vec<u32>,
}

/// How many texts name each owner, by its number.
#[derive(Default)]
pub(super) struct Uses(Vec<u64>);

/// The position of each set of limits.
#[derive(Default)]
struct LimitSets<'l> {
    rows: Vec<RawLimit>,
    of: BTreeMap<&'l LimitSet, [u32; 2]>,
}

// === impl Sections ===

impl Sections {
    /// In canonical order: equal content gives equal bytes, in whatever order the keys arrived.
    pub(super) fn intern(
        mut self,
        format: TableFormat,
        org_limits: &BTreeMap<OrgId, LimitSet>,
    ) -> Result<Interned, BuildError> {
        let names = self.orgs.take();
        let (orgs, org_of) = strings(&names, |org| org.to_string());
        let grants = self.grants.take();
        let words = |grant: &Grant| grant.permissions.joined().to_owned();
        let (permissions, permissions_of) = strings(&grants, words);
        let (owners, owner_of) = owners(&self.owners.take());
        let (networks, networks_of) = networks(&grants)?;
        let sets: BTreeSet<&LimitSet> =
            grants.iter().map(|grant| &grant.limits).chain(org_limits.values()).collect();
        let policies: BTreeSet<&str> = match format {
            TableFormat::V1 => BTreeSet::new(),
            TableFormat::V2 => {
                sets.iter().flat_map(|set| set.iter()).map(|n| n.policy.as_str()).collect()
            }
        };
        let policies: Vec<&str> = policies.into_iter().collect();
        let (policies, policy_of) = {
            let (bytes, offsets) = strings(&policies, |name| (*name).to_owned());
            (bytes, policies.into_iter().zip(offsets).collect::<HashMap<_, _>>())
        };
        let limits = match format {
            TableFormat::V1 => LimitSets::default(),
            TableFormat::V2 => LimitSets::of(sets, &policy_of)?,
        };
        let mut raws: Vec<(RawGrant, usize)> = Vec::with_capacity(grants.len());
        for (number, grant) in grants.iter().enumerate() {
            let [network, networks] = networks_of.get(number).copied().unwrap_or_default();
            let by_format = match format {
                TableFormat::V1 => {
                    let limit = grant.limits.per_key();
                    [
                        limit.map_or(0, |l| l.count()),
                        limit.map_or(0, |l| l.window().as_millis() as u32),
                        limit.map_or(0, |l| l.burst()),
                    ]
                }
                TableFormat::V2 => {
                    let [first, count] = limits.place(&grant.limits);
                    // Checked when the key arrived.
                    let sunset = grant.sunset.map_or(0, |at| u32::try_from(at.max(1)).unwrap_or(0));
                    [first, count, sunset]
                }
            };
            raws.push((
                RawGrant {
                    status: status_code(grant.status),
                    kind: kind_code(grant.kind),
                    environment: environment_code(grant.environment),
                    zero: 0,
                    permissions: permissions_of.get(number).copied().unwrap_or(NONE).into(),
                    network: network.into(),
                    networks: networks.into(),
                    by_format: by_format.map(U32::from),
                    zero_too: U32::ZERO,
                    not_before: grant.not_before.unwrap_or(0).into(),
                },
                number,
            ));
        }
        raws.sort_unstable_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
        let mut grant_of = vec![NONE; raws.len()];
        let mut distinct: Vec<RawGrant> = Vec::with_capacity(raws.len());
        let mut states = Vec::with_capacity(raws.len());
        for (raw, number) in raws {
            // `not_before` 0 and none are written the same way, so two grants may become one.
            if distinct.last() != Some(&raw) {
                distinct.push(raw);
                states.extend(grants.get(number).cloned());
            }
            if let Some(slot) = grant_of.get_mut(number) {
                *slot = distinct.len() as u32 - 1;
            }
        }
        let offsets: HashMap<&str, u32> =
            names.iter().zip(&org_of).map(|(name, at)| (&**name, *at)).collect();
        let org_limits = org_limits.iter().map(|(org, set)| {
            let [limit, count] = limits.place(set);
            RawOrgLimits {
                org: offsets.get(org.as_str()).copied().unwrap_or(NONE).into(),
                limit: limit.into(),
                limits: count.into(),
                zero: U32::ZERO,
            }
        });
        let org_limits = org_limits.collect();
        Ok(Interned {
            grants: distinct,
            grant_of,
            states,
            networks,
            permissions,
            orgs,
            org_of,
            policies,
            limits: limits.rows,
            org_limits,
            owners,
            owner_of,
        })
    }
}

// === impl Interned ===

impl Interned {
    /// What the texts say about an owner.
    pub(super) fn owner_text(&self, number: u32) -> String {
        self.owner_of.get(number as usize).map(ToString::to_string).unwrap_or_default()
    }
}

// === impl Uses ===

impl Uses {
    pub(super) fn add(&mut self, number: u32) {
        if number == NONE {
            return;
        }
        let number = number as usize;
        if self.0.len() <= number {
            self.0.resize(number + 1, 0);
        }
        if let Some(uses) = self.0.get_mut(number) {
            *uses += 1;
        }
    }

    /// Bytes of all numbers in the texts, without the zero bytes after them.
    pub(super) fn bytes(&self, side: &Interned) -> u64 {
        let length = |number: usize| side.owner_text(number as u32).len() as u64;
        self.0.iter().enumerate().map(|(number, uses)| uses * length(number)).sum()
    }
}

// === impl LimitSets ===

impl<'l> LimitSets<'l> {
    fn of(
        sets: BTreeSet<&'l LimitSet>,
        policy_of: &HashMap<&str, u32>,
    ) -> Result<Self, BuildError> {
        let mut all = Self::default();
        for set in sets.into_iter().filter(|set| !set.is_empty()) {
            let place = u32::try_from(all.rows.len()).map_err(|_| BuildError::TooMany("limits"))?;
            all.of.insert(set, [place, set.len() as u32]);
            all.rows.extend(set.iter().map(|named| RawLimit {
                policy: policy_of.get(named.policy.as_str()).copied().unwrap_or(NONE).into(),
                count: named.limit.count().into(),
                window_ms: (named.limit.window().as_millis() as u32).into(),
                burst: named.limit.burst().into(),
            }));
        }
        Ok(all)
    }

    /// Index of the first limit, and how many follow.
    fn place(&self, set: &LimitSet) -> [u32; 2] {
        self.of.get(set).copied().unwrap_or_default()
    }
}

/// The networks of all grants, each set once, and the position of each grant's.
fn networks(grants: &[Grant]) -> Result<(Vec<RawNetwork>, Vec<[u32; 2]>), BuildError> {
    let sets: BTreeSet<_> =
        grants.iter().map(|g| &g.networks).filter(|networks| !networks.is_empty()).collect();
    let (mut raws, mut places) = (Vec::new(), HashMap::new());
    for set in sets {
        let first = u32::try_from(raws.len()).map_err(|_| BuildError::TooMany("networks"))?;
        raws.extend(set.iter().map(RawNetwork::of));
        places.insert(set, [first, set.iter().count() as u32]);
    }
    let of = grants.iter().map(|g| places.get(&g.networks).copied().unwrap_or_default()).collect();
    Ok((raws, of))
}

/// The owners, sorted and without duplicates, and the offset of each given one.
fn owners(items: &[Owner]) -> (Vec<u8>, Vec<u32>) {
    let text = |owner: &Owner| {
        let view = owner.view();
        [view.subject, view.email, view.role].join("\0")
    };
    strings(items, text)
}

/// A section of strings, sorted and without duplicates, and the offset of each given one.
fn strings<T>(items: &[T], text: impl Fn(&T) -> String) -> (Vec<u8>, Vec<u32>) {
    let mut offsets: BTreeMap<String, u32> = items.iter().map(|i| (text(i), 0)).collect();
    let mut bytes = Vec::new();
    for (text, offset) in &mut offsets {
        *offset = bytes.len() as u32;
        bytes.extend_from_slice(text.as_bytes());
        bytes.push(0);
    }
    let of = items.iter().map(|i| offsets.get(&text(i)).copied().unwrap_or(NONE)).collect();
    (bytes, of)
}

// === impl Interner ===

impl<T: std::hash::Hash + Eq> Interner<T> {
    pub(super) fn number(&mut self, value: T) -> u32 {
        let next = self.numbers.len() as u32;
        *self.numbers.entry(value).or_insert(next)
    }

    /// The values, ordered by number.
    fn take(&mut self) -> Vec<T> {
        let mut pairs: Vec<_> = std::mem::take(&mut self.numbers).into_iter().collect();
        pairs.sort_unstable_by_key(|(_, number)| *number);
        pairs.into_iter().map(|(value, _)| value).collect()
    }
}

impl<T> Default for Interner<T> {
    fn default() -> Self {
        Self { numbers: HashMap::new() }
    }
}
