//! A request's body on its way to the upstream.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::BodyError;
use crate::clock::Clock;
use crate::proxy::io::Moments;

/// A request body as it comes from the client.
#[derive(Debug)]
pub(crate) enum ClientBody {
    /// hyper reads it.
    Coming(Incoming),
    /// All of it came with the head; of most requests nothing.
    Whole(Bytes),
}

/// A request body on its way to the upstream.
#[derive(Debug)]
pub(crate) enum RequestBody {
    Empty,
    Stream(Upload),
    /// Short, and here already.
    Whole(Bytes),
}

/// A request body that the client still sends.
#[derive(Debug)]
pub(crate) struct Upload {
    incoming: Incoming,
    left: u64,
    progress: Rc<Progress>,
    /// Of the client's connection.
    moments: Rc<Moments>,
}

/// How an upload is getting on, for whoever waits for the response.
#[derive(Debug)]
pub(crate) struct Progress {
    clock: Clock,
    /// When the last bytes came, or the body was first asked for.
    pub(crate) at_ns: Cell<u64>,
    pub(crate) bytes: Cell<u64>,
    pub(crate) state: Cell<UploadState>,
    /// Who polls the body, for [`Progress::stop`].
    waker: RefCell<Option<Waker>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UploadState {
    /// All was read, or nobody wants the rest.
    Done,
    /// The client failed to send it.
    Failed,
    /// The upstream does not take what we have.
    Ready,
    /// keygate ended the request.
    Stopped,
    TooLarge,
    /// The upstream side has let go of it.
    Unwanted,
    /// We wait for the client.
    Waiting,
}

// === impl ClientBody ===

impl ClientBody {
    /// Whether nothing (more) of it is to come.
    pub(crate) fn has_come(&self) -> bool {
        match self {
            Self::Coming(incoming) => incoming.is_end_stream(),
            Self::Whole(_) => true,
        }
    }

    /// Bytes that it has at least.
    pub(crate) fn least(&self) -> u64 {
        match self {
            Self::Coming(incoming) => incoming.size_hint().lower(),
            Self::Whole(bytes) => bytes.len() as u64,
        }
    }
}

// === impl Upload ===

impl Upload {
    pub(crate) fn new(incoming: Incoming, limit: Option<u64>, moments: Rc<Moments>) -> Self {
        let clock = moments.clock().clone();
        let progress = Rc::new(Progress {
            at_ns: Cell::new(clock.now().mono_ns),
            bytes: Cell::new(0),
            state: Cell::new(UploadState::Waiting),
            waker: RefCell::new(None),
            clock,
        });
        Self { incoming, left: limit.unwrap_or(u64::MAX), progress, moments }
    }

    pub(crate) fn progress(&self) -> Rc<Progress> {
        Rc::clone(&self.progress)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let state = self.progress.state.get();
        if matches!(state, UploadState::Ready | UploadState::Waiting) {
            self.progress.state.set(if self.incoming.is_end_stream() {
                UploadState::Done
            } else {
                UploadState::Unwanted
            });
        }
    }
}

impl RequestBody {
    /// What of it is here already.
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
        let progress = &upload.progress;
        loop {
            if progress.state.get() == UploadState::Stopped {
                return Poll::Ready(Some(Err(BodyError::Ended)));
            }
            let frame = match Pin::new(&mut upload.incoming).poll_frame(cx) {
                Poll::Ready(frame) => frame,
                Poll::Pending => {
                    progress.state.set(UploadState::Waiting);
                    // The rest can never come. (An HTTP/2 stream has its own end.)
                    if upload.moments.half_closed_at.get() != 0 && !upload.moments.raw.get() {
                        progress.state.set(UploadState::Failed);
                        return Poll::Ready(Some(Err(BodyError::Truncated)));
                    }
                    progress.watch(cx);
                    return Poll::Pending;
                }
            };
            progress.at_ns.set(progress.clock.now().mono_ns);
            return Poll::Ready(match frame {
                None => {
                    progress.state.set(UploadState::Done);
                    None
                }
                Some(Err(error)) => {
                    progress.state.set(UploadState::Failed);
                    Some(Err(error.into()))
                }
                Some(Ok(frame)) => {
                    progress.state.set(UploadState::Ready);
                    if let Some(data) = frame.data_ref() {
                        let length = data.len() as u64;
                        if length > upload.left {
                            progress.state.set(UploadState::TooLarge);
                            return Poll::Ready(Some(Err(BodyError::TooLarge)));
                        }
                        upload.left -= length;
                        progress.bytes.set(progress.bytes.get() + length);
                        if upload.incoming.is_end_stream() {
                            progress.state.set(UploadState::Done);
                        }
                        Some(Ok(frame))
                    } else {
                        // CVE-2013-5704: a trailer must never become a header behind our back. No
                        // protocol needs those of a request; gRPC has them in answers only.
                        continue;
                    }
                }
            });
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Stream(upload) => upload.incoming.is_end_stream(),
            Self::Whole(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Stream(upload) => upload.incoming.size_hint(),
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
        }
    }
}

// === impl Progress ===

impl Progress {
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.state.get(), UploadState::Ready | UploadState::Waiting)
    }

    fn watch(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }

    /// Nothing more goes to the upstream.
    pub(crate) fn stop(&self) {
        if self.is_open() {
            self.state.set(UploadState::Stopped);
            if let Some(waker) = self.waker.take() {
                waker.wake();
            }
        }
    }
}
