//! Keeps the authority in its Secret, `caBundle` in step with it, and a certificate from it in
//! force. Every replica does the same; the second one reads what the first one has written.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};

use super::state::{AuthorityState, AuthorityTurn};
use super::{Authority, AuthorityError, CertificateDates, LEAF_LIFE, bundle};
use crate::clock::Clock;
use crate::cluster::{ClusterApi, ClusterError, ClusterOptions, ObjectPath, PatchForm};
use crate::core::Now;
use crate::tls::{MemoryServerTls, TlsError};

/// Pause between two checks of `caBundle`. If an upgrade of the chart resets it, admissions fail
/// until the next check.
pub const BUNDLE_EVERY: Duration = Duration::from_secs(10);

/// Pause between two checks of the Secret.
const SECRET_EVERY: u64 = 60;

/// How long a certificate waits after its authority was added to `caBundle`: API servers learn of
/// that through a watch.
const IN_FORCE: u64 = 30;

/// Lost updates in a row before a check gives up.
const ATTEMPTS: usize = 5;

/// Seconds until the same fault is logged again.
const REPEAT: u64 = 3600;

/// By how many seconds a new certificate must outlive the one in force.
const WORTH_IT: u64 = 3600;

/// Longest pause after a failed check.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Where authority and bundle are kept, and the names under which the webhook is reached.
#[derive(Clone, Debug)]
pub struct AuthorityPlaces {
    pub namespace: Box<str>,
    pub secret: Box<str>,
    /// Name of the MutatingWebhookConfiguration.
    pub configuration: Box<str>,
    pub dns_names: Vec<String>,
}

