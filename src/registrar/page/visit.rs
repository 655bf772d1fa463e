//! One request from somebody's browser: who asks, in which language, and the frame of the answer.

use std::net::IpAddr;

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::header::{HeaderValue, RETRY_AFTER};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Redirect, Response};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use super::data::FormData;
use super::view::{Choice, ErrorPage, NavLink, PersonView, Shell};
use super::words::{Words, fill};
use super::{bare_shell, base_of, html, is_mounted, language};
use crate::core::{Digest, OrgId};
use crate::manage::operation::may::{Actor, KeyAction, OrgAction, PersonRole};
use crate::registrar::app::App;
use crate::registrar::config::AudienceConfig;
use crate::registrar::people::{AuthError, Caller, SIGN_IN};
use crate::registrar::request::{RequestId, client_of};
use crate::registrar::sight::{CallerSight, SightError, key_ref};
use crate::registrar::store::{
    ChangeRequest, Changed, IdempotencyKey, KeyChange, KeyRow, StoreActor, StoreError,
};

/// Somebody who looks at the keys of an org.
#[derive(Debug)]
pub struct Visit {
    pub app: App,
    pub sight: CallerSight,
    pub w: &'static Words,
    pub audience: AudienceConfig,
    pub address: Option<IpAddr>,
    pub query: FormData,
    /// The path that precedes every link.
    base: String,
    /// The request arrived at the product's path.
    is_mounted: bool,
    request_id: Box<str>,
}

/// A submitted form that belongs to this session and to the org on the screen.
#[derive(Debug)]
pub struct PostedForm {
    pub visit: Visit,
    pub form: FormData,
}

/// The part of the page that is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    Audit,
    Findings,
    Keys,
    Members,
    None,
    Policy,
    Publication,
    Sessions,
    Signers,
}

// === impl Visit ===

impl FromRequestParts<App> for Visit {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Response> {
        let caller = match Caller::from_request_parts(parts, app).await {
            Ok(caller) => caller,
            Err(error) => return Err(refuse(parts, app, None, &error)),
        };
        if !matches!(caller.actor, StoreActor::Person { .. }) {
            // A key uses the API.
            return Err(refuse(parts, app, None, &AuthError::NotFound));
        }
        let sight = match CallerSight::of(app, caller.clone()).await {
            Ok(sight) => sight,
            Err(SightError::Auth(error)) => return Err(refuse(parts, app, Some(&caller), &error)),
            Err(SightError::Store(error)) => {
                return Err(refuse(parts, app, None, &AuthError::Store(error)));
            }
            Err(SightError::NotAllowed(_)) => {
                return Err(refuse(parts, app, None, &AuthError::NotFound));
            }
        };
        let Some(audience) = app.settings.audience(sight.audience()).cloned() else {
            return Err(refuse(parts, app, None, &AuthError::NotFound));
        };
        let request_id = parts.extensions.get::<RequestId>();
        Ok(Self {
            app: app.clone(),
            sight,
            w: language(&parts.headers),
            audience,
            address: client_of(parts),
            base: base_of(app, parts),
            is_mounted: is_mounted(app, parts),
            query: FormData::parse(parts.uri.query().unwrap_or_default()),
            request_id: request_id.map(|id| id.0.clone()).unwrap_or_default(),
        })
    }
}

// === impl PostedForm ===

impl FromRequest<App> for PostedForm {
    type Rejection = Response;

    async fn from_request(request: Request, app: &App) -> Result<Self, Response> {
        let (mut parts, body) = request.into_parts();
        let visit = Visit::from_request_parts(&mut parts, app).await?;
        let body = String::from_request(Request::from_parts(parts, body), app).await;
        let form = FormData::parse(&body.map_err(axum::response::IntoResponse::into_response)?);
        match visit.refusal(&form) {
            Some(refusal) => Err(refusal),
            None => Ok(Self { visit, form }),
        }
    }
}

impl Visit {
    /// The path that precedes every link, without `/` at its end.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Unix seconds.
    pub const fn now(&self) -> u64 {
        self.sight.now()
    }

    pub fn role(&self) -> PersonRole {
        match &self.sight.actor {
            Actor::Person { role, .. } => *role,
            Actor::Host | Actor::Key { .. } => PersonRole::Member,
        }
    }

