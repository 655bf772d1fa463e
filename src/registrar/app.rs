//! What all handlers of the service share.

use std::sync::Arc;

use axum::extract::FromRef;

use super::config::AdminToml;
use super::metrics::ServiceMetrics;
use super::people::Authenticator;
use super::store::Store;
use crate::clock::Clock;

/// The state of every router. Clones share everything.
#[derive(Clone, Debug)]
pub struct App {
    pub store: Arc<dyn Store>,
    pub settings: Arc<AdminToml>,
    pub clock: Clock,
    pub people: Authenticator,
    pub metrics: Arc<ServiceMetrics>,
}

// === impl App ===

impl App {
    pub fn new(store: Arc<dyn Store>, settings: AdminToml, clock: Clock) -> Self {
        let settings = Arc::new(settings);
        let metrics = Arc::new(ServiceMetrics::new());
        let people = Authenticator::new(
            Arc::clone(&store),
            Arc::clone(&settings),
            clock.clone(),
            Arc::clone(&metrics),
        );
        Self { store, settings, clock, people, metrics }
    }
}

impl FromRef<App> for Authenticator {
    fn from_ref(app: &App) -> Self {
        app.people.clone()
    }
}
