//! The protocol between a signer and its clients on the socket: one question and one answer per
//! connection. Pure: bytes in, bytes out. Imports the words of a refusal.
//!
//! A question is `KGSIGN`, a version, what is asked, and the length of what follows (8 bytes,
//! big-endian). An answer is a status, a length (4 bytes) and that many bytes.

use super::super::signer::signs::{SigningReason, SigningRefusal};

/// Every question begins with it.
const MAGIC: &[u8; 6] = b"KGSIGN";

const VERSION: u8 = 1;

/// Bytes before the body of a question.
pub const QUESTION_HEAD: usize = 16;

/// Bytes before the body of an answer.
pub const ANSWER_HEAD: usize = 5;

/// Longest text of an answer.
pub const MAX_ANSWER: usize = 2048;

/// Length of [`AskedCheckpoint::to_bytes`].
const CHECKPOINT_BYTES: usize = 49;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SigningQuestion {
    /// Sign this table or patch: a whole file, head and body.
    File,
    /// Sign this end of an audit log.
    Checkpoint,
    /// With which key do you sign?
    Key,
    /// Would you sign an audit log that was restored from a backup?
    Recovery,
    /// Up to which serial have you signed for this audience?
    Serial,
}

/// The first bytes of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuestionHead {
    pub question: SigningQuestion,
    /// Bytes that follow.
    pub length: u64,
}

/// An end of an audit log that is to be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AskedCheckpoint {
    pub seq: u64,
    pub hash: [u8; 32],
    /// After a restore: the last line that the backup had.
    pub recovered_from: Option<u64>,
}

/// The bytes are not a question or an answer of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("not a question to a signer")]
    NotAQuestion,
    #[error("version {0} of the signer's protocol is not known")]
    Version(u8),
    #[error("not an answer of a signer")]
    NotAnAnswer,
}

// === impl SigningQuestion ===

impl SigningQuestion {
    const ALL: [Self; 5] = [Self::File, Self::Checkpoint, Self::Key, Self::Recovery, Self::Serial];

    const fn code(self) -> u8 {
        match self {
            Self::File => 1,
            Self::Checkpoint => 2,
            Self::Key => 3,
            Self::Recovery => 4,
            Self::Serial => 5,
        }
    }
}

// === impl QuestionHead ===

impl QuestionHead {
    pub fn to_bytes(self) -> [u8; QUESTION_HEAD] {
        let mut bytes = [0; QUESTION_HEAD];
        let (magic, rest) = bytes.split_at_mut(MAGIC.len());
        magic.copy_from_slice(MAGIC);
        let (kind, length) = rest.split_at_mut(2);
        kind.copy_from_slice(&[VERSION, self.question.code()]);
        length.copy_from_slice(&self.length.to_be_bytes());
        bytes
    }

    pub fn parse(bytes: &[u8; QUESTION_HEAD]) -> Result<Self, WireError> {
        let [m @ .., version, code, l0, l1, l2, l3, l4, l5, l6, l7] = *bytes;
        if m != *MAGIC {
            return Err(WireError::NotAQuestion);
        }
        if version != VERSION {
            return Err(WireError::Version(version));
        }
        let question = SigningQuestion::ALL.into_iter().find(|asked| asked.code() == code);
        let question = question.ok_or(WireError::NotAQuestion)?;
        let length = u64::from_be_bytes([l0, l1, l2, l3, l4, l5, l6, l7]);
        Ok(Self { question, length })
    }
}

// === impl AskedCheckpoint ===

impl AskedCheckpoint {
    pub fn to_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(CHECKPOINT_BYTES);
        bytes.push(u8::from(self.recovered_from.is_some()));
        bytes.extend_from_slice(&self.recovered_from.unwrap_or_default().to_be_bytes());
        bytes.extend_from_slice(&self.seq.to_be_bytes());
        bytes.extend_from_slice(&self.hash);
        bytes
    }

    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (flag, rest) = bytes.split_first_chunk::<1>()?;
        let (from, rest) = rest.split_first_chunk::<8>()?;
        let (seq, hash) = rest.split_first_chunk::<8>()?;
        let from = u64::from_be_bytes(*from);
        let recovered_from = match flag {
            [0] if from == 0 => None,
            [1] => Some(from),
            _ => return None,
        };
        let (seq, hash) = (u64::from_be_bytes(*seq), hash.try_into().ok()?);
        Some(Self { seq, hash, recovered_from })
    }
}

