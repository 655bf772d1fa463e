//! Whether the database is behind what was published, because somebody has restored a backup. Then
//! nothing may be changed or published until its content has caught up; otherwise keys that were
//! revoked since would work again. Pure.

use super::super::store::{AuditHead, Publication};

/// Evidence that an audience had come further than its database says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    pub serial: u64,
    pub source: EvidenceSource,
}

/// Where the evidence was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EvidenceSource {
    HighWater,
    /// A published file.
    Target(Box<str>),
    /// The signer's statement that it has signed this, or its refusal because it has signed this or
    /// more.
    Signer,
    /// A sidecar's statement that it has this.
    Sidecar {
        fleet: Box<str>,
        instance: Box<str>,
    },
}

/// The database is older than this shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Behind {
    /// An audience has serial `has`, but something newer was published.
    Serial { has: u64, evidence: Evidence },
    /// The audit log ends before a line that was noted, or has another line in its place.
    Audit { has: u64, noted: u64 },
    /// A registry of serial `of` was imported, but not to its end.
    Import { of: u64 },
}

// === impl Behind ===

impl Behind {
    /// Nothing was ever put in.
    pub const fn is_of_empty(&self) -> bool {
        matches!(self, Self::Serial { has: 0, .. } | Self::Audit { has: 0, .. })
    }
}

/// The newest evidence about an audience, if the database is behind it.
pub fn newer(publication: &Publication, evidence: &[Evidence]) -> Option<Evidence> {
    let newest = evidence.iter().max_by_key(|evidence| evidence.serial)?;
    (newest.serial > publication.serial).then(|| newest.clone())
}

/// Compares the end of the audit log with one that was noted. `there`: the log's line with the
/// noted number, if there is one.
pub fn audit_behind(noted: AuditHead, head: AuditHead, there: Option<AuditHead>) -> Option<Behind> {
    let is_there = noted.seq == 0 || there.is_some_and(|line| line == noted);
    (!is_there).then_some(Behind::Audit { has: head.seq, noted: noted.seq })
}

impl std::fmt::Display for EvidenceSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::HighWater => f.write_str(super::high_water::FILE),
            Self::Target(path) => f.write_str(path),
            Self::Signer => f.write_str("its signer"),
            Self::Sidecar { fleet, instance } => write!(f, "sidecar {instance} of fleet {fleet}"),
        }
    }
}

/// One line, without advice on what to do.
impl std::fmt::Display for Behind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Serial { has, evidence: Evidence { serial, source } } => {
                let at = if *source == EvidenceSource::Signer { "at least at" } else { "at" };
                write!(f, "the database is at serial {has}, and {source} {at} {serial}")
            }
            Self::Import { of } => {
                write!(f, "the import of a registry of serial {of} has not come to its end")
            }
            Self::Audit { has, noted } if has < noted => write!(
                f,
                "the audit log ends at line {has}, and {} knows of line {noted}",
                super::high_water::FILE
            ),
            Self::Audit { noted, .. } => write!(
                f,
                "line {noted} of the audit log is not the one that {} knows",
                super::high_water::FILE
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::store::{AudienceName, ChainHash};
    use super::*;

    fn publication(serial: u64) -> Publication {
        Publication {
            settings: None,
            audience: AudienceName::parse("shop").unwrap(),
            serial,
            published: serial,
            base: 1,
            epoch: 1,
            table: None,
            signed_patch: None,
            patch: None,
            importing: None,
        }
    }

    #[test]
    fn a_serial_that_was_seen_elsewhere_counts() {
        let seen = |serial| Evidence { serial, source: EvidenceSource::HighWater };
        assert_eq!(newer(&publication(7), &[]), None);
        assert_eq!(newer(&publication(7), &[seen(3), seen(7)]), None);
        let evidence = newer(&publication(7), &[seen(8), seen(9), seen(3)]).unwrap();
        let found = Behind::Serial { has: 7, evidence };
        let said = "the database is at serial 7, and high-water.json at 9";
        assert_eq!(found.to_string(), said);
        let evidence = Evidence { serial: 8, source: EvidenceSource::Signer };
        let said = "the database is at serial 7, and its signer at least at 8";
        assert_eq!(Behind::Serial { has: 7, evidence }.to_string(), said);
    }

    #[test]
    fn the_log_must_have_the_line_that_was_noted() {
        let head = |seq, byte| AuditHead { seq, hash: ChainHash([byte; 32]) };
        let none = AuditHead::default();
        assert_eq!(audit_behind(none, none, None), None);
        assert_eq!(audit_behind(head(3, 3), head(5, 5), Some(head(3, 3))), None);
        let cut = audit_behind(head(3, 3), head(2, 2), None).unwrap().to_string();
        assert_eq!(cut, "the audit log ends at line 2, and high-water.json knows of line 3");
        let other = audit_behind(head(3, 3), head(5, 5), Some(head(3, 9))).unwrap().to_string();
        assert_eq!(other, "line 3 of the audit log is not the one that high-water.json knows");
    }
}