    /// Whether to offer a button. The store decides when somebody presses it.
    pub fn may(&self, action: KeyAction<'_>, key: &KeyRow) -> bool {
        self.sight.may(action, key).is_ok()
    }

    pub fn may_in(&self, action: OrgAction<'_>) -> bool {
        self.sight.may_in(action).is_ok()
    }

    /// Operators do not issue keys, and auditors only look.
    pub fn can_create(&self) -> bool {
        let makes =
            matches!(self.role(), PersonRole::Admin | PersonRole::Member | PersonRole::Owner);
        makes && self.sight.org.is_some()
    }

    /// The key with this name. Unknown, foreign and forbidden look the same.
    pub async fn key(&self, name: &str) -> Result<KeyRow, Response> {
        let unknown = || self.failed(&StoreError::NoSuchKey);
        let key = key_ref(name).ok_or_else(unknown)?;
        self.sight.key(&self.app, key, KeyAction::See).await.map_err(|error| match error {
            SightError::Store(error) => self.failed(&error),
            SightError::Auth(_) | SightError::NotAllowed(_) => unknown(),
        })
    }

    /// The frame of a screen.
    pub fn shell(&self, section: Section, title: impl Into<String>) -> Shell {
        let bare = bare_shell(&self.app, self.base.clone());
        let person = self.sight.caller.person.as_ref();
        let name = person.map(|person| person.name.to_string()).unwrap_or_default();
        let shown = self.sight.org.as_ref().map(|org| org.as_str().to_owned());
        let orgs = self.sight.caller.orgs.iter().filter(|_| !self.is_mounted).map(|member| {
            let org = member.org.as_str().to_owned();
            Choice { label: org.clone(), chosen: Some(&org) == shown.as_ref(), value: org }
        });
        let orgs = orgs.collect();
        Shell {
            title: title.into(),
            form: self.sight.caller.form.as_ref().map(|form| form.text()).unwrap_or_default(),
            once: once(),
            tail: self.tail(),
            behind: self.app.publishing.as_ref().is_some_and(|publishing| {
                let state = publishing.publisher.state(&self.audience.name);
                state.is_some_and(|state| state.behind.is_some())
            }),
            links: self.links(&bare.base, section),
            person: Some(PersonView {
                name,
                org: shown.unwrap_or_else(|| self.w.installation.to_string()),
                orgs,
                // Neither exists on a product's path.
                signs_out: self.sight.caller.session.is_some() && !self.is_mounted,
            }),
            ..bare
        }
    }

    fn links(&self, base: &str, section: Section) -> Vec<NavLink> {
        let w = self.w;
        let link = |path: &str, label: &str, icon, is| NavLink {
            href: format!("{base}/{path}{}", self.tail()),
            label: label.to_owned(),
            icon,
            current: section == is,
            group: None,
        };
        let mut links = Vec::new();
        let own = self.sight.caller.bound_to();
        let open = |audience: &&AudienceConfig| own.is_none_or(|own| *own == audience.name);
        let several = self.app.settings.audiences.iter().filter(open).count() > 1;
        for audience in self.app.settings.audiences.iter().filter(open) {
            let is_shown = audience.name == self.audience.name;
            let name = percent_encoding::utf8_percent_encode(
                audience.name.as_str(),
                percent_encoding::NON_ALPHANUMERIC,
            );
            links.push(NavLink {
                href: match several {
                    true => format!("{base}/keys?audience={name}"),
                    false => format!("{base}/keys{}", self.tail()),
                },
                label: match several {
                    true => format!("{} · {}", audience.labels.keys, audience.name),
                    false => audience.labels.keys.to_string(),
                },
                icon: "key",
                current: is_shown && section == Section::Keys,
                group: None,
            });
        }
        if self.may_in(OrgAction::SeeUsage) {
            links.push(link("findings", &w.findings_title, "warning", Section::Findings));
        }
        if self.may_in(OrgAction::SeeAudit) {
            links.push(link("audit", &w.audit_title, "log", Section::Audit));
        }
        if self.sight.org.is_some() && self.may_in(OrgAction::SeeMembers) {
            links.push(link("members", &w.members_title, "people", Section::Members));
            links.push(link("policy", &w.policy_title, "rules", Section::Policy));
        }
        if self.sight.caller.session.is_some() {
            links.push(link("sessions", &w.sessions_title, "screen", Section::Sessions));
        }
        let publication =
            link("publication", &w.publication_title, "publish", Section::Publication);
        links.push(NavLink { group: Some(w.installation.to_string()), ..publication });
        links.push(link("signers", &w.signers_title, "seal", Section::Signers));
        links
    }

