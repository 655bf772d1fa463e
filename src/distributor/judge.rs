//! Which files are passed on. Trust is up to the sidecars. Only files that all of them would refuse
//! are kept from them, because a fleet that refuses a file backs off and gets the next one late.
//! Pure.

use crate::artefacts::{ArtefactName, ServedArtefact};
use crate::table::{FileKind, Manifest, PublicKey, Refusal, SignedHead, Trust, TrustError};

/// Judges the files of one URL.
#[derive(Clone, Debug)]
pub(super) struct ArtefactJudge {
    audience: Box<str>,
    kind: FileKind,
    /// `None`: whatever the origin has is passed on.
    trust: Option<Trust>,
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ArtefactVerdict {
    New {
        serial: u64,
    },
    /// It is already served, with at least these signatures; an origin that cannot compare has sent
    /// it again.
    Served,
}

// === impl ArtefactJudge ===

impl ArtefactJudge {
    pub(super) fn new(
        audience: &str,
        name: ArtefactName,
        signers: Option<&[PublicKey]>,
    ) -> Result<Self, TrustError> {
        let kind = match name {
            ArtefactName::Patch => FileKind::Patch,
            ArtefactName::Table => FileKind::Table,
        };
        let trust =
            signers.map(|keys| Trust::new(keys.iter().copied(), 1, audience)).transpose()?;
        Ok(Self { audience: audience.into(), kind, trust })
    }

