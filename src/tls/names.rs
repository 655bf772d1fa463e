//! Which certificate a client gets: by the name that it asks for (SNI), and by what it can verify.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Certificates by the DNS names in their subjectAltName. If several match, the first configured
/// one that the client can use is taken: there can be an RSA and an ECDSA certificate for the same
/// name.
#[derive(Debug)]
pub(super) struct ByName {
    all: Vec<Arc<CertifiedKey>>,
    exact: HashMap<Box<str>, Vec<Arc<CertifiedKey>>>,
    /// By the part after `*.`. A wildcard matches exactly one label.
    wildcard: HashMap<Box<str>, Vec<Arc<CertifiedKey>>>,
}

// === impl ByName ===

impl ByName {
    /// The first certificate is for clients that ask for no name, or for a name that no certificate
    /// has.
    pub(super) fn new(certificates: impl IntoIterator<Item = CertifiedKey>) -> Self {
        let mut by_name = Self { all: Vec::new(), exact: HashMap::new(), wildcard: HashMap::new() };
        for certificate in certificates {
            let certificate = Arc::new(certificate);
            for name in dns_names(&certificate) {
                let (map, name) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut by_name.wildcard, parent),
                    None => (&mut by_name.exact, name.as_str()),
                };
                map.entry(name.into()).or_default().push(certificate.clone());
            }
            by_name.all.push(certificate);
        }
        by_name
    }

    fn choose(
        &self,
        server_name: Option<&str>,
        schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        let named = server_name.map_or([None, None], |name| {
            let name = name.to_ascii_lowercase();
            let parent = name.split_once('.').map(|(_, parent)| parent);
            [self.exact.get(&*name), parent.and_then(|parent| self.wildcard.get(parent))]
        });
        let groups = || named.into_iter().flatten().chain([&self.all]);
        let usable = |c: &&Arc<CertifiedKey>| c.key.choose_scheme(schemes).is_some();
        // If a client can verify none of them, the handshake reports that.
        groups()
            .find_map(|group| group.iter().find(usable))
            .or_else(|| groups().find_map(|group| group.first()))
            .cloned()
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(hello.server_name(), hello.signature_schemes())
    }
}

/// In lower case. Subject common names are ignored, as all clients do by now.
fn dns_names(certificate: &CertifiedKey) -> Vec<String> {
    let Some(Ok((_, parsed))) = certificate.cert.first().map(|c| X509Certificate::from_der(c))
    else {
        return Vec::new();
    };
    let Ok(Some(names)) = parsed.subject_alternative_name() else {
        return Vec::new();
    };
    let dns = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(name.trim_end_matches('.').to_ascii_lowercase()),
        _ => None,
    };
    names.value.general_names.iter().filter_map(dns).collect()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};
    use rustls::pki_types::PrivateKeyDer;

    use super::super::provider::provider;
    use super::*;

    fn certificate(names: &[&str], algorithm: &'static rcgen::SignatureAlgorithm) -> CertifiedKey {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let names: Vec<_> = names.iter().map(|n| (*n).to_owned()).collect();
        let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        CertifiedKey::from_der(vec![certificate.der().clone()], key, &provider()).unwrap()
    }

    #[test]
    fn the_name_decides_and_then_the_algorithm() {
        let ecdsa = &PKCS_ECDSA_P256_SHA256;
        let names = ByName::new([
            certificate(&["default.example", "API.example"], ecdsa),
            certificate(&["*.b.example"], ecdsa),
            certificate(&["x.b.example"], ecdsa),
            certificate(&["default.example"], &PKCS_ED25519),
            certificate(&["api.example"], ecdsa),
            certificate(&[], ecdsa),
        ]);
        let both = &[SignatureScheme::ED25519, SignatureScheme::ECDSA_NISTP256_SHA256][..];
        let cases = [
            ("no name", None, both, 0),
            ("unknown name", Some("other.example"), both, 0),
            ("exact", Some("api.example"), both, 0),
            ("case", Some("API.Example"), both, 0),
            ("exact before wildcard", Some("x.b.example"), both, 2),
            ("wildcard", Some("y.b.example"), both, 1),
            ("wildcard is one label", Some("z.y.b.example"), both, 0),
            ("wildcard is not its parent", Some("b.example"), both, 0),
            ("other algorithm", Some("default.example"), &both[..1], 3),
            ("other algorithm, no name", None, &both[..1], 3),
            ("none fits", Some("x.b.example"), &[SignatureScheme::RSA_PSS_SHA256], 2),
        ];
        for (case, name, schemes, want) in cases {
            let got = names.choose(name, schemes).unwrap();
            assert!(Arc::ptr_eq(&got, &names.all[want]), "{case}");
        }
    }
}
