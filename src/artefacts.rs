//! Tables and patches over HTTP, from memory, to sidecars that wait for the next one: `GET
//! /artefacts/AUDIENCE/table.kgt` and `…/patch.kgp`, for fleets with a bearer token. The publisher
//! puts files on the [`ArtefactShelf`]; that wakes everybody who waits for them. Imports core only:
//! it verifies nothing, and sidecars trust signatures, not this server.

mod etag;
mod leave;
mod places;
mod prefer;
mod service;
mod shelf;
#[cfg(test)]
mod tests;

pub use self::etag::ArtefactTag;
pub use self::places::WaitLimits;
pub use self::service::{
    ArtefactAnswered, ArtefactConnection, ArtefactFleet, ArtefactPoll, ArtefactService,
    BehindCaller,
};
pub use self::shelf::{
    ArtefactName, ArtefactShelf, ServedArtefact, ServedArtefacts, ShelvedArtefact,
};
