//! From a [`Rejection`] to status, fields and body: one match, for every profile.
//!
//! What a caller learns depends only on the public view of [`Reason::code`], so that an unknown
//! key, a wrong secret and a revoked key get the same bytes.

mod accept;
mod body;
mod challenge;
mod prepared;
mod template;
mod text;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};

use super::rate_fields::{LimitReport, whole_seconds};
use super::reason::{CallerKind, Detail, Disclosure, Reason, Rejection};

pub use self::challenge::{Challenges, Scheme};
pub use self::prepared::{PreparedRefusals, Ready};
pub use self::template::{Template, TemplateError};
pub use super::rate_fields::RateFields;

/// The configured profiles and what all refusals share.
#[derive(Clone, Debug, Default)]
pub struct Refusals {
    pub disclosure: Disclosure,
    /// For routes that do not name one.
    pub default: Profile,
    /// Names of the profiles that a client may choose with `Accept` instead of the route's.
    pub by_accept: Vec<Box<str>>,
    pub templates: Vec<(Box<str>, Template)>,
    pub challenges: Challenges,
    pub rate_fields: RateFields,
    /// The page whose fragments are the codes: `type` of a problem.
    pub docs: Option<Box<str>>,
    /// What was rendered already with the current fields. Replaced when they change.
    pub prepared: PreparedRefusals,
}

/// The form of a refusal's body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// `{"status":"error","message":…}`
    Envelope,
    /// `{"error":…,"errorMessage":…}`
    ErrorMessage,
    /// RFC 9457.
    #[default]
    ProblemJson,
    /// Position in [`Refusals::templates`].
    Template(usize),
}

/// The part of the request that a refusal depends on.
#[derive(Clone, Copy, Debug)]
pub struct Context<'r> {
    pub request_id: &'r str,
    /// The profile that [`Refusals::choose`] names. `None`: the default one.
    pub profile: Option<&'r str>,
    /// The request is gRPC by its content type.
    pub grpc: bool,
}

/// A refusal ready to be sent.
#[derive(Debug)]
pub struct Rendered {
    pub status: StatusCode,
    /// Only `Vary` may occur more than once.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub body: Bytes,
}

/// What every profile says, each in its own form.
struct Saying<'r> {
    status: StatusCode,
    code: &'static str,
    /// One short sentence.
    message: String,
    /// The same without details of this refusal.
    description: &'static str,
    /// What to do about it.
    advice: String,
    request_id: &'r str,
    /// Joined by spaces. Empty unless a permission is missing.
    permissions: String,
    retry_after: Option<u64>,
    /// Names of the policies that refused it.
    violated: Vec<&'r str>,
    docs: Option<&'r str>,
}

// === impl Refusals ===

impl Refusals {
    /// Names of the profiles, the built-in ones first.
    pub fn profiles(&self) -> impl Iterator<Item = &str> {
        let built_in = Profile::BUILT_IN.iter().map(|(name, _)| *name);
        built_in.chain(self.templates.iter().map(|(name, _)| name.as_ref()))
    }

    pub fn has_profile(&self, name: &str) -> bool {
        self.profile(name).is_some()
    }

    pub fn profile(&self, name: &str) -> Option<Profile> {
        let built_in = Profile::BUILT_IN.iter().find(|(known, _)| *known == name);
        built_in.map(|(_, profile)| *profile).or_else(|| {
            let at = self.templates.iter().position(|(known, _)| known.as_ref() == name);
            at.map(Profile::Template)
        })
    }

    /// The profile for a route that names `route`, and a client that sends `accept` (the values of
    /// `Accept`, joined by commas). The route's own is the first offer. A client that accepts none
    /// of the offers gets that one anyway: RFC 9110 section 15.5.7 allows it, and a refusal in
    /// another form is better than none.
    pub fn choose<'r>(&'r self, route: Option<&'r str>, accept: Option<&str>) -> Option<&'r str> {
        let Some(accept) = accept.filter(|_| !self.by_accept.is_empty()) else { return route };
        let own = route.and_then(|name| self.profile(name)).unwrap_or(self.default);
        let others = self.by_accept.iter().filter_map(|name| self.profile(name));
        let offers = std::iter::once(own).chain(others).map(|p| self.content_type(p));
        let chosen = accept::preferred(accept, offers.map(|t| t.to_str().unwrap_or_default()));
        match chosen.and_then(|at| at.checked_sub(1)) {
            Some(at) => self.by_accept.get(at).map(AsRef::as_ref),
            None => route,
        }
    }

