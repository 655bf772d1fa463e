//! `[refusals]`: what callers are told.

use super::raw::Section;
use crate::core::Source;
use crate::core::reason::Disclosure;
use crate::core::refusal::Refusals;

pub(super) fn refusals(section: &Section<'_>, _sources: &[Source]) -> Refusals {
    let disclosure = section.choice(
        "disclosure",
        Disclosure::Detailed,
        &[("detailed", Disclosure::Detailed), ("uniform", Disclosure::Uniform)],
    );
    Refusals { disclosure }
}
