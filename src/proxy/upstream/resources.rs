//! What the exchanges of one worker with one upstream share.

use std::rc::Rc;

use crate::proxy::net::buffers::Buffers;
use crate::proxy::net::pipe::Pipes;
use crate::telemetry::UpstreamMeter;

/// Passed to every exchange.
#[derive(Debug)]
pub(crate) struct ExchangeResources {
    pub(crate) meter: UpstreamMeter,
    pub(crate) buffers: Rc<Buffers>,
    pub(crate) pipes: Rc<Pipes>,
}
