//! Runs hyper's HTTP/2 tasks on the worker's own thread.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::net::io::Activity;
use super::streams::{StreamRef, Streams, TaskAbort};
use crate::telemetry::WorkerCells;

/// Spawns on the current worker.
#[derive(Clone, Debug, Default)]
pub(crate) struct LocalExecutor {
    server: Option<(Rc<Streams>, Arc<WorkerCells>, Rc<Activity>)>,
}

/// The task of one server-side stream. Ends it when its key has ended and hyper, for lack of a flow
/// control window, does not poll the body that would report it.
struct Watched<F> {
    inner: Option<Pin<Box<F>>>,
    streams: Rc<Streams>,
    cells: Arc<WorkerCells>,
    /// The activity of the connection.
    activity: Rc<Activity>,
    which: Option<StreamRef>,
    /// Ends a tunnel's task, which outlives the task that spawned it.
    abort: Option<Rc<TaskAbort>>,
}

// === impl LocalExecutor ===

impl LocalExecutor {
    /// For the server side: its streams obey the registry.
    pub(crate) fn watching(
        streams: &Rc<Streams>,
        cells: &Arc<WorkerCells>,
        activity: &Rc<Activity>,
    ) -> Self {
        Self { server: Some((Rc::clone(streams), Arc::clone(cells), Rc::clone(activity))) }
    }
}

impl<F> hyper::rt::Executor<F> for LocalExecutor
where
    F: Future + 'static,
{
    fn execute(&self, future: F) {
        match &self.server {
            None => {
                tokio::task::spawn_local(async move {
                    future.await;
                });
            }
            Some((streams, cells, activity)) => {
                let inner = Some(Box::pin(future));
                let (streams, cells) = (Rc::clone(streams), Arc::clone(cells));
                cells.http2_stream_opened();
                let activity = Rc::clone(activity);
                if let Some(held) = activity.held() {
                    held.stream_begins();
                    activity.grow();
                }
                let abort = streams.abort_for_current();
                tokio::task::spawn_local(Watched {
                    inner,
                    streams,
                    cells,
                    activity,
                    which: None,
                    abort,
                });
            }
        }
    }
}

impl<F> Drop for Watched<F> {
    fn drop(&mut self) {
        self.cells.http2_stream_closed();
        if let Some(held) = self.activity.held() {
            held.stream_ends();
        }
        if std::thread::panicking() {
            self.cells.panicked();
        }
    }
}

impl<F: Future> Future for Watched<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { inner: slot, streams, which, abort, .. } = &mut *self;
        let Some(inner) = slot else { return Poll::Ready(()) };
        // A request registers while its task is polled, so the latest one is this task's.
        streams.take_latest();
        streams.set_current(*which);
        let done = inner.as_mut().poll(cx).is_ready();
        streams.set_current(None);
        if done || abort.as_ref().is_some_and(|abort| abort.poll(cx)) {
            *slot = None;
            return Poll::Ready(());
        }
        if let Some(latest) = streams.take_latest() {
            *which = Some(latest);
        }
        if which.is_some_and(|which| streams.is_abandoned(which)) {
            // Dropping it resets the stream on both sides.
            *slot = None;
            return Poll::Ready(());
        }
        Poll::Pending
    }
}
