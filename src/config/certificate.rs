//! A certificate chain and its key, for a listener or for connections to a service.

use super::CertificateFiles;
use super::section::ConfigSection;

pub(super) fn certificate(
    section: &ConfigSection<'_>,
    chain_key: &'static str,
    key_key: &'static str,
) -> Option<CertificateFiles> {
    let chain = section.file(chain_key);
    let key = section.file(key_key);
    match (section.has(chain_key), section.has(key_key)) {
        (true, false) => section.missing(key_key, "the private key of the certificate"),
        (false, true) => section.missing(chain_key, "the certificate chain of the key"),
        _ => {}
    }
    Some(CertificateFiles { chain: chain?, key: key? })
}
