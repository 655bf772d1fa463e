//! `[assertion]` and `[upstream.credential]`: tokens that keygate makes for the service.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, header};

use super::fault::ConfigProblem;
use super::secrets::{SecretFile, made_by, secret};
use super::section::ConfigSection;
use super::units::field_name;
use crate::token::sign::assertion::{AssertionBinding, Assertions};
use crate::token::sign::credential::{
    CredentialForm, FixedCredential, UpstreamCredential, UpstreamTokens,
};
use crate::token::sign::template::{ClaimSlot, ClaimsTemplate, TemplateFault};
use crate::token::sign::{PublicTokenKey, TokenKey, TokenKeyError};

const ASSERTION_FIELD: HeaderName = HeaderName::from_static("x-identity-assertion");
const ISSUER: &str = "keygate";
const LIFE: Duration = Duration::from_secs(60);
const LIVES: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(300);

/// Shorter secrets can be guessed from one token. RFC 7518 section 3.2 asks for 32 bytes.
const SHORT_SECRET: usize = 32;
const LEAST_SECRET: usize = 16;

const MAKE_KEY: &str = "openssl genpkey -algorithm ed25519 -out FILE";
const KEY_HINT: &str =
    "`(umask 077; openssl genpkey -algorithm ed25519 -out FILE)` makes one for its owner alone";

/// `[assertion]`. `trusted`: raw public keys of the trusted signers of tables.
pub(super) fn assertion(
    section: &ConfigSection<'_>,
    trusted: &[[u8; 32]],
) -> Option<Arc<Assertions>> {
    let field = section.parse("field", field_name);
    let key_file = secret(section, "key_file", "assertion.key_file", MAKE_KEY);
    let audience = section.parse("audience", word);
    let issuer = section.parse("issuer", word);
    let life = life(section);
    let bindings = [("key", AssertionBinding::Key), ("request", AssertionBinding::Request)];
    let binding = section.choice("bind", AssertionBinding::Key, &bindings);
    if !section.is_there() {
        return None;
    }
    if !section.has("key_file") {
        section.missing("key_file", KEY_HINT);
    }
    if !section.has("audience") {
        section
            .missing("audience", "the service that believes the assertion: audience = \"orders\"");
    }
    let mut keys = ed25519(section, "key_file", &key_file?, None, trusted)?.into_iter();
    Some(Arc::new(Assertions {
        field: field.unwrap_or(ASSERTION_FIELD),
        issuer: issuer.unwrap_or_else(|| ISSUER.into()),
        audience: audience?,
        life,
        binding,
        key: keys.next()?,
        also_published: keys.filter_map(|key| key.public()).collect(),
    }))
}

/// `[upstream.credential]`, or that of one of `[upstreams.NAME]`. `secret_file`: the key that the
/// file is recorded under.
pub(super) fn credential(
    section: &ConfigSection<'_>,
    secret_file: &'static str,
    trusted: &[[u8; 32]],
) -> Option<Arc<UpstreamCredential>> {
    let kinds = [("jwt", Kind::Jwt), ("fixed", Kind::Fixed)];
    let kind = section.parse("kind", |text| super::raw::pick(text, &kinds));
    let field = section.parse("field", field_name).unwrap_or(header::AUTHORIZATION);
    let hint = "put it in a file of mode 0600 and name the file as secret_file";
    section.refuse("secret", "a secret does not belong into this file; use `secret_file`", hint);
    let algorithm = section.parse("algorithm", algorithm);
    let make = match (kind, algorithm) {
        (Some(Kind::Jwt) | None, Some(Algorithm::EdDsa)) => MAKE_KEY,
        // The service already has the secret: a new one would be useless to it.
        _ => "cat > FILE",
    };
    let secret = secret(section, "secret_file", secret_file, make);
    let key_id = section.parse("key_id", word);
    // Taken literally: here `$` begins a slot, not a variable.
    let claims =
        section.parse_as_written("claims", |text| ClaimsTemplate::parse(text).map_err(with_hint));
    let life = life(section);
    if !section.is_there() {
        return None;
    }
    if !section.has("kind") {
        section.missing(
            "kind",
            "kind = \"jwt\" makes tokens, kind = \"fixed\" sends what is in a file",
        );
    }
    if !section.has("secret_file") {
        let hint = format!("the file that holds the secret; {}", made_by(make, "FILE"));
        section.missing("secret_file", &hint);
    }
    let form = match kind? {
        Kind::Fixed => {
            for key in ["algorithm", "key_id", "claims", "life"] {
                if section.has(key) {
                    let problem = ConfigProblem::new("is for kind = \"jwt\"");
                    section
                        .fault(key, problem.hint("a fixed credential is sent as the file has it"));
                }
            }
            CredentialForm::Fixed(fixed(section, &field, &secret?)?)
        }
        Kind::Jwt => {
            if !section.has("algorithm") {
                section.missing(
                    "algorithm",
                    "algorithm = \"HS256\" or \"EdDSA\", as the service verifies",
                );
            }
            if !section.has("claims") {
                section.missing("claims", CLAIMS_HINT);
            }
            let key = match algorithm? {
                Algorithm::EdDsa => {
                    let keys =
                        ed25519(section, "secret_file", &secret?, key_id.as_deref(), trusted)?;
                    if keys.len() > 1 {
                        let problem = ConfigProblem::new("the file holds more than one key");
                        section.fault("secret_file", problem.hint("leave the one that signs"));
                    }
                    keys.into_iter().next()?
                }
                Algorithm::Hs256 => hs256(section, &secret?, key_id.as_deref())?,
            };
            let scheme = if field == header::AUTHORIZATION { "Bearer " } else { "" };
            CredentialForm::Token(UpstreamTokens { key, claims: claims?, life, scheme })
        }
    };
    Some(Arc::new(UpstreamCredential { field, form }))
}

