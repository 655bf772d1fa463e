//! `/v1/orgs/ORG/keys`: list, create, show, change, rotate, suspend, enable, revoke.

use std::pin::pin;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::access::{AskingCaller, KeyCall, seen_key};
use super::document::{
    AuditPageDocument, ChangeDocument, ChangedSince, InForceDocument, KeyDocument, KeyPageDocument,
};
use super::head::{ChangeCall, PathNames, QueryParameters};
use super::lists::{audit_query, grantable};
use super::problem::{ApiProblem, ProblemDocument};
use super::requests::{self, KeyCreation, KeyPatch, KeyRotation, NewKeyDefaults};
use crate::core::{Environment, KeyKind, OrgId, Permission};
use crate::manage::operation::may::{KeyAction, OrgAction};
use crate::manage::operation::{OwnerChange, StatusChange};
use crate::manage::time::{self, When};
use crate::registrar::app::{App, MadeChange};
use crate::registrar::people::CallerBy;
use crate::registrar::search::KeySearch;
use crate::registrar::sight::CallerSight;
use crate::registrar::store::{
    AuditQuery, ChangeRequest, Cursor, KeyChange, KeyCount, KeyQuery, KeyRef, KeyRow, KeySort,
    KeyState, Replay, StoreActor, StoreError, UnusedKeys,
};

const SERIAL: HeaderName = HeaderName::from_static("keygate-serial");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

const LIST: &[&str] = &[
    "cursor",
    "environment",
    "expires_before",
    "limit",
    "permission",
    "q",
    "sort",
    "state",
    "unused_since",
];

/// A path of a key.
type KeyPath = PathNames<(String, String)>;

/// The parts of the answer to a change, in addition to its document.
struct ChangeAnswer {
    status: StatusCode,
    made: MadeChange,
}

/// List the keys of an organization
///
/// Members see only their own keys. `cursor` leads to the next page; the filters have to stay the
/// same.
#[utoipa::path(
    get, path = "/orgs/{org}/keys", tag = "keys", operation_id = "listKeys",
    params(
        ("org" = String, Path),
        ("q" = Option<String>, Query, description = "A part of the name, of the id, or of the \
         first characters of the secret, with or without its prefix. Of a whole secret only the \
         beginning counts; do not send one, because proxies log addresses. One or two characters \
         mean the beginning of the name."),
        ("state" = Option<String>, Query, description = "`active`, `canary`, `disabled`, \
         `expired`, `kept` (all but revoked keys and canaries), `not_yet_valid` or `revoked`."),
        ("permission" = Option<String>, Query, description = "Keys that hold it, also by `*`."),
        ("environment" = Option<String>, Query, description = "`live` or `test`."),
        ("expires_before" = Option<String>, Query, description = "A time from now, such as `14d`, \
         a day or an instant."),
        ("unused_since" = Option<String>, Query, description = "Keys that nobody was seen to use \
         since, and that are not newer than that: a time before now, such as `90d`, a day or an \
         instant."),
        ("sort" = Option<String>, Query, description = "`newest` (the default), `oldest`, `name` \
         or `expires` (keys without an end are left out)."),
        ("limit" = Option<u32>, Query, description = "1 to 200; 50 if left out."),
        ("cursor" = Option<String>, Query, description = "`next` of the page before."),
    ),
    responses((status = 200, body = KeyPageDocument), super::openapi::Problems),
)]
pub async fn list(
    State(app): State<App>,
    caller: AskingCaller,
    PathNames(org): PathNames<String>,
    parts: Parts,
) -> Result<Json<KeyPageDocument>, ApiProblem> {
    let sight = caller.in_org(&app, &org).await?;
    sight.may_in(OrgAction::ListKeys)?;
    let query = list_query(&app, &sight, &parts)?;
    let is_first = query.cursor.is_none();
    let counting = async {
        match is_first {
            true => app.store.count_keys(query.clone()).await.map(Some),
            false => Ok(None),
        }
    };
    let (page, count) = tokio::join!(app.store.keys(query.clone()), counting);
    let page = page?;
    let grantable = match sight.caller.by {
        CallerBy::Embed if is_first => Some(grantable(&app, &sight).await?),
        _ => None,
    };
    Ok(Json(KeyPageDocument {
        grantable,
        keys: page.keys.iter().map(|row| KeyDocument::of(row, sight.now_ms)).collect(),
        next: page.next.map(|cursor| cursor.as_str().to_owned()),
        count: count?.map(|count| match count {
            KeyCount::Exactly(number) => number.to_string(),
            KeyCount::More => format!("{}+", KeyCount::MOST),
        }),
    }))
}

