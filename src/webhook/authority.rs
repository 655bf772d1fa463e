//! The webhook's own certificate authority, and the certificates that it signs for replicas. Each
//! authority has a unique name, so that clients never mistake one key for another's.

pub mod bundle;
pub mod keep;
pub mod state;

use std::fmt;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use crate::core::Now;

/// Beginning of the common name of each of our authorities.
pub const AUTHORITY_NAME: &str = "keygate webhook CA ";

/// How long an authority lives. When a third of that is left, another one follows it.
pub const AUTHORITY_LIFE: Duration = Duration::from_secs(365 * 86_400);

/// How long a replica's certificate lives. When half of that is left, another one follows.
pub const LEAF_LIFE: Duration = Duration::from_secs(7 * 86_400);

/// How far the clocks of API servers may be behind.
const BACKDATED: Duration = Duration::from_secs(300);

/// A certificate authority with its key.
pub struct Authority {
    certificate: CertificateDer<'static>,
    validity: CertificateDates,
    issuer: Issuer<'static, KeyPair>,
}

/// When a certificate is valid, in Unix seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CertificateDates {
    pub not_before: u64,
    pub not_after: u64,
}

/// A certificate for a listener with its key.
pub struct Leaf {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
    pub dates: CertificateDates,
}

/// Why there is no authority, or no certificate from it. Says nothing about keys.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("{0}: is no certificate in PEM")]
    BadCertificate(&'static str),
    #[error("{0}: is no private key in PEM (PKCS#8)")]
    BadKey(&'static str),
    #[error("{key}: is not the key of {certificate}")]
    KeyMismatch { certificate: &'static str, key: &'static str },
    #[error("a certificate cannot be made: {0}")]
    Make(String),
    #[error("{0}: is no authority: its basic constraints do not say so")]
    NoAuthority(&'static str),
    #[error("`{0}` is not a name that a certificate can have")]
    Name(String),
}

// === impl Authority ===

impl Authority {
    /// A new one with a new key, valid from five minutes ago.
    pub fn create(now: Now) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate().map_err(AuthorityError::make)?;
        let dates = CertificateDates::from(now, AUTHORITY_LIFE);
        let mut params = CertificateParams::default();
        // A unique name: clients look up an issuer by its name first.
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, key.public_key_raw());
        let id: String = digest.as_ref().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("{AUTHORITY_NAME}{id}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        dates.put_into(&mut params);
        let certificate = params.self_signed(&key).map_err(AuthorityError::make)?.der().clone();
        Ok(Self { certificate, validity: dates, issuer: Issuer::new(params, key) })
    }

    /// A stored one. `places` name certificate and key in errors.
    pub fn read(
        certificate: &[u8],
        key: &[u8],
        places: [&'static str; 2],
    ) -> Result<Self, AuthorityError> {
        let [of_certificate, of_key] = places;
        let bad = || AuthorityError::BadCertificate(of_certificate);
        let certificate = CertificateDer::from_pem_slice(certificate).map_err(|_| bad())?;
        let (_, parsed) = X509Certificate::from_der(&certificate).map_err(|_| bad())?;
        if !parsed.is_ca() {
            return Err(AuthorityError::NoAuthority(of_certificate));
        }
        let key = std::str::from_utf8(key).ok().and_then(|text| KeyPair::from_pem(text).ok());
        let key = key.ok_or(AuthorityError::BadKey(of_key))?;
        if *parsed.public_key().subject_public_key.data != *key.public_key_raw() {
            let (certificate, key) = (of_certificate, of_key);
            return Err(AuthorityError::KeyMismatch { certificate, key });
        }
        let validity = CertificateDates::of(&parsed);
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(|_| bad())?;
        Ok(Self { certificate: certificate.clone(), validity, issuer })
    }

    /// A certificate with a new key for a listener that is reached by `names`. It ends with the
    /// authority at the latest.
    pub fn sign(&self, names: &[String], now: Now) -> Result<Leaf, AuthorityError> {
        let key = KeyPair::generate().map_err(AuthorityError::make)?;
        let mut dates = CertificateDates::from(now, LEAF_LIFE);
        dates.not_after = dates.not_after.min(self.validity.not_after);
        dates.not_before = dates.not_before.max(self.validity.not_before);
        let mut params = CertificateParams::new(names.to_vec())
            .map_err(|_| AuthorityError::Name(names.join(", ")))?;
        params.distinguished_name = DistinguishedName::new();
        if let Some(name) = names.first() {
            // X.520 allows 64 characters; clients check only the alternative names.
            let name: String = name.chars().take(64).collect();
            params.distinguished_name.push(DnType::CommonName, name);
        }
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        dates.put_into(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).map_err(AuthorityError::make)?;
        Ok(Leaf {
            chain: vec![certificate.der().clone()],
            key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
            dates,
        })
    }

    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    pub fn dates(&self) -> CertificateDates {
        self.validity
    }

    /// The key, for storing.
    pub fn key_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.issuer.key().serialize_pem())
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("validity", &self.validity).finish_non_exhaustive()
    }
}

