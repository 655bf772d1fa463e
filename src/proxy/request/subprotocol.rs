//! `Sec-WebSocket-Protocol` as a carrier of credentials: a browser cannot set any other field of a
//! WebSocket handshake. Pure functions over header values.
//! Imports nothing of the crate.
//!
//! A client offers `chat, keygate.key.SECRET`. keygate offers `chat` to the upstream, and hands
//! back what the upstream selects. Browsers fail a connection on which they offered something and
//! nothing was selected (WebSockets Standard, "establish a WebSocket connection", stricter than RFC
//! 6455), and most upstreams select nothing. To reach them, a client may also offer the marker
//! without its last punctuation (`keygate.key` for the marker `keygate.key.`). keygate does not
//! forward that entry, and selects it when the upstream selects nothing. The credential entry
//! itself is never selected: the answer would carry the secret.

use http::HeaderValue;

/// The most entries in one offer.
const MAX_ENTRIES: usize = 32;

/// Why an offer was refused. The client is at fault. No message contains bytes of the offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OfferError {
    #[error("two entries of Sec-WebSocket-Protocol carry a credential")]
    Duplicate,
    #[error("an entry of Sec-WebSocket-Protocol is not a token")]
    Syntax,
    #[error("Sec-WebSocket-Protocol has too many entries")]
    TooMany,
}

/// The upstream selected a protocol that it was not offered: every client refuses such an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the upstream selected a subprotocol that it was not offered")]
pub struct Unoffered;

/// The part of an offer that is forwarded. Holds no credential.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// What keygate offers to the upstream, as one value. `None`: the field is left out.
    pub forward: Option<HeaderValue>,
    /// The entry that keygate itself selects when the upstream selects nothing.
    acknowledge: Option<HeaderValue>,
}

/// The credential in an offer: the text after a marker, in the one entry that begins with it.
/// Checks the whole offer, so that [`Offer::new`] cannot fail afterwards for another reason.
pub fn credential<'a>(
    values: impl IntoIterator<Item = &'a HeaderValue>,
    markers: &[impl AsRef<str>],
) -> Result<Option<&'a str>, OfferError> {
    let mut found = None;
    for entry in entries(values)? {
        if let Some(secret) = carried(entry, markers)
            && found.replace(secret).is_some()
        {
            return Err(OfferError::Duplicate);
        }
    }
    Ok(found)
}

// === impl Offer ===

impl Offer {
    /// Removes every entry that carries a key. The others keep their order.
    pub fn new<'a>(
        values: impl IntoIterator<Item = &'a HeaderValue>,
        markers: &[impl AsRef<str>],
    ) -> Result<Self, OfferError> {
        let mut offer = Self::default();
        let mut forward = String::new();
        for entry in entries(values)? {
            if carried(entry, markers).is_some() {
                continue;
            }
            if markers.iter().any(|m| is_plain(entry, m.as_ref())) {
                offer.acknowledge = HeaderValue::from_str(entry).ok();
                continue;
            }
            if !forward.is_empty() {
                forward.push_str(", ");
            }
            forward.push_str(entry);
        }
        if !forward.is_empty() {
            offer.forward = Some(HeaderValue::from_str(&forward).map_err(|_| OfferError::Syntax)?);
        }
        Ok(offer)
    }

    /// What the client's 101 says, given what the upstream's said (`None`: it has no such field).
    /// keygate does not believe an upstream that selects something although it was offered nothing.
    pub fn answer<'a>(
        &self,
        selected: impl IntoIterator<Item = &'a HeaderValue>,
    ) -> Result<Option<HeaderValue>, Unoffered> {
        let mut selected = selected.into_iter();
        let (Some(choice), Some(forward)) = (selected.next(), &self.forward) else {
            return Ok(self.acknowledge.clone());
        };
        let offered = entries([forward]).map_err(|_| Unoffered)?;
        let known = offered.iter().any(|entry| entry.as_bytes() == choice.as_bytes());
        if selected.next().is_some() || !known {
            return Err(Unoffered);
        }
        Ok(Some(choice.clone()))
    }
}

