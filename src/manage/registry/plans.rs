//! Plans: named sets of limits that keys and orgs share. Also the sections `[[plan]]` and `[[org]]`
//! of a registry, which state limits. A table does not know plans:
//! [`RegistryEntry::limits_in_force`] and [`limits_of_orgs`] give the limits of a key or an org
//! including its plan. Imports core and words.
//!
//! [`RegistryEntry::limits_in_force`]: super::entry::RegistryEntry::limits_in_force

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use toml_edit::{ArrayOfTables, DocumentMut, InlineTable, Item, Table};

use super::raw_limits::parse_limits;
use super::words::{FieldFault, show_limit};
use crate::core::{LimitSet, OrgId, PolicyName};

/// The name by which a key or an org refers to its plan: 1 to 64 of `a-z`, `0-9`, `-` and `_`, but
/// not `none`, which is the option value that removes a plan.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PlanName(Box<str>);

/// The plan of a key. Only a registry knows what a plan allows: in a key read from a file, the
/// limits are empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppliedPlan {
    pub name: PlanName,
    pub limits: LimitSet,
}

/// What a registry says about an org: limits of its own, and the plan that provides the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OrgTerms {
    pub limits: LimitSet,
    pub plan: Option<PlanName>,
}

/// A plan as written in TOML or JSON.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawPlan {
    pub name: String,
    /// For the policy `per-key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, String>,
}

/// An org as written in TOML or JSON.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawOrg {
    pub id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, String>,
}

/// A section that states limits, identified by its first field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct LimitSection {
    plan: Option<String>,
    limits: BTreeMap<String, String>,
}

/// The sections of one kind.
struct LimitSections {
    /// `org`, as in `[[org]]`.
    section: &'static str,
    /// The field that identifies a section.
    key: &'static str,
    by_name: BTreeMap<String, LimitSection>,
}

// === impl PlanName ===

