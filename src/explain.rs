//! One decision, explained in full: the same [`decide`] as the proxy's, without a request. Imports
//! core and config; the keys are passed in. The explanation is for the operator, not for callers.

mod answer;
mod charges;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use http::Method;

use self::answer::time;
pub use self::answer::{Explained, ExplainedKey, ExplainedRefusal, ExplainedRule, ExplainedToken};
pub use self::charges::ExplainedCharge;
use crate::config::Settings;
use crate::core::decision::KeyCandidates;
use crate::core::observe::Conduct;
use crate::core::path::{self, Traits};
use crate::core::refusal::Context;
use crate::core::{
    BasicForm, CallerKind, CredentialSource, Digest, Facts, KeyKind, KeyLookup, KeyView, LimitSet,
    Now, OwnerView, PairLookup, Prefixes, Presented, Reason, Rejection, Route, TokenFault,
    UserToken, Verdict, anonymous_field, decide, identity_fields, token_fields,
};

/// The request to explain.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    pub method: &'a Method,
    /// With or without a query.
    pub target: &'a str,
    pub client: IpAddr,
    pub credential: Credential<'a>,
    /// Kind of the source that carries a single secret (`bearer`); `None`: the first one
    /// configured. Whether a secret is ours depends on its carrier.
    pub source: Option<&'a str>,
    pub at: Now,
}

