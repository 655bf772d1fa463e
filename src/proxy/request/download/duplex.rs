//! An answer that began before its request was complete. From then on the upload has a task of its
//! own. It must not wait for a client that does not read yet. After the end of the answer it
//! continues for as long as the service reads: a service that wants no more closes its connection
//! (RFC 9112 section 9.3).

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::{Download, RemainingBody};
use crate::proxy::body::BodyError;
use crate::proxy::streams::RequestEnd;

/// The body of such an answer.
#[derive(Debug)]
pub(crate) struct Duplex {
    /// `None` only while it is dropped.
    answer: Option<Rc<RefCell<Download>>>,
    uplink: Rc<Uplink>,
    /// Who writes the answer, if it waits for more.
    writer: Rc<RefCell<Option<Waker>>>,
}

/// Messages to the task that sends the rest of the request.
#[derive(Debug, Default)]
struct Uplink {
    /// Set once the answer has ended: the task owns the rest of the exchange.
    rest: RefCell<Option<Rc<RefCell<Download>>>>,
    task: RefCell<Option<Waker>>,
}

/// Sends the rest of a request whose answer keygate holds completely.
pub(in crate::proxy::request) fn send_rest(mut download: Download) {
    if download.goes_on() {
        let uplink = Rc::<Uplink>::default();
        *uplink.rest.borrow_mut() = Some(Rc::new(RefCell::new(download)));
        tokio::task::spawn_local(poll_fn(move |cx| uplink.poll_rest(cx)));
    }
}

// === impl Duplex ===

impl Duplex {
    pub(super) fn new(download: Download) -> Self {
        let answer = Rc::new(RefCell::new(download));
        let (uplink, writer) = (Rc::<Uplink>::default(), Rc::<RefCell<Option<Waker>>>::default());
        let (weak, shared, reader) =
            (Rc::downgrade(&answer), Rc::clone(&uplink), Rc::clone(&writer));
        tokio::task::spawn_local(poll_fn(move |cx| shared.poll(&weak, &reader, cx)));
        Self { answer: Some(answer), uplink, writer }
    }

    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(answer) = &self.answer else { return Poll::Ready(None) };
        let frame = answer.borrow_mut().poll_frame(cx);
        *self.writer.borrow_mut() = frame.is_pending().then(|| cx.waker().clone());
        frame
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.answer.as_ref().is_none_or(|answer| answer.borrow().is_end_stream())
    }

    pub(super) fn with_answer<T>(&self, look: impl FnOnce(&mut Download) -> T) -> Option<T> {
        self.answer.as_ref().map(|answer| look(&mut answer.borrow_mut()))
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.answer.as_ref().map_or_else(SizeHint::new, |answer| answer.borrow().size_hint())
    }
}

impl Drop for Duplex {
    fn drop(&mut self) {
        let Some(answer) = self.answer.take() else { return };
        let goes_on = answer.borrow_mut().goes_on();
        if goes_on {
            *self.uplink.rest.borrow_mut() = Some(answer);
        } else {
            drop(answer);
        }
        if let Some(task) = self.uplink.task.take() {
            task.wake();
        }
    }
}

// === impl Uplink ===

impl Uplink {
    /// Ready once nothing more is to be sent, and nobody is left who could ask for it.
    fn poll(
        &self,
        answer: &Weak<RefCell<Download>>,
        writer: &RefCell<Option<Waker>>,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let Some(answer) = answer.upgrade() else { return Poll::Ready(()) };
        *self.task.borrow_mut() = Some(cx.waker().clone());
        if self.rest.borrow().is_some() {
            drop(answer);
            return self.poll_rest(cx);
        }
        let has_failed = answer.borrow_mut().drive_upload(cx);
        if has_failed && let Some(writer) = writer.take() {
            writer.wake();
        }
        Poll::Pending
    }

    fn poll_rest(&self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(rest) = self.rest.take() else { return Poll::Ready(()) };
        if rest.borrow_mut().poll_rest_sent(cx).is_pending() {
            *self.rest.borrow_mut() = Some(rest);
            return Poll::Pending;
        }
        let activity = rest.borrow().upload.as_ref().map(|upload| Rc::clone(&upload.activity));
        // Ends the request.
        drop(rest);
        if let Some(activity) = activity {
            activity.wake();
        }
        Poll::Ready(())
    }
}

// === impl Download ===

impl Download {
    /// Drives the upload while the answer runs. True: the upload has failed, so the answer will
    /// fail.
    fn drive_upload(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(pooled) = &mut self.pooled else { return false };
        let may_be_more = pooled.drive(cx);
        let is_driven = pooled.is_driven();
        let (Some(upload), Some(answer_deadline)) = (&self.upload, &self.answer_deadline) else {
            return false;
        };
        if !is_driven {
            upload.look_on(cx);
        }
        let bytes = upload.bytes.get();
        if bytes != self.uploaded {
            self.uploaded = bytes;
            let now_ns = self.record.now_ns();
            if answer_deadline.of_upload(now_ns).is_ok() {
                upload.activity.excuse_block(now_ns);
                self.stream.excuse_offer();
            }
        }
        // Whatever hyper reads wakes its reader without our help.
        may_be_more && matches!(self.rest, RemainingBody::Own(_))
    }

    /// Nobody writes the answer any more. Returns whether the upload still continues: only if the
    /// answer is complete and the service has not objected.
    fn goes_on(&mut self) -> bool {
        let is_whole = self.is_over || self.is_end_stream();
        let (Some(pooled), Some(upload)) = (&self.pooled, &self.upload) else { return false };
        // A gRPC call ends with its trailers.
        if !is_whole || self.grpc || !pooled.may_go_on(upload) {
            return false;
        }
        self.is_over = true;
        self.stream.leave();
        true
    }

    /// Sends the rest of the request. Ready: all of it was sent, or it was stopped.
    fn poll_rest_sent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let now_ns = self.record.now_ns();
        let limit = self
            .answer_deadline
            .as_ref()
            .and_then(|answer_deadline| answer_deadline.of_rest(now_ns));
        let Some(limit) = limit else {
            self.pooled = None;
            return Poll::Ready(());
        };
        self.stream.set_deadline(limit);
        if let Some(end) = self.stream.poll_end(cx) {
            if let RequestEnd::Key(reason) = end {
                self.record.ended_early(reason);
            }
            self.pooled = None;
            return Poll::Ready(());
        }
        let (Some(pooled), Some(upload)) = (&mut self.pooled, &self.upload) else {
            return Poll::Ready(());
        };
        if pooled.poll_sent(upload, cx).is_ready() {
            self.finish();
            return Poll::Ready(());
        }
        Poll::Pending
    }
}