    /// The audience, where there are several, for links without a query of their own.
    pub fn tail(&self) -> String {
        match self.app.settings.audiences.as_slice() {
            [_] => String::new(),
            _ => format!("?audience={}", encoded(self.audience.name.as_str())),
        }
    }

    /// `/keys/ID…` of the page, with `query` added.
    pub fn link(&self, path: &str, query: &[(&str, &str)]) -> String {
        let base = self.base();
        let mut to = format!("{base}{path}{}", self.tail());
        for (name, value) in query.iter().filter(|(_, value)| !value.is_empty()) {
            to.push(if to.contains('?') { '&' } else { '?' });
            to.push_str(name);
            to.push('=');
            to.push_str(&encoded(value));
        }
        to
    }

    pub fn go(&self, path: &str, query: &[(&str, &str)]) -> Response {
        Redirect::to(&self.link(path, query)).into_response()
    }

    /// Why a form is not accepted: it belongs to another session, or to another org than the one on
    /// the screen now. With two windows open, somebody may have switched orgs in the other one.
    fn refusal(&self, form: &FormData) -> Option<Response> {
        let w = self.w;
        if self.sight.caller.check_form(form.text("form")).is_err() {
            let text = w.fault_form_old.to_string();
            return Some(self.error(StatusCode::FORBIDDEN, &w.forbidden_title, text));
        }
        let shown = self.sight.org.as_ref().map(OrgId::as_str).unwrap_or_default();
        if form.has("in_org") && form.text("in_org") != shown {
            let text = fill(&w.other_org_text, &[("org", form.text("in_org"))]);
            return Some(self.error(StatusCode::CONFLICT, &w.other_org_title, text));
        }
        None
    }

    pub fn in_org(&self) -> String {
        self.sight.org.as_ref().map(|org| org.as_str().to_owned()).unwrap_or_default()
    }

    /// Asks the store for a change, under the name that the form carries.
    pub async fn change(&self, change: KeyChange, form: &FormData) -> Result<Changed, StoreError> {
        let name = form.text("once");
        let is_name = (8..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic());
        let idempotency = is_name.then(|| IdempotencyKey {
            name: format!("page:{name}").into(),
            body: Digest::of(format!("{}\n{}", change.action(), form.content()).as_bytes()),
        });
        let request = ChangeRequest {
            audience: self.audience.name.clone(),
            org: self.sight.org.clone(),
            actor: self.sight.caller.actor.clone(),
            channel: self.sight.caller.channel.clone(),
            at_ms: self.sight.now_ms,
            idempotency,
            change,
        };
        self.app.store.change(request).await
    }

    pub fn error(&self, status: StatusCode, title: &str, text: String) -> Response {
        self.error_to(status, title, text, self.link("/keys", &[]))
    }

    /// The same, with a link that leads on.
    pub fn error_to(
        &self,
        status: StatusCode,
        title: &str,
        text: String,
        href: String,
    ) -> Response {
        let shell = self.shell(Section::None, title);
        let page = ErrorPage {
            w: self.w,
            shell,
            text,
            request_id: String::new(),
            choices: Vec::new(),
            href,
        };
        html(status, &page)
    }