#[derive(Clone, Copy)]
pub enum Credential<'a> {
    /// A credential that is not ours: a user's token.
    Foreign,
    /// As if the key's holder had presented it: the secret is not known here.
    Key {
        view: KeyView<'a>,
        owner: Option<OwnerView<'a>>,
    },
    Nothing,
    Pair {
        id: &'a [u8],
        secret: &'a [u8],
    },
    Single(&'a [u8]),
    /// A user token, judged.
    Token(&'a Result<Arc<UserToken>, TokenFault>),
}

/// Placeholder for the id that each request gets.
const REQUEST_ID: &str = "REQUEST-ID";

/// Placeholders for tokens, which nobody needs to see here.
const ASSERTION: &str = "ASSERTION";
const CREDENTIAL: &str = "CREDENTIAL";

/// `keys`: `None` if no table is loaded.
pub fn explain<K: KeyLookup>(settings: &Settings, keys: Option<&K>, ask: &Ask<'_>) -> Explained {
    let path = ask.target.split_once('?').map_or(ask.target, |(path, _)| path);
    if path.contains(path::NOT_IN_TARGETS) || ask.target.contains('#') {
        let mut answer = Explained::new(ask, "rejected");
        answer.refuse(settings, &Reason::BadTarget.into(), None);
        answer.detail = Some("the target has a fragment, or `<`, `>` or a backtick".to_owned());
        return answer;
    }
    let (traits, fault) = match path::scan(path.as_bytes()) {
        Ok(traits) => (traits, None),
        Err(why) => (Traits::default(), Some((Rejection::from(Reason::BadPath), why))),
    };
    let target = JudgedTarget { path, traits, fault: fault.as_ref().map(|(fault, _)| fault) };
    let mut answer = presented(settings, keys, ask, target);
    if let Some((_, why)) = &fault {
        answer.detail = Some(format!("the path {why}"));
    }
    answer
}

fn presented<K: KeyLookup>(
    settings: &Settings,
    keys: Option<&K>,
    ask: &Ask<'_>,
    target: JudgedTarget<'_>,
) -> Explained {
    match ask.credential {
        Credential::Key { view, owner } => {
            let keys = keys.map(|all| Holder { all, view, owner });
            let presented = match view.grant.kind {
                KeyKind::Pair => Presented::Pair { id: b"", secret: b"" },
                KeyKind::Single => Presented::Single(b""),
            };
            told(settings, keys.as_ref(), ask, target, presented)
        }
        Credential::Foreign => told(settings, keys, ask, target, Presented::Foreign),
        Credential::Nothing => told(settings, keys, ask, target, Presented::Nothing),
        Credential::Pair { id, secret } => {
            told(settings, keys, ask, target, Presented::Pair { id, secret })
        }
        Credential::Token(judged) => {
            let presented = match judged {
                Ok(token) => Presented::Token(token),
                Err(fault) => Presented::FaultyToken(*fault),
            };
            let mut answer = told(settings, keys, ask, target, presented);
            answer.token = judged.as_ref().ok().map(|token| ExplainedToken::of(token));
            answer.source = Some("bearer");
            answer
        }
        Credential::Single(secret) => {
            let mut carriers =
                settings.sources.iter().filter_map(|s| Some((kind(s), prefixes(s)?)));
            let carrier =
                carriers.find(|(kind, _)| ask.source.is_none_or(|wanted| wanted == *kind));
            let presented = match &carrier {
                Some((_, prefixes)) if prefixes.own(secret) => Presented::Single(secret),
                // If no source looks there, nothing was presented.
                None => Presented::Nothing,
                Some(_) => Presented::Foreign,
            };
            let mut answer = told(settings, keys, ask, target, presented);
            answer.source = carrier.map(|(kind, _)| kind);
            answer
        }
    }
}

fn told<K: KeyLookup>(
    settings: &Settings,
    keys: Option<&K>,
    ask: &Ask<'_>,
    target: JudgedTarget<'_>,
    presented: Presented<'_>,
) -> Explained {
    let JudgedTarget { path, traits, fault } = target;
    let (method, client) = (ask.method, ask.client);
    let candidates = KeyCandidates::Certain;
    let facts =
        Facts { method, path, traits, presented, client, preflight: None, candidates, fault };
    let names = &settings.identity;
    let verdict = decide(&settings.policy, keys, &facts, ask.at);
    let observing = verdict.conduct() == Conduct::Observed;
    let answer = match verdict {
        Verdict::Admitted(admitted) => {
            let (key, route) = (admitted.key(), admitted.route());
            let owner = keys.and_then(|keys| admitted.owner(keys));
            let observe = settings.policy.observe.as_deref();
            let forwards = observe.is_some_and(|o| o.forwards_credentials(route));
            let credential = settings.credential_for(route.upstream).filter(|credential| {
                let is_there = || key.is_none_or(|key| credential.missing(key, owner).is_none());
                !forwards && (!observing || is_there())
            });
            if let (Some(key), Some(credential)) = (key, credential)
                && let Some(slot) = credential.missing(key, owner)
            {
                let mut answer = Explained::new(ask, "rejected");
                let shown_owner = owner.map(|owner| owner.to_string());
                answer.key = Some(ExplainedKey { owner: shown_owner, ..ExplainedKey::of(key) });
                answer.refuse(settings, &slot.rejection(), Some(route));
                let of = match settings.upstream_name(route.upstream) {
                    None => "upstream".to_owned(),
                    Some(name) => format!("upstreams.{name}"),
                };
                answer.detail =
                    Some(format!("the claims of {of}.credential need {}", slot.as_str()));
                return answer;
            }
            let mut answer = Explained::new(ask, "admitted");
            answer.rule = Some(ExplainedRule::of(route, settings));
            if let Some(key) = key {
                let shown_owner = owner.map(|owner| owner.to_string());
                answer.key = Some(ExplainedKey { owner: shown_owner, ..ExplainedKey::of(key) });
                if let Some(keys) = keys {
                    let charge = admitted.charge(&settings.policy, keys);
                    let stated = [Some(&key.grant.limits), keys.org_limits(key.org)];
                    answer.charges = charge
                        .map(|c| ExplainedCharge::all(&c, CallerKind::Key, stated))
                        .unwrap_or_default();
                }
                identity_fields(names, key, owner, |n, v| answer.headers.push(shown(n, v)));
                let assertion = settings.assertion_for(route.upstream);
                let assertion = assertion.map(|(a, _)| (&a.field, ASSERTION));
                let credential = credential.map(|credential| (&credential.field, CREDENTIAL));
                let tokens = assertion.into_iter().chain(credential);
                answer.headers.extend(tokens.map(|(name, value)| shown(name, value)));
            }
            if let Some(token) = admitted.token() {
                if let Some(keys) = keys {
                    let charge = admitted.charge(&settings.policy, keys);
                    let stated = [None, keys.org_limits(token.org())];
                    answer.charges = charge
                        .map(|c| ExplainedCharge::all(&c, CallerKind::Token, stated))
                        .unwrap_or_default();
                }
                token_fields(names, token, |n, v| answer.headers.push(shown(n, v)));
            }
            answer
        }
        Verdict::Passed(passed) => {
            let mut answer = Explained::new(ask, "passed");
            answer.rule = Some(ExplainedRule::of(passed.route(), settings));
            answer.headers.extend(anonymous_field(names).map(|(n, v)| shown(n, v)));
            answer
        }
        Verdict::Observed(observed) => {
            let mut answer = Explained::new(ask, "observed");
            let route = Some(observed.route()).filter(|route| route.is_rule());
            answer.key = observed.key().map(ExplainedKey::of);
            answer.refuse(settings, observed.rejection(), route);
            answer.headers.extend(anonymous_field(names).map(|(n, v)| shown(n, v)));
            answer
        }
        Verdict::Rejected(refused) => {
            let mut answer = Explained::new(ask, "rejected");
            answer.key = refused.key.as_ref().map(ExplainedKey::of);
            answer.refuse(settings, &refused.rejection, refused.route);
            answer
        }
    };
    Explained { observing, ..answer }
}

/// A parsed target, with what is wrong with it.
#[derive(Clone, Copy)]
struct JudgedTarget<'t> {
    path: &'t str,
    traits: Traits,
    fault: Option<&'t Rejection>,
}

