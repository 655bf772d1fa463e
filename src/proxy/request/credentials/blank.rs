//! Carriers that are present but carry nothing: `X-Api-Key:`, `Authorization: Bearer`, `?api_key=`.
//! Zero bytes are not a credential, neither ours nor a stranger's. The carrier is removed anyway.

use base64::Engine;
use zeroize::Zeroize;

use super::{LENIENT, after_scheme, unwrap_secret_token};
use crate::core::{BasicForm, CredentialSource, Prefixes};

/// Nothing but white space.
pub(super) fn is_blank(value: &[u8]) -> bool {
    value.trim_ascii().is_empty()
}

/// An `Authorization` without a value, or with a scheme that we read and nothing after it.
pub(super) fn is_blank_authorization(value: &[u8], sources: &[CredentialSource]) -> bool {
    is_blank(value)
        || sources.iter().any(|source| match source {
            CredentialSource::Bearer { .. } => {
                after_scheme(value, b"bearer").is_some_and(|t| unwrap_secret_token(t).is_empty())
            }
            CredentialSource::Basic { form, prefixes } => {
                after_scheme(value, b"basic").is_some_and(|t| is_blank_token(t, *form, prefixes))
            }
            CredentialSource::Cookie { .. }
            | CredentialSource::Header { .. }
            | CredentialSource::Pair { .. }
            | CredentialSource::Query { .. }
            | CredentialSource::Subprotocol { .. } => false,
        })
}

fn is_blank_token(token: &[u8], form: BasicForm, prefixes: &Prefixes) -> bool {
    if token.is_empty() {
        return true;
    }
    let Ok(mut decoded) = LENIENT.decode(token) else { return false };
    let parts = decoded.iter().position(|b| *b == b':').map(|at| decoded.split_at(at));
    let blank = parts.is_some_and(|(user, password)| {
        let password = password.get(1..).unwrap_or_default();
        is_blank_basic(user, password, form, |word| prefixes.own(word))
    });
    decoded.zeroize();
    blank
}

/// Whether the half of `user:password` that keygate reads is empty. A stranger's user name with an
/// empty password is the stranger's.
pub(super) fn is_blank_basic(
    user: &[u8],
    password: &[u8],
    form: BasicForm,
    own: impl Fn(&[u8]) -> bool,
) -> bool {
    password.is_empty()
        && match form {
            BasicForm::KeyAsUser | BasicForm::Pair => user.is_empty(),
            BasicForm::KeyAsPassword => user.is_empty() || own(b""),
        }
}