/// Create a key
///
/// The answer contains the secret, only this once.
#[utoipa::path(
    post, path = "/orgs/{org}/keys", tag = "keys", operation_id = "createKey",
    params(
        ("org" = String, Path),
        ("Idempotency-Key" = Option<String>, Header, description = "A name of yours for this \
         request. Within 24 h the same request under the same name makes no second key: its \
         answer is that of the first, without the secret and with `Idempotency-Replayed: true`."),
        ("Prefer" = Option<String>, Header, description = "`wait=5` waits up to 5 s until the \
         change is in force on every sidecar that is known."),
    ),
    request_body = KeyCreation,
    responses(
        (status = 201, body = ChangeDocument, headers(
            ("Location" = String), ("ETag" = String), ("Keygate-Serial" = u64),
        )),
        super::openapi::Problems,
    ),
)]
pub async fn create(
    State(app): State<App>,
    caller: AskingCaller,
    PathNames(org): PathNames<String>,
    call: ChangeCall,
) -> Result<Response, ApiProblem> {
    let sight = caller.in_org(&app, &org).await?;
    let org = sight.org.clone().ok_or_else(ApiProblem::not_found)?;
    let audience = app.settings.audience(sight.audience());
    let defaults = NewKeyDefaults {
        kind: audience.map_or(KeyKind::Single, |audience| audience.kind),
        life: audience.and_then(|audience| audience.default_life),
    };
    let mut wanted = requests::new_key(&call.body, org, defaults)?;
    // Keys that people make belong to them, unless they say otherwise.
    if let (OwnerChange::Keep, StoreActor::Person { owner, .. }) =
        (&wanted.details.owner, &sight.caller.actor)
    {
        let owner = owner.view();
        wanted.details.owner = OwnerChange::State {
            subject: Some(owner.subject.to_owned()),
            email: Some(owner.email.to_owned()),
            role: Some(owner.role.to_owned()),
        };
    }
    let change = KeyChange::Create(Box::new(wanted));
    let made = carry_out(&app, &sight, &call, change).await?;
    answer(&app, &sight, &call, ChangeAnswer { status: StatusCode::CREATED, made }).await
}

/// Show a key
#[utoipa::path(
    get, path = "/orgs/{org}/keys/{key}", tag = "keys", operation_id = "getKey",
    params(("org" = String, Path), ("key" = String, Path, description = "Its id or UUID.")),
    responses(
        (status = 200, body = KeyDocument, headers(("ETag" = String))),
        super::openapi::Problems,
    ),
)]
pub async fn show(
    State(app): State<App>,
    caller: AskingCaller,
    PathNames((org, key)): KeyPath,
) -> Result<Response, ApiProblem> {
    let sight = caller.in_org(&app, &org).await?;
    let row = seen_key(&app, &sight, &key, KeyAction::See).await?;
    let etag = [(header::ETAG, format!("\"{}\"", row.version))];
    Ok((etag, Json(KeyDocument::of(&row, sight.now_ms))).into_response())
}

/// Change a key
///
/// Needs `If-Match` with the `ETag` that you have read, so that nobody undoes what somebody else
/// did in the meantime: a 412 lists those changes.
#[utoipa::path(
    patch, path = "/orgs/{org}/keys/{key}", tag = "keys", operation_id = "changeKey",
    params(
        ("org" = String, Path), ("key" = String, Path),
        ("If-Match" = String, Header, description = "The `ETag` of the key, or `*`."),
        ("Idempotency-Key" = Option<String>, Header), ("Prefer" = Option<String>, Header),
    ),
    request_body(content = KeyPatch, content_type = "application/json"),
    responses(
        (status = 200, body = ChangeDocument, headers(
            ("ETag" = String), ("Keygate-Serial" = u64),
        )),
        (status = 412, body = ProblemDocument, content_type = "application/problem+json"),
        (status = 428, body = ProblemDocument, content_type = "application/problem+json"),
        super::openapi::Problems,
    ),
)]
pub async fn change(
    State(app): State<App>,
    KeyCall { sight, key, call }: KeyCall,
) -> Result<Response, ApiProblem> {
    let request = Box::new(requests::key_patch(&call.body)?);
    call.needs_match()?;
    let change = KeyChange::Edit { key, if_match: call.version(), request };
    of_key(&app, &sight, &call, change).await
}

