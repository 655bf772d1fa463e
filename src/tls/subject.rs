//! The name of a verified client, as a header value.

use http::HeaderValue;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use rustls::ServerConnection;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::dates::Validity;
use crate::core::Now;
use crate::core::certificate::subject_of;

/// Everything that is not printable ASCII, and `%` itself, so that the encoding can be reversed.
const ESCAPED: &AsciiSet = &CONTROLS.add(b'%');

/// Longest subject that is forwarded: a truncated one could be somebody else's.
const MAX_SUBJECT: usize = 4096;

/// Why a client's certificate cannot identify it although the handshake succeeded. The connection
/// has to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientCertificateError {
    #[error("the client's certificate has expired since its session began")]
    Expired,
    #[error("the subject of the client's certificate cannot be read")]
    Unreadable,
}

/// The subject of the certificate that the handshake verified. `None` if the client has no
/// certificate, or one without any name.
///
/// As in RFC 2253 (`CN=alice,OU=billing,O=Example`), percent-encoded outside printable ASCII. A
/// certificate without a subject, such as those of SPIFFE, is named by its first alternative name
/// (`URI:spiffe://…`), which cannot be confused with a subject.
///
/// A resumed session includes its certificate without verifying it again, so its dates are checked
/// here.
pub fn client_subject(
    connection: &ServerConnection,
    now: Now,
) -> Result<Option<HeaderValue>, ClientCertificateError> {
    let Some(certificate) = connection.peer_certificates().and_then(|chain| chain.first()) else {
        return Ok(None);
    };
    let validity = Validity::of(certificate).ok_or(ClientCertificateError::Unreadable)?;
    if !validity.includes(now) {
        return Err(ClientCertificateError::Expired);
    }
    let (_, parsed) =
        X509Certificate::from_der(certificate).map_err(|_| ClientCertificateError::Unreadable)?;
    let Some(name) = subject_of(&parsed) else { return Ok(None) };
    let mut encoded = utf8_percent_encode(&name, ESCAPED).to_string();
    // A space at the end of a field value gets lost on the way.
    if encoded.ends_with(' ') {
        encoded.truncate(encoded.len() - 1);
        encoded.push_str("%20");
    }
    if encoded.len() > MAX_SUBJECT {
        return Err(ClientCertificateError::Unreadable);
    }
    HeaderValue::from_str(&encoded).map(Some).map_err(|_| ClientCertificateError::Unreadable)
}
