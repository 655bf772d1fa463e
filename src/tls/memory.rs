//! The listener's side of TLS with a certificate that this process has made, or that another
//! process passed to it: no file holds it.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::ServerConfig;

use super::dates::Validity;
use super::error::TlsError;
use super::provider::provider;

/// TLS of one listener whose certificate is in memory. Before the first [`Self::put`] there is
/// none.
#[derive(Debug)]
pub struct MemoryServerTls {
    provider: Arc<CryptoProvider>,
    in_force: ArcSwapOption<MemoryTlsInForce>,
}

#[derive(Debug)]
struct MemoryTlsInForce {
    config: Arc<ServerConfig>,
    validity: Validity,
}

// === impl MemoryServerTls ===

impl MemoryServerTls {
    /// Without a certificate.
    pub fn empty() -> Self {
        Self { provider: provider(), in_force: ArcSwapOption::empty() }
    }

    /// Puts a certificate in force for future handshakes. Existing connections keep theirs.
    ///
    /// # Errors
    /// The key does not match the first certificate of the chain. The previous certificate stays in
    /// force.
    pub fn put(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<(), TlsError> {
        let validity = chain.first().and_then(Validity::of);
        let validity = validity.ok_or_else(|| TlsError::setup("there is no certificate"))?;
        // No session is resumed: a new connection always shows the current certificate.
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(rustls::ALL_VERSIONS)
            .map_err(TlsError::setup)?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(TlsError::setup)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        let in_force = MemoryTlsInForce { config: Arc::new(config), validity };
        self.in_force.store(Some(Arc::new(in_force)));
        Ok(())
    }

    /// The configuration for the next handshake. `None`: nothing was put in force yet.
    pub fn current(&self) -> Option<Arc<ServerConfig>> {
        self.in_force.load().as_ref().map(|in_force| Arc::clone(&in_force.config))
    }

    /// Unix time at which the certificate in force ends.
    pub fn expires(&self) -> Option<i64> {
        self.in_force.load().as_ref().map(|in_force| in_force.validity.not_after)
    }
}
