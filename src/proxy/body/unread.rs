//! What nobody wants of request bodies. Over HTTP/1 it decides whether the connection can stay, and
//! the answer says so. Over HTTP/2 some of it is read and dropped behind the answer, because a client
//! may send all of its body whatever the answer says: a reset would meet frames that are under way,
//! h2 counts each of them as an error of the stream's, and at 128 of these it ends the connection with
//! all that runs on it (CVE-2025-8671).

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Incoming, SizeHint};
use tokio::time::Sleep;

use super::error::BodyError;
use crate::proxy::net::io::Activity;

/// The bodies of one connection that are read and dropped, by the task that serves it. A stream
/// counts as open meanwhile, so they are never more than `http2.max_streams`.
#[derive(Debug)]
pub(crate) struct Unread {
    activity: Rc<Activity>,
    bodies: RefCell<Vec<UnreadBody>>,
    /// One for each stream that was reset within [`REMEMBERED_FOR`].
    resets: RefCell<Vec<Pin<Box<Sleep>>>>,
    ended: Cell<bool>,
}

#[derive(Debug)]
struct UnreadBody {
    incoming: Incoming,
    /// Bytes that may still be dropped.
    left: usize,
    /// From the first look at it: who hands it over may be outside of the runtime by then.
    until: Option<Pin<Box<Sleep>>>,
    /// No more is read of it: its stream is to be reset.
    is_spent: bool,
}

/// A request body that hyper reads.
#[derive(Debug)]
pub(crate) struct HyperBody {
    /// `None` only while it is dropped.
    incoming: Option<Incoming>,
    keeper: RestKeeper,
    /// Its end was read, which hyper does not remember of a body in chunks. Over HTTP/1 only.
    is_over: bool,
}

/// Who gets what is left of a request body that was not read to its end.
#[derive(Debug)]
pub(crate) enum RestKeeper {
    /// Over HTTP/1.
    Http1(Rc<RequestRest>),
    /// Over HTTP/2.
    Http2(Rc<Unread>),
    /// Its stream is to end at once.
    Nobody,
}

/// What is left of a request body over HTTP/1, until its answer begins. hyper closes the connection
/// behind an answer to a request of which it has to read more than a little, and does not say so.
#[derive(Debug, Default)]
pub(crate) struct RequestRest {
    body: RefCell<RestOfBody>,
    has_answer: Cell<bool>,
}

/// What becomes of a request body over HTTP/1.
#[derive(Debug, Default)]
pub(crate) enum RestOfBody {
    /// Somebody may still read it.
    #[default]
    Held,
    /// It was read to its end.
    Over,
    /// Nobody reads it any more.
    Left(Incoming),
}

/// Read and dropped behind an answer, of one stream.
const MOST_BYTES: usize = 256 * 1024;
const MOST_TIME: Duration = Duration::from_secs(1);
/// What h2 does for 50 streams at a time that it has reset: frames that were under way are dropped
/// and not counted. It can reset some without asking us.
const REMEMBERED: usize = 40;
const REMEMBERED_FOR: Duration = Duration::from_secs(1);

// === impl Unread ===

impl Unread {
    /// Of the connection that this is the activity of.
    pub(crate) fn new(activity: &Rc<Activity>) -> Rc<Self> {
        let activity = Rc::clone(activity);
        let (bodies, resets) = (RefCell::default(), RefCell::default());
        Rc::new(Self { activity, bodies, resets, ended: Cell::new(false) })
    }

    fn add(&self, incoming: Incoming) {
        if !self.ended.get() {
            let body = UnreadBody { incoming, left: MOST_BYTES, until: None, is_spent: false };
            self.bodies.borrow_mut().push(body);
            self.activity.wake();
        }
    }

    /// Reads what has come. A body that is through is dropped: if its end has not come, h2 resets the
    /// stream behind its answer, with NO_ERROR (RFC 9113 section 8.1). While too many were, the next
    /// ones wait, and their clients for a window.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) {
        let mut resets = self.resets.borrow_mut();
        resets.retain_mut(|sleep| sleep.as_mut().poll(cx).is_pending());
        self.bodies.borrow_mut().retain_mut(|body| {
            if !body.is_spent && body.poll(cx).is_ready() {
                return false;
            }
            if !body.is_spent || resets.len() >= REMEMBERED {
                return true;
            }
            let mut sleep = Box::pin(tokio::time::sleep(REMEMBERED_FOR));
            // So that it wakes us.
            let _ = sleep.as_mut().poll(cx);
            resets.push(sleep);
            false
        });
    }

    /// The connection is at its end.
    pub(crate) fn end(&self) {
        self.ended.set(true);
        self.bodies.take();
        self.resets.take();
    }
}

// === impl UnreadBody ===

impl UnreadBody {
    /// Ready at its end, or that of its stream.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.poll_read(cx).is_ready() {
            return Poll::Ready(());
        }
        let sleep = || Box::pin(tokio::time::sleep(MOST_TIME));
        self.is_spent |= self.until.get_or_insert_with(sleep).as_mut().poll(cx).is_ready();
        Poll::Pending
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Some(Ok(frame)) = ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
            match self.left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
                Some(left) => self.left = left,
                None => {
                    self.is_spent = true;
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(())
    }
}

// === impl HyperBody ===

impl HyperBody {
    pub(crate) fn new(incoming: Incoming, keeper: RestKeeper) -> Self {
        Self { incoming: Some(incoming), keeper, is_over: false }
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.is_over || self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or_else(SizeHint::new, Body::size_hint)
    }

    /// The next bytes of it, and none of its trailers. CVE-2013-5704: a trailer must never become a
    /// header behind our back. No protocol needs those of a request; gRPC has them in answers only.
    /// hyper is handed none of an HTTP/1 body (`http1::request_span`).
    pub(super) fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, BodyError>>> {
        let Some(incoming) = self.incoming.as_mut().filter(|_| !self.is_over) else {
            return Poll::Ready(None);
        };
        loop {
            match ready!(Pin::new(&mut *incoming).poll_frame(cx)) {
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Poll::Ready(Some(Ok(data)));
                    }
                }
                None => {
                    if let RestKeeper::Http1(rest) = &self.keeper {
                        self.is_over = true;
                        *rest.body.borrow_mut() = RestOfBody::Over;
                    }
                    return Poll::Ready(None);
                }
            }
        }
    }

    /// Its stream is not answered to the end: nothing of it is read any more.
    pub(crate) fn abandon(&mut self) {
        self.keeper = RestKeeper::Nobody;
    }
}

impl Drop for HyperBody {
    fn drop(&mut self) {
        let is_over = self.is_end_stream();
        let Some(incoming) = self.incoming.take() else { return };
        if std::thread::panicking() {
            return;
        }
        match &self.keeper {
            RestKeeper::Http1(rest) if is_over => *rest.body.borrow_mut() = RestOfBody::Over,
            RestKeeper::Http1(rest) if !rest.has_answer.get() => {
                *rest.body.borrow_mut() = RestOfBody::Left(incoming);
            }
            RestKeeper::Http2(unread) if !is_over => unread.add(incoming),
            RestKeeper::Http1(_) | RestKeeper::Http2(_) | RestKeeper::Nobody => {}
        }
    }
}

// === impl RequestRest ===

impl RequestRest {
    /// What has become of the body. From now on nothing of it is kept: the answer says what becomes
    /// of the connection.
    pub(crate) fn take(&self) -> RestOfBody {
        self.has_answer.set(true);
        self.body.take()
    }
}