/// Rotate a key
///
/// A single key gets a successor, a pair a second secret. The old secret stays valid for `overlap`.
#[utoipa::path(
    post, path = "/orgs/{org}/keys/{key}/rotate", tag = "keys", operation_id = "rotateKey",
    params(
        ("org" = String, Path), ("key" = String, Path), ("If-Match" = Option<String>, Header),
        ("Idempotency-Key" = Option<String>, Header), ("Prefer" = Option<String>, Header),
    ),
    request_body = Option<KeyRotation>,
    responses(
        (status = 200, body = ChangeDocument, headers(
            ("ETag" = String), ("Keygate-Serial" = u64),
        )),
        (status = 412, body = ProblemDocument, content_type = "application/problem+json"),
        super::openapi::Problems,
    ),
)]
pub async fn rotate(
    State(app): State<App>,
    KeyCall { sight, key, call }: KeyCall,
) -> Result<Response, ApiProblem> {
    let request = Box::new(requests::rotation(&call.body)?);
    let change = KeyChange::Rotate { key, if_match: call.version(), request };
    of_key(&app, &sight, &call, change).await
}

macro_rules! status_change {
    ($(#[$doc:meta])* $name:ident, $method:ident, $path:literal, $operation:literal, $change:expr) => {
        $(#[$doc])*
        #[utoipa::path(
            $method, path = $path, tag = "keys", operation_id = $operation,
            params(
                ("org" = String, Path), ("key" = String, Path),
                ("If-Match" = Option<String>, Header),
                ("Idempotency-Key" = Option<String>, Header), ("Prefer" = Option<String>, Header),
            ),
            responses(
                (status = 200, body = ChangeDocument, headers(
                    ("ETag" = String), ("Keygate-Serial" = u64),
                )),
                (
                    status = 412, body = ProblemDocument,
                    content_type = "application/problem+json"
                ),
                super::openapi::Problems,
            ),
        )]
        pub async fn $name(
            State(app): State<App>,
            KeyCall { sight, key, call }: KeyCall,
        ) -> Result<Response, ApiProblem> {
            requests::nothing(&call.body)?;
            let change =
                KeyChange::SetStatus { key, if_match: call.version(), status: $change };
            of_key(&app, &sight, &call, change).await
        }
    };
}

status_change! {
    /// Suspend a key
    ///
    /// It is refused until somebody enables it.
    disable, post, "/orgs/{org}/keys/{key}/disable", "disableKey", StatusChange::Disable
}

status_change! {
    /// Admit a suspended key again
    enable, post, "/orgs/{org}/keys/{key}/enable", "enableKey", StatusChange::Enable
}

status_change! {
    /// Revoke a key
    ///
    /// Final. Its record stays.
    revoke, post, "/orgs/{org}/keys/{key}/revoke", "revokeKey", StatusChange::Revoke
}

status_change! {
    /// Revoke a key
    ///
    /// As `POST …/revoke`: its record stays.
    delete, delete, "/orgs/{org}/keys/{key}", "deleteKey", StatusChange::Revoke
}

/// List what happened to a key, the newest first
#[utoipa::path(
    get, path = "/orgs/{org}/keys/{key}/audit", tag = "keys", operation_id = "getKeyAudit",
    params(
        ("org" = String, Path), ("key" = String, Path),
        ("before" = Option<u64>, Query, description = "`next` of the page before."),
        ("limit" = Option<u32>, Query, description = "1 to 200; 50 if left out."),
    ),
    responses((status = 200, body = AuditPageDocument), super::openapi::Problems),
)]
pub async fn audit(
    State(app): State<App>,
    caller: AskingCaller,
    PathNames((org, key)): KeyPath,
    parts: Parts,
) -> Result<Json<AuditPageDocument>, ApiProblem> {
    let sight = caller.in_org(&app, &org).await?;
    let row = seen_key(&app, &sight, &key, KeyAction::SeeAudit).await?;
    let query = audit_query(&parts)?;
    let object = Some(row.entry.id.to_string().into());
    let audience = Some(row.audience);
    let query = AuditQuery { org: Some(row.entry.org), audience, object, ..query };
    Ok(Json(AuditPageDocument::of(&app.store.audit(query).await?)))
}