/// Kinds of sources that carry a single secret.
pub const SOURCES: [&str; 6] = ["basic", "bearer", "cookie", "header", "query", "subprotocol"];

fn kind(source: &CredentialSource) -> &'static str {
    match source {
        CredentialSource::Basic { .. } => "basic",
        CredentialSource::Bearer { .. } => "bearer",
        CredentialSource::Cookie { .. } => "cookie",
        CredentialSource::Header { .. } => "header",
        CredentialSource::Pair { .. } => "pair",
        CredentialSource::Query { .. } => "query",
        CredentialSource::Subprotocol { .. } => "subprotocol",
    }
}

/// What marks a single secret in this source as ours; `None`: it carries pairs.
fn prefixes(source: &CredentialSource) -> Option<Prefixes> {
    match source {
        CredentialSource::Basic { form: BasicForm::Pair, .. } | CredentialSource::Pair { .. } => {
            None
        }
        CredentialSource::Basic { prefixes, .. }
        | CredentialSource::Bearer { prefixes }
        | CredentialSource::Cookie { prefixes, .. }
        | CredentialSource::Header { prefixes, .. }
        | CredentialSource::Query { prefixes, .. } => Some(prefixes.clone()),
        CredentialSource::Subprotocol { .. } => Some(Prefixes::default()),
    }
}

fn shown(name: &http::HeaderName, value: &str) -> (String, String) {
    (name.to_string(), value.to_owned())
}

fn text(value: &http::HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

/// The keys in force, with one of them presented whatever its secret is.
struct Holder<'k, K> {
    all: &'k K,
    view: KeyView<'k>,
    owner: Option<OwnerView<'k>>,
}

// === impl Holder ===

impl<K: KeyLookup> KeyLookup for Holder<'_, K> {
    fn plausible(&self, _: &[u8]) -> bool {
        true
    }

    fn single(&self, _: &Digest) -> Option<KeyView<'_>> {
        Some(self.view)
    }

    fn pair(&self, _: &[u8], _: &Digest) -> PairLookup<'_> {
        PairLookup::Found(self.view)
    }

    fn any(&self, _: &Digest) -> Option<KeyView<'_>> {
        Some(self.view)
    }

    fn owner(&self, _: &Digest) -> Option<OwnerView<'_>> {
        self.owner
    }

    fn knows_org(&self, org: &str) -> bool {
        self.all.knows_org(org)
    }

    fn org_limits(&self, org: &str) -> Option<&LimitSet> {
        self.all.org_limits(org)
    }

    fn refuse_from(&self) -> Option<u64> {
        self.all.refuse_from()
    }
}

// === impl Explained ===

impl Explained {
    fn new(ask: &Ask<'_>, verdict: &'static str) -> Self {
        Self {
            verdict,
            observing: false,
            reason: None,
            detail: None,
            rule: None,
            key: None,
            token: None,
            charges: Vec::new(),
            source: None,
            headers: Vec::new(),
            refusal: None,
            client: ask.client,
            at: time(ask.at.unix_secs()),
        }
    }

    fn refuse(&mut self, settings: &Settings, rejection: &Rejection, route: Option<&Route>) {
        let profile = route.and_then(|r| r.profile.as_deref());
        let context = Context { request_id: REQUEST_ID, profile, grpc: false };
        let rendered = settings.refusals.render(rejection, &context);
        self.reason = Some(rejection.reason.as_str());
        self.rule = route.map(|route| ExplainedRule::of(route, settings));
        self.refusal = Some(ExplainedRefusal {
            status: rendered.status.as_u16(),
            code: rejection.reason.code(settings.refusals.disclosure),
            headers: rendered.headers.iter().map(|(n, v)| (n.to_string(), text(v))).collect(),
            body: String::from_utf8_lossy(&rendered.body).into_owned(),
        });
    }
}

impl fmt::Debug for Credential<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign => f.write_str("Foreign"),
            Self::Key { view, .. } => write!(f, "Key({})", view.id),
            Self::Nothing => f.write_str("Nothing"),
            Self::Pair { .. } => f.write_str("Pair(..)"),
            Self::Single(_) => f.write_str("Single(..)"),
            Self::Token(_) => f.write_str("Token(..)"),
        }
    }
}

#[cfg(test)]
mod tests;
