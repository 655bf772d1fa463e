//! The credential for a management service: a key or token in one line, or a pair in two.

use http::HeaderValue;
use zeroize::Zeroizing;

const SCHEME: &str = "Bearer ";

const THREE_LINES: &str = "has more than two lines\nhint: a key or token is one line, a pair two: its \
                           public id, then its secret";

/// A key, a pair or a token, as requests carry it.
pub(super) struct ServiceCredential {
    pub(super) authorization: HeaderValue,
    /// Of a pair.
    pub(super) public_id: Option<HeaderValue>,
}

// === impl ServiceCredential ===

impl ServiceCredential {
    /// One line; of a pair two, its public id and its secret. `None`: the text is empty.
    pub(super) fn read(text: &str) -> Result<Option<Self>, &'static str> {
        let mut lines = text.trim().lines().map(str::trim);
        let (public_id, secret) = match (lines.next(), lines.next(), lines.next()) {
            (None, ..) => return Ok(None),
            (Some(secret), None, _) => (None, secret),
            (Some(id), Some(secret), None) => (Some(id), secret),
            _ => return Err(THREE_LINES),
        };
        let value = |text: &str| {
            let mut value = HeaderValue::try_from(text)
                .map_err(|_| "holds bytes that no header can have\nhint: copy it once more")?;
            value.set_sensitive(true);
            Ok::<_, &'static str>(value)
        };
        let authorization = value(&Zeroizing::new([SCHEME, secret].concat()))?;
        Ok(Some(Self { authorization, public_id: public_id.map(value).transpose()? }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_one_line_or_a_pair_of_two() {
        for (text, want) in [
            ("", None),
            (" \n\n", None),
            (" wa_x\n", Some(("Bearer wa_x", None))),
            ("id-1\r\nwa_x\r\n", Some(("Bearer wa_x", Some("id-1")))),
        ] {
            let read = ServiceCredential::read(text).unwrap();
            let shown = read.as_ref().map(|read| {
                assert!(read.authorization.is_sensitive());
                let id = read.public_id.as_ref().map(|id| id.to_str().unwrap());
                (read.authorization.to_str().unwrap(), id)
            });
            assert_eq!(shown, want, "{text:?}");
        }
        for text in ["a\nb\nc", "a\n\nb", "a\u{1}", "a\u{1}\nb"] {
            let why = ServiceCredential::read(text).err().unwrap();
            assert!(why.contains("\nhint: "), "{why}");
        }
    }
}