fn list_query(app: &App, sight: &CallerSight, parts: &Parts) -> Result<KeyQuery, ApiProblem> {
    let audience = app.settings.audience(sight.audience());
    let search = |text: &str| {
        let text = search(text)?;
        let sought = audience.map(|audience| KeySearch::of(audience, text).sought);
        Ok(sought.unwrap_or_else(|| text.to_owned()).into())
    };
    let mut given = QueryParameters::of(parts, LIST)?;
    let now = sight.now_ms / 1000;
    let at = |when: When| when.resolve(now).map_err(|e| e.to_string());
    let instant = |text: &str| {
        let at = When::parse_begin(text).map_err(|e| e.to_string()).and_then(at)?;
        at.ok_or_else(|| "must be a time".to_owned())
    };
    let ago = |text: &str| match time::duration(text) {
        Ok(ago) => Ok(now.saturating_sub(ago.as_secs())),
        Err(_) => instant(text),
    };
    let all = KeyQuery::all(sight.audience().clone(), sight.org.clone(), sight.now_ms);
    let query = KeyQuery {
        search: given.take("q", search),
        state: given.take("state", state),
        permission: given
            .take("permission", |word| Permission::parse(word).map_err(|e| e.to_string())),
        environment: given.take("environment", |word| {
            Environment::parse(word).map_err(|_| "must be `live` or `test`".to_owned())
        }),
        expires_before_ms: given.take("expires_before", instant).map(|at| at.saturating_mul(1000)),
        unused: given
            .take("unused_since", ago)
            .map(|at| UnusedKeys::Since(at.saturating_mul(1000))),
        owner: sight.own_keys_only(),
        sort: given.take("sort", sort).unwrap_or_default(),
        limit: given.limit().unwrap_or(all.limit),
        cursor: given.take("cursor", |text| Ok(Cursor::of(text))),
        ..all
    };
    given.end(query)
}

fn search(text: &str) -> Result<&str, String> {
    match text.len() <= 200 && !text.chars().any(char::is_control) {
        true => Ok(text),
        false => Err("must be at most 200 bytes without control characters".to_owned()),
    }
}

fn state(word: &str) -> Result<KeyState, String> {
    Ok(match word {
        "active" => KeyState::Active,
        "canary" => KeyState::Canary,
        "disabled" => KeyState::Disabled,
        "expired" => KeyState::Expired,
        "kept" => KeyState::Kept,
        "not_yet_valid" => KeyState::NotYetValid,
        "revoked" => KeyState::Revoked,
        _ => {
            return Err("must be `active`, `canary`, `disabled`, `expired`, `kept`, \
                        `not_yet_valid` or `revoked`"
                .to_owned());
        }
    })
}

fn sort(word: &str) -> Result<KeySort, String> {
    Ok(match word {
        "expires" => KeySort::Expires,
        "name" => KeySort::Name,
        "newest" => KeySort::Newest,
        "oldest" => KeySort::Oldest,
        _ => return Err("must be `newest`, `oldest`, `name` or `expires`".to_owned()),
    })
}

/// A change of an existing key.
async fn of_key(
    app: &App,
    sight: &CallerSight,
    call: &ChangeCall,
    change: KeyChange,
) -> Result<Response, ApiProblem> {
    let made = carry_out(app, sight, call, change).await?;
    answer(app, sight, call, ChangeAnswer { status: StatusCode::OK, made }).await
}

async fn carry_out(
    app: &App,
    sight: &CallerSight,
    call: &ChangeCall,
    change: KeyChange,
) -> Result<MadeChange, ApiProblem> {
    let key = match &change {
        KeyChange::Create(_) => None,
        KeyChange::Edit { key, .. }
        | KeyChange::Rotate { key, .. }
        | KeyChange::SetStatus { key, .. } => Some(*key),
    };
    let request = ChangeRequest {
        audience: sight.audience().clone(),
        org: sight.org.clone(),
        actor: sight.caller.actor.clone(),
        channel: sight.caller.channel.clone(),
        at_ms: sight.now_ms,
        idempotency: call.idempotency.clone(),
        change,
    };
    match (app.change(request).await, key) {
        (Ok(made), _) => Ok(made),
        (Err(error), Some(key)) => Err(refusal(app, sight, call, key, error).await),
        (Err(error), None) => Err(error.into()),
    }
}

/// The problem that a caller gets when a change of this key fails.
async fn refusal(
    app: &App,
    sight: &CallerSight,
    call: &ChangeCall,
    key: KeyRef,
    error: StoreError,
) -> ApiProblem {
    match &error {
        // A caller who may not see the key must not learn that it exists.
        StoreError::Forbidden { .. } if !sight.sees(app, key).await => ApiProblem::not_found(),
        StoreError::VersionMismatch { current } => {
            let document = KeyDocument::of(current, sight.now_ms);
            let changed = changes_since(app, call.version(), current).await;
            ApiProblem::from(error).with_current(document, changed)
        }
        _ => error.into(),
    }
}