    fn content_type(&self, profile: Profile) -> &HeaderValue {
        match profile {
            Profile::Envelope | Profile::ErrorMessage => &body::JSON,
            Profile::ProblemJson => &body::PROBLEM,
            Profile::Template(at) => {
                self.templates.get(at).map_or(&body::PROBLEM, |(_, t)| t.content_type())
            }
        }
    }

    pub fn render(&self, rejection: &Rejection, context: &Context<'_>) -> Rendered {
        match self.ready(rejection, context) {
            Some(ready) => ready.render(),
            None => self.render_anew(rejection, context),
        }
    }

    /// The refusal if it has been rendered already: one that is the same for everybody.
    pub fn ready<'r>(&'r self, rejection: &Rejection, context: &Context<'r>) -> Option<Ready<'r>> {
        if rejection.detail != Detail::None || context.grpc {
            return None;
        }
        let profile = context.profile.and_then(|name| self.profile(name)).unwrap_or(self.default);
        self.prepared.find(self, profile, rejection.reason, context.request_id)
    }

    fn render_anew(&self, rejection: &Rejection, context: &Context<'_>) -> Rendered {
        let shown = rejection.reason.shown(self.disclosure);
        let text = match &rejection.detail {
            Detail::Permissions { caller: CallerKind::Token, .. } => text::TOKEN_LACKS_PERMISSION,
            _ => text::text(shown),
        };
        let message = match &rejection.detail {
            Detail::Permissions { words, .. } => {
                let words: Vec<_> = words.iter().map(|w| w.as_str()).collect();
                format!("{}: {}", text.message, words.join(", "))
            }
            Detail::Why(why) => format!("{}: {why}", text.message),
            Detail::Told { why, .. } => format!("{}: {why}", text.message),
            Detail::Allow(_) | Detail::None | Detail::RetryAfter(_) => text.message.to_owned(),
        };
        let advice = match (&rejection.detail, text.advice) {
            (Detail::Told { advice, .. }, _) => advice.to_string(),
            (_, Some(advice)) => advice.to_owned(),
            (_, None) => self.challenges.advice().to_owned(),
        };
        let permissions = match &rejection.detail {
            Detail::Permissions { words, .. } => {
                words.iter().map(|w| w.as_str()).collect::<Vec<_>>().join(" ")
            }
            _ => String::new(),
        };
        let saying = Saying {
            status: status(shown),
            code: shown.code(self.disclosure),
            message,
            description: text.message,
            advice,
            request_id: context.request_id,
            permissions,
            retry_after: retry_after(shown, &rejection.detail),
            violated: match &rejection.detail {
                Detail::RetryAfter(report) => report.shown().map(|(name, _)| name).collect(),
                _ => Vec::new(),
            },
            docs: self.docs.as_deref(),
        };
        let mut headers = Vec::with_capacity(8);
        headers.push((header::CACHE_CONTROL, HeaderValue::from_static("no-store")));
        self.push_fields(&mut headers, shown, &saying, &rejection.detail);
        if context.grpc {
            return grpc(headers, &saying, &rejection.detail);
        }
        if !self.by_accept.is_empty() {
            headers.push((header::VARY, HeaderValue::from_static("Accept")));
        }
        let profile = context.profile.and_then(|name| self.profile(name)).unwrap_or(self.default);
        let (content_type, body) = match profile {
            Profile::Envelope => (&body::JSON, body::envelope(&saying)),
            Profile::ErrorMessage => (&body::JSON, body::error_message(&saying)),
            Profile::ProblemJson => (&body::PROBLEM, body::problem(&saying)),
            Profile::Template(at) => match self.templates.get(at) {
                Some((_, template)) => {
                    headers.extend(template.headers().iter().cloned());
                    (template.content_type(), template.render(&saying))
                }
                None => (&body::PROBLEM, body::problem(&saying)),
            },
        };
        headers.push((header::CONTENT_TYPE, content_type.clone()));
        Rendered { status: saying.status, headers, body }
    }

