//! State that all handlers of the service share.

use std::sync::Arc;

use axum::extract::FromRef;

use super::config::AdminToml;
use super::metrics::ServiceMetrics;
use super::people::Authenticator;
use super::publish::PublisherHandle;
use super::publish::answer_first::AnswerFirst;
use super::store::{ChangeRequest, Changed, KeyChange, Store, StoreActor, StoreError};
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
    /// Limits how many answers wait until a change is in force.
    pub waits: CallerWaits,
    /// `None`: this process does not publish, as in tests of the other rooms.
    pub publishing: Option<Publishing>,
}

/// Publishing as handlers see it.
#[derive(Clone, Debug)]
pub struct Publishing {
    pub publisher: PublisherHandle,
    pub artefacts: ArtefactService,
}

/// A committed change.
#[derive(Debug)]
pub struct MadeChange {
    pub changed: Changed,
    /// Set if a key has changed itself: its answer goes out before the change is published.
    pub first: Option<AnswerFirst>,
}

// === impl App ===

impl App {
    /// An app that does not publish.
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

    /// Makes a change.
    ///
    /// # Errors
    ///
    /// The store's. Nothing was changed then.
    pub async fn change(&self, request: ChangeRequest) -> Result<MadeChange, StoreError> {
        let is_new = matches!(request.change, KeyChange::Create(_));
        let asking = match &request.actor {
            StoreActor::Key(id) if !is_new => Some(*id),
            _ => None,
        };
        // Before the commit, because the publisher learns of it immediately.
        let publisher = self.publishing.as_ref().map(|publishing| &publishing.publisher);
        let first = asking.and(publisher).and_then(|p| p.answer_first(&request.audience));
        let changed = self.store.change(request).await?;
        let first = first.filter(|_| asking == Some(changed.key.entry.id));
        Ok(MadeChange { changed, first })
    }
}

impl FromRef<App> for Authenticator {
    fn from_ref(app: &App) -> Self {
        app.people.clone()
    }
}