/// An answer as it is sent: a signature, a key, a serial, a yes without a byte, or a no.
pub fn answer_bytes(answer: &Result<Vec<u8>, SigningRefusal>) -> Vec<u8> {
    let (status, text) = match answer {
        Ok(bytes) => (0, bytes.as_slice()),
        Err(refusal) => (refusal.reason.code(), refusal.why.as_bytes()),
    };
    let text = text.get(..MAX_ANSWER).unwrap_or(text);
    let mut bytes = Vec::with_capacity(ANSWER_HEAD + text.len());
    bytes.push(status);
    bytes.extend_from_slice(&u32::try_from(text.len()).unwrap_or_default().to_be_bytes());
    bytes.extend_from_slice(text);
    bytes
}

/// How many bytes follow the head of an answer.
pub fn answer_length(head: &[u8; ANSWER_HEAD]) -> Result<usize, WireError> {
    let [_, length @ ..] = *head;
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length <= MAX_ANSWER { Ok(length) } else { Err(WireError::NotAnAnswer) }
}

/// What an answer says: `head` and the bytes after it.
pub fn read_answer(
    head: &[u8; ANSWER_HEAD],
    said: Vec<u8>,
) -> Result<Result<Vec<u8>, SigningRefusal>, WireError> {
    let [status, ..] = *head;
    if status == 0 {
        return Ok(Ok(said));
    }
    let reason = SigningReason::ALL.into_iter().find(|reason| reason.code() == status);
    let reason = reason.ok_or(WireError::NotAnAnswer)?;
    Ok(Err(SigningRefusal::new(reason, String::from_utf8_lossy(&said))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_read_as_they_are_written() {
        for question in SigningQuestion::ALL {
            let head = QuestionHead { question, length: u64::MAX - 7 };
            assert_eq!(QuestionHead::parse(&head.to_bytes()), Ok(head));
        }
        let good = QuestionHead { question: SigningQuestion::File, length: 9 }.to_bytes();
        for (at, byte, why) in [
            (0, b'k', WireError::NotAQuestion),
            (6, 2, WireError::Version(2)),
            (7, 0, WireError::NotAQuestion),
            (7, 9, WireError::NotAQuestion),
        ] {
            let mut bad = good;
            bad[at] = byte;
            assert_eq!(QuestionHead::parse(&bad), Err(why), "{at}");
        }
        for recovered_from in [None, Some(0), Some(7)] {
            let asked = AskedCheckpoint { seq: 9, hash: [3; 32], recovered_from };
            assert_eq!(AskedCheckpoint::parse(&asked.to_bytes()), Some(asked));
            let bytes = asked.to_bytes();
            assert_eq!(AskedCheckpoint::parse(&bytes[..bytes.len() - 1]), None);
            assert_eq!(AskedCheckpoint::parse(&[bytes, vec![0]].concat()), None);
        }
        let mut odd = AskedCheckpoint { seq: 9, hash: [3; 32], recovered_from: None }.to_bytes();
        odd[0] = 2;
        assert_eq!(AskedCheckpoint::parse(&odd), None);
    }

    #[test]
    fn answers_are_read_as_they_are_written() {
        let no = |reason| Err(SigningRefusal::new(reason, "because"));
        let all = SigningReason::ALL.into_iter().map(no);
        for answer in all.chain([Ok(vec![7; 64])]) {
            let bytes = answer_bytes(&answer);
            let (head, said) = bytes.split_first_chunk().unwrap();
            assert_eq!(answer_length(head), Ok(said.len()));
            assert_eq!(read_answer(head, said.to_vec()), Ok(answer));
        }
        let words: std::collections::BTreeSet<_> =
            SigningReason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(words.len(), SigningReason::ALL.len());
        assert_eq!(answer_length(&[0, 0, 1, 0, 0]), Err(WireError::NotAnAnswer));
        assert_eq!(read_answer(&[99, 0, 0, 0, 0], Vec::new()), Err(WireError::NotAnAnswer));
        let long = answer_bytes(&Err(SigningRefusal::new(SigningReason::File, "x".repeat(9999))));
        assert_eq!(long.len(), ANSWER_HEAD + MAX_ANSWER);
    }
}
