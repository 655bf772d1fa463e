//! What people see of the keeper: `/status`, gauges, readiness, reminders. Imports `core`, `table`.

use std::time::Duration;

use super::super::status::{InForceStatus, KeyCounts, Persistence, Time};
use super::KeysInForce;
use crate::config::AfterExpiry;
use crate::core::Now;
use crate::core::observe::Conduct;
use crate::table::{Manifest, PublicKey};

/// Between two lines about an expired table.
const REMIND: Duration = Duration::from_secs(600);

// === impl KeysInForce ===

impl KeysInForce {
    /// Makes `/status`, gauges and readiness match what is in force.
    pub(super) fn publish(&mut self) {
        let now = self.clock.now();
        let at = Time { unix_ms: now.unix_ms };
        let set = self.keys();
        let [table_since, patch_since] = &mut self.since;
        let table = set.as_ref().map(|s| s.table());
        let patch = set.as_ref().and_then(|s| s.patch());
        self.status.table = table
            .map(|t| shown(t.manifest(), t.signed_by(), since(table_since, t.serial(), at), now));
        self.status.patch = patch
            .map(|p| shown(p.manifest(), p.signed_by(), since(patch_since, p.serial(), at), now));
        let failing = self.failing.iter().flatten();
        self.status.failing = failing.map(|failing| failing.attempt.clone()).collect();
        let serial = |in_force: &Option<InForceStatus>| in_force.as_ref().map(|i| i.serial);
        self.status.serial = serial(&self.status.table).max(serial(&self.status.patch));
        self.status.held_patches = set.as_ref().map_or(0, |s| s.held_patches());
        self.status.waiting_patch = self.desk.awaiting();
        self.status.keys = set.as_ref().map(|s| {
            let counts = s.counts();
            KeyCounts { active: counts.active, disabled: counts.disabled, revoked: counts.revoked }
        });
        let ledger = self.desk.ledger();
        self.status.state = Persistence {
            persistent: self.state.is_persistent(),
            floor: self
                .min_serial
                .max(ledger.table_serial().unwrap_or(0))
                .max(ledger.patch_serial().unwrap_or(0)),
            problem: self.state.problem().map(str::to_owned),
        };
        self.show_gauges();
        self.cell.store(self.status.clone());
        // Readiness is last, so that whoever waited for it finds the rest updated.
        self.show_ages();
    }

    fn show_gauges(&mut self) {
        let control = self.metrics.control();
        let status = &self.status;
        control.table_serial.set(status.table.as_ref().map_or(0, |t| t.serial) as f64);
        control.patch_serial.set(status.patch.as_ref().map_or(0, |p| p.serial) as f64);
        let expiry = status.table.as_ref().and_then(|t| t.expires_at);
        control.table_expiry.set(expiry.map_or(0.0, |at| at.unix_ms as f64 / 1000.0));
        control.state_persistent.set(u8::from(status.state.persistent));
        for gone in &self.signers {
            control.table_info(gone).set(0);
        }
        let signers = status.table.as_ref().map(|t| t.signers.clone()).unwrap_or_default();
        for signer in &signers {
            control.table_info(signer).set(1);
        }
        self.signers = signers;
    }

    pub(super) fn show_ages(&mut self) {
        let now = self.clock.now();
        let control = self.metrics.control();
        let age = |in_force: &Option<InForceStatus>| {
            let issued_ms = in_force.as_ref().map_or(now.unix_ms, |i| i.issued_at.unix_ms);
            now.unix_ms.saturating_sub(issued_ms) as f64 / 1000.0
        };
        control.table_age.set(age(&self.status.table));
        control.patch_age.set(age(&self.status.patch));
        let expired = self.expired_since(now).is_some();
        control.table_expired.set(u8::from(expired));
        if let Some(table) = &mut self.status.table
            && table.expired != expired
        {
            table.expired = expired;
            self.cell.store(self.status.clone());
        }
        match self.keys() {
            Some(keys) => match crate::core::KeyLookup::refuse_from(&*keys) {
                // Requests pass while they are observed. To receive none would be exactly the
                // outage that observing is meant to rule out. At a start, nobody is sent here yet.
                Some(at)
                    if now.unix_secs() >= at
                        && (self.conduct == Conduct::Enforced || !self.part.has_started()) =>
                {
                    self.part
                        .blocked("the table in force has expired and `after_expiry` is refuse");
                }
                _ => self.part.ready(),
            },
            None if self.desk.current().is_some() => self.part.blocked("no answer about a patch"),
            None => self.part.blocked(match &self.status.last_failure {
                Some(failure) => failure.error.as_deref().unwrap_or("no table is loaded"),
                None => "no table is loaded",
            }),
        }
    }

    /// Logs an expired table prominently and repeatedly.
    pub(super) fn remind(&mut self) {
        let now = self.clock.now();
        let Some(at) = self.expired_since(now) else { return };
        let due = self
            .reminded
            .is_none_or(|last| now.mono_ns.saturating_sub(last) >= REMIND.as_nanos() as u64);
        if due {
            self.reminded = Some(now.mono_ns);
            tracing::error!(
                serial = self.status.table.as_ref().map(|t| t.serial),
                expired_at = %Time::of_secs(at),
                after_expiry = match self.after_expiry {
                    AfterExpiry::Refuse => "refuse",
                    AfterExpiry::Serve => "serve",
                },
                "the table in force has expired\n\
                 hint: publish a fresh one; if one was published, see why it is not taken"
            );
        }
    }

    /// Unix seconds.
    fn expired_since(&self, now: Now) -> Option<u64> {
        let at = self.table()?.manifest().expires_at?;
        (now.unix_secs() >= at).then_some(at)
    }
}

/// Since when this serial has been in force.
fn since(known: &mut Option<(u64, Time)>, serial: u64, now: Time) -> Time {
    match known {
        Some((same, at)) if *same == serial => *at,
        _ => known.insert((serial, now)).1,
    }
}

fn shown(manifest: &Manifest, signed_by: &[PublicKey], since: Time, now: Now) -> InForceStatus {
    InForceStatus {
        serial: manifest.serial,
        includes_through: manifest.includes_through,
        issued_at: Time { unix_ms: manifest.issued_at_ms },
        expires_at: manifest.expires_at.map(Time::of_secs),
        expired: manifest.expires_at.is_some_and(|at| now.unix_secs() >= at),
        audience: manifest.audience.clone(),
        signers: signed_by.iter().map(|k| k.id().to_string()).collect(),
        body_sha256: manifest.body_sha256.to_string(),
        keys: manifest.keys,
        active: manifest.active,
        in_force_since: since,
    }
}
