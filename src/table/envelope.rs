//! The frame of a file: magic, manifest, signatures, padding. Reads no further than its bounds.
//! Imports core only.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::format::TableFormat;
use super::layout::ALIGN;
use super::refusal::Refusal;

/// Most bytes of a manifest. It is the only part that is parsed as text.
pub(crate) const MAX_MANIFEST: usize = 4096;
/// The beginning of a file, before the version byte.
pub(crate) const MAGIC: [u8; 7] = *b"keygate";
/// Most signatures of a file.
pub(crate) const MAX_SIGNATURES: usize = 16;

/// One signature: the raw public key and the Ed25519 signature over the message.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct SignatureEntry {
    pub(crate) key: [u8; 32],
    pub(crate) signature: [u8; 64],
}

/// The parts of a file, split but not yet verified.
pub(crate) struct Envelope<'b> {
    pub format: TableFormat,
    /// The signed bytes: the beginning of the file through the manifest.
    pub message: &'b [u8],
    pub manifest: &'b [u8],
    pub signatures: &'b [SignatureEntry],
    /// Where the body begins.
    pub body_at: usize,
}

// === impl Envelope ===

impl<'b> Envelope<'b> {
    pub(crate) fn parse(file: &'b [u8]) -> Result<Self, Refusal> {
        let cut = || Refusal::Truncated { found: file.len() as u64, missing: None };
        let (magic, rest) = file.split_at_checked(MAGIC.len()).ok_or_else(cut)?;
        if magic != MAGIC {
            return Err(Refusal::Magic);
        }
        let (version, rest) = rest.split_first().ok_or_else(cut)?;
        let format = TableFormat::of_number(*version).ok_or(Refusal::Format {
            found: *version,
            oldest: TableFormat::OLDEST.number(),
            newest: TableFormat::NEWEST.number(),
        })?;
        let (length, rest) = take_u32(rest).ok_or_else(cut)?;
        if length > MAX_MANIFEST {
            let why = format!("{length} bytes, at most {MAX_MANIFEST} are allowed");
            return Err(Refusal::Manifest { why: why.into() });
        }
        let (manifest, rest) = rest.split_at_checked(length).ok_or_else(cut)?;
        let message = file.get(..file.len() - rest.len()).unwrap_or_default();
        let (count, rest) = take_u32(rest).ok_or_else(cut)?;
        if count > MAX_SIGNATURES {
            return Err(Refusal::OutOfRange {
                what: "count of signatures",
                of: "file",
                index: count as u64,
            });
        }
        let (signatures, rest) =
            rest.split_at_checked(count * size_of::<SignatureEntry>()).ok_or_else(cut)?;
        let signatures = <[SignatureEntry]>::ref_from_bytes(signatures).unwrap_or_default();
        for (index, pair) in signatures.windows(2).enumerate() {
            if let [before, after] = pair
                && before.key >= after.key
            {
                let (what, index) = ("signature", index as u64 + 1);
                return Err(match before.key == after.key {
                    true => Refusal::Duplicate { what, index },
                    false => Refusal::Unsorted { what, index },
                });
            }
        }
        let end = file.len() - rest.len();
        let body_at = end.next_multiple_of(ALIGN);
        let (padding, _) = rest.split_at_checked(body_at - end).ok_or_else(cut)?;
        if padding.iter().any(|b| *b != 0) {
            return Err(Refusal::Padding { what: "between the signatures and the body" });
        }
        Ok(Self { format, message, manifest, signatures, body_at })
    }

    /// The signed bytes of a file with this manifest.
    pub(crate) fn message_of(format: TableFormat, manifest: &[u8]) -> Vec<u8> {
        let mut message = Vec::with_capacity(12 + manifest.len());
        message.extend_from_slice(&MAGIC);
        message.push(format.number());
        message.extend_from_slice(&(manifest.len() as u32).to_le_bytes());
        message.extend_from_slice(manifest);
        message
    }

    /// Everything before the body.
    pub(crate) fn head_of(message: &[u8], signatures: &[SignatureEntry]) -> Vec<u8> {
        let mut head = message.to_vec();
        head.extend_from_slice(&(signatures.len() as u32).to_le_bytes());
        head.extend_from_slice(signatures.as_bytes());
        head.resize(head.len().next_multiple_of(ALIGN), 0);
        head
    }
}

fn take_u32(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (head, rest) = bytes.split_first_chunk()?;
    Some((u32::from_le_bytes(*head) as usize, rest))
}
