//! What a transaction knows. While one transaction writes nobody else does, so the changes of many
//! callers need not each read the same rows. Serials and the end of the audit log are counted here
//! and written before the commit.
//!
//! Among writes, it serves changes of keys alone. Before any other write, the counts are written
//! and everything here is forgotten. Short reads that share a transaction use it too.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::audit::AuditHead;
use super::super::names::AudienceName;
use super::super::people::OrgRow;
use super::driver::SqlConnection;
use super::fault::SqlError;
use super::rows::{AudienceSettings, NumberedKey};
use crate::core::{KeyId, OrgId};

/// For one connection.
#[derive(Debug, Default)]
pub(super) struct KnownRows {
    /// A key is being changed, or short reads share a transaction.
    serves: Cell<bool>,
    counted: RefCell<Counted>,
    settings: RefCell<BTreeMap<AudienceName, Arc<AudienceSettings>>>,
    orgs: RefCell<BTreeMap<OrgId, Arc<OrgRow>>>,
    /// The keys that ask for changes.
    keys: RefCell<BTreeMap<(AudienceName, KeyId), Arc<NumberedKey>>>,
}

/// What every change moves on.
#[derive(Clone, Debug, Default)]
pub(super) struct Counted {
    serials: BTreeMap<AudienceName, CountedSerial>,
    head: Option<AuditHead>,
    /// The head has moved since it was read.
    appended: bool,
}

#[derive(Clone, Copy, Debug)]
struct CountedSerial {
    /// As the transaction found it.
    found: u64,
    serial: u64,
    raised: bool,
}

// === impl KnownRows ===

impl KnownRows {
    pub(super) const fn serves(&self) -> bool {
        self.serves.get()
    }

    /// A change of a key begins. Returns the counts to go back to if it fails.
    pub(super) fn begin_change(&self) -> Counted {
        self.serves.set(true);
        self.counted.borrow().clone()
    }

    /// The change has ended. `undo`: nothing of it stays except what it has read.
    pub(super) fn end_change(&self, undo: Option<Counted>) {
        self.serves.set(false);
        if let Some(before) = undo {
            let counted = self.counted.replace(before);
            let mut before = self.counted.borrow_mut();
            for (audience, CountedSerial { found, .. }) in counted.serials {
                let unraised = CountedSerial { found, serial: found, raised: false };
                before.serials.entry(audience).or_insert(unraised);
            }
            self.keys.borrow_mut().clear();
        }
    }

    /// Where the log ended when the transaction began.
    pub(super) fn found_head(&self, head: AuditHead) {
        self.counted.borrow_mut().head = Some(head);
    }

    /// Where the log ended when the transaction began, if its beginning has read that.
    pub(super) fn begun_at(&self) -> Option<AuditHead> {
        self.counted.borrow().head
    }

    /// Several reads share one transaction, which sees one state.
    pub(super) fn begin_sharing(&self) {
        self.serves.set(true);
    }

    pub(super) fn end_sharing(&self) {
        self.serves.set(false);
        self.forget();
    }

    pub(super) fn forget(&self) {
        self.counted.take();
        self.settings.borrow_mut().clear();
        self.orgs.borrow_mut().clear();
        self.keys.borrow_mut().clear();
    }

    /// Writes the counts.
    pub(super) fn write(&self, connection: &SqlConnection) -> Result<(), SqlError> {
        let mut counted = self.counted.borrow_mut();
        for (audience, counted) in &mut counted.serials {
            if std::mem::take(&mut counted.raised) {
                connection
                    .prepare_cached("UPDATE audience SET serial = ?2 WHERE name = ?1")?
                    .execute_later((audience.as_str(), counted.serial))?;
            }
        }
        if let Some(head) = counted.head
            && std::mem::take(&mut counted.appended)
        {
            connection
                .prepare_cached("UPDATE audit_head SET seq = ?1, hash = ?2 WHERE one = 1")?
                .execute_later((head.seq, head.hash.0))?;
        }
        Ok(())
    }

