//! The documented list: all existing keys of an org. No product's page divides its list into pages,
//! so an answer can be long. It goes out as it is read, and only one page of the store is held in
//! memory.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use http_body::Frame;
use tokio::sync::mpsc;

use super::answer::EndpointError;
use super::{EndpointCall, status};
use crate::manage::operation::may::OrgAction;
use crate::registrar::dialect::code::{DialectCode, DialectError};
use crate::registrar::dialect::map::{KeyValues, ListFrame, Skeleton};
use crate::registrar::dialect::operation::DialectOperation;
use crate::registrar::store::{KeyPage, KeyQuery, KeyState, Store};

/// A body whose pieces arrive through a channel. It ends early if the store fails: the client then
/// sees a body that is cut off, not one that looks complete.
struct ListBody(mpsc::Receiver<Result<Bytes, ListCut>>);

#[derive(Debug, thiserror::Error)]
#[error("the list was cut")]
struct ListCut;

/// How to write the rest of a list.
struct ListRest {
    store: Arc<dyn Store>,
    query: KeyQuery,
    key: Skeleton,
    tail: String,
}

// === impl EndpointCall ===

impl EndpointCall<'_> {
    pub(super) async fn list(
        &self,
        operation: &DialectOperation,
    ) -> Result<Response, EndpointError> {
        let internal = || DialectError::of(DialectCode::Internal);
        let key = operation.key.as_ref().ok_or_else(internal)?;
        self.sight.may_in(OrgAction::ListKeys)?;
        let org = Some(self.org.clone());
        let mut query = KeyQuery::all(self.audience().clone(), org, self.sight.now_ms);
        query.state = Some(KeyState::Kept);
        query.limit = KeyQuery::MOST;
        query.owner = self.sight.own_keys_only();
        let first = self.app.store.keys(query.clone()).await?;
        let ListFrame { head, tail } = operation.answer.of_list(&self.org);
        let form = [(header::CONTENT_TYPE, "application/json")];
        let mut text = head;
        push(&mut text, &first, key, query.now_ms);
        let Some(next) = first.next else {
            text.push_str(&tail);
            return Ok((status(operation.status), form, Body::from(text)).into_response());
        };
        query.cursor = Some(next);
        let (sender, receiver) = mpsc::channel(1);
        let store = Arc::clone(&self.app.store);
        let rest = ListRest { store, query, key: key.clone(), tail };
        tokio::spawn(async move {
            // When the client is gone, nobody is left to receive it.
            if sender.send(Ok(text.into())).await.is_ok() {
                rest.send(&sender).await;
            }
        });
        Ok((status(operation.status), form, Body::new(ListBody(receiver))).into_response())
    }
}

/// Adds the keys of a page, with commas between keys.
fn push(text: &mut String, page: &KeyPage, key: &Skeleton, now_ms: u64) {
    for (at, row) in page.keys.iter().enumerate() {
        if at > 0 {
            text.push(',');
        }
        text.push_str(&key.of_key(KeyValues { row, secret: None, now: now_ms / 1000 }));
    }
}

// === impl ListRest ===

impl ListRest {
    async fn send(mut self, to: &mpsc::Sender<Result<Bytes, ListCut>>) {
        loop {
            let page = match self.store.keys(self.query.clone()).await {
                Ok(page) => page,
                Err(error) => {
                    tracing::warn!(%error, "a list of keys was cut");
                    let _ = to.send(Err(ListCut)).await;
                    return;
                }
            };
            let mut text = String::new();
            if !page.keys.is_empty() {
                text.push(',');
            }
            push(&mut text, &page, &self.key, self.query.now_ms);
            self.query.cursor = page.next;
            let is_last = self.query.cursor.is_none();
            if is_last {
                text.push_str(&self.tail);
            }
            if to.send(Ok(text.into())).await.is_err() || is_last {
                return;
            }
        }
    }
}

// === impl ListBody ===

impl http_body::Body for ListBody {
    type Data = Bytes;
    type Error = ListCut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ListCut>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}
