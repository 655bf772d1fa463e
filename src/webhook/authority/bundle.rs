//! The content of `caBundle`: the authorities that replicas need, and those of ours that are still
//! valid, since another replica may show a certificate from one of them. No I/O.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{AUTHORITY_NAME, CertificateDates};
use crate::core::Now;

/// More of ours than this cannot be intended: the newest stay.
const MOST: usize = 8;

/// Bytes of base64 in one line of PEM (RFC 7468 section 2).
const PEM_LINE: usize = 64;

/// The certificates of a bundle as it is stored. If it is not PEM, it counts as empty.
pub fn certificates(pem: &[u8]) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).collect()
}

/// The bundle to store in place of `stored`; `None`: it is right as it is. Those in `needed` come
/// first. Foreign authorities are removed, because anybody with their keys could answer for the
/// webhook.
pub fn replacement(
    stored: &[CertificateDer<'static>],
    needed: &[CertificateDer<'static>],
    now: Now,
) -> Option<Vec<CertificateDer<'static>>> {
    let mut wanted: Vec<_> = Vec::with_capacity(stored.len() + needed.len());
    for certificate in needed {
        if !wanted.contains(certificate) {
            wanted.push(certificate.clone());
        }
    }
    let mut kept: Vec<(u64, &CertificateDer<'static>)> = Vec::new();
    for certificate in stored {
        let Some(dates) = dates_of_ours(certificate) else { continue };
        if dates.left(now) > 0 && !wanted.contains(certificate) {
            kept.push((dates.not_before, certificate));
        }
    }
    kept.sort_by_key(|(not_before, _)| std::cmp::Reverse(*not_before));
    let room = MOST.saturating_sub(wanted.len());
    wanted.extend(kept.into_iter().take(room).map(|(_, certificate)| certificate.clone()));
    let set = |all: &[CertificateDer<'static>]| all.iter().map(|c| c.to_vec()).collect();
    let (have, want): (BTreeSet<Vec<u8>>, BTreeSet<Vec<u8>>) = (set(stored), set(&wanted));
    (have != want).then_some(wanted)
}

/// As the API stores it: base64 of the certificates in PEM.
pub fn encoded(certificates: &[CertificateDer<'_>]) -> String {
    BASE64_STANDARD.encode(certificates.iter().map(|c| to_pem(c)).collect::<String>())
}

/// One certificate in PEM.
pub fn to_pem(certificate: &CertificateDer<'_>) -> String {
    let text = BASE64_STANDARD.encode(certificate);
    let mut pem = String::with_capacity(text.len() + text.len() / PEM_LINE + 64);
    pem.push_str("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        // Base64 is ASCII: every position is a character boundary.
        let (line, behind) = rest.split_at(rest.len().min(PEM_LINE));
        pem.push_str(line);
        pem.push('\n');
        rest = behind;
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

/// `None`: it is somebody else's, or not a certificate.
fn dates_of_ours(certificate: &CertificateDer<'_>) -> Option<CertificateDates> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let mut names = parsed.subject().iter_common_name();
    let is_ours = names.any(|name| name.as_str().is_ok_and(|n| n.starts_with(AUTHORITY_NAME)));
    is_ours.then(|| CertificateDates::of(&parsed))
}

#[cfg(test)]
mod tests {
    use super::super::{AUTHORITY_LIFE, Authority};
    use super::*;

    const BEGIN: u64 = 1_800_000_000;

    fn at(unix_secs: u64) -> Now {
        Now { unix_ms: unix_secs * 1000, mono_ns: 0 }
    }

    fn ours(unix_secs: u64) -> CertificateDer<'static> {
        Authority::create(at(unix_secs)).unwrap().certificate().clone()
    }

    #[test]
    fn pem_is_read_as_it_was_written() {
        let (one, other) = (ours(BEGIN), ours(BEGIN));
        let text = BASE64_STANDARD.decode(encoded(&[one.clone(), other.clone()])).unwrap();
        assert_eq!(certificates(&text), [one, other]);
        assert!(text.split(|b| *b == b'\n').all(|line| line.len() <= PEM_LINE));
        assert!(certificates(b"\n").is_empty() && certificates(b"hunter2").is_empty());
    }

    /// A reset, a new authority, an expired one, and somebody else's.
    #[test]
    fn the_bundle_holds_what_replicas_need() {
        let (old, new, needed) = (ours(BEGIN), ours(BEGIN + 60), ours(BEGIN + 120));
        let key = rcgen::KeyPair::generate().unwrap();
        let foreign = rcgen::CertificateParams::default().self_signed(&key).unwrap().der().clone();
        let now = at(BEGIN + 200);
        let need = std::slice::from_ref(&needed);
        for (stored, want) in [
            (vec![], Some(vec![needed.clone()])),
            (vec![needed.clone()], None),
            (vec![old.clone(), needed.clone()], None),
            (vec![old.clone(), new.clone()], Some(vec![needed.clone(), new.clone(), old.clone()])),
            (vec![needed.clone(), foreign.clone()], Some(vec![needed.clone()])),
            (vec![foreign], Some(vec![needed.clone()])),
        ] {
            assert_eq!(replacement(&stored, need, now), want);
        }
        let later = at(BEGIN + AUTHORITY_LIFE.as_secs() + 30);
        assert_eq!(
            replacement(&[old, new.clone(), needed.clone()], need, later),
            Some(vec![needed, new]),
            "what has run out goes"
        );
    }

    #[test]
    fn it_does_not_grow_for_ever() {
        let stored: Vec<_> = (0..12).map(|n| ours(BEGIN + n)).collect();
        let needed = ours(BEGIN + 60);
        let wanted = replacement(&stored, std::slice::from_ref(&needed), at(BEGIN + 90)).unwrap();
        assert_eq!(wanted.len(), MOST);
        assert_eq!(wanted[0], needed);
        assert_eq!(wanted[1], stored[11], "the newest stay");
        assert_eq!(replacement(&wanted, &[needed], at(BEGIN + 90)), None);
    }
}
