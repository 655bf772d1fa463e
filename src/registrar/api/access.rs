//! Who asks, and what they may see. What they may change the store settles, in the transaction of
//! the change; both ask the rules of `manage`.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use super::problem::ApiProblem;
use crate::core::{KeyId, OrgId};
use crate::manage::operation::may::{
    Access, AccessRules, Actor, KeyAction, NotAllowed, OrgAction, OrgPolicy, PersonRole,
};
use crate::registrar::app::App;
use crate::registrar::people::{AuthError, Caller};
use crate::registrar::store::{AudienceName, KeyRef, KeyRow, StoreActor, StoreError, Uid};

/// A caller, or the problem that says why there is none.
#[derive(Debug)]
pub struct AskingCaller(pub Caller);

/// A caller in one org (an operator: in one or in all), with what they hold there now.
#[derive(Debug)]
pub struct CallerSight {
    pub caller: Caller,
    /// `None`: an operator who looks at all orgs.
    pub org: Option<OrgId>,
    pub actor: Actor,
    pub rules: AccessRules,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub now_ms: u64,
}

// === impl AskingCaller ===

impl FromRequestParts<App> for AskingCaller {
    type Rejection = ApiProblem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiProblem> {
        Caller::from_request_parts(parts, app).await.map(Self).map_err(ApiProblem::from)
    }
}

// === impl CallerSight ===

impl CallerSight {
    /// In the org of a path.
    pub async fn in_org(app: &App, caller: Caller, org: &str) -> Result<Self, ApiProblem> {
        let org = OrgId::parse(org).map_err(|_| ApiProblem::not_found())?;
        let caller = caller.in_org(&org)?;
        Self::of(app, caller, Some(org)).await
    }

    /// In the org that the caller is in, for paths that name none.
    pub async fn in_own_org(app: &App, caller: Caller) -> Result<Self, ApiProblem> {
        let org = caller.scope()?.cloned();
        Self::of(app, caller, org).await
    }

    async fn of(app: &App, caller: Caller, org: Option<OrgId>) -> Result<Self, ApiProblem> {
        let now_ms = app.clock.now().unix_ms;
        let audience = app.settings.audience(&caller.audience);
        let rules = audience.ok_or_else(ApiProblem::not_found)?.access.clone();
        let actor = match &caller.actor {
            StoreActor::HostUser(_) => Actor::Host,
            StoreActor::Key(id) => asking_key(app, &caller.audience, *id, now_ms).await?,
            StoreActor::Person { role, owner, holds, .. } => Actor::Person {
                role: *role,
                // An operator has none, and asks for none; nobody else comes without.
                org: match org.clone().or_else(|| OrgId::parse("-").ok()) {
                    Some(org) => org,
                    None => return Err(ApiProblem::not_found()),
                },
                owner: owner.clone(),
                holds: holds.clone(),
            },
        };
        Ok(Self { caller, org, actor, rules, now_ms })
    }

    pub fn audience(&self) -> &AudienceName {
        &self.caller.audience
    }

    /// Whether the caller may do this in the org.
    pub fn may_in(&self, action: OrgAction<'_>) -> Result<(), ApiProblem> {
        let nobody = OrgId::parse("-").map_err(|_| ApiProblem::not_found())?;
        let org = self.org.as_ref().unwrap_or(&nobody);
        self.access(&OrgPolicy::default()).may_in(&self.actor, action, org).map_err(refused)
    }

    /// The key of this name, if the caller may look at that of it. Unknown, foreign and forbidden
    /// look the same.
    pub async fn key(
        &self,
        app: &App,
        name: &str,
        action: KeyAction<'_>,
    ) -> Result<KeyRow, ApiProblem> {
        let key = key_ref(name)?;
        let found = app.store.key(self.audience(), self.org.as_ref(), key).await?;
        match self.may(action, &found) {
            true => Ok(found),
            false => Err(ApiProblem::not_found()),
        }
    }

    /// Whether the caller may see the key at all: if not, no refusal may tell that it is there.
    pub async fn sees(&self, app: &App, key: KeyRef) -> bool {
        let found = app.store.key(self.audience(), self.org.as_ref(), key).await;
        found.is_ok_and(|found| self.may(KeyAction::See, &found))
    }

    /// Of whom alone the caller sees keys; `None`: of everybody in the org.
    pub fn own_keys_only(&self) -> Option<Box<str>> {
        match &self.actor {
            Actor::Person { role: PersonRole::Member, owner, .. } => {
                Some(owner.view().subject.into())
            }
            Actor::Person { .. } | Actor::Key { .. } | Actor::Host => None,
        }
    }

    fn may(&self, action: KeyAction<'_>, found: &KeyRow) -> bool {
        let policy = OrgPolicy::default();
        self.access(&policy).may(&self.actor, action, &found.entry).is_ok()
    }

    /// The policy of an org caps changes; looking needs none.
    fn access<'r>(&'r self, policy: &'r OrgPolicy) -> Access<'r> {
        Access { rules: &self.rules, policy, now: self.now_ms / 1000 }
    }
}

/// What a calling key holds now.
async fn asking_key(
    app: &App,
    audience: &AudienceName,
    id: KeyId,
    now_ms: u64,
) -> Result<Actor, ApiProblem> {
    let found = app.store.key(audience, None, KeyRef::Id(id)).await;
    let ended = || ApiProblem::from(AuthError::Unknown);
    match found {
        Ok(found) => Actor::of_key(&found.entry, now_ms / 1000).map_err(|_| ended()),
        Err(StoreError::NoSuchKey) => Err(ended()),
        Err(error) => Err(error.into()),
    }
}

/// A key's id or UUID. What is neither names no key.
pub fn key_ref(name: &str) -> Result<KeyRef, ApiProblem> {
    if let Some(uid) = Uid::parse(name) {
        return Ok(KeyRef::Uid(uid));
    }
    KeyId::parse(name).map(KeyRef::Id).map_err(|_| ApiProblem::not_found())
}

fn refused(why: NotAllowed) -> ApiProblem {
    match why {
        NotAllowed::Unseen => ApiProblem::not_found(),
        why => ApiProblem::forbidden(why.to_string()),
    }
}