    /// Whether a file may replace the one that is served.
    ///
    /// The serial of an unsigned file means nothing. If it could keep out lower ones, one forged
    /// file would keep out all that follow. So only a distributor that verifies signatures compares
    /// serials. Signatures may be added to a file: sidecars that need more than one wait for them.
    ///
    /// # Errors
    /// Every sidecar would refuse it.
    pub(super) fn judge(
        &self,
        file: &[u8],
        served: Option<&ServedArtefact>,
    ) -> Result<ArtefactVerdict, Refusal> {
        if served.is_some_and(|served| *served.bytes == *file) {
            return Ok(ArtefactVerdict::Served);
        }
        // Until the signatures are verified, only the frame is looked at.
        let head = match &self.trust {
            Some(trust) => Some(SignedHead::open(file, self.kind, trust)?),
            None => None,
        };
        let serial = Manifest::stated(file, self.kind, &self.audience)?.serial;
        if let (Some(head), Some(trust), Some(served)) = (head, &self.trust, served) {
            match served.tag.serial {
                floor if serial < floor => return Err(Refusal::Rollback { serial, floor }),
                same if serial == same => {
                    let served = SignedHead::open(&served.bytes, self.kind, trust)?;
                    return again(&head, &served);
                }
                _ => {}
            }
        }
        Ok(ArtefactVerdict::New { serial })
    }
}

/// A file with the serial of the one that is served. The manifest has the hash of the body.
fn again(head: &SignedHead, served: &SignedHead) -> Result<ArtefactVerdict, Refusal> {
    let serial = head.manifest.serial;
    if head.manifest != served.manifest {
        return Err(Refusal::EqualSerial { serial });
    }
    let keeps_all = served.signed_by().iter().all(|key| head.signed_by().contains(key));
    let adds = head.signed_by().len() > served.signed_by().len();
    Ok(if keeps_all && adds { ArtefactVerdict::New { serial } } else { ArtefactVerdict::Served })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::testkit::{AUDIENCE, Signer, issue, spec, table_file};

    fn served(serial: u64, file: &[u8]) -> ServedArtefact {
        ServedArtefact::new(serial, file.to_vec())
    }

    #[test]
    fn what_all_would_refuse_is_not_passed_on() {
        let (own, strange) = (Signer::new(1), Signer::new(2));
        let file = |serial, signer| table_file(&[spec(1)], issue(serial, &[signer]), &[signer]);
        let keys = [own.key];
        let judge = |audience: &str, name, keys: Option<&[PublicKey]>| {
            ArtefactJudge::new(audience, name, keys).unwrap()
        };
        let plain = judge(AUDIENCE, ArtefactName::Table, None);
        let strict = judge(AUDIENCE, ArtefactName::Table, Some(&keys));
        let good = file(7, &own);
        for judge in [&plain, &strict] {
            let verdict = |file: &[u8]| judge.judge(file, None);
            assert_eq!(verdict(&good).unwrap(), ArtefactVerdict::New { serial: 7 });
            assert_eq!(verdict(b"<!doctype html>").unwrap_err().reason(), "magic");
            assert_eq!(verdict(&good[..good.len() - 1]).unwrap_err().reason(), "truncated");
            let mut changed = good.clone();
            *changed.last_mut().unwrap() ^= 1;
            assert_eq!(verdict(&changed).unwrap_err().reason(), "body_hash");
            let same = judge.judge(&good, Some(&served(7, &good))).unwrap();
            assert_eq!(same, ArtefactVerdict::Served);
        }
        let patches = judge(AUDIENCE, ArtefactName::Patch, None);
        assert_eq!(patches.judge(&good, None).unwrap_err().reason(), "kind");
        let others = judge("other", ArtefactName::Table, None);
        assert_eq!(others.judge(&good, None).unwrap_err().reason(), "audience");
        // Only a judge that verifies knows what a serial is worth.
        let forged = file(900, &strange);
        assert_eq!(strict.judge(&forged, None).unwrap_err().reason(), "unknown_signer");
        assert!(plain.judge(&forged, None).is_ok());
        let newer = served(900, &forged);
        assert_eq!(strict.judge(&good, Some(&newer)).unwrap_err().reason(), "rollback");
        assert_eq!(plain.judge(&good, Some(&newer)).unwrap(), ArtefactVerdict::New { serial: 7 });
        // Unverified text must not start a log line, and is not even read if signatures matter.
        let manifest = b"{\"evil\\n2027-01-31 INFO all is well \\u001b[31m\": 1}";
        let mut odd = b"keygate\x01".to_vec();
        odd.extend((manifest.len() as u32).to_le_bytes());
        odd.extend(manifest);
        odd.extend([0; 4]);
        odd.resize(odd.len().next_multiple_of(64), 0);
        let told = plain.judge(&odd, None).unwrap_err();
        assert_eq!(told.reason(), "manifest");
        let told = told.to_string();
        assert!(!told.contains(['\n', '\u{1b}']) && told.contains("all is well"), "{told:?}");
        assert_eq!(strict.judge(&odd, None).unwrap_err().reason(), "unsigned");
        let twin = table_file(&[spec(2)], issue(7, &[&own]), &[&own]);
        let first = served(7, &good);
        assert_eq!(strict.judge(&twin, Some(&first)).unwrap_err().reason(), "equal_serial");
    }

    #[test]
    fn signatures_are_added_to_what_is_served() {
        let signers = [1, 2, 3].map(Signer::new);
        let all = signers.each_ref();
        let file = |n: u32, by: &[usize]| {
            let by: Vec<_> = by.iter().map(|at| all[*at]).collect();
            table_file(&[spec(n)], issue(7, &all), &by)
        };
        // Sidecars may trust more signers than are known here.
        let keys = [signers[0].key, signers[1].key];
        let strict = ArtefactJudge::new(AUDIENCE, ArtefactName::Table, Some(&keys)).unwrap();
        let judge = |new: &[u8], old: &[u8]| strict.judge(new, Some(&served(7, old)));
        let (new, known) = (Ok(ArtefactVerdict::New { serial: 7 }), Ok(ArtefactVerdict::Served));
        for (before, after, wanted) in [
            (&[0][..], &[0, 1][..], &new),
            (&[0], &[0, 2], &new),
            (&[0, 1], &[0, 1, 2], &new),
            (&[0, 1], &[0], &known),
            (&[0], &[1], &known),
            (&[0], &[1, 2], &known),
        ] {
            let verdict = judge(&file(1, after), &file(1, before));
            assert_eq!(&verdict, wanted, "{before:?} {after:?}");
        }
        let other = judge(&file(2, &[0, 1]), &file(1, &[0]));
        assert_eq!(other.unwrap_err().reason(), "equal_serial");
        assert_eq!(judge(&file(1, &[2]), &file(1, &[0])).unwrap_err().reason(), "unknown_signer");
    }
}
