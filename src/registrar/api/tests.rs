//! The API in process. Every answer is compared with the document.

mod attacks;
mod matrix;
mod openapi;
mod policy;
mod requests;
mod usage;

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::core::{Digest, OrgId, Owner};
use crate::manage::operation::CreateRequest;
use crate::manage::operation::may::PersonRole;
use crate::registrar::request::SESSION_COOKIE as COOKIE;
use crate::registrar::serve::tests::{Ask, TestDesk, Told};
use crate::registrar::store::suite::{self, NOW};
use crate::registrar::store::{
    Changed, KeyChange, MemberChange, Person, SessionKind, SessionRow, owner_subject,
};

/// Somebody with a credential.
#[derive(Clone, Debug)]
pub(super) enum Who {
    Nobody,
    Key(String),
    /// With a session's token.
    Person(String),
}

/// Sends it as `who`, and checks that the document declares the answer.
pub(super) async fn ask(
    desk: &TestDesk,
    who: &Who,
    method: Method,
    path: &str,
    body: Option<Value>,
) -> Told {
    ask_with(desk, who, method, path, body, &[]).await
}

pub(super) async fn ask_with(
    desk: &TestDesk,
    who: &Who,
    method: Method,
    path: &str,
    body: Option<Value>,
    fields: &[(&str, &str)],
) -> Told {
    let mut request = Ask::new(method.clone(), path);
    request = match who {
        Who::Nobody => request,
        Who::Key(secret) => request.with("x-api-key", secret),
        Who::Person(token) => request
            .with("cookie", &format!("{COOKIE}={token}"))
            .with("sec-fetch-site", "same-origin"),
    };
    for (name, value) in fields {
        request = request.with(name, value);
    }
    if let Some(body) = body {
        request = request.body("application/json", &body.to_string());
    }
    let told = desk.send(request).await;
    openapi::declares(&method, path, &told);
    told
}

/// Somebody with this role in `org`, signed in; an operator is in none.
pub(super) async fn person(desk: &TestDesk, role: PersonRole, org: &str, sub: &str) -> Who {
    let id = suite::person(sub);
    let is_operator = role == PersonRole::Operator;
    let person = Person {
        id: id.clone(),
        name: sub.into(),
        email: "".into(),
        operator: is_operator,
        seen_ms: NOW,
    };
    desk.store.put_person(person).await.unwrap();
    if !is_operator {
        let change = MemberChange {
            org: OrgId::parse(org).unwrap(),
            id: id.clone(),
            role: Some(role),
            about: None,
            within: None,
            actor: suite::host(),
            channel: Default::default(),
            at_ms: NOW,
        };
        desk.store.change_member(change).await.unwrap();
    }
    let token = format!("token-of-{org}-{sub}");
    let session = SessionRow {
        digest: Digest::of(token.as_bytes()),
        id: format!("session-{sub}").into(),
        kind: SessionKind::Person,
        person: id,
        org: (!is_operator).then(|| OrgId::parse(org).unwrap()),
        detail: json!({}),
        epoch: 0,
        created_ms: NOW,
        seen_ms: NOW,
        ends_ms: NOW + 3_600_000,
        address: "192.0.2.7".into(),
        agent: "test".into(),
    };
    desk.store.put_session(session).await.unwrap();
    Who::Person(token)
}

/// A key of `acme` with these permissions, as a caller.
pub(super) async fn key(desk: &TestDesk, words: &[&str]) -> Who {
    Who::Key(desk.key(words).await.1)
}

/// The owner that somebody's keys name.
pub(super) fn owned(sub: &str) -> String {
    owner_subject(&suite::person(sub))
}

/// A key for somebody to look at or change.
pub(super) async fn target(desk: &TestDesk, owner: Option<&str>) -> Changed {
    let mut wanted =
        CreateRequest { permissions: suite::words(&["read"]), ..suite::new_key("target") };
    if let Some(owner) = owner {
        let owner = Owner::new(&owned(owner), "", "").unwrap();
        wanted.details.owner = crate::manage::operation::OwnerChange::State {
            subject: Some(owner.view().subject.to_owned()),
            email: None,
            role: None,
        };
    }
    let change = KeyChange::Create(Box::new(wanted));
    desk.store.change(suite::request(suite::host(), change)).await.unwrap()
}

pub(super) fn path_of(made: &Changed, rest: &str) -> String {
    format!("/v1/orgs/acme/keys/{}{rest}", made.key.entry.id)
}

#[track_caller]
pub(super) fn is(told: &Told, status: u16) {
    assert_eq!(told.status, StatusCode::from_u16(status).unwrap(), "{told:?}");
}