impl PlanName {
    pub fn parse(text: &str) -> Result<Self, String> {
        let name = PolicyName::parse(text).map_err(|e| e.to_string())?;
        match name.as_str() {
            "none" => Err("must not be `none`, which takes a plan away".to_owned()),
            name => Ok(Self(name.into())),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PlanName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl AppliedPlan ===

impl AppliedPlan {
    pub fn unresolved(name: PlanName) -> Self {
        Self { name, limits: LimitSet::default() }
    }

    /// With the limits of the plan in `plans`.
    pub fn of(name: &PlanName, plans: &BTreeMap<PlanName, LimitSet>) -> Result<Self, String> {
        let limits = plans.get(name).ok_or_else(|| unknown(name, plans))?;
        Ok(Self { name: name.clone(), limits: limits.clone() })
    }
}

/// Limits in force as a table shows them, preceded by the name of their plan.
pub fn behind_plan(plan: Option<&PlanName>, limits: String) -> String {
    match plan {
        Some(plan) => format!("{plan}: {limits}"),
        None => limits,
    }
}

/// The fault for a plan that does not exist.
pub fn unknown(name: &PlanName, plans: &BTreeMap<PlanName, LimitSet>) -> String {
    let known: Vec<_> = plans.keys().map(PlanName::as_str).collect();
    match known.is_empty() {
        true => format!("no plan `{name}`: the registry has no [[plan]]"),
        false => format!("no plan `{name}`: the registry has {}", known.join(", ")),
    }
}

/// The limits of a plan; `own` overrides those for the same policy.
pub fn overridden(plan: &LimitSet, own: &LimitSet) -> LimitSet {
    LimitSet::new(plan.iter().chain(own.iter()).cloned())
}

/// What `own` must be so that a key with this plan has exactly `wanted` in force. `None`: the plan
/// limits a policy that `wanted` does not.
pub fn own_part(plan: &LimitSet, own: &LimitSet, wanted: &LimitSet) -> Option<LimitSet> {
    let is_covered = plan.iter().all(|named| wanted.get(named.policy.as_str()).is_some());
    let kept = wanted.iter().filter(|named| {
        let policy = named.policy.as_str();
        plan.get(policy) != Some(named.limit) || own.get(policy).is_some()
    });
    is_covered.then(|| LimitSet::new(kept.cloned()))
}

/// Limits in force of every org that has any.
pub fn limits_of_orgs(
    orgs: &BTreeMap<OrgId, OrgTerms>,
    plans: &BTreeMap<PlanName, LimitSet>,
) -> BTreeMap<OrgId, LimitSet> {
    let with_plan = orgs.iter().map(|(org, terms)| (org.clone(), terms.in_force(plans)));
    with_plan.filter(|(_, limits)| !limits.is_empty()).collect()
}

// === impl OrgTerms ===

impl OrgTerms {
    fn of_plan(&self, plans: &BTreeMap<PlanName, LimitSet>) -> LimitSet {
        self.plan.as_ref().and_then(|name| plans.get(name)).cloned().unwrap_or_default()
    }

    pub fn in_force(&self, plans: &BTreeMap<PlanName, LimitSet>) -> LimitSet {
        overridden(&self.of_plan(plans), &self.limits)
    }

    /// With exactly these limits in force: its plan is removed if it limits more.
    #[must_use]
    pub fn with_limits(&self, wanted: &LimitSet, plans: &BTreeMap<PlanName, LimitSet>) -> Self {
        match own_part(&self.of_plan(plans), &self.limits, wanted) {
            Some(limits) => Self { limits, plan: self.plan.clone() },
            None => Self { limits: wanted.clone(), plan: None },
        }
    }
}

/// Every `[[plan]]`.
pub fn parse_plans(raw: &[RawPlan], mut fault: impl FnMut(String)) -> BTreeMap<PlanName, LimitSet> {
    let mut plans = BTreeMap::new();
    for RawPlan { name: text, limit, limits } in raw {
        let name = match PlanName::parse(text) {
            Ok(name) => name,
            Err(e) => {
                fault(format!("a name {e}"));
                continue;
            }
        };
        let mut faults = Vec::new();
        let limits = parse_limits(limit.as_deref(), limits, &mut faults);
        if limits.is_empty() && faults.is_empty() {
            fault(format!("{name} has no limits; leave its section out"));
        }
        for FieldFault { why, .. } in faults {
            fault(format!("limits of {name}: {why}"));
        }
        if plans.insert(name, limits).is_some() {
            fault(format!("{text} stands twice"));
        }
    }
    plans
}

/// Every `[[org]]`.
pub fn parse_orgs(
    raw: &[RawOrg],
    plans: &BTreeMap<PlanName, LimitSet>,
    mut fault: impl FnMut(String),
) -> BTreeMap<OrgId, OrgTerms> {
    let mut orgs = BTreeMap::new();
    for RawOrg { id, plan, limits } in raw {
        let org = match OrgId::parse(id) {
            Ok(org) => org,
            Err(e) => {
                fault(format!("an id {e}"));
                continue;
            }
        };
        let mut faults = Vec::new();
        let limits = parse_limits(None, limits, &mut faults);
        for FieldFault { why, .. } in faults {
            fault(format!("limits of {id}: {why}"));
        }
        let plan = match plan.as_deref().map(PlanName::parse).transpose() {
            Ok(plan) => plan,
            Err(e) => {
                fault(format!("the plan of {id} {e}"));
                continue;
            }
        };
        if let Some(name) = plan.as_ref().filter(|name| !plans.contains_key(*name)) {
            fault(format!("{id}: {}", unknown(name, plans)));
        }
        let terms = OrgTerms { limits, plan };
        if terms.plan.is_none() && terms.limits.is_empty() {
            fault(format!("{id} has no limits; leave its section out"));
        }
        if terms.in_force(plans).len() > LimitSet::MOST {
            let most = LimitSet::MOST;
            fault(format!("limits of {id}: at most {most}, with those of its plan"));
        }
        if orgs.insert(org, terms).is_some() {
            fault(format!("{id} stands twice"));
        }
    }
    orgs
}

pub fn raw_plans(plans: &BTreeMap<PlanName, LimitSet>) -> Vec<RawPlan> {
    let raw = |(name, limits): (&PlanName, &LimitSet)| RawPlan {
        name: name.as_str().to_owned(),
        limit: None,
        limits: texts(limits),
    };
    plans.iter().map(raw).collect()
}

pub fn raw_orgs(orgs: &BTreeMap<OrgId, OrgTerms>) -> Vec<RawOrg> {
    let raw = |(org, terms): (&OrgId, &OrgTerms)| RawOrg {
        id: org.as_str().to_owned(),
        plan: terms.plan.as_ref().map(ToString::to_string),
        limits: texts(&terms.limits),
    };
    orgs.iter().map(raw).collect()
}

/// Updates the `[[plan]]` sections that differ from `old`; the others stay as they are written.
pub fn edit_plans(
    document: &mut DocumentMut,
    plans: &BTreeMap<PlanName, LimitSet>,
    old: &BTreeMap<PlanName, LimitSet>,
) -> Option<()> {
    let section = |(name, limits): (&PlanName, &LimitSet)| {
        (name.to_string(), LimitSection { plan: None, limits: texts(limits) })
    };
    let of = |plans: &BTreeMap<PlanName, LimitSet>| LimitSections {
        section: "plan",
        key: "name",
        by_name: plans.iter().map(section).collect(),
    };
    of(plans).edit(document, &of(old))
}

/// Like [`edit_plans`], for the sections `[[org]]`.
pub fn edit_orgs(
    document: &mut DocumentMut,
    orgs: &BTreeMap<OrgId, OrgTerms>,
    old: &BTreeMap<OrgId, OrgTerms>,
) -> Option<()> {
    let section = |(org, terms): (&OrgId, &OrgTerms)| {
        let plan = terms.plan.as_ref().map(ToString::to_string);
        (org.as_str().to_owned(), LimitSection { plan, limits: texts(&terms.limits) })
    };
    let of = |orgs: &BTreeMap<OrgId, OrgTerms>| LimitSections {
        section: "org",
        key: "id",
        by_name: orgs.iter().map(section).collect(),
    };
    of(orgs).edit(document, &of(old))
}

fn texts(limits: &LimitSet) -> BTreeMap<String, String> {
    limits.iter().map(|n| (n.policy.as_str().to_owned(), show_limit(n.limit))).collect()
}

// === impl LimitSections ===

impl LimitSections {
    fn edit(&self, document: &mut DocumentMut, old: &Self) -> Option<()> {
        let Self { section, key, by_name } = self;
        let name_of = |table: &Table| Some(table.get(key)?.as_str()?.to_owned());
        let tables = document.entry(section).or_insert(Item::ArrayOfTables(ArrayOfTables::new()));
        let tables = tables.as_array_of_tables_mut()?;
        tables.retain(|table| name_of(table).is_none_or(|name| by_name.contains_key(&name)));
        for (name, is) in by_name {
            if old.by_name.get(name) == Some(is) {
                continue;
            }
            let at = tables.iter().position(|table| name_of(table).as_ref() == Some(name));
            match at.and_then(|at| tables.get_mut(at)) {
                Some(table) => is.put(table),
                None => {
                    let mut table = Table::new();
                    table.insert(key, toml_edit::value(name));
                    is.put(&mut table);
                    table.decor_mut().set_prefix("\n");
                    tables.push(table);
                }
            }
        }
        if tables.is_empty() {
            document.remove(section);
        }
        Some(())
    }
}

// === impl LimitSection ===

impl LimitSection {
    fn put(&self, table: &mut Table) {
        match &self.plan {
            Some(plan) => {
                table.insert("plan", toml_edit::value(plan));
            }
            None => {
                table.remove("plan");
            }
        }
        // The limit `per-key` moves among the others.
        table.remove("limit");
        if self.limits.is_empty() {
            table.remove("limits");
            return;
        }
        let mut value = InlineTable::new();
        for (policy, limit) in &self.limits {
            value.insert(policy, limit.as_str().into());
        }
        table.insert("limits", toml_edit::value(value));
    }
}

#[cfg(test)]
mod tests {
    use super::super::words::parse_named_limit;
    use super::*;

    fn limits(texts: &[&str]) -> LimitSet {
        LimitSet::new(texts.iter().map(|text| parse_named_limit(text).unwrap()))
    }

    #[test]
    fn own_limits_stand_in_place_of_those_of_the_plan() {
        let plan = limits(&["600/min", "search=2/s"]);
        let cases: [(&[&str], &[&str]); 3] = [
            (&[], &["600/min", "search=2/s"]),
            (&["search=9/s"], &["600/min", "search=9/s"]),
            (&["1/s", "daily=5/d"], &["1/s", "search=2/s", "daily=5/d"]),
        ];
        for (own, want) in cases {
            let (own, want) = (limits(own), limits(want));
            assert_eq!(overridden(&plan, &own), want);
            assert_eq!(own_part(&plan, &own, &want), Some(own));
        }
        // Limits that repeat the plan's on purpose stay. Fewer limits than the plan has cannot be
        // expressed.
        let (own, slower) = (limits(&["600/min"]), limits(&["600/min", "search=1/s"]));
        assert_eq!(own_part(&plan, &own, &slower), Some(slower));
        assert_eq!(own_part(&plan, &own, &limits(&["600/min"])), None);
    }

    #[test]
    fn an_org_has_the_limits_of_its_plan_and_its_own() {
        let gold = PlanName::parse("gold").unwrap();
        let plans = BTreeMap::from([(gold.clone(), limits(&["monthly=9/30d", "weekly=9/7d"]))]);
        let terms = OrgTerms { limits: limits(&["daily=1/d"]), plan: Some(gold) };
        assert_eq!(terms.in_force(&plans), limits(&["monthly=9/30d", "weekly=9/7d", "daily=1/d"]));
        let slower = limits(&["monthly=8/30d", "weekly=9/7d", "daily=1/d"]);
        assert_eq!(terms.with_limits(&slower, &plans).in_force(&plans), slower);
        assert!(terms.with_limits(&slower, &plans).plan.is_some());
        assert_eq!(terms.with_limits(&limits(&[]), &plans), OrgTerms::default());
    }

    #[test]
    fn faults_of_plans_are_told() {
        let raw = |name: &str, limits: &[(&str, &str)]| RawPlan {
            name: name.to_owned(),
            limit: None,
            limits: limits.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect(),
        };
        let cases = [
            (vec![raw("Gold", &[("per-key", "1/s")])], "a name must be 1 to 64"),
            (vec![raw("none", &[("per-key", "1/s")])], "a name must not be `none`"),
            (vec![raw("gold", &[])], "gold has no limits"),
            (vec![raw("gold", &[("per-key", "x")])], "limits of gold: must look like"),
            (vec![raw("gold", &[("a", "1/s")]), raw("gold", &[("b", "1/s")])], "gold stands twice"),
        ];
        for (plans, want) in cases {
            let mut faults = Vec::new();
            parse_plans(&plans, |why| faults.push(why));
            assert!(faults.len() == 1 && faults[0].starts_with(want), "{want}: {faults:?}");
        }
        let org = RawOrg { id: "acme".into(), plan: Some("gold".into()), ..RawOrg::default() };
        let mut faults = Vec::new();
        parse_orgs(&[org], &BTreeMap::new(), |why| faults.push(why));
        assert_eq!(faults, ["acme: no plan `gold`: the registry has no [[plan]]"]);
    }
}
