//! The message that is signed for an end of an audit log. Pure. Imports nothing of the crate.

/// Every signed message begins with it. No table, patch or token does.
pub const DOMAIN: &[u8] = b"kg-audit";

/// Every message signed after a recovery begins with it.
const RECOVERED_DOMAIN: &[u8] = b"kg-audit-recovered";

/// The bytes that are signed: a word, numbers of 8 bytes (big-endian), and the hash of the line.
/// `recovered_from`: the last line that a restored backup had.
pub fn checkpoint_message(seq: u64, hash: &[u8; 32], recovered_from: Option<u64>) -> Vec<u8> {
    let mut message = Vec::with_capacity(RECOVERED_DOMAIN.len() + 48);
    match recovered_from {
        None => message.extend_from_slice(DOMAIN),
        Some(seq) => {
            message.extend_from_slice(RECOVERED_DOMAIN);
            message.extend_from_slice(&seq.to_be_bytes());
        }
    }
    message.extend_from_slice(&seq.to_be_bytes());
    message.extend_from_slice(hash);
    message
}
