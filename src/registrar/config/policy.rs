//! `[policy]`: rules for the keys of an organization whose owners have set nothing else.

use std::time::Duration;

use super::AudienceConfig;
use crate::config::reader::{ConfigProblem, ConfigSection};
use crate::core::{Permission, PermissionSet};
use crate::manage::operation::may::{OrgPolicy, RequiredNetworks};
use crate::registrar::store::{OrgRules, OwnerLeaves};

pub(super) fn policy(root: &ConfigSection<'_>, audiences: &[AudienceConfig]) -> OrgRules {
    let section = root.section("policy");
    let networks = match section.flag("networks_required") {
        true => RequiredNetworks::Required,
        false => RequiredNetworks::Optional,
    };
    let words = section.parse_list("permissions", |text| {
        let word = Permission::parse(text)?;
        match audiences.iter().any(|audience| audience.offers(&word)) {
            true => Ok(word),
            false => Err(ConfigProblem::new("is a permission of no audience of this file")
                .hint("name it as in [[audiences.permissions]] word")),
        }
    });
    let longest = section.bound("longest_life");
    if longest.is_some_and(|longest| longest < Duration::from_secs(1)) {
        section.fault("longest_life", ConfigProblem::new("must be at least 1s"));
    }
    let most = section.has("most_keys").then(|| section.integer("most_keys", 1, 1..=u64::MAX));
    let leaves = [("keep", OwnerLeaves::Keep), ("disable", OwnerLeaves::Disable)];
    OrgRules {
        policy: OrgPolicy {
            longest_life: longest.map(|longest| longest.as_secs()),
            networks,
            most_keys: most,
            permissions: section.has("permissions").then(|| PermissionSet::new(words)),
        },
        owner_leaves: section.choice("owner_leaves", OwnerLeaves::default(), &leaves),
    }
}
