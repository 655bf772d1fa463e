//! Tokens for the component in somebody's page. The rights that their maker holds in the same
//! transaction decide whether they are made.

use serde_json::Map;

use super::super::decide;
use super::super::error::StoreError;
use super::super::people::NewEmbedToken;
use super::apply::acting;
use super::connection::StoreConnection;
use super::log::{self, Occasion, Subject};
use super::people;
use super::writer::Work;
use crate::manage::operation::may::{Access, OrgAction, OrgPolicy};

pub(super) fn put(store: &StoreConnection, token: &NewEmbedToken) -> Result<Work<()>, StoreError> {
    let NewEmbedToken { audience, org, actor, channel, origin, permissions, session } = token;
    let at_ms = session.created_ms;
    let settings = store.settings(audience)?;
    let rules = settings.access.as_ref().ok_or(StoreError::NoSuchAudience)?;
    let access = Access { rules, policy: &OrgPolicy::default(), now: at_ms / 1000 };
    let asking = acting(store, audience, Some(org), actor, at_ms)?;
    access
        .may_in(&asking, OrgAction::MakeEmbedToken(permissions), org)
        .map_err(decide::forbidden)?;
    people::put_session(store, session)?;
    let mut detail = Map::new();
    detail.insert("origin".to_owned(), (**origin).into());
    let words: Vec<&str> = permissions.iter().map(|word| word.as_str()).collect();
    detail.insert("permissions".to_owned(), words.into());
    let audience = audience.as_str();
    let action = "create embed token";
    let occasion = Occasion { at_ms, audience, serial: 0, actor, channel, action };
    let object = session.person.to_string();
    let subject = Subject { org: org.as_str(), object: &object, detail: &detail };
    log::append(store, occasion, subject)?;
    Ok(Work::Keep(()))
}
