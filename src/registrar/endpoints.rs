//! The URLs that a product documents for its keys, answered in the product's own words. The
//! configuration defines them ([`dialect`](super::dialect)); the store asks the rules of `manage`
//! what is allowed.

mod answer;
mod change;
mod list;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::routing::{MethodFilter, MethodRouter};
use percent_encoding::percent_decode_str;

use self::answer::{EndpointError, json, refusal};
use super::app::App;
use super::dialect::code::{DialectCode, DialectError};
use super::dialect::operation::{Dialect, DialectOperation, DialectRoute, DialectVerb};
use super::people::{AuthError, Caller};
use super::request::{BODY_LIMIT, RequestId};
use super::sight::{self, CallerSight};
use super::store::{AudienceName, KeyRef, KeyRow};
use crate::core::OrgId;
use crate::manage::operation::may::KeyAction;

/// One documented URL.
#[derive(Debug)]
struct Endpoint {
    dialect: Arc<Dialect>,
    /// Position of the operation in the dialect, and of the route in the operation.
    operation: usize,
    route: usize,
}

/// Who asks for what, in which org.
struct EndpointCall<'c> {
    app: &'c App,
    sight: CallerSight,
    /// The org that the caller is in.
    org: OrgId,
    /// The `{id}` of the path.
    key: Option<KeyRef>,
}

/// The documented URLs of every dialect of the configuration.
pub fn routes(app: &App) -> Router<App> {
    let mut by_path: BTreeMap<String, DialectPath> = BTreeMap::new();
    for dialect in &app.settings.dialects {
        let dialect = Arc::new(dialect.clone());
        for (operation, of) in dialect.operations.iter().enumerate() {
            for (route, told) in of.routes.iter().enumerate() {
                let endpoint = Endpoint { dialect: Arc::clone(&dialect), operation, route };
                by_path.entry(told.pattern()).or_default().add(told, endpoint);
            }
        }
    }
    let add = |router: Router<App>, (path, methods): (String, DialectPath)| {
        router.route(&path, methods.router())
    };
    by_path.into_iter().fold(Router::new(), add)
}

/// The answer to a request below a documented URL that no operation answers, in that product's form.
/// `None`: the path is no product's.
pub fn not_found(app: &App, request: &Request) -> Option<Response> {
    let path = request.uri().path();
    let has = |dialect: &&Dialect| {
        let mut routes = dialect.operations.iter().flat_map(|operation| &operation.routes);
        routes.any(|route| route.is_above(path))
    };
    let dialect = app.settings.dialects.iter().find(has)?;
    let error = DialectError::of(DialectCode::NotFound).into();
    Some(refusal(dialect, &error, id_of(request)))
}

fn id_of(request: &Request) -> &str {
    request.extensions().get::<RequestId>().map_or("", |id| &id.0)
}

/// The methods of one path.
#[derive(Default)]
struct DialectPath {
    router: MethodRouter<App>,
    methods: Vec<String>,
    dialect: Option<Arc<Dialect>>,
}

// === impl DialectPath ===

impl DialectPath {
    fn add(&mut self, route: &DialectRoute, endpoint: Endpoint) {
        // The configuration accepts no other methods.
        let Ok(method) = MethodFilter::try_from(route.method.clone()) else { return };
        self.dialect = Some(Arc::clone(&endpoint.dialect));
        self.methods.push(route.method.to_string());
        let endpoint = Arc::new(endpoint);
        let handler = move |State(app): State<App>,
                            caller: Result<Caller, AuthError>,
                            request: Request| async move {
            endpoint.answer(&app, caller, request).await
        };
        self.router = std::mem::take(&mut self.router).on(method, handler);
    }

    /// Adds an answer for the other methods.
    fn router(self) -> MethodRouter<App> {
        let Self { router, methods, dialect } = self;
        let Some(dialect) = dialect else { return router };
        let allow = methods.join(", ");
        router.fallback(move |request: Request| async move {
            let error = DialectError::of(DialectCode::MethodNotAllowed);
            let mut answer = refusal(&dialect, &EndpointError::from(error), id_of(&request));
            if let Ok(allow) = HeaderValue::try_from(allow) {
                answer.headers_mut().insert(header::ALLOW, allow);
            }
            answer
        })
    }
}

