//! The chain of audit lines. Each line's hash covers the line before it, so that a line that was
//! changed, removed, inserted or written twice shows. Pure: no database, no clock.
//!
//! A chain proves nothing against somebody who rewrites all of it. Signed checkpoints do, because
//! they are kept elsewhere too.

use aws_lc_rs::digest::{Context, SHA256};

/// Every line's hash begins with this, so that nothing but a line has such a hash.
const DOMAIN: &[u8] = b"keygate audit line 1";

/// SHA-256 of a line together with all lines before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChainHash(pub [u8; 32]);

/// One event as the log holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditLine {
    /// From 1, without gaps.
    pub seq: u64,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub at_ms: u64,
    /// Empty where the event concerns none.
    pub audience: Box<str>,
    /// Of the change; 0 where the event changed no key.
    pub serial: u64,
    /// Empty where the event concerns none.
    pub org: Box<str>,
    /// `person`, `key`, `operator` or `host`.
    pub actor_kind: Box<str>,
    /// `ISS SUB` of a person, a key's id, a user of the host.
    pub actor: Box<str>,
    /// Network address of the caller, or empty.
    pub address: Box<str>,
    /// Of the request that asked for it, or empty.
    pub request_id: Box<str>,
    /// `create`, `edit`, `rotate`, …
    pub action: Box<str>,
    /// The key's id, or what else was changed.
    pub object: Box<str>,
    /// JSON: the fields that changed, before and after. Never a secret or a digest.
    pub detail: Box<str>,
    /// Hash of the line before; zeros at the first.
    pub prev: ChainHash,
    pub hash: ChainHash,
}

/// Where the log ends: the next line is chained to this.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AuditHead {
    /// 0: there is no line yet.
    pub seq: u64,
    pub hash: ChainHash,
}

/// What is wrong with a chain, and at which line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChainFault {
    /// Its fields are not the ones that its hash covers.
    Changed { seq: u64 },
    /// Two lines follow the same line.
    Forked { seq: u64 },
    /// It does not follow the line before it.
    Unlinked { seq: u64 },
    /// Lines `from` to `to` are missing.
    Missing { from: u64, to: u64 },
    /// The log once had lines up to `known`, and ends at `found`.
    TailCut { found: u64, known: u64 },
    /// The last line is not the one that the head or a checkpoint names.
    OtherTail { seq: u64 },
}

/// Walks over a chain in order of `seq` and collects its faults.
#[derive(Debug, Default)]
pub struct ChainCheck {
    last: AuditHead,
    faults: Vec<ChainFault>,
    lines: u64,
}

// === impl AuditLine ===

impl AuditLine {
    /// Puts the line behind `head`: sets its number, the hash before it and its own hash.
    #[must_use]
    pub fn behind(mut self, head: AuditHead) -> Self {
        self.seq = head.seq.saturating_add(1);
        self.prev = head.hash;
        self.hash = self.computed();
        self
    }

