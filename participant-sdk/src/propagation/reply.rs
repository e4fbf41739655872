//! A reply that is watched to its end: the votes that came with it count while it is good.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::scope::Propagation;

pin_project! {
    /// The body of a reply that a [`ClientLayer`](super::ClientLayer) has seen: the one that it was.
    #[derive(Debug)]
    pub struct Reply<B> {
        #[pin]
        body: B,
        watch: Option<Watch>,
    }
}

/// Votes that rest on the reply's good end.
#[derive(Debug)]
struct Watch {
    propagation: Propagation,
    vouched: Vec<String>,
    /// Whether the status comes at the end.
    grpc: bool,
    progress: Progress,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Nobody looks at it: the headers have told the caller that the call succeeded.
    Unread,
    /// Somebody reads it, and gives up the call if it is dropped now.
    Reading,
    Succeeded,
}

impl<B: Body> Reply<B> {
    pub(super) fn new(body: B, grpc: bool, vouched: Option<(Propagation, Vec<String>)>) -> Self {
        let watch = vouched.map(|(propagation, vouched)| {
            let progress = Progress::Unread;
            Watch { propagation, vouched, grpc, progress }
        });
        Self { body, watch }
    }
}

impl<B: Body> Body for Reply<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let mut this = self.project();
        if let Some(watch) = this.watch
            && watch.progress == Progress::Unread
        {
            watch.progress = Progress::Reading;
        }
        let frame = ready!(this.body.as_mut().poll_frame(context));
        if let Some(watch) = this.watch {
            watch.saw(frame.as_ref(), this.body.is_end_stream());
            if matches!(frame, Some(Err(_))) {
                // At once, and not when the body is dropped: its reader is about to hear of it.
                *this.watch = None;
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Watch {
    fn saw<D, E>(&mut self, frame: Option<&Result<Frame<D>, E>>, is_end: bool) {
        let succeeded = match frame {
            Some(Err(_)) => false,
            Some(Ok(frame)) if self.grpc => {
                let status = frame.trailers_ref().and_then(|t| t.get(tonic::Status::GRPC_STATUS));
                status.is_some_and(|status| status.as_bytes() == b"0")
            }
            // Whoever has read all of it may ask no more.
            Some(Ok(_)) => is_end,
            // A gRPC reply without a status broke off.
            None => !self.grpc,
        };
        if succeeded {
            self.progress = Progress::Succeeded;
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if self.progress == Progress::Reading {
            self.propagation.withdraw(&self.vouched);
        }
    }
}
