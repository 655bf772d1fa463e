//! What an org allows its keys, and who may do what to the org itself. Imports the registry's
//! entries.

use std::time::Duration;

use super::super::super::registry::entry::RegistryEntry;
use super::{Access, Actor, Excess, HeldPermissions, KeyAction, NotAllowed, PersonRole};
use crate::core::limit::show_duration;
use crate::core::{OrgId, Permission, PermissionSet};
use crate::manage::operation::fault::KeyField;

/// Caps on all keys of an org, whoever asks. Existing keys keep what they have; whatever a change
/// adds must comply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OrgPolicy {
    /// Longest life of a key, in seconds from its creation; `None`: keys need no end.
    pub longest_life: Option<u64>,
    pub networks: RequiredNetworks,
    /// Most keys that may live at a time.
    pub most_keys: Option<u64>,
    /// The permissions that may be granted, compared literally; `None`: all of the audience.
    pub permissions: Option<PermissionSet>,
}

/// Whether a key must state from where it may be used.
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

/// An action on an org, or in an org without one particular key.
#[derive(Clone, Copy, Debug)]
pub enum OrgAction<'a> {
    /// Members see their own keys only.
    ListKeys,
    SeeAudit,
    SeeMembers,
    SeeUsage,
    /// Make a token for the component in a person's page, with these permissions.
    MakeEmbedToken(&'a PermissionSet),
    ChangePolicy,
    /// Give a person another role or a first one, or take the role away.
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

    /// An embed token carries a subset of what its maker holds.
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

    /// Checks what a change adds against the org's policy.
    pub(super) fn policy_allows(
        &self,
        action: KeyAction<'_>,
        entry: &RegistryEntry,
    ) -> Result<(), PolicyFault> {
        // A value that the edit leaves unchanged is not a request.
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
        // Edits must not prolong a key forever, a little each time. A rotation starts a new life,
        // because it makes a new secret.
        let begin = before.map_or(self.now, |before| before.created.unwrap_or(self.now));
        if let Some(longest) = self.policy.longest_life
            && before.is_none_or(|before| before.expires != new.expires)
            && new.expires.is_none_or(|ends| ends > begin.saturating_add(longest))
        {
            return Err(PolicyFault::LifeTooLong { longest });
        }
        let lives = |key: &RegistryEntry| key.expires.is_none_or(|ends| ends > self.now);
        let is_too_many = |most: u64| match action {
            // A new end revives an expired key. A pair is rotated in place.
            KeyAction::Edit { .. } | KeyAction::Rotate { .. } if new.id == entry.id => {
                lives(new) && !lives(entry) && living >= most
            }
            // A key in rotation exists twice for a while; an org at its maximum may have one such
            // key.
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

/// Whether a key may be used from every address of one kind, however its networks express that.
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

/// Operators belong to the installation: no org appoints or dismisses them.
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
