//! The authorities as a Secret holds them, and when one follows another. No I/O.
//!
//! An authority is announced long before it signs anything. First it is in the Secret as the next
//! one, and in `caBundle` next to the current one. Once every API server must have read that, it
//! replaces the current one, and replicas sign themselves new certificates with it.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::{Authority, AuthorityError, bundle};
use crate::core::Now;

/// Fields of the Secret: certificate and key of the authority that signs, and of the next one.
const CURRENT: [&str; 2] = ["ca.crt", "ca.key"];
const NEXT: [&str; 2] = ["next-ca.crt", "next-ca.key"];

/// How long an authority is in `caBundle` before it signs anything.
pub const ANNOUNCED: Duration = Duration::from_secs(600);

/// The authority that signs, and the one that will.
#[derive(Clone, Debug)]
pub struct AuthorityState {
    pub current: Arc<Authority>,
    pub next: Option<Arc<Authority>>,
}

/// What changed about the authorities. The words are those of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthorityTurn {
    Announced,
    Made,
    Promoted,
}

// === impl AuthorityTurn ===

impl AuthorityTurn {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Announced => "announced",
            Self::Made => "made",
            Self::Promoted => "promoted",
        }
    }
}

// === impl AuthorityState ===

impl AuthorityState {
    /// The first authority of an installation.
    pub fn create(now: Now) -> Result<Self, AuthorityError> {
        Ok(Self { current: Arc::new(Authority::create(now)?), next: None })
    }

    /// From a Secret; `None`: it has none of the fields.
    pub fn read(secret: &Value) -> Result<Option<Self>, AuthorityError> {
        let Some(current) = authority(secret, CURRENT)? else { return Ok(None) };
        Ok(Some(Self { current, next: authority(secret, NEXT)? }))
    }

    /// `data` of a Secret, or of a patch of one: removed fields are null.
    pub fn data(&self) -> Value {
        let mut data = Map::new();
        let authorities = [(CURRENT, Some(&self.current)), (NEXT, self.next.as_ref())];
        for ([certificate, key], authority) in authorities {
            let (pem, private) = match authority {
                Some(authority) => {
                    let pem = bundle::to_pem(authority.certificate());
                    let private = BASE64_STANDARD.encode(authority.key_pem().as_bytes());
                    (json!(BASE64_STANDARD.encode(pem)), json!(private))
                }
                None => (Value::Null, Value::Null),
            };
            data.insert(certificate.to_owned(), pem);
            data.insert(key.to_owned(), private);
        }
        Value::Object(data)
    }

    /// What is due, if anything: a next authority in the last third of the current one's life; its
    /// promotion once it is announced; or, if the current one has expired, a new one immediately.
    /// `next_since`: Unix seconds since when the next one is known to be in `caBundle`.
    pub fn turn(
        &self,
        next_since: Option<u64>,
        now: Now,
    ) -> Result<Option<(AuthorityTurn, Self)>, AuthorityError> {
        let next = self.next.as_ref().filter(|next| next.dates().left(now) > 0);
        let dates = self.current.dates();
        let has_run_out = dates.left(now) == 0;
        let is_announced = next_since
            .is_some_and(|since| now.unix_secs().saturating_sub(since) >= ANNOUNCED.as_secs());
        Ok(match next {
            Some(next) if is_announced || has_run_out => {
                let state = Self { current: Arc::clone(next), next: None };
                Some((AuthorityTurn::Promoted, state))
            }
            Some(_) => None,
            None if has_run_out => Some((AuthorityTurn::Made, Self::create(now)?)),
            None if dates.left(now) < dates.not_after.saturating_sub(dates.not_before) / 3 => {
                let next = Some(Arc::new(Authority::create(now)?));
                let current = Arc::clone(&self.current);
                Some((AuthorityTurn::Announced, Self { current, next }))
            }
            None => None,
        })
    }
}

