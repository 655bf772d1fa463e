//! One checkpoint: what is signed about an end of the audit log, how the file writes it as a line,
//! and which of many checkpoints count. Pure: no file, no clock, no private key.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};

use super::super::store::{AuditHead, ChainHash, Checkpoint};
use crate::manage::signing::checkpoint::checkpoint_message;
use crate::table::PublicKey;

/// The signer's statement that the log ended there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedCheckpoint {
    pub head: AuditHead,
    /// For a log that was restored from a backup: the last line that the backup had. Lines signed
    /// after it are lost, and the signer knows that.
    pub recovered_from: Option<u64>,
    /// Milliseconds since 1970-01-01T00:00:00Z; not signed.
    pub at_ms: u64,
    /// Id of the signer.
    pub signer: Box<str>,
    pub signature: Vec<u8>,
}

/// The result of judging many checkpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JudgedCheckpoints {
    /// Ends that the log must have had.
    pub ends: Vec<AuditHead>,
    /// For each restore: the last line of the backup, and the last signed line that is lost.
    pub lost: Vec<(u64, u64)>,
    /// Why some do not count.
    pub faults: Vec<String>,
}

/// As a line of the file.
#[derive(Deserialize, Serialize)]
struct RawCheckpoint {
    seq: u64,
    /// Hexadecimal.
    hash: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    recovered_from: Option<u64>,
    at_ms: u64,
    signer: String,
    /// Base64.
    signature: String,
}

// === impl SignedCheckpoint ===

impl SignedCheckpoint {
    /// The bytes to sign: a word, numbers of 8 bytes (big-endian), and the hash of the line.
    pub fn message(head: AuditHead, recovered_from: Option<u64>) -> Vec<u8> {
        checkpoint_message(head.seq, &head.hash.0, recovered_from)
    }

    /// Without its line end.
    pub fn to_line(&self) -> String {
        let raw = RawCheckpoint {
            seq: self.head.seq,
            hash: self.head.hash.to_string(),
            recovered_from: self.recovered_from,
            at_ms: self.at_ms,
            signer: self.signer.to_string(),
            signature: BASE64_STANDARD.encode(&self.signature),
        };
        serde_json::to_string(&raw).unwrap_or_default()
    }

    /// `None`: the line is not a whole one that we have written.
    pub fn of_line(line: &[u8]) -> Option<Self> {
        let raw: RawCheckpoint = serde_json::from_slice(line).ok()?;
        Some(Self {
            head: AuditHead { seq: raw.seq, hash: ChainHash::of_hex(&raw.hash)? },
            recovered_from: raw.recovered_from,
            at_ms: raw.at_ms,
            signer: raw.signer.into(),
            signature: BASE64_STANDARD.decode(raw.signature).ok()?,
        })
    }

    /// Whether one of `trusted` has signed it.
    pub fn is_signed_by(&self, trusted: &[PublicKey]) -> bool {
        let Ok(signature) = <&[u8; 64]>::try_from(self.signature.as_slice()) else { return false };
        let message = Self::message(self.head, self.recovered_from);
        trusted.iter().any(|key| key.verify(&message, signature))
    }
}

impl From<Checkpoint> for SignedCheckpoint {
    fn from(stored: Checkpoint) -> Self {
        let Checkpoint { head, signer, signature, at_ms } = stored;
        Self { head, recovered_from: None, at_ms, signer, signature }
    }
}

// === impl JudgedCheckpoints ===

impl JudgedCheckpoints {
    /// Judges checkpoints in the order in which they were written. One that no key of `trusted` has
    /// signed does not count, and is a fault: anybody who can write there can write any.
    pub fn of(
        checkpoints: impl IntoIterator<Item = SignedCheckpoint>,
        trusted: &[PublicKey],
    ) -> Self {
        let mut judged = Self::default();
        for checkpoint in checkpoints {
            let SignedCheckpoint { head, recovered_from, ref signer, .. } = checkpoint;
            if !checkpoint.is_signed_by(trusted) {
                judged.faults.push(format!(
                    "the checkpoint of line {} names signer {signer}, and no trusted key has signed it",
                    head.seq
                ));
                continue;
            }
            if let Some(kept) = recovered_from {
                let last = judged.ends.iter().map(|end| end.seq).max().unwrap_or_default();
                if last > kept {
                    judged.lost.push((kept, last));
                    judged.ends.retain(|end| end.seq <= kept);
                }
            }
            judged.ends.push(head);
        }
        judged
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manage::signing::checkpoint::DOMAIN;
    use crate::table::testkit::{Signer, issue, table_file};

    fn head(seq: u64) -> AuditHead {
        AuditHead { seq, hash: ChainHash([seq as u8; 32]) }
    }

    fn signed(by: &Signer, seq: u64, recovered_from: Option<u64>) -> SignedCheckpoint {
        let message = SignedCheckpoint::message(head(seq), recovered_from);
        SignedCheckpoint {
            head: head(seq),
            recovered_from,
            at_ms: 7,
            signer: "us".into(),
            signature: by.sign(&message).to_vec(),
        }
    }

    #[test]
    fn the_public_key_alone_verifies_what_a_line_says() {
        let (ours, other) = (Signer::new(1), Signer::new(2));
        for recovered_from in [None, Some(3)] {
            let checkpoint = signed(&ours, 9, recovered_from);
            let read = SignedCheckpoint::of_line(checkpoint.to_line().as_bytes()).unwrap();
            assert_eq!(read, checkpoint);
            assert!(read.is_signed_by(&[other.key, ours.key]) && !read.is_signed_by(&[other.key]));
            for changed in [
                SignedCheckpoint { head: head(8), ..read.clone() },
                SignedCheckpoint { recovered_from: Some(4), ..read.clone() },
                SignedCheckpoint { signature: vec![0; 64], ..read.clone() },
                SignedCheckpoint { signature: Vec::new(), ..read.clone() },
            ] {
                assert!(!changed.is_signed_by(&[ours.key]), "{changed:?}");
            }
        }
        assert!(SignedCheckpoint::of_line(b"{\"seq\":9,\"ha").is_none());
    }

    /// A signature for one purpose is never valid for another, nor for a table.
    #[test]
    fn what_is_signed_begins_as_nothing_else_does() {
        let one = SignedCheckpoint::message(head(1), None);
        let other = SignedCheckpoint::message(head(1), Some(1));
        assert_eq!((one.len(), other.len()), (48, 66));
        let signer = Signer::new(1);
        let table = table_file(&[], issue(1, &[&signer]), &[&signer]);
        assert!(!table.starts_with(&DOMAIN[..3]));
    }

    #[test]
    fn those_of_strangers_count_for_nothing() {
        let (ours, theirs) = (Signer::new(1), Signer::new(2));
        let all = [signed(&ours, 3, None), signed(&theirs, 5, None)];
        let judged = JudgedCheckpoints::of(all, &[ours.key]);
        assert_eq!(judged.ends, [head(3)]);
        assert!(judged.faults[0].contains("line 5"), "{judged:?}");
    }

    /// The signer itself states which lines a restored backup has lost.
    #[test]
    fn a_recovery_takes_back_what_was_signed_after_the_backup() {
        let ours = Signer::new(1);
        let all = [
            signed(&ours, 3, None),
            signed(&ours, 8, None),
            signed(&ours, 5, Some(4)),
            signed(&ours, 9, None),
        ];
        let judged = JudgedCheckpoints::of(all, &[ours.key]);
        assert_eq!(judged.ends, [head(3), head(5), head(9)]);
        assert_eq!((judged.lost, judged.faults.len()), (vec![(4, 8)], 0));
    }
}
