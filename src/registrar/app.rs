//! What all handlers of the service share.

use std::sync::Arc;

use axum::extract::FromRef;

use super::config::AdminToml;
use super::metrics::ServiceMetrics;
use super::people::Authenticator;
use super::publish::PublisherHandle;
use super::store::Store;
use super::waits::CallerWaits;
use crate::artefacts::ArtefactService;
use crate::clock::Clock;

/// The state of every router. Clones share everything.
#[derive(Clone, Debug)]
pub struct App {
    pub store: Arc<dyn Store>,
    pub settings: Arc<AdminToml>,
    pub clock: Clock,
    pub people: Authenticator,
    pub metrics: Arc<ServiceMetrics>,
    /// Answers that wait until a change is in force.
    pub waits: CallerWaits,
    /// `None`: nothing is published here, as in tests of the other rooms.
    pub publishing: Option<Publishing>,
}

/// Publishing as handlers see it.
#[derive(Clone, Debug)]
pub struct Publishing {
    pub publisher: PublisherHandle,
    pub artefacts: ArtefactService,
}

// === impl App ===

impl App {
    /// Without publishing.
    pub fn new(store: Arc<dyn Store>, settings: impl Into<Arc<AdminToml>>, clock: Clock) -> Self {
        let settings = settings.into();
        let metrics = Arc::new(ServiceMetrics::new());
        let people = Authenticator::new(
            Arc::clone(&store),
            Arc::clone(&settings),
            clock.clone(),
            Arc::clone(&metrics),
        );
        let waits = CallerWaits::default();
        Self { store, settings, clock, people, metrics, waits, publishing: None }
    }
}

impl FromRef<App> for Authenticator {
    fn from_ref(app: &App) -> Self {
        app.people.clone()
    }
}
