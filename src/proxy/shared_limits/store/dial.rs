//! A connection to one server of the store: socket, TLS, login.

use std::io;
use std::path::Path;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisConnectionInfo};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use super::NodeLink;
use super::fault::StoreFault;
use crate::config::{SharedConfig, StoreNode, read_secret};
use crate::proxy::shared_limits::settings::StoreSettings;
use crate::tls::ClientTls;

/// A server that does not accept a connection within this time counts as away.
const CONNECT: Duration = Duration::from_millis(800);

/// The purpose of a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum DialedRole {
    /// A server that has buckets.
    Data,
    /// A sentinel has no databases, and has users of its own.
    Sentinel,
}

// === impl NodeLink ===

impl NodeLink {
    pub(super) async fn connect(
        node: &StoreNode,
        settings: &StoreSettings,
    ) -> Result<Self, StoreFault> {
        Self::dial(node, settings, DialedRole::Data).await
    }

    pub(super) async fn dial(
        node: &StoreNode,
        settings: &StoreSettings,
        role: DialedRole,
    ) -> Result<Self, StoreFault> {
        let failed = |error: io::Error| StoreFault::Connection(format!("{node}: {error}").into());
        match tokio::time::timeout(CONNECT, Self::connected(node, settings, role)).await {
            Ok(Ok(link)) => Ok(link),
            Ok(Err(DialError::Io(error))) => Err(failed(error)),
            Ok(Err(DialError::Fault(fault))) => Err(fault),
            Err(_) => Err(failed(io::ErrorKind::TimedOut.into())),
        }
    }

    async fn connected(
        node: &StoreNode,
        settings: &StoreSettings,
        role: DialedRole,
    ) -> Result<Self, DialError> {
        let (host, port) = match node {
            StoreNode::Unix(path) => {
                let socket = UnixStream::connect(path).await.map_err(DialError::Io)?;
                return Self::greet(socket, settings, role).await;
            }
            StoreNode::Tcp { host, port } => (&**host, *port),
        };
        let socket = TcpStream::connect((host, port)).await.map_err(DialError::Io)?;
        socket.set_nodelay(true).map_err(DialError::Io)?;
        match &settings.tls {
            None => Self::greet(socket, settings, role).await,
            Some(tls) => {
                let stream = secured(tls, host, socket).await.map_err(DialError::Io)?;
                Self::greet(stream, settings, role).await
            }
        }
    }

    /// Logs in.
    async fn greet(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        settings: &StoreSettings,
        role: DialedRole,
    ) -> Result<Self, DialError> {
        // The login follows below, so that a refusal is reported in the server's own words.
        let info = RedisConnectionInfo::default().set_skip_set_lib_name();
        // The waiting request has a time-out of its own, and keeps what arrives after it.
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let connected = MultiplexedConnection::new_with_config(&info, stream, config).await;
        let (connection, driver) =
            connected.map_err(|error| DialError::Fault(StoreFault::from(error)))?;
        let driver = tokio::task::spawn_local(driver).abort_handle();
        let link = Self { connection, driver };
        if role == DialedRole::Data {
            link.introduce(settings).await?;
        }
        Ok(link)
    }

    async fn introduce(&self, settings: &StoreSettings) -> Result<(), DialError> {
        let SharedConfig { user, password_file, database, .. } = &settings.config;
        if let Some(path) = password_file {
            let mut auth = redis::cmd("AUTH");
            auth.arg(user.as_deref()).arg(&*password(path)?);
            self.ask(&auth).await.map_err(DialError::Fault)?;
        }
        if *database != 0 {
            let mut select = redis::cmd("SELECT");
            self.ask(select.arg(*database)).await.map_err(DialError::Fault)?;
        }
        Ok(())
    }
}

/// Why there is no connection.
enum DialError {
    Io(io::Error),
    Fault(StoreFault),
}

async fn secured(
    tls: &ClientTls,
    host: &str,
    socket: TcpStream,
) -> io::Result<impl AsyncRead + AsyncWrite + Unpin + Send + 'static> {
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let mut config = (*tls.current()).clone();
    // The store speaks one protocol, so it needs no ALPN.
    config.alpn_protocols.clear();
    TlsConnector::from(std::sync::Arc::new(config)).connect(name, socket).await
}

/// Read again each time, because the file may have been rotated.
fn password(path: &Path) -> Result<Zeroizing<String>, DialError> {
    let failed = |why: String| {
        DialError::Fault(StoreFault::Settings(format!("{}: {why}", path.display()).into()))
    };
    let bytes = read_secret(path).map_err(|error| failed(error.to_string()))?;
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok(Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned())),
        Err(_) => Err(failed("it is no text".to_owned())),
    }
}
