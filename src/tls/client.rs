//! The upstream's side of TLS.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use rustls::RootCertStore;
use rustls::client::{ClientConfig, ClientConnection};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;

use super::concern::TlsConcern;
use super::error::TlsError;
use super::files::{Authorities, Bundle, Fingerprint};
use super::provider::provider;
use super::watch::{Certificate, Reloadable};
use crate::clock::Clock;
use crate::config::{TlsClient, UpstreamProtocol};

/// TLS for connections to one upstream, for all workers.
#[derive(Debug)]
pub struct ClientTls {
    files: TlsClient,
    server_name: ServerName<'static>,
    protocol: UpstreamProtocol,
    clock: Clock,
    provider: Arc<CryptoProvider>,
    in_force: ArcSwap<ClientTlsInForce>,
    /// Ensures one reload at a time.
    reloading: Mutex<()>,
}

#[derive(Debug)]
struct ClientTlsInForce {
    config: Arc<ClientConfig>,
    fingerprint: Fingerprint,
    certificates: Vec<Certificate>,
    concerns: Vec<TlsConcern>,
}

// === impl ClientTls ===

impl ClientTls {
    /// `host` is the host to connect to. The certificate is checked against it unless `config`
    /// names another.
    pub fn load(
        config: &TlsClient,
        host: &str,
        protocol: UpstreamProtocol,
        clock: Clock,
    ) -> Result<Self, TlsError> {
        let name = config.server_name.as_deref().unwrap_or(host);
        // An IPv6 host of a URL is in brackets.
        let bare = name.strip_prefix('[').and_then(|n| n.strip_suffix(']')).unwrap_or(name);
        let server_name =
            ServerName::try_from(bare.to_owned()).map_err(|_| TlsError::ServerName(name.into()))?;
        let provider = provider();
        let bundle = Bundle::read(paths(config))?;
        let in_force = ClientTlsInForce::build(config, &bundle, protocol, &provider, &clock)?;
        Ok(Self {
            files: config.clone(),
            server_name,
            protocol,
            clock,
            provider,
            in_force: ArcSwap::from_pointee(in_force),
            reloading: Mutex::new(()),
        })
    }

    /// The configuration for the next handshake.
    pub fn current(&self) -> Arc<ClientConfig> {
        self.in_force.load().config.clone()
    }

    /// The name that is sent as SNI and expected in the certificate.
    pub fn server_name(&self) -> ServerName<'static> {
        self.server_name.clone()
    }

    /// After the handshake: an upstream that speaks HTTP/2 must have confirmed it. One that was
    /// asked for HTTP/1.1 need not answer.
    pub fn check_protocol(&self, connection: &ClientConnection) -> Result<(), TlsError> {
        match (self.protocol, connection.alpn_protocol()) {
            (UpstreamProtocol::Http1, _) | (UpstreamProtocol::Http2, Some(b"h2")) => Ok(()),
            (UpstreamProtocol::Http2, _) => Err(TlsError::UpstreamWithoutHttp2),
        }
    }
}

impl Reloadable for ClientTls {
    fn reload(&self) -> Result<bool, TlsError> {
        let _one = self.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        let bundle = Bundle::read(paths(&self.files))?;
        if bundle.fingerprint() == self.in_force.load().fingerprint {
            return Ok(false);
        }
        // Sessions are kept inside the configuration, so none outlives a change of authorities.
        let (files, protocol) = (&self.files, self.protocol);
        let new = ClientTlsInForce::build(files, &bundle, protocol, &self.provider, &self.clock)?;
        self.in_force.store(Arc::new(new));
        Ok(true)
    }

    fn certificates(&self) -> Vec<Certificate> {
        self.in_force.load().certificates.clone()
    }

    fn concerns(&self) -> Vec<TlsConcern> {
        self.in_force.load().concerns.clone()
    }
}

// === impl ClientTlsInForce ===

impl ClientTlsInForce {
    fn build(
        files: &TlsClient,
        bundle: &Bundle,
        protocol: UpstreamProtocol,
        provider: &Arc<CryptoProvider>,
        clock: &Clock,
    ) -> Result<Self, TlsError> {
        let now = clock.now();
        let Authorities { store: roots, mut concerns } = match &files.ca {
            Some(path) => bundle.roots(path, now)?,
            None => Authorities {
                store: RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() },
                concerns: Vec::new(),
            },
        };
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(rustls::ALL_VERSIONS)
            .map_err(TlsError::setup)?
            .with_root_certificates(roots);
        let mut certificates = Vec::new();
        let mut config = match &files.certificate {
            Some(pair) => {
                let identity = bundle.identity(pair, provider)?;
                identity.validity.check(&identity.path, now)?;
                concerns.extend(bundle.concerns(pair, now));
                certificates.push(Certificate::new(&identity.path, identity.validity));
                let only = rustls::sign::SingleCertAndKey::from(identity.certified);
                builder.with_client_cert_resolver(Arc::new(only))
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = match protocol {
            UpstreamProtocol::Http1 => vec![b"http/1.1".to_vec()],
            UpstreamProtocol::Http2 => vec![b"h2".to_vec()],
        };
        Ok(Self {
            config: Arc::new(config),
            fingerprint: bundle.fingerprint(),
            certificates,
            concerns,
        })
    }
}

fn paths(files: &TlsClient) -> impl Iterator<Item = &Path> + Clone {
    let pair = files.certificate.iter().flat_map(|c| [c.chain.as_path(), c.key.as_path()]);
    pair.chain(files.ca.as_deref())
}
