//! The body of a request, which shows how far sending has come.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::oneshot;

/// What is handed to the connection at once.
const PIECE: usize = 16 * 1024;

/// A body that reports when a connection asks for it, which is when something may reach the
/// target.
#[derive(Debug)]
pub(super) struct WatchedBody {
    rest: Bytes,
    begun: Option<oneshot::Sender<()>>,
    all_taken: Arc<AtomicBool>,
}

/// How far the request with a [`WatchedBody`] has come.
#[derive(Debug)]
pub(super) struct Watch {
    /// Resolves once a connection asks for the body.
    pub(super) begun: oneshot::Receiver<()>,
    /// Whether the connection has taken all of the body.
    pub(super) all_taken: Arc<AtomicBool>,
}

impl WatchedBody {
    /// A body of these bytes.
    pub(super) fn new(bytes: Bytes) -> (Self, Watch) {
        let (sender, begun) = oneshot::channel();
        let all_taken = Arc::new(AtomicBool::new(false));
        let watch = Watch { begun, all_taken: all_taken.clone() };
        (Self { rest: bytes, begun: Some(sender), all_taken }, watch)
    }
}

impl Body for WatchedBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Some(begun) = self.begun.take() {
            // Nobody listens after a timeout, which ends the request anyway.
            let _nobody = begun.send(());
        }
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let piece = self.rest.len().min(PIECE);
        let piece = self.rest.split_to(piece);
        self.all_taken.store(self.rest.is_empty(), Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}
