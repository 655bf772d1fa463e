//! What the exchanges of one worker with the upstream share.

use std::rc::Rc;
use std::sync::Arc;

use crate::proxy::net::buffers::Buffers;
use crate::proxy::net::pipe::Pipes;
use crate::telemetry::WorkerCells;

/// Handed to every exchange.
#[derive(Debug)]
pub(super) struct ExchangeResources {
    pub(super) cells: Arc<WorkerCells>,
    pub(super) buffers: Rc<Buffers>,
    pub(super) pipes: Rc<Pipes>,
}