    /// SHA-256 of its fields, each after its length (8 bytes, big-endian), so that two lines with
    /// different fields never have the same bytes.
    pub fn computed(&self) -> ChainHash {
        let mut hash = Context::new(&SHA256);
        let mut field = |bytes: &[u8]| {
            hash.update(&(bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        };
        field(DOMAIN);
        field(&self.prev.0);
        field(&self.seq.to_be_bytes());
        field(&self.at_ms.to_be_bytes());
        field(&self.serial.to_be_bytes());
        for text in [
            &self.audience,
            &self.org,
            &self.actor_kind,
            &self.actor,
            &self.address,
            &self.request_id,
            &self.action,
            &self.object,
            &self.detail,
        ] {
            field(text.as_bytes());
        }
        let mut out = ChainHash::default();
        out.0.copy_from_slice(hash.finish().as_ref());
        out
    }

    /// Its place in the chain.
    pub fn head(&self) -> AuditHead {
        AuditHead { seq: self.seq, hash: self.hash }
    }
}

// === impl ChainHash ===

impl ChainHash {
    /// `None` if these are not 64 hexadecimal digits.
    pub fn of_hex(text: &str) -> Option<Self> {
        let mut hash = [0; 32];
        let digits = text.as_bytes().chunks_exact(2);
        if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        for (to, pair) in hash.iter_mut().zip(digits) {
            *to = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(hash))
    }
}

impl std::fmt::Display for ChainHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

// === impl ChainCheck ===

impl ChainCheck {
    /// Looks at the next line. Lines have to be in the order of their numbers. Two lines with one
    /// number, as an export made of several parts may have them, are a fork.
    pub fn line(&mut self, line: &AuditLine) {
        self.lines += 1;
        let seq = line.seq;
        let expected = self.last.seq.saturating_add(1);
        if line.computed() != line.hash {
            self.faults.push(ChainFault::Changed { seq });
        }
        if seq < expected {
            self.faults.push(ChainFault::Forked { seq });
            return;
        }
        if seq > expected {
            self.faults.push(ChainFault::Missing { from: expected, to: seq - 1 });
        } else if line.prev != self.last.hash {
            self.faults.push(ChainFault::Unlinked { seq });
        }
        self.last = line.head();
    }

    /// Ends the walk. `known` are ends of the log that were noted elsewhere: the head row, signed
    /// checkpoints, the high-water file. [`ChainCheck::passes`] has already compared those before
    /// the last line, where the caller called it.
    pub fn finish(mut self, known: &[AuditHead]) -> Vec<ChainFault> {
        for head in known {
            if head.seq > self.last.seq {
                let (found, known) = (self.last.seq, head.seq);
                self.faults.push(ChainFault::TailCut { found, known });
            } else if head.seq == self.last.seq && head.hash != self.last.hash {
                self.faults.push(ChainFault::OtherTail { seq: head.seq });
            }
        }
        self.faults.dedup();
        self.faults
    }

    /// Compares the line just looked at with a checkpoint that names it. A difference is a fault.
    pub fn passes(&mut self, checkpoint: AuditHead) {
        if checkpoint.seq == self.last.seq && checkpoint.hash != self.last.hash {
            self.faults.push(ChainFault::OtherTail { seq: checkpoint.seq });
        }
    }

    /// How many lines it has looked at.
    pub fn lines(&self) -> u64 {
        self.lines
    }
}

// === impl ChainFault ===

impl std::fmt::Display for ChainFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Changed { seq } => write!(f, "line {seq} was changed after it was written"),
            Self::Forked { seq } => write!(f, "line {seq} is there twice"),
            Self::Unlinked { seq } => {
                write!(f, "line {seq} does not follow the line before it: one of them was replaced")
            }
            Self::Missing { from, to } if from == to => write!(f, "line {from} is missing"),
            Self::Missing { from, to } => write!(f, "lines {from} to {to} are missing"),
            Self::TailCut { found, known } => {
                write!(f, "the log ends at line {found} and once had {known}: its end was cut off")
            }
            Self::OtherTail { seq } => {
                write!(f, "line {seq} is not the one that was signed or noted as the last")
            }
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn line(action: &str) -> AuditLine {
        AuditLine {
            seq: 0,
            at_ms: 1_795_230_000_123,
            audience: "shop".into(),
            serial: 7,
            org: "acme".into(),
            actor_kind: "person".into(),
            actor: "https://idp u-1".into(),
            address: "192.0.2.1".into(),
            request_id: "r1".into(),
            action: action.into(),
            object: "key_a".into(),
            detail: "{}".into(),
            prev: ChainHash::default(),
            hash: ChainHash::default(),
        }
    }

    fn chain(count: usize) -> Vec<AuditLine> {
        let mut head = AuditHead::default();
        let mut lines = Vec::new();
        for n in 0..count {
            let next = line(&format!("edit {n}")).behind(head);
            head = next.head();
            lines.push(next);
        }
        lines
    }

    fn check(lines: &[AuditLine], known: &[AuditHead]) -> Vec<ChainFault> {
        let mut check = ChainCheck::default();
        for line in lines {
            check.line(line);
            known.iter().for_each(|head| check.passes(*head));
        }
        check.finish(known)
    }

    #[test]
    fn a_chain_as_it_was_written_has_no_fault() {
        let lines = chain(5);
        assert_eq!(check(&lines, &[lines[4].head(), lines[2].head()]), []);
        assert_eq!(check(&[], &[AuditHead::default()]), []);
    }

    #[test]
    fn every_harm_to_a_chain_is_found() {
        let lines = chain(5);
        let head = lines[4].head();
        let mut changed = lines.clone();
        changed[2].actor = "https://idp u-2".into();
        assert_eq!(check(&changed, &[head]), [ChainFault::Changed { seq: 3 }]);
        let mut replaced = lines.clone();
        replaced[2].actor = "https://idp u-2".into();
        replaced[2].hash = replaced[2].computed();
        assert_eq!(check(&replaced, &[head]), [ChainFault::Unlinked { seq: 4 }]);
        let mut missing = lines.clone();
        missing.drain(1..3);
        assert_eq!(check(&missing, &[head]), [ChainFault::Missing { from: 2, to: 3 }]);
        let mut forked = lines.clone();
        forked.insert(3, line("another").behind(lines[1].head()));
        assert_eq!(check(&forked, &[head]), [ChainFault::Forked { seq: 3 }]);
        let cut = ChainFault::TailCut { found: 3, known: 5 };
        assert_eq!(check(&lines[..3], &[head]), [cut]);
        let mut first = chain(5);
        first.remove(0);
        assert_eq!(check(&first, &[head]), [ChainFault::Missing { from: 1, to: 1 }]);
    }

    /// Somebody who has the database can recompute all hashes, but does not have the checkpoints.
    #[test]
    fn a_chain_that_was_written_anew_fails_its_checkpoint() {
        let lines = chain(5);
        let mut anew = Vec::new();
        let mut head = AuditHead::default();
        for mut line in chain(5) {
            line.actor = "https://idp u-9".into();
            line = line.behind(head);
            head = line.head();
            anew.push(line);
        }
        assert_eq!(check(&anew, &[head]), []);
        assert_eq!(check(&anew, &[lines[2].head()]), [ChainFault::OtherTail { seq: 3 }]);
    }

    #[test]
    fn a_field_cannot_move_into_its_neighbour() {
        let one = AuditLine { action: "ab".into(), object: "c".into(), ..line("") };
        let other = AuditLine { action: "a".into(), object: "bc".into(), ..line("") };
        assert_ne!(one.computed(), other.computed());
    }
}
