//! The parts of a head that may be a key, where it is uncertain which one counts. They never open
//! anything: they only ensure that a caller whose requests are enforced stays enforced.

use base64::Engine as _;

use super::LENIENT;
use crate::config::Settings;
use crate::core::CredentialSource;
use crate::core::headers::FieldClass;
use crate::core::secret::Digest;
use crate::proxy::http1::head::RequestHead;

/// See [`candidates`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Candidates {
    These(Vec<Digest>),
    NotRead,
}

/// The most candidates that are looked up for one request.
const MOST: usize = 256;

struct Collected {
    digests: Vec<Digest>,
    is_full: bool,
}

/// Digests of everything in the carriers that may be a key, however it is spelt: whole values, the
/// parts between their separators, and the decoded form of both.
pub(crate) fn candidates(head: &RequestHead, settings: &Settings) -> Candidates {
    let mut found = Collected { digests: Vec::new(), is_full: false };
    for (_, name, value) in head.fields.places() {
        if let FieldClass::Authorization
        | FieldClass::Cookie
        | FieldClass::Credential
        | FieldClass::Subprotocol = settings.fields.classify(name)
        {
            found.value(value, &settings.sources);
        }
    }
    let query = head.target.query().unwrap_or_default().as_bytes();
    for parameter in query.split(|b| *b == b'&').filter(|p| !p.is_empty()) {
        found.value(parameter, &settings.sources);
    }
    match found.is_full {
        true => Candidates::NotRead,
        false => Candidates::These(found.digests),
    }
}

// === impl Collected ===

impl Collected {
    fn value(&mut self, value: &[u8], sources: &[CredentialSource]) {
        if self.is_full {
            return;
        }
        self.piece(value, sources);
        for piece in value.split(|b| matches!(b, b' ' | b'\t' | b',' | b';')) {
            if piece.len() < value.len() && !self.is_full {
                self.piece(piece, sources);
            }
        }
    }

    fn piece(&mut self, piece: &[u8], sources: &[CredentialSource]) {
        self.text(piece);
        let named = piece.iter().position(|b| *b == b'=');
        let behind = named.and_then(|at| piece.get(at + 1..)).filter(|value| !value.is_empty());
        if let Some(value) = behind {
            self.text(value);
        }
        for source in sources {
            if let CredentialSource::Subprotocol { marker } = source
                && let Some((start, key)) = piece.split_at_checked(marker.len())
                && start.eq_ignore_ascii_case(marker.as_bytes())
            {
                self.text(key);
            }
        }
        if let Ok(decoded) = LENIENT.decode(piece) {
            let decoded = zeroize::Zeroizing::new(decoded);
            if let Some(colon) = decoded.iter().position(|b| *b == b':') {
                let (user, password) = decoded.split_at(colon);
                self.key(user);
                self.key(password.get(1..).unwrap_or_default());
            }
            self.key(&decoded);
        }
    }

    /// The text as it is, and percent-decoded.
    fn text(&mut self, text: &[u8]) {
        self.key(text);
        if text.contains(&b'%') {
            let decoded: Vec<u8> = percent_encoding::percent_decode(text).collect();
            self.key(&zeroize::Zeroizing::new(decoded));
        }
    }

    fn key(&mut self, key: &[u8]) {
        let key = key.trim_ascii();
        let key = key.strip_prefix(b"\"").unwrap_or(key);
        let key = key.strip_suffix(b"\"").unwrap_or(key);
        match self.digests.len() {
            _ if key.is_empty() => {}
            MOST.. => self.is_full = true,
            _ => self.digests.push(Digest::of(key)),
        }
    }
}
