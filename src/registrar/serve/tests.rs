//! A service on a database of its own, whose clock the test moves, and everything that surrounds a
//! request.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use axum::routing::{any, post};
use axum::{Json, Router};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tower_service::Service as _;

use super::assemble;
use crate::clock::Clock;
use crate::config::ThisHost;
use crate::registrar::app::App;
use crate::registrar::config::AdminToml;
use crate::registrar::dialect::operation::{DialectRoute, DialectVerb, RouteFault};
use crate::registrar::people::Caller;
use crate::registrar::request::Peer;
use crate::registrar::store::sqlite::SqliteStore;
use crate::registrar::store::suite::{self, NOW};
use crate::registrar::store::{Changed, KeyChange, Store};

/// Its only audience is that of the store's tests.
pub(in crate::registrar) const SETTINGS: &str = "state = \"state\"\n[listen]\naddress = \
    \"127.0.0.1:0\"\n[[audiences]]\nname = \"shop\"\nmember_permissions = [\"read\"]\n";

/// The service without its sockets. `/who` says who asks.
pub(in crate::registrar) struct TestDesk {
    _folder: tempfile::TempDir,
    pub(in crate::registrar) app: App,
    pub(in crate::registrar) store: Arc<dyn Store>,
    pub(in crate::registrar) clock: Clock,
    router: Router,
}

/// One request to send.
pub(in crate::registrar) struct Ask {
    request: Request,
}

/// A body that arrives once something else has happened.
struct LateBody {
    first: Pin<Box<dyn Future<Output = ()> + Send>>,
    text: Option<Bytes>,
}

/// The answer to a request.
#[derive(Debug)]
pub(in crate::registrar) struct Told {
    pub(in crate::registrar) status: StatusCode,
    pub(in crate::registrar) fields: axum::http::HeaderMap,
    pub(in crate::registrar) body: String,
}

pub(in crate::registrar) fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
}

async fn who(caller: Caller) -> Json<Value> {
    Json(json!({
        "by": caller.by.as_str(),
        "actor": caller.actor.kind(),
        "name": caller.actor.name(),
        "org": caller.org().map(|org| org.as_str()),
        "role": caller.role.map(|role| role.as_str()),
        "audience": caller.audience().as_str(),
        "address": caller.channel.address,
        "request_id": caller.channel.request_id,
        "orgs": caller.orgs.iter().map(|member| member.org.as_str()).collect::<Vec<_>>(),
        "scope": caller.scope().map_or_else(|error| error.code().to_owned(), |org| {
            org.map_or("all", |org| org.as_str()).to_owned()
        }),
        "form": caller.form.as_ref().map(|form| form.text()),
    }))
}

async fn take(body: axum::body::Bytes) -> String {
    body.len().to_string()
}

// === impl LateBody ===

impl http_body::Body for LateBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        if self.text.is_some() {
            ready!(self.first.as_mut().poll(context));
        }
        Poll::Ready(self.text.take().map(|text| Ok(http_body::Frame::data(text))))
    }
}

// === impl TestDesk ===

impl TestDesk {
    pub(in crate::registrar) fn new(more: &str) -> Self {
        Self::made(|_| format!("{SETTINGS}{more}"))
    }

    /// `settings`: for a folder that files can be put into.
    pub(in crate::registrar) fn made(settings: impl FnOnce(&std::path::Path) -> String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::manual(NOW / 1000);
        let file = folder.path().join("admin.toml");
        std::fs::write(&file, settings(folder.path())).unwrap();
        let settings = AdminToml::load(&ThisHost, &file).unwrap_or_else(|e| panic!("{e}"));
        let mut options = settings.store_options(clock.clone());
        options.path = folder.path().join("registrar.db");
        SqliteStore::migrate(&options.path, options.busy_timeout, NOW).unwrap();
        let store: Arc<dyn Store> = Arc::new(SqliteStore::open(options).unwrap());
        let app = App::new(Arc::clone(&store), settings, clock.clone());
        let rooms = super::rooms(&app).route("/who", any(who)).route("/take", post(take));
        let router = assemble(app.clone(), rooms);
        Self { _folder: folder, app, store, clock, router }
    }

    pub(in crate::registrar) async fn send(&self, ask: Ask) -> Told {
        let answer: Response = self.router.clone().call(ask.request).await.unwrap();
        let (parts, body) = answer.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let body = String::from_utf8(body.to_vec()).unwrap();
        Told { status: parts.status, fields: parts.headers, body }
    }

    /// A key of `acme` with these permissions, and its secret.
    pub(in crate::registrar) async fn key(&self, words: &[&str]) -> (Changed, String) {
        let wanted = crate::manage::operation::CreateRequest {
            permissions: suite::words(words),
            ..suite::new_key("CRM")
        };
        let change = KeyChange::Create(Box::new(wanted));
        let changed = self.store.change(suite::request(suite::host(), change)).await.unwrap();
        let secret = changed.secret.as_ref().unwrap().expose().to_vec();
        (changed, String::from_utf8(secret).unwrap())
    }

