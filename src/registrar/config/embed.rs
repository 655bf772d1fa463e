//! `[embed]`: whose pages may contain the component `<keygate-keys>`.

use super::{origin, origin_of};
use crate::config::reader::ConfigSection;

/// `[embed]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EmbedConfig {
    /// Origins of pages, as browsers send them in `Origin`. Empty: the service makes no token.
    pub origins: Vec<Box<str>>,
}

pub(super) fn embed(root: &ConfigSection<'_>) -> EmbedConfig {
    let section = root.section("embed");
    let origins = section.parse_list("origins", origin);
    EmbedConfig { origins: origins.iter().map(|origin| origin_of(origin).into()).collect() }
}

// === impl EmbedConfig ===

impl EmbedConfig {
    /// Whether pages of this origin may contain the component, byte for byte as a browser sends it.
    pub fn has(&self, origin: &str) -> bool {
        self.origins.iter().any(|listed| **listed == *origin)
    }
}