// === impl CertificateDates ===

impl CertificateDates {
    fn from(now: Now, life: Duration) -> Self {
        let now = now.unix_secs();
        Self {
            not_before: now.saturating_sub(BACKDATED.as_secs()),
            not_after: now.saturating_add(life.as_secs()),
        }
    }

    pub(super) fn of(certificate: &X509Certificate<'_>) -> Self {
        let validity = certificate.validity();
        let unix = |seconds: i64| u64::try_from(seconds).unwrap_or(0);
        Self {
            not_before: unix(validity.not_before.timestamp()),
            not_after: unix(validity.not_after.timestamp()),
        }
    }

    /// Seconds until it ends; 0 once it has.
    pub fn left(self, now: Now) -> u64 {
        self.not_after.saturating_sub(now.unix_secs())
    }

    fn put_into(self, params: &mut CertificateParams) {
        let epoch = date_time_ymd(1970, 1, 1);
        params.not_before = epoch + Duration::from_secs(self.not_before);
        params.not_after = epoch + Duration::from_secs(self.not_after);
    }
}

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaf").field("dates", &self.dates).finish_non_exhaustive()
    }
}

// === impl AuthorityError ===

impl AuthorityError {
    fn make(error: rcgen::Error) -> Self {
        Self::Make(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACES: [&str; 2] = ["ca.crt", "ca.key"];

    fn at(unix_secs: u64) -> Now {
        Now { unix_ms: unix_secs * 1000, mono_ns: 0 }
    }

    #[test]
    fn what_is_written_down_is_read_and_signs() {
        let now = at(1_800_000_000);
        let made = Authority::create(now).unwrap();
        let pem = bundle::to_pem(made.certificate());
        let key = made.key_pem();
        let read = Authority::read(pem.as_bytes(), key.as_bytes(), PLACES).unwrap();
        assert_eq!(read.dates(), made.dates());
        assert_eq!(read.certificate(), made.certificate());
        assert_eq!(read.dates().not_before + BACKDATED.as_secs(), 1_800_000_000);
        let leaf = read.sign(&["hook.keygate.svc".to_owned()], now).unwrap();
        assert_eq!(leaf.dates.left(now), LEAF_LIFE.as_secs());
        let shown = format!("{made:?} {leaf:?}");
        assert!(!shown.contains("PRIVATE") && !shown.contains("key"), "{shown}");
    }

    #[test]
    fn a_certificate_ends_with_its_authority() {
        let made = Authority::create(at(1_800_000_000)).unwrap();
        let late = at(1_800_000_000 + AUTHORITY_LIFE.as_secs() - 60);
        let leaf = made.sign(&["a.b.svc".to_owned()], late).unwrap();
        assert_eq!(leaf.dates.left(late), 60);
    }

    #[test]
    fn two_authorities_have_two_names() {
        let now = at(1_800_000_000);
        let name = |authority: &Authority| {
            let (_, parsed) = X509Certificate::from_der(authority.certificate()).unwrap();
            parsed.subject().to_string()
        };
        let (one, other) = (Authority::create(now).unwrap(), Authority::create(now).unwrap());
        assert_ne!(name(&one), name(&other));
        assert!(name(&one).starts_with(&format!("CN={AUTHORITY_NAME}")), "{}", name(&one));
    }

    #[test]
    fn what_is_no_authority_is_named() {
        let now = at(1_800_000_000);
        let (one, other) = (Authority::create(now).unwrap(), Authority::create(now).unwrap());
        let pem = bundle::to_pem(one.certificate());
        let leaf = one.sign(&["a.b.svc".to_owned()], now).unwrap();
        let of_leaf = bundle::to_pem(&leaf.chain[0]);
        let key = one.key_pem();
        for (certificate, key, want) in [
            ("hunter2", key.as_str(), "ca.crt: is no certificate in PEM"),
            (&pem, "hunter2", "ca.key: is no private key in PEM (PKCS#8)"),
            (&pem, &other.key_pem(), "ca.key: is not the key of ca.crt"),
            (&of_leaf, &key, "ca.crt: is no authority: its basic constraints do not say so"),
        ] {
            let read = Authority::read(certificate.as_bytes(), key.as_bytes(), PLACES);
            assert_eq!(read.unwrap_err().to_string(), want);
        }
    }
}
