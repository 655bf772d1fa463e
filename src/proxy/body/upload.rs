//! A request's body on its way to the upstream.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::error::BodyError;
use super::inflow::Inflow;
use super::unread::HyperBody;
use crate::proxy::net::io::Activity;
use crate::proxy::net::pipe::Pipe;

/// A request body as the client sends it.
pub(crate) enum ClientBody {
    /// All of it arrived with the head. Most requests have no body at all.
    Whole(Bytes),
    /// hyper reads it.
    Hyper(HyperBody),
    /// A body of declared length, from a client that is read without hyper.
    Plain(Inflow),
}

/// A request body on its way to the upstream.
pub(crate) enum RequestBody {
    Empty,
    Stream(Upload),
    /// A short body that has arrived completely.
    Whole(Bytes),
}

/// A request body that the client still sends.
pub(crate) struct Upload {
    incoming: ClientBody,
    /// Bytes that its route still allows.
    left: u64,
    progress: Rc<UploadProgress>,
}

/// Progress of an upload, for the task that waits for the response.
#[derive(Debug)]
pub(crate) struct UploadProgress {
    /// The activity of the client's connection.
    pub(crate) activity: Rc<Activity>,
    /// When the last bytes arrived, or the body was first asked for.
    pub(crate) at_ns: Cell<u64>,
    pub(crate) bytes: Cell<u64>,
    pub(crate) state: Cell<UploadState>,
    /// The client's stream ends together with it, immediately.
    abandoned: Cell<bool>,
    /// Who polls the body, for [`UploadProgress::stop`].
    waker: RefCell<Option<Waker>>,
    /// Wakes a task that only watches.
    onlooker: RefCell<Option<Waker>>,
    hyper_task: Cell<HyperTask>,
}

/// The task in which hyper sends an upload over HTTP/2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HyperTask {
    /// There is no task, or it has ended.
    None,
    /// The task may hold bytes for which the service has opened no window, although all of the
    /// upload was read.
    Runs,
    /// The task is to end, whatever it waits for.
    Ends,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UploadState {
    /// All was read, or nobody wants the rest.
    Done,
    /// The client failed to send it.
    Failed,
    /// The upstream does not take the bytes that we have.
    Ready,
    /// keygate ended the request.
    Stopped,
    TooLarge,
    /// The upstream side has released it.
    Unwanted,
    /// keygate waits for the client.
    Waiting,
}

opaque!(ClientBody, RequestBody, Upload);

// === impl ClientBody ===

impl ClientBody {
    /// Whether all of it has arrived.
    pub(crate) fn has_come(&self) -> bool {
        matches!(self, Self::Whole(_)) || self.is_end_stream()
    }

    /// The least number of bytes that it has.
    pub(crate) fn least(&self) -> u64 {
        self.size_hint().lower()
    }

    /// Whether nothing of it is left to be read.
    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Hyper(body) => body.is_end_stream(),
            Self::Plain(inflow) => inflow.is_at_end(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Hyper(body) => body.size_hint(),
            Self::Plain(inflow) => SizeHint::with_exact(inflow.left()),
        }
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        match self {
            Self::Whole(bytes) => {
                let all = std::mem::take(bytes);
                Poll::Ready(Some(all).filter(|all| !all.is_empty()).map(Ok))
            }
            Self::Hyper(body) => body.poll_data(cx),
            Self::Plain(inflow) => inflow.poll_data(cx),
        }
    }
}

// === impl Upload ===

impl Upload {
    pub(crate) fn new(incoming: ClientBody, limit: Option<u64>, activity: Rc<Activity>) -> Self {
        let progress = Rc::new(UploadProgress {
            at_ns: Cell::new(activity.clock().now().mono_ns),
            bytes: Cell::new(0),
            state: Cell::new(UploadState::Waiting),
            abandoned: Cell::new(false),
            waker: RefCell::new(None),
            onlooker: RefCell::new(None),
            hyper_task: Cell::new(HyperTask::None),
            activity,
        });
        let left = limit.unwrap_or(u64::MAX);
        Self { incoming, left, progress }
    }

