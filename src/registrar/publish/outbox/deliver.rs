//! Puts what is signed where sidecars find it.

use super::super::fault::PublishFault;
use super::super::target::{Placed, place};
use super::Outbox;
use super::current::Current;
use crate::registrar::store::sql::crash::point;

// === impl Outbox ===

impl Outbox {
    pub(super) fn is_undelivered(&self) -> bool {
        self.current.as_ref().is_some_and(|current| !current.is_placed)
    }

    /// Delivers what is stored, once. Another try comes after what is due: a target that hangs must
    /// not keep a revocation from being signed.
    pub(super) async fn deliver_untried(
        &mut self,
        began: u64,
    ) -> Result<Result<(), PublishFault>, PublishFault> {
        match self.current.as_ref().is_some_and(|c| !c.is_placed && !c.is_tried) {
            true => unless_target(self.deliver(began).await),
            false => Ok(Ok(())),
        }
    }

    /// Puts the stored artefacts where sidecars find them, and then notes that they are published,
    /// so that a revocation does not wait for two more flushes of the disk. After a crash between
    /// the two, the next start does both again.
    pub(super) async fn deliver(&mut self, began: u64) -> Result<(), PublishFault> {
        let Some(current) = self.current.clone() else { return Ok(()) };
        let audit = self.look_at_audit().await?;
        if self.audit.is_some() {
            // The next attempt says so, and publishes nothing.
            return Err(PublishFault::Overtaken);
        }
        let serial = current.serial();
        if let Some(current) = &mut self.current {
            current.is_tried = true;
        }
        self.book.publishes(&self.name, serial);
        // Both in one step: a sidecar that gets one of them gets the other.
        self.shelf.put(self.name.as_str(), current.served());
        let placed = self.place(&current);
        point("after targets");
        self.store.set_published(&self.name, serial).await?;
        point("after published");
        self.raise(current.mark(), audit).await?;
        placed?;
        if let Some(current) = &mut self.current {
            current.is_placed = true;
        }
        let now = self.clock.now();
        self.tell(|state| {
            state.published = serial;
            state.base = current.table.manifest.serial;
            state.patch_keys = current.patch_keys as u64;
            state.patch_bytes = current.patch.as_ref().map_or(0, |p| p.bytes().len() as u64);
            state.published_ms = Some(now.unix_ms);
            state.took_us = Some(now.mono_ns.saturating_sub(began) / 1000);
        });
        Ok(())
    }

    /// Writes into every directory, even if another one fails. The patch goes before its table: a
    /// sidecar holds a patch until its table arrives, and then puts both in force together.
    fn place(&self, current: &Current) -> Result<(), PublishFault> {
        let mut fault = None;
        for target in &self.targets {
            let patch = current.patch.as_ref().map(|patch| (&target.patch, patch));
            for (path, file) in patch.into_iter().chain([(&target.table, &current.table)]) {
                match place(path, &file.manifest, file.bytes()) {
                    Ok(Placed::Written | Placed::Same) => {}
                    // From an instance that uses the same directory. Either it is in the database,
                    // or the next comparison finds that it is not.
                    Ok(Placed::Newer { .. }) if self.store.is_shared() => {}
                    Ok(Placed::Newer { serial }) => {
                        let path = path.display().to_string();
                        fault.get_or_insert(PublishFault::Newer { path, serial });
                    }
                    Err(e) => drop(fault.get_or_insert(e.into())),
                }
                point("between targets");
            }
        }
        fault.map_or(Ok(()), Err)
    }
}

/// The inner result: a target that cannot be written is no reason not to sign what comes next.
pub(super) fn unless_target(
    done: Result<(), PublishFault>,
) -> Result<Result<(), PublishFault>, PublishFault> {
    match done {
        Err(fault) if fault.is_of_target() => Ok(Err(fault)),
        done => done.map(Ok),
    }
}