    /// Something that the store did not do, as a screen of its own.
    pub fn failed(&self, error: &StoreError) -> Response {
        let w = self.w;
        let (status, title, text) = match error {
            StoreError::NoSuchKey | StoreError::NoSuchAudience => {
                (StatusCode::NOT_FOUND, &w.not_found_title, w.no_such_key.to_string())
            }
            StoreError::Forbidden { why, .. } => {
                (StatusCode::FORBIDDEN, &w.forbidden_title, why.clone())
            }
            StoreError::Away { .. } => {
                (StatusCode::SERVICE_UNAVAILABLE, &w.busy_title, w.away_text.to_string())
            }
            StoreError::Busy { .. } => {
                (StatusCode::SERVICE_UNAVAILABLE, &w.busy_title, w.busy_text.to_string())
            }
            StoreError::ReadOnly { why } => {
                (StatusCode::SERVICE_UNAVAILABLE, &w.read_only_title, why.clone())
            }
            StoreError::Conflict { .. }
            | StoreError::IdempotencyConflict
            | StoreError::Invalid { .. }
            | StoreError::LastOwner
            | StoreError::OrgVersionMismatch { .. }
            | StoreError::VersionMismatch { .. } => {
                (StatusCode::CONFLICT, &w.not_done_title, error.to_string())
            }
            StoreError::Broken { .. } | StoreError::NewerSchema { .. } => {
                tracing::error!(%error, request = %self.request_id, "a page could not be shown");
                return self.trouble();
            }
        };
        let mut answer = self.error(status, title, text);
        if let Some(wait) = error.retry_after() {
            let seconds = HeaderValue::from(wait.as_secs().max(1));
            answer.headers_mut().insert(RETRY_AFTER, seconds);
        }
        answer
    }

    fn trouble(&self) -> Response {
        let w = self.w;
        let page = ErrorPage {
            w,
            shell: self.shell(Section::None, w.trouble_title.to_string()),
            text: w.trouble_text.to_string(),
            request_id: self.request_id.to_string(),
            choices: Vec::new(),
            href: self.link("/keys", &[]),
        };
        html(StatusCode::INTERNAL_SERVER_ERROR, &page)
    }
}

fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// A name that no form had before. Without randomness a form has no name, and may be sent twice.
fn once() -> String {
    let mut bytes = [0; 16];
    match SystemRandom::new().fill(&mut bytes) {
        Ok(()) => BASE64_URL_SAFE_NO_PAD.encode(bytes),
        Err(_) => String::new(),
    }
}

/// The answer to somebody who is not let in: the sign-in page, or a screen that says why.
fn refuse(parts: &Parts, app: &App, caller: Option<&Caller>, error: &AuthError) -> Response {
    let w = language(&parts.headers);
    let is_look = matches!(parts.method, Method::GET | Method::HEAD);
    let shell = bare_shell(app, base_of(app, parts));
    // On a product's path people sign in as they usually do at the product.
    let there = is_mounted(app, parts);
    let sign_in = match &app.settings.product_sign_in {
        Some(url) if there => url.to_string(),
        _ if there => format!("{}/keys", shell.base),
        _ => format!("{}{SIGN_IN}", shell.base),
    };
    let leads_on = !there || app.settings.product_sign_in.is_some();
    let (title, text) = match error {
        AuthError::NoCredential | AuthError::Unknown if is_look && leads_on => {
            return Redirect::to(&sign_in).into_response();
        }
        AuthError::NoCredential | AuthError::Unknown if is_look => {
            (&w.product_sign_in_title, w.product_sign_in_text.to_string())
        }
        AuthError::NoCredential | AuthError::Unknown => {
            (&w.signed_out_title, w.signed_out_text.to_string())
        }
        AuthError::ChooseOrg => (&w.choose_org_title, w.choose_org_text.to_string()),
        AuthError::NotFound => (&w.not_found_title, w.no_such_page.to_string()),
        AuthError::Store(_) | AuthError::Unreachable => (&w.busy_title, w.busy_text.to_string()),
        error => (&w.forbidden_title, error.to_string()),
    };
    let choices = match (error, caller) {
        (AuthError::ChooseOrg, Some(caller)) => {
            let orgs = caller.orgs.iter().enumerate().map(|(at, member)| Choice {
                value: member.org.as_str().to_owned(),
                label: member.org.as_str().to_owned(),
                chosen: at == 0,
            });
            orgs.collect()
        }
        _ => Vec::new(),
    };
    let form = caller.and_then(|caller| caller.form.as_ref()).map(|form| form.text());
    let request_id = parts.extensions.get::<RequestId>().map(|id| id.0.to_string());
    let page = ErrorPage {
        w,
        shell: Shell { title: title.to_string(), form: form.unwrap_or_default(), ..shell },
        text,
        request_id: match error {
            AuthError::Store(_) | AuthError::Unreachable => request_id.unwrap_or_default(),
            _ => String::new(),
        },
        choices,
        href: sign_in,
    };
    let mut answer = html(error.status(), &page);
    if let Some(seconds) = error.retry_after() {
        answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    answer
}
