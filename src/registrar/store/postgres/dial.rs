//! Connections to a server: TLS where the URL's kind of encryption is TLS, the password, network
//! time-outs.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, NoTls, TlsConnect, TlsStream};
use tokio_postgres::{AsyncMessage, Client, Config, Connection, Notification};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream as RustlsStream;

use super::super::sql::fault::ServerError;
use super::super::sql::server::{DialServer, DialledServer};
use super::url::{Encryption, PostgresUrl, ServerPassword};

/// To one host, unless the URL sets another time.
const CONNECT: Duration = Duration::from_secs(5);
/// How many dead addresses of a name are tried before a live one.
const ADDRESSES: u32 = 3;
/// If what was sent is not acknowledged by then, the other host is gone.
const UNACKNOWLEDGED: Duration = Duration::from_secs(15);
/// How often a connection without traffic is probed.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// A server, with the credentials that open it.
#[derive(Clone, Debug)]
pub(super) struct ServerAddress {
    config: Config,
    encryption: Encryption,
    /// PEM of authorities that replace the public ones.
    ca_file: Option<PathBuf>,
}

/// Makes TLS sessions.
#[derive(Clone)]
struct MakeRustls(Arc<ClientConfig>);

struct ConnectRustls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

/// A session.
struct RustlsSession<S>(Box<RustlsStream<S>>);

// === impl ServerAddress ===

impl ServerAddress {
    pub(super) fn new(
        url: &PostgresUrl,
        password: Option<&ServerPassword>,
        ca_file: Option<PathBuf>,
    ) -> Self {
        let mut config = url.config.clone();
        if let Some(password) = password {
            config.password(password.0.as_slice());
        }
        config.application_name("keygate").keepalives_idle(KEEPALIVE);
        config.tcp_user_timeout(UNACKNOWLEDGED);
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT);
        }
        config.ssl_mode(match url.encryption {
            Encryption::None => SslMode::Disable,
            Encryption::VerifyFull => SslMode::Require,
        });
        Self { config, encryption: url.encryption, ca_file }
    }

    /// A connection, and the notifications that the server sends on it. The configuration's time is
    /// for a connection of TCP; a pooler that is paused makes one, and then says nothing.
    async fn connect(
        &self,
        told: Option<mpsc::UnboundedSender<Notification>>,
    ) -> Result<DialledServer, ServerError> {
        let hosts = u32::try_from(self.config.get_hosts().len()).unwrap_or(1).max(1);
        let each = self.config.get_connect_timeout().copied().unwrap_or(CONNECT);
        // A name may have several addresses.
        let limit = each.saturating_mul(hosts).saturating_mul(ADDRESSES) + CONNECT;
        tokio::time::timeout(limit, self.shake_hands(told)).await.unwrap_or_else(|_| {
            let why = "it takes connections, and does not answer".to_owned();
            Err(ServerError::Away { why })
        })
    }

    async fn shake_hands(
        &self,
        told: Option<mpsc::UnboundedSender<Notification>>,
    ) -> Result<DialledServer, ServerError> {
        match self.encryption {
            Encryption::None => {
                let (client, connection) = self.config.connect(NoTls).await?;
                let drive = tokio::spawn(drive(connection, told)).abort_handle();
                Ok(DialledServer { client, drive })
            }
            Encryption::VerifyFull => {
                let roots = roots(self.ca_file.as_deref())?;
                let (client, connection) = self.config.connect(MakeRustls(roots)).await?;
                let drive = tokio::spawn(drive(connection, told)).abort_handle();
                Ok(DialledServer { client, drive })
            }
        }
    }

    /// A connection that receives notifications of changes.
    pub(super) async fn listen(
        &self,
        channel: &str,
    ) -> Result<(Client, mpsc::UnboundedReceiver<Notification>), ServerError> {
        let (tell, told) = mpsc::unbounded_channel();
        let DialledServer { client, .. } = self.connect(Some(tell)).await?;
        client.batch_execute(&format!("LISTEN {channel}")).await?;
        Ok((client, told))
    }
}

#[async_trait]
impl DialServer for ServerAddress {
    async fn dial(&self) -> Result<DialledServer, ServerError> {
        self.connect(None).await
    }
}

/// Moves bytes until the connection ends. A caller that waits for an answer learns of the end
/// there.
async fn drive<S, T>(
    mut connection: Connection<S, T>,
    told: Option<mpsc::UnboundedSender<Notification>>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(Ok(message)) =
        std::future::poll_fn(|context| connection.poll_message(context)).await
    {
        if let (AsyncMessage::Notification(notification), Some(told)) = (message, &told) {
            // When the store ends, nobody listens any more.
            told.send(notification).ok();
        }
    }
}

/// Read again for each connection, because the file may be rotated.
fn roots(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, ServerError> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(path) => {
            let broken = |e: String| ServerError::Away {
                why: format!("{}: {e}\nhint: store.ca_file is PEM of authorities", path.display()),
            };
            let pem = std::fs::read(path).map_err(|e| broken(e.to_string()))?;
            for certificate in CertificateDer::pem_slice_iter(&pem) {
                let certificate = certificate.map_err(|e| broken(e.to_string()))?;
                roots.add(certificate).map_err(|e| broken(e.to_string()))?;
            }
            if roots.is_empty() {
                return Err(broken("holds no certificate".to_owned()));
            }
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| ServerError::Strange { what: e.to_string() })?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

// === impl MakeRustls ===

impl<S> MakeTlsConnect<S> for MakeRustls
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = RustlsSession<S>;
    type TlsConnect = ConnectRustls;
    type Error = rustls::pki_types::InvalidDnsNameError;

    fn make_tls_connect(&mut self, domain: &str) -> Result<ConnectRustls, Self::Error> {
        let name = ServerName::try_from(domain)?.to_owned();
        Ok(ConnectRustls { connector: TlsConnector::from(Arc::clone(&self.0)), name })
    }
}

impl<S> TlsConnect<S> for ConnectRustls
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = RustlsSession<S>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<RustlsSession<S>>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(async move {
            Ok(RustlsSession(Box::new(self.connector.connect(self.name, stream).await?)))
        })
    }
}

// === impl RustlsSession ===

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for RustlsSession<S> {
    // The certificate's name has been verified already.
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for RustlsSession<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_read(context, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for RustlsSession<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_shutdown(context)
    }
}