#[derive(Clone, Copy)]
enum Kind {
    Fixed,
    Jwt,
}

#[derive(Clone, Copy)]
enum Algorithm {
    EdDsa,
    Hs256,
}

/// For a service that verifies with a public key of another kind, HS256 would not be a near miss
/// but a hole: its public key is not secret.
fn algorithm(text: &str) -> Result<Algorithm, ConfigProblem> {
    let algorithms = [("HS256", Algorithm::Hs256), ("EdDSA", Algorithm::EdDsa)];
    let is_public_key = ["RS", "PS", "ES"].iter().any(|kind| {
        text.get(..2).is_some_and(|start| start.eq_ignore_ascii_case(kind))
            && text.get(2..).is_some_and(|size| ["256", "384", "512"].contains(&size))
    });
    match is_public_key {
        true => Err(ConfigProblem::new("is not an algorithm that keygate signs with").hint(
            "let the service take \"EdDSA\" beside it (`openssl pkey -in FILE -pubout` writes its \
             public key), and not \"HS256\" with the key that it verifies with now",
        )),
        false => super::raw::pick(text, &algorithms).or_else(|problem| {
            let known = algorithms.iter().find(|(word, _)| word.eq_ignore_ascii_case(text));
            known.map_or(Err(problem), |(word, _)| {
                Err(ConfigProblem::new("is not an algorithm that keygate signs with")
                    .hint(format!("did you mean `{word}`?")))
            })
        }),
    }
}

/// A service must not be able to mistake one for the other: each has a key of its own.
pub(super) fn share_no_key(
    section: &ConfigSection<'_>,
    assertion: Option<&Assertions>,
    credential: Option<&UpstreamCredential>,
) {
    let (Some(assertion), Some(credential)) = (assertion, credential) else { return };
    let CredentialForm::Token(tokens) = &credential.form else { return };
    let Some(public) = tokens.key.public() else { return };
    if assertion.public_keys().contains(&public) {
        let problem = ConfigProblem::new("the key in the file is that of assertion.key_file");
        section.fault("secret_file", problem.hint(KEY_HINT));
    }
}

/// In seconds.
fn life(section: &ConfigSection<'_>) -> u64 {
    let life = section.parse("life", |text| match super::units::duration(text)? {
        life if !LIVES.contains(&life) => Err(ConfigProblem::new("must be 1s to 5m")
            .hint("a short life is what makes a stolen token worth little")),
        life if life.subsec_nanos() > 0 => Err(ConfigProblem::new("must be whole seconds")),
        life => Ok(life),
    });
    life.unwrap_or(LIFE).as_secs()
}

/// Issuer, audience or key id.
pub(super) fn word(text: &str) -> Result<Box<str>, ConfigProblem> {
    match (1..=256).contains(&text.len()) && !text.chars().any(char::is_control) {
        true => Ok(text.into()),
        false => Err(ConfigProblem::new("must be 1 to 256 bytes without control characters")),
    }
}