    pub(crate) fn progress(&self) -> Rc<UploadProgress> {
        Rc::clone(&self.progress)
    }

    /// Its length, if it was declared.
    pub(crate) fn length(&self) -> Option<u64> {
        self.size_hint().exact()
    }

    /// Whether the next bytes can be [moved](Self::poll_move).
    pub(crate) fn can_move(&self) -> bool {
        match &self.incoming {
            ClientBody::Whole(_) | ClientBody::Hyper(_) => false,
            ClientBody::Plain(inflow) => inflow.can_move(),
        }
    }

    /// Moves the next bytes, at most `most`, into an empty `pipe`. Only if they [can be
    /// moved](Self::can_move).
    ///
    /// # Errors
    /// `Unmoved`: the bytes have to be read instead. Otherwise the body could not continue.
    pub(crate) fn poll_move(
        &mut self,
        most: u64,
        pipe: &mut Pipe,
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, BodyError>> {
        let ClientBody::Plain(inflow) = &mut self.incoming else {
            return Poll::Ready(Err(BodyError::Unmoved));
        };
        if self.progress.state.get() == UploadState::Stopped {
            return Poll::Ready(Err(BodyError::Ended));
        }
        match inflow.poll_move(most, pipe, cx) {
            Poll::Ready(Ok(count)) => Poll::Ready(self.came(count).map(|()| count)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => self.waits(cx).map(Err),
        }
    }

    /// The next bytes of it.
    ///
    /// # Errors
    /// The body could not continue.
    pub(crate) fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, BodyError>>> {
        if self.progress.state.get() == UploadState::Stopped {
            return Poll::Ready(Some(Err(BodyError::Ended)));
        }
        match self.incoming.poll_data(cx) {
            Poll::Ready(Some(Ok(data))) => Poll::Ready(Some(self.came(data.len()).map(|()| data))),
            Poll::Ready(Some(Err(error))) => {
                self.advance(UploadState::Failed);
                Poll::Ready(Some(Err(error)))
            }
            // hyper shows a stream that its client has reset with NO_ERROR as one that has ended.
            Poll::Ready(None)
                if self.progress.activity.raw.get() && !self.incoming.is_end_stream() =>
            {
                self.advance(UploadState::Failed);
                Poll::Ready(Some(Err(BodyError::Truncated)))
            }
            Poll::Ready(None) => {
                self.advance(UploadState::Done);
                Poll::Ready(None)
            }
            Poll::Pending => self.waits(cx).map(|error| Some(Err(error))),
        }
    }

    /// Counts bytes that were read.
    fn came(&mut self, count: usize) -> Result<(), BodyError> {
        let count = count as u64;
        let Some(left) = self.left.checked_sub(count) else {
            self.advance(UploadState::TooLarge);
            return Err(BodyError::TooLarge);
        };
        self.left = left;
        self.progress.bytes.set(self.progress.bytes.get() + count);
        self.advance(match self.incoming.is_end_stream() {
            true => UploadState::Done,
            false => UploadState::Ready,
        });
        Ok(())
    }

    /// Nothing has arrived. Ready: and nothing will.
    fn waits(&mut self, cx: &Context<'_>) -> Poll<BodyError> {
        let progress = &self.progress;
        progress.state.set(UploadState::Waiting);
        // The rest can never come. (An HTTP/2 stream has its own end.)
        if progress.activity.half_closed_at.get() != 0 && !progress.activity.raw.get() {
            progress.turns(UploadState::Failed);
            return Poll::Ready(BodyError::Truncated);
        }
        progress.watch(cx);
        Poll::Pending
    }

    fn advance(&self, state: UploadState) {
        self.progress.at_ns.set(self.progress.activity.clock().now().mono_ns);
        self.progress.turns(state);
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let state = self.progress.state.get();
        if matches!(state, UploadState::Ready | UploadState::Waiting) {
            self.progress.turns(match self.incoming.is_end_stream() {
                true => UploadState::Done,
                false => UploadState::Unwanted,
            });
        }
        if let ClientBody::Hyper(body) = &mut self.incoming
            && self.progress.abandoned.get()
        {
            body.abandon();
        }
    }
}

impl RequestBody {
    /// The progress of an upload.
    pub(crate) fn progress(&self) -> Option<Rc<UploadProgress>> {
        match self {
            Self::Stream(upload) => Some(upload.progress()),
            Self::Empty | Self::Whole(_) => None,
        }
    }

    /// The part of it that has arrived.
    pub(crate) fn here(&self) -> &[u8] {
        match self {
            Self::Empty | Self::Stream(_) => b"",
            Self::Whole(bytes) => bytes,
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let body = self.get_mut();
        let upload = match body {
            Self::Stream(upload) => upload,
            Self::Empty => return Poll::Ready(None),
            Self::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                *body = Self::Empty;
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
        };
        upload.poll_data(cx).map(|data| data.map(|data| data.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Stream(upload) => upload.is_end_stream(),
            Self::Whole(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Stream(upload) => upload.size_hint(),
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
        }
    }
}

// === impl UploadProgress ===

impl UploadProgress {
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.state.get(), UploadState::Ready | UploadState::Waiting)
    }

    /// Asks to be woken when it is [stopped](Self::stop).
    pub(crate) fn watch(&self, cx: &Context<'_>) {
        remember(&self.waker, cx);
    }

    /// From now on, hyper sends it in a task of its own.
    pub(crate) fn is_sent_by_hyper(&self) {
        self.hyper_task.set(HyperTask::Runs);
    }

    /// That task has ended.
    pub(crate) fn was_sent_by_hyper(&self) {
        self.hyper_task.set(HyperTask::None);
        if let Some(waker) = self.onlooker.take() {
            waker.wake();
        }
    }

    /// Whether hyper still has some of it to send.
    pub(crate) fn is_with_hyper(&self) -> bool {
        self.hyper_task.get() == HyperTask::Runs
    }

    /// The exchange has ended. So hyper's task ends as well, and what it still has of the upload is
    /// dropped.
    pub(crate) fn end_with_hyper(&self) {
        if self.is_with_hyper() {
            self.hyper_task.set(HyperTask::Ends);
            self.stop();
            if let Some(waker) = self.waker.take() {
                waker.wake();
            }
        }
    }

    /// Whether nothing more of it may be sent, not even what was read.
    pub(crate) fn is_ended(&self) -> bool {
        self.hyper_task.get() == HyperTask::Ends || self.state.get() == UploadState::Stopped
    }

    /// Asks to be woken whenever bytes have arrived, and at the end, without polling the body.
    pub(crate) fn look_on(&self, cx: &Context<'_>) {
        remember(&self.onlooker, cx);
    }

    fn turns(&self, state: UploadState) {
        self.state.set(state);
        if let Some(waker) = self.onlooker.take() {
            waker.wake();
        }
    }

    /// As [`stop`](Self::stop), and the client's stream must end: nothing more of it is read
    /// either.
    pub(crate) fn abandon(&self) {
        self.abandoned.set(self.abandoned.get() || self.is_open());
        self.stop();
    }

    /// Nothing more goes to the upstream.
    pub(crate) fn stop(&self) {
        if self.is_open() {
            self.turns(UploadState::Stopped);
            if let Some(waker) = self.waker.take() {
                waker.wake();
            }
        }
    }
}

fn remember(place: &RefCell<Option<Waker>>, cx: &Context<'_>) {
    let mut waker = place.borrow_mut();
    if !waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
        *waker = Some(cx.waker().clone());
    }
}
