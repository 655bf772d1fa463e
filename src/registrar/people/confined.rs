//! People whose role counts at one product alone. An org is the same in all audiences, with one
//! list of members. Somebody who manages it for one product must not reach into the others by that
//! list.

use super::{Authenticator, Caller};
use crate::registrar::store::{AudienceName, PersonId};

// === impl Authenticator ===

impl Authenticator {
    /// The only audience in which somebody's role counts: for a product's people that product's,
    /// and for people whose provider is for one audience that one. `None`: their role counts in all
    /// of them.
    pub fn only_audience<'s>(&'s self, id: &'s PersonId) -> Option<&'s str> {
        if let Some(product) = id.product() {
            return Some(product);
        }
        let provider = self.settings.people.oidc.iter().find(|config| config.issuer == id.iss)?;
        provider.audience.as_ref().map(AudienceName::as_str)
    }

    /// The same, for audit lines about the person.
    pub(super) fn audience_about(&self, id: &PersonId) -> Option<AudienceName> {
        self.only_audience(id).and_then(AudienceName::parse)
    }

    /// Whether the caller sees this person on a list of members: everybody except people of another
    /// product.
    pub fn sees_person(&self, caller: &Caller, id: &PersonId) -> bool {
        let of = self.only_audience(id).zip(caller.bound_to());
        of.is_none_or(|(only, own)| only == own.as_str())
    }

    /// Whether the caller may change this person's role: nobody gives or takes a role that counts
    /// where their own does not. With only one audience, every role counts there.
    pub fn may_appoint(&self, caller: &Caller, id: &PersonId) -> bool {
        match (caller.bound_to(), self.only_audience(id)) {
            (None, _) => true,
            (Some(own), Some(only)) => only == own.as_str(),
            (Some(_), None) => !self.has_several_audiences(),
        }
    }

    /// Whether the caller can add people who are not on the list yet: nobody adds a product's
    /// people by hand.
    pub fn may_add_people(&self, caller: &Caller) -> bool {
        let providers = &self.settings.people.oidc;
        caller.bound_to().is_none_or(|own| {
            !self.has_several_audiences()
                || providers.iter().any(|config| config.audience.as_ref() == Some(own))
        })
    }

    pub fn has_several_audiences(&self) -> bool {
        self.settings.audiences.len() > 1
    }
}
