//! One upstream as a worker sees it: its connections, what its requests and answers need to know
//! about it, and what was made for it alone.

use std::rc::Rc;
use std::sync::Arc;

use http::HeaderValue;

use super::minted::Minted;
use super::upstream::{Connector, ExchangeResources, UpstreamPool};
use crate::clock::Clock;
use crate::config::{Timeouts, UpstreamAddress, UpstreamConfig, UpstreamProtocol};
use crate::proxy::http1::location::OwnAddress;
use crate::proxy::net::buffers::Buffers;
use crate::proxy::net::pipe::Pipes;
use crate::telemetry::{UpstreamMeter, WorkerCells};
use crate::tls::ClientTls;

/// What all workers share of one upstream.
#[derive(Debug)]
pub struct SharedUpstream {
    /// `None`: `[upstream]`.
    pub name: Option<Box<str>>,
    pub config: UpstreamConfig,
    pub tls: Option<Arc<ClientTls>>,
}

/// One worker's own part of an upstream.
#[derive(Debug)]
pub(crate) struct WorkerUpstream {
    /// 0: `[upstream]`; n: the n-th of `[upstreams.NAME]`.
    pub(crate) index: usize,
    /// `None`: `[upstream]`.
    pub(crate) name: Option<Box<str>>,
    pub(crate) pool: Rc<UpstreamPool>,
    /// The upstream's own name, for requests that do not name a host.
    pub(crate) authority: HeaderValue,
    /// `Host` to send instead of the client's.
    pub(crate) host: Option<HeaderValue>,
    /// The prefix to cut off the service's `Location`.
    pub(crate) own_address: Option<OwnAddress>,
    pub(crate) protocol: UpstreamProtocol,
    /// It is reached over TLS.
    pub(crate) is_https: bool,
    /// It needs field names in the client's spelling.
    pub(crate) preserve_case: bool,
    pub(crate) minted: Minted,
    pub(crate) meter: UpstreamMeter,
}

/// What all upstreams of one worker take turns to use: a request uses one of them at a time.
#[derive(Debug, Default)]
pub(crate) struct ExchangeRoom {
    pub(crate) buffers: Rc<Buffers>,
    pub(crate) pipes: Rc<Pipes>,
}

/// What one worker has for all of its upstreams.
#[derive(Clone, Copy)]
pub(crate) struct UpstreamTerms<'t> {
    pub(crate) timeouts: &'t Timeouts,
    pub(crate) clock: &'t Clock,
    /// How many workers share the limits of an upstream.
    pub(crate) workers: usize,
    pub(crate) cells: &'t Arc<WorkerCells>,
    pub(crate) room: &'t ExchangeRoom,
}

// === impl SharedUpstream ===

impl SharedUpstream {
    /// Scheme and authority of its URL, to be cut off the service's `Location`. `None`: it is
    /// switched off, or the upstream is a Unix socket, which has no address that a client could
    /// follow.
    fn own_address(&self) -> Option<OwnAddress> {
        let (scheme, default_port) = match self.config.tls {
            Some(_) => ("https", 443),
            None => ("http", 80),
        };
        match &self.config.address {
            UpstreamAddress::Tcp { host, port } if self.config.rewrite_location => {
                Some(OwnAddress::new(scheme, default_port, host.clone(), *port))
            }
            UpstreamAddress::Tcp { .. } | UpstreamAddress::Unix(_) => None,
        }
    }

    fn authority(&self) -> HeaderValue {
        let text = match &self.config.address {
            UpstreamAddress::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}"),
            UpstreamAddress::Tcp { host, port } => format!("{host}:{port}"),
            UpstreamAddress::Unix(_) => "localhost".to_owned(),
        };
        HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("localhost"))
    }

    /// Opens connections to it.
    pub(super) fn connector(
        &self,
        timeouts: &Timeouts,
        clock: &Clock,
        meter: UpstreamMeter,
    ) -> Connector {
        let (tls, clock) = (self.tls.clone(), clock.clone());
        Connector::new(&self.config, tls, timeouts.connect, clock, meter)
    }
}

// === impl WorkerUpstream ===

impl WorkerUpstream {
    pub(crate) fn new(index: usize, of: &SharedUpstream, with: &UpstreamTerms<'_>) -> Self {
        let UpstreamTerms { timeouts, clock, workers, cells, room } = *with;
        let config = &of.config;
        let meter = UpstreamMeter::new(Arc::clone(cells), index);
        let connector = of.connector(timeouts, clock, meter.clone());
        let resources = ExchangeResources {
            meter: meter.clone(),
            buffers: Rc::clone(&room.buffers),
            pipes: Rc::clone(&room.pipes),
        };
        Self {
            index,
            name: of.name.clone(),
            pool: UpstreamPool::new(connector, config, timeouts, workers, resources),
            authority: of.authority(),
            host: config.host.clone(),
            own_address: of.own_address(),
            protocol: config.protocol,
            is_https: of.tls.is_some(),
            preserve_case: config.preserve_case,
            minted: Minted::default(),
            meter,
        }
    }

    pub(crate) fn is_http2(&self) -> bool {
        self.protocol == UpstreamProtocol::Http2
    }
}
