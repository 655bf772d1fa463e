//! An answer's body as hyper takes it. Over HTTP/2 a client's windows decide how much of it stays here:
//! that is counted.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::download::ResponseBody;
use crate::proxy::body::BodyError;
use crate::proxy::memory::holding::UnsentAnswers;

#[derive(Debug)]
pub(crate) struct CountedBody {
    pub(crate) body: ResponseBody,
    /// `None`: HTTP/1, where one piece is written before the next is asked for.
    pub(crate) unsent: Option<Arc<UnsentAnswers>>,
}

// === impl CountedBody ===

impl Body for CountedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &self.unsent {
            Some(unsent) => polled
                .map(|frame| frame.map(|f| f.map(|f| f.map_data(|piece| unsent.count(piece))))),
            None => polled,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
