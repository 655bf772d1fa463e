//! What an org allows of its keys, and who may do what to the org itself. Imports the registry's
//! entries.

use std::time::Duration;

use super::super::super::registry::entry::RegistryEntry;
use super::{Access, Actor, Excess, HeldPermissions, KeyAction, NotAllowed, PersonRole};
use crate::core::limit::show_duration;
use crate::core::{OrgId, Permission, PermissionSet};
use crate::manage::operation::fault::KeyField;

/// Caps on all keys of an org, whoever asks. What is there already stays; what a change makes new
/// has to keep to them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OrgPolicy {
    /// Longest life of a key, in seconds from its creation; `None`: keys need no end.
    pub longest_life: Option<u64>,
    pub networks: RequiredNetworks,
    /// Most keys that live at a time.
    pub most_keys: Option<u64>,
    /// Permissions on offer, word for word; `None`: all of the audience.
    pub permissions: Option<PermissionSet>,
}

/// Whether a key has to say from where it may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RequiredNetworks {
    #[default]
    Optional,
    Required,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyFault {
    #[error("a key lives at most {}", show_duration(Duration::from_secs(*.longest)))]
    LifeTooLong {
        /// Seconds.
        longest: u64,
    },
    #[error("a key names the networks that it may be used from")]
    NoNetworks,
    #[error("`{}` is not on offer", .0.as_str())]
    NotOffered(Permission),
    #[error("there are {most} keys already, as many as there may be")]
    TooManyKeys { most: u64 },
}

/// What is to be done to an org, or in it without one key in mind.
#[derive(Clone, Copy, Debug)]
pub enum OrgAction<'a> {
    /// Members see their own keys only.
    ListKeys,
    SeeAudit,
    SeeMembers,
    SeeUsage,
    /// Make a token for the component in somebody's page, with these permissions.
    MakeEmbedToken(&'a PermissionSet),
    ChangePolicy,
    /// Give a person another role, a first one, or none.
    ChangeMember {
        from: Option<PersonRole>,
        to: Option<PersonRole>,
        owners: u64,
    },
}

// === impl Access ===

impl Access<'_> {
    /// Whether `actor` may do this in `org`.
    ///
    /// # Errors
    ///
    /// The first rule that forbids it.
    pub fn may_in(
        &self,
        actor: &Actor,
        action: OrgAction<'_>,
        org: &OrgId,
    ) -> Result<(), NotAllowed> {
        match actor {
            Actor::Host => match action {
                OrgAction::MakeEmbedToken(_) => Err(NotAllowed::Role(PersonRole::Operator)),
                _ => keep_an_owner(action),
            },
            Actor::Key { org: own, .. } if own != org => Err(NotAllowed::Unseen),
            Actor::Key { holds, .. } => {
                let words = &self.rules.words;
                let needed = match action {
                    OrgAction::ListKeys => &words.read,
                    OrgAction::SeeAudit => &words.audit,
                    OrgAction::SeeUsage => &words.usage,
                    OrgAction::MakeEmbedToken(_) => &words.embed,
                    OrgAction::SeeMembers
                    | OrgAction::ChangePolicy
                    | OrgAction::ChangeMember { .. } => return Err(NotAllowed::Unseen),
                };
                if !self.holds_word(holds, needed) {
                    return Err(NotAllowed::Lacks(needed.clone()));
                }
                self.embeds_within(&holds.permissions, action)
            }
            Actor::Person { role, org: own, holds, .. } => {
                if *role != PersonRole::Operator && own != org {
                    return Err(NotAllowed::Unseen);
                }
                if !role_may(*role, action) {
                    return Err(NotAllowed::Role(*role));
                }
                self.embeds_within(&holds.permissions, action)?;
                keep_an_owner(action)
            }
        }
    }

    /// An embed token says part of what its maker holds.
    fn embeds_within(
        &self,
        held: &HeldPermissions,
        action: OrgAction<'_>,
    ) -> Result<(), NotAllowed> {
        let (OrgAction::MakeEmbedToken(asked), HeldPermissions::These(held)) = (action, held)
        else {
            return Ok(());
        };
        match asked.iter().find(|word| !self.rules.covers(held, word)) {
            Some(word) => Err(NotAllowed::Exceeds(Excess::Permission(word.clone()))),
            None => Ok(()),
        }
    }

    /// Holds what a change makes new against the org's policy.
    pub(super) fn policy_allows(
        &self,
        action: KeyAction<'_>,
        entry: &RegistryEntry,
    ) -> Result<(), PolicyFault> {
        // What an edit leaves as it is, nobody asks for now.
        let (new, before, living) = match action {
            KeyAction::Create { living } => (entry, None, living),
            KeyAction::Edit { to, living } => (to, Some(entry), living),
            KeyAction::Rotate { to, living } => (to, None, living),
            KeyAction::See
            | KeyAction::SeeAudit
            | KeyAction::SeeUsage
            | KeyAction::SetStatus(_) => return Ok(()),
        };
        if new.status.is_final() {
            return Ok(());
        }
        let had = |word: &Permission| before.is_some_and(|b| b.permissions.contains(word));
        if let Some(word) = new.permissions.iter().find(|w| !had(w) && !self.is_offered(w)) {
            return Err(PolicyFault::NotOffered(word.clone()));
        }
        let is_open = is_everywhere(new) && before.is_none_or(|before| !is_everywhere(before));
        if is_open && self.policy.networks == RequiredNetworks::Required {
            return Err(PolicyFault::NoNetworks);
        }
        // An edit must not make a key live for ever, a little longer each time. A rotation begins
        // anew, because it makes a new secret.
        let begin = before.map_or(self.now, |before| before.created.unwrap_or(self.now));
        if let Some(longest) = self.policy.longest_life
            && before.is_none_or(|before| before.expires != new.expires)
            && new.expires.is_none_or(|ends| ends > begin.saturating_add(longest))
        {
            return Err(PolicyFault::LifeTooLong { longest });
        }
        let lives = |key: &RegistryEntry| key.expires.is_none_or(|ends| ends > self.now);
        let is_too_many = |most: u64| match action {
            // A new end brings a key back that had expired. A pair is rotated in its place.
            KeyAction::Edit { .. } | KeyAction::Rotate { .. } if new.id == entry.id => {
                lives(new) && !lives(entry) && living >= most
            }
            // A key in rotation is there twice for a while; an org at its most can have one such.
            KeyAction::Rotate { .. } if lives(entry) => living > most,
            _ => living >= most,
        };
        match self.policy.most_keys.filter(|most| is_too_many(*most)) {
            Some(most) => Err(PolicyFault::TooManyKeys { most }),
            None => Ok(()),
        }
    }

    fn is_offered(&self, word: &Permission) -> bool {
        let has = |set: &PermissionSet| set.iter().any(|offered| offered == word);
        let of_audience = self.rules.offered.as_ref();
        (self.rules.words.contain(word) || of_audience.is_none_or(has))
            && self.policy.permissions.as_ref().is_none_or(has)
    }
}

