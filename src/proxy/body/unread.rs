//! The parts of request bodies that nobody wants. Over HTTP/1 they decide whether the connection
//! can stay open, and the answer says so. Over HTTP/2 some of each is read and dropped after the
//! answer, because a client may send all of its body whatever the answer says. A reset would meet
//! frames that are already under way. h2 counts each of them as an error of the stream, and after
//! 128 of these it ends the connection with everything that runs on it (CVE-2025-8671).

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

/// The bodies of one connection that are read and dropped, by the task that serves the connection.
/// Meanwhile their streams count as open, so there are never more than `http2.max_streams`.
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
    /// Starts at the first poll, because the code that hands the body over may be outside of the
    /// runtime by then.
    until: Option<Pin<Box<Sleep>>>,
    /// No more of it is read: its stream is to be reset.
    is_spent: bool,
}

/// A request body that hyper reads.
#[derive(Debug)]
pub(crate) struct HyperBody {
    /// `None` only while it is dropped.
    incoming: Option<Incoming>,
    keeper: RestKeeper,
    /// Its end was read, which hyper does not remember for a chunked body. Over HTTP/1 only.
    is_over: bool,
}

/// Who gets the rest of a request body that was not read to its end.
#[derive(Debug)]
pub(crate) enum RestKeeper {
    /// Over HTTP/1.
    Http1(Rc<RequestRest>),
    /// Over HTTP/2.
    Http2(Rc<Unread>),
    /// Its stream is to end immediately.
    Nobody,
}

/// The rest of a request body over HTTP/1, until its answer begins. hyper closes the connection
/// after the answer if it would have to read more than a little of the request, and does not
/// announce it.
#[derive(Debug, Default)]
pub(crate) struct RequestRest {
    body: RefCell<RestOfBody>,
    has_answer: Cell<bool>,
}

/// What happens to a request body over HTTP/1.
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

/// The most that is read and dropped after an answer, for one stream.
const MOST_BYTES: usize = 256 * 1024;
const MOST_TIME: Duration = Duration::from_secs(1);
/// h2 does the same for 50 streams at a time that it has reset: it drops frames that were under way
/// without counting them. It can reset some streams without asking us.
const REMEMBERED: usize = 40;
const REMEMBERED_FOR: Duration = Duration::from_secs(1);

// === impl Unread ===

impl Unread {
    /// For the connection whose activity this is.
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

    /// Reads what has arrived. A body that is finished is dropped. If its end has not arrived, h2
    /// resets the stream after its answer, with NO_ERROR (RFC 9113 section 8.1). After too many
    /// such resets, the next bodies wait, and their clients wait for a window.
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
            // Polled so that it wakes us.
            let _ = sleep.as_mut().poll(cx);
            resets.push(sleep);
            false
        });
    }

    /// The connection has ended.
    pub(crate) fn end(&self) {
        self.ended.set(true);
        self.bodies.take();
        self.resets.take();
    }
}

// === impl UnreadBody ===

impl UnreadBody {
    /// Ready at the end of the body, or of its stream.
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

    /// The next bytes of the body, and none of its trailers. CVE-2013-5704: a trailer must never
    /// become a header without our knowledge. No protocol needs trailers of a request; gRPC has
    /// them in answers only. hyper gets no trailers of an HTTP/1 body (`http1::request_span`).
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

    /// Its stream is not answered to the end: nothing more of the body is read.
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
    /// What has happened to the body. From now on nothing of it is kept: the answer says what
    /// happens to the connection.
    pub(crate) fn take(&self) -> RestOfBody {
        self.has_answer.set(true);
        self.body.take()
    }
}
