//! What a file contains that has no PEM of the requested kind. Imports the errors of its room.
//!
//! No message contains bytes of the file: some of these files are keys.

use std::path::Path;

use super::error::TlsError;

/// The purpose for which the configuration named the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PemKind {
    Certificate,
    Key,
}

/// Refuses what readers of PEM would misread: after a byte order mark they silently skip the first
/// block, so that a chain would begin with its issuer.
pub(super) fn check_encoding(path: &Path, bytes: &[u8], wanted: PemKind) -> Result<(), TlsError> {
    const MARKS: [&[u8]; 3] = [b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff"];
    if MARKS.iter().any(|mark| bytes.starts_with(mark)) {
        return Err(TlsError::ByteOrderMark(path.to_owned()));
    }
    // DER of a certificate or key is one SEQUENCE, longer than 127 bytes except for Ed25519 keys.
    if bytes.starts_with(b"\x30") && !contains(bytes, b"-----BEGIN") {
        let tool = match wanted {
            PemKind::Certificate => "x509",
            PemKind::Key => "pkey",
        };
        return Err(TlsError::Der { path: path.to_owned(), tool });
    }
    Ok(())
}

/// PKCS#8 shows it in the label, the older forms in a field (RFC 1421 section 4.6.1.1).
pub(super) fn is_encrypted(bytes: &[u8]) -> bool {
    contains(bytes, b"-----BEGIN ENCRYPTED PRIVATE KEY-----") || contains(bytes, b"4,ENCRYPTED")
}

/// Why nothing of the kind was found.
pub(super) fn explain(path: &Path, bytes: &[u8], wanted: PemKind) -> TlsError {
    let kinds: [(&[u8], &'static str, &'static str); 6] = [
        (
            b"CERTIFICATE REQUEST-----",
            "a certificate request",
            "name the certificate that the authority made of it",
        ),
        (b"PKCS7-----", "PKCS#7", "`openssl pkcs7 -print_certs -in FILE -out FILE.pem` unpacks it"),
        (b"PUBLIC KEY-----", "a public key", "name the private key"),
        (
            b"OPENSSH PRIVATE KEY-----",
            "a key of OpenSSH's own form",
            "`ssh-keygen -p -m PKCS8 -f FILE` converts it in place",
        ),
        (b"PRIVATE KEY-----", "a private key", "are `certificate` and `key` exchanged?"),
        (b"CERTIFICATE-----", "a certificate", "are `certificate` and `key` exchanged?"),
    ];
    let found = kinds.into_iter().find(|(label, ..)| contains(bytes, label));
    let path = path.to_owned();
    match (found, wanted) {
        (Some((_, found, hint)), _) => {
            let wanted = match wanted {
                PemKind::Certificate => "certificate",
                PemKind::Key => "private key",
            };
            TlsError::Other { path, found, wanted, hint }
        }
        (None, PemKind::Certificate) => TlsError::NoCertificate(path),
        (None, PemKind::Key) => TlsError::NoKey(path),
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}
