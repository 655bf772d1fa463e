//! Options of `keys create` and `keys edit` that both have: plan, sunset, owner.

use super::super::error::Result;
use super::super::operation::{
    DetailRequest, FieldError, KeyField, OwnerChange, PlanChange, RequestFault,
};
use super::super::time::When;
use super::refused::refused;

#[derive(Clone, Debug, Default, clap::Args)]
pub struct DetailArgs {
    /// Plan of the registry whose limits the key has; those of `--limit` stand in their place; `none`
    /// removes the plan
    #[arg(long, value_name = "NAME", value_parser = PlanChange::parse)]
    pub plan: Option<PlanChange>,
    /// When the key is due to go out of use: `90d`, an instant, or `never`. keygate tells its callers
    /// in the field `Sunset`; only `--expires` ends the key
    #[arg(long, value_name = "WHEN", value_parser = When::parse)]
    pub sunset: Option<When>,
    /// Who issued the key, as your identity provider knows them; `none` removes the owner
    #[arg(long, value_name = "SUBJECT")]
    pub owner: Option<String>,
    /// Email address of the owner
    #[arg(long, value_name = "EMAIL")]
    pub owner_email: Option<String>,
    /// Role of the owner
    #[arg(long, value_name = "ROLE")]
    pub owner_role: Option<String>,
}

// === impl DetailArgs ===

impl DetailArgs {
    pub fn request(&self) -> Result<DetailRequest> {
        Ok(DetailRequest { plan: self.plan.clone(), sunset: self.sunset, owner: self.owner()? })
    }

    fn owner(&self) -> Result<OwnerChange> {
        let is_stated = self.owner_email.is_some() || self.owner_role.is_some();
        match (self.owner.as_deref(), is_stated) {
            (None, false) => Ok(OwnerChange::Keep),
            (Some("none"), false) => Ok(OwnerChange::Remove),
            (Some("none"), true) => {
                let why = FieldError::OwnerRemovedAndStated;
                Err(refused(RequestFault { field: KeyField::Owner, why }.into()))
            }
            _ => Ok(OwnerChange::State {
                subject: self.owner.clone(),
                email: self.owner_email.clone(),
                role: self.owner_role.clone(),
            }),
        }
    }
}