// === impl Endpoint ===

impl Endpoint {
    fn operation(&self) -> Result<(&DialectOperation, &DialectRoute), EndpointError> {
        let operation = self.dialect.operations.get(self.operation);
        let route = operation.and_then(|operation| operation.routes.get(self.route));
        let internal = || DialectError::of(DialectCode::Internal).into();
        operation.zip(route).ok_or_else(internal)
    }

    async fn answer(
        &self,
        app: &App,
        caller: Result<Caller, AuthError>,
        request: Request,
    ) -> Response {
        let id = id_of(&request).to_owned();
        match self.carry_out(app, caller, request).await {
            Ok(answer) => answer,
            Err(error) => refusal(&self.dialect, &error, &id),
        }
    }

    async fn carry_out(
        &self,
        app: &App,
        caller: Result<Caller, AuthError>,
        request: Request,
    ) -> Result<Response, EndpointError> {
        let (operation, route) = self.operation()?;
        let (parts, body) = request.into_parts();
        let call = EndpointCall::of(app, caller?, &self.dialect, route, &parts).await?;
        if operation.verb == DialectVerb::List {
            return call.list(operation).await;
        }
        let too_large = |_| EndpointError::from(DialectError::of(DialectCode::TooLarge));
        let body = to_bytes(body, BODY_LIMIT).await.map_err(too_large)?;
        match (operation.verb, call.key) {
            (DialectVerb::Create, _) => call.create(operation, &body).await,
            (DialectVerb::Get, Some(key)) => {
                let row = call.living(key).await?;
                Ok(json(operation.status, call.written(operation, &row)))
            }
            (DialectVerb::Update, Some(key)) => call.update(operation, key, &body).await,
            (DialectVerb::Rotate, Some(key)) => call.rotate(operation, key).await,
            (DialectVerb::Revoke, Some(key)) => call.revoke(operation, key).await,
            // The configuration refuses both: a list here, and other verbs without a key.
            (DialectVerb::List, _) | (_, None) => {
                Err(DialectError::of(DialectCode::Internal).into())
            }
        }
    }
}

// === impl EndpointCall ===

impl<'c> EndpointCall<'c> {
    async fn of(
        app: &'c App,
        caller: Caller,
        dialect: &Dialect,
        route: &DialectRoute,
        parts: &Parts,
    ) -> Result<Self, EndpointError> {
        // Keys, people of another audience's product and people whose provider is for another one
        // open nothing here. Anybody else who is signed in to the service itself has their role in
        // all of them.
        let mut caller = caller.in_audience(&dialect.audience)?;
        let words = route.words(parts.uri.path());
        if let Some(org) = words.org {
            let unknown = || DialectError::of(DialectCode::NoSuchKey);
            let org = percent_decode_str(org).decode_utf8().map_err(|_| unknown())?;
            caller = caller.in_org(&OrgId::parse(&org).map_err(|_| unknown())?)?;
        }
        // Operators look after the installation; they are not in a product's org.
        let org = caller.scope()?.cloned().ok_or(AuthError::NoRole)?;
        let key = words.key.map(key_ref).transpose()?;
        Ok(Self { app, sight: CallerSight::of(app, caller).await?, org, key })
    }

    fn audience(&self) -> &AudienceName {
        self.sight.audience()
    }

    /// The key, unless it has ended permanently: the product's clients are told then that it does
    /// not exist.
    async fn living(&self, key: KeyRef) -> Result<KeyRow, EndpointError> {
        let found = self.sight.key(self.app, key, KeyAction::See).await?;
        match found.entry.status.is_final() {
            true => Err(DialectError::of(DialectCode::NoSuchKey).into()),
            false => Ok(found),
        }
    }
}

/// A key's id or UUID.
fn key_ref(text: &str) -> Result<KeyRef, DialectError> {
    sight::key_ref(text).ok_or_else(|| DialectError::of(DialectCode::BadId))
}

/// The configuration only accepts statuses that HTTP knows.
fn status(number: u16) -> StatusCode {
    StatusCode::from_u16(number).unwrap_or(StatusCode::OK)
}
