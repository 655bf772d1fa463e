//! One request and its answer, from the first byte of the one to the last of the other: [`service`] is
//! the page, the other files are its steps. Of the client's connection it knows only [`connection`].

pub(crate) mod admit;
mod answer_plan;
pub(crate) mod connection;
pub(crate) mod cors;
pub(crate) mod counted_body;
pub(crate) mod credentials;
pub(crate) mod download;
pub(crate) mod exchange;
pub(crate) mod facts;
pub(crate) mod grpc;
mod head_changes;
pub(crate) mod record;
pub(crate) mod reply;
mod response_body;
pub(crate) mod rewrite;
mod sent_tokens;
pub(crate) mod service;
pub mod subprotocol;
pub(crate) mod upgrade;
pub(crate) mod upgrade_request;
