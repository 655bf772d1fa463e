//! Writes down how far an audience has come, while the next publication is under way.

use std::sync::{Arc, PoisonError};

use tokio::task::JoinError;

use super::super::fault::PublishFault;
use super::super::high_water::HighMark;
use super::Outbox;
use crate::manage::error::Error;
use crate::registrar::store::AuditHead;

// === impl Outbox ===

impl Outbox {
    /// Notes how far it has come. Only the next note waits for the disk.
    pub(super) async fn raise(
        &mut self,
        mark: HighMark,
        audit: AuditHead,
    ) -> Result<(), PublishFault> {
        self.noted().await?;
        let (is_news, noted) = {
            let mut file = self.high_water.lock().unwrap_or_else(PoisonError::into_inner);
            (file.raise(self.name.as_str(), mark, audit), file.audit())
        };
        self.store.note_audit(noted);
        if is_news {
            let file = Arc::clone(&self.high_water);
            self.marking = Some(tokio::task::spawn_blocking(move || {
                file.lock().unwrap_or_else(PoisonError::into_inner).write()
            }));
        }
        Ok(())
    }

    /// Waits until the note of the last publication is on the disk.
    pub(in super::super) async fn noted(&mut self) -> Result<(), PublishFault> {
        match &mut self.marking {
            Some(marking) => {
                let marked = marking.await;
                self.is_marked(marked)
            }
            None => Ok(()),
        }
    }

    pub(super) fn is_marked(
        &mut self,
        marked: Result<Result<(), Error>, JoinError>,
    ) -> Result<(), PublishFault> {
        self.marking = None;
        // The hook has reported a panic; the next note writes everything.
        let written = marked.unwrap_or(Ok(()));
        if written.is_err()
            && let Some(current) = &mut self.current
        {
            current.is_placed = false;
        }
        Ok(written?)
    }
}
