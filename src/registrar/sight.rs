//! A caller in the org that they ask about: what they hold there now, and what they may look at.
//! API, documented endpoints and page ask here. What somebody may change, the store settles in the
//! transaction of the change. All of them ask the rules of `manage`.

use super::app::App;
use super::people::{AuthError, Caller};
use super::store::{
    AudienceName, AuditLine, AuditPage, AuditQuery, KeyRef, KeyRow, StoreActor, StoreError, Uid,
};
use crate::core::{KeyId, OrgId, Permission};
use crate::manage::operation::may::{
    Access, AccessRules, Actor, KeyAction, NotAllowed, OrgAction, OrgPolicy, PersonRole,
};
use crate::manage::registry::entry::RegistryEntry;

/// A caller in one org (for an operator: in one or in all), with what they hold there now.
#[derive(Clone, Debug)]
pub struct CallerSight {
    pub caller: Caller,
    /// `None`: an operator who looks at all orgs.
    pub org: Option<OrgId>,
    pub actor: Actor,
    /// The key that asks, if one does.
    pub asking: Option<Box<RegistryEntry>>,
    pub rules: AccessRules,
    /// The caller belongs to one audience alone, and there are others. They may not set what the
    /// org has for all audiences.
    pub shares_org: bool,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub now_ms: u64,
}

/// Why a caller sees nothing.
#[derive(Debug, thiserror::Error)]
pub enum SightError {
    #[error("{0}")]
    Auth(#[from] AuthError),
    #[error("{0}")]
    NotAllowed(#[from] NotAllowed),
    #[error("{0}")]
    Store(#[from] StoreError),
}

// === impl CallerSight ===

impl CallerSight {
    /// The sight of a caller in their own org.
    ///
    /// # Errors
    ///
    /// Somebody who has not said which of their orgs; a key that has ended; the store's.
    pub async fn of(app: &App, mut caller: Caller) -> Result<Self, SightError> {
        let now_ms = app.clock.now().unix_ms;
        let org = caller.scope()?.cloned();
        let audience = app.settings.audience(caller.audience()).ok_or(AuthError::NotFound)?;
        let rules = audience.access.clone();
        let asking = match &caller.actor {
            StoreActor::Key(id) => Some(match caller.asking.take() {
                Some(entry) => entry,
                None => asking_key(app, caller.audience(), *id).await?,
            }),
            StoreActor::HostUser(_) | StoreActor::Person { .. } => None,
        };
        let actor = match &asking {
            Some(entry) => Actor::of_key(entry, now_ms / 1000).map_err(|_| AuthError::Unknown)?,
            None => caller.actor.in_org(org.as_ref()).ok_or(AuthError::NotFound)?,
        };
        let shares_org = caller.bound_to().is_some() && app.people.has_several_audiences();
        Ok(Self { caller, org, actor, asking, rules, shares_org, now_ms })
    }

    pub fn audience(&self) -> &AudienceName {
        self.caller.audience()
    }

    /// Unix seconds.
    pub const fn now(&self) -> u64 {
        self.now_ms / 1000
    }

    /// Checks whether the caller may do this in the org.
    ///
    /// # Errors
    ///
    /// The rule that forbids it.
    pub fn may_in(&self, action: OrgAction<'_>) -> Result<(), NotAllowed> {
        let nobody = OrgId::parse("-").map_err(|_| NotAllowed::Unseen)?;
        let org = self.org.as_ref().unwrap_or(&nobody);
        self.access(&OrgPolicy::default()).may_in(&self.actor, action, org)?;
        match action {
            OrgAction::ChangePolicy if self.shares_org => Err(NotAllowed::Shared),
            _ => Ok(()),
        }
    }

    /// Checks whether the caller may do this with the key.
    ///
    /// # Errors
    ///
    /// The rule that forbids it.
    pub fn may(&self, action: KeyAction<'_>, key: &KeyRow) -> Result<(), NotAllowed> {
        self.access(&OrgPolicy::default()).may(&self.actor, action, &key.entry)
    }

    /// The key with this name, if the caller may look at it in this way.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSuchKey`]: it does not exist, or is another org's; the rule that forbids
    /// looking.
    pub async fn key(
        &self,
        app: &App,
        key: KeyRef,
        action: KeyAction<'_>,
    ) -> Result<KeyRow, SightError> {
        let found = app.store.key(self.audience(), self.org.as_ref(), key).await?;
        self.may(action, &found)?;
        Ok(found)
    }

    /// Whether the caller may see the key at all. If not, no refusal may reveal that it exists.
    pub async fn sees(&self, app: &App, key: KeyRef) -> bool {
        self.key(app, key, KeyAction::See).await.is_ok()
    }

    /// Whether the caller may see a permission in the org's policy. Permissions of other products
    /// are hidden.
    pub fn sees_word(&self, app: &App, word: &Permission) -> bool {
        !self.shares_org || app.settings.audience(self.audience()).is_some_and(|a| a.offers(word))
    }

    /// A page of the org's audit log, without what does not concern the caller.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn audit(&self, app: &App, query: AuditQuery) -> Result<AuditPage, StoreError> {
        let audience = self.caller.bound_to().cloned();
        let query = AuditQuery { org: self.org.clone(), audience, ..query };
        let mut page = app.store.audit(query).await?;
        for line in &mut page.lines {
            keep_words(line, |word| self.sees_word(app, word));
        }
        Ok(page)
    }

    /// The only owner whose keys the caller sees; `None`: everybody's in the org.
    pub fn own_keys_only(&self) -> Option<Box<str>> {
        match &self.actor {
            Actor::Person { role: PersonRole::Member, owner, .. } => {
                Some(owner.view().subject.into())
            }
            Actor::Person { .. } | Actor::Key { .. } | Actor::Host => None,
        }
    }

    /// An org's policy limits changes; looking does not need one.
    fn access<'r>(&'r self, policy: &'r OrgPolicy) -> Access<'r> {
        Access { rules: &self.rules, policy, now: self.now() }
    }
}

/// Removes other products' permissions from both policies in a line: the one before and the one
/// after.
fn keep_words(line: &mut AuditLine, is_own: impl Fn(&Permission) -> bool) {
    let Ok(mut detail) = serde_json::from_str::<serde_json::Value>(&line.detail) else { return };
    let Some(policies) = detail.get_mut("policy").and_then(|both| both.as_array_mut()) else {
        return;
    };
    for policy in policies {
        if let Some(words) = policy.get_mut("permissions").and_then(|words| words.as_array_mut()) {
            let word = |word: &serde_json::Value| Permission::parse(word.as_str()?).ok();
            words.retain(|text| word(text).is_some_and(|word| is_own(&word)));
        }
    }
    line.detail = detail.to_string().into();
}

/// A calling key as it is now.
async fn asking_key(
    app: &App,
    audience: &AudienceName,
    id: KeyId,
) -> Result<Box<RegistryEntry>, SightError> {
    match app.store.key(audience, None, KeyRef::Id(id)).await {
        Ok(found) => Ok(Box::new(found.entry)),
        Err(StoreError::NoSuchKey) => Err(AuthError::Unknown.into()),
        Err(error) => Err(error.into()),
    }
}

/// A key's id or UUID; `None`: neither.
pub fn key_ref(name: &str) -> Option<KeyRef> {
    let uid = Uid::parse(name).map(KeyRef::Uid);
    uid.or_else(|| KeyId::parse(name).map(KeyRef::Id).ok())
}