    /// The fields that depend on the reason, in every profile.
    fn push_fields(
        &self,
        headers: &mut Vec<(HeaderName, HeaderValue)>,
        shown: Reason,
        saying: &Saying<'_>,
        detail: &Detail,
    ) {
        let challenge = self.challenges.for_refusal(shown, saying.description, &saying.permissions);
        if let Some(value) = challenge {
            headers.push((header::WWW_AUTHENTICATE, value));
        }
        if let Detail::Allow(methods) = detail
            && let Ok(value) = HeaderValue::from_str(methods)
        {
            headers.push((header::ALLOW, value));
        }
        if let Some(seconds) = saying.retry_after {
            headers.push((header::RETRY_AFTER, HeaderValue::from(seconds)));
        }
        if let Detail::RetryAfter(report) = detail {
            self.rate_fields.each(report, |name, value| {
                if let Ok(value) = HeaderValue::from_bytes(value) {
                    headers.push((name, value));
                }
            });
        }
    }

    /// The fields that show an admitted caller what is left of its limits.
    pub fn limit_fields(&self, report: &LimitReport, add: impl FnMut(HeaderName, &[u8])) {
        self.rate_fields.each(report, add);
    }
}

fn status(reason: Reason) -> StatusCode {
    // The enum has no invalid status. If it had one, the request would still be refused.
    StatusCode::from_u16(reason.status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE)
}

fn retry_after(reason: Reason, detail: &Detail) -> Option<u64> {
    match (reason, detail) {
        (_, Detail::RetryAfter(report)) => Some(whole_seconds(report.longest_wait()).max(1)),
        (
            Reason::NoTable | Reason::Overloaded | Reason::RateLimited | Reason::TokenKeysMissing,
            _,
        ) => Some(1),
        // Thirty a minute: the next one is available within two seconds.
        (Reason::TokenBudget, _) => Some(2),
        _ => None,
    }
}

/// Trailers-only: HTTP 200, the verdict in `grpc-status` (gRPC over HTTP/2, "Responses").
fn grpc(
    mut headers: Vec<(HeaderName, HeaderValue)>,
    saying: &Saying<'_>,
    detail: &Detail,
) -> Rendered {
    let status = match saying.status.as_u16() {
        401 => 16,                  // UNAUTHENTICATED
        403 => 7,                   // PERMISSION_DENIED
        404 | 405 => 12,            // UNIMPLEMENTED
        408 => 4,                   // DEADLINE_EXCEEDED
        413 | 414 | 429 | 431 => 8, // RESOURCE_EXHAUSTED
        400 | 417 => 3,             // INVALID_ARGUMENT
        _ => 14,                    // UNAVAILABLE
    };
    let Saying { code, message, advice, request_id, .. } = saying;
    let text = format!("{code}: {message}; {advice} (request {request_id})");
    headers.push((header::CONTENT_TYPE, HeaderValue::from_static("application/grpc")));
    headers.push((HeaderName::from_static("grpc-status"), HeaderValue::from(status)));
    if let Ok(value) = HeaderValue::from_str(&body::grpc_message(&text)) {
        headers.push((HeaderName::from_static("grpc-message"), value));
    }
    if let Detail::RetryAfter(report) = detail {
        let ms = report.longest_wait().as_millis().max(1).min(u128::from(u32::MAX)) as u32;
        headers.push((HeaderName::from_static("grpc-retry-pushback-ms"), HeaderValue::from(ms)));
    }
    Rendered { status: StatusCode::OK, headers, body: Bytes::new() }
}

// === impl Profile ===

impl Profile {
    pub const BUILT_IN: [(&'static str, Self); 3] = [
        ("problem+json", Self::ProblemJson),
        ("error-message", Self::ErrorMessage),
        ("envelope", Self::Envelope),
    ];
}

#[cfg(test)]
mod tests;
