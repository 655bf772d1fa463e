//! What a request knows about its connection.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::Poll;

use http::HeaderValue;

use super::upgrade::Upgraded;
use crate::proxy::body::Unread;
use crate::proxy::http1::request_refuse::JudgedHead;
use crate::proxy::net::io::{Activity, ClientAddr, CutReason};
use crate::proxy::streams::{StreamRef, Streams};

/// What requests of one connection have in common.
pub(crate) struct ClientConnection {
    pub(crate) address: ClientAddr,
    pub(crate) https: bool,
    pub(crate) http2: bool,
    /// Subject of the verified client certificate.
    pub(crate) subject: Option<HeaderValue>,
    pub(crate) activity: Rc<Activity>,
    /// The part of request bodies that is still unread. Over HTTP/2 only.
    pub(crate) unread: Option<Rc<Unread>>,
    /// Set by a request that switched protocols. The connection task takes over from there.
    pub(crate) upgraded: RefCell<Option<Box<Upgraded>>>,
    /// The head of the HTTP/1 request that hyper is reading.
    pub(crate) judged: RefCell<Option<JudgedHead>>,
    /// The one request that an HTTP/1 connection runs.
    pub(crate) running: Cell<Option<StreamRef>>,
    /// Only the end of the connection marks the end of the answer. A cut answer needs a reset, or
    /// half of it would look complete.
    pub(crate) until_close: Cell<bool>,
}

opaque!(ClientConnection);

// === impl ClientConnection ===

impl ClientConnection {
    /// Whether the key of the running request has ended unnoticed: a body that nobody polls cannot
    /// notice it. Ask this after polling the answer, which ends in better form.
    pub(crate) fn poll_abandoned(&self, streams: &Streams) -> Poll<CutReason> {
        match self.running.get() {
            Some(running) if streams.is_abandoned(running) => Poll::Ready(CutReason::Key),
            _ => Poll::Pending,
        }
    }
}