/// The secret in an entry that starts with a marker. An entry that is only the marker is an empty
/// credential, not a subprotocol.
fn carried<'a>(entry: &'a str, markers: &[impl AsRef<str>]) -> Option<&'a str> {
    // An empty marker would make every subprotocol a credential.
    let mut markers = markers.iter().map(AsRef::as_ref).filter(|m| !m.is_empty());
    markers.find_map(|marker| entry.strip_prefix(marker))
}

/// The marker without its last punctuation.
fn is_plain(entry: &str, marker: &str) -> bool {
    let plain = marker.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
    entry == plain && plain != marker
}

/// The entries of all values in order. Empty list elements are skipped (RFC 9110 section 5.6.1).
fn entries<'a>(
    values: impl IntoIterator<Item = &'a HeaderValue>,
) -> Result<Vec<&'a str>, OfferError> {
    let mut entries = Vec::new();
    for value in values {
        let text = value.to_str().map_err(|_| OfferError::Syntax)?;
        for entry in text.split(',').map(|e| e.trim_matches([' ', '\t'])) {
            if entry.is_empty() {
                continue;
            }
            if !entry.bytes().all(is_token) {
                return Err(OfferError::Syntax);
            }
            if entries.len() == MAX_ENTRIES {
                return Err(OfferError::TooMany);
            }
            entries.push(entry);
        }
    }
    Ok(entries)
}

