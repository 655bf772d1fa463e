//! Properties of certificate and key files that are allowed, but seldom intended. The files are
//! accepted, and `check` and the log say how clients will react. From its room, this module imports
//! only dates.

use std::borrow::Cow;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::dates::{Validity, rfc3339};
use crate::core::Now;
use crate::wording::shell::quoted_path;

/// One such property.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConcern {
    pub path: PathBuf,
    pub message: String,
    pub hint: Cow<'static, str>,
}

/// Concerns about the certificates after the first one: their dates and their order. RFC 5246
/// section 7.4.2 requires each to have issued the one before. RFC 8446 section 4.4.2 only
/// recommends it, and some clients do not sort.
pub(super) fn of_chain(
    path: &Path,
    chain: &[CertificateDer<'_>],
    now: Now,
    concerns: &mut Vec<TlsConcern>,
) {
    let mut add = |message, hint: &'static str| {
        concerns.push(TlsConcern { path: path.to_owned(), message, hint: hint.into() });
    };
    // A certificate that cannot be read keeps its place, because people count all of them.
    let parsed: Vec<Option<X509Certificate<'_>>> =
        chain.iter().map(|one| Some(X509Certificate::from_der(one).ok()?.1)).collect();
    let count = chain.len();
    for (at, pair) in parsed.windows(2).enumerate() {
        let [Some(one), Some(next)] = pair else { continue };
        let issuer = one.issuer().as_raw();
        if next.subject().as_raw() == issuer {
            continue;
        }
        let issued_by = |other: &Option<X509Certificate<'_>>| {
            other.as_ref().is_some_and(|other| other.subject().as_raw() == issuer)
        };
        let found = parsed.iter().position(issued_by).filter(|found| *found != at);
        let (this, next) = (at + 1, at + 2);
        let instead = match found {
            Some(found) => format!("number {} did", found + 1),
            None => "none of them did".to_owned(),
        };
        add(
            format!(
                "is out of order: certificate number {next} of {count} did not issue number {this}, \
                 {instead}"
            ),
            "put the certificate of the key first, then the one that issued it, and so on; some \
             clients do not sort them and refuse the connection",
        );
        break;
    }
    for (at, issuer) in chain.iter().enumerate().skip(1) {
        if let Some(when) = Validity::of(issuer).and_then(|dates| dates_fault(dates, now)) {
            add(
                format!("certificate number {} of {count}, an issuer of the first, {when}", at + 1),
                "ask the authority for the newer issuer and put that into the chain",
            );
        }
    }
}

/// Concerns about authorities that were left out because of their dates.
pub(super) fn of_authority(
    path: &Path,
    at: usize,
    count: usize,
    dates: Validity,
    now: Now,
) -> TlsConcern {
    let when = dates_fault(dates, now).unwrap_or_default();
    TlsConcern {
        path: path.to_owned(),
        message: format!("authority number {} of {count} {when} and is left out", at + 1),
        hint: "remove it, or put its successor beside it; what it has issued is refused".into(),
    }
}

/// Concerns about a key that more people can read than the process and its group. In a volume of
/// Kubernetes there are no others, and its files have the mode 0644 unless configured otherwise.
pub(super) fn of_key(path: &Path, concerns: &mut Vec<TlsConcern>) {
    const OTHERS_READ: u32 = 0o004;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let is_volume = std::fs::symlink_metadata(directory.unwrap_or(Path::new(".")).join("..data"))
        .is_ok_and(|meta| meta.is_symlink());
    let mode = std::fs::metadata(path).map_or(0, |meta| meta.permissions().mode());
    if mode & OTHERS_READ != 0 && !is_volume {
        concerns.push(TlsConcern {
            path: path.to_owned(),
            message: format!(
                "can be read by everybody on this machine: mode {:04o}",
                mode & 0o7777
            ),
            hint: format!(
                "`chmod o-rwx {}`, and make keygate's user its owner or a member of its group",
                quoted_path(path)
            )
            .into(),
        });
    }
}

fn dates_fault(dates: Validity, now: Now) -> Option<String> {
    match dates.includes(now) {
        true => None,
        false if dates.remaining(now) < 0 => {
            Some(format!("expired at {}", rfc3339(dates.not_after)))
        }
        false => Some(format!("is not valid before {}", rfc3339(dates.not_before))),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, Issuer, KeyPair, date_time_ymd};

    use super::*;

    fn params(name: &str, until_year: i32) -> CertificateParams {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_after = date_time_ymd(until_year, 1, 1);
        params
    }

    #[test]
    fn numbers_count_certificates_that_cannot_be_read() {
        let root_key = KeyPair::generate().unwrap();
        let root = params("root", 2090).self_signed(&root_key).unwrap();
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::new(params("root", 2090), root_key);
        let leaf = params("leaf", 2090).signed_by(&key, &issuer).unwrap();
        let other = params("other", 2090).self_signed(&key).unwrap();
        let old = params("root", 2000).self_signed(&key).unwrap();
        let garbage = CertificateDer::from(&b"no certificate"[..]);
        let now = Now { unix_ms: 1_795_000_000_000, mono_ns: 0 };
        let told = |chain: &[CertificateDer<'_>]| {
            let mut concerns = Vec::new();
            of_chain(Path::new("chain.pem"), chain, now, &mut concerns);
            concerns.into_iter().map(|concern| concern.message).collect::<Vec<_>>()
        };
        let [leaf, root, other, old] = [&leaf, &root, &other, &old].map(|c| c.der().clone());
        let chain = [leaf.clone(), other.clone(), garbage.clone(), root.clone()];
        assert_eq!(
            told(&chain),
            ["is out of order: certificate number 2 of 4 did not issue number 1, number 4 did"]
        );
        let expired = told(&[leaf.clone(), garbage.clone(), old]);
        assert_eq!(expired.len(), 1, "{expired:?}");
        assert!(expired[0].starts_with("certificate number 3 of 3, "), "{expired:?}");
        // A certificate next to one that cannot be read cannot be compared.
        assert!(told(&[leaf, garbage, root]).is_empty());
        assert!(told(&[other]).is_empty());
    }
}
