//! Opens connections to the upstream: name, socket, PROXY header, TLS, under one deadline.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixStream};

use crate::clock::Clock;
use crate::config::{UpstreamAddress, UpstreamConfig, UpstreamProtocol};
use crate::core::Reason;
use crate::proxy::net::io::{Activity, ClientAddr, Io};
use crate::proxy::net::proxy_protocol::{write_v2, write_v2_local};
use crate::proxy::net::transport::{Plain, Rewound, Transport};
use crate::telemetry::UpstreamMeter;
use crate::tls::ClientTls;

/// How to reach the upstream.
#[derive(Debug)]
pub(crate) struct Connector {
    address: UpstreamAddress,
    protocol: UpstreamProtocol,
    tls: Option<Arc<ClientTls>>,
    send_proxy: bool,
    preserve_case: bool,
    timeout: Duration,
    clock: Clock,
    meter: UpstreamMeter,
}

// === impl Connector ===

impl Connector {
    pub(crate) fn new(
        config: &UpstreamConfig,
        tls: Option<Arc<ClientTls>>,
        timeout: Duration,
        clock: Clock,
        meter: UpstreamMeter,
    ) -> Self {
        Self {
            address: config.address.clone(),
            protocol: config.protocol,
            tls,
            send_proxy: config.send_proxy,
            preserve_case: config.preserve_case,
            timeout,
            clock,
            meter,
        }
    }

    pub(crate) fn protocol(&self) -> UpstreamProtocol {
        self.protocol
    }

    pub(super) fn preserve_case(&self) -> bool {
        self.preserve_case
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Opens one connection. Resolves a name each time, and tries each of its addresses.
    pub(crate) async fn connect(&self, client: &ClientAddr) -> Result<Io, Reason> {
        match tokio::time::timeout(self.timeout, self.open(client)).await {
            Ok(Ok(transport)) => {
                let activity = Activity::counted(self.clock.clone(), self.meter.clone());
                Ok(Io::new(transport, Bytes::new(), activity))
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "cannot connect to the upstream");
                Err(Reason::UpstreamConnect)
            }
            Err(_) => Err(Reason::UpstreamConnectTimeout),
        }
    }

    async fn open(&self, client: &ClientAddr) -> io::Result<Transport> {
        let mut plain = match &self.address {
            UpstreamAddress::Tcp { host, port } => {
                let tcp = TcpStream::connect((&**host, *port)).await?;
                tcp.set_nodelay(true)?;
                Plain::Tcp(tcp)
            }
            UpstreamAddress::Unix(path) => Plain::Unix(UnixStream::connect(path).await?),
        };
        if self.send_proxy {
            let header = match (client.peer, client.local) {
                (Some(source), Some(destination)) => write_v2(source, destination),
                _ => write_v2_local(),
            };
            plain.write_all(&header).await?;
        }
        Ok(match &self.tls {
            None => Transport::Plain(plain),
            Some(tls) => {
                let connector = tokio_rustls::TlsConnector::from(tls.current());
                let plain = Rewound::new(plain, Bytes::new());
                let stream = connector.connect(tls.server_name(), plain).await?;
                tls.check_protocol(stream.get_ref().1).map_err(io::Error::other)?;
                Transport::Tls(Box::new(stream.into()))
            }
        })
    }
}