/// The changes after the version that the caller has read. Each version has one line.
async fn changes_since(app: &App, read: Option<u64>, current: &KeyRow) -> Vec<ChangedSince> {
    let missed = current.version.saturating_sub(read.unwrap_or_default());
    let limit = usize::try_from(missed).unwrap_or(usize::MAX).min(50);
    if limit == 0 {
        return Vec::new();
    }
    let query = AuditQuery {
        org: Some(current.entry.org.clone()),
        audience: Some(current.audience.clone()),
        object: Some(current.entry.id.to_string().into()),
        before: None,
        limit,
    };
    match app.store.audit(query).await {
        Ok(page) => page.lines.iter().map(ChangedSince::of).collect(),
        // The mismatch itself is what matters.
        Err(_) => Vec::new(),
    }
}

async fn answer(
    app: &App,
    sight: &CallerSight,
    call: &ChangeCall,
    done: ChangeAnswer,
) -> Result<Response, ApiProblem> {
    let ChangeAnswer { status, made: MadeChange { changed, first } } = done;
    let mut document = ChangeDocument::of(&changed, sight.now_ms);
    // A key that changes itself gets its answer first, so it cannot wait for what follows.
    let wait = call.wait.map(|wait| if first.is_some() { Duration::ZERO } else { wait });
    if let Some(wait) = wait {
        document.in_force = Some(in_force(app, sight, changed.serial, wait).await?);
    }
    let location = location(&changed.key.entry.org, &document.key.id);
    let etag = format!("\"{}\"", changed.key.version);
    let mut response = (status, Json(document)).into_response();
    let head = response.headers_mut();
    head.insert(SERIAL, HeaderValue::from(changed.serial));
    if let Ok(etag) = HeaderValue::try_from(etag) {
        head.insert(header::ETAG, etag);
    }
    if status == StatusCode::CREATED
        && let Ok(location) = HeaderValue::try_from(location)
    {
        head.insert(header::LOCATION, location);
    }
    if changed.replay == Replay::Replayed {
        head.insert(REPLAYED, HeaderValue::from_static("true"));
    }
    if let Some(wait) = wait {
        let applied = HeaderValue::try_from(format!("wait={}", wait.as_secs()));
        if let Ok(applied) = applied {
            head.insert(HeaderName::from_static("preference-applied"), applied);
        }
    }
    Ok(match first {
        Some(first) => first.attach(response),
        None => response,
    })
}

fn location(org: &OrgId, key: &str) -> String {
    format!("/v1/orgs/{}/keys/{key}", org.as_str())
}

/// Waits until every known sidecar has the serial, for `wait` at most.
async fn in_force(
    app: &App,
    sight: &CallerSight,
    serial: u64,
    wait: Duration,
) -> Result<InForceDocument, ApiProblem> {
    const LOOK: Duration = Duration::from_millis(25);
    let audience = sight.audience();
    // Only a few requests of one caller may wait; the others get the present state.
    let place = app.waits.take(sight.caller.actor.label());
    let wait = if place.is_some() { wait } else { Duration::ZERO };
    if let Some(publishing) = &app.publishing {
        let found = publishing.publisher.in_force(audience, serial, wait).await;
        return Ok(InForceDocument {
            published: found.published,
            sidecars: found.sidecars.saturating_sub(found.late.len()) as u64,
            of: found.sidecars as u64,
            missing: found.late.iter().map(ToString::to_string).collect(),
        });
    }
    // If this process does not publish, use what another one has recorded.
    let mut over = pin!(tokio::time::sleep(wait));
    loop {
        let published = app.store.publication(audience).await?.published >= serial;
        let known = app.store.sidecars(audience).await?;
        let missing: Vec<String> = known
            .iter()
            .filter(|sidecar| sidecar.serial < serial)
            .map(|sidecar| sidecar.instance.to_string())
            .collect();
        let of = known.len() as u64;
        let sidecars = of.saturating_sub(missing.len() as u64);
        if published && missing.is_empty() || over.is_elapsed() {
            return Ok(InForceDocument { published, sidecars, of, missing });
        }
        tokio::select! {
            () = over.as_mut() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}