/// `None`: both fields are missing.
fn authority(
    secret: &Value,
    fields: [&'static str; 2],
) -> Result<Option<Arc<Authority>>, AuthorityError> {
    let [certificate, key] = fields;
    let text = |field: &str| secret.get("data")?.get(field)?.as_str();
    let (pem, private) = match (text(certificate), text(key)) {
        (None | Some(""), None | Some("")) => return Ok(None),
        (pem, private) => (pem.unwrap_or_default(), private.unwrap_or_default()),
    };
    let pem =
        BASE64_STANDARD.decode(pem).map_err(|_| AuthorityError::BadCertificate(certificate))?;
    let private = BASE64_STANDARD.decode(private).map_err(|_| AuthorityError::BadKey(key))?;
    let private = Zeroizing::new(private);
    Authority::read(&pem, &private, fields).map(|authority| Some(Arc::new(authority)))
}

#[cfg(test)]
mod tests {
    use super::super::AUTHORITY_LIFE;
    use super::*;

    const BEGIN: u64 = 1_800_000_000;
    const DAY: u64 = 86_400;

    fn at(unix_secs: u64) -> Now {
        Now { unix_ms: unix_secs * 1000, mono_ns: 0 }
    }

    fn turn(state: &AuthorityState, since: Option<u64>, when: u64) -> Option<AuthorityTurn> {
        state.turn(since, at(when)).unwrap().map(|(turn, _)| turn)
    }

    #[test]
    fn a_secret_holds_what_was_put_into_it() {
        let one = AuthorityState::create(at(BEGIN)).unwrap();
        let both = AuthorityState { next: Some(one.current.clone()), ..one.clone() };
        for state in [one, both] {
            let secret = json!({"data": state.data()});
            let read = AuthorityState::read(&secret).unwrap().unwrap();
            assert_eq!(read.current.certificate(), state.current.certificate());
            assert_eq!(read.next.is_some(), state.next.is_some());
        }
        for empty in [json!({}), json!({"data": null}), json!({"data": {"ca.crt": ""}}), json!(7)] {
            assert!(AuthorityState::read(&empty).unwrap().is_none(), "{empty}");
        }
    }

    #[test]
    fn half_of_an_authority_is_a_fault_and_not_an_empty_secret() {
        let state = AuthorityState::create(at(BEGIN)).unwrap();
        let mut data = state.data();
        data["ca.key"] = Value::Null;
        let error = AuthorityState::read(&json!({"data": data})).unwrap_err();
        assert_eq!(error.to_string(), "ca.key: is no private key in PEM (PKCS#8)");
        data["ca.crt"] = json!("%");
        let error = AuthorityState::read(&json!({"data": data})).unwrap_err();
        assert_eq!(error.to_string(), "ca.crt: is no certificate in PEM");
    }

    #[test]
    fn one_follows_another_in_good_time() {
        let first = AuthorityState::create(at(BEGIN)).unwrap();
        assert_eq!(turn(&first, None, BEGIN + 200 * DAY), None);
        let due = BEGIN + 250 * DAY;
        let (what, announced) = first.turn(None, at(due)).unwrap().unwrap();
        assert_eq!(what, AuthorityTurn::Announced);
        assert_eq!(announced.current.certificate(), first.current.certificate());
        // However long ago it was made: only the time since it is in force counts.
        assert_eq!(turn(&announced, None, due + 2 * DAY), None);
        assert_eq!(turn(&announced, Some(due), due + ANNOUNCED.as_secs() - 1), None);
        let when = due + ANNOUNCED.as_secs();
        let (what, promoted) = announced.turn(Some(due), at(when)).unwrap().unwrap();
        assert_eq!(what, AuthorityTurn::Promoted);
        assert!(promoted.next.is_none());
        assert_eq!(promoted.current.certificate(), announced.next.unwrap().certificate());
        assert_eq!(turn(&promoted, None, when), None);
    }

    /// The cluster was off for a year.
    #[test]
    fn what_has_run_out_is_replaced_at_once() {
        let first = AuthorityState::create(at(BEGIN)).unwrap();
        let end = BEGIN + AUTHORITY_LIFE.as_secs();
        assert_eq!(turn(&first, None, end), Some(AuthorityTurn::Made));
        let next = AuthorityState::create(at(end - DAY)).unwrap().current;
        let both = AuthorityState { next: Some(next), ..first.clone() };
        assert_eq!(turn(&both, None, end), Some(AuthorityTurn::Promoted));
        let both = AuthorityState { next: Some(first.current.clone()), ..first };
        assert_eq!(turn(&both, Some(BEGIN), end), Some(AuthorityTurn::Made), "both have");
    }
}