    /// The next serial of an audience, if its current serial is known.
    pub(super) fn raise(&self, audience: &AudienceName) -> Option<u64> {
        let mut counted = self.counted.borrow_mut();
        let known = counted.serials.get_mut(audience).filter(|_| self.serves.get())?;
        known.serial += 1;
        known.raised = true;
        Some(known.serial)
    }

    pub(super) fn settings(&self, audience: &AudienceName) -> Option<Arc<AudienceSettings>> {
        let known = self.settings.borrow().get(audience).map(Arc::clone);
        known.filter(|_| self.serves.get())
    }

    pub(super) fn put_settings(
        &self,
        audience: &AudienceName,
        serial: u64,
        settings: &Arc<AudienceSettings>,
    ) {
        if self.serves.get() {
            let counted = CountedSerial { found: serial, serial, raised: false };
            self.counted.borrow_mut().serials.entry(audience.clone()).or_insert(counted);
            self.settings.borrow_mut().insert(audience.clone(), Arc::clone(settings));
        }
    }

    pub(super) fn head(&self) -> Option<AuditHead> {
        self.counted.borrow().head.filter(|_| self.serves.get())
    }

    /// Whether the write to the head's row can wait.
    pub(super) fn append(&self, head: AuditHead) -> bool {
        if self.serves.get() {
            let mut counted = self.counted.borrow_mut();
            counted.head = Some(head);
            counted.appended = true;
        }
        self.serves.get()
    }

    pub(super) fn org(&self, org: &OrgId) -> Option<Arc<OrgRow>> {
        let known = self.orgs.borrow().get(org).map(Arc::clone);
        known.filter(|_| self.serves.get())
    }

    pub(super) fn put_org(&self, row: &Arc<OrgRow>) {
        if self.serves.get() {
            self.orgs.borrow_mut().insert(row.id.clone(), Arc::clone(row));
        }
    }

    pub(super) fn key(&self, audience: &AudienceName, id: KeyId) -> Option<Arc<NumberedKey>> {
        let known = self.keys.borrow().get(&(audience.clone(), id)).map(Arc::clone);
        known.filter(|_| self.serves.get())
    }

    pub(super) fn put_key(&self, audience: &AudienceName, found: &Arc<NumberedKey>) {
        if self.serves.get() {
            let name = (audience.clone(), found.key.entry.id);
            self.keys.borrow_mut().insert(name, Arc::clone(found));
        }
    }

    /// Forgets a key that has changed.
    pub(super) fn forget_key(&self, audience: &AudienceName, id: KeyId) {
        self.keys.borrow_mut().remove(&(audience.clone(), id));
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::manage::registry::settings::{RawSettings, RegistrySettings, VERSION};
    use crate::registrar::store::suite::audience;

    /// The next change need not ask the database again.
    #[test]
    fn a_refused_change_leaves_what_it_has_read() {
        let (known, audience) = (KnownRows::default(), audience());
        let raw = RawSettings { registry: VERSION, ..RawSettings::default() };
        let registry = RegistrySettings::from_raw(raw, Path::new("settings"), &|_| 0).unwrap();
        let settings = Arc::new(AudienceSettings { registry, access: None });
        let head = AuditHead { seq: 3, ..AuditHead::default() };
        known.found_head(head);
        for keep in [false, false, true, false] {
            let before = known.begin_change();
            if known.settings(&audience).is_none() {
                known.put_settings(&audience, 5, &settings);
            }
            let raised = known.raise(&audience);
            let first = known.head().map(|head| head.seq);
            known.append(AuditHead { seq: first.unwrap_or_default() + 1, ..head });
            known.end_change(Some(before).filter(|_| !keep));
            assert!(raised.is_some());
        }
        known.begin_change();
        assert_eq!(known.raise(&audience), Some(7), "one was kept");
        assert_eq!(known.head().map(|head| head.seq), Some(4));
    }
}
