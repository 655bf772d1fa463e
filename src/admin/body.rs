//! What the admin listener answers with: a page, or the usage record as it is read.
//! Imports `meter`.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};

use crate::meter::UsePages;

/// What the admin listener answers with.
pub(super) enum AdminBody {
    Page(Full<Bytes>),
    Usage(UsePages),
    /// The last page was handed on.
    End,
}

/// Empty pages in a row after which other connections get their turn.
const EMPTY: usize = 16;

impl Body for AdminBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        let pages = match this {
            Self::Page(page) => return Pin::new(page).poll_frame(context),
            Self::Usage(pages) => pages,
            Self::End => return Poll::Ready(None),
        };
        let mut out = Vec::new();
        let mut empty = 0;
        let mut more = true;
        while more && out.is_empty() {
            if empty == EMPTY {
                // Ready at once again, behind whoever waits.
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            empty += 1;
            more = pages.next_page(&mut out);
        }
        if !more {
            *this = Self::End;
        }
        match out.is_empty() {
            true => Poll::Ready(None),
            false => Poll::Ready(Some(Ok(Frame::data(out.into())))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Page(page) => page.is_end_stream(),
            Self::Usage(_) => false,
            Self::End => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Page(page) => page.size_hint(),
            Self::Usage(_) | Self::End => SizeHint::default(),
        }
    }
}
