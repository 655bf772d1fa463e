//! What a change of a key means. The command line and the management service call the same
//! functions. PURE: settings, entry, request, time and randomness go in; entries, and a secret that
//! is shown once, come out. The caller finds the entry, writes the result and publishes it.
//!
//! Imports core, and from manage only what parses: entries, plans, words and times. The command
//! line maps the fields of an error to its options (`keys/refused.rs`).

pub mod advice;
pub mod create;
pub mod details;
pub mod edit;
pub mod fault;
pub mod may;
pub mod rotate;
pub mod secret;
pub mod status;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use self::advice::KeyAdvice;
pub use self::create::{CreateRequest, IssuedKey, create};
pub use self::details::{DetailRequest, LimitChange, OwnerChange, PlanChange};
pub use self::edit::{EditRequest, edit};
pub use self::fault::{FieldError, KeyField, OperationError, RequestFault, WrongState};
pub use self::rotate::{FormerSecret, RotateRequest, RotatedKey, rotate};
pub use self::secret::{IssuedSecret, NoRandomness, RandomSource};
pub use self::status::StatusChange;
use super::registry::plans::PlanName;
use crate::core::LimitSet;
use crate::core::format::KeyFormat;

/// What secrets begin with where no prefix is configured.
pub const STANDARD_PREFIX: &str = "kg_";

/// What operations need to know about a registry or an audience.
#[derive(Clone, Copy, Debug)]
pub struct OperationSettings<'s> {
    /// How secrets are written, by prefix name.
    pub prefixes: &'s BTreeMap<String, KeyFormat>,
    /// How many characters of a secret are kept for people to recognize it by, per prefix, where
    /// that is not [`KeyFormat::SHOWN`].
    pub shown: &'s BTreeMap<String, usize>,
    /// The prefix of a new secret if the request names none.
    pub default_prefix: Option<&'s str>,
    /// Sets of limits that keys refer to by name.
    pub plans: &'s BTreeMap<PlanName, LimitSet>,
}

// === impl OperationSettings ===

impl<'s> OperationSettings<'s> {
    /// The form of a new secret: the named prefix, the default, the only one, or ours.
    pub fn form(&self, prefix: Option<&str>) -> Result<ChosenForm, FieldError> {
        let chosen = match (prefix.or(self.default_prefix), self.prefixes.len()) {
            (Some(name), _) => self.prefixes.get_key_value(name),
            (None, 1) => self.prefixes.iter().next(),
            (None, _) => None,
        };
        match (chosen, prefix) {
            (Some((name, format)), _) => {
                let shown = self.shown.get(name).copied().unwrap_or(KeyFormat::SHOWN);
                let prefix = Some(name.as_str().into());
                Ok(ChosenForm { prefix, format: format.clone(), shown })
            }
            (None, Some(name)) => Err(FieldError::UnknownPrefix {
                name: name.into(),
                known: self.prefixes.keys().cloned().collect(),
            }),
            (None, None) if self.prefixes.is_empty() => {
                let format = KeyFormat::standard(STANDARD_PREFIX);
                Ok(ChosenForm { prefix: None, format, shown: KeyFormat::SHOWN })
            }
            (None, None) => Err(FieldError::NoPrefix),
        }
    }
}

/// The form of a new secret, and the name of its prefix in the registry.
#[derive(Clone, Debug)]
pub struct ChosenForm {
    /// `None`: the registry has no prefixes.
    pub prefix: Option<Box<str>>,
    pub format: KeyFormat,
    /// How many characters after prefix and environment are kept for people to recognize.
    pub shown: usize,
}
