//! A request body that hyper sends over HTTP/2. While the service opens no window, hyper does not
//! poll the body. So the body alone could not report that the upload has ended. Here the end stops
//! hyper's task instead.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::proxy::body::{BodyError, RequestBody, UploadProgress};

/// The body of one request.
pub(super) struct Http2Body {
    body: RequestBody,
    /// Who has to learn that hyper polled it. `None` once that was reported.
    begins: Option<Rc<BegunUpload>>,
    begun: Option<(Rc<BegunUpload>, Rc<UploadProgress>)>,
}

/// The upload that hyper has just polled for the first time. The task that hyper spawns next
/// belongs to it, unless the upload is gone by then.
#[derive(Debug, Default)]
pub(super) struct BegunUpload(RefCell<Option<Rc<UploadProgress>>>);

/// Spawns hyper's tasks of one connection on the current worker.
#[derive(Clone, Debug, Default)]
pub(super) struct Http2Executor {
    begun: Rc<BegunUpload>,
}

/// One of hyper's tasks.
struct Http2Task<F> {
    /// `None`: it was ended. A stream is reset when both its halves are dropped.
    inner: Option<Pin<Box<F>>>,
    /// The upload that it sends.
    upload: Option<Rc<UploadProgress>>,
}

opaque!(Http2Body);

// === impl Http2Body ===

impl Http2Body {
    pub(super) fn new(body: RequestBody, executor: &Http2Executor) -> Self {
        Self { body, begins: Some(Rc::clone(&executor.begun)), begun: None }
    }

    pub(super) fn into_inner(mut self) -> RequestBody {
        std::mem::replace(&mut self.body, RequestBody::Empty)
    }
}

impl Body for Http2Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Some(begins) = this.begins.take()
            && let Some(progress) = this.body.progress()
        {
            *begins.0.borrow_mut() = Some(Rc::clone(&progress));
            this.begun = Some((begins, progress));
        }
        Pin::new(&mut this.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Http2Body {
    fn drop(&mut self) {
        // It was sent immediately, without a task.
        if let Some((begun, progress)) = self.begun.take() {
            begun.0.borrow_mut().take_if(|latest| Rc::ptr_eq(latest, &progress));
        }
    }
}

// === impl Http2Executor ===

impl<F> hyper::rt::Executor<F> for Http2Executor
where
    F: Future + 'static,
{
    fn execute(&self, future: F) {
        let upload = self.begun.0.take();
        if let Some(upload) = &upload {
            upload.is_sent_by_hyper();
        }
        tokio::task::spawn_local(Http2Task { inner: Some(Box::pin(future)), upload });
    }
}

// === impl Http2Task ===

impl<F: Future> Future for Http2Task<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { inner, upload } = &mut *self;
        let Some(future) = inner else { return Poll::Ready(()) };
        if let Some(upload) = upload {
            upload.watch(cx);
            if upload.is_ended() {
                *inner = None;
                return Poll::Ready(());
            }
        }
        future.as_mut().poll(cx).map(drop)
    }
}

impl<F> Drop for Http2Task<F> {
    fn drop(&mut self) {
        if let Some(upload) = self.upload.take() {
            upload.was_sent_by_hyper();
        }
    }
}
