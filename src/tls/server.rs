//! The listener's side of TLS.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ProducesTickets, ServerConfig, WebPkiClientVerifier};

use super::concern::TlsConcern;
use super::dates::Validity;
use super::error::TlsError;
use super::files::{Authorities, Bundle, Fingerprint};
use super::names::ByName;
use super::provider::provider;
use super::watch::{Certificate, Reloadable};
use crate::clock::Clock;
use crate::config::{ClientAuth, TlsServer};
use crate::core::Now;

/// TLS of one listener. All workers share one value, so that a session opened on one of them can be
/// resumed on any other.
#[derive(Debug)]
pub struct ServerTls {
    files: TlsServer,
    clock: Clock,
    provider: Arc<CryptoProvider>,
    in_force: ArcSwap<ServerTlsInForce>,
    /// Ensures one reload at a time.
    reloading: Mutex<()>,
}

#[derive(Debug)]
struct ServerTlsInForce {
    config: Arc<ServerConfig>,
    fingerprint: Fingerprint,
    tickets: Tickets,
    certificates: Vec<Certificate>,
    concerns: Vec<TlsConcern>,
}

/// What to compare a certificate with whose dates are not valid.
#[derive(Clone, Copy)]
enum Before<'a> {
    /// Nothing: at a start it is served, and the watcher reports it immediately.
    Start,
    /// It replaces one of these only if that one is no better.
    InForce(&'a ServerTlsInForce),
}

/// Session tickets, valid for at most twelve hours. Their keys are replaced every six.
#[derive(Clone, Debug)]
struct Tickets {
    ticketer: Arc<dyn ProducesTickets>,
    /// The authorities that verified the clients whose sessions are in these tickets.
    authority: Option<Fingerprint>,
}

// === impl ServerTls ===

impl ServerTls {
    /// For a start. Accepts a certificate whose dates are not valid: [`Certificate::is_valid`]
    /// shows that.
    pub fn load(config: &TlsServer, clock: Clock) -> Result<Self, TlsError> {
        let provider = provider();
        let bundle = Bundle::read(paths(config))?;
        let in_force = ServerTlsInForce::build(config, &bundle, Before::Start, &provider, &clock)?;
        Ok(Self {
            files: config.clone(),
            clock,
            provider,
            in_force: ArcSwap::from_pointee(in_force),
            reloading: Mutex::new(()),
        })
    }

    /// The configuration for the next handshake. Existing connections keep theirs.
    pub fn current(&self) -> Arc<ServerConfig> {
        self.in_force.load().config.clone()
    }
}

impl Reloadable for ServerTls {
    fn reload(&self) -> Result<bool, TlsError> {
        let _one = self.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        let bundle = Bundle::read(paths(&self.files))?;
        let old = self.in_force.load_full();
        if bundle.fingerprint() == old.fingerprint {
            return Ok(false);
        }
        let before = Before::InForce(&old);
        let new =
            ServerTlsInForce::build(&self.files, &bundle, before, &self.provider, &self.clock)?;
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

// === impl ServerTlsInForce ===

impl ServerTlsInForce {
    fn build(
        files: &TlsServer,
        bundle: &Bundle,
        before: Before<'_>,
        provider: &Arc<CryptoProvider>,
        clock: &Clock,
    ) -> Result<Self, TlsError> {
        let now = clock.now();
        let mut certificates = Vec::new();
        let mut keys = Vec::new();
        let mut concerns = Vec::new();
        for (index, pair) in files.certificates.iter().enumerate() {
            let identity = bundle.identity(pair, provider)?;
            if before.is_strict(index, now) {
                identity.validity.check(&identity.path, now)?;
            }
            concerns.extend(bundle.concerns(pair, now));
            certificates.push(Certificate::new(&identity.path, identity.validity));
            keys.push(identity.certified);
        }
        let tickets = Tickets::following(before.tickets(), authority(files), bundle)?;

        let versions = match files.only_tls13 {
            true => &[&rustls::version::TLS13][..],
            false => rustls::ALL_VERSIONS,
        };
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)
            .map_err(TlsError::setup)?;
        let authorities = authority(files).map(|path| bundle.roots(path, now)).transpose()?;
        let builder = match verifier(files, authorities, &mut concerns, provider)? {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(ByName::new(keys)));
        config.alpn_protocols = match files.http2 {
            true => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            false => vec![b"http/1.1".to_vec()],
        };
        // Tickets only: nothing per client is kept here, and workers share no lock. 0-RTT data is
        // off, which is the default of rustls: a replayed request would be admitted twice.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = tickets.ticketer.clone();
        config.max_early_data_size = 0;
        Ok(Self {
            config: Arc::new(config),
            fingerprint: bundle.fingerprint(),
            tickets,
            certificates,
            concerns,
        })
    }
}

// === impl Before ===

impl<'a> Before<'a> {
    /// Whether certificate `index` of the listener must be valid now. A valid certificate is never
    /// replaced by an invalid one, but an expired one must not prevent its neighbours from being
    /// renewed.
    fn is_strict(self, index: usize, now: Now) -> bool {
        match self {
            Self::Start => false,
            Self::InForce(old) => old.certificates.get(index).is_none_or(|c| c.is_valid(now)),
        }
    }

    fn tickets(self) -> Option<&'a Tickets> {
        match self {
            Self::Start => None,
            Self::InForce(old) => Some(&old.tickets),
        }
    }
}

fn verifier(
    files: &TlsServer,
    authorities: Option<Authorities>,
    concerns: &mut Vec<TlsConcern>,
    provider: &Arc<CryptoProvider>,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, TlsError> {
    let Some(authorities) = authorities else { return Ok(None) };
    concerns.extend(authorities.concerns);
    let roots = Arc::new(authorities.store);
    let builder = WebPkiClientVerifier::builder_with_provider(roots, provider.clone());
    let builder = match files.client_auth {
        ClientAuth::Optional { .. } => builder.allow_unauthenticated(),
        ClientAuth::None | ClientAuth::Required { .. } => builder,
    };
    builder.build().map(Some).map_err(TlsError::setup)
}

fn authority(files: &TlsServer) -> Option<&Path> {
    match &files.client_auth {
        ClientAuth::None => None,
        ClientAuth::Optional { ca } | ClientAuth::Required { ca } => Some(ca),
    }
}

fn paths(files: &TlsServer) -> impl Iterator<Item = &Path> + Clone {
    let pairs = files.certificates.iter().flat_map(|c| [c.chain.as_path(), c.key.as_path()]);
    pairs.chain(authority(files))
}

// === impl Tickets ===

impl Tickets {
    /// The same tickets after a change of certificates, new ones after a change of authorities.
    /// rustls does not verify a certificate again when a session is resumed, so a client of the old
    /// authority would be accepted for hours.
    fn following(
        old: Option<&Self>,
        authority: Option<&Path>,
        bundle: &Bundle,
    ) -> Result<Self, TlsError> {
        let authority = authority.and_then(|path| bundle.fingerprint_of(path));
        match old {
            Some(old) if old.authority == authority => Ok(old.clone()),
            _ => {
                let ticketer =
                    rustls::crypto::aws_lc_rs::Ticketer::new().map_err(TlsError::setup)?;
                Ok(Self { ticketer, authority })
            }
        }
    }
}

// === impl Certificate ===

impl Certificate {
    pub(super) fn new(path: &Path, validity: Validity) -> Self {
        Self { name: path.display().to_string(), validity }
    }
}