/// RFC 9110 `tchar`.
const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MARKERS: &[&str] = &["keygate.key.", "old-"];

    fn values(lines: &[&str]) -> Vec<HeaderValue> {
        lines.iter().map(|l| HeaderValue::from_bytes(l.as_bytes()).unwrap()).collect()
    }

    #[expect(clippy::type_complexity, reason = "a table of cases")]
    #[test]
    fn offers() {
        let cases: &[(&str, &[&str], Option<&str>, Option<&str>)] = &[
            ("no field", &[], None, None),
            ("nothing of ours", &["chat, superchat"], None, Some("chat, superchat")),
            ("credential alone", &["keygate.key.S3"], Some("S3"), None),
            ("first", &["keygate.key.S3, chat, v2"], Some("S3"), Some("chat, v2")),
            ("middle", &["chat,keygate.key.S3,v2"], Some("S3"), Some("chat, v2")),
            ("last", &["chat ,\tv2,  keygate.key.S3"], Some("S3"), Some("chat, v2")),
            ("own line", &["chat", "keygate.key.S3", "v2"], Some("S3"), Some("chat, v2")),
            ("empty elements", &[",, chat,", " , keygate.key.S3"], Some("S3"), Some("chat")),
            ("with the plain entry", &["keygate.key, keygate.key.S3"], Some("S3"), None),
            ("empty credential", &["chat, keygate.key."], Some(""), Some("chat")),
            ("second marker", &["old-S3, chat"], Some("S3"), Some("chat")),
            ("case matters", &["Keygate.Key.S3"], None, Some("Keygate.Key.S3")),
            ("marker inside", &["x.keygate.key.S3"], None, Some("x.keygate.key.S3")),
        ];
        for (name, lines, secret, forward) in cases {
            let lines = values(lines);
            assert_eq!(credential(&lines, MARKERS), Ok(*secret), "{name}");
            let offer = Offer::new(&lines, MARKERS).unwrap();
            let got = offer.forward.as_ref().map(|v| v.to_str().unwrap());
            assert_eq!(got, *forward, "{name}");
        }
    }

    #[test]
    fn bad_offers() {
        let many = vec!["a"; MAX_ENTRIES + 1].join(",");
        let cases: &[(&str, &[&str], OfferError)] = &[
            ("two", &["keygate.key.a, keygate.key.b"], OfferError::Duplicate),
            ("one per marker", &["keygate.key.a, old-b"], OfferError::Duplicate),
            ("same twice", &["keygate.key.a", "keygate.key.a"], OfferError::Duplicate),
            ("space inside", &["keygate.key.a b"], OfferError::Syntax),
            ("quoted", &["\"chat\""], OfferError::Syntax),
            ("8-bit", &["chät"], OfferError::Syntax),
            ("slash", &["keygate.key.a/b"], OfferError::Syntax),
            ("many", &[&many], OfferError::TooMany),
        ];
        for (name, lines, want) in cases {
            assert_eq!(credential(&values(lines), MARKERS), Err(*want), "{name}");
        }
    }

    #[expect(clippy::type_complexity, reason = "a table of cases")]
    #[test]
    fn answers() {
        let key = "keygate.key.S3";
        let cases: &[(&str, &[&str], &[&str], Result<Option<&str>, Unoffered>)] = &[
            ("selected", &["chat, v2", key], &["v2"], Ok(Some("v2"))),
            ("none selected", &["chat", key], &[], Ok(None)),
            ("only the credential", &[key], &[], Ok(None)),
            ("only the credential, upstream insists", &[key], &["chat"], Ok(None)),
            ("plain entry", &["keygate.key", key], &[], Ok(Some("keygate.key"))),
            ("plain entry gives way", &["keygate.key, chat", key], &["chat"], Ok(Some("chat"))),
            ("not offered", &["chat", key], &["v3"], Err(Unoffered)),
            ("other case", &["chat", key], &["Chat"], Err(Unoffered)),
            ("a list", &["chat, v2", key], &["chat, v2"], Err(Unoffered)),
            ("twice", &["chat, v2", key], &["chat", "v2"], Err(Unoffered)),
            ("empty", &["chat", key], &[""], Err(Unoffered)),
            ("the credential", &["chat", key], &[key], Err(Unoffered)),
        ];
        for (name, offered, selected, want) in cases {
            let offer = Offer::new(&values(offered), MARKERS).unwrap();
            let selected = values(selected);
            let got = offer.answer(&selected);
            let got = got.as_ref().map(|v| v.as_ref().map(|v| v.to_str().unwrap()));
            assert_eq!(got, want.as_ref().map(|v| *v), "{name}");
        }
    }

    /// A word that does not begin with a marker or equal one: those are not forwarded.
    fn subprotocol() -> impl Strategy<Value = String> {
        "[a-z]{1,8}".prop_filter("a marker", |word| !MARKERS.iter().any(|m| is_plain(word, m)))
    }

    proptest! {
        /// Neither the offer to the upstream nor the answer to the client contains the secret.
        #[test]
        fn the_credential_goes_nowhere(
            before in proptest::collection::vec(subprotocol(), 0..3),
            secret in "[A-Z0-9]{10}",
            after in proptest::collection::vec(subprotocol(), 0..3),
            choice in "[a-zA-Z0-9.]{0,24}",
        ) {
            let entry = format!("keygate.key.{secret}");
            let all: Vec<_> = before.iter().chain([&entry]).chain(&after).cloned().collect();
            let line = HeaderValue::from_str(&all.join(", ")).unwrap();
            let offer = Offer::new([&line], MARKERS).unwrap();
            prop_assert_eq!(credential([&line], MARKERS), Ok(Some(&secret[..])));
            let rest: Vec<_> = before.iter().chain(&after).cloned().collect();
            let forward = offer.forward.as_ref().map_or("", |v| v.to_str().unwrap());
            prop_assert_eq!(forward, rest.join(", "));
            for choice in [choice, entry] {
                let choice = HeaderValue::from_str(&choice).unwrap();
                if let Ok(Some(answer)) = offer.answer([&choice]) {
                    prop_assert!(rest.iter().any(|r| r.as_bytes() == answer.as_bytes()));
                }
            }
        }

        #[test]
        fn arbitrary_values_never_panic(bytes in proptest::collection::vec(32u8..=255, 0..200)) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let checked = credential([&value], MARKERS);
                prop_assert_eq!(
                    Offer::new([&value], MARKERS).is_ok(),
                    !matches!(checked, Err(OfferError::Syntax | OfferError::TooMany))
                );
            }
        }
    }
}
