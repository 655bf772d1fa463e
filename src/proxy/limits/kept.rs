//! What keys, subjects and orgs have used of quotas and long limits, as bytes that outlive the
//! process: 32 bytes for each bucket. Imports core, `token`.

use std::sync::atomic::Ordering;

use super::LimitStore;
use super::buckets::Buckets;
use crate::core::limit::PolicyId;
use crate::core::quota::{self, QuotaCount};
use crate::core::{KeyId, Now};
use crate::token::buckets::{BucketState as _, org_of};

/// The kept state cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeptLimitsError {
    #[error("it is no file of used quotas")]
    Kind,
    #[error("it is damaged")]
    Damaged,
}

/// The owner of a kept bucket.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum KeptOwner {
    Key = 0,
    Subject = 1,
    Org = 2,
}

const MAGIC: &[u8; 8] = b"kgquota1";
const RECORD: usize = 32;
/// Magic, and a checksum of the records.
const HEAD: usize = 12;

/// For a limit that is not a quota, only a debt that takes longer than this to pay off is kept:
/// other limits are whole again before a process has restarted.
const LEAST_DEBT_NS: u64 = 60_000_000_000;

// === impl LimitStore ===

impl LimitStore {
    /// Everything that is worth keeping.
    pub fn keep(&self, now: Now) -> Vec<u8> {
        let mut records = Vec::new();
        let mut add = |owner: KeptOwner, name: [u8; 16], policy: PolicyId, state: u64| {
            let Some(value) = kept_value(state, now) else { return };
            records.extend_from_slice(&name);
            records.extend_from_slice(&policy.to_bytes());
            records.extend_from_slice(&[owner as u8, 0]);
            records.extend_from_slice(&value.to_le_bytes());
        };
        for entry in &self.several {
            for (policy, state) in entry.value().iter() {
                add(KeptOwner::Key, *entry.key().as_bytes(), policy, state);
            }
        }
        for entry in &self.lone {
            let state = entry.value().load(Ordering::Relaxed);
            add(KeptOwner::Key, *entry.key().as_bytes(), PolicyId::PER_KEY, state);
        }
        self.subjects.each(|subject, state| {
            let state = state.load(Ordering::Relaxed);
            add(KeptOwner::Subject, subject.to_be_bytes(), PolicyId::PER_KEY, state);
        });
        for entry in &self.orgs {
            let name = org_of(entry.key()).to_be_bytes();
            for (policy, state) in entry.value().iter() {
                add(KeptOwner::Org, name, policy, state);
            }
        }
        self.foreign_orgs.each(|org, buckets| {
            for (policy, state) in buckets.iter() {
                add(KeptOwner::Org, org.to_be_bytes(), policy, state);
            }
        });
        for entry in &self.kept_orgs {
            for (policy, state) in entry.value().iter() {
                add(KeptOwner::Org, entry.key().to_be_bytes(), policy, state);
            }
        }
        let mut bytes = Vec::with_capacity(HEAD + records.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&crc32fast::hash(&records).to_le_bytes());
        bytes.extend_from_slice(&records);
        bytes
    }

    /// Restores what [`LimitStore::keep`] has written. Returns the number of buckets.
    ///
    /// # Errors
    /// It is something else, or damaged. Then nothing is restored.
    pub fn restore(&self, bytes: &[u8], now: Now) -> Result<usize, KeptLimitsError> {
        let (head, records) = bytes.split_at_checked(HEAD).ok_or(KeptLimitsError::Kind)?;
        let (magic, sum) = head.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err(KeptLimitsError::Kind);
        }
        if crc32fast::hash(records).to_le_bytes() != sum || !records.len().is_multiple_of(RECORD) {
            return Err(KeptLimitsError::Damaged);
        }
        let mut count = 0;
        for record in records.chunks_exact(RECORD) {
            count += usize::from(self.restore_one(record, now).is_some());
        }
        Ok(count)
    }

    /// `None`: it means nothing any more, or nothing that this process knows.
    fn restore_one(&self, record: &[u8], now: Now) -> Option<()> {
        let (name, rest) = record.split_first_chunk::<16>()?;
        let (policy, rest) = rest.split_first_chunk::<6>()?;
        let (kind, value) = rest.split_first_chunk::<2>()?;
        let state = restored_state(u64::from_le_bytes(*value.first_chunk()?), now)?;
        let policy = PolicyId::from_bytes(*policy);
        match kind {
            [0, 0] => {
                let key = KeyId::from_bytes(*name).ok()?;
                self.several.entry(key).or_default().set(policy, state, now);
            }
            [1, 0] => self.subjects.with(u128::from_be_bytes(*name), now, |kept| {
                kept.store(state, Ordering::Relaxed);
            }),
            [2, 0] => {
                let org = u128::from_be_bytes(*name);
                self.kept_orgs.entry(org).or_default().set(policy, state, now);
            }
            _ => return None,
        }
        Some(())
    }

    /// What was kept for an org that has just called for the first time.
    pub(super) fn take_kept_org(&self, org: u128) -> Option<Buckets> {
        if self.kept_orgs.is_empty() {
            return None;
        }
        self.kept_orgs.remove(&org).map(|(_, buckets)| buckets)
    }

    pub(super) fn sweep_kept(&self, now: Now) {
        self.kept_orgs.retain(|_, buckets| buckets.is_spent(now));
    }
}

/// A count as it is, a debt by the wall clock. `None`: not worth keeping.
fn kept_value(state: u64, now: Now) -> Option<u64> {
    match QuotaCount::of_state(state) {
        Some(count) => (count.used > 0 && quota::is_spent(state, now)).then_some(state),
        None => {
            let debt = state.checked_sub(now.mono_ns).filter(|debt| *debt >= LEAST_DEBT_NS)?;
            Some(now.unix_ms.saturating_mul(1_000_000).saturating_add(debt))
        }
    }
}

fn restored_state(value: u64, now: Now) -> Option<u64> {
    if QuotaCount::of_state(value).is_some() {
        return quota::is_spent(value, now).then_some(value);
    }
    let debt = value.checked_sub(now.unix_ms.saturating_mul(1_000_000)).filter(|debt| *debt > 0)?;
    Some(now.mono_ns.saturating_add(debt))
}
