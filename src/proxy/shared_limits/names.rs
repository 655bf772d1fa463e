//! Whose buckets there are, and their names in the store. Imports `core`, `token`.

use std::fmt::Write as _;
use std::sync::Arc;

use smallvec::SmallVec;

use super::bucket::BucketLimit;
use crate::core::charge::{ChargedCaller, OrgSource, PolicyCharge};
use crate::core::limit::PolicyId;
use crate::core::quota::QuotaSpan;
use crate::core::{Charge, Digest, KeyId, Now, PolicyScope};
use crate::token::buckets::{org_of, subject_of};

/// The owner of a bucket, as the sidecar finds it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum BucketOwner {
    Key(KeyId),
    Subject(u128),
    Org(Box<str>),
    /// An org that only user tokens name.
    ForeignOrg(u128),
}

/// One bucket: where the sidecar finds it, and where the store does.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct StoreBucket {
    pub(super) owner: BucketOwner,
    pub(super) policy: PolicyId,
    pub(super) of: BucketLimit,
    /// For a quota: when it is counted.
    pub(super) span: Option<QuotaSpan>,
    /// Its key in the store.
    pub(super) key: Box<str>,
}

/// Names the buckets of one audience in the store.
#[derive(Clone, Debug)]
pub(super) struct BucketNames {
    audience: Box<str>,
}

// === impl BucketNames ===

impl BucketNames {
    pub(super) fn new(audience: &str) -> Self {
        Self { audience: audience.into() }
    }

    /// The buckets that a request is charged to, in the order of `limits`.
    ///
    /// All buckets of an org, and so all of a request, have one hash tag: in a cluster they are on
    /// one node.
    pub(super) fn of_charge(
        &self,
        charge: &Charge<'_>,
        limits: &[PolicyCharge<'_>],
        now: Now,
    ) -> SmallVec<[Arc<StoreBucket>; 2]> {
        let tag = self.tag(charge.org);
        let bucket = |limit: &PolicyCharge<'_>| {
            let owner = BucketOwner::of(charge, limit.scope);
            let mut key = format!("kg1:{{{tag}}}:");
            // Writing to a String cannot fail.
            let _ = match &owner {
                BucketOwner::Key(id) => write!(key, "k:{id}"),
                BucketOwner::Subject(subject) => write!(key, "s:{subject:032x}"),
                BucketOwner::Org(_) | BucketOwner::ForeignOrg(_) => write!(key, "o"),
            };
            key.push(':');
            key.push_str(limit.policy.as_str());
            let span = limit.quota.map(|period| period.span(now.unix_ms));
            if let Some(span) = span {
                let _ = write!(key, ":{}{}", span.period.as_str(), span.number);
            }
            let (policy, of) = (limit.policy.id(), BucketLimit::of(limit));
            Arc::new(StoreBucket { owner, policy, of, span, key: key.into() })
        };
        limits.iter().map(bucket).collect()
    }

    /// 128 bits of a hash of audience and org, in hexadecimal digits.
    fn tag(&self, org: &str) -> String {
        let name = format!("{}\0{org}", self.audience);
        let Digest(digest) = Digest::of(name.as_bytes());
        digest.iter().take(16).fold(String::new(), |mut tag, byte| {
            let _ = write!(tag, "{byte:02x}");
            tag
        })
    }

    /// Where sidecars count each other.
    pub(super) fn replicas(&self) -> String {
        format!("kg1:{{{}}}:replicas", self.tag(""))
    }
}

// === impl BucketOwner ===

impl BucketOwner {
    pub(super) fn of(charge: &Charge<'_>, scope: PolicyScope) -> Self {
        match (scope, charge.caller, charge.org_source()) {
            (PolicyScope::Key, ChargedCaller::Key(key), _) => Self::Key(key),
            (PolicyScope::Key, ChargedCaller::Subject(of), _) => {
                Self::Subject(subject_of(of.issuer, of.subject))
            }
            (PolicyScope::Org, _, OrgSource::Table) => Self::Org(charge.org.into()),
            (PolicyScope::Org, _, OrgSource::Token) => Self::ForeignOrg(org_of(charge.org)),
        }
    }
}