    pub(in crate::registrar) fn advance(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }
}

// === impl Ask ===

impl Ask {
    pub(in crate::registrar) fn new(method: Method, path: &str) -> Self {
        let address: IpAddr = [192, 0, 2, 7].into();
        Self {
            request: Request::builder()
                .method(method)
                .uri(path)
                .header("host", "127.0.0.1:9920")
                .extension(Peer { address: Some(address), ..Peer::default() })
                .body(Body::empty())
                .unwrap(),
        }
    }

    pub(in crate::registrar) fn get(path: &str) -> Self {
        Self::new(Method::GET, path)
    }

    pub(in crate::registrar) fn post(path: &str) -> Self {
        Self::new(Method::POST, path)
    }

    /// Adds a field in addition to those with the same name.
    #[expect(clippy::disallowed_methods, reason = "what a stranger may do")]
    pub(in crate::registrar) fn with(mut self, name: &str, value: &str) -> Self {
        let name: axum::http::HeaderName = name.parse().unwrap();
        self.request.headers_mut().append(name, value.parse().unwrap());
        self
    }

    /// As [`Ask::body`], once `first` has happened. The head arrives before that.
    pub(in crate::registrar) fn late(
        self,
        kind: &str,
        body: &str,
        first: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        let mut ask = self.with("content-type", kind);
        let text = Some(Bytes::from(body.to_owned()));
        *ask.request.body_mut() = Body::new(LateBody { first: Box::pin(first), text });
        ask
    }

    pub(in crate::registrar) fn form(self, body: &str) -> Self {
        let mut ask = self.with("content-type", "application/x-www-form-urlencoded");
        *ask.request.body_mut() = Body::from(body.to_owned());
        ask
    }

    pub(in crate::registrar) fn body(self, kind: &str, body: &str) -> Self {
        let mut ask = self.with("content-type", kind);
        *ask.request.body_mut() = Body::from(body.to_owned());
        ask
    }

    pub(in crate::registrar) fn from(mut self, peer: Peer) -> Self {
        self.request.extensions_mut().insert(peer);
        self
    }
}

// === impl Told ===

impl Told {
    pub(in crate::registrar) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// For an error.
    pub(in crate::registrar) fn code(&self) -> String {
        let json = self.json();
        json["code"].as_str().unwrap_or_else(|| panic!("{self:?}")).to_owned()
    }

    /// From `Set-Cookie`, as a browser sends it back.
    pub(in crate::registrar) fn cookie(&self) -> String {
        let field = self.fields.get("set-cookie").unwrap_or_else(|| panic!("{self:?}"));
        field.to_str().unwrap().split(';').next().unwrap().to_owned()
    }
}

#[test]
fn every_answer_tells_browsers_what_to_heed() {
    run(async {
        let desk = TestDesk::new("");
        for path in ["/healthz", "/nothing", "/sign-in", "/who"] {
            let told = desk.send(Ask::get(path)).await;
            let field = |name: &str| told.fields[name].to_str().unwrap().to_owned();
            assert_eq!(field("cache-control"), "no-store", "{path}");
            assert!(field("content-security-policy").starts_with("default-src 'none'"));
            assert_eq!(field("x-frame-options"), "DENY");
            assert_eq!(field("x-content-type-options"), "nosniff");
            assert_eq!(field("x-request-id").len(), 32, "{path}");
        }
        let told = desk.send(Ask::get("/healthz")).await;
        assert_eq!((told.status, &*told.body), (StatusCode::OK, "ok\n"));
        assert_eq!(desk.send(Ask::get("/nothing")).await.code(), "not_found");
    });
}

#[test]
fn a_body_is_at_most_64_kib() {
    run(async {
        let desk = TestDesk::new("");
        let sized = |bytes: usize| Ask::post("/take").form(&"x".repeat(bytes));
        assert_eq!(desk.send(sized(65_536)).await.body, "65536");
        assert_eq!(desk.send(sized(65_537)).await.status, StatusCode::PAYLOAD_TOO_LARGE);
        let stated = sized(1).with("content-length", "65537");
        assert_eq!(desk.send(stated).await.status, StatusCode::PAYLOAD_TOO_LARGE);
    });
}

