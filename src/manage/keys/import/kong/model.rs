//! The parts of a Kong configuration that matter for keys. [`super`] fills it from a declarative
//! configuration, [`super::super::kubernetes`] from the resources of its ingress controller.

use super::super::collect::Spot;
use super::super::yaml::{Misshapen, Yaml, list_of};
use crate::core::Secret;

#[derive(Debug, Default)]
pub struct Kong<'y> {
    pub consumers: Vec<Consumer>,
    pub groups: Vec<Group>,
    pub plugins: Vec<Plugin<'y>>,
    /// Routes with their services.
    pub routes: Vec<(String, String)>,
    /// Ids with the names of services and routes.
    aliases: Vec<(String, String)>,
}

#[derive(Debug)]
pub struct Consumer {
    pub reference: Reference,
    pub spot: Spot,
    /// Groups of the `acl` plugin.
    pub acls: Vec<String>,
    /// Consumer groups, which carry plugins.
    pub groups: Vec<Reference>,
    pub credentials: Vec<KongKey>,
}

/// A key of `key-auth`.
#[derive(Debug)]
pub struct KongKey {
    pub spot: Spot,
    /// Or why it is missing.
    pub key: Result<Secret, &'static str>,
    /// Unix seconds, if that is what the file states.
    pub created: Option<u64>,
    /// Seconds from `created`; `None`: it never ends. `Err`: its end is unknown.
    pub ttl: Result<Option<u64>, Misshapen>,
}

#[derive(Debug)]
pub struct Group {
    pub reference: Reference,
    pub spot: Spot,
    pub members: Vec<Reference>,
}

#[derive(Debug)]
pub struct Plugin<'y> {
    pub name: String,
    pub config: PluginConfig<'y>,
    pub enabled: bool,
    pub scope: Scope,
    pub spot: Spot,
}

/// What a plugin is bound to; all empty: every request.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    pub consumer: Option<Reference>,
    pub group: Option<Reference>,
    pub service: Option<String>,
    pub route: Option<String>,
}

/// A plugin's settings, on top of those that it shares with others.
#[derive(Clone, Copy, Debug, Default)]
pub struct PluginConfig<'y> {
    pub own: Option<&'y Yaml>,
    pub shared: Option<&'y Yaml>,
    /// Why the settings are unknown.
    pub unknown: Option<&'static str>,
}

/// The names by which an entity may be referred to: `erp`, `{id: …}`, `{username: …}`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reference {
    pub id: String,
    /// `username` of a consumer, `name` of anything else.
    pub name: String,
    pub custom_id: String,
    /// A bare word, which may be any of them.
    pub word: String,
}

// === impl Kong ===

impl<'y> Kong<'y> {
    pub fn has_keys(&self) -> bool {
        self.consumers.iter().any(|consumer| !consumer.credentials.is_empty())
    }

    /// The consumer that `reference` means: by id, else by username, else by custom id.
    pub fn consumer(&mut self, reference: &Reference) -> Option<&mut Consumer> {
        let at = self.position(reference)?;
        self.consumers.get_mut(at)
    }

    pub fn position(&self, reference: &Reference) -> Option<usize> {
        (0..3).find_map(|rank| {
            self.consumers.iter().position(|c| c.reference.answers(reference, rank))
        })
    }

    /// Remembers that an entity's id means its name.
    pub fn alias(&mut self, entity: &Yaml, name: &str) {
        if let Some(id) = entity.get("id").and_then(Yaml::word) {
            self.aliases.push((id, name.to_owned()));
        }
    }

    /// The name of a service or route.
    pub fn named(&self, reference: &Reference) -> String {
        self.name_of(reference.first()).to_owned()
    }

    pub fn name_of<'s>(&'s self, word: &'s str) -> &'s str {
        self.aliases.iter().find(|(id, _)| id == word).map_or(word, |(_, name)| name)
    }
}

// === impl PluginConfig ===

impl<'y> PluginConfig<'y> {
    pub fn get(&self, name: &str) -> Option<&'y Yaml> {
        let own = self.own.and_then(|config| config.get(name));
        own.or_else(|| self.shared.and_then(|config| config.get(name)))
    }

    /// The list under `name`, empty if there is none.
    pub fn list(&self, name: &str) -> Result<&'y [Yaml], Misshapen> {
        list_of(self.get(name))
    }

    pub fn text(&self, name: &str) -> &'y str {
        self.get(name).and_then(Yaml::as_text).unwrap_or_default()
    }

    /// The value under one of two names, the second of which is the old one.
    pub fn either(&self, new: &str, old: &str) -> Option<&'y Yaml> {
        self.get(new).filter(|value| !value.is_empty()).or_else(|| self.get(old))
    }

    pub fn is_true(&self, name: &str) -> bool {
        self.get(name).is_some_and(Yaml::is_true)
    }

    /// The settings are in a mapping, or absent.
    pub fn is_well_formed(&self) -> bool {
        [self.own, self.shared].into_iter().flatten().all(Yaml::is_map)
    }
}

// === impl Reference ===

impl Reference {
    /// What a field such as `consumer` says.
    pub fn of(value: &Yaml) -> Option<Self> {
        if value.is_map() {
            let named = Self::named(value);
            return (named != Self::default()).then_some(named);
        }
        value.word().map(|word| Self { word, ..Self::default() })
    }

    /// The names that an entity has.
    pub fn named(entity: &Yaml) -> Self {
        let word = |name| entity.get(name).and_then(Yaml::word).unwrap_or_default();
        let name = match word("username") {
            name if name.is_empty() => word("name"),
            name => name,
        };
        Self { id: word("id"), name, custom_id: word("custom_id"), word: String::new() }
    }

    /// The name for people to read: its name, else whatever else there is.
    pub fn first(&self) -> &str {
        let all = [&self.name, &self.word, &self.custom_id, &self.id];
        all.into_iter().find(|text| !text.is_empty()).map_or("", String::as_str)
    }

    /// Whether `reference` means the entity with these names: 0 by id, 1 by name, 2 by custom id.
    pub fn answers(&self, reference: &Self, rank: usize) -> bool {
        let (own, meant) = match rank {
            0 => (&self.id, &reference.id),
            1 => (&self.name, &reference.name),
            _ => (&self.custom_id, &reference.custom_id),
        };
        !own.is_empty() && (own == meant || *own == reference.word)
    }

    pub fn is(&self, reference: &Self) -> bool {
        (0..3).any(|rank| self.answers(reference, rank))
    }
}