// === impl PolicyFault ===

impl PolicyFault {
    pub const fn field(&self) -> Option<KeyField> {
        match self {
            Self::LifeTooLong { .. } => Some(KeyField::Expires),
            Self::NoNetworks => Some(KeyField::Networks),
            Self::NotOffered(_) => Some(KeyField::Permissions),
            Self::TooManyKeys { .. } => None,
        }
    }
}

/// Whether a key may be used from every address of one kind, however its networks say that.
fn is_everywhere(entry: &RegistryEntry) -> bool {
    let networks = ipnet::IpNet::aggregate(&entry.networks);
    networks.is_empty() || networks.iter().any(|network| network.prefix_len() == 0)
}

fn role_may(role: PersonRole, action: OrgAction<'_>) -> bool {
    match (role, action) {
        (PersonRole::Owner, _) => !grants_operator(action),
        (PersonRole::Admin, OrgAction::ChangeMember { from, to, .. }) => {
            let is_below =
                |role| matches!(role, None | Some(PersonRole::Auditor | PersonRole::Member));
            is_below(from) && is_below(to)
        }
        (PersonRole::Admin, action) => !matches!(action, OrgAction::ChangePolicy),
        (PersonRole::Auditor | PersonRole::Operator, action) => matches!(
            action,
            OrgAction::ListKeys | OrgAction::SeeAudit | OrgAction::SeeMembers | OrgAction::SeeUsage
        ),
        (PersonRole::Member, action) => {
            matches!(action, OrgAction::ListKeys | OrgAction::SeeUsage)
        }
    }
}

/// Operators are of the installation: no org makes or unmakes them.
const fn grants_operator(action: OrgAction<'_>) -> bool {
    matches!(
        action,
        OrgAction::ChangeMember { from: Some(PersonRole::Operator), .. }
            | OrgAction::ChangeMember { to: Some(PersonRole::Operator), .. }
    )
}

fn keep_an_owner(action: OrgAction<'_>) -> Result<(), NotAllowed> {
    match action {
        OrgAction::ChangeMember { from: Some(PersonRole::Owner), to, owners }
            if to != Some(PersonRole::Owner) && owners <= 1 =>
        {
            Err(NotAllowed::LastOwner)
        }
        _ => Ok(()),
    }
}
