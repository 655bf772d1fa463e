//! The answer to a key that changes itself goes out before the change is published. A sidecar cuts
//! off the requests of a key that has ended, and that answer belongs to such a request.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::response::Response;
use http_body::{Frame, SizeHint};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// The longest time for which a client that does not read its answer can hold up an audience.
const LONGEST: Duration = Duration::from_secs(1);
/// From the last byte that a connection has taken to the sidecar that forwards it.
const ON_ITS_WAY: Duration = Duration::from_millis(100);

/// How many answers of one audience have to go out before anything of it is published. Clones share
/// one state.
#[derive(Clone, Debug, Default)]
pub struct AnswersFirst(watch::Sender<usize>);

/// One such answer, until it is dropped.
#[derive(Debug)]
pub struct AnswerFirst(AnswersFirst);

/// A body that has to be written before anything is published.
struct BodyFirst {
    body: Body,
    _first: AnswerFirst,
}

// === impl AnswersFirst ===

impl AnswersFirst {
    pub fn begin(&self) -> AnswerFirst {
        self.0.send_modify(|count| *count += 1);
        AnswerFirst(self.clone())
    }

    /// Waits until all of them have gone out, for a second at most. Returns immediately if there
    /// are none.
    pub async fn out(&self) {
        let mut count = self.0.subscribe();
        if *count.borrow_and_update() > 0 {
            let out = count.wait_for(|count| *count == 0);
            // The sender is ours, so it cannot be gone. The time-out keeps anybody from holding an
            // audience up for ever.
            let _ = timeout(LONGEST, out).await;
            sleep(ON_ITS_WAY).await;
        }
    }
}

// === impl AnswerFirst ===

impl AnswerFirst {
    /// Keeps the guard until the connection has taken the whole body.
    pub fn attach(self, response: Response) -> Response {
        response.map(|body| Body::new(BodyFirst { body, _first: self }))
    }
}

impl Drop for AnswerFirst {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| *count -= 1);
    }
}

// === impl BodyFirst ===

impl HttpBody for BodyFirst {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_published_waits_for_the_answer_and_not_for_ever() {
        let answers = AnswersFirst::default();
        answers.out().await;

        let response = answers.begin().attach(Response::new(Body::from("gone")));
        let waiting = tokio::spawn({
            let answers = answers.clone();
            async move { answers.out().await }
        });
        sleep(2 * ON_ITS_WAY).await;
        assert!(!waiting.is_finished(), "it is not written yet");
        let body = axum::body::to_bytes(response.into_body(), 10).await.unwrap();
        assert_eq!(&body[..], b"gone");
        waiting.await.unwrap();

        let stuck = answers.begin();
        answers.out().await;
        drop(stuck);
    }
}