/// Takes care of authority, bundle and certificate of one replica.
#[derive(Debug)]
pub struct AuthorityKeeper {
    cluster: ClusterOptions,
    /// `None`: after a fault, everything about the connection is read again.
    api: Option<ClusterApi>,
    places: AuthorityPlaces,
    tls: Arc<MemoryServerTls>,
    known: Option<AuthorityState>,
    /// Unix seconds from which the Secret is read again.
    secret_due: u64,
    /// The content of `caBundle`, each with the Unix second since which we know.
    seen: Vec<(CertificateDer<'static>, u64)>,
    leaf: Option<LeafInForce>,
}

#[derive(Debug)]
struct LeafInForce {
    authority: Arc<Authority>,
    dates: CertificateDates,
}

/// Why a check failed. What is in force stays.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(
        "secrets/{secret} in {namespace}: {source}\n\
         hint: empty the Secret (kubectl patch secret {secret} --type merge -p '{{\"data\": null}}'), \
         and a new authority is made"
    )]
    Secret { secret: Box<str>, namespace: Box<str>, source: AuthorityError },
    #[error("no certificate was signed: {0}")]
    Sign(#[from] AuthorityError),
    #[error("the certificate that was signed cannot be served: {0}")]
    Serve(#[from] TlsError),
}

// === impl AuthorityKeeper ===

impl AuthorityKeeper {
    pub fn new(
        cluster: ClusterOptions,
        places: AuthorityPlaces,
        tls: Arc<MemoryServerTls>,
    ) -> Self {
        Self {
            cluster,
            api: None,
            places,
            tls,
            known: None,
            secret_due: 0,
            seen: Vec::new(),
            leaf: None,
        }
    }

    /// # Errors
    /// The API server can never be asked with these options.
    pub fn check(&self) -> Result<(), KeepError> {
        ClusterApi::new(&self.cluster)?;
        Ok(())
    }

    /// Checks until the other end of `stop` is dropped, and passes each result to `told`. Blocks:
    /// give it a thread of its own.
    pub fn run(
        mut self,
        clock: &Clock,
        stop: &Receiver<()>,
        mut told: impl FnMut(&Self, &Result<(), KeepError>),
    ) {
        let mut failures = 0;
        let mut said: Option<(String, u64)> = None;
        loop {
            let now = clock.now();
            let looked = self.look(now);
            match &looked {
                Ok(()) => {
                    if said.take().is_some() {
                        tracing::info!("the authority of the webhook is looked after again");
                    }
                    failures = 0;
                }
                Err(error) => {
                    failures += 1;
                    let text = error.to_string();
                    let is_known = |(known, at): &(String, u64)| {
                        *known == text && now.unix_secs().saturating_sub(*at) < REPEAT
                    };
                    if !said.as_ref().is_some_and(is_known) {
                        tracing::error!("the authority of the webhook is not looked after: {text}");
                        said = Some((text, now.unix_secs()));
                    }
                }
            }
            told(&self, &looked);
            if let Err(RecvTimeoutError::Disconnected) = stop.recv_timeout(pause(failures)) {
                return;
            }
        }
    }

    /// One check of everything. Renews a certificate even while the API server is away.
    pub fn look(&mut self, now: Now) -> Result<(), KeepError> {
        let synced = self.sync(now);
        if synced.is_err() {
            self.api = None;
        }
        let renewed = self.renew(now);
        synced.and(renewed)
    }

    /// When the certificates end: the one that is served, and the authority's.
    pub fn ends(&self) -> Option<(u64, u64)> {
        let leaf = self.leaf.as_ref()?;
        Some((leaf.dates.not_after, leaf.authority.dates().not_after))
    }

    fn sync(&mut self, now: Now) -> Result<(), KeepError> {
        let api = match self.api.take() {
            Some(api) => api,
            None => ClusterApi::new(&self.cluster)?,
        };
        if now.unix_secs() >= self.secret_due || self.known.is_none() {
            self.known = Some(self.authorities(&api, now)?);
            self.secret_due = now.unix_secs().saturating_add(SECRET_EVERY);
        }
        self.keep_bundle(&api, now)?;
        self.api = Some(api);
        Ok(())
    }

    /// Those of the Secret, after anything due for them was done.
    fn authorities(&self, api: &ClusterApi, now: Now) -> Result<AuthorityState, KeepError> {
        let secret = ObjectPath::secret(&self.places.namespace, &self.places.secret);
        let unusable = |source| KeepError::Secret {
            secret: self.places.secret.clone(),
            namespace: self.places.namespace.clone(),
            source,
        };
        let mut attempt = 0;
        loop {
            attempt += 1;
            let found = api.find(&secret)?;
            let read = found.as_ref().map(AuthorityState::read).transpose().map_err(unusable)?;
            let (turn, state) = match read.flatten() {
                None => (AuthorityTurn::Made, AuthorityState::create(now)?),
                Some(state) => {
                    let since = state.next.as_ref().and_then(|next| self.since(next.certificate()));
                    match state.turn(since, now)? {
                        Some(due) => due,
                        None => return Ok(state),
                    }
                }
            };
            match self.write(api, &secret, found.as_ref(), &state) {
                Ok(()) => {
                    let ends = state.next.as_ref().unwrap_or(&state.current).dates().not_after;
                    tracing::info!(secret = %self.places.secret, ends, "an authority was {}", turn.as_str());
                    return Ok(state);
                }
                // Another replica was first: the next round reads what it has written.
                Err(error) if error.is_conflict() && attempt < ATTEMPTS => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Overwrites the Secret that was found, and no other.
    fn write(
        &self,
        api: &ClusterApi,
        path: &ObjectPath,
        found: Option<&Value>,
        state: &AuthorityState,
    ) -> Result<(), ClusterError> {
        match found {
            Some(secret) => {
                let version = secret.pointer("/metadata/resourceVersion");
                let change =
                    json!({"metadata": {"resourceVersion": version}, "data": state.data()});
                api.patch(path, PatchForm::Merge, &change).map(drop)
            }
            None => {
                let object = json!({
                    "apiVersion": "v1",
                    "kind": "Secret",
                    "type": "Opaque",
                    "metadata": {
                        "name": self.places.secret,
                        "namespace": self.places.namespace,
                        "labels": {"app.kubernetes.io/managed-by": "keygate"},
                    },
                    "data": without_null(state.data()),
                });
                api.create(&path.collection(), &object).map(drop)
            }
        }
    }

    /// Adds to `caBundle` of every webhook what is missing there.
    fn keep_bundle(&mut self, api: &ClusterApi, now: Now) -> Result<(), KeepError> {
        let path = ObjectPath::mutating_webhooks(&self.places.configuration);
        let needed = self.needed();
        let mut attempt = 0;
        loop {
            attempt += 1;
            let found = api.get(&path, "")?;
            let change = bundle_change(&found, &needed, now);
            let Some(change) = change else {
                self.saw(&needed, now);
                return Ok(());
            };
            // The stored bundle lacks something: from now on nothing counts as seen.
            self.seen.clear();
            match api.patch(&path, PatchForm::StrategicMerge, &change) {
                Ok(_) => {
                    tracing::info!(
                        configuration = %self.places.configuration,
                        authorities = needed.len(),
                        "caBundle was brought up to date"
                    );
                    self.saw(&needed, now);
                    return Ok(());
                }
                Err(error) if error.is_conflict() && attempt < ATTEMPTS => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The authorities of the Secret, and the one whose certificate is in force here.
    fn needed(&self) -> Vec<CertificateDer<'static>> {
        let known = self.known.iter();
        let known = known.flat_map(|known| std::iter::once(&known.current).chain(&known.next));
        let mut needed: Vec<CertificateDer<'static>> = Vec::new();
        for authority in known.chain(self.leaf.iter().map(|leaf| &leaf.authority)) {
            if !needed.contains(authority.certificate()) {
                needed.push(authority.certificate().clone());
            }
        }
        needed
    }

    fn saw(&mut self, needed: &[CertificateDer<'static>], now: Now) {
        let seen: Vec<_> = needed
            .iter()
            .map(|one| (one.clone(), self.since(one).unwrap_or_else(|| now.unix_secs())))
            .collect();
        self.seen = seen;
    }

    /// The Unix second since which it is known to be in `caBundle`.
    fn since(&self, certificate: &CertificateDer<'_>) -> Option<u64> {
        self.seen.iter().find(|(seen, _)| seen == certificate).map(|(_, since)| *since)
    }

    /// Signs a certificate if there is none, if half of its life is over, or if its authority is no
    /// longer the current one.
    fn renew(&mut self, now: Now) -> Result<(), KeepError> {
        let Some(known) = &self.known else { return Ok(()) };
        let since = self.since(known.current.certificate());
        let age = since.map(|since| now.unix_secs().saturating_sub(since));
        let authority = match &self.leaf {
            // Nobody is served yet, and nobody can be while API servers do not trust us.
            None if since.is_none() => return Ok(()),
            None => &known.current,
            Some(leaf) if leaf.authority.certificate() == known.current.certificate() => {
                &leaf.authority
            }
            Some(_) if age.is_some_and(|age| age >= IN_FORCE) => &known.current,
            // The old one until API servers trust the new one.
            Some(leaf) => &leaf.authority,
        };
        let is_due = self.leaf.as_ref().is_none_or(|leaf| {
            let is_other = leaf.authority.certificate() != authority.certificate();
            let end = now.unix_secs().saturating_add(LEAF_LIFE.as_secs());
            let end = end.min(authority.dates().not_after);
            let is_worth_it = end > leaf.dates.not_after.saturating_add(WORTH_IT);
            is_other || (leaf.dates.left(now) < LEAF_LIFE.as_secs() / 2 && is_worth_it)
        });
        if !is_due {
            return Ok(());
        }
        let authority = Arc::clone(authority);
        let leaf = authority.sign(&self.places.dns_names, now)?;
        self.tls.put(leaf.chain, leaf.key)?;
        tracing::info!(ends = leaf.dates.not_after, "a certificate was signed and is served");
        self.leaf = Some(LeafInForce { authority, dates: leaf.dates });
        Ok(())
    }
}

/// The patch that puts `needed` into `caBundle` of all webhooks; `None`: it is already there.
fn bundle_change(
    configuration: &Value,
    needed: &[CertificateDer<'static>],
    now: Now,
) -> Option<Value> {
    use base64::Engine as _;
    let mut changes = Vec::new();
    for webhook in configuration.get("webhooks")?.as_array()? {
        let stored = webhook.pointer("/clientConfig/caBundle").and_then(Value::as_str);
        let stored = base64::prelude::BASE64_STANDARD.decode(stored.unwrap_or_default());
        let stored = bundle::certificates(&stored.unwrap_or_default());
        if let Some(wanted) = bundle::replacement(&stored, needed, now) {
            let bundle = bundle::encoded(&wanted);
            let name = webhook.get("name");
            changes.push(json!({"name": name, "clientConfig": {"caBundle": bundle}}));
        }
    }
    let version = configuration.pointer("/metadata/resourceVersion");
    (!changes.is_empty())
        .then(|| json!({"metadata": {"resourceVersion": version}, "webhooks": changes}))
}

/// In a new object, null would be a fault.
fn without_null(mut data: Value) -> Value {
    if let Some(fields) = data.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    data
}

/// The pause after this many failed checks in a row. It spreads replicas over time.
fn pause(failures: u32) -> Duration {
    if failures == 0 {
        return BUNDLE_EVERY;
    }
    let most = Duration::from_secs(1 << failures.min(6)).min(LONGEST_PAUSE);
    let mut random = [0; 2];
    // Without randomness, all pauses are the same, which does no harm.
    let _ = SystemRandom::new().fill(&mut random);
    most.mul_f64(0.5 + f64::from(u16::from_le_bytes(random)) / f64::from(u16::MAX) / 2.0)
}
