//! The shape of another program's file: lists where lists belong, mappings where mappings belong.
//! Without this check, a text or an unfilled template in place of a list would read as an empty
//! list, and its restrictions would silently vanish.

use super::super::super::error::Result;
use super::collect::{Findings, Spot};
use super::yaml::Yaml;

/// Names and what belongs under them, at any depth.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Lists of entities: mappings, or words that name an entity.
    pub lists: &'static [&'static str],
    /// Mappings.
    pub maps: &'static [&'static str],
    /// Not looked into.
    pub opaque: &'static [&'static str],
}

// === impl Shape ===

impl Shape {
    /// Reports everything in `value` that has another shape as a restriction that would be lost.
    pub fn check(&self, value: &Yaml, spot: &Spot, findings: &mut Findings<'_>) -> Result<()> {
        for (name, inner) in value.entries().filter(|(_, inner)| !inner.is_null()) {
            let at = spot.down(inner.line, name);
            if self.lists.contains(&name) && !inner.is_list() {
                let why = "is no list: what it says about keys is not known";
                findings.wider(name, &spot.place, &at, why)?;
                continue;
            }
            if self.maps.contains(&name) && !inner.is_map() {
                let why = "is no mapping: what it says about keys is not known";
                findings.wider(name, &spot.place, &at, why)?;
                continue;
            }
            if !self.opaque.contains(&name) {
                self.check(inner, &at, findings)?;
            }
            for (n, item) in inner.items().iter().enumerate() {
                let at = spot.item(item.line, name, n);
                if self.lists.contains(&name) && !item.is_map() && item.word().is_none() {
                    let why = "is no entity: what it says about keys is not known";
                    findings.wider(name, &spot.place, &at, why)?;
                } else if !self.opaque.contains(&name) {
                    self.check(item, &at, findings)?;
                }
            }
        }
        Ok(())
    }
}
