//! Whether a signer signs an end of an audit log.

use serde::{Deserialize, Serialize};

use super::super::super::signer::signs::{SigningReason, SigningRefusal};
use super::super::numbers::{HIGHEST, UsedNumbers};
use super::super::wire::AskedCheckpoint;

/// What lets a restored audit log pass.
pub const RECOVERY_REMEDY: &str =
    "`keygatectl signer allow --recovery` on the signer's host allows it once";

/// The end of the audit log that was signed last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AuditMark {
    seq: u64,
    /// Of that line, in hexadecimal digits.
    hash: String,
    /// After a restore: the last line that the backup had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    recovered_from: Option<u64>,
    #[serde(default)]
    lines: UsedNumbers,
}

/// What happens to an end of the audit log.
#[derive(Clone, Debug, PartialEq)]
pub enum CheckpointVerdict {
    /// It was signed before.
    Again,
    /// It may be signed once this is noted.
    New(AuditMark),
    /// The same, if somebody on the signer's host has allowed it.
    IfAllowed { mark: AuditMark, refusal: SigningRefusal },
}

// === impl AuditMark ===

impl AuditMark {
    /// What a signer does with an end of the log.
    ///
    /// # Errors
    ///
    /// An end that no log can have.
    pub fn judge(
        &self,
        asked: AskedCheckpoint,
        now_ms: u64,
    ) -> Result<CheckpointVerdict, SigningRefusal> {
        let hash: String = asked.hash.iter().map(|byte| format!("{byte:02x}")).collect();
        let refusal = |why: String| SigningRefusal::new(SigningReason::Checkpoint, why);
        let AskedCheckpoint { seq, recovered_from, .. } = asked;
        if !(1..=HIGHEST).contains(&seq) {
            return Err(refusal(format!("an audit log has no line {seq}")));
        }
        let is_it = seq == self.seq && hash == self.hash && recovered_from == self.recovered_from;
        if is_it {
            return Ok(CheckpointVerdict::Again);
        }
        let (last, left) = (self.seq, self.lines.left(now_ms));
        let lines = self.lines.with(seq.saturating_sub(last), now_ms);
        let mut mark = Self { seq, hash, recovered_from, lines };
        let why = match recovered_from {
            Some(from) => format!("the audit log would go on from line {from} of a backup"),
            None if seq < last => format!("line {seq} is before line {last}, which was signed"),
            None if seq == last && mark.hash == self.hash => {
                return Ok(CheckpointVerdict::New(mark));
            }
            None if seq == last => format!("line {last} was signed with another hash"),
            None if seq - last > left => format!("line {seq} is more than {left} behind {last}"),
            None => return Ok(CheckpointVerdict::New(mark)),
        };
        let refusal = refusal(format!("{why}; {RECOVERY_REMEDY}"));
        // Lines continue from here.
        mark.lines = UsedNumbers::default();
        Ok(CheckpointVerdict::IfAllowed { mark, refusal })
    }

    pub fn seq(&self) -> u64 {
        self.seq
    }
}