/// The keys of a PEM file. None of them may sign tables.
fn ed25519(
    section: &ConfigSection<'_>,
    key: &'static str,
    file: &SecretFile,
    key_id: Option<&str>,
    trusted: &[[u8; 32]],
) -> Option<Vec<TokenKey>> {
    let keys = match TokenKey::from_pem(&file.bytes, key_id) {
        Ok(keys) => keys,
        Err(error) => {
            let hint = match error {
                TokenKeyError::TooMany => {
                    "the first signs, the second is only published; remove the others"
                }
                _ => KEY_HINT,
            };
            section.fault(key, file.problem(&error.to_string()).hint(hint));
            return None;
        }
    };
    let signs_tables = |public: PublicTokenKey| trusted.contains(public.as_bytes());
    if keys.iter().filter_map(TokenKey::public).any(signs_tables) {
        let problem = file.problem(
            "the key in the file is a trusted signer of tables: whoever has this file could issue keys",
        );
        section.fault(key, problem.hint(KEY_HINT));
    }
    Some(keys)
}

/// A shared secret exactly as in the file, except for one line end at the end.
fn hs256(section: &ConfigSection<'_>, file: &SecretFile, key_id: Option<&str>) -> Option<TokenKey> {
    let bytes = &*file.bytes;
    let secret = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let secret = secret.strip_suffix(b"\r").unwrap_or(secret);
    if secret.windows(PEM.len()).any(|window| window == PEM) {
        let problem = file.problem("the file holds a key in PEM, and HS256 takes a shared secret");
        section.fault(
            "secret_file",
            problem.hint("name the file of the secret, or algorithm = \"EdDSA\""),
        );
        return None;
    }
    if secret.len() < LEAST_SECRET {
        let problem = file.problem(&format!("the secret is shorter than {LEAST_SECRET} bytes"));
        section.fault("secret_file", problem.hint(SECRET_HINT));
        return None;
    }
    if secret.len() < SHORT_SECRET {
        let problem = file.problem(&format!(
            "the secret is shorter than the {SHORT_SECRET} bytes that HS256 asks for (RFC 7518 section 3.2)"
        ));
        section.warn("secret_file", problem.hint(SECRET_HINT));
    }
    Some(TokenKey::hs256(secret, key_id))
}

const PEM: &[u8] = b"-----BEGIN ";
const SECRET_HINT: &str = "`openssl rand -hex 32` makes one; the service needs the same, and whoever guesses it is every user";

fn fixed(
    section: &ConfigSection<'_>,
    field: &HeaderName,
    file: &SecretFile,
) -> Option<FixedCredential> {
    let value = FixedCredential::of(&file.bytes);
    match &value {
        None => {
            let problem =
                file.problem("the file must hold one line of 1 to 4,096 visible ASCII characters");
            section.fault(
                "secret_file",
                problem.hint("the field's whole value, such as `Bearer` and a token"),
            );
        }
        // A scheme, a space and the rest (RFC 9110 section 11.4).
        Some(value) if *field == header::AUTHORIZATION && !value.as_str().contains(' ') => {
            let problem = file.problem("the value has no scheme, such as `Bearer`, in front");
            section.warn(
                "secret_file",
                problem.hint("write `Bearer`, a space and the token, as the service expects it"),
            );
        }
        Some(_) => {}
    }
    value
}

const CLAIMS_HINT: &str =
    "for example claims = '{\"sub\":\"$owner.subject\",\"org\":\"$org\",\"exp\":\"$exp\"}'";

fn with_hint(fault: TemplateFault) -> ConfigProblem {
    let hint = match &fault {
        TemplateFault::NoSlot(_) => {
            let slots: Vec<_> = ClaimSlot::ALL.into_iter().map(ClaimSlot::as_str).collect();
            format!("slots: {}; a dollar sign is `$$`", slots.join(", "))
        }
        TemplateFault::Inside(_) => "a dollar sign is `$$`; texts are not put together".to_owned(),
        TemplateFault::Name(_) => "write the name as it is to be sent".to_owned(),
        TemplateFault::Twice(_) => "keep one of them: readers choose differently".to_owned(),
        TemplateFault::NoExpiry => "add \"exp\":\"$exp\" to the outermost object".to_owned(),
        TemplateFault::Syntax(_) => CLAIMS_HINT.to_owned(),
    };
    ConfigProblem::new(fault.to_string()).hint(hint)
}
