//! TLS of the service's own listener, and whose certificate a client has shown. No session is resumed:
//! each connection shows its certificate anew.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, ServerConfig, WebPkiClientVerifier};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::super::config::ListenTls;
use super::super::request::Peer;
use crate::core::certificate::subject_of;

/// Certificate, key and authorities as they were at the start. Clones share them.
#[derive(Clone)]
pub struct ServiceTls(TlsAcceptor);

/// A connection after its handshake.
pub(super) struct Secured {
    pub(super) stream: TlsStream<TcpStream>,
    pub(super) peer: Peer,
}

// === impl ServiceTls ===

impl ServiceTls {
    /// Reads the files.
    ///
    /// # Errors
    /// What is wrong, with the file's name; never what is in it.
    pub fn load(files: &ListenTls) -> Result<Self, String> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let at = |path: &std::path::Path, what: &str| format!("{}: {what}", path.display());
        let chain = certificates(&files.certificate)?;
        let key = PrivateKeyDer::from_pem_file(&files.key)
            .map_err(|_| at(&files.key, "holds no private key in PEM"))?;
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let builder = match &files.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(path)? {
                    roots.add(certificate).map_err(|_| at(path, "holds no authority"))?;
                }
                // People come without one.
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                        .allow_unauthenticated()
                        .build()
                        .map_err(|error| at(path, &error.to_string()))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder
            .with_single_cert(chain, key)
            .map_err(|_| at(&files.certificate, "does not fit the key"))?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }

    /// `None`: the handshake failed.
    pub(super) async fn accept(&self, stream: TcpStream, peer: Peer) -> Option<Secured> {
        let stream = self.0.accept(stream).await.ok()?;
        let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let subject = shown.and_then(|certificate| {
            let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
            subject_of(&parsed)
        });
        Some(Secured { peer: Peer { subject: subject.map(Into::into), ..peer }, stream })
    }
}

impl std::fmt::Debug for ServiceTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServiceTls").finish_non_exhaustive()
    }
}

fn certificates(path: &std::path::Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let failed = || format!("{}: holds no certificate in PEM", path.display());
    let all = CertificateDer::pem_file_iter(path).map_err(|_| failed())?;
    let all: Vec<_> = all.collect::<Result<_, _>>().map_err(|_| failed())?;
    if all.is_empty() { Err(failed()) } else { Ok(all) }
}