#[test]
fn metrics_are_for_this_host_or_for_a_token() {
    run(async {
        let desk = TestDesk::new("");
        let local = || Peer { address: Some([127, 0, 0, 1].into()), ..Peer::default() };
        let strange = desk.send(Ask::get("/metrics")).await;
        assert_eq!(strange.code(), "not_found", "of another host");
        desk.send(Ask::get("/who")).await;
        let told = desk.send(Ask::get("/metrics").from(local())).await;
        assert_eq!(told.status, StatusCode::OK);
        for line in [
            "keygate_admin_requests_total{method=\"GET\",route=\"/who\",status=\"401\"} 1",
            "keygate_admin_auth_failures_total{code=\"no_credential\"} 1",
            "keygate_admin_request_duration_seconds_bucket{route=\"/who\",le=\"0.001\"}",
        ] {
            assert!(told.body.contains(line), "{line}\n{}", told.body);
        }
        let behind = "[listen]\naddress = \"127.0.0.1:0\"\npublic_url = \"https://keys.example\"\n";
        let settings = SETTINGS.replace("[listen]\naddress = \"127.0.0.1:0\"\n", behind);
        let desk = TestDesk::made(|_| settings);
        let proxied = desk.send(Ask::get("/metrics").from(local())).await;
        assert_eq!(proxied.status, StatusCode::NOT_FOUND, "everybody comes from the proxy");
        assert!(proxied.fields.contains_key("strict-transport-security"));
    });
}

#[test]
fn an_address_is_believed_from_proxies_that_are_named() {
    run(async {
        let settings = SETTINGS.replace(
            "address = \"127.0.0.1:0\"\n",
            "address = \"127.0.0.1:0\"\ntrusted_proxies = [\"10.0.0.0/8\"]\n",
        );
        let desk = TestDesk::made(|_| settings);
        let (_, secret) = desk.key(&["read"]).await;
        let ask = || Ask::get("/who").with("x-api-key", &secret);
        let seen = |told: Told| told.json()["address"].as_str().unwrap().to_owned();
        let forged = ask().with("x-forwarded-for", "203.0.113.9");
        assert_eq!(seen(desk.send(forged).await), "192.0.2.7", "a stranger says it");
        let proxy = Peer { address: Some([10, 0, 0, 2].into()), ..Peer::default() };
        let told = ask().with("x-forwarded-for", "1.1.1.1, 203.0.113.9, 10.0.0.1").from(proxy);
        assert_eq!(seen(desk.send(told).await), "203.0.113.9");
    });
}

/// The configuration refuses a dialect on any path of the service; the router would end the
/// program.
#[test]
fn no_dialect_takes_a_path_of_the_service() {
    /// The router's own path, for requests that match no other.
    const ELSE: &str = "/{*__private__axum_fallback}";
    let desk = TestDesk::new("");
    // There is no other way to ask a router for its paths.
    let shown = format!("{:?}", super::rooms(&desk.app));
    let rooms = shown.split('"').filter(|text| text.starts_with('/') && *text != ELSE);
    let own = ["/healthz", "/metrics", "/artefacts/{*path}"];
    let paths: BTreeSet<&str> = rooms.chain(own).collect();
    for known in ["/", "/keys/{id}/edit", "/page.css", "/sign-in", "/session/org", "/v1/audit"] {
        assert!(paths.contains(known), "{known}: {paths:?}");
    }
    for path in paths {
        let segment = |part: &str| if part.starts_with('{') { "x" } else { part }.to_owned();
        let path = path.split('/').map(segment).collect::<Vec<_>>().join("/");
        for (verb, method) in [(DialectVerb::List, "GET"), (DialectVerb::Create, "POST")] {
            let read = DialectRoute::parse(&format!("{method} {path}"), verb);
            assert!(matches!(read, Err(RouteFault::Taken(_))), "{path}: {read:?}");
        }
    }
}

/// The router accepts whatever the configuration accepts.
#[test]
fn any_paths_of_a_dialect_stand_beside_each_other() {
    const LIST: &str = "does = \"list\"\nanswer = '[\"$keys\"]'\nkey = '{}'\n";
    const REVOKE: &str = "does = \"revoke\"\nanswer = '{}'\n";
    let parts = ["/a", "/a.b", "/~", "/{id}", "/{org}", ""];
    let (mut operations, mut seen) = (String::new(), BTreeSet::new());
    for (second, third) in parts.iter().flat_map(|s| parts.iter().map(move |t| (s, t))) {
        let path = format!("/api{second}{third}");
        let (verb, method, what) = match path.contains("{id}") {
            true => (DialectVerb::Revoke, "DELETE", REVOKE),
            false => (DialectVerb::List, "GET", LIST),
        };
        let on = format!("{method} {path}");
        // `{id}/{id}` is refused, and so is a path that another operation answers.
        if DialectRoute::parse(&on, verb).is_ok_and(|route| seen.insert((method, route.pattern())))
        {
            operations += &format!("[[dialect.operation]]\non = \"{on}\"\n{what}");
        }
    }
    assert!(seen.len() > 15, "{seen:?}");
    TestDesk::new(&format!("[[dialect]]\nname = \"own\"\nerror = '{{}}'\n{operations}"));
}
